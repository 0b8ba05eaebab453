//! AVX2 kernels (with FMA and F16C). Twin: `scalar`.
//!
//! Whole blocks are loaded directly; the last, partial block is copied into a zeroed buffer first, so no
//! element past the end is touched and the zero lanes add nothing.

use std::arch::x86_64::*;

use half::f16;

use super::RowKernel;
use crate::element::Element;

/// Loads of eight elements as f32 lanes.
pub(super) trait LoadF32: Element {
    /// Eight elements at `p`.
    ///
    /// # Safety
    /// AVX2 and F16C are available, and eight elements at `p` are readable.
    unsafe fn load(p: *const Self) -> __m256;
}

impl LoadF32 for f32 {
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        // SAFETY: the caller vouches for eight readable elements.
        unsafe { _mm256_loadu_ps(p) }
    }
}

impl LoadF32 for f16 {
    #[inline(always)]
    unsafe fn load(p: *const f16) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
}

impl LoadF32 for u8 {
    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()))) }
    }
}

impl LoadF32 for i8 {
    #[inline(always)]
    unsafe fn load(p: *const i8) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
    }
}

/// Copies a partial block of fewer than `N` elements into a zeroed one.
#[inline(always)]
fn padded<T: Element, const N: usize>(tail: &[T]) -> [T; N] {
    let mut block = [T::zeroed(); N];
    block[..tail.len()].copy_from_slice(tail);
    block
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

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn sum_f32<A: LoadF32, B: LoadF32, const L2: bool>(a: &[A], b: &[B]) -> f32 {
    let mut sums = [_mm256_setzero_ps(); 2];
    // SAFETY: every block passed in holds eight elements.
    let mut step = |pa: *const A, pb: *const B, lane: usize| unsafe {
        let (x, y) = (A::load(pa), B::load(pb));
        sums[lane] = if L2 {
            let d = _mm256_sub_ps(x, y);
            _mm256_fmadd_ps(d, d, sums[lane])
        } else {
            _mm256_fmadd_ps(x, y, sums[lane])
        };
    };
    let (blocks_a, tail_a) = a.as_chunks::<8>();
    let (blocks_b, tail_b) = b.as_chunks::<8>();
    for (i, (x, y)) in blocks_a.iter().zip(blocks_b).enumerate() {
        step(x.as_ptr(), y.as_ptr(), i % 2);
    }
    if !tail_a.is_empty() {
        step(padded::<A, 8>(tail_a).as_ptr(), padded::<B, 8>(tail_b).as_ptr(), 0);
    }
    let sum = _mm256_add_ps(sums[0], sums[1]);
    let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps::<1>(sum, sum)))
}

/// Loads of sixteen bytes as sixteen-bit lanes.
pub(super) trait LoadI16: Element {
    /// Sixteen elements at `p`.
    ///
    /// # Safety
    /// AVX2 is available, and sixteen elements at `p` are readable.
    unsafe fn load(p: *const Self) -> __m256i;
}

impl LoadI16 for u8 {
    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m256i {
        // SAFETY: the caller vouches for sixteen readable elements.
        unsafe { _mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast())) }
    }
}

impl LoadI16 for i8 {
    #[inline(always)]
    unsafe fn load(p: *const i8) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())) }
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

#[target_feature(enable = "avx2")]
unsafe fn sum_i32<T: LoadI16, const L2: bool>(a: &[T], b: &[T]) -> f32 {
    let mut sum = _mm256_setzero_si256();
    // SAFETY: every block passed in holds sixteen elements.
    let mut step = |pa: *const T, pb: *const T| unsafe {
        let (x, y) = (T::load(pa), T::load(pb));
        let products = if L2 {
            let d = _mm256_sub_epi16(x, y);
            _mm256_madd_epi16(d, d)
        } else {
            _mm256_madd_epi16(x, y)
        };
        sum = _mm256_add_epi32(sum, products);
    };
    let (blocks_a, tail_a) = a.as_chunks::<16>();
    let (blocks_b, tail_b) = b.as_chunks::<16>();
    for (x, y) in blocks_a.iter().zip(blocks_b) {
        step(x.as_ptr(), y.as_ptr());
    }
    if !tail_a.is_empty() {
        step(padded::<T, 16>(tail_a).as_ptr(), padded::<T, 16>(tail_b).as_ptr());
    }
    let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b00_00_11_10>(sum));
    let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b00_00_00_01>(sum));
    _mm_cvtsi128_si32(sum) as f32
}
