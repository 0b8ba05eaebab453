//! Wilcoxon's signed-rank test (F. Wilcoxon, "Individual comparisons by ranking methods", 1945).
//!
//! In: a difference for each pair. Out: how probable ranks as one-sided as these are where differences lie evenly about
//! zero. Pairs without a difference say nothing and are left out; equal differences share the mean of their ranks. Up to
//! [`EXACT`] differences the probability is counted out, ties included; beyond, it is normal.

use statrs::distribution::{ContinuousCDF, Normal};

/// Differences up to which every assignment of signs is counted.
const EXACT: usize = 30;

/// The probability of ranks at least as much on the positive side as these are.
pub fn p_greater(differences: &[f64]) -> f64 {
    let ranked = Ranked::of(differences);
    match ranked.doubled.len() {
        0 => 1.0,
        1..=EXACT => ranked.counted(),
        _ => ranked.normal(),
    }
}

/// Two-sided, for a claim that goes the way of the mean: ranks that point the other way, as where many gain a little and a
/// few lose much, are no evidence for it.
pub fn p_along_mean(differences: &[f64]) -> f64 {
    let mean: f64 = differences.iter().sum();
    let along: Vec<f64> = differences.iter().map(|d| d * mean.signum()).collect();
    (2.0 * p_greater(&along)).min(1.0)
}

struct Ranked {
    /// Twice the rank of each difference by its size, so that shared ranks are whole numbers.
    doubled: Vec<u64>,
    /// Their sum over positive differences.
    positive: u64,
}

impl Ranked {
    fn of(differences: &[f64]) -> Self {
        let mut kept: Vec<f64> = differences.iter().copied().filter(|d| *d != 0.0 && !d.is_nan()).collect();
        kept.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
        let (mut doubled, mut positive) = (Vec::with_capacity(kept.len()), 0);
        for tied in kept.chunk_by(|a, b| a.abs() == b.abs()) {
            // Twice the mean of the ranks first + 1 ... first + tied.
            let rank = (2 * doubled.len() + tied.len() + 1) as u64;
            positive += rank * tied.iter().filter(|d| **d > 0.0).count() as u64;
            doubled.extend(std::iter::repeat_n(rank, tied.len()));
        }
        Self { doubled, positive }
    }

    /// Of all assignments of signs, the part whose positive ranks sum to at least these.
    fn counted(&self) -> f64 {
        let total: u64 = self.doubled.iter().sum();
        let mut ways = vec![0.0f64; total as usize + 1];
        ways[0] = 1.0;
        for &rank in &self.doubled {
            for sum in (rank as usize..ways.len()).rev() {
                ways[sum] += ways[sum - rank as usize];
            }
        }
        ways[self.positive as usize..].iter().sum::<f64>() / ways.iter().sum::<f64>()
    }

    fn normal(&self) -> f64 {
        let ranks = || self.doubled.iter().map(|&rank| rank as f64 / 2.0);
        let (mean, variance) = (ranks().sum::<f64>() / 2.0, ranks().map(|rank| rank * rank).sum::<f64>() / 4.0);
        // Half a rank towards the mean: sums are whole numbers, the normal distribution is not.
        Normal::standard().sf((self.positive as f64 / 2.0 - mean - 0.5) / variance.sqrt())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Every assignment of signs, one by one.
    fn slow_p_greater(differences: &[f64]) -> f64 {
        let sizes: Vec<f64> = differences.iter().map(|d| d.abs()).filter(|d| *d > 0.0).collect();
        let rank = |size: f64| {
            let smaller = sizes.iter().filter(|s| **s < size).count() as f64;
            let equal = sizes.iter().filter(|s| **s == size).count() as f64;
            smaller + (equal + 1.0) / 2.0
        };
        let ranks: Vec<f64> = sizes.iter().map(|&size| rank(size)).collect();
        let observed: f64 = differences.iter().filter(|d| **d > 0.0).map(|d| rank(*d)).sum();
        let assignments = 1u32 << ranks.len();
        let as_large = (0..assignments).filter(|signs| {
            let sum: f64 = (0..ranks.len()).filter(|i| signs >> i & 1 == 1).map(|i| ranks[i]).sum();
            sum >= observed - 1e-9
        });
        as_large.count() as f64 / f64::from(assignments)
    }

    #[test]
    fn by_hand() {
        // Only all five on one side: 1 of 32.
        assert_eq!(p_greater(&[1.0, 2.0, 3.0, 4.0, 5.0]), 1.0 / 32.0);
        assert_eq!(p_along_mean(&[1.0, 2.0, 3.0, 4.0, 5.0]), 2.0 / 32.0);
        // Ranks 2 and 3 positive of 1, 2, 3: sums of 5 or 6, which are {2, 3} and {1, 2, 3}.
        assert_eq!(p_greater(&[-1.0, 2.0, 3.0]), 2.0 / 8.0);
        assert_eq!(p_greater(&[0.0, f64::NAN]), 1.0);
        // Ninety of a hundred gain .1, ten lose 1: the ranks say higher, and the mean is lower.
        let split = [vec![0.1; 90], vec![-1.0; 10]].concat();
        assert!(p_greater(&split) < 1e-6 && p_along_mean(&split) == 1.0);
        assert_eq!(p_along_mean(&[-1.0, -2.0, -3.0, -4.0, -5.0]), 1.0 / 16.0);
        assert_eq!((p_along_mean(&[]), p_along_mean(&[1.0, -1.0])), (1.0, 1.0));
    }

    proptest! {
        /// Differences of few sizes, as those of recall are: many zeros, many ties.
        #[test]
        fn counting_is_what_trying_all_signs_gives(steps in prop::collection::vec(-4i32..=4, 0..11)) {
            let differences: Vec<f64> = steps.iter().map(|&step| f64::from(step) / 10.0).collect();
            prop_assert!((p_greater(&differences) - slow_p_greater(&differences)).abs() < 1e-12);
        }
    }

    #[test]
    fn the_normal_case_goes_on_from_the_counted_one() {
        let mut furthest = 0.0f64;
        for (seed, ties) in (0..500).flat_map(|seed| [(seed, false), (seed, true)]) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut difference = || rng.random_range(-0.42..0.58f64);
            let differences: Vec<f64> =
                (0..EXACT).map(|_| if ties { (difference() * 8.0).round() } else { difference() }).collect();
            let ranked = Ranked::of(&differences);
            assert!(ranked.doubled.len() > EXACT / 2, "{differences:?}");
            furthest = furthest.max((ranked.counted() - ranked.normal()).abs());
        }
        assert!(furthest < 0.02, "{furthest}");
    }
}
