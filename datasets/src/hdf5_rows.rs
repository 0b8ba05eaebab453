//! One matrix of an HDF5 file as a [`RowSource`].
//!
//! In: an open HDF5 matrix of any chunking, filter and byte order. Out: blocks of rows as f32, f16, u8 or i8.
//! f64 is rounded to f32 by HDF5, through its own buffer of one MiB; 16-bit integers are exact in f32; wider ones are
//! read in blocks and refused where f32 cannot hold them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use hdf5::types::{FloatSize, IntSize, TypeDescriptor};
use kiln_kernels::{DType, Rows, f16};
use ndarray::{Array2, s};

use crate::error::DatasetError;
use crate::flat::refuse_empty;
use crate::hdf5_file::{descriptor, refused};
use crate::source::{RowSource, check_finite, check_range};

/// A filtered chunk is unpacked whole: beyond this many bytes that is refused, not attempted.
const CHUNK_LIMIT_BYTES: u64 = 1 << 30;
/// Wide integers held at a time on their way to f32.
const WIDE_CELLS: usize = (4 << 20) / 8;

/// How a cell becomes a coordinate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conversion {
    /// HDF5 delivers the element type as it is, or widens or rounds it.
    Direct(DType),
    /// Signed integers that must be checked to fit f32.
    Signed,
    /// Unsigned integers that must be checked to fit f32.
    Unsigned,
}

/// A dense matrix `(n, dim)` of an HDF5 file.
#[derive(Debug)]
pub(crate) struct Hdf5Rows {
    dataset: hdf5::Dataset,
    path: PathBuf,
    name: String,
    rows: u64,
    dim: usize,
    conversion: Conversion,
}

impl Hdf5Rows {
    /// Serves matrix `name` of the file at `path`.
    ///
    /// # Errors
    /// When it is not two-dimensional, not numeric, empty, or packed in chunks too large to unpack.
    pub(crate) fn new(dataset: hdf5::Dataset, path: &Path, name: &str) -> Result<Self, DatasetError> {
        let shape = dataset.shape();
        let [rows, dim] = shape[..] else {
            return Err(DatasetError::invalid(
                path,
                format!("`{name}` has shape {shape:?}, not (rows, dimension)"),
                "store it as a matrix with one vector a row",
            ));
        };
        let stored = descriptor(&dataset, path, name)?;
        let conversion = conversion(&stored).ok_or_else(|| {
            DatasetError::invalid(
                path,
                format!("`{name}` holds {stored}, which is not a number"),
                "store it as float32, float16, uint8 or int8",
            )
        })?;
        if stored == TypeDescriptor::Float(FloatSize::U8) {
            tracing::info!(path = %path.display(), name, "f64 coordinates are rounded to the nearest f32");
        }
        refuse_empty(path, rows as u64, dim as u64)?;
        refuse_huge_chunks(&dataset, path, name)?;
        Ok(Self { dataset, path: path.to_path_buf(), name: name.to_string(), rows: rows as u64, dim, conversion })
    }

    fn slice<T: hdf5::H5Type>(&self, rows: Range<u64>) -> Result<Array2<T>, DatasetError> {
        self.dataset.read_slice_2d(s![rows.start as usize..rows.end as usize, ..]).map_err(refused(
            &self.path,
            &format!("rows {}..{} of `{}` cannot be read", rows.start, rows.end, self.name),
        ))
    }

    /// Reads integers in blocks and converts them, refusing the first that f32 cannot hold.
    fn exact<T>(&self, rows: Range<u64>, to_f32: impl Fn(T) -> Option<f32>) -> Result<Rows, DatasetError>
    where
        T: hdf5::H5Type + Copy + std::fmt::Display,
    {
        let mut out = Array2::zeros(((rows.end - rows.start) as usize, self.dim));
        let step = (WIDE_CELLS / self.dim).max(1) as u64;
        let mut start = rows.start;
        while start < rows.end {
            let end = (start + step).min(rows.end);
            let block: Array2<T> = self.slice(start..end)?;
            for ((i, coordinate), &value) in block.indexed_iter() {
                let row = start + i as u64;
                out[((row - rows.start) as usize, coordinate)] = to_f32(value).ok_or_else(|| {
                    DatasetError::invalid(
                        &self.path,
                        format!(
                            "`{}` row {row}, coordinate {coordinate} is {value}, which f32 cannot hold exactly",
                            self.name
                        ),
                        "scale the vectors, or store them as floats",
                    )
                })?;
            }
            start = end;
        }
        Ok(Rows::F32(out))
    }
}

impl RowSource for Hdf5Rows {
    fn len(&self) -> u64 {
        self.rows
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn dtype(&self) -> DType {
        match self.conversion {
            Conversion::Direct(dtype) => dtype,
            Conversion::Signed | Conversion::Unsigned => DType::F32,
        }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, rows: Range<u64>) -> Result<Rows, DatasetError> {
        check_range(self, &rows)?;
        let first = rows.start;
        let block = match self.conversion {
            Conversion::Direct(DType::F32) => Rows::F32(self.slice(rows)?),
            Conversion::Direct(DType::F16) => Rows::F16(self.slice::<f16>(rows)?),
            Conversion::Direct(DType::U8) => Rows::U8(self.slice(rows)?),
            Conversion::Direct(DType::I8) => Rows::I8(self.slice(rows)?),
            Conversion::Signed => {
                self.exact(rows, |value: i64| Some(value as f32).filter(|&x| x as i128 == i128::from(value)))?
            }
            Conversion::Unsigned => {
                self.exact(rows, |value: u64| Some(value as f32).filter(|&x| x as i128 == i128::from(value)))?
            }
        };
        check_finite(&self.path, &block, first)?;
        Ok(block)
    }
}

fn conversion(stored: &TypeDescriptor) -> Option<Conversion> {
    use IntSize::{U1, U2, U4, U8};
    Some(match stored {
        TypeDescriptor::Float(FloatSize::U2) => Conversion::Direct(DType::F16),
        TypeDescriptor::Float(FloatSize::U4 | FloatSize::U8) => Conversion::Direct(DType::F32),
        TypeDescriptor::Unsigned(U1) => Conversion::Direct(DType::U8),
        TypeDescriptor::Integer(U1) => Conversion::Direct(DType::I8),
        TypeDescriptor::Integer(U2) | TypeDescriptor::Unsigned(U2) => Conversion::Direct(DType::F32),
        TypeDescriptor::Integer(U4 | U8) => Conversion::Signed,
        TypeDescriptor::Unsigned(U4 | U8) => Conversion::Unsigned,
        _ => return None,
    })
}

/// True for the integer types, of any width.
pub(crate) fn is_integer(stored: &TypeDescriptor) -> bool {
    matches!(stored, TypeDescriptor::Integer(_) | TypeDescriptor::Unsigned(_))
}

fn refuse_huge_chunks(dataset: &hdf5::Dataset, path: &Path, name: &str) -> Result<(), DatasetError> {
    let (Some(chunk), Ok(dtype)) = (dataset.chunk(), dataset.dtype()) else { return Ok(()) };
    let bytes = chunk.iter().fold(dtype.size() as u64, |bytes, &extent| bytes.saturating_mul(extent as u64));
    if bytes <= CHUNK_LIMIT_BYTES || dataset.filters().is_empty() {
        return Ok(());
    }
    Err(DatasetError::invalid(
        path,
        format!("`{name}` is packed in chunks of {bytes} bytes, and a chunk must be unpacked whole"),
        format!("repack it with `h5repack -l {name}:CHUNK=1000x{} OLD NEW`", dataset.shape()[1]),
    ))
}
