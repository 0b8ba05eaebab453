//! What to measure: indexes, search settings and modes, each with a stable key.
//!
//! In: the options of a `bench` command, or an experiment's file, and the shape of an index. Out: the list of [`Setting`]s. Equal keys mean
//! equal measurements, which is how an interrupted run resumes: the key of a setting covers the data set, the index,
//! the search parameters, the mode, k, where the index lies and the plan of repeats.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kiln_builder::{Effort, IndexKind, IndexParams, Navigate};
use kiln_kernels::Metric;
use serde_json::Value;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::held_out::HeldOut;
use crate::io_state::Placement;
use crate::judge::MAX_K;
use crate::measure::Repeats;
use crate::open_loop::OpenLoop;
use crate::peer::PeerSpec;
use crate::record::Mode;

/// Default search lists as multiples of k (of 10 where k is smaller), and every other one for a quick look.
const LIST_FACTORS: [f64; 11] = [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 40.0];
const QUICK_LIST_FACTORS: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 16.0];
const LEAST_LIST: usize = 10;

/// Default nprobe stops at an eighth of the lists, or here where that is less: past it, scanning costs more than a
/// plain scan of the rows would, and what is still missed was lost by the codes.
const LEAST_LAST_NPROBE: usize = 64;

/// An index to measure.
#[derive(Debug, Clone, PartialEq)]
pub enum IndexSpec {
    /// Build it into the run folder, unless it is there.
    Build(IndexParams),
    /// Open the file.
    Open(PathBuf),
}

/// What is measured: an index of Kiln's, or another library.
#[derive(Debug, Clone, PartialEq)]
pub enum Engine {
    /// An index in this process.
    Kiln {
        /// The index.
        index: IndexSpec,
        /// How it is searched.
        search: SearchGrid,
    },
    /// Another process.
    Peer(PeerSpec),
}

impl Engine {
    /// Whether a device may be able to search it: the kind of an index file is known when it is open.
    fn may_be_a_graph(&self) -> bool {
        match self {
            Engine::Kiln { index: IndexSpec::Build(params), .. } => params.kind() == IndexKind::Vamana,
            Engine::Kiln { index: IndexSpec::Open(_), .. } => true,
            Engine::Peer(_) => false,
        }
    }
}

/// Search parameters to measure: all combinations of those that apply to the kind of index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchGrid {
    /// Search lists of graph indexes; empty: a default sweep.
    pub search_lists: Vec<usize>,
    /// How graphs are walked; empty: as layout and residency do best.
    pub navigate: Vec<Navigate>,
    /// Lists scanned of inverted files; empty: a default sweep.
    pub nprobes: Vec<usize>,
    /// Candidates re-ranked of inverted files; empty: as the index does by default.
    pub reranks: Vec<usize>,
}

/// A benchmark: what is measured, and where the records go.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The run folder.
    pub out: PathBuf,
    /// The command line that reproduces the run.
    pub command: String,
    /// Neighbours asked for.
    pub k: usize,
    /// How rows are compared; `None`: as the data set says.
    pub metric: Option<Metric>,
    /// What is measured.
    pub engines: Vec<Engine>,
    /// The modes; none where only builds are measured.
    pub modes: Vec<Mode>,
    /// Where each index lies while it is searched; all are measured, one after another.
    pub placements: Vec<Placement>,
    /// Only so many of the queries, the first; `None`: all.
    pub queries: Option<usize>,
    /// How often and how long each setting is measured.
    pub repeats: Repeats,
    /// Fewer repeats and settings than the methodology asks for.
    pub quick: bool,
    /// The queries by which no setting is chosen or pruned.
    pub held_out: Option<HeldOut>,
    /// The time that all may take; `None`: as much as it takes.
    pub budget: Option<Duration>,
    /// Leave out settings that a short probe shows to be off the frontier.
    pub prune: bool,
    /// Loads that are offered to each index, once its settings are measured.
    pub open_loop: Option<OpenLoop>,
    /// The engine that does nothing, by which the cost of the protocol of peers is measured where there is one.
    pub noop: Option<Vec<String>>,
    /// Orders the settings and draws the sample of truth that is checked.
    pub seed: u64,
}

/// A plan that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Nowhere to measure.
    #[error("nowhere to measure: name a residency with --residency")]
    NoPlacement,
    /// Nothing to measure.
    #[error("no index to measure: name one with --index, or give the path of an index file")]
    NoIndex,
    /// A mode in which nothing of the plan can be measured.
    #[error("mode {mode}: devices search vamana indexes in memory: name one, and --residency memory")]
    NothingForDevice {
        /// The mode's name.
        mode: String,
    },
    /// A parameter out of range.
    #[error("--{name} {value} is out of range: use {allowed}")]
    OutOfRange {
        /// The parameter as on the command line.
        name: &'static str,
        /// The value given.
        value: usize,
        /// What is allowed.
        allowed: String,
    },
    /// A data set without queries.
    #[error(
        "{path}: it has no queries to measure with; \
         use an HDF5 set, a fetched set, or one made by `kiln datasets synth`"
    )]
    NoQueries {
        /// The data set.
        path: String,
    },
    /// A data set that does not say how rows are compared.
    #[error("{path}: it does not say how rows are compared; add --metric l2, ip or cosine")]
    NoMetric {
        /// The data set.
        path: String,
    },
    /// A data set without truth that is too large to compute it in passing.
    #[error(
        "{path}: it has no ground truth, and computing it takes {products:.1e} products, \
         more than the {limit:.1e} that a benchmark spends on it; run `kiln datasets truth` first"
    )]
    TruthTooLarge {
        /// The data set.
        path: String,
        /// Base rows x queries x coordinates.
        products: f64,
        /// What a benchmark spends at most.
        limit: f64,
    },
    /// An index of other data.
    #[error(
        "{path}: it was built from {found}, not from {asked}; build it from this data set, or measure it on its own"
    )]
    ForeignIndex {
        /// The index file.
        path: String,
        /// What it was built from.
        found: String,
        /// The data set at hand.
        asked: String,
    },
}

/// One search setting of one index in one mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Stable hash of all that determines the measurement.
    pub key: String,
    /// The index.
    pub build_key: String,
    /// The search parameters.
    pub effort: Effort,
    /// How it is driven.
    pub mode: Mode,
    /// Where the index lies.
    pub placement: Placement,
}

impl Plan {
    /// Refuses what cannot be measured on `n` rows of `dim` coordinates.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub fn validate(&self, n: u64, dim: usize) -> Result<(), crate::EvalError> {
        let check = |ok: bool, name, value, allowed: String| {
            if ok { Ok(()) } else { Err(PlanError::OutOfRange { name, value, allowed }) }
        };
        if self.engines.is_empty() {
            return Err(PlanError::NoIndex.into());
        }
        if self.placements.is_empty() {
            return Err(PlanError::NoPlacement.into());
        }
        check(self.queries != Some(0), "queries", 0, "1 or more".to_string())?;
        let most = n.min(MAX_K as u64);
        check(self.k >= 1 && self.k as u64 <= most, "k", self.k, format!("1 to {most}"))?;
        for mode in &self.modes {
            check(mode.threads() >= 1, "threads", mode.threads(), "1 or more".to_string())?;
        }
        if let Some(mode) = self.modes.iter().find(|mode| mode.is_on_device())
            && !(self.placements.contains(&Placement::Memory) && self.engines.iter().any(Engine::may_be_a_graph))
        {
            return Err(PlanError::NothingForDevice { mode: mode.name() }.into());
        }
        for engine in &self.engines {
            let Engine::Kiln { index, search } = engine else { continue };
            for (name, values) in [("search-list", &search.search_lists), ("nprobe", &search.nprobes)] {
                for &value in values {
                    check(value >= 1, name, value, "1 or more".to_string())?;
                }
            }
            if let IndexSpec::Build(params) = index {
                params.validate(dim)?;
            }
        }
        Ok(())
    }

    /// The modes, each once, in the order in which they were named.
    pub fn modes(&self) -> Vec<Mode> {
        once(&self.modes)
    }

    /// The search parameters for an index of `n` rows, ascending in effort. Those that ask for more than the index has,
    /// or for less than k candidates, are measured as what the search makes of them, once.
    pub fn efforts(&self, search: &SearchGrid, kind: IndexKind, nlist: Option<usize>, n: u64) -> Vec<Effort> {
        let n = usize::try_from(n).unwrap_or(usize::MAX);
        match kind {
            IndexKind::Vamana => {
                let asked = &search.search_lists;
                let lists = if asked.is_empty() { self.default_search_lists() } else { asked.clone() };
                let clamped = ascending(lists.into_iter().map(|list| list.max(self.k).min(n)).collect());
                let walks = if search.navigate.is_empty() { vec![Navigate::Best] } else { once(&search.navigate) };
                let each = clamped.into_iter().flat_map(|list| walks.iter().map(move |&walk| (list, walk)));
                each.map(|(search_list, navigate)| Effort::Graph { search_list, navigate }).collect()
            }
            IndexKind::IvfPq => {
                let nlist = nlist.unwrap_or(n).clamp(1, n.max(1));
                let asked = &search.nprobes;
                let probes = if asked.is_empty() { self.default_nprobes(nlist) } else { asked.clone() };
                let clamped = ascending(probes.into_iter().map(|nprobe| nprobe.min(nlist)).collect());
                let asked = &search.reranks;
                let reranks = if asked.is_empty() { vec![Effort::default_rerank(self.k)] } else { asked.clone() };
                let reranks = ascending(reranks.into_iter().map(|rerank| rerank.max(self.k)).collect());
                let each = clamped.into_iter().flat_map(|nprobe| reranks.iter().map(move |&rerank| (nprobe, rerank)));
                each.map(|(nprobe, rerank)| Effort::Lists { nprobe, rerank }).collect()
            }
        }
    }

    /// Every effort in every mode at every place. Devices walk graphs that are in memory, by exact distances, and what they
    /// cannot do is no setting: `device` is what answers there.
    pub fn settings(
        &self,
        build_key: &str,
        search: &SearchGrid,
        kind: IndexKind,
        nlist: Option<usize>,
        n: u64,
        device: &str,
    ) -> Vec<Setting> {
        let modes = self.modes();
        let efforts = self.efforts(search, kind, nlist, n);
        let modes = &modes;
        let pairs = efforts.into_iter().flat_map(|effort| modes.iter().filter_map(move |&mode| asked(effort, mode)));
        let pairs = &once(&pairs.collect::<Vec<_>>());
        let everywhere =
            self.placements().into_iter().flat_map(|at| pairs.iter().map(move |&(effort, mode)| (effort, mode, at)));
        everywhere
            .filter(|(_, mode, placement)| !mode.is_on_device() || *placement == Placement::Memory)
            .map(|(effort, mode, placement)| Setting {
                key: self.setting_key(build_key, effort, mode, placement, device),
                build_key: build_key.to_string(),
                effort,
                mode,
                placement,
            })
            .collect()
    }

    /// The places, each once, in the order in which they were named.
    pub fn placements(&self) -> Vec<Placement> {
        once(&self.placements)
    }

    fn setting_key(&self, build_key: &str, effort: Effort, mode: Mode, placement: Placement, device: &str) -> String {
        let place = match mode.is_on_device() {
            true => format!("{} of {device}", placement.key()),
            false => placement.key(),
        };
        self.key_of(build_key, &effort.by_name(), mode, &place)
    }

    /// The key of a setting whose index lies where `place` says.
    pub(crate) fn key_of(&self, build_key: &str, search: &BTreeMap<String, Value>, mode: Mode, place: &str) -> String {
        let Repeats { min_runs, min_seconds, warmup_seconds, window_seconds } = self.repeats;
        let determines = format!(
            "build={build_key};{};mode={};k={};residency={place};runs={min_runs};\
             seconds={min_seconds};warmup={warmup_seconds};window={window_seconds}",
            named(search),
            mode.name(),
            self.k,
        );
        format!("{:016x}", xxh3_64(determines.as_bytes()))
    }

    fn default_search_lists(&self) -> Vec<usize> {
        let least = self.k.max(LEAST_LIST) as f64;
        let factors = if self.quick { &QUICK_LIST_FACTORS[..] } else { &LIST_FACTORS[..] };
        factors.iter().map(|factor| (least * factor).round() as usize).collect()
    }

    fn default_nprobes(&self, nlist: usize) -> Vec<usize> {
        let last = (nlist / 8).max(LEAST_LAST_NPROBE).min(nlist);
        let step = if self.quick { 2 } else { 1 };
        (0..usize::BITS).step_by(step).map(|power| 1usize << power).take_while(|&nprobe| nprobe <= last).collect()
    }
}

/// The key of an index that is built: its data, metric and parameters, and what computes it.
pub(crate) fn build_key(fingerprint: &str, metric: Metric, params: &IndexParams, device: &str) -> String {
    let (kind, values) = (params.kind(), named(&params.by_name()));
    format!(
        "{:032x}",
        xxh3_128(format!("data={fingerprint};metric={metric};index={kind};{values};device={device}").as_bytes())
    )
}

/// Parameters in one spelling, whatever the order in which they were made.
pub(crate) fn named(values: &BTreeMap<String, Value>) -> String {
    values.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// The key of an index that is opened: its data, and its first page, which holds the checksum of every section.
pub(crate) fn opened_key(fingerprint: &str, first_page: &[u8]) -> String {
    let mut determines = fingerprint.as_bytes().to_vec();
    determines.extend_from_slice(first_page);
    format!("{:032x}", xxh3_128(&determines))
}

/// The effort with which a mode is asked at this one; `None` where it cannot be.
fn asked(effort: Effort, mode: Mode) -> Option<(Effort, Mode)> {
    match (mode.is_on_device(), effort) {
        (false, _) => Some((effort, mode)),
        (true, Effort::Graph { search_list, .. }) => {
            Some((Effort::Graph { search_list, navigate: Navigate::Exact }, mode))
        }
        (true, Effort::Lists { .. }) => None,
    }
}

/// The values, each once, in the order of their first appearance.
fn once<T: Copy + PartialEq>(values: &[T]) -> Vec<T> {
    let mut once: Vec<T> = Vec::with_capacity(values.len());
    for &value in values {
        if !once.contains(&value) {
            once.push(value);
        }
    }
    once
}

fn ascending(mut values: Vec<usize>) -> Vec<usize> {
    values.sort_unstable();
    values.dedup();
    values
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
