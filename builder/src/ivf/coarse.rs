//! The coarse quantiser: which lists a query probes.
//!
//! In: queries as f32, nprobe. Out: for each query the nearest centroids with their ordering distances, ascending by
//! (distance, list). All centroids are scored by exact byte products on eight-bit codes, several queries at a time; the
//! best of them, with a margin, are scored again in f32. The byte products do not depend on how queries are grouped, so
//! neither does the answer.

use kiln_kernels::codec::Shortlist;
use kiln_kernels::codec::bytes::{ByteProbe, ByteScan, pack};
use kiln_kernels::codec::fastscan::{BLOCK, BLOCKS, FACTOR_BYTES, QUERIES, Scores};
use kiln_kernels::codec::sq8::{Sq8, Sq8Query};
use kiln_kernels::distance::{Isa, Kernels, RowKernel};
use kiln_kernels::{Metric, Scored};
use ndarray::Array2;

/// Centroids scored again beyond nprobe: a quarter more, and this many.
const MARGIN: usize = 16;

/// Blocks scored at a time: bounds fall from one time to the next.
const AT_ONCE: usize = 4;
const _: () = assert!(AT_ONCE <= BLOCKS);

/// The centroids of an index.
pub(crate) struct Coarse {
    centroids: Array2<f32>,
    metric: Metric,
    kernel: RowKernel<f32, f32>,
    sq8: Sq8,
    scan: ByteScan,
    /// Blocks of 32 centroids in bytes. Their factor is |c|^2 of the coded centroid (0 under inner product), infinite
    /// where there is none.
    blocks: Vec<u8>,
}

/// Working memory.
#[derive(Default)]
pub(crate) struct CoarseScratch {
    queries: Vec<Sq8Query>,
    shortlists: Vec<Shortlist>,
    scores: Scores,
}

impl Coarse {
    pub(crate) fn new(centroids: Array2<f32>, metric: Metric) -> Self {
        let sq8 = Sq8::train(centroids.view());
        let (nlist, dim) = centroids.dim();
        let mut blocks = vec![0u8; nlist.div_ceil(BLOCK) * sq8.block_bytes()];
        for (block, bytes) in blocks.chunks_exact_mut(sq8.block_bytes()).enumerate() {
            let first = block * BLOCK;
            let rows = BLOCK.min(nlist - first);
            let code = |row: usize, d: usize| sq8.encode(d, centroids[(first + row, d)]);
            let (factors, codes) = bytes.split_at_mut(FACTOR_BYTES);
            pack(rows, dim, code, codes);
            for (row, factor) in factors.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let square = |d: usize| f64::from(sq8.decode(d, code(row, d))).powi(2);
                let add = match metric {
                    _ if row >= rows => f64::INFINITY,
                    Metric::L2 | Metric::Cosine => (0..dim).map(square).sum(),
                    Metric::InnerProduct => 0.0,
                };
                *factor = (add as f32).to_le_bytes();
            }
        }
        let isa = Isa::best();
        Self { centroids, metric, kernel: f32::same(isa), sq8, scan: ByteScan::new(isa), blocks }
    }

    pub(crate) fn nlist(&self) -> usize {
        self.centroids.nrows()
    }

    /// Bytes held in memory.
    pub(crate) fn bytes(&self) -> u64 {
        (4 * self.centroids.len() + self.blocks.len()) as u64
    }

    /// The `nprobe` nearest centroids of each of `queries`, each (dim).
    pub(crate) fn probes(&self, queries: &[Vec<f32>], nprobe: usize, scratch: &mut CoarseScratch) -> Vec<Vec<Scored>> {
        let nprobe = nprobe.clamp(1, self.nlist());
        let keep = (nprobe + nprobe / 4 + MARGIN).min(self.nlist());
        if keep == self.nlist() {
            return queries.iter().map(|query| self.nearest(query, nprobe, 0..self.nlist() as u32)).collect();
        }
        let mut probes = Vec::with_capacity(queries.len());
        for some in queries.chunks(QUERIES) {
            self.shortlist(some, keep, scratch);
            for (query, list) in some.iter().zip(&mut scratch.shortlists) {
                probes.push(self.nearest(query, nprobe, list.selected().map(|(_, id)| id)));
            }
        }
        probes
    }

    /// The `keep` best centroids of up to [`QUERIES`] queries by bytes.
    fn shortlist(&self, queries: &[Vec<f32>], keep: usize, scratch: &mut CoarseScratch) {
        let factor = if self.metric == Metric::InnerProduct { -1.0 } else { -2.0 };
        scratch.queries.resize_with(queries.len(), Sq8Query::default);
        scratch.shortlists.resize_with(queries.len(), Shortlist::default);
        for ((query, prepared), list) in queries.iter().zip(&mut scratch.queries).zip(&mut scratch.shortlists) {
            self.sq8.prepare(query, factor, prepared);
            list.reset(keep, 0);
        }
        let stride = self.sq8.block_bytes();
        for (chunk, blocks) in self.blocks.chunks(AT_ONCE * stride).enumerate() {
            let mut probes = [ByteProbe { weights: &[], base: 0.0, scale: 0.0, bound: 0.0 }; QUERIES];
            for ((probe, query), list) in probes.iter_mut().zip(&scratch.queries).zip(&scratch.shortlists) {
                let (base, scale, bound) = (query.bias, query.scale, list.bound());
                *probe = ByteProbe { weights: &query.weights, base, scale, bound };
            }
            self.scan.score(&probes[..queries.len()], self.sq8.groups(), blocks, &mut scratch.scores);
            for (q, list) in scratch.shortlists.iter_mut().enumerate() {
                for number in 0..blocks.len() / stride {
                    let mut mask = scratch.scores.masks[q][number];
                    while mask != 0 {
                        let row = mask.trailing_zeros() as usize;
                        let id = (chunk * AT_ONCE + number) * BLOCK + row;
                        if id < self.nlist() {
                            list.push(scratch.scores.scores[q][number][row], id as u32);
                        }
                        mask &= mask - 1;
                    }
                }
            }
        }
    }

    /// The `nprobe` nearest of some centroids, by f32.
    fn nearest(&self, query: &[f32], nprobe: usize, lists: impl Iterator<Item = u32>) -> Vec<Scored> {
        let dim = self.centroids.ncols();
        let flat = self.centroids.as_slice().expect("centroids are contiguous by construction");
        let distance = |list: u32| {
            let centroid = &flat[list as usize * dim..][..dim];
            match self.metric {
                Metric::L2 | Metric::Cosine => (self.kernel.l2_squared)(query, centroid),
                Metric::InnerProduct => -(self.kernel.dot)(query, centroid),
            }
        };
        let mut scored: Vec<Scored> = lists.map(|id| Scored { distance: distance(id), id }).collect();
        if nprobe < scored.len() {
            scored.select_nth_unstable(nprobe);
            scored.truncate(nprobe);
        }
        scored.sort_unstable();
        scored
    }
}
