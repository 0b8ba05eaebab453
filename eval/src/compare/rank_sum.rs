//! The rank-sum test of two samples (H. Mann and D. Whitney, "On a test of whether one of two random variables is
//! stochastically larger than the other", 1947), and the interval of their shift that it leaves (J. Hodges and E. Lehmann,
//! "Estimates of location based on rank tests", 1963).
//!
//! In: the values of two samples. Out: how probable ranks as one-sided as these are where both are of one distribution,
//! whatever it is; and how far apart they may lie. Equal values share the mean of their ranks. Up to [`EXACT`] values every
//! way to deal them out is counted, ties included; beyond, the probability is normal.

use statrs::distribution::{ContinuousCDF, Normal};

/// Values of both samples together up to which every way to deal them out is counted.
const EXACT: usize = 50;

/// The probability of ranks at least as one-sided as these, on whichever side; 1 where a sample is empty.
pub fn p_two_sided(a: &[f64], b: &[f64]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return 1.0;
    }
    let (doubled, sum) = ranked(a, b);
    let one_sided = match doubled.len() <= EXACT {
        true => {
            let ways = ways(&doubled, a.len());
            let part = |ways: &[f64]| ways.iter().sum::<f64>();
            part(&ways[..=sum]).min(part(&ways[sum..])) / part(&ways)
        }
        false => normal(&doubled, a.len(), sum),
    };
    (2.0 * one_sided).min(1.0)
}

/// By how much `b` may be larger than `a`: the ends of the interval that misses the truth with at most probability `alpha`
/// where the samples differ by a shift. `None` of samples that are too small for it.
pub fn shift_interval(a: &[f64], b: &[f64], alpha: f64) -> Option<(f64, f64)> {
    let mut apart: Vec<f64> = a.iter().flat_map(|a| b.iter().map(move |b| b - a)).collect();
    apart.sort_by(f64::total_cmp);
    let outside = differences_outside(a.len(), b.len(), alpha / 2.0);
    (1..=apart.len() / 2).contains(&outside).then(|| (apart[outside - 1], apart[apart.len() - outside]))
}

/// How many of the smallest differences between samples of `a` and `b` values are below the truth with at most probability
/// `tail`, and one more.
fn differences_outside(a: usize, b: usize, tail: f64) -> usize {
    let all = a + b;
    if all > EXACT {
        let (mean, deviation) = ((a * b) as f64 / 2.0, ((a * b * (all + 1)) as f64 / 12.0).sqrt());
        return (mean + deviation * Normal::standard().inverse_cdf(tail)).max(0.0) as usize;
    }
    let doubled: Vec<usize> = (1..=all).map(|rank| 2 * rank).collect();
    let ways = ways(&doubled, a);
    let total: f64 = ways.iter().sum();
    let mut sum = 0.0;
    // The least sum of `a` ranks is 1 + 2 + ...: as many pairs in which `a` is the larger one.
    let by_pairs = ways.iter().skip(a * (a + 1)).step_by(2);
    by_pairs
        .take_while(|&&ways| {
            sum += ways;
            sum <= tail * total
        })
        .count()
}

/// Twice the rank of every value of both samples, ascending, so that shared ranks are whole numbers, and their sum over `a`.
fn ranked(a: &[f64], b: &[f64]) -> (Vec<usize>, usize) {
    let mut values: Vec<(f64, bool)> =
        a.iter().map(|&value| (value, true)).chain(b.iter().map(|&value| (value, false))).collect();
    values.sort_by(|x, y| x.0.total_cmp(&y.0));
    let (mut doubled, mut sum) = (Vec::with_capacity(values.len()), 0);
    for tied in values.chunk_by(|x, y| x.0 == y.0) {
        // Twice the mean of the ranks first + 1 ... first + tied.
        let rank = 2 * doubled.len() + tied.len() + 1;
        sum += rank * tied.iter().filter(|(_, of_a)| *of_a).count();
        doubled.extend(std::iter::repeat_n(rank, tied.len()));
    }
    (doubled, sum)
}

/// For every sum, in how many ways `chosen` of these ranks have it.
fn ways(doubled: &[usize], chosen: usize) -> Vec<f64> {
    let sums = doubled.iter().sum::<usize>() + 1;
    let mut ways = vec![vec![0.0f64; sums]; chosen + 1];
    ways[0][0] = 1.0;
    for &rank in doubled {
        for count in (1..=chosen).rev() {
            let (fewer, more) = ways.split_at_mut(count);
            for (with, without) in more[0][rank..].iter_mut().zip(&fewer[count - 1]) {
                *with += without;
            }
        }
    }
    ways.swap_remove(chosen)
}

/// The smaller tail of the normal distribution that sums of `chosen` ranks nearly have.
fn normal(doubled: &[usize], chosen: usize, sum: usize) -> f64 {
    let (all, chosen) = (doubled.len() as f64, chosen as f64);
    let mean = doubled.iter().sum::<usize>() as f64 / all;
    let spread = doubled.iter().map(|&rank| (rank as f64 - mean).powi(2)).sum::<f64>() / (all - 1.0);
    let deviation = (chosen * (all - chosen) / all * spread).sqrt();
    // One, which is half a rank doubled, towards the mean: sums are whole numbers, the normal distribution is not.
    let off = ((sum as f64 - chosen * mean).abs() - 1.0).max(0.0);
    if deviation > 0.0 { Normal::standard().sf(off / deviation) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Every way to deal the values out, one by one: the pairs in which `a` is larger, ties by half.
    fn slow_p_two_sided(a: &[f64], b: &[f64]) -> f64 {
        let larger = |a: &[f64], b: &[f64]| -> i64 {
            let pair = |a: &f64, b: &f64| 1 + i64::from(a > b) - i64::from(a < b);
            a.iter().flat_map(|a| b.iter().map(move |b| pair(a, b))).sum()
        };
        let values: Vec<f64> = a.iter().chain(b).copied().collect();
        let dealt: Vec<i64> = (0..1u32 << values.len())
            .filter(|choice| choice.count_ones() as usize == a.len())
            .map(|choice| {
                let of = |side: u32| -> Vec<f64> {
                    (0..values.len()).filter(|i| choice >> i & 1 == side).map(|i| values[i]).collect()
                };
                larger(&of(1), &of(0))
            })
            .collect();
        let observed = larger(a, b);
        let part = |held: &dyn Fn(i64) -> bool| dealt.iter().filter(|&&d| held(d)).count() as f64 / dealt.len() as f64;
        (2.0 * part(&|d| d <= observed).min(part(&|d| d >= observed))).min(1.0)
    }

    #[test]
    fn by_hand() {
        // Three below three: 1 of 20 ways, on either side.
        assert_eq!(p_two_sided(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 0.1);
        assert_eq!(p_two_sided(&[4.0, 5.0, 6.0], &[1.0, 2.0, 3.0]), 0.1);
        assert_eq!(p_two_sided(&[1.0, 1.0], &[1.0, 1.0, 1.0]), 1.0);
        assert_eq!((p_two_sided(&[], &[1.0]), p_two_sided(&[1.0], &[])), (1.0, 1.0));
        // The critical value of U for two samples of ten at 5% is 23 (Mann and Whitney's table, as extended): the 24th
        // difference from either end. For five and five it is 2, for four and four 0, for three and three there is none.
        let outside = |n| differences_outside(n, n, 0.025);
        assert_eq!([3, 4, 5, 10].map(outside), [0, 1, 3, 24]);
        assert_eq!(shift_interval(&[1.0, 2.0, 3.0, 4.0], &[11.0, 12.0, 13.0, 14.0], 0.05), Some((7.0, 13.0)));
        assert_eq!(shift_interval(&[1.0, 2.0, 3.0], &[11.0, 12.0, 13.0], 0.05), None);
    }

    proptest! {
        /// Values of few sizes: many ties.
        #[test]
        fn counting_is_what_dealing_out_gives(
            a in prop::collection::vec(-3i32..=3, 1..7), b in prop::collection::vec(-3i32..=3, 1..7),
        ) {
            let [a, b] = [a, b].map(|values| values.into_iter().map(|v| f64::from(v) / 10.0).collect::<Vec<_>>());
            prop_assert!((p_two_sided(&a, &b) - slow_p_two_sided(&a, &b)).abs() < 1e-12);
        }

        /// A shift is outside of the interval where taking it away leaves samples that differ, and only there.
        #[test]
        fn the_interval_holds_the_shifts_that_the_test_allows(seed in 0u64..1000, n in 4usize..9, m in 4usize..9) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut sample = |n| (0..n).map(|_| rng.random_range(0.0..1.0f64)).collect::<Vec<_>>();
            let (a, b) = (sample(n), sample(m));
            let (low, high) = shift_interval(&a, &b, 0.05).expect("enough");
            let p = |shift: f64| p_two_sided(&a, &b.iter().map(|b| b - shift).collect::<Vec<_>>());
            prop_assert!(p(low - 1e-9) <= 0.05 && p(high + 1e-9) <= 0.05);
            prop_assert!(p(low + 1e-9) > 0.05 && p(high - 1e-9) > 0.05);
        }
    }

    #[test]
    fn the_normal_case_goes_on_from_the_counted_one() {
        let mut furthest = 0.0f64;
        for (seed, ties) in (0..300).flat_map(|seed| [(seed, false), (seed, true)]) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut sample = |shift: f64| -> Vec<f64> {
                let value = |rng: &mut ChaCha8Rng| shift + rng.random_range(0.0..1.0f64);
                (0..EXACT / 2).map(|_| if ties { (value(&mut rng) * 8.0).round() } else { value(&mut rng) }).collect()
            };
            let (a, b) = (sample(0.0), sample(0.15));
            let (doubled, sum) = ranked(&a, &b);
            furthest = furthest.max((p_two_sided(&a, &b) - (2.0 * normal(&doubled, a.len(), sum)).min(1.0)).abs());
        }
        assert!(furthest < 0.02, "{furthest}");
        let at_the_seam = |all: usize| {
            let (mean, deviation) = ((all * all / 4) as f64 / 2.0, ((all * all / 4 * (all + 1)) as f64 / 12.0).sqrt());
            (mean + deviation * Normal::standard().inverse_cdf(0.025)) as usize
        };
        assert!(differences_outside(25, 25, 0.025).abs_diff(at_the_seam(50)) <= 1);
    }
}
