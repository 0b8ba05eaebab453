//! Searching a Vamana index, in memory or on the drive, by exact distances, by codes, or by the codes inside nodes.
//!
//! One walk serves all; what differs is the [`GraphView`](super::walk::GraphView) it is given. With the same
//! parameters both residencies visit the same nodes and answer alike, id for id.

use std::sync::{Mutex, OnceLock};

use kiln_kernels::distance::Isa;
use kiln_kernels::edge_codes::{EdgeCodes, EdgeQuery};
use kiln_kernels::nodes::{Edges, NodeLayout};
use kiln_kernels::pq::ProductQuantizer;
use kiln_kernels::{Adjacency, Metric, RowsView, Scored};

use super::entry::EntryTable;
use super::nodes::{CachedNodes, DriveNodes, MemoryNodes, NodeSource, Nodes};
use super::views::{CodesView, ExactView, InlineView, Score};
use super::walk::{Observer, Task, Walk, greedy_search, interleave};
use crate::error::BuilderError;
use crate::file::Section;
use crate::file::pages::{AlignedBytes, DirectFile, PageCache};
use crate::file::reader::IndexFile;
use crate::ids::Ids;
use crate::meta::Meta;
use crate::params::IndexParams;
use crate::record::{RecordScorer, dispatch_scorer};
use crate::search_types::{Hits, Navigate, QueryStats, Residency};

/// Searches of a batch that take turns on one thread: enough that a node has arrived from memory when its turn comes,
/// few enough that their lists stay in the first caches.
const INTERLEAVED: usize = 8;

/// An open Vamana index.
pub(crate) struct VamanaIndex {
    file: IndexFile,
    layout: NodeLayout,
    n: u32,
    entry: u32,
    ids: Ids,
    nodes: Nodes,
    /// Of the `inline` layout.
    inline: Option<Inline>,
    /// Read when a search first navigates by codes; of the `compact` layout.
    codes: OnceLock<Codes>,
    /// Held while they are read, so that they are read once.
    reading_codes: Mutex<()>,
}

/// What the `inline` layout keeps in memory beside its nodes.
struct Inline {
    codes: EdgeCodes,
    entries: EntryTable,
}

/// Product-quantised codes in memory.
pub(super) struct Codes {
    pq: ProductQuantizer,
    codes: AlignedBytes,
}

impl Codes {
    /// Navigation distance of a node.
    #[inline(always)]
    pub(super) fn score(&self, table: &[f32], node: u32) -> f32 {
        let width = self.pq.code_bytes();
        self.pq.score(table, &self.codes.as_slice()[node as usize * width..(node as usize + 1) * width])
    }
}

/// Working memory of one search, or of one batch.
#[derive(Default)]
pub(crate) struct VamanaScratch {
    walks: Vec<Walk>,
    cache: PageCache,
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
    pub(crate) fn open(file: IndexFile, meta: &Meta, residency: Residency) -> Result<Self, BuilderError> {
        let damaged = |problem: String| BuilderError::damaged(file.path(), problem);
        let IndexParams::Vamana(params) = &meta.params else {
            return Err(damaged("section meta is of another kind of index".into()));
        };
        let layout = params.node_layout(meta.dtype, meta.dim, meta.metric);
        let n = u32::try_from(meta.n).map_err(|_| damaged(format!("{} rows are more than a graph holds", meta.n)))?;
        let entry = meta.entry.filter(|&e| e < n).ok_or_else(|| damaged("the entry is not a node".into()))?;
        let nodes_entry = file.entry(Section::Nodes)?;
        if nodes_entry.length != layout.section_bytes(n as usize) as u64 {
            return Err(damaged(format!("section nodes has {} bytes, not those of {n} nodes", nodes_entry.length)));
        }
        let nodes = match residency {
            Residency::Memory => Nodes::Memory(MemoryNodes::read(&file, layout, n)?),
            Residency::Ssd => {
                let section = nodes_entry.offset;
                let file = DirectFile::open(file.path(), file.sums()?)?;
                Nodes::Drive(DriveNodes { file, section, layout, n })
            }
        };
        let inline = match layout.edges {
            Edges::Compact => None,
            Edges::Inline { bits } => Some(Inline::read(&file, meta, bits, n)?),
        };
        let ids = Ids::read(&file, meta.n)?;
        let (codes, reading_codes) = (OnceLock::new(), Mutex::new(()));
        Ok(Self { layout, n, entry, ids, nodes, inline, codes, reading_codes, file })
    }

    /// Bytes held in memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let nodes = match &self.nodes {
            Nodes::Memory(nodes) => nodes.resident_bytes(),
            Nodes::Drive(nodes) => nodes.file.sums_bytes(),
        };
        let codes = self.codes.get().map_or(0, |c| c.codes.as_slice().len() as u64);
        let entries = self.inline.as_ref().map_or(0, |inline| inline.entries.resident_bytes());
        nodes + codes + entries + self.ids.bytes()
    }

    pub(crate) fn ids(&self) -> &Ids {
        &self.ids
    }

    /// What `Best` stands for: the codes that nodes hold, where they do.
    pub(crate) fn navigate(&self, asked: Navigate) -> Navigate {
        match (asked, &self.inline) {
            (Navigate::Best, Some(_)) => Navigate::Codes,
            (Navigate::Best, None) => Navigate::Exact,
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
            Nodes::Drive(nodes) => {
                cache.bytes(&nodes.file, nodes.section + self.layout.offset(position) as u64, length)
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
        scratch.cache.clear();
        let VamanaScratch { walks, cache } = scratch;
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
            (Nodes::Drive(nodes), Navigate::Codes, Some(inline)) => {
                let prepared = inline.prepare(query);
                let source = CachedNodes { nodes, cache };
                let mut view = self.inline_view(inline, source, scorer, prepared);
                greedy_search(&mut view, list, walk, &mut stats)?;
            }
            (nodes, _, _) => {
                let codes = match navigate {
                    Navigate::Best | Navigate::Exact => None,
                    Navigate::Codes => Some((self.codes()?, self.table(query)?)),
                };
                dispatch_scorer!(&scorer, typed => match nodes {
                    Nodes::Memory(nodes) => {
                        let Ok(()) = self.walk(nodes, typed, codes.as_ref(), list, walk, &mut stats);
                    }
                    Nodes::Drive(nodes) => {
                        let source = CachedNodes { nodes, cache };
                        self.walk(source, typed, codes.as_ref(), list, walk, &mut stats)?;
                    }
                });
            }
        }
        stats.pages = cache.pages_read();
        stats.bytes = stats.pages * crate::file::PAGE as u64;
        Ok(self.hits(walk, k, stats))
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
            answers[task.observer.query] = self.hits(task.walk, k, task.observer.stats);
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
        codes: Option<&(&Codes, Vec<f32>)>,
        list: usize,
        walk: &mut Walk,
        stats: &mut QueryStats,
    ) -> Result<(), S::Error> {
        let mut view = ExactView { source, layout: self.layout, scorer, entry: self.entry, neighbors: Vec::new() };
        match codes {
            None => greedy_search(&mut view, list, walk, stats),
            Some((codes, table)) => greedy_search(&mut CodesView { inner: view, codes, table }, list, walk, stats),
        }
    }

    /// The k nearest of the nodes that a walk expanded.
    fn hits(&self, walk: &mut Walk, k: usize, stats: QueryStats) -> Hits {
        // Ties go to the lower row of the data set.
        let row = |hit: &Scored| self.ids.get(hit.id);
        let order = |a: &Scored, b: &Scored| a.distance.total_cmp(&b.distance).then_with(|| row(a).cmp(&row(b)));
        let mut nearest = walk.expanded.as_mut_slice();
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

    fn codes(&self) -> Result<&Codes, BuilderError> {
        if let Some(codes) = self.codes.get() {
            return Ok(codes);
        }
        let _reading = self.reading_codes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(codes) = self.codes.get() {
            return Ok(codes);
        }
        let damaged = |problem: String| BuilderError::damaged(self.file.path(), problem);
        let pq = ProductQuantizer::from_bytes(self.file.section(Section::Codec)?.as_slice()).map_err(damaged)?;
        let codes = self.file.section(Section::Codes)?;
        let expected = self.n as usize * pq.code_bytes();
        if codes.as_slice().len() != expected || pq.dim() != self.layout.record.dim {
            return Err(damaged(format!("section codes has {} bytes, {expected} expected", codes.as_slice().len())));
        }
        Ok(self.codes.get_or_init(|| Codes { pq, codes }))
    }

    /// The query's look-up table: one per search.
    fn table(&self, query: &RowsView<'_>) -> Result<Vec<f32>, BuilderError> {
        let pq = &self.codes()?.pq;
        let mut query = query.to_f32().into_raw_vec_and_offset().0;
        Ok(match self.layout.record.metric {
            Metric::L2 => pq.l2_table(&pq.rotate(&query)),
            Metric::InnerProduct => pq.dot_table(&pq.rotate(&query)),
            Metric::Cosine => {
                let inverse = kiln_kernels::distance::inverse_norm(&query);
                query.iter_mut().for_each(|x| *x *= inverse);
                pq.l2_table(&pq.rotate(&query))
            }
        })
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

    fn prepare(&self, query: &RowsView<'_>) -> EdgeQuery {
        self.codes.prepare(query.to_f32().into_raw_vec_and_offset().0)
    }
}
