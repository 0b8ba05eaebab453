//! Measurements that were made elsewhere: where they come from, and the figures that their source states.
//!
//! In: a file of another benchmark, or of Kiln on another machine (`kiln import`). Out: the mark on a
//! [`SettingRecord`](crate::record::SettingRecord) that keeps it from being ranked or tested against what was measured
//! here, and the figures that cannot be derived from raw measurements, because the source keeps none.

use serde::{Deserialize, Serialize};

use crate::stats::{Interval, Latency};

/// The mark of an imported setting.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Foreign {
    /// The format it was read from: `ann-benchmarks`, `cuvs-bench`, `csv`, `parquet`.
    pub format: String,
    /// The file.
    pub source: String,
    /// The hardware, as far as the source tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// The rule by which its recall was counted, where that is not Kiln's strict one on recomputed distances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall_rule: Option<String>,
    /// Figures as the source states them.
    #[serde(default)]
    pub stated: Stated,
}

/// Figures of a setting as its source states them. One that is stated comes before what the raw measurements say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stated {
    /// Queries of a pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queries: Option<usize>,
    /// Recall, by [`Foreign::recall_rule`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
    /// Recall by ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall_ids: Option<f64>,
    /// Recall by the ann-benchmarks rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall_ann_benchmarks: Option<f64>,
    /// Recall that 95% of the queries reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall_p5: Option<f64>,
    /// Recall that 99% of the queries reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall_p1: Option<f64>,
    /// Queries a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qps: Option<Interval>,
    /// Microseconds a query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<StatedLatency>,
    /// 4 KiB pages a query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<f64>,
    /// Bytes a query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<f64>,
    /// Pages a query found in the index's own cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_hits: Option<f64>,
    /// Microseconds of waiting for the drive a query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_wait: Option<f64>,
    /// Bytes a query by the kernel's count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_bytes: Option<f64>,
    /// Distance computations a query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distances: Option<f64>,
    /// Nodes or lists a query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hops: Option<f64>,
}

/// Latency in microseconds as a source states it; a percentile that it does not state is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StatedLatency {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: Option<f64>,
    /// 95%.
    pub p95: Option<f64>,
    /// 99%.
    pub p99: Option<f64>,
    /// 99.9%.
    pub p999: Option<f64>,
}

impl StatedLatency {
    /// The latency, where every percentile that a chart needs is stated.
    pub fn whole(self) -> Option<Latency> {
        let (p50, p95, p99) = (self.p50?, self.p95?, self.p99?);
        Some(Latency { mean: self.mean, p50, p95, p99, p999: self.p999, samples: 0 })
    }
}
