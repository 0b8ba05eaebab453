//! AVX2 (with FMA and F16C): eight neighbours a register. Twin: `scalar`.
//!
//! As in `avx512`, with `vpmaddubsw`, whose pair sums fit sixteen bits for levels up to 15; wider levels are split
//! into two halves of four bits.

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

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scan_bits<const BITS: u32>(scan: Scan<'_>, ids: &[u32], blocks: &[u8], found: &mut Vec<Scored>) {
    let query = scan.coordinates;
    let code_bytes = query.len() * BITS as usize / 8 * LANES;
    let (offset, unit) = (_mm256_set1_ps(scan.offset), _mm256_set1_ps(scan.unit));
    let (additive_unit, base) = (_mm256_set1_ps(scan.additive_unit), _mm256_set1_ps(scan.base));
    for (block, ids) in blocks.chunks_exact(code_bytes + FACTOR_BYTES).zip(ids.chunks_exact(LANES)) {
        for (half, ids) in ids.chunks_exact(8).enumerate() {
            let mut distances = [0f32; 8];
            // SAFETY: the block is whole; a half of it starts eight lanes in.
            unsafe {
                let codes = block.as_ptr().add(half * 32);
                let product = match BITS {
                    3 => {
                        let low = plane::<2>(query, codes);
                        let high = plane::<1>(query, codes.add(query.len() / 4 * LANES));
                        _mm256_add_epi32(low, _mm256_slli_epi32::<2>(high))
                    }
                    _ => plane::<BITS>(query, codes),
                };
                let factors = block.as_ptr().add(code_bytes + half * 16);
                let additive = _mm256_cvtph_ps(_mm_loadu_si128(factors.cast()));
                let multiplicative = _mm256_cvtph_ps(_mm_loadu_si128(factors.add(2 * LANES).cast()));
                let product = _mm256_mul_ps(_mm256_sub_ps(_mm256_cvtepi32_ps(product), offset), unit);
                let sum = _mm256_fmadd_ps(multiplicative, product, _mm256_fmadd_ps(additive, additive_unit, base));
                _mm256_storeu_ps(distances.as_mut_ptr(), sum);
            }
            let below = distances.iter().zip(ids).filter(|&(&distance, _)| distance < scan.bound);
            found.extend(below.map(|(&distance, &id)| Scored { distance, id }));
        }
    }
}

/// Products of eight lanes with the query, of one plane of codes of `WIDTH` bits.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn plane<const WIDTH: u32>(query: &[i8], codes: *const u8) -> __m256i {
    let per_byte = 8 / WIDTH as usize;
    let mask = _mm256_set1_epi8(((1u32 << WIDTH.min(4)) - 1) as i8);
    let ones = _mm256_set1_epi16(1);
    let mut sum = _mm256_setzero_si256();
    let query_words: *const i32 = query.as_ptr().cast();
    for word in 0..query.len() / (4 * per_byte) {
        // SAFETY: the plane has so many words of sixteen lanes, and the query four coordinates for each part of them.
        unsafe {
            let packed = _mm256_loadu_si256(codes.add(word * 4 * LANES).cast());
            for part in 0..per_byte {
                let shifted = _mm256_srl_epi32(packed, _mm_cvtsi32_si128((part as u32 * WIDTH) as i32));
                let four = _mm256_set1_epi32(query_words.add(word * per_byte + part).read_unaligned());
                let times = |levels| _mm256_madd_epi16(_mm256_maddubs_epi16(levels, four), ones);
                sum = _mm256_add_epi32(sum, times(_mm256_and_si256(shifted, mask)));
                if WIDTH == 8 {
                    let high = times(_mm256_and_si256(_mm256_srli_epi32::<4>(shifted), mask));
                    sum = _mm256_add_epi32(sum, _mm256_slli_epi32::<4>(high));
                }
            }
        }
    }
    sum
}
