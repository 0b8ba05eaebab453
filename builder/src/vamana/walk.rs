//! Greedy search over a graph (DiskANN, NeurIPS 2019, algorithm 1): one step for building and serving,
//! whatever the layout and residency.
//!
//! In: a [`GraphView`], a list size L. Out: the expanded nodes with their exact distances. A [`Walk`] is driven to
//! completion ([`greedy_search`]), or many are stepped in turn, so that each one's next node arrives from memory while
//! the others compute ([`interleave`]). The step does no I/O and keeps no statistics itself: the view does the one, an
//! [`Observer`] the other.

use kiln_kernels::Scored;

/// What the walk needs of a graph.
pub(crate) trait GraphView {
    /// What can go wrong; `Infallible` in memory.
    type Error;

    /// Appends the nodes where the walk starts, with their navigation distances; returns how many were scored to find
    /// them.
    fn enter(&mut self, found: &mut Vec<Scored>) -> Result<usize, Self::Error>;

    /// Visits `node`, given with its navigation distance: appends to `found` its neighbours that are not yet in `seen`
    /// and nearer than `bound`, with theirs. The view decides whether looking into `seen` or scoring comes first, and
    /// adds to `seen` what it appends.
    fn visit(
        &mut self,
        node: Scored,
        bound: f32,
        seen: &mut VisitedSet,
        found: &mut Vec<Scored>,
    ) -> Result<Visit, Self::Error>;

    /// Asks for what a visit of `node` will read first.
    fn prefetch(&self, node: u32);
}

/// What a visit of one node gave beside its neighbours.
pub(crate) struct Visit {
    /// The node's exact distance.
    pub exact: f32,
    /// Distances computed, exact or estimated.
    pub scored: usize,
}

/// Sees every step of a walk; does nothing by default.
pub(crate) trait Observer {
    /// `scored` nodes were scored to find where to start.
    fn entered(&mut self, _scored: usize) {}

    /// A node was visited and `scored` distances computed.
    fn visited(&mut self, _scored: usize) {}
}

impl Observer for () {}

/// One search in progress; its memory is reused from search to search.
#[derive(Default)]
pub(crate) struct Walk {
    pool: Pool,
    seen: VisitedSet,
    found: Vec<Scored>,
    /// Every expanded node with its exact distance, in the order of expansion.
    pub expanded: Vec<Scored>,
}

impl Walk {
    /// Starts a search that keeps the `list_size` nearest candidates, and visits each.
    pub(crate) fn begin<G: GraphView>(
        &mut self,
        graph: &mut G,
        list_size: usize,
        observer: &mut impl Observer,
    ) -> Result<(), G::Error> {
        self.pool.clear(list_size);
        self.seen.clear();
        self.expanded.clear();
        self.found.clear();
        observer.entered(graph.enter(&mut self.found)?);
        self.found.retain(|entry| self.seen.insert(entry.id));
        self.admit(graph);
        Ok(())
    }

    /// Visits the nearest candidate that was not visited; false when there is none left, and the search is over.
    #[inline(always)]
    pub(crate) fn step<G: GraphView>(&mut self, graph: &mut G, observer: &mut impl Observer) -> Result<bool, G::Error> {
        let Some(node) = self.pool.pop() else { return Ok(false) };
        self.found.clear();
        let Visit { exact, scored } = graph.visit(node, self.pool.bound(), &mut self.seen, &mut self.found)?;
        self.expanded.push(Scored { distance: exact, id: node.id });
        observer.visited(scored);
        self.admit(graph);
        Ok(true)
    }

    /// Takes what was found into the list, and asks for the node that comes next.
    #[inline(always)]
    fn admit<G: GraphView>(&mut self, graph: &G) {
        self.pool.admit(&self.found);
        if let Some(next) = self.pool.peek() {
            graph.prefetch(next.id);
        }
    }
}

/// Walks until each of the `list_size` nearest candidates found has been expanded; the expanded nodes are left in
/// `walk.expanded`.
pub(crate) fn greedy_search<G: GraphView>(
    graph: &mut G,
    list_size: usize,
    walk: &mut Walk,
    observer: &mut impl Observer,
) -> Result<(), G::Error> {
    walk.begin(graph, list_size, observer)?;
    while walk.step(graph, observer)? {}
    Ok(())
}

/// One of several searches that take turns.
pub(crate) struct Task<'w, G, O> {
    /// The graph as its query sees it.
    pub view: G,
    /// Its state.
    pub walk: &'w mut Walk,
    /// What watches it.
    pub observer: O,
}

/// Steps all tasks in turn until all are over. `renew` is called for a task whose walk has ended; it may begin another
/// search in its place and return true, or let the task go.
pub(crate) fn interleave<'w, G: GraphView, O: Observer>(
    tasks: &mut Vec<Task<'w, G, O>>,
    mut renew: impl FnMut(&mut Task<'w, G, O>) -> Result<bool, G::Error>,
) -> Result<(), G::Error> {
    while !tasks.is_empty() {
        let mut at = 0;
        while at < tasks.len() {
            let task = &mut tasks[at];
            if task.walk.step(&mut task.view, &mut task.observer)? || renew(task)? {
                at += 1;
            } else {
                tasks.swap_remove(at);
            }
        }
    }
    Ok(())
}

/// The nearest candidates, ascending by (distance, id), each with a mark when it was visited.
#[derive(Default)]
struct Pool {
    slots: Vec<Slot>,
    /// Candidates kept.
    capacity: usize,
    /// Everything before it was visited.
    next: usize,
    /// Keys on their way in.
    entering: Vec<u64>,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    /// (distance, id) as one number that orders alike.
    key: u64,
    visited: bool,
}

impl Pool {
    fn clear(&mut self, capacity: usize) {
        self.slots.clear();
        self.capacity = capacity;
        self.next = 0;
    }

    /// The worst candidate, when there is no room for more.
    #[inline(always)]
    fn worst(&self) -> Option<u64> {
        self.slots.last().filter(|_| self.slots.len() == self.capacity).map(|slot| slot.key)
    }

    /// The distance below which a candidate can still enter.
    #[inline(always)]
    fn bound(&self) -> f32 {
        self.worst().map_or(f32::INFINITY, |worst| unpack(worst).distance.next_up())
    }

    /// Takes in those of `candidates` that are among the nearest: one merge from the far end, which touches nothing
    /// nearer than the nearest of them.
    #[inline(always)]
    fn admit(&mut self, candidates: &[Scored]) {
        let worst = self.worst().unwrap_or(u64::MAX);
        self.entering.clear();
        self.entering.extend(candidates.iter().map(|&candidate| pack(candidate)).filter(|&key| key < worst));
        self.entering.sort_unstable();
        let (mut old, mut new) = (self.slots.len(), self.entering.len());
        let kept = (old + new).min(self.capacity);
        self.slots.resize(kept.max(old), Slot::default());
        let mut surplus = old + new - kept;
        let mut to = kept;
        while new > 0 {
            let from_old = old > 0 && self.slots[old - 1].key > self.entering[new - 1];
            let slot = if from_old {
                old -= 1;
                self.slots[old]
            } else {
                new -= 1;
                Slot { key: self.entering[new], visited: false }
            };
            if surplus > 0 {
                surplus -= 1;
                continue;
            }
            to -= 1;
            self.slots[to] = slot;
            if !from_old {
                self.next = self.next.min(to);
            }
        }
    }

    /// The nearest candidate that was not visited.
    #[inline(always)]
    fn peek(&mut self) -> Option<Scored> {
        while self.slots.get(self.next)?.visited {
            self.next += 1;
        }
        Some(unpack(self.slots[self.next].key))
    }

    #[inline(always)]
    fn pop(&mut self) -> Option<Scored> {
        let nearest = self.peek()?;
        self.slots[self.next].visited = true;
        Some(nearest)
    }
}

/// Orders as `Scored` does: by `f32::total_cmp`, then by id.
#[inline(always)]
fn pack(scored: Scored) -> u64 {
    let bits = scored.distance.to_bits();
    let flip = ((bits as i32 >> 31) as u32) | 1 << 31;
    u64::from(bits ^ flip) << 32 | u64::from(scored.id)
}

#[inline(always)]
fn unpack(key: u64) -> Scored {
    let ordered = (key >> 32) as u32;
    let flip = ((!ordered as i32 >> 31) as u32) | 1 << 31;
    Scored { distance: f32::from_bits(ordered ^ flip), id: key as u32 }
}

/// A set of node numbers: open addressing with linear probing, sized by what a walk visits and not by n.
pub(crate) struct VisitedSet {
    /// Node numbers, `EMPTY` where free; a power of two long.
    slots: Vec<u32>,
    used: usize,
}

/// Never a node number: an index holds at most 2^32 - 2 rows.
const EMPTY: u32 = u32::MAX;

impl Default for VisitedSet {
    fn default() -> Self {
        Self { slots: vec![EMPTY; 1 << 11], used: 0 }
    }
}

impl VisitedSet {
    fn clear(&mut self) {
        self.slots.fill(EMPTY);
        self.used = 0;
    }

    /// Adds a node; false when it was there.
    #[inline]
    pub(crate) fn insert(&mut self, node: u32) -> bool {
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
        entry: u32,
    }

    impl Line {
        fn scored(&self, id: u32) -> Scored {
            Scored { distance: (id as f32 - self.query).abs(), id }
        }
    }

    impl GraphView for Line {
        type Error = std::convert::Infallible;

        fn enter(&mut self, found: &mut Vec<Scored>) -> Result<usize, Self::Error> {
            found.push(self.scored(self.entry));
            Ok(1)
        }

        fn visit(
            &mut self,
            node: Scored,
            _bound: f32,
            seen: &mut VisitedSet,
            found: &mut Vec<Scored>,
        ) -> Result<Visit, Self::Error> {
            let id = node.id;
            let neighbors = id.checked_sub(1).into_iter().chain((id + 1 < self.n).then_some(id + 1));
            found.extend(neighbors.filter(|&n| seen.insert(n)).map(|n| self.scored(n)));
            Ok(Visit { exact: node.distance, scored: found.len() })
        }

        fn prefetch(&self, _node: u32) {}
    }

    #[test]
    fn a_walk_ends_at_the_nearest() {
        let mut walk = Walk::default();
        for list_size in [1, 3, 10] {
            let Ok(()) = greedy_search(&mut Line { n: 5000, query: 4321.2, entry: 0 }, list_size, &mut walk, &mut ());
            let mut found = walk.expanded.clone();
            found.sort();
            assert_eq!(found[0].id, 4321);
        }
    }

    #[test]
    fn a_list_larger_than_the_graph_expands_everything() {
        let mut walk = Walk::default();
        let Ok(()) = greedy_search(&mut Line { n: 7, query: 2.0, entry: 6 }, 100, &mut walk, &mut ());
        assert_eq!(walk.expanded.len(), 7);
    }

    #[test]
    fn interleaved_walks_expand_what_single_ones_do() {
        let line = |query: usize| Line { n: 400, query: query as f32 * 13.7, entry: 200 };
        let alone: Vec<Vec<Scored>> = (0..23)
            .map(|query| {
                let mut walk = Walk::default();
                let Ok(()) = greedy_search(&mut line(query), 5, &mut walk, &mut ());
                walk.expanded
            })
            .collect();
        let mut together = vec![Vec::new(); 23];
        let mut walks: Vec<Walk> = (0..4).map(|_| Walk::default()).collect();
        let mut queries = 4..23;
        let mut tasks = Vec::new();
        for (query, walk) in walks.iter_mut().enumerate() {
            let mut view = line(query);
            let Ok(()) = walk.begin(&mut view, 5, &mut ());
            tasks.push(Task { view, walk, observer: () });
        }
        let Ok(()) = interleave(&mut tasks, |task| {
            together[(task.view.query / 13.7).round() as usize] = task.walk.expanded.clone();
            let Some(query) = queries.next() else { return Ok(false) };
            task.view = line(query);
            let Ok(()) = task.walk.begin(&mut task.view, 5, &mut ());
            Ok(true)
        });
        assert_eq!(together, alone);
    }

    #[test]
    fn packed_candidates_order_as_scored_ones() {
        let distances = [-f32::INFINITY, -2.5, -1e-30, -0.0, 0.0, 1e-30, 2.5, f32::INFINITY];
        let all: Vec<Scored> =
            distances.iter().flat_map(|&distance| [0, 7, u32::MAX - 1].map(|id| Scored { distance, id })).collect();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1] && pack(pair[0]) < pack(pair[1])));
        assert!(all.iter().all(|&scored| unpack(pack(scored)) == scored));
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
