//! On the demo: both residencies answer alike where they search alike, and recall is what it should be.

use std::path::{Path, PathBuf};

use crate::common::*;
use kiln_builder::{BuildRequest, Effort, Index, IndexKind, IndexParams, Residency, SearchParams, Searcher, build};
use kiln_builder::{IvfPqParams, VamanaParams};
use kiln_datasets::{Dataset, read_all};
use kiln_kernels::pq::CodeBits;
use kiln_kernels::{CpuBackend, DType, Metric, NoProgress, Rows};
use tempfile::TempDir;

struct Demo {
    dataset: Dataset,
    queries: Rows,
}

impl Demo {
    fn open() -> Self {
        let dataset = Dataset::embedded_demo().expect("the demo unpacks");
        let queries = read_all(dataset.queries.as_deref().expect("queries"), |_| ()).expect("read");
        Self { dataset, queries }
    }

    fn params(&self, kind: IndexKind) -> IndexParams {
        IndexParams::defaults(kind, self.dataset.base.len(), self.dataset.base.dim())
    }

    fn built(&self, params: IndexParams) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("demo.kiln");
        let request = BuildRequest {
            source: self.dataset.base.as_ref(),
            dataset_name: self.dataset.name.clone(),
            dataset_fingerprint: self.dataset.fingerprint.clone(),
            metric: Metric::L2,
            params,
            keep_dtype: false,
            out: &path,
        };
        build(&CpuBackend::new(), &request, &NoProgress).expect("built");
        (folder, path)
    }

    /// The share of the ten nearest that are found; of rows at one distance any will do.
    fn recall(&self, index: &Searcher, effort: Effort) -> f64 {
        let truth = self.dataset.truth.as_ref().and_then(|truth| truth.distances.as_ref()).expect("distances");
        let hits = |query: usize| {
            let tenth = truth[(query, 9)];
            let found = search(index, &self.queries, query, 10, effort).distances;
            found.iter().filter(|&&distance| distance <= tenth * (1.0 + 1e-5)).count()
        };
        (0..self.queries.len()).map(hits).sum::<usize>() as f64 / (10 * self.queries.len()) as f64
    }

    /// Answers of both residencies to every `step`-th query, id for id and distance for distance; pages are read from
    /// the drive only.
    fn check_residencies(&self, path: &Path, efforts: &[(Effort, usize)]) {
        let memory = Index::open(path, Residency::Memory).expect("opens");
        let drive = Index::open(path, Residency::Ssd).expect("opens");
        for &(effort, step) in efforts {
            let params = SearchParams { k: 10, effort };
            for query in (0..self.queries.len()).step_by(step) {
                let query = self.queries.view().slice(query..query + 1);
                let from_memory = memory.search(&query, &params).expect("searched");
                let from_drive = drive.search(&query, &params).expect("searched");
                assert_eq!((&from_memory.ids, &from_memory.distances), (&from_drive.ids, &from_drive.distances));
                let (there, here) = (from_memory.stats, from_drive.stats);
                assert_eq!((there.distances, there.hops), (here.distances, here.hops), "{effort:?}");
                assert_eq!((there.pages, there.bytes), (0, 0), "{effort:?}");
                assert!(here.pages > 0 && here.bytes == 4096 * here.pages, "{effort:?}: {here:?}");
            }
        }
        // Buffers are of a size that suits the drive, whatever the index's.
        let kept = |index: &Searcher| index.serving_bytes() - index.serving().buffers;
        assert!(kept(&drive) < kept(&memory));
    }
}

#[test]
fn a_graph_recalls_what_it_should_from_memory_and_drive_alike() {
    let demo = Demo::open();
    let (_folder, path) = demo.built(demo.params(IndexKind::Vamana));
    let index = Index::open(&path, Residency::Memory).expect("opens");
    for (effort, least) in [(graph(10), 0.95), (graph(40), 0.99), (by_codes(60), 0.99), (by_codes(10), 0.5)] {
        let recall = demo.recall(&index, effort);
        assert!(recall >= least, "{effort:?}: {recall}");
    }
    // Navigating exactly reads every neighbour's page: fewer queries will do.
    demo.check_residencies(&path, &[(graph(10), 4), (graph(40), 25)]);
    // By codes the drive is walked by pages, all of whose nodes count.
    let drive = Index::open(&path, Residency::Ssd).expect("opens");
    for effort in [by_codes(10), by_codes(40)] {
        let [here, there] = [&index, &drive].map(|index| demo.recall(index, effort));
        assert!(there >= here, "{effort:?}: {here} in memory, {there} on the drive");
    }
}

#[test]
fn a_graph_by_partition_recalls_what_one_by_insertion_does() {
    let demo = Demo::open();
    let IndexParams::Vamana(params) = demo.params(IndexKind::Vamana) else { unreachable!("a graph") };
    for max_degree in [32, 64] {
        let recalls = METHODS.map(|method| {
            let params = VamanaParams { method, max_degree, ..params.clone() };
            let (_folder, path) = demo.built(IndexParams::Vamana(params));
            let index = Index::open(&path, Residency::Memory).expect("opens");
            [10, 20, 40].map(|search_list| demo.recall(&index, graph(search_list)))
        });
        let [partition, insert] = recalls;
        let close = partition.iter().zip(&insert).all(|(p, i)| *p >= i - 0.01);
        assert!(close, "R {max_degree}: {partition:?} by partition, {insert:?} by insertion");
    }
}

#[test]
fn lists_recall_what_they_should_from_memory_and_drive_alike() {
    let demo = Demo::open();
    let (_folder, path) = demo.built(demo.params(IndexKind::IvfPq));
    let index = Index::open(&path, Residency::Memory).expect("opens");
    for (effort, least) in [(lists(64, 200), 0.98), (lists(16, 200), 0.85), (lists(256, 10_000), 1.0)] {
        let recall = demo.recall(&index, effort);
        assert!(recall >= least, "{effort:?}: {recall}");
    }
    // More lists and more candidates never find less.
    let sweep = [1, 4, 16, 64, 256].map(|nprobe| demo.recall(&index, lists(nprobe, 200)));
    assert!(sweep.is_sorted(), "{sweep:?}");
    demo.check_residencies(&path, &[(lists(1, 10), 1), (lists(64, 40), 1), (lists(64, 500), 20)]);
}

/// Recall of lists whose codes are of another shape.
fn recall_of_codes(change: impl Fn(&mut IvfPqParams), effort: Effort) -> f64 {
    let demo = Demo::open();
    let IndexParams::IvfPq(mut params) = demo.params(IndexKind::IvfPq) else { unreachable!() };
    change(&mut params);
    let (_folder, path) = demo.built(IndexParams::IvfPq(params));
    demo.recall(&Index::open(&path, Residency::Memory).expect("opens"), effort)
}

#[test]
fn codes_of_four_bits_recall_what_they_should() {
    let recall = recall_of_codes(|p| p.bits = CodeBits::Four, lists(64, 200));
    assert!(recall >= 0.98, "{recall}");
}

#[test]
fn rotated_codes_recall_what_they_should() {
    let recall = recall_of_codes(
        |p| {
            p.opq = true;
            p.m = 16;
        },
        lists(64, 200),
    );
    assert!(recall >= 0.98, "{recall}");
}

#[test]
fn sub_spaces_need_not_divide_the_dimension() {
    for bits in [CodeBits::Four, CodeBits::Eight] {
        let change = |p: &mut IvfPqParams| (p.m, p.bits) = (27, bits);
        let recall = recall_of_codes(change, lists(64, 300));
        assert!(recall >= 0.98, "{bits:?}: {recall}");
    }
}

/// The other metrics and types, on less data.
#[test]
fn both_residencies_answer_alike_for_every_metric_and_type() {
    for metric in METRICS {
        for dtype in DTYPES {
            let (rows, queries) = (clustered(dtype, 700, 21, 1), clustered(DType::F32, 25, 21, 9));
            let exact = BruteForce::new(&rows, metric);
            let graph_params = VamanaParams { bits: CodeBits::Four, opq: true, ..vamana(20, 40, 4) };
            for (params, efforts) in [
                (IndexParams::Vamana(graph_params), [graph(15), by_codes(30)]),
                (IndexParams::IvfPq(ivf_pq(12, 4)), [lists(2, 10), lists(12, 100)]),
            ] {
                let built = build_index(&rows, metric, params);
                let (memory, drive) = (built.open(Residency::Memory), built.open(Residency::Ssd));
                for effort in efforts {
                    let (mut here, mut there) = (0, 0);
                    for query in 0..queries.len() {
                        let [a, b] = [&memory, &drive].map(|index| search(index, &queries, query, 10, effort));
                        assert!(a.stats.pages == 0 && b.stats.pages > 0);
                        here += exact.hits(&queries, query, &a);
                        there += exact.hits(&queries, query, &b);
                        if effort != by_codes(30) {
                            assert_eq!((a.ids, a.distances), (b.ids, b.distances), "{metric} {dtype} {effort:?}");
                        }
                    }
                    assert!(there >= here, "{metric} {dtype} {effort:?}: {here} in memory, {there} on the drive");
                }
            }
        }
    }
}
