//! The big-ann binary family and the TEXMEX family.
//!
//! In: `.fbin .f16bin .u8bin .i8bin` (a header of row count and dimension, then rows) and `.fvecs .bvecs`
//! (an i32 dimension before every row), little-endian. Out: [`FlatRows`]. The header is two u32 or two u64;
//! the size of the file tells which, and must agree with it to the byte.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kiln_kernels::DType;

use crate::error::DatasetError;
use crate::flat::{FlatRows, Layout, Stored, open_sized, refuse_empty};

/// A header of two numbers, and how many bytes it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Rows.
    pub rows: u64,
    /// Coordinates, or neighbours, in a row.
    pub columns: u64,
    /// 8 (two u32) or 16 (two u64).
    pub bytes: u64,
}

impl Header {
    /// The size of a file with this header and `cell_bytes` for every cell of the matrix; absurd counts saturate.
    pub(crate) fn file_bytes(&self, cell_bytes: u64) -> u128 {
        matrix_bytes(self.bytes, self.rows, self.columns, cell_bytes)
    }

    /// Both readings of a file's first bytes: as two u32, and, where there are 16 bytes, as two u64.
    pub(crate) fn candidates(file: &File, path: &Path, size: u64) -> Result<Vec<Self>, DatasetError> {
        if size < 8 {
            return Err(DatasetError::invalid(
                path,
                format!("it has {size} bytes, and a header takes 8"),
                "the file is cut off or not of this format: fetch or make it again",
            ));
        }
        let mut first = [0; 16];
        let known = size.min(16) as usize;
        file.read_exact_at(&mut first[..known], 0).map_err(DatasetError::io(path))?;
        let bits = u128::from_le_bytes(first);
        let mut readings = vec![Self { rows: u64::from(bits as u32), columns: (bits as u64) >> 32, bytes: 8 }];
        if known == 16 {
            readings.push(Self { rows: bits as u64, columns: (bits >> 64) as u64, bytes: 16 });
        }
        Ok(readings)
    }

    /// The bytes of the header: two u32 where the row count fits, two u64 where it does not.
    pub(crate) fn encode(rows: u64, columns: u32) -> Vec<u8> {
        match u32::try_from(rows) {
            Ok(rows) => [rows.to_le_bytes(), columns.to_le_bytes()].concat(),
            Err(_) => [rows.to_le_bytes(), u64::from(columns).to_le_bytes()].concat(),
        }
    }
}

/// The size of a file of `rows * columns` cells after `header_bytes`, saturating: no file is that large.
pub(crate) fn matrix_bytes(header_bytes: u64, rows: u64, columns: u64, cell_bytes: u64) -> u128 {
    (u128::from(rows) * u128::from(columns))
        .saturating_mul(u128::from(cell_bytes))
        .saturating_add(u128::from(header_bytes))
}

/// Opens a `.fbin`-family file of `dtype`.
///
/// # Errors
/// When the header does not account for every byte of the file; the message states both sizes.
pub(crate) fn open_bin(path: &Path, dtype: DType) -> Result<FlatRows, DatasetError> {
    let (file, size) = open_sized(path)?;
    let readings = Header::candidates(&file, path, size)?;
    let cell = dtype.bytes() as u64;
    let Some(header) = readings.iter().find(|header| header.file_bytes(cell) == u128::from(size)) else {
        let expected = readings[0];
        return Err(DatasetError::invalid(
            path,
            format!(
                "its header announces {} rows of {} {dtype}, which takes {} bytes, but the file has {size}",
                expected.rows,
                expected.columns,
                expected.file_bytes(cell),
            ),
            "the download is incomplete or the extension names the wrong type: fetch it again or rename it",
        ));
    };
    refuse_empty(path, header.rows, header.columns)?;
    let layout = Layout {
        offset: header.bytes,
        dim_prefix: false,
        stored: Stored::As(dtype),
        rows: header.rows,
        dim: header.columns as usize,
    };
    FlatRows::new(file, path, layout)
}

/// Opens a `.fvecs`-family file of `dtype`.
///
/// # Errors
/// When the file is not a whole number of rows of row 0's dimension.
pub(crate) fn open_vecs(path: &Path, dtype: DType) -> Result<FlatRows, DatasetError> {
    let (file, size) = open_sized(path)?;
    let (rows, dim) = vecs_shape(&file, path, size, dtype.bytes() as u64)?;
    FlatRows::new(file, path, Layout { offset: 0, dim_prefix: true, stored: Stored::As(dtype), rows, dim })
}

/// Rows and columns of a `.fvecs`-family file with `cell_bytes` a coordinate.
pub(crate) fn vecs_shape(file: &File, path: &Path, size: u64, cell_bytes: u64) -> Result<(u64, usize), DatasetError> {
    let mut first = [0; 4];
    if size >= 4 {
        file.read_exact_at(&mut first, 0).map_err(DatasetError::io(path))?;
    }
    let dim = i32::from_le_bytes(first);
    let Ok(columns @ 1..) = u64::try_from(dim) else {
        return Err(DatasetError::invalid(
            path,
            format!("row 0 says that it has {dim} coordinates ({size} bytes in the file)"),
            "the file is empty, cut off or not of this format: fetch or make it again",
        ));
    };
    let stride = 4 + columns * cell_bytes;
    if !size.is_multiple_of(stride) {
        return Err(DatasetError::invalid(
            path,
            format!(
                "rows of {dim} coordinates take {stride} bytes each, which does not divide the file's {size} bytes"
            ),
            "the download is incomplete or the extension names the wrong type: fetch it again or rename it",
        ));
    }
    Ok((size / stride, columns as usize))
}
