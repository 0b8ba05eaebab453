//! Byte products by AVX2. Twin: `scalar` in the parent.
//!
//! `vpmaddubsw` saturates at 16 bits, so bytes are widened first; `vpmaddwd` and one more pairwise step then add the
//! four coordinates of a row.

use std::arch::x86_64::*;

use super::{BLOCK, GROUP_BYTES, Weights};

/// See [`ByteScan::sums`](super::ByteScan::sums).
///
/// # Safety
/// AVX2 is available; every query has as many weights as `codes` has groups, and there are as many `sums` as queries.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn sums(codes: &[u8], queries: &[&[Weights]], sums: &mut [[i32; BLOCK]]) {
    for (weights, sums) in queries.iter().zip(sums) {
        // Pairs of coordinates of rows 0 to 3, 4 to 7, and so on.
        let mut acc = [_mm256_setzero_si256(); 8];
        for (group, weights) in codes.chunks_exact(GROUP_BYTES).zip(*weights) {
            let four = _mm256_cvtepi8_epi16(_mm_set1_epi32(i32::from_le_bytes(weights.map(|w| w as u8))));
            for (acc, bytes) in acc.iter_mut().zip(group.as_chunks::<16>().0) {
                // SAFETY: sixteen bytes are readable.
                let wide = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
                *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(wide, four));
            }
        }
        for (pair, sums) in acc.chunks_exact(2).zip(sums.as_chunks_mut::<8>().0) {
            // Rows 0 1 4 5 2 3 6 7 after the pairwise sum.
            let joined = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(pair[0], pair[1]));
            // SAFETY: there is room for eight sums.
            unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), joined) };
        }
        const { assert!(BLOCK == 32) };
    }
}

/// See [`ByteScan::within`](super::ByteScan::within).
///
/// # Safety
/// The instruction set is available.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn within(
    sums: &[i32; BLOCK],
    add: &[f32; BLOCK],
    factors: [f32; 2],
    bound: f32,
    scores: &mut [f32; BLOCK],
) -> u32 {
    super::mask(sums, add, factors, bound, scores)
}
