//! The answers to a whole query set, once: what the judge scores and what each query cost.
//!
//! In: an open index, queries, search parameters. Out: ids as a matrix, and counts a query. Nothing is timed here;
//! queries are answered by all threads at once.

use kiln_builder::{BuilderError, QueryStats, SearchParams, Searcher};
use kiln_kernels::RowsView;
use ndarray::Array2;
use rayon::prelude::*;

use crate::judge::Judgement;
use crate::record::Answers;

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
    let mut ids = Array2::from_elem((queries.len(), params.k), -1i64);
    let mut distances = Array2::from_elem((queries.len(), params.k), f32::INFINITY);
    for ((hits, mut ids), mut distances) in hits.iter().zip(ids.rows_mut()).zip(distances.rows_mut()) {
        ids.iter_mut().zip(&hits.ids).for_each(|(slot, &id)| *slot = id as i64);
        distances.iter_mut().zip(&hits.distances).for_each(|(slot, &distance)| *slot = distance);
    }
    Ok(QueryAnswers { ids, distances, stats: hits.into_iter().map(|hits| hits.stats).collect() })
}

/// The record of judged answers.
pub(crate) fn judged(stats: &[QueryStats], judgement: Judgement) -> Answers {
    // A count past 32 bits would be more distances than an index has rows.
    let column =
        |count: fn(&QueryStats) -> u64| stats.iter().map(|s| u32::try_from(count(s)).unwrap_or(u32::MAX)).collect();
    Answers {
        strict_hits: judgement.strict_hits,
        id_hits: judgement.id_hits,
        ann_hits: judgement.ann_hits,
        possible: judgement.possible,
        distances: column(|s| s.distances),
        hops: column(|s| s.hops),
        pages: column(|s| s.pages),
        bytes: stats.iter().map(|s| s.bytes).collect(),
    }
}
