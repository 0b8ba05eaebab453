//! How hard a set is, and whether its queries come from where its rows do.
//!
//! In: rows, queries, a metric, a backend. Out: a [`Difficulty`] of three figures, from exact search for a sample of
//! queries and for as many rows of the base.
//!
//! | figure | what | from |
//! |---|---|---|
//! | local intrinsic dimension | how fast the number of rows grows with distance: the higher, the more lie almost as near | see [`lid`](crate::lid) |
//! | relative contrast | mean distance of a row over mean distance of the nearest: 1 means that near and far hardly differ | He, Kumar and Chang, "On the Difficulty of Nearest Neighbor Search", ICML 2012 |
//! | shift | whether queries lie as near to the base as its own rows do | distance to the k-th nearest row as the score of being out of distribution: Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022; compared by the two-sample test of Smirnov (1939) |
//!
//! Distances are Euclidean, under the cosine metric those of rows of length 1 (the chord, sqrt(2 (1 - cos))). The inner
//! product is no distance: a set that is searched by it has none of these figures.

use kiln_kernels::{Backend, Metric, Progress, Rows};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::DatasetError;
use crate::exact::exact_truth;
use crate::geometry::Point;
use crate::lid::{LID_NEIGHBOURS, estimate_dimension};
use crate::recipe::hash;
use crate::source::{MemorySource, RowSource, gather_rows};

/// Streams of the generator that draws the samples.
const QUERIES: u64 = 6;
const ROWS: u64 = 7;
/// The neighbour whose distance is compared: the nearest alone is noisy, and duplicates put it at zero.
pub const SHIFT_NEIGHBOUR: usize = 10;
/// Below this, two samples are taken to differ.
pub const SHIFT_LEVEL: f64 = 0.01;

/// What to look at.
#[derive(Clone, Copy)]
pub struct DifficultyRequest<'a> {
    /// The rows that are searched.
    pub base: &'a dyn RowSource,
    /// The rows that are searched for.
    pub queries: &'a dyn RowSource,
    /// How they are compared.
    pub metric: Metric,
    /// Queries to look at, and rows of the base; all where there are fewer.
    pub sample: usize,
    /// Draws both.
    pub seed: u64,
    /// As [`exact_truth`] takes it.
    pub memory_budget_bytes: u64,
}

/// How hard a set is. A figure that cannot be computed is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difficulty {
    /// Queries that were looked at.
    pub queries: usize,
    /// Rows of the base that were looked at.
    pub rows: usize,
    /// Median local intrinsic dimension around the queries.
    pub lid_queries: Option<f64>,
    /// The same around rows of the base.
    pub lid_rows: Option<f64>,
    /// Mean distance of a query to a row over its mean distance to the nearest.
    pub relative_contrast: Option<f64>,
    /// Queries compared with rows of the base.
    pub shift: Option<Shift>,
}

/// Two samples of distances to the [`SHIFT_NEIGHBOUR`]-th nearest row, compared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// The greatest difference of their distribution functions (Kolmogorov-Smirnov), 0 to 1.
    pub statistic: f64,
    /// How often samples of one distribution differ as much.
    pub p_value: f64,
    /// The median of the first over that of the second: above 1 the queries lie farther out than the rows do.
    pub ratio: f64,
}

impl Shift {
    /// Whether the two differ by more than chance explains.
    pub fn is_detected(&self) -> bool {
        self.p_value < SHIFT_LEVEL
    }
}

/// Measures how hard `request`'s set is.
///
/// # Errors
/// When a source cannot be read, dimensions differ, or the backend refuses.
pub fn difficulty<B: Backend>(
    backend: &B,
    request: &DifficultyRequest<'_>,
    progress: &dyn Progress,
) -> Result<Difficulty, DatasetError> {
    let DifficultyRequest { base, queries, metric, sample, seed, memory_budget_bytes } = *request;
    let (searched, own) = (distinct(seed, QUERIES, sample, queries.len()), distinct(seed, ROWS, sample, base.len()));
    let mut found = Difficulty {
        queries: searched.len(),
        rows: own.len(),
        lid_queries: None,
        lid_rows: None,
        relative_contrast: None,
        shift: None,
    };
    if metric == Metric::InnerProduct || searched.is_empty() || base.len() < 3 {
        return Ok(found);
    }
    let (query_rows, base_rows) = (gather_rows(queries, &searched)?, gather_rows(base, &own)?);
    // One more than an estimate rests on: the nearest row to a row of the base is itself.
    let depth = (LID_NEIGHBOURS as u64 + 1).min(base.len()) as usize;
    let nearest = |rows: &Rows| {
        let rows = MemorySource::new(rows.clone(), base.path());
        exact_truth(backend, base, &rows, metric, depth, memory_budget_bytes, progress)
    };
    let (of_queries, of_rows) = (nearest(&query_rows)?, nearest(&base_rows)?);
    let profile = |truth: &crate::truth::Truth, query: usize, own: Option<u64>| -> Vec<f64> {
        let distances = truth.distances.as_ref().expect("exact truth states its distances").row(query);
        // Among more duplicates than the search is deep the row itself may be missing: then any of them stands for it.
        let skip = own.map(|own| truth.ids.row(query).iter().position(|&id| id as u64 == own).unwrap_or(0));
        let kept = distances.iter().enumerate().filter(|&(rank, _)| Some(rank) != skip);
        kept.map(|(_, &distance)| euclidean(f64::from(distance), metric)).take(depth - 1).collect()
    };
    let query_profiles: Vec<Vec<f64>> = (0..searched.len()).map(|query| profile(&of_queries, query, None)).collect();
    let row_profiles: Vec<Vec<f64>> =
        own.iter().enumerate().map(|(row, &id)| profile(&of_rows, row, Some(id))).collect();

    found.lid_queries = median_dimension(&query_profiles);
    found.lid_rows = median_dimension(&row_profiles);
    let least = mean(query_profiles.iter().filter_map(|profile| profile.first().copied()));
    found.relative_contrast =
        least.filter(|&least| least > 0.0).map(|least| mean_distance(&query_rows, &base_rows, metric) / least);
    let rank = SHIFT_NEIGHBOUR.min(depth - 1) - 1;
    let at_rank = |profiles: &[Vec<f64>]| profiles.iter().map(|profile| profile[rank]).collect::<Vec<f64>>();
    found.shift = shift(&at_rank(&query_profiles), &at_rank(&row_profiles));
    Ok(found)
}

/// A reported distance as the Euclidean one.
fn euclidean(distance: f64, metric: Metric) -> f64 {
    match metric {
        Metric::Cosine => (2.0 * distance.max(0.0)).sqrt(),
        Metric::L2 | Metric::InnerProduct => distance,
    }
}

fn median_dimension(profiles: &[Vec<f64>]) -> Option<f64> {
    let mut estimates: Vec<f64> =
        profiles.iter().filter_map(|profile| estimate_dimension(profile.iter().copied())).collect();
    median(&mut estimates)
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len().checked_sub(1)?;
    Some((values[middle / 2] + values[middle.div_ceil(2)]) / 2.0)
}

/// The mean distance of all pairs, summed in one order whatever the threads.
fn mean_distance(queries: &Rows, rows: &Rows, metric: Metric) -> f64 {
    let points: Vec<Point> = (0..rows.len()).map(|row| Point::of(&rows.view(), row)).collect();
    let sums: Vec<f64> = (0..queries.len())
        .into_par_iter()
        .map(|query| {
            let query = Point::of(&queries.view(), query);
            points.iter().map(|row| euclidean(query.distance(row, metric), metric)).sum()
        })
        .collect();
    sums.iter().sum::<f64>() / (queries.len() * rows.len()) as f64
}

/// `sample` different numbers below `n`, ascending; all of them where there are no more.
fn distinct(seed: u64, stream: u64, sample: usize, n: u64) -> Vec<u64> {
    if n <= sample as u64 {
        return (0..n).collect();
    }
    let mut drawn = std::collections::BTreeSet::new();
    let mut i = 0;
    while drawn.len() < sample {
        drawn.insert(hash(seed, stream, i, 0) % n);
        i += 1;
    }
    drawn.into_iter().collect()
}

/// The two-sample Kolmogorov-Smirnov test; `None` where a sample is empty or holds what is no number. Its p-value is the
/// asymptotic one with Stephens' correction for small samples (JRSS B 32, 1970).
pub fn shift(first: &[f64], second: &[f64]) -> Option<Shift> {
    if first.is_empty() || second.is_empty() || first.iter().chain(second).any(|value| !value.is_finite()) {
        return None;
    }
    let (mut first, mut second) = (first.to_vec(), second.to_vec());
    let (median_first, median_second) = (median(&mut first)?, median(&mut second)?);
    let (n, m) = (first.len() as f64, second.len() as f64);
    let (mut i, mut j, mut statistic) = (0, 0, 0.0_f64);
    while i < first.len() && j < second.len() {
        // Both functions step past all that is equal before they are compared.
        let value = first[i].min(second[j]);
        i += first[i..].partition_point(|&x| x <= value);
        j += second[j..].partition_point(|&x| x <= value);
        statistic = statistic.max((i as f64 / n - j as f64 / m).abs());
    }
    let root = (n * m / (n + m)).sqrt();
    let ratio = if median_first == median_second { 1.0 } else { median_first / median_second };
    Some(Shift { statistic, p_value: kolmogorov((root + 0.12 + 0.11 / root) * statistic), ratio })
}

/// The probability that the Kolmogorov distribution exceeds `x`: 2 sum over j of (-1)^(j-1) exp(-2 j^2 x^2).
fn kolmogorov(x: f64) -> f64 {
    // The series does not converge where the probability is 1 to ten digits.
    if x < 0.2 {
        return 1.0;
    }
    let term = |j: i32| if j % 2 == 1 { 2.0 } else { -2.0 } * (-2.0 * f64::from(j * j) * x * x).exp();
    (1..=100).map(term).sum::<f64>().clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use kiln_kernels::{CpuBackend, NoProgress};
    use ndarray::Array2;

    use super::*;
    use crate::synth::{SynthSource, SynthSpec};

    /// The definition: the greatest difference at any value of either sample.
    fn plain_statistic(first: &[f64], second: &[f64]) -> f64 {
        let below = |sample: &[f64], x: f64| sample.iter().filter(|&&y| y <= x).count() as f64 / sample.len() as f64;
        first.iter().chain(second).map(|&x| (below(first, x) - below(second, x)).abs()).fold(0.0, f64::max)
    }

    #[test]
    fn the_statistic_is_the_plain_one() {
        for round in 0..50u64 {
            let draw = |stream: u64, count: u64| -> Vec<f64> {
                // Few values make many ties.
                (0..count).map(|i| (hash(round, stream, i, 0) % 7) as f64).collect()
            };
            let (first, second) = (draw(1, 1 + round % 9), draw(2, 1 + round % 14));
            let found = shift(&first, &second).expect("numbers");
            assert!((found.statistic - plain_statistic(&first, &second)).abs() < 1e-12, "{first:?} {second:?}");
            let swapped = shift(&second, &first).expect("numbers");
            assert_eq!((found.statistic, found.p_value), (swapped.statistic, swapped.p_value));
        }
    }

    #[test]
    fn p_values_are_those_of_the_tables() {
        // Critical values of the Kolmogorov distribution (Smirnov, 1948).
        for (x, p) in [(1.2238, 0.10), (1.3581, 0.05), (1.6276, 0.01), (1.9495, 0.001)] {
            assert!((kolmogorov(x) - p).abs() < p * 1e-2, "{x}: {}", kolmogorov(x));
        }
        assert_eq!((kolmogorov(0.0), kolmogorov(10.0) < 1e-80), (1.0, true));
        let same: Vec<f64> = (0..100).map(f64::from).collect();
        let found = shift(&same, &same).expect("numbers");
        assert_eq!((found.statistic, found.p_value, found.ratio, found.is_detected()), (0.0, 1.0, 1.0, false));
        assert_eq!(shift(&[], &same), None);
        assert_eq!(shift(&[f64::NAN], &same), None);
    }

    #[test]
    fn one_distribution_is_rarely_told_from_itself_and_another_is_found() {
        let uniform = |seed: u64, stream: u64| -> Vec<f64> {
            (0..200).map(|i| (hash(seed, stream, i, 0) >> 11) as f64 / (1u64 << 53) as f64).collect()
        };
        let detected = (0..300).filter(|&s| shift(&uniform(s, 1), &uniform(s, 2)).expect("numbers").is_detected());
        assert!(detected.count() <= 9, "a level of 1% is exceeded");
        let farther: Vec<f64> = uniform(1, 1).iter().map(|x| x + 0.25).collect();
        let found = shift(&farther, &uniform(1, 2)).expect("numbers");
        assert!(found.is_detected() && found.ratio > 1.2, "{found:?}");
    }

    fn of(base: &dyn RowSource, queries: &dyn RowSource, metric: Metric) -> Difficulty {
        let request = DifficultyRequest { base, queries, metric, sample: 200, seed: 1, memory_budget_bytes: 1 << 28 };
        difficulty(&CpuBackend::default(), &request, &NoProgress).expect("measured")
    }

    #[test]
    fn queries_of_the_base_are_not_told_from_it_and_others_are() {
        let base = SynthSource::new(&SynthSpec { clusters: 4, ..SynthSpec::new(3000, 16, 8.0) }).expect("made");
        let own = of(&base, &base.queries(200), Metric::L2);
        let shift = own.shift.expect("compared");
        assert!(!shift.is_detected() && (shift.ratio - 1.0).abs() < 0.15, "{own:?}");
        assert!((own.lid_queries.expect("known") / own.lid_rows.expect("known") - 1.0).abs() < 0.2, "{own:?}");
        assert!(own.relative_contrast.is_some_and(|contrast| contrast > 1.2), "{own:?}");

        let moved = base.queries(200).read(0..200).expect("rows").view().to_f32() * 1.7;
        let foreign = of(&base, &MemorySource::new(Rows::F32(moved), "moved"), Metric::L2);
        let shift = foreign.shift.expect("compared");
        assert!(shift.is_detected() && shift.ratio > 1.1, "{foreign:?}");
        let cosine = of(&base, &base.queries(200), Metric::Cosine);
        assert!(!cosine.shift.expect("compared").is_detected(), "{cosine:?}");
        let product = of(&base, &base.queries(200), Metric::InnerProduct);
        assert_eq!((product.shift, product.relative_contrast, product.lid_queries), (None, None, None));
    }

    #[test]
    fn contrast_is_the_ratio_of_mean_distances() {
        // On a line: from the query at 0, rows at 1, 2, 3, 4; from the query at 10, at 9, 8, 7, 6.
        let rows = |values: &[f32]| {
            let cells = values.to_vec();
            MemorySource::new(Rows::F32(Array2::from_shape_vec((cells.len(), 1), cells).expect("a column")), "line")
        };
        let found = of(&rows(&[1.0, 2.0, 3.0, 4.0]), &rows(&[0.0, 10.0]), Metric::L2);
        let expected = ((1.0 + 2.0 + 3.0 + 4.0 + 9.0 + 8.0 + 7.0 + 6.0) / 8.0) / ((1.0 + 6.0) / 2.0);
        assert!((found.relative_contrast.expect("known") - expected).abs() < 1e-9, "{found:?}");
        let zero = of(&rows(&[1.0, 1.0, 1.0]), &rows(&[1.0]), Metric::L2);
        assert_eq!((zero.relative_contrast, zero.lid_queries), (None, None));
    }
}
