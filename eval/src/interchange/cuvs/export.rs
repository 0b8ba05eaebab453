//! A run as result files of cuvs-bench.
//!
//! In: a run. Out: JSON and CSV of its settings and of its builds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::GROUP;
use crate::interchange::table::{Cell, Kind};
use crate::interchange::{InterchangeError, algo, csv_file, write_whole};
use crate::metrics;
use crate::record::{BuildRecord, Mode, RunData, SettingRecord};
use crate::stats;

/// A setting that is exported.
struct Exported<'a> {
    build: &'a BuildRecord,
    setting: &'a SettingRecord,
    recall: f64,
    qps: f64,
    /// Queries of a batch.
    batch: usize,
    /// Seconds of a batch.
    latency: f64,
}

/// Writes a run below `root`.
///
/// # Errors
/// When no setting has recall and a rate, or a file cannot be written.
pub fn export(dir: &Path, data: &RunData, root: &Path) -> Result<Vec<PathBuf>, InterchangeError> {
    let mut groups: BTreeMap<(String, usize, usize), Vec<Exported>> = BTreeMap::new();
    let mut left_out = 0;
    for setting in &data.settings {
        let build = data.builds.iter().find(|build| build.key == setting.build_key);
        match build.and_then(|build| exported(build, setting)) {
            Some(row) => groups.entry((chart_line(row.build, setting), setting.k, row.batch)).or_default().push(row),
            None => left_out += 1,
        }
    }
    if groups.is_empty() {
        return Err(InterchangeError::malformed(
            dir,
            "it has no setting with recall and a rate in mode latency-1, batch, or throughput of several threads",
            "measure some with `kiln bench`",
        ));
    }
    if left_out > 0 {
        tracing::info!("{left_out} settings are left out: failed, of unknown recall, or throughput-1");
    }
    let results = root.join(&data.header.dataset.name).join("result");
    let mut files = Vec::new();
    let mut builds: BTreeMap<&str, Vec<&BuildRecord>> = BTreeMap::new();
    for ((algo, k, batch), rows) in &groups {
        for row in rows {
            let of_algo = builds.entry(algo.as_str()).or_default();
            if of_algo.iter().all(|build| build.key != row.build.key) {
                of_algo.push(row.build);
            }
        }
        let stem = results.join("search").join(format!("{algo},{GROUP},k{k},bs{batch}"));
        let benchmarks: Vec<Value> =
            rows.iter().enumerate().map(|(number, row)| search_benchmark(row, number)).collect();
        let document = json!({ "context": context(data), "benchmarks": benchmarks });
        files.push(written(&with(&stem, ".json"), &document)?);
        let table = search_table(algo, rows);
        for (ending, chosen) in [
            (",raw.csv", (0..rows.len()).collect::<Vec<usize>>()),
            (",throughput.csv", frontier(rows, |row| row.qps)),
            // The best latency is the least: its negative is the greatest.
            (",latency.csv", frontier(rows, |row| -row.latency)),
        ] {
            let path = with(&stem, ending);
            let cells: Vec<Vec<Cell>> = chosen.into_iter().map(|row| table.1[row].clone()).collect();
            csv_file::write(&path, &table.0, &cells)?;
            files.push(path);
        }
    }
    for (algo, builds) in builds {
        let stem = results.join("build").join(format!("{algo},{GROUP}"));
        let rows = data.header.dataset.rows;
        let benchmarks: Vec<Value> = builds.iter().map(|build| build_benchmark(build, rows)).collect();
        files.push(written(&with(&stem, ".json"), &json!({ "context": context(data), "benchmarks": benchmarks }))?);
        let header = ["algo_name", "index_name", "time", "threads", "cpu_time"];
        let kinds = [Kind::Text, Kind::Text, Kind::Real, Kind::Whole, Kind::Real];
        let header: Vec<(String, Kind)> = header.iter().map(|name| name.to_string()).zip(kinds).collect();
        let cells: Vec<Vec<Cell>> = builds
            .iter()
            .map(|build| {
                vec![
                    Cell::Text(algo.to_string()),
                    Cell::Text(index_name(build)),
                    Cell::Real(build.total_seconds),
                    Cell::Whole(build.threads as i64),
                    Cell::Real(build.cpu_seconds),
                ]
            })
            .collect();
        let path = with(&stem, ".csv");
        csv_file::write(&path, &header, &cells)?;
        files.push(path);
    }
    Ok(files)
}

/// A path with this at the end of its name; the name may hold dots.
fn with(stem: &Path, ending: &str) -> PathBuf {
    let mut path = stem.as_os_str().to_os_string();
    path.push(ending);
    path.into()
}

fn written(path: &Path, document: &Value) -> Result<PathBuf, InterchangeError> {
    let text = serde_json::to_vec_pretty(document).expect("values are JSON");
    write_whole(path, &text)?;
    Ok(path.to_path_buf())
}

fn exported<'a>(build: &'a BuildRecord, setting: &'a SettingRecord) -> Option<Exported<'a>> {
    if setting.failure.is_some() || setting.mode == (Mode::Throughput { threads: 1 }) {
        return None;
    }
    // It counts ids; of an imported setting whose ids nobody has, what its source says is all there is.
    let recall = metrics::recall_ids(setting).or_else(|| metrics::recall(setting))?;
    let qps = metrics::qps(setting)?.median;
    let threads = setting.mode.threads() as f64;
    let (batch, latency) = match setting.mode {
        Mode::Batch { threads: sharing } => {
            let batch = metrics::queries(setting).div_ceil(sharing).max(1);
            (batch, batch as f64 * threads / qps)
        }
        Mode::BatchDevice { .. } => (metrics::queries(setting), metrics::queries(setting) as f64 / qps),
        Mode::Latency1 | Mode::Throughput { .. } => {
            (1, metrics::latency_mean(setting).map_or(threads / qps, |us| us / 1e6))
        }
    };
    Some(Exported { build, setting, recall, qps, batch, latency })
}

/// One algorithm of its charts: figures of different places never share a line.
fn chart_line(build: &BuildRecord, setting: &SettingRecord) -> String {
    let algo = algo(build, setting);
    // Commas and slashes part the names of its files.
    algo.chars().map(|c| if c == ',' || c == '/' { '_' } else { c }).collect()
}

/// `vamana.max_degree32.alpha1.2`: what tells an index from others.
fn index_name(build: &BuildRecord) -> String {
    let params = build.params.iter().map(|(name, value)| format!(".{name}{}", value.to_string().trim_matches('"')));
    let name: String = std::iter::once(build.index.clone()).chain(params).collect();
    name.replace('/', "_")
}

fn context(data: &RunData) -> Value {
    let header = &data.header;
    json!({
        "date": header.created,
        "host_name": header.machine.cpu,
        "executable": "kiln",
        "num_cpus": header.machine.cpus,
        "mhz_per_cpu": 0,
        "cpu_scaling_enabled": false,
        "caches": [],
        "load_avg": [],
        "library_build_type": "release",
        "dataset": header.dataset.name,
        "dim": header.dataset.dim.to_string(),
        "distance": match header.dataset.metric.as_str() {
            "l2" => "euclidean",
            "ip" => "inner_product",
            other => other,
        },
        "n_records": header.dataset.rows.to_string(),
        "n_queries": header.dataset.queries.to_string(),
    })
}

fn search_benchmark(row: &Exported, number: usize) -> Value {
    let (setting, threads) = (row.setting, row.setting.mode.threads());
    let name = format!("{}/{number}/process_time/real_time/threads:{threads}", index_name(row.build));
    let queries = metrics::queries(setting);
    let passes = setting.runs.len().max(1);
    let total = queries * passes;
    let mut benchmark = Map::new();
    // Parameters first: a figure of the same name comes after, and stays.
    for (name, value) in &setting.params {
        benchmark.insert(name.clone(), value.clone());
    }
    let figures = json!({
        "name": name,
        "run_name": name,
        "family_index": 0,
        "per_family_instance_index": number,
        "run_type": "iteration",
        "repetitions": 1,
        "repetition_index": 0,
        "threads": threads,
        "iterations": total.div_ceil(row.batch),
        "real_time": row.latency / threads as f64,
        "cpu_time": row.latency / threads as f64,
        "time_unit": "s",
        "Latency": row.latency,
        "Recall": row.recall,
        "end_to_end": total as f64 / row.qps,
        "items_per_second": row.qps,
        "k": setting.k,
        "n_queries": row.batch,
        "total_queries": total,
        "label": json!(setting.params).to_string(),
    });
    if let Value::Object(figures) = figures {
        benchmark.extend(figures);
    }
    Value::Object(benchmark)
}

fn build_benchmark(build: &BuildRecord, rows: u64) -> Value {
    let name = format!("{}/process_time/real_time", index_name(build));
    json!({
        "name": name,
        "run_name": name,
        "family_index": 0,
        "per_family_instance_index": 0,
        "run_type": "iteration",
        "repetitions": 1,
        "repetition_index": 0,
        "threads": build.threads,
        "iterations": 1,
        "real_time": build.total_seconds,
        "cpu_time": build.cpu_seconds,
        "time_unit": "s",
        "index_size": rows,
        "label": json!(build.params).to_string(),
    })
}

/// The columns of its CSV: five of their own, then everything else in the order of the benchmark.
fn search_table(algo: &str, rows: &[Exported]) -> (Vec<(String, Kind)>, Vec<Vec<Cell>>) {
    let mut names: Vec<String> = Vec::new();
    for row in rows {
        for name in row.setting.params.keys().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>() {
            names.push(name);
        }
    }
    let fixed = [
        ("algo_name", Kind::Text),
        ("index_name", Kind::Text),
        ("recall", Kind::Real),
        ("throughput", Kind::Real),
        ("latency", Kind::Real),
        ("threads", Kind::Whole),
        ("cpu_time", Kind::Real),
        ("end_to_end", Kind::Real),
        ("k", Kind::Whole),
        ("n_queries", Kind::Whole),
        ("total_queries", Kind::Whole),
    ];
    let header = fixed.iter().map(|&(name, kind)| (name.to_string(), kind));
    let header = header.chain(names.iter().map(|name| (name.clone(), Kind::Text))).collect();
    let cells = rows.iter().map(|row| {
        let threads = row.setting.mode.threads();
        let total = metrics::queries(row.setting) * row.setting.runs.len().max(1);
        let params = names.iter().map(|name| match row.setting.params.get(name) {
            Some(Value::String(text)) => Cell::Text(text.clone()),
            Some(value) => Cell::Text(value.to_string()),
            None => Cell::Empty,
        });
        let fixed = [
            Cell::Text(algo.to_string()),
            Cell::Text(index_name(row.build)),
            Cell::Real(row.recall),
            Cell::Real(row.qps),
            Cell::Real(row.latency),
            Cell::Whole(threads as i64),
            Cell::Real(row.latency / threads as f64),
            Cell::Real(total as f64 / row.qps),
            Cell::Whole(row.setting.k as i64),
            Cell::Whole(row.batch as i64),
            Cell::Whole(total as i64),
        ];
        fixed.into_iter().chain(params).collect()
    });
    (header, cells.collect())
}

/// Rows that no other beats in recall and in `goodness`, best goodness first, as its own program writes them.
fn frontier(rows: &[Exported], goodness: impl Fn(&Exported) -> f64) -> Vec<usize> {
    let points: Vec<(f64, f64)> = rows.iter().map(|row| (row.recall, goodness(row))).collect();
    stats::pareto_frontier(&points)
}
