//! AVX-512 (F, BW, VL, VNNI): sixteen neighbours a register, one a lane. Twin: `scalar`.
//!
//! A word of a lane holds four bytes of 8 / width coordinates each; shifted and masked it is the unsigned operand of
//! `vpdpbusd`, and four of the query's coordinates, broadcast, the signed one. Sums are exact.

use std::arch::x86_64::*;

use super::{FACTOR_BYTES, LANES, Scan};
use crate::topk::Scored;

/// # Safety
/// The instructions are available, and `blocks` holds the blocks of `ids` for a query of this many coordinates.
pub(super) unsafe fn scan(bits: u8, scan: Scan<'_>, ids: &[u32], blocks: &[u8], found: &mut Vec<Scored>) {
    // SAFETY: passed on to the caller.
    unsafe {
        match bits {
            1 => scan_bits::<1>(scan, ids, blocks, found),
            2 => scan_bits::<2>(scan, ids, blocks, found),
            3 => scan_bits::<3>(scan, ids, blocks, found),
            4 => scan_bits::<4>(scan, ids, blocks, found),
            _ => scan_bits::<8>(scan, ids, blocks, found),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn scan_bits<const BITS: u32>(scan: Scan<'_>, ids: &[u32], blocks: &[u8], found: &mut Vec<Scored>) {
    let query = scan.coordinates;
    let code_bytes = query.len() * BITS as usize / 8 * LANES;
    let (offset, unit) = (_mm512_set1_ps(scan.offset), _mm512_set1_ps(scan.unit));
    let (additive_unit, base) = (_mm512_set1_ps(scan.additive_unit), _mm512_set1_ps(scan.base));
    let bound = _mm512_set1_ps(scan.bound);
    found.reserve(ids.len());
    let mut block = blocks.as_ptr();
    for ids in ids.chunks_exact(LANES) {
        // SAFETY: the caller vouches for a whole block at `block`; `found` has room for every id.
        unsafe {
            let product = match BITS {
                3 => {
                    let low = plane::<2>(query, block);
                    let high = plane::<1>(query, block.add(query.len() / 4 * LANES));
                    _mm512_add_epi32(low, _mm512_slli_epi32::<2>(high))
                }
                _ => plane::<BITS>(query, block),
            };
            let factors = block.add(code_bytes);
            let additive = _mm512_cvtph_ps(_mm256_loadu_si256(factors.cast()));
            let multiplicative = _mm512_cvtph_ps(_mm256_loadu_si256(factors.add(2 * LANES).cast()));
            let product = _mm512_mul_ps(_mm512_sub_ps(_mm512_cvtepi32_ps(product), offset), unit);
            let distances = _mm512_fmadd_ps(multiplicative, product, _mm512_fmadd_ps(additive, additive_unit, base));
            let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(distances, bound);
            if below != 0 {
                let (mut near, mut near_ids) = ([0f32; LANES], [0u32; LANES]);
                _mm512_storeu_ps(near.as_mut_ptr(), _mm512_maskz_compress_ps(below, distances));
                let all_ids = _mm512_loadu_si512(ids.as_ptr().cast());
                _mm512_storeu_si512(near_ids.as_mut_ptr().cast(), _mm512_maskz_compress_epi32(below, all_ids));
                for (&distance, &id) in near.iter().zip(&near_ids).take(below.count_ones() as usize) {
                    found.push(Scored { distance, id });
                }
            }
            block = block.add(code_bytes + FACTOR_BYTES);
        }
    }
}

/// Products of all lanes with the query, of one plane of codes of `WIDTH` bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn plane<const WIDTH: u32>(query: &[i8], codes: *const u8) -> __m512i {
    let per_byte = 8 / WIDTH as usize;
    let mask = _mm512_set1_epi8(((1u32 << WIDTH) - 1) as u8 as i8);
    // Four sums: two would wait for each other's `vpdpbusd`.
    let mut sums = [_mm512_setzero_si512(); 4];
    let query_words: *const i32 = query.as_ptr().cast();
    for word in 0..query.len() / (4 * per_byte) {
        // SAFETY: the plane has so many words of sixteen lanes, and the query four coordinates for each part of them.
        unsafe {
            let packed = _mm512_loadu_si512(codes.add(word * 4 * LANES).cast());
            let four = |part: usize| _mm512_set1_epi32(query_words.add(word * per_byte + part).read_unaligned());
            if WIDTH == 8 {
                sums[0] = _mm512_dpbusd_epi32(sums[0], packed, four(0));
                sums = [sums[1], sums[2], sums[3], sums[0]];
            }
            // The shift must be known when this is compiled.
            macro_rules! part {
                ($sum:literal, $part:literal, $shift:literal) => {
                    let levels = _mm512_and_si512(_mm512_srli_epi32::<$shift>(packed), mask);
                    sums[$sum] = _mm512_dpbusd_epi32(sums[$sum], levels, four($part));
                };
            }
            if WIDTH == 4 {
                part!(0, 0, 0);
                part!(1, 1, 4);
                sums = [sums[2], sums[3], sums[0], sums[1]];
            }
            if WIDTH == 2 {
                part!(0, 0, 0);
                part!(1, 1, 2);
                part!(2, 2, 4);
                part!(3, 3, 6);
            }
            if WIDTH == 1 {
                part!(0, 0, 0);
                part!(1, 1, 1);
                part!(2, 2, 2);
                part!(3, 3, 3);
                part!(0, 4, 4);
                part!(1, 5, 5);
                part!(2, 6, 6);
                part!(3, 7, 7);
            }
        }
    }
    let [a, b, c, d] = sums;
    _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d))
}
