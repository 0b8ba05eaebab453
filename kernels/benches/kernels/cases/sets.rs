//! Sets of rows: the methods of `Backend` other than `gather_distances` (`rows.rs`).

use std::hint::black_box;
use std::sync::Arc;

use kiln_kernels::distance::Kernels;
use kiln_kernels::pq::ProductQuantizer;
use kiln_kernels::{Backend, CpuBackend, Element, Lists, Metric, PruneParams, Rows};
use ndarray::Array2;
use rand::seq::index;

use super::rows::{element, elements};
use super::{Case, Store, Unit, case, cost, floats, rng};

pub fn add(smoke: bool, cases: &mut Vec<Case>) {
    nearest::<f32>(128, smoke, cases);
    nearest::<f32>(960, smoke, cases);
    nearest::<u8>(128, smoke, cases);
    prune::<f32>(128, smoke, cases);
    prune::<f32>(960, smoke, cases);
    prune::<u8>(128, smoke, cases);
    kmeans::<f32>(128, 256, smoke, cases);
    kmeans::<f32>(128, 16, smoke, cases);
    kmeans::<u8>(128, 256, smoke, cases);
    kmeans::<f32>(4, 256, smoke, cases);
    for bits in [8, 4] {
        encode(128, 32, bits, smoke, cases);
        encode(960, 240, bits, smoke, cases);
    }
}

/// Rows `(n, dim)` of any type.
pub fn matrix<T: Element>(n: usize, dim: usize) -> Arc<Rows> {
    Arc::new(T::into_rows(Array2::from_shape_vec((n, dim), elements(n * dim)).expect("n * dim elements")))
}

/// A quantiser with random centroids, which code as fast as trained ones.
pub fn quantizer(dim: usize, m: usize, bits: u8) -> ProductQuantizer {
    let head = [dim as u32, m as u32, u32::from(bits), 0];
    let mut bytes: Vec<u8> = bytemuck::cast_slice(&head).to_vec();
    bytes.extend_from_slice(bytemuck::cast_slice(&floats(dim << bits)));
    ProductQuantizer::from_bytes(&bytes).expect("a quantiser of this shape")
}

/// The 10 nearest of 1,024 rows to each of 64 queries.
fn nearest<T: Element>(dim: usize, smoke: bool, cases: &mut Vec<Case>) {
    let (queries, n) = if smoke { (4, 64) } else { (64, 1024) };
    let name = format!("nearest/{}/64x1024x{dim}", T::DTYPE.name());
    let bytes = (queries + n) * dim * size_of::<T>();
    cases.push(case(name, cost(bytes, Store::L3, 2 * queries * n * dim, Unit::F32), move || {
        let backend = CpuBackend::new();
        let base = backend.upload(matrix::<T>(n, dim), Metric::L2).expect("rows of a legal shape");
        // Other rows than those of the base, which repeat from the first coordinate on.
        let queries = elements::<T>(queries * dim + 17)[17..].to_vec();
        let queries = Array2::from_shape_vec((queries.len() / dim, dim), queries).expect("whole rows");
        let queries = backend.upload(Arc::new(T::into_rows(queries)), Metric::L2).expect("rows of a legal shape");
        move || drop(black_box(backend.nearest(&queries, &base, 10).expect("operands that fit")))
    }));
}

/// Candidates that are nearer to the point than to each other: none is occluded, every pair that could be is scored.
fn prune<T: Kernels>(dim: usize, smoke: bool, cases: &mut Vec<Case>) {
    const CANDIDATES: usize = 128;
    const KEPT: usize = 64;
    let (points, n) = if smoke { (2, 256) } else { (4, 2048) };
    let pairs = points * KEPT * (2 * CANDIDATES - KEPT - 1) / 2;
    let row = dim * size_of::<T>();
    let unit = if T::DTYPE.is_integer() { Unit::Int16 } else { Unit::F32 };
    let name = format!("robust_prune/{}/64of128x{dim}", T::DTYPE.name());
    // Each pair loads two rows, of a working set of 128.
    let store = if CANDIDATES * row > Store::L2.bytes(false) / 16 { Store::L2 } else { Store::L1 };
    cases.push(case(name, cost(pairs * 2 * row, store, pairs * 3 * dim, unit), move || {
        let backend = CpuBackend::new();
        let mut rows = elements::<T>(n * dim);
        rows[..dim].fill(element(0.0));
        let mut rng = rng();
        let mut candidates: Lists<u32> = Lists::default();
        for _ in 0..points {
            let chosen = index::sample(&mut rng, n - 1, CANDIDATES).into_iter().map(|i| i as u32 + 1);
            candidates.push(&chosen.collect::<Vec<_>>());
        }
        let rows = T::into_rows(Array2::from_shape_vec((n, dim), rows).expect("n * dim elements"));
        let base = backend.upload(Arc::new(rows), Metric::L2).expect("rows of a legal shape");
        let points = vec![0u32; points];
        let params = PruneParams { max_degree: KEPT, alpha: 1.2 };
        move || {
            let kept = backend.robust_prune(&base, &points, &candidates, params).expect("operands that fit");
            assert_eq!(black_box(kept).items.len(), KEPT * points.len());
        }
    }));
}

/// A Lloyd step of 1,024 points.
fn kmeans<T: Element>(dim: usize, nlist: usize, smoke: bool, cases: &mut Vec<Case>) {
    let n = if smoke { 64 } else { 1024 };
    let name = format!("kmeans_step/{}/1024x{dim}/{nlist}", T::DTYPE.name());
    let bytes = (n * size_of::<T>() + nlist * 4) * dim;
    cases.push(case(name, cost(bytes, Store::L3, 2 * n * dim * nlist, Unit::F32), move || {
        let backend = CpuBackend::new();
        let points = backend.upload(matrix::<T>(n, dim), Metric::L2).expect("rows of a legal shape");
        let centroids = Array2::from_shape_vec((nlist, dim), elements::<T>(nlist * dim)).expect("nlist * dim elements");
        let centroids = centroids.mapv(|x| x.to_f32());
        move || drop(black_box(backend.kmeans_step(&points, centroids.view()).expect("operands that fit")))
    }));
}

/// Product quantiser codes of f32 rows.
fn encode(dim: usize, m: usize, bits: u8, smoke: bool, cases: &mut Vec<Case>) {
    let n = if smoke { 64 } else { 16_384 / dim };
    let operations = (n * dim * 3) << bits;
    let name = format!("pq_encode/{bits}bit/{}x{dim}/m{m}", 16_384 / dim);
    cases.push(case(name, cost(n * dim * 4, Store::L2, operations, Unit::F32), move || {
        let backend = CpuBackend::new();
        let rows = backend.upload(matrix::<f32>(n, dim), Metric::L2).expect("rows of a legal shape");
        let quantizer = quantizer(dim, m, bits);
        move || drop(black_box(backend.pq_encode(&rows, None, &quantizer).expect("operands that fit")))
    }));
}
