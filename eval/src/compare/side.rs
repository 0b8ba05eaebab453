//! Reading a side of a comparison: a run folder, or a folder that holds several.
//!
//! In: a folder. Out: its [`Run`]s, in the order of their paths.

use std::path::{Path, PathBuf};

use crate::record::RunData;
use crate::store::{self, StoreError};

/// Folders below a side in which runs are looked for.
const DEPTH: usize = 4;

/// A run folder and what it holds.
#[derive(Debug, Clone)]
pub struct Run {
    /// The folder.
    pub dir: PathBuf,
    /// Its records.
    pub data: RunData,
}

/// Sides that cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// No such folder, or not a folder.
    #[error("{dir}: {source}; give a run folder, as `kiln bench --out DIR` writes it, or a folder of such folders",
        dir = dir.display())]
    Unreadable {
        /// The folder.
        dir: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A folder without a run.
    #[error("{dir}: there is no run in it (no run.json here or in the folders below); \
         make one with `kiln bench --out {dir}`", dir = dir.display())]
    NoRun {
        /// The folder.
        dir: PathBuf,
    },
    /// Runs in which nothing was measured.
    #[error("{dir}: no setting is measured in it, so that there is nothing to compare; \
         let `kiln bench --out {dir}` come to its end", dir = dir.display())]
    Empty {
        /// The folder.
        dir: PathBuf,
    },
    /// An A/A run of something else.
    #[error("{dir}: it says nothing of the noise between A and B: {problem}", dir = dir.display())]
    ForeignNoise {
        /// The folder.
        dir: PathBuf,
        /// Why not.
        problem: String,
    },
    /// A run that cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads the run in `dir`, or all runs below it.
///
/// # Errors
/// When there is none, one cannot be read, or none holds a measured setting.
pub fn read_side(dir: &Path) -> Result<Vec<Run>, CompareError> {
    let mut folders = Vec::new();
    // The dot asks whether it is a folder, and the system says why not.
    std::fs::metadata(dir.join(".")).map_err(unreadable(dir))?;
    find_runs(dir, DEPTH, &mut folders)?;
    if folders.is_empty() {
        return Err(CompareError::NoRun { dir: dir.to_path_buf() });
    }
    let runs: Vec<Run> =
        folders.into_iter().map(|dir| Ok(Run { data: store::load(&dir)?, dir })).collect::<Result<_, StoreError>>()?;
    if runs.iter().all(|run| run.data.peers.is_empty() && !run.data.settings.iter().any(|s| s.failure.is_none())) {
        return Err(CompareError::Empty { dir: dir.to_path_buf() });
    }
    Ok(runs)
}

/// Run folders at and below `dir`, by path. What lies inside a run folder belongs to that run.
fn find_runs(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), CompareError> {
    if dir.join("run.json").exists() {
        found.push(dir.to_path_buf());
        return Ok(());
    }
    if depth == 0 {
        return Ok(());
    }
    let entries = std::fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(unreadable(dir))?;
    let mut below: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    below.sort();
    below.iter().try_for_each(|dir| find_runs(dir, depth - 1, found))
}

fn unreadable(dir: &Path) -> impl FnOnce(std::io::Error) -> CompareError {
    let dir = dir.to_path_buf();
    move |source| CompareError::Unreadable { dir, source }
}

impl Run {
    /// The program that measured.
    pub fn program(&self) -> String {
        let machine = &self.data.header.machine;
        let commit = machine.commit.as_deref().map_or("unknown commit", |commit| commit.get(..12).unwrap_or(commit));
        let dirty = if machine.dirty == Some(true) { ", with local changes" } else { "" };
        format!("kiln {} ({commit}{dirty})", machine.kiln_version)
    }
}
