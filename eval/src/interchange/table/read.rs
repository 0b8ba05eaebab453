//! Rows of a table as settings that were measured elsewhere.
//!
//! In: names and typed cells, from CSV or Parquet. Out: their records, whose figures are those that the rows state.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::Cell;
use crate::interchange::import::{About, Imported};
use crate::interchange::{InterchangeError, key};
use crate::record::{BuildRecord, Foreign, IoState, Mode, SettingRecord, Skip, Stated, StatedLatency, Warmup};
use crate::stats::Interval;

const REMEDY: &str = "give a file of `kiln export --format csv` or parquet";

/// A table that was read: names of its columns, and its rows with the line that each stands on.
#[derive(Debug, Default)]
pub struct Table {
    /// The names, as many as every row has cells.
    pub names: Vec<String>,
    /// Line number (or row number) and cells.
    pub rows: Vec<(usize, Vec<Cell>)>,
}

/// Reads rows back, as settings that were measured elsewhere.
///
/// # Errors
/// When a column that every row needs is missing, a cell holds what it cannot, there is no row, or the rows are of
/// several data sets or several k.
pub fn imported(table: &Table, format: &str, path: &Path) -> Result<Imported, InterchangeError> {
    if let Some(missing) = ["dataset", "k", "engine", "mode", "qps"].iter().find(|name| !table.has(name)) {
        return Err(InterchangeError::malformed(path, format!("it has no column `{missing}`"), REMEDY));
    }
    let mut found: Option<Imported> = None;
    for (line, cells) in &table.rows {
        let row = Row { table, cells, line: *line, path };
        let about = row.about()?;
        let known = found.get_or_insert_with(|| Imported::new(about.clone()));
        if (&known.about.dataset, &known.about.fingerprint, known.about.k)
            != (&about.dataset, &about.fingerprint, about.k)
        {
            let problem = format!(
                "{} is of {} at k {}, the rows before of {} at k {}",
                row.place(),
                about.dataset,
                about.k,
                known.about.dataset,
                known.about.k
            );
            return Err(InterchangeError::malformed(path, problem, "import rows of one data set and one k at a time"));
        }
        let build = row.build(format)?;
        let setting = row.setting(format, &build.key)?;
        known.add(build, setting);
    }
    found.ok_or_else(|| InterchangeError::malformed(path, "it has no rows", REMEDY))
}

impl Table {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|held| held == name)
    }
}

/// A row that is being read.
struct Row<'a> {
    table: &'a Table,
    cells: &'a [Cell],
    line: usize,
    path: &'a Path,
}

impl Row<'_> {
    fn cell(&self, name: &str) -> &Cell {
        let at = self.table.names.iter().position(|held| held == name);
        at.and_then(|at| self.cells.get(at)).unwrap_or(&Cell::Empty)
    }

    fn place(&self) -> String {
        format!("row {}", self.line)
    }

    fn refuse(&self, name: &str, problem: impl std::fmt::Display) -> InterchangeError {
        let problem = format!("{}, column `{name}`: {problem}", self.place());
        InterchangeError::malformed(self.path, problem, "correct that cell, or remove the row")
    }

    fn text(&self, name: &str) -> Result<Option<String>, InterchangeError> {
        match self.cell(name) {
            Cell::Empty => Ok(None),
            Cell::Text(text) => Ok(Some(text.clone())),
            other => Err(self.refuse(name, format!("{other:?} is no text"))),
        }
    }

    fn needed(&self, name: &str) -> Result<String, InterchangeError> {
        self.text(name)?.ok_or_else(|| self.refuse(name, "it is empty"))
    }

    fn whole(&self, name: &str) -> Result<Option<u64>, InterchangeError> {
        match *self.cell(name) {
            Cell::Empty => Ok(None),
            Cell::Whole(value) if value >= 0 => Ok(Some(value as u64)),
            ref other => Err(self.refuse(name, format!("{other:?} is no count"))),
        }
    }

    fn real(&self, name: &str) -> Result<Option<f64>, InterchangeError> {
        match *self.cell(name) {
            Cell::Empty => Ok(None),
            Cell::Real(value) if value.is_finite() => Ok(Some(value)),
            Cell::Whole(value) => Ok(Some(value as f64)),
            ref other => Err(self.refuse(name, format!("{other:?} is no number"))),
        }
    }

    fn ratio(&self, name: &str) -> Result<Option<f64>, InterchangeError> {
        match self.real(name)? {
            Some(value) if !(0.0..=1.0).contains(&value) => Err(self.refuse(name, format!("{value} is no recall"))),
            value => Ok(value),
        }
    }

    fn params(&self, name: &str) -> Result<BTreeMap<String, serde_json::Value>, InterchangeError> {
        let Some(text) = self.text(name)? else { return Ok(BTreeMap::new()) };
        serde_json::from_str(&text).map_err(|error| self.refuse(name, format!("{text:?} is no JSON object: {error}")))
    }

    fn about(&self) -> Result<About, InterchangeError> {
        let k = self.whole("k")?.filter(|&k| k > 0).ok_or_else(|| self.refuse("k", "it is empty or 0"))?;
        Ok(About {
            dataset: self.needed("dataset")?,
            fingerprint: self.text("dataset_fingerprint")?,
            metric: self.text("metric")?,
            dtype: self.text("dtype")?,
            rows: self.whole("rows")?.unwrap_or(0),
            dim: self.whole("dim")?.unwrap_or(0) as usize,
            queries: self.whole("queries")?.unwrap_or(0) as usize,
            k: k as usize,
        })
    }

    fn build(&self, format: &str) -> Result<BuildRecord, InterchangeError> {
        let (engine, params) = (self.needed("engine")?, self.params("build_params")?);
        let device = self.text("build_device")?.unwrap_or_else(|| "unknown".into());
        let total_seconds = self.real("build_seconds")?.unwrap_or(0.0);
        let hardware = self.text("cpu")?.unwrap_or_default();
        let own = key(&[format, &engine, &json!(params).to_string(), &device, &hardware, &total_seconds.to_string()]);
        Ok(BuildRecord {
            params,
            dtype: self.text("stored_dtype")?.unwrap_or_default(),
            device,
            threads: self.whole("build_threads")?.unwrap_or(0) as usize,
            total_seconds,
            cpu_seconds: self.real("build_cpu_seconds")?.unwrap_or(0.0),
            peak_rss_bytes: self.whole("build_peak_rss_bytes")?.unwrap_or(0),
            index_bytes: self.real("index_bytes")?.unwrap_or(0.0) as u64,
            serving_bytes: self.whole("serving_bytes")?.unwrap_or(0),
            ..BuildRecord::unknown(own, engine)
        })
    }

    fn setting(&self, format: &str, build_key: &str) -> Result<SettingRecord, InterchangeError> {
        let (mode_name, params) = (self.needed("mode")?, self.params("search_params")?);
        let mode: Mode =
            mode_name.parse().map_err(|allowed| self.refuse("mode", format!("{mode_name:?} is no mode: {allowed}")))?;
        let failure = self.text("failure")?;
        let skip = match self.text("skip")? {
            None => None,
            Some(name) => {
                let known = Skip::ALL.into_iter().find(|skip| skip.name() == name);
                Some(known.ok_or_else(|| self.refuse("skip", format!("{name:?} is unknown")))?)
            }
        };
        let stated = self.stated(failure.is_some())?;
        let residency = self.text("residency")?.unwrap_or_else(|| "memory".into());
        let state = self.text("io_state")?;
        let unknown = |name: &String| self.refuse("io_state", format!("{name:?} is unknown"));
        let io_state = state.as_ref().map(|name| name.parse::<IoState>().map_err(|_| unknown(name))).transpose()?;
        let memory_budget = self.whole("memory_budget_bytes")?;
        let place = format!("{residency} {state:?} {memory_budget:?}");
        let own = key(&[build_key, &json!(params).to_string(), &mode_name, &place]);
        Ok(SettingRecord {
            residency,
            io_state,
            memory_budget,
            serving_bytes: self.whole("serving_bytes")?,
            device: self.text("search_device")?,
            warmup: Warmup { seconds: 0.0, settled: !matches!(self.cell("settled"), Cell::Flag(false)) },
            failure,
            skip,
            foreign: Some(Box::new(Foreign {
                format: format.to_string(),
                source: self.path.display().to_string(),
                hardware: self.text("cpu")?,
                recall_rule: self.text("recall_rule")?,
                stated,
            })),
            ..SettingRecord::unmeasured(own, build_key, params, mode, self.about()?.k)
        })
    }

    fn stated(&self, failed: bool) -> Result<Stated, InterchangeError> {
        let queries = self.whole("queries")?.map(|queries| queries as usize);
        let median = self.real("qps")?;
        if failed {
            return Ok(Stated { queries, ..Stated::default() });
        }
        let median = median
            .filter(|&qps| qps > 0.0)
            .ok_or_else(|| self.refuse("qps", "no rate, and no failure that explains it"))?;
        let qps =
            Interval { median, lo: self.real("qps_lo")?.unwrap_or(median), hi: self.real("qps_hi")?.unwrap_or(median) };
        let latency = match self.real("latency_mean")? {
            Some(mean) => Some(StatedLatency {
                mean,
                p50: self.real("latency_p50")?,
                p95: self.real("latency_p95")?,
                p99: self.real("latency_p99")?,
                p999: self.real("latency_p99_9")?,
            }),
            None => None,
        };
        Ok(Stated {
            queries,
            recall: self.ratio("recall")?,
            recall_ids: self.ratio("recall_ids")?,
            recall_ann_benchmarks: self.ratio("recall_ann_benchmarks")?,
            recall_p5: self.ratio("recall_p5")?,
            recall_p1: self.ratio("recall_p1")?,
            qps: Some(qps),
            latency,
            pages: self.real("pages_per_query")?,
            bytes: self.real("bytes_per_query")?,
            cache_hits: self.real("cache_hits_per_query")?,
            io_wait: self.real("io_wait_per_query")?,
            kernel_bytes: self.real("kernel_bytes_per_query")?,
            distances: self.real("distances_per_query")?,
            hops: self.real("hops_per_query")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_modes_and_states_are_read_back() {
        for of in [Mode::Latency1, Mode::Throughput { threads: 16 }, Mode::Batch { threads: 2 }] {
            assert_eq!(of.name().parse(), Ok(of));
        }
        for wrong in ["latency-2", "batch", "batch-0", "batch--1", "open-loop", ""] {
            assert!(wrong.parse::<Mode>().is_err(), "{wrong}");
        }
        for state in [IoState::Direct, IoState::Cold, IoState::Warm, IoState::Capped { bytes: 1 << 28 }] {
            assert_eq!(state.name().parse(), Ok(state));
        }
        assert!("lukewarm".parse::<IoState>().is_err());
    }
}
