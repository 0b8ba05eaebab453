//! Rows: a setting or a build in figures, as `--json` prints them and reports draw them.
//!
//! In: records. Out: structs that serialise to one JSON object each; a figure that does not apply is null.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::{
    bytes_per_query, cache_hits_per_query, distances_per_query, hops_per_query, io_wait_per_query, latency,
    pages_per_query, qps, queries, recall, recall_ids,
};
use crate::record::{BuildRecord, DatasetRecord, IoState, SettingRecord};
use crate::stats::{Interval, Latency};

/// A measured setting in figures: a row of `--json` output and of a report's data.
#[derive(Debug, Clone, Serialize)]
pub struct SearchRow<'a> {
    /// `vamana` or `ivf-pq`.
    pub index: &'a str,
    /// The index file.
    pub path: &'a str,
    /// Search parameters.
    pub params: &'a BTreeMap<String, serde_json::Value>,
    /// Neighbours asked for.
    pub k: usize,
    /// Threads that searched.
    pub threads: usize,
    /// `latency-1`, `throughput-2`, `batch-1`, ...
    pub mode: String,
    /// The device that answered; null where the processor did.
    pub device: Option<&'a str>,
    /// `memory` or `ssd`.
    pub residency: &'a str,
    /// `direct`, `cold`, `warm`, `capped:BYTES`; null for an index in memory.
    pub io_state: Option<String>,
    /// Bytes of memory that serving was allowed; null where nothing was said.
    pub memory_budget_bytes: Option<u64>,
    /// Resident bytes that serving held.
    pub serving_bytes: Option<u64>,
    /// Queries of a run.
    pub queries: usize,
    /// Strict recall; null when truth is unknown.
    pub recall: Option<f64>,
    /// Recall by ids; null when truth is unknown.
    pub recall_ids: Option<f64>,
    /// Queries a second.
    pub qps: Interval,
    /// Microseconds: mean, p50, p95, p99; null in batch mode.
    pub latency_us: Option<Latency>,
    /// Null for an index in memory.
    pub pages_per_query: Option<f64>,
    /// Null for an index in memory.
    pub bytes_per_query: Option<f64>,
    /// Pages found in the index's own cache; null for an index in memory.
    pub cache_hits_per_query: Option<f64>,
    /// Waiting for the drive, in the pass that was judged; null for an index in memory.
    pub io_wait_us_per_query: Option<f64>,
    /// Null when not counted.
    pub distances_per_query: Option<f64>,
    /// Null when not counted.
    pub hops_per_query: Option<f64>,
}

/// The row of a setting; `None` when it failed or kept no run.
pub fn search_row<'a>(setting: &'a SettingRecord, build: &'a BuildRecord) -> Option<SearchRow<'a>> {
    if setting.failure.is_some() {
        return None;
    }
    Some(SearchRow {
        index: &build.index,
        path: &build.path,
        params: &setting.params,
        k: setting.k,
        threads: setting.mode.threads(),
        mode: setting.mode.name(),
        device: setting.device.as_deref(),
        residency: &setting.residency,
        io_state: setting.io_state.map(IoState::name),
        memory_budget_bytes: setting.memory_budget,
        serving_bytes: setting.serving_bytes,
        queries: queries(setting),
        recall: recall(setting),
        recall_ids: recall_ids(setting),
        qps: qps(setting)?,
        latency_us: latency(setting),
        pages_per_query: pages_per_query(setting),
        bytes_per_query: bytes_per_query(setting),
        cache_hits_per_query: cache_hits_per_query(setting),
        io_wait_us_per_query: io_wait_per_query(setting),
        distances_per_query: distances_per_query(setting),
        hops_per_query: hops_per_query(setting),
    })
}

/// A build in figures: a row of `--json` output and of a report's data.
#[derive(Debug, Clone, Serialize)]
pub struct BuildRow<'a> {
    /// `vamana` or `ivf-pq`.
    pub index: &'a str,
    /// The index file.
    pub path: &'a str,
    /// Build parameters.
    pub params: &'a BTreeMap<String, serde_json::Value>,
    /// Name of the data set.
    pub dataset: &'a str,
    /// Rows.
    pub n: u64,
    /// Coordinates a row.
    pub dim: usize,
    /// `l2`, `ip` or `cosine`.
    pub metric: &'a str,
    /// Type of a stored coordinate, which may be smaller than the data set's.
    pub dtype: &'a str,
    /// What computed it.
    pub device: &'a str,
    /// Threads used.
    pub threads: usize,
    /// Wall seconds of each stage in order, then `total`.
    pub seconds: StageSeconds<'a>,
    /// Highest resident set of the build.
    pub peak_rss_bytes: u64,
    /// Size of the index file.
    pub index_bytes: u64,
}

/// Stages as a JSON object in build order, `total` last.
#[derive(Debug, Clone)]
pub struct StageSeconds<'a> {
    /// Name and wall seconds of each stage.
    pub stages: &'a [(String, f64)],
    /// Wall seconds in all.
    pub total: f64,
}

impl Serialize for StageSeconds<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let stages = self.stages.iter().map(|(name, s)| (name.as_str(), *s));
        serializer.collect_map(stages.chain([("total", self.total)]))
    }
}

/// The row of a build on `dataset`.
pub fn build_row<'a>(build: &'a BuildRecord, dataset: &'a DatasetRecord) -> BuildRow<'a> {
    BuildRow {
        index: &build.index,
        path: &build.path,
        params: &build.params,
        dataset: &dataset.name,
        n: dataset.rows,
        dim: dataset.dim,
        metric: &dataset.metric,
        dtype: if build.dtype.is_empty() { &dataset.dtype } else { &build.dtype },
        device: &build.device,
        threads: build.threads,
        seconds: StageSeconds { stages: &build.stage_seconds, total: build.total_seconds },
        peak_rss_bytes: build.peak_rss_bytes,
        index_bytes: build.index_bytes,
    }
}
