//! Files in memory whose power can go at any operation, whose drive can be full, and which can fail.
//!
//! What was not flushed when the power goes is lost, kept, or there with the right length and zeros for content; of names
//! that their folder was not flushed for, any may have changed and any not, whatever the order.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Files, Reading, Writing};

/// What happens at a chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power goes: this operation and all after it fail.
    Power,
    /// The drive is full: this write and all after it fail.
    Full,
    /// This operation fails, and no other.
    Broken,
}

/// Files in memory.
#[derive(Clone)]
pub(crate) struct Simulated(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, usize>,
    /// As the drive has them.
    durable_names: BTreeMap<PathBuf, usize>,
    pending: Vec<NameChange>,
    contents: Vec<Content>,
    operations: u64,
    fault: Option<(u64, Fault)>,
}

#[derive(Clone, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
}

enum NameChange {
    Set(PathBuf, usize),
    Gone(PathBuf),
    Moved(PathBuf, PathBuf, usize),
}

impl Simulated {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// From now on, the `at`-th operation has this fault.
    pub(crate) fn fail_at(&self, at: u64, fault: Fault) {
        let mut state = self.0.lock().expect("no panic");
        let at = state.operations + at;
        state.fault = Some((at, fault));
    }

    /// Operations so far.
    pub(crate) fn operations(&self) -> u64 {
        self.0.lock().expect("no panic").operations
    }

    /// What the drive may hold after the power went.
    pub(crate) fn after_power_loss(&self, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let state = self.0.lock().expect("no panic");
        let mut names = state.durable_names.clone();
        for change in &state.pending {
            if rng.random_range(0..2) == 0 {
                continue;
            }
            match change {
                NameChange::Set(path, inode) => drop(names.insert(path.clone(), *inode)),
                NameChange::Gone(path) => drop(names.remove(path)),
                NameChange::Moved(from, to, inode) => {
                    names.remove(from);
                    names.insert(to.clone(), *inode);
                }
            }
        }
        let mut survived = |content: &Content| {
            let bytes = match rng.random_range(0..3) {
                _ if content.live == content.durable => content.live.clone(),
                0 => content.durable.clone(),
                1 => vec![0; content.live.len()],
                _ => content.live[..rng.random_range(0..=content.live.len())].to_vec(),
            };
            Content { live: bytes.clone(), durable: bytes }
        };
        let contents = state.contents.iter().map(&mut survived).collect();
        let survived = State { names: names.clone(), durable_names: names, contents, ..State::default() };
        Self(Arc::new(Mutex::new(survived)))
    }

    /// Changes a byte of a file, as a failing drive might.
    pub(crate) fn damage(&self, path: &Path, at: usize) {
        let mut state = self.0.lock().expect("no panic");
        let inode = state.names[path];
        let content = &mut state.contents[inode];
        content.live[at] ^= 0x55;
        content.durable = content.live.clone();
    }

    /// Names of all files, and their lengths.
    pub(crate) fn all(&self) -> Vec<(PathBuf, usize)> {
        let state = self.0.lock().expect("no panic");
        state.names.iter().map(|(path, &inode)| (path.clone(), state.contents[inode].live.len())).collect()
    }

    /// Bytes of a stage's units that are not zero, as holes are.
    pub(crate) fn nonzero_bytes(&self, stage: &str) -> usize {
        let state = self.0.lock().expect("no panic");
        let of = |&inode: &usize| state.contents[inode].live.iter().filter(|&&byte| byte != 0).count();
        let is = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(stage));
        state.names.iter().filter(|(path, _)| is(path)).map(|(_, inode)| of(inode)).sum()
    }

    fn operate<R>(&self, writes: bool, work: impl FnOnce(&mut State) -> io::Result<R>) -> io::Result<R> {
        let mut state = self.0.lock().expect("no panic");
        let now = state.operations;
        state.operations += 1;
        match state.fault {
            Some((at, Fault::Power)) if now >= at => return Err(io::Error::other("the power is gone")),
            Some((at, Fault::Full)) if now >= at && writes => return Err(ErrorKind::StorageFull.into()),
            Some((at, Fault::Broken)) if now == at => return Err(io::Error::from_raw_os_error(libc::EIO)),
            _ => (),
        }
        work(&mut state)
    }
}

impl State {
    fn inode(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }
}

impl Files for Simulated {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Writing>> {
        let inode = self.operate(true, |state| {
            let inode = state.contents.len();
            state.contents.push(Content::default());
            state.names.insert(path.to_path_buf(), inode);
            state.pending.push(NameChange::Set(path.to_path_buf(), inode));
            Ok(inode)
        })?;
        Ok(Box::new(OpenFile { files: self.clone(), inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Reading>> {
        let inode = self.operate(false, |state| state.inode(path))?;
        Ok(Box::new(OpenFile { files: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(false, |state| {
            let inode = state.inode(from)?;
            state.names.remove(from);
            state.names.insert(to.to_path_buf(), inode);
            state.pending.push(NameChange::Moved(from.to_path_buf(), to.to_path_buf(), inode));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operate(false, |state| {
            state.inode(path)?;
            state.names.remove(path);
            state.pending.push(NameChange::Gone(path.to_path_buf()));
            Ok(())
        })
    }

    fn punch(&self, path: &Path, range: Range<u64>) -> io::Result<()> {
        self.operate(false, |state| {
            let inode = state.inode(path)?;
            state.contents[inode].live[range.start as usize..range.end as usize].fill(0);
            Ok(())
        })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.operate(false, |state| {
            let within = state.names.keys().filter_map(|path| path.strip_prefix(folder).ok());
            Ok(within.map(|name| name.to_string_lossy().into_owned()).collect())
        })
    }

    fn sync_folder(&self, _folder: &Path) -> io::Result<()> {
        self.operate(false, |state| {
            state.durable_names = state.names.clone();
            state.pending.clear();
            Ok(())
        })
    }
}

struct OpenFile {
    files: Simulated,
    inode: usize,
}

impl Writing for OpenFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.files.operate(true, |state| {
            state.contents[self.inode].live.extend_from_slice(bytes);
            Ok(())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.files.operate(true, |state| {
            let content = &mut state.contents[self.inode];
            content.durable = content.live.clone();
            Ok(())
        })
    }
}

impl Reading for OpenFile {
    fn len(&self) -> io::Result<u64> {
        self.files.operate(false, |state| Ok(state.contents[self.inode].live.len() as u64))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.files.operate(false, |state| {
            let content = &state.contents[self.inode].live;
            let range = offset as usize..offset as usize + buffer.len();
            let bytes = content.get(range).ok_or(ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes);
            Ok(())
        })
    }
}
