//! The folder of a set: its lock, and replacing `set.json` so that a crash leaves the old set or the new.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::SET_MANIFEST;
use super::manifest::{Manifest, identity};
use crate::durable::Lock;
use crate::error::BuilderError;

const PARTIAL: &str = "set.json.partial";

/// A set as it was read.
#[derive(Debug, Clone)]
pub(super) struct ReadSet {
    pub manifest: Manifest,
    /// Tells this state of the set from others.
    pub identity: String,
}

/// Reads the set in `folder`.
pub(super) fn read(folder: &Path) -> Result<ReadSet, BuilderError> {
    if folder.is_file() {
        return Err(is_a_file(folder));
    }
    let path = folder.join(SET_MANIFEST);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(ReadSet { manifest: Manifest::decode(&path, &bytes)?, identity: identity(&bytes) }),
        Err(error) if error.kind() == ErrorKind::NotFound && folder.is_dir() => Err(BuilderError::Damaged {
            path: folder.to_path_buf(),
            problem: format!("a folder without {SET_MANIFEST} is no shard set"),
            remedy: "give an index file, or a folder that `kiln append` made",
        }),
        Err(error) => Err(BuilderError::io(&path, "read")(error)),
    }
}

/// The right to change a set; ends with the value, or with the process, however that ends.
pub(super) struct Change {
    folder: PathBuf,
    _lock: Lock,
}

impl Change {
    /// Begins to change the set in `folder`; what a crash left there is removed.
    ///
    /// # Errors
    /// No set there, a set that cannot be read, or another change under way.
    pub(super) fn of_set(folder: &Path) -> Result<(Self, Manifest), BuilderError> {
        // Before the lock is taken: nothing is to be made in a folder of somebody else.
        read(folder)?;
        let change = Self::lock(folder)?;
        let manifest = read(folder)?.manifest;
        change.remove_strays(&manifest)?;
        Ok((change, manifest))
    }

    /// The same where there may be no set yet; then its folder is made.
    ///
    /// # Errors
    /// As [`of_set`](Self::of_set); and a file, or a folder with other things in it, where the set should be.
    pub(super) fn of_set_or_new(folder: &Path) -> Result<(Self, Option<Manifest>), BuilderError> {
        if folder.join(SET_MANIFEST).exists() {
            return Self::of_set(folder).map(|(change, manifest)| (change, Some(manifest)));
        }
        refuse_others(folder)?;
        match std::fs::create_dir(folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(BuilderError::io(folder, "create")(error));
            }
            _ => (),
        }
        let change = Self::lock(folder)?;
        // Somebody else may have been first.
        if folder.join(SET_MANIFEST).exists() {
            let manifest = read(folder)?.manifest;
            change.remove_strays(&manifest)?;
            return Ok((change, Some(manifest)));
        }
        change.remove_shards(|number, working| !working || number != 1)?;
        Ok((change, None))
    }

    fn lock(folder: &Path) -> Result<Self, BuilderError> {
        let lock = Lock::of(folder, "another append or compact is at work here; wait until it ends, and try again")?;
        Ok(Self { folder: folder.to_path_buf(), _lock: lock })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file of the set, whole or not at all; it lasts once [`sync`](Self::sync) has returned.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), BuilderError> {
        let (path, partial) = (self.folder.join(name), self.folder.join(format!("{name}.partial")));
        let written = File::create(&partial).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(BuilderError::io(&partial, "write"))?;
        std::fs::rename(&partial, &path).map_err(BuilderError::io(&path, "rename the finished file to"))
    }

    /// Makes the names in the folder last.
    pub(super) fn sync(&self) -> Result<(), BuilderError> {
        File::open(&self.folder).and_then(|f| f.sync_all()).map_err(BuilderError::io(&self.folder, "flush"))
    }

    /// Puts `manifest` in the place of the set that was there. The shards that it names must be written.
    pub(super) fn replace(&self, manifest: &Manifest) -> Result<(), BuilderError> {
        self.sync()?;
        self.write(SET_MANIFEST, &manifest.encode())?;
        self.sync()
    }

    /// Removes all files of one shard that the set does not name; what a build of it has finished stays.
    pub(super) fn remove_shard(&self, number: u32) -> Result<(), BuilderError> {
        self.remove_shards(|other, working| other == number && !working)
    }

    /// Removes the folder of a set that did not come about, where nothing else is in it.
    pub(super) fn abandon(&self) {
        if names(&self.folder).is_ok_and(|names| names == [Lock::NAME]) {
            // An empty folder is no harm: the error that led here is what the user should see.
            let _ = std::fs::remove_file(self.folder.join(Lock::NAME));
            let _ = std::fs::remove_dir(&self.folder);
        }
    }

    /// Removes shards that a crash left behind, and working folders of builds that nobody goes on with: the next shard's stays.
    fn remove_strays(&self, manifest: &Manifest) -> Result<(), BuilderError> {
        self.remove_shards(|number, working| match working {
            true => number != manifest.next_shard,
            false => manifest.shards.iter().all(|shard| shard.number != number),
        })
    }

    /// Removes what belongs to shards by their number, and by whether it is the working folder of a build.
    fn remove_shards(&self, gone: impl Fn(u32, bool) -> bool) -> Result<(), BuilderError> {
        for name in names(&self.folder)? {
            let working = name.ends_with(".work");
            let stray = shard_number(&name).is_some_and(|number| gone(number, working));
            if stray || name == PARTIAL {
                let path = self.folder.join(&name);
                let removed = if working { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                removed.map_err(BuilderError::io(&path, "remove"))?;
            }
        }
        Ok(())
    }
}

/// The shard whose file this is: `shard-00007.kiln`, `shard-00007.rows.partial`, `shard-00007.kiln.work`.
fn shard_number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("shard-")?.split_once('.')?.0;
    let plain = digits.len() >= 5 && digits.bytes().all(|digit| digit.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

fn names(folder: &Path) -> Result<Vec<String>, BuilderError> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(BuilderError::io(folder, "read"))?;
    Ok(entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// Refuses to make a set where something else is.
fn refuse_others(folder: &Path) -> Result<(), BuilderError> {
    if folder.is_file() {
        return Err(is_a_file(folder));
    }
    if !folder.is_dir() {
        return Ok(());
    }
    // The rows file is the last that a shard gets: one without a set is of a set that lost its manifest, or nearly had it.
    let is_whole = |name: &str| shard_number(name).is_some() && name.ends_with(".rows");
    let own = |name: &str| name == Lock::NAME || name == PARTIAL || shard_number(name).is_some();
    match names(folder)?.iter().find(|name| !own(name) || is_whole(name)) {
        Some(shard) if is_whole(shard) => Err(BuilderError::Damaged {
            path: folder.to_path_buf(),
            problem: format!("it holds shards ({shard}) and no {SET_MANIFEST}"),
            remedy: "restore that file from a copy, or remove the folder to begin anew",
        }),
        Some(other) => Err(BuilderError::Mismatch(format!(
            "{}: a folder with other things in it ({other}) does not become a shard set; name one that is not there yet",
            folder.display()
        ))),
        None => Ok(()),
    }
}

fn is_a_file(path: &Path) -> BuilderError {
    let path = path.display();
    BuilderError::Mismatch(format!(
        "{path}: it is a file, a shard set is a folder; make a set of an index file with `kiln append X.kset --shard {path}`"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::manifest::VERSION;
    use super::*;
    use crate::durable::is_at;
    use crate::search_types::IndexKind;

    fn manifest() -> Manifest {
        let shard = super::super::manifest::ShardEntry {
            number: 1,
            identity: String::new(),
            bytes: 1,
            rows: 1,
            first_id: 0,
            last_id: 0,
            rows_file: String::new(),
        };
        Manifest {
            version: VERSION,
            index: IndexKind::Vamana,
            metric: kiln_kernels::Metric::L2,
            dtype: kiln_kernels::DType::U8,
            dim: 1,
            next_id: 1,
            next_shard: 2,
            shards: vec![shard],
        }
    }

    #[test]
    fn changes_exclude_each_other_and_end_with_their_holder() {
        let place = tempfile::tempdir().expect("temporary folder");
        let folder = place.path().join("x.kset");
        let (change, found) = Change::of_set_or_new(&folder).expect("made");
        assert_eq!(found, None);
        let message = Change::of_set_or_new(&folder).err().expect("taken").to_string();
        assert!(message.contains("x.kset") && message.contains("another append or compact"), "{message}");
        change.replace(&manifest()).expect("written");
        drop(change);
        assert_eq!(Change::of_set(&folder).expect("free").1, manifest());
        assert_eq!(read(&folder).expect("read").manifest, manifest());
    }

    #[test]
    fn a_folder_for_nothing_goes_and_its_lock_is_worth_nothing() {
        let place = tempfile::tempdir().expect("temporary folder");
        let folder = place.path().join("x.kset");
        let (change, _) = Change::of_set_or_new(&folder).expect("made");
        let lock = File::open(folder.join(Lock::NAME)).expect("there");
        assert!(is_at(&lock, &folder.join(Lock::NAME)));
        std::fs::write(folder.join("other"), "x").expect("written");
        change.abandon();
        assert!(folder.join(Lock::NAME).exists(), "something is in the folder");
        std::fs::remove_file(folder.join("other")).expect("removed");
        change.abandon();
        assert!(!folder.exists() && !is_at(&lock, &folder.join(Lock::NAME)));
        Change::of_set_or_new(&folder).expect("made again");
        assert!(!is_at(&lock, &folder.join(Lock::NAME)));
    }

    #[test]
    fn what_a_crash_left_is_removed_and_nothing_else() {
        let place = tempfile::tempdir().expect("temporary folder");
        let folder = place.path().join("x.kset");
        Change::of_set_or_new(&folder).expect("made").0.replace(&manifest()).expect("written");
        let all = ["shard-00001.kiln", "shard-00001.kiln.build.json", "shard-1.txt", "notes.txt", "shard-00003x.kiln"];
        let strays = ["shard-00002.kiln", "shard-00002.kiln.partial", "shard-00003.rows", "set.json.partial"];
        for name in all.iter().chain(&strays) {
            std::fs::write(folder.join(name), "x").expect("written");
        }
        let next = manifest().next_shard;
        let working = [next, next + 1, 1].map(|number| folder.join(format!("shard-{number:05}.kiln.work")));
        for folder in &working {
            std::fs::create_dir(folder).expect("made");
            std::fs::write(folder.join("lock"), "").expect("written");
        }
        drop(Change::of_set_or_new(&folder).expect("a set"));
        assert_eq!(
            working.each_ref().map(|folder| folder.exists()),
            [true, false, false],
            "only what may be gone on with"
        );
        std::fs::remove_dir_all(&working[0]).expect("removed");
        let mut left = names(&folder).expect("readable");
        left.sort();
        let mut expected: Vec<&str> = all.into_iter().chain([Lock::NAME, SET_MANIFEST]).collect();
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn a_set_is_made_only_where_nothing_is() {
        let place = tempfile::tempdir().expect("temporary folder");
        let refused = |path: &Path| Change::of_set_or_new(path).err().expect("refused").to_string();
        std::fs::write(place.path().join("x.kiln"), "x").expect("written");
        assert!(refused(&place.path().join("x.kiln")).contains("--shard"));
        assert!(refused(place.path()).contains("other things in it (x.kiln)"));
        assert!(refused(&place.path().join("no/such")).contains("cannot create"));
        let message = read(place.path()).expect_err("no set").to_string();
        assert!(message.contains("without set.json"), "{message}");
        // What a crash left before there was a set is no obstacle.
        let folder = place.path().join("y.kset");
        std::fs::create_dir(&folder).expect("made");
        std::fs::write(folder.join("shard-00001.kiln"), "x").expect("written");
        assert!(Change::of_set(&folder).is_err());
        drop(Change::of_set_or_new(&folder).expect("made"));
        assert_eq!(names(&folder).expect("readable"), [Lock::NAME]);
        // A set that lost its manifest is not taken for that.
        std::fs::write(folder.join("shard-00001.rows"), "x").expect("written");
        assert!(refused(&folder).contains("it holds shards (shard-00001.rows) and no set.json"));
    }
}
