//! What an exact search has found so far, in a file: so that hours of work survive whatever ends them.
//!
//! In: the state of a search after a block of base rows. Out: a file beside the output, replaced as a whole each time,
//! from which the same search goes on.
//!
//! ```text
//! 0    8   magic  "KILNTRU\x01", the last byte its version
//! 8    16  xxh3-128 of what is searched for: base, queries, metric, k
//! 24   8   k
//! 32   8   first query of the group that is being searched
//! 40   8   query after its last
//! 48   8   base rows that this group has been compared with
//! 56   8   i64 ids       (queries up to the group's last, k), -1 where none was found yet
//! ...  8   f64 distances (the same), infinite there
//! end  8   xxh3-64 of all before
//! ```
//! All numbers are little-endian. Queries before the group are finished.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::atomic::AtomicWriter;
use crate::error::DatasetError;
use crate::source::{RowSource, blocks};

const MAGIC: [u8; 8] = *b"KILNTRU\x01";
const HEADER: usize = 56;
const CHECKSUM: usize = 8;
/// The part of the time that writing may take: one in so many.
const WORK_PER_WRITE: u32 = 20;

/// Where a search that may be ended at any moment keeps what it has found.
#[derive(Debug, Clone)]
pub struct TruthCheckpoint {
    /// The file.
    pub path: PathBuf,
    /// Identifies the base rows: [`Dataset::fingerprint`](crate::Dataset::fingerprint).
    pub base: String,
    /// The file is written no more often than this, nor so often that writing takes a twentieth of the time.
    pub every: Duration,
}

impl TruthCheckpoint {
    /// The checkpoint of a search whose result becomes `out`: beside it, as `OUT.checkpoint`, every ten seconds.
    pub fn beside(out: &Path, base: &str) -> Self {
        let mut path = out.as_os_str().to_os_string();
        path.push(".checkpoint");
        Self { path: path.into(), base: base.to_string(), every: Duration::from_secs(10) }
    }

    /// Removes the file, once the result is safe.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove(&self) -> Result<(), DatasetError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(DatasetError::io(&self.path)(error)),
            _ => Ok(()),
        }
    }
}

/// How far a search has come. Rows of `hits` are `k` long.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    /// First query of the group that is being searched, and the one after its last.
    pub group: std::ops::Range<u64>,
    /// Base rows that the group has been compared with.
    pub base_rows: u64,
    /// Ids `(queries so far, k)`, row after row.
    pub ids: Vec<i64>,
    /// Their distances in f64.
    pub distances: Vec<f64>,
}

/// A checkpoint in use.
#[derive(Debug)]
pub(crate) struct Keeper<'a> {
    place: &'a TruthCheckpoint,
    identity: u128,
    k: usize,
    written: Instant,
    cost: Duration,
}

impl<'a> Keeper<'a> {
    /// For a search of what `identity` names.
    pub(crate) fn new(place: &'a TruthCheckpoint, identity: u128, k: usize) -> Self {
        Self { place, identity, k, written: Instant::now(), cost: Duration::ZERO }
    }

    /// What an earlier process has left.
    ///
    /// # Errors
    /// When the file is damaged, or of another search.
    pub(crate) fn load(&self) -> Result<Option<Found>, DatasetError> {
        let path = &self.place.path;
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DatasetError::io(path)(error)),
        };
        let refuse = |problem: &str| {
            Err(DatasetError::invalid(path, problem, "remove it to begin anew, or choose another output"))
        };
        if bytes.len() < HEADER + CHECKSUM || bytes[..7] != MAGIC[..7] {
            return refuse("it is no checkpoint of an exact search");
        }
        if bytes[7] != MAGIC[7] {
            return refuse(&format!(
                "it is a checkpoint of version {}, this Kiln reads version {}",
                bytes[7], MAGIC[7]
            ));
        }
        let (body, checksum) = bytes.split_at(bytes.len() - CHECKSUM);
        if xxh3_64(body).to_le_bytes() != checksum {
            return refuse("its checksum is wrong: it is damaged");
        }
        if body[8..24] != self.identity.to_le_bytes() {
            return refuse("it is of a search of other rows, other queries, another metric or another k");
        }
        let word = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
        let (k, group, base_rows) = (word(24), word(32)..word(40), word(48));
        let cells = group.end.checked_mul(k).filter(|&cells| (body.len() - HEADER) as u128 == u128::from(cells) * 16);
        let (Some(cells), true) = (cells, k == self.k as u64 && group.start <= group.end) else {
            return refuse("its size belies its header: it is damaged");
        };
        let (ids, distances) = body[HEADER..].split_at(cells as usize * 8);
        Ok(Some(Found {
            group,
            base_rows,
            ids: ids.as_chunks().0.iter().map(|&cell| i64::from_le_bytes(cell)).collect(),
            distances: distances.as_chunks().0.iter().map(|&cell| f64::from_le_bytes(cell)).collect(),
        }))
    }

    /// Whether it is time to write again.
    pub(crate) fn is_due(&self) -> bool {
        self.written.elapsed() >= self.place.every.max(self.cost * WORK_PER_WRITE)
    }

    /// Replaces the file. `ids` and `distances` end with the group's last query.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(
        &mut self,
        group: std::ops::Range<u64>,
        base_rows: u64,
        ids: &[i64],
        distances: &[f64],
    ) -> Result<(), DatasetError> {
        let began = Instant::now();
        let mut digest = Xxh3::new();
        let mut writer = AtomicWriter::create(&self.place.path)?;
        let mut put = |bytes: &[u8]| {
            digest.update(bytes);
            writer.write(bytes)
        };
        put(&MAGIC)?;
        put(&self.identity.to_le_bytes())?;
        for word in [self.k as u64, group.start, group.end, base_rows] {
            put(&word.to_le_bytes())?;
        }
        for row in ids.chunks(self.k) {
            put(&row.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())?;
        }
        for row in distances.chunks(self.k) {
            put(&row.iter().flat_map(|distance| distance.to_le_bytes()).collect::<Vec<u8>>())?;
        }
        writer.write(&digest.digest().to_le_bytes())?;
        writer.commit()?;
        (self.written, self.cost) = (Instant::now(), began.elapsed());
        Ok(())
    }
}

/// Tells a search from others: what the base is, every byte of the queries, the metric and k.
pub(crate) fn identity(
    place: &TruthCheckpoint,
    base: &dyn RowSource,
    queries: &dyn RowSource,
    metric: kiln_kernels::Metric,
    k: usize,
) -> Result<u128, DatasetError> {
    let mut digest = Xxh3::new();
    let what = format!("{} {} {} {} {metric} {k}", place.base, base.len(), base.dim(), base.dtype());
    digest.update(what.as_bytes());
    digest.update(format!(" {} {}", queries.len(), queries.dtype()).as_bytes());
    for block in blocks(queries, 0..queries.len()) {
        digest.update(queries.read(block)?.as_bytes());
    }
    Ok(digest.digest128())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (TruthCheckpoint, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let out = dir.path().join("größe 1.ibin");
        (TruthCheckpoint { every: Duration::ZERO, ..TruthCheckpoint::beside(&out, "f") }, dir)
    }

    #[test]
    fn what_is_kept_is_read_back() {
        let (place, _dir) = place();
        let mut keeper = Keeper::new(&place, 7, 2);
        assert_eq!(keeper.load().expect("nothing there"), None);
        let (ids, distances) = (vec![3, -1, 8, 9, -1, -1], vec![0.5, f64::INFINITY, 1.0 / 3.0, -2.0, 1.0, 1.0]);
        keeper.write(1..3, 77, &ids, &distances).expect("written");
        let found = Found { group: 1..3, base_rows: 77, ids, distances };
        assert_eq!(Keeper::new(&place, 7, 2).load().expect("sound"), Some(found));
        place.remove().expect("removed");
        place.remove().expect("nothing to remove");
        assert_eq!(keeper.load().expect("nothing there"), None);
    }

    #[test]
    fn damage_and_other_searches_are_refused() {
        let (place, _dir) = place();
        let mut keeper = Keeper::new(&place, 7, 2);
        keeper.write(0..2, 5, &[1, 2, 3, 4], &[1.0; 4]).expect("written");
        let sound = std::fs::read(&place.path).expect("there");
        let refused = |bytes: &[u8]| {
            std::fs::write(&place.path, bytes).expect("written");
            let message = keeper.load().expect_err("refused").to_string();
            assert!(message.contains("größe 1.ibin.checkpoint") && message.contains("remove it"), "{message}");
            message
        };
        for kept in [0, 7, HEADER, sound.len() - 1] {
            refused(&sound[..kept]);
        }
        for at in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[at] ^= 0x10;
            refused(&damaged);
        }
        let mut other = sound.clone();
        other[7] = 9;
        assert!(refused(&other).contains("version 9"));
        std::fs::write(&place.path, &sound).expect("written");
        let message = Keeper::new(&place, 8, 2).load().expect_err("of another search").to_string();
        assert!(message.contains("other queries"), "{message}");
    }
}
