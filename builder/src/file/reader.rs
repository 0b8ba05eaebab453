//! Opens an index file and hands out sections that have been checked.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::pages::AlignedBytes;
use super::{Header, HeaderError, OLDEST_VERSION, PAGE, Section, SectionEntry, VERSION};
use crate::error::BuilderError;
use crate::meta::Meta;

/// An open index file with a valid header.
pub(crate) struct IndexFile {
    path: PathBuf,
    file: File,
    header: Header,
}

impl IndexFile {
    /// Opens `path` and checks its header, version and lengths.
    pub(crate) fn open(path: &Path) -> Result<Self, BuilderError> {
        let file = File::open(path).map_err(BuilderError::io(path, "open"))?;
        let length = file.metadata().map_err(BuilderError::io(path, "read the size of"))?.len();
        let mut page = Vec::with_capacity(PAGE);
        (&file).take(PAGE as u64).read_to_end(&mut page).map_err(BuilderError::io(path, "read"))?;
        let header = Header::decode(&page, length).map_err(|error| match error {
            HeaderError::NotKiln => BuilderError::Damaged {
                path: path.to_path_buf(),
                problem: "not a Kiln index (its first bytes are not the magic number)".into(),
                remedy: "give a file that `kiln build` wrote",
            },
            HeaderError::Version(found) => {
                BuilderError::Version { path: path.to_path_buf(), found, oldest: OLDEST_VERSION, newest: VERSION }
            }
            HeaderError::Invalid(problem) => BuilderError::damaged(path, problem),
        })?;
        Ok(Self { path: path.to_path_buf(), file, header })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// The table row of a section that must be there.
    pub(crate) fn entry(&self, section: Section) -> Result<SectionEntry, BuilderError> {
        let found = self.header.sections.iter().find(|e| e.section == section).copied();
        found.ok_or_else(|| BuilderError::damaged(&self.path, format!("section {} is missing", section.name())))
    }

    /// Whether the file has a section.
    pub(crate) fn has(&self, section: Section) -> bool {
        self.header.sections.iter().any(|e| e.section == section)
    }

    /// Reads a whole section and holds it against its checksum.
    pub(crate) fn section(&self, section: Section) -> Result<AlignedBytes, BuilderError> {
        let entry = self.entry(section)?;
        let mut bytes = AlignedBytes::zeroed(entry.length as usize);
        self.file.read_exact_at(bytes.as_mut_slice(), entry.offset).map_err(BuilderError::io(&self.path, "read"))?;
        if xxh3_64(bytes.as_slice()) == entry.checksum { Ok(bytes) } else { Err(self.mismatch(entry)) }
    }

    /// Reads a whole section piece by piece and holds it against its checksum; `take` gets each piece, a whole number
    /// of pages but for the last, with its place in the section. Nothing may be believed before this returns.
    pub(crate) fn section_pieces(
        &self,
        section: Section,
        piece_pages: usize,
        mut take: impl FnMut(usize, &[u8]),
    ) -> Result<(), BuilderError> {
        let entry = self.entry(section)?;
        let mut piece = AlignedBytes::zeroed((piece_pages * PAGE).min(entry.length as usize));
        let mut checksum = Xxh3::new();
        let mut done = 0;
        while done < entry.length {
            let length = (piece.as_slice().len() as u64).min(entry.length - done) as usize;
            let bytes = &mut piece.as_mut_slice()[..length];
            self.file.read_exact_at(bytes, entry.offset + done).map_err(BuilderError::io(&self.path, "read"))?;
            checksum.update(bytes);
            take(done as usize, bytes);
            done += length as u64;
        }
        if checksum.digest() == entry.checksum { Ok(()) } else { Err(self.mismatch(entry)) }
    }

    fn mismatch(&self, entry: SectionEntry) -> BuilderError {
        let (name, offset) = (entry.section.name(), entry.offset);
        BuilderError::damaged(&self.path, format!("section {name} (byte {offset} on) does not match its checksum"))
    }

    /// The parameters.
    pub(crate) fn meta(&self) -> Result<Meta, BuilderError> {
        let bytes = self.section(Section::Meta)?;
        serde_json::from_slice(bytes.as_slice())
            .map_err(|error| BuilderError::damaged(&self.path, format!("section meta cannot be understood: {error}")))
    }

    /// CRC32C of each page before the sums themselves.
    pub(crate) fn sums(&self) -> Result<Vec<u32>, BuilderError> {
        let bytes = self.section(Section::Sums)?;
        let sums: Vec<u32> = bytes.as_slice().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let pages = self.entry(Section::Sums)?.offset / PAGE as u64;
        if sums.len() as u64 != pages {
            return Err(BuilderError::damaged(&self.path, format!("{} page sums for {pages} pages", sums.len())));
        }
        Ok(sums)
    }

    /// Reads page `number` into `page`.
    pub(crate) fn read_page(&self, number: u64, page: &mut [u8]) -> Result<(), BuilderError> {
        self.file.read_exact_at(page, number * PAGE as u64).map_err(BuilderError::io(&self.path, "read"))
    }
}
