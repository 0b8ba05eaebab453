//! Reads through io_uring: one system call sends many and waits for some.
//!
//! The ring is made so that any thread may drive it, one at a time: it lives in the working memory of a search, which
//! goes from thread to thread. The flags that bind a ring to one thread measured at most 8% on a virtio drive.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};

use super::arena::Arena;
use super::transport::{Done, Read, Transport};

/// How often, and with what pause, a system is asked again that has no memory for reads at the moment.
const PATIENCE: usize = 10_000;
const PAUSE: Duration = Duration::from_micros(500);

/// A ring over one file and one arena.
pub(super) struct Ring {
    ring: IoUring,
    file: types::Fd,
    /// The file is registered as number 0: the system need not look it up for every read.
    fixed_file: bool,
    /// The arena is registered as number 0: the system need not pin its pages for every read.
    fixed_buffer: bool,
}

impl Ring {
    /// A ring for so many reads in flight at most.
    ///
    /// `file` stays open and `arena` stays where it is for as long as the ring lives. Where the system refuses to register
    /// either (a limit on locked memory, say), reads name them one by one.
    pub(super) fn new(file: &File, arena: &Arena, in_flight: usize) -> io::Result<Self> {
        let entries = in_flight.next_power_of_two().clamp(8, 4096) as u32;
        // Completions are handed over when the thread enters the kernel anyway, and do not interrupt its computing.
        let ring = match IoUring::builder().dontfork().setup_coop_taskrun().build(entries) {
            // Linux before 5.19 does not know the flag.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::builder().dontfork().build(entries),
            made => made,
        }?;
        let fixed_file = ring.submitter().register_files(&[file.as_raw_fd()]).is_ok();
        let whole = arena.whole();
        let buffer = libc::iovec { iov_base: whole.start().cast(), iov_len: whole.len() };
        // SAFETY: the arena outlives the ring, as the caller promised, and is nowhere reallocated.
        let fixed_buffer = unsafe { ring.submitter().register_buffers(&[buffer]) }.is_ok();
        if !fixed_file || !fixed_buffer {
            tracing::debug!("io_uring: registered file {fixed_file}, registered buffer {fixed_buffer}");
        }
        Ok(Self { ring, file: types::Fd(file.as_raw_fd()), fixed_file, fixed_buffer })
    }

    /// Whether this system gives out rings.
    pub(super) fn probe() -> io::Result<()> {
        IoUring::new(8).map(drop)
    }

    fn entry(&self, read: Read) -> squeue::Entry {
        let (start, length) = (read.into.start(), read.into.len() as u32);
        let fixed = types::Fixed(0);
        let entry = match (self.fixed_file, self.fixed_buffer) {
            (true, true) => opcode::ReadFixed::new(fixed, start, length, 0).offset(read.offset).build(),
            (false, true) => opcode::ReadFixed::new(self.file, start, length, 0).offset(read.offset).build(),
            (true, false) => opcode::Read::new(fixed, start, length).offset(read.offset).build(),
            (false, false) => opcode::Read::new(self.file, start, length).offset(read.offset).build(),
        };
        entry.user_data(u64::from(read.tag))
    }
}

impl Transport for Ring {
    fn start(&mut self, read: Read) {
        let entry = self.entry(read);
        // SAFETY: the window is lent to the drive until the read is over, and file and arena outlive the ring.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("a ring has a place for every read that may be in flight");
    }

    fn enter(&mut self, at_least: usize) -> io::Result<()> {
        for _ in 0..PATIENCE {
            let Err(error) = self.ring.submit_and_wait(at_least) else { return Ok(()) };
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // Memory is short, or too many completions wait: what is over is to be taken first.
                Some(libc::EAGAIN | libc::EBUSY) if !self.ring.completion().is_empty() => return Ok(()),
                Some(libc::EAGAIN | libc::EBUSY) => std::thread::sleep(PAUSE),
                _ => return Err(error),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    fn completed(&mut self) -> Option<Done> {
        let over = self.ring.completion().next()?;
        let result = match over.result() {
            bytes @ 0.. => Ok(bytes as usize),
            error => Err(io::Error::from_raw_os_error(-error)),
        };
        Some(Done { tag: over.user_data() as u32, result })
    }
}
