//! Byte products by AVX2. Twin: `scalar`.
//!
//! `vpmaddubsw` saturates on full-range bytes, so both operands are widened to sixteen bits and multiplied by
//! `vpmaddwd`, which is exact. A group's sixteen columns take four registers of pairs of partial sums.

use std::arch::x86_64::*;

use super::{ByteKernel, Columns, LANES};

/// Kernels of this instruction set; named only after [`Isa`](crate::distance::Isa) was probed.
pub(super) fn kernel() -> ByteKernel {
    ByteKernel {
        distances: |columns, first_group, rows, squares, out| {
            // SAFETY: the instruction set was probed; `ByteKernel::distances` checked that the operands fit.
            unsafe { distances(columns, first_group, rows, squares, out) }
        },
        below: |distances, bound, found| {
            // SAFETY: the instruction set was probed.
            unsafe { below(distances, bound, found) }
        },
        minima: |distances| {
            // SAFETY: the instruction set was probed.
            unsafe { minima(distances) }
        },
        seal: super::scalar::seal,
    }
}

#[target_feature(enable = "avx2")]
unsafe fn distances(columns: &Columns, first_group: usize, rows: &[i8], squares: &[i32], out: &mut [i32]) {
    let (groups, count) = (columns.padded() / LANES, squares.len());
    let whole = count - count % 2;
    // SAFETY: every tile lies within `count` rows and `groups` groups.
    unsafe {
        for group in first_group..groups {
            for row in (0..whole).step_by(2) {
                tile::<2>(columns, group, rows, squares, row, out);
            }
            if whole < count {
                tile::<1>(columns, group, rows, squares, whole, out);
            }
        }
    }
}

/// Distances of rows `row..row + R` to one group.
///
/// # Safety
/// AVX2 is available; the operands hold these rows and the group and fit each other.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tile<const R: usize>(
    columns: &Columns,
    group: usize,
    rows: &[i8],
    squares: &[i32],
    row: usize,
    out: &mut [i32],
) {
    let (steps, padded) = (columns.steps, columns.padded());
    let mut sums = [[_mm256_setzero_si256(); 4]; R];
    // SAFETY: the group's blocks and the rows' coordinates exist, as the caller vouches; so do their outputs.
    unsafe {
        let blocks: *const __m128i = columns.blocks.as_ptr().add(group * steps).cast();
        let values: *const i32 = rows.as_ptr().add(row * steps * 4).cast();
        for step in 0..steps {
            let mut column = [_mm256_setzero_si256(); 4];
            for (c, column) in column.iter_mut().enumerate() {
                *column = _mm256_cvtepu8_epi16(_mm_load_si128(blocks.add(step * 4 + c)));
            }
            for r in 0..R {
                let four = _mm256_cvtepi8_epi16(_mm_set1_epi32(values.add(r * steps + step).read_unaligned()));
                for c in 0..4 {
                    sums[r][c] = _mm256_add_epi32(sums[r][c], _mm256_madd_epi16(column[c], four));
                }
            }
        }
        for half in 0..2 {
            let at = group * LANES + half * 8;
            let constants = _mm256_loadu_si256(columns.constants.as_ptr().add(at).cast());
            for r in 0..R {
                // Pairs of adjacent partial sums: columns 0 1 4 5 | 2 3 6 7, then in order.
                let pairs = _mm256_hadd_epi32(sums[r][2 * half], sums[r][2 * half + 1]);
                let product = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
                let square = _mm256_set1_epi32(*squares.as_ptr().add(row + r));
                let distance = _mm256_sub_epi32(_mm256_add_epi32(constants, square), _mm256_slli_epi32::<1>(product));
                _mm256_storeu_si256(out.as_mut_ptr().add((row + r) * padded + at).cast(), distance);
            }
        }
    }
}

#[target_feature(enable = "avx2")]
unsafe fn below(distances: &[i32], bound: i32, found: &mut Vec<u32>) {
    for (i, chunk) in distances.chunks(LANES).enumerate() {
        // Vectorised: most chunks hold none.
        if chunk.iter().fold(false, |any, &d| any | (d <= bound)) {
            let hits = chunk.iter().enumerate().filter(|&(_, &d)| d <= bound);
            found.extend(hits.map(|(lane, _)| (i * LANES + lane) as u32));
        }
    }
}

#[target_feature(enable = "avx2")]
unsafe fn minima(distances: &[i32]) -> [i32; 2 * LANES] {
    super::scalar::minima(distances)
}
