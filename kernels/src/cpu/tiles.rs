//! Tiles of rows widened to f32, and the dense product of two of them.

use ndarray::ArrayView2;

use crate::element::Element;

/// Rows `first..first + count` widened to f32 and scaled, row-major `(count, dim)`, into `out`.
pub(super) fn widen<T: Element>(
    rows: &ArrayView2<'_, T>,
    first: usize,
    count: usize,
    scale: impl Fn(usize) -> f32,
    out: &mut Vec<f32>,
) {
    out.clear();
    for i in first..first + count {
        let factor = scale(i);
        out.extend(super::row(rows, i).iter().map(|x| x.to_f32() * factor));
    }
}

/// `out[i * n + j] = a[i] . b[j]` for `a` `(m, dim)` and `b` `(n, dim)`, both row-major, on this thread.
pub(super) fn dot_products(a: &[f32], b: &[f32], dim: usize, out: &mut Vec<f32>) {
    let (m, n) = (a.len() / dim, b.len() / dim);
    out.clear();
    out.resize(m * n, 0.0);
    // SAFETY: `out` holds m * n, `a` m * dim and `b` n * dim elements, addressed below with exactly the
    // strides of row-major matrices (b transposed); `out` does not alias the inputs.
    unsafe {
        gemm::gemm(
            m,
            n,
            dim,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            dim as isize,
            b.as_ptr(),
            dim as isize,
            1,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
