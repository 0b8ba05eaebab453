//! `set.json`: the shards of a set and what they have in common, under a checksum.

use std::path::Path;

use kiln_kernels::{DType, Metric};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::error::BuilderError;
use crate::search_types::IndexKind;

/// The version of sets that this code writes and reads.
pub(crate) const VERSION: u32 = 1;

/// What is said of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardEntry {
    /// Its number, which decides the names of its files.
    pub number: u32,
    /// Of the index file, as `kiln inspect` tells it.
    pub identity: String,
    /// Bytes of the index file.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
    /// The lowest id of its rows.
    pub first_id: u64,
    /// The highest id; where it is `first_id + rows - 1` the ids in between are all there.
    pub last_id: u64,
    /// xxh3-64 of the rows file, in hex.
    pub rows_file: String,
}

impl ShardEntry {
    /// Name of the index file.
    pub(crate) fn index_name(&self) -> String {
        index_name(self.number)
    }

    /// Name of the rows file.
    pub(crate) fn rows_name(&self) -> String {
        rows_name(self.number)
    }
}

/// Name of a shard's index file.
pub(crate) fn index_name(number: u32) -> String {
    format!("shard-{number:05}.kiln")
}

/// Name of the file beside it.
pub(crate) fn rows_name(number: u32) -> String {
    format!("shard-{number:05}.rows")
}

/// A shard set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Version of the set's format.
    pub version: u32,
    /// Kind of every shard.
    pub index: IndexKind,
    /// Metric of every shard.
    pub metric: Metric,
    /// Element type of every shard.
    pub dtype: DType,
    /// Coordinates a row.
    pub dim: usize,
    /// The id that the next row gets.
    pub next_id: u64,
    /// The number that the next shard gets.
    pub next_shard: u32,
    /// In the order of their ids.
    pub shards: Vec<ShardEntry>,
}

/// The file: the checksum comes first, so that the file's first bytes tell one state of a set from another.
#[derive(Serialize, Deserialize)]
struct Sealed {
    checksum: String,
    set: Value,
}

impl Manifest {
    /// Rows of all shards.
    pub(crate) fn rows(&self) -> u64 {
        self.shards.iter().map(|shard| shard.rows).sum()
    }

    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let set = serde_json::to_value(self).expect("a manifest is plain data");
        let sealed = Sealed { checksum: checksum(&set), set };
        let mut bytes = serde_json::to_vec_pretty(&sealed).expect("a manifest is plain data");
        bytes.push(b'\n');
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote, from the file at `path`.
    ///
    /// # Errors
    /// A file that is not whole, was changed by hand, or is of another version.
    pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<Self, BuilderError> {
        let damaged = |problem: String| BuilderError::Damaged {
            path: path.to_path_buf(),
            problem,
            remedy: "restore it from a copy; what the shards hold can be searched one by one",
        };
        let sealed: Sealed =
            serde_json::from_slice(bytes).map_err(|error| damaged(format!("it is no shard set: {error}")))?;
        if checksum(&sealed.set) != sealed.checksum {
            return Err(damaged("it does not match its checksum".into()));
        }
        let version = sealed.set.get("version").and_then(Value::as_u64).unwrap_or_default();
        if version != u64::from(VERSION) {
            let found = u32::try_from(version).unwrap_or(u32::MAX);
            return Err(BuilderError::Version { path: path.to_path_buf(), found, oldest: VERSION, newest: VERSION });
        }
        let manifest: Self =
            serde_json::from_value(sealed.set).map_err(|error| damaged(format!("it is no shard set: {error}")))?;
        manifest.check().map_err(damaged)?;
        Ok(manifest)
    }

    /// What every set fulfils.
    fn check(&self) -> Result<(), String> {
        if self.shards.is_empty() {
            return Err("it names no shard".into());
        }
        let mut next_id = 0;
        for shard in &self.shards {
            let name = shard.index_name();
            let span = shard.last_id.checked_sub(shard.first_id).and_then(|span| span.checked_add(1));
            if shard.rows == 0 || span.is_none_or(|span| span < shard.rows) {
                return Err(format!("{name} cannot have {} rows", shard.rows));
            }
            if shard.first_id < next_id {
                return Err(format!("the ids of {name} are not above those of the shard before it"));
            }
            next_id = shard.last_id.saturating_add(1);
            if shard.number >= self.next_shard || self.shards.iter().filter(|s| s.number == shard.number).count() > 1 {
                return Err(format!("{name} has a number that is not its own"));
            }
        }
        if self.next_id < next_id {
            return Err(format!("the next id is {}, rows have ids up to {}", self.next_id, next_id - 1));
        }
        Ok(())
    }
}

/// Tells one state of a set from another: xxh3-128 of the file.
pub(crate) fn identity(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}

/// Of the compact text, which has one form for one content.
fn checksum(set: &Value) -> String {
    format!("{:016x}", xxh3_64(set.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> Manifest {
        let shard = |number, rows, first_id, last_id| ShardEntry {
            number,
            identity: "ab".repeat(16),
            bytes: 4096,
            rows,
            first_id,
            last_id,
            rows_file: "cd".repeat(8),
        };
        Manifest {
            version: VERSION,
            index: IndexKind::Vamana,
            metric: Metric::L2,
            dtype: DType::U8,
            dim: 8,
            next_id: 30,
            next_shard: 8,
            shards: vec![shard(3, 5, 0, 4), shard(7, 10, 9, 29)],
        }
    }

    fn decode(bytes: &[u8]) -> Result<Manifest, String> {
        Manifest::decode(Path::new("x/set.json"), bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_seen() {
        let bytes = set().encode();
        assert_eq!(decode(&bytes), Ok(set()));
        assert!(bytes.starts_with(b"{\n  \"checksum\""));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            // White space that turns into other white space changes nothing.
            match decode(&damaged) {
                Ok(read) => assert_eq!(read, set(), "byte {at}"),
                Err(message) => assert!(message.starts_with("x/set.json: "), "{message}"),
            }
        }
        for length in [0, 1, bytes.len() / 2] {
            assert!(decode(&bytes[..length]).is_err_and(|message| message.contains("no shard set")));
        }
        let newer = Manifest { version: 9, ..set() };
        assert!(decode(&newer.encode()).is_err_and(|message| message.contains("version 9")));
    }

    #[test]
    fn sets_that_cannot_be_are_refused() {
        let refused = |change: &dyn Fn(&mut Manifest), says: &str| {
            let mut changed = set();
            change(&mut changed);
            let message = decode(&changed.encode()).expect_err(says);
            assert!(message.contains(says), "{message}");
        };
        refused(&|set| set.shards.clear(), "no shard");
        refused(&|set| set.shards[0].rows = 6, "cannot have 6 rows");
        refused(&|set| set.shards[0].rows = 0, "cannot have 0 rows");
        refused(&|set| set.shards[0].first_id = 5, "cannot have 5 rows");
        refused(&|set| set.shards[0].last_id = 9, "not above");
        refused(&|set| set.shards[0].number = 7, "not its own");
        refused(&|set| set.next_shard = 7, "not its own");
        refused(&|set| set.next_id = 29, "next id is 29");
        refused(&|set| set.shards[1].last_id = u64::MAX, "next id is 30");
    }
}
