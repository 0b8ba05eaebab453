//! Greedy search over a graph (DiskANN, NeurIPS 2019, algorithm 1): one loop for building and serving,
//! whatever the layout and residency.
//!
//! In: a [`GraphView`], an entry, a list size L. Out: the expanded nodes with their exact distances.
//! The loop does no I/O and keeps no statistics itself; the view does both.

use kiln_kernels::Scored;

/// What the walk needs of a graph.
pub(crate) trait GraphView {
    /// What can go wrong; `Infallible` in memory.
    type Error;

    /// Appends the neighbours of `node` to `neighbors` and returns the node's exact distance; `found` is its
    /// navigation distance.
    fn expand(&mut self, node: u32, found: f32, neighbors: &mut Vec<u32>) -> Result<f32, Self::Error>;

    /// Appends to `scores` the navigation distance of each of `nodes`, in order.
    fn score(&mut self, nodes: &[u32], scores: &mut Vec<f32>) -> Result<(), Self::Error>;
}

/// Working memory of a walk, reused between queries.
#[derive(Default)]
pub(crate) struct WalkScratch {
    pool: Vec<Candidate>,
    visited: VisitedSet,
    neighbors: Vec<u32>,
    scores: Vec<f32>,
    /// Every expanded node with its exact distance, in the order of expansion.
    pub expanded: Vec<Scored>,
}

#[derive(Clone, Copy)]
struct Candidate {
    scored: Scored,
    checked: bool,
}

/// Walks from `entry` until each of the `list_size` nearest candidates found has been expanded; the
/// expanded nodes are left in `scratch.expanded`.
pub(crate) fn greedy_search<G: GraphView>(
    graph: &mut G,
    entry: u32,
    list_size: usize,
    scratch: &mut WalkScratch,
) -> Result<(), G::Error> {
    let WalkScratch { pool, visited, neighbors, scores, expanded } = scratch;
    pool.clear();
    expanded.clear();
    visited.clear();
    visited.insert(entry);
    neighbors.clear();
    neighbors.push(entry);
    let mut next = 0;
    loop {
        scores.clear();
        graph.score(neighbors, scores)?;
        for (&id, &distance) in neighbors.iter().zip(scores.iter()) {
            let scored = Scored { distance, id };
            if pool.len() == list_size {
                match pool.last() {
                    Some(worst) if scored < worst.scored => pool.pop(),
                    _ => continue,
                };
            }
            let at = pool.partition_point(|c| c.scored < scored);
            pool.insert(at, Candidate { scored, checked: false });
            next = next.min(at);
        }
        while pool.get(next).is_some_and(|c| c.checked) {
            next += 1;
        }
        let Some(candidate) = pool.get_mut(next) else { return Ok(()) };
        candidate.checked = true;
        let Scored { distance: found, id } = candidate.scored;
        neighbors.clear();
        let distance = graph.expand(id, found, neighbors)?;
        expanded.push(Scored { distance, id });
        neighbors.retain(|&n| visited.insert(n));
    }
}

/// A set of node numbers: open addressing with linear probing, sized by what a walk visits and not by n.
struct VisitedSet {
    /// Node numbers, `EMPTY` where free; a power of two long.
    slots: Vec<u32>,
    used: usize,
}

/// Never a node number: an index holds at most 2^32 - 2 rows.
const EMPTY: u32 = u32::MAX;

impl Default for VisitedSet {
    fn default() -> Self {
        Self { slots: vec![EMPTY; 1 << 12], used: 0 }
    }
}

impl VisitedSet {
    fn clear(&mut self) {
        self.slots.fill(EMPTY);
        self.used = 0;
    }

    /// Adds a node; false when it was there.
    #[inline]
    fn insert(&mut self, node: u32) -> bool {
        if self.used * 2 >= self.slots.len() {
            self.grow();
        }
        let slot = self.find(node);
        let new = self.slots[slot] == EMPTY;
        self.slots[slot] = node;
        self.used += usize::from(new);
        new
    }

    /// The slot that holds `node`, or the free one where it belongs.
    #[inline]
    fn find(&self, node: u32) -> usize {
        let mask = self.slots.len() - 1;
        // Fibonacci hashing: neighbours in number scatter.
        let mut slot = (node.wrapping_mul(0x9E37_79B1) >> 7) as usize & mask;
        while self.slots[slot] != EMPTY && self.slots[slot] != node {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn grow(&mut self) {
        let doubled = vec![EMPTY; self.slots.len() * 2];
        for node in std::mem::replace(&mut self.slots, doubled) {
            if node != EMPTY {
                let slot = self.find(node);
                self.slots[slot] = node;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes on a line at their own number, each linked to its two neighbours.
    struct Line {
        n: u32,
        query: f32,
    }

    impl GraphView for Line {
        type Error = std::convert::Infallible;

        fn expand(&mut self, node: u32, found: f32, neighbors: &mut Vec<u32>) -> Result<f32, Self::Error> {
            neighbors.extend(node.checked_sub(1).into_iter().chain((node + 1 < self.n).then_some(node + 1)));
            Ok(found)
        }

        fn score(&mut self, nodes: &[u32], scores: &mut Vec<f32>) -> Result<(), Self::Error> {
            scores.extend(nodes.iter().map(|&n| (n as f32 - self.query).abs()));
            Ok(())
        }
    }

    #[test]
    fn a_walk_ends_at_the_nearest() {
        let mut scratch = WalkScratch::default();
        for list_size in [1, 3, 10] {
            let Ok(()) = greedy_search(&mut Line { n: 5000, query: 4321.2 }, 0, list_size, &mut scratch);
            let mut found = scratch.expanded.clone();
            found.sort();
            assert_eq!(found[0].id, 4321);
        }
    }

    #[test]
    fn a_list_larger_than_the_graph_expands_everything() {
        let mut scratch = WalkScratch::default();
        let Ok(()) = greedy_search(&mut Line { n: 7, query: 2.0 }, 6, 100, &mut scratch);
        assert_eq!(scratch.expanded.len(), 7);
    }

    #[test]
    fn the_visited_set_grows_and_forgets() {
        let mut set = VisitedSet::default();
        assert!((0..20_000).all(|n| set.insert(n * 8)));
        assert!((0..20_000).all(|n| !set.insert(n * 8)));
        set.clear();
        assert!(set.insert(8));
    }
}
