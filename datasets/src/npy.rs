//! NumPy's `.npy`, versions 1 to 3: matrices in C order, little-endian.
//!
//! In: a file, or a shape to write. Out: the [`Header`] of the matrix, or the bytes of one. The layout is
//! fixed by NEP 1: magic, version, header length, a Python dictionary literal, then the cells.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kiln_kernels::DType;

use crate::bin::matrix_bytes;
use crate::error::DatasetError;
use crate::flat::{FlatRows, Layout, Stored, open_sized};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// No honest header is longer: it holds three short entries.
const HEADER_LIMIT: u64 = 1 << 16;

/// What a `.npy` header says of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// NumPy's name of the cell type, `<f4` and the like.
    pub descr: String,
    /// Rows.
    pub rows: u64,
    /// Columns.
    pub columns: u64,
    /// Byte at which the cells begin.
    pub offset: u64,
}

impl Header {
    /// Reads and checks the header of an open file of `size` bytes.
    ///
    /// # Errors
    /// When it is not a two-dimensional `.npy` in C order, or its cells do not fill the file exactly.
    pub(crate) fn read(file: &File, path: &Path, size: u64) -> Result<Self, DatasetError> {
        let remedy = "write it again with numpy.save of a two-dimensional array";
        let (descr, shape, offset) = read_shape(file, path, size, remedy)?;
        let [rows, columns] = shape[..] else {
            let problem = format!("its shape is {shape:?}, which has not two dimensions");
            return Err(DatasetError::invalid(path, problem, remedy));
        };
        Ok(Self { descr, rows, columns, offset })
    }

    /// The same of a list: an array of one dimension, or one of two of which one is 1.
    ///
    /// # Errors
    /// When it is neither.
    pub(crate) fn read_list(file: &File, path: &Path, size: u64) -> Result<Self, DatasetError> {
        let remedy = "write it again with numpy.save of a one-dimensional array";
        let (descr, shape, offset) = read_shape(file, path, size, remedy)?;
        match shape[..] {
            [rows] | [rows, 1] | [1, rows] => Ok(Self { descr, rows, columns: 1, offset }),
            _ => {
                let problem = format!("its shape is {shape:?}, which is no list");
                Err(DatasetError::invalid(path, problem, remedy))
            }
        }
    }

    /// Refuses a file whose size is not what the header makes it.
    pub(crate) fn check_size(&self, path: &Path, cell_bytes: u64, size: u64) -> Result<(), DatasetError> {
        let expected = matrix_bytes(self.offset, self.rows, self.columns, cell_bytes);
        if expected == u128::from(size) {
            return Ok(());
        }
        Err(DatasetError::invalid(
            path,
            format!(
                "a {} x {} array of {} takes {expected} bytes, but the file has {size}",
                self.rows, self.columns, self.descr
            ),
            "the file is cut off or was appended to: write it again",
        ))
    }
}

/// The type, the shape and the byte at which the cells begin, of an open file of `size` bytes.
fn read_shape(
    file: &File,
    path: &Path,
    size: u64,
    remedy: &'static str,
) -> Result<(String, Vec<u64>, u64), DatasetError> {
    let broken = |problem: String| DatasetError::invalid(path, problem, remedy);
    let mut start = [0; 12];
    let known = size.min(12) as usize;
    file.read_exact_at(&mut start[..known], 0).map_err(DatasetError::io(path))?;
    if known < 12 || &start[..6] != MAGIC {
        return Err(broken(format!("it does not begin as a .npy file does ({size} bytes)")));
    }
    let short = u64::from(u16::from_le_bytes([start[8], start[9]]));
    let (text_at, text_bytes) = match start[6] {
        1 => (10, short),
        2 | 3 => (12, short | u64::from(u16::from_le_bytes([start[10], start[11]])) << 16),
        version => return Err(broken(format!("its format version is {version}; versions 1 to 3 are read"))),
    };
    let offset = text_at + text_bytes;
    if text_bytes > HEADER_LIMIT || offset > size {
        return Err(broken(format!("its header claims {text_bytes} bytes in a file of {size}")));
    }
    let mut text = vec![0; text_bytes as usize];
    file.read_exact_at(&mut text, text_at).map_err(DatasetError::io(path))?;
    let text = String::from_utf8_lossy(&text);

    let descr = quoted(value_of(&text, "descr")).ok_or_else(|| broken(format!("its header names no type: {text}")))?;
    match value_of(&text, "fortran_order").map(|v| v.starts_with("False")) {
        Some(true) => {}
        Some(false) => {
            return Err(DatasetError::invalid(
                path,
                "it is in Fortran order, so its rows are not contiguous",
                "save numpy.ascontiguousarray(x) instead",
            ));
        }
        None => return Err(broken(format!("its header names no order: {text}"))),
    }
    let shape = value_of(&text, "shape")
        .and_then(numbers)
        .ok_or_else(|| broken(format!("its header names no shape: {text}")))?;
    Ok((descr, shape, offset))
}

/// The text after `'key':` in a dictionary literal.
fn value_of<'a>(dictionary: &'a str, key: &str) -> Option<&'a str> {
    let at = [format!("'{key}'"), format!("\"{key}\"")]
        .iter()
        .find_map(|quoted| dictionary.find(quoted.as_str()).map(|at| at + quoted.len()))?;
    Some(dictionary[at..].trim_start().strip_prefix(':')?.trim_start())
}

fn quoted(value: Option<&str>) -> Option<String> {
    let value = value?;
    let quote = value.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    value[1..].split_once(quote).map(|(text, _)| text.to_string())
}

/// The numbers of a tuple literal such as `(3, 4)` or `(3,)`.
fn numbers(value: &str) -> Option<Vec<u64>> {
    let (inside, _) = value.strip_prefix('(')?.split_once(')')?;
    inside.split(',').map(str::trim).filter(|n| !n.is_empty()).map(|n| n.trim_end_matches('L').parse().ok()).collect()
}

/// Opens a `.npy` file of `<f4`, `<f8`, `<f2`, `u1` or `i1` as rows.
///
/// # Errors
/// As [`Header::read`], and when the cell type is another.
pub(crate) fn open_npy(path: &Path) -> Result<FlatRows, DatasetError> {
    let (file, size) = open_sized(path)?;
    let header = Header::read(&file, path, size)?;
    let stored = match header.descr.as_str() {
        "<f4" => Stored::As(DType::F32),
        "<f8" => Stored::F64,
        "<f2" => Stored::As(DType::F16),
        "|u1" | "<u1" | "u1" => Stored::As(DType::U8),
        "|i1" | "<i1" | "i1" => Stored::As(DType::I8),
        other => {
            return Err(DatasetError::invalid(
                path,
                format!("its cells are {other}; vectors are read as <f4, <f8, <f2, |u1 or |i1"),
                "save x.astype('float32') instead (integers of 4 or 8 bytes are read as ground truth only)",
            ));
        }
    };
    header.check_size(path, stored.bytes() as u64, size)?;
    let layout =
        Layout { offset: header.offset, dim_prefix: false, stored, rows: header.rows, dim: header.columns as usize };
    FlatRows::new(file, path, layout)
}

/// The bytes of a version 1 header for a C-order matrix, padded so that the cells begin on 64 bytes.
pub(crate) fn encode_header(descr: &str, rows: u64, columns: u64) -> Vec<u8> {
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let unpadded = 10 + text.len() + 1;
    text.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    text.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

/// NumPy's name of an element type.
pub(crate) const fn descr_of(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::U8 => "|u1",
        DType::I8 => "|i1",
    }
}
