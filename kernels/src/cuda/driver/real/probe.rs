//! Whether there is a driver and a device that our kernels run on, and if not, why, in one line.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};

use super::{Driver, Properties};

/// The oldest driver interface that takes the embedded cubins, and the one that takes the embedded PTX (which is what the
/// toolchain that compiled them writes).
const CUBIN_DRIVER: i32 = 12_000;
const PTX_DRIVER: i32 = 12_040;

const SM_80: &[u8] = include_bytes!("../../../../cuda/built/kiln.sm_80.cubin");
const SM_90: &[u8] = include_bytes!("../../../../cuda/built/kiln.sm_90a.cubin");
const PTX: &[u8] = include_bytes!("../../../../cuda/built/kiln.compute_80.ptx");

/// Every function of the driver that is called here. cudarc looks a function up when it is first called, and panics where
/// there is none.
pub(super) const FUNCTIONS: [&str; 37] = [
    "cuInit",
    "cuGetErrorString",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetDefaultMemPool",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuMemPoolSetAttribute",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventElapsedTime",
    "cuEventDestroy_v2",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuModuleUnload",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuMemGetInfo_v2",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuMemPoolTrimTo",
    "cuMemPoolGetAttribute",
];

impl Driver {
    /// Opens the first device and loads the kernels, or says in one line why it cannot be used.
    pub(in super::super) fn probe() -> Result<Self, String> {
        // cudarc panics where a library or function is missing; both are asked for first, this is the net below.
        std::panic::catch_unwind(Self::open).unwrap_or_else(|_| Err("the CUDA driver library cannot be used".into()))
    }

    fn open() -> Result<Self, String> {
        // SAFETY: loading the driver runs its initialisers, as any program that uses CUDA does.
        if !unsafe { sys::is_culib_present() } {
            return Err("no CUDA driver: there is no libcuda (install the NVIDIA driver to use a GPU)".into());
        }
        // SAFETY: the library was just found.
        let library = unsafe { sys::culib() };
        for name in FUNCTIONS {
            // SAFETY: the symbol is only looked for, not called.
            if unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err() {
                return Err(format!(
                    "the CUDA driver is too old: it has no {name}; a driver for CUDA 12.0 (525) or later is needed"
                ));
            }
        }
        result::init().map_err(refusal)?;
        let mut driver_version = 0;
        // SAFETY: a valid place for the answer.
        unsafe { sys::cuDriverGetVersion(&mut driver_version) }.result().map_err(words)?;
        if driver_version < CUBIN_DRIVER {
            return Err(too_old(driver_version, CUBIN_DRIVER));
        }
        if result::device::get_count().map_err(words)? == 0 {
            return Err("the CUDA driver finds no device".into());
        }
        let device = result::device::get(0).map_err(words)?;
        let properties = properties(device, driver_version).map_err(words)?;
        let image = image(&properties)?;
        Self::load(device, properties, &image).map_err(words)
    }
}

fn properties(device: sys::CUdevice, driver_version: i32) -> Result<Properties, DriverError> {
    use sys::CUdevice_attribute as A;
    // SAFETY: the device was given by the driver.
    let attribute = |attribute: A| unsafe { result::device::get_attribute(device, attribute) };
    Ok(Properties {
        name: result::device::get_name(device)?,
        driver_version,
        capability: (
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
        shared_memory_per_block: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as u32,
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }? as u64,
    })
}

/// The embedded code for a device; PTX ends in a zero byte.
fn image(properties: &Properties) -> Result<Vec<u8>, String> {
    match properties.capability {
        (major, minor) if major < 8 => {
            Err(format!("{}: compute capability {major}.{minor}, and 8.0 or later is needed", properties.name))
        }
        (8, _) => Ok(SM_80.to_vec()),
        (9, 0) => Ok(SM_90.to_vec()),
        _ if properties.driver_version < PTX_DRIVER => Err(too_old(properties.driver_version, PTX_DRIVER)),
        _ => Ok([PTX, &[0]].concat()),
    }
}

fn too_old(found: i32, needed: i32) -> String {
    let version = |v: i32| format!("{}.{}", v / 1000, v % 1000 / 10);
    let driver = if needed == PTX_DRIVER { 550 } else { 525 };
    format!(
        "the CUDA driver is too old: it is for CUDA {}, and {} (driver {driver}) or later is needed",
        version(found),
        version(needed)
    )
}

/// What `cuInit` refuses with, in words that say what to do.
fn refusal(error: DriverError) -> String {
    match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => "the CUDA driver finds no device".into(),
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "libcuda is a stub for linking, not a driver (is a toolkit's stubs folder in LD_LIBRARY_PATH?)".into()
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "libcuda and the kernel's NVIDIA driver differ in version: restart after the update".into()
        }
        _ => words(error),
    }
}

pub(super) fn words(error: DriverError) -> String {
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned());
    format!("{:?}{}", error.0, text.map(|text| format!(" ({text})")).unwrap_or_default())
}
