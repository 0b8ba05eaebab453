//! `X.kiln.tune.json`: the settings that were found for an index, beside it.
//!
//! In: a [`Tuned`] setting. Out: one JSON file with a setting for each k, recall and residency, written whole or not at
//! all. It names the index that it is of by a hash of the index's first page, which holds the checksum of every
//! section, so that settings never outlive the index that they were measured on.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use kiln_builder::shards::{SET_MANIFEST, is_set};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::Tuned;

/// Version of the file.
const SCHEMA: u32 = 1;

/// Bytes of an index's first page.
const PAGE: u64 = 4096;

/// Targets nearer than this are one.
const SAME_RECALL: f64 = 1e-9;

/// A file of settings that is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TuneFileError {
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The system's own words.
        source: io::Error,
    },
    /// Never tuned.
    #[error("{path}: there is no such file, the index was not tuned; run `{command}`", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What makes it.
        command: String,
    },
    /// Tuned for other targets.
    #[error("{path}: it holds no setting for {asked}, only for {held}; run `{command}`", path = path.display())]
    OtherTarget {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        asked: String,
        /// What there is.
        held: String,
        /// What adds it.
        command: String,
    },
    /// The index was built again since.
    #[error("{path}: it was made for another build of {index}; run `{command}`",
        path = path.display(), index = index.display())]
    Stale {
        /// The file.
        path: PathBuf,
        /// The index.
        index: PathBuf,
        /// What replaces it.
        command: String,
    },
    /// Not such a file.
    #[error("{path}: {problem}; remove it and run `kiln tune` again", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl TuneFileError {
    fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }
}

/// The whole file.
#[derive(Debug, Serialize, Deserialize)]
struct TuneFile {
    schema: u32,
    /// Of the index that it is of: see [`identity`].
    index: String,
    /// By residency, k and recall.
    tuned: Vec<Tuned>,
}

/// Where the settings of `index` are kept.
pub fn tune_path(index: &Path) -> PathBuf {
    // A slash at the end of a folder's name would put the file into the folder.
    let mut name = index.components().as_path().as_os_str().to_owned();
    name.push(".tune.json");
    name.into()
}

/// What tells one build of an index from another: xxh3-128 of its first page; of a shard set, of the first page of the
/// file that names its shards, which begins with the checksum of the rest.
fn identity(index: &Path) -> Result<String, TuneFileError> {
    let mut page = Vec::new();
    let file = if is_set(index) { index.join(SET_MANIFEST) } else { index.to_path_buf() };
    let read = File::open(file).and_then(|file| file.take(PAGE).read_to_end(&mut page));
    read.map_err(TuneFileError::io(index, "read"))?;
    Ok(format!("{:032x}", xxh3_128(&page)))
}

/// The file beside `index`, of whichever build; `None` where there is none.
fn read(index: &Path) -> Result<Option<TuneFile>, TuneFileError> {
    let path = tune_path(index);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(TuneFileError::io(&path, "read")(error)),
    };
    let damaged = |problem: String| TuneFileError::Damaged { path: path.clone(), problem };
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    if value["schema"] != SCHEMA {
        return Err(damaged(format!("schema version {}, this Kiln reads version {SCHEMA}", value["schema"])));
    }
    serde_json::from_value(value).map(Some).map_err(|e| damaged(e.to_string()))
}

/// Refuses a file beside `index` that [`keep_tuned`] could not add to: to be known before hours of tuning.
///
/// # Errors
/// When there is one and it cannot be understood.
pub fn refuse_unreadable(index: &Path) -> Result<(), TuneFileError> {
    read(index).map(drop)
}

/// The setting that was found for `index`, `k`, `recall` and `residency`.
///
/// # Errors
/// When there is none, or the index was built again since: the message says what to run.
pub fn tuned(index: &Path, k: usize, recall: f64, residency: &str) -> Result<Tuned, TuneFileError> {
    let path = tune_path(index);
    let k_flag = if k == 10 { String::new() } else { format!(" --k {k}") };
    let residency_flag = if residency == "memory" { String::new() } else { format!(" --residency {residency}") };
    let command = format!("kiln tune {} --queries FILE --recall {recall}{k_flag}{residency_flag}", index.display());
    let Some(file) = read(index)? else { return Err(TuneFileError::Missing { path, command }) };
    if file.index != identity(index)? {
        return Err(TuneFileError::Stale { path, index: index.to_path_buf(), command });
    }
    let target = (residency, k, recall);
    if let Some(found) = file.tuned.iter().find(|tuned| is_for(tuned, target)) {
        return Ok(found.clone());
    }
    let named = |k: usize, recall: f64, residency: &str| format!("recall@{k} {recall} ({residency})");
    let held: Vec<String> = file.tuned.iter().map(|t| named(t.k, t.recall, &t.residency)).collect();
    let held = if held.is_empty() { "no target".to_string() } else { held.join(", ") };
    Err(TuneFileError::OtherTarget { path, asked: named(k, recall, residency), held, command })
}

/// Every setting that was found for this build of `index` and this residency; none where it was not tuned.
///
/// # Errors
/// When the file is of another build of the index, or cannot be understood.
pub fn all_tuned(index: &Path, residency: &str) -> Result<Vec<Tuned>, TuneFileError> {
    let Some(file) = read(index)? else { return Ok(Vec::new()) };
    if file.index != identity(index)? {
        let command = format!("kiln tune {} --queries FILE --recall R", index.display());
        return Err(TuneFileError::Stale { path: tune_path(index), index: index.to_path_buf(), command });
    }
    Ok(file.tuned.into_iter().filter(|tuned| tuned.residency == residency).collect())
}

fn is_for(tuned: &Tuned, (residency, k, recall): (&str, usize, f64)) -> bool {
    tuned.residency == residency && tuned.k == k && (tuned.recall - recall).abs() < SAME_RECALL
}

/// Keeps a setting beside `index`, in the place of an earlier one for the same target; settings for another build of
/// the index are dropped, with a warning. Returns the file.
///
/// # Errors
/// When the file cannot be written, or there is one that cannot be understood.
pub fn keep_tuned(index: &Path, tuned: &Tuned) -> Result<PathBuf, TuneFileError> {
    let (path, identity) = (tune_path(index), identity(index)?);
    let mut file = match read(index)? {
        Some(file) if file.index == identity => file,
        Some(file) => {
            let dropped = file.tuned.len();
            tracing::warn!("{}: {dropped} settings for another build of the index are dropped", path.display());
            TuneFile { schema: SCHEMA, index: identity, tuned: Vec::new() }
        }
        None => TuneFile { schema: SCHEMA, index: identity, tuned: Vec::new() },
    };
    file.tuned.retain(|held| !is_for(held, (&tuned.residency, tuned.k, tuned.recall)));
    file.tuned.push(tuned.clone());
    file.tuned.sort_by(|a, b| (&a.residency, a.k).cmp(&(&b.residency, b.k)).then(a.recall.total_cmp(&b.recall)));
    write(&path, &file).map_err(TuneFileError::io(&path, "write"))?;
    Ok(path)
}

/// Writes beside the target, flushes and renames: a reader never sees half a file.
fn write(path: &Path, file: &TuneFile) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let mut json = serde_json::to_vec_pretty(file)?;
    json.push(b'\n');
    let written = File::create(&partial)
        .and_then(|mut out| out.write_all(&json).and_then(|()| out.sync_all()))
        .and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

#[cfg(test)]
mod tests {
    use kiln_builder::Effort;

    use super::*;
    use crate::stats::Interval;
    use crate::tune::SampleRecall;

    fn setting(k: usize, recall: f64, residency: &str, nprobe: usize) -> Tuned {
        let sample = SampleRecall { queries: 50, recall: 0.96, lo: 0.951, hi: 0.97 };
        Tuned {
            k,
            recall,
            residency: residency.into(),
            mode: "latency-1".into(),
            effort: Effort::Lists { nprobe, rerank: 40 },
            qps: Interval { median: 1e4, lo: 9e3, hi: 1.1e4 },
            tuning: sample,
            held_out: sample,
            created: "2026-11-20T17:40:00Z".into(),
            version: "0.1.0".into(),
        }
    }

    #[test]
    fn targets_live_side_by_side_and_each_is_replaced_alone() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let index = folder.path().join("x.kiln");
        std::fs::write(&index, b"first build").expect("written");
        let told = |k, recall, residency: &str| tuned(&index, k, recall, residency).expect_err("none").to_string();
        let message = told(10, 0.95, "ssd");
        assert!(message.contains("x.kiln.tune.json: there is no such file"), "{message}");
        assert!(message.contains("--recall 0.95 --residency ssd`"), "{message}");
        let kept = [(10, 0.95, "memory", 3), (10, 0.9, "memory", 1), (10, 0.95, "ssd", 4), (5, 0.95, "memory", 2)];
        for (k, recall, residency, nprobe) in kept {
            keep_tuned(&index, &setting(k, recall, residency, nprobe)).expect("kept");
        }
        keep_tuned(&index, &setting(10, 0.9, "memory", 7)).expect("replaced");
        for (k, recall, residency, nprobe) in [kept[0], (10, 0.9, "memory", 7), kept[2], kept[3]] {
            assert_eq!(tuned(&index, k, recall, residency).expect("held"), setting(k, recall, residency, nprobe));
        }
        let held = |residency| all_tuned(&index, residency).map(|all| all.len());
        assert_eq!((held("memory").expect("held"), held("ssd").expect("held"), held("tape").expect("held")), (3, 1, 0));
        let message = told(10, 0.99, "memory");
        assert!(
            message.contains("no setting for recall@10 0.99 (memory), only for recall@5 0.95 (memory)"),
            "{message}"
        );
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 2, "a partial file is left");

        // Another build: refused by readers, replaced by the next tuning.
        std::fs::write(&index, b"second build").expect("written");
        let message = told(10, 0.95, "memory");
        assert!(message.contains("made for another build of") && message.contains("kiln tune"), "{message}");
        assert!(all_tuned(&index, "memory").is_err_and(|error| error.to_string().contains("another build")));
        keep_tuned(&index, &setting(10, 0.95, "memory", 9)).expect("kept");
        assert!(tuned(&index, 10, 0.95, "memory").is_ok() && tuned(&index, 10, 0.9, "memory").is_err());

        // Nothing that cannot be understood is written over.
        for (text, says) in [("{", "EOF"), ("{\"schema\": 9}", "schema version 9"), ("{\"schema\": 1}", "index")] {
            std::fs::write(tune_path(&index), text).expect("written");
            for message in [told(10, 0.95, "memory"), refuse_unreadable(&index).expect_err("refused").to_string()] {
                assert!(message.contains(says) && message.contains("remove it"), "{message}");
            }
            assert!(keep_tuned(&index, &setting(10, 0.9, "memory", 1)).is_err());
        }
    }
}
