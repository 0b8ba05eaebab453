//! Portable kernels: the obvious loops, in a fixed order. Twin of `avx2` and `avx512`.

use super::RowKernel;
use crate::element::Element;

/// Kernels that sum in f32, in eight interleaved lanes so that the compiler may vectorise.
pub(super) fn float<A: Element, B: Element>() -> RowKernel<A, B> {
    RowKernel {
        l2_squared: |a, b| {
            lanes(a, b, |x, y| {
                let d = x - y;
                d * d
            })
        },
        dot: |a, b| lanes(a, b, |x, y| x * y),
    }
}

/// Kernels that sum in i64, exactly.
pub(super) fn integer<A: Element + Into<i64>>() -> RowKernel<A, A> {
    RowKernel {
        l2_squared: |a, b| {
            assert_eq!(a.len(), b.len());
            a.iter().zip(b).map(|(&x, &y)| (x.into() - y.into()).pow(2)).sum::<i64>() as f32
        },
        dot: |a, b| {
            assert_eq!(a.len(), b.len());
            a.iter().zip(b).map(|(&x, &y)| x.into() * y.into()).sum::<i64>() as f32
        },
    }
}

#[inline(always)]
fn lanes<A: Element, B: Element>(a: &[A], b: &[B], term: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 8;
    assert_eq!(a.len(), b.len());
    let mut sums = [0.0f32; LANES];
    let (head_a, tail_a) = a.as_chunks::<LANES>();
    let (head_b, tail_b) = b.as_chunks::<LANES>();
    for (x, y) in head_a.iter().zip(head_b) {
        for lane in 0..LANES {
            sums[lane] += term(x[lane].to_f32(), y[lane].to_f32());
        }
    }
    for (lane, (x, y)) in tail_a.iter().zip(tail_b).enumerate() {
        sums[lane] += term(x.to_f32(), y.to_f32());
    }
    sums.iter().sum()
}
