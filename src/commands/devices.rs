//! `kiln devices`: what can compute here, what it can do at most, and in which order it is taken.

use std::path::PathBuf;

use kiln_kernels::cuda::CudaBackend;
use kiln_kernels::devices::{Choice, Wanted, open};
use kiln_kernels::distance::Isa;
use kiln_kernels::wgpu::{WgpuAdapter, WgpuBackend, WgpuOptions};
use kiln_kernels::{Backend, BackendError, Ceilings, CpuBackend};
use serde_json::{Value, json};

use super::{bytes, print, write_json};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  kiln devices\n  kiln devices --json -")]
pub struct Args {
    /// Write the list, as JSON, to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A device, or the reason why there is none of its kind.
struct Found {
    /// `cuda`, `wgpu` or `cpu`.
    kind: &'static str,
    /// In words; what was found instead where it cannot be used.
    name: String,
    /// Lines that say more, in the order in which they are printed.
    details: Vec<(&'static str, Value)>,
    usable: bool,
    ceilings: Option<Result<Ceilings, BackendError>>,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let mut found = vec![cuda()];
    found.extend(adapters());
    found.push(cpu());
    let chosen = open(Wanted { choice: Choice::Auto, ..Wanted::default() })?;
    if let Some(path) = &args.json {
        let document = json!({
            "chosen": chosen.devices.describe_all(),
            "why": chosen.why,
            "devices": found.iter().map(Found::document).collect::<Vec<_>>(),
        });
        write_json(path, &document)?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    let mut lines: Vec<String> = found.iter().map(Found::text).collect();
    lines.push(format!("order of --device auto: {}", chosen.devices.describe_all().join(", then ")));
    lines.push(format!("because: {}", chosen.why));
    print(&lines.join("\n"))
}

fn cuda() -> Found {
    match CudaBackend::probe() {
        Ok(cuda) => {
            let properties = cuda.properties();
            let details = vec![
                ("memory_bytes", json!(properties.memory)),
                (
                    "driver",
                    json!(format!(
                        "CUDA {}.{}",
                        properties.driver_version / 1000,
                        properties.driver_version % 1000 / 10
                    )),
                ),
                ("multiprocessors", json!(properties.multiprocessors)),
            ];
            let ceilings = Some(cuda.ceilings());
            Found { kind: "cuda", name: cuda.describe(), details, usable: true, ceilings }
        }
        Err(reason) => none("cuda", reason),
    }
}

fn none(kind: &'static str, reason: String) -> Found {
    Found { kind, name: format!("none: {reason}"), details: Vec::new(), usable: false, ceilings: None }
}

fn adapters() -> Vec<Found> {
    let adapters = WgpuBackend::adapters();
    if adapters.is_empty() {
        return vec![none("wgpu", "no adapter of Vulkan, Metal or DirectX 12 was found".into())];
    }
    adapters.iter().map(adapter).collect()
}

fn adapter(adapter: &WgpuAdapter) -> Found {
    let details = vec![
        ("driver", json!(adapter.driver)),
        ("software", json!(adapter.is_software)),
        ("largest_buffer_bytes", json!(adapter.buffer_bytes)),
    ];
    let options = WgpuOptions { adapter: Some(adapter.name.clone()), software: true, ..WgpuOptions::default() };
    match WgpuBackend::probe(&options) {
        Ok(wgpu) => {
            let ceilings = Some(wgpu.ceilings());
            Found { kind: "wgpu", name: adapter.to_string(), details, usable: true, ceilings }
        }
        Err(reason) => {
            Found { kind: "wgpu", name: format!("{adapter}: {reason}"), details, usable: false, ceilings: None }
        }
    }
}

fn cpu() -> Found {
    let backend = CpuBackend::new();
    let machine = kiln_eval::provenance::machine(&std::env::current_dir().unwrap_or_default());
    let sets: Vec<&str> = Isa::supported().into_iter().map(Isa::name).collect();
    let details = vec![
        ("processor", json!(machine.cpu)),
        ("processors", json!(machine.cpus)),
        ("memory_bytes", json!(machine.memory_bytes)),
        ("instruction_sets", json!(sets.join(", "))),
    ];
    Found { kind: "cpu", name: backend.describe(), details, usable: true, ceilings: Some(backend.ceilings()) }
}

impl Found {
    fn document(&self) -> Value {
        let mut document = json!({ "device": self.kind, "name": self.name, "usable": self.usable });
        for (name, value) in &self.details {
            document[name] = value.clone();
        }
        if let Some(Ok(ceilings)) = &self.ceilings {
            document["copy_bytes_per_second"] = json!(ceilings.copy_bandwidth);
            document["matrix_operations_per_second"] = json!(ceilings.matrix_rate);
        }
        document
    }

    fn text(&self) -> String {
        let mut text = format!("{:<5} {}", self.kind, self.name);
        for (name, value) in &self.details {
            let value = match (value.as_u64(), name.strip_suffix("_bytes")) {
                (Some(size), Some(_)) => bytes(size),
                _ => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            };
            let name = name.strip_suffix("_bytes").unwrap_or(name).replace('_', " ");
            text += &format!("\n      {name}: {value}");
        }
        match &self.ceilings {
            Some(Ok(measured)) => {
                let (copied, product) = (measured.copy_bandwidth / 1e9, measured.matrix_rate / 1e12);
                text += &format!("\n      measured: {copied:.1} GB/s copied, {product:.2} T operations/s of products");
            }
            Some(Err(error)) => text += &format!("\n      could not be measured: {error}"),
            None => {}
        }
        text
    }
}
