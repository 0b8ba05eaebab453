//! Byte scores by AVX2. Twin: `scalar` in the parent.
//!
//! `vpmaddubsw` saturates at 16 bits, so bytes are widened first; `vpmaddwd` and one more pairwise step then add the
//! four coordinates of a row.

use std::arch::x86_64::*;

use super::{BLOCK, ByteProbe, FACTOR_BYTES, GROUP_BYTES, Scores, block_bytes, finish};

/// See [`ByteScan::score`](super::ByteScan::score).
///
/// # Safety
/// AVX2 is available; every query has `groups` weights.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn score(probes: &[ByteProbe<'_>], groups: usize, blocks: &[u8], out: &mut Scores) {
    for (number, block) in blocks.chunks_exact(block_bytes(groups)).enumerate() {
        let (factors, codes) = block.split_at(FACTOR_BYTES);
        for (q, probe) in probes.iter().enumerate() {
            let products = products(codes, probe);
            out.masks[q][number] = finish(probe, factors, &products, &mut out.scores[q][number]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn products(codes: &[u8], probe: &ByteProbe<'_>) -> [i32; BLOCK] {
    // Pairs of coordinates of rows 0 to 3, 4 to 7, and so on.
    let mut acc = [_mm256_setzero_si256(); 8];
    for (group, weights) in codes.chunks_exact(GROUP_BYTES).zip(probe.weights) {
        let four = _mm256_cvtepi8_epi16(_mm_set1_epi32(i32::from_le_bytes(weights.map(|w| w as u8))));
        for (acc, bytes) in acc.iter_mut().zip(group.as_chunks::<16>().0) {
            // SAFETY: sixteen bytes are readable.
            let wide = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
            *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(wide, four));
        }
    }
    let mut products = [0; BLOCK];
    for (pair, products) in acc.chunks_exact(2).zip(products.as_chunks_mut::<8>().0) {
        // Rows 0 1 4 5 2 3 6 7 after the pairwise sum.
        let joined = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(pair[0], pair[1]));
        // SAFETY: there is room for eight products.
        unsafe { _mm256_storeu_si256(products.as_mut_ptr().cast(), joined) };
    }
    products
}
