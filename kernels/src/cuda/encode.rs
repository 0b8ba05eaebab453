//! Product quantisation of resident rows, in batches. Kernels: `kernels/cuda/encode.cu`. Twin: the CPU backend's
//! `pq_encode`; without a rotation the codes are the same.

use ndarray::{Array2, ArrayView2};

use super::driver::{Arg, Buffer, Gpu};
use super::rows::{CudaRows, per_type};
use crate::backend::BackendError;
use crate::batches::in_batches;
use crate::pq::{CodeBits, ProductQuantizer};

const OPERATION: &str = "pq encode";

/// Bytes of f32 rows in a batch, about.
const BATCH_BYTES: usize = 256 << 20;

/// Blocks that walk over rows: a few for each multiprocessor of any device.
const WALKERS: usize = 4096;

/// A quantiser on the device.
struct Quantizer<'a> {
    pq: &'a ProductQuantizer,
    /// Sub-space by sub-space, `(centroids, width)` each.
    centroids: Buffer<f32>,
    /// `(dim, dim)`, or empty.
    rotation: Buffer<f32>,
}

pub(super) fn pq_encode(
    gpu: &Gpu,
    rows: &CudaRows,
    residual_to: Option<(ArrayView2<'_, f32>, &[u32])>,
    pq: &ProductQuantizer,
) -> Result<Array2<u8>, BackendError> {
    let dim = rows.dim;
    let width = pq.code_bytes();
    let centroids: Vec<f32> = (0..pq.m()).flat_map(|sub| pq.subspace_centroids(sub)).copied().collect();
    let rotation: Vec<f32> = pq.rotation().into_iter().flatten().copied().collect();
    let quantizer =
        Quantizer { pq, centroids: gpu.upload(OPERATION, &centroids)?, rotation: gpu.upload(OPERATION, &rotation)? };
    let coarse: Vec<f32> = residual_to.iter().flat_map(|(centroids, _)| centroids.iter()).copied().collect();
    let coarse = gpu.upload(OPERATION, &coarse)?;
    let norms = rows.inverse_norms(gpu, OPERATION, rows.metric)?;

    let mut codes = Vec::with_capacity(rows.n * width);
    in_batches(rows.n, BATCH_BYTES / (dim * size_of::<f32>()), |range| {
        let batch = range.len();
        let assigned = match residual_to {
            Some((_, assignments)) => gpu.upload(OPERATION, &assignments[range.clone()])?,
            None => gpu.alloc(OPERATION, 0)?,
        };
        let prepared = gpu.alloc::<f32>(OPERATION, batch * dim)?;
        let args = [
            (&rows.data).into(),
            Arg::U64(rows.pitch as u64),
            norms.arg(),
            (&coarse).into(),
            (&assigned).into(),
            (&prepared).into(),
            Arg::U64(range.start as u64),
            Arg::U64(batch as u64),
            Arg::U32(dim as u32),
        ];
        let blocks = (batch * dim).div_ceil(256).min(1 << 20) as u32;
        gpu.launch(OPERATION, per_type!("encode_prepare")[rows.dtype as usize], [blocks, 1, 1], 256, 0, &args)?;
        let encoded = quantizer.encode(gpu, prepared, batch)?;
        codes.extend(gpu.download(OPERATION, &encoded, 0..batch * width)?);
        Ok(())
    })?;
    Ok(Array2::from_shape_vec((rows.n, width), codes).expect("each batch brings a code a row"))
}

impl Quantizer<'_> {
    /// Packed codes `(batch, code_bytes)` of `rows` `(batch, dim)`.
    fn encode(&self, gpu: &Gpu, rows: Buffer<f32>, batch: usize) -> Result<Buffer<u8>, BackendError> {
        let (pq, dim, m) = (self.pq, self.pq.dim(), self.pq.m());
        let (batch_arg, dim_arg, m_arg) = (Arg::U64(batch as u64), Arg::U32(dim as u32), Arg::U32(m as u32));
        let rows = if pq.rotation().is_some() {
            let rotated = gpu.alloc::<f32>(OPERATION, batch * dim)?;
            let args = [(&rows).into(), (&self.rotation).into(), (&rotated).into(), batch_arg, dim_arg];
            let grid = [batch.div_ceil(64) as u32, dim.div_ceil(64) as u32, 1];
            gpu.launch(OPERATION, "encode_rotate", grid, 256, 0, &args)?;
            rotated
        } else {
            rows
        };

        let chosen = gpu.alloc::<u8>(OPERATION, batch * m)?;
        let count = Arg::U32(pq.bits().centroids() as u32);
        let args = [(&rows).into(), (&self.centroids).into(), (&chosen).into(), batch_arg, dim_arg, m_arg, count];
        let walkers = batch.div_ceil(256).min(WALKERS) as u32;
        let (kernel, blocks) = match dim.div_ceil(m) {
            0..=4 => ("encode_narrow_4", walkers),
            5..=8 => ("encode_narrow_8", walkers),
            9..=16 => ("encode_narrow_16", walkers),
            _ => ("encode_wide", batch as u32),
        };
        gpu.launch(OPERATION, kernel, [blocks, m as u32, 1], 256, 0, &args)?;
        if pq.bits() == CodeBits::Eight {
            return Ok(chosen);
        }
        let codes = gpu.alloc::<u8>(OPERATION, batch * pq.code_bytes())?;
        let blocks = (batch * pq.code_bytes()).div_ceil(256) as u32;
        gpu.launch(
            OPERATION,
            "encode_pack",
            [blocks, 1, 1],
            256,
            0,
            &[(&chosen).into(), (&codes).into(), batch_arg, m_arg],
        )?;
        Ok(codes)
    }
}
