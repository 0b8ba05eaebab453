//! `kiln devices`: what can compute here.

use std::path::PathBuf;

use kiln_kernels::distance::Isa;
use kiln_kernels::{Backend, CpuBackend};
use serde_json::json;

use super::{print, write_json};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  kiln devices")]
pub struct Args {
    /// Write the list, as JSON, to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let backend = CpuBackend::new();
    let sets: Vec<&str> = Isa::supported().into_iter().map(Isa::name).collect();
    let machine = kiln_eval::provenance::machine(&std::env::current_dir().unwrap_or_default());
    if let Some(path) = &args.json {
        let device = json!({ "device": "cpu", "name": machine.cpu, "cpus": machine.cpus, "memory_bytes": machine.memory_bytes, "instruction_sets": sets });
        write_json(path, &json!([device]))?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    print(&format!(
        "{}\n  {}, {} processors, {} memory\n  instruction sets: {}\nGPU backends are not part of this version.",
        backend.describe(),
        machine.cpu,
        machine.cpus,
        super::bytes(machine.memory_bytes),
        sets.join(", ")
    ))
}
