//! Reading holds the rows asked for and a bounded buffer, whatever the size of the file. One test, alone in its
//! process: the counter sees every allocation.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_datasets::{Content, MemorySource, convert, gather_rows, open_rows};
use kiln_kernels::{DType, NoProgress, Rows};

/// The promise of `RowSource`.
const BUFFER_BYTES: usize = 8 << 20;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counting what is held.
struct Counting;

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most that `work` holds above what was held before it.
fn peak_of<T>(work: impl FnOnce() -> T) -> usize {
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = work();
    let peak = PEAK.load(Ordering::Relaxed);
    drop(result);
    peak - before
}

#[test]
fn reading_holds_the_rows_asked_for_and_a_bounded_buffer() {
    const ROWS: usize = 200_000;
    const DIM: usize = 64;
    let dir = tempfile::tempdir().unwrap();
    for (name, dtype) in [
        ("x.fbin", DType::F32),
        ("x.fvecs", DType::F32),
        ("x.u8bin", DType::U8),
        ("x.bvecs", DType::U8),
        ("x.npy", DType::F32),
        // What HDF5 itself holds is not seen here; its chunk cache is set to 8 MiB.
        ("x.hdf5", DType::F32),
    ] {
        let path = dir.path().join(name);
        write(&path, Rows::zeros(dtype, ROWS, DIM));
        let opened = peak_of(|| open_rows(&path).unwrap());
        assert!(opened <= 1 << 20, "{name}: opening held {opened} bytes");
        let source = open_rows(&path).unwrap();
        for rows in [1, 1_000, ROWS] {
            let wanted = rows * DIM * dtype.bytes();
            let held = peak_of(|| source.read(0..rows as u64).unwrap());
            assert!(held <= wanted + BUFFER_BYTES, "{name}: {held} bytes held to read {wanted}");
        }
        let ids: Vec<u64> = (0..ROWS as u64).step_by(500).collect();
        let wanted = ids.len() * DIM * dtype.bytes();
        let held = peak_of(|| gather_rows(source.as_ref(), &ids).unwrap());
        assert!(held <= wanted + 2 * BUFFER_BYTES, "{name}: {held} bytes held to gather {wanted}");
        let copy = dir.path().join("copy.npy");
        let held = peak_of(|| convert(&Content::rows(source.as_ref()), &copy, &NoProgress).unwrap());
        assert!(held <= 3 * BUFFER_BYTES, "{name}: {held} bytes held to convert");
    }
}

fn write(path: &Path, rows: Rows) {
    convert(&Content::rows(&MemorySource::new(rows, "zeros")), path, &NoProgress).unwrap();
}
