//! Refines the order of nodes in the file: nodes change places so that more of those linked lie in one page.
//!
//! In: a graph, an order, and the number of nodes a page holds. Out: a better order. Filling page after page leaves its last
//! pages with what nobody wanted; here each node looks once a pass at the pages where most of its nearest lie, and
//! changes places with that page's node that loses least by it, if both together gain (the swaps of Starling's
//! block shuffling, SIGMOD 2024). On 736,862 rows of 128 bytes, ten a page, a search at recall .95 reads 8% fewer pages.

use super::Graph;

/// Out-edges of a node that count as links: the nearest.
const NEAREST: usize = 12;

/// Links of a node that are looked at: its own and, of those of others to it, the first.
const LINKS: usize = 48;

/// Pages that a node considers.
const PAGES: usize = 3;

/// Passes at most; one that moves fewer than this share of the nodes is the last.
const PASSES: usize = 3;
const ENOUGH: usize = 50;

/// Improves `order`, the row at each position.
pub(crate) fn refine(graph: &Graph, nodes_per_page: usize, order: &mut [u32]) {
    if nodes_per_page < 2 || order.len() <= nodes_per_page {
        return;
    }
    let mut places = Places::new(graph, nodes_per_page, order);
    for _ in 0..PASSES {
        let moved = (0..places.order.len()).filter(|&position| places.improve(position)).count();
        if moved < places.order.len() / ENOUGH {
            break;
        }
    }
}

struct Places<'a> {
    /// Row at each position.
    order: &'a mut [u32],
    /// Position of each row.
    positions: Vec<u32>,
    /// Page of each row.
    pages: Vec<u32>,
    nodes_per_page: usize,
    /// Links of row i are `links[starts[i]..starts[i + 1]]`; two rows that name each other are linked twice.
    starts: Vec<usize>,
    links: Vec<u32>,
    /// Working memory: pages and how many of a row's links lie there.
    counts: Vec<(u32, u32)>,
}

impl<'a> Places<'a> {
    fn new(graph: &Graph, nodes_per_page: usize, order: &'a mut [u32]) -> Self {
        let n = order.len();
        let nearest = |row: usize| graph.neighbors(row as u32).iter().take(NEAREST);
        let mut degrees: Vec<usize> = (0..n).map(|row| nearest(row).len()).collect();
        (0..n).flat_map(nearest).for_each(|&row| degrees[row as usize] += usize::from(degrees[row as usize] < LINKS));
        let mut starts = vec![0; n + 1];
        for row in 0..n {
            starts[row + 1] = starts[row] + degrees[row];
        }
        let mut links = vec![0; starts[n]];
        let mut filled = starts.clone();
        let mut put = |row: usize, link: u32| {
            if filled[row] < starts[row + 1] {
                links[filled[row]] = link;
                filled[row] += 1;
            }
        };
        for row in 0..n {
            nearest(row).for_each(|&link| put(row, link));
        }
        for row in 0..n {
            nearest(row).for_each(|&link| put(link as usize, row as u32));
        }
        let (mut positions, mut pages) = (vec![0; n], vec![0; n]);
        for (position, &row) in order.iter().enumerate() {
            positions[row as usize] = position as u32;
            pages[row as usize] = (position / nodes_per_page) as u32;
        }
        Self { order, positions, pages, nodes_per_page, starts, links, counts: Vec::new() }
    }

    fn links(&self, row: u32) -> &[u32] {
        &self.links[self.starts[row as usize]..self.starts[row as usize + 1]]
    }

    /// Links of a row into a page.
    fn links_to_page(&self, row: u32, page: u32) -> i64 {
        self.links(row).iter().filter(|&&link| self.pages[link as usize] == page).count() as i64
    }

    /// Links of a row to another.
    fn between(&self, row: u32, other: u32) -> i64 {
        self.links(row).iter().filter(|&&link| link == other).count() as i64
    }

    /// Lets the row at a position change places with another, if both gain by it; true if it did.
    fn improve(&mut self, position: usize) -> bool {
        let row = self.order[position];
        let own = self.pages[row as usize];
        let mut counts = std::mem::take(&mut self.counts);
        counts.clear();
        for &link in self.links(row) {
            let page = self.pages[link as usize];
            match counts.iter_mut().find(|(other, _)| *other == page) {
                Some((_, count)) => *count += 1,
                None => counts.push((page, 1)),
            }
        }
        counts.sort_unstable_by_key(|&(page, count)| (std::cmp::Reverse(count), page));
        let here = counts.iter().find(|(page, _)| *page == own).map_or(0, |&(_, count)| i64::from(count));
        let mut better = counts.iter().take(PAGES).filter(|&&(page, count)| page != own && i64::from(count) > here);
        let found = better.find_map(|&(page, count)| self.partner(row, page, i64::from(count) - here));
        self.counts = counts;
        let Some(partner) = found else { return false };
        let other = self.positions[partner as usize] as usize;
        self.order.swap(position, other);
        self.positions.swap(row as usize, partner as usize);
        self.pages.swap(row as usize, partner as usize);
        true
    }

    /// The row of `page` by whose place `row`, which gains `gain` links there, gains most for both; `None` where they lose.
    fn partner(&self, row: u32, page: u32, gain: i64) -> Option<u32> {
        let own = self.pages[row as usize];
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
            let parted = self.between(row, member) + self.between(member, row);
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
    use super::*;
    use rand::SeedableRng;
    use rand::seq::SliceRandom;
    use rand_chacha::ChaCha8Rng;

    /// Links that stay within a page.
    fn within(graph: &Graph, nodes_per_page: usize, order: &[u32]) -> usize {
        let mut pages = vec![0; order.len()];
        order.iter().enumerate().for_each(|(position, &row)| pages[row as usize] = position / nodes_per_page);
        let row =
            |row: &u32| graph.neighbors(*row).iter().filter(|&&n| pages[n as usize] == pages[*row as usize]).count();
        order.iter().map(row).sum()
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
            refine(&graph, 5, &mut order);
            let after = within(&graph, 5, &order);
            assert!(after >= before, "{after} links within pages, {before} before");
            before = after;
        }
        assert!(before as f64 > 0.8 * f64::from(n * (size - 1)), "{before}");
        let mut rows = order.clone();
        rows.sort_unstable();
        assert!(rows.into_iter().eq(0..n));
    }

    #[test]
    fn odd_sizes_are_left_whole() {
        for (n, nodes_per_page) in [(1, 3), (3, 3), (7, 3), (7, 1), (10, 100)] {
            let mut graph = Graph::new(n, 4, 0);
            (0..n as u32).for_each(|row| graph.set(row, &[(row + 3) % n as u32]));
            let mut order: Vec<u32> = (0..n as u32).rev().collect();
            refine(&graph, nodes_per_page, &mut order);
            order.sort_unstable();
            assert!(order.into_iter().eq(0..n as u32));
        }
    }
}
