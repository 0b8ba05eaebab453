//! The vectors of an open index as rows of the data set, as given at the build.
//!
//! In: a [`Searcher`]. Out: a [`RowSource`] by dataset row, of a shard set by id, so that answers can be judged where only
//! the index is at hand.

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use kiln_datasets::{DatasetError, RowSource};
use kiln_kernels::{DType, Rows};

use crate::error::BuilderError;
use crate::file::pages::PageCache;
use crate::searcher::Searcher;
use crate::shards::RowIds;

/// Rows read back from an index. Rows that were deleted from a shard set are served as zeros: their ids stay theirs, and nobody
/// asks for them but along with their neighbours.
pub struct StoredRows<'a> {
    searcher: &'a Searcher,
    parts: Vec<Part<'a>>,
    cache: Mutex<PageCache>,
}

/// The rows of one index file.
struct Part<'a> {
    searcher: &'a Searcher,
    /// The id of the first.
    first: u64,
    /// Position of each id from there on; [`NOWHERE`] for those that were deleted.
    positions: Vec<u32>,
}

const NOWHERE: u32 = u32::MAX;

impl<'a> StoredRows<'a> {
    /// The rows of `searcher`, in the data set's order.
    pub fn new(searcher: &'a Searcher) -> Self {
        let parts = match searcher.set() {
            None => vec![Part::new(searcher, &RowIds::From { first: 0, rows: searcher.len() })],
            Some(set) => set.shards().iter().map(|shard| Part::new(&shard.searcher, &shard.ids)).collect(),
        };
        Self { searcher, parts, cache: Mutex::default() }
    }
}

impl<'a> Part<'a> {
    fn new(searcher: &'a Searcher, ids: &RowIds) -> Self {
        if searcher.is_empty() {
            return Self { searcher, first: 0, positions: Vec::new() };
        }
        let first = ids.first();
        let mut positions = vec![NOWHERE; (ids.last() - first + 1) as usize];
        for position in 0..searcher.len() as u32 {
            positions[(ids.get(searcher.row_at(position)) - first) as usize] = position;
        }
        Self { searcher, first, positions }
    }

    /// The vector record of the row with this id, where it is one of these.
    fn record<'c>(&'c self, id: u64, cache: &'c mut PageCache) -> Option<Result<&'c [u8], BuilderError>> {
        let position = *self.positions.get(usize::try_from(id.checked_sub(self.first)?).ok()?)?;
        (position != NOWHERE).then(|| self.searcher.record_at(position, cache))
    }
}

impl RowSource for StoredRows<'_> {
    fn len(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.first + part.positions.len() as u64)
    }

    fn dim(&self) -> usize {
        self.searcher.dim()
    }

    fn dtype(&self) -> DType {
        self.searcher.dtype()
    }

    fn path(&self) -> &Path {
        self.searcher.path()
    }

    fn read(&self, rows: Range<u64>) -> Result<Rows, DatasetError> {
        let invalid =
            |problem: String| DatasetError::invalid(self.path(), problem, "use an index of the data set at hand");
        if rows.start > rows.end || rows.end > self.len() {
            return Err(invalid(format!(
                "rows {} to {} were asked for, it holds {}",
                rows.start,
                rows.end,
                self.len()
            )));
        }
        let width = self.dim() * self.dtype().bytes();
        let mut bytes = Vec::with_capacity((rows.end - rows.start) as usize * width);
        let mut cache = self.cache.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for row in rows.clone() {
            cache.clear();
            let part = self.parts.partition_point(|part| part.first <= row).checked_sub(1);
            match part.and_then(|part| self.parts[part].record(row, &mut cache)) {
                Some(record) => bytes.extend_from_slice(&record.map_err(|error| invalid(error.to_string()))?[..width]),
                None => bytes.resize(bytes.len() + width, 0),
            }
        }
        let count = (rows.end - rows.start) as usize;
        Rows::from_bytes(self.dtype(), count, self.dim(), &bytes)
            .ok_or_else(|| invalid("a record was cut short".into()))
    }
}
