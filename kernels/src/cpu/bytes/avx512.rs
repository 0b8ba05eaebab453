//! Byte products by AVX-512 VNNI. Twin: `scalar`.
//!
//! A tile of eight rows by three groups of columns keeps 24 sums in registers: per four coordinates, 3 loads of columns
//! and 8 broadcasts feed 24 `vpdpbusd`. A single row (pruning) takes eight groups at a time, to hide the latency.

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
        seal: |columns| {
            // SAFETY: the instruction set was probed; a group has `steps` blocks and sixteen squares and constants.
            unsafe { seal(columns) }
        },
    }
}

/// Rows of a large tile.
const ROWS: usize = 8;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn distances(columns: &Columns, first_group: usize, rows: &[i8], squares: &[i32], out: &mut [i32]) {
    let (groups, count) = (columns.padded() / LANES, squares.len());
    let whole = count - count % ROWS;
    // SAFETY: every tile lies within `count` rows and `groups` groups.
    unsafe {
        for row in (0..whole).step_by(ROWS) {
            let mut group = first_group;
            while group + 3 <= groups {
                tile::<ROWS, 3>(columns, group, rows, squares, row, out);
                group += 3;
            }
            match groups - group {
                2 => tile::<ROWS, 2>(columns, group, rows, squares, row, out),
                1 => tile::<ROWS, 1>(columns, group, rows, squares, row, out),
                _ => (),
            }
        }
        for row in whole..count {
            let mut group = first_group;
            while group + 8 <= groups {
                tile::<1, 8>(columns, group, rows, squares, row, out);
                group += 8;
            }
            match groups - group {
                7 => tile::<1, 7>(columns, group, rows, squares, row, out),
                6 => tile::<1, 6>(columns, group, rows, squares, row, out),
                5 => tile::<1, 5>(columns, group, rows, squares, row, out),
                4 => tile::<1, 4>(columns, group, rows, squares, row, out),
                3 => tile::<1, 3>(columns, group, rows, squares, row, out),
                2 => tile::<1, 2>(columns, group, rows, squares, row, out),
                1 => tile::<1, 1>(columns, group, rows, squares, row, out),
                _ => (),
            }
        }
    }
}

/// Distances of rows `row..row + R` to groups `group..group + C`.
///
/// # Safety
/// AVX-512 F and VNNI are available; the operands hold these rows and groups and fit each other.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn tile<const R: usize, const C: usize>(
    columns: &Columns,
    group: usize,
    rows: &[i8],
    squares: &[i32],
    row: usize,
    out: &mut [i32],
) {
    let (steps, padded) = (columns.steps, columns.padded());
    let mut sums = [[_mm512_setzero_si512(); C]; R];
    // SAFETY: blocks `group * steps..(group + C) * steps` and coordinates of rows `row..row + R` exist, as the caller
    // vouches; so do the outputs of these rows and groups.
    unsafe {
        let blocks: *const __m512i = columns.blocks.as_ptr().add(group * steps).cast();
        let values: *const i32 = rows.as_ptr().add(row * steps * 4).cast();
        for step in 0..steps {
            let mut column = [_mm512_setzero_si512(); C];
            for c in 0..C {
                column[c] = _mm512_load_si512(blocks.add(c * steps + step));
            }
            for r in 0..R {
                let four = _mm512_set1_epi32(values.add(r * steps + step).read_unaligned());
                for c in 0..C {
                    sums[r][c] = _mm512_dpbusd_epi32(sums[r][c], column[c], four);
                }
            }
        }
        for c in 0..C {
            let at = (group + c) * LANES;
            let constants = _mm512_loadu_si512(columns.constants.as_ptr().add(at).cast());
            for r in 0..R {
                let square = _mm512_set1_epi32(*squares.as_ptr().add(row + r));
                let distance =
                    _mm512_sub_epi32(_mm512_add_epi32(constants, square), _mm512_slli_epi32::<1>(sums[r][c]));
                _mm512_storeu_si512(out.as_mut_ptr().add((row + r) * padded + at).cast(), distance);
            }
        }
    }
}

#[inline(always)]
fn mask(count: usize) -> __mmask16 {
    if count >= LANES { !0 } else { (1u16 << count) - 1 }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn below(distances: &[i32], bound: i32, found: &mut Vec<u32>) {
    // Sixteen positions are stored at a time, however few of them count.
    found.resize(distances.len() + LANES, 0);
    let mut count = 0;
    let (bound, step) = (_mm512_set1_epi32(bound), _mm512_set1_epi32(LANES as i32));
    let mut positions = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for chunk in distances.chunks(LANES) {
        let lanes = mask(chunk.len());
        // SAFETY: the mask limits the load to the chunk; `count` grows by at most the chunk's length, so sixteen
        // positions from `count` on lie within `found`.
        unsafe {
            let d = _mm512_maskz_loadu_epi32(lanes, chunk.as_ptr());
            let hit = _mm512_mask_cmple_epi32_mask(lanes, d, bound);
            let packed = _mm512_maskz_compress_epi32(hit, positions);
            _mm512_storeu_si512(found.as_mut_ptr().add(count).cast(), packed);
            count += hit.count_ones() as usize;
        }
        positions = _mm512_add_epi32(positions, step);
    }
    found.truncate(count);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn minima(distances: &[i32]) -> [i32; 2 * LANES] {
    super::scalar::minima(distances)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn seal(columns: &mut Columns) {
    let steps = columns.steps;
    let sums = columns.squares.as_chunks_mut::<LANES>().0.iter_mut().zip(columns.constants.as_chunks_mut::<LANES>().0);
    for (blocks, (squares, constants)) in columns.blocks.chunks_exact(steps).zip(sums) {
        // sum b (b - 128) and sum b: |b|^2 = the first + 128 times the second.
        let (mut shifted, mut plain) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        for block in blocks {
            // SAFETY: a block is 64 bytes, aligned to as many.
            let b = unsafe { _mm512_load_si512(block.0.as_ptr().cast()) };
            shifted = _mm512_dpbusd_epi32(shifted, b, _mm512_xor_si512(b, _mm512_set1_epi8(-128)));
            plain = _mm512_dpbusd_epi32(plain, b, _mm512_set1_epi8(1));
        }
        let half = _mm512_slli_epi32::<7>(plain);
        // SAFETY: both outputs hold sixteen values.
        unsafe {
            _mm512_storeu_si512(squares.as_mut_ptr().cast(), _mm512_add_epi32(shifted, half));
            _mm512_storeu_si512(constants.as_mut_ptr().cast(), _mm512_sub_epi32(shifted, half));
        }
    }
}
