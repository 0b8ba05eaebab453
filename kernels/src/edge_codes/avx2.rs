//! AVX2 (with FMA and F16C): eight neighbours a register, both registers of a block at a time. Twin: `scalar`.
//!
//! As in `avx512`, with `vpmaddubsw`, whose pair sums stay in sixteen bits for some words ([`WORDS`]) before they are widened.
//! Levels are masked where they lie in their byte, which is cheaper than to shift each to its end: sums of shifted levels are
//! shifted back once, exactly. Wider levels are split into two halves of four bits.

use std::arch::x86_64::*;

use super::{FACTOR_BYTES, LANES, Scan};
use crate::topk::Scored;

/// Words whose products with the query sixteen bits hold: of a byte's upper bit, two pairs of 8 x 127 a word.
const WORDS: usize = 8;

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
    let bound = _mm256_set1_ps(scan.bound);
    for (block, ids) in blocks.chunks_exact(code_bytes + FACTOR_BYTES).zip(ids.chunks_exact(LANES)) {
        let codes = block.as_ptr();
        // SAFETY: the block is whole.
        let products = unsafe {
            match BITS {
                3 => {
                    let (low, high) = (plane::<2>(query, codes), plane::<1>(query, codes.add(query.len() / 4 * LANES)));
                    [
                        _mm256_add_epi32(low[0], _mm256_slli_epi32::<2>(high[0])),
                        _mm256_add_epi32(low[1], _mm256_slli_epi32::<2>(high[1])),
                    ]
                }
                _ => plane::<BITS>(query, codes),
            }
        };
        for (half, (product, ids)) in products.into_iter().zip(ids.chunks_exact(8)).enumerate() {
            // SAFETY: as above; a half of the factors starts eight lanes in.
            let distances = unsafe {
                let factors = codes.add(code_bytes + half * 16);
                let additive = _mm256_cvtph_ps(_mm_loadu_si128(factors.cast()));
                let multiplicative = _mm256_cvtph_ps(_mm_loadu_si128(factors.add(2 * LANES).cast()));
                let product = _mm256_mul_ps(_mm256_sub_ps(_mm256_cvtepi32_ps(product), offset), unit);
                _mm256_fmadd_ps(multiplicative, product, _mm256_fmadd_ps(additive, additive_unit, base))
            };
            let mut below = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(distances, bound));
            if below == 0 {
                continue;
            }
            let mut near = [0f32; 8];
            // SAFETY: it has room for eight.
            unsafe { _mm256_storeu_ps(near.as_mut_ptr(), distances) };
            while below != 0 {
                let lane = below.trailing_zeros() as usize;
                found.push(Scored { distance: near[lane], id: ids[lane] });
                below &= below - 1;
            }
        }
    }
}

/// Products of a block's lanes with the query, of one plane of codes of `WIDTH` bits.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn plane<const WIDTH: u32>(query: &[i8], codes: *const u8) -> [__m256i; 2] {
    let per_byte = 8 / WIDTH as usize;
    let query_words: *const i32 = query.as_ptr().cast();
    let words = query.len() / (4 * per_byte);
    let ones = _mm256_set1_epi16(1);
    let mut totals = [_mm256_setzero_si256(); 2];
    for first in (0..words).step_by(WORDS) {
        // By where a level lies in the four bits that are left of its byte.
        let mut sums = [[_mm256_setzero_si256(); 2]; 4];
        for word in first..words.min(first + WORDS) {
            // SAFETY: the plane has so many words of sixteen lanes, and the query four coordinates for each part of them.
            let (low, query) = unsafe {
                let packed = codes.add(word * 4 * LANES).cast::<__m256i>();
                ([_mm256_loadu_si256(packed), _mm256_loadu_si256(packed.add(1))], query_words.add(word * per_byte))
            };
            let high = [_mm256_srli_epi16::<4>(low[0]), _mm256_srli_epi16::<4>(low[1])];
            macro_rules! part {
                ($sum:literal, $packed:ident, $mask:literal, $part:literal) => {
                    // SAFETY: as above.
                    let four = _mm256_set1_epi32(unsafe { query.add($part).read_unaligned() });
                    let mask = _mm256_set1_epi8($mask);
                    for half in 0..2 {
                        let products = _mm256_maddubs_epi16(_mm256_and_si256($packed[half], mask), four);
                        sums[$sum][half] = _mm256_add_epi16(sums[$sum][half], products);
                    }
                };
            }
            match WIDTH {
                1 => {
                    part!(0, low, 1, 0);
                    part!(1, low, 2, 1);
                    part!(2, low, 4, 2);
                    part!(3, low, 8, 3);
                    part!(0, high, 1, 4);
                    part!(1, high, 2, 5);
                    part!(2, high, 4, 6);
                    part!(3, high, 8, 7);
                }
                2 => {
                    part!(0, low, 3, 0);
                    part!(1, low, 12, 1);
                    part!(0, high, 3, 2);
                    part!(2, high, 12, 3);
                }
                4 => {
                    part!(0, low, 15, 0);
                    part!(1, high, 15, 1);
                }
                _ => {
                    part!(0, low, 15, 0);
                    part!(1, high, 15, 0);
                }
            }
        }
        for (half, total) in totals.iter_mut().enumerate() {
            let (a, b) = (_mm256_madd_epi16(sums[0][half], ones), _mm256_madd_epi16(sums[1][half], ones));
            let (c, d) = (_mm256_madd_epi16(sums[2][half], ones), _mm256_madd_epi16(sums[3][half], ones));
            // All products of a sum have its levels' place for a factor.
            let placed = match WIDTH {
                1 => {
                    let (b, c, d) = (_mm256_srai_epi32::<1>(b), _mm256_srai_epi32::<2>(c), _mm256_srai_epi32::<3>(d));
                    _mm256_add_epi32(b, _mm256_add_epi32(c, d))
                }
                2 => _mm256_srai_epi32::<2>(_mm256_add_epi32(b, c)),
                4 => b,
                _ => _mm256_slli_epi32::<4>(b),
            };
            *total = _mm256_add_epi32(*total, _mm256_add_epi32(a, placed));
        }
    }
    totals
}
