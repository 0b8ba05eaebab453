//! Fetches data sets into the cache.
//!
//! In: a registry entry or an address. Out: complete files under their names, each with its SHA-256 beside it
//! (`NAME.sha256`, as `sha256sum -c` reads it). A prefix of a big-ann file is a range of it with the header rewritten.
//! A file that is there already is checked against its recorded digest and not fetched again.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kiln_kernels::Progress;
use sha2::{Digest, Sha256};

use crate::atomic::{rename_durably, sync, write_file};
use crate::bin::Header;
pub use crate::download::FetchOptions;
use crate::download::{Job, download, with_suffix};
use crate::error::DatasetError;
use crate::registry::{Entry, FetchedFiles, Registry};

/// Fetches the set `name` of the built-in registry into `cache_dir`, and returns the path of its base file.
/// Progress counts bytes, one stage a file.
///
/// # Errors
/// When the name is unknown or the set unsupported, the server refuses or fails too often, or a digest differs.
pub fn fetch(
    name: &str,
    cache_dir: &Path,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<PathBuf, DatasetError> {
    match Registry::built_in().get(name) {
        Some(entry) => fetch_entry(entry, cache_dir, options, progress),
        None => Err(DatasetError::invalid(
            name,
            "no known data set has this name",
            "see `kiln datasets list`, or fetch the file yourself and give its path",
        )),
    }
}

/// Fetches the set that `entry` describes: see [`fetch`].
///
/// # Errors
/// As [`fetch`].
pub fn fetch_entry(
    entry: &Entry,
    cache_dir: &Path,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<PathBuf, DatasetError> {
    entry.refuse_unsupported()?;
    let prefix = entry.prefix.then_some(Prefix { rows: entry.rows, dim: entry.dim, cell_bytes: entry.dtype.bytes() });
    let digest = options.sha256.as_deref().or(entry.sha256.as_deref());
    match entry.files(cache_dir) {
        FetchedFiles::One(path) => {
            fetch_file(&entry.url, &path, digest, prefix, options, progress)?;
            Ok(path)
        }
        FetchedFiles::Parts { base, queries, truth } => {
            // The small ones first: a wrong address shows before a terabyte has passed.
            if let Some(url) = &entry.query_url {
                fetch_file(url, &queries, None, None, options, progress)?;
            }
            if let (Some(url), Some(truth)) = (&entry.truth_url, &truth) {
                fetch_file(url, truth, None, None, options, progress)?;
            }
            fetch_file(&entry.url, &base, digest, prefix, options, progress)?;
            Ok(base)
        }
    }
}

/// The first rows of a `.fbin`-family file.
#[derive(Debug, Clone, Copy)]
struct Prefix {
    rows: u64,
    dim: usize,
    cell_bytes: usize,
}

impl Prefix {
    fn header(&self) -> Vec<u8> {
        // Both numbers fit: the registry's test holds prefixes below 2^32 rows.
        Header::encode(self.rows, self.dim as u32)
    }

    fn bytes(&self) -> u64 {
        self.header().len() as u64 + self.rows * (self.dim * self.cell_bytes) as u64
    }

    /// Makes the whole file's header that of the prefix.
    fn rewrite_header(&self, part: &Path, url: &str) -> Result<(), DatasetError> {
        let io = || DatasetError::io(part);
        let file = OpenOptions::new().read(true).write(true).open(part).map_err(io())?;
        let mut found = [0; 8];
        file.read_exact_at(&mut found, 0).map_err(io())?;
        let bits = u64::from_le_bytes(found);
        let (rows, dim) = (bits & 0xFFFF_FFFF, bits >> 32);
        if dim != self.dim as u64 || rows < self.rows {
            return Err(DatasetError::Fetch {
                url: url.to_string(),
                problem: format!(
                    "its header announces {rows} rows of {dim}; at least {} of {} are wanted",
                    self.rows, self.dim
                ),
                remedy: "the file on the server is not the one that the registry describes".to_string(),
            });
        }
        file.write_all_at(&self.header(), 0).map_err(io())?;
        sync(part)
    }
}

fn fetch_file(
    url: &str,
    target: &Path,
    expected: Option<&str>,
    prefix: Option<Prefix>,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<(), DatasetError> {
    if target.is_file() {
        return verify_present(target, expected, progress);
    }
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder).map_err(DatasetError::io(folder))?;
    }
    let job = Job { url, part: with_suffix(target, ".part"), limit: prefix.map(|prefix| prefix.bytes()) };
    download(&job, options, progress)?;
    if let Some(prefix) = prefix {
        prefix.rewrite_header(&job.part, url)?;
    }
    let digest = sha256(&job.part, progress)?;
    if let Some(expected) = expected.filter(|expected| !expected.eq_ignore_ascii_case(&digest)) {
        // What arrived is complete and wrong: resuming it could never help.
        std::fs::remove_file(&job.part).map_err(DatasetError::io(&job.part))?;
        return Err(DatasetError::Fetch {
            url: url.to_string(),
            problem: format!("its SHA-256 is {digest}, and {expected} was expected"),
            remedy: "it was deleted: fetch again, and if the digest differs again, distrust the server or the digest"
                .to_string(),
        });
    }
    // The digest first: a file under its final name always has one.
    record(target, &digest)?;
    rename_durably(&job.part, target)?;
    progress.finish();
    Ok(())
}

/// The path of the recorded digest of a file.
fn record_path(target: &Path) -> PathBuf {
    with_suffix(target, ".sha256")
}

fn record(target: &Path, digest: &str) -> Result<(), DatasetError> {
    let name = target.file_name().unwrap_or(target.as_os_str()).to_string_lossy();
    write_file(&record_path(target), format!("{digest}  {name}\n").as_bytes())
}

/// Checks a file that is there already; one without a recorded digest gets one.
fn verify_present(target: &Path, expected: Option<&str>, progress: &dyn Progress) -> Result<(), DatasetError> {
    let digest = sha256(target, progress)?;
    progress.finish();
    let record_path = record_path(target);
    let recorded = match std::fs::read_to_string(&record_path) {
        Ok(text) => text.split_whitespace().next().map(str::to_string),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(DatasetError::io(record_path)(error)),
    };
    if let Some(other) =
        [expected, recorded.as_deref()].into_iter().flatten().find(|other| !other.eq_ignore_ascii_case(&digest))
    {
        return Err(DatasetError::invalid(
            target,
            format!("its SHA-256 is {digest}, and {other} was expected"),
            "the file changed since it was fetched: delete it and fetch it again",
        ));
    }
    match recorded {
        Some(_) => Ok(()),
        None => record(target, &digest),
    }
}

/// SHA-256 of a file, lower-case hexadecimal.
fn sha256(path: &Path, progress: &dyn Progress) -> Result<String, DatasetError> {
    let io = || DatasetError::io(path);
    let mut file = File::open(path).map_err(io())?;
    progress.stage("checksum", file.metadata().map_err(io())?.len());
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(io())?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
        progress.advance(read as u64);
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
