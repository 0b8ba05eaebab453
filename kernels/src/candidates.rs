//! The nearest candidates of every row, gathered leaf by leaf and pruned to edges.
//!
//! In: leaves, batch after batch. Out: for each row its robustly pruned edges, and beside them the nearest candidates that
//! were not kept; of these the graph, with reverse edges. A backend that keeps candidates itself (on a device nothing
//! returns to the host between the product of a leaf and the graph) implements [`Candidates`]; [`HostCandidates`] serves all others, and is the twin of those.

use rayon::prelude::*;

use crate::adjacency::Adjacency;
use crate::backend::{Backend, BackendError, Lists, PruneParams};
use crate::progress::Progress;
use crate::reservoir::{DistanceKey, Reservoirs};
use crate::reverse::Pruned;

/// No row: the padding of [`PrunedRows`].
pub const NO_ROW: u32 = u32::MAX;

/// What is kept of the candidates that leaves name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CandidateParams {
    /// Rows.
    pub n: usize,
    /// Candidates kept a row: the nearest, by the 16 bits of [`DistanceKey`] and id.
    pub keep: usize,
    /// The distance, in the graph geometry, from which on keys are equal.
    pub largest_distance: f32,
    /// Random rows that join each row's candidates when they are pruned: see [`far_row`].
    pub far: u32,
    /// Seed of those.
    pub seed: u64,
}

/// Pruned consecutive rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunedRows {
    /// The first of the rows.
    pub first_row: u32,
    /// `(rows, max_degree)`: the edges kept, nearest first, then the nearest candidates not kept; padded by [`NO_ROW`].
    pub edges: Vec<u32>,
    /// Edges kept of each row, `(rows)`.
    pub kept: Vec<u16>,
}

/// The candidates of all rows of one graph.
pub trait Candidates {
    /// Takes for candidates each member's `k` nearest other members of each leaf. What is kept in the end does not depend
    /// on how leaves are batched.
    ///
    /// # Errors
    /// A leaf that names no row, or a device that fails.
    fn add_leaves(&mut self, leaves: &Lists<u32>, k: usize) -> Result<(), BackendError>;

    /// Prunes the next rows, in order; their candidates go, and their edges stay where they are. How many rows that were:
    /// `None` after the last. No leaves may follow, nor other parameters.
    ///
    /// # Errors
    /// A device that fails.
    fn prune_next(&mut self, params: PruneParams) -> Result<Option<usize>, BackendError>;

    /// Prunes the rows that are left, and gives all of them their reverse edges: the finished graph.
    ///
    /// # Errors
    /// A device that fails.
    fn into_graph(self: Box<Self>, params: PruneParams, progress: &dyn Progress) -> Result<Adjacency, BackendError>;
}

/// The `i`-th random row of a row: any well-mixed function of the three will do.
pub fn far_row(seed: u64, row: u32, i: u32, n: usize) -> u32 {
    // SplitMix64's finalizer (Steele et al., OOPSLA 2014).
    let mut z = seed ^ (u64::from(row) << 32 | u64::from(i)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) % n as u64) as u32
}

/// Candidates in the host's memory, for any backend.
pub struct HostCandidates<'a, B: Backend> {
    backend: &'a B,
    rows: &'a B::Rows,
    params: CandidateParams,
    reservoirs: Reservoirs,
    /// The rows pruned so far, once there are any.
    pruned: Option<Pruned>,
}

impl<'a, B: Backend> HostCandidates<'a, B> {
    /// None yet, of any row.
    pub fn new(backend: &'a B, rows: &'a B::Rows, params: CandidateParams) -> Self {
        let reservoirs = Reservoirs::new(params.n, params.keep, DistanceKey::new(params.largest_distance));
        Self { backend, rows, params, reservoirs, pruned: None }
    }

    /// The rows that were pruned; what is left of their candidates goes.
    pub fn into_pruned(self, params: PruneParams) -> Pruned {
        let mut pruned = self.pruned.unwrap_or_else(|| Pruned::in_order(self.params.n, params.max_degree));
        pruned.complete();
        pruned
    }
}

impl<B: Backend> Candidates for HostCandidates<'_, B> {
    fn add_leaves(&mut self, leaves: &Lists<u32>, k: usize) -> Result<(), BackendError> {
        let neighbors = self.backend.leaf_neighbors(self.rows, leaves, k)?;
        self.reservoirs.offer(&leaves.items, |member| neighbors.get(member));
        Ok(())
    }

    fn prune_next(&mut self, params: PruneParams) -> Result<Option<usize>, BackendError> {
        let Some((first_row, candidates)) = self.reservoirs.take_next() else { return Ok(None) };
        let points: Vec<u32> = (first_row..first_row + candidates.len() as u32).collect();
        let CandidateParams { n, far, seed, .. } = self.params;
        let with_far = |(row, mut nearest): (&u32, Vec<u32>)| {
            for far in (0..far).map(|i| far_row(seed, *row, i, n)) {
                if far != *row && !nearest.contains(&far) {
                    nearest.push(far);
                }
            }
            nearest
        };
        let candidates: Lists<u32> = points.iter().zip(candidates).map(with_far).collect();
        let kept = self.backend.robust_prune(self.rows, &points, &candidates, params)?;
        let mut edges = vec![NO_ROW; points.len() * params.max_degree];
        edges.par_chunks_mut(params.max_degree.max(1)).enumerate().for_each(|(i, edges)| {
            let kept = kept.get(i);
            let others = candidates.get(i).iter().filter(|id| !kept.contains(id));
            edges.iter_mut().zip(kept.iter().chain(others)).for_each(|(edge, &id)| *edge = id);
        });
        let kept = kept.iter().map(|list| list.len() as u16).collect();
        let pruned = self.pruned.get_or_insert_with(|| Pruned::in_order(n, params.max_degree));
        pruned.set_rows(&PrunedRows { first_row, edges, kept });
        Ok(Some(points.len()))
    }

    fn into_graph(
        mut self: Box<Self>,
        params: PruneParams,
        progress: &dyn Progress,
    ) -> Result<Adjacency, BackendError> {
        let (backend, rows) = (self.backend, self.rows);
        while self.prune_next(params)?.is_some() {}
        backend.reverse_edges(rows, &self.into_pruned(params), params, progress)
    }
}
