//! The part of one file that lies in the page cache, and what the kernel fetched from drives for this process.
//!
//! In: a file. Out: its resident bytes ([`PageCache::resident_bytes`]), or none of them ([`PageCache::drop_pages`]).
//! Only Linux tells and only Linux is asked; elsewhere every question is answered with `Unsupported`.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::sys;

/// Attempts to drop a file: pages on their way into the kernel's lists, a few a processor, survive the first.
const ATTEMPTS: usize = 3;

/// A file as the page cache holds it.
#[derive(Debug)]
pub struct PageCache {
    file: File,
}

impl PageCache {
    /// Of the file at `path`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)? })
    }

    /// Bytes of the file that are in the cache. The kernel tells only who owns the file or may write it; everybody else
    /// hears that all of it is there, so that a cache never passes for colder than it is.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        sys::resident_bytes(&self.file, self.file.metadata()?.len())
    }

    /// Drops the file from the cache and returns the bytes that stayed: pages that another process maps, or all of a
    /// file that lives in memory.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn drop_pages(&self) -> io::Result<u64> {
        let mut residue = 0;
        for _ in 0..ATTEMPTS {
            // A page that waits to be written cannot be dropped.
            self.file.sync_all()?;
            sys::drop_from_cache(&self.file)?;
            residue = self.resident_bytes()?;
            if residue == 0 {
                break;
            }
        }
        Ok(residue)
    }
}

/// Bytes that this process, with all its threads, has had fetched from drives so far; `None` where the kernel does not
/// count or does not tell.
pub fn kernel_read_bytes() -> Option<u64> {
    read_bytes(&std::fs::read_to_string("/proc/self/io").ok()?)
}

fn read_bytes(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("read_bytes:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn the_kernels_count_is_found() {
        let text = "rchar: 10\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 4096\nwrite_bytes: 7\n";
        assert_eq!(read_bytes(text), Some(4096));
        assert_eq!(read_bytes("rchar: 10\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_is_dropped_and_comes_back_as_it_is_read() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("file");
        let pages = 300;
        File::create(&path).and_then(|mut file| file.write_all(&vec![7; pages * 4096 - 100])).expect("written");
        let cache = PageCache::of(&path).expect("opened");
        assert!(cache.resident_bytes().expect("told") > 0, "what was just written is in the cache");
        let residue = cache.drop_pages().expect("dropped");
        if residue > 0 {
            eprintln!("SKIPPED: {}: {residue} bytes cannot be dropped from the cache here", path.display());
            return;
        }
        let mut text = Vec::new();
        File::open(&path).and_then(|mut file| file.read_to_end(&mut text)).expect("read");
        // The last page is not whole: it counts as far as the file goes.
        assert_eq!(cache.resident_bytes().expect("told"), (pages * 4096 - 100) as u64);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_empty_file_has_nothing_to_drop() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("empty");
        File::create(&path).expect("created");
        let cache = PageCache::of(&path).expect("opened");
        assert_eq!((cache.resident_bytes().expect("told"), cache.drop_pages().expect("dropped")), (0, 0));
        assert!(PageCache::of(&folder.path().join("none")).is_err());
    }
}
