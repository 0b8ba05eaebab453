//! The file beside a shard: the ids of its rows, and centroids by which searches choose among shards.
//!
//! In: ids by row of the shard, centroids `(c, dim)`. Out: bytes as `FORMAT.md` draws them, and the same read back and
//! checked.

use std::path::Path;

use ndarray::Array2;
use xxhash_rust::xxh3::xxh3_64;

use super::manifest::ShardEntry;
use crate::error::BuilderError;
use crate::file::{u32_at, u64_at};

const MAGIC: [u8; 8] = *b"KILNROWS";
const VERSION: u32 = 1;
const HEADER: usize = 40;

/// The ids of a shard's rows, ascending with the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RowIds {
    /// One after another.
    From {
        /// The id of row 0.
        first: u64,
        /// Rows.
        rows: u64,
    },
    /// With gaps, where rows were deleted.
    Listed(Vec<u64>),
}

impl RowIds {
    /// These ids, which ascend.
    pub(crate) fn of(ids: Vec<u64>) -> Self {
        match (ids.first(), ids.last()) {
            (Some(&first), Some(&last)) if last - first + 1 == ids.len() as u64 => {
                Self::From { first, rows: ids.len() as u64 }
            }
            _ => Self::Listed(ids),
        }
    }

    /// Rows.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::From { rows, .. } => *rows,
            Self::Listed(ids) => ids.len() as u64,
        }
    }

    /// The id of a row of the shard.
    #[inline]
    pub(crate) fn get(&self, row: u64) -> u64 {
        match self {
            Self::From { first, .. } => first + row,
            Self::Listed(ids) => ids[row as usize],
        }
    }

    /// The row of the shard that has this id.
    pub(crate) fn row_of(&self, id: u64) -> Option<u64> {
        match self {
            Self::From { first, rows } => id.checked_sub(*first).filter(|row| row < rows),
            Self::Listed(ids) => ids.binary_search(&id).ok().map(|row| row as u64),
        }
    }

    pub(crate) fn first(&self) -> u64 {
        self.get(0)
    }

    pub(crate) fn last(&self) -> u64 {
        self.get(self.len() - 1)
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::From { .. } => 0,
            Self::Listed(ids) => 8 * ids.len() as u64,
        }
    }
}

/// What the file says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RowsFile {
    pub ids: RowIds,
    /// `(c, dim)`, at least one; of unit length under cosine, or nearly.
    pub centroids: Array2<f32>,
}

impl RowsFile {
    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let listed: &[u64] = match &self.ids {
            RowIds::From { .. } => &[],
            RowIds::Listed(ids) => ids,
        };
        let mut bytes = Vec::with_capacity(HEADER + 4 * self.centroids.len() + 8 * listed.len() + 8);
        bytes.extend(MAGIC);
        let (count, dim) = self.centroids.dim();
        [VERSION, count as u32, dim as u32, u32::from(!listed.is_empty())]
            .iter()
            .for_each(|field| bytes.extend(field.to_le_bytes()));
        [self.ids.len(), self.ids.first()].iter().for_each(|field| bytes.extend(field.to_le_bytes()));
        self.centroids.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
        listed.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
        bytes.extend(checksum(&bytes).to_le_bytes());
        bytes
    }

    /// Reads the file of `entry` in the set at `folder`, of rows of `dim` coordinates.
    ///
    /// # Errors
    /// A file that is missing, damaged, or not the one that the set names.
    pub(crate) fn read(folder: &Path, entry: &ShardEntry, dim: usize) -> Result<Self, BuilderError> {
        let path = folder.join(entry.rows_name());
        let bytes = std::fs::read(&path).map_err(|error| missing(&path, folder, error))?;
        let damaged = |problem: String| BuilderError::damaged(&path, problem);
        let end = bytes.len().checked_sub(8).filter(|&end| end >= HEADER && bytes[..8] == MAGIC);
        let end = end.ok_or_else(|| damaged("it is no file of a shard's rows".into()))?;
        let version = u32_at(&bytes, 8);
        if version != VERSION {
            return Err(BuilderError::Version { path, found: version, oldest: VERSION, newest: VERSION });
        }
        let sum = u64_at(&bytes, end);
        if checksum(&bytes[..end]) != sum {
            return Err(damaged("it does not match its checksum".into()));
        }
        if format!("{sum:016x}") != entry.rows_file {
            return Err(another(&path, folder));
        }
        let (count, width, listed) = (u32_at(&bytes, 12), u32_at(&bytes, 16) as usize, u32_at(&bytes, 20) == 1);
        let (rows, first) = (u64_at(&bytes, 24), u64_at(&bytes, 32));
        let floats = 4 * u64::from(count) * width as u64;
        let expected = HEADER as u64 + floats + if listed { rows.saturating_mul(8) } else { 0 };
        let in_order = listed || rows > 0 && first.checked_add(rows).is_some();
        if expected != end as u64 || width != dim || count == 0 || rows != entry.rows || !in_order {
            return Err(damaged(format!("{end} bytes are not those of {rows} rows and {count} centroids of {width}")));
        }
        let (floats, ids) = bytes[HEADER..end].split_at(floats as usize);
        let floats: Vec<f32> = floats.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let ids = match listed {
            false => RowIds::From { first, rows },
            true => RowIds::Listed(ids.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect()),
        };
        let ascending = match &ids {
            RowIds::From { .. } => true,
            RowIds::Listed(ids) => ids.is_sorted_by(|a, b| a < b),
        };
        if !ascending || (ids.first(), ids.last()) != (entry.first_id, entry.last_id) {
            return Err(damaged("its ids are not those that the set has for this shard".into()));
        }
        let centroids = Array2::from_shape_vec((count as usize, dim), floats);
        Ok(Self { ids, centroids: centroids.expect("counted above") })
    }
}

/// The checksum that the set keeps of the file: of all but its last 8 bytes, which hold it.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// A file that the set names and that is not there, or cannot be read.
pub(crate) fn missing(path: &Path, folder: &Path, error: std::io::Error) -> BuilderError {
    if error.kind() != std::io::ErrorKind::NotFound {
        return BuilderError::io(path, "read")(error);
    }
    BuilderError::Damaged {
        path: path.to_path_buf(),
        problem: format!("the set {} names this file, and it is not there", folder.display()),
        remedy: "restore it from a copy of the set",
    }
}

/// A file that is whole, but not the one that the set names.
pub(crate) fn another(path: &Path, folder: &Path) -> BuilderError {
    BuilderError::Damaged {
        path: path.to_path_buf(),
        problem: format!("it is not the file that the set {} names: another took its place", folder.display()),
        remedy: "restore it from a copy of the set",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(ids: RowIds) -> RowsFile {
        RowsFile { ids, centroids: Array2::from_shape_fn((3, 5), |(i, j)| (i * 10 + j) as f32 - 7.5) }
    }

    fn entry(file: &RowsFile) -> ShardEntry {
        let bytes = file.encode();
        let sum = u64_at(&bytes, bytes.len() - 8);
        let (first_id, last_id) = (file.ids.first(), file.ids.last());
        let rows_file = format!("{sum:016x}");
        ShardEntry { number: 4, identity: String::new(), bytes: 0, rows: file.ids.len(), first_id, last_id, rows_file }
    }

    #[test]
    fn ids_are_given_by_row_and_found_again() {
        let gaps = RowIds::of(vec![4, 5, 9]);
        assert_eq!(gaps, RowIds::Listed(vec![4, 5, 9]));
        let whole = RowIds::of(vec![4, 5, 6]);
        assert_eq!(whole, RowIds::From { first: 4, rows: 3 });
        for (ids, all) in [(gaps, [4, 5, 9]), (whole, [4, 5, 6])] {
            assert_eq!((0..ids.len()).map(|row| ids.get(row)).collect::<Vec<_>>(), all);
            assert_eq!((ids.first(), ids.last(), ids.len()), (all[0], all[2], 3));
            for id in 0..12 {
                assert_eq!(ids.row_of(id), all.iter().position(|&own| own == id).map(|row| row as u64), "{id}");
            }
        }
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_seen() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("shard-00004.rows");
        for ids in [RowIds::From { first: 7, rows: 1000 }, RowIds::of(vec![1, 2, 30, 1 << 40])] {
            let file = file(ids);
            let (entry, bytes) = (entry(&file), file.encode());
            let read = |bytes: &[u8], entry: &ShardEntry, dim| {
                std::fs::write(&path, bytes).expect("written");
                RowsFile::read(folder.path(), entry, dim).map_err(|error| error.to_string())
            };
            assert_eq!(read(&bytes, &entry, 5), Ok(file.clone()));
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x40;
                assert!(read(&damaged, &entry, 5).is_err_and(|m| m.contains("shard-00004.rows")), "byte {at}");
            }
            for length in 0..bytes.len() {
                assert!(read(&bytes[..length], &entry, 5).is_err(), "{length} bytes");
            }
            assert!(read(&bytes, &entry, 6).is_err());
            let other = ShardEntry { rows_file: "0".repeat(16), ..entry.clone() };
            assert!(read(&bytes, &other, 5).is_err_and(|m| m.contains("another took its place")));
            let moved = ShardEntry { first_id: 0, ..entry.clone() };
            assert!(read(&bytes, &moved, 5).is_err_and(|m| m.contains("ids")));
            std::fs::remove_file(&path).expect("removed");
            let message = RowsFile::read(folder.path(), &entry, 5).expect_err("missing").to_string();
            assert!(message.contains("names this file") && message.contains("shard-00004.rows"), "{message}");
        }
    }
}
