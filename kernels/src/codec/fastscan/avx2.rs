//! Block scans for AVX2. Twin: `scalar`.
//!
//! `vpshufb` looks up 16 entries, one table a 128-bit lane. The four sub-spaces of a row lie side by side, so the bytes
//! of a group are first gathered by sub-space; sums stay in 16 bits, which [`Tables`](super::Tables) makes room for.

use std::arch::x86_64::*;

use super::scalar::mask;
use super::{BLOCK, GROUP_BYTES, Layout, Probe, Scores};

/// See [`FastScan::score`](super::FastScan::score).
///
/// # Safety
/// AVX2 is available; the tables have `layout.groups` groups, and a block's factors and groups lie within
/// `layout.stride`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn score(probes: &[Probe<'_>], layout: Layout, blocks: &[u8], out: &mut Scores) {
    for (number, block) in blocks.chunks_exact(layout.stride).enumerate() {
        let (factors, codes) = block.split_at(layout.factors.bytes());
        for (q, probe) in probes.iter().enumerate() {
            // SAFETY: tables and codes hold `layout.groups` groups of 64 bytes each.
            let sums = unsafe { sums(probe.tables.groups().as_ptr().cast(), layout.groups, codes.as_ptr()) };
            out.masks[q][number] = mask(probe, layout.factors, factors, &sums, &mut out.scores[q][number]);
        }
    }
}

/// Sums of the 32 rows over `groups` groups.
///
/// # Safety
/// AVX2 is available; `groups` times 64 bytes are readable at both pointers.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn sums(tables: *const u8, groups: usize, codes: *const u8) -> [u16; BLOCK] {
    let nibble = _mm256_set1_epi8(15);
    let byte = _mm256_set1_epi16(0xFF);
    // Within each lane, four rows of four sub-spaces to four sub-spaces of four rows.
    let by_sub = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    let join_lanes = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    // Even and odd rows of 0 to 15, then of 16 to 31; the two lanes hold different sub-spaces.
    let mut acc = [_mm256_setzero_si256(); 4];
    for group in 0..groups {
        // SAFETY: the caller vouches for `groups` groups at both pointers.
        let [t01, t23, a, b] = unsafe {
            let load = |p: *const u8, half: usize| _mm256_loadu_si256(p.add(group * GROUP_BYTES + 32 * half).cast());
            [load(tables, 0), load(tables, 1), load(codes, 0), load(codes, 1)]
        };
        let gathered = |x| _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(x, by_sub), join_lanes);
        let (a, b) = (gathered(a), gathered(b));
        let pairs = [
            (_mm256_permute2x128_si256::<0x20>(t01, t23), _mm256_unpacklo_epi64(a, b)),
            (_mm256_permute2x128_si256::<0x31>(t01, t23), _mm256_unpackhi_epi64(a, b)),
        ];
        for (table, codes) in pairs {
            let low = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, nibble));
            let high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble));
            acc[0] = _mm256_add_epi16(acc[0], _mm256_and_si256(low, byte));
            acc[1] = _mm256_add_epi16(acc[1], _mm256_srli_epi16::<8>(low));
            acc[2] = _mm256_add_epi16(acc[2], _mm256_and_si256(high, byte));
            acc[3] = _mm256_add_epi16(acc[3], _mm256_srli_epi16::<8>(high));
        }
    }
    let mut sums = [0u16; BLOCK];
    for (half, pair) in acc.chunks_exact(2).enumerate() {
        let both_lanes = |x| _mm_add_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
        let (even, odd) = (both_lanes(pair[0]), both_lanes(pair[1]));
        // SAFETY: `sums` has 32 places; each half writes its 16.
        unsafe {
            let out = sums.as_mut_ptr().add(16 * half);
            _mm_storeu_si128(out.cast(), _mm_unpacklo_epi16(even, odd));
            _mm_storeu_si128(out.add(8).cast(), _mm_unpackhi_epi16(even, odd));
        }
    }
    sums
}
