//! Finding an adapter, and opening a device on it. Missing drivers are answers here, not errors.

use ::wgpu::{Adapter, Backends, DeviceType, Instance, InstanceDescriptor, InstanceFlags, Limits};

use super::device::{Behaviour, Gpu};

/// What a device is wanted for. The default takes the best hardware adapter, and all of its memory.
#[derive(Debug, Clone, Default)]
pub struct WgpuOptions {
    /// Part of the name of the adapter, in any case; any adapter where it is not given.
    pub adapter: Option<String>,
    /// Whether adapters that are software will do: they are slower than the CPU backend.
    pub software: bool,
    /// Bytes of the device's memory to use at most, resident rows and scratch together.
    pub device_memory: Option<u64>,
    /// Bytes of one storage binding at most, where that is less than what the adapter offers; all other limits are then
    /// the defaults of WebGPU. For tests.
    pub binding_bytes: Option<u64>,
    /// Bytes of one shard of rows at most, where that is less than a binding. For tests.
    pub shard_bytes: Option<u64>,
    /// Fill every new buffer with a pattern, so that a result that no kernel wrote is seen. For tests.
    pub poison: bool,
}

/// An adapter of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WgpuAdapter {
    /// Its name, as the driver gives it.
    pub name: String,
    /// The interface through which it was found: `vulkan`, `metal` or `dx12`.
    pub interface: String,
    /// What it is: `DiscreteGpu`, `IntegratedGpu`, `VirtualGpu`, `Cpu` or `Other`.
    pub kind: String,
    /// Whether it computes on the processor.
    pub is_software: bool,
    /// The driver and its version, as it gives them.
    pub driver: String,
    /// Bytes of one storage binding at most.
    pub binding_bytes: u64,
    /// Bytes of one buffer at most.
    pub buffer_bytes: u64,
    /// The smallest and the largest subgroup.
    pub subgroup_sizes: (u32, u32),
}

impl WgpuAdapter {
    fn of(adapter: &Adapter) -> Self {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        Self {
            is_software: info.device_type == DeviceType::Cpu,
            kind: format!("{:?}", info.device_type),
            interface: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            name: info.name,
            binding_bytes: limits.max_storage_buffer_binding_size,
            buffer_bytes: limits.max_buffer_size,
            subgroup_sizes: (info.subgroup_min_size, info.subgroup_max_size),
        }
    }
}

impl std::fmt::Display for WgpuAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let software = if self.is_software { ", software" } else { "" };
        write!(f, "{} ({}{software})", self.name, self.interface)
    }
}

/// All adapters, best first: discrete before integrated, software last.
pub(super) fn adapters() -> Vec<(Adapter, WgpuAdapter)> {
    let descriptor = InstanceDescriptor {
        backends: Backends::VULKAN | Backends::METAL | Backends::DX12,
        // No validation layers: they are for the authors of drivers and of wgpu.
        flags: InstanceFlags::empty(),
        ..InstanceDescriptor::new_without_display_handle()
    };
    let instance = Instance::new(descriptor);
    let mut found = pollster::block_on(instance.enumerate_adapters(Backends::all()));
    found.sort_by_key(|adapter| match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    found
        .into_iter()
        .map(|adapter| {
            let described = WgpuAdapter::of(&adapter);
            (adapter, described)
        })
        .collect()
}

/// Opens the first adapter that fits, or says what was found.
pub(super) fn open(options: &WgpuOptions) -> Result<Gpu, String> {
    let found = adapters();
    if found.is_empty() {
        return Err("no adapter: neither Vulkan, Metal nor DirectX 12 finds a device here".into());
    }
    let named = |adapter: &WgpuAdapter| {
        options.adapter.as_ref().is_none_or(|part| adapter.name.to_lowercase().contains(&part.to_lowercase()))
    };
    let fits = |adapter: &WgpuAdapter| named(adapter) && (options.software || !adapter.is_software);
    let listed = || found.iter().map(|(_, described)| described.to_string()).collect::<Vec<_>>().join(", ");
    let Some((adapter, _)) = found.iter().find(|(_, described)| fits(described)) else {
        return Err(match (&options.adapter, found.iter().any(|(_, described)| named(described))) {
            (Some(part), false) => format!("no adapter is called {part:?}: found {}", listed()),
            _ => format!("only software adapters, which are slower than the CPU: found {}", listed()),
        });
    };
    let offered = adapter.limits();
    let limits = match options.binding_bytes {
        None => Limits {
            max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
            max_buffer_size: offered.max_buffer_size,
            ..Limits::defaults()
        },
        Some(bytes) => Limits {
            max_storage_buffer_binding_size: bytes.min(offered.max_storage_buffer_binding_size),
            ..Limits::defaults()
        },
    };
    let descriptor = ::wgpu::DeviceDescriptor { label: Some("kiln"), required_limits: limits, ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
        .map_err(|problem| format!("{}: {problem}", WgpuAdapter::of(adapter)))?;
    let behaviour = Behaviour { memory: options.device_memory, shard: options.shard_bytes, poison: options.poison };
    Ok(Gpu::new(device, queue, &adapter.get_info(), behaviour))
}
