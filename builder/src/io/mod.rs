//! Reading an index from the drive: many pages at a time, each checked.
//!
//! In: a file, the sums of its pages, and how it is to be read. Out: a [`Drive`] that all threads share, and a [`Queue`]
//! for each thread that searches. What carries the reads is io_uring or, where the system refuses that, a pool of threads
//! that call `pread`; both give the same bytes, and every search the same answer.
//!
//! ```text
//! search --> Queue: spans, tickets, checks --> Transport: Ring | PoolClient --> drive
//! ```

mod arena;
mod counters;
#[cfg(test)]
pub(crate) mod faults;
mod pool;
mod queue;
#[cfg(target_os = "linux")]
mod ring;
mod stream;
mod transport;

use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

pub(crate) use counters::Counters;
pub use counters::IoCounters;
pub(crate) use queue::{Depth, Queue, Span, Ticket};

use self::arena::Arena;
use self::pool::ReadPool;
use self::transport::Transport;
use crate::error::BuilderError;
use crate::file::pages::DirectFile;
use crate::search_types::{DriveReads, IoEngine, OpenParams};

/// An index file on the drive, and what reads it.
pub(crate) struct Drive {
    /// The file, for reads one page at a time.
    pub file: DirectFile,
    asked: IoEngine,
    /// io_uring was refused, and the pool reads instead.
    refused: AtomicBool,
    pool: OnceLock<ReadPool>,
    /// Bytes of the buffers of all queues.
    buffers: AtomicU64,
    #[cfg(test)]
    faults: Option<faults::Faults>,
}

impl Drive {
    /// Opens the file at `path`, whose pages have the given `sums`.
    ///
    /// # Errors
    /// A file that cannot be opened; io_uring asked for by name where the system refuses it.
    pub(crate) fn open(path: &Path, sums: Vec<u32>, params: &OpenParams) -> Result<Self, BuilderError> {
        Self::open_where(path, sums, params, probe)
    }

    /// As [`open`](Self::open) on a system that answers `probe` so when it is asked for a ring.
    fn open_where(
        path: &Path,
        sums: Vec<u32>,
        params: &OpenParams,
        probe: impl FnOnce() -> io::Result<()>,
    ) -> Result<Self, BuilderError> {
        let file = DirectFile::open(path, sums, params.reads)?;
        let drive = Self {
            file,
            asked: params.io,
            refused: AtomicBool::new(false),
            pool: OnceLock::new(),
            buffers: AtomicU64::new(0),
            #[cfg(test)]
            faults: None,
        };
        if params.io != IoEngine::Pread
            && let Err(error) = probe()
        {
            drive.refuse(error)?;
        }
        Ok(drive)
    }

    /// io_uring is refused: an error if it was asked for, else said once.
    fn refuse(&self, error: io::Error) -> Result<(), BuilderError> {
        if self.asked == IoEngine::IoUring {
            return Err(BuilderError::Unavailable {
                what: format!("--io io-uring: the system refuses it ({error})"),
                remedy: "use --io auto or --io pread, or allow it (kernel.io_uring_disabled, seccomp, ulimit -l)",
            });
        }
        if !self.refused.swap(true, Relaxed) {
            tracing::warn!("the system refuses io_uring ({error}): threads that call pread read instead");
        }
        Ok(())
    }

    /// What carries the reads: never `Auto`.
    pub(crate) fn engine(&self) -> IoEngine {
        if self.asked == IoEngine::Pread || self.refused.load(Relaxed) { IoEngine::Pread } else { IoEngine::IoUring }
    }

    /// How the file is read in truth, whatever was asked for.
    pub(crate) fn reads(&self) -> DriveReads {
        self.file.reads()
    }

    /// Bytes of the buffers of all queues that there are.
    pub(crate) fn buffers(&self) -> u64 {
        self.buffers.load(Relaxed)
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.file.counters()
    }

    /// A transport for a queue with this arena and at most so many reads in flight.
    fn transport(&self, arena: &Arena, in_flight: usize) -> Result<Box<dyn Transport>, BuilderError> {
        let transport = self.plain_transport(arena, in_flight)?;
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            return Ok(Box::new(faults::Faulty::new(transport, faults.clone())));
        }
        Ok(transport)
    }

    fn plain_transport(&self, arena: &Arena, in_flight: usize) -> Result<Box<dyn Transport>, BuilderError> {
        #[cfg(target_os = "linux")]
        if self.engine() == IoEngine::IoUring {
            match ring::Ring::new(self.file.file(), arena, in_flight) {
                Ok(ring) => return Ok(Box::new(ring)),
                Err(error) => self.refuse(error)?,
            }
        }
        let _ = (arena, in_flight);
        if let Some(pool) = self.pool.get() {
            return Ok(Box::new(pool.client()));
        }
        let started =
            ReadPool::start(self.file.file()).map_err(BuilderError::io(self.path(), "start threads to read"))?;
        // Another thread may have been first; its pool is as good.
        Ok(Box::new(self.pool.get_or_init(|| started).client()))
    }
}

#[cfg(target_os = "linux")]
fn probe() -> io::Result<()> {
    ring::Ring::probe()
}

#[cfg(not(target_os = "linux"))]
fn probe() -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(test)]
mod tests;
