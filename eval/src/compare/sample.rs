//! What one or several runs measured of an index in one mode and place, ready to be compared.
//!
//! In: the records of its settings. Out: a [`Series`]: for every setting its recall and its speed, with the variance that
//! its own passes show.
//!
//! Passes that follow each other share the machine's mood, so they are not samples of their own. What is drawn anew is the
//! turn: the passes that a setting makes before the others have theirs ([`crate::interleave`]), which is the block bootstrap
//! (H. Künsch, "The jackknife and the bootstrap for general stationary observations", 1989) with the blocks as they were
//! measured.

use std::collections::BTreeMap;
use std::f64::consts::FRAC_PI_2;

use serde_json::Value;

use super::bootstrap::{median_variance, variance};
use super::student::satterthwaite;
use crate::metrics;
use crate::record::{PeerPoint, RunSample, SettingRecord};
use crate::stats;

/// One search setting, as one or several runs measured it.
#[derive(Debug, Clone)]
pub struct Sampled {
    /// The search parameters.
    pub params: BTreeMap<String, Value>,
    /// One for each run folder that holds it.
    pub sessions: Vec<Session>,
    /// Strict recall, the mean over runs; `None` where truth is unknown.
    pub recall: Option<f64>,
    /// Strict recall of each query, in query order; `None` for a query without a true neighbour. Empty where it is unknown.
    pub query_recall: Vec<Option<f64>>,
    /// What each query took, as the passes that kept their times show it.
    pub times: QueryTimes,
    /// Passes that were kept, all runs together.
    pub passes: usize,
}

/// What single queries typically took.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueryTimes {
    /// Microseconds of each query, in query order: the median over passes. Empty in batch mode.
    pub us: Vec<f64>,
    /// Variance of the logarithm of the typical query's time. Few passes keep times, so that it is not that of all passes.
    pub variance: f64,
    /// Degrees of freedom behind it.
    pub freedom: f64,
}

/// The speed of a setting in one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Which run of its side, from 0.
    pub run: usize,
    /// Natural logarithm of queries a second, the median over passes.
    pub log_qps: f64,
    /// Its variance, from how turns differ; `None` with a single turn.
    pub variance: Option<f64>,
    /// Natural logarithm of queries a second of every turn, the median over its passes.
    pub turn_log_qps: Vec<f64>,
}

impl Session {
    /// The speed that passes of these rates show, by turn.
    fn of(run: usize, log_rates: Vec<Vec<f64>>) -> Option<Self> {
        let log_qps = stats::median(&log_rates.concat())?;
        let turn_log_qps = log_rates.iter().filter_map(|turn| stats::median(turn)).collect();
        Some(Self { run, log_qps, variance: median_variance(&log_rates), turn_log_qps })
    }

    /// Turns.
    fn turns(&self) -> usize {
        self.turn_log_qps.len()
    }
}

impl Sampled {
    /// Merges the records of one setting, each with the number of its run; `None` where no pass was kept.
    pub fn of(records: &[(usize, &SettingRecord)]) -> Option<Self> {
        let kept: Vec<(usize, &SettingRecord)> =
            records.iter().copied().filter(|(_, setting)| setting.failure.is_none()).collect();
        let sessions: Vec<Session> =
            kept.iter().filter_map(|(run, setting)| Session::of(*run, log_rates(setting))).collect();
        let (_, first) = kept.first()?;
        let settings = || kept.iter().map(|(_, setting)| *setting);
        let recalls: Vec<f64> = settings().filter_map(metrics::recall).collect();
        let times: Vec<&[f32]> = settings().flat_map(|s| s.runs.iter().map(|run| run.latency_us.as_slice())).collect();
        (!sessions.is_empty()).then(|| Self {
            params: first.params.clone(),
            recall: stats::mean(&recalls),
            query_recall: mean_by_query(settings().map(query_recall)),
            times: QueryTimes::of(&times),
            passes: settings().map(|setting| setting.runs.len()).sum(),
            sessions,
        })
    }

    /// The same of another library, which was timed round by round and judged as a whole.
    pub fn of_peer(records: &[(usize, &PeerPoint)]) -> Option<Self> {
        let (_, first) = records.first()?;
        let rounds = |point: &PeerPoint| point.qps.iter().filter(|qps| **qps > 0.0).map(|qps| vec![qps.ln()]).collect();
        let sessions: Vec<Session> =
            records.iter().filter_map(|(run, point)| Session::of(*run, rounds(point))).collect();
        let recalls: Vec<f64> = records.iter().map(|(_, point)| point.recall).collect();
        (!sessions.is_empty()).then(|| Self {
            params: first.params.clone(),
            recall: stats::mean(&recalls),
            query_recall: Vec::new(),
            times: QueryTimes::default(),
            passes: records.iter().map(|(_, point)| point.qps.len()).sum(),
            sessions,
        })
    }

    /// Natural logarithm of queries a second: the mean over runs.
    pub fn log_qps(&self) -> f64 {
        self.sessions.iter().map(|session| session.log_qps).sum::<f64>() / self.sessions.len() as f64
    }
}

/// Logarithms of queries a second of every pass, by turn.
fn log_rates(setting: &SettingRecord) -> Vec<Vec<f64>> {
    let answered = metrics::queries(setting) as f64;
    if answered == 0.0 {
        return Vec::new();
    }
    let rates = |turn: &[RunSample]| -> Vec<f64> {
        let seconds = turn.iter().map(|run| run.seconds).filter(|s| s.is_finite() && *s > 0.0);
        seconds.map(|seconds| (answered / seconds).ln()).collect()
    };
    let turns = setting.runs.chunk_by(|one, next| one.turn == next.turn).map(rates);
    turns.filter(|turn| !turn.is_empty()).collect()
}

/// The strict recall of each query; `None` for one without a true neighbour.
fn query_recall(setting: &SettingRecord) -> Vec<Option<f64>> {
    let answers = &setting.answers;
    (answers.strict_hits.iter().zip(&answers.possible))
        .map(|(&hits, &possible)| (possible > 0).then(|| f64::from(hits) / f64::from(possible)))
        .collect()
}

/// The mean of each query over runs; empty where runs had other queries.
fn mean_by_query(runs: impl Iterator<Item = Vec<Option<f64>>>) -> Vec<Option<f64>> {
    let runs: Vec<Vec<Option<f64>>> = runs.collect();
    let queries = runs.first().map_or(0, Vec::len);
    if runs.iter().any(|run| run.len() != queries) {
        return Vec::new();
    }
    (0..queries)
        .map(|query| {
            let known: Option<Vec<f64>> = runs.iter().map(|run| run[query]).collect();
            known.and_then(|known| stats::mean(&known))
        })
        .collect()
}

impl QueryTimes {
    /// From the times of passes; empty where none kept any, or a time is missing.
    fn of(passes: &[&[f32]]) -> Self {
        let passes: Vec<&[f32]> = passes.iter().copied().filter(|pass| !pass.is_empty()).collect();
        let queries = passes.first().map_or(0, |pass| pass.len());
        let sound = |us: f32| us.is_finite() && us > 0.0;
        if passes.iter().any(|pass| pass.len() != queries || !pass.iter().all(|&us| sound(us))) {
            return Self::default();
        }
        let typical =
            |query: usize| stats::median(&passes.iter().map(|pass| f64::from(pass[query])).collect::<Vec<_>>());
        let us: Vec<f64> = (0..queries).filter_map(typical).collect();
        // A slow minute slows all queries of a pass alike: how far each pass lies from the typical times, once.
        let off = |pass: &&[f32]| {
            stats::median(
                &pass.iter().zip(&us).map(|(&us, typical)| (f64::from(us) / typical).ln()).collect::<Vec<_>>(),
            )
        };
        let levels: Vec<f64> = passes.iter().filter_map(off).collect();
        // Of a median of as many, which varies pi / 2 times as much as their mean.
        let variance = FRAC_PI_2 * variance(&levels) / levels.len().max(1) as f64;
        Self { us, variance, freedom: levels.len().saturating_sub(1) as f64 }
    }
}

/// An index in one mode and place: its settings, and how much their speeds vary.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its settings.
    pub settings: Vec<Sampled>,
    /// Variance of one turn's speed, pooled over the settings; `None` where no setting has two turns.
    turn_variance: Option<f64>,
    /// Degrees of freedom behind it.
    pub freedom: f64,
}

impl Series {
    /// A series of these settings.
    ///
    /// Settings of one series were measured side by side and vary alike, in proportion: what they show is pooled. For the same
    /// reason they do not add up to more degrees of freedom than the one with most turns has: a slow minute falls on all.
    pub fn new(settings: Vec<Sampled>) -> Self {
        let turns =
            |session: &Session| Some(((session.turns() - 1) as f64, session.turns() as f64 * session.variance?));
        let known = |setting: &Sampled| setting.sessions.iter().filter_map(turns).collect::<Vec<_>>();
        let known: Vec<Vec<(f64, f64)>> = settings.iter().map(known).collect();
        let all: f64 = known.iter().flatten().map(|(turns, _)| turns).sum();
        let squares: f64 = known.iter().flatten().map(|(turns, variance)| turns * variance).sum();
        let freedom = known.iter().map(|known| known.iter().map(|(turns, _)| turns).sum()).fold(0.0, f64::max);
        Self { turn_variance: (all > 0.0).then(|| squares / all), freedom, settings }
    }

    /// A series of the settings of one run.
    pub fn of_run<'a>(settings: impl IntoIterator<Item = &'a SettingRecord>) -> Self {
        let alone = |setting| Sampled::of(&[(0, setting)]);
        Self::new(settings.into_iter().filter_map(alone).collect())
    }

    /// Variance of one run's log QPS as its passes show it: the setting's own or the pooled one, whichever is larger.
    pub fn session_variance(&self, session: &Session) -> f64 {
        let pooled = self.turn_variance.map(|turn| turn / session.turns() as f64);
        session.variance.unwrap_or(0.0).max(pooled.unwrap_or(0.0))
    }

    /// Variance of a setting's [`Sampled::log_qps`] as its passes show it, and the degrees of freedom behind it: those of all
    /// settings where it is pooled, of its own few turns where it is the setting's own.
    pub fn pass_variance(&self, setting: &Sampled) -> (f64, f64) {
        let runs = setting.sessions.len() as f64;
        let mut pooled = (0.0, self.freedom);
        let mut parts = Vec::new();
        for session in &setting.sessions {
            let variance = self.session_variance(session) / (runs * runs);
            match self.is_pooled(session) {
                true => pooled.0 += variance,
                false => parts.push((variance, (session.turns() - 1) as f64)),
            }
        }
        parts.push(pooled);
        satterthwaite(&parts)
    }

    /// Whether the pooled variance is at least the setting's own, but for rounding.
    fn is_pooled(&self, session: &Session) -> bool {
        let pooled = self.turn_variance.map_or(0.0, |turn| turn / session.turns() as f64);
        session.variance.is_none_or(|own| own <= pooled * (1.0 + 1e-9))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::RunSample;

    fn pass(seconds: f64, latency_us: Vec<f32>) -> RunSample {
        RunSample { seconds, turn: 0, latency_us, cached_bytes: None }
    }

    /// A setting of the schema's oldest form: fields that were added since are absent.
    fn setting(runs: Vec<RunSample>, hits: &[u16]) -> SettingRecord {
        serde_json::from_value(json!({
            "key": "s", "build_key": "b", "params": { "search_list": 40 }, "mode": { "mode": "latency1" },
            "residency": "memory", "k": 10, "warmup": { "seconds": 1.0, "settled": true }, "runs": runs,
            "answers": {
                "strict_hits": hits, "id_hits": [], "ann_hits": [], "possible": vec![10; hits.len()],
                "distances": [], "hops": [], "pages": [], "bytes": [],
            },
            "failure": null,
        }))
        .expect("a setting")
    }

    #[test]
    fn passes_fall_into_turns() {
        let mut setting = setting([1.0, 0.5, 0.25, 0.0, 0.5].map(|s| pass(s, vec![])).into(), &[1]);
        setting.runs.iter_mut().zip([0, 0, 1, 2, 3]).for_each(|(run, turn)| run.turn = turn);
        let session = Session::of(0, log_rates(&setting)).expect("passes");
        let two = 2f64.ln();
        assert_eq!((session.log_qps, session.turn_log_qps.as_slice()), (two, [0.5 * two, 2.0 * two, two].as_slice()));
        setting.runs.iter_mut().for_each(|run| run.turn = 0);
        let once = Session::of(0, log_rates(&setting)).expect("passes");
        assert_eq!((once.log_qps, once.variance, once.turns()), (two, None, 1));
        assert!(Session::of(0, Vec::new()).is_none());
    }

    #[test]
    fn a_setting_is_summarised_by_medians() {
        let one = setting(vec![pass(0.002, vec![100.0, 300.0]), pass(0.004, vec![200.0, 100.0])], &[10, 5]);
        let two = setting(vec![pass(0.001, vec![150.0, 500.0])], &[10, 7]);
        let sampled = Sampled::of(&[(0, &one), (1, &two)]).expect("measured");
        assert_eq!(sampled.times.us, [150.0, 300.0]);
        assert_eq!(sampled.query_recall, [Some(1.0), Some(0.6)]);
        assert!((sampled.recall.expect("known") - 0.8).abs() < 1e-12);
        // Two queries in 2 and 4 ms: the median of ln 1000 and ln 500; in 1 ms ln 2000.
        let logs = [0.5 * (1000f64.ln() + 500f64.ln()), 2000f64.ln()];
        assert!((sampled.sessions[0].log_qps - logs[0]).abs() < 1e-12);
        assert!((sampled.log_qps() - 0.5 * (logs[0] + logs[1])).abs() < 1e-12);
        assert_eq!((sampled.sessions[1].variance, sampled.passes), (None, 3));
        let mut failed = one.clone();
        failed.failure = Some("killed".into());
        assert!(Sampled::of(&[(0, &failed)]).is_none());
        assert!(Sampled::of(&[]).is_none());
    }

    #[test]
    fn variance_is_pooled_but_never_below_a_setting_s_own() {
        // Every pass is a turn.
        let turned = |seconds: &[f64]| {
            let mut setting = setting(seconds.iter().map(|&s| pass(s, vec![1.0])).collect(), &[1]);
            setting.runs.iter_mut().zip(0..).for_each(|(run, turn)| run.turn = turn);
            setting
        };
        let (calm, rough) = (turned(&[0.10, 0.10, 0.10]), turned(&[0.10, 0.12, 0.08, 0.11]));
        let series = Series::of_run([&calm, &rough]);
        assert_eq!(series.freedom, 3.0);
        let own = series.settings[1].sessions[0].variance.expect("four passes");
        // Of the calm one nothing, of the rough one three of five turns but one, and four turns against three.
        let pooled = own * 4.0 * 3.0 / 5.0 / 3.0;
        let (variance, freedom) = series.pass_variance(&series.settings[0]);
        assert!((variance - pooled).abs() < 1e-12 && freedom == 3.0, "{variance}, {freedom}");
        let (variance, freedom) = series.pass_variance(&series.settings[1]);
        assert!((variance - own).abs() < 1e-15 && (freedom - 3.0).abs() < 1e-9, "{variance}, {freedom}");
        let single = Series::of_run([&setting(vec![pass(0.1, vec![1.0])], &[1])]);
        assert_eq!((single.freedom, single.pass_variance(&single.settings[0])), (0.0, (0.0, 0.0)));
    }

    #[test]
    fn queries_that_differ_between_runs_are_not_merged() {
        let (one, two) = (setting(vec![pass(0.1, vec![1.0])], &[1]), setting(vec![pass(0.1, vec![1.0, 2.0])], &[1, 2]));
        let sampled = Sampled::of(&[(0, &one), (0, &two)]).expect("measured");
        assert!(sampled.times.us.is_empty() && sampled.query_recall.is_empty());
        let torn = setting(vec![pass(0.1, vec![1.0, 0.0])], &[1, 1]);
        assert!(Sampled::of(&[(0, &torn)]).expect("timed").times.us.is_empty());
    }
}
