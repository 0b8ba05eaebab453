//! One unit's file: as it is written, and as it is read.
//!
//! In: segments of bytes, one after another. Out: the file under its name once all of it is on the drive, and parts of its
//! segments. How a file ends is described with [`Store`].

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::super::{Files, Key, Reading, Writing};
use super::{ALIGNMENT, BUFFER, Entry, Footer, MAGIC, Segment, Store, Unit, checked_segment, is_spoiled};
use crate::error::BuilderError;

/// A unit being written.
pub(crate) struct UnitWriter<'a> {
    pub(super) store: &'a Store,
    pub(super) unit: Unit,
    pub(super) partial: PathBuf,
    pub(super) file: Box<dyn Writing>,
    pub(super) at: u64,
    pub(super) buffer: Vec<u8>,
    pub(super) segments: Vec<Segment>,
    /// Where the open segment began, and its checksum so far.
    pub(super) open: Option<(u64, Xxh3)>,
}

impl UnitWriter<'_> {
    /// Appends a whole segment.
    pub(crate) fn segment(&mut self, bytes: &[u8]) -> Result<(), BuilderError> {
        self.write(bytes)?;
        self.end_segment()
    }

    /// Appends to the open segment, or opens one.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), BuilderError> {
        let (_, checksum) = self.open.get_or_insert_with(|| (self.at, Xxh3::new()));
        checksum.update(bytes);
        self.put(bytes)
    }

    /// Closes the open segment; an empty one where none is.
    pub(crate) fn end_segment(&mut self) -> Result<(), BuilderError> {
        let (at, checksum) = self.open.take().unwrap_or_else(|| (self.at, Xxh3::new()));
        self.segments.push(Segment { at, bytes: self.at - at, checksum: checksum.digest() });
        let padding = self.at.next_multiple_of(ALIGNMENT) - self.at;
        self.put(&[0; ALIGNMENT as usize][..padding as usize])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), BuilderError> {
        self.at += bytes.len() as u64;
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            return self.file.write(bytes).map_err(BuilderError::io(&self.partial, "write"));
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BuilderError> {
        self.file.write(&self.buffer).map_err(BuilderError::io(&self.partial, "write"))?;
        self.buffer.clear();
        Ok(())
    }

    /// Makes the unit last, under its name and in the manifest.
    pub(crate) fn commit(mut self, key: &Key, backend: &str) -> Result<(), BuilderError> {
        let name = self.unit.name();
        let segments = std::mem::take(&mut self.segments);
        let footer = Footer { name: name.clone(), key: key.clone(), backend: backend.to_string(), segments };
        let json = serde_json::to_vec(&footer).expect("a footer is plain data");
        let checksum = xxh3_64(&json);
        self.put(&json)?;
        self.put(&(json.len() as u64).to_le_bytes())?;
        self.put(&checksum.to_le_bytes())?;
        self.put(&MAGIC)?;
        self.flush()?;
        let (store, path) = (self.store, self.store.folder.join(&name));
        self.file.sync().map_err(BuilderError::io(&self.partial, "flush"))?;
        store.files.rename(&self.partial, &path).map_err(BuilderError::io(&path, "rename the finished file to"))?;
        store.files.sync_folder(&store.folder).map_err(BuilderError::io(&store.folder, "flush"))?;
        let mut state = store.state();
        let entry = Entry {
            key: key.clone(),
            bytes: self.at,
            checksum: format!("{checksum:016x}"),
            backend: backend.to_string(),
        };
        let replaced = state.manifest.units.insert(name.clone(), entry);
        state.bytes = state.bytes.saturating_sub(replaced.map_or(0, |entry| entry.bytes)) + self.at;
        state.peak = state.peak.max(state.bytes);
        state.trusted.insert(name);
        state.made += 1;
        match store.token {
            None => store.write_manifest(&state.manifest),
            Some(_) => Ok(()),
        }
    }
}

/// A file that no other process will want.
pub(crate) struct Scratch<'a> {
    pub(super) store: &'a Store,
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn Writing>,
}

impl Scratch<'_> {
    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), BuilderError> {
        self.store.count(bytes.len() as u64, 0);
        self.file.write(bytes).map_err(BuilderError::io(&self.path, "write"))
    }
}

/// A finished unit, open to be read.
pub(crate) struct Artifact {
    pub(super) unit: Unit,
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn Reading>,
    pub(super) segments: Vec<Segment>,
    /// Of a shared folder, and to be read at random.
    pub(super) nearby: Option<Nearby>,
}

/// A unit of a shared folder as it is read at random: opened, and all of it checked, when that happens first.
pub(super) struct Nearby {
    pub(super) files: Arc<dyn Files>,
    pub(super) file: OnceLock<Box<dyn Reading>>,
    /// Held by the thread that opens it; the others wait.
    pub(super) opening: Mutex<()>,
}

impl Nearby {
    fn file(&self, artifact: &Artifact) -> io::Result<&dyn Reading> {
        let _opening = match self.file.get() {
            Some(file) => return Ok(&**file),
            None => self.opening.lock().expect("no holder of this lock panics"),
        };
        if self.file.get().is_none() {
            let file = self.files.open_nearby(&artifact.path)?;
            artifact.segments.iter().try_for_each(|segment| checked_segment(&*file, segment).map(drop))?;
            let _ = self.file.set(file);
        }
        Ok(&**self.file.get().expect("set above, or by the thread before"))
    }
}

impl Artifact {
    pub(super) fn error(&self, error: io::Error) -> BuilderError {
        match is_spoiled(&error) {
            true => BuilderError::Spoiled { path: self.path.clone(), stage: self.unit.stage, number: self.unit.number },
            false => BuilderError::io(&self.path, "read")(error),
        }
    }

    /// Bytes of a segment.
    pub(crate) fn bytes(&self, segment: usize) -> u64 {
        self.segments.get(segment).map_or(0, |segment| segment.bytes)
    }

    /// Reads part of a segment, unchecked: for units opened by [`Store::open_checked`].
    pub(crate) fn read_at(&self, segment: usize, buffer: &mut [u8], offset: u64) -> Result<(), BuilderError> {
        let within: Range<u64> = offset..offset + buffer.len() as u64;
        let read = match self.segments.get(segment) {
            Some(segment) if within.end <= segment.bytes => {
                let file = self.nearby.as_ref().map_or(Ok(&*self.file), |nearby| nearby.file(self));
                file.and_then(|file| file.read_at(buffer, segment.at + within.start))
            }
            _ => Err(io::Error::from(ErrorKind::UnexpectedEof)),
        };
        read.map_err(|error| self.error(error))
    }
}
