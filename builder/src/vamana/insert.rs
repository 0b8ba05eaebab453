//! The `insert` method: Vamana by batches of insertions.
//!
//! In: rows and parameters. Out: an alpha-pruned [`Graph`] of bounded degree. After DiskANN (NeurIPS
//! 2019, algorithm 3), in batches that double up to 2% of n as ParlayANN does (PPoPP 2024): every point
//! of a batch searches the graph as it stood before the batch, so the result does not depend on threads.
//! Deviations from the papers: lists may overflow by `SLACK` before they are pruned again, as in
//! DiskANN's code; the second pass fills free places and prunes nothing (see `saturate`); and points that stay
//! unreachable are linked at the end (see `repair`).

use std::convert::Infallible;

use kiln_kernels::cpu::robust_prune_one;
use kiln_kernels::distance::{GraphAux, GraphGeometry, Isa, Kernels, QueryGeometry, prefetch};
use kiln_kernels::{Metric, Progress, PruneParams, Scored};
use ndarray::{Array1, ArrayView2};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::Graph;
use super::walk::{GraphView, Visit, VisitedSet, Walk, greedy_search};
use crate::params::VamanaParams;

/// Room beyond R, as a factor, so that a reverse edge rarely forces a prune.
const SLACK: f32 = 1.3;

/// Largest batch as a share of n.
const BATCH_SHARE: f64 = 0.02;

/// Everything that stays fixed while a graph is built.
pub(super) struct Space<'a, T> {
    pub rows: ArrayView2<'a, T>,
    pub geometry: GraphGeometry<'a, T>,
    pub prune: PruneParams,
    pub build_list: usize,
}

impl<'a, T: Kernels> Space<'a, T> {
    pub(super) fn new(rows: ArrayView2<'a, T>, aux: &'a GraphAux, params: &VamanaParams) -> Self {
        Self {
            rows,
            geometry: GraphGeometry::new(aux, Isa::best()),
            prune: PruneParams { max_degree: params.max_degree, alpha: params.alpha as f32 },
            build_list: params.build_list,
        }
    }

    #[inline(always)]
    pub(super) fn row(&self, id: u32) -> &'a [T] {
        let dim = self.rows.ncols();
        let all = self.rows.to_slice().expect("rows are contiguous by construction");
        &all[id as usize * dim..(id as usize + 1) * dim]
    }

    #[inline(always)]
    pub(super) fn distance(&self, a: u32, b: u32) -> f32 {
        let aux = |id: u32| self.geometry.aux(id as usize);
        self.geometry.distance(self.row(a), aux(a), self.row(b), aux(b))
    }
}

/// A graph under construction, seen from one of its rows.
pub(super) struct BuildView<'a, 's, T> {
    pub space: &'a Space<'s, T>,
    pub graph: &'a Graph,
    pub query: u32,
}

impl<T: Kernels> GraphView for BuildView<'_, '_, T> {
    type Error = Infallible;

    fn enter(&mut self, found: &mut Vec<Scored>) -> Result<usize, Infallible> {
        let entry = self.graph.entry;
        found.push(Scored { distance: self.space.distance(self.query, entry), id: entry });
        Ok(1)
    }

    #[inline(always)]
    fn visit(
        &mut self,
        node: Scored,
        _bound: f32,
        seen: &mut VisitedSet,
        found: &mut Vec<Scored>,
    ) -> Result<Visit, Infallible> {
        for &id in self.graph.neighbors(node.id) {
            if seen.insert(id) {
                prefetch(self.space.row(id));
                found.push(Scored { distance: 0.0, id });
            }
        }
        found.iter_mut().for_each(|c| c.distance = self.space.distance(self.query, c.id));
        Ok(Visit { exact: node.distance, scored: found.len() })
    }

    #[inline(always)]
    fn prefetch(&self, node: u32) {
        prefetch(self.graph.neighbors(node));
    }
}

/// Builds the graph of `rows` `(n, dim)`, n >= 1.
pub(crate) fn build_graph<T: Kernels>(
    rows: ArrayView2<'_, T>,
    metric: Metric,
    params: &VamanaParams,
    progress: &dyn Progress,
) -> Graph {
    let aux = GraphAux::new(rows, metric);
    let space = Space::new(rows, &aux, params);
    let n = space.rows.nrows();
    let entry = medoid(space.rows, &aux, metric);
    let capacity = (params.max_degree as f32 * SLACK).ceil() as usize;
    let mut graph = Graph::new(n, capacity, entry);

    let mut order: Vec<u32> = (0..n as u32).filter(|&id| id != entry).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(params.seed));
    let largest = ((n as f64 * BATCH_SHARE) as usize).max(1);
    let mut done = 0;
    while done < order.len() {
        let size = done.clamp(1, largest).min(order.len() - done);
        insert_batch(&space, &mut graph, &order[done..done + size]);
        done += size;
        progress.advance(size as u64);
    }
    trim(&space, &mut graph);
    super::saturate::saturate(&space, &mut graph, progress);
    super::repair::link_unreachable(&space, &mut graph);
    graph
}

/// Searches for each point of a batch, prunes what the search expanded to its edges, then adds the
/// reverse edges.
fn insert_batch<T: Kernels>(space: &Space<'_, T>, graph: &mut Graph, batch: &[u32]) {
    let frozen: &Graph = graph;
    let out_edges: Vec<Vec<u32>> = batch
        .par_iter()
        .map_init(Walk::default, |scratch, &point| {
            let mut view = BuildView { space, graph: frozen, query: point };
            let Ok(()) = greedy_search(&mut view, space.build_list, scratch, &mut ());
            prune(space, point, &mut scratch.expanded)
        })
        .collect();
    for (&point, edges) in batch.iter().zip(&out_edges) {
        graph.set(point, edges);
    }

    // (target, source) pairs, grouped by target in a total order.
    let mut reverse: Vec<(u32, u32)> =
        batch.iter().zip(&out_edges).flat_map(|(&point, edges)| edges.iter().map(move |&e| (e, point))).collect();
    reverse.par_sort_unstable();
    let frozen: &Graph = graph;
    let grouped: Vec<(u32, Vec<u32>)> = reverse
        .par_chunk_by(|a, b| a.0 == b.0)
        .map(|group| {
            let target = group[0].0;
            let mut edges = frozen.neighbors(target).to_vec();
            edges.extend(group.iter().map(|&(_, source)| source));
            if edges.len() > frozen.capacity {
                let mut candidates = scored(space, target, &edges);
                edges = prune(space, target, &mut candidates);
            }
            (target, edges)
        })
        .collect();
    for (target, edges) in grouped {
        graph.set(target, &edges);
    }
}

/// Prunes the lists that still overflow R, and orders every list nearest first.
fn trim<T: Kernels>(space: &Space<'_, T>, graph: &mut Graph) {
    let frozen: &Graph = graph;
    let lists: Vec<Vec<u32>> = (0..frozen.len() as u32)
        .into_par_iter()
        .map(|row| {
            let mut candidates = scored(space, row, frozen.neighbors(row));
            if candidates.len() > space.prune.max_degree {
                return prune(space, row, &mut candidates);
            }
            candidates.sort_unstable();
            candidates.iter().map(|c| c.id).collect()
        })
        .collect();
    let mut trimmed = Graph::new(frozen.len(), space.prune.max_degree, frozen.entry);
    for (row, list) in lists.iter().enumerate() {
        trimmed.set(row as u32, list);
    }
    *graph = trimmed;
}

pub(super) fn scored<T: Kernels>(space: &Space<'_, T>, point: u32, ids: &[u32]) -> Vec<Scored> {
    ids.iter().map(|&id| Scored { distance: space.distance(point, id), id }).collect()
}

pub(super) fn prune<T: Kernels>(space: &Space<'_, T>, point: u32, candidates: &mut Vec<Scored>) -> Vec<u32> {
    let mut kept = Vec::with_capacity(space.prune.max_degree);
    robust_prune_one(&space.rows, &space.geometry, point, candidates, space.prune, &mut kept);
    kept
}

/// The row nearest to the mean of all rows (under cosine, of all rows at unit length).
pub(super) fn medoid<T: Kernels>(rows: ArrayView2<'_, T>, aux: &GraphAux, metric: Metric) -> u32 {
    let inverse = |i: usize| aux.inverse_norms().get(i).copied().unwrap_or(1.0);
    let mut sum = Array1::<f64>::zeros(rows.ncols());
    for (i, row) in rows.outer_iter().enumerate() {
        sum.zip_mut_with(&row, |s, x| *s += f64::from(x.to_f32() * inverse(i)));
    }
    let mean: Vec<f32> = sum.iter().map(|s| (s / rows.nrows() as f64) as f32).collect();
    let mean_inverse = kiln_kernels::distance::inverse_norm(&mean);
    // Inner product has no nearest row to a mean worth starting from; the centre of the cloud does.
    let metric = if metric == Metric::Cosine { Metric::Cosine } else { Metric::L2 };
    let geometry = QueryGeometry::<f32, T>::widened(metric, Isa::best());
    let nearest = (0..rows.nrows())
        .into_par_iter()
        .map(|i| {
            let row = rows.row(i);
            let row = row.to_slice().expect("rows are contiguous by construction");
            Scored { distance: geometry.distance(&mean, mean_inverse, row, inverse(i)), id: i as u32 }
        })
        .min();
    nearest.map_or(0, |scored| scored.id)
}
