//! Where an index is while it is searched, and how it is read: flags that several commands share.

use std::path::Path;

use clap::ValueEnum;
use kiln_builder::{DriveReads, IoEngine, OpenParams, Residency, Searcher, Serving};

use super::{UsageError, bytes, parse_bytes};

/// Where the index is while it is searched, and how it is read from there.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct ResidencyArgs {
    /// Where the index is while it is searched
    #[arg(long, value_enum, default_value = "memory")]
    residency: ResidencyArg,
    /// SSD: what carries reads to the drive [default: auto]
    #[arg(long, value_enum, value_name = "ENGINE")]
    io: Option<IoArg>,
    /// SSD: whether pages may come from the page cache [default: direct]
    #[arg(long, value_enum)]
    reads: Option<ReadsArg>,
    /// SSD: memory that serving may hold, all shards of a set together, such as 64MiB; what the index does not need keeps the
    /// pages that searches want most [default: what the index needs]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory: Option<u64>,
    /// A shard set: search only so many shards, those whose centroids are nearest to the query [default: all]
    #[arg(long, value_name = "N")]
    probe_shards: Option<usize>,
}

impl ResidencyArgs {
    /// How the index at `path` is to be opened.
    ///
    /// # Errors
    /// Flags that only mean something on SSD, where the index is in memory; or of a shard set, where it is none.
    pub fn open_params(&self, path: &Path) -> Result<OpenParams, UsageError> {
        match self.probe_shards {
            Some(0) => return Err(UsageError("--probe-shards 0: use 1 or more".into())),
            Some(_) if path.is_file() => {
                let problem =
                    format!("--probe-shards is for shard sets, {} is one index: leave it out", path.display());
                return Err(UsageError(problem));
            }
            _ => (),
        }
        let flags =
            [("--io", self.io.is_some()), ("--reads", self.reads.is_some()), ("--memory", self.memory.is_some())];
        if let (ResidencyArg::Memory, Some((flag, _))) = (self.residency, flags.iter().find(|(_, given)| *given)) {
            return Err(UsageError(format!(
                "{flag} is for an index on the drive: add --residency ssd, or leave it out"
            )));
        }
        Ok(OpenParams {
            residency: self.residency.into(),
            reads: self.reads.map_or(DriveReads::default(), DriveReads::from),
            io: self.io.map_or(IoEngine::default(), IoEngine::from),
            memory: self.memory,
            probe_shards: self.probe_shards,
        })
    }
}

/// Where an index is while it is searched.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ResidencyArg {
    /// Read into memory first
    Memory,
    /// Left on the drive, read by page past the page cache
    Ssd,
}

impl From<ResidencyArg> for Residency {
    fn from(arg: ResidencyArg) -> Residency {
        match arg {
            ResidencyArg::Memory => Residency::Memory,
            ResidencyArg::Ssd => Residency::Ssd,
        }
    }
}

/// What carries reads to the drive.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum IoArg {
    /// io_uring, or threads that call pread where the system refuses it
    Auto,
    /// io_uring, or an error
    IoUring,
    /// Threads that call pread
    Pread,
}

impl From<IoArg> for IoEngine {
    fn from(arg: IoArg) -> IoEngine {
        match arg {
            IoArg::Auto => IoEngine::Auto,
            IoArg::IoUring => IoEngine::IoUring,
            IoArg::Pread => IoEngine::Pread,
        }
    }
}

/// Whether pages may come from the page cache.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ReadsArg {
    /// Never: every page comes from the drive
    Direct,
    /// Where they are there
    Cached,
}

impl From<ReadsArg> for DriveReads {
    fn from(arg: ReadsArg) -> DriveReads {
        match arg {
            ReadsArg::Direct => DriveReads::Direct,
            ReadsArg::Cached => DriveReads::Cached,
        }
    }
}

/// How an open index fits itself into memory, in one line.
pub fn serving(searcher: &Searcher) -> String {
    let serving = searcher.serving();
    let Serving { data, codes, navigation, sums, ids, pinned, buffers, .. } = serving;
    let parts = [
        ("index", data),
        ("codes", codes),
        ("navigation", navigation),
        ("page checksums", sums),
        ("row numbers", ids),
        ("pinned pages", pinned),
        ("read buffers", buffers),
    ];
    let parts: Vec<String> =
        (parts.iter().filter(|(_, size)| *size > 0)).map(|(name, size)| format!("{name} {}", bytes(*size))).collect();
    let from = match (serving.engine, serving.reads) {
        (Some(engine), Some(reads)) => {
            let engine = if engine == IoEngine::Pread { "pread" } else { "io_uring" };
            let reads = if reads == DriveReads::Direct { "direct" } else { "cached" };
            format!("; the rest by {reads} {engine}")
        }
        _ => String::new(),
    };
    let shards = searcher.set().map_or(String::new(), |set| match (set.shard_count(), set.probed()) {
        (shards, Some(probed)) => format!("{shards} shards of which a query searches {probed}, "),
        (1, None) => "1 shard, ".to_string(),
        (shards, None) => format!("{shards} shards, "),
    });
    format!("{shards}{} in memory ({}){from}", bytes(serving.total()), parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_drive_need_an_index_on_the_drive() {
        let path = Path::new("x.kiln");
        let plain =
            ResidencyArgs { residency: ResidencyArg::Memory, io: None, reads: None, memory: None, probe_shards: None };
        assert_eq!(plain.open_params(path).map_err(|e| e.to_string()), Ok(Residency::Memory.into()));
        for (flag, args) in [
            ("--io", ResidencyArgs { io: Some(IoArg::Auto), ..plain }),
            ("--reads", ResidencyArgs { reads: Some(ReadsArg::Cached), ..plain }),
            ("--memory", ResidencyArgs { memory: Some(1 << 20), ..plain }),
        ] {
            let message = args.open_params(path).expect_err("in memory").to_string();
            assert!(message.starts_with(flag) && message.contains("--residency ssd"), "{message}");
            assert!(ResidencyArgs { residency: ResidencyArg::Ssd, ..args }.open_params(path).is_ok());
        }
    }
}
