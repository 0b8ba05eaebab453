//! Finished units: written once, checked when read, removed when nobody needs them.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

pub(crate) use self::unit_file::{Artifact, UnitWriter};
use self::unit_file::{Nearby, Scratch};
use super::manifest::{Entry, Manifest, ManifestError};
use super::{Files, Key, Lock, Reading};
use crate::error::BuilderError;

/// Segments start on this boundary, so that a hole can take a whole one.
const ALIGNMENT: u64 = 4096;

/// Bytes handed to the system at a time.
const BUFFER: usize = 1 << 20;

const MAGIC: [u8; 8] = *b"KILNUNIT";
/// Footer length, footer checksum, magic.
const TAIL: u64 = 24;

const MANIFEST: &str = "manifest.json";
const PARTIAL: &str = ".partial";

/// A unit of work: a stage's name and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unit {
    pub stage: &'static str,
    pub number: u32,
}

impl Unit {
    pub(crate) fn name(self) -> String {
        format!("{}-{:05}", self.stage, self.number)
    }
}

/// Where a segment lies, and its checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Segment {
    at: u64,
    bytes: u64,
    checksum: u64,
}

/// The end of a unit's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Footer {
    name: String,
    key: Key,
    backend: String,
    segments: Vec<Segment>,
}

/// The units in a folder.
pub(crate) struct Store {
    files: Arc<dyn Files>,
    folder: PathBuf,
    /// Where several processes share the folder: what tells this one's unfinished files from those of the others.
    token: Option<String>,
    state: Mutex<State>,
}

struct State {
    manifest: Manifest,
    /// Files whose every byte was written or checked by this process.
    trusted: BTreeSet<String>,
    /// Bytes of all finished files, less holes; and the most there were.
    bytes: u64,
    peak: u64,
    /// Units committed by this process.
    made: usize,
}

impl Store {
    /// Opens a folder that exists, and which the caller has locked, for the build of a data set. What a crash left behind is
    /// removed; a manifest that is not whole is made anew from the units themselves.
    ///
    /// # Errors
    /// The folder is of another version, or of another data set: the message names both fingerprints.
    pub(crate) fn open(files: Arc<dyn Files>, folder: &Path, dataset: &str) -> Result<Self, BuilderError> {
        let path = folder.join(MANIFEST);
        let names = files.list(folder).map_err(BuilderError::io(folder, "list"))?;
        for name in names.iter().filter(|name| name.ends_with(PARTIAL)) {
            let path = folder.join(name);
            files.remove(&path).map_err(BuilderError::io(&path, "remove"))?;
        }
        let units: Vec<&String> =
            names.iter().filter(|name| !name.ends_with(PARTIAL) && *name != MANIFEST && *name != Lock::NAME).collect();
        let manifest = match read_all(&*files, &path) {
            Ok(bytes) => match Manifest::decode(&bytes) {
                Ok(manifest) => manifest,
                Err(ManifestError::Version(version)) => {
                    return Err(BuilderError::Mismatch(format!(
                        "{}: made by another version of Kiln (folder version {version}, this one makes {}); go on with \
                         that one, or add --restart to begin anew",
                        folder.display(),
                        super::manifest::VERSION
                    )));
                }
                Err(ManifestError::Damaged) => {
                    tracing::warn!("{}: not whole; made anew from the units that are", path.display());
                    recovered(&*files, folder, &units, dataset)
                }
            },
            Err(error) if error.kind() == ErrorKind::NotFound => recovered(&*files, folder, &units, dataset),
            Err(error) => return Err(BuilderError::io(&path, "read")(error)),
        };
        if manifest.dataset != dataset {
            return Err(BuilderError::Mismatch(format!(
                "{}: begun with a data set of fingerprint {}, but this one has {dataset}; give the same data set, or add \
                 --restart to begin anew",
                folder.display(),
                manifest.dataset
            )));
        }
        // Files that the manifest does not name were finished in vain: their names may be used again.
        for name in units.into_iter().filter(|name| !manifest.units.contains_key(*name)) {
            let path = folder.join(name);
            files.remove(&path).map_err(BuilderError::io(&path, "remove"))?;
        }
        let bytes = manifest.units.values().map(|entry| entry.bytes).sum();
        let state = State { manifest, trusted: BTreeSet::new(), bytes, peak: bytes, made: 0 };
        Ok(Self { files, folder: folder.to_path_buf(), token: None, state: Mutex::new(state) })
    }

    /// Removes all units and the manifest from a folder.
    pub(crate) fn clear(files: &dyn Files, folder: &Path) -> Result<(), BuilderError> {
        for name in files.list(folder).map_err(BuilderError::io(folder, "list"))? {
            if name != Lock::NAME {
                let path = folder.join(name);
                files.remove(&path).map_err(BuilderError::io(&path, "remove"))?;
            }
        }
        files.sync_folder(folder).map_err(BuilderError::io(folder, "flush"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Where the units lie.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether a unit of this key is finished.
    pub(crate) fn has(&self, unit: Unit, key: &Key) -> bool {
        self.state().manifest.units.get(&unit.name()).is_some_and(|entry| entry.key == *key)
    }

    /// The most bytes that finished units took at a time.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.state().peak
    }

    /// Removes units whose key is not among `keys`: they were made with other parameters. Returns how many.
    pub(crate) fn keep_only(&self, keys: &[Key]) -> Result<usize, BuilderError> {
        let stale = |entry: &Entry| !keys.contains(&entry.key);
        self.remove_where(|_, entry| stale(entry))
    }

    /// Units that this process finished.
    pub(crate) fn made(&self) -> usize {
        self.state().made
    }

    /// Finished units that are there.
    pub(crate) fn len(&self) -> usize {
        self.state().manifest.units.len()
    }

    /// Removes all units of a stage, or of one of its numbers.
    pub(crate) fn remove(&self, stage: &str, number: Option<u32>) -> Result<usize, BuilderError> {
        let is = |name: &str| match (name.rsplit_once('-'), number) {
            (Some((of, _)), None) => of == stage,
            (Some((of, own)), Some(number)) => of == stage && own.parse() == Ok(number),
            (None, _) => false,
        };
        self.remove_where(|name, _| is(name))
    }

    fn remove_where(&self, gone: impl Fn(&str, &Entry) -> bool) -> Result<usize, BuilderError> {
        let mut state = self.state();
        let names: Vec<String> = state
            .manifest
            .units
            .iter()
            .filter(|(name, entry)| gone(name, entry))
            .map(|(name, _)| name.clone())
            .collect();
        if names.is_empty() {
            return Ok(0);
        }
        // The manifest first: what it names must be there.
        for name in &names {
            let entry = state.manifest.units.remove(name);
            state.trusted.remove(name);
            state.bytes = state.bytes.saturating_sub(entry.map_or(0, |entry| entry.bytes));
        }
        if self.token.is_none() {
            self.write_manifest(&state.manifest)?;
        }
        for name in &names {
            let path = self.folder.join(name);
            match self.files.remove(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(BuilderError::io(&path, "remove")(error));
                }
                _ => (),
            }
        }
        Ok(names.len())
    }

    /// Begins a unit; it counts once it is committed.
    pub(crate) fn begin(&self, unit: Unit) -> Result<UnitWriter<'_>, BuilderError> {
        let partial = self.partial(unit);
        let file = self.files.create(&partial).map_err(BuilderError::io(&partial, "create"))?;
        let (segments, buffer) = (Vec::new(), Vec::with_capacity(BUFFER));
        Ok(UnitWriter { store: self, unit, partial, file, at: 0, buffer, segments, open: None })
    }

    /// What a unit is called until it is finished.
    fn partial(&self, unit: Unit) -> PathBuf {
        self.folder.join(match &self.token {
            Some(token) => format!("{}.{token}{PARTIAL}", unit.name()),
            None => format!("{}{PARTIAL}", unit.name()),
        })
    }

    /// A file that goes with the process, or when it is removed.
    pub(crate) fn scratch(&self, unit: Unit) -> Result<Scratch<'_>, BuilderError> {
        let path = self.partial(unit);
        let file = self.files.create(&path).map_err(BuilderError::io(&path, "create"))?;
        Ok(Scratch { store: self, path, file })
    }

    /// All of such a file.
    pub(crate) fn read_scratch(&self, unit: Unit) -> Result<Vec<u8>, BuilderError> {
        let path = self.partial(unit);
        read_all(&*self.files, &path).map_err(BuilderError::io(&path, "read"))
    }

    /// Removes such a file of so many bytes.
    pub(crate) fn remove_scratch(&self, unit: Unit, bytes: u64) -> Result<(), BuilderError> {
        let path = self.partial(unit);
        self.files.remove(&path).map_err(BuilderError::io(&path, "remove"))?;
        self.count(0, bytes);
        Ok(())
    }

    /// Counts bytes that files took and gave back.
    fn count(&self, more: u64, less: u64) {
        let mut state = self.state();
        state.bytes = (state.bytes + more).saturating_sub(less);
        state.peak = state.peak.max(state.bytes);
    }

    fn write_manifest(&self, manifest: &Manifest) -> Result<(), BuilderError> {
        let path = self.folder.join(MANIFEST);
        let partial = self.folder.join(format!("{MANIFEST}{PARTIAL}"));
        let written = self.files.create(&partial).and_then(|mut file| {
            file.write(&manifest.encode())?;
            file.sync()
        });
        written.map_err(BuilderError::io(&partial, "write"))?;
        self.files.rename(&partial, &path).map_err(BuilderError::io(&path, "rename the finished file to"))?;
        self.files.sync_folder(&self.folder).map_err(BuilderError::io(&self.folder, "flush"))
    }

    /// Opens a finished unit to read any part of it: where this process did not make it, all of it is checked first. Of a
    /// shared folder a process reads few of the units: there it is checked when it is first read from.
    ///
    /// # Errors
    /// [`BuilderError::Spoiled`] when it is not what was written; it then counts as missing.
    pub(crate) fn open_checked(&self, unit: Unit) -> Result<Artifact, BuilderError> {
        let mut artifact = self.open_unit(unit)?;
        if self.token.is_some() {
            artifact.nearby =
                Some(Nearby { files: Arc::clone(&self.files), file: OnceLock::new(), opening: Mutex::new(()) });
            return Ok(artifact);
        }
        if !self.state().trusted.contains(&unit.name()) {
            for segment in 0..artifact.segments.len() {
                self.read(&artifact, segment)?;
            }
            self.state().trusted.insert(unit.name());
        }
        Ok(artifact)
    }

    /// Opens a finished unit to read whole segments, each checked as it is read.
    ///
    /// # Errors
    /// As [`open_checked`](Self::open_checked).
    pub(crate) fn open_unit(&self, unit: Unit) -> Result<Artifact, BuilderError> {
        let name = unit.name();
        let path = self.folder.join(&name);
        let entry = self.state().manifest.units.get(&name).cloned();
        let opened = self.files.open(&path).and_then(|file| {
            let (footer, checksum) = footer(&*file)?;
            Ok((file, footer, checksum))
        });
        match (opened, entry) {
            (Ok((file, footer, checksum)), Some(entry))
                // In a shared folder, another process may have put the same unit in its place, made by another device.
                if footer.key == entry.key
                    && (self.is_shared() || format!("{checksum:016x}") == entry.checksum) =>
            {
                Ok(Artifact { unit, path, file, segments: footer.segments, nearby: None })
            }
            (Err(error), Some(_)) if !is_spoiled(&error) => Err(BuilderError::io(&path, "read")(error)),
            _ => Err(self.spoiled(unit)),
        }
    }

    /// A whole segment, checked.
    ///
    /// # Errors
    /// As [`open_checked`](Self::open_checked).
    pub(crate) fn read(&self, artifact: &Artifact, segment: usize) -> Result<Vec<u8>, BuilderError> {
        match artifact.segments.get(segment) {
            Some(of) => checked_segment(&*artifact.file, of).map_err(|error| artifact.error(error)),
            None => Err(self.spoiled(artifact.unit)),
        }
    }

    /// Says that a unit is not what was written.
    pub(crate) fn spoiled(&self, unit: Unit) -> BuilderError {
        BuilderError::Spoiled { path: self.folder.join(unit.name()), stage: unit.stage, number: unit.number }
    }

    /// Lets go of a stage's units while they are still read through open [`Artifact`]s: to another process they were never
    /// finished. For the last use of them, which may free their space part by part ([`spend_part`](Self::spend_part)).
    pub(crate) fn disown(&self, stage: &str) -> Result<(), BuilderError> {
        let mut state = self.state();
        state.manifest.units.retain(|name, _| name.rsplit_once('-').is_none_or(|(of, _)| of != stage));
        self.write_manifest(&state.manifest)
    }

    /// Frees the space of a segment up to the end of a part, where nobody will read that or what is before it again, of a unit
    /// that was [disowned](Self::disown). Parts are to follow one another, so that no block of the drive is kept for its two
    /// halves.
    pub(crate) fn spend_part(&self, artifact: &Artifact, segment: usize, part: Range<u64>) -> Result<(), BuilderError> {
        let Segment { at, bytes, .. } = artifact.segments[segment];
        let end = if part.end == bytes { bytes.next_multiple_of(ALIGNMENT) } else { part.end / ALIGNMENT * ALIGNMENT };
        let range = at + part.start / ALIGNMENT * ALIGNMENT..at + end;
        if range.is_empty() {
            return Ok(());
        }
        self.count(0, range.end - range.start);
        self.files.punch(&artifact.path, range).map_err(BuilderError::io(&artifact.path, "free space of"))
    }

    /// Frees the space of a segment that nobody will read again. Whether it was freed is not kept: a unit that lost a
    /// segment must count as missing whenever that segment is wanted again. In a shared folder nothing is freed: others may
    /// be reading, or make the same unit.
    pub(crate) fn spend(&self, artifact: &Artifact, segment: usize) -> Result<(), BuilderError> {
        let Segment { at, bytes, .. } = &artifact.segments[segment];
        let range = *at..*at + bytes.next_multiple_of(ALIGNMENT);
        if *bytes == 0 || self.token.is_some() {
            return Ok(());
        }
        self.files.punch(&artifact.path, range).map_err(BuilderError::io(&artifact.path, "free space of"))?;
        let mut state = self.state();
        state.bytes = state.bytes.saturating_sub(bytes.next_multiple_of(ALIGNMENT));
        if let Some(entry) = state.manifest.units.get_mut(&artifact.unit.name()) {
            entry.bytes = entry.bytes.saturating_sub(bytes.next_multiple_of(ALIGNMENT));
        }
        state.trusted.remove(&artifact.unit.name());
        Ok(())
    }
}

/// Whether an error says that bytes are missing or wrong, not that the drive refused.
fn is_spoiled(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData)
}

/// A whole segment; that it is not what was written is an error of [`ErrorKind::InvalidData`].
fn checked_segment(file: &dyn Reading, segment: &Segment) -> io::Result<Vec<u8>> {
    let mut content = vec![0; segment.bytes as usize];
    file.read_at(&mut content, segment.at)?;
    match xxh3_64(&content) == segment.checksum {
        true => Ok(content),
        false => Err(ErrorKind::InvalidData.into()),
    }
}

/// Every whole unit in the folder.
fn recovered(files: &dyn Files, folder: &Path, names: &[&String], dataset: &str) -> Manifest {
    let mut manifest = Manifest::new(dataset);
    for name in names {
        let Ok(file) = files.open(&folder.join(name)) else { continue };
        if let (Ok((footer, checksum)), Ok(bytes)) = (footer(&*file), file.len())
            && footer.name == **name
        {
            let checksum = format!("{checksum:016x}");
            manifest.units.insert((*name).clone(), Entry { key: footer.key, bytes, checksum, backend: footer.backend });
        }
    }
    manifest
}

fn read_all(files: &dyn Files, path: &Path) -> io::Result<Vec<u8>> {
    let file = files.open(path)?;
    let mut bytes = vec![0; file.len()? as usize];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Reads and checks a unit's footer.
fn footer(file: &dyn Reading) -> io::Result<(Footer, u64)> {
    let invalid = || io::Error::from(ErrorKind::InvalidData);
    let length = file.len()?;
    let end = length.checked_sub(TAIL).ok_or_else(invalid)?;
    let mut tail = [0; TAIL as usize];
    file.read_at(&mut tail, end)?;
    let (bytes, checksum) = (crate::file::u64_at(&tail, 0), crate::file::u64_at(&tail, 8));
    if tail[16..] != MAGIC || bytes > end {
        return Err(invalid());
    }
    let mut json = vec![0; bytes as usize];
    file.read_at(&mut json, end - bytes)?;
    if xxh3_64(&json) != checksum {
        return Err(invalid());
    }
    Ok((serde_json::from_slice(&json).map_err(|_| invalid())?, checksum))
}

mod shared;
#[cfg(test)]
mod tests;
mod unit_file;
