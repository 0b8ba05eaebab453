//! Bytes of a file by page: all in memory, or read from the drive page by page and checked.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
#[cfg(target_os = "linux")]
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytemuck::Zeroable;

use super::PAGE;
use crate::error::BuilderError;
use crate::io::Counters;
use crate::search_types::DriveReads;

/// One page, aligned as O_DIRECT demands.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
pub(crate) struct Page([u8; PAGE]);

// SAFETY: an array of bytes without padding: any bit pattern, zeros included, is valid.
unsafe impl Zeroable for Page {}
// SAFETY: as above; size and alignment are equal, so there are no padding bytes.
unsafe impl bytemuck::Pod for Page {}

/// A buffer of bytes that starts on a page boundary.
pub(crate) struct AlignedBytes {
    pages: Vec<Page>,
    length: usize,
}

impl AlignedBytes {
    /// `length` zero bytes.
    pub(crate) fn zeroed(length: usize) -> Self {
        Self { pages: bytemuck::zeroed_vec(length.div_ceil(PAGE)), length }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.pages)[..self.length]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.pages)[..self.length]
    }
}

/// The drive side of an index: a file read by page past the page cache, each page held against its sum.
pub(crate) struct DirectFile {
    file: File,
    path: PathBuf,
    sums: Vec<u32>,
    reads: DriveReads,
    counters: Counters,
}

impl DirectFile {
    /// Opens with O_DIRECT if asked for, and buffered where the filesystem refuses it (said in the log).
    pub(crate) fn open(path: &Path, sums: Vec<u32>, asked: DriveReads) -> Result<Self, BuilderError> {
        let cached = || File::open(path).map_err(BuilderError::io(path, "open"));
        #[cfg(target_os = "linux")]
        let direct = || match std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path) {
            Ok(file) => Ok((file, DriveReads::Direct)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                tracing::warn!("{}: the filesystem has no O_DIRECT; reads go through the page cache", path.display());
                Ok((cached()?, DriveReads::Cached))
            }
            Err(error) => Err(BuilderError::io(path, "open")(error)),
        };
        #[cfg(not(target_os = "linux"))]
        let direct = || Ok((cached()?, DriveReads::Cached));
        let (file, reads) = match asked {
            DriveReads::Direct => direct()?,
            DriveReads::Cached => (cached()?, asked),
        };
        Ok(Self { file, path: path.to_path_buf(), sums, reads, counters: Counters::default() })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How the file is read in truth.
    pub(crate) fn reads(&self) -> DriveReads {
        self.reads
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// An error that names the file.
    pub(crate) fn damaged(&self, problem: String) -> BuilderError {
        BuilderError::damaged(&self.path, problem)
    }

    /// The error of a page that does not match its sum.
    pub(crate) fn mismatch(&self, page: u64) -> BuilderError {
        self.damaged(format!("page {page} (byte {}) does not match its checksum", page * PAGE as u64))
    }

    /// The error of a page at which the file ends.
    pub(crate) fn missing(&self, page: u64) -> BuilderError {
        let byte = page * PAGE as u64;
        self.damaged(format!("page {page} (byte {byte}) is missing: the file was cut short since it was opened"))
    }

    /// The error of a page that the system cannot read.
    pub(crate) fn unreadable(&self, page: u64, error: std::io::Error) -> BuilderError {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            return self.missing(page);
        }
        let what = format!("page {page} (byte {}): {error}", page * PAGE as u64);
        BuilderError::io(&self.path, "read")(std::io::Error::new(error.kind(), what))
    }

    /// Bytes of the page sums, which stay in memory.
    pub(crate) fn sums_bytes(&self) -> u64 {
        4 * self.sums.len() as u64
    }

    /// Of whole pages from page `first` on the first that does not match its sum; it is counted.
    pub(crate) fn first_damaged(&self, first: u64, bytes: &[u8]) -> Option<u64> {
        let mut pages = (first..).zip(bytes.chunks_exact(PAGE));
        let (page, _) = pages.find(|(page, bytes)| {
            self.sums.get(*page as usize).is_none_or(|&expected| crc32c::crc32c(bytes) != expected)
        })?;
        self.counters.crc_failure();
        Some(page)
    }

    fn read_page(&self, number: u64, into: &mut Page) -> Result<(), BuilderError> {
        let bytes = &mut into.0[..];
        self.file.read_exact_at(bytes, number * PAGE as u64).map_err(|error| {
            self.counters.io_error();
            self.unreadable(number, error)
        })?;
        self.counters.brought(1, 1);
        self.first_damaged(number, bytes).map_or(Ok(()), |page| Err(self.mismatch(page)))
    }
}

/// The pages that one query has read: equal pages are fetched once. Kept between queries for its memory.
#[derive(Default)]
pub(crate) struct PageCache {
    slots: HashMap<u64, usize>,
    pages: Vec<Page>,
    used: usize,
    joined: Vec<u8>,
}

impl PageCache {
    /// Forgets all pages.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
        self.used = 0;
    }

    /// Pages read since the last `clear`.
    pub(crate) fn pages_read(&self) -> u64 {
        self.used as u64
    }

    /// Bytes `offset..offset + length` of the file.
    pub(crate) fn bytes(&mut self, file: &DirectFile, offset: u64, length: usize) -> Result<&[u8], BuilderError> {
        let (number, within) = (offset / PAGE as u64, (offset % PAGE as u64) as usize);
        if within + length <= PAGE {
            let slot = self.slot(file, number)?;
            return Ok(&self.pages[slot].0[within..within + length]);
        }
        let mut joined = std::mem::take(&mut self.joined);
        joined.clear();
        let last = (offset + length as u64 - 1) / PAGE as u64;
        for page in number..=last {
            let slot = self.slot(file, page)?;
            let from = if page == number { within } else { 0 };
            let to = PAGE.min(from + length - joined.len());
            joined.extend_from_slice(&self.pages[slot].0[from..to]);
        }
        self.joined = joined;
        Ok(&self.joined)
    }

    fn slot(&mut self, file: &DirectFile, number: u64) -> Result<usize, BuilderError> {
        if let Some(&slot) = self.slots.get(&number) {
            return Ok(slot);
        }
        if self.used == self.pages.len() {
            self.pages.push(Page::zeroed());
        }
        file.read_page(number, &mut self.pages[self.used])?;
        self.slots.insert(number, self.used);
        self.used += 1;
        Ok(self.used - 1)
    }
}
