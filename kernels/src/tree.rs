//! Nearest centroids among thousands: a tree of two levels.
//!
//! In: centroids `(nlist, dim)`. Out: for a vector its nearest centroid, or one about as near. Centroids are grouped around
//! heads, about 64 of them each; a vector is scored against all heads, and against the centroids of its eight nearest. That is
//! `nlist / 64 + 512` scores in place of `nlist`: what assigning a row costs then hardly depends on how many lists there are. A
//! score does not depend on what else is scored beside it.

use std::sync::Arc;

use ndarray::Array2;

use crate::backend::{Backend, BackendError, Lists};
use crate::cpu::CpuBackend;
use crate::distance::{Isa, Level};
use crate::kmeans::{BalancedParams, balanced};
use crate::metric::Metric;
use crate::progress::NoProgress;
use crate::rows::Rows;

/// Centroids from which on there is a second level. Below, a dense product with all of them is as fast.
const GROUPED_FROM: usize = 2048;

/// Centroids of a group, about.
const GROUP: usize = 64;

/// Groups that are looked into. With 8, recall of photosift's 8,192 lists is that of assigning and training by all centroids
/// (`docs/performance.md`).
const PROBED: usize = 8;

/// Lloyd iterations by which heads are placed.
const ITERATIONS: usize = 4;

/// Vectors whose groups are looked into at a time: enough of them to a group that its centroids are read for many.
pub const TREE_TILE: usize = 1024;

/// Centroids that are scored at a time.
const LANES: usize = 32;

/// Vectors that are scored at a time.
const TOGETHER: usize = 4;

/// Centroids, and where there are many their groups.
#[derive(Debug, Clone)]
pub struct CentroidTree {
    centroids: Array2<f32>,
    levels: Option<Levels>,
}

#[derive(Debug, Clone)]
struct Levels {
    heads: Packed,
    groups: Vec<Packed>,
}

/// Centroids that are scored together, [`LANES`] at a time.
#[derive(Debug, Clone)]
struct Packed {
    /// Numbers, ascending, one for each lane that is used.
    numbers: Vec<u32>,
    /// `(blocks, dim, LANES)`: one coordinate of all lanes is contiguous.
    coordinates: Vec<f32>,
    /// Squared lengths `(blocks, LANES)`, infinite in lanes that are not used.
    squares: Vec<f32>,
}

/// A nearest centroid: |c|^2 - 2 x.c, which orders as the distance does, and its number.
type Nearest = (f32, u32);

const NONE: Nearest = (f32::INFINITY, u32::MAX);

impl CentroidTree {
    /// Groups `centroids` `(nlist, dim)`. Equal centroids are grouped equally.
    ///
    /// # Errors
    /// Centroids that are not finite.
    pub fn new(centroids: Array2<f32>) -> Result<Self, BackendError> {
        let levels = (centroids.nrows() >= GROUPED_FROM).then(|| Levels::new(&centroids)).transpose()?;
        Ok(Self { centroids, levels })
    }

    /// All centroids `(nlist, dim)`.
    pub fn centroids(&self) -> &Array2<f32> {
        &self.centroids
    }

    /// Whether there are groups. Without, all centroids are looked at.
    pub(crate) fn is_grouped(&self) -> bool {
        self.levels.is_some()
    }

    /// Centroids that a vector is scored against, of so many: what assigning one costs.
    pub fn scores(nlist: usize) -> usize {
        if nlist < GROUPED_FROM { nlist } else { nlist.div_ceil(GROUP) + PROBED * GROUP }
    }

    /// Bytes that a tree of so many centroids takes at most, about.
    pub fn bytes(nlist: usize, dim: usize) -> u64 {
        let rows = if nlist < GROUPED_FROM { nlist } else { 3 * nlist };
        4 * (rows * (dim + 2)) as u64
    }

    /// The centroid nearest to each of `vectors` `(n, dim)`, flat, where there are groups: score and number.
    pub(crate) fn nearest(&self, vectors: &[f32], isa: Isa, scratch: &mut TreeScratch) {
        let levels = self.levels.as_ref().expect("callers ask whether there are groups");
        levels.nearest(vectors, self.centroids.ncols(), isa, scratch);
    }
}

/// Working memory of a thread, and what it found.
#[derive(Default)]
pub(crate) struct TreeScratch {
    /// Of each vector the nearest centroid.
    pub nearest: Vec<Nearest>,
    /// Groups that each vector looks into, and the vectors of each group.
    probes: Vec<u32>,
    visitors: Lists<u32>,
}

impl Levels {
    fn new(centroids: &Array2<f32>) -> Result<Self, BackendError> {
        let backend = CpuBackend::new();
        let params = BalancedParams { nlist: centroids.nrows().div_ceil(GROUP), iterations: ITERATIONS, seed: 0 };
        let rows = Arc::new(Rows::F32(centroids.clone()));
        let heads = balanced(&backend, &rows, Metric::L2, params, &NoProgress)?;
        let resident = backend.upload(rows, Metric::L2)?;
        let assignments = backend.kmeans_step(&resident, heads.view())?.assignments;
        let groups = Lists::grouped(&assignments, heads.nrows());
        let all: Vec<u32> = (0..heads.nrows() as u32).collect();
        let groups = groups.iter().map(|members| Packed::new(centroids, members)).collect();
        Ok(Self { heads: Packed::new(&heads, &all), groups })
    }

    fn nearest(&self, vectors: &[f32], dim: usize, isa: Isa, scratch: &mut TreeScratch) {
        let score = kernel(isa);
        let count = vectors.len() / dim;
        let vector = |i: u32| &vectors[i as usize * dim..][..dim];
        let probed = PROBED.min(self.groups.len());
        scratch.probes.clear();
        for first in (0..count as u32).step_by(TOGETHER) {
            let together = first..count.min(first as usize + TOGETHER) as u32;
            let mut heads = [[NONE; PROBED]; TOGETHER];
            self.heads.each(together.clone().map(vector), score, |of, scores, squares, numbers| {
                for ((dot, square), &number) in scores.iter().zip(squares).zip(numbers) {
                    let found = (square - 2.0 * dot, number);
                    if found < heads[of][PROBED - 1] {
                        let at = heads[of].partition_point(|other| *other < found);
                        heads[of].copy_within(at..PROBED - 1, at + 1);
                        heads[of][at] = found;
                    }
                }
            });
            let found = heads.iter().take(together.len()).flat_map(|heads| &heads[..probed]);
            scratch.probes.extend(found.map(|&(_, group)| group));
        }

        scratch.nearest.clear();
        scratch.nearest.resize(count, NONE);
        scratch.visitors = Lists::grouped(&scratch.probes, self.groups.len());
        for (group, probes) in self.groups.iter().zip(scratch.visitors.iter()) {
            for some in probes.chunks(TOGETHER) {
                let of_probe = |probe: u32| probe / probed as u32;
                let visitors = some.iter().map(|&probe| vector(of_probe(probe)));
                group.each(visitors, score, |of, scores, squares, numbers| {
                    let best = &mut scratch.nearest[of_probe(some[of]) as usize];
                    for ((dot, square), &number) in scores.iter().zip(squares).zip(numbers) {
                        let found = (square - 2.0 * dot, number);
                        if found < *best {
                            *best = found;
                        }
                    }
                });
            }
        }
    }
}

impl Packed {
    /// The rows `numbers` of `centroids`.
    fn new(centroids: &Array2<f32>, numbers: &[u32]) -> Self {
        let dim = centroids.ncols();
        let lanes = numbers.len().next_multiple_of(LANES);
        let mut coordinates = vec![0f32; lanes * dim];
        let mut squares = vec![f32::INFINITY; lanes];
        for (lane, &number) in numbers.iter().enumerate() {
            let row = centroids.row(number as usize);
            let block = &mut coordinates[lane / LANES * LANES * dim..];
            row.iter().enumerate().for_each(|(d, &x)| block[d * LANES + lane % LANES] = x);
            squares[lane] = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() as f32;
        }
        Self { numbers: numbers.to_vec(), coordinates, squares }
    }

    /// Hands over, for each of up to [`TOGETHER`] vectors and each block: the vector's place, its products with the
    /// block's lanes, their squared lengths, and the numbers of those lanes that are used.
    #[inline(always)]
    fn each<'a>(
        &self,
        mut vectors: impl ExactSizeIterator<Item = &'a [f32]>,
        score: Score,
        mut take: impl FnMut(usize, &[f32; LANES], &[f32], &[u32]),
    ) {
        let count = vectors.len();
        let Some(first) = vectors.next() else { return };
        let mut together = [first; TOGETHER];
        together[1..].iter_mut().zip(vectors).for_each(|(place, vector)| *place = vector);
        let blocks = self.coordinates.chunks_exact(LANES * first.len()).zip(self.squares.chunks_exact(LANES));
        for ((coordinates, squares), numbers) in blocks.zip(self.numbers.chunks(LANES)) {
            let mut dots = [[0f32; LANES]; TOGETHER];
            score(&together, coordinates, &mut dots);
            for (of, dots) in dots.iter().enumerate().take(count) {
                take(of, dots, squares, numbers);
            }
        }
    }
}

/// (vectors, block `(dim, LANES)`, products).
type Score = fn(&[&[f32]; TOGETHER], &[f32], &mut [[f32; LANES]; TOGETHER]);

fn kernel(isa: Isa) -> Score {
    match isa.0 {
        // SAFETY: an `Isa` of this level exists only where its features were probed.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => |vectors, block, dots| unsafe { score_avx512(vectors, block, dots) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => |vectors, block, dots| unsafe { score_avx2(vectors, block, dots) },
        _ => |vectors, block, dots| score(vectors, block, dots, |x, c, sum| x * c + sum),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,fma")]
fn score_avx512(vectors: &[&[f32]; TOGETHER], block: &[f32], dots: &mut [[f32; LANES]; TOGETHER]) {
    score(vectors, block, dots, f32::mul_add);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn score_avx2(vectors: &[&[f32]; TOGETHER], block: &[f32], dots: &mut [[f32; LANES]; TOGETHER]) {
    score(vectors, block, dots, f32::mul_add);
}

/// Products of each vector with each lane: coordinate after coordinate, so that each has one order of operations.
#[inline(always)]
fn score(
    vectors: &[&[f32]; TOGETHER],
    block: &[f32],
    dots: &mut [[f32; LANES]; TOGETHER],
    mul_add: impl Fn(f32, f32, f32) -> f32,
) {
    let mut sums = [[0f32; LANES]; TOGETHER];
    for (d, lanes) in block.as_chunks::<LANES>().0.iter().enumerate() {
        for (sums, vector) in sums.iter_mut().zip(vectors) {
            let x = vector[d];
            for (sum, c) in sums.iter_mut().zip(lanes) {
                *sum = mul_add(x, *c, *sum);
            }
        }
    }
    *dots = sums;
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Points around 40 places.
    fn points(n: usize, dim: usize, seed: u64) -> Array2<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let place = |i: usize, d: usize| ((i * 7 + i % 40 * (d + 3)) % 40 * 5) as f32;
        Array2::from_shape_fn((n, dim), |(i, d)| place(i, d) + 12.0 * rng.random::<f32>())
    }

    fn nearest(tree: &CentroidTree, vectors: &Array2<f32>, isa: Isa) -> Vec<Nearest> {
        let mut scratch = TreeScratch::default();
        tree.nearest(vectors.as_slice().unwrap(), isa, &mut scratch);
        scratch.nearest
    }

    #[test]
    fn the_nearest_is_found_for_nearly_every_vector() {
        let (centroids, vectors) = (points(3000, 24, 1), points(2001, 24, 2));
        let tree = CentroidTree::new(centroids.clone()).unwrap();
        assert!(tree.is_grouped());
        let found = nearest(&tree, &vectors, Isa::best());
        let backend = CpuBackend::new();
        let resident = backend.upload(Arc::new(Rows::F32(vectors.clone())), Metric::L2).unwrap();
        let exact = backend.kmeans_step(&resident, centroids.view()).unwrap();
        let same = found.iter().zip(&exact.assignments).filter(|((_, found), exact)| found == *exact).count();
        assert!(same >= 1960, "{same} of 2001");
        for (i, &(score, number)) in found.iter().enumerate() {
            let (x, c) = (vectors.row(i), centroids.row(number as usize));
            let expected = c.dot(&c) - 2.0 * x.dot(&c);
            assert!((score - expected).abs() <= 1e-4 * c.dot(&c), "vector {i}: {score}, not {expected}");
        }
    }

    #[test]
    fn a_vector_s_centroid_does_not_depend_on_its_company() {
        let (centroids, vectors) = (points(2500, 19, 3), points(301, 19, 4));
        let tree = CentroidTree::new(centroids).unwrap();
        for isa in Isa::supported() {
            let together = nearest(&tree, &vectors, isa);
            for (first, count) in [(0, 1), (7, 3), (100, 201)] {
                let some = vectors.slice(ndarray::s![first..first + count, ..]).to_owned();
                assert_eq!(nearest(&tree, &some, isa), together[first..first + count], "{}", isa.name());
            }
        }
    }

    #[test]
    fn equal_centroids_give_the_lower_number() {
        let mut centroids = points(2100, 17, 5);
        let first = centroids.row(11).to_owned();
        for copy in [12, 500, 2099] {
            centroids.row_mut(copy).assign(&first);
        }
        let tree = CentroidTree::new(centroids).unwrap();
        let vectors = first.insert_axis(ndarray::Axis(0));
        assert_eq!(nearest(&tree, &vectors, Isa::best())[0].1, 11);
    }

    #[test]
    fn few_centroids_are_not_grouped() {
        assert!(!CentroidTree::new(points(GROUPED_FROM - 1, 17, 6)).unwrap().is_grouped());
    }
}
