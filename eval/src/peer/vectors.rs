//! The vectors as files that processes map: base rows and queries, in the data set's own type or in float32.
//!
//! In: a data set and its queries. Out: `.npy` files in a folder of the run, made when they are first needed. A process
//! that writes to one of them is found out by its contents, and the file is made again.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use kiln_datasets::{Content, DatasetError, MemorySource, RowSource, convert};
use kiln_kernels::{DType, NoProgress, Rows};
use xxhash_rust::xxh3::Xxh3;

use crate::error::EvalError;
use crate::store::StoreError;

/// Element types of which a file can be made, by NumPy's names.
pub(super) fn numpy_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::U8 => "uint8",
        DType::I8 => "int8",
    }
}

/// The two files of one element type.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub dtype: DType,
    pub base: PathBuf,
    pub queries: PathBuf,
    sums: [u64; 2],
}

/// The files of a data set, in a folder that goes when this is dropped.
pub(super) struct Vectors<'a> {
    folder: PathBuf,
    base: &'a dyn RowSource,
    queries: &'a Rows,
    made: Vec<Files>,
}

impl<'a> Vectors<'a> {
    pub(super) fn new(folder: PathBuf, base: &'a dyn RowSource, queries: &'a Rows) -> Self {
        Self { folder, base, queries, made: Vec::new() }
    }

    /// Rows of the base.
    pub(super) fn rows(&self) -> u64 {
        self.base.len()
    }

    /// Coordinates of a row.
    pub(super) fn dim(&self) -> usize {
        self.base.dim()
    }

    /// Queries.
    pub(super) fn queries(&self) -> usize {
        self.queries.len()
    }

    /// The element type to give a process that takes these: the data set's own, else float32.
    pub(super) fn dtype_for(&self, taken: &[String]) -> Result<DType, String> {
        let own = self.base.dtype();
        let takes = |dtype: DType| taken.iter().any(|name| name == numpy_name(dtype));
        match (taken.is_empty(), takes(own), takes(DType::F32)) {
            (_, true, _) => Ok(own),
            (true, ..) | (_, _, true) => Ok(DType::F32),
            _ => Err(format!("it takes {}, and the vectors are {} or float32", taken.join(", "), numpy_name(own))),
        }
    }

    /// The files of one element type, which is the data set's own or float32.
    pub(super) fn files(&mut self, dtype: DType) -> Result<Files, EvalError> {
        if let Some(files) = self.made.iter().find(|files| files.dtype == dtype) {
            return Ok(files.clone());
        }
        std::fs::create_dir_all(&self.folder).map_err(|source| StoreError::Write {
            path: self.folder.clone(),
            action: "create the folder",
            source,
        })?;
        let path = |part: &str| self.folder.join(format!("{part}.{}.npy", numpy_name(dtype)));
        let (base, queries) = (path("base"), path("queries"));
        let source = MemorySource::new(self.queries.clone(), &queries);
        write(self.base, dtype, &base)?;
        write(&source, dtype, &queries)?;
        let sums = [sum(&base)?, sum(&queries)?];
        let files = Files { dtype, base, queries, sums };
        self.made.push(files.clone());
        Ok(files)
    }

    /// Which of the files is not what it was, if one is not; those of its type are then made again when they are next
    /// needed.
    pub(super) fn changed(&mut self) -> Option<PathBuf> {
        let mut first = None;
        self.made.retain(|files| {
            let now = [&files.base, &files.queries];
            let changed = now.into_iter().zip(files.sums).find(|(path, was)| sum(path).ok() != Some(*was));
            if let Some((path, _)) = changed {
                first.get_or_insert_with(|| path.clone());
            }
            changed.is_none()
        });
        first
    }
}

impl Drop for Vectors<'_> {
    fn drop(&mut self) {
        // They are made again when they are needed.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn write(source: &dyn RowSource, dtype: DType, out: &Path) -> Result<(), DatasetError> {
    // Whoever has mapped an older file keeps that one.
    let _ = std::fs::remove_file(out);
    match dtype == source.dtype() {
        true => convert(&Content::rows(source), out, &NoProgress),
        false => convert(&Content::rows(&Single(source)), out, &NoProgress),
    }
}

/// A source's rows in float32.
struct Single<'a>(&'a dyn RowSource);

impl RowSource for Single<'_> {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn dim(&self) -> usize {
        self.0.dim()
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read(&self, rows: Range<u64>) -> Result<Rows, DatasetError> {
        Ok(Rows::F32(self.0.read(rows)?.view().to_f32()))
    }
}

/// A checksum of a file's contents.
fn sum(path: &Path) -> Result<u64, StoreError> {
    let read = || -> std::io::Result<u64> {
        let (mut file, mut hash) = (File::open(path)?, Xxh3::new());
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hash.digest()),
                bytes => hash.update(&buffer[..bytes]),
            }
        }
    };
    read().map_err(|source| StoreError::Read { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    #[test]
    fn files_hold_the_rows_and_a_change_is_found() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let base = MemorySource::new(Rows::U8(Array2::from_shape_fn((5, 3), |(i, j)| (10 * i + j) as u8)), "made");
        let queries = Rows::U8(Array2::from_elem((2, 3), 7));
        let mut vectors = Vectors::new(folder.path().join("vectors"), &base, &queries);
        let takes = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(vectors.dtype_for(&[]), Ok(DType::F32));
        assert_eq!(vectors.dtype_for(&takes(&["float32", "uint8"])), Ok(DType::U8));
        assert_eq!(vectors.dtype_for(&takes(&["float32"])), Ok(DType::F32));
        assert!(vectors.dtype_for(&takes(&["int8"])).is_err_and(|why| why.contains("uint8 or float32")));

        let files = vectors.files(DType::F32).expect("written");
        let read = kiln_datasets::open_rows(&files.base).expect("a .npy");
        assert_eq!((read.len(), read.dim(), read.dtype()), (5, 3, DType::F32));
        let own = vectors.files(DType::U8).expect("written");
        assert!(own.base != files.base && own.base.is_file());
        assert_eq!(vectors.changed(), None);
        let mut bytes = std::fs::read(&files.queries).expect("readable");
        *bytes.last_mut().expect("not empty") ^= 1;
        std::fs::write(&files.queries, bytes).expect("written");
        assert_eq!(vectors.changed(), Some(files.queries.clone()));
        vectors.files(DType::F32).expect("made again");
        assert_eq!(vectors.changed(), None);
        drop(vectors);
        assert!(!folder.path().join("vectors").exists());
    }
}
