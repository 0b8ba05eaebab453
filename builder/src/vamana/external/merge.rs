//! All candidates of a unit's rows, merged as one reservoir would have kept them.

use std::ops::Range;

use kiln_kernels::candidates::far_row;
use kiln_kernels::{Backend, Lists};
use rayon::prelude::*;

use super::Build;
use super::leaves;
use super::spill::{Segment, id_bytes, read_list};
use crate::durable::Unit;
use crate::error::BuilderError;
use crate::vamana::partition::{FAR_CANDIDATES, candidates_kept};

/// What was spilled for the rows of a unit.
pub(super) struct Spilled {
    segments: Vec<Vec<u8>>,
    /// By row of the unit: lists, as (segment, where it lies there).
    lists: Vec<(u32, Range<usize>)>,
    /// Where each row's lists begin.
    offsets: Vec<usize>,
}

impl<B: Backend> Build<'_, B> {
    /// Reads what all groups spilled for the `count` rows of unit `number`.
    pub(super) fn spilled(&self, number: u32, count: usize, groups: u32) -> Result<Spilled, BuilderError> {
        let of_group = |group: u32| {
            // There may be more groups than files that can be open at a time.
            let artifact = self.store.open_unit(Unit { stage: leaves::STAGE, number: group })?;
            if artifact.bytes(number as usize) == 0 {
                return Ok(None);
            }
            let bytes = self.store.read(&artifact, number as usize)?;
            let lists = Segment::lists(&bytes).filter(|lists| lists.iter().all(|(row, _)| (*row as usize) < count));
            match lists {
                Some(lists) => Ok(Some((bytes, lists))),
                None => Err(self.store.spoiled(Unit { stage: leaves::STAGE, number: group })),
            }
        };
        let read: Vec<_> = (0..groups).into_par_iter().map(of_group).collect::<Result<_, BuilderError>>()?;
        let (segments, found): (Vec<_>, Vec<_>) = read.into_iter().flatten().unzip();
        let mut offsets = vec![0usize; count + 1];
        found.iter().flatten().for_each(|(row, _)| offsets[*row as usize + 1] += 1);
        for row in 0..count {
            offsets[row + 1] += offsets[row];
        }
        let (mut next, mut lists) = (offsets.clone(), vec![(0, 0..0); offsets[count]]);
        for (segment, found) in (0..).zip(found) {
            for (row, range) in found {
                lists[next[row as usize]] = (segment, range);
                next[row as usize] += 1;
            }
        }
        Ok(Spilled { segments, lists, offsets })
    }

    /// The candidates of some rows of the unit, whose numbers are `ids`: the nearest kept, nearest first, then far ones.
    pub(super) fn candidates_of(&self, spilled: &Spilled, rows: Range<usize>, ids: &[u32]) -> Lists<u32> {
        let (n, width) = (self.n(), id_bytes(self.n()));
        let keep = candidates_kept(self.params.max_degree);
        let of_row = |entries: &mut Vec<u64>, row: usize| {
            entries.clear();
            for (segment, range) in &spilled.lists[spilled.offsets[row]..spilled.offsets[row + 1]] {
                read_list(&spilled.segments[*segment as usize][range.clone()], width, entries);
            }
            // A pair has one distance, and so one key, wherever it is found. Lists ascend: a sort that sees that merges them.
            entries.sort();
            entries.dedup();
            entries.truncate(keep);
            let mut candidates = Vec::with_capacity(entries.len() + FAR_CANDIDATES as usize);
            candidates.extend(entries.iter().map(|&entry| entry as u32));
            for far in (0..FAR_CANDIDATES).map(|i| far_row(self.params.seed, ids[row], i, n)) {
                if far != ids[row] && !candidates.contains(&far) {
                    candidates.push(far);
                }
            }
            candidates
        };
        let lists: Vec<Vec<u32>> = rows.into_par_iter().map_init(Vec::new, of_row).collect();
        lists.into_iter().collect()
    }
}
