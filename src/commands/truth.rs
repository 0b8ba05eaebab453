//! Truth for a file of queries, and the rows that answers are judged on: what `search` and `tune` share.

use std::path::Path;

use kiln_builder::{Searcher, StoredRows};
use kiln_datasets::{Dataset, RowSource, Truth, verify_truth};
use kiln_kernels::Metric;

/// Truth rows that are held against the data before recall is told.
const CHECKED_TRUTH_ROWS: usize = 20;

/// Truth from the file given, else from the queries' own HDF5 file where it holds some; then a sample of it is
/// checked, because files have lied before.
pub fn truth(queries: &Path, given: Option<&Path>, metric: Metric) -> anyhow::Result<Option<Truth>> {
    if let Some(path) = given {
        return Ok(Some(Truth::open(path)?));
    }
    let Some(dataset) = hdf5(queries).filter(|dataset| dataset.queries.is_some() && dataset.truth.is_some()) else {
        return Ok(None);
    };
    if let Some(own) = dataset.metric.filter(|own| *own != metric) {
        tracing::warn!("{}: its truth is by {own}, the index is by {metric}; it is not used", queries.display());
        return Ok(None);
    }
    for issue in verify_truth(&dataset, metric, CHECKED_TRUTH_ROWS, 1)? {
        tracing::warn!("{}: {issue}", queries.display());
    }
    Ok(dataset.truth)
}

/// The data set of an HDF5 file of queries, where the file holds one.
fn hdf5(path: &Path) -> Option<Dataset> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    matches!(extension, "hdf5" | "h5").then(|| Dataset::open_file(path).ok()).flatten()
}

/// The rows that answers are judged on: those of the queries' own file where it is the data set that was
/// indexed, else the vectors that the index keeps.
pub fn base_rows<'a>(queries: &Path, searcher: &'a Searcher) -> Box<dyn RowSource + 'a> {
    match hdf5(queries) {
        Some(dataset) if dataset.fingerprint == searcher.meta().dataset_fingerprint => dataset.base,
        _ => Box::new(StoredRows::new(searcher)),
    }
}

/// Whether no row of the truth was deleted from a shard set since; says so where one was.
pub fn names_rows_that_are_there(truth: &Truth, searcher: &Searcher) -> bool {
    let Some(set) = searcher.set() else { return true };
    let gone = truth.ids.iter().find(|&&id| u64::try_from(id).is_ok_and(|id| !set.has_row(id)));
    if let Some(id) = gone {
        tracing::warn!(
            "{}: the truth names row {id}, which is not in the set: it is of other rows, and is not used",
            searcher.path().display()
        );
    }
    gone.is_none()
}
