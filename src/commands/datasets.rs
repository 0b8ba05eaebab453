//! `kiln datasets`: list, fetch, look at, convert and make data sets, and compute their truth.

mod info;
mod truth;

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use kiln_datasets::{
    Content, Dataset, FetchOptions, Registry, SynthSource, SynthSpec, convert, exact_truth, fetch, open_rows,
};
use kiln_kernels::{DType, Metric};
use serde_json::json;

use super::device::DeviceArgs;
use super::{UsageError, bytes, cache_dir, open_dataset, print, shape, thousands, write_json};
use crate::terminal::TerminalProgress;

/// Rows that exact search may hold at once.
const TRUTH_MEMORY: u64 = 2 << 30;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the data sets that Kiln knows by name
    List(ListArgs),
    /// Download a data set into the cache ($KILN_DATA); a download that broke off goes on
    Fetch(FetchArgs),
    /// Show what a file or set holds, and check a sample of its truth
    Info(info::Args),
    /// Write rows in another format, exactly
    Convert(ConvertArgs),
    /// Compute exact nearest neighbours; a computation that was ended goes on
    Truth(truth::Args),
    /// Make a synthetic data set of a chosen intrinsic dimension
    Synth(SynthArgs),
}

#[derive(clap::Args)]
struct ListArgs {
    /// Write the list, as JSON, to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  kiln datasets fetch sift-128-euclidean")]
struct FetchArgs {
    /// A name from `kiln datasets list`
    name: String,
    /// The SHA-256 that the (base) file must have
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// The folder to fetch into [default: $KILN_DATA, else the user's cache]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  kiln datasets convert sift.hdf5 sift.u8bin\n  kiln datasets convert base.fvecs base.npy"
)]
struct ConvertArgs {
    /// A file, demo, or the name of a fetched set
    from: String,
    /// The file to write; its extension names the format: .hdf5 .fbin .f16bin .u8bin .i8bin .fvecs .bvecs .npy
    to: PathBuf,
    /// Write the queries instead of the base rows
    #[arg(long)]
    queries: bool,
}

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  kiln datasets synth --rows 1000000 --dim 128 --dtype u8 --lid 20 --out synth.hdf5\n  kiln datasets synth --rows 10000000 --dim 96 --out synth.fbin --queries 0"
)]
struct SynthArgs {
    /// Base rows
    #[arg(long)]
    rows: u64,
    /// Coordinates a row
    #[arg(long)]
    dim: usize,
    /// Local intrinsic dimension to show, 8 to 32 held within 15%
    #[arg(long, default_value_t = 16.0)]
    lid: f64,
    /// Clusters [default: one for 5,000 rows]
    #[arg(long)]
    clusters: Option<u64>,
    /// Skew of cluster sizes: 0 equal, 1 as Zipf's law
    #[arg(long, default_value_t = 0.0)]
    imbalance: f64,
    /// Element type
    #[arg(long, value_enum, default_value = "f32")]
    dtype: DTypeArg,
    /// Seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Queries (written, with their truth, into an .hdf5 only)
    #[arg(long, default_value_t = 1000)]
    queries: u64,
    /// Neighbours a query in the truth
    #[arg(long, default_value_t = 100)]
    k: usize,
    /// The file to write; its extension names the format
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Element types.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum DTypeArg {
    F32,
    F16,
    U8,
    I8,
}

impl From<DTypeArg> for DType {
    fn from(arg: DTypeArg) -> DType {
        match arg {
            DTypeArg::F32 => DType::F32,
            DTypeArg::F16 => DType::F16,
            DTypeArg::U8 => DType::U8,
            DTypeArg::I8 => DType::I8,
        }
    }
}

pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::List(args) => list(args),
        Command::Fetch(args) => fetch_set(args),
        Command::Info(args) => info::run(args),
        Command::Convert(args) => convert_file(args),
        Command::Truth(args) => truth::run(args),
        Command::Synth(args) => synth(args),
    }
}

fn list(args: ListArgs) -> anyhow::Result<()> {
    let entries = Registry::built_in().entries();
    if let Some(path) = &args.json {
        let sets: Vec<_> = entries
            .iter()
            .map(|e| {
                json!({ "name": e.name, "rows": e.rows, "dim": e.dim, "metric": e.metric, "dtype": e.dtype,
                    "queries": e.queries, "bytes": e.bytes, "url": e.url, "unsupported": e.unsupported })
            })
            .collect();
        return write_json(path, &sets);
    }
    let mut lines = vec![format!(
        "{:<36} {:>13} {:>6} {:<6} {:<6} {:>10}  address",
        "name", "rows", "dim", "type", "metric", "size"
    )];
    lines.push(format!(
        "{:<36} {:>13} {:>6} {:<6} {:<6} {:>10}  in this program",
        Dataset::DEMO,
        "10,000",
        128,
        "u8",
        "l2",
        "1.2 MiB"
    ));
    for e in entries {
        let metric = if e.unsupported.is_some() { "-" } else { e.metric.name() };
        let size = e.bytes.map_or("?".to_string(), bytes);
        let note = e.unsupported.as_ref().map_or(String::new(), |why| format!("  (not supported: {why})"));
        lines.push(format!(
            "{:<36} {:>13} {:>6} {:<6} {metric:<6} {size:>10}  {}{note}",
            e.name,
            thousands(e.rows),
            e.dim,
            e.dtype.name(),
            e.url
        ));
    }
    print(&lines.join("\n"))
}

fn fetch_set(args: FetchArgs) -> anyhow::Result<()> {
    let dir = args.dir.unwrap_or_else(cache_dir);
    let options = FetchOptions { sha256: args.sha256, ..FetchOptions::default() };
    let path = fetch(&args.name, &dir, &options, &TerminalProgress::new())?;
    print(&path.display().to_string())
}

fn convert_file(args: ConvertArgs) -> anyhow::Result<()> {
    let dataset = open_dataset(&args.from)?;
    let progress = TerminalProgress::new();
    if args.queries {
        let Some(queries) = &dataset.queries else {
            return Err(UsageError(format!("{} has no queries: leave out --queries", args.from)).into());
        };
        convert(&Content::rows(queries.as_ref()), &args.to, &progress)?;
    } else {
        convert(&Content::from(&dataset), &args.to, &progress)?;
    }
    drop(progress);
    print(&args.to.display().to_string())
}

fn synth(args: SynthArgs) -> anyhow::Result<()> {
    let defaults = SynthSpec::new(args.rows, args.dim, args.lid);
    let spec = SynthSpec {
        seed: args.seed,
        clusters: args.clusters.unwrap_or(defaults.clusters),
        imbalance: args.imbalance,
        dtype: args.dtype.into(),
        ..defaults
    };
    let base = SynthSource::new(&spec)?;
    let progress = TerminalProgress::new();
    let whole = args.out.extension().is_some_and(|e| e == "hdf5" || e == "h5") && args.queries > 0;
    if whole {
        let queries = base.queries(args.queries);
        let k = args.k.min(usize::try_from(args.rows).unwrap_or(usize::MAX));
        let truth = exact_truth(&args.device.open()?, &base, &queries, Metric::L2, k, TRUTH_MEMORY, &progress)?;
        let content = Content { base: &base, queries: Some(&queries), truth: Some(&truth), metric: Some(Metric::L2) };
        convert(&content, &args.out, &progress)?;
    } else {
        convert(&Content::rows(&base), &args.out, &progress)?;
    }
    drop(progress);
    let written = if whole { Dataset::open_file(&args.out)?.base } else { open_rows(&args.out)? };
    print(&format!("{}: {}", args.out.display(), shape(written.as_ref())))
}
