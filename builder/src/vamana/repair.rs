//! Links every row that a walk from the entry cannot reach.
//!
//! In: a graph. Out: the same graph in which every row is reachable, degrees within R. Rows drop out
//! where all their in-edges were pruned away, mostly copies of one row. The graph may lie in memory or on a drive
//! ([`Links`]); what is linked to what does not depend on that.
//!
//! Walks run here, one after another, and not in batches by [`Backend::graph_search`](kiln_kernels::Backend::graph_search):
//! each link changes the graph, and what is reached, before the next row looks for its place, so that walks of a batch
//! would find other parents. There is little to win: a walk is needed only where none of a row's own neighbours is
//! reached, once for all rows that hang together.

use std::collections::VecDeque;
use std::convert::Infallible;

use kiln_kernels::distance::Kernels;

use super::insert::{BuildView, Space};
use super::walk::{Walk, greedy_search};
use super::{Bits, Graph};

/// A graph that can be linked.
pub(super) trait Links {
    /// What can go wrong; `Infallible` in memory.
    type Error;

    /// Appends the edges of a row.
    fn neighbors(&mut self, row: u32, out: &mut Vec<u32>) -> Result<(), Self::Error>;

    /// Replaces the edges of a row.
    fn set(&mut self, row: u32, edges: &[u32]);

    /// The rows that a greedy search for `row` expands from the entry, nearest first; at least the entry.
    fn search(&mut self, row: u32) -> Result<Vec<u32>, Self::Error>;
}

/// Links what is unreachable in a graph in memory.
pub(super) fn link_unreachable<T: Kernels>(space: &Space<'_, T>, graph: &mut Graph) {
    let (n, entry) = (graph.len(), graph.entry);
    let mut reached = Bits::new(n);
    let mut links = InMemory { space, graph, scratch: Walk::default() };
    let Ok(()) = spread(&mut links, entry, &mut reached);
    let Ok(linked) = link_rest(&mut links, n, space.prune.max_degree, &mut reached);
    tell(&linked);
}

/// How many rows were linked, and how many of them after a walk.
#[derive(Default)]
pub(super) struct Linked {
    rows: usize,
    walked: usize,
}

/// Says how many rows were linked, if any.
pub(super) fn tell(&Linked { rows: linked, walked }: &Linked) {
    if linked > 0 {
        tracing::info!("linked {linked} rows that no walk reached, {walked} of them after a walk");
    }
}

/// Attaches each of `n` rows that is not reached below the nearest of its own neighbours that is reached and has room for
/// an edge. Where none is reached, a walk from the entry looks for one, once for all rows that hang together. Where none has
/// room, the last edge of the nearest is split in two: v -> w becomes v -> u -> w, which keeps w reachable.
pub(super) fn link_rest<L: Links>(
    links: &mut L,
    n: usize,
    max_degree: usize,
    reached: &mut Bits,
) -> Result<Linked, L::Error> {
    let (mut own, mut list, mut linked) = (Vec::new(), Vec::new(), Linked::default());
    for row in 0..n as u32 {
        if reached.get(row) {
            continue;
        }
        own.clear();
        links.neighbors(row, &mut own)?;
        let mut parents: Vec<u32> = own.iter().copied().filter(|&n| reached.get(n)).collect();
        if parents.is_empty() {
            linked.walked += 1;
            parents = links.search(row)?;
        }
        let mut with_room = None;
        for &parent in &parents {
            list.clear();
            links.neighbors(parent, &mut list)?;
            if list.len() < max_degree {
                with_room = Some(parent);
                break;
            }
        }
        match with_room {
            Some(parent) => {
                list.push(row);
                links.set(parent, &list);
            }
            None => {
                list.clear();
                links.neighbors(parents[0], &mut list)?;
                let last = list.len() - 1;
                let displaced = std::mem::replace(&mut list[last], row);
                links.set(parents[0], &list);
                // An unreachable row's own edges kept nothing else reachable.
                if own.len() < max_degree {
                    own.push(displaced);
                } else {
                    let last = own.len() - 1;
                    own[last] = displaced;
                }
                links.set(row, &own);
            }
        }
        spread(links, row, reached)?;
        linked.rows += 1;
    }
    Ok(linked)
}

/// Marks everything reachable from `start`.
pub(super) fn spread<L: Links>(links: &mut L, start: u32, reached: &mut Bits) -> Result<(), L::Error> {
    let mut queue = VecDeque::from([start]);
    let mut neighbors = Vec::new();
    reached.set(start);
    while let Some(row) = queue.pop_front() {
        neighbors.clear();
        links.neighbors(row, &mut neighbors)?;
        queue.extend(neighbors.iter().filter(|&&next| !reached.set(next)));
    }
    Ok(())
}

struct InMemory<'a, 's, T> {
    space: &'a Space<'s, T>,
    graph: &'a mut Graph,
    scratch: Walk,
}

impl<T: Kernels> Links for InMemory<'_, '_, T> {
    type Error = Infallible;

    fn neighbors(&mut self, row: u32, out: &mut Vec<u32>) -> Result<(), Infallible> {
        out.extend_from_slice(self.graph.neighbors(row));
        Ok(())
    }

    fn set(&mut self, row: u32, edges: &[u32]) {
        self.graph.set(row, edges);
    }

    fn search(&mut self, row: u32) -> Result<Vec<u32>, Infallible> {
        let mut view = BuildView { space: self.space, graph: self.graph, query: row };
        greedy_search(&mut view, self.space.build_list, &mut self.scratch, &mut ())?;
        self.scratch.expanded.sort_unstable();
        Ok(self.scratch.expanded.iter().map(|c| c.id).collect())
    }
}
