//! Copies of files that lie far away: each fetched once, as many as fit, those gone first that were not used for longest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// A folder of copies, which processes of one machine may share.
pub(super) struct Copies {
    folder: PathBuf,
    /// Bytes that copies may take together; one is always allowed.
    most: u64,
    /// Those that this process uses, by name.
    open: Mutex<BTreeMap<String, Arc<Copy>>>,
    clock: AtomicU64,
}

#[derive(Default)]
struct Copy {
    /// Locked while it is fetched: others that want it wait.
    file: Mutex<Option<Arc<File>>>,
    /// Time of the last use, by [`Copies::clock`].
    used: AtomicU64,
}

/// A copy in the folder.
struct Kept {
    name: String,
    bytes: u64,
    /// Those of other processes and former ones by their file's time, then those of this one by its clock.
    used: (u64, SystemTime),
}

impl Copies {
    /// Copies in a folder that exists.
    pub(super) fn new(folder: PathBuf, most: u64) -> Self {
        Self { folder, most, open: Mutex::default(), clock: AtomicU64::new(1) }
    }

    /// The copy of this name and length; where there is none, `fetch` writes it into the new file that it is given.
    pub(super) fn get(
        &self,
        name: &str,
        length: u64,
        fetch: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<Arc<File>> {
        let copy = {
            let mut open = self.open.lock().expect("no holder of this lock panics");
            Arc::clone(open.entry(name.to_string()).or_default())
        };
        copy.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let mut file = copy.file.lock().expect("no holder of this lock panics");
        if let Some(file) = &*file {
            return Ok(Arc::clone(file));
        }
        let path = self.folder.join(name);
        let there = File::open(&path).and_then(|file| Ok((file.metadata()?.len() == length).then_some(file)));
        let found = match there.ok().flatten() {
            Some(file) => file,
            None => {
                self.make_room(length)?;
                let partial = self.folder.join(format!("{name}.{}.partial", std::process::id()));
                // Of a process with this number that died.
                let _ = std::fs::remove_file(&partial);
                if let Err(error) = fetch(&partial) {
                    let _ = std::fs::remove_file(&partial);
                    return Err(error);
                }
                // Opened before another process can see it, and remove it.
                let file = File::open(&partial)?;
                std::fs::rename(&partial, &path)?;
                file
            }
        };
        let found = Arc::new(found);
        *file = Some(Arc::clone(&found));
        Ok(found)
    }

    /// Removes copies until `bytes` more fit.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let open = self.open.lock().expect("no holder of this lock panics");
        let mut kept = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            // Another process may just have removed it.
            let Ok(metadata) = entry.metadata() else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".partial") {
                let used = open.get(&name).map_or(0, |copy| copy.used.load(Ordering::Relaxed));
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                kept.push(Kept { name, bytes: metadata.len(), used: (used, modified) });
            }
        }
        kept.sort_by_key(|kept| kept.used);
        let mut all: u64 = kept.iter().map(|kept| kept.bytes).sum();
        for kept in kept {
            if all + bytes <= self.most {
                break;
            }
            // What is being fetched right now is not touched.
            let unused = match open.get(&kept.name) {
                Some(copy) => copy.file.try_lock().is_ok_and(|mut file| file.take().is_some()),
                None => true,
            };
            if unused {
                // Its entry stays, so that a name has one lock. Whoever still reads from it goes on doing so.
                let _ = std::fs::remove_file(self.folder.join(&kept.name));
                all -= kept.bytes;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::Reading;

    fn read(copies: &Copies, name: &str, fetched: &AtomicU64) -> Vec<u8> {
        let fetch = |to: &Path| {
            fetched.fetch_add(1, Ordering::Relaxed);
            std::fs::write(to, [name.len() as u8; 100])
        };
        let file = copies.get(name, 100, fetch).expect("fetched");
        let mut bytes = vec![0; 100];
        Reading::read_at(&*file, &mut bytes, 0).expect("read");
        bytes
    }

    #[test]
    fn each_is_fetched_once_and_what_was_not_used_for_longest_goes_first() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (copies, fetched) = (Copies::new(folder.path().into(), 300), AtomicU64::new(0));
        for name in ["a", "bb", "ccc", "a"] {
            assert_eq!(read(&copies, name, &fetched), [name.len() as u8; 100]);
        }
        assert_eq!(fetched.load(Ordering::Relaxed), 3);
        read(&copies, "dddd", &fetched);
        let there = |name: &str| folder.path().join(name).exists();
        assert_eq!(["a", "bb", "ccc", "dddd"].map(there), [true, false, true, true]);
        assert_eq!(read(&copies, "bb", &fetched), [2; 100]);
        assert_eq!(fetched.load(Ordering::Relaxed), 5);
        // The next process finds what is there.
        read(&Copies::new(folder.path().into(), 300), "a", &fetched);
        assert_eq!(fetched.load(Ordering::Relaxed), 5);
        let failed = copies.get("e", 100, |_| Err(io::ErrorKind::TimedOut.into()));
        assert_eq!(failed.expect_err("not fetched").kind(), io::ErrorKind::TimedOut);
        assert_eq!(read(&copies, "e", &fetched), [1; 100]);
    }

    #[test]
    fn many_threads_with_little_room_read_what_they_asked_for() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (copies, fetched) = (Copies::new(folder.path().into(), 250), AtomicU64::new(0));
        let names = ["a", "bb", "ccc", "dddd", "eeeee"];
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (copies, fetched) = (&copies, &fetched);
                scope.spawn(move || {
                    for i in 0..200 {
                        let name = names[(i * (thread + 1)) % names.len()];
                        assert_eq!(read(copies, name, fetched), [name.len() as u8; 100]);
                    }
                });
            }
        });
    }
}
