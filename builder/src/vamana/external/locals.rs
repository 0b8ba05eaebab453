//! Numbers of rows within a gathered part.

use rayon::prelude::*;

/// Gives the rows of a part their numbers there, ascending as in the whole.
pub(super) struct Locals {
    /// By row; [`NOT_THERE`] for rows that are not in the part.
    numbers: Vec<u32>,
    part: Vec<u32>,
}

const NOT_THERE: u32 = u32::MAX;

impl Locals {
    pub(super) fn new(n: usize) -> Self {
        Self { numbers: vec![NOT_THERE; n], part: Vec::new() }
    }

    /// Makes a part of the rows named, in place of the one before. Returns how many they are.
    pub(super) fn choose<'a>(&mut self, rows: impl Iterator<Item = &'a u32>) -> usize {
        for &row in &self.part {
            self.numbers[row as usize] = NOT_THERE;
        }
        self.part.clear();
        for &row in rows {
            let number = &mut self.numbers[row as usize];
            if *number == NOT_THERE {
                *number = 0;
                self.part.push(row);
            }
        }
        self.part.par_sort_unstable();
        for (&row, number) in self.part.iter().zip(0..) {
            self.numbers[row as usize] = number;
        }
        self.part.len()
    }

    /// The rows of the part, ascending.
    pub(super) fn part(&self) -> &[u32] {
        &self.part
    }

    /// The number of a row that is in the part.
    #[inline(always)]
    pub(super) fn of(&self, row: u32) -> u32 {
        self.numbers[row as usize]
    }

    /// The numbers of rows that are in the part.
    pub(super) fn all(&self, rows: &[u32]) -> Vec<u32> {
        rows.par_iter().with_min_len(1 << 12).map(|&row| self.of(row)).collect()
    }

    /// The row of a number.
    #[inline(always)]
    pub(super) fn row(&self, number: u32) -> u32 {
        self.part[number as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_as_rows_do() {
        let mut locals = Locals::new(100);
        assert_eq!(locals.choose([70, 3, 70, 9].iter()), 3);
        assert_eq!((locals.part(), locals.of(9), locals.row(2)), (&[3, 9, 70][..], 1, 70));
        assert_eq!(locals.choose([9].iter()), 1);
        assert_eq!(locals.all(&[9, 9]), [0, 0]);
        assert_eq!(locals.of(3), NOT_THERE);
    }
}
