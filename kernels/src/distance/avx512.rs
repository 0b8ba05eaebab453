//! AVX-512 kernels (F, BW, VL, VNNI). Twin: `scalar`.
//!
//! Floats of any width are widened to sixteen f32 lanes; bytes are widened to sixteen bits and squared
//! or multiplied in pairs by `vpdpwssd`, which is exact: with at most [`MAX_DIM`](crate::MAX_DIM)
//! coordinates the whole sum stays below 2^31. Tails are loaded under a mask, so no element past the end is touched.

use std::arch::x86_64::*;

use half::f16;

use super::RowKernel;
use crate::element::Element;

/// Loads of up to sixteen elements as f32 lanes.
pub(super) trait LoadF32: Element {
    /// The first `count` (at most 16) elements at `p`; other lanes are zero.
    ///
    /// # Safety
    /// AVX-512 F, BW and VL are available, and `count` elements at `p` are readable.
    unsafe fn load(p: *const Self, count: usize) -> __m512;
}

#[inline(always)]
fn mask16(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1u16 << count) - 1 }
}

impl LoadF32 for f32 {
    #[inline(always)]
    unsafe fn load(p: *const f32, count: usize) -> __m512 {
        // SAFETY: the mask limits the read to `count` elements, which the caller vouches for.
        unsafe { _mm512_maskz_loadu_ps(mask16(count), p) }
    }
}

impl LoadF32 for f16 {
    #[inline(always)]
    unsafe fn load(p: *const f16, count: usize) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask16(count), p.cast())) }
    }
}

impl LoadF32 for u8 {
    #[inline(always)]
    unsafe fn load(p: *const u8, count: usize) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask16(count), p.cast()))) }
    }
}

impl LoadF32 for i8 {
    #[inline(always)]
    unsafe fn load(p: *const i8, count: usize) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask16(count), p))) }
    }
}

/// Kernels that sum in f32; obtained only through a probed [`Isa`](super::Isa).
pub(super) fn float<A: LoadF32, B: LoadF32>() -> RowKernel<A, B> {
    RowKernel {
        l2_squared: |a, b| {
            assert_eq!(a.len(), b.len());
            // SAFETY: the instruction set was probed before this function could be named; lengths agree.
            unsafe { sum_f32::<A, B, true>(a, b) }
        },
        dot: |a, b| {
            assert_eq!(a.len(), b.len());
            // SAFETY: as above.
            unsafe { sum_f32::<A, B, false>(a, b) }
        },
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn sum_f32<A: LoadF32, B: LoadF32, const L2: bool>(a: &[A], b: &[B]) -> f32 {
    let n = a.len();
    let (pa, pb) = (a.as_ptr(), b.as_ptr());
    let mut sums = [_mm512_setzero_ps(); 4];
    let mut i = 0;
    // SAFETY: every load covers at most `n - i` elements from index `i` on.
    let mut step = |i: usize, count: usize, lane: usize| unsafe {
        let (x, y) = (A::load(pa.add(i), count), B::load(pb.add(i), count));
        sums[lane] = if L2 {
            let d = _mm512_sub_ps(x, y);
            _mm512_fmadd_ps(d, d, sums[lane])
        } else {
            _mm512_fmadd_ps(x, y, sums[lane])
        };
    };
    while i + 64 <= n {
        step(i, 16, 0);
        step(i + 16, 16, 1);
        step(i + 32, 16, 2);
        step(i + 48, 16, 3);
        i += 64;
    }
    while i < n {
        step(i, (n - i).min(16), 0);
        i += 16;
    }
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])))
}

/// Loads of up to thirty-two bytes as sixteen-bit lanes.
pub(super) trait LoadI16: Element {
    /// The first `count` (at most 32) elements at `p`; other lanes are zero.
    ///
    /// # Safety
    /// AVX-512 BW and VL are available, and `count` elements at `p` are readable.
    unsafe fn load(p: *const Self, count: usize) -> __m512i;
}

#[inline(always)]
fn mask32(count: usize) -> __mmask32 {
    if count >= 32 { !0 } else { (1u32 << count) - 1 }
}

impl LoadI16 for u8 {
    #[inline(always)]
    unsafe fn load(p: *const u8, count: usize) -> __m512i {
        // SAFETY: the mask limits the read to `count` elements, which the caller vouches for.
        unsafe { _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask32(count), p.cast())) }
    }
}

impl LoadI16 for i8 {
    #[inline(always)]
    unsafe fn load(p: *const i8, count: usize) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask32(count), p)) }
    }
}

/// Kernels that sum in integers; obtained only through a probed [`Isa`](super::Isa).
pub(super) fn bytes<T: LoadI16>() -> RowKernel<T, T> {
    RowKernel {
        l2_squared: |a, b| {
            assert_eq!(a.len(), b.len());
            // SAFETY: the instruction set was probed before this function could be named; lengths agree.
            unsafe { sum_i32::<T, true>(a, b) }
        },
        dot: |a, b| {
            assert_eq!(a.len(), b.len());
            // SAFETY: as above.
            unsafe { sum_i32::<T, false>(a, b) }
        },
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn sum_i32<T: LoadI16, const L2: bool>(a: &[T], b: &[T]) -> f32 {
    let n = a.len();
    let (pa, pb) = (a.as_ptr(), b.as_ptr());
    let mut sums = [_mm512_setzero_si512(); 2];
    // SAFETY: every load covers at most `n - i` elements from index `i` on.
    let mut step = |i: usize, count: usize, lane: usize| unsafe {
        let (x, y) = (T::load(pa.add(i), count), T::load(pb.add(i), count));
        sums[lane] = if L2 {
            let d = _mm512_sub_epi16(x, y);
            _mm512_dpwssd_epi32(sums[lane], d, d)
        } else {
            _mm512_dpwssd_epi32(sums[lane], x, y)
        };
    };
    let mut i = 0;
    while i + 64 <= n {
        step(i, 32, 0);
        step(i + 32, 32, 1);
        i += 64;
    }
    while i < n {
        step(i, (n - i).min(32), 0);
        i += 32;
    }
    _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1])) as f32
}
