//! Merging the shards of a set into one, without the rows that were deleted.

use std::path::Path;

use kiln_kernels::{Backend, Progress};

use super::append::{build_shard, kept_or_removed, params_of_last, with_shard};
use super::folder::Change;
use super::manifest::{Manifest, ShardEntry, index_name};
use super::rows_file::{RowIds, RowsFile};
use super::search::{joined_fingerprint, joined_names, open_file};
use super::vectors::{Gathered, Vectors};
use crate::build::{BuildReport, BuildRequest, WithinBudget};
use crate::error::BuilderError;
use crate::meta::Meta;

/// Rows to delete.
pub struct Deletions<'a> {
    /// Where the ids come from, for messages.
    pub path: &'a Path,
    /// Ids of the set, in any order; repeats count once.
    pub ids: Vec<u64>,
}

/// Bytes that are held of every row: its id and its place.
const HELD: u64 = 12;

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Compacted {
    /// Shards that there were; there is one now.
    pub shards: usize,
    /// Rows that are left.
    pub rows: u64,
    /// Rows that were deleted.
    pub deleted: u64,
    /// Ids of rows that had been deleted before.
    pub gone_before: u64,
    /// What the build did; `None` where one shard had nothing to lose.
    pub report: Option<BuildReport>,
}

/// Builds one index of all rows of the set in `folder` but those of `deletions`, with the parameters of its last shard, and
/// puts it in the place of the shards. Its vectors, graph and lists are those that building the same rows, in the
/// order of their ids, would give. Rows keep their ids.
///
/// Within a budget it holds 12 bytes a row and no vectors beside what the build does, and the same call goes on from what an
/// earlier one finished.
///
/// # Errors
/// Ids that no row ever had, deletions that leave nothing, shards that cannot be read, another change under way, or
/// what [`build`](crate::build) and [`build_within`](crate::build_within) refuse. The set is then as it was.
pub fn compact<B: Backend>(
    backend: &B,
    folder: &Path,
    deletions: Option<&Deletions<'_>>,
    within: Option<&WithinBudget<'_>>,
    progress: &dyn Progress,
) -> Result<Compacted, BuilderError> {
    let (change, set) = Change::of_set(folder)?;
    let old = set.shards.iter().map(|entry| RowsFile::read(folder, entry, set.dim).map(|rows| rows.ids));
    let old: Vec<RowIds> = old.collect::<Result<_, _>>()?;
    let (gone, gone_before) = match deletions {
        Some(deletions) => checked(deletions, &set, &old)?,
        None => (Vec::new(), 0),
    };
    let rows = set.rows() - gone.len() as u64;
    let mut done = Compacted { shards: old.len(), rows, deleted: gone.len() as u64, gone_before, report: None };
    if rows == 0 {
        return Err(BuilderError::Mismatch(format!(
            "{}: nothing would be left of its {} rows; remove the folder instead",
            folder.display(),
            set.rows()
        )));
    }
    if old.len() == 1 && gone.is_empty() {
        return Ok(done);
    }
    let survivors = Survivors::of(folder, &set, old, &gone)?;
    let number = set.next_shard;
    let path = change.folder().join(index_name(number));
    let within = within.map(|within| survivors.beside(within)).transpose()?;
    let merged = || {
        let request = BuildRequest {
            source: &survivors.rows,
            dataset_name: survivors.dataset,
            dataset_fingerprint: survivors.fingerprint,
            metric: set.metric,
            params: params_of_last(folder, &set, rows)?,
            keep_dtype: true,
            out: &path,
        };
        let report = build_shard(backend, &request, within.as_ref(), progress)?;
        let empty = Manifest { shards: Vec::new(), ..set.clone() };
        let (merged, _) = with_shard(&change, Some(empty), number, |_| RowIds::of(survivors.ids))?;
        change.replace(&merged)?;
        Ok(report)
    };
    done.report = Some(kept_or_removed(&change, number, merged())?);
    // The new set lasts; nothing names these any more. Whoever has them open reads on.
    for ShardEntry { number, .. } in &set.shards {
        if let Err(error) = change.remove_shard(*number) {
            tracing::warn!("{error}; the next append or compact removes it");
        }
    }
    Ok(done)
}

/// The ids to delete, ascending, each once, and how many others had been deleted before.
fn checked(deletions: &Deletions<'_>, set: &Manifest, ids: &[RowIds]) -> Result<(Vec<u64>, u64), BuilderError> {
    let mut asked = deletions.ids.clone();
    asked.sort_unstable();
    asked.dedup();
    let never = asked.partition_point(|&id| id < set.next_id);
    if let Some(first) = asked.get(never) {
        return Err(BuilderError::Mismatch(format!(
            "{}: no row of the set ever had the id {first}{}: ids go from 0 to {}",
            deletions.path.display(),
            match asked.len() - never - 1 {
                0 => String::new(),
                others => format!(", nor {others} others that it names"),
            },
            set.next_id - 1
        )));
    }
    let named = asked.len();
    asked.retain(|&id| ids.iter().any(|shard| shard.row_of(id).is_some()));
    let gone_before = (named - asked.len()) as u64;
    Ok((asked, gone_before))
}

/// The rows that stay, in the order of their ids.
struct Survivors {
    rows: Gathered,
    ids: Vec<u64>,
    dataset: String,
    fingerprint: String,
}

impl Survivors {
    /// The budget less what these take.
    fn beside<'a>(&self, within: &WithinBudget<'a>) -> Result<WithinBudget<'a>, BuilderError> {
        let held = self.ids.len() as u64 * HELD;
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        let memory = within.memory.checked_sub(held).ok_or_else(|| {
            BuilderError::Budget(format!(
                "--memory-budget {} MiB: merging {} rows holds {} MiB of ids and places beside the build; give more",
                mebibytes(within.memory),
                self.ids.len(),
                mebibytes(held)
            ))
        })?;
        Ok(WithinBudget { memory, ..*within })
    }

    /// All rows of the set but those whose ids are in `gone`, which ascends.
    fn of(folder: &Path, set: &Manifest, old: Vec<RowIds>, gone: &[u64]) -> Result<Self, BuilderError> {
        let mut rows = Gathered::new(folder, set.dtype, set.dim);
        let (mut ids, mut parts): (Vec<u64>, Vec<(Meta, RowIds)>) = (Vec::new(), Vec::new());
        for (entry, shard) in set.shards.iter().zip(old) {
            let file = open_file(folder, set, entry)?;
            let (vectors, meta, mut positions) = Vectors::open(file.path())?;
            let from = ids.len();
            let mut row = 0;
            positions.retain(|_| {
                let id = shard.get(row);
                row += 1;
                let stays = gone.binary_search(&id).is_err();
                if stays {
                    ids.push(id);
                }
                stays
            });
            if positions.is_empty() {
                continue;
            }
            rows.push(vectors, positions);
            parts.push((meta, RowIds::of(ids[from..].to_vec())));
        }
        let dataset = joined_names(parts.iter().map(|(meta, _)| meta));
        let fingerprint = joined_fingerprint(parts.iter().map(|(meta, ids)| (meta, ids)));
        Ok(Self { rows, ids, dataset, fingerprint })
    }
}
