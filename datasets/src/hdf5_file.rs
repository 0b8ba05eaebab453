//! Reading the HDF5 files of ann-benchmarks and VIBE.
//!
//! In: a file with root attributes (`distance`, and perhaps `type`, `dimension`, `point_type`) and the
//! matrices `train`, `test`, `neighbors`, `distances`, of which only the ones asked for must exist. Out: its
//! metric, [`Hdf5Rows`], and a [`Truth`]. Calls into HDF5 take one global lock. The library keeps its own
//! error stack quiet; the innermost line of it becomes part of the message.

use std::path::{Path, PathBuf};

use hdf5::types::TypeDescriptor;
use kiln_kernels::Metric;
use ndarray::Array2;

use crate::error::DatasetError;
use crate::hdf5_attributes::text_attribute;
use crate::hdf5_rows::{Hdf5Rows, is_integer};
use crate::truth::Truth;

/// Bytes of unpacked chunks that HDF5 may keep for each matrix.
const CHUNK_CACHE_BYTES: usize = 8 << 20;
/// Hash slots of that cache: a prime, about 100 times the chunks that fit, as HDF5's manual advises.
const CHUNK_CACHE_SLOTS: usize = 10_007;

/// An ann-benchmarks HDF5 file, open for reading.
#[derive(Debug)]
pub(crate) struct Hdf5File {
    file: hdf5::File,
    path: PathBuf,
}

impl Hdf5File {
    /// Opens a file of dense vectors.
    ///
    /// # Errors
    /// When it is damaged, from a newer HDF5, or holds sparse or bit vectors.
    pub(crate) fn open(path: &Path) -> Result<Self, DatasetError> {
        // HDF5 reports a missing file in many words: the system says it better.
        std::fs::File::open(path).map_err(DatasetError::io(path))?;
        let file = hdf5::File::with_options()
            .with_access_plist(|access| access.chunk_cache(CHUNK_CACHE_SLOTS, CHUNK_CACHE_BYTES, 1.0))
            .open(path)
            .map_err(refused(path, "it cannot be opened"))?;
        let opened = Self { file, path: path.to_path_buf() };
        opened.refuse_sparse()?;
        Ok(opened)
    }

    /// True when the file holds a matrix of this name.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.file.link_exists(name)
    }

    /// The metric that the attribute `distance` names, `None` where there is no such attribute.
    ///
    /// # Errors
    /// When it names a metric that Kiln does not compute.
    pub(crate) fn metric(&self) -> Result<Option<Metric>, DatasetError> {
        let Some(distance) = self.text_attribute("distance")? else { return Ok(None) };
        match distance.to_ascii_lowercase().as_str() {
            "euclidean" | "l2" => Ok(Some(Metric::L2)),
            // VIBE says `normalized` where rows have unit length, and stores 1 - dot.
            "angular" | "cosine" | "normalized" => Ok(Some(Metric::Cosine)),
            "dot" | "ip" | "inner_product" => Ok(Some(Metric::InnerProduct)),
            "hamming" | "jaccard" => Err(DatasetError::invalid(
                &self.path,
                format!("its distance is {distance}, on bits or sets"),
                "Kiln indexes dense vectors: choose a euclidean, angular or dot data set",
            )),
            _ => Err(DatasetError::invalid(
                &self.path,
                format!("its distance is {distance:?}, which is not known"),
                "set the root attribute `distance` to euclidean, angular or dot",
            )),
        }
    }

    /// The rows of matrix `name`, `(n, dim)`.
    ///
    /// # Errors
    /// When there is no such matrix, or it is not two-dimensional and numeric.
    pub(crate) fn rows(&self, name: &str) -> Result<Hdf5Rows, DatasetError> {
        Hdf5Rows::new(self.dataset(name)?, &self.path, name)
    }

    /// The ground truth, `None` where the file has no `neighbors`.
    ///
    /// # Errors
    /// When `neighbors` are not integers `(queries, depth)`, or `distances` have another shape.
    pub(crate) fn truth(&self) -> Result<Option<Truth>, DatasetError> {
        if !self.holds("neighbors") {
            return Ok(None);
        }
        let ids = self.ids("neighbors")?;
        let (queries, depth) = ids.dim();
        if !self.holds("distances") {
            return Truth::new(&self.path, ids, None).map(Some);
        }
        let distances = self.dataset("distances")?;
        if distances.shape() != [queries, depth] {
            let problem = format!("has shape {:?}, but `neighbors` has {:?}", distances.shape(), [queries, depth]);
            return Err(self.malformed("distances", problem));
        }
        let stored = descriptor(&distances, &self.path, "distances")?;
        if !matches!(stored, TypeDescriptor::Float(_)) && !is_integer(&stored) {
            return Err(self.malformed("distances", format!("holds {stored}, not numbers")));
        }
        let distances: Array2<f32> = distances.read_2d().map_err(refused(&self.path, "`distances` cannot be read"))?;
        Truth::new(&self.path, ids, Some(distances)).map(Some)
    }

    /// A matrix of row numbers `(queries, depth)`, of any integer type.
    ///
    /// # Errors
    /// When there is no such matrix, or it is not two-dimensional and of integers.
    pub(crate) fn ids(&self, name: &str) -> Result<Array2<i64>, DatasetError> {
        let dataset = self.dataset(name)?;
        let shape = dataset.shape();
        if shape.len() != 2 {
            return Err(self.malformed(name, format!("has shape {shape:?}, not (queries, depth)")));
        }
        let stored = descriptor(&dataset, &self.path, name)?;
        if !is_integer(&stored) {
            return Err(self.malformed(name, format!("holds {stored}, not integers")));
        }
        dataset.read_2d().map_err(refused(&self.path, &format!("`{name}` cannot be read")))
    }

    /// A list of numbers, one a query: of shape (queries) or (queries, 1).
    ///
    /// # Errors
    /// When there is no such list, or it is of another shape or not of numbers.
    pub(crate) fn numbers(&self, name: &str) -> Result<Vec<f64>, DatasetError> {
        let dataset = self.dataset(name)?;
        let shape = dataset.shape();
        if !matches!(shape[..], [_] | [_, 1]) {
            return Err(self.malformed(name, format!("has shape {shape:?}, not (queries)")));
        }
        let stored = descriptor(&dataset, &self.path, name)?;
        if !matches!(stored, TypeDescriptor::Float(_)) && !is_integer(&stored) {
            return Err(self.malformed(name, format!("holds {stored}, not numbers")));
        }
        dataset.read_raw().map_err(refused(&self.path, &format!("`{name}` cannot be read")))
    }

    fn dataset(&self, name: &str) -> Result<hdf5::Dataset, DatasetError> {
        if !self.holds(name) {
            let held = self.file.member_names().unwrap_or_default().join(", ");
            return Err(DatasetError::invalid(
                &self.path,
                format!("it has no matrix `{name}` (it has: {held})"),
                "give a file in the layout of ann-benchmarks: train, test, neighbors, distances",
            ));
        }
        self.file.dataset(name).map_err(refused(&self.path, &format!("`{name}` cannot be opened")))
    }

    fn refuse_sparse(&self) -> Result<(), DatasetError> {
        let kind = self.text_attribute("type")?;
        if kind.as_deref() == Some("sparse") || self.holds("size_train") {
            return Err(DatasetError::invalid(
                &self.path,
                "it holds sparse vectors (flat id lists with their lengths in `size_train`)",
                "Kiln indexes dense vectors: choose a dense data set",
            ));
        }
        if self.text_attribute("point_type")?.as_deref() == Some("bit") {
            return Err(DatasetError::invalid(
                &self.path,
                "it holds bit vectors (`point_type` is bit)",
                "Kiln indexes dense numeric vectors: choose a float data set",
            ));
        }
        Ok(())
    }

    fn text_attribute(&self, name: &str) -> Result<Option<String>, DatasetError> {
        text_attribute(&self.file, &self.path, name)
    }

    fn malformed(&self, name: &str, problem: String) -> DatasetError {
        DatasetError::invalid(
            &self.path,
            format!("`{name}` {problem}"),
            "compute the ground truth again with `kiln datasets truth`",
        )
    }
}

/// The cell type of a matrix.
pub(crate) fn descriptor(dataset: &hdf5::Dataset, path: &Path, name: &str) -> Result<TypeDescriptor, DatasetError> {
    dataset
        .dtype()
        .and_then(|dtype| dtype.to_descriptor())
        .map_err(refused(path, &format!("the cell type of `{name}` is not a plain number")))
}

/// Turns HDF5's error stack into one line: what could not be done, and the innermost cause.
pub(crate) fn refused(path: &Path, what: &str) -> impl FnOnce(hdf5::Error) -> DatasetError + use<> {
    let (path, what) = (path.to_path_buf(), what.to_string());
    move |error| {
        let stack = error.stack();
        let frames = stack.as_deref().unwrap_or_default();
        let cause = frames.last().map_or_else(|| error.to_string(), |frame| frame.desc().to_string());
        let newer = frames.iter().any(|frame| {
            let line = frame.desc();
            line.contains("bad version number")
                || line.contains("bad superblock version")
                || line.contains("bad object header version")
        });
        let remedy = if newer {
            let (major, minor, patch) = hdf5::library_version();
            format!(
                "it was written for a newer HDF5 than {major}.{minor}.{patch} (as h5py does with libver='latest'): \
                 repack it with `h5repack --low=0 --high=1 OLD NEW` of that newer HDF5, or build Kiln with the \
                 feature `hdf5-static`"
            )
        } else {
            "the file is damaged, cut off or not HDF5: fetch or make it again".to_string()
        };
        DatasetError::invalid(path, format!("{what} (HDF5: {cause})"), remedy)
    }
}
