//! Links every row that a walk from the entry cannot reach.
//!
//! In: a graph. Out: the same graph in which every row is reachable, degrees within R. Rows drop out
//! where all their in-edges were pruned away, mostly copies of one row.
//!
//! Walks run here, one after another, and not in batches by [`Backend::graph_search`](kiln_kernels::Backend::graph_search):
//! each link changes the graph, and what is reached, before the next row looks for its place, so that walks of a batch
//! would find other parents. There is little to win: a walk is needed only where none of a row's own neighbours is
//! reached, once for all rows that hang together.

use std::collections::VecDeque;

use kiln_kernels::distance::Kernels;

use super::Graph;
use super::insert::{BuildView, Space};
use super::walk::{Walk, greedy_search};

/// Attaches each unreachable row below the nearest of its own neighbours that is reached and has room for an edge. Where
/// none is reached, a walk from the entry looks for one, once for all rows that hang together. Where none has room, the
/// last edge of the nearest is split in two: v -> w becomes v -> u -> w, which keeps w reachable.
pub(super) fn link_unreachable<T: Kernels>(space: &Space<'_, T>, graph: &mut Graph) {
    let max_degree = space.prune.max_degree;
    let mut reached = vec![false; graph.len()];
    spread(graph, graph.entry, &mut reached);
    let mut scratch = Walk::default();
    let (mut linked, mut walked) = (0usize, 0usize);
    for row in 0..graph.len() as u32 {
        if reached[row as usize] {
            continue;
        }
        let mut parents: Vec<u32> = graph.neighbors(row).iter().copied().filter(|&n| reached[n as usize]).collect();
        if parents.is_empty() {
            let mut view = BuildView { space, graph, query: row };
            let Ok(()) = greedy_search(&mut view, space.build_list, &mut scratch, &mut ());
            scratch.expanded.sort_unstable();
            // The walk expands at least the entry.
            walked += 1;
            parents.extend(scratch.expanded.iter().map(|c| c.id));
        }
        match parents.iter().find(|&&parent| graph.has_room(parent, max_degree)) {
            Some(&parent) => graph.push(parent, row),
            None => {
                let displaced = graph.replace_last(parents[0], row);
                // An unreachable row's own edges kept nothing else reachable.
                if graph.has_room(row, max_degree) {
                    graph.push(row, displaced);
                } else {
                    graph.replace_last(row, displaced);
                }
            }
        }
        spread(graph, row, &mut reached);
        linked += 1;
    }
    if linked > 0 {
        tracing::info!("linked {linked} rows that no walk reached, {walked} of them after a walk");
    }
}

/// Marks everything reachable from `start`.
fn spread(graph: &Graph, start: u32, reached: &mut [bool]) {
    let mut queue = VecDeque::from([start]);
    reached[start as usize] = true;
    while let Some(row) = queue.pop_front() {
        for &next in graph.neighbors(row) {
            if !std::mem::replace(&mut reached[next as usize], true) {
                queue.push_back(next);
            }
        }
    }
}
