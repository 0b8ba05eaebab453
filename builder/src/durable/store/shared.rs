//! Folders that several machines share: no lock and no manifest, only what each unit says of itself.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Entry, PARTIAL, State, Store, Unit, footer, is_spoiled};
use crate::durable::manifest::Manifest;
use crate::durable::{Files, Key};
use crate::error::BuilderError;

/// Units that are looked at side by side: most of the time goes into waiting.
const AT_A_TIME: usize = 16;

impl Store {
    /// Opens a folder that others may be at work in, for the build of a data set. It knows of no unit before
    /// [`refresh`](Self::refresh).
    pub(crate) fn shared(files: Arc<dyn Files>, folder: &Path, dataset: &str) -> Self {
        let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let machine = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let of_process = [&machine[..], &std::process::id().to_le_bytes(), &nanoseconds.to_le_bytes()].concat();
        let token = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&of_process));
        let state = State { manifest: Manifest::new(dataset), trusted: Default::default(), bytes: 0, peak: 0, made: 0 };
        Self { files, folder: folder.to_path_buf(), token: Some(token), state: Mutex::new(state) }
    }

    /// Tells this process from others that are at work here.
    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Bytes of the units that are known to be there.
    pub(crate) fn bytes_there(&self) -> u64 {
        self.state().manifest.units.values().map(|entry| entry.bytes).sum()
    }

    /// Whether several processes share the folder.
    pub(crate) fn is_shared(&self) -> bool {
        self.token.is_some()
    }

    /// Finds out which units of some stages are there now, whoever made them.
    pub(crate) fn refresh(&self, stages: &[&str]) -> Result<(), BuilderError> {
        let of_stages = |name: &str| name.rsplit_once('-').is_some_and(|(stage, _)| stages.contains(&stage));
        let names = self.files.list(&self.folder).map_err(BuilderError::io(&self.folder, "list"))?;
        let names: Vec<String> = names.into_iter().filter(|name| of_stages(name) && !name.contains('.')).collect();
        let new: Vec<&String> = {
            let mut state = self.state();
            state.manifest.units.retain(|name, _| !of_stages(name) || names.contains(name));
            names.iter().filter(|name| !state.manifest.units.contains_key(*name)).collect()
        };
        let parts = new.chunks(new.len().div_ceil(AT_A_TIME).max(1));
        std::thread::scope(|scope| {
            let look = |part: &[&String]| part.iter().try_for_each(|name| self.look_up(name));
            let threads: Vec<_> = parts.map(|part| scope.spawn(move || look(part))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("a look at a unit does not panic"))
        })
    }

    /// Whether a unit of this key is finished, by now.
    pub(crate) fn has_by_now(&self, unit: Unit, key: &Key) -> Result<bool, BuilderError> {
        if self.is_shared() && !self.has(unit, key) {
            self.look_up(&unit.name())?;
        }
        Ok(self.has(unit, key))
    }

    /// Looks at the footer of a unit that may be there.
    fn look_up(&self, name: &str) -> Result<(), BuilderError> {
        let path = self.folder.join(name);
        let found = self.files.open(&path).and_then(|file| Ok((footer(&*file)?, file.len()?)));
        let whole = match found {
            Ok(((footer, checksum), bytes)) if footer.name == name => {
                let checksum = format!("{checksum:016x}");
                Some(Entry { key: footer.key, bytes, checksum, backend: footer.backend })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if !is_spoiled(&error) => return Err(BuilderError::io(&path, "read")(error)),
            _ => None,
        };
        match whole {
            Some(entry) => drop(self.state().manifest.units.insert(name.to_string(), entry)),
            None => tracing::warn!("{}: damaged; it counts as missing, and is made again", path.display()),
        }
        Ok(())
    }

    /// Removes the files of units that `gone` names, given stage, number and whether the file is an unfinished one. Returns
    /// how many.
    pub(crate) fn sweep(&self, gone: impl Fn(&str, u32, bool) -> bool) -> Result<usize, BuilderError> {
        let unit = |name: &str| {
            let (stage, number) = name.split('.').next()?.rsplit_once('-')?;
            Some((stage.to_string(), number.parse().ok()?))
        };
        let names = self.files.list(&self.folder).map_err(BuilderError::io(&self.folder, "list"))?;
        let of_units = |name: &&String| !name.contains('.') || name.ends_with(PARTIAL);
        let mut removed = 0;
        for name in names.iter().filter(of_units) {
            let Some((stage, number)) = unit(name) else { continue };
            if gone(&stage, number, name.contains('.')) {
                let path = self.folder.join(name);
                match self.files.remove(&path) {
                    Ok(()) => removed += 1,
                    Err(error) if error.kind() == ErrorKind::NotFound => (),
                    Err(error) => return Err(BuilderError::io(&path, "remove")(error)),
                }
                self.state().manifest.units.remove(name);
            }
        }
        Ok(removed)
    }
}
