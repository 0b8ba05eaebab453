//! Searching a shard set.
//!
//! In: the folder, and how it is opened. Out: a [`Searcher`] whose answers are those of its shards, merged.

use std::collections::BTreeSet;
use std::path::Path;

use kiln_kernels::distance::{Isa, QueryGeometry, inverse_norm};
use kiln_kernels::{Metric, RowsView};
use xxhash_rust::xxh3::Xxh3;

use super::folder::{self, ReadSet};
use super::manifest::{Manifest, ShardEntry};
use super::rows_file::{RowIds, RowsFile, another, missing};
use crate::error::BuilderError;
use crate::file::inspect::identity;
use crate::file::reader::IndexFile;
use crate::meta::Meta;
use crate::search_types::{Hits, OpenParams, QueryStats, Residency, SearchParams, Serving};
use crate::searcher::{Index, Searcher};

/// A set may be replaced while it is being opened, and its old shards removed: how often to begin again.
const ATTEMPTS: usize = 5;

/// The shards of an open set.
pub struct SetIndex {
    shards: Vec<Shard>,
    probe: Option<usize>,
    geometry: QueryGeometry<f32, f32>,
    dim: usize,
    version: u32,
    identity: String,
}

/// One of them.
pub(crate) struct Shard {
    pub(crate) searcher: Searcher,
    pub(crate) ids: RowIds,
    /// Coordinates and inverse norm of each.
    centroids: Vec<(Vec<f32>, f32)>,
}

/// Opens the set in `folder`.
///
/// # Errors
/// A set or a shard that cannot be read, is damaged, or is not what it should be; the message names the file.
pub(crate) fn open(folder: &Path, params: &OpenParams) -> Result<Searcher, BuilderError> {
    let mut set = folder::read(folder)?;
    for _ in 1..ATTEMPTS {
        match open_as(folder, &set, params) {
            Err(error) => {
                let now = folder::read(folder)?;
                if now.identity == set.identity {
                    return Err(error);
                }
                set = now;
            }
            opened => return opened,
        }
    }
    open_as(folder, &set, params)
}

fn open_as(folder: &Path, set: &ReadSet, params: &OpenParams) -> Result<Searcher, BuilderError> {
    let manifest = &set.manifest;
    // Shards get their part of the memory once it is known what each needs.
    let unfitted = OpenParams { memory: None, ..*params };
    let open_shard = |entry: &ShardEntry| -> Result<Shard, BuilderError> {
        let rows = RowsFile::read(folder, entry, manifest.dim)?;
        let searcher = Index::open_file(open_file(folder, manifest, entry)?, &unfitted)?;
        let with_norm = |centroid: Vec<f32>| {
            let inverse = inverse_norm(&centroid);
            (centroid, inverse)
        };
        let centroids = rows.centroids.outer_iter().map(|centroid| with_norm(centroid.to_vec())).collect();
        Ok(Shard { searcher, ids: rows.ids, centroids })
    };
    let mut shards = manifest.shards.iter().map(open_shard).collect::<Result<Vec<_>, _>>()?;
    if let (Some(memory), Residency::Ssd) = (params.memory, params.residency) {
        fit(folder, &mut shards, memory)?;
    }
    let index = SetIndex {
        probe: params.probe_shards.filter(|&probe| probe < shards.len()),
        shards,
        geometry: QueryGeometry::same(manifest.metric, Isa::best()),
        dim: manifest.dim,
        version: manifest.version,
        identity: set.identity.clone(),
    };
    let meta = meta_of(&index);
    Ok(Searcher::of_set(folder, meta, params, index))
}

/// Opens the index file of a shard, and holds it against what the set says of it.
pub(super) fn open_file(folder: &Path, manifest: &Manifest, entry: &ShardEntry) -> Result<IndexFile, BuilderError> {
    let path = folder.join(entry.index_name());
    let file = IndexFile::open(&path).map_err(|error| match error {
        BuilderError::Io { source, .. } => missing(&path, folder, source),
        error => error,
    })?;
    if identity(&file) != entry.identity {
        return Err(another(&path, folder));
    }
    let meta = file.meta()?;
    let differs = disagreement(&meta, manifest)
        .or_else(|| (meta.n != entry.rows).then(|| format!("it has {} rows, the set says {}", meta.n, entry.rows)));
    match differs {
        Some(problem) => Err(BuilderError::damaged(&path, problem)),
        None => Ok(file),
    }
}

/// What an index has otherwise than the shards of a set, which agree.
pub(super) fn disagreement(meta: &Meta, set: &Manifest) -> Option<String> {
    let differs = |what: &str, own: String, theirs: String| {
        (own != theirs).then(|| format!("its {what} is {own}, that of the set {theirs}"))
    };
    differs("metric", meta.metric.to_string(), set.metric.to_string())
        .or_else(|| differs("dimension", meta.dim.to_string(), set.dim.to_string()))
        .or_else(|| differs("element type", meta.dtype.to_string(), set.dtype.to_string()))
        .or_else(|| differs("kind of index", meta.kind().to_string(), set.index.to_string()))
}

/// Divides `memory` among shards: what each needs at least, and the rest by their size.
fn fit(folder: &Path, shards: &mut [Shard], memory: u64) -> Result<(), BuilderError> {
    let of_set: u64 = shards.iter().map(Shard::resident_bytes).sum();
    let needed: Vec<u64> = shards.iter().map(|shard| shard.searcher.least_memory()).collect();
    let least = of_set + needed.iter().sum::<u64>();
    let Some(rest) = memory.checked_sub(least) else {
        let mib = |bytes: u64| format!("{:.1} MiB", (bytes as f64 / 1_048_576.0 * 10.0).ceil() / 10.0);
        let (shards, given, least) = (shards.len(), mib(memory), mib(least));
        let what =
            format!("{}: --memory {given}: serving its {shards} shards from the drive takes {least}", folder.display());
        let remedy = "allow that much, or make fewer shards of them with `kiln compact`";
        return Err(BuilderError::Unavailable { what, remedy });
    };
    let bytes: u64 = shards.iter().map(|shard| shard.searcher.file_bytes()).sum();
    for (shard, needed) in shards.iter_mut().zip(needed) {
        let share = u128::from(rest) * u128::from(shard.searcher.file_bytes()) / u128::from(bytes.max(1));
        shard.searcher.fit(needed + share as u64)?;
    }
    Ok(())
}

/// What the shards are made of as a whole: all their rows, and the parameters of the last.
fn meta_of(index: &SetIndex) -> Meta {
    let metas = || index.shards.iter().map(|shard| shard.searcher.meta());
    let last = index.shards[index.shards.len() - 1].searcher.meta();
    let parts = index.shards.iter().map(|shard| (shard.searcher.meta(), &shard.ids));
    Meta {
        n: metas().map(|meta| meta.n).sum(),
        dataset: joined_names(metas()),
        dataset_fingerprint: joined_fingerprint(parts),
        entry: None,
        ..last.clone()
    }
}

/// The data sets of several indexes by name, each once.
pub(super) fn joined_names<'a>(metas: impl Iterator<Item = &'a Meta>) -> String {
    let names: BTreeSet<&str> = metas.flat_map(|meta| meta.dataset.split(" + ")).collect();
    names.into_iter().collect::<Vec<_>>().join(" + ")
}

/// Tells the rows of several indexes from others: that of a whole data set alone is its own.
pub(super) fn joined_fingerprint<'a>(parts: impl Iterator<Item = (&'a Meta, &'a RowIds)>) -> String {
    let parts: Vec<_> = parts.collect();
    if let [(meta, RowIds::From { first: 0, rows })] = parts[..]
        && *rows == meta.n
    {
        return meta.dataset_fingerprint.clone();
    }
    let mut digest = Xxh3::new();
    for (meta, ids) in parts {
        digest.update(meta.dataset_fingerprint.as_bytes());
        digest.update(&ids.len().to_le_bytes());
        match ids {
            RowIds::From { first, .. } => digest.update(&first.to_le_bytes()),
            RowIds::Listed(ids) => ids.iter().for_each(|id| digest.update(&id.to_le_bytes())),
        }
    }
    format!("{:032x}", digest.digest128())
}

impl Shard {
    /// Bytes that the set holds for it beside its index.
    fn resident_bytes(&self) -> u64 {
        self.ids.bytes() + self.centroid_bytes()
    }

    fn centroid_bytes(&self) -> u64 {
        self.centroids.iter().map(|(centroid, _)| 4 * centroid.len() as u64 + 4).sum()
    }
}

impl SetIndex {
    /// Shards that there are.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Shards that a query searches, where that is not all of them.
    pub fn probed(&self) -> Option<usize> {
        self.probe
    }

    /// Version of the set's format.
    pub fn format_version(&self) -> u32 {
        self.version
    }

    /// Tells this state of the set from others.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether a row has this id; those of deleted rows are nobody's.
    pub fn has_row(&self, id: u64) -> bool {
        self.shards.iter().any(|shard| shard.ids.row_of(id).is_some())
    }

    pub(crate) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// What all shards hold in memory.
    pub(crate) fn serving(&self) -> Serving {
        let mut all = Serving::default();
        for shard in &self.shards {
            all += shard.searcher.serving();
            all.ids += shard.ids.bytes();
            all.navigation += shard.centroid_bytes();
        }
        all
    }

    /// The nearest rows to `query` `(1, dim)`.
    pub(crate) fn search(&self, query: &RowsView<'_>, params: &SearchParams) -> Result<Hits, BuilderError> {
        let mut merged = Merged::default();
        for shard in self.chosen(query, &mut merged.stats) {
            let shard = &self.shards[shard];
            merged.add(&shard.ids, shard.searcher.search(query, params)?);
        }
        Ok(merged.nearest(params.k))
    }

    /// Answers `queries` `(queries, dim)`, each as if it were alone; a shard is asked for all that search it together.
    pub(crate) fn search_batch(
        &self,
        queries: &RowsView<'_>,
        params: &SearchParams,
    ) -> Result<Vec<Hits>, BuilderError> {
        let mut merged: Vec<Merged> = (0..queries.len()).map(|_| Merged::default()).collect();
        let mut of_shard: Vec<Vec<usize>> = vec![Vec::new(); self.shards.len()];
        for (query, merged) in merged.iter_mut().enumerate() {
            let chosen = self.chosen(&queries.slice(query..query + 1), &mut merged.stats);
            chosen.into_iter().for_each(|shard| of_shard[shard].push(query));
        }
        for (shard, asking) in self.shards.iter().zip(of_shard).filter(|(_, asking)| !asking.is_empty()) {
            let hits = match asking.len() == queries.len() {
                true => shard.searcher.search_batch(queries, params)?,
                false => shard.searcher.search_batch(&queries.select(&asking).view(), params)?,
            };
            asking.into_iter().zip(hits).for_each(|(query, hits)| merged[query].add(&shard.ids, hits));
        }
        Ok(merged.into_iter().map(|merged| merged.nearest(params.k)).collect())
    }

    /// The shards that `query` `(1, dim)` searches, ascending: those of the nearest centroids, of equally near ones the
    /// first.
    fn chosen(&self, query: &RowsView<'_>, stats: &mut QueryStats) -> Vec<usize> {
        // What is wrong with a query, the first shard says.
        let fits = query.len() == 1 && query.dim() == self.dim && query.first_nonfinite().is_none();
        let Some(probe) = self.probe.filter(|_| fits) else { return (0..self.shards.len()).collect() };
        let query = query.to_f32().into_raw_vec_and_offset().0;
        let norm = if self.geometry.metric == Metric::Cosine { inverse_norm(&query) } else { 1.0 };
        let mut by_distance: Vec<(f32, usize)> = Vec::with_capacity(self.shards.len());
        for (number, shard) in self.shards.iter().enumerate() {
            let distances =
                shard.centroids.iter().map(|(row, inverse)| self.geometry.distance(&query, norm, row, *inverse));
            by_distance.push((distances.fold(f32::INFINITY, f32::min), number));
            stats.distances += shard.centroids.len() as u64;
        }
        by_distance.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut chosen: Vec<usize> = by_distance.into_iter().take(probe).map(|(_, number)| number).collect();
        chosen.sort_unstable();
        chosen
    }
}

/// The answers of several shards to one query.
#[derive(Default)]
struct Merged {
    found: Vec<(f32, u64)>,
    stats: QueryStats,
}

impl Merged {
    fn add(&mut self, ids: &RowIds, hits: Hits) {
        self.found.extend(hits.distances.iter().copied().zip(hits.ids.iter().map(|&row| ids.get(row))));
        self.stats += hits.stats;
    }

    fn nearest(mut self, k: usize) -> Hits {
        self.found.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        self.found.truncate(k);
        let (distances, ids) = self.found.into_iter().unzip();
        Hits { ids, distances, stats: self.stats }
    }
}
