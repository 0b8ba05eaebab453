//! Every backend against its plain twin. One line a backend.

use kiln_kernels::CpuBackend;
use kiln_kernels::distance::Isa;

/// The CPU with one instruction set, where this machine has it.
fn cpu(name: &str) -> Option<CpuBackend> {
    Isa::supported().into_iter().find(|isa| isa.name() == name).map(CpuBackend::with_isa)
}

kiln_kernels::conformance_tests!(cpu_scalar, || cpu("scalar"));
kiln_kernels::conformance_tests!(cpu_avx2, || cpu("avx2"));
kiln_kernels::conformance_tests!(cpu_avx512, || cpu("avx512"));
