//! One k-means step: assign ([`super::argmin`]), then sum the points of each centroid in an order that nothing changes.
//!
//! Kernels: `kernels/cuda/kmeans.cu`. Twin: the CPU backend's `kmeans_step`.

use std::ops::Range;

use ndarray::{Array2, ArrayView2};

use super::argmin::argmin;
use super::driver::{Arg, Buffer, Gpu};
use super::rows::{CudaRows, InverseNorms, per_type};
use crate::backend::{BackendError, KMeansStep};
use crate::element::Element;
use crate::metric::Metric;

const OPERATION: &str = "k-means step";

/// Points sorted at a time: 16 bytes each. Fixed, because it decides the order of sums.
const CHUNK: usize = 1 << 22;

/// Rows of a segment at most. Fixed, for the same reason.
const SEGMENT: u32 = 1024;

/// Keys that one block of the sort takes, and digits of a pass.
const SORTED: usize = 4096;
const DIGITS: usize = 256;

/// Elements that one block scans.
const SCANNED: usize = 1024;

pub(super) fn kmeans_step(
    gpu: &Gpu,
    points: &CudaRows,
    centroids: ArrayView2<'_, f32>,
) -> Result<KMeansStep, BackendError> {
    let (nlist, dim) = centroids.dim();
    let resident = CudaRows::upload(gpu, &f32::into_rows(centroids.to_owned()), Metric::L2)?;
    let (assignments, distances) = argmin(gpu, OPERATION, points, &resident)?;
    drop(resident);

    let norms = points.inverse_norms(gpu, OPERATION, points.metric)?;
    let sums = gpu.zeroed::<f64>(OPERATION, nlist * dim)?;
    let mut counts = vec![0u64; nlist];
    for start in (0..points.n).step_by(CHUNK) {
        let chunk = start..points.n.min(start + CHUNK);
        let counted = add_chunk(gpu, points, &norms, &assignments, chunk, &sums, nlist)?;
        counts.iter_mut().zip(counted).for_each(|(count, counted)| *count += u64::from(counted));
    }
    let sums = gpu.download(OPERATION, &sums, 0..nlist * dim)?;
    Ok(KMeansStep {
        assignments: gpu.download(OPERATION, &assignments, 0..points.n)?,
        distances: gpu.download(OPERATION, &distances, 0..points.n)?,
        sums: Array2::from_shape_vec((nlist, dim), sums).expect("nlist * dim sums fill an (nlist, dim) matrix"),
        counts,
    })
}

/// Adds the points of `chunk` to the sums; how many each centroid has there.
fn add_chunk(
    gpu: &Gpu,
    points: &CudaRows,
    norms: &InverseNorms<'_>,
    assignments: &Buffer<u32>,
    chunk: Range<usize>,
    sums: &Buffer<f64>,
    nlist: usize,
) -> Result<Vec<u32>, BackendError> {
    let n = chunk.len();
    let counts = gpu.zeroed::<u32>(OPERATION, nlist)?;
    let args = [assignments.at(chunk.start), Arg::U32(n as u32), (&counts).into()];
    gpu.launch(OPERATION, "kmeans_count", [n.div_ceil(256) as u32, 1, 1], 256, 0, &args)?;
    let order = sorted(gpu, assignments, chunk.clone(), nlist)?;
    let counts = gpu.download(OPERATION, &counts, 0..nlist)?;

    // Where segments start in the order, and which are a centroid's.
    let (mut starts, mut of_centroid, mut position) = (Vec::new(), Vec::with_capacity(nlist + 1), 0u32);
    for &count in &counts {
        of_centroid.push(starts.len() as u32);
        starts.extend((0..count).step_by(SEGMENT as usize).map(|offset| position + offset));
        position += count;
    }
    let segments = starts.len();
    of_centroid.push(segments as u32);
    starts.push(position);

    let (starts, of_centroid) = (gpu.upload(OPERATION, &starts)?, gpu.upload(OPERATION, &of_centroid)?);
    let partial = gpu.alloc::<f64>(OPERATION, segments * points.dim)?;
    let columns = points.dim.div_ceil(256) as u32;
    let args = [
        (&points.data).into(),
        Arg::U64(points.pitch as u64),
        norms.arg(),
        (&order).into(),
        (&starts).into(),
        (&partial).into(),
        Arg::U64(chunk.start as u64),
        Arg::U32(points.dim as u32),
    ];
    let kernel = per_type!("kmeans_segments")[points.dtype as usize];
    gpu.launch(OPERATION, kernel, [segments as u32, columns, 1], 256, 0, &args)?;
    let args = [(&partial).into(), (&of_centroid).into(), sums.into(), Arg::U32(points.dim as u32)];
    gpu.launch(OPERATION, "kmeans_combine", [nlist as u32, columns, 1], 256, 0, &args)?;
    Ok(counts)
}

/// The positions 0.. within `chunk`, by (assignment, position).
fn sorted(
    gpu: &Gpu,
    assignments: &Buffer<u32>,
    chunk: Range<usize>,
    nlist: usize,
) -> Result<Buffer<u32>, BackendError> {
    let n = chunk.len();
    let blocks = n.div_ceil(SORTED);
    let count = Arg::U32(n as u32);
    let histogram = gpu.alloc::<u32>(OPERATION, DIGITS * blocks)?;
    let mut keys = [gpu.alloc::<u32>(OPERATION, n)?, gpu.alloc(OPERATION, n)?];
    let mut values = [gpu.alloc::<u32>(OPERATION, n)?, gpu.alloc(OPERATION, n)?];
    let passes = (usize::BITS - (nlist - 1).leading_zeros()).div_ceil(DIGITS.ilog2()).max(1);
    for pass in 0..passes {
        let shift = Arg::U32(pass * DIGITS.ilog2());
        let (from, order) = match pass {
            0 => (assignments.at(chunk.start), Arg::NULL),
            _ => ((&keys[0]).into(), (&values[0]).into()),
        };
        let grid = [blocks as u32, 1, 1];
        gpu.launch(OPERATION, "sort_count", grid, 256, 0, &[from, count, shift, (&histogram).into()])?;
        exclusive_scan(gpu, &histogram)?;
        let args = [from, order, (&keys[1]).into(), (&values[1]).into(), count, shift, (&histogram).into()];
        gpu.launch(OPERATION, "sort_move", grid, 256, 0, &args)?;
        keys.swap(0, 1);
        values.swap(0, 1);
    }
    let [order, _] = values;
    Ok(order)
}

/// Turns `x` into the sums of what is before each element.
fn exclusive_scan(gpu: &Gpu, x: &Buffer<u32>) -> Result<(), BackendError> {
    let blocks = x.len().div_ceil(SCANNED);
    let totals = gpu.alloc::<u32>(OPERATION, blocks)?;
    let (n, grid) = (Arg::U32(x.len() as u32), [blocks as u32, 1, 1]);
    gpu.launch(OPERATION, "sort_scan", grid, SCANNED as u32, 0, &[x.into(), n, (&totals).into()])?;
    if blocks > 1 {
        exclusive_scan(gpu, &totals)?;
        gpu.launch(OPERATION, "sort_add", grid, SCANNED as u32, 0, &[x.into(), n, (&totals).into()])?;
    }
    Ok(())
}
