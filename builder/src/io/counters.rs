//! What an open index has read from the drive, to be asked for at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A snapshot of the counters of an open index, since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoCounters {
    /// Reads that were completed.
    pub reads: u64,
    /// 4 KiB pages that they brought.
    pub pages: u64,
    /// Bytes that they brought.
    pub bytes: u64,
    /// Reads on their way.
    pub in_flight: u64,
    /// Reads that were spared because another query had asked for the same pages and they were still there.
    pub shared: u64,
    /// Reads that were asked for again: cut short, interrupted or put off by the system.
    pub repeated: u64,
    /// Pages that did not match their checksum.
    pub crc_failures: u64,
    /// Reads that the system refused.
    pub io_errors: u64,
}

impl std::ops::AddAssign for IoCounters {
    fn add_assign(&mut self, other: Self) {
        self.reads += other.reads;
        self.pages += other.pages;
        self.bytes += other.bytes;
        self.in_flight += other.in_flight;
        self.shared += other.shared;
        self.repeated += other.repeated;
        self.crc_failures += other.crc_failures;
        self.io_errors += other.io_errors;
    }
}

/// The counters themselves; every reader of the index adds to them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    reads: AtomicU64,
    pages: AtomicU64,
    in_flight: AtomicU64,
    shared: AtomicU64,
    repeated: AtomicU64,
    crc_failures: AtomicU64,
    io_errors: AtomicU64,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> IoCounters {
        let pages = self.pages.load(Relaxed);
        IoCounters {
            reads: self.reads.load(Relaxed),
            pages,
            bytes: pages * crate::file::PAGE as u64,
            in_flight: self.in_flight.load(Relaxed),
            shared: self.shared.load(Relaxed),
            repeated: self.repeated.load(Relaxed),
            crc_failures: self.crc_failures.load(Relaxed),
            io_errors: self.io_errors.load(Relaxed),
        }
    }

    pub(crate) fn sent(&self, reads: usize) {
        self.in_flight.fetch_add(reads as u64, Relaxed);
    }

    /// So many reads are over, and brought so many pages.
    pub(crate) fn completed(&self, reads: usize, pages: usize) {
        self.in_flight.fetch_sub(reads as u64, Relaxed);
        self.brought(reads, pages);
    }

    /// A read outside any queue is over.
    pub(crate) fn brought(&self, reads: usize, pages: usize) {
        self.reads.fetch_add(reads as u64, Relaxed);
        self.pages.fetch_add(pages as u64, Relaxed);
    }

    pub(crate) fn shared(&self) {
        self.shared.fetch_add(1, Relaxed);
    }

    pub(crate) fn repeated(&self) {
        self.repeated.fetch_add(1, Relaxed);
    }

    pub(crate) fn crc_failure(&self) {
        self.crc_failures.fetch_add(1, Relaxed);
    }

    pub(crate) fn io_error(&self) {
        self.io_errors.fetch_add(1, Relaxed);
    }
}
