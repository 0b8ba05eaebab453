//! A thread's reads: spans of pages asked for, fetched side by side, checked, and given back.
//!
//! In: [`Span`]s. Out: a [`Ticket`] each, and behind it, once [`Queue::is_ready`], the bytes, every page of which was held
//! against its checksum, or the error of that read alone. A span that is asked for again while it is in flight or held
//! is fetched once. A queue belongs to one thread at a time; the caller decides in which order it looks at
//! its tickets, so nothing here depends on the order in which the drive answers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::Drive;
use super::arena::Arena;
use super::transport::{Done, Read, Transport};
use crate::error::BuilderError;
use crate::file::PAGE;

/// Neighbouring pages of the file, read as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Number of the first page.
    pub first: u64,
    /// How many, at least 1.
    pub pages: usize,
}

/// A span that was asked for; to be given back with [`Queue::release`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u32);

/// What a queue reads at a time at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Depth {
    /// Tickets not yet given back.
    pub reads: usize,
    /// Their pages: the memory that the queue holds.
    pub pages: usize,
}

/// How often a read is asked for again before its error is believed.
const TRIES: u32 = 64;

/// Reads of a file with O_DIRECT start on sectors.
const SECTOR: usize = 512;

/// The first page of a slot without a ticket.
const NOBODY: u64 = u64::MAX;

/// Reads of one thread in flight or held.
pub(crate) struct Queue {
    // Dropped first: it must not outlive the memory and the file that it works on.
    transport: Option<Box<dyn Transport>>,
    arena: Arena,
    drive: Arc<Drive>,
    /// The first page that each slot reads. Apart from the slots, to be searched quickly.
    firsts: Vec<u64>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    in_flight: usize,
    unsent: usize,
}

#[derive(Clone)]
struct Slot {
    pages: usize,
    /// First page in the arena.
    at: usize,
    /// Bytes that have come.
    filled: usize,
    tries: u32,
    /// Tickets out; none while in flight means that nobody waits any more.
    holders: u32,
    state: State,
}

#[derive(Clone)]
enum State {
    Free,
    InFlight,
    Ready,
    Failed(Failure),
}

/// Why a read brought nothing that can be used.
#[derive(Clone)]
enum Failure {
    /// The system's number, or its kind and words.
    System(Option<i32>, io::ErrorKind),
    /// A page does not match its checksum.
    Sum { page: u64 },
    /// The file ends before the page does.
    Ended { page: u64 },
}

impl Queue {
    /// A queue over `drive`.
    ///
    /// # Errors
    /// When io_uring was asked for by name and the system has no ring to give.
    pub(crate) fn new(drive: &Arc<Drive>, depth: Depth) -> Result<Self, BuilderError> {
        let arena = Arena::new(depth.pages);
        let transport = Some(drive.transport(&arena, depth.reads)?);
        drive.buffers.fetch_add((arena.pages() * PAGE) as u64, Relaxed);
        let slot = Slot { pages: 0, at: 0, filled: 0, tries: 0, holders: 0, state: State::Free };
        Ok(Self {
            transport,
            arena,
            drive: Arc::clone(drive),
            firsts: vec![NOBODY; depth.reads],
            slots: vec![slot; depth.reads],
            free: (0..depth.reads as u32).rev().collect(),
            in_flight: 0,
            unsent: 0,
        })
    }

    /// Reads in flight, sent or not.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Asks for a span. `None` when the queue is full: some ticket is to be given back first.
    pub(crate) fn request(&mut self, span: Span) -> Option<Ticket> {
        if let Some(slot) = self.find(span) {
            self.slots[slot].holders += 1;
            self.drive.counters().shared();
            return Some(Ticket(slot as u32));
        }
        let number = *self.free.last()?;
        let at = self.arena.lend(span.pages)?;
        self.free.pop();
        self.firsts[number as usize] = span.first;
        self.slots[number as usize] =
            Slot { pages: span.pages, at, filled: 0, tries: 0, holders: 1, state: State::InFlight };
        self.in_flight += 1;
        self.start(number);
        Some(Ticket(number))
    }

    /// The slot that reads or holds a span.
    fn find(&self, span: Span) -> Option<usize> {
        const TOGETHER: usize = 16;
        for (chunk, firsts) in self.firsts.chunks(TOGETHER).enumerate() {
            // All of a chunk is compared at once; most chunks hold nothing.
            if firsts.iter().fold(false, |any, &first| any | (first == span.first)) {
                let slots = chunk * TOGETHER..chunk * TOGETHER + firsts.len();
                let found = slots.into_iter().find(|&slot| self.span(slot) == span);
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    fn span(&self, slot: usize) -> Span {
        Span { first: self.firsts[slot], pages: self.slots[slot].pages }
    }

    /// Hands the part of a slot's read that has not come to the transport.
    fn start(&mut self, number: u32) {
        let (span, slot) = (self.span(number as usize), &self.slots[number as usize]);
        let into = self.arena.window(slot.at, span.pages).rest(slot.filled);
        let offset = span.first * PAGE as u64 + slot.filled as u64;
        self.unsent += 1;
        self.transport.as_mut().expect("there until dropped").start(Read { tag: number, offset, into });
    }

    /// Sends what was asked for, waits until at least `at_least` of the reads in flight are over, and takes in all that
    /// are. Returns the time that it waited.
    ///
    /// # Errors
    /// When the system takes no reads at all.
    pub(crate) fn enter(&mut self, at_least: usize) -> Result<Duration, BuilderError> {
        let since = Instant::now();
        let sent = std::mem::take(&mut self.unsent);
        self.drive.counters().sent(sent);
        let transport = self.transport.as_mut().expect("there until dropped");
        transport.enter(at_least.min(self.in_flight)).map_err(BuilderError::io(self.drive.path(), "read"))?;
        let waited = since.elapsed();
        let (mut over, mut pages) = (0, 0);
        while let Some(done) = self.transport.as_mut().and_then(|transport| transport.completed()) {
            over += 1;
            pages += self.take_in(done);
        }
        self.drive.counters().completed(over, pages);
        Ok(waited)
    }

    /// Waits until a ticket is ready.
    ///
    /// # Errors
    /// When the system takes no reads at all.
    pub(crate) fn wait_for(&mut self, ticket: Ticket) -> Result<Duration, BuilderError> {
        let mut waited = Duration::ZERO;
        while !self.is_ready(ticket) {
            waited += self.enter(1)?;
        }
        Ok(waited)
    }

    /// Takes in a read that is over; returns the whole pages that it brought.
    fn take_in(&mut self, done: Done) -> usize {
        let number = done.tag as usize;
        let span = self.span(number);
        let slot = &mut self.slots[number];
        let length = span.pages * PAGE;
        let before = slot.filled / PAGE;
        let repeatable = |error: &io::Error| {
            let number = error.raw_os_error();
            [libc::EAGAIN, libc::EINTR, libc::ENOMEM, libc::EBUSY].map(Some).contains(&number)
        };
        let failure = match done.result {
            Ok(bytes) if slot.filled + bytes >= length => {
                slot.filled = length;
                None
            }
            Ok(0) => Some(Failure::Ended { page: span.first + (slot.filled / PAGE) as u64 }),
            Ok(bytes) => {
                slot.filled = (slot.filled + bytes) / SECTOR * SECTOR;
                slot.tries += 1;
                (slot.tries > TRIES + (length / SECTOR) as u32)
                    .then_some(Failure::System(None, io::ErrorKind::UnexpectedEof))
            }
            Err(error) if repeatable(&error) && slot.tries < TRIES => {
                slot.tries += 1;
                if slot.tries > TRIES / 2 {
                    // The system is short of something: give it time.
                    std::thread::sleep(Duration::from_millis(1));
                }
                None
            }
            Err(error) => Some(Failure::System(error.raw_os_error(), error.kind())),
        };
        let (filled, at) = (slot.filled, slot.at);
        if failure.is_none() && filled < length {
            self.drive.counters().repeated();
            self.start(done.tag);
            return filled / PAGE - before;
        }
        self.in_flight -= 1;
        self.arena.take_back(at);
        let state = match failure {
            None => match self.drive.file.first_damaged(span.first, self.arena.bytes(at, span.pages)) {
                None => State::Ready,
                Some(page) => State::Failed(Failure::Sum { page }),
            },
            Some(failure) => {
                self.drive.counters().io_error();
                State::Failed(failure)
            }
        };
        self.slots[number].state = state;
        if self.slots[number].holders == 0 {
            self.recycle(number);
        }
        filled / PAGE - before
    }

    /// Whether the read of a ticket is over.
    pub(crate) fn is_ready(&self, ticket: Ticket) -> bool {
        !matches!(self.slots[ticket.0 as usize].state, State::InFlight)
    }

    /// The bytes of a ticket that is ready, whole pages.
    ///
    /// # Errors
    /// Why they could not be read, or which page does not match its checksum.
    pub(crate) fn bytes(&self, ticket: Ticket) -> Result<&[u8], BuilderError> {
        let (slot, span) = (&self.slots[ticket.0 as usize], self.span(ticket.0 as usize));
        match &slot.state {
            State::Ready => Ok(self.arena.bytes(slot.at, span.pages)),
            State::Failed(failure) => Err(self.error(failure, span)),
            State::InFlight | State::Free => unreachable!("the caller asks for bytes that are ready"),
        }
    }

    fn error(&self, failure: &Failure, span: Span) -> BuilderError {
        match *failure {
            Failure::Sum { page } => self.drive.file.mismatch(page),
            Failure::Ended { page } => self.drive.file.missing(page),
            Failure::System(number, kind) => {
                let system = number.map_or_else(|| io::Error::from(kind), io::Error::from_raw_os_error);
                self.drive.file.unreadable(span.first, system)
            }
        }
    }

    /// Gives a ticket back; whatever it led to is forgotten once nobody holds it.
    pub(crate) fn release(&mut self, ticket: Ticket) {
        let number = ticket.0 as usize;
        self.slots[number].holders -= 1;
        if self.slots[number].holders == 0 && self.is_ready(ticket) {
            self.recycle(number);
        }
    }

    fn recycle(&mut self, number: usize) {
        self.arena.free(self.slots[number].at, self.slots[number].pages);
        self.firsts[number] = NOBODY;
        self.slots[number].state = State::Free;
        self.free.push(number as u32);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.drive.buffers.fetch_sub((self.arena.pages() * PAGE) as u64, Relaxed);
        // The drive may still write to the arena: what is in flight must land first.
        while self.in_flight > 0 {
            if self.enter(1).is_err() {
                // Nothing can be known of the reads: their memory is never used again.
                std::mem::forget(self.transport.take());
                std::mem::forget(std::mem::replace(&mut self.arena, Arena::new(1)));
                std::mem::forget(Arc::clone(&self.drive));
                return;
            }
        }
    }
}
