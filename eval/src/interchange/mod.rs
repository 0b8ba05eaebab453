//! The formats of other benchmarks, in and out.
//!
//! In: a run folder, or files of ann-benchmarks, cuvs-bench, CSV or Parquet. Out: such files, or settings in a run folder
//! that carry the mark of having been measured elsewhere ([`Foreign`](crate::record::Foreign)).
//!
//! | format | one file is | keeps | lacks |
//! |---|---|---|---|
//! | `ann-benchmarks` | a setting | answers, their distances, the time of each query of one pass | percentiles of all passes; threads other than one, or all in batch mode |
//! | `cuvs-bench` | the settings of an algorithm at one k and batch size | recall by ids, throughput, mean latency | answers, percentiles, intervals |
//! | `csv`, `parquet` | a run | every figure of [`METRICS`](crate::metrics::METRICS), provenance | single queries |
//!
//! [`ann_benchmarks`] and [`cuvs`] speak two of them, [`table`] the rows of the other two, [`import`](mod@import) puts what
//! was read into a run folder.

pub mod ann_benchmarks;
mod csv_file;
pub mod cuvs;
pub mod import;
mod parquet_file;
pub mod table;

use std::path::{Path, PathBuf};

use kiln_builder::BuilderError;
use kiln_datasets::DatasetError;
use xxhash_rust::xxh3::xxh3_128;

use crate::judge::JudgeError;
use crate::record::{BuildRecord, Mode, RunData, SettingRecord};
use crate::store::StoreError;

pub use import::{ImportReport, import};

/// A format that runs are exported to and imported from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Result files of ann-benchmarks, HDF5.
    AnnBenchmarks,
    /// Result files of cuvs-bench, JSON in the shape of Google Benchmark, and CSV.
    CuvsBench,
    /// One row a setting.
    Csv,
    /// The same rows.
    Parquet,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 4] = [Format::AnnBenchmarks, Format::CuvsBench, Format::Csv, Format::Parquet];

    /// `ann-benchmarks`, `cuvs-bench`, `csv`, `parquet`.
    pub fn name(self) -> &'static str {
        match self {
            Format::AnnBenchmarks => "ann-benchmarks",
            Format::CuvsBench => "cuvs-bench",
            Format::Csv => "csv",
            Format::Parquet => "parquet",
        }
    }

    /// The format of a file: by its extension, and of a CSV by its first line.
    ///
    /// # Errors
    /// When neither tells.
    pub fn guess(path: &Path) -> Result<Format, InterchangeError> {
        let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        match extension.as_str() {
            "hdf5" | "h5" => Ok(Format::AnnBenchmarks),
            "json" => Ok(Format::CuvsBench),
            "parquet" => Ok(Format::Parquet),
            "csv" => csv_file::guess(path),
            _ => Err(InterchangeError::malformed(
                path,
                "its name does not tell its format",
                "say which it is with --format ann-benchmarks, cuvs-bench, csv or parquet",
            )),
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What cannot be exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum InterchangeError {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A file that is not what it should be, or a run that the format has no words for.
    #[error("{path}: {problem}; {remedy}", path = path.display())]
    Malformed {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, with the offending value.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
    /// The run folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A data set or a result file cannot be read or written.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Answers cannot be judged.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// An index cannot be opened or searched.
    #[error(transparent)]
    Builder(#[from] BuilderError),
}

impl InterchangeError {
    /// An [`InterchangeError::Malformed`] from its parts.
    pub(crate) fn malformed(path: &Path, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_path_buf(), problem: problem.into(), remedy: remedy.into() }
    }

    /// Wraps an I/O error with the file it concerns.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
}

/// Writes every setting of a run as a row of CSV, or of Parquet.
///
/// # Errors
/// When there is no setting, or the file cannot be written.
pub fn export_table(dir: &Path, data: &RunData, format: Format, out: &Path) -> Result<usize, InterchangeError> {
    let (header, rows) = (table::header(), table::rows(data));
    if rows.is_empty() {
        return Err(InterchangeError::malformed(dir, "it has no settings", "measure some with `kiln bench`"));
    }
    match format {
        Format::Parquet => parquet_file::write(out, &header, &rows)?,
        Format::Csv | Format::AnnBenchmarks | Format::CuvsBench => csv_file::write(out, &header, &rows)?,
    }
    Ok(rows.len())
}

/// A key for what these parts name: the same on every machine.
fn key(parts: &[&str]) -> String {
    // No part can run into the next.
    let text: String = parts.iter().map(|part| format!("{}:{part};", part.len())).collect();
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

/// A name for one line of charts that know no places: `kiln-vamana`, `kiln-ivf-pq-ssd-cold`,
/// `kiln-vamana-ssd-direct-67108864B`. What was imported keeps its own, and so do other libraries.
fn algo(build: &BuildRecord, setting: &SettingRecord) -> String {
    let own = build.is_kilns() && !setting.is_foreign();
    let mut algo = if own { format!("kiln-{}", build.index) } else { build.index.clone() };
    if setting.residency != "memory" {
        algo = format!("{algo}-{}", setting.residency);
    }
    if let Some(state) = setting.io_state {
        algo = format!("{algo}-{}", state.name().replace(':', "-"));
    }
    if let Some(bytes) = setting.memory_budget {
        algo = format!("{algo}-{bytes}B");
    }
    match setting.mode {
        Mode::BatchDevice { transfers: true } => algo.push_str("-device"),
        Mode::BatchDevice { transfers: false } => algo.push_str("-device-resident"),
        _ => {}
    }
    algo
}

/// Writes a whole small file, which appears whole or not at all; folders are made as needed.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), InterchangeError> {
    let mut partial = path.as_os_str().to_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(InterchangeError::io(path))?;
    }
    let write = || -> std::io::Result<()> {
        use std::io::Write as _;
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|source| {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&partial);
        InterchangeError::Io { path: path.to_path_buf(), source }
    })
}
