//! What can go wrong when a report is written.

use std::path::PathBuf;

use thiserror::Error;

/// Why there is no report.
#[derive(Debug, Error)]
pub enum ReportError {
    /// A file could not be written.
    #[error("cannot write {}: {source}; check that the folder is writable and has space", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A chart could not be drawn.
    #[error("cannot draw the chart {id}: {reason}")]
    Chart {
        /// Which.
        id: String,
        /// What plotters said.
        reason: String,
    },
    /// A chart could not become a picture.
    #[error("cannot draw {}: {reason}; the HTML report holds the same chart", path.display())]
    Picture {
        /// Which.
        path: PathBuf,
        /// What the renderer said.
        reason: String,
    },
    /// The page could not be filled in.
    #[error("cannot fill the report's template: {0}")]
    Template(#[from] minijinja::Error),
    /// The figures could not be written as JSON.
    #[error("cannot write the report's figures as JSON: {0}")]
    Json(#[from] serde_json::Error),
}
