//! What the conformance suite does not ask: the driver layer, the emulator itself, memory that ends, a device that is lost.

use std::sync::Arc;

use ndarray::Array2;

use super::driver::{Arg, Gpu};
use super::{CudaBackend, Emulation};
use crate::backend::{Backend, BackendError, Lists};
use crate::batches::in_batches;
use crate::codec::Rabitq;
use crate::conformance::random_rows;
use crate::cpu::CpuBackend;
use crate::distance::{Isa, quantiser_rows};
use crate::edge_codes::{EdgeCodes, EdgeTraining, WIDTHS};
use crate::element::{DType, Element};
use crate::metric::Metric;
use crate::nodes::{Edges, NeighborCodes, NodeBlock, NodeLayout, VectorRecord};
use crate::pq::{CodeBits, PqTraining, ProductQuantizer};
use crate::rows::Rows;

/// The emulator, or nothing, said aloud, where it cannot run.
fn emulated(emulation: Emulation) -> Option<Gpu> {
    Gpu::emulated(emulation).inspect_err(|reason| eprintln!("SKIPPED: {reason}")).ok()
}

fn backend(emulation: Emulation) -> Option<CudaBackend> {
    CudaBackend::emulated(emulation).inspect_err(|reason| eprintln!("SKIPPED: {reason}")).ok()
}

fn problem(error: BackendError) -> String {
    error.to_string()
}

#[test]
fn a_machine_without_cuda_gets_one_line() {
    // Where there is a device, this proves that it computes.
    match CudaBackend::probe() {
        Ok(backend) => assert!(backend.describe().starts_with("cuda (")),
        Err(reason) => assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}"),
    }
}

#[test]
fn the_emulator_reports_what_kernels_do_wrong() {
    let launch = |kernel, block, shared, host: &[u32], out: usize| {
        let gpu = emulated(Emulation::default())?;
        let buffer = gpu.upload("test", &vec![0u32; out]).unwrap();
        let input = gpu.upload("test", host).unwrap();
        let args: Vec<Arg<'_>> = match kernel {
            "fault_early_read" => vec![(&input).into(), (&buffer).into()],
            "fault_out_of_bounds" => vec![(&buffer).into(), Arg::U32(out as u32)],
            _ => vec![(&buffer).into()],
        };
        let done = gpu.launch("test", kernel, [2, 1, 1], block, shared, &args).map_err(problem);
        Some(done.map(|()| gpu.download("test", &buffer, 0..out).unwrap()))
    };
    let Some(result) = launch("fault_barrier", 64, 0, &[], 64) else { return };
    assert!(result.unwrap_err().contains("waits in __syncthreads, and 32 of 64 threads have returned"));
    let result = launch("fault_shuffle", 32, 0, &[], 64).unwrap();
    assert!(result.unwrap_err().contains("waits in __shfl_xor_sync with mask ffffffff for lane 16"));
    let poison = launch("fault_unwritten", 32, 128, &[], 64).unwrap().unwrap();
    assert!(poison.iter().all(|&word| word == u32::MAX), "{poison:?}");
    let early = launch("fault_early_read", 32, 0, &[5; 128], 32).unwrap().unwrap();
    assert!(early.iter().all(|&word| word == u32::MAX), "{early:?}");
    let result = launch("fault_out_of_bounds", 32, 0, &[], 40).unwrap();
    assert!(result.unwrap_err().contains("past the end of an allocation of 160"));
}

#[test]
fn the_emulators_products_are_those_of_tensor_cores() {
    let Some(gpu) = emulated(Emulation::default()) else { return };
    let a: Vec<i8> = (0..16 * 32).map(|i| ((i * 37) % 251 - 120) as i8).collect();
    let b: Vec<i8> = (0..8 * 32).map(|i| ((i * 91) % 241 - 120) as i8).collect();
    let (device_a, device_b) = (gpu.upload("test", &a).unwrap(), gpu.upload("test", &b).unwrap());
    let c = gpu.alloc::<i32>("test", 16 * 8).unwrap();
    let args = [(&device_a).into(), (&device_b).into(), (&c).into()];
    gpu.launch("test", "selftest_product", [1, 1, 1], 32, 0, &args).unwrap();
    let c = gpu.download("test", &c, 0..128).unwrap();
    for (at, &sum) in c.iter().enumerate() {
        let (row, column) = (&a[at / 8 * 32..][..32], &b[at % 8 * 32..][..32]);
        let expected: i32 = row.iter().zip(column).map(|(&x, &y)| i32::from(x) * i32::from(y)).sum();
        assert_eq!(sum, expected, "row {}, column {}", at / 8, at % 8);
    }
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let Some(gpu) = emulated(Emulation::default()) else { return };
    let out = gpu.alloc::<u32>("test", 64).unwrap();
    let refused = |kernel, grid, shared, args: &[Arg<'_>]| {
        problem(gpu.launch("test", kernel, grid, 32, shared, args).unwrap_err())
    };
    assert!(refused("no_such_kernel", [1, 1, 1], 0, &[]).contains("there is no kernel no_such_kernel"));
    assert!(refused("fault_unwritten", [1, 1, 1], 0, &[]).contains("takes parameters of [8] bytes, and was given []"));
    assert!(refused("fault_unwritten", [1, 1, 1], 0, &[Arg::U32(1)]).contains("was given [4]"));
    assert!(refused("fault_unwritten", [1, 70_000, 1], 0, &[(&out).into()]).contains("70000"));
    assert!(refused("fault_unwritten", [1, 1, 1], 1 << 20, &[(&out).into()]).contains("shared memory"));
    // No blocks: nothing to do.
    gpu.launch("test", "fault_unwritten", [0, 1, 1], 32, 0, &[(&out).into()]).unwrap();
}

#[test]
fn copies_arrive_whole() {
    let Some(gpu) = emulated(Emulation::default()) else { return };
    let host: Vec<u32> = (0..10_000).collect();
    let buffer = gpu.upload("test", &host).unwrap();
    assert_eq!(gpu.download("test", &buffer, 0..host.len()).unwrap(), host);
    assert_eq!(gpu.download("test", &buffer, 77..99).unwrap(), host[77..99]);
    let copy = gpu.zeroed::<u32>("test", 100).unwrap();
    gpu.copy("test", &buffer, 50..60, &copy, 20).unwrap();
    let copied = gpu.download("test", &copy, 0..100).unwrap();
    assert_eq!(&copied[20..30], &host[50..60]);
    assert!(copied[..20].iter().chain(&copied[30..]).all(|&x| x == 0));
    assert_eq!(gpu.upload::<u32>("test", &[]).unwrap().len(), 0);
}

#[test]
fn memory_is_counted_against_the_budget() {
    let emulation = Emulation { memory_budget: Some(1 << 20), ..Emulation::default() };
    let Some(gpu) = emulated(emulation) else { return };
    let first = gpu.alloc::<u8>("test", 700 << 10).unwrap();
    assert_eq!(gpu.memory_left("test").unwrap(), 324 << 10);
    let error = gpu.alloc::<u8>("test", 400 << 10).unwrap_err();
    assert!(matches!(error, BackendError::OutOfMemory { bytes, .. } if bytes == 400 << 10), "{error}");
    drop(first);
    gpu.alloc::<u8>("test", 400 << 10).unwrap();
}

#[test]
fn a_batch_too_large_for_the_device_is_halved() {
    let Some(gpu) = emulated(Emulation { free_memory: Some(100_000), ..Emulation::default() }) else { return };
    let mut batches = Vec::new();
    let mut work = |range: std::ops::Range<usize>| {
        let _held = gpu.alloc::<u8>("test", 1000 * range.len())?;
        batches.push(range);
        Ok(())
    };
    in_batches(300, 256, &mut work).unwrap();
    assert_eq!(batches, [0..64, 64..128, 128..192, 192..256, 256..300]);
    let mut too_large = |_: std::ops::Range<usize>| gpu.alloc::<u8>("test", 200_000).map(drop);
    assert!(matches!(in_batches(300, 256, &mut too_large), Err(BackendError::OutOfMemory { .. })));
}

#[test]
fn stages_give_the_same_answers_with_little_memory() {
    let rows = Arc::new(random_rows(DType::F32, 3000, 40, 1));
    let lists: Lists<u32> = (0..3000u32).map(|i| (0..100).map(|j| (i * 7 + j * 31) % 3000).collect()).collect();
    let answers = |emulation: Emulation| -> Option<Vec<f32>> {
        let backend = backend(emulation)?;
        let resident = backend.upload(Arc::clone(&rows), Metric::L2).unwrap();
        Some(backend.gather_distances(&resident, &resident, &lists).unwrap())
    };
    let Some(ample) = answers(Emulation::default()) else { return };
    let rows_bytes = 3000 * 160 + 3000 * 40;
    let scarce = answers(Emulation { free_memory: Some(rows_bytes + 500_000), ..Emulation::default() }).unwrap();
    assert_eq!(ample, scarce);
    // Not even one pair fits.
    let backend = backend(Emulation { free_memory: Some(rows_bytes), ..Emulation::default() }).unwrap();
    let resident = backend.upload(Arc::clone(&rows), Metric::L2).unwrap();
    let full = backend.gpu.alloc::<u8>("test", backend.gpu.memory_left("test").unwrap() as usize).unwrap();
    let error = backend.gather_distances(&resident, &resident, &lists).unwrap_err();
    assert!(matches!(error, BackendError::OutOfMemory { .. }), "{error}");
    drop(full);
}

#[test]
fn a_device_that_is_lost_says_so_ever_after() {
    let rows = Arc::new(random_rows(DType::U8, 100, 20, 1));
    let lists: Lists<u32> = (0..100u32).map(|i| vec![i]).collect();
    // Launch 1 is the self-test, 2 to 4 are of the upload.
    let Some(backend) = backend(Emulation { lost_at_launch: Some(5), ..Emulation::default() }) else { return };
    let resident = backend.upload(Arc::clone(&rows), Metric::L2).unwrap();
    let error = backend.gather_distances(&resident, &resident, &lists).unwrap_err();
    assert!(matches!(error, BackendError::Lost { operation: "gather distances", .. }), "{error}");
    let error = backend.upload(rows, Metric::L2).unwrap_err();
    assert!(matches!(error, BackendError::Lost { operation: "upload", .. }), "{error}");
}

#[test]
fn sums_of_clusters_do_not_depend_on_their_sizes() {
    let Some(backend) = backend(Emulation::default()) else { return };
    let cpu = CpuBackend::new();
    // Half of all points in one cluster, of several segments; more centroids than one digit names.
    let rows =
        |i: usize, j: usize| if i.is_multiple_of(2) { 0.25 * (i % 5 + j) as f32 } else { (i % 600) as f32 + j as f32 };
    let rows = Arc::new(f32::into_rows(Array2::from_shape_fn((9000, 3), |(i, j)| rows(i, j))));
    let centroids = Array2::from_shape_fn((300, 3), |(c, j)| 2.0 * c as f32 + j as f32);
    let step = |resident| backend.kmeans_step(resident, centroids.view()).unwrap();
    let got = step(&backend.upload(Arc::clone(&rows), Metric::L2).unwrap());
    let expected = cpu.kmeans_step(&cpu.upload(rows, Metric::L2).unwrap(), centroids.view()).unwrap();
    assert_eq!(got.assignments, expected.assignments);
    assert_eq!(got.counts, expected.counts);
    // Quarters and integers: exact in f64 in whatever order.
    assert_eq!(got.sums, expected.sums);
}

#[test]
fn codes_are_those_of_the_cpu() {
    let Some(backend) = backend(Emulation::default()) else { return };
    let cpu = CpuBackend::new();
    for (dim, m, bits) in
        [(12, 5, CodeBits::Four), (32, 4, CodeBits::Eight), (40, 3, CodeBits::Eight), (20, 1, CodeBits::Four)]
    {
        let rows = Arc::new(random_rows(DType::F16, 400, dim, 3));
        let training = PqTraining { m, bits, iterations: 2, seed: 1 };
        let sample = quantiser_rows(&rows.view(), Metric::Cosine);
        let pq = ProductQuantizer::train(&cpu, sample.view(), training).unwrap();
        let encode = |rows: Arc<Rows>| {
            let on_cpu = cpu.pq_encode(&cpu.upload(Arc::clone(&rows), Metric::Cosine).unwrap(), None, &pq).unwrap();
            let here = backend.pq_encode(&backend.upload(rows, Metric::Cosine).unwrap(), None, &pq).unwrap();
            assert_eq!(here, on_cpu, "{m} sub-spaces of {dim}, {bits:?}");
        };
        encode(rows);
    }
    // With a rotation sums round differently: a code may differ, its error may not.
    let rows = random_rows(DType::F32, 500, 70, 4);
    let training = PqTraining { m: 7, bits: CodeBits::Eight, iterations: 2, seed: 1 };
    let pq = ProductQuantizer::train_opq(&cpu, rows.view().to_f32().view(), training, 2).unwrap();
    let on_cpu = cpu.pq_encode(&cpu.upload(Arc::new(rows.clone()), Metric::L2).unwrap(), None, &pq).unwrap();
    let here = backend.pq_encode(&backend.upload(Arc::new(rows), Metric::L2).unwrap(), None, &pq).unwrap();
    let differing = here.iter().zip(&on_cpu).filter(|(a, b)| a != b).count();
    assert!(differing * 100 <= here.len(), "{differing} of {} codes differ", here.len());
}

#[test]
fn ceilings_are_measured() {
    let Some(backend) = backend(Emulation::default()) else { return };
    let ceilings = backend.ceilings().unwrap();
    assert!(ceilings.copy_bandwidth > 0.0 && ceilings.matrix_rate > 0.0, "{ceilings:?}");
}

/// Some nodes, every other neighbour place taken: rows, and their neighbours.
fn some_nodes(n: usize, count: usize, max_degree: usize) -> (Vec<u32>, Lists<u32>) {
    let rows = (0..count).map(|i| ((i * 7 + 3) % n) as u32).collect();
    let neighbors = |i: usize| (0..(i * 11 + 4) % (max_degree + 1)).map(move |j| ((i + j * j) % n) as u32).collect();
    (rows, (0..count).map(neighbors).collect())
}

#[test]
fn pages_are_those_of_the_cpu_byte_by_byte() {
    let Some(cuda) = backend(Emulation::default()) else { return };
    let cpu = CpuBackend::new();
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        for dtype in [DType::F32, DType::F16, DType::U8, DType::I8] {
            for (n, dim, count, max_degree) in [(1, 1, 1, 16), (60, 70, 30, 32), (40, 37, 9, 48), (30, 160, 20, 16)] {
                let rows = Arc::new(random_rows(dtype, n, dim, 3));
                let seen = quantiser_rows(&rows.view(), metric);
                let mean = seen.mean_axis(ndarray::Axis(0)).unwrap().to_vec();
                let (on_cpu, on_cuda) =
                    (cpu.upload(Arc::clone(&rows), metric).unwrap(), cuda.upload(rows, metric).unwrap());
                let (nodes, neighbors) = some_nodes(n, count, max_degree);
                let record = VectorRecord { dtype, dim, metric };
                let same = |edges, codes: Option<&EdgeCodes>| {
                    let layout = NodeLayout { record, max_degree, edges };
                    let codes = codes.map(|codes| NeighborCodes { codes, rows: &neighbors.items });
                    let block = NodeBlock { layout, rows: &nodes, places: &neighbors, codes };
                    let (expected, got) = (cpu.pack_nodes(&on_cpu, &block), cuda.pack_nodes(&on_cuda, &block));
                    assert!(expected.unwrap() == got.unwrap(), "{layout:?} {n} rows");
                };
                same(Edges::Compact, None);
                for bits in WIDTHS {
                    let training = EdgeTraining { mean: &mean, radius: 2.0, bits, metric, seed: 1 };
                    let codes = EdgeCodes::train(training, Isa::best());
                    same(Edges::Inline { bits }, Some(&codes));
                }
            }
        }
    }
}

#[test]
fn rabitq_codes_are_those_of_the_cpu_byte_by_byte() {
    let Some(cuda) = backend(Emulation::default()) else { return };
    let cpu = CpuBackend::new();
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        for dtype in [DType::F32, DType::F16, DType::U8, DType::I8] {
            for (n, dim) in [(1, 1), (50, 70), (30, 200)] {
                let rows = Arc::new(random_rows(dtype, n, dim, 3));
                let mut centroids = quantiser_rows(&random_rows(dtype, 3, dim, 4).view(), metric);
                // A row that is its centroid, and so zero.
                centroids.row_mut(2).assign(&quantiser_rows(&rows.view(), metric).row(0));
                let (on_cpu, on_cuda) =
                    (cpu.upload(Arc::clone(&rows), metric).unwrap(), cuda.upload(rows, metric).unwrap());
                let ids: Vec<u32> = (0..n as u32).rev().chain([0]).collect();
                let lists: Vec<u32> = (0..n as u32).map(|i| i % 3).chain([2]).collect();
                for bits in 1..=8 {
                    let rabitq = Rabitq::new(bits, centroids.view(), 2);
                    let residual_to = (centroids.view(), &lists[..]);
                    let expected = cpu.rabitq_encode(&on_cpu, &ids, residual_to, &rabitq).unwrap();
                    let got = cuda.rabitq_encode(&on_cuda, &ids, residual_to, &rabitq).unwrap();
                    assert!(expected == got, "{metric} {dtype} {n} x {dim}, {bits} bits");
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_packed_and_coded_in_parts() {
    let rows = Arc::new(random_rows(DType::F32, 400, 90, 3));
    let emulation = |memory_budget| Emulation { memory_budget, ..Emulation::default() };
    let (Some(roomy), Some(tight)) = (backend(emulation(None)), backend(emulation(Some(400 << 10)))) else { return };
    let (nodes, neighbors) = some_nodes(400, 300, 32);
    let mean = [0.0; 90];
    let training = EdgeTraining { mean: &mean, radius: 8.0, bits: 2, metric: Metric::L2, seed: 1 };
    let codes = EdgeCodes::train(training, Isa::best());
    let record = VectorRecord { dtype: DType::F32, dim: 90, metric: Metric::L2 };
    let layout = NodeLayout { record, max_degree: 32, edges: Edges::Inline { bits: 2 } };
    let codes = Some(NeighborCodes { codes: &codes, rows: &neighbors.items });
    let block = NodeBlock { layout, rows: &nodes, places: &neighbors, codes };
    let centroids = Array2::zeros((1, 90));
    let rabitq = Rabitq::new(4, centroids.view(), 2);
    let (ids, lists): (Vec<u32>, Vec<u32>) = (0..1600).map(|i| (i % 400, 0)).unzip();
    let work = |cuda: &CudaBackend| {
        let resident = cuda.upload(Arc::clone(&rows), Metric::L2).unwrap();
        let codes = cuda.rabitq_encode(&resident, &ids, (centroids.view(), &lists), &rabitq).unwrap();
        (cuda.pack_nodes(&resident, &block).unwrap(), codes)
    };
    assert!(work(&roomy) == work(&tight));
}
