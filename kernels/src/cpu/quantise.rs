//! k-means steps and PQ encoding: nearest-centroid searches by blocked products.

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::{CpuRows, row, tiles};
use crate::backend::KMeansStep;
use crate::dispatch_rows;
use crate::distance::Isa;
use crate::element::Element;
use crate::pq::{CodeBits, ProductQuantizer};

/// Rows of one product. Fixed, so that results do not depend on threads.
const POINT_TILE: usize = 256;

pub(super) fn kmeans_step(points: &CpuRows, centroids: ArrayView2<'_, f32>) -> KMeansStep {
    dispatch_rows!(points.rows.view(), v => typed_step(points, &v, centroids))
}

fn typed_step<T: Element>(points: &CpuRows, rows: &ArrayView2<'_, T>, centroids: ArrayView2<'_, f32>) -> KMeansStep {
    let (n, dim, nlist) = (rows.nrows(), rows.ncols(), centroids.nrows());
    let flat: Vec<f32> = centroids.iter().copied().collect();
    let centroid_squares: Vec<f32> = flat.chunks_exact(dim).map(squares).collect();
    let scale = |i: usize| points.inverse_norm(i);
    let (mut assignments, mut distances) = (vec![0u32; n], vec![0f32; n]);
    assignments.par_chunks_mut(POINT_TILE).zip(distances.par_chunks_mut(POINT_TILE)).enumerate().for_each_init(
        || (Vec::new(), Vec::new()),
        |(tile, products), (block, (assignments, distances))| {
            let first = block * POINT_TILE;
            tiles::widen(rows, first, assignments.len(), scale, tile);
            tiles::dot_products(tile, &flat, dim, products);
            for (i, dots) in products.chunks_exact(nlist).enumerate() {
                let (best, score) = argmin(dots, &centroid_squares);
                assignments[i] = best as u32;
                distances[i] = (score + squares(&tile[i * dim..(i + 1) * dim])).max(0.0);
            }
        },
    );

    // Points grouped by centroid, in row order: every sum has one order, whatever the threads.
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); nlist];
    for (i, &c) in assignments.iter().enumerate() {
        members[c as usize].push(i as u32);
    }
    let mut sums = Array2::<f64>::zeros((nlist, dim));
    let flat_sums = sums.as_slice_mut().expect("a fresh matrix is contiguous");
    flat_sums.par_chunks_mut(dim).zip(&members).for_each(|(sum, members)| {
        for &i in members {
            let factor = scale(i as usize);
            for (sum, x) in sum.iter_mut().zip(row(rows, i as usize)) {
                *sum += f64::from(x.to_f32() * factor);
            }
        }
    });
    let counts = members.iter().map(|m| m.len() as u64).collect();
    KMeansStep { assignments, distances, sums, counts }
}

/// |x|^2, summed in f64: one long f32 sum would drown the differences that argmin looks at.
fn squares(x: &[f32]) -> f32 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() as f32
}

/// Position and value of the smallest |c|^2 - 2 x.c, ties to the lower position.
fn argmin(dots: &[f32], squares: &[f32]) -> (usize, f32) {
    let mut best = (0, f32::INFINITY);
    for (c, (dot, square)) in dots.iter().zip(squares).enumerate() {
        let score = square - 2.0 * dot;
        if score < best.1 {
            best = (c, score);
        }
    }
    best
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
    let transposed: Vec<Vec<f32>> = (0..pq.m()).map(|sub| transpose(pq.subspace_centroids(sub), pq.subspace(sub).len())).collect();
    let nearest = nearest_function(isa);
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
                    let chosen = nearest(&x[pq.subspace(sub)], centroids, scores);
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

type Nearest = fn(&[f32], &[f32], &mut [f32]) -> usize;

/// The nearest centroid of a sub-vector, compiled for the instruction set at hand.
fn nearest_function(isa: Isa) -> Nearest {
    match isa.name() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` of this name exists only where its features were probed.
        "avx512" => |x, centroids, scores| unsafe { nearest_avx512(x, centroids, scores) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        "avx2" => |x, centroids, scores| unsafe { nearest_avx2(x, centroids, scores) },
        _ => nearest_centroid,
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
    let smallest = scores.iter().copied().fold(f32::INFINITY, |a, b| if b < a { b } else { a });
    scores.iter().position(|&s| s == smallest).unwrap_or(0)
}
