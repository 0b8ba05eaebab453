//! What a comparison says: plain values, which serialise as `kiln compare --json` prints them.
//!
//! Ratios are of queries a second, B over A: above 1 B is faster. Differences of recall are B less A.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::contrast::Contrast;
use crate::stats::AtRecall;

/// Version of the JSON document.
pub const DOCUMENT_VERSION: u32 = 1;

/// The words in which a comparison is decided; there are no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// B answers more queries a second.
    #[serde(rename = "faster")]
    Faster,
    /// B answers fewer.
    #[serde(rename = "slower")]
    Slower,
    /// Neither is told from the other by what was measured.
    #[serde(rename = "no detectable difference")]
    NoDetectableDifference,
    /// The two were not measured under the same conditions, or one never got there.
    #[serde(rename = "not comparable")]
    NotComparable,
}

impl Verdict {
    /// `faster`, `slower`, `no detectable difference`, `not comparable`.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::NoDetectableDifference => "no detectable difference",
            Verdict::NotComparable => "not comparable",
        }
    }

    /// Of a contrast whose p is corrected.
    pub fn of(contrast: &Contrast, p_adjusted: f64) -> Self {
        Self::told(contrast.told(p_adjusted))
    }

    pub(super) fn told(faster: Option<bool>) -> Self {
        match faster {
            Some(true) => Verdict::Faster,
            Some(false) => Verdict::Slower,
            None => Verdict::NoDetectableDifference,
        }
    }
}

/// Two sides, compared.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// `DOCUMENT_VERSION`.
    pub version: u32,
    /// The first side: the baseline.
    pub a: SideSummary,
    /// The second side.
    pub b: SideSummary,
    /// The A/A run, where one was given.
    pub noise: Option<SideSummary>,
    /// What both sides measured under the same conditions.
    pub pairs: Vec<Pair>,
    /// Recall at equal settings, which no mode changes.
    pub recalls: Vec<RecallRow>,
    /// What building the indexes cost.
    pub builds: Vec<BuildPair>,
    /// What was measured and cannot be compared.
    pub not_comparable: Vec<Unpaired>,
    /// What to know before believing it.
    pub notes: Vec<String>,
}

/// A side in words.
#[derive(Debug, Clone, Serialize)]
pub struct SideSummary {
    /// The folder that was given.
    pub path: String,
    /// The runs in it.
    pub runs: Vec<RunSummary>,
}

/// A run in words.
#[derive(Debug, Clone, Serialize)]
pub struct RunSummary {
    /// Its folder.
    pub path: String,
    /// When it began, UTC.
    pub created: String,
    /// The program and its commit.
    pub program: String,
    /// Measured with `--quick`.
    pub quick: bool,
    /// The command that reproduces it.
    pub command: String,
}

/// An index on a data set, in one mode and place.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    /// Name of the data set.
    pub dataset: String,
    /// Neighbours asked for.
    pub k: usize,
    /// The index or library, and what tells it from others of its kind.
    pub index: String,
    /// Build parameters that differ: `max_degree 32 -> 48`.
    pub changed: Vec<String>,
    /// `latency-1`, `throughput-2`, ...
    pub mode: String,
    /// `memory`, `ssd, direct`, ...
    pub place: String,
    /// Runs of A and of B that measured it.
    pub runs: [usize; 2],
    /// How far runs of the same thing lie apart.
    pub noise: NoiseSummary,
    /// At each recall level that was asked for; empty where recall is unknown.
    pub levels: Vec<LevelRow>,
    /// At each setting that both sides measured.
    pub settings: Vec<SettingRow>,
}

/// The noise floor of a pair.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct NoiseSummary {
    /// A smaller difference in queries a second, as a part of one, is never told.
    pub floor: f64,
    /// Whether runs of the same thing were measured; else the floor is the one for runs of which nothing is known.
    pub from_repeated_runs: bool,
    /// Degrees of freedom behind it.
    pub freedom: f64,
}

/// A recall level.
#[derive(Debug, Clone, Serialize)]
pub struct LevelRow {
    /// The level.
    pub recall: f64,
    /// A's queries a second.
    pub a: Figure,
    /// B's.
    pub b: Figure,
    /// B over A.
    pub ratio: Option<Ratio>,
    /// The verdict.
    pub verdict: Verdict,
    /// Why the two cannot be compared.
    pub reason: Option<String>,
}

/// Queries a second at a recall level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Measured, or between the two settings that bracket the level.
    Qps(f64),
    /// Every setting exceeds the level: the figure of the least accurate.
    AtLeast(f64),
    /// The level was never reached; the highest recall that was.
    MaxRecall(f64),
}

impl From<AtRecall> for Figure {
    fn from(figure: AtRecall) -> Self {
        match figure {
            AtRecall::Value(qps) => Figure::Qps(qps),
            AtRecall::Bound(qps) => Figure::AtLeast(qps),
            AtRecall::Max(recall) => Figure::MaxRecall(recall),
        }
    }
}

/// Queries a second of B over those of A.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// The ratio.
    pub ratio: f64,
    /// Ends of its 95% interval; null where nothing was repeated.
    pub interval: Option<(f64, f64)>,
    /// Probability of such a ratio where there is no difference.
    pub p: f64,
    /// The same, corrected for all tests of its kind in this comparison.
    pub p_adjusted: f64,
}

impl Ratio {
    /// Of a contrast whose p is corrected.
    pub fn of(contrast: &Contrast, p_adjusted: f64) -> Self {
        Self { ratio: contrast.ratio(), interval: contrast.interval(), p: contrast.p(), p_adjusted }
    }
}

/// A setting that both sides measured.
#[derive(Debug, Clone, Serialize)]
pub struct SettingRow {
    /// The search parameters.
    pub params: BTreeMap<String, Value>,
    /// A's queries a second.
    pub a_qps: f64,
    /// B's.
    pub b_qps: f64,
    /// B over A.
    pub ratio: Ratio,
    /// The verdict.
    pub verdict: Verdict,
    /// Single queries, each against itself; null in batch mode.
    pub typical_query: Option<TypicalQuery>,
}

/// What happened to the typical query.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TypicalQuery {
    /// Queries that were timed on both sides.
    pub queries: usize,
    /// The median, over queries, of its speed in B over its speed in A.
    pub ratio: f64,
    /// Part of the queries that are slower in B.
    pub slower: f64,
    /// Probability (signed ranks) where queries change by no more than the noise does.
    pub p: f64,
    /// The same, corrected.
    pub p_adjusted: f64,
    /// The verdict on the typical query.
    pub verdict: Verdict,
}

/// Recall at a setting that both sides measured.
#[derive(Debug, Clone, Serialize)]
pub struct RecallRow {
    /// Name of the data set.
    pub dataset: String,
    /// The index or library.
    pub index: String,
    /// `memory`, `ssd, direct`, ...
    pub place: String,
    /// The search parameters.
    pub params: BTreeMap<String, Value>,
    /// A's recall.
    pub a: f64,
    /// B's.
    pub b: f64,
    /// B's less A's.
    pub difference: f64,
    /// Ends of its 95% interval over queries.
    pub interval: (f64, f64),
    /// Probability (signed ranks) where queries gain and lose alike.
    pub p: f64,
    /// The same, corrected.
    pub p_adjusted: f64,
    /// What is told.
    pub change: RecallChange,
}

/// What is told of recall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum RecallChange {
    /// B finds more.
    #[serde(rename = "higher")]
    Higher,
    /// B finds less.
    #[serde(rename = "lower")]
    Lower,
    /// Neither is told from the other.
    #[serde(rename = "no detectable difference")]
    NoDetectableDifference,
}

/// What building an index cost on both sides, A's figure first. A run builds an index once: figures are as they are.
#[derive(Debug, Clone, Serialize)]
pub struct BuildPair {
    /// Name of the data set.
    pub dataset: String,
    /// The index or library.
    pub index: String,
    /// What differs in how it was built.
    pub changed: Vec<String>,
    /// Wall seconds; the median where several runs built it. Null where either is unknown.
    pub seconds: Option<[f64; 2]>,
    /// Highest resident set of the build, bytes.
    pub peak_rss_bytes: Option<[f64; 2]>,
    /// Resident bytes that serving needs.
    pub serving_bytes: Option<[f64; 2]>,
    /// Bytes of the index file for each vector.
    pub bytes_per_vector: Option<[f64; 2]>,
}

/// Something that one side measured and that cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unpaired {
    /// What it is.
    pub what: String,
    /// [`Verdict::NotComparable`], always.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
}

impl Comparison {
    /// Every test of speed that decides: at recall levels, and at equal settings where a pair has no level in common.
    pub fn deciding(&self) -> impl Iterator<Item = Decision<'_>> {
        self.pairs.iter().flat_map(Pair::deciding)
    }
}

/// One test of speed.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a> {
    /// What was compared.
    pub pair: &'a Pair,
    /// The recall level; `None` for an equal setting.
    pub level: Option<f64>,
    /// The equal setting.
    pub params: Option<&'a BTreeMap<String, Value>>,
    /// B over A.
    pub ratio: Ratio,
    /// The verdict.
    pub verdict: Verdict,
}

impl Pair {
    /// The tests of speed that decide for this pair.
    pub fn deciding(&self) -> Vec<Decision<'_>> {
        let at_levels: Vec<Decision> = (self.levels.iter())
            .filter_map(|row| {
                let (level, verdict) = (Some(row.recall), row.verdict);
                Some(Decision { pair: self, level, params: None, ratio: row.ratio?, verdict })
            })
            .collect();
        if !at_levels.is_empty() {
            return at_levels;
        }
        (self.settings.iter())
            .map(|row| {
                let (params, ratio, verdict) = (Some(&row.params), row.ratio, row.verdict);
                Decision { pair: self, level: None, params, ratio, verdict }
            })
            .collect()
    }
}
