//! What the conformance suite does not ask: shards against one piece, long lists, extreme shapes, memory, lost devices.

use std::sync::Arc;

use ndarray::{Array2, array};

use super::{WgpuBackend, WgpuOptions};
use crate::backend::{Backend, BackendError, Lists, MAX_DIM, PruneParams};
use crate::batches::in_batches;
use crate::conformance::{TOLERANCE, random_rows};
use crate::cpu::CpuBackend;
use crate::element::{DType, Element};
use crate::metric::Metric;
use crate::plain;
use crate::pq::{CodeBits, PqTraining, ProductQuantizer};
use crate::rows::Rows;
use crate::topk::PAD_ID;

/// Any adapter, or `None`, said aloud, where there is none.
fn backend(options: WgpuOptions) -> Option<WgpuBackend> {
    let options = WgpuOptions { software: true, poison: true, ..options };
    WgpuBackend::probe(&options).inspect_err(|reason| eprintln!("SKIPPED: {reason}")).ok()
}

fn shards(shard_bytes: u64) -> WgpuOptions {
    WgpuOptions { shard_bytes: Some(shard_bytes), ..WgpuOptions::default() }
}

/// Lists of `length` candidates for the first `points` rows of `n`, with repeats.
fn some_candidates(points: usize, length: usize, n: usize) -> Lists<u32> {
    (0..points).map(|p| (0..length).map(|j| ((p * 131 + j * j * 7 + j) % n) as u32).collect()).collect()
}

#[test]
fn shards_answer_as_one_piece_does() {
    let (Some(whole), Some(split)) = (backend(WgpuOptions::default()), backend(shards(1000))) else { return };
    for (dtype, metric) in [(DType::U8, Metric::L2), (DType::F32, Metric::InnerProduct), (DType::F16, Metric::Cosine)] {
        let rows = Arc::new(random_rows(dtype, 300, 20, 1));
        let centroids = random_rows(DType::F32, 40, 20, 2).view().to_f32();
        let a = whole.upload(Arc::clone(&rows), metric).unwrap();
        let b = split.upload(Arc::clone(&rows), metric).unwrap();
        assert!(a.shards.len() == 1 && b.shards.len() > 5, "{} shards", b.shards.len());

        assert_eq!(whole.nearest(&a, &a, 7).unwrap(), split.nearest(&b, &b, 7).unwrap());
        let lists = some_candidates(300, 9, 300);
        let distances = whole.gather_distances(&a, &a, &lists).unwrap();
        assert_eq!(distances, split.gather_distances(&b, &b, &lists).unwrap());
        let leaves: Lists<u32> = [(0..100).collect(), (50..300).rev().collect()].into_iter().collect();
        assert_eq!(whole.leaf_neighbors(&a, &leaves, 5).unwrap(), split.leaf_neighbors(&b, &leaves, 5).unwrap());
        let points: Vec<u32> = (0..300).collect();
        let params = PruneParams { max_degree: 12, alpha: 1.2 };
        let pruned = |backend: &WgpuBackend, rows| {
            backend.robust_prune(rows, &points, &some_candidates(300, 40, 300), params).unwrap()
        };
        assert_eq!(pruned(&whole, &a), pruned(&split, &b));
        let (one, many) =
            (whole.kmeans_step(&a, centroids.view()).unwrap(), split.kmeans_step(&b, centroids.view()).unwrap());
        assert_eq!((one.assignments, one.counts), (many.assignments, many.counts));
        assert!((one.sums - many.sums).iter().all(|e| e.abs() < 1e-2));
    }
}

#[test]
fn many_neighbours_are_sorted_where_they_lie() {
    let Some(backend) = backend(WgpuOptions::default()) else { return };
    // Ever nearer rows: every one enters every list.
    let n = 3000;
    let base = Array2::from_shape_fn((n, 2), |(i, d)| if d == 0 { (n - i) as f32 } else { 0.0 });
    let base = backend.upload(Arc::new(f32::into_rows(base)), Metric::L2).unwrap();
    let query = backend.upload(Arc::new(f32::into_rows(array![[0f32, 0.0]])), Metric::L2).unwrap();
    for k in [1, 512, 700, 3000, 3500] {
        let found = backend.nearest(&query, &base, k).unwrap();
        for rank in 0..k {
            let id = if rank < n { (n - 1 - rank) as u32 } else { PAD_ID };
            assert_eq!(found.ids[(0, rank)], id, "k {k}");
        }
    }
}

#[test]
fn long_candidate_lists_are_pruned_as_short_ones() {
    let rows = Arc::new(random_rows(DType::U8, 1500, 8, 3));
    let candidates: Lists<u32> = [1400, 513, 512, 30, 0]
        .into_iter()
        .map(|length| (0..length).map(|j| ((j * 7 + j * j) % 1500) as u32).collect())
        .collect();
    let points = [0u32, 7, 21, 100, 3];
    for (max_degree, alpha) in [(20, 1.2), (64, 1.0), (0, 1.2)] {
        let params = PruneParams { max_degree, alpha };
        let expected = plain::robust_prune(Metric::L2, rows.view().to_f32().view(), &points, &candidates, params);
        // Rows where they lie, and rows in more shards than one binding holds.
        let tight = WgpuOptions { binding_bytes: Some(8 << 10), ..WgpuOptions::default() };
        for options in [WgpuOptions::default(), shards(4096), tight] {
            let Some(backend) = backend(options) else { return };
            let resident = backend.upload(Arc::clone(&rows), Metric::L2).unwrap();
            assert_eq!(backend.robust_prune(&resident, &points, &candidates, params).unwrap(), expected);
        }
    }
}

#[test]
fn the_longest_rows_keep_their_precision() {
    let Some(backend) = backend(WgpuOptions::default()) else { return };
    let bytes = |x: u8| u8::into_rows(Array2::from_elem((1, MAX_DIM), x));
    let far = |a: Rows, b: Rows, metric| {
        let (a, b) = (backend.upload(Arc::new(a), metric).unwrap(), backend.upload(Arc::new(b), metric).unwrap());
        backend.nearest(&a, &b, 1).unwrap().distances[(0, 0)]
    };
    assert_eq!(far(bytes(255), bytes(0), Metric::L2), MAX_DIM as f32 * 65025.0);
    assert_eq!(far(bytes(255), bytes(255), Metric::InnerProduct), -(MAX_DIM as f32) * 65025.0);
    let signed = |x: i8| i8::into_rows(Array2::from_elem((1, MAX_DIM), x));
    assert_eq!(far(signed(-128), signed(127), Metric::L2), MAX_DIM as f32 * 65025.0);
    for dtype in [DType::F32, DType::F16] {
        let (a, b) = (random_rows(dtype, 1, MAX_DIM, 4), random_rows(dtype, 1, MAX_DIM, 5));
        let (fa, fb) = (a.view().to_f32(), b.view().to_f32());
        let expected = plain::distance(Metric::L2, fa.row(0), fb.row(0));
        let got = f64::from(far(a, b, Metric::L2));
        assert!((got - expected).abs() <= TOLERANCE * expected, "{got}, expected {expected}");
    }
}

#[test]
fn nothing_in_nothing_out() {
    let Some(backend) = backend(WgpuOptions::default()) else { return };
    let none = backend.upload(Arc::new(Rows::zeros(DType::F32, 0, 3)), Metric::L2).unwrap();
    let some = backend.upload(Arc::new(random_rows(DType::F32, 4, 3, 1)), Metric::L2).unwrap();
    assert_eq!(backend.nearest(&some, &none, 2).unwrap().ids, Array2::from_elem((4, 2), PAD_ID));
    assert_eq!(backend.nearest(&none, &some, 2).unwrap().ids.dim(), (0, 2));
    assert_eq!(backend.nearest(&some, &some, 0).unwrap().ids.dim(), (4, 0));
    assert!(backend.gather_distances(&none, &some, &Lists::default()).unwrap().is_empty());
    assert!(backend.leaf_neighbors(&some, &Lists::default(), 3).unwrap().is_empty());
    let singles: Lists<u32> = [vec![0], vec![], vec![1, 2]].into_iter().collect();
    let found = backend.leaf_neighbors(&some, &singles, 3).unwrap();
    assert_eq!(found.iter().map(<[_]>::len).collect::<Vec<_>>(), [0, 1, 1]);
    assert!(backend.nearest_leaders(&some, &[], &[1], 1).unwrap().is_empty());
    let params = PruneParams { max_degree: 3, alpha: 1.2 };
    assert!(backend.robust_prune(&some, &[], &Lists::default(), params).unwrap().is_empty());
    let step = backend.kmeans_step(&none, array![[0f32, 0.0, 0.0]].view()).unwrap();
    assert_eq!((step.assignments.len(), step.counts), (0, vec![0]));
}

#[test]
fn wrong_arguments_are_refused() {
    let Some(backend) = backend(WgpuOptions::default()) else { return };
    let rows = backend.upload(Arc::new(random_rows(DType::F32, 4, 3, 1)), Metric::L2).unwrap();
    let wide = backend.upload(Arc::new(random_rows(DType::F32, 4, 5, 1)), Metric::L2).unwrap();
    let shape = |result: Result<(), BackendError>| assert!(matches!(result, Err(BackendError::Shape { .. })));
    shape(backend.nearest(&rows, &wide, 1).map(drop));
    shape(backend.nearest_leaders(&rows, &[4], &[0], 1).map(drop));
    shape(backend.gather_distances(&rows, &rows, &Lists::default()).map(drop));
    shape(backend.kmeans_step(&rows, Array2::zeros((0, 3)).view()).map(drop));
    shape(backend.upload(Arc::new(Rows::zeros(DType::U8, 1, MAX_DIM + 1)), Metric::L2).map(drop));
}

#[test]
fn rotated_codes_are_those_of_the_cpu() {
    let rows = random_rows(DType::F32, 400, 40, 6);
    let floats = rows.view().to_f32();
    let training = PqTraining { m: 40, bits: CodeBits::Eight, iterations: 2, seed: 1 };
    let pq = ProductQuantizer::train_opq(&CpuBackend::new(), floats.view(), training, 1).unwrap();
    let expected = plain::pq_encode(floats.view(), &pq);
    let rows = Arc::new(rows);
    // One binding each, then the rotation and the centroids in several.
    for binding_bytes in [None, Some(4096)] {
        let Some(backend) = backend(WgpuOptions { binding_bytes, ..WgpuOptions::default() }) else { return };
        let resident = backend.upload(Arc::clone(&rows), Metric::L2).unwrap();
        let codes = backend.pq_encode(&resident, None, &pq).unwrap();
        for ((code, twin), row) in codes.outer_iter().zip(expected.outer_iter()).zip(floats.outer_iter()) {
            let table = pq.l2_table(&pq.rotate(&row.to_vec()));
            let (got, best) = (pq.score(&table, &code.to_vec()), pq.score(&table, &twin.to_vec()));
            assert!((got - best).abs() < 1e-4, "{got}, expected {best}");
        }
    }
    // A word's sub-spaces share a binding: less than that is refused.
    let Some(backend) = backend(WgpuOptions { binding_bytes: Some(2048), ..WgpuOptions::default() }) else { return };
    let resident = backend.upload(rows, Metric::L2).unwrap();
    assert!(matches!(backend.pq_encode(&resident, None, &pq), Err(BackendError::OutOfMemory { .. })));
}

#[test]
fn a_budget_bounds_memory_and_batches_shrink_below_it() {
    let rows = Arc::new(random_rows(DType::F32, 1000, 32, 7));
    let bytes = 1000 * (32 * 4 + 8);
    let Some(free) = backend(WgpuOptions::default()) else { return };
    let budget = |bytes| backend(WgpuOptions { device_memory: Some(bytes), ..WgpuOptions::default() });
    let small = budget(bytes / 2).unwrap();
    let refused = small.upload(Arc::clone(&rows), Metric::L2);
    assert!(matches!(refused, Err(BackendError::OutOfMemory { operation: "upload", .. })));
    let tight = budget(bytes + (64 << 10)).unwrap();
    assert_eq!(tight.memory_limit(), Some(bytes + (64 << 10)));
    let (a, b) =
        (free.upload(Arc::clone(&rows), Metric::L2).unwrap(), tight.upload(Arc::clone(&rows), Metric::L2).unwrap());
    assert_eq!(free.nearest(&a, &a, 3).unwrap(), tight.nearest(&b, &b, 3).unwrap());
    let leaves: Lists<u32> = (0..10).map(|leaf| (leaf * 100..(leaf + 1) * 100).collect()).collect();
    assert_eq!(free.leaf_neighbors(&a, &leaves, 5).unwrap(), tight.leaf_neighbors(&b, &leaves, 5).unwrap());
    let params = PruneParams { max_degree: 8, alpha: 1.2 };
    let (points, candidates): (Vec<u32>, _) = ((0..1000).collect(), some_candidates(1000, 50, 1000));
    assert_eq!(
        free.robust_prune(&a, &points, &candidates, params).unwrap(),
        tight.robust_prune(&b, &points, &candidates, params).unwrap()
    );
    let centroids = random_rows(DType::F32, 20, 32, 8).view().to_f32();
    let (one, many) =
        (free.kmeans_step(&a, centroids.view()).unwrap(), tight.kmeans_step(&b, centroids.view()).unwrap());
    assert_eq!(one.assignments, many.assignments);
}

#[test]
fn a_batch_that_does_not_fit_is_halved() {
    let mut done = Vec::new();
    let full = || BackendError::OutOfMemory { device: String::new(), operation: "test", bytes: 1 };
    let some = in_batches(10, 8, |range| {
        if range.len() > 3 {
            return Err(full());
        }
        done.push(range);
        Ok(())
    });
    assert!(some.is_ok());
    assert_eq!(done, [0..2, 2..4, 4..6, 6..8, 8..10]);
    assert!(matches!(in_batches(10, 8, |_| Err(full())), Err(BackendError::OutOfMemory { .. })));
}

#[test]
fn a_driver_without_memory_counts_as_out_of_memory_whatever_follows() {
    let Some(backend) = backend(WgpuOptions::default()) else { return };
    let task = backend.task("test");
    let memory = || Some(::wgpu::Error::OutOfMemory { source: "no memory".into() });
    let invalid =
        || Some(::wgpu::Error::Validation { source: "invalid".into(), description: "an invalid buffer".into() });
    let found = task.judged::<()>(memory(), invalid(), Err(task.refused("not mapped")));
    assert!(matches!(found, Err(BackendError::OutOfMemory { .. })), "{found:?}");
    assert!(matches!(task.judged(memory(), None, Ok(())), Err(BackendError::OutOfMemory { .. })));
    assert!(matches!(task.judged(None, invalid(), Ok(())), Err(BackendError::Device { .. })));
    assert!(task.judged(None, None, Ok(())).is_ok());
    // Through the scopes: a buffer beyond the device's limits is invalid.
    let limit = backend.gpu.device.limits().max_buffer_size;
    let refused = task.scoped(|| {
        let usage = ::wgpu::BufferUsages::STORAGE;
        let descriptor = ::wgpu::BufferDescriptor { label: None, size: limit + 16, usage, mapped_at_creation: false };
        drop(backend.gpu.device.create_buffer(&descriptor));
        Ok(())
    });
    assert!(matches!(refused, Err(BackendError::Device { operation: "test", .. })), "{refused:?}");
}

#[test]
fn a_lost_device_says_so() {
    let Some(backend) = backend(WgpuOptions::default()) else { return };
    let rows = Arc::new(random_rows(DType::F32, 50, 8, 9));
    let resident = backend.upload(Arc::clone(&rows), Metric::L2).unwrap();
    let pq = ProductQuantizer::train(
        &CpuBackend::new(),
        rows.view().to_f32().view(),
        PqTraining { m: 2, bits: CodeBits::Four, iterations: 1, seed: 1 },
    )
    .unwrap();
    backend.nearest(&resident, &resident, 2).unwrap();
    backend.destroy();
    let lost = |result: Result<(), BackendError>| {
        assert!(matches!(result, Err(BackendError::Lost { .. })), "{result:?}");
    };
    lost(backend.nearest(&resident, &resident, 2).map(drop));
    lost(backend.upload(Arc::clone(&rows), Metric::L2).map(drop));
    let leaf: Lists<u32> = [vec![0, 1, 2]].into_iter().collect();
    lost(backend.leaf_neighbors(&resident, &leaf, 2).map(drop));
    lost(backend.nearest_leaders(&resident, &[0], &[1, 2], 2).map(drop));
    let params = PruneParams { max_degree: 3, alpha: 1.2 };
    lost(backend.robust_prune(&resident, &[0], &leaf, params).map(drop));
    lost(backend.gather_distances(&resident, &resident, &some_candidates(50, 2, 50)).map(drop));
    lost(backend.kmeans_step(&resident, Array2::zeros((2, 8)).view()).map(drop));
    lost(backend.pq_encode(&resident, None, &pq).map(drop));
    lost(backend.copy_bandwidth().map(drop));
    lost(backend.matrix_rate().map(drop));
}

#[test]
fn a_device_lost_midway_ends_the_call() {
    let Some(backend) = backend(WgpuOptions::default()) else { return };
    let rows = backend.upload(Arc::new(random_rows(DType::F32, 2000, 32, 9)), Metric::L2).unwrap();
    std::thread::scope(|scope| {
        let searching = scope.spawn(|| {
            // Far longer than the device lives.
            (0..100).map(|_| backend.nearest(&rows, &rows, 5).map(drop)).find(Result::is_err)
        });
        std::thread::sleep(std::time::Duration::from_millis(200));
        backend.destroy();
        let error = searching.join().unwrap();
        assert!(matches!(error, Some(Err(BackendError::Lost { .. }))), "{error:?}");
    });
}

#[test]
fn a_probe_says_what_it_found() {
    let absent = WgpuOptions { adapter: Some("no such adapter".into()), software: true, ..WgpuOptions::default() };
    let message = WgpuBackend::probe(&absent).unwrap_err();
    let adapters = WgpuBackend::adapters();
    assert_eq!(adapters.is_empty(), message.starts_with("no adapter: "), "{message}");
    assert!(adapters.iter().all(|adapter| message.contains(&adapter.name)), "{message}");
    if adapters.iter().all(|adapter| adapter.is_software) {
        let message = WgpuBackend::probe(&WgpuOptions::default()).unwrap_err();
        assert!(message.starts_with("no adapter: ") || message.starts_with("only software adapters"), "{message}");
    }
}

#[test]
fn rates_are_measured() {
    let Some(backend) = backend(WgpuOptions::default()) else { return };
    let (copied, computed) = (backend.copy_bandwidth().unwrap(), backend.matrix_rate().unwrap());
    eprintln!("{}: copies {:.1} GB/s, computes {:.2} GFLOP/s", backend.name(), copied / 1e9, computed / 1e9);
    assert!(copied > 1e6 && computed > 1e6);
}
