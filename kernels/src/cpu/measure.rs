//! What the processor can do, measured in a few hundredths of a second: for the choice of a device and for `kiln devices`.

use std::time::Instant;

use rayon::prelude::*;

use super::CpuBackend;
use super::tiles::dot_products;

/// Bytes copied: more than the caches hold.
const COPIED: usize = 64 << 20;

/// Rows, columns and coordinates of the product that is timed.
const PRODUCT: (usize, usize, usize) = (2048, 1024, 256);

/// Rows that one thread multiplies at a time.
const ROWS_A_TILE: usize = 128;

/// The best of so many.
const ROUNDS: usize = 3;

impl CpuBackend {
    /// Bytes a second that a copy within memory moves on all threads (each is read once and written once).
    pub fn copy_bandwidth(&self) -> f64 {
        let (from, mut to) = (vec![1u8; COPIED], vec![0u8; COPIED]);
        let piece = COPIED.div_ceil(rayon::current_num_threads());
        let seconds = best(|| {
            to.par_chunks_mut(piece).zip(from.par_chunks(piece)).for_each(|(to, from)| to.copy_from_slice(from));
            std::hint::black_box(&to);
        });
        COPIED as f64 / seconds
    }

    /// Floating-point operations a second of products of f32 tiles on all threads, as exact search does them.
    pub fn matrix_rate(&self) -> f64 {
        let (rows, columns, depth) = PRODUCT;
        let (a, b) = (vec![0.5f32; rows * depth], vec![0.25f32; columns * depth]);
        let seconds = best(|| {
            a.par_chunks(ROWS_A_TILE * depth).for_each_init(Vec::new, |out, tile| {
                dot_products(tile, &b, depth, out);
                std::hint::black_box(&out);
            });
        });
        2.0 * (rows * columns * depth) as f64 / seconds
    }
}

/// Seconds of the fastest round; the first, which touches memory for the first time, does not count.
fn best(mut work: impl FnMut()) -> f64 {
    work();
    let round = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}
