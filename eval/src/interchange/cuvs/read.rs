//! A search result of cuvs-bench as settings that were measured elsewhere.
//!
//! In: its JSON or CSV. Out: their records. Every name that is no figure is a search parameter.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::GROUP;
use crate::interchange::import::{About, Imported};
use crate::interchange::table::{Cell, Table};
use crate::interchange::{Format, InterchangeError, csv_file, key};
use crate::record::{BuildRecord, Foreign, Mode, SettingRecord, Stated, StatedLatency, Warmup};
use crate::stats::Interval;

const REMEDY: &str = "give a search result of cuvs-bench (DATASET/result/search/*.json or *,raw.csv)";

/// Names in a benchmark that are no search parameters: those of Google Benchmark, and what cuvs-bench counts.
const FIGURES: &[&str] = &[
    "name",
    "algo_name",
    "index_name",
    "family_index",
    "per_family_instance_index",
    "run_name",
    "run_type",
    "repetitions",
    "repetition_index",
    "iterations",
    "threads",
    "time",
    "real_time",
    "cpu_time",
    "time_unit",
    "items_per_second",
    "throughput",
    "Recall",
    "recall",
    "Latency",
    "latency",
    "GPU",
    "end_to_end",
    "k",
    "n_queries",
    "total_queries",
    "label",
    "search_label",
    "index_size",
    "build time",
    "build threads",
    "build cpu_time",
    "build GPU",
    "error_occurred",
    "error_message",
    "aggregate_name",
];

/// A JSON document of Google Benchmark.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    context: Map<String, Value>,
    benchmarks: Vec<Map<String, Value>>,
}

/// Reads a search result, JSON or CSV. Build times are taken from the build's JSON where it lies beside.
///
/// # Errors
/// When it is no search result, has none, or a figure is no number.
pub fn read(path: &Path) -> Result<Imported, InterchangeError> {
    let csv = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let (context, benchmarks) = if csv { (Map::new(), from_csv(path)?) } else { from_json(path)? };
    let (algo, group) = named(path);
    let text = |name: &str| match context.get(name) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let count = |name: &str| text(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    // DATASET/result/search/FILE
    let folder = path.ancestors().nth(3).and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let host = text("host_name").map(|host| match count("num_cpus") {
        0 => host,
        cpus => format!("{host}, {cpus} CPUs"),
    });
    let hardware = match (host, text("gpu_name")) {
        (Some(host), Some(gpu)) => Some(format!("{host}, {gpu}")),
        (host, gpu) => host.or(gpu),
    };
    let built = build_seconds(path, &algo, &group);
    let mut found: Option<Imported> = None;
    for (number, benchmark) in benchmarks.iter().enumerate() {
        let row = Benchmark { fields: benchmark, path, number: number + 1 };
        let k = row.count("k")?.filter(|&k| k > 0).or_else(|| k_of(path));
        let k = k.ok_or_else(|| row.refuse("k", "it is missing, and the file's name does not tell it"))?;
        let about = About {
            dataset: text("dataset").or_else(|| folder.clone()).unwrap_or_default(),
            metric: match text("distance").as_deref() {
                Some("euclidean") => Some("l2".into()),
                Some("inner_product") => Some("ip".into()),
                Some("cosine") => Some("cosine".into()),
                _ => None,
            },
            rows: count("n_records"),
            dim: count("dim") as usize,
            queries: count("n_queries") as usize,
            k,
            ..About::default()
        };
        let imported = found.get_or_insert_with(|| Imported::new(about.clone()));
        if imported.about.k != k {
            let problem = format!("benchmark {} is of k {k}, those before of k {}", number + 1, imported.about.k);
            return Err(InterchangeError::malformed(path, problem, "import each k into a run folder of its own"));
        }
        let (build, setting) = row.records(&algo, &built, hardware.as_deref(), about)?;
        imported.add(build, setting);
    }
    found.ok_or_else(|| InterchangeError::malformed(path, "it has no benchmarks", REMEDY))
}

type Benchmarks = Vec<Map<String, Value>>;

fn from_json(path: &Path) -> Result<(Map<String, Value>, Benchmarks), InterchangeError> {
    let bytes = std::fs::read(path).map_err(InterchangeError::io(path))?;
    // Its own programs take these files for Latin-1.
    let text =
        String::from_utf8(bytes).unwrap_or_else(|e| e.into_bytes().iter().map(|&byte| char::from(byte)).collect());
    let document: Document = serde_json::from_str(&text).map_err(|error| {
        InterchangeError::malformed(path, format!("it is no result of Google Benchmark ({error})"), REMEDY)
    })?;
    Ok((document.context, document.benchmarks))
}

/// The rows of a CSV under the names of the JSON.
fn from_csv(path: &Path) -> Result<Benchmarks, InterchangeError> {
    let Table { names, rows } = csv_file::read(path, &[])?;
    if let Some(missing) = ["index_name", "recall", "throughput"].iter().find(|name| !names.iter().any(|n| n == *name))
    {
        return Err(InterchangeError::malformed(path, format!("it has no column `{missing}`"), REMEDY));
    }
    let renamed = |name: &str| match name {
        "index_name" => "name".to_string(),
        "recall" => "Recall".to_string(),
        "throughput" => "items_per_second".to_string(),
        "latency" => "Latency".to_string(),
        other => other.to_string(),
    };
    let value = |cell: Cell| match cell {
        Cell::Text(text) => match text.parse::<f64>().ok().filter(|number| number.is_finite()) {
            // Whole numbers stay whole, so that parameters read as they were written.
            Some(number) => text.parse::<i64>().map_or_else(|_| json!(number), |whole| json!(whole)),
            None => json!(text),
        },
        _ => Value::Null,
    };
    let row = |cells: Vec<Cell>| names.iter().map(|name| renamed(name)).zip(cells.into_iter().map(value)).collect();
    Ok(rows.into_iter().map(|(_, cells)| row(cells)).collect())
}

/// Algorithm and group, from `ALGO,GROUP,kK,bsBATCH.json`.
fn named(path: &Path) -> (String, String) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut parts = stem.split(',');
    let (algo, group) = (parts.next().unwrap_or_default(), parts.next().unwrap_or(GROUP));
    (algo.to_string(), group.to_string())
}

/// k, from the same.
fn k_of(path: &Path) -> Option<usize> {
    let stem = path.file_stem()?.to_string_lossy().into_owned();
    stem.split(',').find_map(|part| part.strip_prefix('k')?.parse().ok())
}

/// Wall and CPU seconds of each index, from `../build/ALGO,GROUP.json`.
fn build_seconds(path: &Path, algo: &str, group: &str) -> BTreeMap<String, (f64, f64)> {
    let beside =
        path.parent().and_then(Path::parent).map(|result| result.join("build").join(format!("{algo},{group}.json")));
    let Some((_, benchmarks)) = beside.and_then(|path| from_json(&path).ok()) else { return BTreeMap::new() };
    let seconds = |benchmark: &Map<String, Value>, name: &str| {
        let unit = unit(benchmark.get("time_unit").and_then(Value::as_str).unwrap_or("ns"))?;
        benchmark.get(name)?.as_f64().map(|time| time * unit).filter(|time| time.is_finite() && *time >= 0.0)
    };
    let each = benchmarks.iter().filter_map(|benchmark| {
        let name = benchmark.get("name")?.as_str()?.split('/').next()?.to_string();
        Some((name, (seconds(benchmark, "real_time")?, seconds(benchmark, "cpu_time").unwrap_or(0.0))))
    });
    each.collect()
}

/// Seconds of a unit of Google Benchmark.
fn unit(name: &str) -> Option<f64> {
    Some(match name {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    })
}

/// A benchmark that is being read.
struct Benchmark<'a> {
    fields: &'a Map<String, Value>,
    path: &'a Path,
    number: usize,
}

impl Benchmark<'_> {
    fn refuse(&self, name: &str, problem: &str) -> InterchangeError {
        let problem = format!("benchmark {}, `{name}`: {problem}", self.number);
        InterchangeError::malformed(self.path, problem, "correct it, or remove the benchmark")
    }

    fn real(&self, name: &str) -> Result<Option<f64>, InterchangeError> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64().filter(|number| number.is_finite() && *number >= 0.0) {
                Some(number) => Ok(Some(number)),
                None => Err(self.refuse(name, &format!("{value} is no measurement"))),
            },
        }
    }

    fn count(&self, name: &str) -> Result<Option<usize>, InterchangeError> {
        Ok(self.real(name)?.map(|number| number as usize))
    }

    fn records(
        &self,
        algo: &str,
        built: &BTreeMap<String, (f64, f64)>,
        hardware: Option<&str>,
        about: About,
    ) -> Result<(BuildRecord, SettingRecord), InterchangeError> {
        let name = self.fields.get("name").and_then(Value::as_str).unwrap_or_default();
        let index = name.split('/').next().unwrap_or_default();
        if index.is_empty() {
            return Err(self.refuse("name", "it is missing"));
        }
        let failed = self.fields.get("error_occurred").and_then(Value::as_bool) == Some(true);
        let error = self.fields.get("error_message").and_then(Value::as_str).unwrap_or("failed in cuvs-bench");
        let recall = self.real("Recall")?;
        if let Some(recall) = recall.filter(|&recall| recall > 1.0) {
            return Err(self.refuse("Recall", &format!("{recall} is no recall")));
        }
        let qps = self.real("items_per_second")?.filter(|&qps| qps > 0.0);
        if qps.is_none() && !failed {
            return Err(self.refuse("items_per_second", "there is no rate: is it the result of a build?"));
        }
        let batch = self.count("n_queries")?.unwrap_or(1);
        let threads = self.count("threads")?.unwrap_or(1).max(1);
        let mode = match (batch, threads) {
            (0 | 1, 1) => Mode::Latency1,
            (0 | 1, threads) => Mode::Throughput { threads },
            (_, threads) => Mode::Batch { threads },
        };
        // Of a batch of many, none has a latency of its own.
        let latency = self.real("Latency")?.filter(|_| batch <= 1);
        let params: BTreeMap<String, Value> = (self.fields.iter())
            .filter(|(name, value)| !FIGURES.contains(&name.as_str()) && !value.is_null())
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let format = Format::CuvsBench.name();
        let (total_seconds, cpu_seconds) = built.get(index).copied().unwrap_or((0.0, 0.0));
        // What it calls the size of an index is its number of rows: its bytes are unknown.
        let own = key(&[format, &about.dataset, algo, index, hardware.unwrap_or_default()]);
        let build = BuildRecord {
            params: [("index".to_string(), json!(index))].into(),
            device: hardware.unwrap_or("unknown").to_string(),
            total_seconds,
            cpu_seconds,
            ..BuildRecord::unknown(own, algo)
        };
        let place = format!("{} bs{batch} k{}", mode.name(), about.k);
        let own = key(&[&build.key, &json!(params).to_string(), &place]);
        let setting = SettingRecord {
            warmup: Warmup { seconds: 0.0, settled: true },
            failure: failed.then(|| error.to_string()),
            foreign: Some(Box::new(Foreign {
                format: format.into(),
                source: self.path.display().to_string(),
                hardware: hardware.map(str::to_string),
                recall_rule: recall.map(|_| "ids of the truth, as cuvs-bench counts".to_string()),
                stated: Stated {
                    queries: (about.queries > 0).then_some(about.queries),
                    recall,
                    recall_ids: recall,
                    qps: qps.map(|qps| Interval { median: qps, lo: qps, hi: qps }),
                    latency: latency.map(|seconds| StatedLatency { mean: seconds * 1e6, ..StatedLatency::default() }),
                    ..Stated::default()
                },
            })),
            ..SettingRecord::unmeasured(own, build.key.as_str(), params, mode, about.k)
        };
        Ok((build, setting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_tell_algorithm_group_and_k() {
        let path = Path::new("größe 1/result/search/cuvs_cagra,large,k10,bs500.json");
        assert_eq!((named(path), k_of(path)), (("cuvs_cagra".into(), "large".into()), Some(10)));
        assert_eq!(named(Path::new("hnswlib.json")), ("hnswlib".into(), GROUP.into()));
        assert_eq!(k_of(Path::new("kmeans.json")), None);
    }
}
