//! k-means steps and product quantisation, over rows widened to f32 a batch at a time.

use std::ops::Range;

use ndarray::{Array2, ArrayView2};

use super::device::{Buffer, Task, fold};
use super::nearest::scored;
use super::pipelines::{Commands, Constants, Kernel};
use super::rows::{Block, Shape, WgpuRows, widen, widening};
use crate::backend::{BackendError, KMeansStep, Lists};
use crate::batches::in_batches;
use crate::element::DType;
use crate::metric::Metric;
use crate::pq::ProductQuantizer;
use crate::topk::Scored;

/// Rows of a segment of `sums.wgsl`.
const SEGMENT: usize = 256;

/// Bytes of an entry of `argmin.wgsl`.
const ENTRY: usize = 8;

/// Bytes of an f32 or of a word of codes.
const WORD: usize = size_of::<u32>();

pub(super) fn kmeans_step(
    task: Task<'_>,
    points: &WgpuRows,
    centroids: ArrayView2<'_, f32>,
) -> Result<KMeansStep, BackendError> {
    let (nlist, dim) = centroids.dim();
    let resident = WgpuRows::centroids(task, centroids)?;
    let batch = resident.shape.rows_in(task.gpu.binding().min(task.gpu.scratch() / 4));
    let mut step = KMeansStep {
        assignments: Vec::with_capacity(points.n),
        distances: Vec::with_capacity(points.n),
        sums: Array2::zeros((nlist, dim)),
        counts: vec![0; nlist],
    };
    for shard in &points.shards {
        in_batches(shard.len(), batch, |range| {
            let range = shard.range.start + range.start..shard.range.start + range.end;
            let (nearest, partial) = task.scoped(|| {
                let mut commands = task.commands();
                let block = widen(task, &mut commands, shard, range.clone(), points.metric == Metric::Cosine)?;
                let nearest = argmin(task, commands, &block, &resident)?;
                let partial = partial_sums(task, &block, &nearest, nlist)?;
                Ok((nearest, partial))
            })?;
            for found in nearest {
                step.assignments.push(found.id);
                step.distances.push(found.distance);
                step.counts[found.id as usize] += 1;
            }
            for (centroid, sum) in partial {
                step.sums.row_mut(centroid).iter_mut().zip(sum).for_each(|(total, x)| *total += f64::from(x));
            }
            Ok(())
        })?;
    }
    Ok(step)
}

/// The nearest centroid of each row of a block of f32 rows, after what `commands` holds.
fn argmin(
    task: Task<'_>,
    mut commands: Commands<'_>,
    block: &Block,
    centroids: &WgpuRows,
) -> Result<Vec<Scored>, BackendError> {
    let best = task.allocate((block.len() * ENTRY) as u64)?;
    for part in &centroids.shards {
        record_argmin(&mut commands, block, part, &best)?;
    }
    commands.submit();
    let entries: Vec<[u32; 2]> = task.read(&best, block.len())?;
    let nearest: Vec<Scored> = entries.into_iter().map(scored).collect();
    if nearest.iter().any(|found| found.id as usize >= centroids.n) {
        return Err(task.refused("a point has no nearest centroid"));
    }
    Ok(nearest)
}

/// Records the nearest rows of `part`, which may be one of several, to those of `block`; both f32, by L2.
pub(super) fn record_argmin(
    commands: &mut Commands<'_>,
    block: &Block,
    part: &Block,
    best: &Buffer,
) -> Result<(), BackendError> {
    let (width, height) = fold(block.len().div_ceil(64) as u64);
    let params = [
        block.shape.stride() as u32,
        part.shape.stride() as u32,
        block.shape.quads(),
        block.len() as u32,
        part.len() as u32,
        part.range.start as u32,
        u32::from(part.range.start == 0),
        width,
    ];
    let buffers = [&block.rows, &block.numbers, &part.rows, &part.numbers, best];
    commands.dispatch(Kernel::Argmin, Constants::default(), &params, &buffers, (width, height))
}

/// Sums of the rows of each centroid, in segments of at most [`SEGMENT`] rows: (centroid, `(dim)`), in a fixed order.
fn partial_sums(
    task: Task<'_>,
    block: &Block,
    nearest: &[Scored],
    nlist: usize,
) -> Result<Vec<(usize, Vec<f32>)>, BackendError> {
    let keys: Vec<u32> = nearest.iter().map(|found| found.id).collect();
    let groups = Lists::grouped(&keys, nlist);
    let mut segments: Vec<(usize, [u32; 2])> = Vec::new();
    for centroid in 0..nlist {
        let end = groups.offsets[centroid + 1];
        for first in (groups.offsets[centroid]..end).step_by(SEGMENT) {
            segments.push((centroid, [first as u32, end.min(first + SEGMENT) as u32]));
        }
    }
    let order = task.upload(&groups.items)?;
    let (stride, dim) = (block.shape.stride(), block.shape.dim);
    let mut sums = Vec::with_capacity(segments.len());
    let batch = block.shape.rows_in(task.gpu.binding().min(task.gpu.scratch() / 4));
    in_batches(segments.len(), batch, |range| {
        let some = &segments[range];
        let bounds: Vec<[u32; 2]> = some.iter().map(|&(_, bounds)| bounds).collect();
        let bounds = task.upload(&bounds)?;
        let out = task.allocate((some.len() * block.shape.row_bytes()) as u64)?;
        let (width, height) = fold((some.len() * stride).div_ceil(64) as u64);
        let mut commands = task.commands();
        commands.dispatch(
            Kernel::Sums,
            Constants::default(),
            &[stride as u32, some.len() as u32, width],
            &[&block.rows, &order, &bounds, &out],
            (width, height),
        )?;
        commands.submit();
        let padded: Vec<f32> = task.read(&out, some.len() * stride * 4)?;
        let rows = padded.chunks_exact(stride * 4).map(|row| row[..dim].to_vec());
        sums.extend(some.iter().map(|&(centroid, _)| centroid).zip(rows));
        Ok(())
    })?;
    Ok(sums)
}

/// A quantiser on the device.
struct Coder<'a> {
    pq: &'a ProductQuantizer,
    /// Blocks of rows of the rotation, `(outputs, dim)` f32 each, with the outputs that they make.
    rotation: Vec<(Range<usize>, Buffer)>,
    /// Words of a code, with the centroids of their sub-spaces and the first coordinate of these.
    words: Vec<(Range<usize>, usize, Buffer)>,
}

impl<'a> Coder<'a> {
    /// Words of one row's code.
    fn code_words(pq: &ProductQuantizer) -> usize {
        pq.code_bytes().div_ceil(WORD)
    }

    fn upload(task: Task<'_>, pq: &'a ProductQuantizer) -> Result<Self, BackendError> {
        let binding = task.gpu.binding() as usize;
        let dim = pq.dim();
        let mut rotation = Vec::new();
        if let Some(matrix) = pq.rotation() {
            let cells = matrix.as_slice().expect("rotations are contiguous by construction");
            let each = (binding / (dim * WORD)).max(1);
            for first in (0..dim).step_by(each) {
                let outputs = first..dim.min(first + each);
                let buffer = task.upload(&cells[outputs.start * dim..outputs.end * dim])?;
                rotation.push((outputs, buffer));
            }
        }
        let ksub = pq.bits().centroids();
        let codes_a_word = 32 / usize::from(u8::from(pq.bits()));
        // The coordinates that a range of words describes.
        let coordinates = |words: &Range<usize>| {
            let last = pq.m().min(words.end * codes_a_word) - 1;
            pq.subspace(words.start * codes_a_word).start..pq.subspace(last).end
        };
        let mut words = Vec::new();
        let mut first = 0;
        while first < Self::code_words(pq) {
            let mut range = first..first + 1;
            while range.end < Self::code_words(pq)
                && coordinates(&(range.start..range.end + 1)).len() * ksub * WORD <= binding
            {
                range.end += 1;
            }
            let subs = range.start * codes_a_word..pq.m().min(range.end * codes_a_word);
            let centroids: Vec<f32> = subs.flat_map(|sub| pq.subspace_centroids(sub)).copied().collect();
            words.push((range.clone(), coordinates(&range).start, task.upload(&centroids)?));
            first = range.end;
        }
        Ok(Self { pq, rotation, words })
    }

    /// Records the codes `(count, words)` of columns `(dim, count)` f32.
    fn record(
        &self,
        task: Task<'_>,
        commands: &mut Commands<'_>,
        columns: Buffer,
        count: usize,
    ) -> Result<Buffer, BackendError> {
        let dim = self.pq.dim();
        let groups = count.div_ceil(64) as u32;
        let columns = if self.rotation.is_empty() {
            columns
        } else {
            let rotated = task.allocate((dim * count * WORD) as u64)?;
            for (outputs, matrix) in &self.rotation {
                commands.dispatch(
                    Kernel::Rotate,
                    Constants::default(),
                    &[dim as u32, count as u32, outputs.start as u32, outputs.len() as u32],
                    &[matrix, &columns, &rotated],
                    (groups, outputs.len().div_ceil(4) as u32),
                )?;
            }
            rotated
        };
        let words = Self::code_words(self.pq);
        let codes = task.allocate((count * words * WORD) as u64)?;
        for (range, coordinate_first, centroids) in &self.words {
            let params = [
                count as u32,
                words as u32,
                range.start as u32,
                range.len() as u32,
                self.pq.m() as u32,
                u32::from(u8::from(self.pq.bits())),
                (dim / self.pq.m()) as u32,
                (dim % self.pq.m()) as u32,
                *coordinate_first as u32,
            ];
            let grid = (groups, range.len() as u32);
            commands.dispatch(Kernel::Encode, Constants::default(), &params, &[&columns, centroids, &codes], grid)?;
        }
        Ok(codes)
    }
}

pub(super) fn pq_encode(
    task: Task<'_>,
    rows: &WgpuRows,
    residual_to: Option<(ArrayView2<'_, f32>, &[u32])>,
    pq: &ProductQuantizer,
) -> Result<Array2<u8>, BackendError> {
    let (words, bytes) = (Coder::code_words(pq), pq.code_bytes());
    let mut codes = Array2::<u8>::zeros((rows.n, bytes));
    if rows.n == 0 {
        return Ok(codes);
    }
    let residual = match residual_to {
        Some((centroids, assignments)) => Some((WgpuRows::centroids(task, centroids)?, assignments)),
        None => None,
    };
    let coder = task.scoped(|| Coder::upload(task, pq))?;
    let column = Shape { dtype: DType::F32, dim: pq.dim().max(words) };
    // A grid counts rows in one dimension.
    let batch = column.rows_in(task.gpu.binding().min(task.gpu.scratch() / 4)).min(1 << 20);
    let flat = codes.as_slice_mut().expect("a fresh matrix is contiguous");
    for shard in &rows.shards {
        in_batches(shard.len(), batch, |range| {
            let first = shard.range.start + range.start;
            let packed = task.scoped(|| {
                let mut commands = task.commands();
                let columns = columns_of(task, &mut commands, rows, shard, range.clone(), residual.as_ref())?;
                let codes = coder.record(task, &mut commands, columns, range.len())?;
                commands.submit();
                task.read::<u32>(&codes, range.len() * words)
            })?;
            let out = flat[first * bytes..].chunks_exact_mut(bytes);
            for (code, packed) in out.zip(packed.chunks_exact(words)) {
                code.copy_from_slice(&bytemuck::cast_slice(packed)[..bytes]);
            }
            Ok(())
        })?;
    }
    Ok(codes)
}

/// Records what encoding sees of a shard's rows `range`, coordinate by coordinate: `(dim, rows)` f32.
fn columns_of(
    task: Task<'_>,
    commands: &mut Commands<'_>,
    rows: &WgpuRows,
    shard: &Block,
    range: Range<usize>,
    residual: Option<&(WgpuRows, &[u32])>,
) -> Result<Buffer, BackendError> {
    let count = range.len();
    let columns = task.allocate((rows.shape.dim * count * WORD) as u64)?;
    let (width, height) = fold((count * rows.shape.quads() as usize).div_ceil(64) as u64);
    let types = (shard.shape.dtype, shard.shape.dtype);
    let constants = Constants { types, ..Default::default() };
    let unit_length = rows.metric == Metric::Cosine;
    let params = widening(shard, range.start, count, unit_length, width);
    let buffers = [&shard.rows, &shard.numbers, &columns];
    commands.dispatch(Kernel::WidenByColumn, constants, &params, &buffers, (width, height))?;
    if let Some((centroids, assignments)) = residual {
        let first = shard.range.start + range.start;
        let chosen = task.upload(&assignments[first..first + count])?;
        for part in &centroids.shards {
            let params = widening(part, 0, count, false, width);
            let buffers = [&part.rows, &chosen, &columns];
            commands.dispatch(Kernel::Subtract, Constants::default(), &params, &buffers, (width, height))?;
        }
    }
    Ok(columns)
}
