//! The CUDA backend: kernels of `kernels/cuda`, run through a thin layer over the driver.
//!
//! Rows stay on the device in their own type. Every float that a stage returns comes from kernels that sum in f32 (or
//! exactly, for integers) in a fixed order: results depend neither on how blocks are scheduled nor on how work was split
//! into batches. A stage that needs more memory than the device has left halves its batch, and goes on.

mod argmin;
mod driver;
mod encode;
mod gather;
mod kmeans;
mod leaves;
mod measure;
mod nearest;
mod pack;
mod product;
mod prune;
mod rabitq;
mod reservoir;
mod reverse;
mod rotate;
mod rows;
#[cfg(test)]
mod tests;
mod walk;

use std::sync::Arc;

use ndarray::{Array2, ArrayView2};

use crate::adjacency::Adjacency;
use crate::backend::{Backend, BackendError, Ceilings, KMeansStep, Lists, PruneParams};
use crate::candidates::{CandidateParams, Candidates};
use crate::checks::{check_encoding, check_ids, check_rabitq, same_count, same_dim, some_centroids};
use crate::codec::Rabitq;
use crate::graph_search::{self, GraphNeighbors, GraphSearchParams};
use crate::metric::Metric;
use crate::nodes::{NodeBlock, VectorRecord};
use crate::pq::ProductQuantizer;
use crate::progress::Progress;
use crate::resident_graph::ResidentGraph;
use crate::reverse::Pruned;
use crate::rows::Rows;
use crate::topk::{Neighbors, Scored};

pub use driver::Properties;
#[cfg(feature = "cuda-emulation")]
pub use driver::emulated::Emulation;
pub use rows::CudaRows;

use driver::{Arg, Gpu};

/// A CUDA device that has proven to compute.
#[derive(Debug, Clone)]
pub struct CudaBackend {
    gpu: Gpu,
}

impl CudaBackend {
    /// The first CUDA device, or in one line why there is none to use.
    pub fn probe() -> Result<Self, String> {
        Self::probe_with_memory(None)
    }

    /// The same, with a limit on the device memory that Kiln may take, bytes.
    pub fn probe_with_memory(device_memory: Option<u64>) -> Result<Self, String> {
        Self::proven(Gpu::probe(device_memory)?)
    }

    /// The same kernels on the emulator, or in one line why it cannot run here.
    #[cfg(feature = "cuda-emulation")]
    pub fn emulated(emulation: Emulation) -> Result<Self, String> {
        Self::proven(Gpu::emulated(emulation)?)
    }

    /// What the device is.
    pub fn properties(&self) -> &Properties {
        self.gpu.properties()
    }

    /// A backend on a device that computes `a x + i` rightly.
    fn proven(gpu: Gpu) -> Result<Self, String> {
        const OPERATION: &str = "self-test";
        const N: usize = 1000;
        let computed = || -> Result<Vec<f32>, BackendError> {
            let x = gpu.upload(OPERATION, &[0.5f32; N])?;
            let out = gpu.alloc::<f32>(OPERATION, N)?;
            let args = [(&x).into(), (&out).into(), Arg::F32(4.0), Arg::U32(N as u32)];
            gpu.launch(OPERATION, "selftest_saxpy", [N.div_ceil(256) as u32, 1, 1], 256, 0, &args)?;
            gpu.download(OPERATION, &out, 0..N)
        };
        let out = computed().map_err(|error| error.to_string())?;
        match out.iter().enumerate().find(|&(i, &value)| value != 2.0 + i as f32) {
            None => Ok(Self { gpu }),
            Some((i, value)) => {
                Err(format!("{}: computes wrongly: {value} where {i} + 2 is due", gpu.properties().name))
            }
        }
    }
}

impl Backend for CudaBackend {
    type Rows = CudaRows;

    fn describe(&self) -> String {
        let Properties { name, capability: (major, minor), memory, .. } = self.properties();
        format!("cuda ({name}, {:.0} GiB, compute capability {major}.{minor})", *memory as f64 / f64::from(1 << 30))
    }

    fn ceilings(&self) -> Result<Ceilings, BackendError> {
        Ok(Ceilings { copy_bandwidth: self.copy_bandwidth()?, matrix_rate: self.matrix_rate()? })
    }

    fn upload(&self, rows: Arc<Rows>, metric: Metric) -> Result<CudaRows, BackendError> {
        CudaRows::upload(&self.gpu, &rows, metric)
    }

    fn nearest(&self, queries: &CudaRows, base: &CudaRows, k: usize) -> Result<Neighbors, BackendError> {
        same_dim("nearest", queries.dim, base.dim)?;
        nearest::nearest(&self.gpu, queries, base, k)
    }

    fn gather_distances(
        &self,
        queries: &CudaRows,
        base: &CudaRows,
        lists: &Lists<u32>,
    ) -> Result<Vec<f32>, BackendError> {
        same_dim("gather distances", queries.dim, base.dim)?;
        same_count("gather distances", "list", lists.len(), "query", queries.n)?;
        check_ids("gather distances", lists.items.iter().copied(), base.n)?;
        gather::gather_distances(&self.gpu, queries, base, lists)
    }

    fn leaf_neighbors(&self, rows: &CudaRows, leaves: &Lists<u32>, k: usize) -> Result<Lists<Scored>, BackendError> {
        check_ids("leaf neighbors", leaves.items.iter().copied(), rows.n)?;
        leaves::leaf_neighbors(&self.gpu, rows, leaves, k)
    }

    fn nearest_leaders(
        &self,
        rows: &CudaRows,
        points: &[u32],
        leaders: &[u32],
        k: usize,
    ) -> Result<Vec<u32>, BackendError> {
        check_ids("nearest leaders", points.iter().chain(leaders).copied(), rows.n)?;
        let k = k.min(leaders.len());
        if k == 0 {
            return Ok(Vec::new());
        }
        leaves::nearest_leaders(&self.gpu, rows, points, leaders, k)
    }

    fn robust_prune(
        &self,
        base: &CudaRows,
        points: &[u32],
        candidates: &Lists<u32>,
        params: PruneParams,
    ) -> Result<Lists<u32>, BackendError> {
        same_count("robust prune", "candidate list", candidates.len(), "point", points.len())?;
        check_ids("robust prune", points.iter().chain(&candidates.items).copied(), base.n)?;
        prune::robust_prune(&self.gpu, base, points, candidates, params)
    }

    fn kmeans_step(&self, points: &CudaRows, centroids: ArrayView2<'_, f32>) -> Result<KMeansStep, BackendError> {
        same_dim("k-means step", points.dim, centroids.ncols())?;
        some_centroids(centroids)?;
        kmeans::kmeans_step(&self.gpu, points, centroids)
    }

    fn pq_encode(
        &self,
        rows: &CudaRows,
        residual_to: Option<(ArrayView2<'_, f32>, &[u32])>,
        pq: &ProductQuantizer,
    ) -> Result<Array2<u8>, BackendError> {
        check_encoding(rows.n, rows.dim, residual_to, pq)?;
        encode::pq_encode(&self.gpu, rows, residual_to, pq)
    }

    fn pack_nodes(&self, rows: &CudaRows, nodes: &NodeBlock<'_>) -> Result<Vec<u8>, BackendError> {
        nodes.check(rows.n, VectorRecord { dtype: rows.dtype, dim: rows.dim, metric: rows.metric })?;
        pack::pack_nodes(&self.gpu, rows, nodes)
    }

    fn rabitq_encode(
        &self,
        rows: &CudaRows,
        ids: &[u32],
        residual_to: (ArrayView2<'_, f32>, &[u32]),
        rabitq: &Rabitq,
    ) -> Result<Array2<u8>, BackendError> {
        check_rabitq(rows.n, rows.dim, ids, residual_to, rabitq)?;
        rabitq::rabitq_encode(&self.gpu, rows, ids, residual_to, rabitq)
    }

    fn candidates<'a>(
        &'a self,
        rows: &'a CudaRows,
        params: CandidateParams,
    ) -> Result<Box<dyn Candidates + 'a>, BackendError> {
        Ok(Box::new(reservoir::CudaReservoirs::new(&self.gpu, rows, params)?))
    }

    fn reverse_edges(
        &self,
        rows: &CudaRows,
        pruned: &Pruned,
        params: PruneParams,
        progress: &dyn Progress,
    ) -> Result<Adjacency, BackendError> {
        pruned.check(rows.n, params)?;
        match reverse::DevicePruned::upload(&self.gpu, pruned) {
            Ok(device) => self.graph_of(rows, &device, params, progress),
            Err(BackendError::OutOfMemory { .. }) => {
                crate::reverse::reverse_edges(self, rows, pruned, params, progress)
            }
            Err(error) => Err(error),
        }
    }

    fn upload_graph(&self, graph: Arc<Adjacency>) -> Result<ResidentGraph, BackendError> {
        let graph = ResidentGraph::new(graph)?;
        match walk::DeviceEdges::upload(&self.gpu, graph.host()) {
            Ok(edges) => Ok(graph.with_part(edges)),
            Err(BackendError::OutOfMemory { bytes, .. }) => {
                tracing::info!("{}: {bytes} bytes more than it holds: the graph stays here", self.describe());
                Ok(graph)
            }
            Err(error) => Err(error),
        }
    }

    fn graph_search(
        &self,
        base: &CudaRows,
        graph: &ResidentGraph,
        entries: &Lists<u32>,
        queries: &CudaRows,
        params: GraphSearchParams,
    ) -> Result<GraphNeighbors, BackendError> {
        const OPERATION: &str = graph_search::OPERATION;
        same_dim(OPERATION, queries.dim, base.dim)?;
        same_count(OPERATION, "list of entries", entries.len(), "query", queries.n)?;
        same_count(OPERATION, "row of the graph", graph.host().len(), "base row", base.n)?;
        check_ids(OPERATION, entries.items.iter().copied(), base.n)?;
        if params.list_size == 0 {
            return Ok(GraphNeighbors::padded(queries.n, params.k));
        }
        let there: Option<&walk::DeviceEdges> = graph.part();
        match there.map(|edges| walk::graph_search(&self.gpu, base, edges, entries, queries, params)) {
            // The edges have no room beside the rows, or what the walks need has none beside both.
            None | Some(Err(BackendError::OutOfMemory { .. })) => {
                graph_search::in_lockstep(self, base, graph.host(), entries, queries, params)
            }
            Some(found) => found,
        }
    }
}

impl CudaBackend {
    /// The graph of pruned lists on the device, or where the transposed graph has no room beside them, of the same lists
    /// on the host.
    fn graph_of(
        &self,
        rows: &CudaRows,
        pruned: &reverse::DevicePruned,
        params: PruneParams,
        progress: &dyn Progress,
    ) -> Result<Adjacency, BackendError> {
        if rows.n == 0 || params.max_degree == 0 {
            return Ok(Adjacency { max_degree: params.max_degree, edges: Vec::new(), degrees: vec![0; rows.n] });
        }
        match reverse::Transposed::new(&self.gpu, pruned) {
            Ok(transposed) => transposed.graph(rows, params, progress),
            Err(BackendError::OutOfMemory { bytes, .. }) => {
                tracing::info!("reverse edges: {} MiB more than the device has: on the host", bytes >> 20);
                let pruned = pruned.download(&self.gpu, rows.n)?;
                crate::reverse::reverse_edges(self, rows, &pruned, params, progress)
            }
            Err(error) => Err(error),
        }
    }
}
