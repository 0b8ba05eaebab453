//! RaBitQ codes of resident rows, in batches. Kernels: `wgsl/rabitq.wgsl`, `hadamard.wgsl`. Twin: [`crate::codec::rabitq`]
//! on the host.

use ndarray::{Array2, ArrayView2};

use super::device::{Task, fold};
use super::pipelines::{Constants, Kernel};
use super::rotate::WgpuRotation;
use super::rows::WgpuRows;
use crate::backend::BackendError;
use crate::batches::in_batches;
use crate::codec::Rabitq;
use crate::metric::Metric;

pub(super) fn rabitq_encode(
    task: Task<'_>,
    rows: &WgpuRows,
    ids: &[u32],
    (centroids, assignments): (ArrayView2<'_, f32>, &[u32]),
    rabitq: &Rabitq,
) -> Result<Array2<u8>, BackendError> {
    let (dim, row_bytes) = (rows.dim(), rabitq.row_bytes());
    let width = dim.next_multiple_of(4);
    let (rotation, center) = task.scoped(|| {
        let mut center = rabitq.center().to_vec();
        center.resize(width, 0.0);
        Ok((WgpuRotation::upload(task, rabitq.rotation())?, task.upload(&center)?))
    })?;
    let centroids = WgpuRows::centroids(task, centroids)?;
    let each = (width * size_of::<f32>()).max(row_bytes);
    // Rows and centroids, both as they are and rotated.
    let batch = task.gpu.binding().min(task.gpu.scratch() / 8) as usize / each;
    let mut codes = Vec::with_capacity(ids.len() * row_bytes);
    in_batches(ids.len(), batch, |range| {
        let count = range.len();
        let some = task.scoped(|| {
            let mut commands = task.commands();
            let of_rows = rows.gather(task, &mut commands, &ids[range.clone()])?;
            let of_lists = centroids.gather(task, &mut commands, &assignments[range.clone()])?;
            let unit_length = rows.metric == Metric::Cosine;
            let residuals = rotation.record(task, &mut commands, &of_rows, Some(&of_lists), unit_length, width)?;
            let toward = rotation.record(task, &mut commands, &of_lists, None, false, width)?;
            let out = task.allocate((count * row_bytes) as u64)?;
            let (across, down) = fold(count as u64);
            let params = [
                dim as u32,
                width as u32,
                u32::from(rabitq.bits()),
                (row_bytes / 4) as u32,
                count as u32,
                u32::from(rows.metric == Metric::InnerProduct),
                across,
            ];
            let buffers = [&residuals, &toward, &center, &out];
            commands.dispatch(Kernel::Rabitq, Constants::default(), &params, &buffers, (across, down))?;
            commands.submit();
            task.read::<u8>(&out, count * row_bytes)
        })?;
        codes.extend(some);
        Ok(())
    })?;
    Ok(Array2::from_shape_vec((ids.len(), row_bytes), codes).expect("each batch brings a code a row"))
}
