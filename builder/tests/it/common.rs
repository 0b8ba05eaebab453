//! What the tests of the index share: made-up rows, builds into a folder of their own, and a plain exact search.

use std::path::{Path, PathBuf};

use kiln_builder::{
    BuildReport, BuildRequest, BuilderError, Effort, GraphMethod, Hits, Index, IndexKind, IndexParams, IvfPqParams,
    Layout, Navigate, Residency, SearchParams, Searcher, VamanaParams, build,
};
use kiln_datasets::MemorySource;
use kiln_kernels::codec::CodecKind;
use kiln_kernels::pq::CodeBits;
use kiln_kernels::{CpuBackend, DType, Metric, NoProgress, Rows, f16};
use ndarray::{Array2, ArrayView1};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

pub const KINDS: [IndexKind; 2] = [IndexKind::Vamana, IndexKind::IvfPq];
pub const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];
pub const DTYPES: [DType; 4] = [DType::F32, DType::F16, DType::U8, DType::I8];

/// `n` rows in eight clusters. All types hold the same whole numbers but for u8's shift by 128 and a factor of the
/// floats, so that nothing is rounded.
pub fn clustered(dtype: DType, n: usize, dim: usize, seed: u64) -> Rows {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let centres = Array2::from_shape_fn((8, dim), |_| rng.random_range(-90..=90));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let whole = Array2::from_shape_fn((n, dim), |(i, j)| centres[(i % 8, j)] + rng.random_range(-30..=30));
    match dtype {
        DType::F32 => Rows::F32(whole.mapv(|x| x as f32 / 8.0)),
        DType::F16 => Rows::F16(whole.mapv(|x| f16::from_f32(x as f32 / 8.0))),
        DType::U8 => Rows::U8(whole.mapv(|x| (x + 128) as u8)),
        DType::I8 => Rows::I8(whole.mapv(|x| x as i8)),
    }
}

/// Rows of f32 by a formula.
pub fn made(n: usize, dim: usize, cell: impl Fn(usize, usize) -> f32) -> Rows {
    Rows::F32(Array2::from_shape_fn((n, dim), |(i, j)| cell(i, j)))
}

/// Defaults for a few rows: what they derive is what is tested.
pub fn defaults(kind: IndexKind, rows: &Rows) -> IndexParams {
    IndexParams::defaults(kind, rows.len() as u64, rows.dim())
}

/// A small graph by insertion, quick to build.
pub fn vamana(max_degree: usize, build_list: usize, m: usize) -> VamanaParams {
    VamanaParams {
        method: GraphMethod::Insert,
        max_degree,
        build_list,
        alpha: 1.2,
        layout: Layout::Compact,
        edge_bits: 2,
        m,
        bits: CodeBits::Eight,
        opq: false,
        seed: 42,
    }
}

/// A small graph in the inline layout.
pub fn inline(max_degree: usize, build_list: usize, edge_bits: u8) -> VamanaParams {
    VamanaParams { layout: Layout::Inline, edge_bits, ..vamana(max_degree, build_list, 1) }
}

/// Both ways to build a graph.
pub const METHODS: [GraphMethod; 2] = [GraphMethod::Partition, GraphMethod::Insert];

/// A few lists, quick to build.
pub fn ivf_pq(nlist: usize, m: usize) -> IvfPqParams {
    IvfPqParams { nlist, codec: CodecKind::Pq, m, bits: CodeBits::Eight, soar: false, opq: false, seed: 42 }
}

/// An index file in a folder that goes with it.
pub struct Built {
    pub path: PathBuf,
    pub report: BuildReport,
    pub folder: TempDir,
}

impl Built {
    pub fn open(&self, residency: Residency) -> Searcher {
        Index::open(&self.path, residency).expect("a fresh index opens")
    }

    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).expect("readable")
    }
}

/// A request for an index of `source` at `out`.
pub fn request<'a>(source: &'a MemorySource, metric: Metric, params: IndexParams, out: &'a Path) -> BuildRequest<'a> {
    BuildRequest {
        source,
        dataset_name: "made".to_string(),
        dataset_fingerprint: "0123".to_string(),
        metric,
        params,
        // Each test means the type of the rows that it made.
        keep_dtype: true,
        out,
    }
}

pub fn try_build(rows: &Rows, metric: Metric, params: IndexParams, out: &Path) -> Result<BuildReport, BuilderError> {
    let source = MemorySource::new(rows.clone(), "made-up rows");
    build(&CpuBackend::new(), &request(&source, metric, params, out), &NoProgress)
}

pub fn build_index(rows: &Rows, metric: Metric, params: IndexParams) -> Built {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("x.kiln");
    let report = try_build(rows, metric, params, &path).expect("built");
    Built { path, report, folder }
}

/// Runs `work` on a pool of its own.
pub fn on_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads").install(work)
}

pub fn graph(search_list: usize) -> Effort {
    Effort::Graph { search_list, navigate: Navigate::Exact }
}

pub fn by_codes(search_list: usize) -> Effort {
    Effort::Graph { search_list, navigate: Navigate::Codes }
}

pub fn lists(nprobe: usize, rerank: usize) -> Effort {
    Effort::Lists { nprobe, rerank }
}

/// The effort at which an index of `n` rows misses nothing.
pub fn everything(kind: IndexKind, n: usize) -> Effort {
    match kind {
        IndexKind::Vamana => graph(n),
        IndexKind::IvfPq => lists(n, n),
    }
}

/// Searches for row `query` of `queries`.
pub fn search(searcher: &Searcher, queries: &Rows, query: usize, k: usize, effort: Effort) -> Hits {
    let row = queries.view().slice(query..query + 1);
    searcher.search(&row, &SearchParams { k, effort }).expect("searched")
}

/// Hits without what depends on the clock.
pub fn timeless(hits: &Hits) -> Hits {
    let mut hits = hits.clone();
    hits.stats.io_wait_ns = 0;
    hits
}

/// Reported distance by the definition, in f64.
pub fn distance(metric: Metric, a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> f64 {
    let sum = |term: fn(f64, f64) -> f64| a.iter().zip(b).map(|(&x, &y)| term(x.into(), y.into())).sum::<f64>();
    match metric {
        Metric::L2 => sum(|x, y| (x - y) * (x - y)).sqrt(),
        Metric::InnerProduct => -sum(|x, y| x * y),
        Metric::Cosine => {
            let lengths = (sum(|x, _| x * x) * sum(|_, y| y * y)).sqrt();
            if lengths == 0.0 { 1.0 } else { 1.0 - sum(|x, y| x * y) / lengths }
        }
    }
}

/// Exact answers, the slow and obvious way.
pub struct BruteForce {
    metric: Metric,
    base: Array2<f32>,
}

impl BruteForce {
    pub fn new(base: &Rows, metric: Metric) -> Self {
        Self { metric, base: base.view().to_f32() }
    }

    /// What a sum of f32 products may be off by: it grows with the lengths of the rows, not with their distance.
    fn slack(&self, query: ArrayView1<'_, f32>, row: ArrayView1<'_, f32>, distance: f64) -> f64 {
        let length = |v: ArrayView1<'_, f32>| v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        match self.metric {
            // Differences are taken before they are squared.
            Metric::L2 => 1e-5 * distance.max(1e-3),
            Metric::InnerProduct => 2e-6 * (length(query) * length(row)).max(1e-3),
            Metric::Cosine => 2e-6,
        }
    }

    /// How many of the answers are as near as the k-th nearest row, k being their number.
    pub fn hits(&self, queries: &Rows, query: usize, hits: &Hits) -> usize {
        let wide = queries.view().to_f32();
        let point = wide.row(query);
        let own: Vec<f64> = self.base.outer_iter().map(|row| distance(self.metric, point, row)).collect();
        let mut exact = own.clone();
        exact.sort_by(f64::total_cmp);
        let within = |&&id: &&u64| own[id as usize] <= exact[hits.ids.len() - 1] + 1e-6;
        hits.ids.iter().filter(within).count()
    }

    /// The hits are the min(k, n) nearest rows, nearest first, each once and at its distance; of rows at one
    /// distance any will do.
    pub fn check(&self, queries: &Rows, query: usize, k: usize, hits: &Hits, what: &str) {
        let wide = queries.view().to_f32();
        let point = wide.row(query);
        let mut exact: Vec<f64> = self.base.outer_iter().map(|row| distance(self.metric, point, row)).collect();
        let own = exact.clone();
        exact.sort_by(f64::total_cmp);
        assert_eq!(hits.ids.len(), k.min(exact.len()), "{what}, query {query}: number of answers");
        assert_eq!(hits.distances.len(), hits.ids.len());
        let mut distinct = hits.ids.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), hits.ids.len(), "{what}, query {query}: a row is named twice");
        assert!(hits.distances.is_sorted(), "{what}, query {query}: {:?}", hits.distances);
        for (rank, (&id, &reported)) in hits.ids.iter().zip(&hits.distances).enumerate() {
            let slack = self.slack(point, self.base.row(id as usize), own[id as usize]);
            let near = |expected: f64| (f64::from(reported) - expected).abs() <= slack;
            assert!(near(own[id as usize]), "{what}, query {query}: row {id} at {}, not {reported}", own[id as usize]);
            assert!(near(exact[rank]), "{what}, query {query}: rank {rank} is at {}, not {reported}", exact[rank]);
        }
    }
}
