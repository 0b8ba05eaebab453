//! A thin layer over the CUDA driver: buffers, copies, launches, a memory budget, and errors by what they mean.
//!
//! In: kernel names of `kernels/cuda/*.cu` and their arguments. Out: device memory behind [`Buffer`], and
//! [`BackendError`]s. Everything a [`Gpu`] is asked for runs in the order in which it was asked, except that an upload
//! overlaps with kernels that were launched before it.
//!
//! Two engines stand behind it: the driver itself ([`real`]), and in tests an emulator that runs the same kernels on the
//! CPU ([`emulated`]).
//!
//! [`Gpu::launch`] is not `unsafe`: a kernel can only reach device memory, so a wrong one ends in a wrong result or a
//! lost device, never in broken memory of this process (which the emulator, for tests only, cannot promise).

mod buffer;
#[cfg(feature = "cuda-emulation")]
pub(super) mod emulated;
mod real;

use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytemuck::Pod;

use crate::backend::BackendError;

pub(crate) use buffer::{Arg, Buffer};

/// Blocks of a grid in y and z at most.
const MAX_BLOCKS_YZ: u32 = 65_535;

/// What a device is and has.
#[derive(Debug, Clone, PartialEq)]
pub struct Properties {
    /// As the driver calls it.
    pub name: String,
    /// Version of the driver's interface: 12040 is CUDA 12.4.
    pub driver_version: i32,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that one block may ask for, bytes.
    pub shared_memory_per_block: u32,
    /// Device memory in all, bytes.
    pub memory: u64,
}

/// Why an engine could not do something.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// No device memory; the next attempt may succeed.
    OutOfMemory,
    /// The context is gone, with all that lay on the device.
    Lost(String),
    /// Anything else.
    Other(String),
}

/// A point on the device's time line; the engine knows what it is.
type Mark = u64;

/// What a device does for [`Gpu`]: the driver, or the emulator.
trait Engine: Send + Sync {
    /// What the device is.
    fn properties(&self) -> &Properties;
    /// Bytes of device memory that nobody uses.
    fn free_memory(&self) -> Result<u64, Fault>;
    /// At least `bytes` (> 0) at a 256-byte boundary.
    fn alloc(&self, bytes: u64) -> Result<u64, Fault>;
    /// Gives memory back once all that was asked before is done.
    fn free(&self, pointer: u64);
    /// New memory with `bytes` (> 0) bytes that `source` writes piece by piece (offset, piece), pieces being multiples of
    /// `unit`; done on return, without waiting for what was launched.
    fn upload(&self, bytes: usize, unit: usize, source: &mut dyn FnMut(usize, &mut [u8])) -> Result<u64, Fault>;
    /// Fetches `to.len()` bytes; done on return.
    fn download(&self, from: u64, to: &mut [u8]) -> Result<(), Fault>;
    fn fill(&self, at: u64, byte: u8, bytes: u64) -> Result<(), Fault>;
    fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<(), Fault>;
    /// Starts a kernel whose parameters lie where `arguments` point.
    fn launch(&self, kernel: &'static str, shape: Launch, arguments: &mut [*mut c_void]) -> Result<(), Fault>;
    /// Bytes of each of a kernel's parameters, where the engine can tell.
    fn signature(&self, _kernel: &'static str) -> Result<Option<Arc<[u32]>>, Fault> {
        Ok(None)
    }
    /// A mark behind all that was asked.
    fn mark(&self) -> Result<Mark, Fault>;
    /// Time between two marks, once the second is reached; both are used up.
    fn elapsed(&self, from: Mark, to: Mark) -> Result<Duration, Fault>;
}

/// Blocks, threads of a block, bytes of dynamic shared memory.
#[derive(Debug, Clone, Copy)]
struct Launch {
    grid: [u32; 3],
    block: u32,
    shared_bytes: u32,
}

/// A device, or a handle to it: clones share it.
#[derive(Clone)]
pub(crate) struct Gpu(Arc<Device>);

struct Device {
    engine: Box<dyn Engine>,
    /// Bytes that all buffers together may take.
    budget: u64,
    used: AtomicU64,
    lost: AtomicBool,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({})", self.properties().name)
    }
}

impl Gpu {
    /// The first device of the CUDA driver, or in one line why there is none to use.
    pub(crate) fn probe(memory_budget: Option<u64>) -> Result<Self, String> {
        Ok(Self::new(Box::new(real::Driver::probe()?), memory_budget))
    }

    fn new(engine: Box<dyn Engine>, memory_budget: Option<u64>) -> Self {
        let budget = memory_budget.unwrap_or(u64::MAX).min(engine.properties().memory);
        Self(Arc::new(Device { engine, budget, used: AtomicU64::new(0), lost: AtomicBool::new(false) }))
    }

    /// What the device is.
    pub(crate) fn properties(&self) -> &Properties {
        self.0.engine.properties()
    }

    /// Bytes that may still be asked for: what the budget leaves, or what the device has free where that is less.
    pub(crate) fn memory_left(&self, operation: &'static str) -> Result<u64, BackendError> {
        self.check(operation)?;
        let free = self.0.engine.free_memory().map_err(|fault| self.error(operation, fault, 0))?;
        Ok(self.0.budget.saturating_sub(self.0.used.load(Ordering::Relaxed)).min(free))
    }

    /// `len` elements of unknown content.
    pub(crate) fn alloc<T: Pod>(&self, operation: &'static str, len: usize) -> Result<Buffer<T>, BackendError> {
        self.within_budget(operation, len, |bytes| self.0.engine.alloc(bytes))
    }

    /// A buffer in memory that `make` gets for a number of bytes, counted against the budget.
    fn within_budget<T: Pod>(
        &self,
        operation: &'static str,
        len: usize,
        make: impl FnOnce(u64) -> Result<u64, Fault>,
    ) -> Result<Buffer<T>, BackendError> {
        self.check(operation)?;
        let bytes = (len as u64).saturating_mul(size_of::<T>() as u64);
        let mut buffer = Buffer::empty(self.clone(), len);
        if bytes == 0 {
            return Ok(buffer);
        }
        let before = self.0.used.fetch_add(bytes, Ordering::Relaxed);
        let made = match before.checked_add(bytes) {
            Some(after) if after <= self.0.budget => make(bytes),
            _ => Err(Fault::OutOfMemory),
        };
        match made {
            Ok(pointer) => {
                buffer.pointer = pointer;
                Ok(buffer)
            }
            Err(fault) => {
                self.0.used.fetch_sub(bytes, Ordering::Relaxed);
                Err(self.error(operation, fault, bytes))
            }
        }
    }

    /// `len` elements whose bytes are all zero.
    pub(crate) fn zeroed<T: Pod>(&self, operation: &'static str, len: usize) -> Result<Buffer<T>, BackendError> {
        let buffer = self.alloc(operation, len)?;
        self.fill(operation, &buffer, 0)?;
        Ok(buffer)
    }

    /// A copy of `host` on the device.
    pub(crate) fn upload<T: Pod>(&self, operation: &'static str, host: &[T]) -> Result<Buffer<T>, BackendError> {
        let bytes: &[u8] = bytemuck::cast_slice(host);
        self.upload_with(operation, host.len(), 1, |offset, piece| {
            piece.copy_from_slice(&bytes[offset..offset + piece.len()]);
        })
    }

    /// `len` elements that `source` writes as bytes, piece by piece (byte offset, piece), in pieces of whole `unit`s of
    /// bytes. While one piece travels, the next is written; kernels launched before run on.
    pub(crate) fn upload_with<T: Pod>(
        &self,
        operation: &'static str,
        len: usize,
        unit: usize,
        mut source: impl FnMut(usize, &mut [u8]),
    ) -> Result<Buffer<T>, BackendError> {
        self.within_budget(operation, len, |bytes| self.0.engine.upload(bytes as usize, unit, &mut source))
    }

    /// The elements of `range`, once all that was launched before is done.
    ///
    /// # Panics
    /// When the range ends past the buffer.
    pub(crate) fn download<T: Pod>(
        &self,
        operation: &'static str,
        buffer: &Buffer<T>,
        range: Range<usize>,
    ) -> Result<Vec<T>, BackendError> {
        assert!(range.start <= range.end && range.end <= buffer.len, "{range:?} of {buffer:?}");
        self.check(operation)?;
        let mut host: Vec<T> = bytemuck::zeroed_vec(range.len());
        if !range.is_empty() {
            let from = buffer.pointer + (range.start * size_of::<T>()) as u64;
            let fetched = self.0.engine.download(from, bytemuck::cast_slice_mut(&mut host));
            fetched.map_err(|fault| self.error(operation, fault, 0))?;
        }
        Ok(host)
    }

    /// Sets every byte of the buffer.
    pub(crate) fn fill<T: Pod>(
        &self,
        operation: &'static str,
        buffer: &Buffer<T>,
        byte: u8,
    ) -> Result<(), BackendError> {
        self.check(operation)?;
        if buffer.len == 0 {
            return Ok(());
        }
        self.0.engine.fill(buffer.pointer, byte, buffer.bytes()).map_err(|fault| self.error(operation, fault, 0))
    }

    /// Copies elements `from` of one buffer to those of another that start at `to`, on the device.
    ///
    /// # Panics
    /// When either range ends past its buffer.
    pub(crate) fn copy<T: Pod>(
        &self,
        operation: &'static str,
        source: &Buffer<T>,
        from: Range<usize>,
        target: &Buffer<T>,
        to: usize,
    ) -> Result<(), BackendError> {
        assert!(from.start <= from.end && from.end <= source.len && to + from.len() <= target.len);
        self.check(operation)?;
        if from.is_empty() {
            return Ok(());
        }
        let size = size_of::<T>();
        let (source, target) = (source.pointer + (from.start * size) as u64, target.pointer + (to * size) as u64);
        let copied = self.0.engine.copy(source, target, (from.len() * size) as u64);
        copied.map_err(|fault| self.error(operation, fault, 0))
    }

    /// Starts `kernel` over `grid` blocks of `block` threads; a grid without blocks is nothing to do. The arguments must be
    /// those of the kernel's signature, in order.
    pub(crate) fn launch(
        &self,
        operation: &'static str,
        kernel: &'static str,
        grid: [u32; 3],
        block: u32,
        shared_bytes: u32,
        args: &[Arg<'_>],
    ) -> Result<(), BackendError> {
        self.check(operation)?;
        if grid.contains(&0) {
            return Ok(());
        }
        if grid[0] > i32::MAX as u32 || grid[1].max(grid[2]) > MAX_BLOCKS_YZ {
            let problem = format!("{kernel}: a grid of {grid:?} blocks");
            return Err(self.error(operation, Fault::Other(problem), 0));
        }
        let allowed = self.properties().shared_memory_per_block;
        if shared_bytes > allowed {
            let problem =
                format!("{kernel}: {shared_bytes} bytes of shared memory a block, where {allowed} is the limit");
            return Err(self.error(operation, Fault::Other(problem), 0));
        }
        let signature = self.0.engine.signature(kernel).map_err(|fault| self.error(operation, fault, 0))?;
        if let Some(signature) = signature {
            let given: Vec<u32> = args.iter().map(|arg| arg.bytes().len() as u32).collect();
            if given[..] != signature[..] {
                let problem = format!("{kernel} takes parameters of {signature:?} bytes, and was given {given:?}");
                return Err(self.error(operation, Fault::Other(problem), 0));
            }
        }
        let mut arguments: Vec<*mut c_void> = args.iter().map(|arg| arg.bytes().as_ptr().cast_mut().cast()).collect();
        let launched = self.0.engine.launch(kernel, Launch { grid, block, shared_bytes }, &mut arguments);
        launched.map_err(|fault| self.error(operation, fault, 0))
    }

    /// The device's own time for what `work` asks of it, in the order of the device.
    pub(crate) fn timed<R>(
        &self,
        operation: &'static str,
        work: impl FnOnce() -> Result<R, BackendError>,
    ) -> Result<(R, Duration), BackendError> {
        self.check(operation)?;
        let error = |fault| self.error(operation, fault, 0);
        let from = self.0.engine.mark().map_err(error)?;
        let result = work()?;
        let to = self.0.engine.mark().map_err(error)?;
        Ok((result, self.0.engine.elapsed(from, to).map_err(error)?))
    }

    /// A device that was lost stays lost: whatever is asked next says so at once.
    fn check(&self, operation: &'static str) -> Result<(), BackendError> {
        if self.0.lost.load(Ordering::Relaxed) {
            return Err(self.error(operation, Fault::Lost("it was lost before".into()), 0));
        }
        Ok(())
    }

    fn error(&self, operation: &'static str, fault: Fault, bytes: u64) -> BackendError {
        let device = self.properties().name.clone();
        match fault {
            Fault::OutOfMemory => BackendError::OutOfMemory { device, operation, bytes },
            Fault::Lost(problem) => {
                self.0.lost.store(true, Ordering::Relaxed);
                BackendError::Lost { device, operation, problem }
            }
            Fault::Other(problem) => BackendError::Device { device, operation, problem },
        }
    }
}
