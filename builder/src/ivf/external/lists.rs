//! The units of the pass, read list by list.
//!
//! In: finished units. Out: what they keep of consecutive lists, or of a part of one, in the order of the lists and within a
//! list in that of the rows: units hold consecutive rows, and their rows lie list by list.

use std::ops::Range;

use kiln_kernels::Backend;

use super::{Build, pass};
use crate::durable::{Artifact, Store, Unit};
use crate::error::BuilderError;

/// Rows of consecutive lists; of a single one perhaps a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub lists: Range<usize>,
    /// Which of the rows of each list: all, or where there is but one list some.
    pub rows: Range<u64>,
}

impl Window {
    /// All rows of some lists.
    pub(super) fn whole(lists: Range<usize>) -> Self {
        Self { lists, rows: 0..u64::MAX }
    }

    /// Some rows of one list.
    pub(super) fn part(list: usize, rows: Range<u64>) -> Self {
        Self { lists: list..list + 1, rows }
    }

    /// Whether it holds all rows of its lists.
    pub(super) fn is_whole(&self) -> bool {
        self.rows.end == u64::MAX
    }
}

/// How many rows each list has in each unit.
pub(super) struct Table {
    /// By unit: where each list begins among the unit's rows, and where the last ends.
    starts: Vec<Vec<u32>>,
    /// By list, of all units.
    pub totals: Vec<u64>,
}

/// One thing that units keep of every row.
#[derive(Clone, Copy)]
pub(super) struct Column<'a> {
    pub table: &'a Table,
    pub segment: usize,
    /// Bytes a row.
    pub width: usize,
}

/// All units of the pass.
pub(super) struct Spilled<'a> {
    store: &'a Store,
    units: Vec<Artifact>,
    /// First row of each unit.
    pub first_rows: Vec<u64>,
    /// Rows by first list, and by second where there is one.
    pub own: Table,
    pub second: Table,
    /// Rows whose every coordinate is zero.
    pub zeros: u64,
}

impl<B: Backend> Build<'_, B> {
    /// Opens all units, each checked.
    pub(super) fn spilled(&self) -> Result<Spilled<'_>, BuilderError> {
        let numbers = 0..self.plan.units;
        let open = |number| self.store.open_checked(Unit { stage: pass::STAGE, number });
        let units = numbers.clone().map(open).collect::<Result<Vec<_>, _>>()?;
        let first_rows = numbers.map(|number| self.plan.rows_of(number, self.n()).start).collect();
        let (own, second) = (Table::read(&units, pass::COUNTS)?, Table::read(&units, pass::SPILLED_COUNTS)?);
        let mut zeros = 0;
        for unit in &units {
            let mut bytes = [0; 8];
            unit.read_at(pass::ZEROS, &mut bytes, 0)?;
            zeros += u64::from_le_bytes(bytes);
        }
        Ok(Spilled { store: self.store, units, first_rows, own, second, zeros })
    }
}

impl Table {
    fn read(units: &[Artifact], segment: usize) -> Result<Self, BuilderError> {
        let mut starts = Vec::with_capacity(units.len());
        for unit in units {
            let mut counts = vec![0u32; unit.bytes(segment) as usize / 4];
            unit.read_at(segment, bytemuck::cast_slice_mut(&mut counts), 0)?;
            starts.push(counts);
        }
        Ok(Self::new(starts))
    }

    /// Of how many rows each list has in each unit; no lists are as lists without rows.
    fn new(mut counts: Vec<Vec<u32>>) -> Self {
        let mut totals = vec![0u64; counts.first().map_or(0, Vec::len)];
        for counts in &mut counts {
            let mut start = 0;
            for (count, total) in counts.iter_mut().zip(&mut totals) {
                *total += u64::from(*count);
                start += std::mem::replace(count, start);
            }
            counts.push(start);
        }
        Self { starts: counts, totals }
    }

    /// Rows that a list has in a unit.
    pub(super) fn count(&self, unit: usize, list: usize) -> u32 {
        self.starts[unit][list + 1] - self.starts[unit][list]
    }

    /// Rows of a list, in all units.
    pub(super) fn total(&self, list: usize) -> u64 {
        self.totals.get(list).copied().unwrap_or(0)
    }

    /// Rows of each list in a window.
    pub(super) fn counts_in(&self, window: &Window) -> Vec<usize> {
        let within = |list| self.total(list).min(window.rows.end).saturating_sub(window.rows.start) as usize;
        window.lists.clone().map(within).collect()
    }

    /// Where a unit's rows of a window lie among its rows; they follow one another. `before` counts what earlier units hold of
    /// the window's first list.
    fn in_unit(&self, unit: usize, window: &Window, before: u64) -> Range<usize> {
        let starts = &self.starts[unit];
        let (first, last) = (window.lists.start, window.lists.end);
        if window.lists.len() != 1 {
            return starts[first] as usize..starts[last] as usize;
        }
        let of_list = u64::from(starts[last] - starts[first]);
        let clip = |row: u64| starts[first] as usize + row.saturating_sub(before).min(of_list) as usize;
        clip(window.rows.start)..clip(window.rows.end)
    }
}

impl Spilled<'_> {
    /// A column of a window's rows, list by list, each unit's bytes as `change` leaves them: `width` bytes a row.
    pub(super) fn read(
        &self,
        column: Column<'_>,
        window: &Window,
        width: usize,
        mut change: impl FnMut(usize, Vec<u8>) -> Vec<u8>,
    ) -> Result<Vec<u8>, BuilderError> {
        let table = column.table;
        let counts = table.counts_in(window);
        let mut all = vec![0; counts.iter().sum::<usize>() * width];
        if all.is_empty() {
            return Ok(all);
        }
        // Where the next row of each list goes.
        let (mut next, mut at) = (Vec::with_capacity(counts.len()), 0);
        for count in counts {
            next.push(at);
            at += count * width;
        }
        let mut before = 0;
        for (unit, artifact) in self.units.iter().enumerate() {
            let rows = table.in_unit(unit, window, before);
            before += u64::from(table.count(unit, window.lists.start));
            let mut bytes = vec![0; rows.len() * column.width];
            artifact.read_at(column.segment, &mut bytes, (rows.start * column.width) as u64)?;
            let bytes = change(unit, bytes);
            let mut rest = &bytes[..];
            for (list, to) in window.lists.clone().zip(&mut next) {
                let count = if window.lists.len() == 1 { rows.len() } else { table.count(unit, list) as usize };
                let (of_list, after) = rest.split_at(count * width);
                all[*to..*to + of_list.len()].copy_from_slice(of_list);
                (*to, rest) = (*to + of_list.len(), after);
            }
        }
        Ok(all)
    }

    /// Frees what units keep of a window in a column: it is not read again.
    pub(super) fn spend(&self, column: Column<'_>, window: &Window) -> Result<(), BuilderError> {
        if column.table.totals.is_empty() {
            return Ok(());
        }
        let mut before = 0;
        for (unit, artifact) in self.units.iter().enumerate() {
            let rows = column.table.in_unit(unit, window, before);
            before += u64::from(column.table.count(unit, window.lists.start));
            let bytes = (rows.start * column.width) as u64..(rows.end * column.width) as u64;
            self.store.spend_part(artifact, column.segment, bytes)?;
        }
        Ok(())
    }
}

/// Windows of `most` rows at most over lists of so many rows: consecutive lists together, and a larger list in parts.
pub(super) fn windows(totals: &[u64], most: u64) -> Vec<Window> {
    let (mut windows, mut first, mut held) = (Vec::new(), 0, 0u64);
    for (list, &rows) in totals.iter().enumerate() {
        if list > first && held + rows > most {
            windows.push(Window::whole(first..list));
            (first, held) = (list, 0);
        }
        held += rows;
        if rows > most {
            let part = |start: u64| Window::part(list, start..rows.min(start + most));
            windows.extend((0..rows).step_by(most as usize).map(part));
            (first, held) = (list + 1, 0);
        }
    }
    if first < totals.len() {
        windows.push(Window::whole(first..totals.len()));
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn windows_cover_every_row_once(totals in prop::collection::vec(0u64..50, 0..30), most in 1u64..60) {
            let table = Table::new(vec![totals.iter().map(|&rows| rows as u32).collect()]);
            let mut covered = vec![0u64; totals.len()];
            let mut at = 0;
            for window in windows(&totals, most) {
                prop_assert!(window.lists.start == at || (window.lists.start + 1 == at && window.rows.start > 0));
                at = window.lists.end;
                let counts = table.counts_in(&window);
                prop_assert!(counts.iter().sum::<usize>() as u64 <= most);
                for (list, count) in window.lists.zip(counts) {
                    covered[list] += count as u64;
                }
            }
            prop_assert_eq!(covered, totals);
        }

        #[test]
        fn units_divide_a_window(
            counts in prop::collection::vec(prop::collection::vec(0u32..9, 4..5), 1..6),
            first in 0usize..4,
            part in (0u64..30, 0u64..30),
        ) {
            let table = Table::new(counts.clone());
            let whole = Window::whole(first..4);
            let rows = part.0.min(part.1)..part.0.max(part.1);
            let one = Window::part(first, rows.clone());
            // The slow way: every row of the list, unit by unit.
            let mut number = 0u64;
            let mut before = 0;
            for (unit, counts) in counts.iter().enumerate() {
                let start = counts[..first].iter().sum::<u32>() as usize;
                let expected: Vec<usize> = (0..counts[first] as usize)
                    .filter(|_| {
                        number += 1;
                        rows.contains(&(number - 1))
                    })
                    .map(|row| start + row)
                    .collect();
                let found: Vec<usize> = table.in_unit(unit, &one, before).collect();
                prop_assert_eq!(found, expected);
                if first < 3 {
                    let all = table.in_unit(unit, &whole, before);
                    prop_assert_eq!(all, start..counts.iter().sum::<u32>() as usize);
                }
                before += u64::from(table.count(unit, first));
            }
        }
    }
}
