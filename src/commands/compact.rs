//! `kiln compact`: the shards of a set become one, without the rows that were deleted.

use std::path::PathBuf;

use kiln_builder::shards::{Compacted, Deletions, compact};
use kiln_datasets::open_ids;
use serde_json::{Value, json};

use super::budget::MemoryArgs;
use super::build::document;
use super::device::DeviceArgs;
use super::{print, thousands, with_threads, write_json};
use crate::terminal::TerminalProgress;

const EXAMPLES: &str = "\
Examples:
  kiln compact photos.kset
  kiln compact photos.kset --delete ids.npy
  kiln compact photos.kset --memory-budget 16GiB

All rows of the set are built into one index, with the parameters of its last shard; of inverted lists as many as suit the
rows. The index is what building the same rows at once would give. Rows keep their ids, and those of deleted rows are never
given out again. An id that no row ever had is an error; one of a row that was deleted before is not.

Interrupted, the set is as it was before; with --memory-budget the same command then goes on from what is finished. A server goes on with the shards that it has open, until it is told to swap.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The folder of the shard set
    #[arg(value_name = "SET")]
    set: PathBuf,
    /// Ids of rows to drop: a one-dimensional .npy of uint64, int64, uint32 or int32
    #[arg(long, value_name = "IDS.npy")]
    delete: Option<PathBuf>,
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
    let ids = args.delete.as_deref().map(open_ids).transpose()?;
    let deletions = args.delete.as_deref().zip(ids).map(|(path, ids)| Deletions { path, ids });
    let progress = TerminalProgress::new();
    let done = with_threads(args.threads, || -> anyhow::Result<Compacted> {
        let device = args.device.open()?;
        args.budget.keep(|within| Ok(compact(&device, &args.set, deletions.as_ref(), within.as_ref(), &progress)?))
    })??;
    drop(progress);
    let Compacted { shards, rows, deleted, gone_before, report } = done;
    if let Some(path) = &args.json {
        let told = json!({
            "shards_before": shards,
            "rows": rows,
            "deleted": deleted,
            "deleted_before": gone_before,
            "build": report.as_ref().map_or(Value::Null, document),
        });
        write_json(path, &told)?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    let set = args.set.display();
    let before = match gone_before {
        0 => String::new(),
        n => format!(" ({} ids were of rows deleted before)", thousands(n)),
    };
    print(&match report {
        None => format!("{set}: one shard of {} rows, and nothing to delete{before}", thousands(rows)),
        Some(_) => format!(
            "{set}: {} rows in one shard, of {shards} before; {} rows deleted{before}",
            thousands(rows),
            thousands(deleted)
        ),
    })
}
