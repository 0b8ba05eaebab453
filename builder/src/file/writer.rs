//! Writes an index file: sections one after another, page sums and checksums on the way, then the
//! header, fsync and an atomic rename. Nothing appears under the final name before it is whole.

use std::fs::{File, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::{Header, PAGE, Section, SectionEntry, VERSION};
use crate::error::BuilderError;

/// An index file in the making, under the name `FILE.partial` until [`finish`](Self::finish).
pub(crate) struct IndexWriter {
    path: PathBuf,
    partial: PathBuf,
    /// `None` once the file has its final name.
    file: Option<File>,
    position: u64,
    sections: Vec<SectionEntry>,
    /// CRC32C of each page so far; page 0 carries its own checksum and counts as 0 here.
    sums: Vec<u32>,
}

impl IndexWriter {
    /// Creates the partial file, so that an output that cannot be written is known before any work.
    pub(crate) fn create(path: &Path) -> Result<Self, BuilderError> {
        if path.is_dir() {
            let source = std::io::Error::from(std::io::ErrorKind::IsADirectory);
            return Err(BuilderError::io(path, "create")(source));
        }
        let mut name = path.as_os_str().to_owned();
        name.push(".partial");
        let partial = PathBuf::from(name);
        let open = File::options().create(true).truncate(false).write(true).open(&partial);
        let file = open.map_err(BuilderError::io(&partial, "create"))?;
        match file.try_lock() {
            // What an earlier build left goes; one that is at work keeps its file.
            Ok(()) => file.set_len(0).map_err(BuilderError::io(&partial, "empty"))?,
            Err(TryLockError::WouldBlock) => {
                let busy = "another build is at work on it; wait until it ends, or give another --out";
                return Err(BuilderError::Mismatch(format!("{}: {busy}", path.display())));
            }
            // A file system without locks.
            Err(TryLockError::Error(_)) => (),
        }
        let (position, sections, sums) = (PAGE as u64, Vec::new(), vec![0]);
        // From here on dropping the writer removes the partial file.
        let mut writer = Self { path: path.to_path_buf(), partial, file: Some(file), position, sections, sums };
        writer.open_file().write_all(&[0; PAGE]).map_err(BuilderError::io(&writer.partial, "write"))?;
        Ok(writer)
    }

    /// Appends a section whose bytes `fill` hands over piece by piece.
    pub(crate) fn section(
        &mut self,
        section: Section,
        fill: impl FnOnce(&mut SectionSink<'_>) -> Result<(), BuilderError>,
    ) -> Result<(), BuilderError> {
        let offset = self.position;
        let mut sink = SectionSink { writer: self, page: Vec::with_capacity(PAGE), length: 0, checksum: Xxh3::new() };
        fill(&mut sink)?;
        let (length, checksum) = sink.close()?;
        self.sections.push(SectionEntry { section, offset, length, checksum });
        Ok(())
    }

    /// Writes the page sums and the header, flushes to the drive and renames into place.
    /// Returns the file's length in bytes; `on_fsync` is called before the slow flush begins, `before_rename` once
    /// nothing but the rename is left.
    pub(crate) fn finish(
        mut self,
        on_fsync: impl FnOnce(),
        before_rename: impl FnOnce() -> Result<(), BuilderError>,
    ) -> Result<u64, BuilderError> {
        let sums: Vec<u8> = self.sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        self.section(Section::Sums, |sink| sink.write(&sums))?;
        let sections = std::mem::take(&mut self.sections);
        let header = Header { version: VERSION, file_length: self.position, sections }.encode();
        let length = self.position;
        on_fsync();
        let file = self.open_file();
        let written =
            file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&header)).and_then(|()| file.sync_all());
        written.map_err(BuilderError::io(&self.partial, "write"))?;
        before_rename()?;
        std::fs::rename(&self.partial, &self.path)
            .map_err(BuilderError::io(&self.path, "rename the finished file to"))?;
        self.file = None;
        if let Err(error) = sync_directory(&self.path) {
            tracing::warn!("{error}; the index is whole, but its name may not survive a power failure");
        }
        Ok(length)
    }

    fn open_file(&mut self) -> &mut File {
        self.file.as_mut().expect("the file is open until finish")
    }

    fn write_page(&mut self, page: &[u8]) -> Result<(), BuilderError> {
        self.sums.push(crc32c::crc32c(page));
        self.position += page.len() as u64;
        self.open_file().write_all(page).map_err(BuilderError::io(&self.partial, "write"))
    }
}

impl Drop for IndexWriter {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // The build failed; the error that ended it is what the user should see, not this one.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

/// Makes a rename durable.
fn sync_directory(path: &Path) -> Result<(), BuilderError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory).and_then(|d| d.sync_all()).map_err(BuilderError::io(directory, "flush"))
}

/// Takes the bytes of one section.
pub(crate) struct SectionSink<'a> {
    writer: &'a mut IndexWriter,
    page: Vec<u8>,
    length: u64,
    checksum: Xxh3,
}

impl SectionSink<'_> {
    /// Appends bytes.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), BuilderError> {
        self.length += bytes.len() as u64;
        self.checksum.update(bytes);
        while !bytes.is_empty() {
            let take = bytes.len().min(PAGE - self.page.len());
            self.page.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.page.len() == PAGE {
                self.writer.write_page(&self.page)?;
                self.page.clear();
            }
        }
        Ok(())
    }

    /// Appends zeros up to the next page boundary.
    pub(crate) fn pad_to_page(&mut self) -> Result<(), BuilderError> {
        let rest = (PAGE - self.page.len()) % PAGE;
        self.write(&[0; PAGE][..rest])
    }

    fn close(mut self) -> Result<(u64, u64), BuilderError> {
        // Padding belongs to no section; the page sums cover it.
        if !self.page.is_empty() {
            self.page.resize(PAGE, 0);
            self.writer.write_page(&self.page)?;
        }
        Ok((self.length, self.checksum.digest()))
    }
}
