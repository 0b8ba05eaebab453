//! Byte products by AVX-512 VNNI. Twin: `scalar` in the parent.

use std::arch::x86_64::*;

use super::{BLOCK, GROUP_BYTES, Weights};

/// See [`ByteScan::sums`](super::ByteScan::sums).
///
/// # Safety
/// AVX-512 F and VNNI are available; every query has as many weights as `codes` has groups, and there are as many
/// `sums` as queries.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn sums(codes: &[u8], queries: &[&[Weights]], sums: &mut [[i32; BLOCK]]) {
    // SAFETY: as the caller vouches; each call takes as many queries as it is made for.
    unsafe {
        match queries {
            [a, b, c, d] => some([a.as_ptr(), b.as_ptr(), c.as_ptr(), d.as_ptr()], codes, sums),
            [a, b, c] => some([a.as_ptr(), b.as_ptr(), c.as_ptr()], codes, sums),
            [a, b] => some([a.as_ptr(), b.as_ptr()], codes, sums),
            [a] => some([a.as_ptr()], codes, sums),
            _ => {}
        }
    }
}

/// `Q` queries at once: each load of codes serves them all.
///
/// # Safety
/// As for [`sums`]; one weight a group is readable at each pointer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn some<const Q: usize>(weights: [*const Weights; Q], codes: &[u8], sums: &mut [[i32; BLOCK]]) {
    let mut acc = [[_mm512_setzero_si512(); 2]; Q];
    for group in 0..codes.len() / GROUP_BYTES {
        // SAFETY: the group is whole, and each query has a weight for it.
        unsafe {
            let bytes = codes.as_ptr().add(group * GROUP_BYTES);
            let halves = [_mm512_loadu_si512(bytes.cast()), _mm512_loadu_si512(bytes.add(64).cast())];
            for (acc, weights) in acc.iter_mut().zip(weights) {
                let four = _mm512_set1_epi32(weights.add(group).cast::<i32>().read_unaligned());
                for (acc, half) in acc.iter_mut().zip(halves) {
                    *acc = _mm512_dpbusd_epi32(*acc, half, four);
                }
            }
        }
    }
    for (acc, sums) in acc.iter().zip(sums) {
        // SAFETY: there is room for 32 sums.
        unsafe {
            _mm512_storeu_si512(sums.as_mut_ptr().cast(), acc[0]);
            _mm512_storeu_si512(sums.as_mut_ptr().add(16).cast(), acc[1]);
        }
    }
}

/// See [`ByteScan::within`](super::ByteScan::within).
///
/// # Safety
/// The instruction set is available.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn within(
    sums: &[i32; BLOCK],
    add: &[f32; BLOCK],
    factors: [f32; 2],
    bound: f32,
    scores: &mut [f32; BLOCK],
) -> u32 {
    super::mask(sums, add, factors, bound, scores)
}
