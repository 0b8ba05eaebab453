//! `--device` and `--device-memory`, of every command that computes.

use clap::ValueEnum;
use kiln_kernels::Devices;
use kiln_kernels::devices::{Choice, Wanted, open};

/// What computes.
#[derive(Debug, Clone, clap::Args)]
pub struct DeviceArgs {
    /// What computes; auto takes the best that works, and goes on with the next where one fails
    #[arg(long, value_enum, default_value = "auto", help_heading = "Device")]
    device: DeviceArg,
    /// Memory of the GPU to use at most, such as 4GiB [default: what is free]
    #[arg(long, value_name = "SIZE", value_parser = super::parse_bytes, help_heading = "Device")]
    device_memory: Option<u64>,
}

/// Devices that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceArg {
    /// The best that works
    Auto,
    /// An NVIDIA GPU, through its driver
    Cuda,
    /// A GPU, through Vulkan, Metal or DirectX 12
    Wgpu,
    /// The processor
    Cpu,
}

impl From<DeviceArg> for Choice {
    fn from(arg: DeviceArg) -> Self {
        match arg {
            DeviceArg::Auto => Self::Auto,
            DeviceArg::Cuda => Self::Cuda,
            DeviceArg::Wgpu => Self::Wgpu,
            DeviceArg::Cpu => Self::Cpu,
        }
    }
}

impl DeviceArg {
    /// This device and no other where it fails. Says which it is.
    pub fn open_alone(self) -> anyhow::Result<Devices> {
        DeviceArgs { device: self, device_memory: None }.open_alone()
    }
}

impl DeviceArgs {
    /// The device that was asked for, or the best, with the others that take over where it fails. Says which it is.
    pub fn open(&self) -> anyhow::Result<Devices> {
        self.opened(false)
    }

    /// The device that was asked for, or the best, and no other where it fails.
    pub fn open_alone(&self) -> anyhow::Result<Devices> {
        self.opened(true)
    }

    fn opened(&self, alone: bool) -> anyhow::Result<Devices> {
        let chosen = open(Wanted { choice: self.device.into(), device_memory: self.device_memory, alone })?;
        tracing::info!("device: {}", chosen.why);
        Ok(chosen.devices)
    }
}
