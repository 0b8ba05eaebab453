//! Several backends behind one: the best that works computes, and where it fails the next takes over.
//!
//! In: backends in order of preference. Out: a [`Backend`] whose rows follow it from device to device. A stage that fails
//! because the device is lost, is out of memory even for its smallest piece of work, or refuses for another reason, is
//! done again on the next backend, with one line of warning; an operand that does not fit fails as it would anywhere.

mod choose;

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use ndarray::{Array2, ArrayView2};

use crate::adjacency::Adjacency;
use crate::backend::{Backend, BackendError, Ceilings, KMeansStep, Lists, PruneParams};
use crate::candidates::{CandidateParams, Candidates};
use crate::codec::Rabitq;
use crate::graph_search::{GraphNeighbors, GraphSearchParams};
use crate::metric::Metric;
use crate::nodes::NodeBlock;
use crate::pq::ProductQuantizer;
use crate::progress::Progress;
use crate::resident_graph::ResidentGraph;
use crate::reverse::Pruned;
use crate::rows::Rows;
use crate::topk::{Neighbors, Scored};
use crate::tree::CentroidTree;
use crate::whole::Whole;

pub use choose::{Choice, Chosen, NoDevice, Wanted, open};

/// Rows resident on some backend.
type Resident = Arc<dyn Any + Send + Sync>;

/// A backend without its type: rows are [`Resident`], and always its own.
trait Device: Send + Sync {
    fn describe(&self) -> String;
    fn is_host(&self) -> bool;
    fn ceilings(&self) -> Result<Ceilings, BackendError>;
    fn upload(&self, rows: Arc<Rows>, metric: Metric) -> Result<Resident, BackendError>;
    fn upload_part(&self, rows: Arc<Rows>, metric: Metric, whole: &Whole) -> Result<Resident, BackendError>;
    fn nearest(&self, queries: &Resident, base: &Resident, k: usize) -> Result<Neighbors, BackendError>;
    fn gather_distances(
        &self,
        queries: &Resident,
        base: &Resident,
        lists: &Lists<u32>,
    ) -> Result<Vec<f32>, BackendError>;
    fn leaf_neighbors(&self, rows: &Resident, leaves: &Lists<u32>, k: usize) -> Result<Lists<Scored>, BackendError>;
    fn nearest_leaders(
        &self,
        rows: &Resident,
        points: &[u32],
        leaders: &[u32],
        k: usize,
    ) -> Result<Vec<u32>, BackendError>;
    fn robust_prune(
        &self,
        base: &Resident,
        points: &[u32],
        candidates: &Lists<u32>,
        params: PruneParams,
    ) -> Result<Lists<u32>, BackendError>;
    fn kmeans_step(&self, points: &Resident, centroids: ArrayView2<'_, f32>) -> Result<KMeansStep, BackendError>;
    fn kmeans_step_among(&self, points: &Resident, tree: &CentroidTree) -> Result<KMeansStep, BackendError>;
    fn pq_encode(
        &self,
        rows: &Resident,
        residual_to: Option<(ArrayView2<'_, f32>, &[u32])>,
        pq: &ProductQuantizer,
    ) -> Result<Array2<u8>, BackendError>;
    fn pack_nodes(&self, rows: &Resident, nodes: &NodeBlock<'_>) -> Result<Vec<u8>, BackendError>;
    fn rabitq_encode(
        &self,
        rows: &Resident,
        ids: &[u32],
        residual_to: (ArrayView2<'_, f32>, &[u32]),
        rabitq: &Rabitq,
    ) -> Result<Array2<u8>, BackendError>;
    fn candidates<'a>(
        &'a self,
        rows: &'a Resident,
        params: CandidateParams,
    ) -> Result<Box<dyn Candidates + 'a>, BackendError>;
    fn reverse_edges(
        &self,
        rows: &Resident,
        pruned: &Pruned,
        params: PruneParams,
        progress: &dyn Progress,
    ) -> Result<Adjacency, BackendError>;
    fn upload_graph(&self, graph: Arc<Adjacency>) -> Result<ResidentGraph, BackendError>;
    fn graph_search(
        &self,
        base: &Resident,
        graph: &ResidentGraph,
        entries: &Lists<u32>,
        queries: &Resident,
        params: GraphSearchParams,
    ) -> Result<GraphNeighbors, BackendError>;
}

/// The rows as this backend's own type.
fn own<B: Backend>(rows: &Resident) -> &B::Rows
where
    B::Rows: 'static,
{
    rows.downcast_ref().expect("a device is only given rows that it made resident")
}

impl<B: Backend> Device for B
where
    B::Rows: 'static,
{
    fn describe(&self) -> String {
        Backend::describe(self)
    }

    fn is_host(&self) -> bool {
        Backend::is_host(self)
    }

    fn ceilings(&self) -> Result<Ceilings, BackendError> {
        Backend::ceilings(self)
    }

    fn upload(&self, rows: Arc<Rows>, metric: Metric) -> Result<Resident, BackendError> {
        Ok(Arc::new(Backend::upload(self, rows, metric)?))
    }

    fn upload_part(&self, rows: Arc<Rows>, metric: Metric, whole: &Whole) -> Result<Resident, BackendError> {
        Ok(Arc::new(Backend::upload_part(self, rows, metric, whole)?))
    }

    fn nearest(&self, queries: &Resident, base: &Resident, k: usize) -> Result<Neighbors, BackendError> {
        Backend::nearest(self, own::<B>(queries), own::<B>(base), k)
    }

    fn gather_distances(
        &self,
        queries: &Resident,
        base: &Resident,
        lists: &Lists<u32>,
    ) -> Result<Vec<f32>, BackendError> {
        Backend::gather_distances(self, own::<B>(queries), own::<B>(base), lists)
    }

    fn leaf_neighbors(&self, rows: &Resident, leaves: &Lists<u32>, k: usize) -> Result<Lists<Scored>, BackendError> {
        Backend::leaf_neighbors(self, own::<B>(rows), leaves, k)
    }

    fn nearest_leaders(
        &self,
        rows: &Resident,
        points: &[u32],
        leaders: &[u32],
        k: usize,
    ) -> Result<Vec<u32>, BackendError> {
        Backend::nearest_leaders(self, own::<B>(rows), points, leaders, k)
    }

    fn robust_prune(
        &self,
        base: &Resident,
        points: &[u32],
        candidates: &Lists<u32>,
        params: PruneParams,
    ) -> Result<Lists<u32>, BackendError> {
        Backend::robust_prune(self, own::<B>(base), points, candidates, params)
    }

    fn kmeans_step(&self, points: &Resident, centroids: ArrayView2<'_, f32>) -> Result<KMeansStep, BackendError> {
        Backend::kmeans_step(self, own::<B>(points), centroids)
    }

    fn kmeans_step_among(&self, points: &Resident, tree: &CentroidTree) -> Result<KMeansStep, BackendError> {
        Backend::kmeans_step_among(self, own::<B>(points), tree)
    }

    fn pq_encode(
        &self,
        rows: &Resident,
        residual_to: Option<(ArrayView2<'_, f32>, &[u32])>,
        pq: &ProductQuantizer,
    ) -> Result<Array2<u8>, BackendError> {
        Backend::pq_encode(self, own::<B>(rows), residual_to, pq)
    }

    fn pack_nodes(&self, rows: &Resident, nodes: &NodeBlock<'_>) -> Result<Vec<u8>, BackendError> {
        Backend::pack_nodes(self, own::<B>(rows), nodes)
    }

    fn rabitq_encode(
        &self,
        rows: &Resident,
        ids: &[u32],
        residual_to: (ArrayView2<'_, f32>, &[u32]),
        rabitq: &Rabitq,
    ) -> Result<Array2<u8>, BackendError> {
        Backend::rabitq_encode(self, own::<B>(rows), ids, residual_to, rabitq)
    }

    fn candidates<'a>(
        &'a self,
        rows: &'a Resident,
        params: CandidateParams,
    ) -> Result<Box<dyn Candidates + 'a>, BackendError> {
        Backend::candidates(self, own::<B>(rows), params)
    }

    fn reverse_edges(
        &self,
        rows: &Resident,
        pruned: &Pruned,
        params: PruneParams,
        progress: &dyn Progress,
    ) -> Result<Adjacency, BackendError> {
        Backend::reverse_edges(self, own::<B>(rows), pruned, params, progress)
    }

    fn upload_graph(&self, graph: Arc<Adjacency>) -> Result<ResidentGraph, BackendError> {
        Backend::upload_graph(self, graph)
    }

    fn graph_search(
        &self,
        base: &Resident,
        graph: &ResidentGraph,
        entries: &Lists<u32>,
        queries: &Resident,
        params: GraphSearchParams,
    ) -> Result<GraphNeighbors, BackendError> {
        Backend::graph_search(self, own::<B>(base), graph, entries, own::<B>(queries), params)
    }
}

/// Backends in order of preference; the first that has not failed computes.
pub struct Devices {
    chain: Vec<Box<dyn Device>>,
    active: AtomicUsize,
}

/// Rows that become resident on each backend when it first needs them.
pub struct DeviceRows {
    host: Arc<Rows>,
    metric: Metric,
    /// What they are part of, where they are not all.
    whole: Option<Whole>,
    /// By backend of the chain.
    resident: Vec<OnceLock<Resident>>,
}

impl Devices {
    /// Computes on `first`.
    pub fn new<B: Backend + 'static>(first: B) -> Self {
        Self { chain: vec![Box::new(first)], active: AtomicUsize::new(0) }
    }

    /// The same, going on with `next` when all before it have failed.
    pub fn or<B: Backend + 'static>(mut self, next: B) -> Self {
        self.chain.push(Box::new(next));
        self
    }

    /// The backends, in words, in the order in which they are used.
    pub fn describe_all(&self) -> Vec<String> {
        self.chain.iter().map(|device| device.describe()).collect()
    }

    /// Does `work` on the backend in use, or after failures of devices on one of the next.
    fn run<R>(&self, work: impl Fn(&dyn Device, usize) -> Result<R, BackendError>) -> Result<R, BackendError> {
        loop {
            let at = self.active.load(Ordering::Acquire);
            match work(self.chain[at].as_ref(), at) {
                Err(error) if self.give_up(at, &error) => {}
                done => return done,
            }
        }
    }

    /// Rows that are resident on the backend in use.
    fn resident(&self, rows: Arc<Rows>, metric: Metric, whole: Option<Whole>) -> Result<DeviceRows, BackendError> {
        let resident = self.chain.iter().map(|_| OnceLock::new()).collect();
        let rows = DeviceRows { host: rows, metric, whole, resident };
        self.run(|device, at| rows.on(device, at).map(drop))?;
        Ok(rows)
    }

    /// Whether `error`, of backend `at`, is one that the next backend may not have; it is then in use.
    fn give_up(&self, at: usize, error: &BackendError) -> bool {
        if !error.is_of_device() || at + 1 == self.chain.len() {
            return false;
        }
        // Of several threads that fail at once the first moves on, and speaks.
        if self.active.compare_exchange(at, at + 1, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            tracing::warn!("{error}; going on with {}", self.chain[at + 1].describe());
        }
        true
    }
}

impl DeviceRows {
    fn on(&self, device: &dyn Device, at: usize) -> Result<&Resident, BackendError> {
        if let Some(resident) = self.resident[at].get() {
            return Ok(resident);
        }
        let host = Arc::clone(&self.host);
        let uploaded = match &self.whole {
            Some(whole) => device.upload_part(host, self.metric, whole)?,
            None => device.upload(host, self.metric)?,
        };
        Ok(self.resident[at].get_or_init(|| uploaded))
    }
}

/// A graph as each backend holds it that has needed it, by backend of the chain.
type GraphParts = Vec<OnceLock<ResidentGraph>>;

/// The graph on the backend in use.
fn graph_on<'a>(
    parts: &'a GraphParts,
    host: &Arc<Adjacency>,
    device: &dyn Device,
    at: usize,
) -> Result<&'a ResidentGraph, BackendError> {
    if let Some(part) = parts[at].get() {
        return Ok(part);
    }
    let part = device.upload_graph(Arc::clone(host))?;
    Ok(parts[at].get_or_init(|| part))
}

/// Candidates on one of the backends; when that fails they must be gathered again on the next.
struct DeviceCandidates<'a> {
    inner: Box<dyn Candidates + 'a>,
    devices: &'a Devices,
    at: usize,
}

impl Devices {
    /// What backend `at` came to with what it alone has gathered.
    fn or_begin_again<R>(&self, at: usize, result: Result<R, BackendError>) -> Result<R, BackendError> {
        match result {
            Err(error) if self.give_up(at, &error) => {
                Err(BackendError::BeginAgain { problem: error.to_string(), next: Backend::describe(self) })
            }
            other => other,
        }
    }
}

impl Candidates for DeviceCandidates<'_> {
    fn add_leaves(&mut self, leaves: &Lists<u32>, k: usize) -> Result<(), BackendError> {
        let added = self.inner.add_leaves(leaves, k);
        self.devices.or_begin_again(self.at, added)
    }

    fn prune_next(&mut self, params: PruneParams) -> Result<Option<usize>, BackendError> {
        let pruned = self.inner.prune_next(params);
        self.devices.or_begin_again(self.at, pruned)
    }

    fn into_graph(self: Box<Self>, params: PruneParams, progress: &dyn Progress) -> Result<Adjacency, BackendError> {
        let Self { inner, devices, at } = *self;
        devices.or_begin_again(at, inner.into_graph(params, progress))
    }
}

impl Backend for Devices {
    type Rows = DeviceRows;

    fn describe(&self) -> String {
        self.chain[self.active.load(Ordering::Acquire)].describe()
    }

    fn is_host(&self) -> bool {
        self.chain[self.active.load(Ordering::Acquire)].is_host()
    }

    fn ceilings(&self) -> Result<Ceilings, BackendError> {
        self.run(|device, _| device.ceilings())
    }

    fn upload(&self, rows: Arc<Rows>, metric: Metric) -> Result<DeviceRows, BackendError> {
        self.resident(rows, metric, None)
    }

    fn upload_part(&self, rows: Arc<Rows>, metric: Metric, whole: &Whole) -> Result<DeviceRows, BackendError> {
        self.resident(rows, metric, Some(whole.clone()))
    }

    fn nearest(&self, queries: &DeviceRows, base: &DeviceRows, k: usize) -> Result<Neighbors, BackendError> {
        self.run(|device, at| device.nearest(queries.on(device, at)?, base.on(device, at)?, k))
    }

    fn gather_distances(
        &self,
        queries: &DeviceRows,
        base: &DeviceRows,
        lists: &Lists<u32>,
    ) -> Result<Vec<f32>, BackendError> {
        self.run(|device, at| device.gather_distances(queries.on(device, at)?, base.on(device, at)?, lists))
    }

    fn leaf_neighbors(&self, rows: &DeviceRows, leaves: &Lists<u32>, k: usize) -> Result<Lists<Scored>, BackendError> {
        self.run(|device, at| device.leaf_neighbors(rows.on(device, at)?, leaves, k))
    }

    fn nearest_leaders(
        &self,
        rows: &DeviceRows,
        points: &[u32],
        leaders: &[u32],
        k: usize,
    ) -> Result<Vec<u32>, BackendError> {
        self.run(|device, at| device.nearest_leaders(rows.on(device, at)?, points, leaders, k))
    }

    fn robust_prune(
        &self,
        base: &DeviceRows,
        points: &[u32],
        candidates: &Lists<u32>,
        params: PruneParams,
    ) -> Result<Lists<u32>, BackendError> {
        self.run(|device, at| device.robust_prune(base.on(device, at)?, points, candidates, params))
    }

    fn kmeans_step(&self, points: &DeviceRows, centroids: ArrayView2<'_, f32>) -> Result<KMeansStep, BackendError> {
        self.run(|device, at| device.kmeans_step(points.on(device, at)?, centroids))
    }

    fn kmeans_step_among(&self, points: &DeviceRows, tree: &CentroidTree) -> Result<KMeansStep, BackendError> {
        self.run(|device, at| device.kmeans_step_among(points.on(device, at)?, tree))
    }

    fn pq_encode(
        &self,
        rows: &DeviceRows,
        residual_to: Option<(ArrayView2<'_, f32>, &[u32])>,
        pq: &ProductQuantizer,
    ) -> Result<Array2<u8>, BackendError> {
        self.run(|device, at| device.pq_encode(rows.on(device, at)?, residual_to, pq))
    }

    fn pack_nodes(&self, rows: &DeviceRows, nodes: &NodeBlock<'_>) -> Result<Vec<u8>, BackendError> {
        self.run(|device, at| device.pack_nodes(rows.on(device, at)?, nodes))
    }

    fn rabitq_encode(
        &self,
        rows: &DeviceRows,
        ids: &[u32],
        residual_to: (ArrayView2<'_, f32>, &[u32]),
        rabitq: &Rabitq,
    ) -> Result<Array2<u8>, BackendError> {
        self.run(|device, at| device.rabitq_encode(rows.on(device, at)?, ids, residual_to, rabitq))
    }

    fn candidates<'a>(
        &'a self,
        rows: &'a DeviceRows,
        params: CandidateParams,
    ) -> Result<Box<dyn Candidates + 'a>, BackendError> {
        self.run(|device, at| {
            // What borrows from the chain lives as long as the chain, which the closure's arguments do not say.
            let inner = self.chain[at].candidates(rows.on(device, at)?, params)?;
            Ok(Box::new(DeviceCandidates { inner, devices: self, at }) as Box<dyn Candidates + 'a>)
        })
    }

    fn reverse_edges(
        &self,
        rows: &DeviceRows,
        pruned: &Pruned,
        params: PruneParams,
        progress: &dyn Progress,
    ) -> Result<Adjacency, BackendError> {
        self.run(|device, at| device.reverse_edges(rows.on(device, at)?, pruned, params, progress))
    }

    fn upload_graph(&self, graph: Arc<Adjacency>) -> Result<ResidentGraph, BackendError> {
        let parts: GraphParts = self.chain.iter().map(|_| OnceLock::new()).collect();
        let graph = ResidentGraph::new(graph)?;
        self.run(|device, at| graph_on(&parts, graph.host(), device, at).map(drop))?;
        Ok(graph.with_part(parts))
    }

    fn graph_search(
        &self,
        base: &DeviceRows,
        graph: &ResidentGraph,
        entries: &Lists<u32>,
        queries: &DeviceRows,
        params: GraphSearchParams,
    ) -> Result<GraphNeighbors, BackendError> {
        self.run(|device, at| {
            let (base, queries) = (base.on(device, at)?, queries.on(device, at)?);
            match graph.part::<GraphParts>() {
                Some(parts) => {
                    device.graph_search(base, graph_on(parts, graph.host(), device, at)?, entries, queries, params)
                }
                // Made by no device of these.
                None => device.graph_search(base, graph, entries, queries, params),
            }
        })
    }
}
