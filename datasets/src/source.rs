//! The one abstraction over every file of vectors: rows by range, in bounded blocks.
//!
//! In: a range of row numbers, or a list of them. Out: [`Rows`] of one element type, checked finite.

use std::ops::Range;
use std::path::{Path, PathBuf};

use kiln_kernels::{DType, Element, Rows, dispatch_rows};

use crate::error::DatasetError;

/// Rows further apart than this are read one by one rather than with all that lies between them.
const GATHER_GAP: u64 = 1024;

/// Rows that can be read by range. Implementations hold no more memory than the rows asked for plus a
/// bounded buffer (8 MiB), and check that what they return is finite.
pub trait RowSource: Send + Sync {
    /// The number of rows.
    fn len(&self) -> u64;

    /// True when there are no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of coordinates in a row.
    fn dim(&self) -> usize;

    /// The element type served (a file of f64 is served as f32).
    fn dtype(&self) -> DType;

    /// Where the rows come from, for messages.
    fn path(&self) -> &Path;

    /// Reads rows `rows.start..rows.end`, `(rows.len(), dim)`.
    ///
    /// # Errors
    /// When the range ends past the last row, the file cannot be read, or a value is not finite.
    fn read(&self, rows: Range<u64>) -> Result<Rows, DatasetError>;
}

/// Reads a whole source into memory, block by block, calling `advance` with the rows of each block.
///
/// # Errors
/// As [`RowSource::read`].
pub fn read_all(source: &dyn RowSource, mut advance: impl FnMut(u64)) -> Result<Rows, DatasetError> {
    let (n, dim, dtype) = (source.len() as usize, source.dim(), source.dtype());
    let mut all = Rows::zeros(dtype, n, dim);
    let row_bytes = dim * dtype.bytes();
    for block in blocks(source, 0..source.len()) {
        let rows = source.read(block.clone())?;
        let at = block.start as usize * row_bytes;
        all.as_bytes_mut()[at..at + rows.as_bytes().len()].copy_from_slice(rows.as_bytes());
        advance(block.end - block.start);
    }
    Ok(all)
}

/// Splits a range of rows into blocks of about 8 MiB.
pub fn blocks(source: &dyn RowSource, rows: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let step = block_rows(source);
    let end = rows.end;
    (rows.start..end).step_by(step as usize).map(move |start| start..(start + step).min(end))
}

/// The number of rows in a block of about 8 MiB, at least one.
fn block_rows(source: &dyn RowSource) -> u64 {
    let row_bytes = (source.dim() * source.dtype().bytes()).max(1);
    ((8 << 20) / row_bytes).max(1) as u64
}

/// Reads the rows named by `ids` (any order, repeats allowed) into `(ids.len(), dim)`, in the order given.
/// Near rows are read together, so that a compressed chunk is unpacked once and not once a row.
///
/// # Errors
/// As [`RowSource::read`]; an id past the last row is an error.
pub fn gather_rows(source: &dyn RowSource, ids: &[u64]) -> Result<Rows, DatasetError> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_unstable_by_key(|&at| ids[at]);
    let mut gathered = Rows::zeros(source.dtype(), ids.len(), source.dim());
    let row_bytes = source.dim() * source.dtype().bytes();
    let limit = block_rows(source);

    let mut next = 0;
    while next < order.len() {
        let start = ids[order[next]];
        let mut stop = next + 1;
        while stop < order.len()
            && ids[order[stop]] - start < limit
            && ids[order[stop]] - ids[order[stop - 1]] <= GATHER_GAP
        {
            stop += 1;
        }
        // An id past the last row saturates here only to be refused by `read`, which names it.
        let window = source.read(start..ids[order[stop - 1]].saturating_add(1))?;
        for &at in &order[next..stop] {
            let row = window.view().row_bytes((ids[at] - start) as usize);
            gathered.as_bytes_mut()[at * row_bytes..(at + 1) * row_bytes].copy_from_slice(row);
        }
        next = stop;
    }
    Ok(gathered)
}

/// The number of rows whose every coordinate is zero: such a row has no direction, so that under the
/// cosine metric it lies at distance 1 from everything.
pub fn zero_rows(rows: &Rows) -> u64 {
    dispatch_rows!(rows.view(), v => {
        let zero = v.rows().into_iter().filter(|row| row.iter().all(|x| x.to_f32() == 0.0));
        zero.count() as u64
    })
}

/// Rows that are already in memory, served as a source.
#[derive(Debug, Clone)]
pub struct MemorySource {
    rows: Rows,
    label: PathBuf,
}

impl MemorySource {
    /// Serves `rows`, named `label` in messages.
    pub fn new(rows: Rows, label: impl Into<PathBuf>) -> Self {
        Self { rows, label: label.into() }
    }
}

impl RowSource for MemorySource {
    fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    fn dim(&self) -> usize {
        self.rows.dim()
    }

    fn dtype(&self) -> DType {
        self.rows.dtype()
    }

    fn path(&self) -> &Path {
        &self.label
    }

    fn read(&self, rows: Range<u64>) -> Result<Rows, DatasetError> {
        check_range(self, &rows)?;
        let block = self.rows.view().slice(rows.start as usize..rows.end as usize).to_rows();
        check_finite(&self.label, &block, rows.start)?;
        Ok(block)
    }
}

/// Refuses a range that ends past the last row.
pub(crate) fn check_range(source: &dyn RowSource, rows: &Range<u64>) -> Result<(), DatasetError> {
    if rows.start <= rows.end && rows.end <= source.len() {
        return Ok(());
    }
    Err(DatasetError::invalid(
        source.path(),
        format!("rows {}..{} were asked for, but it holds {}", rows.start, rows.end, source.len()),
        "ask for rows that exist",
    ))
}

/// Refuses rows that hold a NaN or an infinity, naming the first such row (`first` is the number of row 0).
pub(crate) fn check_finite(path: &Path, rows: &Rows, first: u64) -> Result<(), DatasetError> {
    match rows.view().first_nonfinite() {
        None => Ok(()),
        Some((row, coordinate)) => Err(DatasetError::NonFinite {
            path: path.to_path_buf(),
            row: first + row as u64,
            coordinate,
            value: dispatch_rows!(rows.view(), v => v[(row, coordinate)].to_f32()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    fn numbered(n: usize, dim: usize) -> MemorySource {
        MemorySource::new(Rows::F32(Array2::from_shape_fn((n, dim), |(i, j)| (i * 10 + j) as f32)), "memory")
    }

    #[test]
    fn gathers_in_the_order_given() {
        let source = numbered(5000, 3);
        let ids = [4999, 0, 7, 7, 2500];
        let rows = gather_rows(&source, &ids).unwrap().view().to_f32();
        for (at, &id) in ids.iter().enumerate() {
            assert_eq!(rows[(at, 1)], (id * 10 + 1) as f32);
        }
    }

    #[test]
    fn a_row_past_the_end_is_named() {
        let message = gather_rows(&numbered(4, 2), &[1, 9]).unwrap_err().to_string();
        assert!(message.contains("1..10") && message.contains("holds 4"), "{message}");
        let message = gather_rows(&numbered(4, 2), &[u64::MAX]).unwrap_err().to_string();
        assert!(message.contains("holds 4"), "{message}");
    }

    #[test]
    fn counts_zero_rows() {
        let mut rows = Array2::<f32>::ones((4, 2));
        rows.row_mut(2).fill(0.0);
        assert_eq!(zero_rows(&Rows::F32(rows)), 1);
    }

    #[test]
    fn memory_is_checked_too() {
        let mut rows = Array2::<f32>::ones((4, 2));
        rows[(3, 1)] = f32::NAN;
        let message = MemorySource::new(Rows::F32(rows), "m").read(2..4).unwrap_err().to_string();
        assert!(message.contains("row 3, coordinate 1"), "{message}");
    }
}
