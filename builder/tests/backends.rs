//! The same index whatever computes: graphs of integer rows byte for byte, others as good as the processor's.
//!
//! A backend that this machine lacks is skipped, and says why; see `kiln_kernels::conformance_tests!`.

mod common;

use common::{BruteForce, Built, build_index, clustered, defaults, graph, request, search, vamana};
use kiln_builder::{GraphMethod, IndexKind, IndexParams, Layout, Residency, VamanaParams, build};
use kiln_datasets::MemorySource;
use kiln_kernels::conformance::enrolled;
use kiln_kernels::cuda::{CudaBackend, Emulation};
use kiln_kernels::wgpu::{WgpuBackend, WgpuOptions};
use kiln_kernels::{Backend, CpuBackend, DType, Metric, NoProgress, OutOfCore, Rows};

fn wgpu() -> Result<WgpuBackend, String> {
    WgpuBackend::probe(&WgpuOptions { software: true, ..WgpuOptions::default() })
}

fn emulated() -> Result<CudaBackend, String> {
    CudaBackend::emulated(Emulation::default())
}

fn built_by(backend: &impl Backend, rows: &Rows, metric: Metric, params: IndexParams) -> Built {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (path, source) = (folder.path().join("x.kiln"), MemorySource::new(rows.clone(), "made-up rows"));
    let report = build(backend, &request(&source, metric, params, &path), &NoProgress).expect("built");
    Built { path, report, folder }
}

fn partition(layout: Layout) -> IndexParams {
    let max_degree = if layout == Layout::Inline { 32 } else { 16 };
    IndexParams::Vamana(VamanaParams { method: GraphMethod::Partition, layout, ..vamana(max_degree, 40, 3) })
}

/// Integer rows under L2: every stage is exact, so the graphs, and their files, are equal.
fn makes_the_same_graph(backend: &impl Backend, n: usize) {
    let rows = clustered(DType::U8, n, 12, 5);
    for layout in [Layout::Compact, Layout::Inline] {
        let alone = build_index(&rows, Metric::L2, partition(layout));
        let built = built_by(backend, &rows, Metric::L2, partition(layout));
        // Codes of the compact layout are trained on floats; the rest is decided by integers.
        let nodes = |built: &Built| {
            let file = built.bytes();
            let sections = kiln_builder::inspect(&built.path).expect("readable").sections;
            let nodes = sections.into_iter().find(|section| section.name == "nodes").expect("nodes");
            file[nodes.offset as usize..][..nodes.length as usize].to_vec()
        };
        assert!(nodes(&built) == nodes(&alone), "{layout:?} by {}", backend.describe());
    }
}

/// Float rows: searches find as much as they do in the processor's graph.
fn makes_as_good_a_graph(backend: &impl Backend, n: usize) {
    for (metric, dtype) in [(Metric::Cosine, DType::F32), (Metric::InnerProduct, DType::F16)] {
        let (rows, queries) = (clustered(dtype, n, 16, 3), clustered(dtype, 40, 16, 4));
        let found = |built: &Built| {
            let searcher = built.open(Residency::Memory);
            let exact = BruteForce::new(&rows, metric);
            (0..queries.len())
                .map(|query| exact.hits(&queries, query, &search(&searcher, &queries, query, 10, graph(16))))
                .sum::<usize>()
        };
        let own = found(&built_by(backend, &rows, metric, partition(Layout::Compact)));
        let cpu = found(&build_index(&rows, metric, partition(Layout::Compact)));
        assert!(
            own + 8 >= cpu,
            "{metric} {dtype} by {}: {own} of 400 found, {cpu} by the processor",
            backend.describe()
        );
    }
}

/// Inverted lists, searched whole, answer exactly.
fn makes_whole_lists(backend: &impl Backend, n: usize) {
    let rows = clustered(DType::U8, n, 12, 5);
    let built = built_by(backend, &rows, Metric::L2, defaults(IndexKind::IvfPq, &rows));
    let (searcher, exact) = (built.open(Residency::Memory), BruteForce::new(&rows, Metric::L2));
    for query in (0..n).step_by(n / 7) {
        let hits = search(&searcher, &rows, query, 5, common::lists(n, n));
        exact.check(&rows, query, 5, &hits, &backend.describe());
    }
}

macro_rules! backend_tests {
    ($name:ident, $rows:expr, $make:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn graphs_of_integers_are_equal() {
                if let Some(backend) = enrolled(stringify!($name), "graphs of integers", $make) {
                    makes_the_same_graph(&backend, $rows);
                }
            }

            #[test]
            fn graphs_of_floats_are_as_good() {
                if let Some(backend) = enrolled(stringify!($name), "graphs of floats", $make) {
                    makes_as_good_a_graph(&backend, $rows);
                }
            }

            #[test]
            fn lists_answer_exactly() {
                if let Some(backend) = enrolled(stringify!($name), "inverted lists", $make) {
                    makes_whole_lists(&backend, $rows);
                }
            }
        }
    };
}

// Enough rows for a split into clusters; the emulator takes its time.
backend_tests!(out_of_core, 3000, Ok::<_, String>(OutOfCore::in_parts_of(CpuBackend::new(), 1500)));
backend_tests!(wgpu, 1500, wgpu());
backend_tests!(cuda, 3000, CudaBackend::probe());
backend_tests!(cuda_emulated, 1200, emulated());
