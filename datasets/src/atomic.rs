//! Files that appear whole or not at all.
//!
//! In: the final path. Out: a file under a temporary name beside it, which [`AtomicFile::commit`] makes durable
//! and renames; dropped without that, it is removed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::DatasetError;

/// A file being written as `NAME.partial`.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    target: PathBuf,
    partial: PathBuf,
    committed: bool,
}

impl AtomicFile {
    /// Reserves `target`; nothing is created yet.
    pub(crate) fn new(target: &Path) -> Self {
        let mut partial = target.as_os_str().to_os_string();
        partial.push(".partial");
        Self { target: target.to_path_buf(), partial: partial.into(), committed: false }
    }

    /// The temporary path, for a library that opens files itself.
    pub(crate) fn partial(&self) -> &Path {
        &self.partial
    }

    /// Makes what was written to the temporary path durable, and gives it its name.
    pub(crate) fn commit(mut self) -> Result<(), DatasetError> {
        sync(&self.partial)?;
        rename_durably(&self.partial, &self.target)?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing was promised under this name, and there is nobody left to tell.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

/// A buffered writer into an [`AtomicFile`].
#[derive(Debug)]
pub(crate) struct AtomicWriter {
    file: AtomicFile,
    writer: BufWriter<File>,
}

impl AtomicWriter {
    /// Begins to write `target`.
    pub(crate) fn create(target: &Path) -> Result<Self, DatasetError> {
        let file = AtomicFile::new(target);
        let created = File::create(file.partial()).map_err(DatasetError::io(file.partial()))?;
        Ok(Self { file, writer: BufWriter::with_capacity(1 << 20, created) })
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), DatasetError> {
        self.writer.write_all(bytes).map_err(DatasetError::io(self.file.partial()))
    }

    /// Finishes the file under its name.
    pub(crate) fn commit(mut self) -> Result<(), DatasetError> {
        self.writer.flush().map_err(DatasetError::io(self.file.partial()))?;
        self.file.commit()
    }
}

/// Writes a whole small file atomically.
pub(crate) fn write_file(target: &Path, bytes: &[u8]) -> Result<(), DatasetError> {
    let mut writer = AtomicWriter::create(target)?;
    writer.write(bytes)?;
    writer.commit()
}

/// Waits until a file's bytes are on the device.
pub(crate) fn sync(path: &Path) -> Result<(), DatasetError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(DatasetError::io(path))
}

/// Renames within a folder, and waits until the folder's entry is on the device too.
pub(crate) fn rename_durably(from: &Path, to: &Path) -> Result<(), DatasetError> {
    std::fs::rename(from, to).map_err(DatasetError::io(to))?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync(folder)
}
