//! Builds an index of either kind: reads the rows, runs the stages, writes the file and its report.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_datasets::{Narrowed, RowSource, narrowest, read_all};
use kiln_kernels::distance::Isa;
use kiln_kernels::{Backend, DType, MAX_DIM, Metric, Progress};
use serde::{Deserialize, Serialize};

use crate::error::BuilderError;
use crate::file::Section;
use crate::file::writer::IndexWriter;
use crate::meta::Meta;
use crate::params::IndexParams;
use crate::resources::Stopwatch;
use crate::search_types::IndexKind;
use crate::{ivf, vamana};

/// What to build, from what, and where to.
pub struct BuildRequest<'a> {
    /// The base rows.
    pub source: &'a dyn RowSource,
    /// Name of the data set, kept in the index.
    pub dataset_name: String,
    /// Content fingerprint of the data set, kept in the index.
    pub dataset_fingerprint: String,
    /// How rows are compared.
    pub metric: Metric,
    /// Kind and parameters.
    pub params: IndexParams,
    /// Store f32 rows as f32 even where a smaller type holds every value exactly.
    pub keep_dtype: bool,
    /// The index file to write. The report is written beside it as `OUT.build.json`.
    pub out: &'a Path,
}

/// What a build did and used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildReport {
    /// Kind of index.
    pub index: IndexKind,
    /// The index file.
    pub path: PathBuf,
    /// Parameters as built.
    pub params: IndexParams,
    /// Name of the data set.
    pub dataset: String,
    /// Rows.
    pub n: u64,
    /// Coordinates a row.
    pub dim: usize,
    /// Metric.
    pub metric: Metric,
    /// Element type of the stored vectors.
    pub dtype: DType,
    /// What computed, in words.
    pub device: String,
    /// Threads used.
    pub threads: usize,
    /// Wall seconds of each stage, in order.
    pub stage_seconds: Vec<(String, f64)>,
    /// Wall seconds in all.
    pub total_seconds: f64,
    /// User and system CPU seconds in all.
    pub cpu_seconds: f64,
    /// Highest resident set during the build, bytes.
    pub peak_rss_bytes: u64,
    /// Bytes of the index file.
    pub index_bytes: u64,
}

/// Builds an index in memory and writes it, with a report beside it.
///
/// On an error nothing is left under the final name. The file's bytes depend on the data, the parameters
/// and the instruction set alone, not on the number of threads.
///
/// # Errors
/// Parameters out of range, no rows, more rows than 32-bit positions can name, rows that cannot be read
/// or are not finite, or an output that cannot be written.
pub fn build<B: Backend>(
    backend: &B,
    request: &BuildRequest<'_>,
    progress: &dyn Progress,
) -> Result<BuildReport, BuilderError> {
    let (n, dim) = (request.source.len(), request.source.dim());
    let refuse =
        |problem: String| Err(BuilderError::Mismatch(format!("{}: {problem}", request.source.path().display())));
    if n == 0 || dim == 0 {
        return refuse(format!("{n} rows of {dim} coordinates; an index needs at least one of each"));
    }
    if dim > MAX_DIM {
        return refuse(format!("{dim} coordinates a row are more than an index holds ({MAX_DIM})"));
    }
    if n >= u64::from(u32::MAX) {
        return refuse(format!("{n} rows are more than one index holds (4,294,967,294); split the data set"));
    }
    let mut params = request.params.clone();
    params.validate(dim)?;
    let mut writer = IndexWriter::create(request.out)?;
    let mut watch = Stopwatch::start(progress);

    let dtype = stored_dtype(request, &mut watch, progress)?;
    watch.stage("read", n);
    let rows = Arc::new(read_all(&Narrowed::new(request.source, dtype), |rows| progress.advance(rows))?);
    let zeros = if request.metric == Metric::Cosine { kiln_datasets::zero_rows(&rows) } else { 0 };
    if zeros > 0 {
        tracing::warn!("{zeros} rows are zero: under cosine they are at distance 1 from everything");
    }

    let entry = match &mut params {
        IndexParams::Vamana(p) => {
            Some(vamana::build::build_and_write(backend, &rows, request.metric, p, &mut writer, &mut watch, progress)?)
        }
        IndexParams::IvfPq(p) => {
            p.nlist =
                ivf::build::build_and_write(backend, &rows, request.metric, p, &mut writer, &mut watch, progress)?;
            None
        }
    };
    let meta = Meta {
        params: params.clone(),
        metric: request.metric,
        dtype: rows.dtype(),
        n,
        dim,
        dataset: request.dataset_name.clone(),
        dataset_fingerprint: request.dataset_fingerprint.clone(),
        isa: Isa::best().name().to_string(),
        entry,
    };
    let json = serde_json::to_vec_pretty(&meta)
        .map_err(std::io::Error::other)
        .map_err(BuilderError::io(request.out, "describe"))?;
    writer.section(Section::Meta, |sink| sink.write(&json))?;
    let report_path = beside(request.out, ".build.json");
    let index_bytes = writer.finish(
        || watch.stage("fsync", 0),
        || {
            remove_stale(&report_path)?;
            remove_stale(&beside(request.out, ".tune.json"))
        },
    )?;

    let (stage_seconds, total_seconds, cpu_seconds, peak_rss_bytes) = watch.finish();
    let report = BuildReport {
        index: params.kind(),
        path: request.out.to_path_buf(),
        params,
        dataset: request.dataset_name.clone(),
        n,
        dim,
        metric: request.metric,
        dtype: rows.dtype(),
        device: backend.describe(),
        threads: rayon::current_num_threads(),
        stage_seconds,
        total_seconds,
        cpu_seconds,
        peak_rss_bytes,
        index_bytes,
    };
    if let Err(error) = write_report(&report, &report_path) {
        tracing::warn!("{error}; the index itself is whole: {}", request.out.display());
    }
    Ok(report)
}

/// The element type that the rows are stored and computed in: the smallest that holds every value exactly, unless the
/// user keeps theirs. To find it costs another reading of rows that can be narrowed, and a block of rows that cannot.
fn stored_dtype(
    request: &BuildRequest<'_>,
    watch: &mut Stopwatch<'_>,
    progress: &dyn Progress,
) -> Result<DType, BuilderError> {
    let given = request.source.dtype();
    if request.keep_dtype || given != DType::F32 {
        return Ok(given);
    }
    watch.stage("narrow", request.source.len());
    let dtype = narrowest(request.source, |rows| progress.advance(rows))?;
    if dtype != given {
        tracing::info!(
            "{}: {dtype} holds every value of these {given} rows exactly: stored and computed as {dtype} \
             (--keep-dtype keeps {given})",
            request.source.path().display()
        );
    }
    Ok(dtype)
}

/// `X.kiln` with `suffix` appended.
fn beside(index: &Path, suffix: &str) -> PathBuf {
    let mut name = index.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes the report or the settings of an index that is about to be replaced: they must not pass for the new one's.
fn remove_stale(report: &Path) -> Result<(), BuilderError> {
    match std::fs::remove_file(report) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(BuilderError::io(report, "remove")(error)),
        _ => Ok(()),
    }
}

/// Writes the report beside the index, whole or not at all.
fn write_report(report: &BuildReport, path: &Path) -> Result<(), BuilderError> {
    let partial = beside(path, ".partial");
    let json = serde_json::to_vec_pretty(report).map_err(std::io::Error::other);
    let written = json.and_then(|json| std::fs::write(&partial, json)).and_then(|()| std::fs::rename(&partial, path));
    written.map_err(BuilderError::io(path, "write"))
}
