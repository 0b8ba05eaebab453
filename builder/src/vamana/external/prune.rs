//! Candidates pruned to edges, a unit of rows after another.

use std::ops::Range;

use kiln_kernels::candidates::NO_ROW;
use kiln_kernels::{Backend, Lists, PruneParams};
use rayon::prelude::*;

use super::leaves::{self, Groups};
use super::locals::Locals;
use super::merge::Spilled;
use super::rows::HomeRows;
use super::summary::Summary;
use super::{Build, Keys};
use crate::durable::Unit;
use crate::error::BuilderError;
use crate::resources::return_freed_memory;

pub(super) const STAGE: &str = "prune";

/// Segments of a unit: edges `(rows, R)`, kept ones first; how many are kept; then for each unit the edges to its rows.
pub(super) const EDGES: usize = 0;
pub(super) const KEPT: usize = 1;
pub(super) const NAMED: usize = 2;

impl<B: Backend> Build<'_, B> {
    fn prune_params(&self) -> PruneParams {
        PruneParams { max_degree: self.params.max_degree, alpha: self.params.alpha as f32 }
    }

    /// Prunes all rows, where that is not done.
    pub(super) fn prune(
        &self,
        keys: &Keys,
        summary: &Summary,
        rows: &HomeRows,
        groups: &Groups,
    ) -> Result<(), BuilderError> {
        let groups = groups.len() as u32;
        let mut locals = Locals::new(self.n());
        self.each_missing(STAGE, &keys.prune, self.plan.units, |unit| {
            self.prune_unit(unit, keys, summary, rows, groups, &mut locals)?;
            if self.store.is_shared() {
                return Ok(());
            }
            (0..groups).try_for_each(|number| {
                let artifact = self.store.open_unit(Unit { stage: leaves::STAGE, number })?;
                self.store.spend(&artifact, unit.number as usize)
            })
        })
    }

    fn prune_unit(
        &self,
        unit: Unit,
        keys: &Keys,
        summary: &Summary,
        rows: &HomeRows,
        groups: u32,
        locals: &mut Locals,
    ) -> Result<(), BuilderError> {
        let ids = rows.ids_of(unit.number)?;
        let spilled = self.spilled(unit.number, ids.len(), groups)?;
        let (mut edges, mut kept) = (Vec::with_capacity(ids.len() * self.params.max_degree), Vec::new());
        for first in (0..ids.len()).step_by(self.plan.block_rows) {
            let block = first..ids.len().min(first + self.plan.block_rows);
            self.prune_block(block, summary, rows, &spilled, &ids, locals, &mut |block, lists| {
                edges.extend_from_slice(&block);
                kept.extend(lists.iter().map(|list| list.len() as u16));
            })?;
        }
        drop(spilled);
        return_freed_memory();
        let named = self.by_target(rows, &ids, &edges, &kept);
        let mut writer = self.store.begin(unit)?;
        writer.segment(bytemuck::cast_slice(&edges))?;
        writer.segment(bytemuck::cast_slice(&kept))?;
        for pairs in named {
            write_named(&pairs, |bytes| writer.write(bytes))?;
            writer.end_segment()?;
        }
        writer.commit(&keys.prune, &self.backend.describe())
    }

    /// Prunes some rows of a unit, or where the rows that they name do not fit one half of them after the other. `take` is
    /// given their edges and the kept ones again.
    #[expect(clippy::too_many_arguments, reason = "each is one thing, and there is one caller")]
    fn prune_block(
        &self,
        block: Range<usize>,
        summary: &Summary,
        rows: &HomeRows,
        spilled: &Spilled,
        ids: &[u32],
        locals: &mut Locals,
        take: &mut dyn FnMut(Vec<u32>, &Lists<u32>),
    ) -> Result<(), BuilderError> {
        let candidates = self.candidates_of(spilled, block.clone(), ids);
        let points = &ids[block.clone()];
        if let Some(kept) = self.pruned(points, &candidates, summary, rows, locals)? {
            let r = self.params.max_degree;
            let mut edges = vec![NO_ROW; points.len() * r];
            edges.par_chunks_mut(r).enumerate().for_each(|(i, edges)| {
                let kept = kept.get(i);
                let others = candidates.get(i).iter().filter(|id| !kept.contains(id));
                edges.iter_mut().zip(kept.iter().chain(others)).for_each(|(edge, &id)| *edge = id);
            });
            take(edges, &kept);
            self.progress.advance(block.len() as u64);
            return Ok(());
        }
        drop(candidates);
        let middle = block.start + block.len() / 2;
        for half in [block.start..middle, middle..block.end] {
            self.prune_block(half, summary, rows, spilled, ids, locals, take)?;
        }
        Ok(())
    }

    /// Robustly prunes the candidates of each point, all by number of row; `None` where there are several points, and the
    /// rows named do not fit in memory together.
    pub(super) fn pruned(
        &self,
        points: &[u32],
        candidates: &Lists<u32>,
        summary: &Summary,
        rows: &HomeRows,
        locals: &mut Locals,
    ) -> Result<Option<Lists<u32>>, BuilderError> {
        if points.is_empty() {
            return Ok(Some(Lists::default()));
        }
        let count = locals.choose(points.iter().chain(&candidates.items));
        if count * (self.source.dim() * self.dtype().bytes() + 4) > self.plan.gathered && points.len() > 1 {
            return Ok(None);
        }
        let resident = self.upload(rows.gather(locals.part())?, &summary.whole)?;
        let local = Lists { offsets: candidates.offsets.clone(), items: locals.all(&candidates.items) };
        let mut kept = self.backend.robust_prune(&resident, &locals.all(points), &local, self.prune_params())?;
        kept.items.par_iter_mut().with_min_len(1 << 12).for_each(|id| *id = locals.row(*id));
        Ok(Some(kept))
    }

    /// Kept edges by the unit of the row they name: (place of that row in its unit, row that names it), ascending.
    fn by_target(&self, rows: &HomeRows, ids: &[u32], edges: &[u32], kept: &[u16]) -> Vec<Vec<u64>> {
        let (r, unit_rows) = (self.params.max_degree, self.plan.unit_rows as u64);
        let of_row = |((&id, edges), &kept): ((&u32, &[u32]), &u16)| {
            let pair = move |&to: &u32| u64::from(rows.position_of(to)) << 32 | u64::from(id);
            edges[..usize::from(kept)].iter().map(pair).collect::<Vec<u64>>()
        };
        let mut pairs: Vec<u64> =
            ids.par_iter().zip(edges.par_chunks_exact(r)).zip(kept).flat_map_iter(of_row).collect();
        pairs.par_sort_unstable();
        let mut rest = &mut pairs[..];
        let of_unit = |unit: u64| {
            let first = unit * unit_rows;
            let count = rest.partition_point(|pair| pair >> 32 < first + unit_rows);
            let (own, after) = std::mem::take(&mut rest).split_at_mut(count);
            rest = after;
            own.iter().map(|pair| pair - (first << 32)).collect()
        };
        (0..u64::from(self.plan.units)).map(of_unit).collect()
    }
}

/// Writes ascending pairs, each target once: its place, how many rows name it, and these.
fn write_named(pairs: &[u64], mut write: impl FnMut(&[u8]) -> Result<(), BuilderError>) -> Result<(), BuilderError> {
    let mut words: Vec<u32> = Vec::new();
    for named in pairs.chunk_by(|a, b| a >> 32 == b >> 32) {
        words.extend([(named[0] >> 32) as u32, named.len() as u32]);
        words.extend(named.iter().map(|&pair| pair as u32));
    }
    write(bytemuck::cast_slice(&words))
}

/// Reads what [`write_named`] wrote; `None` where it does not fit together.
pub(super) fn read_named(words: &[u32], mut each: impl FnMut(u32, &[u32]) -> Option<()>) -> Option<()> {
    let mut rest = words;
    while let [target, count, after @ ..] = rest {
        let (named, after) = after.split_at_checked(*count as usize)?;
        each(*target, named)?;
        rest = after;
    }
    rest.is_empty().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_by_target_are_read_as_written() {
        let pairs: Vec<u64> = [(1, 5), (1, 9), (4, 2)].map(|(to, from): (u64, u64)| to << 32 | from).into();
        let mut bytes = Vec::new();
        write_named(&pairs, |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })
        .expect("written");
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
        let mut read = Vec::new();
        let each = |to, from: &[u32]| {
            read.push((to, from.to_vec()));
            Some(())
        };
        assert_eq!(read_named(&words, each), Some(()));
        assert_eq!(read, [(1, vec![5, 9]), (4, vec![2])]);
        assert_eq!(read_named(&words[..words.len() - 1], |_, _| Some(())), None);
    }
}
