//! Refines the order of nodes in the file: nodes change places so that more of those linked lie in one page.
//!
//! In: a graph, an order, and the number of nodes a page holds. Out: a better order. Filling page after page leaves its last
//! pages with what nobody wanted; here each node looks once a pass at the pages where most of its nearest lie, and
//! changes places with that page's node that loses least by it, if both together gain (the swaps of Starling's
//! block shuffling, SIGMOD 2024).
//!
//! Nodes move within windows of the order, whose pages are near each other as it is; a second round's windows lie across
//! the edges of the first's. So windows are refined in parallel, the result depends on no number of threads, and a graph
//! on a drive is read a window at a time.

use rayon::prelude::*;

/// Out-edges of a node that count as links: the nearest.
const NEAREST: usize = 12;

/// Links of a node that are looked at: its own and, of those of others to it, the first.
const LINKS: usize = 48;

/// Pages that a node considers.
const PAGES: usize = 3;

/// Positions of a window; a whole number of pages is taken.
const WINDOW: usize = 1 << 17;

/// Passes over a window at most; one that moves fewer than this share of the nodes is the last.
const PASSES: usize = 3;
const ENOUGH: usize = 50;

/// Bytes that a window of `n` rows takes at most.
pub(super) fn window_bytes(n: usize) -> usize {
    // Links, the nearest, and six numbers more.
    n.min(WINDOW) * size_of::<u32>() * (LINKS + NEAREST + 6)
}

/// Improves `order`, the row at each position, of a graph whose edges `read` appends, nearest first; works on so many
/// windows at a time at most.
///
/// # Errors
/// Whatever `read` comes to; the order is then a permutation still.
pub(super) fn refine<E: Send>(
    nodes_per_page: usize,
    order: &mut [u32],
    at_a_time: usize,
    read: impl Fn(u32, &mut Vec<u32>) -> Result<(), E> + Sync,
) -> Result<(), E> {
    refine_in_windows(nodes_per_page, order, WINDOW, at_a_time, read)
}

fn refine_in_windows<E: Send>(
    nodes_per_page: usize,
    order: &mut [u32],
    window: usize,
    at_a_time: usize,
    read: impl Fn(u32, &mut Vec<u32>) -> Result<(), E> + Sync,
) -> Result<(), E> {
    if nodes_per_page < 2 || order.len() <= nodes_per_page {
        return Ok(());
    }
    let window = (window / nodes_per_page).max(2) * nodes_per_page;
    let half = window / nodes_per_page / 2 * nodes_per_page;
    let mut positions = vec![0u32; order.len()];
    for first in [0, half] {
        if first >= order.len() {
            break;
        }
        order.iter().enumerate().for_each(|(position, &row)| positions[row as usize] = position as u32);
        let refine = |(number, rows): (usize, &mut [u32])| {
            let start = (first + number * window) as u32;
            let local = |row: u32| positions[row as usize].checked_sub(start).filter(|&at| (at as usize) < rows.len());
            let mut places = Places::new(nodes_per_page, &Near::read(rows, &read, local)?);
            for _ in 0..PASSES {
                let moved = (0..rows.len()).filter(|&position| places.improve(position)).count();
                if moved < rows.len() / ENOUGH {
                    break;
                }
            }
            let before = rows.to_vec();
            rows.iter_mut().zip(&places.order).for_each(|(row, &node)| *row = before[node as usize]);
            Ok(())
        };
        let mut windows: Vec<(usize, &mut [u32])> = order[first..].chunks_mut(window).enumerate().collect();
        while !windows.is_empty() {
            let later = windows.split_off(at_a_time.clamp(1, windows.len()));
            windows.into_par_iter().with_max_len(1).try_for_each(refine)?;
            windows = later;
        }
    }
    Ok(())
}

/// The nearest neighbours of each node of a window that lie in the window; nodes are numbered by their positions in it
/// before anything moves.
struct Near {
    starts: Vec<u32>,
    nodes: Vec<u32>,
}

impl Near {
    fn read<E>(
        rows: &[u32],
        read: impl Fn(u32, &mut Vec<u32>) -> Result<(), E>,
        local: impl Fn(u32) -> Option<u32>,
    ) -> Result<Self, E> {
        let mut near = Self { starts: vec![0], nodes: Vec::new() };
        let mut neighbors = Vec::new();
        for &row in rows {
            neighbors.clear();
            read(row, &mut neighbors)?;
            near.nodes.extend(neighbors.iter().take(NEAREST).filter_map(|&neighbor| local(neighbor)));
            near.starts.push(near.nodes.len() as u32);
        }
        Ok(near)
    }

    fn len(&self) -> usize {
        self.starts.len() - 1
    }

    fn of(&self, node: usize) -> &[u32] {
        &self.nodes[self.starts[node] as usize..self.starts[node + 1] as usize]
    }
}

struct Places {
    /// Node at each position.
    order: Vec<u32>,
    /// Position of each node.
    positions: Vec<u32>,
    /// Page of each node.
    pages: Vec<u32>,
    nodes_per_page: usize,
    /// Links of node i are `links[starts[i]..starts[i + 1]]`; two nodes that name each other are linked twice.
    starts: Vec<u32>,
    links: Vec<u32>,
    /// Working memory: pages and how many of a node's links lie there.
    counts: Vec<(u32, u32)>,
}

impl Places {
    fn new(nodes_per_page: usize, near: &Near) -> Self {
        let n = near.len();
        let mut degrees: Vec<usize> = (0..n).map(|node| near.of(node).len()).collect();
        near.nodes.iter().for_each(|&node| degrees[node as usize] += usize::from(degrees[node as usize] < LINKS));
        let mut starts = vec![0u32; n + 1];
        for node in 0..n {
            starts[node + 1] = starts[node] + degrees[node] as u32;
        }
        let mut links = vec![0; starts[n] as usize];
        let mut filled = starts.clone();
        let mut put = |node: usize, link: u32| {
            if filled[node] < starts[node + 1] {
                links[filled[node] as usize] = link;
                filled[node] += 1;
            }
        };
        for node in 0..n {
            near.of(node).iter().for_each(|&link| put(node, link));
        }
        for node in 0..n {
            near.of(node).iter().for_each(|&link| put(link as usize, node as u32));
        }
        let order: Vec<u32> = (0..n as u32).collect();
        let pages = order.iter().map(|&node| node / nodes_per_page as u32).collect();
        Self { positions: order.clone(), order, pages, nodes_per_page, starts, links, counts: Vec::new() }
    }

    fn links(&self, node: u32) -> &[u32] {
        &self.links[self.starts[node as usize] as usize..self.starts[node as usize + 1] as usize]
    }

    /// Links of a node into a page.
    fn links_to_page(&self, node: u32, page: u32) -> i64 {
        self.links(node).iter().filter(|&&link| self.pages[link as usize] == page).count() as i64
    }

    /// Links of a node to another.
    fn between(&self, node: u32, other: u32) -> i64 {
        self.links(node).iter().filter(|&&link| link == other).count() as i64
    }

    /// Lets the node at a position change places with another, if both gain by it; true if it did.
    fn improve(&mut self, position: usize) -> bool {
        let node = self.order[position];
        let own = self.pages[node as usize];
        let mut counts = std::mem::take(&mut self.counts);
        counts.clear();
        for &link in self.links(node) {
            let page = self.pages[link as usize];
            match counts.iter_mut().find(|(other, _)| *other == page) {
                Some((_, count)) => *count += 1,
                None => counts.push((page, 1)),
            }
        }
        counts.sort_unstable_by_key(|&(page, count)| (std::cmp::Reverse(count), page));
        let here = counts.iter().find(|(page, _)| *page == own).map_or(0, |&(_, count)| i64::from(count));
        let mut better = counts.iter().take(PAGES).filter(|&&(page, count)| page != own && i64::from(count) > here);
        let found = better.find_map(|&(page, count)| self.partner(node, page, i64::from(count) - here));
        self.counts = counts;
        let Some(partner) = found else { return false };
        let other = self.positions[partner as usize] as usize;
        self.order.swap(position, other);
        self.positions.swap(node as usize, partner as usize);
        self.pages.swap(node as usize, partner as usize);
        true
    }

    /// The node of `page` by whose place `node`, which gains `gain` links there, gains most for both; `None` where they lose.
    fn partner(&self, node: u32, page: u32, gain: i64) -> Option<u32> {
        let own = self.pages[node as usize];
        let first = page as usize * self.nodes_per_page;
        let members = &self.order[first..self.order.len().min(first + self.nodes_per_page)];
        let mut best: Option<(i64, u32)> = None;
        for &member in members {
            let least = best.map_or(0, |(gain, _)| gain);
            let loss = self.links_to_page(member, page);
            if gain - loss + self.links(member).len() as i64 <= least {
                continue;
            }
            // What lies between the two is counted as gained by either, and is not: they part again.
            let parted = self.between(node, member) + self.between(member, node);
            let both = gain - loss + self.links_to_page(member, own) - parted;
            if both > least {
                best = Some((both, member));
            }
        }
        best.map(|(_, member)| member)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::super::Graph;
    use super::*;
    use rand::SeedableRng;
    use rand::seq::SliceRandom;
    use rand_chacha::ChaCha8Rng;

    fn refined(graph: &Graph, nodes_per_page: usize, window: usize, order: &mut [u32]) {
        let read = |row: u32, out: &mut Vec<u32>| {
            out.extend_from_slice(graph.neighbors(row));
            Ok::<(), Infallible>(())
        };
        let Ok(()) = refine_in_windows(nodes_per_page, order, window, 3, read);
    }

    /// Links that stay within a page.
    fn within(graph: &Graph, nodes_per_page: usize, order: &[u32]) -> usize {
        let mut pages = vec![0; order.len()];
        order.iter().enumerate().for_each(|(position, &row)| pages[row as usize] = position / nodes_per_page);
        let row =
            |row: &u32| graph.neighbors(*row).iter().filter(|&&n| pages[n as usize] == pages[*row as usize]).count();
        order.iter().map(row).sum()
    }

    fn is_permutation(order: &[u32]) -> bool {
        let mut rows = order.to_vec();
        rows.sort_unstable();
        rows.into_iter().eq(0..order.len() as u32)
    }

    #[test]
    fn scattered_groups_come_together_and_nobody_is_lost() {
        let (groups, size) = (60u32, 5u32);
        let n = groups * size;
        let mut graph = Graph::new(n as usize, 8, 0);
        for row in 0..n {
            let group = row / size * size;
            let mut edges: Vec<u32> = (group..group + size).filter(|&other| other != row).collect();
            edges.push((row * 7 + 13) % n);
            graph.set(row, &edges);
        }
        let mut order: Vec<u32> = (0..n).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(5));
        let mut before = within(&graph, 5, &order);
        for _ in 0..4 {
            refined(&graph, 5, WINDOW, &mut order);
            let after = within(&graph, 5, &order);
            assert!(after >= before, "{after} links within pages, {before} before");
            before = after;
        }
        assert!(before as f64 > 0.8 * f64::from(n * (size - 1)), "{before}");
        assert!(is_permutation(&order));
    }

    #[test]
    fn groups_across_the_edge_of_a_window_come_together() {
        // Groups of four in a row, but for two nodes of each that lie four positions further on: in windows of 32 some lie
        // across an edge.
        let (groups, size) = (64u32, 4u32);
        let n = groups * size;
        let mut graph = Graph::new(n as usize, 4, 0);
        for row in 0..n {
            let group = row / size * size;
            graph.set(row, &(group..group + size).filter(|&other| other != row).collect::<Vec<_>>());
        }
        let mut order: Vec<u32> = (0..n).collect();
        order.rotate_left(2);
        let before = within(&graph, 4, &order);
        refined(&graph, 4, 32, &mut order);
        let (after, all) = (within(&graph, 4, &order), (n * (size - 1)) as usize);
        assert!(after > before && after * 4 > 3 * all, "{after} of {all}, {before} before");
        assert!(is_permutation(&order));
    }

    #[test]
    fn odd_sizes_are_left_whole() {
        for (n, nodes_per_page) in [(1, 3), (3, 3), (7, 3), (7, 1), (10, 100), (100, 3)] {
            let mut graph = Graph::new(n, 4, 0);
            (0..n as u32).for_each(|row| graph.set(row, &[(row + 3) % n as u32]));
            let mut order: Vec<u32> = (0..n as u32).rev().collect();
            refined(&graph, nodes_per_page, 8, &mut order);
            assert!(is_permutation(&order));
        }
    }
}
