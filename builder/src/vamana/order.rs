//! The order of nodes in the file: neighbours in space become neighbours in a page, and pages near each other.
//!
//! In: a graph over rows that a backend holds, and the number of nodes a page holds. Out: position -> row. Rows are
//! grouped by the nearest of about sqrt(n) sampled leaders, and the leaders chained from near to near. Within that order
//! each page starts at the next unplaced row and is filled with unplaced neighbours around it, so that a page read for
//! one node often holds the nodes wanted next, and nodes written together name much the same neighbours. Then pairs of
//! nodes change places where that brings more linked ones together ([`refine`]).

use kiln_kernels::{Backend, Lists};

use super::Graph;
use super::refine::refine;
use crate::error::BuilderError;
use crate::quantiser::sample_rows;

/// Nearest leaders among which the chain looks for the next.
const CHAIN_CHOICE: usize = 32;

/// A permutation of all rows: the row at each position.
pub(crate) fn page_order<B: Backend>(
    backend: &B,
    resident: &B::Rows,
    graph: &Graph,
    nodes_per_page: usize,
    seed: u64,
) -> Result<Vec<u32>, BuilderError> {
    let n = graph.len();
    let leaders: Vec<u32> = sample_rows(n, n.isqrt(), seed).into_iter().map(|row| row as u32).collect();
    let near = backend.nearest_leaders(resident, &leaders, &leaders, CHAIN_CHOICE)?;
    let place_in_chain = chain(&leaders, &near);
    let rows: Vec<u32> = (0..n as u32).collect();
    let place = |leader: &u32| place_in_chain[leaders.partition_point(|other| other < leader)];
    let nearest: Vec<u32> = backend.nearest_leaders(resident, &rows, &leaders, 1)?.iter().map(place).collect();
    let mut order = fill_pages(graph, nodes_per_page, &Lists::grouped(&nearest, leaders.len()).items);
    refine(graph, nodes_per_page, &mut order);
    Ok(order)
}

/// The place of each leader in a chain that goes on to the nearest leader not yet in it. `near` holds for each leader,
/// ascending, as many nearest ones as for every other.
fn chain(leaders: &[u32], near: &[u32]) -> Vec<u32> {
    const UNPLACED: u32 = u32::MAX;
    let mut places = vec![UNPLACED; leaders.len()];
    let (mut last, mut first_unplaced) = (0, 0);
    for place in 0..leaders.len() as u32 {
        places[last] = place;
        let number = |leader: &u32| leaders.partition_point(|other| other < leader);
        let mut others = near.chunks_exact(near.len() / leaders.len()).nth(last).into_iter().flatten().map(number);
        last = others.find(|&other| places[other] == UNPLACED).unwrap_or_else(|| {
            first_unplaced += places[first_unplaced..].iter().take_while(|&&place| place != UNPLACED).count();
            first_unplaced
        });
    }
    places
}

/// Places the rows in order, but fills each page with neighbours of those in it.
fn fill_pages(graph: &Graph, nodes_per_page: usize, rows: &[u32]) -> Vec<u32> {
    let mut order: Vec<u32> = Vec::with_capacity(rows.len());
    let mut placed = vec![false; rows.len()];
    for &row in rows {
        if std::mem::replace(&mut placed[row as usize], true) {
            continue;
        }
        let mut at = order.len();
        order.push(row);
        // Grow from each node of the page in turn until it is full.
        while at < order.len() && !order.len().is_multiple_of(nodes_per_page) {
            for &next in graph.neighbors(order[at]) {
                if order.len().is_multiple_of(nodes_per_page) {
                    break;
                }
                if !std::mem::replace(&mut placed[next as usize], true) {
                    order.push(next);
                }
            }
            at += 1;
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_goes_from_near_to_near_and_takes_in_everyone() {
        // On a line at 0, 1, 5, 6, 20, each with its three nearest, itself first.
        let leaders = [10, 11, 12, 13, 14];
        let near = [10, 11, 12, 11, 10, 12, 12, 13, 11, 13, 12, 11, 14, 13, 12];
        assert_eq!(chain(&leaders, &near), [0, 1, 2, 3, 4]);
        // Nobody names anybody else.
        assert_eq!(chain(&leaders, &leaders), [0, 1, 2, 3, 4]);
        assert_eq!(chain(&[3], &[3]), [0]);
    }

    #[test]
    fn pages_are_filled_with_neighbors() {
        let mut graph = Graph::new(6, 2, 0);
        // Two triangles: even rows and odd rows.
        for row in 0..6u32 {
            graph.set(row, &[(row + 2) % 6, (row + 4) % 6]);
        }
        assert_eq!(fill_pages(&graph, 3, &[0, 1, 2, 3, 4, 5]), [0, 2, 4, 1, 3, 5]);
        assert_eq!(fill_pages(&graph, 1, &[5, 3, 1, 0, 2, 4]), [5, 3, 1, 0, 2, 4]);
    }
}
