//! Searching a Vamana index, in memory or on the drive, by exact distances, by codes, or by the codes inside nodes.
//!
//! One walk serves all that is in memory; what differs is the [`GraphView`](super::walk::GraphView) it is given. On the drive
//! a search by codes is another walk, of pages ([`search_drive`](super::search_drive)); by exact distances it is the same
//! walk, which reads as it goes, and answers alike, id for id.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use kiln_kernels::distance::Isa;
use kiln_kernels::edge_codes::{EdgeCodes, EdgeQuery};
use kiln_kernels::nodes::{Edges, NodeLayout};
use kiln_kernels::{Adjacency, RowsView, Scored};

use super::codes::{Codes, CodesQuery};
use super::drivers::MOST_IN_TURN;
use super::entry::EntryTable;
use super::nodes::{CachedNodes, DriveNodes, MemoryNodes, NodeSource, Nodes};
use super::page_walk::PageWalk;
use super::pinned::Pinned;
use super::search_drive::DriveGraph;
use super::views::{CodesView, ExactView, InlineView, Score};
use super::walk::{Observer, Task, Walk, greedy_search, interleave};
use crate::error::BuilderError;
use crate::file::Section;
use crate::file::pages::PageCache;
use crate::file::reader::IndexFile;
use crate::ids::Ids;
use crate::io::{Drive, Queue};
use crate::meta::Meta;
use crate::params::IndexParams;
use crate::record::{RecordScorer, dispatch_scorer};
use crate::search_types::{Hits, Navigate, OpenParams, QueryStats, Residency, Serving};

/// Searches of a batch that take turns on one thread: enough that a node has arrived from memory when its turn comes,
/// few enough that their lists stay in the first caches.
const INTERLEAVED: usize = 8;

/// An open Vamana index.
pub(crate) struct VamanaIndex {
    file: IndexFile,
    pub(super) layout: NodeLayout,
    pub(super) n: u32,
    pub(super) entry: u32,
    ids: Ids,
    pub(super) nodes: Nodes,
    /// Of the `inline` layout.
    pub(super) inline: Option<Inline>,
    /// Of the `compact` layout; in memory read when a search first navigates by codes.
    codes: OnceLock<Codes>,
    /// Held while they are read, so that they are read once.
    reading_codes: Mutex<()>,
}

/// What the `inline` layout keeps in memory beside its nodes.
pub(super) struct Inline {
    pub(super) codes: EdgeCodes,
    pub(super) entries: EntryTable,
}

/// Working memory of one search, or of one batch.
#[derive(Default)]
pub(crate) struct VamanaScratch {
    walks: Vec<Walk>,
    cache: PageCache,
    pub(super) page_walks: Vec<PageWalk>,
    /// Made by the first search on the drive.
    pub(super) queue: Option<Queue>,
}

impl Observer for QueryStats {
    fn entered(&mut self, scored: usize) {
        self.distances += scored as u64;
    }

    #[inline(always)]
    fn visited(&mut self, scored: usize) {
        self.distances += scored as u64;
        self.hops += 1;
    }
}

impl VamanaIndex {
    pub(crate) fn open(file: IndexFile, meta: &Meta, params: &OpenParams) -> Result<Self, BuilderError> {
        let damaged = |problem: String| BuilderError::damaged(file.path(), problem);
        let IndexParams::Vamana(built) = &meta.params else {
            return Err(damaged("section meta is of another kind of index".into()));
        };
        let layout = built.node_layout(meta.dtype, meta.dim, meta.metric);
        let n = u32::try_from(meta.n).map_err(|_| damaged(format!("{} rows are more than a graph holds", meta.n)))?;
        let entry = meta.entry.filter(|&e| e < n).ok_or_else(|| damaged("the entry is not a node".into()))?;
        let nodes_entry = file.entry(Section::Nodes)?;
        if nodes_entry.length != layout.section_bytes(n as usize) as u64 {
            return Err(damaged(format!("section nodes has {} bytes, not those of {n} nodes", nodes_entry.length)));
        }
        let nodes = match params.residency {
            Residency::Memory => Nodes::Memory(MemoryNodes::read(&file, layout, n)?),
            Residency::Ssd => {
                let section = nodes_entry.offset;
                let drive = Arc::new(Drive::open(file.path(), file.sums()?, params)?);
                let nodes = DriveNodes { drive, section, layout, n };
                Nodes::Drive(DriveGraph { nodes, pinned: Pinned::default(), in_turn: MOST_IN_TURN })
            }
        };
        let inline = match layout.edges {
            Edges::Compact => None,
            Edges::Inline { bits } => Some(Inline::read(&file, meta, bits, n)?),
        };
        let ids = Ids::read(&file, meta.n)?;
        let (codes, reading_codes) = (OnceLock::new(), Mutex::new(()));
        let mut index = Self { layout, n, entry, ids, nodes, inline, codes, reading_codes, file };
        if params.residency == Residency::Ssd {
            if index.inline.is_none() {
                index.codes()?;
            }
            index.fit(params.memory)?;
        }
        Ok(index)
    }

    /// The index file.
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// The drive, where nodes are left there.
    pub(crate) fn drive(&self) -> Option<&Drive> {
        match &self.nodes {
            Nodes::Memory(_) => None,
            Nodes::Drive(graph) => Some(&graph.nodes.drive),
        }
    }

    /// What is held in memory.
    pub(crate) fn serving(&self) -> Serving {
        let (data, pinned) = match &self.nodes {
            Nodes::Memory(nodes) => (nodes.resident_bytes(), 0),
            Nodes::Drive(graph) => (0, graph.pinned.resident_bytes()),
        };
        let sampled = self.codes.get().map_or(0, Codes::sample_bytes);
        let drive = self.drive();
        Serving {
            engine: drive.map(Drive::engine),
            reads: drive.map(Drive::reads),
            data,
            codes: self.codes.get().map_or(0, Codes::code_bytes),
            navigation: self.inline.as_ref().map_or(sampled, |inline| inline.entries.resident_bytes()),
            sums: drive.map_or(0, |drive| drive.file.sums_bytes()),
            ids: self.ids.bytes(),
            pinned,
            buffers: drive.map_or(0, Drive::buffers),
        }
    }

    pub(crate) fn ids(&self) -> &Ids {
        &self.ids
    }

    /// What `Best` stands for: by codes where nodes hold them or are on the drive, else exactly.
    pub(crate) fn navigate(&self, asked: Navigate) -> Navigate {
        match (asked, &self.nodes, &self.inline) {
            (Navigate::Best, Nodes::Memory(_), None) => Navigate::Exact,
            (Navigate::Best, _, _) => Navigate::Codes,
            _ => asked,
        }
    }

    /// The edges of nodes in memory, by position, and where walks start.
    pub(crate) fn adjacency(&self) -> Option<(Adjacency, u32)> {
        let Nodes::Memory(nodes) = &self.nodes else { return None };
        let (mut graph, mut neighbors) = (Adjacency::new(self.layout.max_degree), Vec::new());
        for position in 0..self.n {
            neighbors.clear();
            self.layout.neighbors(nodes.node(position), &mut neighbors);
            graph.push(&neighbors);
        }
        Some((graph, self.entry))
    }

    /// The vector record at a position.
    pub(crate) fn vector<'a>(&'a self, position: u32, cache: &'a mut PageCache) -> Result<&'a [u8], BuilderError> {
        let length = self.layout.record.bytes();
        match &self.nodes {
            Nodes::Memory(nodes) => Ok(&nodes.node(position)[..length]),
            Nodes::Drive(DriveGraph { nodes, .. }) => {
                cache.bytes(&nodes.drive.file, nodes.section + self.layout.offset(position) as u64, length)
            }
        }
    }

    pub(crate) fn search(
        &self,
        query: &RowsView<'_>,
        k: usize,
        search_list: usize,
        navigate: Navigate,
        scratch: &mut VamanaScratch,
    ) -> Result<Hits, BuilderError> {
        let navigate = self.navigate(navigate);
        if let (Nodes::Drive(graph), Navigate::Codes) = (&self.nodes, navigate) {
            if query.len() != 1 {
                // Says what is wrong with it.
                RecordScorer::new(self.layout.record, query)?;
            }
            let mut answers = self.search_drive(graph, query, k, search_list.max(k), scratch)?;
            return Ok(answers.pop().unwrap_or_default());
        }
        scratch.cache.clear();
        let VamanaScratch { walks, cache, .. } = scratch;
        if walks.is_empty() {
            walks.push(Walk::default());
        }
        let walk = &mut walks[0];
        let list = search_list.max(k);
        let mut stats = QueryStats::default();
        let scorer = RecordScorer::new(self.layout.record, query)?;
        match (&self.nodes, navigate, &self.inline) {
            (Nodes::Memory(nodes), Navigate::Codes, Some(inline)) => {
                let prepared = inline.prepare(query);
                let mut view = self.inline_view(inline, nodes, scorer, prepared);
                let Ok(()) = greedy_search(&mut view, list, walk, &mut stats);
            }
            (nodes, _, _) => {
                let codes = match navigate {
                    Navigate::Best | Navigate::Exact => None,
                    Navigate::Codes => {
                        let codes = self.codes()?;
                        Some((codes, codes.prepare(query)))
                    }
                };
                dispatch_scorer!(&scorer, typed => match nodes {
                    Nodes::Memory(nodes) => {
                        let Ok(()) = self.walk(nodes, typed, codes.as_ref(), list, walk, &mut stats);
                    }
                    Nodes::Drive(DriveGraph { nodes, .. }) => {
                        let source = CachedNodes { nodes, cache };
                        self.walk(source, typed, codes.as_ref(), list, walk, &mut stats)?;
                    }
                });
            }
        }
        stats.pages = cache.pages_read();
        stats.bytes = stats.pages * crate::file::PAGE as u64;
        Ok(self.hits(&mut walk.expanded, k, stats))
    }

    /// Answers all of `queries` on this thread; where nodes are read from memory one visit at a time, several searches
    /// take turns, and the nodes of the others arrive while one computes.
    pub(crate) fn search_batch(
        &self,
        queries: &RowsView<'_>,
        k: usize,
        search_list: usize,
        navigate: Navigate,
        scratch: &mut VamanaScratch,
    ) -> Result<Vec<Hits>, BuilderError> {
        let navigate = self.navigate(navigate);
        if let (Nodes::Drive(graph), Navigate::Codes) = (&self.nodes, navigate) {
            return self.search_drive(graph, queries, k, search_list.max(k), scratch);
        }
        let query = |at: usize| queries.slice(at..at + 1);
        let (Nodes::Memory(nodes), Navigate::Codes, Some(inline)) = (&self.nodes, navigate, &self.inline) else {
            return (0..queries.len()).map(|at| self.search(&query(at), k, search_list, navigate, scratch)).collect();
        };
        let list = search_list.max(k);
        let mut answers = vec![Hits::default(); queries.len()];
        let mut waiting = 0..queries.len();
        let walks = &mut scratch.walks;
        walks.resize_with(walks.len().max(INTERLEAVED), Walk::default);
        let begin = |at: usize, walk: &mut Walk| -> Result<_, BuilderError> {
            let scorer = RecordScorer::new(self.layout.record, &query(at))?;
            let mut view = self.inline_view(inline, nodes, scorer, inline.prepare(&query(at)));
            let mut stats = QueryStats::default();
            let Ok(()) = walk.begin(&mut view, list, &mut stats);
            Ok((view, Watched { query: at, stats }))
        };
        let mut tasks = Vec::with_capacity(INTERLEAVED);
        for (walk, at) in walks.iter_mut().take(INTERLEAVED).zip(waiting.by_ref()) {
            let (view, observer) = begin(at, walk)?;
            tasks.push(Task { view, walk, observer });
        }
        let mut failed = None;
        let Ok(()) = interleave(&mut tasks, |task| {
            answers[task.observer.query] = self.hits(&mut task.walk.expanded, k, task.observer.stats);
            let Some(at) = waiting.next() else { return Ok(false) };
            match begin(at, task.walk) {
                Ok((view, observer)) => (task.view, task.observer) = (view, observer),
                Err(error) => {
                    failed = failed.take().or(Some(error));
                    return Ok(false);
                }
            }
            Ok(true)
        });
        failed.map_or(Ok(answers), Err)
    }

    fn inline_view<'a, S: NodeSource>(
        &'a self,
        inline: &'a Inline,
        source: S,
        scorer: RecordScorer,
        query: EdgeQuery,
    ) -> InlineView<'a, S> {
        let Inline { codes, entries } = inline;
        InlineView { source, layout: self.layout, scorer, codes, query, entries, entry: self.entry }
    }

    /// Walks by exact distances, or by codes in memory where there are some.
    fn walk<S: NodeSource, D: Score>(
        &self,
        source: S,
        scorer: D,
        codes: Option<&(&Codes, CodesQuery)>,
        list: usize,
        walk: &mut Walk,
        stats: &mut QueryStats,
    ) -> Result<(), S::Error> {
        let mut view = ExactView { source, layout: self.layout, scorer, entry: self.entry, neighbors: Vec::new() };
        match codes {
            None => greedy_search(&mut view, list, walk, stats),
            Some((codes, query)) => greedy_search(&mut CodesView { inner: view, codes, query }, list, walk, stats),
        }
    }

    /// The k nearest of the nodes that a walk scored exactly.
    pub(super) fn hits(&self, scored: &mut [Scored], k: usize, stats: QueryStats) -> Hits {
        // Ties go to the lower row of the data set.
        let row = |hit: &Scored| self.ids.get(hit.id);
        let order = |a: &Scored, b: &Scored| a.distance.total_cmp(&b.distance).then_with(|| row(a).cmp(&row(b)));
        let mut nearest = scored;
        if nearest.len() > k {
            nearest.select_nth_unstable_by(k, order);
            nearest = &mut nearest[..k];
        }
        nearest.sort_unstable_by(order);
        Hits {
            ids: nearest.iter().map(row).collect(),
            distances: nearest.iter().map(|hit| self.layout.record.metric.reported(hit.distance)).collect(),
            stats,
        }
    }

    pub(super) fn codes(&self) -> Result<&Codes, BuilderError> {
        if let Some(codes) = self.codes.get() {
            return Ok(codes);
        }
        let _reading = self.reading_codes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(codes) = self.codes.get() {
            return Ok(codes);
        }
        let record = self.layout.record;
        let codes = Codes::read(&self.file, self.n, record.dim, record.metric)?;
        Ok(self.codes.get_or_init(|| codes))
    }
}

/// The number of a query of a batch, and what its search cost so far.
struct Watched {
    query: usize,
    stats: QueryStats,
}

impl Observer for Watched {
    #[inline(always)]
    fn visited(&mut self, scored: usize) {
        self.stats.visited(scored);
    }
}

impl Inline {
    fn read(file: &IndexFile, meta: &Meta, bits: u8, n: u32) -> Result<Self, BuilderError> {
        let damaged = |problem: String| BuilderError::damaged(file.path(), problem);
        let codec = file.section(Section::Codec)?;
        let codes = EdgeCodes::from_bytes(codec.as_slice(), meta.dim, meta.metric, Isa::best()).map_err(damaged)?;
        if codes.bits() != bits {
            return Err(damaged(format!("section codec is of {} bits, {bits} expected", codes.bits())));
        }
        let nav = file.section(Section::Nav)?;
        let entries = EntryTable::from_bytes(nav.as_slice(), &codes, n).map_err(damaged)?;
        Ok(Self { codes, entries })
    }

    pub(super) fn prepare(&self, query: &RowsView<'_>) -> EdgeQuery {
        self.codes.prepare(query.to_f32().into_raw_vec_and_offset().0)
    }
}
