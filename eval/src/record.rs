//! The records of an experiment: what was built, what was run, and the raw figures that came out.
//!
//! A run folder holds
//!
//! | file | what |
//! |---|---|
//! | `run.json` | one [`RunHeader`]: provenance, data set, options |
//! | `builds.jsonl` | a [`BuildRecord`] a line, appended when an index is ready |
//! | `settings.jsonl` | a [`SettingRecord`] a line, appended when a setting is fully measured |
//! | `peers.jsonl` | a [`PeerRecord`] a line, where other libraries were measured beside (`scripts/bench`) |
//! | `load.jsonl` | a [`LoadRecord`] a line, where a server was put under load |
//! | `indexes/` | the built index files |
//!
//! Only raw measurements and the judge's per-query verdicts are stored; every derived figure is a pure
//! function over them, in [`crate::metrics`].

mod mode;

use std::collections::BTreeMap;

use kiln_builder::Searcher;
use serde::{Deserialize, Serialize};

pub use crate::held_out::HeldOut;
pub use kiln_datasets::difficulty::{Difficulty, SHIFT_NEIGHBOUR, Shift};

pub use crate::foreign::{Foreign, Stated, StatedLatency};
pub use crate::io_state::IoState;
pub use crate::load::LoadRecord;
pub use crate::noise::NoiseCheck;
pub use mode::{MAX_THREADS, Mode};

/// Version of this schema; a reader refuses others and names both.
pub const SCHEMA_VERSION: u32 = 1;

/// Runs of a setting whose latencies are kept, at most: a small query set makes hundreds of runs in the time
/// that the methodology asks for, and every one of them would cost a number a query.
pub const LATENCY_RUNS: usize = 20;

/// What identifies and reproduces a run. One a folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunHeader {
    /// [`SCHEMA_VERSION`].
    pub schema: u32,
    /// UTC, `2026-11-20T17:40:00Z`.
    pub created: String,
    /// The command line that reproduces it.
    pub command: String,
    /// The machine.
    pub machine: Machine,
    /// The data.
    pub dataset: DatasetRecord,
    /// Neighbours asked for.
    pub k: usize,
    /// True when measured with `--quick`: fewer repeats than the methodology asks.
    pub quick: bool,
    /// What the drive can do, measured on the first index that was served from it; `None` where none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drive_ceiling: Option<DriveCeiling>,
    /// One setting measured against itself before all others; `None` where nothing was measured, and in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<NoiseCheck>,
    /// The queries by which no setting is chosen; `None` where all choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOut>,
    /// What the protocol of peers costs, measured on an engine that does nothing; `None` where no peer was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_overhead: Option<PeerOverhead>,
}

/// What measuring through the protocol of peers costs: an engine that answers at once, and wrongly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerOverhead {
    /// What was run.
    pub command: Vec<String>,
    /// Microseconds that a query took one at a time, by the engine's own clock; the median of all.
    pub latency_us: f64,
    /// Queries a second with all in one call, by the engine's own clock; the median of passes.
    pub batch_qps: f64,
    /// Seconds from asking for one pass to having its answers, less the pass itself: what a turn costs beside the time
    /// that is measured.
    pub turn_seconds: f64,
}

/// The most that a drive gives: random reads of one 4 KiB page each, past the page cache, by a program that does nothing
/// else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriveCeiling {
    /// Reads completed a second.
    pub reads_per_second: f64,
    /// Reads in flight.
    pub depth: usize,
    /// What measured it: `fio-3.33, io_uring`, or `kiln, 64 threads of pread`.
    pub tool: String,
    /// The file that was read.
    pub file: String,
}

/// The machine and the binary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// CPU model name.
    pub cpu: String,
    /// Logical CPUs usable by the process.
    pub cpus: usize,
    /// Instruction set that Kiln's kernels chose.
    pub isa: String,
    /// SIMD features that the CPU reports.
    pub features: Vec<String>,
    /// Frequency governor, if the system tells.
    pub governor: Option<String>,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// cgroup memory limit in bytes, if any.
    pub memory_limit_bytes: Option<u64>,
    /// cgroup CPU limit in CPUs, if any.
    pub cpu_limit: Option<f64>,
    /// Kernel release.
    pub kernel: String,
    /// Filesystem type that holds the run folder.
    pub filesystem: Option<String>,
    /// Block device model or name that holds the run folder.
    pub drive: Option<String>,
    /// GPU in words, if any.
    pub gpu: Option<String>,
    /// Compiler version.
    pub rustc: String,
    /// Target, profile and flags.
    pub build_flags: String,
    /// Kiln's version.
    pub kiln_version: String,
    /// Commit of the source, if known.
    pub commit: Option<String>,
    /// Whether the source differed from that commit.
    pub dirty: Option<bool>,
}

/// The data set of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetRecord {
    /// Its name.
    pub name: String,
    /// Where it was read from.
    pub path: String,
    /// Content fingerprint (see `kiln_datasets::Dataset::fingerprint`).
    pub fingerprint: String,
    /// SHA-256 of the whole file in hex.
    pub sha256: Option<String>,
    /// Base rows.
    pub rows: u64,
    /// Coordinates a row.
    pub dim: usize,
    /// Queries used.
    pub queries: usize,
    /// `f32`, `f16`, `u8` or `i8`.
    pub dtype: String,
    /// `l2`, `ip` or `cosine`.
    pub metric: String,
    /// Depth of the ground truth.
    pub truth_depth: usize,
    /// Local intrinsic dimension of each query's truth (maximum likelihood over the truth's distances), where computable.
    pub query_lid: Vec<Option<f32>>,
    /// What the check of the truth found.
    pub warnings: Vec<String>,
    /// How hard the set is, from a sample; `None` in older records, and where looking at it would take too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difficulty: Option<Difficulty>,
}

/// One index that was built or opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// Unique within the run: hash of kind, parameters and data set fingerprint.
    pub key: String,
    /// `vamana`, `ivf-pq`, or the name of a peer.
    pub index: String,
    /// The index file; of a peer, its command.
    pub path: String,
    /// Build parameters by name.
    pub params: BTreeMap<String, serde_json::Value>,
    /// Element type of the stored vectors, which may be smaller than the data set's; empty in older records.
    #[serde(default)]
    pub dtype: String,
    /// What computed it, in words.
    pub device: String,
    /// Threads used.
    pub threads: usize,
    /// Wall seconds of each stage in order (`read`, `train`, `graph`, `encode`, `write`, `fsync`, ...).
    pub stage_seconds: Vec<(String, f64)>,
    /// Wall seconds in all.
    pub total_seconds: f64,
    /// CPU seconds in all (user + system).
    pub cpu_seconds: f64,
    /// Highest resident set of the process during the build, bytes.
    pub peak_rss_bytes: u64,
    /// Size of the index file.
    pub index_bytes: u64,
    /// Resident bytes that serving needs beyond the process itself, as first opened in this run (from memory or SSD).
    pub serving_bytes: u64,
}

impl BuildRecord {
    /// Whether this is an index of Kiln's own. A peer is named by whoever writes the experiment, perhaps like one of Kiln's:
    /// its device is its name and version.
    pub fn is_kilns(&self) -> bool {
        ["vamana", "ivf-pq"].contains(&self.index.as_str()) && !self.device.starts_with(&format!("{} ", self.index))
    }

    /// The record of something of which only the name is known.
    pub fn unknown(key: impl Into<String>, index: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            index: index.into(),
            path: String::new(),
            params: BTreeMap::new(),
            dtype: String::new(),
            device: "unknown".to_string(),
            threads: 0,
            stage_seconds: Vec::new(),
            total_seconds: 0.0,
            cpu_seconds: 0.0,
            peak_rss_bytes: 0,
            index_bytes: 0,
            serving_bytes: 0,
        }
    }

    /// The record of an open index of `index_bytes` bytes of which nobody knows what building it cost.
    pub fn of_unknown_build(key: &str, searcher: &Searcher, index_bytes: u64) -> Self {
        Self {
            path: searcher.path().display().to_string(),
            params: searcher.meta().params.by_name(),
            dtype: searcher.dtype().name().to_string(),
            index_bytes,
            serving_bytes: searcher.serving_bytes(),
            ..Self::unknown(key, searcher.kind().name())
        }
    }
}

/// Why a setting was left out on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Skip {
    /// After a short probe another setting beat it in recall and in throughput by more than the noise. It stays out.
    Pruned,
    /// There was no time left. A run that is continued measures it.
    TimeBudget,
}

impl Skip {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Pruned, Self::TimeBudget];

    /// As records spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pruned => "pruned",
            Self::TimeBudget => "time-budget",
        }
    }
}

/// One search setting of one index in one mode, fully measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SettingRecord {
    /// Unique within the run: hash of build key, parameters, mode, k and repeat plan.
    pub key: String,
    /// The [`BuildRecord::key`] searched.
    pub build_key: String,
    /// Search parameters by name (`search_list`, `nprobe`, `rerank`, ...).
    pub params: BTreeMap<String, serde_json::Value>,
    /// How it was driven.
    pub mode: Mode,
    /// Where the index was: `memory` or `ssd`.
    pub residency: String,
    /// On SSD, what lay between the index and the drive; `None` in memory and in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_state: Option<IoState>,
    /// On SSD, bytes of memory that serving was allowed; `None`: whatever the layout does best with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_budget: Option<u64>,
    /// Resident bytes that serving held beyond the process itself; `None` in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_bytes: Option<u64>,
    /// The device that answered, in words; `None` where the processor did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Neighbours asked for.
    pub k: usize,
    /// The warm-up before the first kept run.
    pub warmup: Warmup,
    /// Every kept run.
    pub runs: Vec<RunSample>,
    /// What the judge and the index counted, once (answers do not change between runs).
    pub answers: Answers,
    /// Set when the setting was not measured, with the reason; `runs` and `answers` are then empty.
    pub failure: Option<String>,
    /// Set where that was on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<Skip>,
    /// Set when it was measured elsewhere and imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign: Option<Box<Foreign>>,
}

impl SettingRecord {
    /// The record of a setting before anything was measured, of an index in memory.
    pub fn unmeasured(
        key: impl Into<String>,
        build_key: impl Into<String>,
        params: BTreeMap<String, serde_json::Value>,
        mode: Mode,
        k: usize,
    ) -> Self {
        Self {
            key: key.into(),
            build_key: build_key.into(),
            params,
            mode,
            residency: "memory".to_string(),
            io_state: None,
            memory_budget: None,
            serving_bytes: None,
            device: None,
            k,
            warmup: Warmup::default(),
            runs: Vec::new(),
            answers: Answers::default(),
            failure: None,
            skip: None,
            foreign: None,
        }
    }

    /// Whether it was measured elsewhere, on hardware that nobody here knows: such a setting is shown, and neither
    /// ranked nor tested against others.
    pub fn is_foreign(&self) -> bool {
        self.foreign.is_some()
    }
}

/// The warm-up of a setting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Warmup {
    /// Its length in seconds.
    pub seconds: f64,
    /// True when three windows agreed within 2%; false when the time limit ended it.
    pub settled: bool,
}

/// One pass over the query set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSample {
    /// Wall seconds of the pass.
    pub seconds: f64,
    /// The turn of its setting that it was in, from 0: between two turns others had theirs. Records of one turn say nothing
    /// about how turns differ.
    #[serde(default)]
    pub turn: u32,
    /// Latency of each query in microseconds, in query order, to 10 ns. Where a setting has more than
    /// [`LATENCY_RUNS`] runs, only that many, evenly spread from the first to the last, keep theirs; the
    /// others keep their wall time and an empty list. Empty in batch mode, where no query is timed.
    pub latency_us: Vec<f32>,
    /// Bytes of the index file that lay in the page cache when the pass began: in state `cold` what could not be
    /// dropped. `None` where nothing is read through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_bytes: Option<u64>,
}

impl RunSample {
    /// Adds the passes of one more turn.
    pub(crate) fn add_turn(runs: &mut Vec<Self>, mut passes: Vec<Self>) {
        let turn = runs.last().map_or(0, |last| last.turn + 1);
        passes.iter_mut().for_each(|pass| pass.turn = turn);
        runs.append(&mut passes);
    }
}

/// Per-query counts, in query order. Each list holds one entry a query.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    /// True neighbours by the strict tie-aware rule (methodology section 1); empty when truth is unknown.
    pub strict_hits: Vec<u16>,
    /// Ids that are among the truth's first k ids.
    pub id_hits: Vec<u16>,
    /// Hits by the ann-benchmarks rule (distance within 1e-3 of the k-th).
    pub ann_hits: Vec<u16>,
    /// Denominator of recall: min(k, matches).
    pub possible: Vec<u16>,
    /// Distance computations.
    pub distances: Vec<u32>,
    /// Nodes expanded (Vamana) or lists scanned (IVF).
    pub hops: Vec<u32>,
    /// 4 KiB pages read from the drive.
    pub pages: Vec<u32>,
    /// Bytes read from the drive.
    pub bytes: Vec<u64>,
    /// Pages that were wanted and lay in the index's own cache; empty in memory and in older records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cache_hits: Vec<u32>,
    /// Microseconds in which the query waited for the drive and had nothing to compute; empty in memory and in older
    /// records. Unlike the counts it varies: this is the pass that was judged, in which all processors search.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub io_wait_us: Vec<f32>,
    /// Bytes that, by the kernel's count, the process fetched from drives in the pass that was judged, all queries
    /// together; `None` where the kernel does not tell, in memory and in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_bytes: Option<u64>,
}

/// Another library's index, searched in the same session and judged by the same rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Name of the row: the library, and what tells its rows apart.
    pub name: String,
    /// The library's version.
    pub version: String,
    /// Where the index was: `memory` or `ssd`.
    pub residency: String,
    /// Threads that searched; the whole query set is handed over in one call.
    pub threads: usize,
    /// Resident bytes that serving needs beyond the vectors' own file, as far as the library tells.
    pub serving_bytes: u64,
    /// Its settings.
    pub points: Vec<PeerPoint>,
}

/// One setting of a [`PeerRecord`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerPoint {
    /// Search parameters by name.
    pub params: BTreeMap<String, serde_json::Value>,
    /// Strict recall.
    pub recall: f64,
    /// Queries a second of each round.
    pub qps: Vec<f64>,
    /// 4 KiB pages that the kernel fetched from the drive for a query; `None` where it does not tell.
    #[serde(default)]
    pub pages: Option<f64>,
}

/// Everything a run folder holds.
#[derive(Debug, Clone, PartialEq)]
pub struct RunData {
    /// What identifies the run.
    pub header: RunHeader,
    /// Every index that was built or opened.
    pub builds: Vec<BuildRecord>,
    /// Every setting that was measured or failed.
    pub settings: Vec<SettingRecord>,
    /// Other libraries that were measured beside.
    pub peers: Vec<PeerRecord>,
    /// Loads on a server of an index.
    pub loads: Vec<LoadRecord>,
}
