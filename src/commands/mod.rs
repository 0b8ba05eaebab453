//! The commands, one a file: its arguments beside what it does with them. What several share is here.

pub mod append;
pub mod bench;
pub mod bench_kernels;
pub mod budget;
pub mod build;
pub mod compact;
pub mod compare;
pub mod completions;
pub mod datasets;
pub mod device;
pub mod devices;
pub mod drive;
pub mod experiment;
pub mod export;
pub mod import;
pub mod inspect;
pub mod load;
pub mod peer;
pub mod report;
pub mod residency;
pub mod search;
#[cfg(feature = "serve")]
pub mod serve;
pub mod time;
pub mod truth;
pub mod tune;
pub mod unit;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use kiln_builder::{IndexKind, Searcher};
use kiln_datasets::{Dataset, DatasetError, RowSource};
use kiln_eval::experiment::DEMO;
pub use kiln_eval::units::parse_bytes;
use kiln_kernels::Metric;
use serde::Serialize;

/// A command line that parses but cannot work: exit code 2.
#[derive(Debug)]
pub struct UsageError(pub String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// How rows are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MetricArg {
    /// Euclidean distance
    L2,
    /// Maximum inner product
    Ip,
    /// Angular distance, 1 - cos
    Cosine,
}

impl From<MetricArg> for Metric {
    fn from(arg: MetricArg) -> Metric {
        match arg {
            MetricArg::L2 => Metric::L2,
            MetricArg::Ip => Metric::InnerProduct,
            MetricArg::Cosine => Metric::Cosine,
        }
    }
}

/// The kinds of index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IndexArg {
    /// A pruned proximity graph
    Vamana,
    /// Inverted lists of product-quantised residuals, re-ranked exactly
    IvfPq,
}

impl From<IndexArg> for IndexKind {
    fn from(arg: IndexArg) -> IndexKind {
        match arg {
            IndexArg::Vamana => IndexKind::Vamana,
            IndexArg::IvfPq => IndexKind::IvfPq,
        }
    }
}

/// The metric to use: the one given, else the data set's own.
pub fn metric_of(given: Option<MetricArg>, dataset: &Dataset) -> Result<Metric, UsageError> {
    let metric = given.map(Metric::from).or(dataset.metric);
    if let (Some(given), Some(own)) = (given.map(Metric::from), dataset.metric)
        && given != own
    {
        tracing::warn!("{} was made for metric {own}; using {given} as asked", dataset.name);
    }
    metric.ok_or_else(|| {
        UsageError(format!(
            "{} does not say how its rows are compared: add --metric l2, ip or cosine",
            dataset.path.display()
        ))
    })
}

/// Where fetched data sets live: `$KILN_DATA`, else `kiln/` in the user's cache folder.
pub fn cache_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("KILN_DATA")
        .or_else(|| from("XDG_CACHE_HOME").map(|dir| dir.join("kiln")))
        .or_else(|| from("HOME").map(|dir| dir.join(".cache/kiln")))
        .unwrap_or_else(|| PathBuf::from("kiln-data"))
}

/// Opens a data set by path or name and says what it is.
pub fn open_dataset(spec: &str) -> anyhow::Result<Dataset> {
    let dataset = dataset_of(spec)?;
    tracing::info!("{}", summary(&dataset));
    Ok(dataset)
}

/// The data set that is meant: a file, a name, or the one that travels inside the program.
pub fn dataset_of(spec: &str) -> Result<Dataset, DatasetError> {
    if spec == DEMO { Dataset::embedded_demo() } else { Dataset::open(spec, &cache_dir()) }
}

/// A data set in one line.
pub fn summary(dataset: &Dataset) -> String {
    let metric = dataset.metric.map_or("metric unknown", Metric::name);
    let queries = dataset.queries.as_ref().map_or("no queries".to_string(), |q| format!("{} queries", q.len()));
    let truth = dataset.truth.as_ref().map_or("no truth".to_string(), |t| format!("truth of depth {}", t.depth()));
    format!("{}: {}, {metric}, {queries}, {truth}", dataset.name, shape(dataset.base.as_ref()))
}

/// Refuses queries of another dimension than the index's.
pub fn refuse_other_dim(path: &Path, queries: &dyn RowSource, searcher: &Searcher) -> anyhow::Result<()> {
    anyhow::ensure!(
        queries.dim() == searcher.dim(),
        "{}: its rows have {} coordinates, {} has {}; use queries of the same data set",
        path.display(),
        queries.dim(),
        searcher.path().display(),
        searcher.dim()
    );
    Ok(())
}

/// `10,000 x 128 u8`.
pub fn shape(rows: &dyn RowSource) -> String {
    format!("{} x {} {}", thousands(rows.len()), rows.dim(), rows.dtype())
}

/// 1234567 as `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in binary units.
pub fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.1} KiB", n as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", n as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", n as f64 / 1_073_741_824.0),
    }
}

/// Writes one JSON document to a file, or to standard output for `-`.
pub fn write_json(path: &Path, document: &impl Serialize) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(document)?;
    if path == Path::new("-") {
        return print(&json);
    }
    std::fs::write(path, json + "\n").with_context(|| format!("{}: cannot write", path.display()))
}

/// Prints a result. Unlike `println!` a closed pipe is an error that main understands, not a panic.
pub fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        written => written.context("cannot write to standard output"),
    }
}

/// The reader of standard output has gone (`kiln ... | head`): nothing is left to do, and nothing is wrong.
#[derive(Debug)]
pub struct StdoutClosed;

impl std::fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// Runs `work` on a pool of `threads` threads (all processors where none are named).
pub fn with_threads<R: Send>(threads: Option<usize>, work: impl FnOnce() -> R + Send) -> anyhow::Result<R> {
    let pool = match threads {
        Some(0) => return Err(UsageError("--threads 0: use 1 or more".into()).into()),
        Some(threads) => rayon::ThreadPoolBuilder::new().num_threads(threads),
        None => rayon::ThreadPoolBuilder::new(),
    };
    Ok(pool.build().context("cannot start the threads")?.install(work))
}

/// The command line as it was typed, quoted where a shell needs it.
pub fn command_line() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+".contains(c);
    let quote = |word: String| {
        if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    let words = std::env::args().skip(1).map(quote);
    std::iter::once("kiln".to_string()).chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([5, 2048, 3 << 20].map(bytes), ["5 B", "2.0 KiB", "3.0 MiB"]);
    }
}
