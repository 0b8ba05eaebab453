//! What every backend asks of its arguments before it computes.

use ndarray::ArrayView2;

use crate::backend::{BackendError, MAX_DIM};
use crate::codec::Rabitq;
use crate::pq::ProductQuantizer;
use crate::rows::Rows;

/// Rows that an upload takes.
pub(crate) fn check_upload(rows: &Rows) -> Result<(), BackendError> {
    if rows.len() >= u32::MAX as usize {
        return Err(BackendError::TooManyRows { rows: rows.len() });
    }
    if rows.dim() > MAX_DIM {
        return Err(BackendError::Shape {
            operation: "upload",
            expected: format!("at most {MAX_DIM} coordinates a row"),
            got: rows.dim().to_string(),
        });
    }
    Ok(())
}

pub(crate) fn same_dim(operation: &'static str, left: usize, right: usize) -> Result<(), BackendError> {
    if left == right {
        return Ok(());
    }
    Err(BackendError::Shape { operation, expected: format!("rows of {right} coordinates"), got: format!("{left}") })
}

pub(crate) fn check_ids(
    operation: &'static str,
    mut ids: impl Iterator<Item = u32>,
    n: usize,
) -> Result<(), BackendError> {
    match ids.find(|&id| id as usize >= n) {
        None => Ok(()),
        Some(id) => {
            Err(BackendError::Shape { operation, expected: format!("row numbers below {n}"), got: format!("{id}") })
        }
    }
}

/// As many `thing`s as `other`s.
pub(crate) fn same_count(
    operation: &'static str,
    thing: &str,
    count: usize,
    other: &str,
    expected: usize,
) -> Result<(), BackendError> {
    if count == expected {
        return Ok(());
    }
    Err(BackendError::Shape {
        operation,
        expected: format!("one {thing} for each {other}, {expected}"),
        got: count.to_string(),
    })
}

/// A k-means step has a centroid to choose.
pub(crate) fn some_centroids(centroids: ArrayView2<'_, f32>) -> Result<(), BackendError> {
    if centroids.nrows() > 0 {
        return Ok(());
    }
    Err(BackendError::Shape { operation: "k-means step", expected: "at least one centroid".into(), got: "none".into() })
}

/// Arguments of `rabitq_encode` for rows `(n, dim)`.
pub(crate) fn check_rabitq(
    n: usize,
    dim: usize,
    ids: &[u32],
    (centroids, assignments): (ArrayView2<'_, f32>, &[u32]),
    rabitq: &Rabitq,
) -> Result<(), BackendError> {
    const OPERATION: &str = "rabitq encode";
    same_dim(OPERATION, dim, rabitq.rotation().dim())?;
    same_dim(OPERATION, dim, centroids.ncols())?;
    check_ids(OPERATION, ids.iter().copied(), n)?;
    same_count(OPERATION, "assignment", assignments.len(), "row", ids.len())?;
    check_ids(OPERATION, assignments.iter().copied(), centroids.nrows())
}

/// Arguments of `pq_encode` for rows `(n, dim)`.
pub(crate) fn check_encoding(
    n: usize,
    dim: usize,
    residual_to: Option<(ArrayView2<'_, f32>, &[u32])>,
    pq: &ProductQuantizer,
) -> Result<(), BackendError> {
    same_dim("pq encode", dim, pq.dim())?;
    if let Some((centroids, assignments)) = residual_to {
        same_dim("pq encode", dim, centroids.ncols())?;
        check_ids("pq encode", assignments.iter().copied(), centroids.nrows())?;
        same_count("pq encode", "assignment", assignments.len(), "row", n)?;
    }
    Ok(())
}
