//! The rows themselves in home order, on the drive: neighbours in space side by side, whatever their order in the data set.
//!
//! A row's home is the cluster of its nearest leader; rows of a home lie in the order of their numbers. The source is read
//! once, in its own order, and dealt into one heap a unit; then each heap is put in order.

use kiln_kernels::{Backend, DType, Rows};
use rayon::prelude::*;

use super::summary::Summary;
use super::{Build, Keys, words};
use crate::durable::{Artifact, Unit};
use crate::error::BuilderError;
use crate::resources::Stopwatch;

const STAGE: &str = "rows";
const HEAP: &str = "heap";

/// Segments of a unit.
const IDS: usize = 0;
const VECTORS: usize = 1;

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
            watch.stage("copy", self.n() as u64);
            let positions = positions(&self.homes()?);
            self.deal(keys, &positions)?;
            self.each_missing(STAGE, &keys.rows, self.plan.units, |unit| self.put_in_order(unit, keys, &positions))?;
            position_of = Some(positions);
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
                    for (at, id) in rows.ids_of(unit)?.into_iter().enumerate() {
                        positions[id as usize] = (first + at) as u32;
                    }
                }
                positions
            }
        };
        Ok(rows)
    }

    /// Reads the source once, and deals rows of missing units into a heap each.
    fn deal(&self, keys: &Keys, positions: &[u32]) -> Result<(), BuilderError> {
        let (n, dim) = (self.n(), self.source.dim());
        let row_bytes = dim * self.dtype().bytes();
        let missing = |number: u32| !self.store.has(Unit { stage: STAGE, number }, &keys.rows);
        let mut heaps = (0..self.plan.units)
            .map(|number| match missing(number) {
                true => Ok(Some((self.store.scratch(Unit { stage: HEAP, number })?, Vec::new()))),
                false => Ok(None),
            })
            .collect::<Result<Vec<_>, BuilderError>>()?;
        let buffer = (self.plan.gathered / 4 / heaps.len()).clamp(4096, 1 << 18);
        for first in (0..n).step_by(self.plan.read_rows(row_bytes)) {
            let last = n.min(first + self.plan.read_rows(row_bytes));
            let block = self.source.read(first as u64..last as u64)?;
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
        for (mut heap, pending) in heaps.into_iter().flatten() {
            heap.write(&pending)?;
        }
        Ok(())
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
        let mut writer = self.store.begin(unit)?;
        writer.segment(bytemuck::cast_slice(&ids))?;
        writer.segment(&vectors)?;
        writer.commit(&keys.rows, "host")?;
        self.store.remove_scratch(heap, bytes)
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
