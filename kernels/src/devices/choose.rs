//! Which device computes.
//!
//! In: what the user asked for, and a limit on the device's memory. Out: [`Devices`], the CPU last among them, and a line
//! that says what was chosen and why. Left to itself the choice is CUDA, else a hardware adapter of wgpu that multiplies
//! faster than the processor, else the processor. What was asked for by name is used, or is an error that says what was
//! found instead.

use std::str::FromStr;

use super::Devices;
use crate::backend::Backend;
use crate::cpu::CpuBackend;
use crate::cuda::CudaBackend;
use crate::out_of_core::OutOfCore;
use crate::wgpu::{WgpuBackend, WgpuOptions};

/// What the user asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best that works.
    #[default]
    Auto,
    /// A CUDA device.
    Cuda,
    /// An adapter of Vulkan, Metal or DirectX 12, software too.
    Wgpu,
    /// The processor.
    Cpu,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "cuda" => Ok(Self::Cuda),
            "wgpu" => Ok(Self::Wgpu),
            "cpu" => Ok(Self::Cpu),
            _ => Err(format!("unknown device {name:?}: use auto, cuda, wgpu or cpu")),
        }
    }
}

/// The device that was asked for cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("there is no {device} device: {reason}; `kiln devices` lists what there is, --device auto takes the best")]
pub struct NoDevice {
    /// What was asked for.
    pub device: &'static str,
    /// What was found when looking for it.
    pub reason: String,
}

/// What is asked of a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub choice: Choice,
    /// Bytes of a GPU's memory to use at most.
    pub device_memory: Option<u64>,
    /// Whether a failure is an error, and not a reason to go on with the processor: for measuring.
    pub alone: bool,
}

/// Devices that work, in the order in which they are used.
pub struct Chosen {
    /// The backends.
    pub devices: Devices,
    /// What computes and why, in one line.
    pub why: String,
}

/// Opens what was asked for.
///
/// # Errors
/// When a device was asked for by name and is not there.
pub fn open(wanted: Wanted) -> Result<Chosen, NoDevice> {
    let options = WgpuOptions { device_memory: wanted.device_memory, ..WgpuOptions::default() };
    match wanted.choice {
        Choice::Cpu => Ok(Chosen::first(CpuBackend::new(), true, "as asked")),
        Choice::Cuda => match CudaBackend::probe_with_memory(wanted.device_memory) {
            Ok(cuda) => Ok(Chosen::first(OutOfCore::new(cuda), wanted.alone, "as asked")),
            Err(reason) => Err(NoDevice { device: "CUDA", reason }),
        },
        Choice::Wgpu => match WgpuBackend::probe(&WgpuOptions { software: true, ..options }) {
            Ok(wgpu) => Ok(Chosen::first(OutOfCore::new(wgpu), wanted.alone, "as asked")),
            Err(reason) => Err(NoDevice { device: "wgpu", reason }),
        },
        Choice::Auto => {
            let no_cuda = match CudaBackend::probe_with_memory(wanted.device_memory) {
                Ok(cuda) => return Ok(Chosen::first(OutOfCore::new(cuda), wanted.alone, "the best that was found")),
                Err(reason) => reason,
            };
            let passed_over = match faster_adapter(&options) {
                Ok((wgpu, rates)) => {
                    let why = format!("{rates}; no CUDA ({no_cuda})");
                    return Ok(Chosen::first(OutOfCore::new(wgpu), wanted.alone, &why));
                }
                Err(reason) => reason,
            };
            let why = format!("no CUDA ({no_cuda}), no faster adapter ({passed_over})");
            Ok(Chosen::first(CpuBackend::new(), true, &why))
        }
    }
}

impl Chosen {
    /// `backend`, and unless it is to be alone the processor after it.
    fn first<B: Backend + 'static>(backend: B, alone: bool, why: &str) -> Self {
        let why = format!("{}: {why}", backend.describe());
        let devices = Devices::new(backend);
        Self { devices: if alone { devices } else { devices.or(CpuBackend::new()) }, why }
    }
}

/// The best hardware adapter, where it multiplies faster than the processor, with both rates; or why it is passed over.
fn faster_adapter(options: &WgpuOptions) -> Result<(WgpuBackend, String), String> {
    let wgpu = WgpuBackend::probe(options)?;
    let (rate, own) = (wgpu.matrix_rate().map_err(|error| error.to_string())?, CpuBackend::new().matrix_rate());
    let rates = format!("{:.0} GFLOP/s against the processor's {:.0}", rate / 1e9, own / 1e9);
    if rate > own { Ok((wgpu, rates)) } else { Err(format!("{} is slower: {rates}", wgpu.name())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_always_there_and_names_are_known() {
        let cpu = open(Wanted { choice: Choice::Cpu, ..Wanted::default() }).unwrap_or_else(|error| panic!("{error}"));
        assert!(cpu.why.starts_with("cpu (") && cpu.why.ends_with("as asked"), "{}", cpu.why);
        assert_eq!(cpu.devices.describe_all().len(), 1);
        assert_eq!("wgpu".parse(), Ok(Choice::Wgpu));
        assert!("gpu".parse::<Choice>().unwrap_err().contains("auto, cuda, wgpu or cpu"));
    }

    #[test]
    fn what_was_asked_for_is_used_or_refused_with_what_was_found() {
        for (choice, name) in [(Choice::Cuda, "CUDA"), (Choice::Wgpu, "wgpu")] {
            match open(Wanted { choice, ..Wanted::default() }) {
                Ok(chosen) => assert_eq!(chosen.devices.describe_all().len(), 2),
                Err(error) => {
                    let message = error.to_string();
                    assert!(message.starts_with(&format!("there is no {name} device: ")), "{message}");
                    assert!(message.contains("kiln devices"), "{message}");
                }
            }
        }
        assert!(open(Wanted::default()).is_ok());
    }
}
