//! Searches on the drive answer as their slow twin does, whatever carries the reads, in whatever order they complete, and
//! in whatever company.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_datasets::MemorySource;
use kiln_kernels::pq::CodeBits;
use kiln_kernels::{CpuBackend, DType, Metric, NoProgress, Rows, RowsView};
use ndarray::Array2;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::nodes::Nodes;
use super::search::{VamanaIndex, VamanaScratch};
use crate::build::{BuildRequest, build};
use crate::error::BuilderError;
use crate::file::reader::IndexFile;
use crate::io::faults::Faults;
use crate::params::{GraphMethod, IndexParams, Layout, VamanaParams};
use crate::search_types::{DriveReads, Hits, IoEngine, Navigate, OpenParams, Residency};

const N: usize = 1200;

/// Rows in eight clusters.
fn clustered(n: usize, dim: usize, seed: u64) -> Rows {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let centres = Array2::from_shape_fn((8, dim), |_| rng.random_range(-90..=90));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Rows::I8(Array2::from_shape_fn((n, dim), |(i, j)| (centres[(i % 8, j)] + rng.random_range(-30..=30)) as i8))
}

struct Built {
    _folder: tempfile::TempDir,
    path: PathBuf,
    queries: Rows,
}

impl Built {
    fn query(&self, at: usize) -> RowsView<'_> {
        self.queries.view().slice(at..at + 1)
    }
}

fn built(metric: Metric, layout: Layout, dim: usize, max_degree: usize) -> Built {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("x.kiln");
    let source = MemorySource::new(clustered(N, dim, 1), "made-up rows");
    let params = VamanaParams {
        method: GraphMethod::Insert,
        max_degree,
        build_list: 40,
        alpha: 1.2,
        layout,
        edge_bits: 2,
        m: dim.div_ceil(4),
        bits: if dim > 40 { CodeBits::Four } else { CodeBits::Eight },
        opq: false,
        seed: 42,
    };
    let request = BuildRequest {
        source: &source,
        dataset_name: "made".into(),
        dataset_fingerprint: "0".into(),
        metric,
        params: IndexParams::Vamana(params),
        keep_dtype: true,
        out: &path,
    };
    build(&CpuBackend::new(), &request, &NoProgress).expect("built");
    Built { _folder: folder, path, queries: clustered(40, dim, 9) }
}

/// Several nodes a page, one, and several pages a node.
fn graphs() -> Vec<Built> {
    vec![
        built(Metric::L2, Layout::Compact, 24, 24),
        built(Metric::Cosine, Layout::Inline, 20, 16),
        built(Metric::InnerProduct, Layout::Compact, 1700, 16),
        built(Metric::L2, Layout::Inline, 1100, 16),
    ]
}

fn open(path: &Path, params: &OpenParams) -> Result<VamanaIndex, BuilderError> {
    let file = IndexFile::open(path)?;
    let meta = file.meta()?;
    VamanaIndex::open(file, &meta, params)
}

fn on_drive(io: IoEngine) -> OpenParams {
    OpenParams { io, ..Residency::Ssd.into() }
}

fn misbehave(index: &mut VamanaIndex, faults: Faults) {
    let Nodes::Drive(graph) = &mut index.nodes else { panic!("not on the drive") };
    Arc::get_mut(&mut graph.nodes.drive).expect("no queue yet").misbehave(faults);
}

/// Answers without what depends on the clock.
fn timeless(hits: Hits) -> Hits {
    Hits { stats: crate::search_types::QueryStats { io_wait_ns: 0, ..hits.stats }, ..hits }
}

fn batch(index: &VamanaIndex, queries: &RowsView<'_>, list: usize) -> Result<Vec<Hits>, BuilderError> {
    let hits = index.search_batch(queries, 10, list, Navigate::Best, &mut VamanaScratch::default())?;
    Ok(hits.into_iter().map(timeless).collect())
}

#[test]
fn the_engine_answers_as_its_twin_does_whatever_the_drive_does() {
    let graphs = graphs();
    let config = ProptestConfig::with_cases(16);
    let faults = (0..50u32, 0..50u32, 0..95u32, any::<u64>());
    proptest!(config, |((short, put_off, delayed, seed) in faults, list in 1..80usize, first in 0..30usize, cached: bool)| {
        for graph in &graphs {
            let plain = open(&graph.path, &on_drive(IoEngine::Pread)).expect("opens");
            let number = first..graph.queries.len();
            let expected: Vec<Hits> = number.clone()
                .map(|at| plain.search_plainly(&graph.query(at), 10, list.max(10)).expect("searched"))
                .collect();
            for io in [IoEngine::Auto, IoEngine::Pread] {
                let reads = if cached { DriveReads::Cached } else { DriveReads::Direct };
                let mut index = open(&graph.path, &OpenParams { reads, ..on_drive(io) }).expect("opens");
                misbehave(&mut index, Faults { short, put_off, delayed, seed, ..Faults::default() });
                let together = batch(&index, &graph.queries.view().slice(number.clone()), list).expect("searched");
                prop_assert_eq!(&together, &expected);
                let mut scratch = VamanaScratch::default();
                for (at, expected) in number.clone().zip(&expected).step_by(5) {
                    let alone = index.search(&graph.query(at), 10, list, Navigate::Codes, &mut scratch).expect("searched");
                    prop_assert_eq!(&timeless(alone), expected);
                }
            }
        }
    });
}

#[test]
fn pinned_pages_spare_reads_and_change_no_answer() {
    for graph in graphs() {
        let free = open(&graph.path, &on_drive(IoEngine::Auto)).expect("opens");
        let Nodes::Drive(on) = &free.nodes else { panic!("not on the drive") };
        let everything = std::fs::metadata(&graph.path).expect("there").len() * 2;
        let buffers = std::thread::available_parallelism().map_or(1, usize::from)
            * super::drivers::depth(&on.nodes, super::drivers::LEAST_IN_TURN).pages;
        let least = free.serving().total() + (buffers * 4096) as u64;
        let expected = batch(&free, &graph.queries.view(), 30).expect("searched");
        let mut reads = Vec::new();
        for memory in [least, least + 10 * 4096 * on.nodes.span(0).pages as u64, least + everything] {
            let index =
                open(&graph.path, &OpenParams { memory: Some(memory), ..on_drive(IoEngine::Auto) }).expect("opens");
            let serving = index.serving();
            assert!(serving.total() <= memory, "{serving:?} in {memory}");
            let found = batch(&index, &graph.queries.view(), 30).expect("searched");
            assert!(index.serving().total() <= memory);
            let plainly = timeless(index.search_plainly(&graph.query(3), 10, 30).expect("searched"));
            assert_eq!(plainly, found[3]);
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!((&found.ids, &found.distances), (&expected.ids, &expected.distances));
                assert_eq!((found.stats.hops, found.stats.distances), (expected.stats.hops, expected.stats.distances));
                assert_eq!(found.stats.pages + found.stats.cache_hits, expected.stats.pages);
            }
            reads.push(found.iter().map(|hits| hits.stats.pages).sum::<u64>());
        }
        assert!(reads[0] > reads[1] && reads[1] > reads[2], "{reads:?}");
        let message = open(&graph.path, &OpenParams { memory: Some(least - 1), ..on_drive(IoEngine::Auto) })
            .map(drop)
            .expect_err("too little")
            .to_string();
        assert!(message.contains("x.kiln: --memory") && message.contains("row numbers"), "{message}");
    }
}

#[test]
fn a_bad_page_costs_the_queries_that_read_it() {
    let graph = built(Metric::L2, Layout::Compact, 24, 24);
    let sound = open(&graph.path, &on_drive(IoEngine::Auto)).expect("opens");
    let Nodes::Drive(on) = &sound.nodes else { panic!("not on the drive") };
    let expected = batch(&sound, &graph.queries.view(), 10).expect("searched");
    let first = on.nodes.span(0).first;
    let (mut spared, mut spoiled) = (0, 0);
    for page in (first..first + u64::from(on.nodes.groups())).step_by(3) {
        for (flip, io) in [(true, IoEngine::Auto), (false, IoEngine::Auto), (true, IoEngine::Pread)] {
            let mut index = open(&graph.path, &on_drive(io)).expect("opens");
            let (bad, none) = ([page].into(), [].into());
            let (flipped, unreadable) = if flip { (bad, none) } else { (none, bad) };
            misbehave(&mut index, Faults { flipped, unreadable, delayed: 60, seed: page, ..Faults::default() });
            let mut scratch = VamanaScratch::default();
            let mut first_message = None;
            for (at, expected) in expected.iter().enumerate() {
                match index.search(&graph.query(at), 10, 10, Navigate::Best, &mut scratch) {
                    Ok(found) => {
                        assert_eq!(&timeless(found), expected, "page {page}, query {at}");
                        spared += 1;
                    }
                    Err(error) => {
                        let message = error.to_string();
                        assert!(
                            message.contains("x.kiln") && message.contains(&format!("page {page} (byte")),
                            "{message}"
                        );
                        first_message.get_or_insert(message);
                        spoiled += 1;
                    }
                }
            }
            let together = batch(&index, &graph.queries.view(), 10).map(drop).map_err(|error| error.to_string());
            assert_eq!(together.err(), first_message);
            let counted = index.drive().expect("on the drive").counters().snapshot();
            assert_eq!(counted.crc_failures + counted.io_errors > 0, first_message.is_some());
        }
    }
    assert!(spared > 0 && spoiled > 0, "{spared} and {spoiled}");
}

#[test]
fn recall_on_the_drive_is_not_below_that_in_memory() {
    for (layout, dim) in [(Layout::Compact, 24), (Layout::Inline, 48)] {
        let graph = built(Metric::L2, layout, dim, 32);
        let memory = open(&graph.path, &Residency::Memory.into()).expect("opens");
        let drive = open(&graph.path, &on_drive(IoEngine::Auto)).expect("opens");
        let rows = clustered(N, dim, 1);
        let (wide, queries) = (rows.view().to_f32(), graph.queries.view().to_f32());
        let recall = |index: &VamanaIndex| {
            let mut found = 0;
            for at in 0..graph.queries.len() {
                let mut scratch = VamanaScratch::default();
                let hits = index.search(&graph.query(at), 10, 12, Navigate::Codes, &mut scratch).expect("searched");
                let distance = |row: usize| (&wide.row(row) - &queries.row(at)).mapv(|x| x * x).sum();
                let mut exact: Vec<f32> = (0..N).map(distance).collect();
                exact.sort_by(f32::total_cmp);
                found += hits.ids.iter().filter(|&&id| distance(id as usize) <= exact[9]).count();
            }
            found
        };
        let (here, there) = (recall(&memory), recall(&drive));
        assert!(there >= here && there > 300, "{layout:?}: {there} of 400 on the drive, {here} in memory");
    }
}

#[test]
fn a_query_that_is_none_fails_alone_and_as_the_first() {
    let graph = built(Metric::L2, Layout::Compact, 24, 24);
    let index = open(&graph.path, &on_drive(IoEngine::Auto)).expect("opens");
    let mut wrong = graph.queries.view().to_f32();
    wrong[(17, 3)] = f32::NAN;
    wrong[(30, 2)] = f32::INFINITY;
    let wrong = Rows::F32(wrong);
    let error = batch(&index, &wrong.view(), 10).map(drop).expect_err("not finite").to_string();
    assert!(error.contains("coordinate 3 "), "{error}");
    assert_eq!(batch(&index, &wrong.view().slice(0..17), 10).expect("searched").len(), 17);
    assert!(batch(&index, &Rows::zeros(DType::F32, 0, 24).view(), 10).expect("nothing to do").is_empty());
}
