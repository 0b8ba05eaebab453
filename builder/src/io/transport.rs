//! What carries a read to the drive and tells when it is over.

use std::io;

use super::arena::Window;

/// A read of `into.len()` bytes of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    /// Names the read when it is over.
    pub tag: u32,
    /// Byte offset in the file.
    pub offset: u64,
    /// Where the bytes go.
    pub into: Window,
}

/// A read that is over: how many bytes came, which may be fewer than were asked for.
#[derive(Debug)]
pub(super) struct Done {
    pub tag: u32,
    pub result: io::Result<usize>,
}

/// Carries reads. Between `start` and the [`Done`] of its tag the window of a read belongs to the transport.
pub(super) trait Transport: Send {
    /// Takes a read in; it is sent at the latest by the next [`enter`](Self::enter). At most as many reads are in flight as
    /// the transport was made for.
    fn start(&mut self, read: Read);

    /// Sends what was started and waits until at least so many reads are over that were not yet told.
    ///
    /// # Errors
    /// What the system says when it takes no reads at all; what was started stays in flight.
    fn enter(&mut self, at_least: usize) -> io::Result<()>;

    /// A read that is over and was not yet told.
    fn completed(&mut self) -> Option<Done>;
}
