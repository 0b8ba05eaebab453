//! Work in batches that a device has the memory for.

use std::ops::Range;

use crate::backend::BackendError;

/// Calls `work` on consecutive ranges of `0..total`, of `batch` at first. A batch for which there is no memory is halved, and
/// the work goes on, down to a range of one.
pub(crate) fn in_batches(
    total: usize,
    batch: usize,
    mut work: impl FnMut(Range<usize>) -> Result<(), BackendError>,
) -> Result<(), BackendError> {
    let (mut start, mut batch) = (0, batch.max(1));
    while start < total {
        let end = total.min(start + batch);
        match work(start..end) {
            Ok(()) => start = end,
            Err(BackendError::OutOfMemory { bytes, operation, .. }) if end - start > 1 => {
                batch = (end - start) / 2;
                tracing::debug!("{operation}: {bytes} bytes are not to be had; going on with batches of {batch}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
