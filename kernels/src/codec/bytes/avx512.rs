//! Byte scores by AVX-512 VNNI. Twin: `scalar` in the parent.

use std::arch::x86_64::*;

use super::{BLOCK, ByteProbe, FACTOR_BYTES, GROUP_BYTES, Scores, Weights, block_bytes};

/// See [`ByteScan::score`](super::ByteScan::score).
///
/// # Safety
/// AVX-512 F, BW, VL and VNNI are available; every query has `groups` weights.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn score(probes: &[ByteProbe<'_>], groups: usize, blocks: &[u8], out: &mut Scores) {
    // SAFETY: as the caller vouches.
    unsafe {
        match *probes {
            [a, b, c, d] => some([a, b, c, d], groups, blocks, out),
            [a, b, c] => some([a, b, c], groups, blocks, out),
            [a, b] => some([a, b], groups, blocks, out),
            [a] => some([a], groups, blocks, out),
            _ => {}
        }
    }
}

/// `Q` queries at once: each load of codes serves them all.
///
/// # Safety
/// As for [`score`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn some<const Q: usize>(probes: [ByteProbe<'_>; Q], groups: usize, blocks: &[u8], out: &mut Scores) {
    let weights = probes.map(|probe| probe.weights.as_ptr());
    for (number, block) in blocks.chunks_exact(block_bytes(groups)).enumerate() {
        // SAFETY: the block holds `groups` groups after its factors, and each query as many weights.
        let products = unsafe { products(weights, groups, block.as_ptr().add(FACTOR_BYTES)) };
        for (q, (probe, halves)) in probes.iter().zip(products).enumerate() {
            // SAFETY: the block starts with its factors.
            let masks = unsafe { finish(probe, block.as_ptr(), halves, &mut out.scores[q][number]) };
            out.masks[q][number] = u32::from(masks[0]) | u32::from(masks[1]) << 16;
        }
    }
}

/// Products of rows 0 to 15 and 16 to 31, for each query.
///
/// # Safety
/// As for [`score`]; `groups` groups are readable at `codes`, and a weight for each at every other pointer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn products<const Q: usize>(weights: [*const Weights; Q], groups: usize, codes: *const u8) -> [[__m512i; 2]; Q] {
    let mut sums = [[_mm512_setzero_si512(); 2]; Q];
    for group in 0..groups {
        // SAFETY: the caller vouches for `groups` groups.
        let half = |half: usize| unsafe { _mm512_loadu_si512(codes.add(group * GROUP_BYTES + 64 * half).cast()) };
        let halves = [half(0), half(1)];
        for (sums, weights) in sums.iter_mut().zip(weights) {
            // SAFETY: and for as many weights.
            let four = _mm512_set1_epi32(unsafe { weights.add(group).cast::<i32>().read_unaligned() });
            for (sum, half) in sums.iter_mut().zip(halves) {
                *sum = _mm512_dpbusd_epi32(*sum, half, four);
            }
        }
    }
    sums
}

/// Scores of a block's rows from their products, and the masks of those within the bound.
///
/// # Safety
/// As for [`score`]; 32 factors are readable at `factors`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn finish(
    probe: &ByteProbe<'_>,
    factors: *const u8,
    halves: [__m512i; 2],
    scores: &mut [f32; BLOCK],
) -> [u16; 2] {
    let (base, scale) = (_mm512_set1_ps(probe.base), _mm512_set1_ps(probe.scale));
    let mut masks = [0; 2];
    for (half, products) in halves.into_iter().enumerate() {
        // SAFETY: the caller vouches for 32 factors.
        let add = unsafe { _mm512_loadu_ps(factors.add(64 * half).cast()) };
        let score = _mm512_add_ps(base, _mm512_add_ps(add, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(products))));
        // SAFETY: there is room for 32 scores.
        unsafe { _mm512_storeu_ps(scores.as_mut_ptr().add(16 * half), score) };
        masks[half] = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(score, _mm512_set1_ps(probe.bound));
    }
    masks
}
