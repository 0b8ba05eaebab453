//! Exact k nearest neighbours by blocked products.
//!
//! A tile of queries times a tile of base rows gives approximate distances with a known error bound;
//! every row whose lower bound could still enter a query's k best is scored again by the exact row
//! kernel. The products thus only save work: they never decide an answer.

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::{row, tiles};
use crate::distance::{Kernels, QueryGeometry};
use crate::element::Element;
use crate::metric::Metric;
use crate::topk::{Scored, TopK};

/// Queries of one task, and base rows of one product.
const QUERY_TILE: usize = 128;
const BASE_TILE: usize = 1024;

/// For each query its `k` nearest base rows, ascending; the base is not empty.
pub(super) fn nearest<A: Element, T: Kernels>(
    queries: &ArrayView2<'_, A>,
    query_inverse_norms: &[f32],
    base: &ArrayView2<'_, T>,
    base_inverse_norms: &[f32],
    geometry: QueryGeometry<A, T>,
    k: usize,
) -> Vec<Vec<Scored>> {
    let base_norms: Vec<f32> = (0..base.nrows()).into_par_iter().map(|i| norm(row(base, i))).collect();
    // Few queries still keep every thread busy: tiles shrink until there are four a thread.
    let tile = queries.nrows().div_ceil(4 * rayon::current_num_threads()).clamp(1, QUERY_TILE);
    let starts: Vec<usize> = (0..queries.nrows()).step_by(tile).collect();
    starts
        .into_par_iter()
        .flat_map_iter(|first| {
            let count = tile.min(queries.nrows() - first);
            let mut tops = vec![TopK::new(k); count];
            let (mut a, mut b, mut products) = (Vec::new(), Vec::new(), Vec::new());
            tiles::widen(queries, first, count, |_| 1.0, &mut a);
            let query_norms: Vec<f32> = (first..first + count).map(|q| norm(row(queries, q))).collect();
            for base_first in (0..base.nrows()).step_by(BASE_TILE) {
                let base_count = BASE_TILE.min(base.nrows() - base_first);
                tiles::widen(base, base_first, base_count, |_| 1.0, &mut b);
                tiles::dot_products(&a, &b, base.ncols(), &mut products);
                let norms = &base_norms[base_first..base_first + base_count];
                for (q, (top, dots)) in tops.iter_mut().zip(products.chunks_exact(base_count)).enumerate() {
                    let inverse = query_inverse_norms.get(first + q).copied().unwrap_or(1.0);
                    let query = row(queries, first + q);
                    let bounds = LowerBound::new(geometry.metric, query_norms[q], base.ncols());
                    scan(dots, norms, bounds, top, |j| {
                        let id = base_first + j;
                        let base_inverse = base_inverse_norms.get(id).copied().unwrap_or(1.0);
                        let distance = geometry.distance(query, inverse, row(base, id), base_inverse);
                        Scored { distance, id: id as u32 }
                    });
                }
            }
            tops.into_iter().map(|mut top| top.drain_sorted()).collect::<Vec<_>>()
        })
        .collect()
}

/// Offers to `top` the exact score of every row of a tile whose lower bound does not exceed the bound. Where products
/// overflow the bound is NaN and excludes nothing.
fn scan(dots: &[f32], norms: &[f32], lower: LowerBound, top: &mut TopK, exact: impl Fn(usize) -> Scored) {
    const LANES: usize = 16;
    for (chunk, (dots, norms)) in dots.chunks(LANES).zip(norms.chunks(LANES)).enumerate() {
        let bound = top.bound();
        let possible = dots.iter().zip(norms).fold(false, |any, (&dot, &norm)| any | !lower.exceeds(bound, dot, norm));
        if possible {
            for (lane, (&dot, &norm)) in dots.iter().zip(norms).enumerate() {
                if !lower.exceeds(top.bound(), dot, norm) {
                    top.push(exact(chunk * LANES + lane));
                }
            }
        }
    }
}

/// A lower bound of the exact distance, as computed by the row kernels, from an f32 product.
///
/// A dot product of `dim` terms summed in any order errs by at most `dim` units in the last place of
/// |q||b| (Higham, Accuracy and Stability, section 3.1); norms and the final sums add a few more.
#[derive(Clone, Copy)]
struct LowerBound {
    metric: Metric,
    query_norm: f32,
    /// Relative error of a dot product, with a margin of four for both computations and their rounding.
    slack: f32,
}

impl LowerBound {
    fn new(metric: Metric, query_norm: f32, dim: usize) -> Self {
        Self { metric, query_norm, slack: 4.0 * (dim as f32 + 8.0) * (f32::EPSILON / 2.0) }
    }

    /// Whether the row is surely farther than `bound`; never where the bound cannot be computed.
    #[inline(always)]
    fn exceeds(&self, bound: f32, dot: f32, norm: f32) -> bool {
        self.of(dot, norm) > bound
    }

    #[inline(always)]
    fn of(&self, dot: f32, norm: f32) -> f32 {
        let product = self.query_norm * norm;
        match self.metric {
            Metric::L2 => {
                let squares = self.query_norm * self.query_norm + norm * norm;
                squares - 2.0 * dot - self.slack * (squares + 2.0 * product)
            }
            Metric::InnerProduct => -dot - self.slack * product,
            // A zero row is at distance 1 exactly.
            Metric::Cosine => {
                let cos = if product > 0.0 { dot / product } else { 0.0 };
                1.0 - cos - 4.0 * self.slack
            }
        }
    }
}

fn norm<T: Element>(row: &[T]) -> f32 {
    row.iter().map(|x| f64::from(x.to_f32()).powi(2)).sum::<f64>().sqrt() as f32
}
