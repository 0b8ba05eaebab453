//! A device that is not there: the kernels of `kernels/cuda`, compiled for the CPU and run by the emulator beside them.
//! For tests: it proves what the kernels compute, and what happens when memory ends or a device is lost.
//!
//! The library is compiled when it is first needed, into the target folder, under a name made of what went into it.

use std::alloc::Layout;
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::{Engine, Fault, Gpu, Launch, Mark, Properties};

/// Alignment of device memory.
const ALIGNMENT: usize = 256;
/// Bytes behind each allocation that no kernel may change; none under AddressSanitizer, which has fences of its own.
const FENCE: usize = 256;
/// What fresh memory and fences hold.
const POISON: u8 = 0xff;

type LaunchFunction =
    unsafe extern "C" fn(*const c_char, *const u32, u32, u32, *mut *mut c_void, *mut c_char, usize) -> c_int;
type ParametersFunction = unsafe extern "C" fn(*const c_char, *mut u32, u32) -> c_int;

/// What the device that is emulated has, and what shall go wrong with it.
#[derive(Debug, Clone)]
pub struct Emulation {
    /// Device memory, bytes.
    pub memory: u64,
    /// Shared memory that one block may ask for, bytes.
    pub shared_memory_per_block: u32,
    /// Share of the memory that Kiln may use, bytes; all of it where none is given.
    pub memory_budget: Option<u64>,
    /// Counts down with every byte allocated; an allocation beyond it fails, as where others use the device too.
    pub free_memory: Option<u64>,
    /// The device is lost at this launch, the first being 1.
    pub lost_at_launch: Option<u64>,
}

impl Default for Emulation {
    fn default() -> Self {
        Self {
            memory: 8 << 30,
            shared_memory_per_block: 163 << 10,
            memory_budget: None,
            free_memory: None,
            lost_at_launch: None,
        }
    }
}

impl Gpu {
    /// The emulator, or in one line why it cannot run here.
    pub(crate) fn emulated(emulation: Emulation) -> Result<Self, String> {
        let budget = emulation.memory_budget;
        Ok(Self::new(Box::new(Emulator::new(emulation)?), budget))
    }
}

struct Emulator {
    properties: Properties,
    fence: usize,
    emulation: Emulation,
    library: &'static Library,
    allocations: Mutex<HashMap<u64, Layout>>,
    allocated: AtomicU64,
    launches: AtomicU64,
    started: Instant,
}

/// The two functions of the compiled library, which stays loaded.
struct Library {
    launch: LaunchFunction,
    parameters: ParametersFunction,
    /// Bytes of each kernel's parameters, in order.
    signatures: Mutex<HashMap<&'static str, Option<Arc<[u32]>>>>,
}

impl Emulator {
    fn new(emulation: Emulation) -> Result<Self, String> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        let library = LIBRARY.get_or_init(|| Library::load(&compiled()?)).as_ref().map_err(String::clone)?;
        let properties = Properties {
            name: "CUDA emulator".into(),
            driver_version: 12_040,
            capability: (8, 0),
            multiprocessors: 4,
            shared_memory_per_block: emulation.shared_memory_per_block,
            memory: emulation.memory,
        };
        Ok(Self {
            properties,
            fence: if sanitized() { 0 } else { FENCE },
            emulation,
            library,
            allocations: Mutex::default(),
            allocated: AtomicU64::new(0),
            launches: AtomicU64::new(0),
            started: Instant::now(),
        })
    }

    fn allocations(&self) -> MutexGuard<'_, HashMap<u64, Layout>> {
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails where a kernel wrote behind an allocation.
    fn check_fences(&self, after: &str) -> Result<(), Fault> {
        for (&pointer, layout) in self.allocations().iter() {
            let fence = pointer as usize + layout.size() - self.fence;
            // SAFETY: the fence is the end of a live allocation.
            let fence = unsafe { std::slice::from_raw_parts(fence as *const u8, self.fence) };
            if let Some(at) = fence.iter().position(|&byte| byte != POISON) {
                let bytes = layout.size() - self.fence;
                return Err(Fault::Lost(format!("{after} wrote {at} bytes past the end of an allocation of {bytes}")));
            }
        }
        Ok(())
    }
}

impl Engine for Emulator {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn free_memory(&self) -> Result<u64, Fault> {
        let free = self.emulation.free_memory.unwrap_or(self.emulation.memory);
        Ok(free.saturating_sub(self.allocated.load(Ordering::Relaxed)))
    }

    fn alloc(&self, bytes: u64) -> Result<u64, Fault> {
        if bytes > self.free_memory()? {
            return Err(Fault::OutOfMemory);
        }
        let layout = Layout::from_size_align(bytes as usize + self.fence, ALIGNMENT).map_err(|_| Fault::OutOfMemory)?;
        // SAFETY: the layout is not empty; all of it is written before anybody reads.
        let pointer = unsafe {
            let pointer = std::alloc::alloc(layout);
            if pointer.is_null() {
                return Err(Fault::OutOfMemory);
            }
            pointer.write_bytes(POISON, layout.size());
            pointer as u64
        };
        self.allocated.fetch_add(bytes, Ordering::Relaxed);
        self.allocations().insert(pointer, layout);
        Ok(pointer)
    }

    fn free(&self, pointer: u64) {
        if let Some(layout) = self.allocations().remove(&pointer) {
            self.allocated.fetch_sub((layout.size() - self.fence) as u64, Ordering::Relaxed);
            // SAFETY: `alloc` made it with this layout, and it was removed from the table just now.
            unsafe { std::alloc::dealloc(pointer as *mut u8, layout) };
        }
    }

    fn upload(&self, bytes: usize, unit: usize, source: &mut dyn FnMut(usize, &mut [u8])) -> Result<u64, Fault> {
        let pointer = self.alloc(bytes as u64)?;
        // Small pieces, so that tests see more than one.
        let each = 4096 / unit.max(1) * unit.max(1);
        let each = if each == 0 { unit } else { each };
        // SAFETY: a new allocation of that many bytes.
        let memory = unsafe { std::slice::from_raw_parts_mut(pointer as *mut u8, bytes) };
        for (i, piece) in memory.chunks_mut(each).enumerate() {
            source(i * each, piece);
        }
        Ok(pointer)
    }

    fn download(&self, from: u64, to: &mut [u8]) -> Result<(), Fault> {
        // SAFETY: the caller's allocation has that many bytes, and launches are over when they return.
        to.copy_from_slice(unsafe { std::slice::from_raw_parts(from as *const u8, to.len()) });
        Ok(())
    }

    fn fill(&self, at: u64, byte: u8, bytes: u64) -> Result<(), Fault> {
        // SAFETY: the caller's allocation has that many bytes.
        unsafe { (at as *mut u8).write_bytes(byte, bytes as usize) };
        Ok(())
    }

    fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<(), Fault> {
        // SAFETY: both allocations have that many bytes.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes as usize) };
        Ok(())
    }

    fn launch(&self, kernel: &'static str, shape: Launch, arguments: &mut [*mut c_void]) -> Result<(), Fault> {
        let launch = self.launches.fetch_add(1, Ordering::Relaxed) + 1;
        if self.emulation.lost_at_launch.is_some_and(|last| launch >= last) {
            return Err(Fault::Lost(format!("{kernel}: the emulated device was told to go at launch {launch}")));
        }
        let name = CString::new(kernel).map_err(|e| Fault::Other(e.to_string()))?;
        let mut error = [0u8; 512];
        // SAFETY: the arguments' number was checked by the caller through `signature`; names and buffers are terminated
        // and sized as said. What the kernel does with the pointers is what is being tested.
        let code = unsafe {
            let arguments = arguments.as_mut_ptr();
            let (error, capacity) = (error.as_mut_ptr().cast(), error.len());
            (self.library.launch)(
                name.as_ptr(),
                shape.grid.as_ptr(),
                shape.block,
                shape.shared_bytes,
                arguments,
                error,
                capacity,
            )
        };
        if code != 0 {
            let text = error.split(|&byte| byte == 0).next().unwrap_or_default();
            return Err(Fault::Lost(String::from_utf8_lossy(text).into_owned()));
        }
        self.check_fences(kernel)
    }

    fn signature(&self, kernel: &'static str) -> Result<Option<Arc<[u32]>>, Fault> {
        let mut signatures = self.library.signatures.lock().unwrap_or_else(PoisonError::into_inner);
        let known = signatures.entry(kernel).or_insert_with(|| {
            let name = CString::new(kernel).ok()?;
            let mut bytes = [0u32; 64];
            // SAFETY: the name is terminated, and the capacity is that of `bytes`.
            let count = unsafe { (self.library.parameters)(name.as_ptr(), bytes.as_mut_ptr(), bytes.len() as u32) };
            Some(bytes.get(..usize::try_from(count).ok()?)?.into())
        });
        match known {
            Some(signature) => Ok(Some(Arc::clone(signature))),
            None => Err(Fault::Other(format!("there is no kernel {kernel}"))),
        }
    }

    fn mark(&self) -> Result<Mark, Fault> {
        Ok(self.started.elapsed().as_nanos() as u64)
    }

    fn elapsed(&self, from: Mark, to: Mark) -> Result<Duration, Fault> {
        Ok(Duration::from_nanos(to - from))
    }
}

impl Library {
    fn load(path: &Path) -> Result<Self, String> {
        let failed = |e: libloading::Error| format!("the compiled emulator {} does not load: {e}", path.display());
        // SAFETY: we compiled it from our own sources; its initialisers only register kernels. It is never unloaded, so
        // the functions stay valid.
        unsafe {
            let library = Box::leak(Box::new(libloading::Library::new(path).map_err(failed)?));
            Ok(Self {
                launch: *library.get(b"kiln_emulate_launch\0").map_err(failed)?,
                parameters: *library.get(b"kiln_emulate_parameters\0").map_err(failed)?,
                signatures: Mutex::default(),
            })
        }
    }
}

/// Whether the library is compiled with AddressSanitizer: then the tests must run with the compiler's libasan preloaded,
/// as `scripts/kernels/sanitize.sh` does.
fn sanitized() -> bool {
    std::env::var("KILN_EMULATION_SANITIZE").is_ok_and(|value| value == "1")
}

/// The compiled library, made now unless it is there.
fn compiled() -> Result<PathBuf, String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = manifest.join("cuda");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let version = Command::new(&compiler)
        .env_remove("LD_PRELOAD")
        .arg("--version")
        .output()
        .map_err(|_| format!("the emulator of CUDA kernels is compiled with {compiler}, which is not there (apt-get install g++, or set CXX)"))?;

    let mut flags =
        vec!["-std=c++17", "-O2", "-g1", "-ffp-contract=off", "-Wno-unknown-pragmas", "-fvisibility=hidden"];
    flags.extend(["-fPIC", "-shared", "-DKILN_EMULATE", "-I.", "-include", "emulate/cuda_emulation.h"]);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
        flags.extend(["-mavx2", "-mfma", "-mf16c"]);
    }
    if sanitized() {
        flags.extend(["-fsanitize=address", "-fno-omit-frame-pointer"]);
    }
    flags.extend(["-x", "c++", "all.cu", "emulate/faults.cu", "emulate/emulation.cpp"]);

    let read = |e: std::io::Error| format!("{}: {e}", sources.display());
    let mut files = Vec::new();
    for folder in [sources.clone(), sources.join("emulate")] {
        for entry in std::fs::read_dir(folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    (&compiler, version.stdout, &flags).hash(&mut hasher);
    for file in &files {
        (file, std::fs::read(file).map_err(read)?).hash(&mut hasher);
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| manifest.join("../target"), PathBuf::from);
    let folder = target.join("cuda-emulation");
    let library = folder.join(format!("kiln-{:016x}.so", hasher.finish()));

    let write = |e: std::io::Error| format!("{}: {e}", folder.display());
    std::fs::create_dir_all(&folder).map_err(write)?;
    let lock = std::fs::File::create(folder.join("lock")).map_err(write)?;
    lock.lock().map_err(write)?;
    if !library.exists() {
        let partial = folder.join("partial.so");
        let compiling = Command::new(&compiler)
            .env_remove("LD_PRELOAD")
            .args(&flags)
            .arg("-o")
            .arg(&partial)
            .current_dir(&sources)
            .output();
        let output = compiling.map_err(|e| format!("{compiler}: {e}"))?;
        // Kernels that do not compile are a bug, never a reason to skip their tests.
        assert!(
            output.status.success(),
            "{compiler} does not compile the CUDA kernels:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        std::fs::rename(&partial, &library).map_err(write)?;
    }
    Ok(library)
}
