//! Fills the places that pruning left free, so that every list holds up to R edges.
//!
//! In: a pruned graph. Out: the same graph with more edges; none is lost. Robust prune leaves about a quarter
//! of the places empty, and the file pays for them all the same. First, rows take edges back to rows that
//! name them; then each row searches the finished graph once more, as in Vamana's second pass, and takes what
//! robust prune would keep of the result, then the nearest of the rest. Unlike a second pass proper this
//! prunes nobody else's list: re-pruning cost in-edges, and with them recall at large list sizes.

use kiln_kernels::distance::Kernels;
use kiln_kernels::reverse::transposed;
use kiln_kernels::{Progress, Scored};
use rayon::prelude::*;

use super::Graph;
use super::insert::{BuildView, Space, prune, scored};
use super::walk::{Walk, greedy_search};

/// Rows that search the same state of the graph. Fixed, so that the result does not depend on threads.
const BLOCK: usize = 1 << 15;

/// Runs both steps; every list keeps its order, new edges come last.
pub(super) fn saturate<T: Kernels>(space: &Space<'_, T>, graph: &mut Graph, progress: &dyn Progress) {
    add_reverse_edges(graph, space.prune.max_degree);
    let rows: Vec<u32> = (0..graph.len() as u32).collect();
    for block in rows.chunks(BLOCK) {
        let frozen: &Graph = graph;
        let added: Vec<Vec<u32>> = block
            .par_iter()
            .map_init(Walk::default, |scratch, &row| found_by_search(space, frozen, row, scratch))
            .collect();
        for (&row, edges) in block.iter().zip(&added) {
            edges.iter().for_each(|&edge| graph.push(row, edge));
        }
        progress.advance(block.len() as u64);
    }
}

/// New edges for the free places of `row`: first those that robust prune keeps of old and new candidates
/// together, then the nearest.
fn found_by_search<T: Kernels>(space: &Space<'_, T>, graph: &Graph, row: u32, scratch: &mut Walk) -> Vec<u32> {
    let known = graph.neighbors(row);
    let room = space.prune.max_degree.saturating_sub(known.len());
    if room == 0 {
        return Vec::new();
    }
    let Ok(()) = greedy_search(&mut BuildView { space, graph, query: row }, space.build_list, scratch, &mut ());
    let mut nearest: Vec<Scored> = scratch.expanded.iter().copied().filter(|c| c.id != row).collect();
    let mut candidates = [nearest.clone(), scored(space, row, known)].concat();
    let kept = prune(space, row, &mut candidates);
    nearest.sort_unstable();
    let mut added: Vec<u32> = Vec::with_capacity(room);
    for id in kept.into_iter().chain(nearest.into_iter().map(|c| c.id)) {
        if added.len() == room {
            break;
        }
        if !known.contains(&id) && !added.contains(&id) {
            added.push(id);
        }
    }
    added
}

/// Gives rows with room edges back to rows that name them, those with the fewest in-edges first.
fn add_reverse_edges(graph: &mut Graph, max_degree: usize) {
    let frozen: &Graph = graph;
    let named_by = transposed(frozen.len(), |row| frozen.neighbors(row));
    let added: Vec<Vec<u32>> = (0..frozen.len())
        .into_par_iter()
        .map(|row| {
            let known = frozen.neighbors(row as u32);
            let mut wanted: Vec<u32> =
                named_by.get(row).iter().copied().filter(|source| !known.contains(source)).collect();
            wanted.sort_unstable_by_key(|&source| (named_by.get(source as usize).len(), source));
            wanted.truncate(max_degree.saturating_sub(known.len()));
            wanted
        })
        .collect();
    for (row, edges) in added.iter().enumerate() {
        edges.iter().for_each(|&edge| graph.push(row as u32, edge));
    }
}
