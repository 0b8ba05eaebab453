//! Checks ground truth before it is believed: stored distances have been wrong before.
//!
//! In: a [`Dataset`] and how many of its queries to check. Out: the [`TruthIssue`]s found, each naming its row. The
//! listed distances are recomputed in f64, and a sample of the base is searched for rows that should have been listed.

use std::collections::HashSet;

use kiln_kernels::{Metric, Rows};
use ndarray::ArrayView1;
use rayon::prelude::*;

use crate::dataset::Dataset;
use crate::error::DatasetError;
use crate::geometry::Point;
use crate::recipe::hash;
use crate::source::gather_rows;
use crate::truth::Truth;

/// Base rows searched for a neighbour that the truth has missed, in runs of `RUN_ROWS`.
const SEARCHED_ROWS: u64 = 4096;
const RUN_ROWS: u64 = 256;

/// How far a stored distance may lie from the recomputed one, relative to itself.
const RELATIVE: f64 = 1e-4;
/// ... and how far relative to the lengths of the two rows: what f32 loses when it computes |a|^2 + |b|^2 - 2ab.
const CANCELLATION: f64 = 1e-5;
/// How much nearer a row must be than the last listed one to be called missed, relative to the cancellation scale.
const MISSED: f64 = 1e-6;

const QUERY: u64 = 6;
const RUN: u64 = 7;

/// Something wrong with one row of ground truth.
#[derive(Debug, Clone, PartialEq)]
pub struct TruthIssue {
    /// The query, which is the row of the truth.
    pub row: u64,
    /// What is wrong, with values.
    pub problem: String,
}

impl std::fmt::Display for TruthIssue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "truth row {}: {}", self.row, self.problem)
    }
}

/// Checks `sample` rows of a data set's truth, drawn by `seed` (all where there are no more): ids lie within the base,
/// none twice; distances ascend and agree with those recomputed in f64; and none of 4,096 sampled base rows is nearer
/// than the last one listed. A stored distance agrees within 1e-4 of itself, or within 1e-5 of the rows' scale: for
/// the inner product the product of their lengths, for the square of a Euclidean distance the sum of their squares,
/// for cosine 1. Squared Euclidean distances and plain dot products, as big-ann files state them, agree too.
///
/// # Errors
/// When the set has no queries or no truth, or cannot be read.
pub fn verify_truth(
    dataset: &Dataset,
    metric: Metric,
    sample: usize,
    seed: u64,
) -> Result<Vec<TruthIssue>, DatasetError> {
    let (Some(queries), Some(truth)) = (&dataset.queries, &dataset.truth) else {
        return Err(DatasetError::invalid(
            &dataset.path,
            "it has no queries with ground truth to check",
            "compute the ground truth with `kiln datasets truth`",
        ));
    };
    let drawn = draw(truth.queries() as u64, sample as u64, seed);
    let query_rows = gather_rows(queries.as_ref(), &drawn)?;
    let searched = searched_rows(dataset.base.len(), seed);
    let searched_rows = gather_rows(dataset.base.as_ref(), &searched)?;
    let searched: Vec<(u64, Point)> =
        searched.iter().enumerate().map(|(at, &row)| (row, Point::of(&searched_rows.view(), at))).collect();

    let mut issues = Vec::new();
    // Some queries at a time, so that the listed rows of all of them need not be held at once.
    for (chunk, some) in drawn.chunks(64).enumerate() {
        let listed: Vec<u64> = some.iter().flat_map(|&row| valid_ids(truth, row, dataset.base.len())).collect();
        let listed_rows = gather_rows(dataset.base.as_ref(), &listed)?;
        let mut next = 0;
        let checks: Vec<RowCheck<'_>> = some
            .iter()
            .enumerate()
            .map(|(i, &row)| {
                let first_listed = next;
                next += valid_ids(truth, row, dataset.base.len()).count();
                let query = Point::of(&query_rows.view(), chunk * 64 + i);
                RowCheck {
                    row,
                    query,
                    truth,
                    base_rows: dataset.base.len(),
                    metric,
                    listed_rows: &listed_rows,
                    first_listed,
                }
            })
            .collect();
        let found: Vec<Vec<TruthIssue>> = checks.par_iter().map(|check| check.issues(&searched)).collect();
        issues.extend(found.into_iter().flatten());
    }
    Ok(issues)
}

/// `count` distinct numbers below `n`, ascending; all of them where there are no more.
fn draw(n: u64, count: u64, seed: u64) -> Vec<u64> {
    if count >= n {
        return (0..n).collect();
    }
    let mut drawn = HashSet::new();
    let mut attempt = 0;
    while (drawn.len() as u64) < count {
        drawn.insert(hash(seed, QUERY, attempt, 0) % n);
        attempt += 1;
    }
    let mut drawn: Vec<u64> = drawn.into_iter().collect();
    drawn.sort_unstable();
    drawn
}

/// Seeded runs of base rows: runs, because a compressed chunk is unpacked once a run.
fn searched_rows(rows: u64, seed: u64) -> Vec<u64> {
    if rows <= SEARCHED_ROWS {
        return (0..rows).collect();
    }
    (0..SEARCHED_ROWS / RUN_ROWS)
        .flat_map(|run| {
            let start = hash(seed, RUN, run, 0) % (rows - RUN_ROWS + 1);
            start..start + RUN_ROWS
        })
        .collect()
}

/// The listed ids of a truth row that name base rows, in order.
fn valid_ids(truth: &Truth, row: u64, base_rows: u64) -> impl Iterator<Item = u64> {
    truth.ids.row(row as usize).into_iter().filter_map(move |&id| u64::try_from(id).ok().filter(|&id| id < base_rows))
}

/// One truth row with all that its check needs.
struct RowCheck<'a> {
    row: u64,
    query: Point,
    truth: &'a Truth,
    base_rows: u64,
    metric: Metric,
    /// Base rows of the valid ids, this row's from `first_listed` on.
    listed_rows: &'a Rows,
    first_listed: usize,
}

impl RowCheck<'_> {
    /// At most one issue of each kind: the first.
    fn issues(&self, searched: &[(u64, Point)]) -> Vec<TruthIssue> {
        let ids = self.truth.ids.row(self.row as usize);
        let exact = self.exact_distances();
        let problems = [
            self.foreign_id(ids),
            repeated_id(ids),
            self.wrong_distance(ids, &exact),
            self.disorder(&exact),
            self.missed_row(ids, &exact, searched),
        ];
        problems.into_iter().flatten().map(|problem| TruthIssue { row: self.row, problem }).collect()
    }

    /// Rank, distance and cancellation scale of each valid neighbour.
    fn exact_distances(&self) -> Vec<(usize, f64, f64)> {
        let valid = |id: i64| u64::try_from(id).is_ok_and(|id| id < self.base_rows);
        let ranks = self.truth.ids.row(self.row as usize).into_iter().enumerate().filter(|&(_, &id)| valid(id));
        ranks
            .zip(self.first_listed..)
            .map(|((rank, _), at)| {
                let neighbour = Point::of(&self.listed_rows.view(), at);
                (rank, self.query.distance(&neighbour, self.metric), self.scale(&neighbour))
            })
            .collect()
    }

    /// The size of the terms whose difference a distance is.
    fn scale(&self, other: &Point) -> f64 {
        match self.metric {
            Metric::L2 => self.query.squared_norm + other.squared_norm,
            Metric::InnerProduct => (self.query.squared_norm * other.squared_norm).sqrt(),
            Metric::Cosine => 1.0,
        }
    }

    fn foreign_id(&self, ids: ArrayView1<'_, i64>) -> Option<String> {
        let (rank, id) = ids.iter().enumerate().find(|&(_, &id)| id < 0 || id as u64 >= self.base_rows)?;
        Some(format!("neighbour {rank} is row {id}, but the base has {} rows", self.base_rows))
    }

    fn wrong_distance(&self, ids: ArrayView1<'_, i64>, exact: &[(usize, f64, f64)]) -> Option<String> {
        let stored = self.truth.distances.as_ref()?.row(self.row as usize).to_owned();
        let (rank, computed, _) =
            exact.iter().find(|&&(rank, computed, scale)| !self.agrees(f64::from(stored[rank]), computed, scale))?;
        Some(format!(
            "neighbour {rank} (row {}) is stated at distance {}, but lies at {computed} ({})",
            ids[*rank], stored[*rank], self.metric
        ))
    }

    /// True when `stored` is one of the ways in which files state the distance `computed`.
    fn agrees(&self, stored: f64, computed: f64, scale: f64) -> bool {
        let near = |a: f64, b: f64, slack: f64| (a - b).abs() <= RELATIVE * b.abs() + slack;
        match self.metric {
            // Rounding acts on squares, whichever of the two is stored.
            Metric::L2 => {
                let slack = CANCELLATION * scale;
                near(stored, computed, 0.0)
                    || near(stored * stored, computed * computed, slack)
                    || near(stored, computed * computed, slack)
            }
            Metric::InnerProduct => {
                near(stored, computed, CANCELLATION * scale) || near(-stored, computed, CANCELLATION * scale)
            }
            Metric::Cosine => near(stored, computed, CANCELLATION * scale),
        }
    }

    /// Neighbours must come nearest first, by the recomputed distances.
    fn disorder(&self, exact: &[(usize, f64, f64)]) -> Option<String> {
        let pair = exact
            .windows(2)
            .find(|pair| self.measure(pair[1].1) < self.measure(pair[0].1) - CANCELLATION * pair[0].2)?;
        Some(format!("neighbour {} at {} comes after neighbour {} at {}", pair[1].0, pair[1].1, pair[0].0, pair[0].1))
    }

    /// The quantity that the cancellation scale is about: the square of a Euclidean distance.
    fn measure(&self, distance: f64) -> f64 {
        match self.metric {
            Metric::L2 => distance * distance,
            Metric::InnerProduct | Metric::Cosine => distance,
        }
    }

    fn missed_row(
        &self,
        ids: ArrayView1<'_, i64>,
        exact: &[(usize, f64, f64)],
        searched: &[(u64, Point)],
    ) -> Option<String> {
        let &(rank, last, scale) = exact.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        let listed: HashSet<i64> = ids.iter().copied().collect();
        searched.iter().filter(|(row, _)| !listed.contains(&(*row as i64))).find_map(|(row, point)| {
            let distance = self.query.distance(point, self.metric);
            (self.measure(distance) < self.measure(last) - MISSED * scale).then(|| {
                format!("row {row} at {distance} is nearer than neighbour {rank} at {last}, and is not listed")
            })
        })
    }
}

fn repeated_id(ids: ArrayView1<'_, i64>) -> Option<String> {
    let mut seen = HashSet::new();
    let (rank, id) = ids.iter().enumerate().find(|&(_, &id)| !seen.insert(id))?;
    Some(format!("neighbour {rank} is row {id}, which is listed before"))
}
