//! The data sets that Kiln knows by name.
//!
//! In: `registry.toml`, compiled in. Out: [`Entry`] values: addresses, shapes, and where a fetched set lies.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use kiln_kernels::{DType, Metric};
use serde::Deserialize;

use crate::error::DatasetError;

const BUILT_IN: &str = include_str!("../registry.toml");

/// A list of data sets.
#[derive(Debug, Clone)]
pub struct Registry {
    entries: Vec<Entry>,
}

/// One data set: an HDF5 file, or a base file with queries and truth.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name on the command line.
    pub name: String,
    /// Rows of the base.
    pub rows: u64,
    /// Coordinates in a row.
    pub dim: usize,
    /// The metric of its truth.
    pub metric: Metric,
    /// The type of a coordinate.
    pub dtype: DType,
    /// The number of queries, where it is known.
    pub queries: Option<u64>,
    /// Size of the base file in bytes, where it is known.
    pub bytes: Option<u64>,
    /// Lower-case hexadecimal SHA-256 of the file at `url`, where it is known.
    pub sha256: Option<String>,
    /// Address of the HDF5 file or of the base rows.
    pub url: String,
    /// Address of the queries, for a set of several files.
    pub query_url: Option<String>,
    /// Address of the truth, for a set of several files.
    pub truth_url: Option<String>,
    /// True when the base is the first `rows` rows of the file at `url`.
    pub prefix: bool,
    /// Why Kiln cannot use the set, where it cannot.
    pub unsupported: Option<String>,
}

/// The layout of `registry.toml`. The metric is text here because sets under foreign metrics are listed too.
#[derive(Debug, Deserialize)]
struct Listing {
    set: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    name: String,
    rows: u64,
    dim: usize,
    metric: String,
    dtype: DType,
    queries: Option<u64>,
    bytes: Option<u64>,
    sha256: Option<String>,
    url: String,
    query_url: Option<String>,
    truth_url: Option<String>,
    #[serde(default)]
    prefix: bool,
    unsupported: Option<String>,
}

/// Where the files of a set lie in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FetchedFiles {
    /// An HDF5 file.
    One(PathBuf),
    /// A base file with its queries and truth.
    Parts { base: PathBuf, queries: PathBuf, truth: Option<PathBuf> },
}

impl FetchedFiles {
    /// Every file of the set.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Path> {
        let (first, rest) = match self {
            Self::One(path) => (path, [None, None]),
            Self::Parts { base, queries, truth } => (base, [Some(queries), truth.as_ref()]),
        };
        std::iter::once(first.as_path()).chain(rest.into_iter().flatten().map(PathBuf::as_path))
    }
}

impl Registry {
    /// The list that is compiled in.
    pub fn built_in() -> &'static Self {
        static REGISTRY: LazyLock<Registry> =
            LazyLock::new(|| Registry::parse(BUILT_IN).expect("registry.toml is checked by a test"));
        &REGISTRY
    }

    /// Reads a list in the layout of `registry.toml`.
    fn parse(text: &str) -> Result<Self, String> {
        let listing: Listing = toml::from_str(text).map_err(|error| error.to_string())?;
        let entries = listing.set.into_iter().map(Listed::into_entry).collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }

    /// All sets, in the order of the file.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The set of this name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

impl Listed {
    fn into_entry(self) -> Result<Entry, String> {
        let metric = match (self.metric.parse(), &self.unsupported) {
            (Ok(metric), _) => metric,
            // Refused before the metric is looked at.
            (Err(_), Some(_)) => Metric::L2,
            (Err(problem), None) => return Err(format!("{}: {problem}", self.name)),
        };
        Ok(Entry {
            name: self.name,
            rows: self.rows,
            dim: self.dim,
            metric,
            dtype: self.dtype,
            queries: self.queries,
            bytes: self.bytes,
            sha256: self.sha256,
            url: self.url,
            query_url: self.query_url,
            truth_url: self.truth_url,
            prefix: self.prefix,
            unsupported: self.unsupported,
        })
    }
}

impl Entry {
    /// Refuses a set that Kiln cannot use, with the reason.
    pub(crate) fn refuse_unsupported(&self) -> Result<(), DatasetError> {
        match &self.unsupported {
            None => Ok(()),
            Some(reason) => Err(DatasetError::invalid(
                &self.name,
                format!("this data set is not supported: {reason}"),
                "choose one with dense vectors (`kiln datasets list`)",
            )),
        }
    }

    /// The files of this set under `cache_dir`.
    pub(crate) fn files(&self, cache_dir: &Path) -> FetchedFiles {
        if self.query_url.is_none() {
            return FetchedFiles::One(cache_dir.join(format!("{}.hdf5", self.name)));
        }
        let extension = match self.dtype {
            DType::F32 => "fbin",
            DType::F16 => "f16bin",
            DType::U8 => "u8bin",
            DType::I8 => "i8bin",
        };
        let dir = cache_dir.join(&self.name);
        FetchedFiles::Parts {
            base: dir.join(format!("base.{extension}")),
            queries: dir.join(format!("query.{extension}")),
            truth: self.truth_url.as_ref().map(|_| dir.join("truth.ibin")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_built_in_list_is_sound() {
        let registry = Registry::parse(BUILT_IN).unwrap();
        let names: HashSet<_> = registry.entries().iter().map(|entry| &entry.name).collect();
        assert_eq!(names.len(), registry.entries().len(), "a name is listed twice");
        for entry in registry.entries() {
            assert!(entry.rows > 0 && entry.dim > 0 && entry.url.starts_with("https://"), "{entry:?}");
            assert!(entry.query_url.is_some() || entry.url.ends_with(&format!("/{}.hdf5", entry.name)), "{entry:?}");
            assert!(!entry.prefix || entry.rows < 1 << 32, "{entry:?}");
            if let (Some(bytes), Some(_)) = (entry.bytes, &entry.query_url) {
                assert_eq!(bytes, 8 + entry.rows * (entry.dim * entry.dtype.bytes()) as u64, "{}", entry.name);
            }
        }
        for name in ["sift-128-euclidean", "glove-25-angular", "deep-10M", "msspacev-100M", "yfcc-10M", "yi-128-ip"] {
            assert!(registry.get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn foreign_sets_are_refused_by_name() {
        let entry = Registry::built_in().get("kosarak-jaccard").unwrap();
        let message = entry.refuse_unsupported().unwrap_err().to_string();
        assert!(message.contains("kosarak-jaccard") && message.contains("Jaccard"), "{message}");
    }
}
