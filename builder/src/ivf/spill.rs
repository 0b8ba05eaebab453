//! A second list for every row (SOAR: Sun, Simcha, Dopson, Guo and Kumar, "SOAR: Improved Indexing for Approximate
//! Nearest Neighbor Search", NeurIPS 2023).
//!
//! In: rows, centroids, the first assignment. Out: a second. A row is missed when its first list looks far to the query,
//! and that is when the query lies along the row's residual; so the second centroid is chosen by
//! |x - c|^2 + LAMBDA <x - c, r>^2 / |r|^2, with r the residual to the first: one whose residual is short, and at a right
//! angle to r. Deviation: only the nearest centroids are looked at, not all.

use std::sync::Arc;

use kiln_kernels::{Backend, Element, Metric, Rows};
use ndarray::{Array2, ArrayView1};

use crate::error::BuilderError;
use crate::quantiser::chosen_rows;

/// Weight of the residual's part along the first residual. The paper uses 1 to 1.5.
const LAMBDA: f64 = 1.0;

/// Nearest centroids that a second one is chosen from.
const CANDIDATES: usize = 16;

/// Rows whose nearest centroids are found at a time.
pub(super) const CHUNK: usize = 1 << 14;

/// Finds second lists among some centroids.
pub(super) struct SecondLists<'a, B: Backend> {
    backend: &'a B,
    centroids: &'a Array2<f32>,
    base: B::Rows,
}

impl<'a, B: Backend> SecondLists<'a, B> {
    /// Among `centroids` `(nlist, dim)`.
    pub(super) fn among(backend: &'a B, centroids: &'a Array2<f32>) -> Result<Self, BuilderError> {
        let base = backend.upload(Arc::new(f32::into_rows(centroids.clone())), Metric::L2)?;
        Ok(Self { backend, centroids, base })
    }

    /// The second list of each row; that of the first assignment where there is only one list.
    pub(super) fn of(&self, rows: &Rows, metric: Metric, first: &[u32]) -> Result<Vec<u32>, BuilderError> {
        let Self { backend, centroids, base } = self;
        let mut second = Vec::with_capacity(rows.len());
        for start in (0..rows.len()).step_by(CHUNK) {
            let chosen: Vec<usize> = (start..rows.len().min(start + CHUNK)).collect();
            let seen = chosen_rows(rows, &chosen, metric);
            let queries = backend.upload(Arc::new(f32::into_rows(seen.clone())), Metric::L2)?;
            let near = backend.nearest(&queries, base, CANDIDATES.min(centroids.nrows()))?;
            for (i, &row) in chosen.iter().enumerate() {
                let own = first[row];
                let ids = near.ids.row(i);
                let others = ids.iter().copied().filter(|&c| c != own);
                let loss = |c: u32| loss(seen.row(i), centroids.row(own as usize), centroids.row(c as usize));
                let best = others.map(|c| (loss(c), c)).min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                second.push(best.map_or(own, |(_, c)| c));
            }
        }
        Ok(second)
    }
}

fn loss(x: ArrayView1<'_, f32>, first: ArrayView1<'_, f32>, second: ArrayView1<'_, f32>) -> f64 {
    let (mut rr, mut ss, mut rs) = (0f64, 0f64, 0f64);
    for ((x, a), b) in x.iter().zip(first).zip(second) {
        let (r, s) = (f64::from(x - a), f64::from(x - b));
        (rr, ss, rs) = (rr + r * r, ss + s * s, rs + r * s);
    }
    ss + if rr > 0.0 { LAMBDA * rs * rs / rr } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_kernels::CpuBackend;

    #[test]
    fn the_second_list_lies_at_a_right_angle() {
        // The row at 1 right of the first centroid: the second nearest lies along its residual, the third across.
        let centroids = ndarray::arr2(&[[0.0f32, 0.0], [2.3, 0.0], [1.0, 1.4]]);
        let rows = Rows::F32(ndarray::arr2(&[[1.0f32, 0.0]]));
        let second = |centroids: &Array2<f32>| {
            let backend = CpuBackend::new();
            SecondLists::among(&backend, centroids).unwrap().of(&rows, Metric::L2, &[0]).unwrap()
        };
        assert_eq!(second(&centroids), [2]);
        assert_eq!(second(&ndarray::arr2(&[[0.0f32, 0.0]])), [0]);
    }
}
