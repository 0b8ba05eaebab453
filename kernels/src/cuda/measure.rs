//! What the device can do, measured in a few hundredths of a second by its own clock.

use std::time::Duration;

use super::CudaBackend;
use super::argmin::argmin;
use super::driver::Buffer;
use super::rows::CudaRows;
use crate::backend::BackendError;
use crate::element::DType;
use crate::metric::Metric;
use crate::rows::Rows;

/// Work is made larger until it takes so long.
const LONG_ENOUGH: Duration = Duration::from_millis(10);

/// Bytes copied at a time at most: more than any cache holds.
const COPIED: u64 = 512 << 20;

/// Copies of one measurement at most.
const MOST_COPIES: u32 = 256;

/// Columns and coordinates of the product that is timed; its rows grow up to [`MOST_ROWS`].
const COLUMNS: usize = 1024;
const DIM: usize = 128;
const FIRST_ROWS: usize = 128;
const MOST_ROWS: usize = 1 << 20;

impl CudaBackend {
    /// Bytes a second that a copy within the device's memory moves (each is read once and written once).
    pub fn copy_bandwidth(&self) -> Result<f64, BackendError> {
        const OPERATION: &str = "copy bandwidth";
        let bytes = COPIED.min(self.gpu.memory_left(OPERATION)? / 4) as usize;
        let (from, to): (Buffer<u8>, Buffer<u8>) =
            (self.gpu.zeroed(OPERATION, bytes)?, self.gpu.zeroed(OPERATION, bytes)?);
        let mut count = 1;
        loop {
            let copies = || (0..count).try_for_each(|_| self.gpu.copy(OPERATION, &from, 0..bytes, &to, 0));
            let ((), time) = self.gpu.timed(OPERATION, copies)?;
            if time >= LONG_ENOUGH || count >= MOST_COPIES {
                return Ok(f64::from(count) * bytes as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE));
            }
            count *= 2;
        }
    }

    /// Operations a second of the tensor-core product that finds nearest centroids, its selection included: two for each
    /// coordinate of each pair of rows.
    pub fn matrix_rate(&self) -> Result<f64, BackendError> {
        const OPERATION: &str = "matrix rate";
        let resident = |n: usize| CudaRows::upload(&self.gpu, &Rows::zeros(DType::F32, n, DIM), Metric::L2);
        let columns = resident(COLUMNS)?;
        let mut rows = FIRST_ROWS;
        loop {
            let points = resident(rows)?;
            let (_, time) = self.gpu.timed(OPERATION, || argmin(&self.gpu, OPERATION, &points, &columns))?;
            if time >= LONG_ENOUGH || rows >= MOST_ROWS {
                let operations = 2.0 * (rows * COLUMNS * DIM) as f64;
                return Ok(operations / time.as_secs_f64().max(f64::MIN_POSITIVE));
            }
            rows *= 2;
        }
    }
}
