//! A data set: base rows, queries, ground truth and metric, from one file, a fetched set, or the demo.
//!
//! In: a path or the name of a fetched set. Out: a [`Dataset`], whose matrices are read in blocks on demand.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kiln_kernels::Metric;
use tempfile::TempPath;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::bin::{open_bin, open_vecs};
use crate::error::DatasetError;
use crate::flat::open_sized;
use crate::format::Format;
use crate::hdf5_file::Hdf5File;
use crate::npy::open_npy;
use crate::recipe::hash;
use crate::registry::{FetchedFiles, Registry};
use crate::source::RowSource;
use crate::synth::{SynthSource, SynthSpec};
use crate::synth_name;
use crate::truth::Truth;

/// Descriptors of photographs, 10,000 x 128, with 500 queries and their truth (see `data/NOTICE`).
const DEMO: &[u8] = include_bytes!("../data/photosift-10k-128-euclidean.hdf5");
const DEMO_NAME: &str = "photosift-10k-128-euclidean";

/// Bytes at the start of a file that always enter its fingerprint.
const FINGERPRINT_HEAD: u64 = 64 << 10;
/// Sampled blocks that enter a fingerprint, and their size.
const FINGERPRINT_BLOCKS: u64 = 1024;
const FINGERPRINT_BLOCK_BYTES: u64 = 4096;

/// Everything an experiment needs of a data set.
pub struct Dataset {
    /// The file's stem or the registry's name.
    pub name: String,
    /// The file of the base rows.
    pub path: PathBuf,
    /// The metric that the set was made for, where it says so.
    pub metric: Option<Metric>,
    /// The rows to index.
    pub base: Box<dyn RowSource>,
    /// The rows to search for.
    pub queries: Option<Box<dyn RowSource>>,
    /// The exact neighbours of the queries.
    pub truth: Option<Truth>,
    /// Hexadecimal xxh3-128 of the base file: its size, its first 64 KiB and 1,024 seeded blocks of 4 KiB.
    pub fingerprint: String,
    /// Keeps the demo's unpacked file until the data set is dropped.
    unpacked: Option<TempPath>,
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataset")
            .field("name", &self.name)
            .field("path", &self.path)
            .field("metric", &self.metric)
            .field("shape", &(self.base.len(), self.base.dim()))
            .field("dtype", &self.base.dtype())
            .field("queries", &self.queries.as_ref().map(|queries| queries.len()))
            .field("depth", &self.truth.as_ref().map(Truth::depth))
            .field("fingerprint", &self.fingerprint)
            .finish()
    }
}

impl Dataset {
    /// The name of [`Self::embedded_demo`], unless there is a file of that name.
    pub const DEMO: &'static str = "demo";

    /// Opens `spec`: the path of a file, [`Self::DEMO`], the name of a set that was fetched into `cache_dir`, or a synthetic
    /// set as `synth:rows=N,dim=D,...`, whose rows are made as they are read. All of an HDF5 file or a fetched set is used;
    /// of any other file only its rows.
    ///
    /// # Errors
    /// When there is no such file or set, it was not fetched, or its parts do not fit together.
    pub fn open(spec: &str, cache_dir: &Path) -> Result<Self, DatasetError> {
        let path = Path::new(spec);
        if path.is_file() {
            return Self::open_file(path);
        }
        if spec == Self::DEMO {
            return Self::embedded_demo();
        }
        if let Some(named) = synth_name::parse(spec) {
            let (spec, queries) = named?;
            return Self::synthetic(&spec, queries);
        }
        let Some(entry) = Registry::built_in().get(spec) else {
            return Err(DatasetError::invalid(
                path,
                "there is no such file, and no known data set has this name",
                "check the path, or see `kiln datasets list` for the names",
            ));
        };
        entry.refuse_unsupported()?;
        let files = entry.files(cache_dir);
        if let Some(missing) = files.all().find(|file| !file.is_file()) {
            return Err(DatasetError::invalid(
                missing,
                format!("data set {spec} is not in the cache {}", cache_dir.display()),
                format!("run `kiln datasets fetch {spec}`"),
            ));
        }
        match files {
            FetchedFiles::One(path) => {
                let opened = Self::open_file(&path)?;
                Ok(Self { name: spec.to_string(), metric: opened.metric.or(Some(entry.metric)), ..opened })
            }
            FetchedFiles::Parts { base, queries, truth } => Self {
                name: spec.to_string(),
                metric: Some(entry.metric),
                queries: Some(open_rows(&queries)?),
                truth: truth.as_deref().map(Truth::open).transpose()?,
                ..Self::open_file(&base)?
            }
            .checked(),
        }
    }

    /// Opens one file: all of an HDF5 file, the rows of any other.
    ///
    /// # Errors
    /// When it cannot be read or its parts do not fit together.
    pub fn open_file(path: &Path) -> Result<Self, DatasetError> {
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let fingerprint = fingerprint(path)?;
        let path = path.to_path_buf();
        if Format::of(&path)? != Format::Hdf5 {
            let base = open_rows(&path)?;
            return Ok(Self {
                name,
                path,
                metric: None,
                base,
                queries: None,
                truth: None,
                fingerprint,
                unpacked: None,
            });
        }
        let file = Hdf5File::open(&path)?;
        let queries: Option<Box<dyn RowSource>> =
            if file.holds("test") { Some(Box::new(file.rows("test")?)) } else { None };
        let (metric, base, truth) = (file.metric()?, Box::new(file.rows("train")?), file.truth()?);
        Self { name, path, metric, base, queries, truth, fingerprint, unpacked: None }.checked()
    }

    /// The demo that travels inside the program: 10,000 SIFT descriptors of photographs, 500 queries, truth of depth
    /// 100. It is unpacked to a temporary file, which goes when the data set is dropped.
    ///
    /// # Errors
    /// When no temporary file can be written.
    pub fn embedded_demo() -> Result<Self, DatasetError> {
        let mut unpacked = tempfile::Builder::new()
            .prefix("kiln-demo-")
            .suffix(".hdf5")
            .tempfile()
            .map_err(DatasetError::io(std::env::temp_dir()))?;
        unpacked.write_all(DEMO).map_err(DatasetError::io(unpacked.path()))?;
        let path = unpacked.into_temp_path();
        let opened = Self::open_file(&path)?;
        Ok(Self { name: DEMO_NAME.to_string(), unpacked: Some(path), ..opened })
    }

    /// A synthetic set with `queries` queries (none where 0), and no truth: see [`exact_truth`](crate::exact_truth).
    /// Its path and fingerprint are made of its parameters.
    ///
    /// # Errors
    /// As [`SynthSource::new`].
    pub fn synthetic(spec: &SynthSpec, queries: u64) -> Result<Self, DatasetError> {
        let base = SynthSource::new(spec)?;
        let searched: Option<Box<dyn RowSource>> =
            if queries > 0 { Some(Box::new(base.queries(queries))) } else { None };
        Ok(Self {
            name: spec.label(),
            path: spec.label().into(),
            metric: Some(Metric::L2),
            base: Box::new(base),
            queries: searched,
            truth: None,
            fingerprint: format!("{:032x}", xxh3_128(spec.label().as_bytes())),
            unpacked: None,
        })
    }

    /// The same base with other queries and their truth.
    ///
    /// # Errors
    /// When the queries have another dimension, or the truth is for another number of queries.
    pub fn with_queries(self, queries: Box<dyn RowSource>, truth: Option<Truth>) -> Result<Self, DatasetError> {
        Self { queries: Some(queries), truth, ..self }.checked()
    }

    /// Where it was read from, for records: its path, unless it is the demo, whose file does not last.
    pub fn location(&self) -> String {
        match self.unpacked {
            Some(_) => "embedded in the program".to_string(),
            None => self.path.display().to_string(),
        }
    }

    /// Refuses queries of another dimension and truth of another number of queries.
    fn checked(self) -> Result<Self, DatasetError> {
        let Some(queries) = &self.queries else { return Ok(self) };
        if queries.dim() != self.base.dim() {
            return Err(DatasetError::invalid(
                &self.path,
                format!("its rows have {} coordinates but its queries {}", self.base.dim(), queries.dim()),
                "give queries of the base's dimension",
            ));
        }
        if let Some(truth) = &self.truth
            && truth.queries() as u64 != queries.len()
        {
            return Err(DatasetError::invalid(
                &self.path,
                format!("it has {} queries but truth for {}", queries.len(), truth.queries()),
                "compute the ground truth again with `kiln datasets truth`",
            ));
        }
        Ok(self)
    }
}

/// Opens the rows of a file by its extension: `train` of an HDF5 file, all rows of any other.
///
/// # Errors
/// When the extension is unknown, the file is malformed, or it holds ground truth.
pub fn open_rows(path: &Path) -> Result<Box<dyn RowSource>, DatasetError> {
    open_matrix(path, "train")
}

/// Opens the queries of a file: `test` of an HDF5 file, all rows of any other.
///
/// # Errors
/// As [`open_rows`].
pub fn open_queries(path: &Path) -> Result<Box<dyn RowSource>, DatasetError> {
    open_matrix(path, "test")
}

fn open_matrix(path: &Path, hdf5_name: &str) -> Result<Box<dyn RowSource>, DatasetError> {
    Ok(match Format::of(path)? {
        Format::Hdf5 => Box::new(Hdf5File::open(path)?.rows(hdf5_name)?),
        Format::Bin(dtype) => Box::new(open_bin(path, dtype)?),
        Format::Vecs(dtype) => Box::new(open_vecs(path, dtype)?),
        Format::Npy => Box::new(open_npy(path)?),
        Format::Ibin | Format::Ivecs => {
            return Err(DatasetError::invalid(
                path,
                "its extension says that it holds ground truth, not vectors",
                "give it as the truth, and a file of vectors here",
            ));
        }
    })
}

/// Tells files apart without reading all of a large one: see [`Dataset::fingerprint`].
pub(crate) fn fingerprint(path: &Path) -> Result<String, DatasetError> {
    let (file, size) = open_sized(path)?;
    let mut digest = Xxh3::new();
    digest.update(&size.to_le_bytes());
    add_range(&mut digest, &file, path, 0, FINGERPRINT_HEAD.min(size))?;
    let blocks = size.div_ceil(FINGERPRINT_BLOCK_BYTES);
    for i in 0..FINGERPRINT_BLOCKS {
        let start = (hash(0, 0, i, 0) % blocks.max(1)) * FINGERPRINT_BLOCK_BYTES;
        add_range(&mut digest, &file, path, start, FINGERPRINT_BLOCK_BYTES.min(size - start.min(size)))?;
    }
    Ok(format!("{:032x}", digest.digest128()))
}

fn add_range(digest: &mut Xxh3, file: &File, path: &Path, start: u64, bytes: u64) -> Result<(), DatasetError> {
    let mut buffer = vec![0; bytes as usize];
    file.read_exact_at(&mut buffer, start).map_err(DatasetError::io(path))?;
    digest.update(&buffer);
    Ok(())
}
