//! Writes a data set in another format.
//!
//! In: rows, perhaps with queries, truth and metric. Out: one file, whose extension names the format, that appears
//! whole or not at all. Values are kept exactly: a narrower type is refused at the first value that it cannot hold.

use std::path::Path;

use kiln_kernels::{DType, Element, Metric, Progress, Rows, RowsView, f16};
use ndarray::Array2;

use crate::atomic::AtomicWriter;
use crate::bin::Header;
use crate::dataset::Dataset;
use crate::error::DatasetError;
use crate::format::Format;
use crate::hdf5_write::write_hdf5;
use crate::npy;
use crate::source::{RowSource, blocks};
use crate::truth::Truth;

/// What to write: rows, and what an HDF5 file holds beside them.
#[derive(Clone, Copy)]
pub struct Content<'a> {
    /// The base rows.
    pub base: &'a dyn RowSource,
    /// The queries.
    pub queries: Option<&'a dyn RowSource>,
    /// The ground truth of the queries.
    pub truth: Option<&'a Truth>,
    /// The metric of the truth.
    pub metric: Option<Metric>,
}

impl<'a> Content<'a> {
    /// Rows alone.
    pub fn rows(base: &'a dyn RowSource) -> Self {
        Self { base, queries: None, truth: None, metric: None }
    }
}

impl<'a> From<&'a Dataset> for Content<'a> {
    fn from(dataset: &'a Dataset) -> Self {
        Self {
            base: dataset.base.as_ref(),
            queries: dataset.queries.as_deref(),
            truth: dataset.truth.as_ref(),
            metric: dataset.metric,
        }
    }
}

/// Writes `content` to `out`, whose extension names the format. `.hdf5` takes everything, in the layout of
/// ann-benchmarks; the others (`.fbin .f16bin .u8bin .i8bin .fvecs .bvecs .npy`) take the base rows only.
/// Progress counts rows.
///
/// # Errors
/// When the extension is unknown or of ground truth, a value does not fit the type, or reading or writing fails. No
/// file is left under `out` then.
pub fn convert(content: &Content<'_>, out: &Path, progress: &dyn Progress) -> Result<(), DatasetError> {
    let rows = content.base.len() + content.queries.map_or(0, |queries| queries.len());
    let format = Format::of(out)?;
    match format {
        Format::Hdf5 => {
            progress.stage("write", rows);
            write_hdf5(content, out, progress)?;
        }
        Format::Bin(_) | Format::Vecs(_) | Format::Npy => {
            progress.stage("write", content.base.len());
            write_rows(content.base, format, out, progress)?;
        }
        Format::Ibin | Format::Ivecs => {
            return Err(DatasetError::invalid(
                out,
                "its extension says ground truth, and vectors were to be written",
                "name it .hdf5, .fbin, .f16bin, .u8bin, .i8bin, .fvecs, .bvecs or .npy",
            ));
        }
    }
    progress.finish();
    Ok(())
}

fn write_rows(source: &dyn RowSource, format: Format, out: &Path, progress: &dyn Progress) -> Result<(), DatasetError> {
    let dim = u32::try_from(source.dim()).map_err(|_| {
        DatasetError::invalid(
            source.path(),
            format!("rows of {} coordinates", source.dim()),
            "write .npy or .hdf5 instead",
        )
    })?;
    let (dtype, header, prefix) = match format {
        Format::Bin(dtype) => (dtype, Header::encode(source.len(), dim), Vec::new()),
        Format::Vecs(dtype) => (dtype, Vec::new(), dim.to_le_bytes().to_vec()),
        _ => {
            let dtype = source.dtype();
            (dtype, npy::encode_header(npy::descr_of(dtype), source.len(), u64::from(dim)), Vec::new())
        }
    };
    let mut writer = AtomicWriter::create(out)?;
    writer.write(&header)?;
    for block in blocks(source, 0..source.len()) {
        let rows = cast(source.read(block.clone())?, dtype, source.path(), block.start)?;
        if prefix.is_empty() {
            writer.write(rows.as_bytes())?;
        } else {
            let view = rows.view();
            for i in 0..view.len() {
                writer.write(&prefix)?;
                writer.write(view.row_bytes(i))?;
            }
        }
        progress.advance(block.end - block.start);
    }
    writer.commit()
}

/// Rows in another element type, exactly. `first` is the number of row 0, for messages.
///
/// # Errors
/// At the first value that `dtype` cannot hold.
fn cast(rows: Rows, dtype: DType, path: &Path, first: u64) -> Result<Rows, DatasetError> {
    if rows.dtype() == dtype {
        return Ok(rows);
    }
    let view = rows.view();
    match dtype {
        DType::F32 => Ok(Rows::F32(view.to_f32())),
        DType::F16 => cast_to(&view, f16::from_f32, path, first),
        // `as` saturates, so that a value out of range comes back changed and is refused.
        DType::U8 => cast_to(&view, |x| x as u8, path, first),
        DType::I8 => cast_to(&view, |x| x as i8, path, first),
    }
}

fn cast_to<T: Element + Clone>(
    view: &RowsView<'_>,
    narrow: impl Fn(f32) -> T,
    path: &Path,
    first: u64,
) -> Result<Rows, DatasetError> {
    let wide = view.to_f32();
    for ((row, coordinate), &value) in wide.indexed_iter() {
        if narrow(value).to_f32() != value {
            return Err(DatasetError::invalid(
                path,
                format!(
                    "row {}, coordinate {coordinate} is {value}, which {} cannot hold exactly",
                    first + row as u64,
                    T::DTYPE
                ),
                "write a wider type, such as .fbin",
            ));
        }
    }
    Ok(T::into_rows(wide.mapv(narrow)))
}

/// Writes ground truth to `out`: `.ibin` (big-ann: ids and distances), `.ivecs` or `.npy` (ids only), or `.hdf5`, a new
/// file with the base, the queries and the truth of `content`.
///
/// # Errors
/// When `content` has no truth, an id does not fit the format, the extension is another, or writing fails.
pub fn write_truth(content: &Content<'_>, out: &Path, progress: &dyn Progress) -> Result<(), DatasetError> {
    let Some(truth) = content.truth else {
        return Err(DatasetError::invalid(out, "there is no ground truth to write", "compute it first"));
    };
    let mut bytes = Vec::new();
    match Format::of(out)? {
        Format::Hdf5 => return convert(content, out, progress),
        Format::Ibin => {
            bytes.extend(Header::encode(truth.queries() as u64, columns(truth, out)?));
            for &id in &truth.ids {
                bytes.extend(small_id(id, out)?.to_le_bytes());
            }
            for distance in truth.distances.iter().flatten() {
                bytes.extend(distance.to_le_bytes());
            }
        }
        Format::Ivecs => {
            let columns = columns(truth, out)?;
            for row in truth.ids.rows() {
                bytes.extend(columns.to_le_bytes());
                for &id in row {
                    bytes.extend(small_id(id, out)?.to_le_bytes());
                }
            }
        }
        Format::Npy => {
            bytes.extend(npy::encode_header("<i8", truth.queries() as u64, truth.depth() as u64));
            bytes.extend(truth.ids.iter().flat_map(|id| id.to_le_bytes()));
        }
        Format::Bin(_) | Format::Vecs(_) => {
            return Err(DatasetError::invalid(
                out,
                "its extension says vectors, and ground truth was to be written",
                "name it .ibin, .ivecs, .npy or .hdf5",
            ));
        }
    }
    crate::atomic::write_file(out, &bytes)
}

/// Writes distances `(queries, k)` to a `.npy` as they are: infinite where a query has fewer answers than k.
///
/// # Errors
/// When writing fails.
pub fn write_distances(distances: &Array2<f32>, out: &Path) -> Result<(), DatasetError> {
    let (queries, k) = distances.dim();
    let mut bytes = npy::encode_header(npy::descr_of(DType::F32), queries as u64, k as u64);
    bytes.extend(distances.iter().flat_map(|distance| distance.to_le_bytes()));
    crate::atomic::write_file(out, &bytes)
}

fn columns(truth: &Truth, out: &Path) -> Result<u32, DatasetError> {
    u32::try_from(truth.depth())
        .map_err(|_| DatasetError::invalid(out, format!("a depth of {}", truth.depth()), "write .npy or .hdf5 instead"))
}

fn small_id(id: i64, out: &Path) -> Result<i32, DatasetError> {
    i32::try_from(id).map_err(|_| {
        DatasetError::invalid(
            out,
            format!("row number {id} does not fit this format's 32 bits"),
            "write .npy or .hdf5 instead",
        )
    })
}
