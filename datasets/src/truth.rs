//! Ground truth: the exact nearest rows of each query.
//!
//! In: an ann-benchmarks HDF5 file, a big-ann truth file (`.ibin` or no known extension), `.ivecs` or `.npy`.
//! Out: a [`Truth`]. Truth is small (queries x depth) and lives in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ndarray::Array2;

use crate::bin::{Header, vecs_shape};
use crate::error::DatasetError;
use crate::flat::open_sized;
use crate::format::Format;
use crate::hdf5_file::Hdf5File;
use crate::npy;

const MAKE_AGAIN: &str = "fetch it again, or compute it with `kiln datasets truth`";

/// The nearest rows of each query, ascending.
#[derive(Debug, Clone, PartialEq)]
pub struct Truth {
    /// Row numbers `(queries, depth)`, nearest first.
    pub ids: Array2<i64>,
    /// Distances `(queries, depth)` as the file states them, where it does: Euclidean (not squared), 1 - cos, or minus
    /// the dot product. Big-ann files state squared Euclidean distances, and some the dot product itself.
    pub distances: Option<Array2<f32>>,
}

impl Truth {
    /// A truth read from `path`.
    ///
    /// # Errors
    /// When there are no queries, or none of their neighbours.
    pub(crate) fn new(path: &Path, ids: Array2<i64>, distances: Option<Array2<f32>>) -> Result<Self, DatasetError> {
        refuse_empty(path, ids.nrows() as u64, ids.ncols() as u64)?;
        Ok(Self { ids, distances })
    }

    /// The number of queries.
    pub fn queries(&self) -> usize {
        self.ids.nrows()
    }

    /// Neighbours listed for each query.
    pub fn depth(&self) -> usize {
        self.ids.ncols()
    }

    /// Reads ground truth from a file of any known format. A file whose extension is unknown is read as big-ann
    /// truth, because the hosted ones are named `GT_10M/deep-10M` and `query_gt100.bin`.
    ///
    /// # Errors
    /// When the file cannot be read or its size belies its header.
    pub fn open(path: &Path) -> Result<Self, DatasetError> {
        match Format::guess(path) {
            Some(Format::Hdf5) => Hdf5File::open(path)?.truth()?.ok_or_else(|| {
                DatasetError::invalid(path, "it has no matrix `neighbors`", "add it with `kiln datasets truth`")
            }),
            Some(Format::Ivecs) => open_ivecs(path),
            Some(Format::Npy) => open_npy(path),
            Some(Format::Ibin) | None => open_bigann(path),
            Some(Format::Bin(_) | Format::Vecs(_)) => Err(DatasetError::invalid(
                path,
                "its extension says that it holds vectors, not ground truth",
                "give an .hdf5, .ibin, .ivecs or .npy file",
            )),
        }
    }
}

/// Reads `cells` little-endian cells of `WIDTH` bytes from byte `offset`, through one buffer.
pub(crate) fn read_cells<const WIDTH: usize, T: Clone>(
    file: &File,
    path: &Path,
    offset: u64,
    cells: usize,
    decode: impl Fn([u8; WIDTH]) -> T,
) -> Result<Vec<T>, DatasetError> {
    let mut buffer = vec![0; (1 << 20) / WIDTH * WIDTH];
    let mut out = Vec::with_capacity(cells);
    while out.len() < cells {
        let bytes = ((cells - out.len()) * WIDTH).min(buffer.len());
        let at = offset + (out.len() * WIDTH) as u64;
        file.read_exact_at(&mut buffer[..bytes], at).map_err(DatasetError::io(path))?;
        out.extend(buffer[..bytes].as_chunks().0.iter().map(|&cell| decode(cell)));
    }
    Ok(out)
}

/// Refuses ground truth of no queries or no depth.
fn refuse_empty(path: &Path, queries: u64, depth: u64) -> Result<(), DatasetError> {
    if queries > 0 && depth > 0 {
        return Ok(());
    }
    Err(DatasetError::invalid(path, format!("its ground truth has {queries} queries and depth {depth}"), MAKE_AGAIN))
}

/// Shapes `cells`, whose number the caller has made `rows * columns`.
fn matrix<T>(rows: u64, columns: u64, cells: Vec<T>) -> Array2<T> {
    Array2::from_shape_vec((rows as usize, columns as usize), cells).expect("cells were counted as rows x columns")
}

/// u32 queries, u32 depth, i32 ids, f32 distances; u64 headers and files without distances exist: the size tells.
fn open_bigann(path: &Path) -> Result<Truth, DatasetError> {
    let (file, size) = open_sized(path)?;
    let readings = Header::candidates(&file, path, size)?;
    let fits = |cell: u64| readings.iter().find(|header| header.file_bytes(cell) == u128::from(size)).copied();
    let (header, with_distances) = match (fits(8), fits(4)) {
        (Some(header), _) => (header, true),
        (None, Some(header)) => (header, false),
        (None, None) => return Err(bigann_problem(path, readings[0], size)),
    };
    refuse_empty(path, header.rows, header.columns)?;
    let cells = (header.rows * header.columns) as usize;
    let ids = read_cells(&file, path, header.bytes, cells, |b| i64::from(i32::from_le_bytes(b)))?;
    let distances = if with_distances {
        Some(read_cells(&file, path, header.bytes + 4 * cells as u64, cells, f32::from_le_bytes)?)
    } else {
        None
    };
    let shape = |cells| matrix(header.rows, header.columns, cells);
    Truth::new(path, matrix(header.rows, header.columns, ids), distances.map(shape))
}

fn bigann_problem(path: &Path, header: Header, size: u64) -> DatasetError {
    // Range truth: queries, total, then a count for each query, then ids and distances.
    let range_bytes = 8 + 4 * u128::from(header.rows) + 8 * u128::from(header.columns);
    if range_bytes == u128::from(size) {
        return DatasetError::invalid(
            path,
            format!("it is the truth of a range search ({} queries, {} matches)", header.rows, header.columns),
            "Kiln measures k-nearest-neighbour search: give k-NN truth",
        );
    }
    DatasetError::invalid(
        path,
        format!(
            "its header announces {} queries of depth {}, which takes {} bytes with distances and {} without, but the \
             file has {size}",
            header.rows,
            header.columns,
            header.file_bytes(8),
            header.file_bytes(4),
        ),
        MAKE_AGAIN,
    )
}

fn open_ivecs(path: &Path) -> Result<Truth, DatasetError> {
    let (file, size) = open_sized(path)?;
    let (rows, columns) = vecs_shape(&file, path, size, 4)?;
    let cells = read_cells(&file, path, 0, rows as usize * (columns + 1), i32::from_le_bytes)?;
    let mut ids = Array2::zeros((rows as usize, columns));
    for (row, (cells, mut out)) in cells.chunks(columns + 1).zip(ids.rows_mut()).enumerate() {
        if usize::try_from(cells[0]) != Ok(columns) {
            let problem = format!("row {row} says that it has {} neighbours, row 0 has {columns}", cells[0]);
            return Err(DatasetError::invalid(path, problem, MAKE_AGAIN));
        }
        out.iter_mut().zip(&cells[1..]).for_each(|(id, &cell)| *id = i64::from(cell));
    }
    Truth::new(path, ids, None)
}

fn open_npy(path: &Path) -> Result<Truth, DatasetError> {
    let (file, size) = open_sized(path)?;
    let header = npy::Header::read(&file, path, size)?;
    let width = match header.descr.as_str() {
        "<i4" | "<u4" => 4,
        "<i8" => 8,
        other => {
            return Err(DatasetError::invalid(
                path,
                format!("its cells are {other}; ground truth is read as <i4, <u4 or <i8"),
                "save ids.astype('int64') instead",
            ));
        }
    };
    header.check_size(path, width, size)?;
    refuse_empty(path, header.rows, header.columns)?;
    let cells = (header.rows * header.columns) as usize;
    let ids = match header.descr.as_str() {
        "<i4" => read_cells(&file, path, header.offset, cells, |b| i64::from(i32::from_le_bytes(b)))?,
        "<u4" => read_cells(&file, path, header.offset, cells, |b| i64::from(u32::from_le_bytes(b)))?,
        _ => read_cells(&file, path, header.offset, cells, i64::from_le_bytes)?,
    };
    Truth::new(path, matrix(header.rows, header.columns, ids), None)
}
