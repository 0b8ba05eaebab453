//! What a set says of itself, and whether every byte of its shards is as it was written.

use std::path::Path;

use kiln_kernels::{DType, Metric};
use serde::Serialize;

use super::folder;
use super::rows_file::RowsFile;
use super::search::open_file;
use crate::error::BuilderError;
use crate::file::inspect::{Inspection, inspect_file, verify};
use crate::search_types::IndexKind;

/// Everything that `set.json` and the heads of the shards tell.
#[derive(Debug, Clone, Serialize)]
pub struct SetInspection {
    /// Format version of the set.
    pub version: u32,
    /// Tells this state of the set from others: xxh3-128 of `set.json`, in hex.
    pub identity: String,
    /// Kind of every shard.
    pub index: IndexKind,
    /// Metric of every shard.
    pub metric: Metric,
    /// Element type of every shard.
    pub dtype: DType,
    /// Coordinates a row.
    pub dim: usize,
    /// Rows.
    pub rows: u64,
    /// The id that the next row gets; as many rows as there ever were.
    pub next_id: u64,
    /// Bytes of all index files.
    pub file_bytes: u64,
    /// In the order of their ids.
    pub shards: Vec<ShardSummary>,
}

/// One shard.
#[derive(Debug, Clone, Serialize)]
pub struct ShardSummary {
    /// Name of its index file.
    pub file: String,
    /// Rows.
    pub rows: u64,
    /// The lowest id.
    pub first_id: u64,
    /// The highest id.
    pub last_id: u64,
    /// Centroids by which searches choose it.
    pub centroids: usize,
    /// What its index file says.
    pub inspection: Inspection,
}

/// Reads the set in `folder` and the head of each shard, and holds them against each other.
///
/// # Errors
/// A set or a shard that cannot be read, or is not what it should be.
pub fn inspect_set(folder: &Path) -> Result<SetInspection, BuilderError> {
    let set = folder::read(folder)?;
    let manifest = &set.manifest;
    let mut shards = Vec::new();
    for entry in &manifest.shards {
        let centroids = RowsFile::read(folder, entry, manifest.dim)?.centroids.nrows();
        let inspection = inspect_file(&open_file(folder, manifest, entry)?)?;
        let (file, rows) = (entry.index_name(), entry.rows);
        let (first_id, last_id) = (entry.first_id, entry.last_id);
        shards.push(ShardSummary { file, rows, first_id, last_id, centroids, inspection });
    }
    Ok(SetInspection {
        version: manifest.version,
        identity: set.identity,
        index: manifest.index,
        metric: manifest.metric,
        dtype: manifest.dtype,
        dim: manifest.dim,
        rows: manifest.rows(),
        next_id: manifest.next_id,
        file_bytes: manifest.shards.iter().map(|entry| entry.bytes).sum(),
        shards,
    })
}

/// Holds every byte of every shard of the set in `folder` against its checksum, calling `advance` with the bytes read.
///
/// # Errors
/// As [`inspect_set`]; the first place that does not match is named.
pub fn verify_set(folder: &Path, mut advance: impl FnMut(u64)) -> Result<(), BuilderError> {
    let inspection = inspect_set(folder)?;
    inspection.shards.iter().try_for_each(|shard| verify(&folder.join(&shard.file), &mut advance))
}
