//! Greedy search over a graph on the drive, as a state machine: what it wants next, and what it does with a page.
//!
//! In: a [`PageView`] of the graph, a list size L, and pages as they come. Out: every node of those pages with its exact
//! distance. [`PageWalk::top_up`] names the pages that the nearest candidates need, several ahead of the one that is
//! looked at; [`PageWalk::admit`] takes pages in *in the order in which they were named*. So a walk depends on what the
//! pages hold, and not on when each of them came, nor on what else is read meanwhile.
//!
//! Against DiskANN's beam search (NeurIPS 2019, section 3.4): a read is named as soon as another was admitted, not when a
//! whole beam was; all nodes of a page are scored exactly and enter the result and the list, not the wanted one alone
//! (after Starling, SIGMOD 2024); a page is read once a query. A read ahead is lost where nearer candidates turn up before
//! its turn. So the walk begins narrow, and widens as it converges, when few turn up; what is read is scored exactly in any
//! case. Ending a walk early, once the next candidate's estimate exceeds the k-th exact distance by some factor, was
//! measured too: a factor that saves 3% of the pages at recall .95 holds recall below .96 however long the list, and one that
//! does no harm saves nothing. So it is not done.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use kiln_kernels::Scored;

use super::nodes::DriveNodes;
use super::pool::{Pool, VisitedSet};
use super::walk::Observer;
use crate::error::BuilderError;
use crate::record::RecordScorer;

/// Reads ahead at first, and at most. By simulation on 736,862 rows of 128 bytes, ten a page, recall .95 takes 30.4 pages a
/// query; with one read at first 30.3, but then the first hops wait for each other; with four 30.7.
const NARROW: usize = 2;
pub(crate) const WIDE: usize = 16;

/// A graph in pages as one query sees it.
pub(super) trait PageView {
    /// Appends the nodes where the walk starts; returns how many were scored to find them.
    fn enter(&mut self, found: &mut Vec<Scored>) -> usize;

    /// Where the nodes lie.
    fn nodes(&self) -> &DriveNodes;

    /// What scores them exactly.
    fn scorer(&self) -> &RecordScorer;

    /// The group of pages in which a node lies.
    fn group(&self, node: u32) -> u32 {
        self.nodes().layout.group(node)
    }

    /// The nodes of a group.
    fn members(&self, group: u32) -> Range<u32> {
        self.nodes().members(group)
    }

    /// The bytes of a node of a group whose bytes are given.
    fn node<'p>(&self, pages: &'p [u8], node: u32) -> &'p [u8] {
        self.nodes().layout.within(pages, node)
    }

    /// The exact distance of a node.
    #[inline]
    fn exact(&self, node: &[u8]) -> f32 {
        self.scorer().distance(self.nodes().layout.vector(node))
    }

    /// The distance by which a node is navigated that was met in a page and not as a neighbour.
    fn met(&self, id: u32, exact: f32) -> f32;

    /// Appends to `found` the neighbours of `node`, given with its exact distance, that are not in `seen` and nearer than
    /// `bound`, and adds them to `seen`; returns how many were scored.
    fn expand(
        &mut self,
        node: Scored,
        bytes: &[u8],
        bound: f32,
        seen: &mut VisitedSet,
        found: &mut Vec<Scored>,
    ) -> Result<usize, BuilderError>;
}

/// A candidate whose turn has come.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    node: u32,
    group: u32,
    /// Its group was named for it; else for an earlier one, and the node will be in the stash.
    named: bool,
}

/// One search in progress; its memory is reused from search to search.
#[derive(Default)]
pub(super) struct PageWalk {
    pool: Pool,
    seen: VisitedSet,
    found: Vec<Scored>,
    stash: Stash,
    wanted: VecDeque<Wanted>,
    width: usize,
    /// Every node that was read, with its exact distance.
    pub scored: Vec<Scored>,
}

impl PageWalk {
    /// Starts a search that keeps the `list_size` nearest candidates.
    pub(super) fn begin(&mut self, graph: &mut impl PageView, list_size: usize, observer: &mut impl Observer) {
        self.pool.clear(list_size);
        self.seen.clear();
        self.found.clear();
        self.stash.clear();
        self.wanted.clear();
        self.scored.clear();
        self.width = NARROW;
        observer.entered(graph.enter(&mut self.found));
        self.found.retain(|entry| self.seen.insert(entry.id));
        self.pool.admit(&self.found);
    }

    /// Gives the nearest candidates their turn, as far ahead as the walk is wide, and names each group that is to be read.
    /// Candidates that were met in pages read before are expanded at once.
    pub(super) fn top_up<V: PageView>(
        &mut self,
        graph: &mut V,
        observer: &mut impl Observer,
        mut name: impl FnMut(u32),
    ) -> Result<(), BuilderError> {
        while self.wanted.len() < self.width {
            let Some(Scored { id: node, .. }) = self.pool.pop() else { break };
            if self.stash.holds(node) {
                self.expand_stashed(graph, node, observer)?;
                continue;
            }
            let group = graph.group(node);
            let named = self.wanted.iter().all(|earlier| earlier.group != group);
            if named {
                name(group);
            }
            self.wanted.push_back(Wanted { node, group, named });
        }
        Ok(())
    }

    /// The group that is to be admitted next: `Some(None)` where the node waits in the stash, `None` where the walk is over.
    pub(super) fn next(&self) -> Option<Option<u32>> {
        self.wanted.front().map(|wanted| wanted.named.then_some(wanted.group))
    }

    /// Takes in the pages of the group that is [`next`](Self::next); nothing where the node waits in the stash.
    pub(super) fn admit<V: PageView>(
        &mut self,
        graph: &mut V,
        pages: Option<&[u8]>,
        observer: &mut impl Observer,
    ) -> Result<(), BuilderError> {
        let Some(Wanted { node, group, .. }) = self.wanted.pop_front() else { return Ok(()) };
        let Some(pages) = pages else { return self.expand_stashed(graph, node, observer) };
        self.found.clear();
        let (bound, members) = (self.pool.bound(), graph.members(group));
        let mut own = f32::INFINITY;
        for id in members.clone() {
            let bytes = graph.node(pages, id);
            let exact = graph.exact(bytes);
            self.scored.push(Scored { distance: exact, id });
            if id == node {
                own = exact;
                continue;
            }
            let fresh = self.seen.insert(id);
            let met = graph.met(id, exact);
            let enters = self.pool.takes(met);
            if fresh && enters {
                self.found.push(Scored { distance: met, id });
            }
            // One that was seen before may be in the list, by whatever distance.
            if !fresh || enters {
                self.stash.put(id, exact, bytes);
            }
        }
        let bytes = graph.node(pages, node);
        let expanded =
            graph.expand(Scored { distance: own, id: node }, bytes, bound, &mut self.seen, &mut self.found)?;
        observer.visited(expanded + members.len());
        self.take_in();
        Ok(())
    }

    fn expand_stashed<V: PageView>(
        &mut self,
        graph: &mut V,
        node: u32,
        observer: &mut impl Observer,
    ) -> Result<(), BuilderError> {
        let (exact, bytes) = self.stash.get(node);
        self.found.clear();
        let node = Scored { distance: exact, id: node };
        observer.visited(graph.expand(node, bytes, self.pool.bound(), &mut self.seen, &mut self.found)?);
        self.take_in();
        Ok(())
    }

    /// Takes what was found into the list. Where nothing entered its nearer half the walk converges: most of what it
    /// now wants it would come to want anyway.
    fn take_in(&mut self) {
        let nearest = self.pool.admit(&self.found);
        if nearest.is_none_or(|place| 2 * place >= self.pool.len()) {
            self.width = (self.width + 1).min(WIDE);
        }
    }
}

/// Nodes of pages that were read for another node and are given back: their turn may come.
#[derive(Default)]
struct Stash {
    /// Where each begins, in words.
    places: HashMap<u32, usize, BuildHasherDefault<NodeHasher>>,
    /// Exact distance, length in bytes, then the node.
    words: Vec<u32>,
}

impl Stash {
    fn clear(&mut self) {
        self.places.clear();
        self.words.clear();
    }

    fn holds(&self, node: u32) -> bool {
        self.places.contains_key(&node)
    }

    fn put(&mut self, node: u32, exact: f32, bytes: &[u8]) {
        self.places.insert(node, self.words.len());
        self.words.extend([exact.to_bits(), bytes.len() as u32]);
        let start = self.words.len();
        self.words.resize(start + bytes.len().div_ceil(4), 0);
        bytemuck::cast_slice_mut(&mut self.words[start..])[..bytes.len()].copy_from_slice(bytes);
    }

    /// A node that [`holds`](Self::holds) says is there.
    fn get(&self, node: u32) -> (f32, &[u8]) {
        let at = self.places[&node];
        let bytes: &[u8] = bytemuck::cast_slice(&self.words[at + 2..]);
        (f32::from_bits(self.words[at]), &bytes[..self.words[at + 1] as usize])
    }
}

/// Scatters node numbers; nobody chooses them to collide.
#[derive(Default)]
struct NodeHasher(u64);

impl Hasher for NodeHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, node: u32) {
        self.0 = (self.0 ^ u64::from(node)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
