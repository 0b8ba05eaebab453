//! k-means steps and PQ encoding: nearest-centroid searches by blocked products.

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::{CpuRows, row, tiles};
use crate::backend::{KMeansStep, Lists};
use crate::dispatch_rows;
use crate::distance::{Isa, Level};
use crate::element::Element;
use crate::pq::{CodeBits, ProductQuantizer};
use crate::tree::{CentroidTree, TREE_TILE, TreeScratch};

/// Rows of one product.
const POINT_TILE: usize = crate::kmeans::ROWS_AT_A_TIME;

/// Centroids of one product: its results then stay in cache until the smallest are found.
const CENTROID_TILE: usize = 1024;

/// Below this many coordinates a product has too little to do: centroids are scored coordinate by coordinate.
const NARROW: usize = 16;

pub(super) fn kmeans_step(points: &CpuRows, centroids: ArrayView2<'_, f32>, isa: Isa) -> KMeansStep {
    dispatch_rows!(points.rows.view(), v => {
        let nearest = among_all(points, &v, centroids, isa);
        with_sums(points, &v, centroids.nrows(), nearest)
    })
}

pub(super) fn kmeans_step_among(points: &CpuRows, tree: &CentroidTree, isa: Isa) -> KMeansStep {
    if !tree.is_grouped() {
        return kmeans_step(points, tree.centroids().view(), isa);
    }
    dispatch_rows!(points.rows.view(), v => {
        let nearest = through_tree(points, &v, tree, isa);
        with_sums(points, &v, tree.centroids().nrows(), nearest)
    })
}

/// Of each point the nearest centroid, and its distance.
type Assigned = (Vec<u32>, Vec<f32>);

/// Assigns by scoring every centroid.
fn among_all<T: Element>(
    points: &CpuRows,
    rows: &ArrayView2<'_, T>,
    centroids: ArrayView2<'_, f32>,
    isa: Isa,
) -> Assigned {
    let (n, dim, nlist) = (rows.nrows(), rows.ncols(), centroids.nrows());
    let flat: Vec<f32> = centroids.iter().copied().collect();
    let scale = |i: usize| points.inverse_norm(i);
    let search = Search::new(isa);
    let (mut assignments, mut distances) = (vec![0u32; n], vec![0f32; n]);
    let tiles = assignments.par_chunks_mut(POINT_TILE).zip(distances.par_chunks_mut(POINT_TILE)).enumerate();
    if dim <= NARROW {
        let transposed = transpose(&flat, dim);
        tiles.for_each_init(
            || (Vec::new(), vec![0f32; nlist]),
            |(tile, scores), (block, (assignments, distances))| {
                tiles::widen(rows, block * POINT_TILE, assignments.len(), scale, tile);
                for (i, x) in tile.chunks_exact(dim).enumerate() {
                    let best = (search.nearest)(x, &transposed, scores);
                    (assignments[i], distances[i]) = (best as u32, scores[best]);
                }
            },
        );
    } else {
        let centroid_squares: Vec<f32> = flat.chunks_exact(dim).map(squares).collect();
        tiles.for_each_init(
            || (Vec::new(), Vec::new()),
            |(tile, products), (block, (assignments, distances))| {
                tiles::widen(rows, block * POINT_TILE, assignments.len(), scale, tile);
                distances.fill(f32::INFINITY);
                let some = flat.chunks(CENTROID_TILE * dim).zip(centroid_squares.chunks(CENTROID_TILE));
                for (at, (centroids, squares)) in some.enumerate() {
                    tiles::dot_products(tile, centroids, dim, products);
                    for (i, dots) in products.chunks_exact_mut(squares.len()).enumerate() {
                        let best = (search.argmin)(dots, squares);
                        // Ties go to the lower number.
                        if dots[best] < distances[i] {
                            (assignments[i], distances[i]) = ((at * CENTROID_TILE + best) as u32, dots[best]);
                        }
                    }
                }
                for (distance, x) in distances.iter_mut().zip(tile.chunks_exact(dim)) {
                    *distance = (*distance + squares(x)).max(0.0);
                }
            },
        );
    }
    (assignments, distances)
}

/// Assigns by scoring the centroids of the groups that lie near.
fn through_tree<T: Element>(points: &CpuRows, rows: &ArrayView2<'_, T>, tree: &CentroidTree, isa: Isa) -> Assigned {
    let (n, dim) = (rows.nrows(), rows.ncols());
    let (mut assignments, mut distances) = (vec![0u32; n], vec![0f32; n]);
    let tiles = assignments.par_chunks_mut(TREE_TILE).zip(distances.par_chunks_mut(TREE_TILE)).enumerate();
    tiles.for_each_init(
        || (Vec::new(), TreeScratch::default()),
        |(tile, scratch), (block, (assignments, distances))| {
            tiles::widen(rows, block * TREE_TILE, assignments.len(), |i| points.inverse_norm(i), tile);
            tree.nearest(tile, isa, scratch);
            let to = assignments.iter_mut().zip(distances.iter_mut());
            for ((to, &(score, number)), x) in to.zip(&scratch.nearest).zip(tile.chunks_exact(dim)) {
                (*to.0, *to.1) = (number, (score + squares(x)).max(0.0));
            }
        },
    );
    (assignments, distances)
}

/// The sums of the points of each of `nlist` centroids.
fn with_sums<T: Element>(points: &CpuRows, rows: &ArrayView2<'_, T>, nlist: usize, nearest: Assigned) -> KMeansStep {
    let (assignments, distances) = nearest;
    let dim = rows.ncols();
    // Points grouped by centroid, in row order: every sum has one order, whatever the threads.
    let members = Lists::grouped(&assignments, nlist);
    let mut sums = Array2::<f64>::zeros((nlist, dim));
    let flat_sums = sums.as_slice_mut().expect("a fresh matrix is contiguous");
    flat_sums.par_chunks_mut(dim).enumerate().for_each(|(list, sum)| {
        for &i in members.get(list) {
            let factor = points.inverse_norm(i as usize);
            for (sum, x) in sum.iter_mut().zip(row(rows, i as usize)) {
                *sum += f64::from(x.to_f32() * factor);
            }
        }
    });
    let counts = members.iter().map(|members| members.len() as u64).collect();
    KMeansStep { assignments, distances, sums, counts }
}

/// |x|^2, summed in f64: one long f32 sum would drown the differences that argmin looks at.
fn squares(x: &[f32]) -> f32 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() as f32
}

pub(super) fn pq_encode(
    rows: &CpuRows,
    residual_to: Option<(ArrayView2<'_, f32>, &[u32])>,
    pq: &ProductQuantizer,
    isa: Isa,
) -> Array2<u8> {
    dispatch_rows!(rows.rows.view(), v => typed_encode(rows, &v, residual_to, pq, isa))
}

fn typed_encode<T: Element>(
    points: &CpuRows,
    rows: &ArrayView2<'_, T>,
    residual_to: Option<(ArrayView2<'_, f32>, &[u32])>,
    pq: &ProductQuantizer,
    isa: Isa,
) -> Array2<u8> {
    let (n, dim, width) = (rows.nrows(), rows.ncols(), pq.code_bytes());
    let transposed: Vec<Vec<f32>> =
        (0..pq.m()).map(|sub| transpose(pq.subspace_centroids(sub), pq.subspace(sub).len())).collect();
    let search = Search::new(isa);
    let mut codes = Array2::<u8>::zeros((n, width));
    let flat = codes.as_slice_mut().expect("a fresh matrix is contiguous");
    flat.par_chunks_mut(width * POINT_TILE).enumerate().for_each_init(
        || (Vec::new(), Vec::new(), vec![0f32; pq.bits().centroids()]),
        |(tile, rotated, scores), (block, codes)| {
            let first = block * POINT_TILE;
            tiles::widen(rows, first, codes.len() / width, |i| points.inverse_norm(i), tile);
            if let Some((centroids, assignments)) = residual_to {
                for (x, &c) in tile.chunks_exact_mut(dim).zip(&assignments[first..]) {
                    x.iter_mut().zip(centroids.row(c as usize)).for_each(|(x, c)| *x -= c);
                }
            }
            let tile: &[f32] = match pq.rotation() {
                Some(rotation) => {
                    let rotation = rotation.as_slice().expect("rotations are contiguous by construction");
                    tiles::dot_products(tile, rotation, dim, rotated);
                    rotated
                }
                None => tile,
            };
            for (x, code) in tile.chunks_exact(dim).zip(codes.chunks_exact_mut(width)) {
                for (sub, centroids) in transposed.iter().enumerate() {
                    let chosen = (search.nearest)(&x[pq.subspace(sub)], centroids, scores);
                    match pq.bits() {
                        CodeBits::Eight => code[sub] = chosen as u8,
                        CodeBits::Four => code[sub / 2] |= (chosen as u8) << (4 * (sub % 2)),
                    }
                }
            }
        },
    );
    codes
}

/// `(centroids, width)` row-major to `(width, centroids)`, so that one coordinate of all centroids is contiguous.
fn transpose(centroids: &[f32], width: usize) -> Vec<f32> {
    let count = centroids.len() / width;
    (0..centroids.len()).map(|i| centroids[(i % count) * width + i / count]).collect()
}

/// Nearest-centroid searches, compiled for the instruction set at hand.
#[derive(Clone, Copy)]
struct Search {
    /// (vector, centroids `(width, count)`, scores `(count)`): position of the nearest; the scores are left behind.
    nearest: fn(&[f32], &[f32], &mut [f32]) -> usize,
    /// (dots `(count)`, |c|^2 `(count)`): position of the smallest |c|^2 - 2 x.c; these are left in `dots`.
    argmin: fn(&mut [f32], &[f32]) -> usize,
}

impl Search {
    fn new(isa: Isa) -> Self {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Self {
                // SAFETY: an `Isa` of this level exists only where its features were probed.
                nearest: |x, centroids, scores| unsafe { nearest_avx512(x, centroids, scores) },
                // SAFETY: as above.
                argmin: |dots, squares| unsafe { argmin_avx512(dots, squares) },
            },
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Self {
                // SAFETY: an `Isa` of this level exists only where its features were probed.
                nearest: |x, centroids, scores| unsafe { nearest_avx2(x, centroids, scores) },
                // SAFETY: as above.
                argmin: |dots, squares| unsafe { argmin_avx2(dots, squares) },
            },
            _ => Self { nearest: nearest_centroid, argmin: argmin_product },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn nearest_avx512(x: &[f32], centroids: &[f32], scores: &mut [f32]) -> usize {
    nearest_centroid(x, centroids, scores)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn nearest_avx2(x: &[f32], centroids: &[f32], scores: &mut [f32]) -> usize {
    nearest_centroid(x, centroids, scores)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn argmin_avx512(dots: &mut [f32], squares: &[f32]) -> usize {
    argmin_product(dots, squares)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn argmin_avx2(dots: &mut [f32], squares: &[f32]) -> usize {
    argmin_product(dots, squares)
}

/// Scores all centroids coordinate by coordinate (loops that vectorise), then takes the first smallest.
#[inline(always)]
fn nearest_centroid(x: &[f32], centroids: &[f32], scores: &mut [f32]) -> usize {
    scores.fill(0.0);
    for (&x, coordinate) in x.iter().zip(centroids.chunks_exact(scores.len())) {
        for (score, c) in scores.iter_mut().zip(coordinate) {
            let d = x - c;
            *score += d * d;
        }
    }
    first_smallest(scores)
}

#[inline(always)]
fn argmin_product(dots: &mut [f32], squares: &[f32]) -> usize {
    for (dot, square) in dots.iter_mut().zip(squares) {
        *dot = square - 2.0 * *dot;
    }
    first_smallest(dots)
}

/// Ties go to the lower position.
#[inline(always)]
fn first_smallest(scores: &[f32]) -> usize {
    const LANES: usize = 16;
    let (blocks, rest) = scores.as_chunks::<LANES>();
    let mut least = [f32::INFINITY; LANES];
    for block in blocks {
        for (least, &score) in least.iter_mut().zip(block) {
            *least = if score < *least { score } else { *least };
        }
    }
    let smallest = least.iter().chain(rest).copied().fold(f32::INFINITY, f32::min);
    scores.iter().position(|&score| score == smallest).unwrap_or(0)
}
