//! Dot products of blocks of 32 byte codes with queries of signed bytes, exact in 32-bit integers.
//!
//! In: blocks of u8 codes, queries of i8 weights. Out: 32 sums a block and query. The largest sum,
//! [`MAX_DIM`](crate::MAX_DIM) x 255 x 127, is below 2^31, so every instruction set gives the same.
//!
//! The codes of a block of 32 rows, the dimension padded to a multiple of four, 128 bytes a group of four coordinates:
//! byte 4 j + t of the first 64 holds coordinate t of row j, of the second 64 that of row 16 + j. With VNNI one
//! instruction takes four coordinates of 16 rows, and nothing is left to add up at the end.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::codec::fastscan::BLOCK;
use crate::distance::{Isa, Level};

/// Bytes of four coordinates of a block.
pub const GROUP_BYTES: usize = 4 * BLOCK;

/// Queries of one call at most.
pub const QUERIES: usize = 4;

/// Four weights of consecutive coordinates.
pub type Weights = [i8; 4];

/// (codes of one block, weights of one query after another, sums of each).
type Sums = unsafe fn(&[u8], &[&[Weights]], &mut [[i32; BLOCK]]);

/// (sums, add, [base, scale], bound, scores): mask.
type Within = unsafe fn(&[i32; BLOCK], &[f32; BLOCK], [f32; 2], f32, &mut [f32; BLOCK]) -> u32;

/// Byte products compiled for one instruction set.
#[derive(Debug, Clone, Copy)]
pub struct ByteScan {
    sums: Sums,
    within: Within,
}

impl ByteScan {
    /// The products of `isa`.
    pub fn new(isa: Isa) -> Self {
        let (sums, within): (Sums, Within) = match isa.0 {
            Level::Scalar => (scalar, mask),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => (avx2::sums, avx2::within),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => (avx512::sums, avx512::within),
            #[cfg(not(target_arch = "x86_64"))]
            _ => (scalar, mask),
        };
        Self { sums, within }
    }

    /// Sums of one block's rows for each of up to [`QUERIES`] queries.
    ///
    /// # Panics
    /// When a query has not one [`Weights`] a group of `codes`, or the counts differ.
    #[inline]
    pub fn sums(&self, codes: &[u8], queries: &[&[Weights]], sums: &mut [[i32; BLOCK]]) {
        let groups = codes.len() / GROUP_BYTES;
        assert!(queries.len() <= QUERIES && queries.len() == sums.len(), "a call takes {QUERIES} queries");
        assert!(queries.iter().all(|weights| weights.len() == groups), "weights of another dimension");
        // SAFETY: `new` chose the function for an `Isa` that was probed; the lengths are checked above.
        unsafe { (self.sums)(codes, queries, sums) }
    }

    /// Scores `base + (add + scale * sum)` of one block's rows, left in `scores`; bit j of the mask is set where row j's
    /// does not exceed `bound`.
    #[inline]
    pub fn within(
        &self,
        sums: &[i32; BLOCK],
        add: &[f32; BLOCK],
        [base, scale]: [f32; 2],
        bound: f32,
        scores: &mut [f32; BLOCK],
    ) -> u32 {
        // SAFETY: as in `sums`.
        unsafe { (self.within)(sums, add, [base, scale], bound, scores) }
    }
}

/// The slow, obvious twin.
fn scalar(codes: &[u8], queries: &[&[Weights]], sums: &mut [[i32; BLOCK]]) {
    for (weights, sums) in queries.iter().zip(sums) {
        *sums = [0; BLOCK];
        for (group, weights) in codes.chunks_exact(GROUP_BYTES).zip(*weights) {
            for (row, sum) in sums.iter_mut().enumerate() {
                for (t, &weight) in weights.iter().enumerate() {
                    *sum += i32::from(group[4 * row + t]) * i32::from(weight);
                }
            }
        }
    }
}

/// The twin of `within`, and its body: compiled for each instruction set.
#[inline(always)]
fn mask(
    sums: &[i32; BLOCK],
    add: &[f32; BLOCK],
    [base, scale]: [f32; 2],
    bound: f32,
    scores: &mut [f32; BLOCK],
) -> u32 {
    let mut mask = 0;
    for row in 0..BLOCK {
        scores[row] = base + (add[row] + scale * sums[row] as f32);
        mask |= u32::from(scores[row] <= bound) << row;
    }
    mask
}

/// Packs the codes of up to 32 rows of `dim` coordinates; rows and coordinates that are missing are zero.
pub fn pack(rows: usize, dim: usize, code: impl Fn(usize, usize) -> u8, out: &mut [u8]) {
    out.fill(0);
    for (group, bytes) in out.chunks_exact_mut(GROUP_BYTES).enumerate() {
        for at in (4 * group)..(4 * group + 4).min(dim) {
            for row in 0..rows.min(BLOCK) {
                bytes[4 * row + at % 4] = code(row, at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MAX_DIM;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn check(codes: &[u8], queries: &[Vec<Weights>]) {
        let queries: Vec<&[Weights]> = queries.iter().map(Vec::as_slice).collect();
        let mut expected = vec![[0; BLOCK]; queries.len()];
        ByteScan::new(Isa::SCALAR).sums(codes, &queries, &mut expected);
        for isa in Isa::supported() {
            let mut sums = vec![[1; BLOCK]; queries.len()];
            ByteScan::new(isa).sums(codes, &queries, &mut sums);
            assert_eq!(sums, expected, "{}", isa.name());
        }
    }

    proptest! {
        #[test]
        fn every_isa_agrees_with_scalar(groups in 0usize..70, queries in 0usize..=QUERIES, seed: u64) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let codes: Vec<u8> = (0..groups * GROUP_BYTES).map(|_| rng.random()).collect();
            let queries: Vec<Vec<Weights>> =
                (0..queries).map(|_| (0..groups).map(|_| [(); 4].map(|()| rng.random::<i8>().max(-127))).collect()).collect();
            check(&codes, &queries);
        }
    }

    #[test]
    fn the_largest_sums_do_not_overflow() {
        let codes = vec![255u8; MAX_DIM / 4 * GROUP_BYTES];
        for weight in [127, -127] {
            check(&codes, &[vec![[weight; 4]; MAX_DIM / 4]]);
            let mut sums = [[0; BLOCK]];
            ByteScan::new(Isa::best()).sums(&codes, &[&vec![[weight; 4]; MAX_DIM / 4]], &mut sums);
            assert_eq!(i64::from(sums[0][31]), MAX_DIM as i64 * 255 * i64::from(weight));
        }
    }
}
