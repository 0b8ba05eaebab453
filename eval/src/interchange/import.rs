//! Files of other benchmarks into a run folder.
//!
//! In: files, perhaps the data set that they are about. Out: settings in a new or an existing run folder, every one with
//! its [`Foreign`](crate::record::Foreign) mark. All files are read before anything is written, so that one that is
//! refused leaves the folder as it was. A setting that the folder holds already is not added again.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use kiln_datasets::{Dataset, read_all};
use kiln_kernels::{Metric, Rows};
use ndarray::s;

use super::{Format, InterchangeError, ann_benchmarks, csv_file, cuvs, parquet_file, table};
use crate::judge::Judge;
use crate::lid::query_lid;
use crate::provenance;
use crate::record::{BuildRecord, DatasetRecord, Machine, RunHeader, SCHEMA_VERSION, SettingRecord};
use crate::store::RunFolder;

/// Base bytes up to which queries' neighbours are read for their difficulty.
const READ_THROUGH_BYTES: u64 = 8 << 30;

/// What a source says of its data; empty or 0 where it says nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct About {
    /// Name of the data set.
    pub dataset: String,
    /// Its content fingerprint, as Kiln computes it.
    pub fingerprint: Option<String>,
    /// `l2`, `ip`, `cosine`.
    pub metric: Option<String>,
    /// Type of a coordinate.
    pub dtype: Option<String>,
    /// Base rows.
    pub rows: u64,
    /// Coordinates a row.
    pub dim: usize,
    /// Queries of a pass.
    pub queries: usize,
    /// Neighbours asked for.
    pub k: usize,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// What all of it is about.
    pub about: About,
    /// Indexes, each once.
    pub builds: Vec<BuildRecord>,
    /// Settings of them.
    pub settings: Vec<SettingRecord>,
}

impl Imported {
    /// Nothing yet.
    pub(crate) fn new(about: About) -> Self {
        Self { about, builds: Vec::new(), settings: Vec::new() }
    }

    /// Adds a setting, and its index unless it is there.
    pub(crate) fn add(&mut self, build: BuildRecord, setting: SettingRecord) {
        if self.builds.iter().all(|known| known.key != build.key) {
            self.builds.push(build);
        }
        self.settings.push(setting);
    }
}

/// Judges answers of any k to the queries of one data set.
pub struct Referee<'a> {
    /// The data set.
    pub(super) dataset: &'a Dataset,
    /// Its queries.
    pub(super) queries: &'a Rows,
    /// How they are compared.
    pub(super) metric: Metric,
    /// The last judge asked for, with its k and the number of queries.
    judge: Option<((usize, usize), Judge<'a>)>,
}

impl<'a> Referee<'a> {
    /// A referee on a data set with queries, truth and a metric.
    ///
    /// # Errors
    /// When it lacks one of them.
    pub fn new(dataset: &'a Dataset, queries: &'a Rows) -> Result<Self, InterchangeError> {
        let lacking = |what: &str, remedy: &str| Err(InterchangeError::malformed(&dataset.path, what, remedy));
        if dataset.truth.is_none() {
            return lacking("it has no ground truth", "add it with `kiln datasets truth`");
        }
        match dataset.metric {
            Some(metric) => Ok(Self { dataset, queries, metric, judge: None }),
            None => {
                lacking("it does not say how its rows are compared", "give an HDF5 file with the attribute `distance`")
            }
        }
    }

    /// The judge of answers at this k to the first `count` queries.
    pub(super) fn judge(&mut self, k: usize, count: usize) -> Result<&Judge<'a>, InterchangeError> {
        if self.judge.as_ref().is_none_or(|(of, _)| *of != (k, count)) {
            let truth = self.dataset.truth.as_ref().expect("a referee has truth").ids.slice(s![..count, ..]);
            let queries = self.queries.view().slice(0..count);
            let judge = Judge::new(self.dataset.base.as_ref(), &queries, truth, self.metric, k)?;
            self.judge = Some(((k, count), judge));
        }
        Ok(&self.judge.as_ref().expect("made above").1)
    }
}

/// What an import has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// Settings added.
    pub added: usize,
    /// Settings that the folder held already.
    pub known: usize,
    /// Files read.
    pub files: usize,
}

/// Imports `files` (of folders every file in them whose name tells a format) into the run folder `out`, as `command`.
/// `format` is that of all files, or each file's own where it is `None`.
///
/// # Errors
/// When a file cannot be read, files disagree on the data set or on k, or the folder holds a run of other data.
pub fn import(
    files: &[PathBuf],
    format: Option<Format>,
    dataset: Option<&Dataset>,
    out: &Path,
    command: &str,
) -> Result<ImportReport, InterchangeError> {
    let files = listed(files)?;
    let queries = match dataset.and_then(|dataset| dataset.queries.as_deref()) {
        Some(queries) => Some(read_all(queries, |_| ())?),
        None => None,
    };
    let mut referee = match (dataset, &queries) {
        (Some(dataset), Some(queries)) => Some(Referee::new(dataset, queries)?),
        (Some(dataset), None) => {
            let remedy = "give a data set with queries and truth";
            return Err(InterchangeError::malformed(&dataset.path, "it has no queries", remedy));
        }
        (None, _) => None,
    };
    let mut found: Vec<(&Path, Imported)> = Vec::new();
    for path in &files {
        let imported = read(path, format, referee.as_mut())?;
        if let Some((first, known)) = found.first() {
            agree(path, &imported.about, first, &known.about)?;
        }
        found.push((path.as_path(), imported));
    }
    let Some((first, about)) = found.first().map(|(path, imported)| (*path, imported.about.clone())) else {
        return Err(InterchangeError::malformed(
            out,
            "there is nothing to import",
            "name files, or folders that hold some",
        ));
    };
    let mut folder = RunFolder::open(out)?;
    match folder.header() {
        Some(header) => belongs(first, &about, header, dataset)?,
        None => {
            let machines = found.iter().flat_map(|(_, imported)| &imported.settings);
            let hardware: HashSet<&str> =
                machines.filter_map(|setting| setting.foreign.as_ref()?.hardware.as_deref()).collect();
            let mut hardware: Vec<&str> = hardware.into_iter().collect();
            hardware.sort_unstable();
            folder.begin(RunHeader {
                schema: SCHEMA_VERSION,
                created: provenance::utc_now(),
                command: command.to_string(),
                machine: elsewhere(&hardware.join("; ")),
                dataset: record(&about, dataset, queries.as_ref())?,
                k: about.k,
                quick: false,
                drive_ceiling: None,
                noise: None,
                held_out: None,
                peer_overhead: None,
            })?;
        }
    }
    let mut report = ImportReport { files: files.len(), ..ImportReport::default() };
    for (_, imported) in found {
        for build in imported.builds {
            if folder.build(&build.key).is_none() {
                folder.add_build(build)?;
            }
        }
        for setting in imported.settings {
            if folder.is_measured(&setting.key, true) {
                report.known += 1;
            } else {
                folder.add_setting(setting)?;
                report.added += 1;
            }
        }
    }
    Ok(report)
}

fn read(path: &Path, format: Option<Format>, referee: Option<&mut Referee<'_>>) -> Result<Imported, InterchangeError> {
    let format = match format {
        Some(format) => format,
        None => Format::guess(path)?,
    };
    match format {
        Format::AnnBenchmarks => ann_benchmarks::read(path, referee),
        Format::CuvsBench => cuvs::read(path),
        Format::Csv => table::imported(&csv_file::read(path, &table::header())?, format.name(), path),
        Format::Parquet => table::imported(&parquet_file::read(path)?, format.name(), path),
    }
}

/// Files as they are, folders as the files below them that look like results, in the order of their names.
fn listed(paths: &[PathBuf]) -> Result<Vec<PathBuf>, InterchangeError> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(InterchangeError::io(path))?;
        let mut below = Vec::new();
        for entry in entries {
            let entry = entry.map_err(InterchangeError::io(path))?.path();
            // What cuvs-bench derives from a result, and what it knows of builds, is no result of its own.
            let search = if entry.is_dir() { !entry.ends_with("build") } else { looks_like_result(&entry) };
            if search {
                below.push(entry);
            }
        }
        below.sort();
        files.extend(listed(&below)?);
    }
    Ok(files)
}

fn looks_like_result(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let derived = [",raw.csv", ",throughput.csv", ",latency.csv"].iter().find_map(|ending| name.strip_suffix(ending));
    if derived.is_some_and(|stem| path.with_file_name(format!("{stem}.json")).is_file()) {
        return false;
    }
    ["hdf5", "h5", "json", "csv", "parquet"].iter().any(|&known| path.extension().is_some_and(|e| e == known))
}

/// Refuses a file about something else than the first.
fn agree(path: &Path, about: &About, first: &Path, known: &About) -> Result<(), InterchangeError> {
    let problem = if about.k != known.k {
        format!("it is of k {}, and {} of k {}", about.k, first.display(), known.k)
    } else if about.dataset != known.dataset {
        format!("it is of {:?}, and {} of {:?}", about.dataset, first.display(), known.dataset)
    } else {
        return Ok(());
    };
    Err(InterchangeError::malformed(path, problem, "import each into a run folder of its own"))
}

/// Refuses files about something else than the run.
fn belongs(path: &Path, about: &About, header: &RunHeader, dataset: Option<&Dataset>) -> Result<(), InterchangeError> {
    let run = &header.dataset;
    let fingerprint = dataset.map(|dataset| &dataset.fingerprint).or(about.fingerprint.as_ref());
    let same = match fingerprint {
        Some(fingerprint) => *fingerprint == run.fingerprint,
        None => about.dataset == run.name,
    };
    let problem = if !same {
        format!("it is of {:?}, and the run of {:?} ({})", about.dataset, run.name, run.fingerprint)
    } else if about.k != header.k {
        format!("it is of k {}, and the run of k {}", about.k, header.k)
    } else if about.metric.as_ref().is_some_and(|metric| *metric != run.metric) {
        format!("it is by {}, and the run by {}", about.metric.as_deref().unwrap_or_default(), run.metric)
    } else {
        return Ok(());
    };
    Err(InterchangeError::malformed(path, problem, "choose another --out"))
}

/// The data set of a new folder: as it is where it is at hand, else as the files say.
fn record(about: &About, dataset: Option<&Dataset>, queries: Option<&Rows>) -> Result<DatasetRecord, InterchangeError> {
    let (Some(dataset), Some(queries)) = (dataset, queries) else {
        return Ok(DatasetRecord {
            name: about.dataset.clone(),
            path: "unknown".into(),
            fingerprint: about.fingerprint.clone().unwrap_or_else(|| "unknown".into()),
            sha256: None,
            rows: about.rows,
            dim: about.dim,
            queries: about.queries,
            dtype: about.dtype.clone().unwrap_or_else(|| "unknown".into()),
            metric: about.metric.clone().unwrap_or_else(|| "unknown".into()),
            truth_depth: 0,
            query_lid: Vec::new(),
            warnings: Vec::new(),
            difficulty: None,
        });
    };
    let (base, metric) = (dataset.base.as_ref(), dataset.metric.expect("a referee has a metric"));
    let truth = dataset.truth.as_ref().expect("a referee has truth");
    let few = base.len().saturating_mul((base.dim() * base.dtype().bytes()) as u64) <= READ_THROUGH_BYTES;
    Ok(DatasetRecord {
        name: dataset.name.clone(),
        path: dataset.location(),
        fingerprint: dataset.fingerprint.clone(),
        sha256: None,
        rows: base.len(),
        dim: base.dim(),
        queries: queries.len(),
        dtype: base.dtype().name().to_string(),
        metric: metric.name().to_string(),
        truth_depth: truth.depth(),
        query_lid: if few { query_lid(base, &queries.view(), truth.ids.view(), metric)? } else { Vec::new() },
        warnings: Vec::new(),
        difficulty: None,
    })
}

/// The machine of a folder in which nothing was measured here.
fn elsewhere(hardware: &str) -> Machine {
    let known = if hardware.is_empty() { "hardware unknown" } else { hardware };
    Machine {
        cpu: format!("measured elsewhere ({known})"),
        cpus: 0,
        isa: String::new(),
        features: Vec::new(),
        governor: None,
        memory_bytes: 0,
        memory_limit_bytes: None,
        cpu_limit: None,
        kernel: String::new(),
        filesystem: None,
        drive: None,
        gpu: None,
        rustc: String::new(),
        build_flags: String::new(),
        kiln_version: env!("CARGO_PKG_VERSION").to_string(),
        commit: None,
        dirty: None,
    }
}
