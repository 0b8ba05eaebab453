//! Shard sets: indexes over disjoint rows that are searched, grown and merged as one.
//!
//! In: rows, or index files. Out: a folder that [`Index::open`](crate::Index::open) takes wherever it takes an index file.
//!
//! ```text
//! X.kset/
//!   set.json            which shards there are, in order, and what they have in common: replaced as a whole
//!   shard-00001.kiln    an index file like any other
//!   shard-00001.rows    the ids of its rows, and a few centroids of them
//!   lock                held by whoever changes the set; the system lets go of it when that process ends
//! ```
//!
//! **Ids.** What a set answers are ids of its own. Rows get them in the order in which they are added, from 0 on, and keep them
//! for good: merging shards changes none, and that of a deleted row is never given out again. Within a shard ids ascend with
//! its own row numbers, and each shard's lie above those of the shards before it, so that ties between equal distances fall
//! the same way before and after a merge.
//!
//! **Changes.** A shard is written under a name that no set of this folder ever named, flushed, and its name made to last; only
//! then is `set.json` replaced. Shards that are no longer named are removed after that. Whatever moment a crash
//! picks, the folder holds a whole set, the old or the new, and perhaps shards that nothing names, which the
//! next change removes. Readers take no lock: they read `set.json` once, and hold every file that it names against the hash
//! that stands there.
//!
//! **Searching.** Every shard answers for itself, with the same effort; answers are merged by (distance, id). With
//! `probe_shards` only those shards are asked of which a centroid is nearest to the query: worth something where shards
//! hold different parts of the space, little where each is a sample of the whole.
//!
//! `folder` is the files and the lock, `manifest` is `set.json`, `rows_file` the file beside each shard, `vectors` reads
//! rows back out of shards; `search` answers; `append` and `compact` change.

mod append;
mod compact;
mod folder;
mod inspect;
mod manifest;
mod rows_file;
pub(crate) mod search;
mod vectors;

use std::path::Path;

pub use append::{Adopted, AppendRequest, Appended, SetDefaults, adopt, append, set_defaults};
pub use compact::{Compacted, Deletions, compact};
pub use inspect::{SetInspection, ShardSummary, inspect_set, verify_set};
pub(crate) use rows_file::RowIds;
pub use search::SetIndex;

/// The file of a set that names its shards.
pub const SET_MANIFEST: &str = "set.json";

/// Shards of the set at `path`; none where there is no set that can be read.
#[cfg(feature = "serve")]
pub(crate) fn shard_count(path: &Path) -> usize {
    folder::read(path).map_or(0, |set| set.manifest.shards.len())
}

/// Whether `path` is to be taken for a shard set and not for an index file.
pub fn is_set(path: &Path) -> bool {
    path.is_dir()
}
