//! Look-up tables: a term for each coordinate of each centroid, summed over a sub-space.
//!
//! In: a quantiser, a query. Out: `(m, centroids)` flat. Each entry is one sum in the order of the coordinates, so that
//! tables are bit-identical on every instruction set.

use super::ProductQuantizer;
#[cfg(target_arch = "x86_64")]
use crate::distance::{Isa, Level};

/// The table of `query` (dim, already rotated).
pub(super) fn table(pq: &ProductQuantizer, query: &[f32], term: impl Fn(f32, f32) -> f32 + Copy) -> Vec<f32> {
    let mut table = vec![0.0; pq.m * pq.bits.centroids()];
    #[cfg(target_arch = "x86_64")]
    match Isa::best().0 {
        // SAFETY: an `Isa` is proof that its instructions are available.
        Level::Avx512 => unsafe { fill_avx512(pq, query, term, &mut table) },
        // SAFETY: as above.
        Level::Avx2 => unsafe { fill_avx2(pq, query, term, &mut table) },
        Level::Scalar => fill(pq, query, term, &mut table),
    }
    #[cfg(not(target_arch = "x86_64"))]
    fill(pq, query, term, &mut table);
    table
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn fill_avx512(pq: &ProductQuantizer, query: &[f32], term: impl Fn(f32, f32) -> f32 + Copy, table: &mut [f32]) {
    fill(pq, query, term, table);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn fill_avx2(pq: &ProductQuantizer, query: &[f32], term: impl Fn(f32, f32) -> f32 + Copy, table: &mut [f32]) {
    fill(pq, query, term, table);
}

/// Fills a table, sub-space by sub-space. Compiled once for each instruction set that calls it.
#[inline(always)]
fn fill(pq: &ProductQuantizer, query: &[f32], term: impl Fn(f32, f32) -> f32 + Copy, table: &mut [f32]) {
    for (sub, entries) in table.chunks_exact_mut(pq.bits.centroids()).enumerate() {
        let (q, centroids) = (&query[pq.subspace(sub)], pq.subspace_centroids(sub));
        match q.len() {
            // Widths that a compiler knows it also vectorises, over centroids.
            2 => entries_of::<2>(q, centroids, term, entries),
            3 => entries_of::<3>(q, centroids, term, entries),
            4 => entries_of::<4>(q, centroids, term, entries),
            8 => entries_of::<8>(q, centroids, term, entries),
            _ => {
                for (entry, c) in entries.iter_mut().zip(centroids.chunks_exact(q.len())) {
                    *entry = q.iter().zip(c).map(|(&q, &c)| term(q, c)).sum();
                }
            }
        }
    }
}

#[inline(always)]
fn entries_of<const WIDTH: usize>(q: &[f32], centroids: &[f32], term: impl Fn(f32, f32) -> f32, entries: &mut [f32]) {
    let q: [f32; WIDTH] = q.try_into().expect("the width was matched");
    for (entry, c) in entries.iter_mut().zip(centroids.as_chunks::<WIDTH>().0) {
        let mut sum = -0.0;
        for i in 0..WIDTH {
            sum += term(q[i], c[i]);
        }
        *entry = sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pq::{CodeBits, subspace};

    #[test]
    fn entries_are_sums_in_the_order_of_the_coordinates() {
        for (dim, m) in [(4, 4), (6, 3), (11, 3), (16, 4), (24, 3), (25, 3), (40, 4)] {
            let number = |i: usize| ((i * i + 5) % 1013) as f32 / 100.0 - 5.0;
            let centroids = (0..16 * dim).map(number).collect();
            let pq = ProductQuantizer { dim, m, bits: CodeBits::Four, rotation: None, centroids };
            let query: Vec<f32> = (7..7 + dim).map(number).collect();
            let mut plainly = Vec::new();
            for sub in 0..m {
                let q = &query[subspace(dim, m, sub)];
                for c in pq.subspace_centroids(sub).chunks_exact(q.len()) {
                    plainly.push(q.iter().zip(c).map(|(q, c)| (q - c) * (q - c)).sum::<f32>());
                }
            }
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
            assert_eq!(bits(&pq.l2_table(&query)), bits(&plainly), "dim {dim}, m {m}");
        }
    }
}
