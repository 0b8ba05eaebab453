//! The index that is served, and how another takes its place.
//!
//! In: a path, of an index file or a shard set, and how it is opened. Out: a [`Served`] that every request holds from its beginning to its end. A swap opens
//! and tries the file at the same path while the old index serves; only then do new requests get the new one, and the
//! old one is closed with the last request that holds it. During a swap both are in memory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock, TryLockError};

use kiln_kernels::RowsView;
use ndarray::Array2;
use serde::Serialize;

use super::engine::Engine;
use super::error::{ApiError, Kind, ServeError};
use super::metrics::Metrics;
use crate::file::inspect::{inspect, verify};
use crate::search_types::{Effort, IndexKind, OpenParams, Residency, SearchParams};
use crate::searcher::{Index, Searcher};
use crate::shards::{is_set, verify_set};

/// A setting that was found to reach a recall.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TunedSetting {
    /// Neighbours wanted.
    pub k: usize,
    /// The recall that it reaches.
    pub recall: f64,
    /// The setting.
    #[serde(flatten)]
    pub effort: Effort,
}

/// Finds the settings that are kept beside an index; asked whenever one is opened.
pub type FindTuned = Box<dyn Fn(&Path, Residency) -> Vec<TunedSetting> + Send + Sync>;

/// An open index, and what is told of it.
pub(crate) struct Served {
    pub searcher: Arc<Searcher>,
    pub tuned: Vec<TunedSetting>,
    /// 1 for the index opened first.
    pub generation: u64,
    version: u32,
    /// Tells one build of an index from another: hash of its header, which holds the checksum of every section, or of the
    /// file that names a set's shards, which holds that of each.
    identity: String,
}

/// What `GET /v1/index` tells of the index.
#[derive(Debug, Serialize)]
pub(crate) struct About<'a> {
    file: String,
    kind: IndexKind,
    rows: u64,
    dim: usize,
    metric: &'static str,
    dtype: &'static str,
    residency: Residency,
    reads: Option<crate::search_types::DriveReads>,
    io: Option<crate::search_types::IoEngine>,
    memory_limit_bytes: Option<u64>,
    memory_bytes: u64,
    format_version: u32,
    identity: &'a str,
    dataset: &'a str,
    fingerprint: &'a str,
    params: std::collections::BTreeMap<String, serde_json::Value>,
    nlist: Option<usize>,
    shards: Option<usize>,
    probe_shards: Option<usize>,
    tuned: &'a [TunedSetting],
    generation: u64,
}

impl Served {
    pub(crate) fn about(&self) -> About<'_> {
        let (searcher, meta, opened) = (&self.searcher, self.searcher.meta(), self.searcher.opened());
        let on_drive = opened.residency == Residency::Ssd;
        About {
            // The folder is nobody's business.
            file: searcher.path().file_name().unwrap_or_default().to_string_lossy().into_owned(),
            kind: searcher.kind(),
            rows: searcher.len(),
            dim: searcher.dim(),
            metric: searcher.metric().name(),
            dtype: searcher.dtype().name(),
            residency: opened.residency,
            reads: on_drive.then_some(opened.reads),
            io: on_drive.then_some(opened.io),
            memory_limit_bytes: opened.memory,
            memory_bytes: searcher.serving_bytes(),
            format_version: self.version,
            identity: &self.identity,
            dataset: &meta.dataset,
            fingerprint: &meta.dataset_fingerprint,
            params: meta.params.by_name(),
            nlist: searcher.nlist(),
            shards: searcher.set().map(|set| set.shard_count()),
            probe_shards: searcher.set().and_then(|set| set.probed()),
            tuned: &self.tuned,
            generation: self.generation,
        }
    }

    /// The engine that answers requests to this index.
    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.searcher) as Arc<dyn Engine>
    }
}

/// Opens an index or a shard set for serving, and asks it something.
fn open(path: &Path, how: &OpenWith, generation: u64) -> Result<Served, ServeError> {
    let (searcher, version, identity) = if is_set(path) { open_set(path, how)? } else { open_file(path, how)? };
    match searcher.set() {
        None => try_out(&searcher)?,
        // A search of the set may leave some shards out.
        Some(set) => set.shards().iter().try_for_each(|shard| try_out(&shard.searcher))?,
    }
    let mut tuned = (how.find_tuned)(path, how.params.residency);
    if !tuned.is_empty() && searcher.set().is_some_and(|set| set.probed().is_some()) {
        tracing::warn!(
            "requests cannot ask for a recall: it was tuned with all shards searched, not with --probe-shards"
        );
        tuned.clear();
    }
    Ok(Served { searcher: Arc::new(searcher), tuned, generation, version, identity })
}

fn open_file(path: &Path, how: &OpenWith) -> Result<(Searcher, u32, String), ServeError> {
    let before = inspect(path)?;
    if how.verify {
        verify(path, |_| ())?;
    }
    let searcher = Index::open_with(path, &how.params)?;
    let after = inspect(path)?;
    // Opened and described must be one file, even where it is being replaced.
    if (before.identity != after.identity) || after.meta != *searcher.meta() {
        return Err(ServeError::Replaced { path: path.to_path_buf() });
    }
    Ok((searcher, after.version, after.identity))
}

fn open_set(path: &Path, how: &OpenWith) -> Result<(Searcher, u32, String), ServeError> {
    if how.verify {
        verify_set(path, |_| ())?;
    }
    let searcher = Index::open_with(path, &how.params)?;
    // Files of a set are never replaced by others, and each was held against the set as it was read.
    match searcher.set().map(|set| (set.format_version(), set.identity().to_string())) {
        Some((version, identity)) => Ok((searcher, version, identity)),
        None => Err(ServeError::Replaced { path: path.to_path_buf() }),
    }
}

/// Asks an index something.
fn try_out(searcher: &Searcher) -> Result<(), ServeError> {
    let query = Array2::from_elem((1, searcher.dim()), 1f32);
    let mut params = SearchParams { k: 1, effort: Effort::default_for(searcher.kind(), 1) };
    if let Effort::Lists { nprobe, .. } = &mut params.effort {
        *nprobe = (*nprobe).min(searcher.nlist().unwrap_or(usize::MAX));
    }
    searcher.search(&RowsView::F32(query.view()), &params)?;
    Ok(())
}

/// How index files are opened.
pub(crate) struct OpenWith {
    pub params: OpenParams,
    /// Hold every byte against its checksum first.
    pub verify: bool,
    pub find_tuned: FindTuned,
}

/// The index that new requests get.
pub(crate) struct Current {
    path: PathBuf,
    how: OpenWith,
    served: RwLock<Arc<Served>>,
    swapping: Mutex<()>,
}

impl Current {
    /// Opens the first index.
    pub(crate) fn open(path: PathBuf, how: OpenWith) -> Result<Self, ServeError> {
        let served = RwLock::new(Arc::new(open(&path, &how, 1)?));
        Ok(Self { path, how, served, swapping: Mutex::new(()) })
    }

    /// The index for a request that begins now.
    pub(crate) fn get(&self) -> Arc<Served> {
        Arc::clone(&self.served.read().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Opens what is at the path now and serves it; on any error the old index goes on. Blocks for as long as that takes.
    pub(crate) fn swap(&self, metrics: &Metrics) -> Result<Arc<Served>, ApiError> {
        let _alone = match self.swapping.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(ApiError::new(Kind::SwapBusy, "another swap is under way; try again when it has ended"));
            }
        };
        let old = self.get();
        let opened = open(&self.path, &self.how, old.generation + 1).map_err(|error| error.to_string());
        let fits = opened.and_then(|new| same_interface(&old.searcher, &new.searcher).map(|()| Arc::new(new)));
        metrics.swapped(fits.is_ok());
        let new = fits.map_err(|problem| {
            tracing::error!("swap failed, the old index goes on: {problem}");
            ApiError::new(Kind::SwapFailed, format!("{problem}. The old index goes on serving"))
        })?;
        *self.served.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::clone(&new);
        metrics.generation.set(new.generation as i64);
        tracing::info!(generation = new.generation, identity = new.identity, "swapped");
        Ok(new)
    }
}

/// Whether requests that the old index answers mean the same to the new one.
fn same_interface(old: &Searcher, new: &Searcher) -> Result<(), String> {
    let told = |s: &Searcher| format!("{} of {} coordinates by {}", s.kind(), s.dim(), s.metric().name());
    if (old.kind(), old.dim(), old.metric()) == (new.kind(), new.dim(), new.metric()) {
        return Ok(());
    }
    let (new_told, old_told) = (told(new), told(old));
    Err(format!(
        "{}: it is {new_told}, served is {old_told}; to change that, start the server again",
        new.path().display()
    ))
}
