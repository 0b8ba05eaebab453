//! Builds an index of either kind: reads the rows, runs the stages, writes the file and its report.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_datasets::{Narrowed, RowSource, narrowest, read_all};
use kiln_kernels::distance::Isa;
use kiln_kernels::{Backend, DType, MAX_DIM, Metric, Progress};
use serde::{Deserialize, Serialize};

use crate::durable::{Disk, Lock, Store};
use crate::error::BuilderError;
use crate::file::Section;
use crate::file::writer::IndexWriter;
use crate::meta::Meta;
use crate::params::{GraphMethod, IndexParams, IvfPqParams, VamanaParams};
use crate::resources::{Stopwatch, folder_bytes, free_bytes};
use crate::search_types::IndexKind;
use crate::vamana::split::LEAF_SIZE;
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
    /// Most anonymous memory during the build, bytes, sampled every 10 ms: what is neither file nor shared.
    #[serde(default)]
    pub peak_anonymous_bytes: u64,
    /// Most bytes that the program had asked for and not given back; 0 where its allocator is not [`CountingAllocator`].
    ///
    /// [`CountingAllocator`]: crate::CountingAllocator
    #[serde(default)]
    pub peak_allocated_bytes: u64,
    /// Bytes of the index file.
    pub index_bytes: u64,
    /// What a build within a budget did beside the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<DurableReport>,
}

/// What a build within a budget did beside the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DurableReport {
    /// Bytes of memory that it was to keep to.
    pub memory_budget: u64,
    /// The most bytes that its working folder took.
    pub temp_peak_bytes: u64,
    /// Units of work that an earlier process had finished.
    pub resumed_units: usize,
    /// Units of work in all.
    pub units: usize,
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
    let mut params = checked_params(request)?;
    let mut writer = IndexWriter::create(request.out)?;
    let mut watch = Stopwatch::start(progress);

    let dtype = stored_dtype(request, &mut watch, progress)?;
    watch.stage("read", request.source.len());
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
    finish(request, Built { params, dtype, entry, device: backend.describe(), durable: None }, writer, watch)
}

/// A build that keeps to a budget of memory, and that another process goes on with where this one ends.
pub struct WithinBudget<'a> {
    /// Bytes of memory, the program's own among them.
    pub memory: u64,
    /// Folder for the working folder; that of the output where there is none.
    pub temp: Option<&'a Path>,
    /// Whether to forget what an earlier process finished.
    pub restart: bool,
    /// Whether to stop after the unit of work at hand.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

impl WithinBudget<'_> {
    /// Where the finished units of a build of `out` are kept: `OUT.work`.
    pub fn folder(&self, out: &Path) -> PathBuf {
        match (self.temp, out.file_name()) {
            (Some(temp), Some(name)) => beside(&temp.join(name), ".work"),
            _ => beside(out, ".work"),
        }
    }

    /// Bytes that the working files may take where they lie: what is free, and what they take already. `None` where the
    /// system does not say.
    pub(crate) fn room(&self, out: &Path) -> Option<u64> {
        let folder = self.folder(out);
        let at = folder.parent().map(|at| if at.as_os_str().is_empty() { Path::new(".") } else { at });
        Some(at.and_then(free_bytes)? + folder_bytes(&folder))
    }
}

/// Builds an index whose rows memory need not hold: the same bytes as [`build`], by the same backend.
///
/// Finished units of work are kept in a folder ([`WithinBudget::folder`]), and the same call goes on from there after any
/// end of the process. The folder goes when the index is finished.
///
/// # Errors
/// As [`build`]; a budget that is too small; another build at work in the folder; a folder of another data set or version;
/// [`BuilderError::Interrupted`] when it was asked to stop.
pub fn build_within<B: Backend>(
    backend: &B,
    request: &BuildRequest<'_>,
    within: &WithinBudget<'_>,
    progress: &dyn Progress,
) -> Result<BuildReport, BuilderError> {
    let mut params = checked_in_parts(request)?;
    let n = request.source.len() as usize;
    if matches!(params, IndexParams::Vamana(_)) && n <= LEAF_SIZE {
        return build(backend, request, progress);
    }
    let folder = within.folder(request.out);
    let lock = Lock::take(&folder)?;
    if within.restart {
        Store::clear(&Disk, &folder)?;
    }
    let mut writer = IndexWriter::open(request.out)?;
    let mut watch = Stopwatch::start(progress);
    let dtype = stored_dtype(request, &mut watch, progress)?;
    let parts = Parts {
        backend,
        source: &Narrowed::new(request.source, dtype),
        request,
        store: &Store::open(Arc::new(Disk), &folder, &request.dataset_fingerprint)?,
        within,
        progress,
    };
    let (entry, resumed_units, units) = match &mut params {
        IndexParams::Vamana(p) => parts.graph(p, &mut writer, &mut watch)?,
        IndexParams::IvfPq(p) => parts.lists(p, &mut writer, &mut watch)?,
    };
    let temp_peak_bytes = parts.store.peak_bytes();
    let durable = DurableReport { memory_budget: within.memory, temp_peak_bytes, resumed_units, units };
    let built = Built { params, dtype, entry, device: backend.describe(), durable: Some(durable) };
    let report = finish(request, built, writer, watch)?;
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        tracing::warn!("{}: cannot remove: {error}; the index is finished, and the folder may go", folder.display());
    }
    // Only now: nobody begins in a folder that is about to go.
    drop(lock);
    Ok(report)
}

/// A build in parts, whatever the kind of index.
struct Parts<'a, B> {
    backend: &'a B,
    /// The rows, in the type in which they are stored.
    source: &'a dyn RowSource,
    request: &'a BuildRequest<'a>,
    store: &'a Store,
    within: &'a WithinBudget<'a>,
    progress: &'a dyn Progress,
}

/// The entry's position, units that were there before, and units in all.
type Made = (Option<u32>, usize, usize);

impl<B: Backend> Parts<'_, B> {
    fn graph(
        &self,
        params: &VamanaParams,
        writer: &mut IndexWriter,
        watch: &mut Stopwatch<'_>,
    ) -> Result<Made, BuilderError> {
        let (n, dim, dtype) = (self.source.len() as usize, self.source.dim(), self.source.dtype());
        let task = vamana::external::Build {
            backend: self.backend,
            source: self.source,
            fingerprint: &self.request.dataset_fingerprint,
            metric: self.request.metric,
            params,
            plan: vamana::external::Plan::new(n, dim, dtype, params, self.within.memory)?,
            store: self.store,
            progress: self.progress,
            scope: vamana::external::Scope::All,
            stop: self.within.stop,
        };
        let done = vamana::external::build_and_write(&task, writer, watch)?;
        Ok((Some(done.entry), done.resumed, done.units))
    }

    /// Leaves in `params` the number of lists that there are.
    fn lists(
        &self,
        params: &mut IvfPqParams,
        writer: &mut IndexWriter,
        watch: &mut Stopwatch<'_>,
    ) -> Result<Made, BuilderError> {
        let (n, dim, dtype) = (self.source.len(), self.source.dim(), self.source.dtype());
        let shape = ivf::external::Shape { n, dim, dtype, metric: self.request.metric, params };
        let plan = ivf::external::Plan::new(shape, self.within.memory)?;
        let short = self.within.room(self.request.out).is_some_and(|room| room < shape.both_bytes(&plan));
        let task = ivf::external::Build {
            backend: self.backend,
            source: self.source,
            fingerprint: &self.request.dataset_fingerprint,
            metric: self.request.metric,
            params,
            plan: ivf::external::Plan { frees: short && self.within.temp.is_none(), ..plan },
            store: self.store,
            progress: self.progress,
            stop: self.within.stop,
        };
        let done = ivf::external::build_and_write(&task, writer, watch)?;
        params.nlist = done.nlist;
        Ok((None, done.resumed, done.units))
    }
}

/// The parameters, once request and rows were looked at.
fn checked_params(request: &BuildRequest<'_>) -> Result<IndexParams, BuilderError> {
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
        return refuse(format!(
            "{n} rows are more than one index holds (4,294,967,294: its sections name rows by 32 bits); split the data set \
             into shards, and build an index of each"
        ));
    }
    request.params.validate(dim)?;
    Ok(request.params.clone())
}

/// The parameters, of an index that is built in parts.
pub(crate) fn checked_in_parts(request: &BuildRequest<'_>) -> Result<IndexParams, BuilderError> {
    match checked_params(request)? {
        IndexParams::Vamana(params) if params.method != GraphMethod::Partition => Err(BuilderError::Mismatch(
            "a memory budget is kept by --index ivf-pq and by --index vamana --method partition only: use one of these, or \
             remove --memory-budget"
                .into(),
        )),
        params => Ok(params),
    }
}

/// An index whose every section but meta is written.
pub(crate) struct Built {
    pub params: IndexParams,
    pub dtype: DType,
    pub entry: Option<u32>,
    pub device: String,
    pub durable: Option<DurableReport>,
}

/// Writes meta, gives the file its name, and writes the report.
pub(crate) fn finish(
    request: &BuildRequest<'_>,
    built: Built,
    mut writer: IndexWriter,
    mut watch: Stopwatch<'_>,
) -> Result<BuildReport, BuilderError> {
    let (n, dim) = (request.source.len(), request.source.dim());
    let Built { params, dtype, entry, device, durable } = built;
    let meta = Meta {
        params: params.clone(),
        metric: request.metric,
        dtype,
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

    let used = watch.finish();
    let report = BuildReport {
        index: params.kind(),
        path: request.out.to_path_buf(),
        params,
        dataset: request.dataset_name.clone(),
        n,
        dim,
        metric: request.metric,
        dtype,
        device,
        threads: rayon::current_num_threads(),
        stage_seconds: used.stage_seconds,
        total_seconds: used.wall_seconds,
        cpu_seconds: used.cpu_seconds,
        peak_rss_bytes: used.peak_rss_bytes,
        peak_anonymous_bytes: used.peak_anonymous_bytes,
        peak_allocated_bytes: used.peak_allocated_bytes,
        index_bytes,
        durable,
    };
    if let Err(error) = write_report(&report, &report_path) {
        tracing::warn!("{error}; the index itself is whole: {}", request.out.display());
    }
    Ok(report)
}

/// The element type that the rows are stored and computed in: the smallest that holds every value exactly, unless the
/// user keeps theirs. To find it costs another reading of rows that can be narrowed, and a block of rows that cannot.
pub(crate) fn stored_dtype(
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
pub(crate) fn beside(index: &Path, suffix: &str) -> PathBuf {
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
