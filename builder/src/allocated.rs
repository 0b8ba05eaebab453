//! Counts the memory that the program has asked for and not given back.
//!
//! In: every allocation, where the program has [`CountingAllocator`] as its global one. Out: the bytes held now, and the
//! most there were since a moment. What the system counts as resident has pages in it that were freed but not returned, and lacks
//! those that were never touched; beside it this says what the code itself asked for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// What a thread keeps to itself before it tells the others: so far the count may be off, for each thread.
const KEPT: i64 = 64 << 10;

static HELD: AtomicI64 = AtomicI64::new(0);
static MOST: AtomicI64 = AtomicI64::new(0);

thread_local! {
    static OWN: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, counted.
pub struct CountingAllocator;

// SAFETY: all work is the system allocator's, with the arguments as they came.
unsafe impl GlobalAlloc for CountingAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps to the same contract.
        let place = unsafe { System.alloc(layout) };
        took(place, layout.size() as i64)
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps to the same contract.
        let place = unsafe { System.alloc_zeroed(layout) };
        took(place, layout.size() as i64)
    }

    #[inline]
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps to the same contract.
        let place = unsafe { System.realloc(place, layout, size) };
        took(place, size as i64 - layout.size() as i64)
    }

    #[inline]
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.dealloc(place, layout) };
        count(-(layout.size() as i64));
    }
}

/// Counts what an allocation that went well has changed.
#[inline]
fn took(place: *mut u8, change: i64) -> *mut u8 {
    if !place.is_null() {
        count(change);
    }
    place
}

#[inline]
fn count(change: i64) {
    // A thread at its very end has no cell any more; what it frees then is little.
    let _ = OWN.try_with(|own| {
        let sum = own.get() + change;
        if sum.abs() < KEPT {
            return own.set(sum);
        }
        own.set(0);
        let held = HELD.fetch_add(sum, Relaxed) + sum;
        MOST.fetch_max(held, Relaxed);
    });
}

/// Begins to look for the most bytes held.
pub(crate) fn start() {
    MOST.store(HELD.load(Relaxed), Relaxed);
}

/// The most bytes held since [`start`]; 0 where the program's allocator is another.
pub(crate) fn most() -> u64 {
    MOST.load(Relaxed).max(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_counted_and_what_is_given_back_is_not() {
        let layout = |size| Layout::from_size_align(size, 64).expect("a size");
        // Other tests do not allocate by it.
        let before = HELD.load(Relaxed);
        // SAFETY: sizes are not zero, and each place is given back with the layout it has.
        unsafe {
            let first = CountingAllocator.alloc(layout(10 << 20));
            let second = CountingAllocator.alloc_zeroed(layout(1 << 20));
            assert!(!first.is_null() && !second.is_null());
            let first = CountingAllocator.realloc(first, layout(10 << 20), 3 << 20);
            assert_eq!(HELD.load(Relaxed) - before, 4 << 20);
            CountingAllocator.dealloc(first, layout(3 << 20));
            CountingAllocator.dealloc(second, layout(1 << 20));
        }
        assert_eq!(HELD.load(Relaxed), before);
    }
}
