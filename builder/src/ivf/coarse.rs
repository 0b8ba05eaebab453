//! The coarse quantiser: which lists a query probes.
//!
//! In: queries as f32, nprobe. Out: for each query the nearest centroids with their ordering distances, ascending by
//! (distance, list). Where the index has a navigation graph it is walked. Else all centroids are scored by exact byte
//! products on eight-bit codes, several queries at a time; the best of them, with a margin, are scored again in f32. The
//! byte products do not depend on how queries are grouped, so neither does the answer.

use kiln_kernels::codec::Shortlist;
use kiln_kernels::codec::bytes::{ByteProbe, ByteScan, pack};
use kiln_kernels::codec::fastscan::{BLOCK, BLOCKS, FACTOR_BYTES, QUERIES, Scores};
use kiln_kernels::codec::sq8::{Sq8, Sq8Query};
use kiln_kernels::distance::{Isa, Kernels, RowKernel};
use kiln_kernels::{Metric, Scored};
use ndarray::Array2;

use super::nav::Navigation;
use crate::vamana::walk::Walk;

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
    /// Walked in place of the scan, where the index has it.
    graph: Option<Navigation>,
}

/// Working memory.
#[derive(Default)]
pub(crate) struct CoarseScratch {
    queries: Vec<Sq8Query>,
    shortlists: Vec<Shortlist>,
    scores: Scores,
    walk: Walk,
}

impl Coarse {
    pub(crate) fn new(centroids: Array2<f32>, metric: Metric, graph: Option<Navigation>) -> Self {
        let sq8 = Sq8::train(centroids.view());
        let (nlist, dim) = centroids.dim();
        // What is not scanned takes no memory.
        let scanned = if graph.is_some() { 0 } else { nlist.div_ceil(BLOCK) };
        let mut blocks = vec![0u8; scanned * sq8.block_bytes()];
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
        Self { centroids, metric, kernel: f32::same(isa), sq8, scan: ByteScan::new(isa), blocks, graph }
    }

    pub(crate) fn nlist(&self) -> usize {
        self.centroids.nrows()
    }

    /// Bytes held in memory.
    pub(crate) fn bytes(&self) -> u64 {
        (4 * self.centroids.len() + self.blocks.len()) as u64 + self.graph.as_ref().map_or(0, Navigation::bytes)
    }

    /// The `nprobe` nearest centroids of each of `queries`, each (dim).
    pub(crate) fn probes(&self, queries: &[Vec<f32>], nprobe: usize, scratch: &mut CoarseScratch) -> Vec<Vec<Scored>> {
        let nprobe = nprobe.clamp(1, self.nlist());
        let keep = (nprobe + nprobe / 4 + MARGIN).min(self.nlist());
        if keep == self.nlist() {
            return queries.iter().map(|query| self.nearest(query, nprobe, 0..self.nlist() as u32)).collect();
        }
        if let Some(graph) = &self.graph {
            let walked = |query: &Vec<f32>| {
                let found = graph.nearest(keep, |list| self.distance(query, list), &mut scratch.walk);
                smallest(found.to_vec(), nprobe)
            };
            return queries.iter().map(walked).collect();
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
        smallest(lists.map(|id| Scored { distance: self.distance(query, id), id }).collect(), nprobe)
    }

    /// Ordering distance to a centroid.
    #[inline(always)]
    fn distance(&self, query: &[f32], list: u32) -> f32 {
        let dim = self.centroids.ncols();
        let flat = self.centroids.as_slice().expect("centroids are contiguous by construction");
        let centroid = &flat[list as usize * dim..][..dim];
        match self.metric {
            Metric::L2 | Metric::Cosine => (self.kernel.l2_squared)(query, centroid),
            Metric::InnerProduct => -(self.kernel.dot)(query, centroid),
        }
    }
}

/// The `count` smallest, ascending.
fn smallest(mut scored: Vec<Scored>, count: usize) -> Vec<Scored> {
    if count < scored.len() {
        scored.select_nth_unstable(count);
        scored.truncate(count);
    }
    scored.sort_unstable();
    scored
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(n: usize, shift: usize) -> Array2<f32> {
        Array2::from_shape_fn((n, 6), |(i, j)| (((i + shift) * (31 + 7 * j)) % 103) as f32 - 40.0)
    }

    #[test]
    fn probes_are_the_nearest_whatever_the_company() {
        let queries: Vec<Vec<f32>> = points(11, 500).outer_iter().map(|row| row.to_vec()).collect();
        for metric in [Metric::L2, Metric::InnerProduct] {
            let coarse = Coarse::new(points(400, 0), metric, None);
            let mut scratch = CoarseScratch::default();
            for nprobe in [1, 7, 64, 390, 1000] {
                let together = coarse.probes(&queries, nprobe, &mut scratch);
                for (query, probes) in queries.iter().zip(&together) {
                    assert_eq!(&coarse.probes(std::slice::from_ref(query), nprobe, &mut scratch)[0], probes);
                    assert_eq!(&coarse.nearest(query, nprobe.min(400), 0..400), probes, "{metric}, nprobe {nprobe}");
                }
            }
        }
    }

    #[test]
    fn walking_finds_what_scanning_does() {
        let queries: Vec<Vec<f32>> = points(40, 500).outer_iter().map(|row| row.to_vec()).collect();
        let graph = Navigation::build(&points(400, 0), Metric::L2, 1);
        let [scan, walk] = [None, Some(graph)].map(|graph| Coarse::new(points(400, 0), Metric::L2, graph));
        let mut scratch = CoarseScratch::default();
        let [exact, found] = [&scan, &walk].map(|coarse| coarse.probes(&queries, 10, &mut scratch));
        let shared = exact.iter().zip(&found).map(|(e, f)| e.iter().filter(|hit| f.contains(hit)).count());
        assert!(shared.sum::<usize>() >= 380);
        assert!(walk.bytes() < scan.bytes() + 400 * 4 * 33);
    }
}
