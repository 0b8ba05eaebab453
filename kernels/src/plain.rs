//! The slow, obvious twin of every stage: one thread, f64 sums, no blocking.
//!
//! Nothing here is fast or meant to be; it is what "correct" means in the conformance suite.

mod graph;

use ndarray::{Array2, ArrayView1, ArrayView2};

use crate::backend::{KMeansStep, Lists, PruneParams};
use crate::metric::Metric;
use crate::pq::{CodeBits, ProductQuantizer};
use crate::topk::Scored;

pub use graph::{graph_search, reverse_edges};

/// Ordering distance between two rows, in f64.
pub fn distance(metric: Metric, a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> f64 {
    match metric {
        Metric::L2 => a.iter().zip(b).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum(),
        Metric::InnerProduct => -dot(a, b),
        Metric::Cosine => {
            let norms = (dot(a, a) * dot(b, b)).sqrt();
            if norms > 0.0 { 1.0 - dot(a, b) / norms } else { 1.0 }
        }
    }
}

fn dot(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

/// All distances from one query to the base, ascending by (distance, id).
pub fn ranked(metric: Metric, query: ArrayView1<'_, f32>, base: ArrayView2<'_, f32>) -> Vec<(f64, u32)> {
    let mut all: Vec<(f64, u32)> =
        base.outer_iter().enumerate().map(|(id, row)| (distance(metric, query, row), id as u32)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    all
}

/// Distance in which graphs are built: the metric itself, or for inner product the squared L2 of rows
/// lifted by sqrt(`max_squared_norm` - |x|^2).
pub fn graph_distance(metric: Metric, a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>, max_squared_norm: f64) -> f64 {
    match metric {
        Metric::L2 | Metric::Cosine => distance(metric, a, b),
        Metric::InnerProduct => {
            let lift = |x: ArrayView1<'_, f32>| (max_squared_norm - dot(x, x)).max(0.0).sqrt();
            distance(Metric::L2, a, b) + (lift(a) - lift(b)).powi(2)
        }
    }
}

/// Largest squared norm of any row.
pub fn max_squared_norm(base: ArrayView2<'_, f32>) -> f64 {
    base.outer_iter().map(|row| dot(row, row)).fold(0.0, f64::max)
}

/// For each member of each leaf its `k` nearest other members in the graph's distance, ascending by (distance, id).
pub fn leaf_neighbors(
    metric: Metric,
    base: ArrayView2<'_, f32>,
    leaves: &Lists<u32>,
    k: usize,
) -> Vec<Vec<(f64, u32)>> {
    let max = max_squared_norm(base);
    let to = |a: u32, b: u32| (graph_distance(metric, base.row(a as usize), base.row(b as usize), max), b);
    let mut lists = Vec::new();
    for leaf in leaves.iter() {
        for &member in leaf {
            let mut others: Vec<(f64, u32)> =
                leaf.iter().filter(|&&other| other != member).map(|&other| to(member, other)).collect();
            others.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            others.truncate(k);
            lists.push(others);
        }
    }
    lists
}

/// Robust prune by its definition: in order of distance, a candidate is kept unless a kept neighbour k
/// has alpha * d(k, c) < d(p, c); first with alpha 1, then with the full alpha while there is room.
pub fn robust_prune(
    metric: Metric,
    base: ArrayView2<'_, f32>,
    points: &[u32],
    candidates: &Lists<u32>,
    params: PruneParams,
) -> Lists<u32> {
    let max = max_squared_norm(base);
    let between = |a: u32, b: u32| graph_distance(metric, base.row(a as usize), base.row(b as usize), max);
    let mut all = Lists::default();
    for (&point, list) in points.iter().zip(candidates.iter()) {
        let scored = |&id: &u32| Scored { distance: between(point, id) as f32, id };
        let mut list: Vec<Scored> = list.iter().filter(|&&id| id != point).map(scored).collect();
        list.sort();
        list.dedup_by_key(|c| c.id);
        let mut kept: Vec<Scored> = Vec::new();
        let mut in_play = vec![true; list.len()];
        for alpha in [1.0, f64::from(params.alpha)] {
            for (c, in_play) in list.iter().zip(&mut in_play) {
                if !*in_play || kept.len() == params.max_degree {
                    continue;
                }
                let occludes = |k: &&Scored| {
                    let d = between(k.id, c.id);
                    // Only nearer kept neighbours occlude; a copy of one always does.
                    **k < *c && (d <= 0.0 || alpha * d < f64::from(c.distance))
                };
                if kept.iter().find(occludes).is_none() {
                    kept.push(*c);
                    *in_play = false;
                }
            }
        }
        kept.sort();
        all.push(&kept.iter().map(|k| k.id).collect::<Vec<_>>());
    }
    all
}

/// One Lloyd step.
pub fn kmeans_step(points: ArrayView2<'_, f32>, centroids: ArrayView2<'_, f32>) -> KMeansStep {
    let mut step = KMeansStep {
        assignments: Vec::new(),
        distances: Vec::new(),
        sums: Array2::zeros(centroids.dim()),
        counts: vec![0; centroids.nrows()],
    };
    for point in points.outer_iter() {
        let (distance, nearest) = ranked(Metric::L2, point, centroids)[0];
        step.assignments.push(nearest);
        step.distances.push(distance as f32);
        step.counts[nearest as usize] += 1;
        step.sums.row_mut(nearest as usize).zip_mut_with(&point, |sum, &x| *sum += f64::from(x));
    }
    step
}

/// Codes of `rows` `(n, dim)`, each sub-vector's nearest centroid.
pub fn pq_encode(rows: ArrayView2<'_, f32>, pq: &ProductQuantizer) -> Array2<u8> {
    let mut codes = Array2::zeros((rows.nrows(), pq.code_bytes()));
    for (row, mut code) in rows.outer_iter().zip(codes.outer_iter_mut()) {
        let rotated = pq.rotate(&row.to_vec());
        for sub in 0..pq.m() {
            let range = pq.subspace(sub);
            let centroids = ArrayView2::from_shape((pq.bits().centroids(), range.len()), pq.subspace_centroids(sub))
                .expect("a sub-space holds centroids x width values");
            let nearest = ranked(Metric::L2, ndarray::aview1(&rotated[range]), centroids)[0].1 as u8;
            match pq.bits() {
                CodeBits::Eight => code[sub] = nearest,
                CodeBits::Four => code[sub / 2] |= nearest << (4 * (sub % 2)),
            }
        }
    }
    codes
}
