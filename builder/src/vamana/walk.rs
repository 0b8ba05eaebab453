//! Greedy search over a graph (DiskANN, NeurIPS 2019, algorithm 1): one step for building and serving,
//! whatever the layout and residency.
//!
//! In: a [`GraphView`], a list size L. Out: the expanded nodes with their exact distances. A [`Walk`] is driven to
//! completion ([`greedy_search`]), or many are stepped in turn, so that each one's next node arrives from memory while
//! the others compute ([`interleave`]). The step does no I/O and keeps no statistics itself: the view does the one, an
//! [`Observer`] the other.

use kiln_kernels::Scored;

use super::pool::Pool;
pub(crate) use super::pool::VisitedSet;

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
        self.visit(node, graph, observer)?;
        Ok(true)
    }

    #[inline(always)]
    fn visit<G: GraphView>(
        &mut self,
        node: Scored,
        graph: &mut G,
        observer: &mut impl Observer,
    ) -> Result<(), G::Error> {
        self.found.clear();
        let Visit { exact, scored } = graph.visit(node, self.pool.bound(), &mut self.seen, &mut self.found)?;
        self.expanded.push(Scored { distance: exact, id: node.id });
        observer.visited(scored);
        self.admit(graph);
        Ok(())
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
    while let Some(node) = walk.pool.pop() {
        // Alone, a walk waits for memory: unless something nearer is found here, this comes next.
        if let Some(next) = walk.pool.peek() {
            graph.prefetch(next.id);
        }
        walk.visit(node, graph, observer)?;
    }
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
}
