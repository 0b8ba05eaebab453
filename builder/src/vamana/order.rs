//! The order of nodes in the file: neighbours in space become neighbours in a page.
//!
//! In: a graph and the number of nodes a page holds. Out: position -> row. Each page starts at the next
//! unplaced row in breadth-first order and is filled with the nearest unplaced rows around it, so that a
//! page read for one node often holds the nodes wanted next.

use std::collections::VecDeque;

use super::Graph;

/// A permutation of all rows: the row at each position.
pub(crate) fn page_order(graph: &Graph, nodes_per_page: usize) -> Vec<u32> {
    let n = graph.len();
    let mut order: Vec<u32> = Vec::with_capacity(n);
    let (mut placed, mut queued) = (vec![false; n], vec![false; n]);
    let mut queue = VecDeque::from([graph.entry]);
    queued[graph.entry as usize] = true;
    while let Some(row) = queue.pop_front() {
        for &next in graph.neighbors(row) {
            if !std::mem::replace(&mut queued[next as usize], true) {
                queue.push_back(next);
            }
        }
        if placed[row as usize] {
            continue;
        }
        placed[row as usize] = true;
        let first = order.len();
        order.push(row);
        // Grow from each node of the page in turn until it is full.
        let mut at = first;
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
