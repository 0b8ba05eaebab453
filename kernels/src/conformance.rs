//! The suite that every backend must pass: each stage against its twin in [`crate::plain`].
//!
//! A backend enrols with one line, [`conformance_tests!`](crate::conformance_tests). Shapes are odd on purpose: one row, one
//! coordinate, k beyond the rows, dimensions that divide nothing. Integer rows are compared exactly
//! (their distances fit an f32); floats within [`TOLERANCE`] of the largest distance, ids tie-aware.

mod graph;
mod nodes;
mod rabitq;

use std::sync::Arc;

use half::f16;
use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::backend::{Backend, Lists, PruneParams};
use crate::cpu::CpuBackend;
use crate::distance::quantiser_rows;
use crate::element::{DType, Element};
use crate::metric::Metric;
use crate::plain;
use crate::pq::{CodeBits, PqTraining, ProductQuantizer};
use crate::rows::Rows;
use crate::topk::PAD_ID;

pub use graph::{graph_search, reverse_edges};
pub use nodes::pack_nodes;
pub use rabitq::rabitq_encode;

/// Relative error allowed between f32 and the f64 twin.
pub const TOLERANCE: f64 = 1e-5;

const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];
const DTYPES: [DType; 4] = [DType::F32, DType::F16, DType::U8, DType::I8];
/// `(queries, rows, dim, k)`.
const SHAPES: [(usize, usize, usize, usize); 7] = [
    (1, 1, 1, 1),
    (3, 5, 7, 10),
    (2, 1030, 3, 4),
    (130, 300, 33, 10),
    (5, 1, 100, 2),
    (7, 64, 4096, 5),
    (4, 2100, 16, 100),
];

/// Enrols a backend: `conformance_tests!(cpu, || Ok(CpuBackend::new()));` expands to one test a stage in a module of that
/// name. The expression makes the backend, or says why it cannot run here.
///
/// Every test prints the backend that ran, or that it was skipped and why (`cargo test -- --nocapture`, or nextest's
/// `--no-capture`). Where the environment's `KILN_REQUIRE` names the module (several are separated by commas), a skip is a
/// failure.
#[macro_export]
macro_rules! conformance_tests {
    ($name:ident, $make:expr) => {
        mod $name {
            $crate::conformance_tests!(@stages $name, $make, nearest, gather_distances, leaf_neighbors, nearest_leaders, robust_prune, kmeans_step, pq_encode, pack_nodes, rabitq_encode, reverse_edges, graph_search);
        }
    };
    (@stages $name:ident, $make:expr, $($stage:ident),*) => {
        $(
            #[test]
            fn $stage() {
                #[allow(unused_imports, reason = "the expression may name items of the enrolling module")]
                use super::*;
                if let Some(backend) = $crate::conformance::enrolled(stringify!($name), stringify!($stage), $make()) {
                    $crate::conformance::$stage(&backend);
                }
            }
        )*
    };
}

/// Says what runs, or why it does not.
///
/// # Panics
/// When the backend is required and cannot run.
pub fn enrolled<B: Backend>(name: &str, stage: &str, made: Result<B, String>) -> Option<B> {
    match made {
        Ok(backend) => {
            eprintln!("conformance: {name}: {stage} runs on {}", backend.describe());
            Some(backend)
        }
        Err(reason) => {
            let required = std::env::var("KILN_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|required| required == name), "{name} is required: {reason}");
            eprintln!("conformance: {name}: {stage} SKIPPED: {reason}");
            None
        }
    }
}

/// Seeded random rows: integers for the byte types, a normal-like spread for floats; every seventh row
/// of a large set repeats its predecessor, and one is zero.
pub fn random_rows(dtype: DType, n: usize, dim: usize, seed: u64) -> Rows {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || (0..4).map(|_| rng.random::<f32>()).sum::<f32>() - 2.0;
    let mut matrix = Array2::from_shape_fn((n, dim), |_| draw());
    for i in (7..n).step_by(7) {
        let previous = matrix.row(i - 1).to_owned();
        matrix.row_mut(i).assign(&previous);
    }
    if n > 20 {
        matrix.row_mut(11).fill(0.0);
    }
    match dtype {
        DType::F32 => f32::into_rows(matrix),
        DType::F16 => f16::into_rows(matrix.mapv(f16::from_f32)),
        DType::U8 => u8::into_rows(matrix.mapv(|x| (x * 60.0 + 128.0) as u8)),
        DType::I8 => i8::into_rows(matrix.mapv(|x| (x * 60.0) as i8)),
    }
}

fn for_every_case(mut check: impl FnMut(Metric, DType, (usize, usize, usize, usize))) {
    for metric in METRICS {
        for dtype in DTYPES {
            for shape in SHAPES {
                check(metric, dtype, shape);
            }
        }
    }
}

fn assert_close(got: f32, expected: f64, scale: f64, context: &str) {
    let error = (f64::from(got) - expected).abs();
    assert!(error <= TOLERANCE * scale.max(1.0), "{context}: {got}, expected {expected}");
}

/// Largest magnitude that distances of these rows can have.
fn magnitude(metric: Metric, a: &Array2<f32>, b: &Array2<f32>) -> f64 {
    match metric {
        Metric::Cosine => 1.0,
        _ => plain::max_squared_norm(a.view()).max(plain::max_squared_norm(b.view())) * 4.0,
    }
}

/// [`Backend::nearest`]: distances rank by rank, ids that really lie at those distances, padding, and
/// queries of another type than the base.
pub fn nearest<B: Backend>(backend: &B) {
    for_every_case(|metric, dtype, (queries, n, dim, k)| {
        let base = Arc::new(random_rows(dtype, n, dim, 1));
        for query_dtype in [dtype, DType::F32] {
            let context = format!("{metric} {dtype} {query_dtype} {queries}x{n}x{dim} k {k}");
            let queries = Arc::new(random_rows(query_dtype, queries, dim, 2));
            let (q, b) = (queries.view().to_f32(), base.view().to_f32());
            let uploaded = backend.upload(Arc::clone(&queries), metric).expect("upload queries");
            let resident = backend.upload(Arc::clone(&base), metric).expect("upload base");
            let found = backend.nearest(&uploaded, &resident, k).expect("nearest");
            let scale = magnitude(metric, &q, &b);
            for i in 0..queries.len() {
                let expected = plain::ranked(metric, q.row(i), b.view());
                let mut seen = std::collections::HashSet::new();
                for rank in 0..k {
                    let (id, distance) = (found.ids[(i, rank)], found.distances[(i, rank)]);
                    let Some(&(expected, _)) = expected.get(rank) else {
                        assert_eq!((id, distance), (PAD_ID, f32::INFINITY), "{context}: padding");
                        continue;
                    };
                    assert!(seen.insert(id), "{context}: id {id} twice");
                    assert_close(distance, expected, scale, &context);
                    assert_close(distance, plain::distance(metric, q.row(i), b.row(id as usize)), scale, &context);
                }
            }
        }
    });
}

/// [`Backend::gather_distances`] over lists that repeat, and empty lists.
pub fn gather_distances<B: Backend>(backend: &B) {
    for_every_case(|metric, dtype, (queries, n, dim, _)| {
        let context = format!("{metric} {dtype} {queries}x{n}x{dim}");
        let (queries, base) = (Arc::new(random_rows(dtype, queries, dim, 3)), Arc::new(random_rows(dtype, n, dim, 4)));
        let (q, b) = (queries.view().to_f32(), base.view().to_f32());
        let lists: Lists<u32> =
            (0..queries.len()).map(|i| (0..3 * (i % 4)).map(|j| ((i * 31 + j * 7) % n) as u32).collect()).collect();
        let uploaded = backend.upload(queries, metric).expect("upload queries");
        let resident = backend.upload(base, metric).expect("upload base");
        let distances = backend.gather_distances(&uploaded, &resident, &lists).expect("gather distances");
        let mut position = 0;
        for (i, list) in lists.iter().enumerate() {
            for &id in list {
                let expected = plain::distance(metric, q.row(i), b.row(id as usize));
                assert_close(distances[position], expected, magnitude(metric, &q, &b), &context);
                if dtype.is_integer() && metric != Metric::Cosine {
                    assert_eq!(distances[position], expected as f32, "{context}: integers are exact");
                }
                position += 1;
            }
        }
        assert_eq!(position, distances.len(), "{context}");
    });
}

/// Share of a list's neighbours that must lie as near as the twin's where the rows are not integers under L2.
const SELECTED: f64 = 0.98;

/// Leaves of many sizes over `n` rows, from one member up; members ascend in some and not in others.
fn some_leaves(n: usize) -> Lists<u32> {
    let sizes = [1, 2, 3, 17, 40, 150, 700];
    let leaf = |(i, &size): (usize, &usize)| {
        let mut leaf: Vec<u32> = (0..size.min(n)).map(|j| ((j * 7 + i * 5) % n) as u32).collect();
        leaf.sort_unstable();
        leaf.dedup();
        if i % 2 == 1 {
            leaf.reverse();
        }
        leaf
    };
    sizes.iter().enumerate().map(leaf).chain([Vec::new()]).collect()
}

/// [`Backend::leaf_neighbors`]: every member's list in order and complete, at exact distances; integers under L2 rank by
/// rank at the twin's distances, others with 98% of them.
pub fn leaf_neighbors<B: Backend>(backend: &B) {
    for_every_case(|metric, dtype, (_, n, dim, k)| {
        let context = format!("{metric} {dtype} {n}x{dim} k {k}");
        let base = Arc::new(random_rows(dtype, n, dim, 10));
        let b = base.view().to_f32();
        let max = plain::max_squared_norm(b.view());
        let scale = magnitude(metric, &b, &b);
        let leaves = some_leaves(n);
        let resident = backend.upload(base, metric).expect("upload");
        let got = backend.leaf_neighbors(&resident, &leaves, k).expect("leaf neighbors");
        let expected = plain::leaf_neighbors(metric, b.view(), &leaves, k);
        assert_eq!((got.len(), leaves.items.len()), (expected.len(), expected.len()), "{context}");
        let (mut near, mut all) = (0usize, 0usize);
        for ((&member, got), expected) in leaves.items.iter().zip(got.iter()).zip(&expected) {
            assert_eq!(got.len(), expected.len(), "{context}");
            assert!(got.is_sorted(), "{context}: {got:?}");
            let mut ids: Vec<u32> = got.iter().map(|s| s.id).collect();
            ids.sort_unstable();
            ids.dedup();
            assert!(ids.len() == got.len() && !ids.contains(&member), "{context}: {member}: {got:?}");
            let last = expected.last().map_or(0.0, |e| e.0);
            for (got, &(at, _)) in got.iter().zip(expected) {
                let (a, b) = (b.row(member as usize), b.row(got.id as usize));
                assert_close(got.distance, plain::graph_distance(metric, a, b, max), scale, &context);
                if dtype.is_integer() && metric == Metric::L2 {
                    assert_close(got.distance, at, scale, &context);
                }
                near += usize::from(f64::from(got.distance) <= last + TOLERANCE * scale.max(1.0));
                all += 1;
            }
        }
        assert!(near as f64 >= SELECTED * all as f64, "{context}: {near} of {all} neighbours are near");
    });
}

/// [`Backend::nearest_leaders`]: distinct, in order, as near as the twin's.
pub fn nearest_leaders<B: Backend>(backend: &B) {
    for_every_case(|metric, dtype, (_, n, dim, k)| {
        let context = format!("{metric} {dtype} {n}x{dim} k {k}");
        let base = Arc::new(random_rows(dtype, n, dim, 11));
        let b = base.view().to_f32();
        let max = plain::max_squared_norm(b.view());
        let scale = magnitude(metric, &b, &b);
        let leaders: Vec<u32> = (0..n as u32).filter(|i| i % 3 == 0).take(200).collect();
        let points: Vec<u32> = (0..n.min(60) as u32).rev().collect();
        let resident = backend.upload(base, metric).expect("upload");
        let got = backend.nearest_leaders(&resident, &points, &leaders, k).expect("nearest leaders");
        let each = k.min(leaders.len());
        assert_eq!(got.len(), points.len() * each, "{context}");
        let (mut near, mut all) = (0usize, 0usize);
        for (&point, got) in points.iter().zip(got.chunks(each)) {
            let to = |leader: u32| plain::graph_distance(metric, b.row(point as usize), b.row(leader as usize), max);
            let mut expected: Vec<f64> = leaders.iter().map(|&leader| to(leader)).collect();
            expected.sort_by(f64::total_cmp);
            let found: Vec<f64> = got.iter().map(|&leader| to(leader)).collect();
            let slack = TOLERANCE * scale.max(1.0);
            assert!(found.windows(2).all(|w| w[0] <= w[1] + slack), "{context}: {found:?}");
            assert!(got.iter().all(|id| leaders.contains(id)), "{context}: {got:?}");
            assert_eq!(got.iter().collect::<std::collections::HashSet<_>>().len(), each, "{context}: {got:?}");
            near += found.iter().filter(|&&d| d <= expected[each - 1] + slack).count();
            all += each;
        }
        assert!(near as f64 >= SELECTED * all as f64, "{context}: {near} of {all} leaders are near");
    });
}

/// [`Backend::robust_prune`]. Integers under L2 are exact; floats may swap near-ties, so most lists must agree.
pub fn robust_prune<B: Backend>(backend: &B) {
    for_every_case(|metric, dtype, (_, n, dim, k)| {
        let context = format!("{metric} {dtype} {n}x{dim}");
        let base = Arc::new(random_rows(dtype, n, dim, 5));
        let b = base.view().to_f32();
        let points: Vec<u32> = (0..n.min(40) as u32).collect();
        let candidates: Lists<u32> =
            points.iter().map(|&p| (0..60).map(|j: usize| ((p as usize * 13 + j * j) % n) as u32).collect()).collect();
        let params = PruneParams { max_degree: k.max(2), alpha: 1.2 };
        let resident = backend.upload(base, metric).expect("upload");
        let got = backend.robust_prune(&resident, &points, &candidates, params).expect("robust prune");
        let expected = plain::robust_prune(metric, b.view(), &points, &candidates, params);
        assert_eq!(got.len(), points.len(), "{context}");
        let same = got.iter().zip(expected.iter()).filter(|(g, e)| g == e).count();
        if dtype.is_integer() && metric == Metric::L2 {
            assert_eq!(got, expected, "{context}");
        }
        assert!(same * 10 >= points.len() * 9, "{context}: {same} of {} lists agree", points.len());
        for (point, list) in points.iter().zip(got.iter()) {
            assert!(list.len() <= params.max_degree && !list.contains(point), "{context}: {list:?}");
        }
    });
}

/// [`Backend::kmeans_step`], rows scaled to unit length under cosine.
pub fn kmeans_step<B: Backend>(backend: &B) {
    for_every_case(|metric, dtype, (_, n, dim, k)| {
        let context = format!("{metric} {dtype} {n}x{dim}, {k} centroids");
        let rows = Arc::new(random_rows(dtype, n, dim, 6));
        let points = quantiser_rows(&rows.view(), metric);
        let centroids = quantiser_rows(&random_rows(dtype, k, dim, 7).view(), metric);
        let resident = backend.upload(rows, metric).expect("upload");
        let step = backend.kmeans_step(&resident, centroids.view()).expect("k-means step");
        let expected = plain::kmeans_step(points.view(), centroids.view());
        let scale = magnitude(Metric::L2, &points, &centroids);
        let mut sums = Array2::<f64>::zeros(centroids.dim());
        for i in 0..n {
            let c = step.assignments[i] as usize;
            assert_close(step.distances[i], f64::from(expected.distances[i]), scale, &context);
            let really = plain::distance(Metric::L2, points.row(i), centroids.row(c));
            assert_close(step.distances[i], really, scale, &context);
            sums.row_mut(c).zip_mut_with(&points.row(i), |sum, &x| *sum += f64::from(x));
        }
        assert_eq!(step.counts.iter().sum::<u64>(), n as u64, "{context}");
        let error = (&sums - &step.sums).iter().fold(0f64, |worst, e| worst.max(e.abs()));
        assert!(error <= TOLERANCE * scale * n as f64, "{context}: sums off by {error}");
    });
}

/// [`Backend::pq_encode`], with and without residuals, 8 and 4 bits: no code may be farther than the
/// twin's, beyond rounding.
pub fn pq_encode<B: Backend>(backend: &B) {
    for_every_case(|metric, dtype, (_, n, dim, _)| {
        if dim > 100 {
            return;
        }
        for bits in [CodeBits::Four, CodeBits::Eight] {
            let context = format!("{metric} {dtype} {n}x{dim} {bits:?}");
            let rows = Arc::new(random_rows(dtype, n, dim, 8));
            let points = quantiser_rows(&rows.view(), metric);
            let training = PqTraining { m: dim.div_ceil(3), bits, iterations: 2, seed: 1 };
            // By the processor: what is asked here is encoding, and k-means has a test of its own.
            let pq = ProductQuantizer::train(&CpuBackend::new(), points.view(), training).expect("train");
            let centroids = quantiser_rows(&random_rows(dtype, 3, dim, 9).view(), metric);
            let assignments: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
            let mut residuals = points.clone();
            for (mut row, &c) in residuals.outer_iter_mut().zip(&assignments) {
                row -= &centroids.row(c as usize);
            }
            let resident = backend.upload(rows, metric).expect("upload");
            for (residual_to, target) in [(None, &points), (Some((centroids.view(), &assignments[..])), &residuals)] {
                let codes = backend.pq_encode(&resident, residual_to, &pq).expect("encode");
                let expected = plain::pq_encode(target.view(), &pq);
                let scale = magnitude(Metric::L2, target, target);
                for ((code, twin), row) in codes.outer_iter().zip(expected.outer_iter()).zip(target.outer_iter()) {
                    let table = pq.l2_table(&row.to_vec());
                    let (got, best) = (pq.score(&table, &code.to_vec()), pq.score(&table, &twin.to_vec()));
                    assert_close(got, f64::from(best), scale, &context);
                }
            }
        }
    });
}
