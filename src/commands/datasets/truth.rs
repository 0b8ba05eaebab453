//! `kiln datasets truth`: exact nearest neighbours, by a process that may be ended at any moment.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_datasets::{Content, RowSource, Truth, TruthCheckpoint, exact_truth_resumed, open_queries, write_truth};

use crate::commands::device::DeviceArgs;
use crate::commands::{MetricArg, UsageError, metric_of, open_dataset, parse_bytes, print, with_threads};
use crate::terminal::TerminalProgress;

const EXAMPLES: &str = "\
Examples:
  kiln datasets truth base.fbin --queries query.fbin --metric l2 --out set.hdf5
  kiln datasets truth set.hdf5 --k 200 --out truth.ibin
  kiln datasets truth deep-100M.fbin --queries query.fbin --metric l2 --memory 8GiB --out gt.ibin

What is found is kept in OUT.checkpoint. Run the same command again after the process was ended: it goes on there, and ends
with the same file to the byte. The checkpoint is removed once the file is written.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The base rows: a file, demo, or the name of a fetched set
    dataset: String,
    /// The queries [default: the data set's own]
    #[arg(long, value_name = "FILE")]
    queries: Option<PathBuf>,
    /// How rows are compared; required where the data set does not say
    #[arg(long, value_enum)]
    metric: Option<MetricArg>,
    /// Neighbours a query
    #[arg(long, default_value_t = 100)]
    k: usize,
    /// The file to write: .hdf5 (with base and queries), .ibin, .ivecs or .npy
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Memory for rows: half for base rows, a quarter for queries; what does not fit takes more passes
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "2GiB")]
    memory: u64,
    /// Keep what is found at most this often, in seconds; writing never takes more than a twentieth of the time
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400), default_value_t = 10)]
    checkpoint: u64,
    /// Threads to use [default: all]
    #[arg(long, value_name = "T")]
    threads: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let dataset = open_dataset(&args.dataset)?;
    let metric = metric_of(args.metric, &dataset)?;
    let given = args.queries.as_deref().map(open_queries).transpose()?;
    let queries: &dyn RowSource = match (&given, &dataset.queries) {
        (Some(given), _) => given.as_ref(),
        (None, Some(own)) => own.as_ref(),
        (None, None) => return Err(UsageError(format!("{} has no queries: add --queries FILE", args.dataset)).into()),
    };
    refuse_unwritable(&args.out)?;
    let checkpoint = TruthCheckpoint {
        every: Duration::from_secs(args.checkpoint),
        ..TruthCheckpoint::beside(&args.out, &dataset.fingerprint)
    };
    let progress = TerminalProgress::new();
    let base = dataset.base.as_ref();
    let truth = with_threads(args.threads, || -> anyhow::Result<Truth> {
        let device = args.device.open()?;
        Ok(exact_truth_resumed(&device, base, queries, metric, args.k, args.memory, &checkpoint, &progress)?)
    })??;
    let content = Content { base, queries: Some(queries), truth: Some(&truth), metric: Some(metric) };
    write_truth(&content, &args.out, &progress)?;
    checkpoint.remove()?;
    drop(progress);
    print(&format!("{}: {} x {} neighbours by {metric}", args.out.display(), truth.queries(), truth.depth()))
}

/// Refuses a file that could not be written, before hours are spent on what it would hold.
fn refuse_unwritable(out: &Path) -> Result<(), UsageError> {
    const WRITTEN: [&str; 5] = ["hdf5", "h5", "ibin", "ivecs", "npy"];
    let extension = out.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    if WRITTEN.contains(&extension.as_str()) {
        return Ok(());
    }
    Err(UsageError(format!("--out {}: name it .hdf5, .ibin, .ivecs or .npy", out.display())))
}
