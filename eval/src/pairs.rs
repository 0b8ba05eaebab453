//! Exact distances of (query, base row) pairs, in f64, straight from the data set.
//!
//! In: pairs in any order. Out: one reported distance a pair. Base rows are read in ascending order and in
//! batches of bounded size, so that the base never needs to fit in memory and no region of the file is
//! read twice.

use kiln_datasets::source::gather_rows;
use kiln_datasets::{DatasetError, RowSource};
use kiln_kernels::{Element, Metric, dispatch_rows};
use ndarray::{ArrayView1, ArrayView2};
use rayon::prelude::*;

/// Base rows held at a time, in bytes.
const BATCH_BYTES: usize = 64 << 20;

/// A query and a base row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair {
    /// Row number of the query.
    pub query: usize,
    /// Row number in the base.
    pub id: u64,
}

/// The reported distance of each pair, in the order given: L2 not squared, 1 - cos (1 where either row is zero),
/// or minus the dot product. `queries` is `(queries, dim)`.
pub(crate) fn pair_distances(
    base: &dyn RowSource,
    queries: ArrayView2<'_, f32>,
    metric: Metric,
    pairs: &[Pair],
) -> Result<Vec<f64>, DatasetError> {
    pair_distances_in_batches(base, queries, metric, pairs, BATCH_BYTES)
}

fn pair_distances_in_batches(
    base: &dyn RowSource,
    queries: ArrayView2<'_, f32>,
    metric: Metric,
    pairs: &[Pair],
    batch_bytes: usize,
) -> Result<Vec<f64>, DatasetError> {
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    order.sort_unstable_by_key(|&at| pairs[at].id);
    let batch_rows = (batch_bytes / (base.dim() * base.dtype().bytes()).max(1)).max(1);

    let mut distances = vec![0.0; pairs.len()];
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let (ids, covered) = distinct_ids(rest, pairs, batch_rows);
        let (batch, later) = rest.split_at(covered);
        let rows = gather_rows(base, &ids)?;
        let computed: Vec<f64> = dispatch_rows!(rows.view(), rows => batch
            .par_iter()
            .map(|&at| {
                let Pair { query, id } = pairs[at];
                let row = ids.partition_point(|&other| other < id);
                distance(metric, queries.row(query), rows.row(row))
            })
            .collect());
        for (&at, distance) in batch.iter().zip(computed) {
            distances[at] = distance;
        }
        rest = later;
    }
    Ok(distances)
}

/// The first `limit` distinct ids of `order`, which ascends by id, and how many of its entries they cover.
fn distinct_ids(order: &[usize], pairs: &[Pair], limit: usize) -> (Vec<u64>, usize) {
    let mut ids = Vec::with_capacity(limit.min(order.len()));
    for (covered, &at) in order.iter().enumerate() {
        let id = pairs[at].id;
        if ids.last() != Some(&id) {
            if ids.len() == limit {
                return (ids, covered);
            }
            ids.push(id);
        }
    }
    (ids, order.len())
}

/// One reported distance, every product and sum in f64.
fn distance<T: Element>(metric: Metric, query: ArrayView1<'_, f32>, row: ArrayView1<'_, T>) -> f64 {
    let coordinates = || query.iter().zip(row.iter()).map(|(&a, &b)| (f64::from(a), f64::from(b.to_f32())));
    match metric {
        Metric::L2 => coordinates().map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt(),
        Metric::InnerProduct => -coordinates().map(|(a, b)| a * b).sum::<f64>(),
        Metric::Cosine => {
            let (dot, aa, bb) =
                coordinates().fold((0.0, 0.0, 0.0), |(dot, aa, bb), (a, b)| (dot + a * b, aa + a * a, bb + b * b));
            // A zero row has no direction: it lies at distance 1 from everything.
            if aa == 0.0 || bb == 0.0 { 1.0 } else { 1.0 - dot / (aa.sqrt() * bb.sqrt()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use kiln_datasets::source::MemorySource;
    use kiln_kernels::Rows;
    use ndarray::{Array2, array};

    use super::*;

    #[test]
    fn distances_are_those_reported() {
        let base = MemorySource::new(Rows::U8(array![[3, 4], [0, 0], [1, 0]]), "base");
        let queries = array![[0.0f32, 0.0], [2.0, 0.0]];
        let pairs = [(0, 0), (1, 1), (1, 2)].map(|(query, id)| Pair { query, id });
        let of = |metric| pair_distances(&base, queries.view(), metric, &pairs).expect("rows exist");
        assert_eq!(of(Metric::L2), [5.0, 2.0, 1.0]);
        assert_eq!(of(Metric::InnerProduct), [0.0, 0.0, -2.0]);
        assert_eq!(of(Metric::Cosine), [1.0, 1.0, 0.0]);
    }

    #[test]
    fn the_batch_size_changes_nothing() {
        let rows = Array2::from_shape_fn((50, 3), |(i, j)| (i * 3 + j) as f32);
        let base = MemorySource::new(Rows::F32(rows), "base");
        let queries = Array2::from_elem((2, 3), 7.5f32);
        let pairs: Vec<Pair> = (0..200).map(|i| Pair { query: i % 2, id: (i * 17 % 50) as u64 }).collect();
        let of =
            |bytes| pair_distances_in_batches(&base, queries.view(), Metric::L2, &pairs, bytes).expect("rows exist");
        let whole = of(BATCH_BYTES);
        for bytes in [1, 12, 13, 100] {
            assert_eq!(of(bytes), whole);
        }
        for (pair, distance) in pairs.iter().zip(&whole) {
            let row = [0.0, 1.0, 2.0].map(|j| 3.0 * pair.id as f64 + j - 7.5);
            assert_eq!(*distance, row.iter().map(|x| x * x).sum::<f64>().sqrt());
        }
    }

    #[test]
    fn a_row_past_the_end_is_an_error() {
        let base = MemorySource::new(Rows::F32(array![[1.0f32]]), "base");
        let queries = array![[0.0f32]];
        let pairs = [Pair { query: 0, id: 1 }];
        assert!(pair_distances(&base, queries.view(), Metric::L2, &pairs).is_err());
    }
}
