//! Searching a graph that is left on the drive.
//!
//! In: queries, one or many. Out: hits, found by [`PageWalk`](super::page_walk::PageWalk)s in turn over this thread's queue of
//! reads. Also what is decided when such an index is opened: how it fits into the memory that it may hold, and which pages
//! fill what is left of that.

use std::collections::HashMap;

use kiln_kernels::nodes::{Edges, NodeLayout};
use kiln_kernels::{Rows, RowsView};

use super::codes::Codes;
use super::drivers::{LEAST_IN_TURN, MOST_IN_TURN, Pages, depth, in_turn};
use super::nodes::{DriveNodes, Nodes};
use super::page_views::{CodesPages, InlinePages};
#[cfg(test)]
use super::page_walk::PageView;
use super::pinned::Pinned;
use super::search::{Inline, VamanaIndex, VamanaScratch};
use crate::error::BuilderError;
use crate::file::PAGE;
use crate::file::pages::PageCache;
use crate::io::Queue;
use crate::quantiser::sample_rows;
use crate::record::RecordScorer;
use crate::search_types::{Hits, Serving};

/// Stored rows that are searched for when the index is opened, to learn which pages searches want; the list size, and
/// the seed by which they are chosen.
const REHEARSALS: usize = 2048;
const REHEARSAL_LIST: usize = 40;
const SEED: u64 = 2;

/// Of the memory that is left one part goes to more searches in turn, until there are [`MOST_IN_TURN`]; the rest to pages.
const BUFFERS_SHARE: u64 = 4;

/// A graph on the drive.
pub(super) struct DriveGraph {
    pub nodes: DriveNodes,
    pub pinned: Pinned,
    /// Searches of a batch that take turns on a thread.
    pub in_turn: usize,
}

/// What tells near from far without reading a node.
enum Guide<'a> {
    Codes(&'a Codes),
    Inline(&'a Inline),
}

impl VamanaIndex {
    /// Answers `queries` in turn, each as if it were alone, by codes.
    pub(super) fn search_drive(
        &self,
        graph: &DriveGraph,
        queries: &RowsView<'_>,
        k: usize,
        list: usize,
        scratch: &mut VamanaScratch,
    ) -> Result<Vec<Hits>, BuilderError> {
        let mut answers = vec![Hits::default(); queries.len()];
        self.walk_drive(
            graph,
            queries.len(),
            |at| queries.slice(at..at + 1),
            list,
            scratch,
            |at, scored, stats| {
                answers[at] = self.hits(scored, k, stats);
            },
        )?;
        Ok(answers)
    }

    /// Walks for `number` queries in turn; `over` gets what each has scored.
    fn walk_drive<'q>(
        &self,
        graph: &DriveGraph,
        number: usize,
        query: impl Fn(usize) -> RowsView<'q>,
        list: usize,
        scratch: &mut VamanaScratch,
        mut over: impl FnMut(usize, &mut Vec<kiln_kernels::Scored>, crate::search_types::QueryStats),
    ) -> Result<(), BuilderError> {
        let DriveGraph { nodes, pinned, in_turn: together } = graph;
        let pages = Pages { nodes, pinned, in_turn: *together };
        let VamanaScratch { page_walks: walks, queue, .. } = scratch;
        let queue = match queue {
            Some(queue) => queue,
            None => queue.insert(Queue::new(&nodes.drive, depth(nodes, *together))?),
        };
        let over = |at: usize, walk: &mut super::page_walk::PageWalk, stats| over(at, &mut walk.scored, stats);
        match self.guide()? {
            Guide::Codes(codes) => {
                let view = |at| self.codes_view(nodes, codes, &query(at));
                in_turn(pages, number, list, walks, queue, view, over)
            }
            Guide::Inline(inline) => {
                let view = |at| self.inline_pages(nodes, inline, &query(at));
                in_turn(pages, number, list, walks, queue, view, over)
            }
        }
    }

    fn guide(&self) -> Result<Guide<'_>, BuilderError> {
        Ok(match &self.inline {
            Some(inline) => Guide::Inline(inline),
            None => Guide::Codes(self.codes()?),
        })
    }

    fn codes_view<'a>(
        &'a self,
        nodes: &'a DriveNodes,
        codes: &'a Codes,
        query: &RowsView<'_>,
    ) -> Result<CodesPages<'a>, BuilderError> {
        let scorer = RecordScorer::new(self.layout.record, query)?;
        let query = codes.prepare(query);
        Ok(CodesPages { nodes, scorer, codes, query, entry: self.entry, neighbors: Vec::new() })
    }

    fn inline_pages<'a>(
        &'a self,
        nodes: &'a DriveNodes,
        inline: &'a Inline,
        query: &RowsView<'_>,
    ) -> Result<InlinePages<'a>, BuilderError> {
        let scorer = RecordScorer::new(self.layout.record, query)?;
        let Inline { codes, entries } = inline;
        Ok(InlinePages { nodes, scorer, codes, query: inline.prepare(query), entries, entry: self.entry })
    }

    /// Fits the index into `memory` bytes, all that it serves with, and fills what is left with the pages that searches
    /// want most. Without a limit nothing is kept that need not be.
    ///
    /// # Errors
    /// When it does not fit; the message says what it takes.
    pub(crate) fn fit(&mut self, memory: Option<u64>) -> Result<(), BuilderError> {
        let (Some(memory), Nodes::Drive(graph)) = (memory, &self.nodes) else { return Ok(()) };
        let needed = self.needed(graph);
        let Some(left) = memory.checked_sub(needed.total()) else {
            return Err(too_little(self, memory, &needed));
        };
        let more = left / BUFFERS_SHARE / buffers_for(graph, 1);
        let in_turn = LEAST_IN_TURN + (more as usize).min(MOST_IN_TURN - LEAST_IN_TURN);
        let left = memory - (needed.total() - needed.buffers) - buffers_for(graph, in_turn);
        if let Nodes::Drive(graph) = &mut self.nodes {
            graph.in_turn = in_turn;
        }
        let Nodes::Drive(graph) = &self.nodes else { return Ok(()) };
        let left = left.saturating_sub(Pinned::overhead(&graph.nodes));
        let at_most = (left / Pinned::cost(&graph.nodes)).min(u64::from(graph.nodes.groups())) as usize;
        if at_most == 0 {
            return Ok(());
        }
        let mut scratch = VamanaScratch::default();
        let wanted = self.rehearse(graph, &mut scratch)?;
        let queue = scratch.queue.as_mut().expect("the rehearsal has read");
        let pinned = Pinned::read(&graph.nodes, queue, &wanted, at_most)?;
        if let Nodes::Drive(graph) = &mut self.nodes {
            graph.pinned = pinned;
        }
        Ok(())
    }

    /// The least that serving from the drive takes; nothing of an index in memory.
    pub(crate) fn least_memory(&self) -> u64 {
        match &self.nodes {
            Nodes::Memory(_) => 0,
            Nodes::Drive(graph) => self.needed(graph).total(),
        }
    }

    fn needed(&self, graph: &DriveGraph) -> Serving {
        Serving { buffers: buffers_for(graph, LEAST_IN_TURN), pinned: 0, ..self.serving() }
    }

    /// How many of a sample of stored rows, taken as queries, want each group of pages.
    fn rehearse(&self, graph: &DriveGraph, scratch: &mut VamanaScratch) -> Result<HashMap<u32, u32>, BuilderError> {
        let record = self.layout.record;
        let width = record.dim * record.dtype.bytes();
        let mut cache = PageCache::default();
        let mut rows: Vec<Rows> = Vec::new();
        for position in sample_rows(self.n as usize, REHEARSALS, SEED) {
            cache.clear();
            let bytes = &self.vector(position as u32, &mut cache)?[..width];
            rows.extend(Rows::from_bytes(record.dtype, 1, record.dim, bytes));
        }
        let mut wanted: HashMap<u32, u32> = HashMap::new();
        self.walk_drive(
            graph,
            rows.len(),
            |at| rows[at].view(),
            REHEARSAL_LIST,
            scratch,
            |_, scored, _| {
                // All nodes of a group are scored together.
                let mut last = None;
                for group in scored.iter().map(|scored| self.layout.group(scored.id)) {
                    if last.replace(group) != Some(group) {
                        *wanted.entry(group).or_default() += 1;
                    }
                }
            },
        )?;
        Ok(wanted)
    }

    /// The slow, obvious twin of [`search_drive`](Self::search_drive), for one query.
    #[cfg(test)]
    pub(super) fn search_plainly(&self, query: &RowsView<'_>, k: usize, list: usize) -> Result<Hits, BuilderError> {
        fn walk<V: PageView>(
            pages: Pages<'_>,
            list: usize,
            view: V,
        ) -> Result<(Vec<kiln_kernels::Scored>, crate::search_types::QueryStats), BuilderError> {
            let mut walk = super::page_walk::PageWalk::default();
            let stats = super::drivers::one_by_one(pages, list, &mut walk, view)?;
            Ok((walk.scored, stats))
        }
        let Nodes::Drive(DriveGraph { nodes, pinned, in_turn }) = &self.nodes else {
            unreachable!("of indexes on the drive")
        };
        let pages = Pages { nodes, pinned, in_turn: *in_turn };
        let (mut scored, stats) = match self.guide()? {
            Guide::Codes(codes) => walk(pages, list, self.codes_view(nodes, codes, query)?)?,
            Guide::Inline(inline) => walk(pages, list, self.inline_pages(nodes, inline, query)?)?,
        };
        Ok(self.hits(&mut scored, k, stats))
    }
}

/// Threads that may search at a time, as far as can be known beforehand.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes of the buffers of all threads, each with so many searches in turn.
fn buffers_for(graph: &DriveGraph, in_turn: usize) -> u64 {
    (threads() * depth(&graph.nodes, in_turn).pages * PAGE) as u64
}

/// The error of a limit that the index does not fit into.
fn too_little(index: &VamanaIndex, memory: u64, needed: &Serving) -> BuilderError {
    let mib = |bytes: u64| format!("{:.1} MiB", (bytes as f64 / 1_048_576.0 * 10.0).ceil() / 10.0);
    let parts = [
        ("codes", needed.codes),
        ("navigation", needed.navigation),
        ("checksums of pages", needed.sums),
        ("row numbers", needed.ids),
        ("buffers", needed.buffers),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(_, bytes)| *bytes > 0).map(|(name, bytes)| format!("{name} {}", mib(*bytes))).collect();
    BuilderError::Unavailable {
        what: format!(
            "{}: --memory {}: serving it from the drive with {} threads takes {} ({})",
            index.path().display(),
            mib(memory),
            threads(),
            mib(needed.total()),
            parts.join(", ")
        ),
        remedy: match index.layout {
            NodeLayout { edges: Edges::Compact, .. } => {
                "allow that much, build it with a smaller --m, or build it with --layout inline, which keeps no codes in memory"
            }
            NodeLayout { edges: Edges::Inline { .. }, .. } => "allow that much",
        },
    }
}
