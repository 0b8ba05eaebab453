//! Squared L2 between rows of bytes, many at once: the product behind leaves, leaders and pruning.
//!
//! In: rows `(rows, width)` as i8 (value - 128), and columns packed sixteen at a time. Out: exact i32 distances
//! `(rows, columns)`. With s = sum of b (a - 128) over the coordinates, |a - b|^2 = |a|^2 + (|b|^2 - 256 sum b) - 2 s:
//! one number a row, one a column and one product, which is what `vpdpbusd` multiplies. Sums wrap; with at most
//! [`MAX_DIM`](crate::MAX_DIM) coordinates the result itself fits. The twin of every instruction set is `scalar`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use bytemuck::{Pod, Zeroable};

use crate::distance::{Isa, Level};

/// Columns of a group: the i32 lanes of one AVX-512 register.
pub(super) const LANES: usize = 16;

/// Four coordinates of each of sixteen columns.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Block([u8; 4 * LANES]);

/// A coordinate count rounded up to what a block takes.
pub(super) fn padded_width(dim: usize) -> usize {
    dim.next_multiple_of(4)
}

/// |row|^2; wraps as all sums here do.
pub(super) fn square(row: &[u8]) -> i32 {
    row.iter().map(|&x| i32::from(x) * i32::from(x)).fold(0, i32::wrapping_add)
}

/// Appends the row operand, value - 128, of a row of u8 (`flip` 0x80) or of shifted i8 as they lie (`flip` 0), padded to
/// `width`; what stands in the padding does not matter, as columns are zero there.
pub(super) fn append_signed(row: &[u8], flip: u8, width: usize, out: &mut Vec<i8>) {
    let end = out.len() + width;
    out.extend(row.iter().map(|&x| (x ^ flip) as i8));
    out.resize(end, 0);
}

/// Columns packed for [`ByteKernel`]: `[group][width / 4][16 columns][4 coordinates]`.
#[derive(Debug, Default)]
pub(super) struct Columns {
    /// Blocks of a group, width / 4.
    steps: usize,
    blocks: Vec<Block>,
    /// |b|^2 of each column, `(groups * 16)`.
    squares: Vec<i32>,
    /// |b|^2 - 256 sum b of each column, `(groups * 16)`.
    constants: Vec<i32>,
}

impl Columns {
    /// Makes room for `len` columns of `width` coordinates, a multiple of four; all are zero.
    pub(super) fn reset(&mut self, len: usize, width: usize) {
        self.steps = width / 4;
        let groups = len.div_ceil(LANES);
        self.blocks.clear();
        self.blocks.resize(groups * self.steps, Block::zeroed());
        self.squares.resize(groups * LANES, 0);
        self.constants.resize(groups * LANES, 0);
    }

    /// Writes one column of at most `width` coordinates, each exclusive-ored with `flip` (0x80 turns i8 into u8).
    /// After the last, [`ByteKernel::seal`].
    pub(super) fn set(&mut self, column: usize, row: &[u8], flip: u8) {
        let (group, lane) = (column / LANES, column % LANES);
        let blocks = &mut self.blocks[group * self.steps..(group + 1) * self.steps];
        let (fours, tail) = row.as_chunks::<4>();
        let flips = u32::from_ne_bytes([flip; 4]);
        for (block, four) in blocks.iter_mut().zip(fours) {
            let flipped = u32::from_ne_bytes(*four) ^ flips;
            block.0[4 * lane..4 * lane + 4].copy_from_slice(&flipped.to_ne_bytes());
        }
        for (i, &x) in tail.iter().enumerate() {
            blocks[fours.len()].0[4 * lane + i] = x ^ flip;
        }
    }

    /// Columns with those that fill the last group, which are zero.
    pub(super) fn padded(&self) -> usize {
        self.constants.len()
    }

    /// |b|^2 of each column, padded.
    pub(super) fn squares(&self) -> &[i32] {
        &self.squares
    }
}

/// The functions of one instruction set.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByteKernel {
    distances: fn(&Columns, usize, &[i8], &[i32], &mut [i32]),
    below: fn(&[i32], i32, &mut Vec<u32>),
    minima: fn(&[i32]) -> [i32; 2 * LANES],
    seal: fn(&mut Columns),
}

impl ByteKernel {
    pub(super) fn new(isa: Isa) -> Self {
        match isa.0 {
            Level::Scalar => scalar::kernel(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::kernel(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512::kernel(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => scalar::kernel(),
        }
    }

    /// Computes what each column adds to its distances, once all are set.
    pub(super) fn seal(&self, columns: &mut Columns) {
        (self.seal)(columns);
    }

    /// Squared L2 of each of `rows` `(squares.len(), width)` to the columns from group `first_group` on, into `out`
    /// `(rows, padded)`; what lies before that group is left as it was.
    pub(super) fn distances(
        &self,
        columns: &Columns,
        first_group: usize,
        rows: &[i8],
        squares: &[i32],
        out: &mut [i32],
    ) {
        assert_eq!(rows.len(), squares.len() * columns.steps * 4);
        assert_eq!(out.len(), squares.len() * columns.padded());
        assert!(first_group * LANES <= columns.padded());
        assert_eq!(columns.blocks.len() * LANES, columns.padded() * columns.steps);
        (self.distances)(columns, first_group, rows, squares, out);
    }

    /// Positions of all distances that can be among the `k` smallest, ties included, ascending. Replaces `found`.
    ///
    /// The k-th smallest of the minima of 32 groups is no less than the k-th smallest of all, and with k well below 32
    /// little more than k distances lie at or below it: no heap, no branches, two passes.
    pub(super) fn select(&self, distances: &[i32], k: usize, found: &mut Vec<u32>) {
        found.clear();
        if k == 0 {
            return;
        }
        let mut bound = i32::MAX;
        if k <= 2 * LANES && distances.len() > 2 * LANES {
            let mut minima = (self.minima)(distances);
            bound = *minima.select_nth_unstable(k - 1).1;
        }
        (self.below)(distances, bound, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn random(n: usize, width: usize, largest: u8, seed: u64) -> Vec<u8> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n * width).map(|_| rng.random_range(0..=largest)).collect()
    }

    fn all_distances(isa: Isa, a: &[u8], b: &[u8], width: usize, first_group: usize) -> Vec<i32> {
        let (mut columns, mut rows) = (Columns::default(), Vec::new());
        let kernel = ByteKernel::new(isa);
        columns.reset(b.len() / width, width);
        b.chunks_exact(width).enumerate().for_each(|(i, row)| columns.set(i, row, 0));
        kernel.seal(&mut columns);
        a.chunks_exact(width).for_each(|row| append_signed(row, 0x80, width, &mut rows));
        assert!(columns.squares().iter().zip(b.chunks_exact(width)).all(|(&s, row)| s == square(row)));
        let squares: Vec<i32> = a.chunks_exact(width).map(square).collect();
        let mut out = vec![-7; squares.len() * columns.padded()];
        kernel.distances(&columns, first_group, &rows, &squares, &mut out);
        let kept = |row: &[i32]| row[first_group * LANES..b.len() / width].to_vec();
        assert!(out.chunks(columns.padded()).all(|row| row[..first_group * LANES].iter().all(|&d| d == -7)));
        out.chunks(columns.padded()).flat_map(kept).collect()
    }

    fn plainly(a: &[u8], b: &[u8], width: usize, first: usize) -> Vec<i32> {
        let one = |x: &[u8], y: &[u8]| x.iter().zip(y).map(|(&x, &y)| (i32::from(x) - i32::from(y)).pow(2)).sum();
        let of = |x: &[u8]| b.chunks_exact(width).skip(first).map(|y| one(x, y)).collect::<Vec<i32>>();
        a.chunks_exact(width).flat_map(of).collect()
    }

    proptest! {
        #[test]
        fn every_isa_sums_exactly(n in 1usize..20, m in 1usize..150, steps in 1usize..40, skip in 0usize..3, seed: u64) {
            let (a, b) = (random(n, 4 * steps, 255, seed), random(m, 4 * steps, 255, seed ^ 1));
            let first_group = skip.min(m / LANES);
            for isa in Isa::supported() {
                let got = all_distances(isa, &a, &b, 4 * steps, first_group);
                assert_eq!(got, plainly(&a, &b, 4 * steps, first_group * LANES), "{}", isa.name());
            }
        }

        #[test]
        fn selection_holds_the_k_smallest(n in 1usize..300, k in 0usize..50, largest in 0u8..=255, seed: u64) {
            let distances: Vec<i32> = random(n, 1, largest, seed).into_iter().map(i32::from).collect();
            let mut sorted = distances.clone();
            sorted.sort_unstable();
            for isa in Isa::supported() {
                let mut found = vec![99];
                ByteKernel::new(isa).select(&distances, k, &mut found);
                assert!(found.is_sorted());
                if let Some(&bound) = sorted.get(k.wrapping_sub(1)) {
                    let wanted = (0..n as u32).filter(|&i| distances[i as usize] <= bound);
                    assert!(wanted.into_iter().all(|i| found.binary_search(&i).is_ok()), "{}", isa.name());
                } else {
                    assert_eq!(found.len(), if k == 0 { 0 } else { n });
                }
            }
        }
    }

    #[test]
    fn sums_are_exact_at_the_largest_dimension() {
        let (low, high) = (vec![0u8; crate::MAX_DIM], vec![255u8; crate::MAX_DIM]);
        for isa in Isa::supported() {
            for (a, b) in [(&low, &high), (&high, &low), (&high, &high)] {
                assert_eq!(all_distances(isa, a, b, crate::MAX_DIM, 0), plainly(a, b, crate::MAX_DIM, 0));
            }
        }
    }
}
