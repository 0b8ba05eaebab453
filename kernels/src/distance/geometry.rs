//! Metrics made of row kernels and one number a row.
//!
//! [`QueryGeometry`] orders rows for a query. [`GraphGeometry`] is the symmetric, non-negative distance
//! in which graphs are built and pruned: the same as the metric for L2 and cosine; for inner product the
//! squared L2 after lifting every row to one more coordinate, sqrt(M^2 - |x|^2) with M the largest norm,
//! which turns maximum inner product into nearest neighbour (Bachrach et al., RecSys 2014).

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::{Isa, Kernels, RowKernel};
use crate::element::Element;
use crate::metric::Metric;
use crate::rows::RowsView;

/// 1 / |row|, or 0 for a zero row, which puts it at cosine distance 1 from everything. Summed in f64.
pub fn inverse_norm<T: Element>(row: &[T]) -> f32 {
    let norm = squared_norm(row).sqrt();
    let inverse = (1.0 / norm) as f32;
    // A norm too small to invert in f32 has no usable direction either.
    if norm > 0.0 && inverse.is_finite() { inverse } else { 0.0 }
}

/// Rows as quantisers see them: f32, and under cosine at unit length (a zero row stays zero).
pub fn quantiser_rows(rows: &RowsView<'_>, metric: Metric) -> Array2<f32> {
    let mut seen = rows.to_f32();
    if metric == Metric::Cosine {
        for mut row in seen.outer_iter_mut() {
            let inverse = inverse_norm(&row.to_vec());
            row.mapv_inplace(|x| x * inverse);
        }
    }
    seen
}

/// |row|^2, summed in f64.
pub(crate) fn squared_norm<T: Element>(row: &[T]) -> f64 {
    // Eight sums side by side, for the vector units.
    let mut sums = [0f64; 8];
    let (whole, rest) = row.as_chunks::<8>();
    for chunk in whole {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += f64::from(x.to_f32()) * f64::from(x.to_f32()));
    }
    sums.iter().sum::<f64>() + rest.iter().map(|x| f64::from(x.to_f32()).powi(2)).sum::<f64>()
}

/// Ordering distance from queries of type `A` to rows of type `T`.
#[derive(Debug, Clone, Copy)]
pub struct QueryGeometry<A, T> {
    /// The metric.
    pub metric: Metric,
    kernel: RowKernel<A, T>,
}

impl<T: Kernels> QueryGeometry<T, T> {
    /// Queries of the rows' own type.
    pub fn same(metric: Metric, isa: Isa) -> Self {
        Self { metric, kernel: T::same(isa) }
    }
}

impl<T: Kernels> QueryGeometry<f32, T> {
    /// f32 queries against rows of any type.
    pub fn widened(metric: Metric, isa: Isa) -> Self {
        Self { metric, kernel: T::against_f32(isa) }
    }
}

impl<A: Element, T: Element> QueryGeometry<A, T> {
    /// Ordering distance between `query` and `row`; the inverse norms are read under cosine only.
    #[inline(always)]
    pub fn distance(&self, query: &[A], query_inverse_norm: f32, row: &[T], row_inverse_norm: f32) -> f32 {
        match self.metric {
            Metric::L2 => (self.kernel.l2_squared)(query, row),
            Metric::InnerProduct => -(self.kernel.dot)(query, row),
            Metric::Cosine => 1.0 - (self.kernel.dot)(query, row) * query_inverse_norm * row_inverse_norm,
        }
    }
}

/// What graph building keeps beside the rows, whatever their type: one number a row.
#[derive(Debug, Clone)]
pub struct GraphAux {
    metric: Metric,
    /// Per row: inverse norm (cosine), lifted coordinate (inner product), empty (L2).
    per_row: Vec<f32>,
}

impl GraphAux {
    /// The numbers of `rows` `(n, dim)`, contiguous.
    pub fn new<T: Element>(rows: ArrayView2<'_, T>, metric: Metric) -> Self {
        let row = |i: usize| rows.row(i).to_slice().expect("rows are contiguous by construction");
        let rows_in_parallel = || (0..rows.nrows()).into_par_iter();
        match metric {
            Metric::L2 => Self { metric, per_row: Vec::new() },
            Metric::Cosine => {
                let per_row = rows_in_parallel().map(|i| inverse_norm(row(i))).collect();
                Self { metric, per_row }
            }
            Metric::InnerProduct => {
                let squared: Vec<f64> = rows_in_parallel().map(|i| squared_norm(row(i))).collect();
                let max = squared.iter().copied().fold(0.0, f64::max);
                let per_row = squared.iter().map(|s| (max - s).max(0.0).sqrt() as f32).collect();
                Self { metric, per_row }
            }
        }
    }

    /// The numbers of rows that are part of a set whose largest squared norm is `largest_squared`.
    pub fn of_part<T: Element>(rows: ArrayView2<'_, T>, metric: Metric, largest_squared: f64) -> Self {
        if metric != Metric::InnerProduct {
            return Self::new(rows, metric);
        }
        let row = |i: usize| rows.row(i).to_slice().expect("rows are contiguous by construction");
        let lifted = |i: usize| (largest_squared - squared_norm(row(i))).max(0.0).sqrt() as f32;
        Self { metric, per_row: (0..rows.nrows()).into_par_iter().map(lifted).collect() }
    }

    /// Inverse norms `(n)` (cosine), lifted coordinates `(n)` (inner product), or nothing (L2).
    pub(crate) fn per_row(&self) -> &[f32] {
        &self.per_row
    }

    /// 1 / norm of each row `(n)` under cosine, empty under the other metrics.
    pub fn inverse_norms(&self) -> &[f32] {
        if self.metric == Metric::Cosine { &self.per_row } else { &[] }
    }
}

/// The symmetric distance in which graphs are built.
#[derive(Debug, Clone, Copy)]
pub struct GraphGeometry<'a, T> {
    kernel: RowKernel<T, T>,
    isa: Isa,
    aux: &'a GraphAux,
}

impl<'a, T: Kernels> GraphGeometry<'a, T> {
    /// The geometry of the rows that `aux` was made of.
    pub fn new(aux: &'a GraphAux, isa: Isa) -> Self {
        Self { kernel: T::same(isa), isa, aux }
    }

    /// The number of row `i` that `distance` wants.
    #[inline(always)]
    pub fn aux(&self, i: usize) -> f32 {
        self.aux.per_row().get(i).copied().unwrap_or(0.0)
    }

    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    pub(crate) fn metric(&self) -> Metric {
        self.aux.metric
    }

    /// Coordinates of a row in the space where the distance is squared L2, or under cosine 1 - dot.
    pub(crate) fn flat_dim(&self, dim: usize) -> usize {
        dim + usize::from(self.aux.metric == Metric::InnerProduct)
    }

    /// Row `i` in that space: as it is, at unit length (cosine), or lifted by one coordinate (inner product).
    pub(crate) fn flatten(&self, row: &[T], i: usize, out: &mut [f32]) {
        let aux = self.aux(i);
        let scale = if self.aux.metric == Metric::Cosine { aux } else { 1.0 };
        for (out, x) in out.iter_mut().zip(row) {
            *out = x.to_f32() * scale;
        }
        if self.aux.metric == Metric::InnerProduct {
            out[row.len()] = aux;
        }
    }

    /// Distance between two rows, given with their [`aux`](Self::aux); symmetric and non-negative.
    #[inline(always)]
    pub fn distance(&self, a: &[T], aux_a: f32, b: &[T], aux_b: f32) -> f32 {
        match self.aux.metric {
            Metric::L2 => (self.kernel.l2_squared)(a, b),
            Metric::Cosine => (1.0 - (self.kernel.dot)(a, b) * (aux_a * aux_b)).max(0.0),
            // The difference of the lifted coordinates; expanding the square would cancel.
            Metric::InnerProduct => (self.kernel.l2_squared)(a, b) + (aux_a - aux_b) * (aux_a - aux_b),
        }
    }
}
