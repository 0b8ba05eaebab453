//! The CUDA driver through cudarc, loaded when it is first asked for.
//!
//! One context (the device's primary one), one stream that everything runs on in order, one more for uploads, and two
//! pieces of pinned memory: while one is on the bus, the host fills or empties the other.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};

use super::{Engine, Fault, Launch, Mark, Properties};

mod probe;
#[cfg(test)]
mod tests;

use probe::words;

/// Bytes of one piece of pinned memory.
const PIECE: usize = 8 << 20;

/// A kernel gets this much dynamic shared memory without asking for more.
const DEFAULT_SHARED_BYTES: u32 = 48 << 10;

/// A device with our kernels loaded.
pub(super) struct Driver {
    properties: Properties,
    device: sys::CUdevice,
    context: sys::CUcontext,
    /// Where all memory comes from, and what was freed waits to be asked for again.
    pool: sys::CUmemoryPool,
    module: sys::CUmodule,
    /// Kernels, copies and downloads, in order.
    stream: sys::CUstream,
    /// Uploads.
    uploads: sys::CUstream,
    /// Functions by name, with the dynamic shared memory that each was allowed.
    functions: Mutex<HashMap<&'static str, (Function, u32)>>,
    /// What uploads and downloads go through; one of each runs at a time.
    up: Mutex<Staging>,
    down: Mutex<Staging>,
}

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: a function is a handle that the driver lets every thread use.
unsafe impl Send for Function {}

// SAFETY: handles of the driver may be used by every thread whose current context is theirs, which each method sees to;
// what changes lies behind locks.
unsafe impl Send for Driver {}
// SAFETY: as above.
unsafe impl Sync for Driver {}

/// Two pieces of pinned memory, each with the event that says when its last transfer was done.
struct Staging {
    pieces: [*mut u8; 2],
    done: [sys::CUevent; 2],
}

// SAFETY: the memory and events belong to the one lock that holds them.
unsafe impl Send for Staging {}

impl Staging {
    /// In the current context.
    fn allocate() -> Result<Self, DriverError> {
        // SAFETY: the memory is ours until `free`.
        let piece = || unsafe { result::malloc_host(PIECE, 0) };
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        Ok(Self { pieces: [piece()?.cast(), piece()?.cast()], done: [event()?, event()?] })
    }

    /// Gives everything back.
    ///
    /// # Safety
    /// No transfer is under way, the context is current, and the value is used no more.
    unsafe fn free(&mut self) {
        for (&piece, &done) in self.pieces.iter().zip(&self.done) {
            // SAFETY: `allocate` made both. Errors say that the context is lost, and so is what was in it.
            unsafe {
                let _ = result::free_host(piece.cast());
                let _ = result::event::destroy(done);
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Driver {
    /// Loads `image` on the device.
    fn load(device: sys::CUdevice, properties: Properties, image: &[u8]) -> Result<Self, DriverError> {
        // SAFETY: the device is valid; the context is released when this value is dropped, which owns all of the rest.
        unsafe {
            let context = result::primary_ctx::retain(device)?;
            result::ctx::set_current(context)?;
            let mut pool = std::ptr::null_mut();
            sys::cuDeviceGetDefaultMemPool(&mut pool, device).result()?;
            // Freed memory stays with this process: the next batch asks for the same again.
            let mut kept = u64::MAX;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut kept).cast()).result()?;
            let module = result::module::load_data(image.as_ptr().cast())?;
            let stream = || result::stream::create(result::stream::StreamKind::NonBlocking);
            Ok(Self {
                properties,
                device,
                context,
                pool,
                module,
                stream: stream()?,
                uploads: stream()?,
                functions: Mutex::default(),
                up: Mutex::new(Staging::allocate()?),
                down: Mutex::new(Staging::allocate()?),
            })
        }
    }

    /// Makes our context the calling thread's.
    fn enter(&self) -> Result<(), Fault> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(fault)
    }

    /// Memory that `stream` may use at once. Where there seems to be none, all that is about to be freed is waited for,
    /// and what the pool holds in reserve is given up, before the second and last attempt.
    fn allocate(&self, bytes: usize, stream: sys::CUstream) -> Result<u64, DriverError> {
        // SAFETY: the streams and the pool are ours.
        unsafe {
            let first = result::malloc_async(stream, bytes);
            if !matches!(first, Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY))) {
                return first;
            }
            result::stream::synchronize(self.stream)?;
            result::mem_pool::trim_to(self.pool, 0)?;
            result::malloc_async(stream, bytes)
        }
    }

    /// The function of a kernel, allowed `shared_bytes` of dynamic shared memory.
    fn function(&self, kernel: &'static str, shared_bytes: u32) -> Result<sys::CUfunction, DriverError> {
        let mut functions = locked(&self.functions);
        if !functions.contains_key(kernel) {
            let name = CString::new(kernel).map_err(|_| DriverError(CUresult::CUDA_ERROR_NOT_FOUND))?;
            // SAFETY: the module lives as long as `self`.
            let function = unsafe { result::module::get_function(self.module, name) }?;
            functions.insert(kernel, (Function(function), DEFAULT_SHARED_BYTES));
        }
        let (Function(function), allowed) = &mut functions.get_mut(kernel).expect("it was inserted above");
        if shared_bytes > *allowed {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a loaded module.
            unsafe { result::function::set_function_attribute(*function, attribute, shared_bytes as i32) }?;
            *allowed = shared_bytes;
        }
        Ok(*function)
    }
}

impl Engine for Driver {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn free_memory(&self) -> Result<u64, Fault> {
        self.enter()?;
        let (free, _) = result::mem_get_info().map_err(fault)?;
        // What the pool holds in reserve is as good as free.
        let held = |attribute| -> Result<u64, Fault> {
            let mut bytes = 0u64;
            // SAFETY: the pool is the device's, and both attributes are 64 bits.
            unsafe { result::mem_pool::get_attribute(self.pool, attribute, (&raw mut bytes).cast()) }.map_err(fault)?;
            Ok(bytes)
        };
        let reserved = held(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        let used = held(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
        Ok(free as u64 + reserved.saturating_sub(used))
    }

    fn alloc(&self, bytes: u64) -> Result<u64, Fault> {
        self.enter()?;
        self.allocate(bytes as usize, self.stream).map_err(fault)
    }

    fn free(&self, pointer: u64) {
        if self.enter().is_ok() {
            // SAFETY: `alloc` gave this pointer, and whoever drops it uses it no more. Where the context is lost, so is
            // the memory, and there is nothing to do about the error.
            let _ = unsafe { result::free_async(pointer, self.stream) };
        }
    }

    fn upload(&self, bytes: usize, unit: usize, source: &mut dyn FnMut(usize, &mut [u8])) -> Result<u64, Fault> {
        self.enter()?;
        let staging = locked(&self.up);
        let each = PIECE / unit.max(1) * unit.max(1);
        if each == 0 {
            return Err(Fault::Other(format!("a row of {unit} bytes is more than {PIECE}")));
        }
        // On the uploads' stream, so that nothing waits for kernels that run.
        let to = self.allocate(bytes, self.uploads).map_err(fault)?;
        // SAFETY: `to` has `bytes` bytes; a piece is written only once its last transfer is done, and lies within pinned
        // memory; all transfers are over on return, so every stream may use the memory.
        let mut send = |staging: &Staging| unsafe {
            for (i, offset) in (0..bytes).step_by(each).enumerate() {
                let (memory, done) = (staging.pieces[i % 2], staging.done[i % 2]);
                if i >= 2 {
                    result::event::synchronize(done)?;
                }
                let piece = std::slice::from_raw_parts_mut(memory, each.min(bytes - offset));
                source(offset, piece);
                result::memcpy_htod_async(to + offset as u64, piece, self.uploads)?;
                result::event::record(done, self.uploads)?;
            }
            result::stream::synchronize(self.uploads)
        };
        match send(&staging) {
            Ok(()) => Ok(to),
            Err(error) => {
                self.free(to);
                Err(fault(error))
            }
        }
    }

    fn download(&self, from: u64, to: &mut [u8]) -> Result<(), Fault> {
        self.enter()?;
        let staging = locked(&self.down);
        let bytes = to.len();
        let pieces = bytes.div_ceil(PIECE);
        // SAFETY: `from` is an allocation of at least `bytes`; a piece is overwritten only by the transfer that is asked
        // for after it was read.
        let fetch = |i: usize| unsafe {
            let length = PIECE.min(bytes - i * PIECE);
            let piece = std::slice::from_raw_parts_mut(staging.pieces[i % 2], length);
            result::memcpy_dtoh_async(piece, from + (i * PIECE) as u64, self.stream)?;
            result::event::record(staging.done[i % 2], self.stream)
        };
        (0..pieces.min(2)).try_for_each(fetch).map_err(fault)?;
        for (i, target) in to.chunks_mut(PIECE).enumerate() {
            // SAFETY: the event says that this piece has arrived.
            let arrived = unsafe {
                result::event::synchronize(staging.done[i % 2]).map_err(fault)?;
                std::slice::from_raw_parts(staging.pieces[i % 2], target.len())
            };
            target.copy_from_slice(arrived);
            if i + 2 < pieces {
                fetch(i + 2).map_err(fault)?;
            }
        }
        Ok(())
    }

    fn fill(&self, at: u64, byte: u8, bytes: u64) -> Result<(), Fault> {
        self.enter()?;
        // SAFETY: the caller's allocation has that many bytes.
        unsafe { result::memset_d8_async(at, byte, bytes as usize, self.stream) }.map_err(fault)
    }

    fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<(), Fault> {
        self.enter()?;
        // SAFETY: both allocations have that many bytes.
        unsafe { result::memcpy_dtod_async(to, from, bytes as usize, self.stream) }.map_err(fault)
    }

    fn launch(&self, kernel: &'static str, shape: Launch, arguments: &mut [*mut c_void]) -> Result<(), Fault> {
        self.enter()?;
        let named = |error: DriverError| match fault(error) {
            Fault::Other(problem) => Fault::Other(format!("{kernel}: {problem}")),
            Fault::Lost(problem) => Fault::Lost(format!("{kernel}: {problem}")),
            memory => memory,
        };
        let function = self.function(kernel, shape.shared_bytes).map_err(named)?;
        let [x, y, z] = shape.grid;
        // SAFETY: the function is loaded, and the arguments are those of its signature, which the emulator checks in tests.
        unsafe {
            result::launch_kernel(function, (x, y, z), (shape.block, 1, 1), shape.shared_bytes, self.stream, arguments)
        }
        .map_err(named)
    }

    fn mark(&self) -> Result<Mark, Fault> {
        self.enter()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(fault)?;
        // SAFETY: both are ours; `elapsed` destroys the event.
        unsafe { result::event::record(event, self.stream) }.map_err(fault)?;
        Ok(event as u64)
    }

    fn elapsed(&self, from: Mark, to: Mark) -> Result<Duration, Fault> {
        self.enter()?;
        let (from, to) = (from as sys::CUevent, to as sys::CUevent);
        // SAFETY: `mark` made both, and they are used up here.
        let milliseconds = unsafe {
            let milliseconds = result::event::synchronize(to).and_then(|()| result::event::elapsed(from, to));
            let _ = result::event::destroy(from);
            let _ = result::event::destroy(to);
            milliseconds
        };
        milliseconds.map(|ms| Duration::from_secs_f64(f64::from(ms) / 1e3)).map_err(fault)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        // SAFETY: all of it was made by `load`, and no buffer is left, for each holds a handle to this value. Errors say
        // that the context is lost, and then there is nothing left to free.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            let _ = result::stream::synchronize(self.uploads);
            for staging in [&self.up, &self.down] {
                locked(staging).free();
            }
            let _ = result::stream::destroy(self.stream);
            let _ = result::stream::destroy(self.uploads);
            let _ = result::module::unload(self.module);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

fn fault(error: DriverError) -> Fault {
    match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Fault::OutOfMemory,
        // Those after which the context accepts nothing any more.
        CUresult::CUDA_ERROR_DEINITIALIZED
        | CUresult::CUDA_ERROR_NO_DEVICE
        | CUresult::CUDA_ERROR_INVALID_CONTEXT
        | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
        | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
        | CUresult::CUDA_ERROR_ASSERT
        | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUresult::CUDA_ERROR_INVALID_PC
        | CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_UNKNOWN => Fault::Lost(words(error)),
        _ => Fault::Other(words(error)),
    }
}
