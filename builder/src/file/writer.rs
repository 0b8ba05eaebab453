//! Writes an index file: sections one after another, page sums and checksums on the way, then the
//! header, fsync and an atomic rename. Nothing appears under the final name before it is whole.
//!
//! A build that keeps its work can go on with a file that another process left: at a [`Mark`] everything before it is on the
//! drive, and [`IndexWriter::go_on`] believes of the marks what the file bears out.

use std::fs::{File, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::{Header, PAGE, Section, SectionEntry, VERSION};
use crate::error::BuilderError;

/// In place of a number of marked sums: what an earlier process wrote was not looked at yet.
const UNTOUCHED: usize = usize::MAX;

/// Pages that are read back at a time.
const READ_PAGES: usize = 256;

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
    /// The section that the last mark lies in, where it was gone on from that.
    open: Option<OpenSection>,
    /// How many sums the marks so far hold; with marks the file stays whatever becomes of this process.
    marked: usize,
}

/// How far a file had come when all of it was on the drive: what came since the mark before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub place: Place,
    /// Sums of the pages since the mark before.
    pub sums: Vec<u32>,
}

/// Where in the sections a mark lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Sections that are whole.
    sections: Vec<SectionEntry>,
    open: OpenSection,
}

/// A section of which a part is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OpenSection {
    section: Section,
    offset: u64,
    length: u64,
    /// Steps of it that are done, by the count of whoever fills it.
    steps: u64,
    /// Its last bytes, which do not fill a page.
    tail: Vec<u8>,
}

impl IndexWriter {
    /// Creates the partial file, so that an output that cannot be written is known before any work.
    pub(crate) fn create(path: &Path) -> Result<Self, BuilderError> {
        let mut writer = Self::open(path)?;
        writer.go_on(&[])?;
        Ok(writer)
    }

    /// The same, and leaves in it what an earlier process wrote until [`go_on`](Self::go_on) says what of that counts.
    pub(crate) fn open(path: &Path) -> Result<Self, BuilderError> {
        if path.is_dir() {
            let source = std::io::Error::from(std::io::ErrorKind::IsADirectory);
            return Err(BuilderError::io(path, "create")(source));
        }
        let mut name = path.as_os_str().to_owned();
        name.push(".partial");
        let partial = PathBuf::from(name);
        let open = File::options().create(true).truncate(false).read(true).write(true).open(&partial);
        let file = open.map_err(BuilderError::io(&partial, "create"))?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            let busy = "another build is at work on it; wait until it ends, or give another --out";
            return Err(BuilderError::Mismatch(format!("{}: {busy}", path.display())));
        }
        let (path, file, marked) = (path.to_path_buf(), Some(file), UNTOUCHED);
        Ok(Self { path, partial, file, position: 0, sections: Vec::new(), sums: Vec::new(), open: None, marked })
    }

    /// Goes on from the last of `marks` up to which the file holds what was written; without any it begins anew. Returns how
    /// many of them hold.
    pub(crate) fn go_on(&mut self, marks: &[Mark]) -> Result<usize, BuilderError> {
        self.sums = vec![0];
        let mut held = 0;
        for mark in marks {
            if !self.holds(&mark.sums)? {
                break;
            }
            self.sums.extend_from_slice(&mark.sums);
            held += 1;
        }
        self.position = (self.sums.len() * PAGE) as u64;
        let place = marks[..held].last().map(|mark| mark.place.clone());
        (self.sections, self.open) = match place {
            Some(place) => (place.sections, Some(place.open)),
            None => (Vec::new(), None),
        };
        self.marked = self.sums.len();
        let (position, file) = (self.position, self.file.as_mut().expect("the file is open until finish"));
        // Of page 0 nothing is believed.
        let emptied = file.set_len(if held == 0 { 0 } else { position }).and_then(|()| file.seek(SeekFrom::Start(0)));
        let begun =
            emptied.and_then(|_| file.write_all(&[0; PAGE])).and_then(|()| file.seek(SeekFrom::Start(position)));
        begun.map_err(BuilderError::io(&self.partial, "write"))?;
        Ok(held)
    }

    /// Whether the pages that follow those of `self.sums` have these sums.
    fn holds(&self, sums: &[u32]) -> Result<bool, BuilderError> {
        let file = self.file.as_ref().expect("the file is open until finish");
        let (mut pages, mut at) = (vec![0; READ_PAGES * PAGE], (self.sums.len() * PAGE) as u64);
        let length = file.metadata().map_err(BuilderError::io(&self.partial, "read"))?.len();
        if length < at + (sums.len() * PAGE) as u64 {
            return Ok(false);
        }
        for sums in sums.chunks(READ_PAGES) {
            let pages = &mut pages[..sums.len() * PAGE];
            file.read_exact_at(pages, at).map_err(BuilderError::io(&self.partial, "read"))?;
            if pages.chunks_exact(PAGE).zip(sums).any(|(page, &sum)| crc32c::crc32c(page) != sum) {
                return Ok(false);
            }
            at += pages.len() as u64;
        }
        Ok(true)
    }

    /// The checksum of what is there of a section.
    fn checksum_so_far(&self, open: &OpenSection) -> Result<Xxh3, BuilderError> {
        let file = self.file.as_ref().expect("the file is open until finish");
        let (mut checksum, mut buffer) = (Xxh3::new(), vec![0; READ_PAGES * PAGE]);
        let (mut at, end) = (open.offset, open.offset + open.length - open.tail.len() as u64);
        while at < end {
            let part = (end - at).min(buffer.len() as u64) as usize;
            file.read_exact_at(&mut buffer[..part], at).map_err(BuilderError::io(&self.partial, "read"))?;
            checksum.update(&buffer[..part]);
            at += part as u64;
        }
        checksum.update(&open.tail);
        Ok(checksum)
    }

    /// Appends a section whose bytes `fill` hands over piece by piece. One that is whole already is left as it is, and one
    /// of which a part is there goes on after [`SectionSink::steps`].
    pub(crate) fn section(
        &mut self,
        section: Section,
        fill: impl FnOnce(&mut SectionSink<'_>) -> Result<(), BuilderError>,
    ) -> Result<(), BuilderError> {
        if self.has(section) {
            return Ok(());
        }
        let mut sink = match self.open.take() {
            Some(open) if open.section == section => {
                let checksum = self.checksum_so_far(&open)?;
                SectionSink { writer: self, checksum, open }
            }
            Some(other) => {
                let problem = format!("section {} was begun, not {}", other.section.name(), section.name());
                return Err(BuilderError::damaged(&self.partial, problem));
            }
            None => {
                let offset = self.position;
                let open = OpenSection { section, offset, length: 0, steps: 0, tail: Vec::with_capacity(PAGE) };
                SectionSink { writer: self, checksum: Xxh3::new(), open }
            }
        };
        fill(&mut sink)?;
        let entry = sink.close()?;
        self.sections.push(entry);
        Ok(())
    }

    /// Whether a section is whole.
    pub(crate) fn has(&self, section: Section) -> bool {
        self.sections.iter().any(|entry| entry.section == section)
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
        let Some(file) = self.file.take() else { return };
        let worthless = match self.marked {
            UNTOUCHED => file.metadata().is_ok_and(|metadata| metadata.len() == 0),
            marked => marked <= 1,
        };
        if worthless {
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
    checksum: Xxh3,
    open: OpenSection,
}

impl SectionSink<'_> {
    /// Steps whose bytes are there already.
    pub(crate) fn steps(&self) -> u64 {
        self.open.steps
    }

    /// Bytes that were written since the last mark.
    pub(crate) fn unmarked(&self) -> u64 {
        (self.writer.sums.len().saturating_sub(self.writer.marked) * PAGE) as u64
    }

    /// Puts everything so far on the drive, `steps` of this section, and says what to keep of it.
    pub(crate) fn mark(&mut self, steps: u64) -> Result<Mark, BuilderError> {
        self.open.steps = steps;
        let Self { writer, open, .. } = self;
        writer.open_file().sync_data().map_err(BuilderError::io(&writer.partial, "write"))?;
        let sums = writer.sums[writer.marked..].to_vec();
        writer.marked = writer.sums.len();
        Ok(Mark { place: Place { sections: writer.sections.clone(), open: open.clone() }, sums })
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), BuilderError> {
        let page = &mut self.open.tail;
        self.open.length += bytes.len() as u64;
        self.checksum.update(bytes);
        while !bytes.is_empty() {
            let take = bytes.len().min(PAGE - page.len());
            page.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if page.len() == PAGE {
                self.writer.write_page(page)?;
                page.clear();
            }
        }
        Ok(())
    }

    /// Appends zeros up to the next page boundary.
    pub(crate) fn pad_to_page(&mut self) -> Result<(), BuilderError> {
        let rest = (PAGE - self.open.tail.len()) % PAGE;
        self.write(&[0; PAGE][..rest])
    }

    fn close(mut self) -> Result<SectionEntry, BuilderError> {
        // Padding belongs to no section; the page sums cover it.
        let page = &mut self.open.tail;
        if !page.is_empty() {
            page.resize(PAGE, 0);
            self.writer.write_page(page)?;
        }
        let OpenSection { section, offset, length, .. } = self.open;
        Ok(SectionEntry { section, offset, length, checksum: self.checksum.digest() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of the long section: no whole pages.
    const STEPS: u64 = 40;

    fn step(number: u64) -> Vec<u8> {
        (0..3001).map(|i| (i * (number + 7) % 251) as u8).collect()
    }

    /// Writes a file, marking it where `marks` says; ends after so many steps of the long section, if told.
    fn written(
        writer: &mut IndexWriter,
        marks: &mut Vec<Mark>,
        every: u64,
        end: Option<u64>,
    ) -> Result<(), BuilderError> {
        writer.section(Section::Codec, |sink| sink.write(b"codec"))?;
        writer.section(Section::Nodes, |sink| {
            for number in sink.steps()..STEPS {
                if end == Some(number) {
                    return Err(BuilderError::Budget("ended".into()));
                }
                sink.write(&step(number))?;
                if (number + 1) % every == 0 {
                    marks.push(sink.mark(number + 1)?);
                }
            }
            Ok(())
        })?;
        writer.section(Section::Ids, |sink| sink.write(&step(99)))
    }

    fn whole(path: &Path) -> Vec<u8> {
        let mut writer = IndexWriter::create(path).expect("created");
        written(&mut writer, &mut Vec::new(), u64::MAX, None).expect("written");
        writer.finish(|| (), || Ok(())).expect("finished");
        std::fs::read(path).expect("read")
    }

    #[test]
    fn a_file_is_gone_on_with_from_its_last_mark() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let expected = whole(&folder.path().join("whole.kiln"));
        let path = folder.path().join("x.kiln");
        for end in 0..STEPS {
            let mut marks = Vec::new();
            let mut writer = IndexWriter::create(&path).expect("created");
            written(&mut writer, &mut marks, 3, Some(end)).expect_err("ended");
            drop(writer);
            assert_eq!(marks.len() as u64, end / 3);
            assert_eq!(
                folder.path().join("x.kiln.partial").exists(),
                !marks.is_empty(),
                "kept as long as it is worth it"
            );
            let mut writer = IndexWriter::open(&path).expect("opened");
            assert_eq!(writer.go_on(&marks).expect("read"), marks.len());
            written(&mut writer, &mut marks, 3, None).expect("written");
            writer.finish(|| (), || Ok(())).expect("finished");
            assert!(std::fs::read(&path).expect("read") == expected, "ended after {end} steps");
        }
    }

    #[test]
    fn what_the_file_does_not_bear_out_is_written_again() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let expected = whole(&folder.path().join("whole.kiln"));
        let (path, partial) = (folder.path().join("x.kiln"), folder.path().join("x.kiln.partial"));
        for (what, held) in [("flipped", 2), ("cut", 5), ("gone", 0)] {
            let mut marks = Vec::new();
            let mut writer = IndexWriter::create(&path).expect("created");
            written(&mut writer, &mut marks, 5, Some(33)).expect_err("ended");
            drop(writer);
            assert_eq!(marks.len(), 6);
            let mut bytes = std::fs::read(&partial).expect("kept");
            match what {
                "flipped" => bytes[PAGE * (2 + 12 * 3001 / PAGE)] ^= 1,
                "cut" => bytes.truncate(PAGE * (2 + 28 * 3001 / PAGE)),
                _ => bytes.clear(),
            }
            std::fs::write(&partial, &bytes).expect("written");
            let mut writer = IndexWriter::open(&path).expect("opened");
            assert_eq!(writer.go_on(&marks).expect("read"), held, "{what}");
            marks.truncate(held);
            written(&mut writer, &mut marks, 5, None).expect("written");
            writer.finish(|| (), || Ok(())).expect("finished");
            assert!(std::fs::read(&path).expect("read") == expected, "{what}");
        }
    }

    #[test]
    fn who_only_looks_leaves_what_is_there() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (path, partial) = (folder.path().join("x.kiln"), folder.path().join("x.kiln.partial"));
        std::fs::write(&partial, b"something").expect("written");
        drop(IndexWriter::open(&path).expect("opened"));
        assert_eq!(std::fs::read(&partial).expect("there"), b"something");
    }
}
