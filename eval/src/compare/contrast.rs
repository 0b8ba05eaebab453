//! Two series of one mode and place, set against each other at a recall level or at equal settings.
//!
//! In: the series of A and of B, and the noise between runs. Out: [`Contrast`]s: the ratio of queries a second with its
//! variance, which has three parts: passes, from how turns differ; queries, drawn anew for both sides alike; and runs, from
//! an A/A run. A difference is told where all of it, weighed by [Student's t](super::student), makes it improbable, where the
//! [ranks](super::rank_sum) of the turns do, *and* where it is larger than the noise floor.

use rayon::prelude::*;

use super::bootstrap::{QueryDraws, variance};
use super::noise::Noise;
use super::rank_sum;
use super::sample::{QueryTimes, Sampled, Series};
use super::signed_rank;
use super::student::{satterthwaite, two_sided_p, two_sided_t};
use crate::stats::{self, AtRecall, Level};

/// The probability, over all tests of a family, of telling a difference where there is none.
pub const ALPHA: f64 = 0.05;

/// Turns on either side from which on their ranks are tested. Turns have outliers, of which ten can hold one or five: a
/// variance of so few is too small as often as it is too large, and ranks need none. Of eight and eight turns, 2 in 12,870
/// ways to deal them out are as one-sided as can be, which is left to tell in a family of 300 tests.
const RANKED_TURNS: usize = 8;

/// B against A in queries a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contrast {
    /// Natural logarithm of B's queries a second over A's.
    pub log_ratio: f64,
    /// Variance of `log_ratio` from passes, queries and runs.
    pub variance: f64,
    /// Degrees of freedom behind it (F. Satterthwaite, 1946); 0 where nothing was repeated.
    pub freedom: f64,
    /// The probability of turns with ranks as one-sided, where both sides are of one distribution; `None` where there are too
    /// few turns.
    pub ranks: Option<f64>,
    /// Differences of up to this are never told.
    pub floor: f64,
}

impl Contrast {
    /// B's queries a second over A's.
    pub fn ratio(&self) -> f64 {
        self.log_ratio.exp()
    }

    /// The ends of the ratio's 95% interval; `None` where nothing was repeated.
    pub fn interval(&self) -> Option<(f64, f64)> {
        let half = half_width((self.variance, self.freedom), ALPHA);
        half.is_finite().then(|| ((self.log_ratio - half).exp(), (self.log_ratio + half).exp()))
    }

    /// The probability of a ratio at least as far from 1, and of ranks as one-sided, where A and B do not differ.
    pub fn p(&self) -> f64 {
        if self.log_ratio == 0.0 {
            return 1.0;
        }
        two_sided_p(self.log_ratio / self.variance.sqrt(), self.freedom).max(self.ranks.unwrap_or(0.0))
    }

    /// Whether B is faster (`Some(true)`) or slower, where its corrected p and the noise floor allow to say so.
    pub fn told(&self, p_adjusted: f64) -> Option<bool> {
        (p_adjusted <= ALPHA && self.log_ratio.abs() > self.floor).then_some(self.log_ratio > 0.0)
    }

    /// The queries of two settings, each against itself, by their typical times in microseconds: whether the typical one
    /// changed by more than the noise of this contrast explains in one of `tests` tests. `None` where queries were not timed.
    pub fn paired(&self, a: &QueryTimes, b: &QueryTimes, tests: usize) -> Option<Paired> {
        let parts = [(self.variance, self.freedom), (a.variance, a.freedom), (b.variance, b.freedom)];
        let noise = match self.freedom > 0.0 {
            true => satterthwaite(&parts),
            false => (self.variance, 0.0),
        };
        paired(&a.us, &b.us, self.floor.max(half_width(noise, ALPHA / tests.max(1) as f64)))
    }
}

/// Half the width of the interval of a variance and its freedom that is left with probability `alpha`; infinite where nothing
/// was repeated.
fn half_width((variance, freedom): (f64, f64), alpha: f64) -> f64 {
    match two_sided_t(alpha, freedom) {
        t if t.is_finite() => t * variance.sqrt(),
        infinite => infinite,
    }
}

/// Two series at a recall level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AtLevel {
    /// A's queries a second; `None` where its recall is unknown.
    pub a: Option<AtRecall>,
    /// B's.
    pub b: Option<AtRecall>,
    /// B against A, where both have settings on either side of the level.
    pub contrast: Option<Contrast>,
}

/// How single queries fare at equal settings: each one's typical time in A against its own in B.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paired {
    /// Queries timed on both sides.
    pub queries: usize,
    /// Natural logarithm of the speed of the typical query in B over A: the median over queries.
    pub log_ratio: f64,
    /// Part of the queries that are slower in B.
    pub slower: f64,
    /// The probability of ranks as one-sided as these where queries change by no more than the noise does.
    pub p: f64,
}

/// Two series of one mode and place.
pub struct Versus<'a> {
    a: Redrawn<'a>,
    b: Redrawn<'a>,
    noise: Noise,
}

impl<'a> Versus<'a> {
    /// Draws the queries of both sides anew, alike. Sides that had other queries are compared without that.
    pub fn new(a: &'a Series, b: &'a Series, noise: Noise) -> Self {
        let draws = common_draws([a, b].into_iter());
        Self { a: Redrawn::new(a, &draws), b: Redrawn::new(b, &draws), noise }
    }

    /// Both sides at a recall level.
    pub fn at_level(&self, level: f64) -> AtLevel {
        at_level(&self.a, &self.b, level, self.noise)
    }

    /// Setting `a` of A against setting `b` of B, by their positions.
    pub fn at_setting(&self, a: usize, b: usize) -> Contrast {
        contrast((&self.a, &self.a.at_setting(a)), (&self.b, &self.b.at_setting(b)), self.noise)
    }
}

/// Several series of one run, mode and place, each of which is held against some of the others: queries are drawn once.
pub struct Field<'a> {
    series: Vec<Redrawn<'a>>,
    noise: Noise,
}

impl<'a> Field<'a> {
    /// Draws the queries of all of them anew, alike. Where one had other queries, all are compared without that.
    pub fn new(series: &'a [Series], noise: Noise) -> Self {
        let draws = common_draws(series.iter());
        Self { series: series.par_iter().map(|series| Redrawn::new(series, &draws)).collect(), noise }
    }

    /// Series `b` against series `a`, by their positions, at a recall level.
    pub fn at_level(&self, a: usize, b: usize, level: f64) -> AtLevel {
        at_level(&self.series[a], &self.series[b], level, self.noise)
    }
}

/// Draws of the queries that all of these had; none where one had others.
fn common_draws<'a>(mut series: impl Iterator<Item = &'a Series>) -> QueryDraws {
    let queries = |series: &Series| {
        let lengths = series.settings.iter().map(|setting| setting.query_recall.len().max(setting.times.us.len()));
        lengths.max().unwrap_or(0)
    };
    let first = series.next().map_or(0, queries);
    QueryDraws::of(if series.all(|other| queries(other) == first) { first } else { 0 })
}

fn at_level(a: &Redrawn<'_>, b: &Redrawn<'_>, level: f64, noise: Noise) -> AtLevel {
    let (at_a, at_b) = (a.at_level(level), b.at_level(level));
    let figure = |side: &Option<Side>| side.as_ref().map(|side| side.figure);
    let contrast = match (&at_a, &at_b) {
        (Some(side_a), Some(side_b))
            if matches!((side_a.figure, side_b.figure), (AtRecall::Value(_), AtRecall::Value(_))) =>
        {
            Some(contrast((a, side_a), (b, side_b), noise))
        }
        _ => None,
    };
    AtLevel { a: figure(&at_a), b: figure(&at_b), contrast }
}

fn contrast((all_a, a): (&Redrawn<'_>, &Side), (all_b, b): (&Redrawn<'_>, &Side), noise: Noise) -> Contrast {
    let apart: Vec<f64> = a.drawn.iter().zip(&b.drawn).map(|(a, b)| b - a).collect();
    let queries = apart.len().min(all_a.queries).saturating_sub(1) as f64;
    let ranks = Ranks::of(&a.turns, &b.turns);
    let [passes_a, passes_b] = ranks.as_ref().map_or([a.passes, b.passes], |ranks| [ranks.passes, (0.0, 0.0)]);
    let parts = [passes_a, passes_b, (variance(&apart), queries), (noise.between(a.runs, b.runs), noise.freedom)];
    let repeated = noise.is_known() || (all_a.series.freedom > 0.0 && all_b.series.freedom > 0.0);
    let (variance, freedom) = satterthwaite(&parts);
    Contrast {
        log_ratio: b.log_qps - a.log_qps,
        variance,
        freedom: if repeated { freedom } else { 0.0 },
        ranks: ranks.map(|ranks| ranks.p),
        floor: noise.floor(a.runs, b.runs),
    }
}

/// What the turns of both sides show, where there are enough.
struct Ranks {
    /// The probability of ranks as one-sided.
    p: f64,
    /// The variance of the difference that their interval amounts to, and its degrees of freedom.
    passes: (f64, f64),
}

impl Ranks {
    fn of(a: &[f64], b: &[f64]) -> Option<Self> {
        if a.len().min(b.len()) < RANKED_TURNS {
            return None;
        }
        let freedom = (a.len() + b.len() - 2) as f64;
        let (low, high) = rank_sum::shift_interval(a, b, ALPHA)?;
        let deviation = (high - low) / 2.0 / two_sided_t(ALPHA, freedom);
        Some(Self { p: rank_sum::p_two_sided(a, b), passes: (deviation * deviation, freedom) })
    }
}

/// A series with its queries drawn anew.
struct Redrawn<'a> {
    series: &'a Series,
    queries: usize,
    /// Positions of settings of known recall.
    judged: Vec<usize>,
    /// For every setting of the series, and every draw of queries, its recall; empty where only the whole is known.
    recall: Vec<Vec<f64>>,
    /// The same of the logarithm of queries a second, less its value for all queries; empty where no query was timed.
    shift: Vec<Vec<f64>>,
}

/// One side of a contrast.
struct Side {
    figure: AtRecall,
    log_qps: f64,
    /// Variance of `log_qps` from passes, with its degrees of freedom.
    passes: (f64, f64),
    /// `log_qps` of every turn; empty where several runs measured it, whose turns differ from run to run.
    turns: Vec<f64>,
    /// `log_qps` for every draw of queries; empty where queries are not known singly.
    drawn: Vec<f64>,
    /// Runs that measured it.
    runs: usize,
}

impl<'a> Redrawn<'a> {
    fn new(series: &'a Series, draws: &QueryDraws) -> Self {
        let recall = series.settings.iter().map(|setting| draws.means(&setting.query_recall).unwrap_or_default());
        let shift = series.settings.iter().map(|setting| {
            let whole = stats::mean(&setting.times.us).unwrap_or(1.0);
            let times: Vec<Option<f64>> = setting.times.us.iter().copied().map(Some).collect();
            let drawn = draws.means(&times).unwrap_or_default();
            drawn.into_iter().map(|mean| (whole / mean).ln()).collect()
        });
        let judged = (0..series.settings.len()).filter(|&i| series.settings[i].recall.is_some()).collect();
        Self { queries: draws.queries(), recall: recall.collect(), shift: shift.collect(), judged, series }
    }

    fn at_setting(&self, number: usize) -> Side {
        let setting = &self.series.settings[number];
        let log_qps = setting.log_qps();
        Side {
            figure: AtRecall::Value(log_qps.exp()),
            log_qps,
            passes: self.series.pass_variance(setting),
            turns: turns(&[(setting, 1.0)]),
            drawn: self.shift[number].iter().map(|shift| log_qps + shift).collect(),
            runs: setting.sessions.len(),
        }
    }

    fn at_level(&self, level: f64) -> Option<Side> {
        let whole: Vec<(f64, f64)> = self.judged.iter().map(|&i| self.point(i, None)).collect();
        let frontier = stats::pareto_frontier(&whole);
        let recalls: Vec<f64> = frontier.iter().map(|&point| whole[point].0).collect();
        let speeds: Vec<f64> = frontier.iter().map(|&point| whole[point].1).collect();
        let found = Level::locate(&recalls, level)?;
        let figure = found.read(&speeds)?;
        let (left, weight) = match found {
            Level::Between { left, weight } => (left, weight),
            Level::Below => (0, 0.0),
            Level::Above { .. } => (frontier.len() - 1, 0.0),
        };
        let near: Vec<(&Sampled, f64)> = [(left, 1.0 - weight), (left + 1, weight)]
            .into_iter()
            .filter(|(_, part)| *part > 0.0)
            .filter_map(|(place, part)| Some((&self.series.settings[self.judged[*frontier.get(place)?]], part)))
            .collect();
        // As if both settings had the same slow minutes: measured in turns, they do. What is known of both stands on what is
        // known of the one of which less is.
        let (mut deviation, mut freedom) = (0.0, f64::INFINITY);
        for (setting, part) in &near {
            let (variance, of_setting) = self.series.pass_variance(setting);
            deviation += part * variance.sqrt();
            freedom = freedom.min(of_setting);
        }
        Some(Side {
            figure,
            log_qps: speed_at(&whole, level)?.ln(),
            passes: (deviation * deviation, freedom),
            turns: turns(&near),
            drawn: self.drawn_at(level),
            runs: near.iter().map(|(setting, _)| setting.sessions.len()).min().unwrap_or(1),
        })
    }

    /// Log QPS at a level for every draw of queries.
    fn drawn_at(&self, level: f64) -> Vec<f64> {
        let draws = self.recall.iter().chain(&self.shift).map(Vec::len).max().unwrap_or(0);
        (0..draws)
            .filter_map(|draw| {
                let points: Vec<(f64, f64)> = self.judged.iter().map(|&i| self.point(i, Some(draw))).collect();
                speed_at(&points, level).map(f64::ln)
            })
            .collect()
    }

    /// Recall and queries a second of a setting, for all queries or for a draw of them.
    fn point(&self, number: usize, draw: Option<usize>) -> (f64, f64) {
        let setting = &self.series.settings[number];
        let of = |drawn: &[Vec<f64>]| draw.and_then(|draw| drawn[number].get(draw)).copied();
        let recall = of(&self.recall).or(setting.recall).unwrap_or(f64::NAN);
        (recall, (setting.log_qps() + of(&self.shift).unwrap_or(0.0)).exp())
    }
}

/// The logarithm of queries a second of every turn, between settings that were measured in turns and count by these parts;
/// empty where one was measured by several runs, or not in turns.
fn turns(near: &[(&Sampled, f64)]) -> Vec<f64> {
    let levels: Option<Vec<(&[f64], f64)>> = (near.iter())
        .map(|(setting, part)| match setting.sessions.as_slice() {
            [session] => Some((session.turn_log_qps.as_slice(), *part)),
            _ => None,
        })
        .collect();
    let levels = levels.unwrap_or_default();
    let rounds = levels.iter().map(|(turns, _)| turns.len()).min().unwrap_or(0);
    (0..rounds).map(|round| levels.iter().map(|(turns, part)| part * turns[round]).sum()).collect()
}

/// Queries a second at a level between points of recall and queries a second; beyond their ends that of the end, so that
/// draws in which the level falls outside do not stray.
fn speed_at(points: &[(f64, f64)], level: f64) -> Option<f64> {
    let frontier = stats::pareto_frontier(points);
    let recalls: Vec<f64> = frontier.iter().map(|&point| points[point].0).collect();
    let speeds: Vec<f64> = frontier.iter().map(|&point| points[point].1).collect();
    match Level::locate(&recalls, level)?.read(&speeds)? {
        AtRecall::Value(speed) | AtRecall::Bound(speed) => Some(speed),
        AtRecall::Max(_) => speeds.last().copied(),
    }
}

fn paired(a_us: &[f64], b_us: &[f64], beyond: f64) -> Option<Paired> {
    if a_us.is_empty() || a_us.len() != b_us.len() {
        return None;
    }
    let changes: Vec<f64> = a_us.iter().zip(b_us).map(|(a, b)| (a / b).ln()).collect();
    let log_ratio = stats::median(&changes)?;
    let further: Vec<f64> = changes.iter().map(|change| change * log_ratio.signum() - beyond).collect();
    Some(Paired {
        queries: changes.len(),
        log_ratio,
        slower: changes.iter().filter(|change| **change < 0.0).count() as f64 / changes.len() as f64,
        p: if log_ratio == 0.0 || !beyond.is_finite() {
            1.0
        } else {
            (2.0 * signed_rank::p_greater(&further)).min(1.0)
        },
    })
}

#[cfg(test)]
#[path = "contrast_tests.rs"]
mod tests;
