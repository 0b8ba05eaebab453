//! Robust prune: one workgroup a point, over the rows where they lie or, where these are in several shards, over the
//! rows of a batch gathered side by side.

use std::ops::Range;

use super::device::{Task, fold};
use super::pairs::distances;
use super::pipelines::{Constants, Distance, Kernel};
use super::rows::{Block, NUMBERS, WgpuRows};
use crate::backend::{BackendError, Lists, PruneParams};
use crate::batches::in_batches;
use crate::topk::Scored;

/// Candidates that workgroup memory holds; `SHORT` in `prune.wgsl`.
const SHORT: usize = 512;

/// Bytes of a candidate while it is pruned.
const ENTRY: usize = 16;

pub(super) fn robust_prune(
    task: Task<'_>,
    base: &WgpuRows,
    points: &[u32],
    candidates: &Lists<u32>,
    params: PruneParams,
) -> Result<Lists<u32>, BackendError> {
    let mut out = Lists::default();
    let mut first = 0;
    while first < points.len() {
        let end = batch_end(task, base, candidates, first, params);
        if end == first {
            // More rows than one binding holds.
            out.push(&prune_by_pairs(task, base, points[first], candidates.get(first), params)?);
            first += 1;
            continue;
        }
        in_batches(end - first, end - first, |range| {
            let range = first + range.start..first + range.end;
            let kept = task.scoped(|| prune_batch(task, base, points, candidates, range, params))?;
            kept.iter().for_each(|kept| out.push(kept));
            Ok(())
        })?;
        first = end;
    }
    Ok(out)
}

/// The end of the batch of points that begins with `first`: `first` where not even one fits.
fn batch_end(task: Task<'_>, base: &WgpuRows, candidates: &Lists<u32>, first: usize, params: PruneParams) -> usize {
    let binding = task.gpu.binding().min(task.gpu.scratch() / 4) as usize;
    let row = if base.shards.len() > 1 { base.shape.row_bytes().max(NUMBERS) } else { 0 };
    let mut end = first;
    while end < candidates.len() {
        let points = end + 1 - first;
        let rows = points + candidates.offsets[end + 1] - candidates.offsets[first];
        if rows * row.max(ENTRY) > binding || points * (params.max_degree + 1) * size_of::<u32>() > binding {
            break;
        }
        end += 1;
    }
    end
}

/// The kept neighbours of each point of `range`.
fn prune_batch(
    task: Task<'_>,
    base: &WgpuRows,
    points: &[u32],
    candidates: &Lists<u32>,
    range: Range<usize>,
    params: PruneParams,
) -> Result<Vec<Vec<u32>>, BackendError> {
    let start = candidates.offsets[range.start];
    let items = &candidates.items[start..candidates.offsets[range.end]];
    let own = &points[range.clone()];
    let gathered;
    let (block, candidate_rows, point_rows): (&Block, Vec<u32>, Vec<u32>) = match &base.shards[..] {
        [whole] => (whole, items.to_vec(), own.to_vec()),
        _ => {
            let ids = [items, own].concat();
            let mut commands = task.commands();
            gathered = base.gather(task, &mut commands, &ids)?;
            commands.submit();
            let count = items.len() as u32;
            (&gathered, (0..count).collect(), (count..ids.len() as u32).collect())
        }
    };
    let pairs: Vec<[u32; 2]> = items.iter().zip(candidate_rows).map(|(&id, row)| [id, row]).collect();
    let candidates_buffer = task.upload(&pairs)?;
    let mut kept = vec![Vec::new(); range.len()];
    let length = |i: usize| candidates.get(range.start + i).len();
    for long in [false, true] {
        let chosen: Vec<usize> = (0..range.len()).filter(|&i| (length(i) > SHORT) == long).collect();
        if chosen.is_empty() {
            continue;
        }
        let point = |&i: &usize| {
            let first = candidates.offsets[range.start + i] - start;
            // A long list's entries lie where its candidates lie.
            [[point_rows[i], own[i], first as u32, (first + length(i)) as u32], [first as u32, 0, 0, 0]]
        };
        let table: Vec<[[u32; 4]; 2]> = chosen.iter().map(point).collect();
        let table = task.upload(&table)?;
        let entries = task.allocate(if long { (items.len() * ENTRY) as u64 } else { 0 })?;
        let width = params.max_degree + 1;
        let out = task.allocate((chosen.len() * width * size_of::<u32>()) as u64)?;
        let (fold, height) = fold(chosen.len() as u64);
        let constants =
            Constants { types: (base.shape.dtype, base.shape.dtype), distance: Distance::of_graph(base.metric), long };
        let mut commands = task.commands();
        commands.dispatch(
            Kernel::Prune,
            constants,
            &[base.shape.stride() as u32, chosen.len() as u32, params.max_degree as u32, params.alpha.to_bits(), fold],
            &[&block.rows, &block.numbers, &table, &candidates_buffer, &entries, &out],
            (fold, height),
        )?;
        commands.submit();
        let words: Vec<u32> = task.read(&out, chosen.len() * width)?;
        for (i, row) in chosen.into_iter().zip(words.chunks_exact(width)) {
            let degree = row[0] as usize;
            let list = row.get(1..=degree).ok_or_else(|| task.refused(format!("a degree of {degree} came back")))?;
            kept[i] = list.to_vec();
        }
    }
    Ok(kept)
}

/// One point's kept neighbours where its candidates lie in too many bindings: the algorithm runs here, distances there.
fn prune_by_pairs(
    task: Task<'_>,
    base: &WgpuRows,
    point: u32,
    candidates: &[u32],
    params: PruneParams,
) -> Result<Vec<u32>, BackendError> {
    let to = |from: u32, ids: &[u32]| {
        let pairs: Vec<[u32; 2]> = ids.iter().map(|&id| [from, id]).collect();
        distances(task, base, base, Distance::of_graph(base.metric), &pairs)
    };
    let scored = to(point, candidates)?.into_iter().zip(candidates).map(|(distance, &id)| Scored { distance, id });
    let mut list: Vec<Scored> = scored.filter(|c| c.id != point).collect();
    list.sort_unstable();
    list.dedup_by_key(|c| c.id);
    // 0 in play, 1 occluded at alpha 1, 2 at the full alpha, 3 kept or a copy of a kept one.
    let mut state = vec![0u8; list.len()];
    let mut kept: Vec<usize> = Vec::new();
    for round in 0..if params.alpha > 1.0 { 2 } else { 1 } {
        for i in 0..list.len() {
            if kept.len() == params.max_degree || state[i] > round {
                continue;
            }
            kept.push(i);
            state[i] = 3;
            let behind: Vec<usize> = (i + 1..list.len()).filter(|&j| state[j] < 2).collect();
            let ids: Vec<u32> = behind.iter().map(|&j| list[j].id).collect();
            for (&j, between) in behind.iter().zip(to(list[i].id, &ids)?) {
                let occluded = match list[j].distance {
                    _ if between <= 0.0 => 3,
                    distance if params.alpha * between < distance => 2,
                    distance if between < distance => 1,
                    _ => 0,
                };
                state[j] = state[j].max(occluded);
            }
        }
    }
    kept.sort_unstable();
    Ok(kept.into_iter().map(|i| list[i].id).collect())
}
