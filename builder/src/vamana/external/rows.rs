//! The rows themselves in home order, on the drive: neighbours in space side by side, whatever their order in the data set.
//!
//! A row's home is the cluster of its nearest leader; rows of a home lie in the order of their numbers. The source is read
//! once, in its own order, and dealt into one heap a unit; then each heap is put in order. A process that makes few of the
//! units does the same for their rows alone, or where they lie far apart reads them by number.

use kiln_datasets::gather_rows;
use kiln_kernels::{Backend, DType, Rows};
use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

use super::summary::Summary;
use super::{Build, Keys, Scope, words};
use crate::durable::{Artifact, Unit};
use crate::error::BuilderError;
use crate::resources::{Stopwatch, return_freed_memory};

pub(super) const STAGE: &str = "rows";
const HEAP: &str = "heap";

/// Segments of a unit.
const IDS: usize = 0;
const VECTORS: usize = 1;

/// Where the rows of this process's units lie further apart in the source than so many bytes on average, they are read one
/// by one: a drive that reads 1.5 GB/s in sequence, and 100,000 times a second at random, takes as long for either.
const FAR_APART: usize = 1 << 14;

/// Bytes of a file that are rather read than passed over.
const GAP: usize = 4096;

/// Bytes that one read asks for at most.
const READ: usize = 1 << 20;

/// Rows in home order.
pub(super) struct HomeRows {
    dtype: DType,
    dim: usize,
    unit_rows: usize,
    units: Vec<Artifact>,
    /// Place in home order of every row.
    position_of: Vec<u32>,
}

impl<B: Backend> Build<'_, B> {
    /// Puts the rows in home order, where that is not done.
    pub(super) fn home_rows(
        &self,
        keys: &Keys,
        summary: &Summary,
        watch: &mut Stopwatch<'_>,
    ) -> Result<HomeRows, BuilderError> {
        let mut position_of = None;
        if !self.all(STAGE, &keys.rows, self.plan.units) {
            self.assign(keys, summary, watch)?;
            position_of = Some(self.copy_rows(keys, summary, watch)?);
        }
        let units = (0..self.plan.units)
            .map(|number| self.store.open_checked(Unit { stage: STAGE, number }))
            .collect::<Result<Vec<_>, _>>()?;
        let (dtype, dim, unit_rows) = (self.dtype(), self.source.dim(), self.plan.unit_rows);
        let mut rows = HomeRows { dtype, dim, unit_rows, units, position_of: Vec::new() };
        rows.position_of = match position_of {
            Some(positions) => positions,
            None => {
                let mut positions = vec![0u32; self.n()];
                for unit in 0..self.plan.units {
                    let first = unit as usize * unit_rows;
                    // Of a shared folder, without checking the vectors beside them.
                    let ids = words(&self.store.read(&rows.units[unit as usize], IDS)?);
                    for (at, id) in ids.into_iter().enumerate() {
                        positions[id as usize] = (first + at) as u32;
                    }
                }
                positions
            }
        };
        Ok(rows)
    }

    /// Makes the missing units. Returns the place of every row.
    pub(super) fn copy_rows(
        &self,
        keys: &Keys,
        summary: &Summary,
        watch: &mut Stopwatch<'_>,
    ) -> Result<Vec<u32>, BuilderError> {
        watch.stage("copy", self.n() as u64);
        let positions = positions(&self.homes()?);
        let mut wanted = Vec::new();
        for number in 0..self.plan.units {
            let unit = Unit { stage: STAGE, number };
            if self.scope.holds(unit) && !self.store.has_by_now(unit, &keys.rows)? {
                wanted.push(number);
            }
        }
        let own: usize = wanted.iter().map(|&number| self.plan.rows_of(number, self.n()).len()).sum();
        let apart = self.n() / own.max(1) * self.source.dim() * self.dtype().bytes();
        if apart > FAR_APART && matches!(self.scope, Scope::Some(..)) {
            self.each_missing(STAGE, &keys.rows, self.plan.units, |unit| self.gather_unit(unit, keys, &positions))?;
            return Ok(positions);
        }
        self.deal(&wanted, &positions, summary)?;
        // Whoever else makes one of them meanwhile makes the same: what was dealt is used, and goes.
        for number in wanted {
            self.put_in_order(Unit { stage: STAGE, number }, keys, &positions)?;
            return_freed_memory();
            self.may_stop()?;
        }
        Ok(positions)
    }

    /// Reads the source once, and deals the rows of some units into a heap each.
    fn deal(&self, wanted: &[u32], positions: &[u32], summary: &Summary) -> Result<(), BuilderError> {
        let row_bytes = self.source.dim() * self.dtype().bytes();
        let heap = |number: u32| match wanted.binary_search(&number) {
            Ok(_) => Ok(Some((self.store.scratch(Unit { stage: HEAP, number })?, Vec::new()))),
            Err(_) => Ok(None),
        };
        let mut heaps = (0..self.plan.units).map(heap).collect::<Result<Vec<_>, BuilderError>>()?;
        let buffer = (self.plan.gathered / 4 / heaps.len()).clamp(4096, 1 << 18);
        for number in 0..self.plan.units {
            let rows = self.plan.rows_of(number, self.n());
            let mut hash = Xxh3::new();
            for first in rows.clone().step_by(self.plan.read_rows(row_bytes)) {
                let last = rows.end.min(first + self.plan.read_rows(row_bytes));
                let block = self.source.read(first as u64..last as u64)?;
                hash.update(block.as_bytes());
                for (id, row) in (first..last).zip(block.as_bytes().chunks_exact(row_bytes)) {
                    if let Some((heap, pending)) = &mut heaps[positions[id] as usize / self.plan.unit_rows] {
                        pending.extend_from_slice(&(id as u32).to_le_bytes());
                        pending.extend_from_slice(row);
                        if pending.len() >= buffer {
                            heap.write(pending)?;
                            pending.clear();
                        }
                    }
                }
                self.progress.advance((last - first) as u64);
            }
            self.refuse_changed(number, hash.digest(), summary)?;
        }
        for (mut heap, pending) in heaps.into_iter().flatten() {
            heap.write(&pending)?;
        }
        Ok(())
    }

    /// Reads the rows of a unit by number.
    fn gather_unit(&self, unit: Unit, keys: &Keys, positions: &[u32]) -> Result<(), BuilderError> {
        let row_bytes = self.source.dim() * self.dtype().bytes();
        let rows = self.plan.rows_of(unit.number, self.n());
        let mut ids = vec![0u32; rows.len()];
        let mut own = Vec::with_capacity(rows.len());
        for (id, &position) in (0..).zip(positions) {
            if rows.contains(&(position as usize)) {
                ids[position as usize - rows.start] = id;
                own.push(u64::from(id));
            }
        }
        let mut vectors = vec![0u8; rows.len() * row_bytes];
        for some in own.chunks(self.plan.read_rows(row_bytes)) {
            let block = gather_rows(self.source, some)?;
            for (&id, row) in some.iter().zip(block.as_bytes().chunks_exact(row_bytes)) {
                let at = positions[id as usize] as usize - rows.start;
                vectors[at * row_bytes..][..row_bytes].copy_from_slice(row);
            }
            self.progress.advance(some.len() as u64);
        }
        self.write_unit(unit, keys, &ids, &vectors)
    }

    fn put_in_order(&self, unit: Unit, keys: &Keys, positions: &[u32]) -> Result<(), BuilderError> {
        let heap = Unit { stage: HEAP, ..unit };
        let dealt = self.store.read_scratch(heap)?;
        let row_bytes = self.source.dim() * self.dtype().bytes();
        let rows = self.plan.rows_of(unit.number, self.n());
        let (mut ids, mut vectors) = (vec![0u32; rows.len()], vec![0u8; rows.len() * row_bytes]);
        for record in dealt.chunks_exact(4 + row_bytes) {
            let id = u32::from_le_bytes([record[0], record[1], record[2], record[3]]);
            let at = positions[id as usize] as usize - rows.start;
            ids[at] = id;
            vectors[at * row_bytes..][..row_bytes].copy_from_slice(&record[4..]);
        }
        let bytes = dealt.len() as u64;
        drop(dealt);
        self.write_unit(unit, keys, &ids, &vectors)?;
        self.store.remove_scratch(heap, bytes)
    }

    fn write_unit(&self, unit: Unit, keys: &Keys, ids: &[u32], vectors: &[u8]) -> Result<(), BuilderError> {
        let mut writer = self.store.begin(unit)?;
        writer.segment(bytemuck::cast_slice(ids))?;
        writer.segment(vectors)?;
        writer.commit(&keys.rows, "host")
    }
}

/// The place of every row among all, ordered by (home, number).
fn positions(homes: &[u32]) -> Vec<u32> {
    let clusters = homes.iter().max().map_or(0, |&most| most as usize + 1);
    let mut next = vec![0u32; clusters + 1];
    homes.iter().for_each(|&home| next[home as usize + 1] += 1);
    for home in 0..clusters {
        next[home + 1] += next[home];
    }
    let place = |&home: &u32| {
        let place = next[home as usize];
        next[home as usize] += 1;
        place
    };
    homes.iter().map(place).collect()
}

impl HomeRows {
    /// Place of a row in home order.
    #[inline(always)]
    pub(super) fn position_of(&self, row: u32) -> u32 {
        self.position_of[row as usize]
    }

    /// Rows of a unit, by number.
    pub(super) fn ids_of(&self, unit: u32) -> Result<Vec<u32>, BuilderError> {
        let artifact = &self.units[unit as usize];
        let mut bytes = vec![0; artifact.bytes(IDS) as usize];
        artifact.read_at(IDS, &mut bytes, 0)?;
        Ok(words(&bytes))
    }

    fn row_bytes(&self) -> usize {
        self.dim * self.dtype.bytes()
    }

    /// Vectors of some rows of a unit, by their places in it.
    pub(super) fn vectors_of(&self, unit: u32, places: std::ops::Range<usize>) -> Result<Rows, BuilderError> {
        let mut rows = Rows::zeros(self.dtype, places.len(), self.dim);
        let at = (places.start * self.row_bytes()) as u64;
        self.units[unit as usize].read_at(VECTORS, rows.as_bytes_mut(), at)?;
        Ok(rows)
    }

    /// Vectors of the rows that `ids` names, in that order.
    pub(super) fn gather(&self, ids: &[u32]) -> Result<Rows, BuilderError> {
        let row_bytes = self.row_bytes();
        let mut rows = Rows::zeros(self.dtype, ids.len(), self.dim);
        let part = ids.len().div_ceil(2 * rayon::current_num_threads()).max(1);
        rows.as_bytes_mut()
            .par_chunks_mut(part * row_bytes)
            .zip(ids.par_chunks(part))
            .try_for_each(|(rows, ids)| self.gather_part(ids, rows))?;
        Ok(rows)
    }

    fn gather_part(&self, ids: &[u32], rows: &mut [u8]) -> Result<(), BuilderError> {
        let row_bytes = self.row_bytes();
        let mut wanted: Vec<(u32, u32)> = ids.iter().zip(0..).map(|(&id, to)| (self.position_of(id), to)).collect();
        wanted.sort_unstable();
        let gap = (GAP / row_bytes).max(1) as u32;
        let most = (READ / row_bytes).max(1) as u32;
        let mut bytes = Vec::new();
        let unit_of = |position: u32| position as usize / self.unit_rows;
        let near = |run: &[(u32, u32)], next: u32| {
            let (first, last) = (run[0].0, run[run.len() - 1].0);
            next - last <= gap && next - first < most && unit_of(first) == unit_of(next)
        };
        let mut rest = &wanted[..];
        while !rest.is_empty() {
            let mut count = 1;
            while count < rest.len() && near(&rest[..count], rest[count].0) {
                count += 1;
            }
            let (run, after) = rest.split_at(count);
            let (first, last) = (run[0].0, run[count - 1].0);
            let unit = unit_of(first);
            let within = first as usize - unit * self.unit_rows;
            bytes.resize((last - first + 1) as usize * row_bytes, 0);
            self.units[unit].read_at(VECTORS, &mut bytes, (within * row_bytes) as u64)?;
            for &(position, to) in run {
                let from = &bytes[(position - first) as usize * row_bytes..][..row_bytes];
                rows[to as usize * row_bytes..][..row_bytes].copy_from_slice(from);
            }
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_by_home_and_then_by_number() {
        assert_eq!(positions(&[2, 0, 2, 1, 0]), [3, 0, 4, 2, 1]);
        assert!(positions(&[]).is_empty());
    }
}
