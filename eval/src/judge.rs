//! The judge: how many of the returned ids are true neighbours.
//!
//! In: the data set's own rows, its ground truth, and returned ids. Out: hits a query by three rules
//! ([`Judgement`]). Distances that a search reports are never believed: those of returned and of true ids
//! alike are recomputed here from the rows, in f64, so that every engine is held to the same ruler.
//!
//! With d_k the k-th distance of the truth, an id is a hit by
//!
//! | rule | when |
//! |---|---|
//! | strict | d <= d_k + 1e-6 max(abs(d_k), scale): an equally near row counts, whatever its id |
//! | ids | it is among the truth's first k ids |
//! | ann-benchmarks | d <= d_k + 1e-3, which on cosine distances forgives real errors |
//!
//! The scale is 1 under cosine and the median abs(d_k) otherwise. Negative ids and ids past the last row are misses by
//! every rule. Repeats of an id are misses too, except by the ann-benchmarks rule, which looks at distances alone: it
//! counts what its own program counts, so that figures can be held against published ones.

use std::collections::HashMap;

use kiln_datasets::{DatasetError, RowSource};
use kiln_kernels::{Metric, RowsView};
use ndarray::{Array2, ArrayView2};

use crate::pairs::{Pair, pair_distances};
use crate::stats;

/// Slack of the strict rule, relative to a distance: rounding in f64 never crosses it, a different neighbour does.
const STRICT_SLACK: f64 = 1e-6;

/// Slack of the ann-benchmarks rule, absolute.
const ANN_BENCHMARKS_SLACK: f64 = 1e-3;

/// The most neighbours that can be judged: hits are stored as u16.
pub const MAX_K: usize = u16::MAX as usize;

/// Answers that cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// More neighbours asked for than the truth lists.
    #[error(
        "k {k} is beyond the ground truth, which lists {depth} neighbours a query: \
         lower k to {depth}, or compute deeper truth with `kiln datasets truth`"
    )]
    BeyondTruth {
        /// Neighbours asked for.
        k: usize,
        /// Neighbours that the truth lists.
        depth: usize,
    },
    /// A number of neighbours that cannot be stored.
    #[error("k {k} cannot be judged: use 1 to {MAX_K}")]
    BadK {
        /// Neighbours asked for.
        k: usize,
    },
    /// Matrices that do not belong together.
    #[error(
        "{queries} queries of {query_dim} coordinates cannot be judged with {other} on rows of {base_dim}: \
         give queries, truth and answers of one data set"
    )]
    Shape {
        /// The number of queries.
        queries: usize,
        /// Coordinates of a query.
        query_dim: usize,
        /// Coordinates of a base row.
        base_dim: usize,
        /// What does not fit, with its size.
        other: String,
    },
    /// The base rows could not be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
}

/// Hits of each query, in query order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Hits by the strict tie-aware rule.
    pub strict_hits: Vec<u16>,
    /// Returned ids that are among the truth's first k.
    pub id_hits: Vec<u16>,
    /// Hits by the ann-benchmarks rule.
    pub ann_hits: Vec<u16>,
    /// The denominator of recall: min(k, true neighbours of the query).
    pub possible: Vec<u16>,
    /// Queries to which a row was returned that is nearer than the truth's k-th and not in the truth: there the
    /// truth lies, or belongs to other rows.
    pub contradicted: Vec<usize>,
}

impl Judgement {
    /// Strict recall, the mean over queries that have a true neighbour; `None` when none has.
    pub fn recall(&self) -> Option<f64> {
        stats::mean(&self.recalls())
    }

    /// Strict recall of every query that has a true neighbour, in query order.
    pub fn recalls(&self) -> Vec<f64> {
        (self.strict_hits.iter().zip(&self.possible))
            .filter(|&(_, &possible)| possible > 0)
            .map(|(&hits, &possible)| f64::from(hits) / f64::from(possible))
            .collect()
    }
}

/// What the truth says of one query.
#[derive(Debug, Clone)]
struct Reference {
    /// The first k true neighbours and their recomputed distances, ascending by id.
    nearest: Vec<(u64, f64)>,
    /// The k-th distance, or that of the last true neighbour where there are fewer; `None` where there is none.
    kth: Option<f64>,
}

impl Reference {
    /// The distance of `id` where it is one of the true neighbours.
    fn distance(&self, id: u64) -> Option<f64> {
        let at = self.nearest.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        Some(self.nearest[at].1)
    }
}

/// A judge of answers to one query set at one k. Judging many answers with one judge costs less than
/// [`judge()`] each time, because the truth's distances are recomputed once.
pub struct Judge<'a> {
    base: &'a dyn RowSource,
    queries: Array2<f32>,
    metric: Metric,
    k: usize,
    references: Vec<Reference>,
    scale: f64,
}

impl std::fmt::Debug for Judge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge")
            .field("base", &self.base.path())
            .field("queries", &self.queries.dim())
            .field("metric", &self.metric)
            .field("k", &self.k)
            .field("scale", &self.scale)
            .finish()
    }
}

impl<'a> Judge<'a> {
    /// Prepares to judge answers to `queries` `(queries, dim)` by `truth` `(queries, depth)`, whose negative ids mean
    /// that there is no further neighbour. Base rows are gathered in bounded memory.
    ///
    /// # Errors
    /// When `k` is beyond the truth's depth, the matrices do not fit together, or rows cannot be read.
    pub fn new(
        base: &'a dyn RowSource,
        queries: &RowsView<'_>,
        truth: ArrayView2<'_, i64>,
        metric: Metric,
        k: usize,
    ) -> Result<Self, JudgeError> {
        if k == 0 || k > MAX_K {
            return Err(JudgeError::BadK { k });
        }
        if k > truth.ncols() {
            let depth = truth.ncols();
            return Err(JudgeError::BeyondTruth { k, depth });
        }
        if truth.nrows() != queries.len() || queries.dim() != base.dim() {
            return Err(JudgeError::Shape {
                queries: queries.len(),
                query_dim: queries.dim(),
                base_dim: base.dim(),
                other: format!("truth for {}", truth.nrows()),
            });
        }
        let queries = queries.to_f32();
        let nearest: Vec<Vec<u64>> =
            (truth.rows().into_iter()).map(|row| distinct_rows(row.iter().copied(), base.len(), k)).collect();
        let pairs: Vec<Pair> = (nearest.iter().enumerate())
            .flat_map(|(query, ids)| ids.iter().map(move |&id| Pair { query, id }))
            .collect();
        let mut distances = pair_distances(base, queries.view(), metric, &pairs)?.into_iter();
        let references: Vec<Reference> = (nearest.into_iter())
            .map(|ids| {
                let mut nearest: Vec<(u64, f64)> = ids.into_iter().zip(&mut distances).collect();
                nearest.sort_unstable_by_key(|&(id, _)| id);
                // The k-th smallest, whatever the order in which a truth of rounded distances lists them.
                let kth = nearest.iter().map(|&(_, d)| d).max_by(f64::total_cmp);
                Reference { nearest, kth }
            })
            .collect();
        let scale = match metric {
            Metric::Cosine => 1.0,
            Metric::L2 | Metric::InnerProduct => {
                let kth: Vec<f64> = references.iter().filter_map(|r| r.kth.map(f64::abs)).collect();
                stats::median(&kth).unwrap_or(0.0)
            }
        };
        Ok(Self { base, queries, metric, k, references, scale })
    }

    /// Judges the first k columns of `ids` `(queries, any width)`; negative ids stand for no answer.
    ///
    /// # Errors
    /// When `ids` has another number of rows than there are queries, or base rows cannot be read.
    pub fn judge(&self, ids: ArrayView2<'_, i64>) -> Result<Judgement, JudgeError> {
        if ids.nrows() != self.references.len() {
            return Err(JudgeError::Shape {
                queries: self.references.len(),
                query_dim: self.queries.ncols(),
                base_dim: self.base.dim(),
                other: format!("answers to {}", ids.nrows()),
            });
        }
        let first_k = |row: usize| ids.row(row).into_iter().copied().take(self.k);
        let answers: Vec<Vec<u64>> =
            (0..ids.nrows()).map(|row| distinct_rows(first_k(row), self.base.len(), self.k)).collect();
        // Most answers are true neighbours, whose distances are known: only the others are read.
        let strangers: Vec<Pair> = (answers.iter().zip(&self.references).enumerate())
            .flat_map(|(query, (ids, reference))| {
                let strangers = ids.iter().filter(|&&id| reference.distance(id).is_none());
                strangers.map(move |&id| Pair { query, id })
            })
            .collect();
        let mut strange_distances =
            pair_distances(self.base, self.queries.view(), self.metric, &strangers)?.into_iter();

        let mut judgement = Judgement::default();
        for (query, (answered, reference)) in answers.iter().zip(&self.references).enumerate() {
            let possible = reference.nearest.len();
            let (mut strict, mut by_id, mut ann) = (0, 0, 0);
            let mut contradicted = false;
            let mut repeats = repeated_rows(first_k(query), self.base.len());
            for &id in answered {
                let known = reference.distance(id);
                by_id += usize::from(known.is_some());
                let (Some(distance), Some(kth)) = (known.or_else(|| strange_distances.next()), reference.kth) else {
                    continue;
                };
                let slack = STRICT_SLACK * kth.abs().max(self.scale);
                strict += usize::from(distance <= kth + slack);
                contradicted |= known.is_none() && distance < kth - slack;
                if distance <= kth + ANN_BENCHMARKS_SLACK {
                    ann += 1 + repeats.remove(&id).unwrap_or(0);
                }
            }
            if contradicted {
                judgement.contradicted.push(query);
            }
            // Where a query has fewer than k true neighbours, rows tied with the last cannot make recall exceed 1.
            let stored = |hits: usize| hits.min(possible) as u16;
            judgement.strict_hits.push(stored(strict));
            judgement.id_hits.push(stored(by_id));
            judgement.ann_hits.push(stored(ann));
            judgement.possible.push(stored(possible));
        }
        Ok(judgement)
    }
}

/// Judges `ids` `(queries, any width)` once: see [`Judge::new`] and [`Judge::judge`].
///
/// # Errors
/// As those two.
pub fn judge(
    base: &dyn RowSource,
    queries: &RowsView<'_>,
    truth: ArrayView2<'_, i64>,
    metric: Metric,
    k: usize,
    ids: ArrayView2<'_, i64>,
) -> Result<Judgement, JudgeError> {
    Judge::new(base, queries, truth, metric, k)?.judge(ids)
}

/// The first `limit` distinct ids that name one of `n` rows, in the order given.
fn distinct_rows(ids: impl Iterator<Item = i64>, n: u64, limit: usize) -> Vec<u64> {
    let mut seen = std::collections::HashSet::with_capacity(limit);
    ids.filter_map(|id| u64::try_from(id).ok()).filter(|&id| id < n && seen.insert(id)).take(limit).collect()
}

/// How often each of `n` rows is named again.
fn repeated_rows(ids: impl Iterator<Item = i64>, n: u64) -> HashMap<u64, usize> {
    let mut named = HashMap::new();
    for id in ids.filter_map(|id| u64::try_from(id).ok()).filter(|&id| id < n) {
        *named.entry(id).or_insert(0) += 1;
    }
    named.retain(|_, times| {
        *times -= 1;
        *times > 0
    });
    named
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
