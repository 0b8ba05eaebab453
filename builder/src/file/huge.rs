//! Bytes on huge pages: an index in memory is read at random, and small pages would cost a walk of the page tables
//! for most reads.

use std::ptr::NonNull;

/// Zeroed anonymous memory, on huge pages where the system allows; starts on a page boundary.
pub(crate) struct HugeBytes {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to this value alone; access follows the borrows of `as_slice` and `as_mut_slice`.
unsafe impl Send for HugeBytes {}
// SAFETY: as above.
unsafe impl Sync for HugeBytes {}

impl HugeBytes {
    /// `length` zero bytes.
    ///
    /// # Errors
    /// What the system says when it has no such memory.
    pub(crate) fn zeroed(length: usize) -> std::io::Result<Self> {
        if length == 0 {
            return Ok(Self { start: NonNull::dangling(), length });
        }
        // SAFETY: a new private mapping at an address of the system's choice touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        #[cfg(target_os = "linux")]
        // SAFETY: the range is the mapping made above. Refusal is no error: the pages are small then.
        unsafe {
            libc::madvise(start, length, libc::MADV_HUGEPAGE);
        }
        let start = NonNull::new(start.cast()).ok_or_else(std::io::Error::last_os_error)?;
        Ok(Self { start, length })
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` begins `length` readable, initialised (zeroed or written) bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for HugeBytes {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: the mapping was made with this start and length, and no borrow of it outlives `self`.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
        }
    }
}
