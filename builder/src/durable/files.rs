//! The few operations on files that durable work needs, and the real ones.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::error::BuilderError;

/// Operations on files and folders. What was written lasts when it was flushed, and a name when its folder was.
pub(crate) trait Files: Send + Sync {
    /// Creates a file, or empties the one that is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Writing>>;

    /// Opens a file to be read.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Reading>>;

    /// Opens a file to be read at random: of files that lie far away, a copy that lies near.
    fn open_nearby(&self, path: &Path) -> io::Result<Box<dyn Reading>> {
        self.open(path)
    }

    /// Gives a file another name, in place of the file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Frees the space of a part of a file, which reads as zeros afterwards. Where the system cannot, nothing happens.
    fn punch(&self, path: &Path, range: Range<u64>) -> io::Result<()>;

    /// Names of the files in a folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// Makes the names in a folder last.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// A file being written from its beginning.
pub(crate) trait Writing: Send {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Waits until what was written is on the drive.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file being read.
pub(crate) trait Reading: Send + Sync {
    /// Its bytes.
    fn len(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on; that the file ends before is an error.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// The files of this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Disk;

impl Files for Disk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Writing>> {
        Ok(Box::new(File::create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Reading>> {
        Ok(Box::new(File::open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn punch(&self, path: &Path, range: Range<u64>) -> io::Result<()> {
        punch_hole(&File::options().write(true).open(path)?, range)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

#[cfg(target_os = "linux")]
fn punch_hole(file: &File, range: Range<u64>) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: fallocate is given an open descriptor and touches no memory of this process.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), mode, range.start as i64, (range.end - range.start) as i64) };
    match done {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.kind() == ErrorKind::Unsupported => Ok(()),
            error => Err(error),
        },
    }
}

#[cfg(not(target_os = "linux"))]
fn punch_hole(_file: &File, _range: Range<u64>) -> io::Result<()> {
    Ok(())
}

impl Writing for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Reading for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

/// The right to work in a folder; ends with the value, or with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// The file that is locked.
    pub(crate) const NAME: &str = "lock";

    /// Creates the working folder of a build where there is none, and takes its lock.
    pub(crate) fn take(folder: &Path) -> Result<Self, BuilderError> {
        std::fs::create_dir_all(folder).map_err(BuilderError::io(folder, "create"))?;
        Self::of(folder, "another build is at work here; wait until it ends, or stop it, or give another --out")
    }

    /// Takes the lock of a folder; `busy` is what somebody hears who comes second.
    pub(crate) fn of(folder: &Path, busy: &str) -> Result<Self, BuilderError> {
        let path = folder.join(Self::NAME);
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(BuilderError::io(&path, "create"))?;
        let busy = || Err(BuilderError::Mismatch(format!("{}: {busy}", folder.display())));
        match file.try_lock() {
            // Between the two calls whoever had the lock may have removed the file, and another made a new one.
            Ok(()) if !is_at(&file, &path) => busy(),
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => busy(),
            Err(TryLockError::Error(error)) => Err(BuilderError::io(&path, "lock")(error)),
        }
    }
}

/// Whether an open file is the one at `path`.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(own), Ok(there)) => place(own) == place(there),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_and_goes_with_its_holder() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let work = folder.path().join("x.kiln.work");
        let held = Lock::take(&work).expect("free");
        let message = Lock::take(&work).expect_err("taken").to_string();
        assert!(message.contains("x.kiln.work") && message.contains("another build"), "{message}");
        drop(held);
        Lock::take(&work).expect("free again");
    }

    #[test]
    fn a_punched_part_reads_as_zeros_and_the_rest_stays() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("file");
        let mut file = Disk.create(&path).expect("created");
        file.write(&[7; 20_000]).expect("written");
        Disk.punch(&path, 4096..12_288).expect("punched");
        let (reading, mut bytes) = (Disk.open(&path).expect("opened"), vec![1; 20_000]);
        reading.read_at(&mut bytes, 0).expect("read");
        assert!(bytes[..4096].iter().chain(&bytes[12_288..]).all(|&b| b == 7));
        let hole = &bytes[4096..12_288];
        assert!(hole.iter().all(|&b| b == 0) || hole.iter().all(|&b| b == 7));
        assert!(reading.read_at(&mut bytes, 1).is_err());
    }
}
