//! Scores of blocks of 32 byte codes against queries of signed bytes; the products are exact in 32-bit integers.
//!
//! In: blocks of u8 codes with one f32 factor a row, queries of i8 weights. Out: [`Scores`], 32 a block and query, with
//! masks of those within the query's bound. The largest product, [`MAX_DIM`](crate::MAX_DIM) x 255 x 127, is below 2^31,
//! and floats are rounded one operation at a time, so every instruction set gives the same.
//!
//! ```text
//! block     factor `add`, f32 x 32 | 128 bytes a group of four coordinates, the dimension padded to a multiple of four:
//!           byte 4 j + t of the first 64 holds coordinate t of row j, of the second 64 that of row 16 + j
//! ```
//!
//! With VNNI one instruction takes four coordinates of 16 rows, and nothing is left to add up at the end.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::fastscan::{BLOCK, BLOCKS, FACTOR_BYTES, QUERIES, Scores};
use crate::distance::{Isa, Level};

/// Bytes of four coordinates of a block.
pub const GROUP_BYTES: usize = 4 * BLOCK;

/// Four weights of consecutive coordinates.
pub type Weights = [i8; 4];

/// One query in one list: a row's score is `base + (add + scale * product)`.
#[derive(Debug, Clone, Copy)]
pub struct ByteProbe<'a> {
    /// The query, one entry a group.
    pub weights: &'a [Weights],
    /// Added to every score.
    pub base: f32,
    /// One step of a product.
    pub scale: f32,
    /// Rows whose score does not exceed it are marked.
    pub bound: f32,
}

/// (probes, groups, blocks, scores).
type Score = unsafe fn(&[ByteProbe<'_>], usize, &[u8], &mut Scores);

/// Byte products compiled for one instruction set.
#[derive(Debug, Clone, Copy)]
pub struct ByteScan {
    score: Score,
}

/// Bytes of a block of `groups` groups.
pub const fn block_bytes(groups: usize) -> usize {
    FACTOR_BYTES + groups * GROUP_BYTES
}

impl ByteScan {
    /// The products of `isa`.
    pub fn new(isa: Isa) -> Self {
        let score: Score = match isa.0 {
            Level::Scalar => scalar,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::score,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512::score,
            #[cfg(not(target_arch = "x86_64"))]
            _ => scalar,
        };
        Self { score }
    }

    /// Scores `blocks`, up to [`BLOCKS`] whole ones of `groups` groups, for up to [`QUERIES`] queries.
    ///
    /// # Panics
    /// When there are more blocks or queries, or a query has not one weight a group.
    #[inline]
    pub fn score(&self, probes: &[ByteProbe<'_>], groups: usize, blocks: &[u8], scores: &mut Scores) {
        assert!(probes.len() <= QUERIES, "a call takes {QUERIES} queries");
        assert!(blocks.len() <= BLOCKS * block_bytes(groups), "a call takes {BLOCKS} blocks");
        assert!(probes.iter().all(|probe| probe.weights.len() == groups), "weights of another dimension");
        // SAFETY: `new` chose the function for an `Isa` that was probed; the lengths are checked above.
        unsafe { (self.score)(probes, groups, blocks, scores) }
    }
}

/// The slow, obvious twin.
fn scalar(probes: &[ByteProbe<'_>], groups: usize, blocks: &[u8], out: &mut Scores) {
    for (number, block) in blocks.chunks_exact(block_bytes(groups)).enumerate() {
        let (factors, codes) = block.split_at(FACTOR_BYTES);
        for (q, probe) in probes.iter().enumerate() {
            let mut products = [0; BLOCK];
            for (group, weights) in codes.chunks_exact(GROUP_BYTES).zip(probe.weights) {
                for (row, product) in products.iter_mut().enumerate() {
                    for (t, &weight) in weights.iter().enumerate() {
                        *product += i32::from(group[4 * row + t]) * i32::from(weight);
                    }
                }
            }
            out.masks[q][number] = finish(probe, factors, &products, &mut out.scores[q][number]);
        }
    }
}

/// Scores from products, and the mask of those within the bound.
#[inline(always)]
fn finish(probe: &ByteProbe<'_>, factors: &[u8], products: &[i32; BLOCK], scores: &mut [f32; BLOCK]) -> u32 {
    let mut within = [false; BLOCK];
    for (row, add) in factors.as_chunks::<4>().0.iter().enumerate().take(BLOCK) {
        scores[row] = probe.base + (f32::from_le_bytes(*add) + probe.scale * products[row] as f32);
        within[row] = scores[row] <= probe.bound;
    }
    within.iter().rev().fold(0, |mask, &within| mask << 1 | u32::from(within))
}

/// Packs the codes of up to 32 rows of `dim` coordinates as the groups of a block; rows and coordinates that are missing are zero.
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

    /// Scores as bits, and masks.
    fn scored(isa: Isa, groups: usize, blocks: &[u8], queries: &[Vec<Weights>]) -> (Vec<u32>, Vec<u32>) {
        let probe = |(q, weights): (usize, &Vec<Weights>)| {
            let bound = [0.0, f32::INFINITY, f32::NEG_INFINITY, 50.0][q];
            (q, bound, weights.clone())
        };
        let made: Vec<_> = queries.iter().enumerate().map(probe).collect();
        let probes: Vec<ByteProbe<'_>> = made
            .iter()
            .map(|(q, bound, weights)| ByteProbe { weights, base: 0.75 * *q as f32, scale: 0.01, bound: *bound })
            .collect();
        let mut scores = Scores::default();
        ByteScan::new(isa).score(&probes, groups, blocks, &mut scores);
        let count = blocks.len() / block_bytes(groups);
        let bits = (0..queries.len()).flat_map(|q| scores.scores[q][..count].iter().flatten().map(|s| s.to_bits()));
        let masks = (0..queries.len()).flat_map(|q| scores.masks[q][..count].iter().copied());
        (bits.collect(), masks.collect())
    }

    fn check(groups: usize, blocks: &[u8], queries: &[Vec<Weights>]) {
        let expected = scored(Isa::SCALAR, groups, blocks, queries);
        for isa in Isa::supported() {
            assert_eq!(scored(isa, groups, blocks, queries), expected, "{}", isa.name());
        }
    }

    fn made(groups: usize, count: usize, mut code: impl FnMut() -> u8) -> Vec<u8> {
        let mut blocks = vec![0u8; count * block_bytes(groups)];
        for (i, block) in blocks.chunks_exact_mut(block_bytes(groups)).enumerate() {
            let (factors, codes) = block.split_at_mut(FACTOR_BYTES);
            for (row, add) in factors.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *add = ((row * 7 % 5 + i) as f32 - 2.5).to_le_bytes();
            }
            codes.fill_with(&mut code);
        }
        blocks
    }

    proptest! {
        #[test]
        fn every_isa_agrees_with_scalar(groups in 0usize..70, count in 0usize..4, queries in 0usize..=QUERIES, seed: u64) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let queries: Vec<Vec<Weights>> =
                (0..queries).map(|_| (0..groups).map(|_| [(); 4].map(|()| rng.random::<i8>().max(-127))).collect()).collect();
            check(groups, &made(groups, count, || rng.random()), &queries);
        }
    }

    #[test]
    fn the_largest_products_do_not_overflow() {
        let groups = MAX_DIM / 4;
        let blocks = made(groups, 1, || 255);
        for weight in [127, -127] {
            let weights = vec![[weight; 4]; groups];
            check(groups, &blocks, std::slice::from_ref(&weights));
            let probe = ByteProbe { weights: &weights, base: 0.0, scale: 1.0, bound: 0.0 };
            let mut scores = Scores::default();
            ByteScan::new(Isa::best()).score(&[probe], groups, &blocks, &mut scores);
            let exact = MAX_DIM as f64 * 255.0 * f64::from(weight);
            assert!((f64::from(scores.scores[0][0][31]) / exact - 1.0).abs() < 1e-6);
        }
    }
}
