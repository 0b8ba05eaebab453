//! A backend for rows that may be more than its memory holds.
//!
//! In: a backend, and rows in the host's memory. Out: the same stages. Rows that fit are resident, and every stage is the
//! backend's own. Of others each stage uploads what it needs, part after part: the rows of some leaves, of some points
//! and their candidates, a range. Parts keep the order of row numbers, so that ties fall as they would among all rows. A
//! part for which there is no memory is halved, down to one leaf, one point, or a block of a range.

mod encode;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::{Array2, ArrayView2, Axis, concatenate};
use rayon::prelude::*;

use crate::adjacency::Adjacency;
use crate::backend::{Backend, BackendError, Ceilings, KMeansStep, Lists, PruneParams};
use crate::candidates::{CandidateParams, Candidates, HostCandidates};
use crate::checks::{check_encoding, check_ids, check_upload, same_count, same_dim, some_centroids};
use crate::codec::Rabitq;
use crate::dispatch_rows;
use crate::distance::squared_norm;
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

/// Places (rows, counted as often as they are named) of a part, until memory says otherwise.
const PLACES: usize = 1 << 22;

/// Rows of a block of k-means and encoding: fixed, so that no sum depends on how much memory there was.
const BLOCK: usize = 1 << 16;

/// A backend, and how large a part of rows it was found to hold.
#[derive(Debug)]
pub struct OutOfCore<B> {
    inner: B,
    places: AtomicUsize,
    /// Whether to try to hold all rows at all.
    whole: bool,
}

/// Rows that are resident if they fit.
pub struct PartRows<R> {
    host: Arc<Rows>,
    metric: Metric,
    resident: Option<R>,
    /// Under inner product the longest row: the graph geometry of every part is measured by it.
    longest: Option<u32>,
}

impl<R> PartRows<R> {
    /// Whether all of them are.
    pub fn is_resident(&self) -> bool {
        self.resident.is_some()
    }
}

impl<B: Backend> OutOfCore<B> {
    /// `inner`, for rows of any number.
    pub fn new(inner: B) -> Self {
        Self { inner, places: AtomicUsize::new(PLACES), whole: true }
    }

    /// The same, always in parts, of so many places at most: for tests.
    pub fn in_parts_of(inner: B, places: usize) -> Self {
        Self { inner, places: AtomicUsize::new(places.max(1)), whole: false }
    }

    /// Does `work` for ranges of `count` items, each of as many as the memory was found to hold, in order. `places` says how
    /// many rows an item names.
    fn in_parts(
        &self,
        count: usize,
        places: impl Fn(usize) -> usize,
        mut work: impl FnMut(Range<usize>) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let mut first = 0;
        while first < count {
            let most = self.places.load(Ordering::Relaxed);
            let (mut last, mut named) = (first + 1, places(first));
            while last < count && named + places(last) <= most {
                named += places(last);
                last += 1;
            }
            match work(first..last) {
                Err(BackendError::OutOfMemory { .. }) if last - first > 1 => {
                    let halved = (named / 2).max(1);
                    tracing::debug!("no memory for {named} rows at a time: going on with {halved}");
                    self.places.fetch_min(halved, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
                Ok(()) => first = last,
            }
        }
        Ok(())
    }

    /// Some rows on the device.
    fn part(&self, rows: &PartRows<B::Rows>, ids: &Named) -> Result<B::Rows, BackendError> {
        let mut chosen: Vec<usize> = ids.0.iter().map(|&id| id as usize).collect();
        chosen.extend(rows.longest.map(|row| row as usize));
        self.inner.upload(Arc::new(rows.host.view().select(&chosen)), rows.metric)
    }

    /// A range of rows on the device, for stages that know no graph geometry.
    fn range(&self, rows: &PartRows<B::Rows>, range: Range<usize>) -> Result<B::Rows, BackendError> {
        self.inner.upload(Arc::new(rows.host.view().slice(range).to_rows()), rows.metric)
    }

    /// A k-means step over all points, or block by block where they are not resident.
    fn step_in_blocks(
        &self,
        points: &PartRows<B::Rows>,
        step: impl Fn(&B::Rows) -> Result<KMeansStep, BackendError>,
    ) -> Result<KMeansStep, BackendError> {
        if let Some(resident) = &points.resident {
            return step(resident);
        }
        let (n, mut whole) = (points.host.len(), None);
        for first in (0..n).step_by(BLOCK) {
            let of_block = step(&self.range(points, first..n.min(first + BLOCK))?)?;
            match &mut whole {
                None => whole = Some(of_block),
                Some(whole) => add(whole, of_block),
            }
        }
        match whole {
            Some(whole) => Ok(whole),
            None => step(&self.range(points, 0..0)?),
        }
    }
}

/// Row numbers, ascending, each once: a row's place among them is its number in a part.
struct Named(Vec<u32>);

impl Named {
    fn new(ids: impl Iterator<Item = u32>) -> Self {
        let mut ids: Vec<u32> = ids.collect();
        ids.sort_unstable();
        ids.dedup();
        Self(ids)
    }

    /// The number in the part of a row that is in it.
    fn local(&self, id: u32) -> u32 {
        self.0.partition_point(|&other| other < id) as u32
    }

    fn locals(&self, ids: &[u32]) -> Vec<u32> {
        ids.iter().map(|&id| self.local(id)).collect()
    }

    /// The row that has this number in the part.
    fn global(&self, local: u32) -> u32 {
        self.0[local as usize]
    }
}

impl<B: Backend> Backend for OutOfCore<B> {
    type Rows = PartRows<B::Rows>;

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn is_host(&self) -> bool {
        self.inner.is_host()
    }

    fn ceilings(&self) -> Result<Ceilings, BackendError> {
        self.inner.ceilings()
    }

    fn upload(&self, rows: Arc<Rows>, metric: Metric) -> Result<Self::Rows, BackendError> {
        check_upload(&rows)?;
        let resident = match self.whole.then(|| self.inner.upload(Arc::clone(&rows), metric)) {
            None => None,
            Some(Ok(resident)) => Some(resident),
            Some(Err(BackendError::OutOfMemory { bytes, .. })) => {
                let gibibytes = bytes as f64 / f64::from(1 << 30);
                tracing::info!("{}: {gibibytes:.1} GiB more than it holds: rows go there in parts", self.describe());
                None
            }
            Some(Err(error)) => return Err(error),
        };
        let longest =
            (resident.is_none() && metric == Metric::InnerProduct && !rows.is_empty()).then(|| longest(&rows));
        Ok(PartRows { host: rows, metric, resident, longest })
    }

    fn nearest(&self, queries: &Self::Rows, base: &Self::Rows, k: usize) -> Result<Neighbors, BackendError> {
        if let (Some(queries), Some(base)) = (&queries.resident, &base.resident) {
            return self.inner.nearest(queries, base, k);
        }
        same_dim("nearest", queries.host.dim(), base.host.dim())?;
        let mut best: Vec<Vec<Scored>> = vec![Vec::new(); queries.host.len()];
        self.in_parts(
            queries.host.len(),
            |_| 2,
            |asked| {
                let part = self.range(queries, asked.clone())?;
                let mut found: Vec<Vec<Scored>> = vec![Vec::new(); asked.len()];
                self.in_parts(
                    base.host.len(),
                    |_| 2,
                    |rows| {
                        let near = self.inner.nearest(&part, &self.range(base, rows.clone())?, k)?;
                        for (query, found) in found.iter_mut().enumerate() {
                            for rank in 0..k.min(rows.len()) {
                                let id = near.ids[(query, rank)] + rows.start as u32;
                                found.push(Scored { distance: near.distances[(query, rank)], id });
                            }
                            found.sort_unstable();
                            found.truncate(k);
                        }
                        Ok(())
                    },
                )?;
                best[asked].iter_mut().zip(found).for_each(|(best, found)| *best = found);
                Ok(())
            },
        )?;
        let mut neighbors = Neighbors::padded(queries.host.len(), k);
        best.iter().enumerate().for_each(|(query, found)| neighbors.set_row(query, found));
        Ok(neighbors)
    }

    fn gather_distances(
        &self,
        queries: &Self::Rows,
        base: &Self::Rows,
        lists: &Lists<u32>,
    ) -> Result<Vec<f32>, BackendError> {
        if let (Some(queries), Some(base)) = (&queries.resident, &base.resident) {
            return self.inner.gather_distances(queries, base, lists);
        }
        same_dim("gather distances", queries.host.dim(), base.host.dim())?;
        same_count("gather distances", "list", lists.len(), "query", queries.host.len())?;
        check_ids("gather distances", lists.items.iter().copied(), base.host.len())?;
        let mut distances = Vec::with_capacity(lists.items.len());
        self.in_parts(
            lists.len(),
            |query| 1 + lists.get(query).len(),
            |asked| {
                let ids = Named::new(asked.clone().flat_map(|query| lists.get(query)).copied());
                let local: Lists<u32> = asked.clone().map(|query| ids.locals(lists.get(query))).collect();
                let (queries, base) = (self.range(queries, asked)?, self.part(base, &ids)?);
                distances.extend(self.inner.gather_distances(&queries, &base, &local)?);
                Ok(())
            },
        )?;
        Ok(distances)
    }

    fn leaf_neighbors(&self, rows: &Self::Rows, leaves: &Lists<u32>, k: usize) -> Result<Lists<Scored>, BackendError> {
        if let Some(resident) = &rows.resident {
            return self.inner.leaf_neighbors(resident, leaves, k);
        }
        check_ids("leaf neighbors", leaves.items.iter().copied(), rows.host.len())?;
        let mut all = Lists::default();
        self.in_parts(
            leaves.len(),
            |leaf| leaves.get(leaf).len(),
            |some| {
                let ids = Named::new(some.clone().flat_map(|leaf| leaves.get(leaf)).copied());
                let local: Lists<u32> = some.map(|leaf| ids.locals(leaves.get(leaf))).collect();
                let found = self.inner.leaf_neighbors(&self.part(rows, &ids)?, &local, k)?;
                let mut list = Vec::with_capacity(k);
                for near in found.iter() {
                    list.clear();
                    list.extend(near.iter().map(|s| Scored { id: ids.global(s.id), ..*s }));
                    all.push(&list);
                }
                Ok(())
            },
        )?;
        Ok(all)
    }

    fn nearest_leaders(
        &self,
        rows: &Self::Rows,
        points: &[u32],
        leaders: &[u32],
        k: usize,
    ) -> Result<Vec<u32>, BackendError> {
        if let Some(resident) = &rows.resident {
            return self.inner.nearest_leaders(resident, points, leaders, k);
        }
        check_ids("nearest leaders", points.iter().chain(leaders).copied(), rows.host.len())?;
        let mut nearest = Vec::with_capacity(points.len() * k.min(leaders.len()));
        self.in_parts(
            points.len(),
            |_| 1,
            |some| {
                let points = &points[some];
                let ids = Named::new(points.iter().chain(leaders).copied());
                let part = self.part(rows, &ids)?;
                let found = self.inner.nearest_leaders(&part, &ids.locals(points), &ids.locals(leaders), k)?;
                nearest.extend(found.into_iter().map(|leader| ids.global(leader)));
                Ok(())
            },
        )?;
        Ok(nearest)
    }

    fn robust_prune(
        &self,
        base: &Self::Rows,
        points: &[u32],
        candidates: &Lists<u32>,
        params: PruneParams,
    ) -> Result<Lists<u32>, BackendError> {
        if let Some(resident) = &base.resident {
            return self.inner.robust_prune(resident, points, candidates, params);
        }
        same_count("robust prune", "candidate list", candidates.len(), "point", points.len())?;
        check_ids("robust prune", points.iter().chain(&candidates.items).copied(), base.host.len())?;
        let mut all = Lists::default();
        self.in_parts(
            points.len(),
            |point| 1 + candidates.get(point).len(),
            |some| {
                let named = some.clone().flat_map(|point| candidates.get(point)).chain(&points[some.clone()]);
                let ids = Named::new(named.copied());
                let local: Lists<u32> = some.clone().map(|point| ids.locals(candidates.get(point))).collect();
                let kept =
                    self.inner.robust_prune(&self.part(base, &ids)?, &ids.locals(&points[some]), &local, params)?;
                for kept in kept.iter() {
                    all.push(&kept.iter().map(|&id| ids.global(id)).collect::<Vec<_>>());
                }
                Ok(())
            },
        )?;
        Ok(all)
    }

    fn kmeans_step(&self, points: &Self::Rows, centroids: ArrayView2<'_, f32>) -> Result<KMeansStep, BackendError> {
        same_dim("k-means step", points.host.dim(), centroids.ncols())?;
        some_centroids(centroids)?;
        self.step_in_blocks(points, |part| self.inner.kmeans_step(part, centroids))
    }

    fn kmeans_step_among(&self, points: &Self::Rows, tree: &CentroidTree) -> Result<KMeansStep, BackendError> {
        same_dim("k-means step", points.host.dim(), tree.centroids().ncols())?;
        some_centroids(tree.centroids().view())?;
        self.step_in_blocks(points, |part| self.inner.kmeans_step_among(part, tree))
    }

    fn pq_encode(
        &self,
        rows: &Self::Rows,
        residual_to: Option<(ArrayView2<'_, f32>, &[u32])>,
        pq: &ProductQuantizer,
    ) -> Result<Array2<u8>, BackendError> {
        if let Some(resident) = &rows.resident {
            return self.inner.pq_encode(resident, residual_to, pq);
        }
        check_encoding(rows.host.len(), rows.host.dim(), residual_to, pq)?;
        let n = rows.host.len();
        let blocks = (0..n).step_by(BLOCK).map(|first| {
            let block = first..n.min(first + BLOCK);
            let residual_to = residual_to.map(|(centroids, lists)| (centroids, &lists[block.clone()]));
            self.inner.pq_encode(&self.range(rows, block)?, residual_to, pq)
        });
        let codes: Vec<Array2<u8>> = blocks.collect::<Result<_, _>>()?;
        let views: Vec<ArrayView2<'_, u8>> = codes.iter().map(|block| block.view()).collect();
        Ok(concatenate(Axis(0), &views).unwrap_or_else(|_| Array2::zeros((0, pq.code_bytes()))))
    }

    fn pack_nodes(&self, rows: &Self::Rows, nodes: &NodeBlock<'_>) -> Result<Vec<u8>, BackendError> {
        if let Some(resident) = &rows.resident {
            return self.inner.pack_nodes(resident, nodes);
        }
        encode::pack_nodes(self, rows, nodes)
    }

    fn rabitq_encode(
        &self,
        rows: &Self::Rows,
        ids: &[u32],
        residual_to: (ArrayView2<'_, f32>, &[u32]),
        rabitq: &Rabitq,
    ) -> Result<Array2<u8>, BackendError> {
        if let Some(resident) = &rows.resident {
            return self.inner.rabitq_encode(resident, ids, residual_to, rabitq);
        }
        encode::rabitq_encode(self, rows, ids, residual_to, rabitq)
    }

    fn candidates<'a>(
        &'a self,
        rows: &'a Self::Rows,
        params: CandidateParams,
    ) -> Result<Box<dyn Candidates + 'a>, BackendError> {
        let gibibytes = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        match rows.resident.as_ref().map(|resident| self.inner.candidates(resident, params)) {
            Some(Err(BackendError::OutOfMemory { bytes, .. })) => {
                // Rows fit, their candidates do not.
                tracing::info!(
                    "{}: {:.1} GiB more than it holds: candidates stay here",
                    self.describe(),
                    gibibytes(bytes)
                );
                Ok(Box::new(HostCandidates::new(self, rows, params)))
            }
            Some(made) => made,
            None => Ok(Box::new(HostCandidates::new(self, rows, params))),
        }
    }

    /// Of rows that do not fit, crowded lists are pruned in parts.
    fn reverse_edges(
        &self,
        rows: &Self::Rows,
        pruned: &Pruned,
        params: PruneParams,
        progress: &dyn Progress,
    ) -> Result<Adjacency, BackendError> {
        match &rows.resident {
            Some(resident) => self.inner.reverse_edges(resident, pruned, params, progress),
            None => reverse::reverse_edges(self, rows, pruned, params, progress),
        }
    }

    fn upload_graph(&self, graph: Arc<Adjacency>) -> Result<ResidentGraph, BackendError> {
        self.inner.upload_graph(graph)
    }

    /// Where rows do not fit, all walks take a step at a time, and what they see is gathered in parts.
    fn graph_search(
        &self,
        base: &Self::Rows,
        graph: &ResidentGraph,
        entries: &Lists<u32>,
        queries: &Self::Rows,
        params: GraphSearchParams,
    ) -> Result<GraphNeighbors, BackendError> {
        match (&base.resident, &queries.resident) {
            (Some(base), Some(queries)) => self.inner.graph_search(base, graph, entries, queries, params),
            _ => graph_search::in_lockstep(self, base, graph.host(), entries, queries, params),
        }
    }
}

/// The row of largest norm, the first of several.
fn longest(rows: &Rows) -> u32 {
    dispatch_rows!(rows.view(), v => {
        let squared = |i: usize| squared_norm(crate::cpu::row(&v, i));
        let longest = (0..v.nrows()).into_par_iter().max_by(|&a, &b| squared(a).total_cmp(&squared(b)).then(b.cmp(&a)));
        longest.unwrap_or(0) as u32
    })
}

/// Adds the step of later rows.
fn add(whole: &mut KMeansStep, step: KMeansStep) {
    whole.assignments.extend(step.assignments);
    whole.distances.extend(step.distances);
    whole.sums += &step.sums;
    whole.counts.iter_mut().zip(&step.counts).for_each(|(count, more)| *count += more);
}
