//! The order of nodes in the file: neighbours in space become neighbours in a page, and pages near each other.
//!
//! In: a graph over rows that a backend holds, and the number of nodes a page holds. Out: position -> row. Rows are
//! grouped by the nearest of about sqrt(n) sampled leaders, and the leaders chained from near to near. Within that order
//! each page starts at the next unplaced row and is filled with unplaced neighbours around it, so that a page read for
//! one node often holds the nodes wanted next, and nodes written together name much the same neighbours. Then pairs of
//! nodes change places where that brings more linked ones together ([`refine`]).

use std::convert::Infallible;

use kiln_kernels::{Backend, Lists};

use super::refine::refine;
use super::{Bits, Graph};
use crate::error::BuilderError;
use crate::quantiser::sample_rows;

/// Nearest leaders among which the chain looks for the next.
pub(super) const CHAIN_CHOICE: usize = 32;

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
    let rows = Lists::grouped(&nearest, leaders.len()).items;
    let read = |row: u32, neighbors: &mut Vec<u32>| {
        neighbors.extend_from_slice(graph.neighbors(row));
        Ok::<(), Infallible>(())
    };
    let Ok(mut order) = fill_pages(nodes_per_page, &rows, read);
    let Ok(()) = refine(nodes_per_page, &mut order, usize::MAX, read);
    Ok(order)
}

/// The place of each leader in a chain that goes on to the nearest leader not yet in it. `near` holds for each leader,
/// ascending, as many nearest ones as for every other.
pub(super) fn chain(leaders: &[u32], near: &[u32]) -> Vec<u32> {
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

/// Places the rows in order, but fills each page with neighbours of those in it, which `read` appends.
pub(super) fn fill_pages<E>(
    nodes_per_page: usize,
    rows: &[u32],
    mut read: impl FnMut(u32, &mut Vec<u32>) -> Result<(), E>,
) -> Result<Vec<u32>, E> {
    let mut order: Vec<u32> = Vec::with_capacity(rows.len());
    let mut placed = Bits::new(rows.len());
    let mut neighbors = Vec::new();
    for &row in rows {
        if placed.set(row) {
            continue;
        }
        let mut at = order.len();
        order.push(row);
        // Grow from each node of the page in turn until it is full.
        while at < order.len() && !order.len().is_multiple_of(nodes_per_page) {
            neighbors.clear();
            read(order[at], &mut neighbors)?;
            for &next in &neighbors {
                if order.len().is_multiple_of(nodes_per_page) {
                    break;
                }
                if !placed.set(next) {
                    order.push(next);
                }
            }
            at += 1;
        }
    }
    Ok(order)
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
        let read = |row: u32, neighbors: &mut Vec<u32>| {
            neighbors.extend_from_slice(graph.neighbors(row));
            Ok::<(), Infallible>(())
        };
        assert_eq!(fill_pages(3, &[0, 1, 2, 3, 4, 5], read), Ok(vec![0, 2, 4, 1, 3, 5]));
        assert_eq!(fill_pages(1, &[5, 3, 1, 0, 2, 4], read), Ok(vec![5, 3, 1, 0, 2, 4]));
    }
}
