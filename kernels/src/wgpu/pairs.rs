//! Distances of chosen pairs of rows.

use std::collections::BTreeMap;

use super::device::{Task, fold};
use super::pipelines::{Constants, Distance, Kernel};
use super::rows::{Block, WgpuRows};
use crate::backend::BackendError;
use crate::batches::in_batches;

/// Pairs of one workgroup of `pairs.wgsl`.
const GROUP: u64 = 8;

/// Bytes of a pair.
const PAIR: u64 = 8;

/// The distance of each pair (row of `a`, row of `b`), in their order.
pub(super) fn distances(
    task: Task<'_>,
    a: &WgpuRows,
    b: &WgpuRows,
    distance: Distance,
    pairs: &[[u32; 2]],
) -> Result<Vec<f32>, BackendError> {
    // Places in `pairs`, by the shards in which the two rows lie.
    let mut by_shards: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for (place, &[of_a, of_b]) in pairs.iter().enumerate() {
        by_shards.entry((shard_of(a, of_a), shard_of(b, of_b))).or_default().push(place);
    }
    let constants = Constants { types: (a.shape.dtype, b.shape.dtype), distance, long: false };
    let batch = (task.gpu.binding().min(task.gpu.scratch() / 4) / PAIR) as usize;
    let mut out = vec![0f32; pairs.len()];
    for ((of_a, of_b), places) in by_shards {
        let (a, b) = (&a.shards[of_a], &b.shards[of_b]);
        in_batches(places.len(), batch, |range| {
            let places = &places[range];
            let local =
                |&place: &usize| [pairs[place][0] - a.range.start as u32, pairs[place][1] - b.range.start as u32];
            let found =
                task.scoped(|| of_blocks(task, a, b, constants, &places.iter().map(local).collect::<Vec<_>>()))?;
            places.iter().zip(found).for_each(|(&place, distance)| out[place] = distance);
            Ok(())
        })?;
    }
    Ok(out)
}

fn shard_of(rows: &WgpuRows, row: u32) -> usize {
    rows.shards.partition_point(|shard| shard.range.end <= row as usize)
}

fn of_blocks(
    task: Task<'_>,
    a: &Block,
    b: &Block,
    constants: Constants,
    pairs: &[[u32; 2]],
) -> Result<Vec<f32>, BackendError> {
    let pairs_buffer = task.upload(pairs)?;
    let out = task.allocate(size_of_val(pairs) as u64 / 2)?;
    let (width, height) = fold((pairs.len() as u64).div_ceil(GROUP));
    let mut commands = task.commands();
    commands.dispatch(
        Kernel::Pairs,
        constants,
        &[a.shape.stride() as u32, b.shape.stride() as u32, a.shape.quads(), pairs.len() as u32, width],
        &[&a.rows, &a.numbers, &b.rows, &b.numbers, &pairs_buffer, &out],
        (width, height),
    )?;
    commands.submit();
    task.read(&out, pairs.len())
}
