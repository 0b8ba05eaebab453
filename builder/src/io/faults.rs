//! A drive that misbehaves, for tests: reads cut short, refused, put off, delayed and told in another order, and bits
//! that flip on the way. All by a seed.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Drive;
use super::transport::{Done, Read, Transport};
use crate::file::PAGE;

/// What goes wrong, and how often.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Of 100 completed reads so many are cut short.
    pub short: u32,
    /// ... put off with EAGAIN or EINTR.
    pub put_off: u32,
    /// ... held back, and told after others that were over later.
    pub delayed: u32,
    /// Pages that the drive cannot read.
    pub unreadable: BTreeSet<u64>,
    /// Pages of which a bit flips on the way.
    pub flipped: BTreeSet<u64>,
    /// Seed; each queue goes on from its own.
    pub seed: u64,
    /// Queues made so far.
    pub queues: Arc<AtomicU64>,
}

impl Drive {
    /// From now on queues of this drive misbehave.
    pub(crate) fn misbehave(&mut self, faults: Faults) {
        self.faults = Some(faults);
    }
}

/// A transport behind which the drive misbehaves.
pub(super) struct Faulty {
    inner: Box<dyn Transport>,
    faults: Faults,
    rng: ChaCha8Rng,
    /// What each tag reads.
    reads: Vec<Option<Read>>,
    held: Vec<Done>,
    told: Vec<Done>,
}

impl Faulty {
    pub(super) fn new(inner: Box<dyn Transport>, faults: Faults) -> Self {
        let queue = faults.queues.fetch_add(1, Relaxed);
        let rng = ChaCha8Rng::seed_from_u64(faults.seed.wrapping_add(queue));
        Self { inner, faults, rng, reads: Vec::new(), held: Vec::new(), told: Vec::new() }
    }

    fn in_a_hundred(&mut self, share: u32) -> bool {
        self.rng.random_range(0..100) < share
    }

    /// What becomes of a read that went well.
    fn spoil(&mut self, read: Read, bytes: usize) -> io::Result<usize> {
        if self.in_a_hundred(self.faults.put_off) {
            let number = if self.rng.random() { libc::EAGAIN } else { libc::EINTR };
            return Err(io::Error::from_raw_os_error(number));
        }
        let bytes = if self.in_a_hundred(self.faults.short) { self.rng.random_range(1..=bytes) } else { bytes };
        let pages = read.offset / PAGE as u64..(read.offset + bytes as u64).div_ceil(PAGE as u64);
        if pages.clone().any(|page| self.faults.unreadable.contains(&page)) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        for page in pages.filter(|page| self.faults.flipped.contains(page)) {
            let at = (page * PAGE as u64 + 1234).saturating_sub(read.offset) as usize;
            // SAFETY: the read is not told yet, so that its window is the transport's.
            if let Some(byte) = unsafe { read.into.as_mut_slice() }[..bytes].get_mut(at) {
                *byte ^= 0x20;
            }
        }
        Ok(bytes)
    }

    fn take_over(&mut self) {
        while let Some(Done { tag, result }) = self.inner.completed() {
            let read = self.reads[tag as usize].take().expect("a read that was started");
            let result = result.and_then(|bytes| self.spoil(read, bytes));
            let done = Done { tag, result };
            if self.in_a_hundred(self.faults.delayed) { self.held.push(done) } else { self.told.push(done) }
        }
    }
}

impl Transport for Faulty {
    fn start(&mut self, read: Read) {
        let tag = read.tag as usize;
        self.reads.resize(self.reads.len().max(tag + 1), None);
        self.reads[tag] = Some(read);
        self.inner.start(read);
    }

    fn enter(&mut self, at_least: usize) -> io::Result<()> {
        let below = self.reads.iter().flatten().count();
        self.inner.enter(at_least.min(below))?;
        self.take_over();
        while self.told.len() < at_least && !self.held.is_empty() {
            let at = self.rng.random_range(0..self.held.len());
            self.told.push(self.held.swap_remove(at));
        }
        for i in (1..self.told.len()).rev() {
            let other = self.rng.random_range(0..=i);
            self.told.swap(i, other);
        }
        Ok(())
    }

    fn completed(&mut self) -> Option<Done> {
        self.told.pop()
    }
}
