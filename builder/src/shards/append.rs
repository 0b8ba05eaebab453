//! Adding a shard to a set: built from rows, or an index file that is there already.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_datasets::{Narrowed, RowSource, first_lost};
use kiln_kernels::kmeans::{BalancedParams, balanced};
use kiln_kernels::{Backend, CpuBackend, DType, Metric, NoProgress, Progress, Rows};

use super::folder::{self, Change};
use super::manifest::{Manifest, ShardEntry, VERSION, index_name, rows_name};
use super::rows_file::{RowIds, RowsFile, checksum};
use super::search::{disagreement, open_file};
use super::vectors::Vectors;
use super::{SET_MANIFEST, is_set};
use crate::build::{BuildReport, BuildRequest, WithinBudget, build, build_within};
use crate::error::BuilderError;
use crate::file::inspect::{inspect, verify};
use crate::meta::Meta;
use crate::params::IndexParams;
use crate::quantiser::sample_rows;
use crate::search_types::IndexKind;

/// Centroids by which searches choose among shards, of each shard.
const CENTROIDS: usize = 16;

/// Rows of a shard that they are made from.
const SAMPLE: usize = 16_384;

/// Of the sample, and of the centroids.
const SEED: u64 = 42;

/// Lloyd iterations.
const ITERATIONS: usize = 10;

/// Rows to add to a set as a shard of their own.
pub struct AppendRequest<'a> {
    /// The folder of the set; made where there is none.
    pub set: &'a Path,
    /// The rows.
    pub source: &'a dyn RowSource,
    /// Name of their data set.
    pub dataset_name: String,
    /// Content fingerprint of it.
    pub dataset_fingerprint: String,
    /// How rows are compared; as the set's are.
    pub metric: Metric,
    /// Kind and parameters; of the kind of the set.
    pub params: IndexParams,
    /// Of the first shard: store f32 rows as f32 even where a smaller type holds every value exactly. Those that follow
    /// are stored as the first.
    pub keep_dtype: bool,
    /// The budget to keep to, and how an earlier call is gone on with; without, all rows are held in memory.
    pub within: Option<WithinBudget<'a>>,
}

/// What a set has become.
#[derive(Debug, Clone, PartialEq)]
pub struct Appended {
    /// The new shard's index file.
    pub path: PathBuf,
    /// Shards that there are now.
    pub shards: usize,
    /// The lowest id of the new rows; the others follow.
    pub first_id: u64,
    /// New rows.
    pub rows: u64,
    /// What the build did.
    pub report: BuildReport,
}

/// A set to which an index file was added.
#[derive(Debug, Clone, PartialEq)]
pub struct Adopted {
    /// The new shard's index file.
    pub path: PathBuf,
    /// Shards that there are now.
    pub shards: usize,
    /// The lowest id of its rows; the others follow.
    pub first_id: u64,
    /// Its rows.
    pub rows: u64,
}

/// What a new shard takes from its set where nothing else is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct SetDefaults {
    /// Those of the last shard, with as many lists as suit the rows.
    pub params: IndexParams,
    /// That of every shard.
    pub metric: Metric,
}

/// What the set in `folder` has for a new shard of `n` rows; `None` where there is no set yet.
///
/// # Errors
/// A set, or a last shard, that cannot be read.
pub fn set_defaults(folder: &Path, n: u64) -> Result<Option<SetDefaults>, BuilderError> {
    if !is_set(folder) || !folder.join(SET_MANIFEST).exists() {
        return Ok(None);
    }
    let set = folder::read(folder)?.manifest;
    let params = params_of_last(folder, &set, n)?;
    Ok(Some(SetDefaults { params, metric: set.metric }))
}

/// Parameters of the last shard. Lists grow as the root of the rows, as their default does.
pub(super) fn params_of_last(folder: &Path, set: &Manifest, n: u64) -> Result<IndexParams, BuilderError> {
    let meta = open_file(folder, set, &set.shards[set.shards.len() - 1])?.meta()?;
    let mut params = meta.params;
    if let IndexParams::IvfPq(p) = &mut params {
        let nlist_for = |n: u64| match IndexParams::defaults(IndexKind::IvfPq, n, meta.dim) {
            IndexParams::IvfPq(p) => p.nlist,
            IndexParams::Vamana(_) => unreachable!("of lists"),
        };
        let grown = p.nlist as f64 * (n as f64 / meta.n as f64).sqrt();
        let grown = 2f64.powf(grown.log2().round()) as usize;
        p.nlist = if p.nlist == nlist_for(meta.n) { nlist_for(n) } else { grown.clamp(1, n.max(1) as usize) };
    }
    Ok(params)
}

/// Builds one more shard. Whatever happens before it is whole leaves the set as it was, but for the units of work that a build
/// within a budget has finished: the same call goes on from there.
///
/// # Errors
/// Rows that do not fit the set, another change under way, or what [`build`] and [`build_within`] refuse.
pub fn append<B: Backend>(
    backend: &B,
    request: &AppendRequest<'_>,
    progress: &dyn Progress,
) -> Result<Appended, BuilderError> {
    let source = request.source;
    if source.is_empty() || source.dim() == 0 {
        let (path, n, dim) = (source.path().display(), source.len(), source.dim());
        let problem = format!("{path}: {n} rows of {dim} coordinates; a shard needs at least one of each");
        return Err(BuilderError::Mismatch(problem));
    }
    let (change, set) = Change::of_set_or_new(request.set)?;
    let narrowed = match &set {
        Some(set) => Some(fitted(request, set, progress)?),
        None => None,
    };
    warn_of_repeats(request.set, set.as_ref(), &request.dataset_fingerprint, source.path())?;
    let number = set.as_ref().map_or(1, |set| set.next_shard);
    let path = change.folder().join(index_name(number));
    let added = || {
        let build_request = BuildRequest {
            source: narrowed.as_ref().map_or(source, |narrowed| narrowed),
            dataset_name: request.dataset_name.clone(),
            dataset_fingerprint: request.dataset_fingerprint.clone(),
            metric: request.metric,
            params: request.params.clone(),
            keep_dtype: request.keep_dtype || set.is_some(),
            out: &path,
        };
        let report = build_shard(backend, &build_request, request.within.as_ref(), progress)?;
        let rows = report.n;
        let (set, entry) = with_shard(&change, set.clone(), number, |first| RowIds::From { first, rows })?;
        change.replace(&set)?;
        Ok(Appended { path: path.clone(), shards: set.shards.len(), first_id: entry.first_id, rows, report })
    };
    kept_or_removed(&change, number, added())
}

/// Builds the index file of a shard, within a budget where there is one.
pub(super) fn build_shard<B: Backend>(
    backend: &B,
    request: &BuildRequest<'_>,
    within: Option<&WithinBudget<'_>>,
    progress: &dyn Progress,
) -> Result<BuildReport, BuilderError> {
    match within {
        Some(within) => build_within(backend, request, within, progress),
        None => build(backend, request, progress),
    }
}

/// Makes the index file at `index` one more shard: linked where the filesystem allows, else copied.
///
/// # Errors
/// A file that is damaged or does not fit the set, or another change under way.
pub fn adopt(folder: &Path, index: &Path, progress: &dyn Progress) -> Result<Adopted, BuilderError> {
    let inspection = inspect(index)?;
    progress.stage("verify", inspection.file_bytes);
    verify(index, |read| progress.advance(read))?;
    let (change, set) = Change::of_set_or_new(folder)?;
    if let Some(problem) = set.as_ref().and_then(|set| disagreement(&inspection.meta, set)) {
        return Err(BuilderError::Mismatch(format!(
            "{}: {problem} ({}); all shards of a set agree in that",
            index.display(),
            folder.display()
        )));
    }
    warn_of_repeats(folder, set.as_ref(), &inspection.meta.dataset_fingerprint, index)?;
    let number = set.as_ref().map_or(1, |set| set.next_shard);
    let path = change.folder().join(index_name(number));
    let added = || {
        link_or_copy(index, &path)?;
        let rows = inspection.meta.n;
        let (set, entry) = with_shard(&change, set.clone(), number, |first| RowIds::From { first, rows })?;
        if entry.identity != inspection.identity {
            return Err(BuilderError::damaged(index, "the file was replaced while it was read"));
        }
        change.replace(&set)?;
        Ok(Adopted { path: path.clone(), shards: set.shards.len(), first_id: entry.first_id, rows })
    };
    kept_or_removed(&change, number, added())
}

/// The files of a shard that did not come about go at once: a full drive is to be left as it was.
pub(super) fn kept_or_removed<T>(
    change: &Change,
    number: u32,
    added: Result<T, BuilderError>,
) -> Result<T, BuilderError> {
    if added.is_err() {
        let manifest = std::fs::symlink_metadata(change.folder().join(SET_MANIFEST));
        let no_set = manifest.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        // The set may have been replaced, and only that failed which makes it last: what it names, or may name, stays.
        let named = |set: folder::ReadSet| set.manifest.shards.iter().any(|shard| shard.number == number);
        if no_set || folder::read(change.folder()).is_ok_and(|set| !named(set)) {
            // The error that ended it is what the user should see, not this one; the next change tries again.
            let _ = change.remove_shard(number);
        }
        if no_set {
            change.abandon();
        }
    }
    added
}

/// Says so where a shard was made from the same data: likely by mistake, but it is the user's to know.
fn warn_of_repeats(folder: &Path, set: Option<&Manifest>, fingerprint: &str, new: &Path) -> Result<(), BuilderError> {
    let Some(set) = set else { return Ok(()) };
    for entry in &set.shards {
        if open_file(folder, set, entry)?.meta()?.dataset_fingerprint == fingerprint {
            let (set, shard) = (folder.display(), entry.index_name());
            tracing::warn!("{}: {shard} of {set} is of the same data: the set has its rows twice now", new.display());
        }
    }
    Ok(())
}

/// The rows as the shards of the set store theirs.
fn fitted<'a>(
    request: &AppendRequest<'a>,
    set: &Manifest,
    progress: &dyn Progress,
) -> Result<Narrowed<'a>, BuilderError> {
    let (source, folder) = (request.source, request.set.display());
    let refuse = |problem: String| Err(BuilderError::Mismatch(format!("{}: {problem}", source.path().display())));
    if source.dim() != set.dim {
        let theirs = set.dim;
        return refuse(format!("its rows have {} coordinates, those of {folder} have {theirs}", source.dim()));
    }
    if request.metric != set.metric {
        let theirs = set.metric;
        return refuse(format!(
            "its rows are compared by {}, those of {folder} by {theirs}; add --metric {theirs} to compare them so",
            request.metric
        ));
    }
    if request.params.kind() != set.index {
        return Err(BuilderError::Mismatch(format!(
            "{folder}: its shards are {} indexes, {} was asked for; all shards of a set are of one kind",
            set.index,
            request.params.kind()
        )));
    }
    if source.dtype() != set.dtype {
        if source.dtype() != DType::F32 {
            let (own, theirs) = (source.dtype(), set.dtype);
            return refuse(format!("its rows are {own}, those of {folder} are {theirs}; give them as {theirs} or f32"));
        }
        progress.stage("narrow", source.len());
        if let Some((row, value)) = first_lost(source, set.dtype, |rows| progress.advance(rows))? {
            let theirs = set.dtype;
            return refuse(format!(
                "row {row} holds {value}, which {theirs}, the type of the rows of {folder}, does not hold exactly; scale it \
                 as those were, or begin another set with --keep-dtype"
            ));
        }
    }
    Ok(Narrowed::new(source, set.dtype))
}

/// The set with the shard whose index file is written under `number`; writes its rows file. `ids` says which ids
/// its rows have, given the next that is free.
pub(super) fn with_shard(
    change: &Change,
    set: Option<Manifest>,
    number: u32,
    ids: impl FnOnce(u64) -> RowIds,
) -> Result<(Manifest, ShardEntry), BuilderError> {
    let path = change.folder().join(index_name(number));
    let inspection = inspect(&path)?;
    let meta = &inspection.meta;
    let mut set = set.unwrap_or(Manifest {
        version: VERSION,
        index: meta.kind(),
        metric: meta.metric,
        dtype: meta.dtype,
        dim: meta.dim,
        next_id: 0,
        next_shard: number,
        shards: Vec::new(),
    });
    let rows = RowsFile { ids: ids(set.next_id), centroids: centroids(&path, meta)? };
    let bytes = rows.encode();
    change.write(&rows_name(number), &bytes)?;
    let entry = ShardEntry {
        number,
        identity: inspection.identity,
        bytes: inspection.file_bytes,
        rows: rows.ids.len(),
        first_id: rows.ids.first(),
        last_id: rows.ids.last(),
        rows_file: format!("{:016x}", checksum(&bytes[..bytes.len() - 8])),
    };
    set.next_id = set.next_id.max(entry.last_id + 1);
    set.next_shard = number + 1;
    set.shards.push(entry.clone());
    Ok((set, entry))
}

/// Centroids of a sample of the rows of the index at `path`: by what computed it they do not differ.
fn centroids(path: &Path, meta: &Meta) -> Result<ndarray::Array2<f32>, BuilderError> {
    let (vectors, _, positions) = Vectors::open(path)?;
    let chosen: Vec<u32> = sample_rows(positions.len(), SAMPLE, SEED).into_iter().map(|row| positions[row]).collect();
    let mut sample = Rows::zeros(meta.dtype, chosen.len(), meta.dim);
    vectors.read_into(&chosen, sample.as_bytes_mut())?;
    let params = BalancedParams { nlist: CENTROIDS, iterations: ITERATIONS, seed: SEED };
    Ok(balanced(&CpuBackend::new(), &Arc::new(sample), meta.metric, params, &NoProgress)?)
}

/// Gives a file a second name, or where the filesystem cannot a copy under that name.
fn link_or_copy(from: &Path, to: &Path) -> Result<(), BuilderError> {
    // A link to a symbolic link would break when that moves.
    let real = from.canonicalize().map_err(BuilderError::io(from, "find"))?;
    if std::fs::hard_link(&real, to).is_ok() {
        // Whoever brought the file may not have.
        return std::fs::File::open(to).and_then(|file| file.sync_all()).map_err(BuilderError::io(to, "flush"));
    }
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let copied = std::fs::copy(&real, &partial).and_then(|_| std::fs::File::open(&partial)?.sync_all());
    copied.map_err(BuilderError::io(&partial, "write"))?;
    std::fs::rename(&partial, to).map_err(BuilderError::io(to, "rename the finished file to"))
}
