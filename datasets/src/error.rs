//! What can be wrong with a data set. Every message names the file and says what to do next.

use std::path::PathBuf;

/// A data set, or a part of one, that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {problem}; {remedy}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the offending value.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
    /// A NaN or an infinity.
    #[error("{path}: row {row}, coordinate {coordinate} is {value}; remove or repair that row: Kiln takes finite values only", path = path.display())]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// Row number within the file's matrix.
        row: u64,
        /// Coordinate within the row.
        coordinate: usize,
        /// The value found.
        value: f32,
    },
    /// A backend refused the operands.
    #[error(transparent)]
    Backend(#[from] kiln_kernels::BackendError),
    /// A download failed for good.
    #[error("{url}: {problem}; {remedy}")]
    Fetch {
        /// The address.
        url: String,
        /// What went wrong.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
}

impl DatasetError {
    /// An [`DatasetError::Invalid`] from its parts.
    pub fn invalid(path: impl Into<PathBuf>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Invalid { path: path.into(), problem: problem.into(), remedy: remedy.into() }
    }

    /// Wraps an I/O error with the file it concerns.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
