//! What can go wrong with an index. Every message names the file and says what to do next.

use std::path::{Path, PathBuf};

/// A build, an open or a search that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum BuilderError {
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The system's own words.
        source: std::io::Error,
    },
    /// Not an index, or a damaged one.
    #[error("{path}: {problem}; {remedy}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, with place and value.
        problem: String,
        /// What the user can do.
        remedy: &'static str,
    },
    /// A file of another version of the format.
    #[error("{path}: format version {found}, this Kiln reads versions {oldest} to {newest}; rebuild the index or use the Kiln that wrote it", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The oldest version understood.
        oldest: u32,
        /// The newest version understood.
        newest: u32,
    },
    /// A parameter out of range.
    #[error("--{name} {value} is out of range: allowed is {allowed}")]
    Parameter {
        /// The parameter as on the command line.
        name: &'static str,
        /// The value given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// Something that was asked for and that this system, or this much memory, does not give.
    #[error("{what}; {remedy}")]
    Unavailable {
        /// What was asked for, and what stands against it.
        what: String,
        /// What the user can do.
        remedy: &'static str,
    },
    /// A query or a data set that does not fit the index.
    #[error("{0}")]
    Mismatch(String),
    /// A finished unit of work that is not what was written: it has to be made again.
    #[error("{path}: damaged; unit {number} of stage {stage} has to be made again: run the same command", path = path.display())]
    Spoiled {
        /// The unit's file.
        path: PathBuf,
        /// The stage.
        stage: &'static str,
        /// The number of the unit.
        number: u32,
    },
    /// A unit of work in a shared place that others are made from, and that is not there.
    #[error("unit {number} of stage {stage}{} is not in {work}; make what is missing: kiln unit build --work {work} --stage {stage}{}",
        more(*others), if *others == 0 { format!(" --units {number}") } else { String::new() }, work = work.display())]
    Missing {
        /// The place.
        work: PathBuf,
        /// The stage.
        stage: &'static str,
        /// The number of the first that is missing.
        number: u32,
        /// How many more of that stage are.
        others: usize,
    },
    /// A build that was asked to stop, and did so between two units.
    #[error("stopped; {units} finished units are kept in {folder}: run the same command to go on", folder = folder.display())]
    Interrupted {
        /// The working folder.
        folder: PathBuf,
        /// Units that are finished.
        units: usize,
    },
    /// A budget that the work does not fit in.
    #[error("{0}")]
    Budget(String),
    /// The data set could not be read.
    #[error(transparent)]
    Dataset(#[from] kiln_datasets::DatasetError),
    /// A backend refused its operands.
    #[error(transparent)]
    Backend(#[from] kiln_kernels::BackendError),
}

fn more(others: usize) -> String {
    if others == 0 { String::new() } else { format!(" (and {others} more)") }
}

impl BuilderError {
    /// Wraps an I/O error with the file and the action.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }

    /// Less memory than serving needs at least.
    pub(crate) fn too_little_memory(path: &Path, given: u64, least: u64) -> Self {
        let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
        let (given, least) = (mib(given), (10.0 * mib(least)).ceil() / 10.0);
        let what =
            format!("{}: serving from SSD needs at least {least:.1} MiB, --memory gives {given:.1}", path.display());
        Self::Unavailable { what, remedy: "give it more, or build the index with fewer or smaller codes" }
    }

    /// A damaged file, with the remedy that always applies.
    pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_path_buf(),
            problem: problem.into(),
            remedy: "restore the file from a copy or build it again",
        }
    }
}
