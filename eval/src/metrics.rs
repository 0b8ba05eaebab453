//! Every derived figure, as a pure function over the records.
//!
//! In: a [`SettingRecord`] and the [`BuildRecord`] it searched. Out: the figures of [`METRICS`], the rows that
//! `--json` prints and reports draw ([`SearchRow`], [`BuildRow`]), and per-query distributions. A figure
//! that does not apply (recall without truth, pages of an index in memory) is `None`, never zero.

mod drive;
mod rows;

use serde::Serialize;

pub use drive::{
    bytes_per_query, cache_hits_per_query, io_wait_per_query, kernel_bytes_per_query, pages_per_query,
    passes_begun_warm,
};
pub use rows::{BuildRow, SearchRow, StageSeconds, build_row, search_row};

use crate::record::{BuildRecord, SettingRecord, Stated};
use crate::stats::{self, Interval, Latency};

/// A measured setting and the build it searched: what a metric looks at.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// The setting.
    pub setting: &'a SettingRecord,
    /// The index it searched.
    pub build: &'a BuildRecord,
}

/// Which way a metric improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// One derived figure.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name in every output.
    pub name: &'static str,
    /// What it says, in a sentence.
    pub description: &'static str,
    /// Its unit; empty for a ratio.
    pub unit: &'static str,
    /// Which way it improves.
    pub better: Better,
    /// Its value, where it applies.
    pub value: fn(&Measured) -> Option<f64>,
}

/// Lays [`METRICS`] out as a table: name, unit, direction and function on one line, the description below.
macro_rules! metrics {
    ($($name:literal [$unit:literal] $better:ident = $value:expr; $description:literal)*) => {
        &[$(Metric {
            name: $name,
            description: $description,
            unit: $unit,
            better: Better::$better,
            value: $value,
        }),*]
    };
}

/// The one table of metrics.
pub const METRICS: &[Metric] = metrics! {
    "recall" [""] Higher = |m| recall(m.setting);
        "true neighbours found, by the strict tie-aware rule on recomputed distances; mean over queries"
    "recall_ids" [""] Higher = |m| recall_ids(m.setting);
        "ids found that are among the truth's first k ids; mean over queries"
    "recall_ann_benchmarks" [""] Higher = |m| recall_ann_benchmarks(m.setting);
        "the ann-benchmarks rule (distance within 1e-3 of the k-th); mean over queries"
    "recall_p5" [""] Higher = |m| recall_p5(m.setting);
        "recall that 95% of the queries reach"
    "recall_p1" [""] Higher = |m| recall_p1(m.setting);
        "recall that 99% of the queries reach"
    "qps" ["queries/s"] Higher = |m| qps(m.setting).map(|i| i.median);
        "queries of a run divided by its wall time; median over runs"
    "latency_mean" ["us"] Lower = |m| latency_mean(m.setting);
        "mean time of a query, over the runs that keep times: 20 at most, evenly spread"
    "latency_p50" ["us"] Lower = |m| latency(m.setting).map(|l| l.p50);
        "median time of a query, from the merged histogram of those runs"
    "latency_p95" ["us"] Lower = |m| latency(m.setting).map(|l| l.p95);
        "95% of the queries answered within this, from the merged histogram"
    "latency_p99" ["us"] Lower = |m| latency(m.setting).map(|l| l.p99);
        "99% of the queries answered within this, from the merged histogram"
    "latency_p99.9" ["us"] Lower = |m| latency(m.setting)?.p999;
        "99.9% of the queries answered within this; only of 10,000 samples or more"
    "pages_per_query" ["4 KiB pages"] Lower = |m| pages_per_query(m.setting);
        "pages read from the drive; only where the index is served from it"
    "bytes_per_query" ["B"] Lower = |m| bytes_per_query(m.setting);
        "bytes read from the drive; only where the index is served from it"
    "cache_hits_per_query" ["4 KiB pages"] Higher = |m| cache_hits_per_query(m.setting);
        "pages that were wanted and lay in the index's own cache; only where the index is served from the drive"
    "io_wait_per_query" ["us"] Lower = |m| io_wait_per_query(m.setting);
        "time in which a query waited for the drive with nothing to compute, in the pass that was judged"
    "kernel_bytes_per_query" ["B"] Lower = |m| kernel_bytes_per_query(m.setting);
        "bytes that the kernel fetched from the drive in the pass that was judged, by its own count"
    "distances_per_query" [""] Lower = |m| distances_per_query(m.setting);
        "distance computations"
    "hops_per_query" [""] Lower = |m| hops_per_query(m.setting);
        "nodes expanded (graph) or lists scanned (inverted file)"
    "build_seconds" ["s"] Lower = |m| Some(m.build.total_seconds).filter(|&seconds| seconds > 0.0);
        "wall time of the build, all stages; unknown of an index that was only opened"
    "index_bytes" ["B"] Lower = |m| Some(m.build.index_bytes as f64).filter(|&bytes| bytes > 0.0);
        "size of the index file"
};

/// A figure that the source of an imported setting states.
pub(crate) fn stated<T>(setting: &SettingRecord, figure: impl Fn(&Stated) -> Option<T>) -> Option<T> {
    figure(&setting.foreign.as_ref()?.stated)
}

/// Recall by the strict tie-aware rule; `None` when truth is unknown. Of an imported setting that could not be judged,
/// recall by its source's rule.
pub fn recall(setting: &SettingRecord) -> Option<f64> {
    stated(setting, |s| s.recall).or_else(|| stats::mean(&query_recalls(setting)))
}

/// Recall by ids.
pub fn recall_ids(setting: &SettingRecord) -> Option<f64> {
    let judged = || stats::mean(&ratios(&setting.answers.id_hits, &setting.answers.possible));
    stated(setting, |s| s.recall_ids).or_else(judged)
}

/// Recall by the ann-benchmarks rule, computed in the order in which its plot program does, so that the last digit is the
/// same: the mean number of hits, divided by k.
pub fn recall_ann_benchmarks(setting: &SettingRecord) -> Option<f64> {
    let (hits, possible) = (&setting.answers.ann_hits, &setting.answers.possible);
    let judged = || match possible.first() {
        Some(&k) if k > 0 && possible.iter().all(|&of_query| of_query == k) => {
            let hits: Vec<f64> = hits.iter().map(|&hits| f64::from(hits)).collect();
            stats::mean(&hits).map(|mean| mean / f64::from(k))
        }
        // Its data sets have no query with fewer neighbours; ours may.
        _ => stats::mean(&ratios(hits, possible)),
    };
    stated(setting, |s| s.recall_ann_benchmarks).or_else(judged)
}

/// Recall that 95% of the queries reach.
pub fn recall_p5(setting: &SettingRecord) -> Option<f64> {
    stated(setting, |s| s.recall_p5).or_else(|| recall_distribution(setting).map(|d| d.p5))
}

/// Recall that 99% of the queries reach.
pub fn recall_p1(setting: &SettingRecord) -> Option<f64> {
    stated(setting, |s| s.recall_p1).or_else(|| recall_distribution(setting).map(|d| d.p1))
}

/// The strict recall of every query that has a true neighbour, in query order; empty when truth is unknown.
pub fn query_recalls(setting: &SettingRecord) -> Vec<f64> {
    ratios(&setting.answers.strict_hits, &setting.answers.possible)
}

fn ratios(hits: &[u16], possible: &[u16]) -> Vec<f64> {
    (hits.iter().zip(possible))
        .filter(|&(_, &possible)| possible > 0)
        .map(|(&hits, &possible)| f64::from(hits) / f64::from(possible))
        .collect()
}

/// Queries of one run.
pub fn queries(setting: &SettingRecord) -> usize {
    // A pass in batches times no query; what each cost is counted in every mode, and of peers how each was judged.
    let answers = &setting.answers;
    let judged = answers.distances.len().max(answers.possible.len());
    let counted = || setting.runs.first().map_or(0, |run| run.latency_us.len().max(judged));
    stated(setting, |s| s.queries).unwrap_or_else(counted)
}

/// Queries a second: the median over runs, with its interval.
pub fn qps(setting: &SettingRecord) -> Option<Interval> {
    // Every run answers every query, though only some runs keep their latencies.
    let answered = queries(setting) as f64;
    let rates = || -> Vec<f64> {
        setting.runs.iter().filter(|run| run.seconds > 0.0).map(|run| answered / run.seconds).collect()
    };
    stated(setting, |s| s.qps).or_else(|| stats::median_interval(&rates()))
}

/// Latency over all runs; `None` in batch mode, and of an imported setting whose source states no percentiles.
pub fn latency(setting: &SettingRecord) -> Option<Latency> {
    let measured = || stats::latency(setting.runs.iter().map(|run| run.latency_us.as_slice()));
    stated(setting, |s| s.latency?.whole()).or_else(measured)
}

/// Mean time of a query, microseconds; `None` in batch mode.
pub fn latency_mean(setting: &SettingRecord) -> Option<f64> {
    stated(setting, |s| s.latency.map(|l| l.mean)).or_else(|| latency(setting).map(|l| l.mean))
}

/// Distance computations a query; `None` when they were not counted.
pub fn distances_per_query(setting: &SettingRecord) -> Option<f64> {
    stated(setting, |s| s.distances).or_else(|| mean_of(&setting.answers.distances))
}

/// Nodes expanded or lists scanned a query; `None` when they were not counted.
pub fn hops_per_query(setting: &SettingRecord) -> Option<f64> {
    stated(setting, |s| s.hops).or_else(|| mean_of(&setting.answers.hops))
}

fn mean_of(counts: &[u32]) -> Option<f64> {
    let total = counts.iter().map(|&c| f64::from(c)).sum::<f64>();
    (!counts.is_empty()).then(|| total / counts.len() as f64)
}

/// How recall spreads over the queries of a setting.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecallDistribution {
    /// Mean over queries.
    pub mean: f64,
    /// 95% of the queries reach it.
    pub p5: f64,
    /// 99% of the queries reach it.
    pub p1: f64,
    /// The 10%, 20%, ... 90% quantiles.
    pub deciles: [f64; 9],
}

/// The spread of per-query recall; `None` when truth is unknown.
pub fn recall_distribution(setting: &SettingRecord) -> Option<RecallDistribution> {
    let mut recalls = query_recalls(setting);
    let mean = stats::mean(&recalls)?;
    recalls.sort_unstable_by(f64::total_cmp);
    let mut deciles = [0.0; 9];
    for (i, decile) in deciles.iter_mut().enumerate() {
        *decile = stats::quantile_sorted(&recalls, (i + 1) as f64 / 10.0)?;
    }
    Some(RecallDistribution {
        mean,
        p5: stats::quantile_sorted(&recalls, 0.05)?,
        p1: stats::quantile_sorted(&recalls, 0.01)?,
        deciles,
    })
}

/// Queries of similar difficulty, and how well they were answered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DifficultyBucket {
    /// Lowest local intrinsic dimension in the bucket.
    pub lid_min: f64,
    /// Highest.
    pub lid_max: f64,
    /// Queries in it.
    pub queries: usize,
    /// Their mean recall.
    pub recall: f64,
}

/// Recall by decile of local intrinsic dimension, easiest first; queries of unknown dimension or without a true
/// neighbour are left out. Fewer than ten queries give fewer buckets.
pub fn difficulty_deciles(setting: &SettingRecord, lid: &[Option<f32>]) -> Vec<DifficultyBucket> {
    let answers = &setting.answers;
    let mut judged: Vec<(f64, f64)> = (lid.iter().zip(&answers.strict_hits).zip(&answers.possible))
        .filter(|&(_, &possible)| possible > 0)
        .filter_map(|((lid, &hits), &possible)| {
            let lid = f64::from((*lid)?);
            lid.is_finite().then(|| (lid, f64::from(hits) / f64::from(possible)))
        })
        .collect();
    judged.sort_by(|a, b| a.0.total_cmp(&b.0));
    (0..10)
        .filter_map(|i| {
            let bucket = &judged[judged.len() * i / 10..judged.len() * (i + 1) / 10];
            Some(DifficultyBucket {
                lid_min: bucket.first()?.0,
                lid_max: bucket.last()?.0,
                queries: bucket.len(),
                recall: bucket.iter().map(|(_, r)| r).sum::<f64>() / bucket.len() as f64,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::{Answers, IoState, Mode, RunSample, Warmup};

    fn build() -> BuildRecord {
        BuildRecord {
            key: "b".into(),
            index: "vamana".into(),
            path: "v.kiln".into(),
            params: [("max_degree".to_string(), json!(32))].into(),
            dtype: "u8".into(),
            device: "cpu".into(),
            threads: 2,
            stage_seconds: vec![("read".into(), 0.5), ("graph".into(), 2.0)],
            total_seconds: 2.5,
            cpu_seconds: 4.5,
            peak_rss_bytes: 1 << 20,
            index_bytes: 4096,
            serving_bytes: 4096,
        }
    }

    fn setting() -> SettingRecord {
        let run = |seconds| RunSample { seconds, turn: 0, latency_us: vec![100.0, 200.0, 300.0], cached_bytes: None };
        SettingRecord {
            key: "s".into(),
            build_key: "b".into(),
            params: [("search_list".to_string(), json!(40))].into(),
            mode: Mode::Throughput { threads: 2 },
            residency: "ssd".into(),
            io_state: Some(IoState::Cold),
            memory_budget: Some(8 << 20),
            device: None,
            serving_bytes: Some(6 << 20),
            k: 10,
            warmup: Warmup { seconds: 1.0, settled: true },
            runs: vec![run(0.003), run(0.001), run(0.002)],
            answers: Answers {
                strict_hits: vec![10, 5, 0],
                id_hits: vec![9, 5, 0],
                ann_hits: vec![10, 6, 0],
                possible: vec![10, 10, 0],
                distances: vec![10, 20, 30],
                hops: vec![1, 2, 3],
                pages: vec![4, 5, 6],
                bytes: vec![4096, 8192, 8192],
                cache_hits: vec![1, 0, 2],
                io_wait_us: vec![100.0, 50.0, 0.0],
                kernel_bytes: Some(12288),
            },
            failure: None,
            skip: None,
            foreign: None,
        }
    }

    #[test]
    fn recall_is_a_mean_over_queries_that_have_neighbours() {
        let setting = setting();
        assert_eq!(recall(&setting), Some(0.75));
        assert_eq!(recall_ids(&setting), Some(0.7));
        assert_eq!(recall_ann_benchmarks(&setting), Some(0.8));
        let spread = recall_distribution(&setting).expect("judged");
        assert_eq!((spread.mean, spread.deciles[4]), (0.75, 0.75));
    }

    #[test]
    fn the_ann_benchmarks_figure_is_computed_in_its_order() {
        let mut setting = setting();
        (setting.answers.ann_hits, setting.answers.possible) = (vec![7, 10, 9], vec![10; 3]);
        // The mean of hits first, then the division by k: another order ends in another digit.
        assert_eq!(recall_ann_benchmarks(&setting), Some((7.0 + 10.0 + 9.0) / 3.0 / 10.0));
    }

    #[test]
    fn what_a_source_states_comes_first() {
        use crate::record::{Foreign, StatedLatency};
        let mut setting = setting();
        assert!(!setting.is_foreign());
        let latency = StatedLatency { mean: 90.0, p50: Some(80.0), ..StatedLatency::default() };
        let stated = Stated { recall: Some(0.5), queries: Some(7), latency: Some(latency), ..Stated::default() };
        setting.foreign = Some(Box::new(Foreign { stated, ..Foreign::default() }));
        assert!(setting.is_foreign());
        assert_eq!((recall(&setting), recall_ids(&setting), queries(&setting)), (Some(0.5), Some(0.7), 7));
        // Percentiles that are not stated come from the raw times, where there are some.
        assert_eq!(latency_mean(&setting), Some(90.0));
        assert_eq!(super::latency(&setting).map(|l| l.samples), Some(9));
        setting.runs.clear();
        assert_eq!((super::latency(&setting), latency_mean(&setting)), (None, Some(90.0)));
        assert_eq!(pages_per_query(&setting), Some(5.0));
    }

    #[test]
    fn rows_have_exactly_the_promised_fields() {
        let (setting, build) = (setting(), build());
        let row = serde_json::to_value(search_row(&setting, &build)).expect("serialises");
        assert_eq!(row["qps"]["median"], json!(1500.0));
        assert_eq!(row["latency_us"].as_object().map(|o| o.len()), Some(4));
        assert_eq!(row["pages_per_query"], json!(5.0));
        assert_eq!((&row["io_state"], &row["memory_budget_bytes"]), (&json!("cold"), &json!(8 << 20)));
        assert_eq!((&row["io_wait_us_per_query"], &row["cache_hits_per_query"]), (&json!(50.0), &json!(1.0)));
        assert_eq!(kernel_bytes_per_query(&setting), Some(4096.0));
        let names: Vec<&str> = row.as_object().expect("object").keys().map(|k| k.as_str()).collect();
        let mut expected = [
            "index",
            "path",
            "params",
            "k",
            "threads",
            "mode",
            "device",
            "residency",
            "io_state",
            "memory_budget_bytes",
            "serving_bytes",
            "queries",
            "recall",
            "recall_ids",
            "qps",
            "latency_us",
            "pages_per_query",
            "bytes_per_query",
            "cache_hits_per_query",
            "io_wait_us_per_query",
            "distances_per_query",
            "hops_per_query",
        ];
        expected.sort_unstable();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, expected);
    }

    #[test]
    fn stages_keep_their_order_and_end_with_the_total() {
        let build = build();
        let seconds = StageSeconds { stages: &build.stage_seconds, total: build.total_seconds };
        let text = serde_json::to_string(&seconds).expect("serialises");
        assert_eq!(text, r#"{"read":0.5,"graph":2.0,"total":2.5}"#);
    }

    #[test]
    fn figures_that_do_not_apply_are_none() {
        let mut setting = setting();
        setting.residency = "memory".into();
        setting.answers = Answers::default();
        let build = build();
        let row = search_row(&setting, &build).expect("measured");
        assert_eq!((row.recall, row.pages_per_query, row.hops_per_query), (None, None, None));
        assert!(difficulty_deciles(&setting, &[Some(1.0)]).is_empty());
        setting.runs.clear();
        assert!(search_row(&setting, &build).is_none());
        let measured = Measured { setting: &setting, build: &build };
        let known: Vec<&str> =
            (METRICS.iter()).filter(|metric| (metric.value)(&measured).is_some()).map(|metric| metric.name).collect();
        assert_eq!(known, ["build_seconds", "index_bytes"]);
    }

    #[test]
    fn a_batch_has_throughput_and_no_latency() {
        let mut setting = setting();
        setting.mode = Mode::Batch { threads: 1 };
        setting.runs.iter_mut().for_each(|run| run.latency_us.clear());
        let build = build();
        let row = serde_json::to_value(search_row(&setting, &build)).expect("serialises");
        assert_eq!((&row["mode"], &row["queries"], &row["latency_us"]), (&json!("batch-1"), &json!(3), &json!(null)));
        assert_eq!(row["qps"]["median"], json!(1500.0));
    }

    #[test]
    fn difficulty_buckets_ascend_and_hold_every_known_query() {
        let mut setting = setting();
        let n = 25;
        setting.answers.possible = vec![10; n];
        setting.answers.strict_hits = (0..n).map(|i| 10 - (i / 5) as u16).collect();
        let mut lid: Vec<Option<f32>> = (0..n).map(|i| Some(i as f32)).collect();
        lid[3] = None;
        let buckets = difficulty_deciles(&setting, &lid);
        assert_eq!(buckets.len(), 10);
        assert_eq!(buckets.iter().map(|b| b.queries).sum::<usize>(), 24);
        assert!(buckets.windows(2).all(|w| w[0].lid_max <= w[1].lid_min && w[0].recall >= w[1].recall));
        assert_eq!(difficulty_deciles(&setting, &lid[..1]).len(), 1);
    }
}
