//! A run as a table: one row a setting, every derived figure and what is needed to tell the rows apart.
//!
//! In: the records of a run. Out: [`COLUMNS`] and the figures of [`METRICS`], as cells; and the way back, as imported
//! records. CSV and Parquet hold the same rows under the same names. An unknown figure is an empty cell, never zero.

mod read;

use std::collections::BTreeMap;

use serde_json::json;

use super::key;
use crate::metrics::{self, METRICS, Measured};
use crate::record::{BuildRecord, Foreign, Mode, PeerPoint, PeerRecord, RunData, SettingRecord, Stated};
use crate::stats;

pub use read::{Table, imported};

/// The format of a row's mark where it was measured in the same session by another library: not foreign at all.
const PEER: &str = "peer";

/// What a cell holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Nothing is known, or the figure does not apply.
    Empty,
    /// Text, in some columns JSON.
    Text(String),
    /// A count.
    Whole(i64),
    /// A measurement.
    Real(f64),
    /// Yes or no.
    Flag(bool),
}

/// What all cells of a column hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`Cell::Text`].
    Text,
    /// [`Cell::Whole`].
    Whole,
    /// [`Cell::Real`].
    Real,
    /// [`Cell::Flag`].
    Flag,
}

/// One setting, with what it belongs to.
#[derive(Clone, Copy)]
pub struct RowOf<'a> {
    data: &'a RunData,
    build: &'a BuildRecord,
    setting: &'a SettingRecord,
}

/// A column that is no derived figure.
#[derive(Clone, Copy)]
pub struct Column {
    /// Its name in the first line.
    pub name: &'static str,
    /// What its cells hold.
    pub kind: Kind,
    /// What it says.
    pub description: &'static str,
    value: fn(&RowOf) -> Cell,
}

impl std::fmt::Debug for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?}): {}", self.name, self.kind, self.description)
    }
}

/// Lays [`COLUMNS`] out as a table.
macro_rules! columns {
    ($($name:literal $kind:ident = $value:expr; $description:literal)*) => {
        &[$(Column { name: $name, kind: Kind::$kind, description: $description, value: $value }),*]
    };
}

/// The columns before and beside the figures of [`METRICS`].
pub const COLUMNS: &[Column] = columns! {
    "dataset" Text = |r| text(&r.data.header.dataset.name);
        "name of the data set"
    "dataset_fingerprint" Text = |r| text(&r.data.header.dataset.fingerprint);
        "tells its contents from others"
    "metric" Text = |r| text(&r.data.header.dataset.metric);
        "l2, ip or cosine"
    "dtype" Text = |r| text(&r.data.header.dataset.dtype);
        "type of a coordinate"
    "rows" Whole = |r| whole(r.data.header.dataset.rows);
        "base rows"
    "dim" Whole = |r| whole(r.data.header.dataset.dim as u64);
        "coordinates a row"
    "queries" Whole = |r| whole(queries(r) as u64);
        "queries of a pass"
    "k" Whole = |r| whole(r.setting.k as u64);
        "neighbours asked for"
    "engine" Text = |r| text(&r.build.index);
        "kind of index, or the library"
    "build_params" Text = |r| params(&r.build.params);
        "what the index was built with, as JSON"
    "build_device" Text = |r| text(&r.build.device);
        "what computed it"
    "build_threads" Whole = |r| known(r.build.threads as u64);
        "threads of the build"
    "build_cpu_seconds" Real = |r| real(Some(r.build.cpu_seconds).filter(|&seconds| seconds > 0.0));
        "user and system time of the build"
    "build_peak_rss_bytes" Whole = |r| known(r.build.peak_rss_bytes);
        "highest resident set of the build"
    "stored_dtype" Text = |r| text(&r.build.dtype);
        "type of a stored coordinate"
    "search_params" Text = |r| params(&r.setting.params);
        "what the index was searched with, as JSON"
    "mode" Text = |r| Cell::Text(r.setting.mode.name());
        "latency-1, throughput-THREADS, batch-THREADS, batch-device or batch-device-resident"
    "search_device" Text = |r| r.setting.device.as_deref().map_or(Cell::Empty, text);
        "the device that answered, where the processor did not"
    "residency" Text = |r| text(&r.setting.residency);
        "where the index lay: memory or ssd"
    "io_state" Text = |r| r.setting.io_state.map_or(Cell::Empty, |state| Cell::Text(state.name()));
        "what reads of the drive passed through: direct, cold, warm or capped:BYTES"
    "memory_budget_bytes" Whole = |r| r.setting.memory_budget.map_or(Cell::Empty, whole);
        "memory that serving was allowed"
    "serving_bytes" Whole = |r| r.setting.serving_bytes.map_or(Cell::Empty, known);
        "memory that serving held"
    "runs" Whole = |r| whole(r.setting.runs.len() as u64);
        "kept passes over the queries"
    "settled" Flag = |r| Cell::Flag(r.setting.warmup.settled);
        "whether the warm-up settled"
    "qps_lo" Real = |r| real(metrics::qps(r.setting).map(|qps| qps.lo));
        "lower end of the 95% bootstrap interval of qps"
    "qps_hi" Real = |r| real(metrics::qps(r.setting).map(|qps| qps.hi));
        "its upper end"
    "recall_rule" Text = |r| r.setting.foreign.as_ref().and_then(|f| f.recall_rule.as_deref()).map_or(Cell::Empty, text);
        "the rule of `recall` where that is not Kiln's"
    "created" Text = |r| text(&r.data.header.created);
        "when the run began, UTC"
    "cpu" Text = |r| hardware(r);
        "the hardware that measured, as far as known"
    "kiln_version" Text = |r| text(&r.data.header.machine.kiln_version);
        "the program that judged"
    "foreign" Flag = |r| Cell::Flag(is_foreign(r.setting));
        "measured elsewhere and imported"
    "foreign_source" Text = |r| r.setting.foreign.as_ref().map_or(Cell::Empty, |f| text(&f.source));
        "the file that it was imported from"
    "failure" Text = |r| r.setting.failure.as_deref().map_or(Cell::Empty, text);
        "why there are no figures"
    "skip" Text = |r| r.setting.skip.map_or(Cell::Empty, |skip| text(skip.name()));
        "where it was left out on purpose: pruned or time-budget"
};

/// Those of [`METRICS`] that are an index's, and not a setting's.
const OF_BUILDS: [&str; 2] = ["build_seconds", "index_bytes"];

/// The name of a metric's column: its own, with `_` for what column names do without.
pub fn metric_column(name: &str) -> String {
    name.replace('.', "_")
}

/// Names and kinds of all columns, in order: [`COLUMNS`], then the figures of [`METRICS`].
pub fn header() -> Vec<(String, Kind)> {
    let fixed = COLUMNS.iter().map(|column| (column.name.to_string(), column.kind));
    fixed.chain(METRICS.iter().map(|metric| (metric_column(metric.name), Kind::Real))).collect()
}

/// The rows of a run: its settings in their order, then those of other libraries that were measured beside.
pub fn rows(data: &RunData) -> Vec<Vec<Cell>> {
    let own = data.settings.iter().filter_map(|setting| {
        let build = data.builds.iter().find(|build| build.key == setting.build_key)?;
        Some(cells(&RowOf { data, build, setting }))
    });
    let beside = data.peers.iter().flat_map(|peer| {
        let build = peer_build(peer);
        let cells = |point| cells(&RowOf { data, build: &build, setting: &peer_setting(peer, point, data) });
        peer.points.iter().map(cells).collect::<Vec<_>>()
    });
    own.chain(beside).collect()
}

fn cells(row: &RowOf) -> Vec<Cell> {
    let measured = Measured { setting: row.setting, build: row.build };
    let failed = row.setting.failure.is_some();
    // What building cost is known of settings that failed, too.
    let figures = METRICS.iter().map(|metric| {
        let known = !failed || OF_BUILDS.contains(&metric.name);
        real((metric.value)(&measured).filter(|_| known))
    });
    COLUMNS.iter().map(|column| (column.value)(row)).chain(figures).collect()
}

fn text(value: &(impl AsRef<str> + ?Sized)) -> Cell {
    if value.as_ref().is_empty() { Cell::Empty } else { Cell::Text(value.as_ref().to_string()) }
}

fn whole(value: u64) -> Cell {
    Cell::Whole(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Of a build that was not measured zeros are kept.
fn known(value: u64) -> Cell {
    if value > 0 { whole(value) } else { Cell::Empty }
}

fn real(value: Option<f64>) -> Cell {
    value.filter(|value| value.is_finite()).map_or(Cell::Empty, Cell::Real)
}

fn params(params: &BTreeMap<String, serde_json::Value>) -> Cell {
    Cell::Text(json!(params).to_string())
}

fn queries(row: &RowOf) -> usize {
    match metrics::queries(row.setting) {
        0 => row.data.header.dataset.queries,
        queries => queries,
    }
}

fn hardware(row: &RowOf) -> Cell {
    match &row.setting.foreign {
        Some(foreign) if is_foreign(row.setting) => foreign.hardware.as_deref().map_or(Cell::Empty, text),
        _ => text(&row.data.header.machine.cpu),
    }
}

fn is_foreign(setting: &SettingRecord) -> bool {
    setting.foreign.as_ref().is_some_and(|foreign| foreign.format != PEER)
}

/// Another library's index as a build; what building it cost is not recorded.
fn peer_build(peer: &PeerRecord) -> BuildRecord {
    let own = key(&[PEER, &peer.name, &peer.version, &peer.residency]);
    BuildRecord {
        params: [("version".to_string(), json!(peer.version))].into(),
        serving_bytes: peer.serving_bytes,
        ..BuildRecord::unknown(own, peer.name.as_str())
    }
}

fn peer_setting(peer: &PeerRecord, point: &PeerPoint, data: &RunData) -> SettingRecord {
    let stated = Stated {
        queries: Some(data.header.dataset.queries),
        recall: Some(point.recall),
        qps: stats::median_interval(&point.qps),
        pages: point.pages,
        ..Stated::default()
    };
    let mode = Mode::Batch { threads: peer.threads };
    SettingRecord {
        residency: peer.residency.clone(),
        serving_bytes: Some(peer.serving_bytes),
        foreign: Some(Box::new(Foreign { format: PEER.into(), stated, ..Foreign::default() })),
        ..SettingRecord::unmeasured("", "", point.params.clone(), mode, data.header.k)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn columns_are_documented_and_named_once() {
        let names: Vec<String> = header().into_iter().map(|(name, _)| name).collect();
        let unique: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        for name in &names {
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
        }
        assert!(COLUMNS.iter().all(|column| !column.description.is_empty()));
    }

    #[test]
    fn the_book_lists_the_columns() {
        let fixed = COLUMNS.iter().map(|column| (column.name.to_string(), "", column.description));
        let figures = METRICS.iter().map(|metric| (metric_column(metric.name), metric.unit, metric.description));
        let row = |(name, unit, what): (String, &str, &str)| {
            let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
            format!("| `{name}` |{unit} | {what} |\n")
        };
        let table =
            format!("| column | unit | what |\n|---|---|---|\n{}", fixed.chain(figures).map(row).collect::<String>());
        let chapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/interchange.md");
        let text = std::fs::read_to_string(&chapter).expect("read");
        assert!(text.contains(&table), "{} should hold:\n{table}", chapter.display());
    }
}
