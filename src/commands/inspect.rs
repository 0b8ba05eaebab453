//! `kiln inspect`: what an index file or a shard set says of itself, and whether every byte is as written.

use std::path::PathBuf;

use kiln_builder::shards::{ShardSummary, inspect_set, is_set, verify_set};
use kiln_builder::{inspect, verify};
use kiln_kernels::Progress;
use serde_json::json;

use super::{build::describe, bytes, print, thousands, write_json};
use crate::terminal::TerminalProgress;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  kiln inspect sift.kiln\n  kiln inspect sift.kiln --verify\n  kiln inspect photos.kset"
)]
pub struct Args {
    /// The index file, or the folder of a shard set
    #[arg(value_name = "X.kiln|SET")]
    index: PathBuf,
    /// Read the whole file and hold every page and section against its checksum
    #[arg(long)]
    verify: bool,
    /// Write what was found, as JSON, to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    if is_set(&args.index) {
        return run_set(args);
    }
    let found = inspect(&args.index)?;
    if args.verify {
        let progress = TerminalProgress::new();
        progress.stage("verify", found.file_bytes);
        verify(&args.index, |read| progress.advance(read))?;
    }
    if let Some(path) = &args.json {
        let verified = args.verify.then_some(true);
        write_json(path, &json!({ "path": args.index, "verified": verified, "inspection": found }))?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    let meta = &found.meta;
    let mut lines = vec![
        format!("{}: Kiln index, format version {}, {}", args.index.display(), found.version, bytes(found.file_bytes)),
        format!("data     {} ({})", meta.dataset, meta.dataset_fingerprint),
        format!("rows     {} x {} {}, metric {}", thousands(meta.n), meta.dim, meta.dtype, meta.metric),
        format!("index    {}", describe(&meta.params)),
        format!("built on {}", meta.isa),
        format!("{:<9}{:>16}{:>16}  checksum", "section", "offset", "bytes"),
    ];
    let row = |s: &kiln_builder::SectionSummary| {
        format!("{:<9}{:>16}{:>16}  {}", s.name, thousands(s.offset), thousands(s.length), s.checksum)
    };
    lines.extend(found.sections.iter().map(row));
    if args.verify {
        lines.push("every page and section matches its checksum".into());
    }
    print(&lines.join("\n"))
}

/// The same of a shard set.
fn run_set(args: Args) -> anyhow::Result<()> {
    let found = inspect_set(&args.index)?;
    if args.verify {
        let progress = TerminalProgress::new();
        progress.stage("verify", found.file_bytes);
        verify_set(&args.index, |read| progress.advance(read))?;
    }
    if let Some(path) = &args.json {
        let verified = args.verify.then_some(true);
        write_json(path, &json!({ "path": args.index, "verified": verified, "set": found }))?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    let gone = found.next_id - found.rows;
    let mut lines = vec![
        format!(
            "{}: shard set of {}, format version {}, {}",
            args.index.display(),
            found.shards.len(),
            found.version,
            bytes(found.file_bytes)
        ),
        format!("rows     {} x {} {}, metric {}", thousands(found.rows), found.dim, found.dtype, found.metric),
        format!("ids      0 to {}, of which {} are of deleted rows", thousands(found.next_id - 1), thousands(gone)),
        format!("{:<18}{:>14}{:>16}{:>16}{:>12}  index", "shard", "rows", "first id", "last id", "size"),
    ];
    let row = |s: &ShardSummary| {
        format!(
            "{:<18}{:>14}{:>16}{:>16}{:>12}  {}",
            s.file,
            thousands(s.rows),
            thousands(s.first_id),
            thousands(s.last_id),
            bytes(s.inspection.file_bytes),
            describe(&s.inspection.meta.params)
        )
    };
    lines.extend(found.shards.iter().map(row));
    if args.verify {
        lines.push("every page and section of every shard matches its checksum".into());
    }
    print(&lines.join("\n"))
}
