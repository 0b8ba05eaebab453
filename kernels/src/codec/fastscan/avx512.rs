//! Block scans for AVX-512 with VBMI and VNNI. Twin: `scalar`.
//!
//! A group of four sub-spaces is one 64-byte load; `vpermb` looks its nibbles up in the 64 entries of the four tables
//! (the sub-space within the group, known by place, gives the upper bits of the index), and `vpdpbusd` by ones adds the
//! four entries of each row into its 32-bit lane: 16 rows by low halves, 16 by high halves. Loading and taking apart
//! serves up to four queries.

use std::arch::x86_64::*;

use super::{BLOCK, FACTOR_BYTES, Factors, GROUP_BYTES, Layout, Probe, Scores};

/// See [`FastScan::score`](super::FastScan::score).
///
/// # Safety
/// AVX-512 F, BW, VL, VNNI and VBMI are available; the tables have `layout.groups` groups, and a block's factors and
/// groups lie within `layout.stride`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
pub(super) unsafe fn score(probes: &[Probe<'_>], layout: Layout, blocks: &[u8], out: &mut Scores) {
    // SAFETY: as the caller vouches.
    unsafe {
        match *probes {
            [a, b, c, d] => some([a, b, c, d], layout, blocks, out),
            [a, b, c] => some([a, b, c], layout, blocks, out),
            [a, b] => some([a, b], layout, blocks, out),
            [a] => some([a], layout, blocks, out),
            _ => {}
        }
    }
}

/// `Q` queries at once.
///
/// # Safety
/// As for [`score`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
unsafe fn some<const Q: usize>(probes: [Probe<'_>; Q], layout: Layout, blocks: &[u8], out: &mut Scores) {
    let tables = probes.map(|probe| probe.tables.groups().as_ptr().cast::<u8>());
    let head = layout.factors.bytes();
    for (number, block) in blocks.chunks_exact(layout.stride).enumerate() {
        // SAFETY: the block's factors and groups lie within it; every table has `layout.groups` groups.
        let sums = unsafe { sums(tables, layout.groups, block.as_ptr().add(head)) };
        for (q, (probe, halves)) in probes.iter().zip(sums).enumerate() {
            // SAFETY: as above.
            let masks = unsafe { finish(probe, layout.factors, block.as_ptr(), halves, &mut out.scores[q][number]) };
            out.masks[q][number] = u32::from(masks[0]) | u32::from(masks[1]) << 16;
        }
    }
}

/// Scores of a block's rows from the sums of its halves, and the masks of those within the bound.
///
/// # Safety
/// As for [`score`]; the factors are readable at `factors`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
unsafe fn finish(
    probe: &Probe<'_>,
    kind: Factors,
    factors: *const u8,
    halves: [__m512i; 2],
    scores: &mut [f32; BLOCK],
) -> [u16; 2] {
    let (scale, bias) = (_mm512_set1_ps(probe.tables.scale), _mm512_set1_ps(probe.tables.bias));
    let mut masks = [0; 2];
    for (half, sums) in halves.into_iter().enumerate() {
        let at = |number: usize| number * FACTOR_BYTES + half * FACTOR_BYTES / 2;
        // SAFETY: the caller vouches for the factors.
        let factor = |number: usize| unsafe { _mm512_loadu_ps(factors.add(at(number)).cast()) };
        let sum = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(sums));
        let (score, lower) = match kind {
            Factors::Add => {
                let base = _mm512_set1_ps(probe.base + probe.tables.bias);
                let score = _mm512_add_ps(base, _mm512_add_ps(factor(0), sum));
                (score, score)
            }
            Factors::AddMulErr => {
                let product = _mm512_mul_ps(factor(1), _mm512_add_ps(bias, sum));
                let score = _mm512_add_ps(_mm512_set1_ps(probe.base), _mm512_add_ps(factor(0), product));
                (score, _mm512_sub_ps(score, _mm512_mul_ps(_mm512_set1_ps(probe.gap), factor(2))))
            }
        };
        // SAFETY: there is room for 32 scores.
        unsafe { _mm512_storeu_ps(scores.as_mut_ptr().add(16 * half), score) };
        masks[half] = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(lower, _mm512_set1_ps(probe.bound));
    }
    masks
}

/// Sums of rows 0 to 15 and 16 to 31 over `groups` groups, for each query.
///
/// # Safety
/// As for [`score`]; `groups` times 64 bytes are readable at all pointers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
unsafe fn sums<const Q: usize>(tables: [*const u8; Q], groups: usize, codes: *const u8) -> [[__m512i; 2]; Q] {
    // (x & 0x0F) | place, as a truth table over (x, 0x0F, place).
    const SELECT: i32 = 0xEA;
    let nibble = _mm512_set1_epi8(15);
    let place = _mm512_set1_epi32(0x3020_1000);
    let ones = _mm512_set1_epi8(1);
    let mut sums = [[_mm512_setzero_si512(); 2]; Q];
    for group in 0..groups {
        // SAFETY: the caller vouches for `groups` groups at every pointer.
        let load = |p: *const u8| unsafe { _mm512_loadu_si512(p.add(group * GROUP_BYTES).cast()) };
        let bytes = load(codes);
        let indices = [
            _mm512_ternarylogic_epi32::<SELECT>(bytes, nibble, place),
            _mm512_ternarylogic_epi32::<SELECT>(_mm512_srli_epi32::<4>(bytes), nibble, place),
        ];
        for (sums, table) in sums.iter_mut().zip(tables) {
            let table = load(table);
            for (sum, index) in sums.iter_mut().zip(indices) {
                *sum = _mm512_dpbusd_epi32(*sum, _mm512_permutexvar_epi8(index, table), ones);
            }
        }
    }
    sums
}
