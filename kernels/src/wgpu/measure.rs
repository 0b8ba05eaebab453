//! What a device can do, measured in a few hundredths of a second: for `kiln devices` and for the choice of a backend.

use std::time::{Duration, Instant};

use super::WgpuBackend;
use super::device::Task;
use super::quantise::record_argmin;
use super::rows::{Block, Shape};
use crate::backend::BackendError;
use crate::element::DType;

/// Work is made larger until it takes so long.
const LONG_ENOUGH: Duration = Duration::from_millis(10);

/// Bytes of the buffers copied.
const COPIED: u64 = 64 << 20;

/// Columns and coordinates of the product that is timed; its rows grow up to [`MOST_ROWS`].
const COLUMNS: usize = 512;
const DIM: usize = 128;
const FIRST_ROWS: usize = 256;
const MOST_ROWS: usize = 1 << 16;

impl WgpuBackend {
    /// Bytes a second that a copy within the device's memory moves (each is read once and written once).
    pub fn copy_bandwidth(&self) -> Result<f64, BackendError> {
        let task = self.gpu.task("copy bandwidth");
        let bytes = COPIED.min(self.gpu.binding()).min(self.gpu.scratch() / 4) / 16 * 16;
        task.scoped(|| {
            let (from, to) = (task.allocate(bytes)?, task.allocate(bytes)?);
            let copies = |count: u32| {
                let mut commands = task.commands();
                (0..count).for_each(|_| commands.copy(&from, &to, bytes));
                timed(task, || commands.submit())
            };
            // The first touches the memory.
            copies(1)?;
            let mut count = 1;
            loop {
                let time = copies(count)?;
                if time >= LONG_ENOUGH || count >= 1 << 10 {
                    return Ok(f64::from(count) * bytes as f64 / time.as_secs_f64());
                }
                count *= 2;
            }
        })
    }

    /// Floating-point operations a second of the tiled f32 product: two for each coordinate of each pair of rows.
    pub fn matrix_rate(&self) -> Result<f64, BackendError> {
        let task = self.gpu.task("matrix rate");
        let shape = Shape { dtype: DType::F32, dim: DIM };
        task.scoped(|| {
            let columns = Block::allocate(task, shape, 0..COLUMNS)?;
            let most = MOST_ROWS.min(shape.rows_in(self.gpu.binding().min(self.gpu.scratch() / 4)));
            let product = |rows: usize| {
                let block = Block::allocate(task, shape, 0..rows)?;
                let best = task.allocate((rows * 8) as u64)?;
                let mut commands = task.commands();
                for buffer in [&block.rows, &block.numbers, &columns.rows, &columns.numbers] {
                    commands.clear(buffer);
                }
                timed(task, || commands.submit())?;
                let mut commands = task.commands();
                record_argmin(&mut commands, &block, &columns, &best)?;
                timed(task, || commands.submit())
            };
            // The first compiles the kernel.
            let mut rows = FIRST_ROWS.min(most);
            product(rows)?;
            loop {
                let time = product(rows)?;
                if time >= LONG_ENOUGH || rows >= most {
                    return Ok(2.0 * (rows * COLUMNS * DIM) as f64 / time.as_secs_f64());
                }
                rows = most.min(2 * rows);
            }
        })
    }
}

/// How long the device takes for what `submit` submits.
fn timed(task: Task<'_>, submit: impl FnOnce()) -> Result<Duration, BackendError> {
    let start = Instant::now();
    submit();
    task.wait()?;
    Ok(start.elapsed())
}
