//! Searching a Vamana index, in memory or on the drive, by exact distances or by codes.
//!
//! One walk serves all four combinations; what differs is the [`GraphView`] it is given. With the same
//! parameters both residencies visit the same nodes and answer alike, id for id.

use std::convert::Infallible;
use std::sync::{Mutex, OnceLock};

use kiln_kernels::distance::Kernels;
use kiln_kernels::pq::ProductQuantizer;
use kiln_kernels::{Metric, RowsView, Scored};

use super::layout::NodeLayout;
use super::walk::{GraphView, WalkScratch, greedy_search};
use crate::error::BuilderError;
use crate::file::Section;
use crate::file::pages::{AlignedBytes, DirectFile, PageCache};
use crate::file::reader::IndexFile;
use crate::ids::Ids;
use crate::meta::Meta;
use crate::params::IndexParams;
use crate::record::{RecordScorer, Typed, VectorRecord, dispatch_scorer};
use crate::search_types::{Hits, Navigate, QueryStats, Residency};

/// An open Vamana index.
pub(crate) struct VamanaIndex {
    file: IndexFile,
    layout: NodeLayout,
    n: u32,
    entry: u32,
    ids: Ids,
    nodes: Nodes,
    /// Read when a search first navigates by codes.
    codes: OnceLock<Codes>,
    /// Held while they are read, so that they are read once.
    reading_codes: Mutex<()>,
}

enum Nodes {
    Memory(AlignedBytes),
    Drive { file: DirectFile, section_offset: u64 },
}

struct Codes {
    pq: ProductQuantizer,
    codes: AlignedBytes,
}

/// Working memory of one search.
#[derive(Default)]
pub(crate) struct VamanaScratch {
    walk: WalkScratch,
    cache: PageCache,
}

impl VamanaIndex {
    pub(crate) fn open(file: IndexFile, meta: &Meta, residency: Residency) -> Result<Self, BuilderError> {
        let damaged = |problem: String| BuilderError::damaged(file.path(), problem);
        let IndexParams::Vamana(params) = &meta.params else {
            return Err(damaged("section meta is of another kind of index".into()));
        };
        let record = VectorRecord { dtype: meta.dtype, dim: meta.dim, metric: meta.metric };
        let layout = NodeLayout { record, max_degree: params.max_degree };
        let n = u32::try_from(meta.n).map_err(|_| damaged(format!("{} rows are more than a graph holds", meta.n)))?;
        let entry = meta.entry.filter(|&e| e < n).ok_or_else(|| damaged("the entry is not a node".into()))?;
        let nodes_entry = file.entry(Section::Nodes)?;
        if nodes_entry.length != layout.section_bytes(n as usize) as u64 {
            return Err(damaged(format!("section nodes has {} bytes, not those of {n} nodes", nodes_entry.length)));
        }
        let nodes = match residency {
            Residency::Memory => {
                let bytes = file.section(Section::Nodes)?;
                check_neighbors(&bytes, layout, n).map_err(damaged)?;
                Nodes::Memory(bytes)
            }
            Residency::Ssd => {
                Nodes::Drive { file: DirectFile::open(file.path(), file.sums()?)?, section_offset: nodes_entry.offset }
            }
        };
        let ids = Ids::read(&file, meta.n)?;
        Ok(Self { layout, n, entry, ids, nodes, codes: OnceLock::new(), reading_codes: Mutex::new(()), file })
    }

    /// Bytes held in memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let nodes = match &self.nodes {
            Nodes::Memory(bytes) => bytes.as_slice().len() as u64,
            Nodes::Drive { file, .. } => file.sums_bytes(),
        };
        let codes = self.codes.get().map_or(0, |c| c.codes.as_slice().len() as u64);
        nodes + codes + self.ids.bytes()
    }

    pub(crate) fn ids(&self) -> &Ids {
        &self.ids
    }

    /// The vector record at a position.
    pub(crate) fn vector<'a>(&'a self, position: u32, cache: &'a mut PageCache) -> Result<&'a [u8], BuilderError> {
        let (start, length) = (self.layout.offset(position), self.layout.record.bytes());
        match &self.nodes {
            Nodes::Memory(nodes) => Ok(&nodes.as_slice()[start..start + length]),
            Nodes::Drive { file, section_offset } => cache.bytes(file, section_offset + start as u64, length),
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
        let scorer = RecordScorer::new(self.layout.record, query)?;
        let codes = match navigate {
            Navigate::Exact => None,
            Navigate::Codes => Some((self.codes()?, self.table(query)?)),
        };
        let list = search_list.max(k);
        scratch.cache.clear();
        let mut stats = dispatch_scorer!(&scorer, typed => self.walk(typed, codes.as_ref(), list, scratch))?;
        let expanded = &mut scratch.walk.expanded;
        stats.hops = expanded.len() as u64;
        stats.pages = scratch.cache.pages_read();
        stats.bytes = stats.pages * crate::file::PAGE as u64;
        // Ties go to the lower row of the data set.
        let row = |hit: &Scored| self.ids.get(hit.id);
        expanded.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then_with(|| row(a).cmp(&row(b))));
        let nearest = &expanded[..k.min(expanded.len())];
        Ok(Hits {
            ids: nearest.iter().map(|hit| self.ids.get(hit.id)).collect(),
            distances: nearest.iter().map(|hit| self.layout.record.metric.reported(hit.distance)).collect(),
            stats,
        })
    }

    /// Walks with the view that residency and navigation ask for; the statistics lack hops and pages.
    fn walk<A: Kernels, T: Kernels>(
        &self,
        scorer: &Typed<A, T>,
        codes: Option<&(&Codes, Vec<f32>)>,
        list: usize,
        scratch: &mut VamanaScratch,
    ) -> Result<QueryStats, BuilderError> {
        let VamanaScratch { walk, cache } = scratch;
        let layout = self.layout;
        match &self.nodes {
            Nodes::Memory(nodes) => {
                let view = MemoryView { nodes: nodes.as_slice(), layout, scorer, distances: 0 };
                let Ok(stats) = drive(view, codes, self.entry, list, walk);
                Ok(stats)
            }
            Nodes::Drive { file, section_offset } => {
                let view = DriveView {
                    index: self,
                    file,
                    section_offset: *section_offset,
                    layout,
                    scorer,
                    cache,
                    distances: 0,
                };
                drive(view, codes, self.entry, list, walk)
            }
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

/// Runs the walk on `view`, or on codes where there are some.
fn drive<V: ExactView>(
    mut view: V,
    codes: Option<&(&Codes, Vec<f32>)>,
    entry: u32,
    list: usize,
    walk: &mut WalkScratch,
) -> Result<QueryStats, V::Error> {
    let distances = match codes {
        None => {
            greedy_search(&mut view, entry, list, walk)?;
            view.distances()
        }
        Some((codes, table)) => {
            let mut view = CodesView { inner: view, codes, table, distances: 0 };
            greedy_search(&mut view, entry, list, walk)?;
            view.distances + view.inner.distances()
        }
    };
    Ok(QueryStats { distances, ..QueryStats::default() })
}

/// Every neighbour position of a section read into memory is a node.
fn check_neighbors(nodes: &AlignedBytes, layout: NodeLayout, n: u32) -> Result<(), String> {
    let mut neighbors = Vec::new();
    for position in 0..n {
        neighbors.clear();
        layout.neighbors(&nodes.as_slice()[layout.offset(position)..], &mut neighbors);
        if let Some(wrong) = neighbors.iter().find(|&&neighbor| neighbor >= n) {
            return Err(format!("node {position} names neighbour {wrong} of {n} nodes"));
        }
    }
    Ok(())
}

/// What the search needs of a view of vectors beside the walk's demands.
trait ExactView: GraphView {
    /// Distances computed so far.
    fn distances(&self) -> u64;

    /// The exact distance of a node.
    fn exact(&mut self, node: u32) -> Result<f32, Self::Error>;
}

/// All nodes in memory.
struct MemoryView<'a, A, T> {
    nodes: &'a [u8],
    layout: NodeLayout,
    scorer: &'a Typed<A, T>,
    distances: u64,
}

impl<A, T> MemoryView<'_, A, T> {
    #[inline(always)]
    fn node(&self, position: u32) -> &[u8] {
        let start = self.layout.offset(position);
        &self.nodes[start..start + self.layout.node_bytes()]
    }
}

impl<A: Kernels, T: Kernels> ExactView for MemoryView<'_, A, T> {
    fn distances(&self) -> u64 {
        self.distances
    }

    #[inline(always)]
    fn exact(&mut self, node: u32) -> Result<f32, Infallible> {
        self.distances += 1;
        Ok(self.scorer.distance(self.layout.vector(self.node(node))))
    }
}

impl<A: Kernels, T: Kernels> GraphView for MemoryView<'_, A, T> {
    type Error = Infallible;

    #[inline(always)]
    fn expand(&mut self, node: u32, found: f32, neighbors: &mut Vec<u32>) -> Result<f32, Infallible> {
        self.layout.neighbors(self.node(node), neighbors);
        Ok(found)
    }

    #[inline(always)]
    fn score(&mut self, nodes: &[u32], scores: &mut Vec<f32>) -> Result<(), Infallible> {
        self.distances += nodes.len() as u64;
        for &node in nodes {
            super::insert::prefetch(self.layout.vector(self.node(node)));
        }
        scores.extend(nodes.iter().map(|&node| self.scorer.distance(self.layout.vector(self.node(node)))));
        Ok(())
    }
}

/// Nodes on the drive, read by page; a page is fetched once a query.
struct DriveView<'a, A, T> {
    index: &'a VamanaIndex,
    file: &'a DirectFile,
    section_offset: u64,
    layout: NodeLayout,
    scorer: &'a Typed<A, T>,
    cache: &'a mut PageCache,
    distances: u64,
}

impl<A, T> DriveView<'_, A, T> {
    fn offset(&self, position: u32) -> u64 {
        self.section_offset + self.layout.offset(position) as u64
    }
}

impl<A: Kernels, T: Kernels> ExactView for DriveView<'_, A, T> {
    fn distances(&self) -> u64 {
        self.distances
    }

    fn exact(&mut self, node: u32) -> Result<f32, BuilderError> {
        self.distances += 1;
        let offset = self.offset(node);
        Ok(self.scorer.distance(self.cache.bytes(self.file, offset, self.layout.record.bytes())?))
    }
}

impl<A: Kernels, T: Kernels> GraphView for DriveView<'_, A, T> {
    type Error = BuilderError;

    fn expand(&mut self, node: u32, found: f32, neighbors: &mut Vec<u32>) -> Result<f32, BuilderError> {
        let offset = self.offset(node);
        let bytes = self.cache.bytes(self.file, offset, self.layout.node_bytes())?;
        self.layout.neighbors(bytes, neighbors);
        if let Some(wrong) = neighbors.iter().find(|&&neighbor| neighbor >= self.index.n) {
            let problem = format!("node {node} names neighbour {wrong} of {} nodes", self.index.n);
            return Err(BuilderError::damaged(self.index.file.path(), problem));
        }
        Ok(found)
    }

    fn score(&mut self, nodes: &[u32], scores: &mut Vec<f32>) -> Result<(), BuilderError> {
        for &node in nodes {
            scores.push(self.exact(node)?);
        }
        Ok(())
    }
}

/// Any view, navigated by codes in memory: only expanded nodes are read and scored exactly.
struct CodesView<'a, V> {
    inner: V,
    codes: &'a Codes,
    table: &'a [f32],
    distances: u64,
}

impl<V: ExactView> GraphView for CodesView<'_, V> {
    type Error = V::Error;

    fn expand(&mut self, node: u32, found: f32, neighbors: &mut Vec<u32>) -> Result<f32, V::Error> {
        self.inner.expand(node, found, neighbors)?;
        self.inner.exact(node)
    }

    fn score(&mut self, nodes: &[u32], scores: &mut Vec<f32>) -> Result<(), V::Error> {
        self.distances += nodes.len() as u64;
        let width = self.codes.pq.code_bytes();
        let all = self.codes.codes.as_slice();
        let code = |node: u32| &all[node as usize * width..(node as usize + 1) * width];
        scores.extend(nodes.iter().map(|&node| self.codes.pq.score(self.table, code(node))));
        Ok(())
    }
}
