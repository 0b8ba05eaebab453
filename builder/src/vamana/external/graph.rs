//! Reverse edges, a unit of rows after another, and the finished graph on the drive.
//!
//! What a row's list becomes is what the build in memory makes of it: its own edges and those of the rows that name it,
//! pruned where they exceed R, filled where they do not reach R.

use std::collections::HashMap;
use std::ops::Range;

use kiln_kernels::candidates::NO_ROW;
use kiln_kernels::reverse::{filled, union};
use kiln_kernels::{Backend, Lists};
use rayon::prelude::*;

use super::locals::Locals;
use super::prune::{self, EDGES, KEPT, NAMED, read_named};
use super::rows::HomeRows;
use super::summary::Summary;
use super::{Build, Keys, words};
use crate::durable::{Artifact, Unit};
use crate::error::BuilderError;

pub(super) const STAGE: &str = "graph";

/// A graph on the drive, by number of row: for each a degree and R places, in home order.
pub(super) struct DriveGraph {
    max_degree: usize,
    unit_rows: usize,
    units: Vec<Artifact>,
    /// Lists that differ from those on the drive.
    pub changed: HashMap<u32, Vec<u32>>,
}

/// Pruned lists of a unit.
struct Pruned {
    max_degree: usize,
    edges: Vec<u32>,
    kept: Vec<u16>,
}

impl Pruned {
    fn kept(&self, row: usize) -> &[u32] {
        &self.edges[row * self.max_degree..][..usize::from(self.kept[row])]
    }

    fn others(&self, row: usize) -> &[u32] {
        &self.edges[row * self.max_degree..][usize::from(self.kept[row])..self.max_degree]
    }
}

impl<B: Backend> Build<'_, B> {
    /// Makes the lists of all rows, where that is not done.
    pub(super) fn graph(&self, keys: &Keys, summary: &Summary, rows: &HomeRows) -> Result<(), BuilderError> {
        let open = |number| self.store.open_unit(Unit { stage: prune::STAGE, number });
        let pruned = (0..self.plan.units).map(open).collect::<Result<Vec<_>, _>>()?;
        let mut locals = Locals::new(self.n());
        self.each_missing(STAGE, &keys.graph, self.plan.units, |unit| {
            self.graph_unit(unit, keys, summary, rows, &pruned, &mut locals)?;
            let own = &pruned[unit.number as usize];
            [EDGES, KEPT].into_iter().try_for_each(|segment| self.store.spend(own, segment))?;
            pruned.iter().try_for_each(|artifact| self.store.spend(artifact, NAMED + unit.number as usize))
        })
    }

    fn graph_unit(
        &self,
        unit: Unit,
        keys: &Keys,
        summary: &Summary,
        rows: &HomeRows,
        pruned: &[Artifact],
        locals: &mut Locals,
    ) -> Result<(), BuilderError> {
        let (ids, r) = (rows.ids_of(unit.number)?, self.params.max_degree);
        let named_by = self.named_by(unit.number, ids.len(), pruned)?;
        let own = &pruned[unit.number as usize];
        let (edges, kept) = (words(&self.store.read(own, EDGES)?), self.store.read(own, KEPT)?);
        let pruned = Pruned { max_degree: r, edges, kept: bytemuck::pod_collect_to_vec(&kept) };
        let mut writer = self.store.begin(unit)?;
        for first in (0..ids.len()).step_by(self.plan.block_rows) {
            let block = first..ids.len().min(first + self.plan.block_rows);
            let records = self.records(block, &ids, &pruned, &named_by, summary, rows, locals)?;
            writer.write(bytemuck::cast_slice(&records))?;
        }
        writer.end_segment()?;
        writer.commit(&keys.graph, &self.backend.describe())
    }

    /// The rows that name each row of a unit, ascending.
    fn named_by(&self, number: u32, count: usize, pruned: &[Artifact]) -> Result<Lists<u32>, BuilderError> {
        let from_unit = |(from, artifact): (usize, &Artifact)| {
            let (words, mut pairs) = (words(&self.store.read(artifact, NAMED + number as usize)?), Vec::<u64>::new());
            let each = |target: u32, named: &[u32]| {
                pairs.extend(named.iter().map(|&row| u64::from(target) << 32 | u64::from(row)));
                ((target as usize) < count).then_some(())
            };
            let spoiled = || self.store.spoiled(Unit { stage: prune::STAGE, number: from as u32 });
            read_named(&words, each).ok_or_else(spoiled)?;
            Ok(pairs)
        };
        let read: Vec<_> = pruned.par_iter().enumerate().map(from_unit).collect::<Result<_, BuilderError>>()?;
        let mut pairs = read.concat();
        drop(read);
        // Each unit's ascend.
        pairs.par_sort();
        let mut offsets = vec![0usize; count + 1];
        pairs.iter().for_each(|&pair| offsets[(pair >> 32) as usize + 1] += 1);
        for row in 0..count {
            offsets[row + 1] += offsets[row];
        }
        Ok(Lists { offsets, items: pairs.into_iter().map(|pair| pair as u32).collect() })
    }

    /// Degree and places of some rows of a unit, `(rows, 1 + R)`.
    #[expect(clippy::too_many_arguments, reason = "each is one thing, and there is one caller")]
    fn records(
        &self,
        block: Range<usize>,
        ids: &[u32],
        pruned: &Pruned,
        named_by: &Lists<u32>,
        summary: &Summary,
        rows: &HomeRows,
        locals: &mut Locals,
    ) -> Result<Vec<u32>, BuilderError> {
        let r = self.params.max_degree;
        let unions: Vec<Vec<u32>> =
            block.clone().into_par_iter().map(|row| union(pruned.kept(row), named_by.get(row), r)).collect();
        let (mut crowded, mut candidates) = (Vec::new(), Lists::default());
        for (row, union) in block.clone().zip(&unions).filter(|(_, union)| union.len() > r) {
            crowded.push(ids[row]);
            candidates.push(union);
        }
        let Some(kept) = self.pruned(&crowded, &candidates, summary, rows, locals)? else {
            drop((unions, candidates));
            let middle = block.start + block.len() / 2;
            let mut records = self.records(block.start..middle, ids, pruned, named_by, summary, rows, locals)?;
            records.extend(self.records(middle..block.end, ids, pruned, named_by, summary, rows, locals)?);
            return Ok(records);
        };
        let mut records = vec![NO_ROW; block.len() * (1 + r)];
        let (mut next, mut list) = (0, Vec::with_capacity(2 * r));
        for ((row, union), record) in block.clone().zip(&unions).zip(records.chunks_exact_mut(1 + r)) {
            list.clear();
            if union.len() > r {
                list.extend_from_slice(kept.get(next));
                next += 1;
            } else {
                list.extend_from_slice(union);
            }
            filled(&mut list, pruned.others(row), union, r);
            record[0] = list.len() as u32;
            record[1..=list.len()].copy_from_slice(&list);
        }
        self.progress.advance(block.len() as u64);
        Ok(records)
    }

    /// The finished graph, as it lies on the drive.
    pub(super) fn drive_graph(&self) -> Result<DriveGraph, BuilderError> {
        let open = |number| self.store.open_checked(Unit { stage: STAGE, number });
        let units = (0..self.plan.units).map(open).collect::<Result<Vec<_>, _>>()?;
        let (max_degree, unit_rows) = (self.params.max_degree, self.plan.unit_rows);
        Ok(DriveGraph { max_degree, unit_rows, units, changed: HashMap::new() })
    }
}

impl DriveGraph {
    /// Appends the edges of a row.
    pub(super) fn neighbors(&self, rows: &HomeRows, row: u32, out: &mut Vec<u32>) -> Result<(), BuilderError> {
        if let Some(changed) = self.changed.get(&row) {
            out.extend_from_slice(changed);
            return Ok(());
        }
        let position = rows.position_of(row) as usize;
        let mut record = vec![0u32; 1 + self.max_degree];
        self.read(position / self.unit_rows, position % self.unit_rows, &mut record)?;
        out.extend_from_slice(&record[1..=(record[0] as usize).min(self.max_degree)]);
        Ok(())
    }

    /// Records of consecutive rows of a unit, `(rows, 1 + R)`, as they lie on the drive.
    pub(super) fn read(&self, unit: usize, first: usize, records: &mut [u32]) -> Result<(), BuilderError> {
        let at = 4 * (first * (1 + self.max_degree)) as u64;
        self.units[unit].read_at(0, bytemuck::cast_slice_mut(records), at)
    }

    /// The edges of each of some rows, in that order.
    pub(super) fn lists(&self, rows: &HomeRows, ids: &[u32]) -> Result<Lists<u32>, BuilderError> {
        let part = ids.len().div_ceil(4 * rayon::current_num_threads()).max(1);
        let parts: Vec<Lists<u32>> = ids
            .par_chunks(part)
            .map(|ids| {
                let mut lists = Lists::default();
                for &id in ids {
                    self.neighbors(rows, id, &mut lists.items)?;
                    lists.offsets.push(lists.items.len());
                }
                Ok(lists)
            })
            .collect::<Result<_, BuilderError>>()?;
        let mut all = Lists::default();
        parts.iter().flat_map(Lists::iter).for_each(|list| all.push(list));
        Ok(all)
    }
}
