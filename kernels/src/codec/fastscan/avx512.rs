//! Block scans for AVX-512 with VBMI and VNNI. Twin: `scalar`.
//!
//! A group of four sub-spaces is one 64-byte load; `vpermb` looks its nibbles up in the 64 entries of the four tables
//! (the sub-space within the group, known by place, gives the upper bits of the index), and `vpdpbusd` by ones adds the
//! four entries of each row into its 32-bit lane: 16 rows by low halves, 16 by high halves.

use std::arch::x86_64::*;

use super::{BLOCK, FACTOR_BYTES, Factors, GROUP_BYTES, Hit, Layout, Probe};

/// See [`FastScan::next`](super::FastScan::next).
///
/// # Safety
/// AVX-512 F, BW, VL, VNNI and VBMI are available; the tables have `layout.groups` groups, and a block's factors and
/// groups lie within `layout.stride`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
pub(super) unsafe fn next(
    probe: &Probe<'_>,
    layout: Layout,
    blocks: &[u8],
    from: usize,
    bound: f32,
    scores: &mut [f32; BLOCK],
) -> Option<Hit> {
    let tables = probe.tables.groups();
    let head = layout.factors.bytes();
    let (scale, bias) = (_mm512_set1_ps(probe.tables.scale), _mm512_set1_ps(probe.tables.bias));
    let base = match layout.factors {
        Factors::Add => _mm512_set1_ps(probe.base + probe.tables.bias),
        Factors::AddMulErr => _mm512_set1_ps(probe.base),
    };
    let (gap, bound) = (_mm512_set1_ps(probe.gap), _mm512_set1_ps(bound));
    for number in from..blocks.len() / layout.stride {
        // SAFETY: block `number` is whole, so its factors and groups are readable; `tables` has as many groups.
        unsafe {
            let block = blocks.as_ptr().add(number * layout.stride);
            let halves = sums(tables.as_ptr().cast(), layout.groups, block.add(head));
            let mut masks = [0u16; 2];
            for (half, sums) in halves.into_iter().enumerate() {
                let factor =
                    |number: usize| _mm512_loadu_ps(block.add(number * FACTOR_BYTES + half * FACTOR_BYTES / 2).cast());
                let sum = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(sums));
                let (score, lower) = match layout.factors {
                    Factors::Add => {
                        let score = _mm512_add_ps(base, _mm512_add_ps(factor(0), sum));
                        (score, score)
                    }
                    Factors::AddMulErr => {
                        let product = _mm512_mul_ps(factor(1), _mm512_add_ps(bias, sum));
                        let score = _mm512_add_ps(base, _mm512_add_ps(factor(0), product));
                        (score, _mm512_sub_ps(score, _mm512_mul_ps(gap, factor(2))))
                    }
                };
                _mm512_storeu_ps(scores.as_mut_ptr().add(16 * half), score);
                masks[half] = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(lower, bound);
            }
            let mask = u32::from(masks[0]) | u32::from(masks[1]) << 16;
            if mask != 0 {
                return Some(Hit { block: number, mask });
            }
        }
    }
    None
}

/// Sums of rows 0 to 15 and 16 to 31 over `groups` groups.
///
/// # Safety
/// As for [`next`]; `groups` times 64 bytes are readable at both pointers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
unsafe fn sums(tables: *const u8, groups: usize, codes: *const u8) -> [__m512i; 2] {
    // (x & 0x0F) | place, as a truth table over (x, 0x0F, place).
    const SELECT: i32 = 0xEA;
    let nibble = _mm512_set1_epi8(15);
    let place = _mm512_set1_epi32(0x3020_1000);
    let ones = _mm512_set1_epi8(1);
    // Two accumulators a half: additions of consecutive groups do not wait for each other.
    let mut low = [_mm512_setzero_si512(); 2];
    let mut high = [_mm512_setzero_si512(); 2];
    let add = |group: usize, low: &mut __m512i, high: &mut __m512i| {
        // SAFETY: the caller vouches for `groups` groups at both pointers.
        let (table, bytes) = unsafe {
            let load = |p: *const u8| _mm512_loadu_si512(p.add(group * GROUP_BYTES).cast());
            (load(tables), load(codes))
        };
        let low_index = _mm512_ternarylogic_epi32::<SELECT>(bytes, nibble, place);
        let high_index = _mm512_ternarylogic_epi32::<SELECT>(_mm512_srli_epi32::<4>(bytes), nibble, place);
        *low = _mm512_dpbusd_epi32(*low, _mm512_permutexvar_epi8(low_index, table), ones);
        *high = _mm512_dpbusd_epi32(*high, _mm512_permutexvar_epi8(high_index, table), ones);
    };
    for pair in 0..groups / 2 {
        add(2 * pair, &mut low[0], &mut high[0]);
        add(2 * pair + 1, &mut low[1], &mut high[1]);
    }
    if !groups.is_multiple_of(2) {
        add(groups - 1, &mut low[0], &mut high[0]);
    }
    [_mm512_add_epi32(low[0], low[1]), _mm512_add_epi32(high[0], high[1])]
}
