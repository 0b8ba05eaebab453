//! Greedy search of a graph (DiskANN, NeurIPS 2019, algorithm 1) for many queries at once.
//!
//! In: rows resident on a backend, a graph of them, queries and where each starts. Out: each query's nearest
//! rows among those that its walk saw, by exact distances. A walk keeps the `list_size` nearest rows seen in the total
//! order (distance, id), and expands the nearest that it has not, until it has expanded all of them: what it finds is one
//! set, whatever the order in which distances are computed. Where rows are not integers, distances that are equal but for
//! rounding may rank either way, and a walk take another turn.
//!
//! [`in_lockstep`] serves every backend that can gather distances: all walks take a step, then all their distances are
//! computed at once. Backends that walk on their device have it for a twin; its own is [`crate::plain::graph_search`].

use std::collections::HashSet;
use std::time::Duration;

use rayon::prelude::*;

use crate::adjacency::Adjacency;
use crate::backend::{Backend, BackendError, Lists};
use crate::checks::check_ids;
use crate::topk::{Neighbors, Scored};

/// The name of the stage in errors.
pub(crate) const OPERATION: &str = "graph search";

/// Parameters of a greedy search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphSearchParams {
    /// Candidates that a walk keeps, L.
    pub list_size: usize,
    /// Answers a query, of those candidates; beyond `list_size` there is padding.
    pub k: usize,
}

/// What walks found.
#[derive(Debug, Clone)]
pub struct GraphNeighbors {
    /// `(queries, k)`, ascending by (distance, id), padded where a walk saw fewer rows.
    pub neighbors: Neighbors,
    /// Rows that each walk expanded, `(queries)`.
    pub expanded: Vec<u32>,
    /// What the walks took where a device made them, from their start to the last one's end: rows, graph and queries are
    /// there before, and answers come back after. CUDA's own clock; with wgpu the host's, from submission on. `None` where
    /// the host had a part in the walks.
    pub on_device: Option<Duration>,
}

impl GraphNeighbors {
    /// Padding only, nothing expanded.
    pub(crate) fn padded(queries: usize, k: usize) -> Self {
        Self { neighbors: Neighbors::padded(queries, k), expanded: vec![0; queries], on_device: None }
    }
}

/// A row that a walk saw.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    scored: Scored,
    expanded: bool,
}

/// One search in progress.
#[derive(Debug, Default)]
struct Walk {
    /// The nearest rows seen, ascending.
    list: Vec<Candidate>,
    seen: HashSet<u32>,
    expanded: u32,
}

impl Walk {
    /// Those of `rows` that were not seen before, each once.
    fn unseen(&mut self, rows: &[u32]) -> Vec<u32> {
        rows.iter().copied().filter(|&row| self.seen.insert(row)).collect()
    }

    /// Expands the nearest candidate that is not expanded; `None` when there is none, and the walk is over.
    fn next(&mut self) -> Option<u32> {
        let nearest = self.list.iter_mut().find(|candidate| !candidate.expanded)?;
        nearest.expanded = true;
        self.expanded += 1;
        Some(nearest.scored.id)
    }

    fn admit(&mut self, found: impl Iterator<Item = Scored>, list_size: usize) {
        for scored in found {
            let place = self.list.partition_point(|candidate| candidate.scored < scored);
            if place < list_size {
                self.list.insert(place, Candidate { scored, expanded: false });
                self.list.truncate(list_size);
            }
        }
    }
}

/// Searches `graph` of `base` for each of `queries`, of which `entries` names one list each, all walks a step at a time.
///
/// # Errors
/// Operands that do not fit together, and whatever gathering distances comes to.
pub fn in_lockstep<B: Backend>(
    backend: &B,
    base: &B::Rows,
    graph: &Adjacency,
    entries: &Lists<u32>,
    queries: &B::Rows,
    params: GraphSearchParams,
) -> Result<GraphNeighbors, BackendError> {
    let n = graph.len();
    graph.check(OPERATION, n)?;
    check_ids(OPERATION, entries.items.iter().copied(), n)?;
    let GraphSearchParams { list_size, k } = params;
    let mut walks: Vec<Walk> = Vec::new();
    walks.resize_with(entries.len(), Walk::default);
    let started = walks.par_iter_mut().enumerate().map(|(query, walk)| walk.unseen(entries.get(query)));
    let mut wanted: Vec<Vec<u32>> = started.collect();
    loop {
        let lists: Lists<u32> = wanted.into_iter().collect();
        // Asked even where nothing is wanted, once: operands that do not fit are refused there.
        let distances = backend.gather_distances(queries, base, &lists)?;
        wanted = walks
            .par_iter_mut()
            .enumerate()
            .map(|(query, walk)| {
                let places = lists.offsets[query]..lists.offsets[query + 1];
                let found = places.map(|place| Scored { distance: distances[place], id: lists.items[place] });
                walk.admit(found, list_size);
                // Expanding a row of which nothing is new takes no distances: on to the next.
                while let Some(row) = walk.next() {
                    let unseen = walk.unseen(graph.neighbors(row));
                    if !unseen.is_empty() {
                        return unseen;
                    }
                }
                Vec::new()
            })
            .collect();
        if wanted.iter().all(Vec::is_empty) {
            break;
        }
    }
    let mut found = GraphNeighbors::padded(entries.len(), k);
    for (query, walk) in walks.iter().enumerate() {
        let nearest: Vec<Scored> = walk.list.iter().take(k).map(|candidate| candidate.scored).collect();
        found.neighbors.set_row(query, &nearest);
        found.expanded[query] = walk.expanded;
    }
    Ok(found)
}
