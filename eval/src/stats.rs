//! Statistics over raw samples.
//!
//! In: slices of measurements and (recall, throughput) points. Out: medians with bootstrap intervals,
//! percentiles of merged histograms, Pareto frontiers and figures read off them at a recall level.
//! Everything is deterministic: the bootstrap is seeded.

use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Resamples of a bootstrap interval.
pub const BOOTSTRAP_RESAMPLES: usize = 2_000;

/// A p99.9 of fewer samples than this is not reported: it would rest on a handful of them.
pub const P999_MIN_SAMPLES: u64 = 10_000;

const BOOTSTRAP_SEED: u64 = 0x6b69_6c6e;

/// Histogram resolution: 3 significant digits, so a percentile is within .1% of the sample it stands for.
const HISTOGRAM_DIGITS: u8 = 3;

/// A median and its 95% bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The median of the samples.
    pub median: f64,
    /// 2.5% quantile of the resampled medians.
    pub lo: f64,
    /// 97.5% quantile of the resampled medians.
    pub hi: f64,
}

/// Arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Median; the mean of the middle two when their number is even; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The `q`-quantile (`q` in `0..=1`, clamped) by linear interpolation between order statistics: the rank is
/// `q * (n - 1)`, which is R's type 7 and numpy's default. `None` of nothing.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    quantile_sorted(&sorted, q)
}

/// [`quantile`] of values that are already in ascending order.
pub fn quantile_sorted(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let rank = q.clamp(0.0, 1.0) * last as f64;
    let below = rank.floor() as usize;
    let above = rank.ceil() as usize;
    let part = rank - below as f64;
    Some(sorted[below] + (sorted[above] - sorted[below]) * part)
}

/// The median and its 95% percentile-bootstrap interval; one sample gives an interval of no width, and none
/// gives `None`. The same values in the same order always give the same interval.
pub fn median_interval(values: &[f64]) -> Option<Interval> {
    let middle = median(values)?;
    let mut rng = ChaCha8Rng::seed_from_u64(BOOTSTRAP_SEED);
    let mut resample = vec![0.0; values.len()];
    let mut medians = Vec::with_capacity(BOOTSTRAP_RESAMPLES);
    for _ in 0..BOOTSTRAP_RESAMPLES {
        resample.fill_with(|| values[rng.random_range(0..values.len())]);
        resample.sort_unstable_by(f64::total_cmp);
        medians.extend(quantile_sorted(&resample, 0.5));
    }
    medians.sort_unstable_by(f64::total_cmp);
    Some(Interval { median: middle, lo: quantile_sorted(&medians, 0.025)?, hi: quantile_sorted(&medians, 0.975)? })
}

/// The ends of the 95% percentile-bootstrap interval of the mean; `None` of nothing. The same values in the same order
/// always give the same interval.
pub fn mean_interval(values: &[f64]) -> Option<(f64, f64)> {
    let mut rng = ChaCha8Rng::seed_from_u64(BOOTSTRAP_SEED);
    let resample = |_| {
        let sum: f64 = (0..values.len()).map(|_| values[rng.random_range(0..values.len())]).sum();
        sum / values.len() as f64
    };
    if values.is_empty() {
        return None;
    }
    let mut means: Vec<f64> = (0..BOOTSTRAP_RESAMPLES).map(resample).collect();
    means.sort_unstable_by(f64::total_cmp);
    Some((quantile_sorted(&means, 0.025)?, quantile_sorted(&means, 0.975)?))
}

/// The latency of a query, over all runs of a setting, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Mean of all samples.
    pub mean: f64,
    /// Half the queries answered within this.
    pub p50: f64,
    /// 95% answered within this.
    pub p95: f64,
    /// 99% answered within this.
    pub p99: f64,
    /// 99.9% answered within this; only of [`P999_MIN_SAMPLES`] or more.
    #[serde(skip)]
    pub p999: Option<f64>,
    /// Samples behind these figures.
    #[serde(skip)]
    pub samples: u64,
}

/// Percentiles of all runs from one merged histogram (never an average of the runs' percentiles); `runs` yields
/// each run's latencies in microseconds. Samples that are not positive numbers are left out; `None` when
/// none remains.
pub fn latency<'a>(runs: impl IntoIterator<Item = &'a [f32]>) -> Option<Latency> {
    // Nanoseconds, so that three digits hold for the fastest query too; an hour at most, later ones saturate.
    let mut merged = Histogram::<u64>::new_with_max(3_600_000_000_000, HISTOGRAM_DIGITS).ok()?;
    let mut sum = 0.0;
    let mut samples = 0u64;
    for &us in runs.into_iter().flatten() {
        if us.is_finite() && us > 0.0 {
            merged.saturating_record((f64::from(us) * 1e3).round().max(1.0) as u64);
            sum += f64::from(us);
            samples += 1;
        }
    }
    let percentile = |q: f64| merged.value_at_quantile(q) as f64 / 1e3;
    (samples > 0).then(|| Latency {
        mean: sum / samples as f64,
        p50: percentile(0.50),
        p95: percentile(0.95),
        p99: percentile(0.99),
        p999: (samples >= P999_MIN_SAMPLES).then(|| percentile(0.999)),
        samples,
    })
}

/// Indices of the points `(recall, throughput)` that no other point beats, in ascending recall and so in
/// descending throughput. Of equal points the first stays; points that are not finite never enter.
pub fn pareto_frontier(points: &[(f64, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> =
        (0..points.len()).filter(|&i| points[i].0.is_finite() && points[i].1.is_finite()).collect();
    order.sort_by(|&a, &b| {
        let ((recall_a, speed_a), (recall_b, speed_b)) = (points[a], points[b]);
        (recall_b.total_cmp(&recall_a)).then(speed_b.total_cmp(&speed_a)).then(a.cmp(&b))
    });
    let mut fastest = f64::NEG_INFINITY;
    order.retain(|&i| {
        let keep = points[i].1 > fastest;
        fastest = fastest.max(points[i].1);
        keep
    });
    order.reverse();
    order
}

/// Where a recall level falls among the points of a frontier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Level {
    /// `weight` (`0..1`) of the way from point `left` to the next one. At weight 0 the next may not exist.
    Between {
        /// Position on the frontier.
        left: usize,
        /// Part of the way to `left + 1`.
        weight: f64,
    },
    /// Below the least accurate point: that point reaches the level, a faster setting might too.
    Below,
    /// Above the most accurate point: the level was never reached.
    Above {
        /// The highest recall that was reached.
        max: f64,
    },
}

/// A figure at a recall level, never extrapolated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AtRecall {
    /// Measured at the level, or interpolated between two settings that bracket it.
    Value(f64),
    /// Every setting exceeds the level: the figure of the least accurate one.
    Bound(f64),
    /// The level was never reached; the highest recall that was.
    Max(f64),
}

impl Level {
    /// Finds `level` among the recalls of a frontier, which ascend; `None` where there is no point.
    pub fn locate(recalls: &[f64], level: f64) -> Option<Level> {
        let (first, last) = (*recalls.first()?, *recalls.last()?);
        if level < first {
            return Some(Level::Below);
        }
        if level > last {
            return Some(Level::Above { max: last });
        }
        let left = recalls.partition_point(|&r| r <= level) - 1;
        let weight = match recalls.get(left + 1) {
            Some(right) => (level - recalls[left]) / (right - recalls[left]),
            None => 0.0,
        };
        Some(Level::Between { left, weight })
    }

    /// Reads a figure at this level, linear in log value against recall: what a straight line on the recall-QPS
    /// chart shows. `values` are those of the frontier's points; where one is not positive, linear in the
    /// value itself.
    pub fn read(self, values: &[f64]) -> Option<AtRecall> {
        Some(match self {
            Level::Below => AtRecall::Bound(*values.first()?),
            Level::Above { max } => AtRecall::Max(max),
            Level::Between { left, weight } => {
                let a = *values.get(left)?;
                AtRecall::Value(match values.get(left + 1) {
                    Some(&b) if weight > 0.0 && a > 0.0 && b > 0.0 => (a.ln() + (b.ln() - a.ln()) * weight).exp(),
                    Some(&b) if weight > 0.0 => a + (b - a) * weight,
                    _ => a,
                })
            }
        })
    }
}

impl AtRecall {
    /// The figure, measured or bound; `None` where the level was never reached.
    pub fn value(self) -> Option<f64> {
        match self {
            AtRecall::Value(v) | AtRecall::Bound(v) => Some(v),
            AtRecall::Max(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_and_clamp() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(median(&values), Some(2.5));
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&values, 1.0), Some(4.0));
        assert_eq!(quantile(&values, 7.0), Some(4.0));
        assert_eq!(quantile(&values, 0.25), Some(1.75));
        assert_eq!(quantile(&[9.0], 0.3), Some(9.0));
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(mean(&[]), None);
        assert_eq!(mean(&[1.0, 2.0]), Some(1.5));
    }

    #[test]
    fn bootstrap_is_deterministic_and_brackets_the_median() {
        let values: Vec<f64> = (0..25).map(|i| f64::from(i * 7 % 25)).collect();
        let interval = median_interval(&values).expect("values");
        assert_eq!(median_interval(&values), Some(interval));
        assert_eq!(interval.median, 12.0);
        assert!(interval.lo < 12.0 && interval.hi > 12.0, "{interval:?}");
        assert!(interval.lo > 3.0 && interval.hi < 21.0, "{interval:?}");
        let one = median_interval(&[5.0]).expect("one value");
        assert_eq!((one.lo, one.median, one.hi), (5.0, 5.0, 5.0));
        assert_eq!(median_interval(&[]), None);
    }

    #[test]
    fn bootstrap_interval_covers_the_truth_about_as_often_as_it_says() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let covered = (0..200)
            .filter(|_| {
                let sample: Vec<f64> = (0..30).map(|_| rng.random_range(0.0..1.0)).collect();
                let interval = median_interval(&sample).expect("30 values");
                interval.lo <= 0.5 && 0.5 <= interval.hi
            })
            .count();
        assert!((180..=199).contains(&covered), "{covered} of 200");
    }

    #[test]
    fn percentiles_come_from_the_merged_samples() {
        let fast: Vec<f32> = (1..=990).map(|_| 100.0).collect();
        let slow: Vec<f32> = (1..=10).map(|_| 5_000.0).collect();
        let merged = latency([&fast[..], &slow[..]]).expect("samples");
        assert_eq!(merged.samples, 1_000);
        assert!((merged.p50 - 100.0).abs() < 0.2, "{merged:?}");
        assert!((merged.p99 - 100.0).abs() < 0.2, "{merged:?}");
        assert!((merged.mean - 149.0).abs() < 1e-6, "{merged:?}");
        assert_eq!(merged.p999, None);
        let many = vec![3.5f32; P999_MIN_SAMPLES as usize];
        let p999 = latency([&many[..]]).and_then(|l| l.p999).expect("enough");
        assert!((p999 - 3.5).abs() < 0.01);
        assert_eq!(latency([&[f32::NAN, 0.0][..]]), None);
        assert_eq!(latency(std::iter::empty::<&[f32]>()), None);
    }

    #[test]
    fn frontier_drops_beaten_and_equal_points() {
        let points = [
            (0.90, 100.0),
            (0.95, 50.0),
            (0.94, 40.0), // beaten
            (0.95, 50.0), // equal
            (0.90, 90.0), // same recall, slower
            (0.99, 10.0),
            (f64::NAN, 1e9),
        ];
        assert_eq!(pareto_frontier(&points), [0, 1, 5]);
        assert_eq!(pareto_frontier(&[(1.0, 5.0), (1.0, 6.0)]), [1]);
        assert!(pareto_frontier(&[]).is_empty());
    }

    #[test]
    fn levels_interpolate_but_never_extrapolate() {
        let (recall, qps) = ([0.90, 0.96], [10_000.0, 100.0]);
        let at = |level| Level::locate(&recall, level).and_then(|l| l.read(&qps));
        assert_eq!(at(0.80), Some(AtRecall::Bound(10_000.0)));
        assert_eq!(at(0.90), Some(AtRecall::Value(10_000.0)));
        assert_eq!(at(0.96), Some(AtRecall::Value(100.0)));
        assert_eq!(at(0.97), Some(AtRecall::Max(0.96)));
        let Some(AtRecall::Value(middle)) = at(0.93) else { panic!("0.93 lies between") };
        assert!((middle - 1_000.0).abs() < 1e-6, "{middle}");
        assert_eq!(Level::locate(&[], 0.9), None);
        let half = Level::locate(&recall, 0.93).and_then(|l| l.read(&[0.0, 8.0]));
        assert!(matches!(half, Some(AtRecall::Value(v)) if (v - 4.0).abs() < 1e-9), "{half:?}");
    }
}
