//! Resampling (B. Efron, "Bootstrap methods: another look at the jackknife", 1979): turns of passes, and queries.
//!
//! In: what was measured. Out: how much a median of passes varies between draws of turns, and weights that redraw the
//! queries for every setting of both sides alike. Everything is seeded.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::stats;

/// Resamples behind a variance: it is then known to 3%.
pub const RESAMPLES: usize = 500;

const TURN_SEED: u64 = 0x7475_726e;
const QUERY_SEED: u64 = 0x7175_6572;

/// The variance of the median of all passes when turns are drawn anew, with replacement; `None` of fewer than two turns.
///
/// Drawing from `n` turns shows `(n - 1) / n` of the variance that drawing from all turns there could be would: the result
/// makes up for it, as the usual variance of a sample does.
pub fn median_variance(turns: &[Vec<f64>]) -> Option<f64> {
    let turns: Vec<&Vec<f64>> = turns.iter().filter(|turn| !turn.is_empty()).collect();
    if turns.len() < 2 {
        return None;
    }
    let mut passes: Vec<(f64, usize)> =
        turns.iter().enumerate().flat_map(|(turn, passes)| passes.iter().map(move |&value| (value, turn))).collect();
    passes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut rng = ChaCha8Rng::seed_from_u64(TURN_SEED);
    let mut drawn = vec![0usize; turns.len()];
    let medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            drawn.fill(0);
            (0..turns.len()).for_each(|_| drawn[rng.random_range(0..turns.len())] += 1);
            let total: usize = drawn.iter().zip(&turns).map(|(times, turn)| times * turn.len()).sum();
            repeated_median(&passes, &drawn, total)
        })
        .collect();
    let n = turns.len() as f64;
    Some(variance(&medians) * n / (n - 1.0))
}

/// The median of `passes`, which ascend, where those of a turn count as often as it was drawn; `total` of them in all.
fn repeated_median(passes: &[(f64, usize)], drawn: &[usize], total: usize) -> f64 {
    let (lower, upper) = ((total - 1) / 2, total / 2);
    let (mut seen, mut low) = (0, f64::NAN);
    for &(value, turn) in passes {
        seen += drawn[turn];
        if seen > lower && low.is_nan() {
            low = value;
        }
        if seen > upper {
            return 0.5 * (low + value);
        }
    }
    low
}

/// Sample variance, with one degree of freedom spent on the mean; 0 of fewer than two.
pub fn variance(values: &[f64]) -> f64 {
    let Some(mean) = stats::mean(values).filter(|_| values.len() > 1) else { return 0.0 };
    values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (values.len() - 1) as f64
}

/// Queries drawn anew, with replacement: how often each was drawn, for every resample.
#[derive(Debug, Clone)]
pub struct QueryDraws {
    counts: Vec<Vec<u16>>,
}

impl QueryDraws {
    /// [`RESAMPLES`] draws of as many queries as there are.
    pub fn of(queries: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(QUERY_SEED);
        let draw = |_| {
            let mut counts = vec![0u16; queries];
            (0..queries).for_each(|_| counts[rng.random_range(0..queries)] += 1);
            counts
        };
        Self { counts: (0..RESAMPLES).map(draw).collect() }
    }

    /// Queries in a draw.
    pub fn queries(&self) -> usize {
        self.counts.first().map_or(0, Vec::len)
    }

    /// The mean of the known values, for every draw; `None` where there are not as many values as queries, or none that is
    /// known was drawn.
    pub fn means(&self, values: &[Option<f64>]) -> Option<Vec<f64>> {
        if values.len() != self.queries() {
            return None;
        }
        let mean = |counts: &Vec<u16>| {
            let (mut sum, mut drawn) = (0.0, 0.0);
            for (&count, value) in counts.iter().zip(values) {
                if let Some(value) = value {
                    sum += f64::from(count) * value;
                    drawn += f64::from(count);
                }
            }
            (drawn > 0.0).then(|| sum / drawn)
        };
        self.counts.iter().map(mean).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same draws, with every drawn turn written out.
    fn slow_median_variance(turns: &[Vec<f64>]) -> f64 {
        let mut rng = ChaCha8Rng::seed_from_u64(TURN_SEED);
        let medians: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let drawn: Vec<&Vec<f64>> =
                    (0..turns.len()).map(|_| &turns[rng.random_range(0..turns.len())]).collect();
                stats::median(&drawn.into_iter().flatten().copied().collect::<Vec<_>>()).expect("passes")
            })
            .collect();
        let n = turns.len() as f64;
        variance(&medians) * n / (n - 1.0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn counting_turns_is_writing_them_out(
            turns in prop::collection::vec(prop::collection::vec(-3i32..3, 1..6), 2..7),
        ) {
            let turns: Vec<Vec<f64>> =
                turns.into_iter().map(|turn| turn.into_iter().map(|v| f64::from(v) / 7.0).collect()).collect();
            let (fast, slow) = (median_variance(&turns).expect("two turns"), slow_median_variance(&turns));
            prop_assert!((fast - slow).abs() <= 1e-12, "{fast} is not {slow}");
        }

        #[test]
        fn weighing_queries_is_writing_them_out(values in prop::collection::vec(prop::option::of(-9i32..9), 1..9)) {
            let values: Vec<Option<f64>> = values.into_iter().map(|v| v.map(f64::from)).collect();
            let draws = QueryDraws::of(values.len());
            let mut rng = ChaCha8Rng::seed_from_u64(QUERY_SEED);
            let slow: Option<Vec<f64>> = (0..RESAMPLES)
                .map(|_| {
                    let drawn: Vec<Option<f64>> =
                        (0..values.len()).map(|_| values[rng.random_range(0..values.len())]).collect();
                    stats::mean(&drawn.into_iter().flatten().collect::<Vec<_>>())
                })
                .collect();
            match (draws.means(&values), slow) {
                (Some(fast), Some(slow)) => {
                    prop_assert!(fast.iter().zip(&slow).all(|(a, b)| (a - b).abs() < 1e-12));
                }
                (fast, slow) => prop_assert!(fast.is_none() && slow.is_none()),
            }
        }
    }

    #[test]
    fn it_is_the_variance_of_a_median() {
        // Of 25 turns of one pass, drawn from a normal distribution: pi / 2 / 25 of its variance, for large samples. A median
        // of few is redrawn a third too restless, which errs on the side of telling nothing.
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut normal = || (0..12).map(|_| rng.random_range(0.0..1.0f64)).sum::<f64>() - 6.0;
        let mean = (0..60)
            .map(|_| median_variance(&(0..25).map(|_| vec![normal()]).collect::<Vec<_>>()).expect("25 turns"))
            .sum::<f64>()
            / 60.0;
        let expected = std::f64::consts::FRAC_PI_2 / 25.0;
        assert!((1.0..1.5).contains(&(mean / expected)), "{mean} is not near {expected}");
    }

    #[test]
    fn passes_of_a_turn_that_agree_count_once() {
        // Four turns at other levels: a hundred passes in each say no more than one.
        let levels = [0.0, 0.03, -0.02, 0.01];
        let one: Vec<Vec<f64>> = levels.map(|level| vec![level]).into();
        let many: Vec<Vec<f64>> = levels.map(|level| vec![level; 100]).into();
        assert_eq!(median_variance(&one), median_variance(&many));
        assert_eq!((median_variance(&one[..1]), median_variance(&[])), (None, None));
        assert_eq!(median_variance(&[vec![1.0], vec![]]), None);
    }

    #[test]
    fn variance_by_hand() {
        assert!((variance(&[1.0, 2.0, 4.0]) - 7.0 / 3.0).abs() < 1e-12);
        assert_eq!((variance(&[5.0]), variance(&[])), (0.0, 0.0));
    }
}
