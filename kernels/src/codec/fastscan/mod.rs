//! In-register look-up tables over blocks of 32 four-bit codes (FastScan: Andre, Kermarrec, Le Scouarnec,
//! "Cache locality is not enough", VLDB 2015; the bound-and-mask scan as in faiss).
//!
//! In: queries' tables `(m, 16)` f32, and blocks of codes. Out: 32 scores a block and query, and a mask of those within
//! the query's bound, so that most blocks cost no scalar work. Tables are quantised to bytes ([`Tables`]); everything after that is
//! integer or rounds alike on every instruction set, so all of them give equal scores, bit for bit.
//!
//! A block of 32 rows, m padded to a multiple of four:
//!
//! ```text
//! factors   f32 x 32, once or three times (see Factors)
//! codes     64 bytes a group of four sub-spaces: byte 4 j + t holds sub-space t of row j (low half) and of row 16 + j
//! ```
//!
//! Four sub-spaces of a row lie side by side because `vpermb` looks up 64 entries at once, and `vpdpbusd` then adds the
//! four bytes of a row: seven instructions score 32 rows in four sub-spaces.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
mod tables;

use crate::distance::{Isa, Level};

pub use tables::{Group, Tables};

/// Rows of a block.
pub const BLOCK: usize = 32;

/// Bytes of the codes of four sub-spaces of a block.
pub const GROUP_BYTES: usize = 64;

/// Bytes of one factor of a block.
pub const FACTOR_BYTES: usize = 4 * BLOCK;

/// What a block keeps beside its codes, and what a row's score is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factors {
    /// `add`: the score is `base + (add + sum)`.
    Add,
    /// `add`, `mul`, `err`: the score is `base + (add + mul sum)`, and it is compared by its lower bound,
    /// `score - gap err`.
    AddMulErr,
}

impl Factors {
    /// Bytes of the factors of a block.
    pub const fn bytes(self) -> usize {
        match self {
            Factors::Add => FACTOR_BYTES,
            Factors::AddMulErr => 3 * FACTOR_BYTES,
        }
    }
}

/// The place of a block's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// What precedes the codes.
    pub factors: Factors,
    /// Groups of four sub-spaces.
    pub groups: usize,
    /// Bytes from one block to the next; what follows the codes is not looked at.
    pub stride: usize,
}

/// One query in one list.
#[derive(Debug, Clone, Copy)]
pub struct Probe<'a> {
    /// The query's tables; as many groups as the layout has.
    pub tables: &'a Tables,
    /// Added to every score.
    pub base: f32,
    /// Factor of `err` in the lower bound.
    pub gap: f32,
    /// Rows whose lower bound does not exceed it are marked.
    pub bound: f32,
}

/// Queries of one call at most.
pub const QUERIES: usize = 4;

/// Blocks of one call at most: the scores of as many stay in the first-level cache.
pub const BLOCKS: usize = 32;

/// Scores of up to [`BLOCKS`] blocks for up to [`QUERIES`] queries.
#[derive(Debug, Clone)]
pub struct Scores {
    /// Of query q, block b, row r: `scores[q][b][r]`.
    pub scores: Box<[[[f32; BLOCK]; BLOCKS]; QUERIES]>,
    /// Bit r of `masks[q][b]` is set where row r's lower bound does not exceed query q's bound.
    pub masks: [[u32; BLOCKS]; QUERIES],
}

impl Default for Scores {
    fn default() -> Self {
        Self { scores: Box::new([[[0.0; BLOCK]; BLOCKS]; QUERIES]), masks: [[0; BLOCKS]; QUERIES] }
    }
}

/// (probes, layout, blocks, scores).
type Score = unsafe fn(&[Probe<'_>], Layout, &[u8], &mut Scores);

/// Block scans compiled for one instruction set.
#[derive(Debug, Clone, Copy)]
pub struct FastScan {
    score: Score,
}

impl FastScan {
    /// The scans of `isa`. AVX-512 without VBMI uses those of AVX2.
    pub fn new(isa: Isa) -> Self {
        let score: Score = match isa.0 {
            Level::Scalar => scalar::score,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 if is_x86_feature_detected!("avx512vbmi") => avx512::score,
            #[cfg(target_arch = "x86_64")]
            _ => avx2::score,
            #[cfg(not(target_arch = "x86_64"))]
            _ => scalar::score,
        };
        Self { score }
    }

    /// Scores `blocks`, up to [`BLOCKS`] whole blocks of `layout`, for up to [`QUERIES`] queries: each block is loaded
    /// and taken apart once for all of them.
    ///
    /// # Panics
    /// When there are more blocks or queries, or the tables do not fit the layout.
    #[inline]
    pub fn score(&self, probes: &[Probe<'_>], layout: Layout, blocks: &[u8], scores: &mut Scores) {
        let needed = layout.factors.bytes() + layout.groups * GROUP_BYTES;
        assert!(layout.stride >= needed && blocks.len() <= BLOCKS * layout.stride, "blocks of another layout");
        assert!(probes.len() <= QUERIES, "a call takes {QUERIES} queries");
        assert!(probes.iter().all(|p| p.tables.groups().len() == layout.groups), "tables of another layout");
        // SAFETY: `new` chose the function for an `Isa` that was probed. Every block that it reads lies within
        // `blocks`: it stops at `blocks.len() / stride`, and the parts of a block lie within its stride (above).
        unsafe { (self.score)(probes, layout, blocks, scores) }
    }
}

/// Packs the codes of up to 32 rows, `codes(row, sub-space)` below 16, as the groups of a block; rows and sub-spaces
/// that are missing are zero.
pub fn pack(rows: usize, m: usize, code: impl Fn(usize, usize) -> u8, out: &mut [u8]) {
    out.fill(0);
    for (group, bytes) in out.chunks_exact_mut(GROUP_BYTES).enumerate() {
        for sub in (4 * group)..(4 * group + 4).min(m) {
            for row in 0..rows.min(BLOCK) {
                bytes[4 * (row % 16) + sub % 4] |= code(row, sub) << (4 * (row / 16));
            }
        }
    }
}

/// The code of one row in one sub-space of packed groups.
pub fn unpack(groups: &[u8], row: usize, sub: usize) -> u8 {
    (groups[GROUP_BYTES * (sub / 4) + 4 * (row % 16) + sub % 4] >> (4 * (row / 16))) & 15
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    struct Case {
        tables: Vec<Tables>,
        layout: Layout,
        blocks: Vec<u8>,
    }

    fn case(m: usize, count: usize, factors: Factors, seed: u64) -> Case {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut table = || (0..16 * m).map(|_| rng.random::<f32>() * 10.0 - 3.0).collect::<Vec<f32>>();
        let tables = (0..QUERIES).map(|_| Tables::quantise(&table())).collect();
        let groups = m.div_ceil(4);
        let layout = Layout { factors, groups, stride: factors.bytes() + groups * GROUP_BYTES };
        let mut blocks = vec![0u8; count * layout.stride];
        for block in blocks.chunks_exact_mut(layout.stride) {
            let (head, codes) = block.split_at_mut(factors.bytes());
            for bytes in head.chunks_exact_mut(4) {
                bytes.copy_from_slice(&(rng.random::<f32>() * 4.0 - 2.0).to_le_bytes());
            }
            codes.fill_with(|| rng.random());
        }
        Case { tables, layout, blocks }
    }

    /// Scores as bits, and masks, of a call with these bounds.
    fn scored(scan: FastScan, case: &Case, bounds: &[f32]) -> (Vec<u32>, Vec<u32>) {
        let probe = |(q, &bound): (usize, &f32)| Probe { tables: &case.tables[q], base: 0.625, gap: 1.5, bound };
        let probes: Vec<Probe<'_>> = bounds.iter().enumerate().map(probe).collect();
        let mut scores = Scores::default();
        scan.score(&probes, case.layout, &case.blocks, &mut scores);
        let count = case.blocks.len() / case.layout.stride;
        let queries = 0..bounds.len();
        let bits = queries.clone().flat_map(|q| scores.scores[q][..count].iter().flatten().map(|s| s.to_bits()));
        (bits.collect(), queries.flat_map(|q| scores.masks[q][..count].iter().copied()).collect())
    }

    proptest! {
        #[test]
        fn every_isa_agrees_with_scalar_bit_for_bit(
            m in 1usize..70, count in 0usize..5, queries in 0usize..=QUERIES, seed: u64, share in 0.0f32..1.0,
        ) {
            for factors in [Factors::Add, Factors::AddMulErr] {
                let case = case(m, count, factors, seed);
                let bounds = [(share - 0.3) * 10.0 * m as f32, f32::INFINITY, f32::NEG_INFINITY, 3.5 * m as f32];
                let expected = scored(FastScan::new(Isa::SCALAR), &case, &bounds[..queries]);
                for isa in Isa::supported() {
                    let got = scored(FastScan::new(isa), &case, &bounds[..queries]);
                    prop_assert_eq!(&got, &expected, "{}", isa.name());
                }
            }
        }

        #[test]
        fn packed_codes_come_back(m in 1usize..40, rows in 1usize..=32, seed: u64) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let codes: Vec<u8> = (0..rows * m).map(|_| rng.random::<u8>() & 15).collect();
            let mut packed = vec![1; m.div_ceil(4) * GROUP_BYTES];
            pack(rows, m, |row, sub| codes[row * m + sub], &mut packed);
            for row in 0..rows {
                for sub in 0..m {
                    prop_assert_eq!(unpack(&packed, row, sub), codes[row * m + sub]);
                }
            }
        }
    }

    #[test]
    fn the_largest_sums_do_not_overflow() {
        // Every entry at its largest, in more sub-spaces than a byte table of full range allows.
        for m in [256usize, 257, 258, 1000, 16_384] {
            let table: Vec<f32> = (0..16 * m).map(|i| if i % 16 == 15 { 1.0 } else { 0.0 }).collect();
            let tables = Tables::quantise(&table);
            let groups = m.div_ceil(4);
            let layout = Layout { factors: Factors::Add, groups, stride: FACTOR_BYTES + groups * GROUP_BYTES };
            let mut block = vec![0u8; layout.stride];
            pack(BLOCK, m, |_, _| 15, &mut block[FACTOR_BYTES..]);
            let probe = Probe { tables: &tables, base: 0.0, gap: 0.0, bound: f32::INFINITY };
            for isa in Isa::supported() {
                let mut scores = Scores::default();
                FastScan::new(isa).score(&[probe], layout, &block, &mut scores);
                assert_eq!(scores.masks[0][0], !0);
                let error = scores.scores[0][0].iter().map(|s| (s - m as f32).abs()).fold(0.0, f32::max);
                assert!(error <= tables.error_bound() + 1e-3 * m as f32, "{m} sub-spaces: off by {error}");
            }
        }
    }
}
