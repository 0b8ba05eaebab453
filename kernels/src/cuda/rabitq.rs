//! RaBitQ codes of resident rows, in batches. Kernels: `kernels/cuda/rabitq.cu`, `rotate.cu`. Twin:
//! [`crate::codec::rabitq`] on the host, equal byte by byte.

use ndarray::{Array2, ArrayView2};

use super::driver::{Arg, Gpu};
use super::rotate::{CudaRotation, Unrotated};
use super::rows::{CudaRows, InverseNorms};
use crate::backend::BackendError;
use crate::batches::in_batches;
use crate::codec::Rabitq;
use crate::element::DType;

const OPERATION: &str = "rabitq encode";

/// Bytes of rotated rows in a batch, about.
const BATCH_BYTES: usize = 256 << 20;

pub(super) fn rabitq_encode(
    gpu: &Gpu,
    rows: &CudaRows,
    ids: &[u32],
    (centroids, assignments): (ArrayView2<'_, f32>, &[u32]),
    rabitq: &Rabitq,
) -> Result<Array2<u8>, BackendError> {
    let (dim, width) = (rows.dim, rabitq.row_bytes());
    let rotation = CudaRotation::upload(gpu, OPERATION, rabitq.rotation())?;
    let center = gpu.upload(OPERATION, rabitq.center())?;
    let nlist = centroids.nrows();
    let coarse = gpu.upload(OPERATION, &centroids.iter().copied().collect::<Vec<f32>>())?;
    let unrotated = Unrotated {
        data: (&coarse).into(),
        pitch: dim * size_of::<f32>(),
        dtype: DType::F32,
        norms: &InverseNorms::None,
        ids: None,
        residual_to: None,
    };
    let rotated_centroids = rotation.apply(gpu, OPERATION, &unrotated, nlist, dim)?;
    let norms = rows.inverse_norms(gpu, OPERATION, rows.metric)?;
    let mut codes = Vec::with_capacity(ids.len() * width);
    in_batches(ids.len(), BATCH_BYTES / (dim * size_of::<f32>()), |range| {
        let batch = range.len();
        let ids = gpu.upload(OPERATION, &ids[range.clone()])?;
        let assigned = gpu.upload(OPERATION, &assignments[range])?;
        let unrotated = Unrotated {
            data: (&rows.data).into(),
            pitch: rows.pitch,
            dtype: rows.dtype,
            norms: &norms,
            ids: Some(&ids),
            residual_to: Some((&coarse, &assigned)),
        };
        let residuals = rotation.apply(gpu, OPERATION, &unrotated, batch, dim)?;
        let out = gpu.zeroed::<u8>(OPERATION, batch * width)?;
        let args = [
            (&residuals).into(),
            (&rotated_centroids).into(),
            (&assigned).into(),
            (&center).into(),
            (&out).into(),
            Arg::U32(batch as u32),
            Arg::U32(dim as u32),
            Arg::U32(u32::from(rabitq.bits())),
            Arg::U32(width as u32),
            Arg::U32(rows.metric as u32),
        ];
        gpu.launch(OPERATION, "rabitq_rows", [batch.div_ceil(8) as u32, 1, 1], 256, 0, &args)?;
        codes.extend(gpu.download(OPERATION, &out, 0..batch * width)?);
        Ok(())
    })?;
    Ok(Array2::from_shape_vec((ids.len(), width), codes).expect("each batch brings a code a row"))
}
