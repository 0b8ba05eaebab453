//! The run folder: where measurements are kept, one line as soon as each is complete.
//!
//! In: records. Out: the files that [`crate::record`] lists. Every line is on the device before the next
//! measurement begins, so that a crash costs one unit of work; a last line that a crash has torn is cut off when the
//! folder is opened again. One process at a time writes a folder.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::load::LOAD_FILE;
use crate::record::{
    BuildRecord, DriveCeiling, NoiseCheck, PeerOverhead, RunData, RunHeader, SCHEMA_VERSION, SettingRecord, Skip,
};
use crate::sys;

const HEADER: &str = "run.json";
const BUILDS: &str = "builds.jsonl";
const SETTINGS: &str = "settings.jsonl";
const PEERS: &str = "peers.jsonl";
const INDEXES: &str = "indexes";

/// A run folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused a write.
    #[error(
        "{path}: cannot {action}: {source}; make room or make the folder writable and run the same command again \
         (what was measured is kept), or choose another --out",
        path = path.display()
    )]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The system's own words.
        source: io::Error,
    },
    /// The operating system refused a read.
    #[error("{path}: cannot read: {source}; check that it is a run folder that you may read", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// A folder without a run.
    #[error("{dir}: there is no run here ({HEADER} is missing); \
         make one with `kiln bench --out {dir}`", dir = dir.display())]
    NoRun {
        /// The folder.
        dir: PathBuf,
    },
    /// Measurements without the header that says what they are of.
    #[error("{dir}: it holds measurements but no {HEADER}; \
         restore that file, or choose another --out", dir = dir.display())]
    NoHeader {
        /// The folder.
        dir: PathBuf,
    },
    /// A record that is not one.
    #[error("{path}, line {line}: {problem}; \
         restore the file from a copy, or delete that line to measure it again", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Line number from 1.
        line: usize,
        /// What the parser said.
        problem: String,
    },
    /// A run of another version of the schema.
    #[error(
        "{path}: schema version {found}, this Kiln reads version {SCHEMA_VERSION}; \
         use the Kiln that wrote it, or choose another --out",
        path = path.display()
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: String,
    },
    /// A folder whose run measures something else.
    #[error("{dir}: it holds a run whose {what} is {found}, and this one's is {asked}; \
         choose another --out", dir = dir.display())]
    OtherRun {
        /// The folder.
        dir: PathBuf,
        /// What differs.
        what: &'static str,
        /// As the folder has it.
        found: String,
        /// As asked for now.
        asked: String,
    },
    /// A folder that another process writes.
    #[error("{dir}: another process is writing this run; wait for it, or choose another --out", dir = dir.display())]
    Busy {
        /// The folder.
        dir: PathBuf,
    },
}

impl StoreError {
    fn write(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Write { path, action, source }
    }

    fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Read { path, source }
    }
}

/// A run folder open for writing.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    header: Option<RunHeader>,
    builds: Vec<BuildRecord>,
    settings: Vec<SettingRecord>,
    build_lines: Lines<BuildRecord>,
    setting_lines: Lines<SettingRecord>,
}

impl RunFolder {
    /// Opens the folder, making it where it does not exist, and reads what it holds. A torn last line is cut off, with
    /// a warning. The folder is taken for this process until the value is dropped.
    ///
    /// # Errors
    /// When the folder cannot be written, is taken, or holds something other than a run of this schema.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let indexes = dir.join(INDEXES);
        std::fs::create_dir_all(&indexes).map_err(StoreError::write(&indexes, "create the folder"))?;
        // The lock comes first: another process's line in the making looks torn.
        let setting_file = open_lines(&dir.join(SETTINGS))?;
        // A filesystem without locks cannot keep another process out; that is no reason to refuse it.
        if matches!(sys::try_lock(&setting_file), Ok(false)) {
            return Err(StoreError::Busy { dir: dir.to_path_buf() });
        }
        let header = read_header(dir)?;
        let (setting_lines, settings) = Lines::recover(dir.join(SETTINGS), setting_file)?;
        let (build_lines, builds) = Lines::recover(dir.join(BUILDS), open_lines(&dir.join(BUILDS))?)?;
        if header.is_none() && !(settings.is_empty() && builds.is_empty()) {
            return Err(StoreError::NoHeader { dir: dir.to_path_buf() });
        }
        Ok(Self { dir: dir.to_path_buf(), header, builds, settings, build_lines, setting_lines })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What identifies the run; `None` before [`RunFolder::begin`] in a new folder.
    pub fn header(&self) -> Option<&RunHeader> {
        self.header.as_ref()
    }

    /// Begins a run in a new folder, or changes its header: written whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(&mut self, header: RunHeader) -> Result<(), StoreError> {
        let (path, partial) = (self.dir.join(HEADER), self.dir.join("run.json.partial"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&partial)?;
            file.write_all(&serde_json::to_vec_pretty(&header)?)?;
            file.sync_all()?;
            std::fs::rename(&partial, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(StoreError::write(&path, "write the run's header"))?;
        self.header = Some(header);
        Ok(())
    }

    /// Adds to the header of a run that has begun what its drive can do.
    ///
    /// # Errors
    /// When it cannot be written; or when the run has not begun.
    pub fn set_drive_ceiling(&mut self, ceiling: DriveCeiling) -> Result<(), StoreError> {
        self.amend(|header| header.drive_ceiling = Some(ceiling))
    }

    /// Adds to the header of a run that has begun how much one setting differs from itself.
    ///
    /// # Errors
    /// As [`set_drive_ceiling`](Self::set_drive_ceiling).
    pub fn set_noise(&mut self, noise: NoiseCheck) -> Result<(), StoreError> {
        self.amend(|header| header.noise = Some(noise))
    }

    /// Adds to the header of a run that has begun what the protocol of peers costs.
    ///
    /// # Errors
    /// As [`set_drive_ceiling`](Self::set_drive_ceiling).
    pub fn set_peer_overhead(&mut self, overhead: PeerOverhead) -> Result<(), StoreError> {
        self.amend(|header| header.peer_overhead = Some(overhead))
    }

    fn amend(&mut self, change: impl FnOnce(&mut RunHeader)) -> Result<(), StoreError> {
        let Some(mut header) = self.header.clone() else { return Err(StoreError::NoRun { dir: self.dir.clone() }) };
        change(&mut header);
        self.begin(header)
    }

    /// Where an index of this run is built.
    pub fn index_path(&self, kind: &str, build_key: &str) -> PathBuf {
        self.dir.join(INDEXES).join(format!("{kind}-{build_key}.kiln"))
    }

    /// The record of an index, the last one where there are several.
    pub fn build(&self, key: &str) -> Option<&BuildRecord> {
        self.builds.iter().rev().find(|build| build.key == key)
    }

    /// Whether nothing is left to do for a setting: it was measured, or pruned, where this run prunes, too. One that failed,
    /// or for which there was no time, is tried again; so is one that was measured and has failed since. Its last record
    /// counts.
    pub fn is_measured(&self, key: &str, prunes: bool) -> bool {
        let last = self.settings.iter().rev().find(|setting| setting.key == key);
        last.is_some_and(|setting| setting.failure.is_none() || (prunes && setting.skip == Some(Skip::Pruned)))
    }

    /// The records of settings, in the order in which they were kept.
    pub fn settings(&self) -> &[SettingRecord] {
        &self.settings
    }

    /// Keeps the record of an index.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add_build(&mut self, build: BuildRecord) -> Result<(), StoreError> {
        self.build_lines.append(&build)?;
        self.builds.push(build);
        Ok(())
    }

    /// Keeps a setting that was measured or failed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add_setting(&mut self, setting: SettingRecord) -> Result<(), StoreError> {
        self.setting_lines.append(&setting)?;
        self.settings.push(setting);
        Ok(())
    }

    /// All that the folder holds now.
    ///
    /// # Errors
    /// When the run has not begun.
    pub fn into_data(self) -> Result<RunData, StoreError> {
        let Some(header) = self.header else { return Err(StoreError::NoRun { dir: self.dir }) };
        let (peers, _) = read_lines(&self.dir.join(PEERS))?;
        let (loads, _) = read_lines(&self.dir.join(LOAD_FILE))?;
        Ok(RunData { peers, loads, ..run_data(header, self.builds, self.settings) })
    }
}

/// Reads a run folder without changing it; a torn last line is left out, with a warning.
///
/// # Errors
/// When there is no run, or it cannot be read.
pub fn load(dir: &Path) -> Result<RunData, StoreError> {
    let Some(header) = read_header(dir)? else { return Err(StoreError::NoRun { dir: dir.to_path_buf() }) };
    let (builds, _) = read_lines(&dir.join(BUILDS))?;
    let (settings, _) = read_lines(&dir.join(SETTINGS))?;
    let (peers, _) = read_lines(&dir.join(PEERS))?;
    let (loads, _) = read_lines(&dir.join(LOAD_FILE))?;
    Ok(RunData { peers, loads, ..run_data(header, builds, settings) })
}

/// Of records with one key the last stays, in the place of the first: an index may be built again, and a setting
/// that failed measured again.
fn run_data(header: RunHeader, builds: Vec<BuildRecord>, settings: Vec<SettingRecord>) -> RunData {
    fn latest<T>(records: Vec<T>, key: impl Fn(&T) -> &str) -> Vec<T> {
        let mut kept: Vec<T> = Vec::with_capacity(records.len());
        let mut places = std::collections::HashMap::new();
        for record in records {
            match places.get(key(&record)) {
                Some(&place) => kept[place] = record,
                None => {
                    places.insert(key(&record).to_string(), kept.len());
                    kept.push(record);
                }
            }
        }
        kept
    }
    RunData {
        header,
        builds: latest(builds, |build| &build.key),
        settings: latest(settings, |setting| &setting.key),
        peers: Vec::new(),
        loads: Vec::new(),
    }
}

/// The header of the run in `dir`, if there is one.
pub(crate) fn read_header(dir: &Path) -> Result<Option<RunHeader>, StoreError> {
    let path = dir.join(HEADER);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::read(&path)(error)),
    };
    let corrupt =
        |e: serde_json::Error| StoreError::Corrupt { path: path.clone(), line: e.line(), problem: e.to_string() };
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(corrupt)?;
    if value["schema"] != SCHEMA_VERSION {
        return Err(StoreError::Schema { path, found: value["schema"].to_string() });
    }
    serde_json::from_value(value).map(Some).map_err(corrupt)
}

/// A file of one JSON record a line, which only grows.
#[derive(Debug)]
struct Lines<T> {
    path: PathBuf,
    file: File,
    record: PhantomData<T>,
}

fn open_lines(path: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(StoreError::write(path, "open for writing"))
}

impl<T: Serialize + DeserializeOwned> Lines<T> {
    /// Reads all records, and cuts off what a crash has torn.
    fn recover(path: PathBuf, file: File) -> Result<(Self, Vec<T>), StoreError> {
        let (records, sound) = read_lines(&path)?;
        let length = file.metadata().map_err(StoreError::read(&path))?.len();
        if length > sound {
            file.set_len(sound)
                .and_then(|()| file.sync_all())
                .map_err(StoreError::write(&path, "cut off a torn line"))?;
        }
        Ok((Self { path, file, record: PhantomData }, records))
    }

    /// Appends a record and waits until it is on the device.
    fn append(&mut self, record: &T) -> Result<(), StoreError> {
        let mut write = || -> io::Result<()> {
            let mut line = serde_json::to_vec(record)?;
            line.push(b'\n');
            self.file.write_all(&line)?;
            self.file.sync_data()
        };
        write().map_err(StoreError::write(&self.path, "append a record"))
    }
}

/// The records of a file (none where it does not exist), and the bytes up to the end of the last sound one.
pub(crate) fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<(Vec<T>, u64), StoreError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(StoreError::read(path)(error)),
    };
    let mut records = Vec::new();
    let mut sound = 0;
    for (number, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let last = sound + line.len() == bytes.len();
        match serde_json::from_slice(line) {
            Ok(record) if line.ends_with(b"\n") => records.push(record),
            Err(e) if !last => {
                let (path, problem) = (path.to_path_buf(), e.to_string());
                return Err(StoreError::Corrupt { path, line: number + 1, problem });
            }
            _ => {
                tracing::warn!("{}: line {} is torn, as a crash leaves it: it is left out", path.display(), number + 1);
                break;
            }
        }
        sound += line.len();
    }
    Ok((records, sound as u64))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
