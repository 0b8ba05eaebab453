//! The answers to a whole query set, once: what the judge scores and what each query cost.
//!
//! In: an open index, queries, search parameters. Out: ids as a matrix, and counts a query. Nothing is timed here;
//! queries are answered by all threads at once.

use kiln_builder::{BuilderError, Hits, QueryStats, Residency, SearchParams, Searcher};
use kiln_kernels::RowsView;
use ndarray::Array2;
use rayon::prelude::*;

use crate::judge::Judgement;
use crate::measure::{Work, share};
use crate::record::{Answers, Mode};

/// What the processor says of a mode that is not its own.
const NO_DEVICE: &str = "a device answers in this mode, and the index lies on none: use batch-T";

/// What a search answered to each query.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryAnswers {
    /// Row numbers `(queries, k)`, nearest first, -1 where there are fewer.
    pub ids: Array2<i64>,
    /// Their distances as reported `(queries, k)`, infinity where there are fewer.
    pub distances: Array2<f32>,
    /// What each query cost.
    pub stats: Vec<QueryStats>,
}

/// Answers every query of `queries` `(queries, dim)`.
///
/// # Errors
/// The first search that failed.
pub fn answer_all(
    searcher: &Searcher,
    queries: &RowsView<'_>,
    params: &SearchParams,
) -> Result<QueryAnswers, BuilderError> {
    let hits = (0..queries.len())
        .into_par_iter()
        .map(|query| searcher.search(&queries.slice(query..query + 1), params))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(QueryAnswers::of(hits, params.k))
}

/// As [`answer_all`], in one call a thread: equal shares of `queries` on each of `threads` threads.
///
/// # Errors
/// The first search that failed.
pub fn answer_in_batch(
    searcher: &Searcher,
    queries: &RowsView<'_>,
    params: &SearchParams,
    threads: usize,
) -> Result<QueryAnswers, BuilderError> {
    let shares = (0..threads)
        .into_par_iter()
        .map(|thread| searcher.search_batch(&queries.slice(share(queries.len(), thread, threads)), params))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(QueryAnswers::of(shares.into_iter().flatten().collect(), params.k))
}

impl QueryAnswers {
    /// What was found for each query, at most `k` rows each.
    pub(crate) fn of(hits: Vec<Hits>, k: usize) -> Self {
        let mut ids = Array2::from_elem((hits.len(), k), -1i64);
        let mut distances = Array2::from_elem((hits.len(), k), f32::INFINITY);
        for ((hits, mut ids), mut distances) in hits.iter().zip(ids.rows_mut()).zip(distances.rows_mut()) {
            ids.iter_mut().zip(&hits.ids).for_each(|(slot, &id)| *slot = id as i64);
            distances.iter_mut().zip(&hits.distances).for_each(|(slot, &distance)| *slot = distance);
        }
        Self { ids, distances, stats: hits.into_iter().map(|hits| hits.stats).collect() }
    }

    /// The first query to which the others' ids differ from these.
    pub(crate) fn first_difference(&self, others: &QueryAnswers) -> Option<usize> {
        self.ids.outer_iter().zip(others.ids.outer_iter()).position(|(ours, theirs)| ours != theirs)
    }
}

/// A query set cut into its rows once, so that no search waits for that.
pub(crate) struct QuerySet<'q> {
    all: RowsView<'q>,
    rows: Vec<RowsView<'q>>,
}

impl<'q> QuerySet<'q> {
    pub(crate) fn new(all: RowsView<'q>) -> Self {
        let rows = (0..all.len()).map(|query| all.slice(query..query + 1)).collect();
        Self { all, rows }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// All of them.
    pub(crate) fn all(&self) -> &RowsView<'q> {
        &self.all
    }

    /// What a thread does to answer these queries in `mode`, on the processor.
    pub(crate) fn work<'a>(
        &'a self,
        searcher: &'a Searcher,
        params: SearchParams,
        mode: Mode,
    ) -> Work<'a, BuilderError> {
        match mode {
            Mode::Latency1 | Mode::Throughput { .. } => {
                Work::single(move |query| searcher.search(&self.rows[query], &params))
            }
            Mode::Batch { .. } => Work::batch(move |share| searcher.search_batch(&self.all.slice(share), &params)),
            Mode::BatchDevice { .. } => Work::batch(|_| Err(BuilderError::Mismatch(NO_DEVICE.into()))),
        }
    }
}

/// The record of judged answers from an index that lies there.
pub(crate) fn judged(stats: &[QueryStats], judgement: Judgement, residency: Residency) -> Answers {
    // A count past 32 bits would be more distances than an index has rows.
    let column =
        |count: fn(&QueryStats) -> u64| stats.iter().map(|s| u32::try_from(count(s)).unwrap_or(u32::MAX)).collect();
    let from_drive = residency == Residency::Ssd;
    Answers {
        strict_hits: judgement.strict_hits,
        id_hits: judgement.id_hits,
        ann_hits: judgement.ann_hits,
        possible: judgement.possible,
        distances: column(|s| s.distances),
        hops: column(|s| s.hops),
        pages: column(|s| s.pages),
        bytes: stats.iter().map(|s| s.bytes).collect(),
        cache_hits: if from_drive { column(|s| s.cache_hits) } else { Vec::new() },
        io_wait_us: if from_drive { stats.iter().map(|s| s.io_wait_ns as f32 / 1e3).collect() } else { Vec::new() },
        kernel_bytes: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_differ_by_ids() {
        let hits = |ids: &[u64]| Hits { ids: ids.to_vec(), ..Hits::default() };
        let ours = QueryAnswers::of(vec![hits(&[1, 2]), hits(&[3]), hits(&[])], 2);
        assert_eq!(ours.ids, ndarray::array![[1, 2], [3, -1], [-1, -1]]);
        assert_eq!(ours.first_difference(&ours), None);
        let theirs = QueryAnswers::of(vec![hits(&[1, 2]), hits(&[3]), hits(&[7])], 2);
        assert_eq!(ours.first_difference(&theirs), Some(2));
        let swapped = QueryAnswers::of(vec![hits(&[2, 1]), hits(&[3]), hits(&[])], 2);
        assert_eq!(ours.first_difference(&swapped), Some(0));
    }
}
