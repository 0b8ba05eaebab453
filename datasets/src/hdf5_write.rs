//! Writes a data set in the HDF5 layout of ann-benchmarks.
//!
//! In: a [`Content`]. Out: a file with `train`, and where there are any `test`, `neighbors` (i32 where ids fit, else
//! i64) and `distances` (f32), and the root attributes `type`, `dimension`, `point_type` and, where known, `distance`.

use std::path::Path;

use kiln_kernels::{Metric, Progress, dispatch_dtype, dispatch_rows};
use ndarray::s;

use crate::atomic::AtomicFile;
use crate::convert::Content;
use crate::error::DatasetError;
use crate::hdf5_attributes::{write_scalar, write_text};
use crate::source::{RowSource, blocks};
use crate::truth::Truth;

/// Writes `content` to `out`, which appears whole or not at all.
pub(crate) fn write_hdf5(content: &Content<'_>, out: &Path, progress: &dyn Progress) -> Result<(), DatasetError> {
    let target = AtomicFile::new(out);
    let failed = failure(target.partial());
    let file = hdf5::File::create(target.partial()).map_err(&failed)?;
    write_attributes(&file, content).map_err(&failed)?;
    write_matrix(&file, "train", content.base, target.partial(), progress)?;
    if let Some(queries) = content.queries {
        write_matrix(&file, "test", queries, target.partial(), progress)?;
    }
    if let Some(truth) = content.truth {
        write_neighbours(&file, truth).map_err(&failed)?;
    }
    file.flush().and_then(|()| file.close()).map_err(&failed)?;
    target.commit()
}

/// An error of HDF5 on writing: most often, no space.
pub(crate) fn failure(path: &Path) -> impl Fn(hdf5::Error) -> DatasetError + use<> {
    let path = path.to_path_buf();
    move |error| {
        DatasetError::invalid(&path, format!("it cannot be written (HDF5: {error})"), "check space and permissions")
    }
}

fn write_attributes(file: &hdf5::File, content: &Content<'_>) -> hdf5::Result<()> {
    let text = |name: &str, value: &str| write_text(file, name, value);
    text("type", "dense")?;
    text("point_type", "float")?;
    if let Some(metric) = content.metric {
        let distance = match metric {
            Metric::L2 => "euclidean",
            Metric::Cosine => "angular",
            Metric::InnerProduct => "dot",
        };
        text("distance", distance)?;
    }
    write_scalar(file, "dimension", content.base.dim() as i64)
}

fn write_matrix(
    file: &hdf5::File,
    name: &str,
    source: &dyn RowSource,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), DatasetError> {
    let failed = failure(path);
    let shape = (source.len() as usize, source.dim());
    let dataset =
        dispatch_dtype!(source.dtype(), T => file.new_dataset::<T>().shape(shape).create(name)).map_err(&failed)?;
    for block in blocks(source, 0..source.len()) {
        let rows = source.read(block.clone())?;
        let range = block.start as usize..block.end as usize;
        dispatch_rows!(rows.view(), v => dataset.write_slice(v, s![range, ..])).map_err(&failed)?;
        progress.advance(block.end - block.start);
    }
    Ok(())
}

fn write_neighbours(file: &hdf5::File, truth: &Truth) -> hdf5::Result<()> {
    if truth.ids.iter().all(|&id| i32::try_from(id).is_ok()) {
        // The hosted files have i32, and some readers take nothing else.
        file.new_dataset_builder().with_data(&truth.ids.mapv(|id| id as i32)).create("neighbors")?;
    } else {
        file.new_dataset_builder().with_data(&truth.ids).create("neighbors")?;
    }
    if let Some(distances) = &truth.distances {
        file.new_dataset_builder().with_data(distances).create("distances")?;
    }
    Ok(())
}
