//! Rows that lie in a file at a fixed stride: what the `.fbin` family, the `.fvecs` family and `.npy` share.
//!
//! In: an open file and where its rows lie. Out: a [`RowSource`] of positioned reads. Rows stored as they
//! are served go straight into the matrix; the others pass through a buffer of one MiB.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kiln_kernels::{DType, Rows};

use crate::error::DatasetError;
use crate::source::{RowSource, check_finite, check_range};

/// Bytes staged at a time when rows cannot be read in place.
const STAGE_BYTES: usize = 1 << 20;

/// How a coordinate is stored, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Served as it is.
    As(DType),
    /// f64, rounded to the nearest f32 when served.
    F64,
}

impl Stored {
    /// Bytes of one coordinate in the file.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::As(dtype) => dtype.bytes(),
            Self::F64 => 8,
        }
    }

    /// The element type served.
    pub(crate) const fn served(self) -> DType {
        match self {
            Self::As(dtype) => dtype,
            Self::F64 => DType::F32,
        }
    }
}

/// Where the rows of a file lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// Byte at which row 0 begins, its prefix included.
    pub offset: u64,
    /// True when every row is preceded by its dimension as an i32 (the `.fvecs` family).
    pub dim_prefix: bool,
    /// The type of a coordinate.
    pub stored: Stored,
    /// The number of rows.
    pub rows: u64,
    /// Coordinates in a row.
    pub dim: usize,
}

impl Layout {
    fn prefix_bytes(&self) -> usize {
        if self.dim_prefix { 4 } else { 0 }
    }

    fn row_bytes(&self) -> usize {
        self.dim * self.stored.bytes()
    }

    fn stride(&self) -> usize {
        self.prefix_bytes() + self.row_bytes()
    }
}

/// A file of rows at a fixed stride.
#[derive(Debug)]
pub(crate) struct FlatRows {
    file: File,
    path: PathBuf,
    layout: Layout,
}

impl FlatRows {
    /// Serves the rows of `file`, whose size the caller has checked against `layout`.
    ///
    /// # Errors
    /// When there are no rows or no coordinates.
    pub(crate) fn new(file: File, path: &Path, layout: Layout) -> Result<Self, DatasetError> {
        refuse_empty(path, layout.rows, layout.dim as u64)?;
        if layout.stored == Stored::F64 {
            tracing::info!(path = %path.display(), "f64 coordinates are rounded to the nearest f32");
        }
        Ok(Self { file, path: path.to_path_buf(), layout })
    }

    /// Reads rows through a buffer: strips and checks prefixes, converts coordinates.
    fn read_staged(&self, first: u64, out: &mut [u8]) -> Result<(), DatasetError> {
        let stride = self.layout.stride();
        let step = (STAGE_BYTES / stride).max(1);
        let served_row = self.layout.dim * self.layout.stored.served().bytes();
        let mut stage = vec![0; step.min(out.len() / served_row) * stride];
        for (block, rows) in out.chunks_mut(step * served_row).enumerate() {
            let start = first + (block * step) as u64;
            let bytes = &mut stage[..rows.len() / served_row * stride];
            self.file
                .read_exact_at(bytes, self.layout.offset + start * stride as u64)
                .map_err(DatasetError::io(&self.path))?;
            for (i, (stored, served)) in bytes.chunks(stride).zip(rows.chunks_mut(served_row)).enumerate() {
                let (prefix, coordinates) = stored.split_at(self.layout.prefix_bytes());
                self.check_prefix(prefix, start + i as u64)?;
                match self.layout.stored {
                    Stored::As(_) => served.copy_from_slice(coordinates),
                    Stored::F64 => narrow(coordinates, served),
                }
            }
        }
        Ok(())
    }

    fn check_prefix(&self, prefix: &[u8], row: u64) -> Result<(), DatasetError> {
        let Ok(bytes) = <[u8; 4]>::try_from(prefix) else { return Ok(()) };
        let dim = i32::from_le_bytes(bytes);
        if usize::try_from(dim) == Ok(self.layout.dim) {
            return Ok(());
        }
        Err(DatasetError::invalid(
            &self.path,
            format!("row {row} says that it has {dim} coordinates, row 0 has {}", self.layout.dim),
            "all rows must have one dimension: the file is damaged or mixed, make it again",
        ))
    }
}

/// Rounds little-endian f64 to little-endian f32, ties to even.
fn narrow(wide: &[u8], narrow: &mut [u8]) {
    for (wide, narrow) in wide.chunks_exact(8).zip(narrow.chunks_exact_mut(4)) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(wide);
        narrow.copy_from_slice(&(f64::from_le_bytes(bytes) as f32).to_le_bytes());
    }
}

impl RowSource for FlatRows {
    fn len(&self) -> u64 {
        self.layout.rows
    }

    fn dim(&self) -> usize {
        self.layout.dim
    }

    fn dtype(&self) -> DType {
        self.layout.stored.served()
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, rows: Range<u64>) -> Result<Rows, DatasetError> {
        check_range(self, &rows)?;
        let mut out = Rows::zeros(self.dtype(), (rows.end - rows.start) as usize, self.dim());
        if self.layout.dim_prefix || self.layout.stored == Stored::F64 {
            self.read_staged(rows.start, out.as_bytes_mut())?;
        } else {
            let at = self.layout.offset + rows.start * self.layout.row_bytes() as u64;
            self.file.read_exact_at(out.as_bytes_mut(), at).map_err(DatasetError::io(&self.path))?;
        }
        check_finite(&self.path, &out, rows.start)?;
        Ok(out)
    }
}

/// Refuses a matrix without rows or without coordinates.
pub(crate) fn refuse_empty(path: &Path, rows: u64, dim: u64) -> Result<(), DatasetError> {
    if rows > 0 && dim > 0 {
        return Ok(());
    }
    Err(DatasetError::invalid(
        path,
        format!("it holds {rows} rows of {dim} coordinates"),
        "give a file with at least one row of one coordinate",
    ))
}

/// Opens a file for reading, with its size in bytes.
pub(crate) fn open_sized(path: &Path) -> Result<(File, u64), DatasetError> {
    let file = File::open(path).map_err(DatasetError::io(path))?;
    let size = file.metadata().map_err(DatasetError::io(path))?.len();
    Ok((file, size))
}
