//! The memory that reads fill: pages that are lent to the drive and come back with their content.
//!
//! In: how many pages a read wants. Out: a run of neighbouring pages, as a [`Window`] for the carrier of the read and as
//! plain bytes once the read is over. A run is either lent or readable, never both.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use crate::file::PAGE;

/// Pages, handed out in runs.
pub(super) struct Arena {
    start: NonNull<u8>,
    layout: Layout,
    /// A bit a page, set where it is free; 64 pages a word.
    free: Vec<u64>,
    pages: usize,
    /// For the first page of a run: the run belongs to the drive.
    lent: Vec<bool>,
}

// SAFETY: the memory belongs to this value alone; what is lent is reached through windows only.
unsafe impl Send for Arena {}
// SAFETY: a shared arena only hands out bytes of runs that nobody writes.
unsafe impl Sync for Arena {}

/// Memory that a read in flight may write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a window is passed to the one thread that fills it.
unsafe impl Send for Window {}

impl Window {
    pub(super) fn start(self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(super) fn len(self) -> usize {
        self.length
    }

    /// The part from byte `from` on.
    pub(super) fn rest(self, from: usize) -> Self {
        assert!(from < self.length, "a window of {} bytes has none at {from}", self.length);
        // SAFETY: `from` lies within the window, as was just checked.
        Self { start: unsafe { self.start.add(from) }, length: self.length - from }
    }

    /// The bytes, to be written.
    ///
    /// # Safety
    /// The run that the window belongs to is lent, to the caller alone, for as long as the slice lives.
    pub(super) unsafe fn as_mut_slice<'a>(self) -> &'a mut [u8] {
        // SAFETY: the arena allocated and zeroed these bytes; exclusive access is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Arena {
    /// `pages` zeroed pages, at least 1, aligned as O_DIRECT demands.
    pub(super) fn new(pages: usize) -> Self {
        let pages = pages.max(1);
        let layout = Layout::from_size_align(pages * PAGE, PAGE).expect("an arena fits the address space");
        // SAFETY: the layout has a size of at least one page.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        let mut free = vec![u64::MAX; pages.div_ceil(64)];
        if !pages.is_multiple_of(64) {
            free[pages / 64] = (1 << (pages % 64)) - 1;
        }
        Self { start, layout, free, pages, lent: vec![false; pages] }
    }

    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    /// All of the memory, to be registered with the system.
    pub(super) fn whole(&self) -> Window {
        Window { start: self.start, length: self.pages * PAGE }
    }

    /// Takes a free run of `pages` pages and lends it; `None` when there is none so long.
    pub(super) fn lend(&mut self, pages: usize) -> Option<usize> {
        let at = if pages == 1 { self.find_one() } else { self.find_run(pages) }?;
        for page in at..at + pages {
            self.free[page / 64] &= !(1 << (page % 64));
        }
        self.lent[at] = true;
        Some(at)
    }

    fn find_one(&self) -> Option<usize> {
        let (word, bits) = self.free.iter().enumerate().find(|(_, bits)| **bits != 0)?;
        Some(word * 64 + bits.trailing_zeros() as usize)
    }

    /// The first fit.
    fn find_run(&self, pages: usize) -> Option<usize> {
        let (mut at, mut run) = (0, 0);
        while at < self.pages && run < pages {
            run = if self.free[at / 64] >> (at % 64) & 1 == 1 { run + 1 } else { 0 };
            at += 1;
        }
        (pages > 0 && run == pages).then(|| at - pages)
    }

    /// The memory of a lent run.
    pub(super) fn window(&self, at: usize, pages: usize) -> Window {
        assert!(self.lent[at] && at + pages <= self.pages, "run {at} is not lent");
        // SAFETY: the run lies within the arena.
        Window { start: unsafe { self.start.add(at * PAGE) }, length: pages * PAGE }
    }

    /// The drive has no more to write to a run: it can be read from now on.
    pub(super) fn take_back(&mut self, at: usize) {
        self.lent[at] = false;
    }

    /// The bytes of a run that was taken back.
    pub(super) fn bytes(&self, at: usize, pages: usize) -> &[u8] {
        assert!(!self.lent[at] && at + pages <= self.pages, "run {at} belongs to the drive");
        // SAFETY: the run lies within the arena, and nobody writes it before it is lent again, which takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(at * PAGE), pages * PAGE) }
    }

    /// Makes a run that was taken back free again.
    pub(super) fn free(&mut self, at: usize, pages: usize) {
        assert!(!self.lent[at], "run {at} belongs to the drive");
        for page in at..at + pages {
            self.free[page / 64] |= 1 << (page % 64);
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_do_not_overlap_and_come_back() {
        let mut arena = Arena::new(70);
        let (a, b, c) = (arena.lend(3).unwrap(), arena.lend(1).unwrap(), arena.lend(64).unwrap());
        assert_eq!((a, b, c), (0, 3, 4));
        assert_eq!(arena.lend(3), None);
        let (d, e) = (arena.lend(1).unwrap(), arena.lend(1).unwrap());
        assert_eq!((d, e, arena.lend(1)), (68, 69, None));
        for (at, pages) in [(a, 3), (b, 1)] {
            arena.take_back(at);
            arena.free(at, pages);
        }
        assert_eq!((arena.lend(5), arena.lend(4)), (None, Some(0)));
    }

    #[test]
    fn what_was_written_while_lent_is_read_afterwards() {
        let mut arena = Arena::new(2);
        let at = arena.lend(2).unwrap();
        let window = arena.window(at, 2).rest(4000);
        // SAFETY: the run is lent, and to nobody else.
        unsafe { window.as_mut_slice() }.fill(7);
        arena.take_back(at);
        let bytes = arena.bytes(at, 2);
        assert!(bytes[..4000].iter().all(|&b| b == 0) && bytes[4000..].iter().all(|&b| b == 7));
    }
}
