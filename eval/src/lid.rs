//! How hard each query is: its local intrinsic dimension.
//!
//! In: the true neighbours of each query. Out: the maximum-likelihood estimate of the dimension around it, as
//! [`kiln_datasets::lid`] defines it for rows: (k - 1) / sum of ln(r_k / r_i), neighbours at distance zero left
//! out. A query in a region of high dimension has many neighbours at nearly one distance, and is hard.

use kiln_datasets::{DatasetError, RowSource};
use kiln_kernels::{Metric, RowsView};
use ndarray::ArrayView2;

use crate::pairs::{Pair, pair_distances};

/// Distances below this are zero but for rounding (1 - cos of a row with itself).
const ZERO: f64 = 1e-12;

/// The local intrinsic dimension of each query, from the distances of `truth` `(queries, depth)`, recomputed on the
/// data set's own rows. `None` where it cannot be computed: fewer than two distinct positive distances, or the
/// inner product, which is no distance.
///
/// # Errors
/// When base rows cannot be read.
pub fn query_lid(
    base: &dyn RowSource,
    queries: &RowsView<'_>,
    truth: ArrayView2<'_, i64>,
    metric: Metric,
) -> Result<Vec<Option<f32>>, DatasetError> {
    if metric == Metric::InnerProduct {
        return Ok(vec![None; truth.nrows()]);
    }
    let n = base.len();
    let pairs: Vec<Pair> = (truth.rows().into_iter().enumerate())
        .flat_map(|(query, ids)| {
            let ids = ids.into_iter().filter_map(|&id| u64::try_from(id).ok());
            ids.filter(|&id| id < n).map(move |id| Pair { query, id })
        })
        .collect();
    let distances = pair_distances(base, queries.to_f32().view(), metric, &pairs)?;
    let mut lid = vec![None; truth.nrows()];
    let mut rest = distances.as_slice();
    for of_query in pairs.chunk_by(|a, b| a.query == b.query) {
        let (own, later) = rest.split_at(of_query.len());
        lid[of_query[0].query] = dimension(own, metric);
        rest = later;
    }
    Ok(lid)
}

/// The estimate from the distances of one query's neighbours.
fn dimension(distances: &[f64], metric: Metric) -> Option<f32> {
    let positive = || distances.iter().copied().filter(|&d| d > ZERO);
    let farthest = positive().max_by(f64::total_cmp)?;
    let logs: f64 = positive().map(|d| (farthest / d).ln()).sum();
    // 1 - cos is half the squared chord: the chord, which is a distance, has half the logarithm.
    let logs = if metric == Metric::Cosine { logs / 2.0 } else { logs };
    let lid = (positive().count() - 1) as f64 / logs;
    (logs > 0.0).then_some(lid as f32)
}

#[cfg(test)]
mod tests {
    use kiln_datasets::source::MemorySource;
    use kiln_kernels::Rows;
    use ndarray::{Array2, array};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn finds_the_dimension_of_a_ball() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for dim in [2usize, 5] {
            // Distances in a d-ball are U^(1/d).
            let mut total = 0.0;
            for _ in 0..50 {
                let distances: Vec<f64> =
                    (0..100).map(|_| rng.random_range(0.0f64..1.0).powf(1.0 / dim as f64)).collect();
                total += f64::from(dimension(&distances, Metric::L2).expect("computable"));
            }
            let mean = total / 50.0;
            assert!((mean / dim as f64 - 1.0).abs() < 0.1, "{mean} for {dim}");
        }
    }

    #[test]
    fn cosine_is_measured_by_its_chord() {
        let chords = [0.1f64, 0.2, 0.3, 0.4];
        let cosine = chords.map(|c| c * c / 2.0);
        let (l2, cosine) = (dimension(&chords, Metric::L2), dimension(&cosine, Metric::Cosine));
        let (l2, cosine) = (l2.expect("computable"), cosine.expect("computable"));
        assert!((l2 - cosine).abs() < 1e-4, "{l2} {cosine}");
    }

    #[test]
    fn none_where_it_cannot_be_computed() {
        let base = MemorySource::new(Rows::F32(array![[1.0f32], [2.0], [3.0], [-1.0]]), "line");
        let queries = Rows::F32(array![[0.0f32], [1.0], [0.0], [0.0]]);
        let truth = array![[0, 1, 2], [0, 1, 2], [0, -1, -1], [-1, -1, -1]];
        let lid = |metric| query_lid(&base, &queries.view(), truth.view(), metric).expect("rows exist");
        let found = lid(Metric::L2);
        assert!(found[0].is_some());
        // Query 1 coincides with row 0, which says nothing; the others do.
        assert!(found[1].is_some());
        assert_eq!(&found[2..], [None; 2]);
        assert_eq!(lid(Metric::InnerProduct), [None; 4]);
        assert_eq!(dimension(&[1.0; 5], Metric::L2), None);
        assert_eq!(dimension(&[], Metric::L2), None);
        let none = Array2::<i64>::zeros((4, 0));
        assert_eq!(query_lid(&base, &queries.view(), none.view(), Metric::L2).expect("nothing read"), [None; 4]);
    }
}
