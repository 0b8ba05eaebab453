//! Distance between two rows: one function per (element type, metric), chosen once at run time for the
//! instruction set at hand.
//!
//! In: two slices of equal length. Out: squared L2 or dot product as f32. Integer types are summed in
//! integers, exactly, and rounded once. [`Isa::SCALAR`] is the portable code and the twin that the
//! others are tested against.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod geometry;
mod scalar;

use std::sync::OnceLock;

use half::f16;

pub(crate) use geometry::squared_norm;
pub use geometry::{GraphAux, GraphGeometry, QueryGeometry, inverse_norm, quantiser_rows};

use crate::element::Element;

/// An instruction set that this process may use. Holding a value other than [`Isa::SCALAR`] proves support.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(pub(crate) Level);

/// The sets themselves, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Level {
    Scalar,
    Avx2,
    Avx512,
}

impl Isa {
    /// Portable code.
    pub const SCALAR: Isa = Isa(Level::Scalar);

    /// The best instruction set of this machine, probed once. `KILN_ISA=scalar|avx2|avx512` lowers that of the row
    /// kernels, for tests and comparisons (dense products choose their own).
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            let found = Isa::probe();
            let Some(asked) = std::env::var("KILN_ISA").ok() else { return found };
            match Isa::supported().into_iter().find(|isa| isa.name() == asked) {
                Some(isa) => isa,
                None => {
                    tracing::warn!("KILN_ISA={asked} is not available here; using {}", found.name());
                    found
                }
            }
        })
    }

    /// Every instruction set that this machine supports, least first.
    pub fn supported() -> Vec<Isa> {
        [Level::Scalar, Level::Avx2, Level::Avx512]
            .into_iter()
            .filter(|&level| level <= Isa::probe().0)
            .map(Isa)
            .collect()
    }

    fn probe() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                return Isa(Level::Avx512);
            }
            if avx2 {
                return Isa(Level::Avx2);
            }
        }
        Isa(Level::Scalar)
    }

    /// `scalar`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }
}

/// The two sums that every metric is made of, for one pair of element types.
#[derive(Debug, Clone, Copy)]
pub struct RowKernel<A, B> {
    /// Squared Euclidean distance. Both slices must have the same length.
    pub l2_squared: fn(&[A], &[B]) -> f32,
    /// Dot product. Both slices must have the same length.
    pub dot: fn(&[A], &[B]) -> f32,
}

/// Element types with kernels: between two rows of the type, and from an f32 query to a row of the type.
pub trait Kernels: Element {
    /// Row against row.
    fn same(isa: Isa) -> RowKernel<Self, Self>;
    /// f32 query against row.
    fn against_f32(isa: Isa) -> RowKernel<f32, Self>;
}

macro_rules! kernels {
    ($type:ty, $scalar:ident, $simd:ident) => {
        impl Kernels for $type {
            fn same(isa: Isa) -> RowKernel<Self, Self> {
                match isa.0 {
                    Level::Scalar => scalar::$scalar(),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 => avx2::$simd(),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 => avx512::$simd(),
                    #[cfg(not(target_arch = "x86_64"))]
                    _ => scalar::$scalar(),
                }
            }

            fn against_f32(isa: Isa) -> RowKernel<f32, Self> {
                match isa.0 {
                    Level::Scalar => scalar::float(),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 => avx2::float(),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 => avx512::float(),
                    #[cfg(not(target_arch = "x86_64"))]
                    _ => scalar::float(),
                }
            }
        }
    };
}

kernels!(f32, float, float);
kernels!(f16, float, float);
kernels!(u8, integer, bytes);
kernels!(i8, integer, bytes);

/// Asks for a row's cache lines before they are needed: into the second-level cache, because a burst of dozens of lines
/// would wait for the few miss buffers of the first (whole query sets over `inline` nodes of 1.4 and 4.8 KB: 20% and 15%
/// more queries a second at recall .95 than with a hint for the first level).
#[inline(always)]
pub fn prefetch<T>(row: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of_val(row)).step_by(64) {
        // SAFETY: a prefetch never faults, and the address lies within the row.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(row.as_ptr().byte_add(line).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MAX_DIM;
    use proptest::prelude::*;

    /// Relative to the sum of absolute products, as the rounding of a sum is.
    fn close(fast: f32, plain: f32, magnitude: f32) -> bool {
        (fast - plain).abs() <= 1e-6 * magnitude.max(1.0) * 4.0
    }

    fn check<A: Element, B: Element>(fast: RowKernel<A, B>, plain: RowKernel<A, B>, a: &[A], b: &[B], exact: bool) {
        let norm = |x: f32, y: f32| x.abs() * y.abs() + x * x + y * y;
        let magnitude: f32 = a.iter().zip(b).map(|(x, y)| norm(x.to_f32(), y.to_f32())).sum();
        for (f, p) in [((fast.l2_squared)(a, b), (plain.l2_squared)(a, b)), ((fast.dot)(a, b), (plain.dot)(a, b))] {
            if exact {
                assert_eq!(f, p, "dim {}", a.len());
            } else {
                assert!(close(f, p, magnitude), "dim {}: {f} against {p}", a.len());
            }
        }
    }

    proptest! {
        #[test]
        fn every_isa_agrees_with_scalar(bytes in prop::collection::vec(any::<(u8, u8)>(), 0..600)) {
            let (a, b): (Vec<u8>, Vec<u8>) = bytes.into_iter().unzip();
            let (ai, bi): (Vec<i8>, Vec<i8>) = a.iter().zip(&b).map(|(&x, &y)| (x as i8, y as i8)).unzip();
            let float = |v: &[u8]| v.iter().map(|&x| (f32::from(x) - 100.0) / 17.0).collect::<Vec<f32>>();
            let half = |v: &[f32]| v.iter().map(|&x| f16::from_f32(x)).collect::<Vec<f16>>();
            let (af, bf) = (float(&a), float(&b));
            let (ah, bh) = (half(&af), half(&bf));
            for isa in Isa::supported() {
                check(u8::same(isa), u8::same(Isa::SCALAR), &a, &b, true);
                check(i8::same(isa), i8::same(Isa::SCALAR), &ai, &bi, true);
                check(f32::same(isa), f32::same(Isa::SCALAR), &af, &bf, false);
                check(f16::same(isa), f16::same(Isa::SCALAR), &ah, &bh, false);
                check(u8::against_f32(isa), u8::against_f32(Isa::SCALAR), &af, &b, false);
                check(i8::against_f32(isa), i8::against_f32(Isa::SCALAR), &af, &bi, false);
                check(f16::against_f32(isa), f16::against_f32(Isa::SCALAR), &af, &bh, false);
            }
        }
    }

    #[test]
    fn integers_are_exact_at_the_largest_dimension() {
        let (a, b) = (vec![255u8; MAX_DIM], vec![0u8; MAX_DIM]);
        let (lo, hi) = (vec![-128i8; MAX_DIM], vec![127i8; MAX_DIM]);
        for isa in Isa::supported() {
            assert_eq!((u8::same(isa).l2_squared)(&a, &b), MAX_DIM as f32 * 65025.0);
            assert_eq!((u8::same(isa).dot)(&a, &a), MAX_DIM as f32 * 65025.0);
            assert_eq!((i8::same(isa).l2_squared)(&lo, &hi), MAX_DIM as f32 * 65025.0);
            assert_eq!((i8::same(isa).dot)(&lo, &lo), MAX_DIM as f32 * 16384.0);
        }
    }
}
