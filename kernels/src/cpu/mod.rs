//! The CPU backend: the reference that other backends are held against, and the fallback.
//!
//! Dense products run through `gemm` on tiles widened to f32. In exact search they only select: every distance that
//! `nearest` and `gather_distances` return comes from the row kernels of [`crate::distance`], and depends neither on
//! tiling nor on threads. k-means and encoding take the products at their word.

#[expect(clippy::needless_range_loop, reason = "register tiles are indexed by row and column")]
mod bytes;
mod floats;
mod leaves;
mod measure;
mod nearest;
mod prune;
mod quantise;
pub(crate) mod sketch;
mod tiles;

use std::sync::{Arc, OnceLock};

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::backend::{Backend, BackendError, Ceilings, KMeansStep, Lists, PruneParams};
use crate::checks::{check_encoding, check_ids, check_rabitq, check_upload, same_count, same_dim, some_centroids};
use crate::codec::{self, Rabitq};
use crate::distance::{GraphAux, GraphGeometry, Isa, QueryGeometry, inverse_norm};
use crate::element::Element;
use crate::metric::Metric;
use crate::nodes::{self, NodeBlock, VectorRecord};
use crate::pq::ProductQuantizer;
use crate::rows::Rows;
use crate::topk::{Neighbors, Scored};
use crate::tree::CentroidTree;
use crate::whole::Whole;
use crate::{dispatch_rows, distance::Kernels};

pub use prune::robust_prune_one;

use sketch::Sketch;

/// The CPU, on the rayon pool of the caller.
#[derive(Debug, Clone, Copy)]
pub struct CpuBackend {
    isa: Isa,
}

/// Rows in host memory, with what their metric needs beside them.
#[derive(Debug, Clone)]
pub struct CpuRows {
    rows: Arc<Rows>,
    metric: Metric,
    aux: GraphAux,
    /// Made when leaves or leaders are first searched.
    sketch: OnceLock<Sketch>,
}

impl CpuRows {
    /// The rows themselves.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// What graph building keeps beside the rows.
    pub fn aux(&self) -> &GraphAux {
        &self.aux
    }

    /// 1 / norm under cosine (0 for a zero row), 1 under the other metrics.
    fn inverse_norm(&self, i: usize) -> f32 {
        self.aux.inverse_norms().get(i).copied().unwrap_or(1.0)
    }
}

impl Default for CpuBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl CpuBackend {
    /// With the best instruction set of this machine.
    pub fn new() -> Self {
        Self { isa: Isa::best() }
    }

    /// With a chosen instruction set, for tests and comparisons.
    pub fn with_isa(isa: Isa) -> Self {
        Self { isa }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    fn leaves<'a, T: Kernels>(&self, typed: ArrayView2<'a, T>, rows: &'a CpuRows) -> leaves::Leaves<'a, T> {
        let geometry = GraphGeometry::new(&rows.aux, self.isa);
        let sketch = rows.sketch.get_or_init(|| Sketch::new(&typed, &geometry));
        leaves::Leaves { rows: typed, geometry, sketch }
    }
}

impl Backend for CpuBackend {
    type Rows = CpuRows;

    fn describe(&self) -> String {
        format!("cpu ({}, {} threads)", self.isa.name(), rayon::current_num_threads())
    }

    fn is_host(&self) -> bool {
        true
    }

    fn ceilings(&self) -> Result<Ceilings, BackendError> {
        Ok(Ceilings { copy_bandwidth: self.copy_bandwidth(), matrix_rate: self.matrix_rate() })
    }

    fn upload(&self, rows: Arc<Rows>, metric: Metric) -> Result<CpuRows, BackendError> {
        check_upload(&rows)?;
        let aux = dispatch_rows!(rows.view(), v => GraphAux::new(v, metric));
        Ok(CpuRows { rows, metric, aux, sketch: OnceLock::new() })
    }

    fn upload_part(&self, rows: Arc<Rows>, metric: Metric, whole: &Whole) -> Result<CpuRows, BackendError> {
        check_upload(&rows)?;
        let largest = whole.largest_squared();
        let aux = dispatch_rows!(rows.view(), v => GraphAux::of_part(v, metric, largest));
        let sketch = whole.sketch(|sample| {
            dispatch_rows!(sample.view(), v => {
                let aux = GraphAux::of_part(v, metric, largest);
                Sketch::new(&v, &GraphGeometry::new(&aux, self.isa))
            })
        });
        Ok(CpuRows { rows, metric, aux, sketch: OnceLock::from(sketch.clone()) })
    }

    fn nearest(&self, queries: &CpuRows, base: &CpuRows, k: usize) -> Result<Neighbors, BackendError> {
        same_dim("nearest", queries.rows.dim(), base.rows.dim())?;
        let mut neighbors = Neighbors::padded(queries.rows.len(), k);
        if k == 0 || base.rows.is_empty() {
            return Ok(neighbors);
        }
        let found = with_pair(queries, base, self.isa, &mut NearestTask { queries, base, k });
        for (query, sorted) in found.iter().enumerate() {
            neighbors.set_row(query, sorted);
        }
        Ok(neighbors)
    }

    fn gather_distances(
        &self,
        queries: &CpuRows,
        base: &CpuRows,
        lists: &Lists<u32>,
    ) -> Result<Vec<f32>, BackendError> {
        same_dim("gather distances", queries.rows.dim(), base.rows.dim())?;
        same_count("gather distances", "list", lists.len(), "query", queries.rows.len())?;
        check_ids("gather distances", lists.items.iter().copied(), base.rows.len())?;
        Ok(with_pair(queries, base, self.isa, &mut GatherTask { queries, base, lists }))
    }

    fn leaf_neighbors(&self, rows: &CpuRows, leaves: &Lists<u32>, k: usize) -> Result<Lists<Scored>, BackendError> {
        check_ids("leaf neighbors", leaves.items.iter().copied(), rows.rows.len())?;
        Ok(dispatch_rows!(rows.rows.view(), v => self.leaves(v, rows).neighbors(leaves, k)))
    }

    fn nearest_leaders(
        &self,
        rows: &CpuRows,
        points: &[u32],
        leaders: &[u32],
        k: usize,
    ) -> Result<Vec<u32>, BackendError> {
        check_ids("nearest leaders", points.iter().chain(leaders).copied(), rows.rows.len())?;
        let k = k.min(leaders.len());
        if k == 0 {
            return Ok(Vec::new());
        }
        Ok(dispatch_rows!(rows.rows.view(), v => self.leaves(v, rows).leaders(points, leaders, k)))
    }

    fn robust_prune(
        &self,
        base: &CpuRows,
        points: &[u32],
        candidates: &Lists<u32>,
        params: PruneParams,
    ) -> Result<Lists<u32>, BackendError> {
        same_count("robust prune", "candidate list", candidates.len(), "point", points.len())?;
        let ids = points.iter().chain(&candidates.items).copied();
        check_ids("robust prune", ids, base.rows.len())?;
        Ok(
            dispatch_rows!(base.rows.view(), v => prune::robust_prune(&v, &base.aux, self.isa, points, candidates, params)),
        )
    }

    fn kmeans_step(&self, points: &CpuRows, centroids: ArrayView2<'_, f32>) -> Result<KMeansStep, BackendError> {
        same_dim("k-means step", points.rows.dim(), centroids.ncols())?;
        some_centroids(centroids)?;
        Ok(quantise::kmeans_step(points, centroids, self.isa))
    }

    fn kmeans_step_among(&self, points: &CpuRows, tree: &CentroidTree) -> Result<KMeansStep, BackendError> {
        same_dim("k-means step", points.rows.dim(), tree.centroids().ncols())?;
        some_centroids(tree.centroids().view())?;
        Ok(quantise::kmeans_step_among(points, tree, self.isa))
    }

    fn pq_encode(
        &self,
        rows: &CpuRows,
        residual_to: Option<(ArrayView2<'_, f32>, &[u32])>,
        pq: &ProductQuantizer,
    ) -> Result<Array2<u8>, BackendError> {
        check_encoding(rows.rows.len(), rows.rows.dim(), residual_to, pq)?;
        Ok(quantise::pq_encode(rows, residual_to, pq, self.isa))
    }

    fn pack_nodes(&self, rows: &CpuRows, nodes: &NodeBlock<'_>) -> Result<Vec<u8>, BackendError> {
        let record = VectorRecord { dtype: rows.rows.dtype(), dim: rows.rows.dim(), metric: rows.metric };
        nodes.check(rows.rows.len(), record)?;
        let inverse_norms = rows.aux.inverse_norms();
        Ok(dispatch_rows!(rows.rows.view(), v => nodes::pack(&nodes::Source { rows: v, inverse_norms }, nodes)))
    }

    fn rabitq_encode(
        &self,
        rows: &CpuRows,
        ids: &[u32],
        residual_to: (ArrayView2<'_, f32>, &[u32]),
        rabitq: &Rabitq,
    ) -> Result<Array2<u8>, BackendError> {
        check_rabitq(rows.rows.len(), rows.rows.dim(), ids, residual_to, rabitq)?;
        let norms = rows.aux.inverse_norms();
        Ok(
            dispatch_rows!(rows.rows.view(), v => codec::rabitq::rows::encode(&v, norms, ids, residual_to, rabitq, rows.metric)),
        )
    }
}

/// Row `i` of a contiguous matrix as a slice.
pub(crate) fn row<'a, T>(rows: &ArrayView2<'a, T>, i: usize) -> &'a [T] {
    (*rows).index_axis_move(ndarray::Axis(0), i).to_slice().expect("rows are contiguous by construction")
}

/// Work over queries of type `A` and base rows of type `T`, once their types are known.
trait PairTask {
    type Output;
    fn run<A: Element, T: Kernels>(
        &mut self,
        queries: ArrayView2<'_, A>,
        base: ArrayView2<'_, T>,
        geometry: QueryGeometry<A, T>,
    ) -> Self::Output;
}

/// Runs `task` on queries of the base's own type, or widened to f32 where the types differ.
fn with_pair<P: PairTask>(queries: &CpuRows, base: &CpuRows, isa: Isa, task: &mut P) -> P::Output {
    fn typed<T: Kernels, P: PairTask>(
        queries: &CpuRows,
        base: ArrayView2<'_, T>,
        metric: Metric,
        isa: Isa,
        task: &mut P,
    ) -> P::Output {
        match T::view(&queries.rows.view()) {
            Some(same) => task.run(same, base, QueryGeometry::same(metric, isa)),
            None => {
                let widened = queries.rows.view().to_f32();
                task.run(widened.view(), base, QueryGeometry::widened(metric, isa))
            }
        }
    }
    dispatch_rows!(base.rows.view(), v => typed(queries, v, base.metric, isa, task))
}

struct NearestTask<'a> {
    queries: &'a CpuRows,
    base: &'a CpuRows,
    k: usize,
}

impl PairTask for NearestTask<'_> {
    type Output = Vec<Vec<Scored>>;

    fn run<A: Element, T: Kernels>(
        &mut self,
        queries: ArrayView2<'_, A>,
        base: ArrayView2<'_, T>,
        geometry: QueryGeometry<A, T>,
    ) -> Self::Output {
        let query_norms = norms_for(self.queries, &queries, geometry.metric);
        nearest::nearest(&queries, &query_norms, &base, self.base.aux.inverse_norms(), geometry, self.k)
    }
}

struct GatherTask<'a> {
    queries: &'a CpuRows,
    base: &'a CpuRows,
    lists: &'a Lists<u32>,
}

impl PairTask for GatherTask<'_> {
    type Output = Vec<f32>;

    fn run<A: Element, T: Kernels>(
        &mut self,
        queries: ArrayView2<'_, A>,
        base: ArrayView2<'_, T>,
        geometry: QueryGeometry<A, T>,
    ) -> Self::Output {
        let query_norms = norms_for(self.queries, &queries, geometry.metric);
        let distances: Vec<Vec<f32>> = (0..queries.nrows())
            .into_par_iter()
            .map(|q| {
                let norm = query_norms.get(q).copied().unwrap_or(1.0);
                let distance = |&id: &u32| {
                    let id = id as usize;
                    geometry.distance(row(&queries, q), norm, row(&base, id), self.base.inverse_norm(id))
                };
                self.lists.get(q).iter().map(distance).collect()
            })
            .collect();
        distances.concat()
    }
}

/// The queries' inverse norms under the base's metric: kept from their upload, or computed where they
/// were uploaded under another metric.
fn norms_for<A: Element>(uploaded: &CpuRows, queries: &ArrayView2<'_, A>, metric: Metric) -> Vec<f32> {
    match metric {
        Metric::Cosine if uploaded.metric == Metric::Cosine => uploaded.aux.inverse_norms().to_vec(),
        Metric::Cosine => (0..queries.nrows()).map(|i| inverse_norm(row(queries, i))).collect(),
        Metric::L2 | Metric::InnerProduct => Vec::new(),
    }
}
