//! The `Backend` trait: what the algorithms need of a device, and nothing that only a device offers.
//!
//! Rows go in once through [`Backend::upload`] and stay where the backend keeps them, behind its own
//! handle type; what comes back to the host is small: neighbours, edges, centroid sums, codes.
//!
//! Under [`Metric::Cosine`] rows are stored as given, beside their norms; the methods that average or
//! quantise (`kmeans_step`, `pq_encode`, `rabitq_encode`, codes of `pack_nodes`) see each row divided by its norm (a zero row
//! stays zero).

use std::sync::Arc;

use ndarray::{Array2, ArrayView2};

use crate::adjacency::Adjacency;
use crate::candidates::{CandidateParams, Candidates, HostCandidates};
use crate::codec::Rabitq;
use crate::graph_search::{self, GraphNeighbors, GraphSearchParams};
use crate::metric::Metric;
use crate::nodes::NodeBlock;
use crate::pq::ProductQuantizer;
use crate::progress::Progress;
use crate::resident_graph::ResidentGraph;
use crate::reverse::{self, Pruned};
use crate::rows::Rows;
use crate::topk::{Neighbors, Scored};
use crate::tree::CentroidTree;
use crate::whole::Whole;

/// Coordinates a row at most: so many squared byte differences still sum to less than 2^31.
pub const MAX_DIM: usize = 32_768;

/// Why a backend could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Two operands do not fit together.
    #[error("{operation}: {expected}, got {got}")]
    Shape {
        /// The backend method.
        operation: &'static str,
        /// What the method requires.
        expected: String,
        /// What it was given.
        got: String,
    },
    /// More rows than a 32-bit row number can name.
    #[error("{rows} rows are more than one upload holds (4,294,967,294): split the data into partitions")]
    TooManyRows {
        /// The number of rows given.
        rows: usize,
    },
    /// The device has not the memory that the smallest piece of the work needs.
    #[error(
        "{device}: out of memory: {operation} needs {bytes} bytes more; give it less with --device-memory, or use --device cpu"
    )]
    OutOfMemory {
        /// What computes.
        device: String,
        /// The backend method.
        operation: &'static str,
        /// Bytes that could not be had.
        bytes: u64,
    },
    /// The device is gone: what lay on it is lost, and nothing more can be asked of it.
    #[error("{device} was lost in {operation}: {problem}")]
    Lost {
        /// What computed.
        device: String,
        /// The backend method.
        operation: &'static str,
        /// What the driver said.
        problem: String,
    },
    /// The device or its driver refused something for another reason.
    #[error("{device}: {operation}: {problem}")]
    Device {
        /// What computes.
        device: String,
        /// The backend method.
        operation: &'static str,
        /// What the driver said.
        problem: String,
    },
    /// What a device gathered is lost with it: another is ready to do the work again, from its beginning.
    #[error("{problem}; the work begins again on {next}")]
    BeginAgain {
        /// What happened.
        problem: String,
        /// What computes now.
        next: String,
    },
}

impl BackendError {
    /// Whether another device may do what this one could not.
    pub fn is_of_device(&self) -> bool {
        matches!(self, Self::OutOfMemory { .. } | Self::Lost { .. } | Self::Device { .. })
    }
}

/// Variable-length lists over one flat array: list `i` is `items[offsets[i]..offsets[i + 1]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lists<T> {
    /// `lists + 1` ascending positions into `items`.
    pub offsets: Vec<usize>,
    /// All lists, one after another.
    pub items: Vec<T>,
}

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self { offsets: vec![0], items: Vec::new() }
    }
}

impl<T: Copy> Lists<T> {
    /// The number of lists.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// True when there are no lists.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// List `i`.
    pub fn get(&self, i: usize) -> &[T] {
        &self.items[self.offsets[i]..self.offsets[i + 1]]
    }

    /// Appends a list.
    pub fn push(&mut self, list: &[T]) {
        self.items.extend_from_slice(list);
        self.offsets.push(self.items.len());
    }

    /// All lists in order.
    pub fn iter(&self) -> impl Iterator<Item = &[T]> {
        self.offsets.windows(2).map(|w| &self.items[w[0]..w[1]])
    }
}

impl Lists<u32> {
    /// The numbers 0 to n - 1 grouped by `keys` (n), each below `groups`; ascending within a group.
    pub fn grouped(keys: &[u32], groups: usize) -> Self {
        let mut offsets = vec![0usize; groups + 1];
        keys.iter().for_each(|&key| offsets[key as usize + 1] += 1);
        for group in 0..groups {
            offsets[group + 1] += offsets[group];
        }
        let (mut next, mut items) = (offsets.clone(), vec![0u32; keys.len()]);
        for (&key, item) in keys.iter().zip(0..) {
            items[next[key as usize]] = item;
            next[key as usize] += 1;
        }
        Self { offsets, items }
    }
}

impl<T: Copy> FromIterator<Vec<T>> for Lists<T> {
    fn from_iter<I: IntoIterator<Item = Vec<T>>>(lists: I) -> Self {
        let mut all = Self::default();
        for list in lists {
            all.push(&list);
        }
        all
    }
}

/// Parameters of robust prune (DiskANN, NeurIPS 2019, algorithm 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PruneParams {
    /// Edges kept at most, R.
    pub max_degree: usize,
    /// Occlusion factor, at least 1: larger keeps longer edges. Applied to ordering distances (squared for L2).
    pub alpha: f32,
}

/// One Lloyd step over all points.
#[derive(Debug, Clone, PartialEq)]
pub struct KMeansStep {
    /// Nearest centroid of each point, ties to the lower number; `(n)`.
    pub assignments: Vec<u32>,
    /// Ordering distance of each point to that centroid (squared L2), `(n)`.
    pub distances: Vec<f32>,
    /// Sum of the points of each centroid, `(nlist, dim)`.
    pub sums: Array2<f64>,
    /// Points of each centroid, `(nlist)`.
    pub counts: Vec<u64>,
}

/// What a device can do at most, measured on it in a few hundredths of a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// Bytes a second that a copy within its memory moves: each is read once and written once.
    pub copy_bandwidth: f64,
    /// Operations a second of a dense product of the kind that this backend's stages use, two for each coordinate of each
    /// pair of rows.
    pub matrix_rate: f64,
}

/// A device that computes. Results are deterministic: they do not depend on the number of threads.
pub trait Backend: Send + Sync {
    /// Rows resident on the device, with their norms and metric.
    type Rows: Send + Sync;

    /// What computes, in words: `cpu (avx512, 2 threads)`.
    fn describe(&self) -> String;

    /// Whether it computes where the rows lie, in the host's memory by the host's processor: nothing is transferred.
    fn is_host(&self) -> bool {
        false
    }

    /// Measures what the device can do.
    fn ceilings(&self) -> Result<Ceilings, BackendError>;

    /// Makes rows `(n, dim)` resident. They must be finite. Host backends share the allocation.
    fn upload(&self, rows: Arc<Rows>, metric: Metric) -> Result<Self::Rows, BackendError>;

    /// Makes some rows resident so that their graph geometry is that of the whole set they are part of. Row numbers are
    /// those in the part; where they ascend as they do in the whole, ties fall as they would there.
    fn upload_part(&self, rows: Arc<Rows>, metric: Metric, whole: &Whole) -> Result<Self::Rows, BackendError> {
        let Some(longest) = whole.longest() else { return self.upload(rows, metric) };
        // The longest row, as one more that nobody names, makes lifted coordinates those of the whole.
        let mut all = Rows::zeros(rows.dtype(), rows.len() + 1, rows.dim());
        let (own, last) = all.as_bytes_mut().split_at_mut(rows.as_bytes().len());
        own.copy_from_slice(rows.as_bytes());
        last.copy_from_slice(longest.as_bytes());
        self.upload(Arc::new(all), metric)
    }

    /// The `k` nearest base rows of each query, exactly: `(queries, k)`, ascending by (distance, id),
    /// padded when the base has fewer than `k` rows. The metric is the base's.
    fn nearest(&self, queries: &Self::Rows, base: &Self::Rows, k: usize) -> Result<Neighbors, BackendError>;

    /// Ordering distance of query `i` to each base row of `lists.get(i)`, flat in the lists' order.
    fn gather_distances(
        &self,
        queries: &Self::Rows,
        base: &Self::Rows,
        lists: &Lists<u32>,
    ) -> Result<Vec<f32>, BackendError>;

    /// All pairs of small sets of rows: for each member of each leaf, in order, its `k` nearest other members (all of them
    /// in a smaller leaf), ascending by (distance, id), at their distances in this backend's graph geometry
    /// ([`crate::distance::GraphGeometry`]). A leaf names a row once. Which neighbours are found may err among the last
    /// few where the rows are not integers under L2; the distances do not.
    fn leaf_neighbors(&self, rows: &Self::Rows, leaves: &Lists<u32>, k: usize) -> Result<Lists<Scored>, BackendError>;

    /// The `k` nearest `leaders` (row numbers, each once) of each of `points` in the graph geometry, nearest first, as
    /// exactly as [`Backend::leaf_neighbors`]; a leader is its own nearest. Out: `(points, min(k, leaders))`, flat.
    fn nearest_leaders(
        &self,
        rows: &Self::Rows,
        points: &[u32],
        leaders: &[u32],
        k: usize,
    ) -> Result<Vec<u32>, BackendError>;

    /// Robust prune of each point's candidates (any order, duplicates and the point itself allowed) in the graph
    /// geometry. Out: at most `max_degree` kept ids a point, nearest first.
    fn robust_prune(
        &self,
        base: &Self::Rows,
        points: &[u32],
        candidates: &Lists<u32>,
        params: PruneParams,
    ) -> Result<Lists<u32>, BackendError>;

    /// Assigns every point to its nearest centroid `(nlist, dim)` by L2 and sums the points of each.
    fn kmeans_step(&self, points: &Self::Rows, centroids: ArrayView2<'_, f32>) -> Result<KMeansStep, BackendError>;

    /// The same among so many centroids that looking at all is dear: a point may be assigned to one that is about as near.
    /// Where products are cheap all are looked at. A point's centroid does not depend on the other points.
    fn kmeans_step_among(&self, points: &Self::Rows, tree: &CentroidTree) -> Result<KMeansStep, BackendError> {
        self.kmeans_step(points, tree.centroids().view())
    }

    /// Product-quantises each row, or where `centroids` is given each row minus `centroids[assignments[i]]`.
    /// Out: packed codes `(n, pq.code_bytes())`.
    fn pq_encode(
        &self,
        rows: &Self::Rows,
        residual_to: Option<(ArrayView2<'_, f32>, &[u32])>,
        pq: &ProductQuantizer,
    ) -> Result<Array2<u8>, BackendError>;

    /// The finished pages of consecutive nodes, whole ones: vector records, places, and in the `inline` layout the
    /// neighbours' codes. Records and places are those that the host would write, bit by bit. A level of a code may be one off
    /// where a coordinate lies within rounding (1e-5 of its vector's length) of the border of two; factors are those of the
    /// levels, rounded to f16. CPU and CUDA make the same operations in the same order, and so the same bytes; WGSL leaves a
    /// device free to fuse and to round quotients and roots as it likes, so wgpu's may differ in the last place.
    fn pack_nodes(&self, rows: &Self::Rows, nodes: &NodeBlock<'_>) -> Result<Vec<u8>, BackendError>;

    /// RaBitQ codes of the rows `ids` less `centroids[assignments[i]]`, `residual_to` being the centroids `(nlist, dim)` and
    /// the assignments `(ids)`. Out: codes and factors `(ids, rabitq.row_bytes())`, see [`crate::codec::rabitq`]. The scale
    /// of a row's code is the best of the quantiser's grid, within rounding; its factors are those of the code, within 1e-4
    /// of themselves and 1e-5 of the vectors that they are made of. CPU and CUDA give the same bytes.
    fn rabitq_encode(
        &self,
        rows: &Self::Rows,
        ids: &[u32],
        residual_to: (ArrayView2<'_, f32>, &[u32]),
        rabitq: &Rabitq,
    ) -> Result<Array2<u8>, BackendError>;

    /// An empty store of the candidates of all of `rows`.
    ///
    /// # Errors
    /// A device that has not the memory.
    fn candidates<'a>(
        &'a self,
        rows: &'a Self::Rows,
        params: CandidateParams,
    ) -> Result<Box<dyn Candidates + 'a>, BackendError>
    where
        Self: Sized,
    {
        Ok(Box::new(HostCandidates::new(self, rows, params)))
    }

    /// The graph of pruned lists of all of `rows` and their reverse edges: see [`crate::reverse`]. `params` are those
    /// by which the lists were pruned.
    ///
    /// # Errors
    /// Lists of other rows than these, or a device that fails.
    fn reverse_edges(
        &self,
        rows: &Self::Rows,
        pruned: &Pruned,
        params: PruneParams,
        progress: &dyn Progress,
    ) -> Result<Adjacency, BackendError>
    where
        Self: Sized,
    {
        reverse::reverse_edges(self, rows, pruned, params, progress)
    }

    /// Makes a graph resident for [`Backend::graph_search`]. One that has no room there stays on the host.
    ///
    /// # Errors
    /// Edges of rows that the graph has not, or a device that fails.
    fn upload_graph(&self, graph: Arc<Adjacency>) -> Result<ResidentGraph, BackendError> {
        ResidentGraph::new(graph)
    }

    /// Greedy search of a graph of all of `base`, from the rows that `entries` names for each query: see
    /// [`crate::graph_search`]. The metric is the base's; the graph was made resident by this backend.
    ///
    /// # Errors
    /// Operands that do not fit together, or a device that fails.
    fn graph_search(
        &self,
        base: &Self::Rows,
        graph: &ResidentGraph,
        entries: &Lists<u32>,
        queries: &Self::Rows,
        params: GraphSearchParams,
    ) -> Result<GraphNeighbors, BackendError>
    where
        Self: Sized,
    {
        graph_search::in_lockstep(self, base, graph.host(), entries, queries, params)
    }
}
