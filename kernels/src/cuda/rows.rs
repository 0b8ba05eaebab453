//! Rows on the device: in their own type, at a pitch that 16-byte loads can use, with their norms.
//!
//! Kernels: `kernels/cuda/rows.cu`. Twin: [`crate::distance`] (`inverse_norm`, `GraphAux`), equal bit by bit.

use rayon::prelude::*;

use super::driver::{Arg, Buffer, Gpu};
use crate::backend::BackendError;
use crate::checks::check_upload;
use crate::element::DType;
use crate::metric::Metric;
use crate::rows::Rows;

/// What a pitch is a multiple of, bytes.
const PITCH: usize = 16;

/// The kernels of one stage, one an element type: `per_type!("rows_norms")[dtype as usize]`.
macro_rules! per_type {
    ($stage:literal) => {
        [concat!($stage, "_f32"), concat!($stage, "_f16"), concat!($stage, "_u8"), concat!($stage, "_i8")]
    };
}
pub(super) use per_type;

/// Rows `(n, dim)` on a CUDA device.
#[derive(Debug)]
pub struct CudaRows {
    /// `(n, pitch)` bytes; those behind a row's `dim` elements are zero.
    pub(super) data: Buffer<u8>,
    /// Bytes from one row to the next, a multiple of 16.
    pub(super) pitch: usize,
    pub(super) n: usize,
    pub(super) dim: usize,
    pub(super) dtype: DType,
    pub(super) metric: Metric,
    pub(super) numbers: Numbers,
}

/// Numbers that are made of squared norms.
#[derive(Debug)]
pub(super) struct Numbers {
    /// |x|^2 `(n)`, summed in f64 and rounded once.
    pub(super) squared_norms: Buffer<f32>,
    /// |x|^2 `(n)`, exactly, of integer rows; empty for floats.
    pub(super) integer_norms: Buffer<i32>,
    /// What the graph geometry wants of a row: 1 / norm (cosine) or the lifted coordinate (inner product) `(n)`; empty
    /// under L2.
    pub(super) aux: Buffer<f32>,
    /// The largest |x|^2 `(1)`, the bits of an f64; 0 where there are no rows.
    pub(super) largest: Buffer<u64>,
}

impl CudaRows {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.n
    }

    /// True when there are no rows.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Sends rows to the device.
    pub(super) fn upload(gpu: &Gpu, rows: &Rows, metric: Metric) -> Result<Self, BackendError> {
        const OPERATION: &str = "upload";
        let (n, dim, dtype) = (rows.len(), rows.dim(), rows.dtype());
        check_upload(rows)?;
        let row_bytes = dim * dtype.bytes();
        let pitch = row_bytes.next_multiple_of(PITCH);
        let host = rows.as_bytes();
        let data = gpu.upload_with(OPERATION, n * pitch, pitch, |offset, piece| {
            let first = offset / pitch;
            let rows = piece.par_chunks_exact_mut(pitch).enumerate().with_min_len(1 + (64 << 10) / pitch);
            rows.for_each(|(i, padded)| {
                let (row, padding) = padded.split_at_mut(row_bytes);
                row.copy_from_slice(&host[(first + i) * row_bytes..][..row_bytes]);
                padding.fill(0);
            });
        })?;
        Self::with_numbers(gpu, OPERATION, data, pitch, (n, dim), dtype, metric)
    }

    /// Rows that are on the device already.
    fn with_numbers(
        gpu: &Gpu,
        operation: &'static str,
        data: Buffer<u8>,
        pitch: usize,
        (n, dim): (usize, usize),
        dtype: DType,
        metric: Metric,
    ) -> Result<Self, BackendError> {
        let numbers = numbers(gpu, operation, &data, pitch, (n, dim), dtype, metric)?;
        Ok(Self { data, pitch, n, dim, dtype, metric, numbers })
    }

    /// The same rows as f32, under `metric`.
    pub(super) fn widened(&self, gpu: &Gpu, operation: &'static str, metric: Metric) -> Result<Self, BackendError> {
        let pitch = (self.dim * size_of::<f32>()).next_multiple_of(PITCH);
        let data = if pitch == self.dim * size_of::<f32>() {
            gpu.alloc(operation, self.n * pitch)?
        } else {
            gpu.zeroed(operation, self.n * pitch)?
        };
        let blocks = (self.n * self.dim).div_ceil(256).min(1 << 20) as u32;
        let args = [
            (&self.data).into(),
            Arg::U64(self.pitch as u64),
            (&data).into(),
            Arg::U64(pitch as u64),
            Arg::U64(self.n as u64),
            Arg::U32(self.dim as u32),
        ];
        let kernel = per_type!("rows_widen")[self.dtype as usize];
        gpu.launch(operation, kernel, [blocks, 1, 1], 256, 0, &args)?;
        Self::with_numbers(gpu, operation, data, pitch, (self.n, self.dim), DType::F32, metric)
    }

    /// 1 / norm of each row `(n)` for a comparison under `metric`: what was kept at upload, or made now where these rows
    /// came under another metric; empty unless it is cosine.
    pub(super) fn inverse_norms(
        &self,
        gpu: &Gpu,
        operation: &'static str,
        metric: Metric,
    ) -> Result<InverseNorms<'_>, BackendError> {
        if metric == Metric::Cosine && self.metric != Metric::Cosine {
            let made = numbers(gpu, operation, &self.data, self.pitch, (self.n, self.dim), self.dtype, metric)?;
            return Ok(InverseNorms::Made(made.aux));
        }
        Ok(if metric == Metric::Cosine { InverseNorms::Kept(&self.numbers.aux) } else { InverseNorms::None })
    }
}

/// Inverse norms `(n)` of rows, or nothing where the metric has no use for them.
pub(super) enum InverseNorms<'a> {
    None,
    Kept(&'a Buffer<f32>),
    Made(Buffer<f32>),
}

impl InverseNorms<'_> {
    /// The address, 0 where there are none.
    pub(super) fn address(&self) -> u64 {
        match self {
            InverseNorms::None => 0,
            InverseNorms::Kept(norms) => norms.address(),
            InverseNorms::Made(norms) => norms.address(),
        }
    }

    /// The argument of a kernel: null where there are none.
    pub(super) fn arg(&self) -> Arg<'static> {
        Arg::Pointer(self.address())
    }
}

fn numbers(
    gpu: &Gpu,
    operation: &'static str,
    data: &Buffer<u8>,
    pitch: usize,
    (n, dim): (usize, usize),
    dtype: DType,
    metric: Metric,
) -> Result<Numbers, BackendError> {
    let squared: Buffer<f64> = gpu.alloc(operation, n)?;
    let squared_norms: Buffer<f32> = gpu.alloc(operation, n)?;
    let integer_norms: Buffer<i32> = gpu.alloc(operation, if dtype.is_integer() { n } else { 0 })?;
    let aux: Buffer<f32> = gpu.alloc(operation, if metric == Metric::L2 { 0 } else { n })?;
    let largest: Buffer<u64> = gpu.zeroed(operation, 1)?;
    let count = Arg::U64(n as u64);
    let blocks = |rows: usize| [n.div_ceil(rows) as u32, 1, 1];
    let args = [data.into(), Arg::U64(pitch as u64), (&squared).into(), count, Arg::U32(dim as u32)];
    gpu.launch(operation, per_type!("rows_norms")[dtype as usize], blocks(32), 256, 0, &args)?;
    let args = [(&squared).into(), (&largest).into(), count];
    gpu.launch(operation, "rows_largest", blocks(256), 256, 0, &args)?;
    let args = [
        (&squared).into(),
        (&largest).into(),
        (&squared_norms).into(),
        (&integer_norms).into(),
        (&aux).into(),
        Arg::U32(metric as u32),
        count,
    ];
    gpu.launch(operation, "rows_numbers", blocks(256), 256, 0, &args)?;
    Ok(Numbers { squared_norms, integer_norms, aux, largest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::random_rows;
    use crate::cuda::Emulation;
    use crate::dispatch_rows;
    use crate::distance::{GraphAux, inverse_norm};

    #[test]
    fn norms_equal_those_of_the_cpu_bit_by_bit() {
        let Ok(gpu) = Gpu::emulated(Emulation::default()) else { return };
        for dtype in [DType::F32, DType::F16, DType::U8, DType::I8] {
            for (n, dim) in [(1, 1), (70, 7), (33, 100), (1, 4096), (0, 5)] {
                for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
                    let rows = random_rows(dtype, n, dim, 1);
                    let resident = CudaRows::upload(&gpu, &rows, metric).unwrap();
                    let expected: Vec<f32> = dispatch_rows!(rows.view(), v => {
                        let aux = GraphAux::new(v.view(), metric);
                        aux.per_row().to_vec()
                    });
                    let aux = gpu.download("test", &resident.numbers.aux, 0..resident.numbers.aux.len()).unwrap();
                    assert_eq!(aux, expected, "{dtype} {metric} {n}x{dim}");
                    let squares: Vec<f64> = rows
                        .view()
                        .to_f32()
                        .outer_iter()
                        .map(|row| row.iter().map(|&x| f64::from(x).powi(2)).sum())
                        .collect();
                    let integers =
                        gpu.download("test", &resident.numbers.integer_norms, 0..resident.numbers.integer_norms.len());
                    if dtype.is_integer() {
                        assert_eq!(integers.unwrap(), squares.iter().map(|&s| s as i32).collect::<Vec<_>>());
                    }
                    let largest = f64::from_bits(gpu.download("test", &resident.numbers.largest, 0..1).unwrap()[0]);
                    let expected = squares.iter().copied().fold(0.0, f64::max);
                    assert!((largest - expected).abs() <= 1e-12 * expected);
                    let widened = resident.widened(&gpu, "test", Metric::Cosine).unwrap();
                    let inverse = gpu.download("test", &widened.numbers.aux, 0..n).unwrap();
                    let floats = rows.view().to_f32();
                    let expected: Vec<f32> = floats.outer_iter().map(|row| inverse_norm(&row.to_vec())).collect();
                    assert_eq!(inverse, expected, "{dtype} {metric} {n}x{dim}");
                    let cells = gpu.download("test", &widened.data, 0..widened.data.len()).unwrap();
                    let cells: Vec<f32> = bytemuck::pod_collect_to_vec(&cells);
                    for (i, row) in floats.outer_iter().enumerate() {
                        let start = i * widened.pitch / 4;
                        assert_eq!(&cells[start..start + dim], row.as_slice().unwrap());
                    }
                }
            }
        }
    }
}
