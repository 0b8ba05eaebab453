//! Devices that fail midway: the next takes over, and the index is the one that it would have made alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{build_index, clustered, defaults, ivf_pq, request, vamana};
use kiln_builder::{BuilderError, GraphMethod, IndexKind, IndexParams, IvfPqParams, Layout, VamanaParams, build};
use kiln_datasets::MemorySource;
use kiln_kernels::candidates::HostCandidates;
use kiln_kernels::codec::{CodecKind, Rabitq};
use kiln_kernels::cpu::CpuRows;
use kiln_kernels::pq::ProductQuantizer;
use kiln_kernels::{
    Backend, BackendError, CandidateParams, Candidates, Ceilings, CpuBackend, DType, Devices, KMeansStep, Lists,
    Metric, Neighbors, NoProgress, NodeBlock, PruneParams, Rows, Scored,
};
use ndarray::{Array2, ArrayView2};

/// What a [`Faulty`] device says when it fails.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Lost,
    OutOfMemory,
}

/// The processor, until it has been asked for so many stages.
struct Faulty {
    inner: CpuBackend,
    left: AtomicUsize,
    fault: Fault,
}

impl Faulty {
    fn after(stages: usize, fault: Fault) -> Self {
        Self { inner: CpuBackend::new(), left: AtomicUsize::new(stages), fault }
    }

    fn ask(&self, operation: &'static str) -> Result<&CpuBackend, BackendError> {
        let device = "faulty".to_string();
        match (self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)), self.fault) {
            (Ok(_), _) => Ok(&self.inner),
            (Err(_), Fault::Lost) => Err(BackendError::Lost { device, operation, problem: "pulled out".into() }),
            (Err(_), Fault::OutOfMemory) => Err(BackendError::OutOfMemory { device, operation, bytes: 1 << 30 }),
        }
    }
}

impl Backend for Faulty {
    type Rows = CpuRows;

    fn describe(&self) -> String {
        "faulty".into()
    }

    fn ceilings(&self) -> Result<Ceilings, BackendError> {
        self.ask("ceilings")?.ceilings()
    }

    fn upload(&self, rows: Arc<Rows>, metric: Metric) -> Result<CpuRows, BackendError> {
        self.ask("upload")?.upload(rows, metric)
    }

    fn nearest(&self, queries: &CpuRows, base: &CpuRows, k: usize) -> Result<Neighbors, BackendError> {
        self.ask("nearest")?.nearest(queries, base, k)
    }

    fn gather_distances(
        &self,
        queries: &CpuRows,
        base: &CpuRows,
        lists: &Lists<u32>,
    ) -> Result<Vec<f32>, BackendError> {
        self.ask("gather distances")?.gather_distances(queries, base, lists)
    }

    fn leaf_neighbors(&self, rows: &CpuRows, leaves: &Lists<u32>, k: usize) -> Result<Lists<Scored>, BackendError> {
        self.ask("leaf neighbors")?.leaf_neighbors(rows, leaves, k)
    }

    fn nearest_leaders(
        &self,
        rows: &CpuRows,
        points: &[u32],
        leaders: &[u32],
        k: usize,
    ) -> Result<Vec<u32>, BackendError> {
        self.ask("nearest leaders")?.nearest_leaders(rows, points, leaders, k)
    }

    fn robust_prune(
        &self,
        base: &CpuRows,
        points: &[u32],
        candidates: &Lists<u32>,
        params: PruneParams,
    ) -> Result<Lists<u32>, BackendError> {
        self.ask("robust prune")?.robust_prune(base, points, candidates, params)
    }

    fn kmeans_step(&self, points: &CpuRows, centroids: ArrayView2<'_, f32>) -> Result<KMeansStep, BackendError> {
        self.ask("k-means step")?.kmeans_step(points, centroids)
    }

    fn pq_encode(
        &self,
        rows: &CpuRows,
        residual_to: Option<(ArrayView2<'_, f32>, &[u32])>,
        pq: &ProductQuantizer,
    ) -> Result<Array2<u8>, BackendError> {
        self.ask("pq encode")?.pq_encode(rows, residual_to, pq)
    }

    fn pack_nodes(&self, rows: &CpuRows, nodes: &NodeBlock<'_>) -> Result<Vec<u8>, BackendError> {
        self.ask("pack nodes")?.pack_nodes(rows, nodes)
    }

    fn rabitq_encode(
        &self,
        rows: &CpuRows,
        ids: &[u32],
        residual_to: (ArrayView2<'_, f32>, &[u32]),
        rabitq: &Rabitq,
    ) -> Result<Array2<u8>, BackendError> {
        self.ask("rabitq encode")?.rabitq_encode(rows, ids, residual_to, rabitq)
    }

    fn candidates<'a>(
        &'a self,
        rows: &'a CpuRows,
        params: CandidateParams,
    ) -> Result<Box<dyn Candidates + 'a>, BackendError> {
        Ok(Box::new(HostCandidates::new(self, rows, params)))
    }
}

/// Enough rows that they are split, and clusters of several batches.
fn base() -> Rows {
    clustered(DType::U8, 3000, 12, 5)
}

fn kinds(rows: &Rows) -> [IndexParams; 4] {
    let graph = VamanaParams { method: GraphMethod::Partition, ..vamana(16, 40, 3) };
    let inline = VamanaParams { layout: Layout::Inline, ..graph.clone() };
    let lists = IvfPqParams { codec: CodecKind::Rabitq(3), ..ivf_pq(6, 3) };
    let defaults = defaults(IndexKind::IvfPq, rows);
    [IndexParams::Vamana(graph), IndexParams::Vamana(inline), defaults, IndexParams::IvfPq(lists)]
}

fn built_on(devices: &Devices, rows: &Rows, params: IndexParams) -> Result<(Vec<u8>, String), BuilderError> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (path, source) = (folder.path().join("x.kiln"), MemorySource::new(rows.clone(), "made-up rows"));
    let report = build(devices, &request(&source, Metric::L2, params, &path), &NoProgress)?;
    Ok((std::fs::read(&path).expect("readable"), report.device))
}

#[test]
fn whenever_a_device_fails_the_next_makes_the_same_index() {
    let rows = base();
    for params in kinds(&rows) {
        let alone = build_index(&rows, Metric::L2, params.clone()).bytes();
        let mut failed = 0;
        for stages in 0.. {
            let fault = if stages % 2 == 0 { Fault::Lost } else { Fault::OutOfMemory };
            let devices = Devices::new(Faulty::after(stages, fault)).or(CpuBackend::new());
            let (bytes, device) = built_on(&devices, &rows, params.clone()).expect("the processor goes on");
            assert!(bytes == alone, "{params:?} after {stages} stages");
            if device == "faulty" {
                // It was never asked for more.
                break;
            }
            assert!(device.starts_with("cpu ("), "{device}");
            failed += 1;
        }
        assert!(failed >= 4, "{params:?}: {failed} stages");
    }
}

#[test]
fn where_no_device_is_left_the_last_failure_is_the_error() {
    let rows = base();
    for params in kinds(&rows) {
        let devices = Devices::new(Faulty::after(2, Fault::OutOfMemory)).or(Faulty::after(3, Fault::Lost));
        let error = built_on(&devices, &rows, params).expect_err("both fail");
        assert!(matches!(error, BuilderError::Backend(BackendError::Lost { .. })), "{error:?}");
        assert!(error.to_string().contains("faulty was lost in"), "{error}");
    }
}

#[test]
fn an_operand_that_does_not_fit_is_no_fault_of_the_device() {
    let devices = Devices::new(Faulty::after(9, Fault::Lost)).or(CpuBackend::new());
    let rows = devices.upload(Arc::new(base()), Metric::L2).expect("uploaded");
    let lists: Lists<u32> = [vec![0]].into_iter().collect();
    let error = devices.gather_distances(&rows, &rows, &lists).expect_err("one list for many queries");
    assert!(matches!(error, BackendError::Shape { .. }), "{error:?}");
    assert_eq!(devices.describe(), "faulty");
}
