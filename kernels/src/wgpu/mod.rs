//! The wgpu backend: any Vulkan, Metal or DirectX 12 device, by the WGSL kernels in `kernels/wgsl`.
//!
//! In: rows, uploaded once in shards below the device's largest binding. Out: what [`Backend`] promises. Distances are
//! summed directly: bytes in integers, exactly, all else in f32 in two levels, so that nothing is scored twice. No
//! subgroup operation is used, so any subgroup size will do; every kernel keeps to the default limits of WebGPU.
//!
//! Work goes in batches that fit the largest binding and the memory budget. A batch for which the device has no memory
//! is halved; a device that is lost answers every call with [`BackendError::Lost`].

mod adapters;
mod device;
mod measure;
mod nearest;
mod pack;
mod pairs;
mod pipelines;
mod prune;
mod quantise;
mod rabitq;
mod rotate;
mod rows;
mod walk;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use ndarray::{Array2, ArrayView2};

pub use adapters::{WgpuAdapter, WgpuOptions};
pub use rows::WgpuRows;

use device::{Gpu, Task};
use pipelines::Distance;

use crate::adjacency::Adjacency;
use crate::backend::{Backend, BackendError, Ceilings, KMeansStep, Lists, PruneParams};
use crate::checks::{check_encoding, check_ids, check_rabitq, check_upload, same_count, same_dim, some_centroids};
use crate::codec::Rabitq;
use crate::element::Element;
use crate::graph_search::{self, GraphNeighbors, GraphSearchParams};
use crate::metric::Metric;
use crate::nodes::{NodeBlock, PACK, VectorRecord};
use crate::pq::ProductQuantizer;
use crate::resident_graph::ResidentGraph;
use crate::rows::Rows;
use crate::topk::{Neighbors, Scored};

/// A device that works: the constructor ran a kernel on it and checked the answer.
pub struct WgpuBackend {
    gpu: Gpu,
}

impl WgpuBackend {
    /// All adapters of this machine, best first; none where there is no driver.
    pub fn adapters() -> Vec<WgpuAdapter> {
        adapters::adapters().into_iter().map(|(_, described)| described).collect()
    }

    /// Opens the best adapter that `options` allow and proves that it computes. The error is one line that says what
    /// was found, for whoever asked for this backend.
    pub fn probe(options: &WgpuOptions) -> Result<Self, String> {
        let backend = Self { gpu: adapters::open(options)? };
        backend.prove().map_err(|problem| format!("{} does not work: {problem}", backend.gpu.name))?;
        Ok(backend)
    }

    /// Searches three rows on the device.
    fn prove(&self) -> Result<(), String> {
        let rows = ndarray::array![[0u8, 0], [3, 4], [6, 8]];
        let rows = self.upload(Arc::new(u8::into_rows(rows)), Metric::L2).map_err(|e| e.to_string())?;
        let found = self.nearest(&rows, &rows, 2).map_err(|e| e.to_string())?;
        let right = found.ids == ndarray::array![[0, 1], [1, 0], [2, 1]]
            && found.distances == ndarray::array![[0.0, 25.0], [0.0, 25.0], [0.0, 25.0]];
        if right { Ok(()) } else { Err(format!("a kernel found {:?} at {:?}", found.ids, found.distances)) }
    }

    /// The device's name, with the interface through which it is used.
    pub fn name(&self) -> &str {
        &self.gpu.name
    }

    /// The driver and its version, as it gives them.
    pub fn driver(&self) -> &str {
        &self.gpu.driver
    }

    /// The bytes of device memory that this backend may use, where they were limited; wgpu does not say what there is.
    pub fn memory_limit(&self) -> Option<u64> {
        self.gpu.memory_limit()
    }

    /// Destroys the device, as a driver that fails does: for tests of what follows.
    pub fn destroy(&self) {
        self.gpu.device.destroy();
    }

    fn task(&self, operation: &'static str) -> Task<'_> {
        self.gpu.task(operation)
    }
}

impl std::fmt::Debug for WgpuBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WgpuBackend").field("name", &self.gpu.name).finish_non_exhaustive()
    }
}

impl Backend for WgpuBackend {
    type Rows = WgpuRows;

    fn describe(&self) -> String {
        self.gpu.name.clone()
    }

    fn ceilings(&self) -> Result<Ceilings, BackendError> {
        Ok(Ceilings { copy_bandwidth: self.copy_bandwidth()?, matrix_rate: self.matrix_rate()? })
    }

    fn upload(&self, rows: Arc<Rows>, metric: Metric) -> Result<WgpuRows, BackendError> {
        check_upload(&rows)?;
        WgpuRows::upload(self.task("upload"), &rows, metric)
    }

    fn nearest(&self, queries: &WgpuRows, base: &WgpuRows, k: usize) -> Result<Neighbors, BackendError> {
        let task = self.task("nearest");
        same_dim(task.operation, queries.dim(), base.dim())?;
        let mut neighbors = Neighbors::padded(queries.n, k);
        let found = k.min(base.n);
        if found > 0 {
            match alike(task, queries, base)? {
                None => nearest::nearest(task, queries, base, found, &mut neighbors)?,
                Some(widened) => nearest::nearest(task, &widened, base, found, &mut neighbors)?,
            }
        }
        Ok(neighbors)
    }

    fn gather_distances(
        &self,
        queries: &WgpuRows,
        base: &WgpuRows,
        lists: &Lists<u32>,
    ) -> Result<Vec<f32>, BackendError> {
        let task = self.task("gather distances");
        same_dim(task.operation, queries.dim(), base.dim())?;
        same_count(task.operation, "list", lists.len(), "query", queries.n)?;
        check_ids(task.operation, lists.items.iter().copied(), base.n)?;
        let pairs: Vec<[u32; 2]> =
            lists.iter().zip(0..).flat_map(|(list, query)| list.iter().map(move |&id| [query, id])).collect();
        let distance = Distance::of_metric(base.metric);
        match alike(task, queries, base)? {
            None => pairs::distances(task, queries, base, distance, &pairs),
            Some(widened) => pairs::distances(task, &widened, base, distance, &pairs),
        }
    }

    fn leaf_neighbors(&self, rows: &WgpuRows, leaves: &Lists<u32>, k: usize) -> Result<Lists<Scored>, BackendError> {
        let task = self.task("leaf neighbors");
        check_ids(task.operation, leaves.items.iter().copied(), rows.n)?;
        nearest::leaf_neighbors(task, rows, leaves, k)
    }

    fn nearest_leaders(
        &self,
        rows: &WgpuRows,
        points: &[u32],
        leaders: &[u32],
        k: usize,
    ) -> Result<Vec<u32>, BackendError> {
        let task = self.task("nearest leaders");
        check_ids(task.operation, points.iter().chain(leaders).copied(), rows.n)?;
        let k = k.min(leaders.len());
        if k == 0 {
            return Ok(Vec::new());
        }
        Ok(nearest::among(task, rows, points, leaders, None, k)?.into_iter().map(|found| found.id).collect())
    }

    fn robust_prune(
        &self,
        base: &WgpuRows,
        points: &[u32],
        candidates: &Lists<u32>,
        params: PruneParams,
    ) -> Result<Lists<u32>, BackendError> {
        let task = self.task("robust prune");
        same_count(task.operation, "candidate list", candidates.len(), "point", points.len())?;
        check_ids(task.operation, points.iter().chain(&candidates.items).copied(), base.n)?;
        prune::robust_prune(task, base, points, candidates, params)
    }

    fn kmeans_step(&self, points: &WgpuRows, centroids: ArrayView2<'_, f32>) -> Result<KMeansStep, BackendError> {
        let task = self.task("k-means step");
        same_dim(task.operation, points.dim(), centroids.ncols())?;
        some_centroids(centroids)?;
        quantise::kmeans_step(task, points, centroids)
    }

    fn pq_encode(
        &self,
        rows: &WgpuRows,
        residual_to: Option<(ArrayView2<'_, f32>, &[u32])>,
        pq: &ProductQuantizer,
    ) -> Result<Array2<u8>, BackendError> {
        let task = self.task("pq encode");
        check_encoding(rows.n, rows.dim(), residual_to, pq)?;
        quantise::pq_encode(task, rows, residual_to, pq)
    }

    fn pack_nodes(&self, rows: &WgpuRows, nodes: &NodeBlock<'_>) -> Result<Vec<u8>, BackendError> {
        let task = self.task(PACK);
        nodes.check(rows.n, VectorRecord { dtype: rows.shape.dtype, dim: rows.dim(), metric: rows.metric })?;
        pack::pack_nodes(task, rows, nodes)
    }

    fn rabitq_encode(
        &self,
        rows: &WgpuRows,
        ids: &[u32],
        residual_to: (ArrayView2<'_, f32>, &[u32]),
        rabitq: &Rabitq,
    ) -> Result<Array2<u8>, BackendError> {
        let task = self.task("rabitq encode");
        check_rabitq(rows.n, rows.dim(), ids, residual_to, rabitq)?;
        rabitq::rabitq_encode(task, rows, ids, residual_to, rabitq)
    }

    fn upload_graph(&self, graph: Arc<Adjacency>) -> Result<ResidentGraph, BackendError> {
        let task = self.task(graph_search::OPERATION);
        let graph = ResidentGraph::new(graph)?;
        match walk::DeviceEdges::upload(task, graph.host()) {
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
        base: &WgpuRows,
        graph: &ResidentGraph,
        entries: &Lists<u32>,
        queries: &WgpuRows,
        params: GraphSearchParams,
    ) -> Result<GraphNeighbors, BackendError> {
        let task = self.task(graph_search::OPERATION);
        same_dim(task.operation, queries.dim(), base.dim())?;
        same_count(task.operation, "list of entries", entries.len(), "query", queries.n)?;
        same_count(task.operation, "row of the graph", graph.host().len(), "base row", base.n)?;
        check_ids(task.operation, entries.items.iter().copied(), base.n)?;
        let widened = alike(task, queries, base)?;
        let queries = widened.as_ref().unwrap_or(queries);
        let there: Option<&walk::DeviceEdges> =
            graph.part().filter(|_| walk::fits(task, base, entries, queries, params));
        match there.map(|edges| walk::graph_search(task, base, edges, entries, queries, params)) {
            // The edges have no room beside the rows, or in a binding.
            None | Some(Err(BackendError::OutOfMemory { .. })) => {
                graph_search::in_lockstep(self, base, graph.host(), entries, queries, params)
            }
            Some(found) => found,
        }
    }
}

/// The queries as f32 where their type is not the base's: kernels take f32 against any type, and a type against itself.
fn alike(task: Task<'_>, queries: &WgpuRows, base: &WgpuRows) -> Result<Option<WgpuRows>, BackendError> {
    use crate::element::DType::F32;
    let as_they_are = queries.shape.dtype == base.shape.dtype || queries.shape.dtype == F32;
    if as_they_are { Ok(None) } else { queries.widened(task).map(Some) }
}
