//! The nearest centroid of every point, on the device: the heavy part of a k-means step.
//!
//! In: points resident there, centroids `(nlist, dim)` f32. Out: assignments and exact distances, on the device. Kernel:
//! `argmin.cu`. Twin: [`crate::plain::kmeans_step`].

use bytemuck::{Pod, Zeroable};

use super::driver::{Arg, Buffer, Gpu};
use super::product::{Form, Mode, RowSet, TILE, sweep_bytes};
use super::rows::CudaRows;
use crate::backend::BackendError;
use crate::metric::Metric;

/// `ArgminArguments` of `argmin.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ArgminArguments {
    rows: RowSet,
    base: RowSet,
    row_first: u32,
    row_count: u32,
    base_count: u32,
    mode: u32,
    a_stages: u32,
    padding: u32,
    nearest: u64,
    distances: u64,
}

/// The nearest of `centroids` (f32 rows under L2, at least one) to each point: number, ties to the lower, and squared
/// distance; `(n)` each. Points under cosine are seen at unit length.
pub(super) fn argmin(
    gpu: &Gpu,
    operation: &'static str,
    points: &CudaRows,
    centroids: &CudaRows,
) -> Result<(Buffer<u32>, Buffer<f32>), BackendError> {
    let (nearest, distances) = (gpu.alloc(operation, points.n)?, gpu.alloc(operation, points.n)?);
    let scaled = points.metric == Metric::Cosine;
    let rows = RowSet::new(points, None, Form::Float);
    let steps = Form::Float.steps(points.dim, points.pitch);
    let bytes = |a_stages: usize| sweep_bytes(Form::Float, a_stages) + TILE * size_of::<u64>();
    let fits = bytes(steps) <= gpu.properties().shared_memory_per_block as usize;
    let a_stages = if fits { steps } else { steps.min(2) };
    let arguments = ArgminArguments {
        rows,
        base: RowSet::new(centroids, None, Form::Float),
        row_first: 0,
        row_count: points.n as u32,
        base_count: centroids.n as u32,
        mode: if scaled { Mode::ScaledL2 } else { Mode::L2 } as u32,
        a_stages: a_stages as u32,
        padding: 0,
        nearest: nearest.address(),
        distances: distances.address(),
    };
    let grid = [points.n.div_ceil(TILE) as u32, 1, 1];
    let arguments = [Arg::Struct(bytemuck::bytes_of(&arguments))];
    gpu.launch(operation, "argmin_float", grid, 256, bytes(a_stages) as u32, &arguments)?;
    Ok((nearest, distances))
}
