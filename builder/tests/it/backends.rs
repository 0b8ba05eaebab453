//! The same index whatever computes: graphs of integer rows byte for byte, others as good as the processor's.
//!
//! A backend that this machine lacks is skipped, and says why; see `kiln_kernels::conformance_tests!`.

use std::time::{Duration, Instant};

use crate::common::{BruteForce, Built, build_index, clustered, defaults, graph, request, search, vamana};
use kiln_builder::{
    DeviceAnswers, DeviceGraph, Effort, GraphMethod, IndexKind, IndexParams, IvfPqParams, Layout, Navigate, Residency,
    SearchParams, VamanaParams, build,
};
use kiln_datasets::MemorySource;
use kiln_kernels::codec::CodecKind;
use kiln_kernels::conformance::enrolled;
use kiln_kernels::cuda::{CudaBackend, Emulation};
use kiln_kernels::nodes::{Edges, NodeLayout, VectorRecord};
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

/// Integer rows under L2: every stage is exact, so the graphs, and their files, are equal. Neighbours' codes are made of
/// floats: equal where a backend sums as the processor does, else all but one byte in a hundred.
fn makes_the_same_graph(backend: &impl Backend, n: usize, codes_are_equal: bool) {
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
        let (got, expected) = (nodes(&built), nodes(&alone));
        let context = format!("{layout:?} by {}", backend.describe());
        if layout == Layout::Compact || codes_are_equal {
            assert!(got == expected, "{context}");
            continue;
        }
        let record = VectorRecord { dtype: DType::U8, dim: 12, metric: Metric::L2 };
        let nodes = NodeLayout { record, max_degree: 32, edges: Edges::Inline { bits: 2 } };
        assert_eq!(got.len(), nodes.section_bytes(n), "{context}");
        let (mut codes, mut differ) = (0, 0);
        for position in 0..n as u32 {
            let node = |bytes: &[u8]| bytes[nodes.offset(position)..][..nodes.node_bytes()].to_vec();
            let (got, expected) = (node(&got), node(&expected));
            let (head, own) = got.split_at(nodes.codes_at());
            assert!(head == &expected[..nodes.codes_at()], "{context}: node {position}");
            codes += own.len();
            differ += own.iter().zip(&expected[nodes.codes_at()..]).filter(|(a, b)| a != b).count();
        }
        assert!(100 * differ <= codes, "{context}: {differ} of {codes} bytes of codes differ");
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
    let rabitq = IvfPqParams { codec: CodecKind::Rabitq(3), ..crate::common::ivf_pq(40, 3) };
    for params in [defaults(IndexKind::IvfPq, &rows), IndexParams::IvfPq(rabitq)] {
        let built = built_by(backend, &rows, Metric::L2, params);
        let (searcher, exact) = (built.open(Residency::Memory), BruteForce::new(&rows, Metric::L2));
        for query in (0..n).step_by(n / 7) {
            let hits = search(&searcher, &rows, query, 5, crate::common::lists(n, n));
            exact.check(&rows, query, 5, &hits, &backend.describe());
        }
    }
}

macro_rules! backend_tests {
    ($name:ident, $rows:expr, $codes_are_equal:expr, $make:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn graphs_of_integers_are_equal() {
                if let Some(backend) = enrolled(stringify!($name), "graphs of integers", $make) {
                    makes_the_same_graph(&backend, $rows, $codes_are_equal);
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
backend_tests!(out_of_core, 3000, true, Ok::<_, String>(OutOfCore::in_parts_of(CpuBackend::new(), 1500)));
backend_tests!(wgpu, 1500, false, wgpu());
backend_tests!(cuda, 3000, true, CudaBackend::probe());
backend_tests!(cuda_emulated, 1200, true, emulated());

/// A device that walks a graph of integers answers as the processor does, id for id; of others nearly so. One that
/// `walks` by itself says how long that took, less than the whole call.
fn searches_as_the_processor_does(backend: &impl Backend, walks: bool, n: usize) {
    for (dtype, metric, layout) in [
        (DType::U8, Metric::L2, Layout::Compact),
        (DType::I8, Metric::L2, Layout::Inline),
        (DType::F32, Metric::Cosine, Layout::Compact),
        (DType::F16, Metric::InnerProduct, Layout::Compact),
    ] {
        let rows = clustered(dtype, n, 12, 5);
        let built = build_index(&rows, metric, partition(layout));
        let searcher = built.open(Residency::Memory);
        let device = DeviceGraph::open(&searcher, backend).expect("on the device");
        let context = format!("{dtype} {metric} {layout:?} by {}", backend.describe());
        // Floats that bytes hold exactly, too.
        for queries in [clustered(dtype, 40, 12, 6), Rows::F32(clustered(dtype, 40, 12, 6).view().to_f32())] {
            let effort = Effort::Graph { search_list: 16, navigate: Navigate::Exact };
            let params = SearchParams { k: 10, effort };
            let expected = searcher.search_batch(&queries.view(), &params).expect("searched");
            let began = Instant::now();
            let DeviceAnswers { hits: got, on_device } = device.search(&queries.view(), 10, 16).expect("searched");
            assert_eq!(on_device.is_some(), walks, "{context}");
            assert!(on_device.is_none_or(|walks| walks > Duration::ZERO && walks < began.elapsed()), "{context}");
            let (mut same, mut all) = (0, 0);
            for (got, expected) in got.iter().zip(&expected) {
                if metric == Metric::L2 {
                    assert_eq!((&got.ids, &got.distances), (&expected.ids, &expected.distances), "{context}");
                    assert_eq!(got.stats.hops, expected.stats.hops, "{context}");
                }
                same += got.ids.iter().filter(|id| expected.ids.contains(id)).count();
                all += expected.ids.len();
            }
            assert!(same * 100 >= all * 98 && all == 400, "{context}: {same} of {all}");
        }
    }
}

#[test]
fn devices_search_graphs_as_the_processor_does() {
    searches_as_the_processor_does(&CpuBackend::new(), false, 500);
    searches_as_the_processor_does(&OutOfCore::in_parts_of(CpuBackend::new(), 300), false, 500);
    if let Some(backend) = enrolled("wgpu", "graph search", wgpu()) {
        searches_as_the_processor_does(&backend, true, 500);
    }
    if let Some(backend) = enrolled("cuda_emulated", "graph search", emulated()) {
        searches_as_the_processor_does(&backend, true, 300);
    }
}

#[test]
fn what_a_device_cannot_search_is_refused() {
    let rows = clustered(DType::U8, 200, 12, 5);
    let graph = build_index(&rows, Metric::L2, partition(Layout::Compact));
    let cpu = CpuBackend::new();
    let refused =
        |searcher: &kiln_builder::Searcher| DeviceGraph::open(searcher, &cpu).err().expect("refused").to_string();
    assert!(refused(&graph.open(Residency::Ssd)).contains("--residency memory"));
    let lists = build_index(&rows, Metric::L2, defaults(IndexKind::IvfPq, &rows));
    assert!(refused(&lists.open(Residency::Memory)).contains("--index vamana"));
    let searcher = graph.open(Residency::Memory);
    let device = DeviceGraph::open(&searcher, &cpu).expect("on the device");
    let search = |queries: &Rows, k| device.search(&queries.view(), k, 16).expect_err("refused").to_string();
    assert!(search(&clustered(DType::U8, 2, 11, 6), 10).contains("queries of 11 coordinates"));
    assert!(search(&clustered(DType::U8, 2, 12, 6), 0).contains("--k 0"));
    let broken = crate::common::made(2, 12, |i, j| if (i, j) == (1, 3) { f32::NAN } else { 0.0 });
    assert!(search(&broken, 10).contains("query 1: coordinate 3 is not finite"));
    // More than there are rows: all that walks reach.
    let all = device.search(&clustered(DType::U8, 1, 12, 6).view(), 500, 16).expect("searched").hits;
    assert_eq!(all[0].ids.len(), 200);
}
