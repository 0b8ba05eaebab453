//! A result file of ann-benchmarks as a setting that was measured elsewhere.
//!
//! In: a file, perhaps a referee. Out: its records. Settings that took equally long to build share an index.

use std::collections::BTreeMap;
use std::path::Path;

use kiln_datasets::AnnResult;
use serde_json::{Value, json};

use super::{SLACK, plotted_recall};
use crate::interchange::import::{About, Imported, Referee};
use crate::interchange::{Format, InterchangeError, key};
use crate::record::{Answers, BuildRecord, Foreign, Mode, RunSample, SettingRecord, Stated, Warmup};
use crate::stats::Interval;

/// Reads a result file. With a referee its answers are judged on the data set's own rows; without, recall is what its plot
/// program has left in the file, or unknown.
///
/// # Errors
/// When it is no result file, or of another data set than the referee's.
pub fn read(path: &Path, referee: Option<&mut Referee<'_>>) -> Result<Imported, InterchangeError> {
    let result = AnnResult::read(path)?;
    let queries = result.neighbors.nrows();
    let about = About {
        dataset: result.dataset.clone(),
        metric: match result.distance.as_str() {
            "euclidean" => Some("l2".into()),
            "angular" | "cosine" | "normalized" => Some("cosine".into()),
            "dot" | "ip" => Some("ip".into()),
            _ => None,
        },
        queries,
        k: result.count,
        ..About::default()
    };
    let qps = 1.0 / result.best_search_time;
    let mut stated = Stated {
        queries: Some(queries),
        qps: Some(Interval { median: qps, lo: qps, hi: qps }),
        distances: result.dist_comps.map(|computed| computed / (result.run_count.max(1) * queries as u64) as f64),
        ..Stated::default()
    };
    let mut recall_rule = None;
    let mut answers = Answers::default();
    match referee {
        Some(referee) => {
            answers = judged(path, &result, referee, &about)?;
        }
        None => {
            stated.recall = result.plotted_recall;
            stated.recall_ann_benchmarks = result.plotted_recall;
            recall_rule =
                result.plotted_recall.map(|_| "ann-benchmarks (distance within 1e-3 of the k-th)".to_string());
            if result.plotted_recall.is_none() {
                tracing::warn!(
                    "{}: its recall is unknown; give the data set with --dataset to judge it",
                    path.display()
                );
            }
        }
    }
    let latency_us = if result.batch_mode {
        Vec::new()
    } else {
        result.times.iter().map(|&seconds| (f64::from(seconds) * 1e6) as f32).collect()
    };
    let seconds: f64 = result.times.iter().map(|&seconds| f64::from(seconds)).sum();
    // Some adapters give all settings of an index one name; the file is named by all arguments.
    let file = path.file_stem().unwrap_or_default().to_string_lossy();
    let params: BTreeMap<String, Value> =
        [("name".to_string(), json!(result.name)), ("file".to_string(), json!(file))].into();
    let index_bytes = (result.index_size * 1024.0) as u64;
    let format = Format::AnnBenchmarks.name();
    // Settings of one index share what building it took.
    let shared = format!("{} {}", result.build_time, result.index_size);
    let build = BuildRecord {
        total_seconds: result.build_time,
        index_bytes,
        serving_bytes: index_bytes,
        ..BuildRecord::unknown(key(&[format, &about.dataset, &result.algo, &shared]), result.algo.as_str())
    };
    // How many threads a batch had, its runner does not record.
    let mode = if result.batch_mode { Mode::Batch { threads: 1 } } else { Mode::Latency1 };
    let own = key(&[&build.key, &result.name, &file, &mode.name()]);
    let setting = SettingRecord {
        serving_bytes: Some(index_bytes),
        warmup: Warmup { seconds: 0.0, settled: true },
        runs: vec![RunSample { seconds, turn: 0, latency_us, cached_bytes: None }],
        answers,
        foreign: Some(Box::new(Foreign {
            format: format.into(),
            source: path.display().to_string(),
            hardware: None,
            recall_rule,
            stated,
        })),
        ..SettingRecord::unmeasured(own, build.key.as_str(), params, mode, result.count)
    };
    let mut imported = Imported::new(about);
    imported.add(build, setting);
    Ok(imported)
}

/// The verdicts on a file's answers.
fn judged(
    path: &Path,
    result: &AnnResult,
    referee: &mut Referee<'_>,
    about: &About,
) -> Result<Answers, InterchangeError> {
    let queries = result.neighbors.nrows();
    if queries > referee.queries.len() {
        let problem =
            format!("it answers {queries} queries, and {} has {}", referee.dataset.name, referee.queries.len());
        return Err(InterchangeError::malformed(path, problem, "give its own data set with --dataset"));
    }
    if let Some(metric) = about.metric.as_deref().filter(|metric| *metric != referee.metric.name()) {
        let problem = format!("it is by {metric}, and {} by {}", referee.dataset.name, referee.metric);
        return Err(InterchangeError::malformed(path, problem, "give its own data set with --dataset"));
    }
    let rows = referee.dataset.base.len();
    let foreign =
        result.neighbors.iter().filter(|&&id| id < -1 || u64::try_from(id).is_ok_and(|id| id >= rows)).count();
    if foreign > 0 {
        tracing::warn!(
            "{}: {foreign} of {} answers name no row of {} ({rows} rows): they count as misses",
            path.display(),
            result.neighbors.len(),
            referee.dataset.name
        );
    }
    let judgement = referee.judge(result.count, queries)?.judge(result.neighbors.view())?;
    if let Some(truth) = referee.dataset.truth.as_ref().and_then(|truth| truth.distances.as_ref()) {
        let plotted = plotted_recall(truth.view(), result.distances.view(), result.count);
        let hits: f64 = judgement.ann_hits.iter().map(|&hits| f64::from(hits)).sum();
        let recomputed = hits / queries as f64 / result.count as f64;
        if (plotted - recomputed).abs() > SLACK {
            tracing::warn!(
                "{}: by the distances that it states, its own rule gives recall {plotted:.4}; by recomputed ones \
                 {recomputed:.4}, which is used",
                path.display()
            );
        }
    }
    Ok(Answers {
        strict_hits: judgement.strict_hits,
        id_hits: judgement.id_hits,
        ann_hits: judgement.ann_hits,
        possible: judgement.possible,
        ..Answers::default()
    })
}
