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
}

impl DirectFile {
    /// Opens with O_DIRECT, or buffered where the filesystem refuses it (said in the log).
    pub(crate) fn open(path: &Path, sums: Vec<u32>) -> Result<Self, BuilderError> {
        #[cfg(target_os = "linux")]
        let direct = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
        #[cfg(not(target_os = "linux"))]
        let direct = File::open(path);
        let file = match direct {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                tracing::warn!("{}: the filesystem has no O_DIRECT; reads go through the page cache", path.display());
                File::open(path).map_err(BuilderError::io(path, "open"))?
            }
            Err(error) => return Err(BuilderError::io(path, "open")(error)),
        };
        Ok(Self { file, path: path.to_path_buf(), sums })
    }

    /// An error that names the file.
    pub(crate) fn damaged(&self, problem: String) -> BuilderError {
        BuilderError::damaged(&self.path, problem)
    }

    /// Bytes of the page sums, which stay in memory.
    pub(crate) fn sums_bytes(&self) -> u64 {
        4 * self.sums.len() as u64
    }

    fn read_page(&self, number: u64, into: &mut Page) -> Result<(), BuilderError> {
        let bytes = &mut into.0[..];
        self.file.read_exact_at(bytes, number * PAGE as u64).map_err(BuilderError::io(&self.path, "read"))?;
        let expected = self.sums.get(number as usize).copied();
        if Some(crc32c::crc32c(bytes)) == expected {
            return Ok(());
        }
        let problem = format!("page {number} (byte {}) does not match its checksum", number * PAGE as u64);
        Err(BuilderError::damaged(&self.path, problem))
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
