//! Distances of given pairs of rows. Kernels: `kernels/cuda/gather.cu`. Twin: the CPU backend's `gather_distances`.

use bytemuck::{Pod, Zeroable};

use super::driver::{Arg, Gpu};
use super::rows::{CudaRows, InverseNorms};
use crate::backend::{BackendError, Lists};
use crate::batches::in_batches;
use crate::element::DType;

const OPERATION: &str = "gather distances";

/// Pairs of one launch at most: 12 bytes each.
const PAIRS: usize = 1 << 24;

/// Threads of a block.
const THREADS: usize = 256;

/// `gather::Rows` of the kernels.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RowsArg {
    data: u64,
    pitch: u64,
    inverse_norms: u64,
    integer_norms: u64,
}

impl RowsArg {
    fn new(rows: &CudaRows, inverse_norms: &InverseNorms<'_>) -> Self {
        Self {
            data: rows.data.address(),
            pitch: rows.pitch as u64,
            inverse_norms: inverse_norms.address(),
            integer_norms: rows.numbers.integer_norms.address(),
        }
    }
}

/// The kernel for queries and base rows of these types: of one type, or f32 queries.
fn kernel(query: DType, base: DType) -> &'static str {
    match (query, base) {
        (DType::F16, DType::F16) => "gather_f16_f16",
        (DType::U8, DType::U8) => "gather_u8_u8",
        (DType::I8, DType::I8) => "gather_i8_i8",
        (_, DType::F32) => "gather_f32_f32",
        (_, DType::F16) => "gather_f32_f16",
        (_, DType::U8) => "gather_f32_u8",
        (_, DType::I8) => "gather_f32_i8",
    }
}

pub(super) fn gather_distances(
    gpu: &Gpu,
    queries: &CudaRows,
    base: &CudaRows,
    lists: &Lists<u32>,
) -> Result<Vec<f32>, BackendError> {
    let widened;
    let queries = if queries.dtype == base.dtype || queries.dtype == DType::F32 {
        queries
    } else {
        widened = queries.widened(gpu, OPERATION, base.metric)?;
        &widened
    };
    let query_norms = queries.inverse_norms(gpu, OPERATION, base.metric)?;
    let base_norms = base.inverse_norms(gpu, OPERATION, base.metric)?;
    let (query_arg, base_arg) = (RowsArg::new(queries, &query_norms), RowsArg::new(base, &base_norms));
    // One step of the group covers the row, where 32 lanes can.
    let lanes = (base.pitch / 16).next_power_of_two().clamp(1, 32);
    let query_of: Vec<u32> =
        (0u32..).zip(lists.iter()).flat_map(|(query, list)| std::iter::repeat_n(query, list.len())).collect();
    let mut distances = Vec::with_capacity(lists.items.len());
    in_batches(lists.items.len(), PAIRS, |range| {
        let count = range.len();
        let out = gpu.alloc::<f32>(OPERATION, count)?;
        let query_of = gpu.upload(OPERATION, &query_of[range.clone()])?;
        let row_of = gpu.upload(OPERATION, &lists.items[range])?;
        let args = [
            Arg::Struct(bytemuck::bytes_of(&query_arg)),
            Arg::Struct(bytemuck::bytes_of(&base_arg)),
            (&query_of).into(),
            (&row_of).into(),
            (&out).into(),
            Arg::U64(count as u64),
            Arg::U32(base.dim as u32),
            Arg::U32(base.metric as u32),
            Arg::U32(lanes as u32),
        ];
        let blocks = (count * lanes).div_ceil(THREADS) as u32;
        gpu.launch(OPERATION, kernel(queries.dtype, base.dtype), [blocks, 1, 1], THREADS as u32, 0, &args)?;
        distances.extend(gpu.download(OPERATION, &out, 0..count)?);
        Ok(())
    })?;
    Ok(distances)
}
