//! Contrasts by hand: known speeds, known variances, known noise.

use std::collections::BTreeMap;

use super::*;
use crate::compare::sample::Session;

/// Times that all passes agree on.
fn timed(us: Vec<f64>) -> QueryTimes {
    QueryTimes { us, variance: 0.0, freedom: 9.0 }
}

/// What one run measured, of turns that are too few to be ranked.
fn session(log_qps: f64, variance: Option<f64>) -> Session {
    let turns = if variance.is_some() { FEW } else { 1 };
    Session { run: 0, log_qps, variance, turn_log_qps: vec![log_qps; turns] }
}

const FEW: usize = RANKED_TURNS - 1;

/// A setting of one run: recall of each query, queries a second, and the variance of its logarithm over a few turns.
fn setting(effort: u32, recall: &[f64], qps: f64, variance: f64) -> Sampled {
    Sampled {
        params: BTreeMap::from([("search_list".to_string(), effort.into())]),
        sessions: vec![session(qps.ln(), Some(variance))],
        recall: stats::mean(recall),
        query_recall: recall.iter().copied().map(Some).collect(),
        times: timed(vec![1e6 / qps; recall.len()]),
        passes: 10,
    }
}

/// Recall .90 at 1,000 and .96 at 100 queries a second, times `speed`: at .93 the geometric mean.
fn series(speed: f64, variance: f64) -> Series {
    Series::new(vec![
        setting(10, &[0.9; 8], 1000.0 * speed, variance),
        setting(40, &[0.96; 8], 100.0 * speed, variance),
    ])
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

#[test]
fn a_ratio_between_settings_is_interpolated_and_never_beyond_them() {
    let (a, b) = (series(1.0, 1e-4), series(0.8, 1e-4));
    let versus = Versus::new(&a, &b, Noise::unknown());
    let at = versus.at_level(0.93);
    let (Some(AtRecall::Value(speed_a)), Some(AtRecall::Value(speed_b))) = (at.a, at.b) else { panic!("{at:?}") };
    assert!(close(speed_a / (1000.0 * 100.0f64).sqrt(), 1.0) && close(speed_b / speed_a, 0.8), "{at:?}");
    let contrast = at.contrast.expect("both reach it");
    assert!(close(contrast.ratio(), 0.8));
    // Both settings of a bracket share their noise, and all queries are alike: 1e-4 of each side, 6 freedom of each.
    assert!(close(contrast.variance, 2e-4) && close(contrast.freedom, 12.0), "{contrast:?}");
    let (lo, hi) = contrast.interval().expect("repeated");
    let half = 2.178_813 * 2e-4f64.sqrt();
    assert!((lo.ln() - (0.8f64.ln() - half)).abs() < 1e-5 && (hi.ln() - (0.8f64.ln() + half)).abs() < 1e-5);
    assert!(contrast.p() < 1e-8 && contrast.told(0.04) == Some(false) && contrast.told(0.06).is_none());

    let low = versus.at_level(0.5);
    assert!(matches!(low.a, Some(AtRecall::Bound(_))) && low.contrast.is_none());
    let high = versus.at_level(0.97);
    assert_eq!((high.a, high.contrast), (Some(AtRecall::Max(0.96)), None));
}

#[test]
fn what_is_below_the_floor_is_not_told_however_certain() {
    let (a, b) = (series(1.0, 1e-8), series(0.98, 1e-8));
    let at = Versus::new(&a, &b, Noise::unknown()).at_setting(0, 0);
    assert!(at.p() < 1e-10 && at.told(at.p()).is_none(), "{at:?}");
    // What runs of the same thing show is added to the variance, with its own few degrees of freedom.
    let repeated = Series::new(vec![Sampled {
        sessions: [0.0, 0.02].map(|log_qps| session(log_qps, Some(0.0))).into(),
        ..setting(10, &[0.9], 1.0, 0.0)
    }]);
    let noise = Noise::of([&repeated]);
    assert!(close(noise.session_variance, 2e-4));
    let noisy = Versus::new(&a, &b, noise).at_setting(0, 0);
    assert!(close(noisy.variance, 4e-4 + 2e-8) && (noisy.freedom - 1.0).abs() < 1e-3, "{noisy:?}");
    assert!(noisy.p() > 0.3);
}

#[test]
fn turns_are_held_against_each_other_by_their_ranks() {
    let turned = |qps: f64, off: [f64; 10]| {
        let mut series = series(qps, 1e-4);
        for setting in &mut series.settings {
            let log_qps = setting.sessions[0].log_qps;
            setting.sessions[0].turn_log_qps = off.map(|off| log_qps + off).into();
        }
        series
    };
    let calm = [0.00, 0.01, -0.01, 0.02, -0.02, 0.005, -0.005, 0.015, -0.015, 0.001];
    // Of two sides of which one had six of ten turns in a slow mood, the other four.
    let moods = |slow: usize| {
        let mut off = calm;
        off.iter_mut().take(slow).for_each(|off| *off -= 0.25);
        off
    };
    let at =
        |a: &Series, b: &Series| Versus::new(a, b, Noise::unknown()).at_level(0.93).contrast.expect("both reach it");
    let slower = at(&turned(1.0, calm), &turned(0.95, calm));
    // All hundred pairs of turns but a few are apart by 1 to 9%: both sides of the bracket have the same turns.
    assert!(
        close(slower.ratio(), 0.95)
            && slower.ranks.expect("ten turns") < 1e-4
            && slower.told(slower.p()) == Some(false)
    );
    let (low, high) = slower.interval().expect("repeated");
    assert!(0.93 < low && low < 0.95 && 0.95 < high && high < 0.97, "{low} to {high}");
    // A median of ten says 20% slower; the ranks of the turns do not.
    let moody = at(&turned(1.0, moods(4)), &turned(0.8, moods(6)));
    let equal = at(&turned(1.0, moods(4)), &turned(1.0, moods(6)));
    assert!(moody.ranks.expect("ten turns") < equal.ranks.expect("ten turns") && equal.p() > 0.2, "{equal:?}");
    // Few turns, or those of several runs, are not ranked.
    let mut few = turned(0.95, calm);
    few.settings.iter_mut().for_each(|setting| setting.sessions[0].turn_log_qps.truncate(FEW));
    assert_eq!(at(&turned(1.0, calm), &few).ranks, None);
    let mut several = turned(0.95, calm);
    several.settings.iter_mut().for_each(|setting| setting.sessions.push(setting.sessions[0].clone()));
    assert_eq!(at(&turned(1.0, calm), &several).ranks, None);
}

#[test]
fn queries_drawn_anew_move_both_sides_alike() {
    // Half of the queries are hard: which are drawn decides the recall, and the speed, of A and of B together.
    let recall: Vec<f64> = (0..200).map(|query| if query % 2 == 0 { 1.0 } else { 0.86 }).collect();
    let times =
        |qps: f64| (0..200).map(|query| 1e6 / qps * if query % 2 == 0 { 0.5 } else { 1.5 }).collect::<Vec<f64>>();
    let make = |speed: f64| {
        let better: Vec<f64> = recall.iter().map(|r| (r + 0.05).min(1.0)).collect();
        let mut settings = vec![setting(10, &recall, 1000.0 * speed, 0.0), setting(40, &better, 500.0 * speed, 0.0)];
        settings.iter_mut().zip([1000.0, 500.0]).for_each(|(setting, qps)| setting.times.us = times(qps * speed));
        Series::new(settings)
    };
    let (a, b) = (make(1.0), make(0.9));
    let versus = Versus::new(&a, &b, Noise::unknown());
    assert!(
        versus.at_setting(0, 0).variance < 1e-20 && versus.at_level(0.94).contrast.expect("reached").variance < 1e-20
    );
    // Where B slows the hard queries alone, the draw matters: a ratio of sums, by its linear approximation.
    let mut uneven = make(1.0);
    uneven.settings[0].times.us.iter_mut().skip(1).step_by(2).for_each(|us| *us *= 2.0);
    let drawn = Versus::new(&a, &uneven, Noise::unknown()).at_setting(0, 0);
    let (mean_a, mean_b) = (1.0, 0.5 * (0.5 + 3.0));
    let influence = [(0.5, 0.5), (3.0, 1.5)].map(|(b, a)| (b - mean_b) / mean_b - (a - mean_a) / mean_a);
    let expected = influence.iter().map(|i| i * i).sum::<f64>() / 2.0 / 200.0;
    assert!((drawn.variance / expected - 1.0).abs() < 0.2, "{} is not near {expected}", drawn.variance);
}

#[test]
fn nothing_is_told_of_what_was_done_once() {
    let once = |qps: f64| {
        let mut setting = setting(10, &[0.9; 4], qps, 0.0);
        setting.sessions[0] = session(qps.ln(), None);
        Series::new(vec![setting])
    };
    let (a, b) = (once(100.0), once(50.0));
    let contrast = Versus::new(&a, &b, Noise::unknown()).at_setting(0, 0);
    assert_eq!((contrast.p(), contrast.interval(), contrast.told(contrast.p())), (1.0, None, None));
    let paired = contrast.paired(&a.settings[0].times, &b.settings[0].times, 1).expect("timed");
    assert_eq!(paired.p, 1.0);
    // Other queries on either side: no query is drawn, and none is paired.
    let other = Series::new(vec![setting(10, &[0.9; 5], 50.0, 1e-4)]);
    let contrast = Versus::new(&series(1.0, 1e-4), &other, Noise::unknown()).at_setting(0, 0);
    assert!(close(contrast.variance, 2e-4));
    assert!(contrast.paired(&a.settings[0].times, &other.settings[0].times, 1).is_none());
}

#[test]
fn the_typical_query_is_held_against_the_noise() {
    let us: Vec<f64> = (0..100).map(|query| 50.0 + f64::from(query)).collect();
    let slowed = |factor: f64, share: usize| {
        timed(us.iter().enumerate().map(|(query, us)| us * if query % 100 < share { factor } else { 0.999 }).collect())
    };
    let a = timed(us.clone());
    let contrast = Contrast { log_ratio: -0.1, variance: 1e-4, freedom: 1e6, ranks: None, floor: 0.03 };
    let all = contrast.paired(&a, &slowed(1.1, 100), 10).expect("timed");
    assert!(close(all.log_ratio, -(1.1f64.ln())) && all.slower == 1.0 && all.p < 1e-10, "{all:?}");
    // 2.8 standard errors, of one percent each, are left to ten tests: less than that is noise.
    let little = contrast.paired(&a, &slowed(1.02, 100), 10).expect("timed");
    assert!(little.slower == 1.0 && little.p > 0.9, "{little:?}");
    // A few queries that take thrice as long do not make the typical one slower.
    let few = contrast.paired(&a, &slowed(3.0, 10), 10).expect("timed");
    assert!(few.log_ratio > 0.0 && few.slower == 0.1 && few.p > 0.9, "{few:?}");
    assert_eq!(contrast.paired(&a, &a, 1).expect("timed").p, 1.0);
    // The same change in times that few passes kept, which differ: it may be theirs.
    let restless = QueryTimes { variance: 1e-3, freedom: 5.0, ..slowed(1.1, 100) };
    assert!(contrast.paired(&a, &restless, 10).expect("timed").p > 0.9);
}

#[test]
fn degrees_of_freedom_are_those_of_welch_s_test() {
    // Two samples of 5 and 7 with variances of their means 4 and 1: (4 + 1)^2 / (16 / 4 + 1 / 6).
    let (variance, freedom) = satterthwaite(&[(4.0, 4.0), (1.0, 6.0)]);
    assert!(close(variance, 5.0) && close(freedom, 25.0 / (4.0 + 1.0 / 6.0)));
    assert_eq!(satterthwaite(&[(9.0, 0.0), (1.0, 6.0)]), (1.0, 6.0));
    assert_eq!(satterthwaite(&[(0.0, 3.0), (0.0, 5.0)]), (0.0, 5.0));
    assert_eq!(satterthwaite(&[]), (0.0, 0.0));
}
