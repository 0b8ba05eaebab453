//! Candidates, a group of neighbouring clusters after another.

use std::ops::Range;

use kiln_kernels::reservoir::{DistanceKey, Reservoirs};
use kiln_kernels::{Backend, Lists, Rows};
use rand_chacha::ChaCha8Rng;

use super::assign::{Members, Middle};
use super::locals::Locals;
use super::rows::HomeRows;
use super::spill::{Segment, id_bytes};
use super::summary::Summary;
use super::{Build, Keys};
use crate::error::BuilderError;
use crate::vamana::partition::{candidates_kept, largest_distance, leaf_k};
use crate::vamana::split::{LEAF_SIZE, Splitter, generator, later_leaders, piece_of_undivided};

pub(super) const STAGE: &str = "leaves";

/// The clusters of each group.
pub(super) type Groups = Vec<Range<usize>>;

/// A group in the making.
struct Group<'a> {
    summary: &'a Summary,
    rows: &'a HomeRows,
    key: DistanceKey,
    locals: &'a mut Locals,
    /// What is spilled for each unit of rows.
    segments: Vec<Segment>,
}

/// Takes leaves, by numbers in a part.
type TakeLeaves<'t> = dyn FnMut(&Lists<u32>) -> Result<(), BuilderError> + 't;

impl<B: Backend> Build<'_, B> {
    /// Gathers the candidates that the leaves of all clusters name, where that is not done.
    pub(super) fn leaves(
        &self,
        keys: &Keys,
        summary: &Summary,
        middle: &Middle,
        rows: &HomeRows,
    ) -> Result<Groups, BuilderError> {
        let members = self.members()?;
        let groups = self.groups(&members);
        let mut locals = Locals::new(self.n());
        self.each_missing(STAGE, &keys.leaves, groups.len() as u32, |unit| {
            let segments = (0..self.plan.units).map(|_| Segment::default()).collect();
            let key = DistanceKey::new(largest_distance(middle.reach));
            let mut group = Group { summary, rows, key, locals: &mut locals, segments };
            let clusters = groups[unit.number as usize].clone();
            let lists = members.of(clusters.clone())?;
            match lists.len() {
                1 if lists.items.len() > self.plan.most_places => {
                    let mut rng = generator(self.params.seed, clusters.start);
                    self.split_on_drive(&mut group, &lists.items, 1, &mut rng)?;
                }
                _ => self.split_clusters(&mut group, clusters.start, lists)?,
            }
            let mut writer = self.store.begin(unit)?;
            for segment in group.segments {
                if !segment.is_empty() {
                    segment.write(|bytes| writer.write(bytes))?;
                }
                writer.end_segment()?;
            }
            writer.commit(&keys.leaves, &self.backend.describe())
        })?;
        Ok(groups)
    }

    /// Neighbouring clusters together, as many as there are places for; a cluster that is too large for memory alone.
    pub(super) fn groups(&self, members: &Members) -> Groups {
        let (mut groups, mut first, mut places) = (Vec::new(), 0, 0);
        for cluster in 0..members.clusters {
            let count = members.count(cluster);
            if places + count > self.plan.group_places && places > 0 {
                groups.push(first..cluster);
                (first, places) = (cluster, 0);
            }
            places += count;
        }
        groups.push(first..members.clusters);
        groups
    }

    /// Splits whole clusters, of which the first is number `first`.
    fn split_clusters(&self, group: &mut Group<'_>, first: usize, lists: Lists<u32>) -> Result<(), BuilderError> {
        self.spill(group, lists, |resident, local, take| {
            let splitter = Splitter::new(self.backend, resident, self.params.seed).numbered_from(first);
            self.batches(local, self.plan.batch_places, |batch| take(&splitter.leaves(local, batch)?))
        })
    }

    /// Splits `rows`, which came about by `depth` splits, on the drive until parts fit in memory.
    fn split_on_drive(
        &self,
        group: &mut Group<'_>,
        rows: &[u32],
        depth: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<(), BuilderError> {
        if rows.len() <= self.plan.most_places.max(LEAF_SIZE) {
            let lists = Lists { offsets: vec![0, rows.len()], items: rows.to_vec() };
            return self.spill(group, lists, |resident, local, take| {
                let mut leaves = Lists::default();
                let splitter = Splitter::new(self.backend, resident, self.params.seed);
                splitter.split(local.get(0), depth, rng, &mut leaves)?;
                self.take_leaves(&leaves, take)
            });
        }
        let (leaders, fanout) = later_leaders(rows, depth, LEAF_SIZE, rng);
        let nearest = self.nearest_on_drive(group, rows, &leaders, fanout)?;
        let parts = Splitter::<B>::parts(rows, &leaders, &nearest);
        drop(nearest);
        for part in parts.iter() {
            match piece_of_undivided(part.len(), rows.len(), LEAF_SIZE) {
                Some(piece) => {
                    // Pieces are leaves: as many at a time as fit.
                    let at_a_time = (self.plan.most_places / piece).max(1) * piece;
                    for pieces in part.chunks(at_a_time) {
                        let lists: Lists<u32> = pieces.chunks(piece).map(<[u32]>::to_vec).collect();
                        self.spill(group, lists, |_, local, take| self.take_leaves(local, take))?;
                    }
                }
                None => self.split_on_drive(group, part, depth + 1, rng)?,
            }
        }
        Ok(())
    }

    /// The nearest leaders of each of `rows`, a block after another, by number of row.
    fn nearest_on_drive(
        &self,
        group: &Group<'_>,
        rows: &[u32],
        leaders: &[u32],
        fanout: usize,
    ) -> Result<Vec<u32>, BuilderError> {
        let leader_rows = group.rows.gather(leaders)?;
        let step = self.plan.read_rows(self.source.dim() * self.dtype().bytes());
        let mut nearest = Vec::with_capacity(rows.len() * fanout);
        for block in rows.chunks(step) {
            let resident = self.upload(joined(group.rows.gather(block)?, &leader_rows), &group.summary.whole)?;
            let numbers: Vec<u32> = (0..(block.len() + leaders.len()) as u32).collect();
            let (of_block, of_leaders) = numbers.split_at(block.len());
            let found = self.backend.nearest_leaders(&resident, of_block, of_leaders, fanout)?;
            nearest.extend(found.into_iter().map(|number| leaders[number as usize - block.len()]));
        }
        Ok(nearest)
    }

    /// Ranges of lists that together name about so many rows.
    fn batches(
        &self,
        lists: &Lists<u32>,
        most: usize,
        mut work: impl FnMut(Range<usize>) -> Result<(), BuilderError>,
    ) -> Result<(), BuilderError> {
        let mut first = 0;
        while first < lists.len() {
            let fits = |last: &usize| lists.offsets[last + 1] - lists.offsets[first] <= most;
            let last = (first + 1..lists.len()).take_while(fits).last().map_or(first + 1, |last| last + 1);
            work(first..last)?;
            self.progress.advance((lists.offsets[last] - lists.offsets[first]) as u64);
            first = last;
        }
        Ok(())
    }

    /// Hands leaves over, some at a time.
    fn take_leaves(&self, leaves: &Lists<u32>, take: &mut TakeLeaves<'_>) -> Result<(), BuilderError> {
        self.batches(leaves, self.plan.batch_places, |batch| {
            take(&batch.map(|leaf| leaves.get(leaf).to_vec()).collect())
        })
    }

    /// Makes the rows of `lists` resident, finds neighbours in the leaves that `split` makes of them, and spills what is
    /// nearest to each row. `split` is given the lists by numbers in the part, which ascend as rows do.
    fn spill(
        &self,
        group: &mut Group<'_>,
        lists: Lists<u32>,
        split: impl FnOnce(&B::Rows, &Lists<u32>, &mut TakeLeaves<'_>) -> Result<(), BuilderError>,
    ) -> Result<(), BuilderError> {
        let Group { summary, rows, key, locals, segments } = group;
        let count = locals.choose(lists.items.iter());
        let local = Lists { items: locals.all(&lists.items), offsets: lists.offsets };
        drop(lists.items);
        let resident = self.upload(rows.gather(locals.part())?, &summary.whole)?;
        let mut reservoirs = Reservoirs::new(count, candidates_kept(self.params.max_degree), *key);
        split(&resident, &local, &mut |leaves: &Lists<u32>| {
            let neighbors = self.backend.leaf_neighbors(&resident, leaves, leaf_k(self.n()))?;
            reservoirs.offer(&leaves.items, |member| neighbors.get(member));
            Ok(())
        })?;
        drop((local, resident));

        let (width, unit_rows) = (id_bytes(self.n()), self.plan.unit_rows);
        let mut entries = Vec::new();
        while let Some((first, lists)) = reservoirs.take_next_keyed() {
            for (number, list) in (first..).zip(&lists) {
                let position = rows.position_of(locals.row(number)) as usize;
                entries.clear();
                entries.extend(list.iter().map(|&entry| entry >> 32 << 32 | u64::from(locals.row(entry as u32))));
                segments[position / unit_rows].push((position % unit_rows) as u32, &entries, width);
            }
        }
        Ok(())
    }
}

/// Some rows, and others after them.
pub(super) fn joined(rows: Rows, others: &Rows) -> Rows {
    let mut all = Rows::zeros(rows.dtype(), rows.len() + others.len(), rows.dim());
    let (first, second) = all.as_bytes_mut().split_at_mut(rows.as_bytes().len());
    first.copy_from_slice(rows.as_bytes());
    second.copy_from_slice(others.as_bytes());
    all
}
