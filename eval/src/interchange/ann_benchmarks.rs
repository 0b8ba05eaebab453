//! Result files of ann-benchmarks: out, with the answers of every setting; and in, judged by Kiln's own rules.
//!
//! In: a run folder, its data set and its indexes. Out: `results/DATASET/K/ALGO[-batch]/SLUG.hdf5`, one a setting
//! ([`export()`]). And back: a file becomes a setting, its answers judged on the data set's own rows ([`read()`]).
//!
//! What its runner calls a single query is Kiln's mode latency-1, what it calls a batch is batch-T. It has no word for a
//! closed loop of several threads: such settings are left out.

mod export;
mod read;

use kiln_datasets::RowSource;
use kiln_kernels::{Metric, RowsView};
use ndarray::{Array2, ArrayView2};

use super::InterchangeError;
use crate::pairs::{Pair, pair_distances};

pub use export::{Exported, export};
pub use read::read;

/// The slack of its rule, absolute.
const SLACK: f64 = 1e-3;

/// The distance of each answer `(queries, k)` as users see it, recomputed in f64 on the data set's own rows; infinite
/// where there is none.
pub fn answer_distances(
    base: &dyn RowSource,
    queries: &RowsView<'_>,
    metric: Metric,
    ids: ArrayView2<'_, i64>,
) -> Result<Array2<f32>, InterchangeError> {
    let valid = |id: i64| u64::try_from(id).ok().filter(|&id| id < base.len());
    let pairs: Vec<Pair> =
        (ids.indexed_iter()).filter_map(|((query, _), &id)| Some(Pair { query, id: valid(id)? })).collect();
    let computed = pair_distances(base, queries.to_f32().view(), metric, &pairs)?;
    let mut distances = Array2::from_elem(ids.dim(), f32::INFINITY);
    // The pairs were collected in the order of the matrix.
    let answered = distances.iter_mut().zip(&ids).filter(|(_, id)| valid(**id).is_some());
    answered.zip(computed).for_each(|((slot, _), distance)| *slot = distance as f32);
    Ok(distances)
}

/// Recall as its plot program computes it from stated distances alone: answers within 1e-3 of the k-th true distance, the
/// mean over queries divided by k. `truth` and `found` are `(queries, at least k)`.
pub fn plotted_recall(truth: ArrayView2<'_, f32>, found: ArrayView2<'_, f32>, k: usize) -> f64 {
    let hits = truth.rows().into_iter().zip(found.rows()).map(|(truth, found)| {
        let threshold = f64::from(truth[k - 1]) + SLACK;
        found.iter().take(k).filter(|&&distance| f64::from(distance) <= threshold).count() as f64
    });
    hits.sum::<f64>() / found.nrows() as f64 / k as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plotted_rule_by_hand() {
        // Two queries, k 2. Thresholds .201 and .501.
        let truth = ndarray::array![[0.1f32, 0.2, 0.3], [0.5, 0.5, 0.9]];
        // A tie and one within the slack; a duplicate counts, what is missing does not.
        let found = ndarray::array![[0.2f32, 0.2009], [0.5, 0.5]];
        assert_eq!(plotted_recall(truth.view(), found.view(), 2), 1.0);
        let found = ndarray::array![[0.1f32, 0.202], [0.5, f32::INFINITY]];
        assert_eq!(plotted_recall(truth.view(), found.view(), 2), 0.5);
    }
}
