//! `kiln append`: rows become one more shard of a set.

use std::path::PathBuf;

use kiln_builder::shards::{Adopted, AppendRequest, Appended, adopt, append, set_defaults};
use serde_json::json;

use super::budget::MemoryArgs;
use super::build::{ParamArgs, describe, document};
use super::device::DeviceArgs;
use super::{IndexArg, MetricArg, UsageError, metric_of, open_dataset, print, thousands, with_threads, write_json};
use crate::terminal::TerminalProgress;

const EXAMPLES: &str = "\
Examples:
  kiln append photos.kset --dataset january.fbin --metric l2 --index vamana   the first shard makes the set
  kiln append photos.kset --dataset february.fbin                             built as the last shard was
  kiln append photos.kset --shard march.kiln                                  an index that is built already
  kiln append photos.kset --dataset april.fbin --memory-budget 16GiB          rows that memory does not hold
  kiln serve photos.kset

A shard set is a folder of index files over disjoint rows, which search, serve and inspect take where they take an index
file. Its rows have ids of their own, in the order in which they were added, from 0 on: those of the second data set follow
on those of the first. They stay what they are when the set is compacted.

The first shard decides the kind of index, the metric and the type of the rows. Those that follow take all other parameters
of the shard before them, unless they are given: of inverted lists as many as suit the rows. An index file given with --shard
is linked into the folder, or copied where the filesystem has no links, and stays where it is too.

Interrupted, the set is as it was before; with --memory-budget the same command then goes on from what is finished. A server goes on with what it has, until it is told to swap.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The folder of the shard set; made where there is none
    #[arg(value_name = "SET")]
    set: PathBuf,
    /// The rows to add: a file, demo, or the name of a fetched set
    #[arg(long, value_name = "FILE|NAME", required_unless_present = "shard")]
    dataset: Option<String>,
    /// Add this index file as it is
    #[arg(
        long,
        value_name = "X.kiln",
        conflicts_with_all = ["dataset", "index", "metric", "keep_dtype", "device", "memory_budget"]
    )]
    shard: Option<PathBuf>,
    /// The kind of index; required for the first shard
    #[arg(long, value_enum)]
    index: Option<IndexArg>,
    /// How rows are compared; required for the first shard where the data set does not say
    #[arg(long, value_enum)]
    metric: Option<MetricArg>,
    #[command(flatten)]
    params: ParamArgs,
    /// First shard: store f32 rows as f32 even where u8, i8 or f16 holds every value exactly
    #[arg(long)]
    keep_dtype: bool,
    /// Threads to use [default: all]
    #[arg(long, value_name = "T")]
    threads: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    budget: MemoryArgs,
    /// Write what was done, as JSON, to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    match (&args.shard, &args.dataset) {
        (Some(shard), _) if args.params != ParamArgs::default() => {
            let shard = shard.display();
            Err(UsageError(format!("--shard {shard}: it is built already: leave the parameters of a build out")).into())
        }
        (Some(shard), _) => {
            let progress = TerminalProgress::new();
            let added = with_threads(args.threads, || adopt(&args.set, shard, &progress))??;
            drop(progress);
            let Adopted { path, shards, first_id, rows } = added;
            let told = json!({ "path": path, "shards": shards, "first_id": first_id, "rows": rows });
            finish(&args, told, (shards, first_id, rows))
        }
        (None, Some(dataset)) => {
            let added = build(&args, dataset)?;
            let Appended { path, shards, first_id, rows, report } = added;
            let built = document(&report);
            let told = json!({ "path": path, "shards": shards, "first_id": first_id, "rows": rows, "build": built });
            finish(&args, told, (shards, first_id, rows))
        }
        (None, None) => Err(UsageError("give rows with --dataset, or an index file with --shard".into()).into()),
    }
}

fn build(args: &Args, dataset: &str) -> anyhow::Result<Appended> {
    let dataset = open_dataset(dataset)?;
    let source = dataset.base.as_ref();
    let defaults = set_defaults(&args.set, source.len())?;
    let (metric, params) = match (&defaults, args.index) {
        (Some(defaults), index) => {
            if index.is_some_and(|index| kiln_builder::IndexKind::from(index) != defaults.params.kind()) {
                let kind = defaults.params.kind();
                let problem = format!("{}: its shards are {kind} indexes: leave --index out", args.set.display());
                return Err(UsageError(problem).into());
            }
            // What a data set says of itself counts, unless it is overruled; what it does not say is as in the set.
            let metric = metric_of(args.metric, &dataset).unwrap_or(defaults.metric);
            (metric, args.params.resolve_from(defaults.params.clone(), source)?)
        }
        (None, Some(index)) => (metric_of(args.metric, &dataset)?, args.params.resolve(index.into(), source)?),
        (None, None) => {
            let set = args.set.display();
            let problem = format!("{set}: there is no such set yet: add --index vamana or ivf-pq for its first shard");
            return Err(UsageError(problem).into());
        }
    };
    tracing::info!("{}, metric {metric}", describe(&params));
    let progress = TerminalProgress::new();
    with_threads(args.threads, || {
        let device = args.device.open()?;
        args.budget.keep(|within| {
            let request = AppendRequest {
                set: &args.set,
                source,
                dataset_name: dataset.name.clone(),
                dataset_fingerprint: dataset.fingerprint.clone(),
                metric,
                params,
                keep_dtype: args.keep_dtype,
                within,
            };
            Ok(append(&device, &request, &progress)?)
        })
    })?
}

fn finish(args: &Args, told: serde_json::Value, (shards, first, rows): (usize, u64, u64)) -> anyhow::Result<()> {
    if let Some(path) = &args.json {
        write_json(path, &told)?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    let (set, last) = (args.set.display(), thousands(first + rows - 1));
    print(&format!("{set}: {} rows added, ids {} to {last}; shards: {shards}", thousands(rows), thousands(first)))
}
