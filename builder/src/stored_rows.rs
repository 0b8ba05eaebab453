//! The vectors of an open index as rows of the data set, as given at the build.
//!
//! In: a [`Searcher`]. Out: a [`RowSource`] by dataset row, so that answers can be judged where only the
//! index is at hand.

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use kiln_datasets::{DatasetError, RowSource};
use kiln_kernels::{DType, Rows};

use crate::file::pages::PageCache;
use crate::searcher::Searcher;

/// Rows read back from an index.
pub struct StoredRows<'a> {
    searcher: &'a Searcher,
    /// Position of each row of the data set.
    positions: Vec<u32>,
    cache: Mutex<PageCache>,
}

impl<'a> StoredRows<'a> {
    /// The rows of `searcher`, in the data set's order.
    pub fn new(searcher: &'a Searcher) -> Self {
        let n = searcher.len() as usize;
        let mut positions = vec![0u32; n];
        for position in 0..n as u32 {
            positions[searcher.row_at(position) as usize] = position;
        }
        Self { searcher, positions, cache: Mutex::default() }
    }
}

impl RowSource for StoredRows<'_> {
    fn len(&self) -> u64 {
        self.searcher.len()
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
            let record = self.searcher.record_at(self.positions[row as usize], &mut cache);
            bytes.extend_from_slice(&record.map_err(|error| invalid(error.to_string()))?[..width]);
        }
        let count = (rows.end - rows.start) as usize;
        Rows::from_bytes(self.dtype(), count, self.dim(), &bytes)
            .ok_or_else(|| invalid("a record was cut short".into()))
    }
}
