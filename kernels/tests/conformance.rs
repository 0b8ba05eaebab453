//! Every backend against its plain twin. One line a backend.

use kiln_kernels::cuda::{CudaBackend, Emulation};
use kiln_kernels::distance::Isa;
use kiln_kernels::wgpu::{WgpuBackend, WgpuOptions};
use kiln_kernels::{CpuBackend, OutOfCore};

/// The CPU with one instruction set, where this machine has it.
fn cpu(name: &str) -> Result<CpuBackend, String> {
    let found = Isa::supported().into_iter().find(|isa| isa.name() == name);
    found.map(CpuBackend::with_isa).ok_or_else(|| format!("this processor has no {name}"))
}

kiln_kernels::conformance_tests!(cpu_scalar, || cpu("scalar"));
kiln_kernels::conformance_tests!(cpu_avx2, || cpu("avx2"));
kiln_kernels::conformance_tests!(cpu_avx512, || cpu("avx512"));

/// Any adapter, software too: what is proven here is the kernels, not the device.
fn wgpu(options: WgpuOptions) -> Result<WgpuBackend, String> {
    WgpuBackend::probe(&WgpuOptions { software: true, poison: true, ..options })
}

kiln_kernels::conformance_tests!(wgpu, || wgpu(WgpuOptions::default()));
// The limits that WebGPU promises, with bindings and shards so small that rows lie in many.
kiln_kernels::conformance_tests!(wgpu_tiny_limits, || wgpu(WgpuOptions {
    binding_bytes: Some(256 << 10),
    shard_bytes: Some(64 << 10),
    ..WgpuOptions::default()
}));
kiln_kernels::conformance_tests!(cuda, CudaBackend::probe);
kiln_kernels::conformance_tests!(cuda_emulated, || CudaBackend::emulated(Emulation::default()));
// Rows that never fit: every stage in parts of a few hundred places.
kiln_kernels::conformance_tests!(out_of_core, || Ok::<_, String>(OutOfCore::in_parts_of(CpuBackend::new(), 300)));
