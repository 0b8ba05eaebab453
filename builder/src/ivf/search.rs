//! Searching an IVF-PQ index: probe the nearest lists by codes, re-rank the best by exact distances.
//!
//! One way of searching serves a single query and a whole set. Queries are taken in tiles. A tile's probes are put in
//! order of (round, list): a query's nearest lists come first, one a round, so that its bound is tight soon; all its
//! other lists follow in order of their number, and each list is read once for all queries of the tile that probe it. A
//! query thus visits its lists in an order of its own, whatever the tile, and its answer does not depend on the others.

use kiln_kernels::codec::{Codec, CodecQuery, List, ScanScratch, Shortlist, Visit};
use kiln_kernels::distance::{inverse_norm, prefetch};
use kiln_kernels::nodes::VectorRecord;
use kiln_kernels::{Metric, RowsView, Scored, TopK};

use super::coarse::{Coarse, CoarseScratch};
use super::layout::{ListEntry, decode_codec, decode_directory};
use super::nav::Navigation;
use crate::error::BuilderError;
use crate::file::pages::{AlignedBytes, DirectFile, PageCache};
use crate::file::reader::IndexFile;
use crate::file::{PAGE, Section};
use crate::ids::Ids;
use crate::meta::Meta;
use crate::params::IndexParams;
use crate::record::{RecordScorer, dispatch_scorer};
use crate::search_types::{Hits, QueryStats, Residency};

/// Queries of a tile. Their tables and shortlists stay in the second-level cache, or nearly.
const TILE: usize = 1024;

/// Vectors asked for ahead of the one that is scored.
const AHEAD: usize = 8;

/// Nearest lists that a query visits before the others.
const NEAREST_FIRST: usize = 4;

/// An open IVF-PQ index.
pub(crate) struct IvfIndex {
    record: VectorRecord,
    codec: Codec,
    coarse: Coarse,
    lists: Vec<ListEntry>,
    /// Lists that a row may be coded in. A row in two of them has two upper bounds: of twice as many, at least k are of
    /// different rows.
    copies: usize,
    ids: Ids,
    data: Data,
}

enum Data {
    Memory { lists: AlignedBytes, vectors: AlignedBytes },
    Drive { file: DirectFile, lists_offset: u64, vectors_offset: u64 },
}

/// What a search wants of an IVF index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListSearch {
    /// Neighbours wanted, at least 1.
    pub k: usize,
    /// Lists scanned.
    pub nprobe: usize,
    /// Candidates re-ranked; at least k are.
    pub rerank: usize,
}

/// Working memory of a search.
#[derive(Default)]
pub(crate) struct IvfScratch {
    coarse: CoarseScratch,
    codec: Vec<CodecQuery>,
    shortlists: Vec<Shortlist>,
    visits: Vec<Planned>,
    scan: ScanScratch,
    pub cache: PageCache,
}

/// One list to be scanned for one query of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Planned {
    round: u32,
    list: u32,
    query: u32,
    /// Bits of the ordering distance to the list's centroid; last, so that it decides no order.
    base: u32,
}

impl IvfIndex {
    pub(crate) fn open(file: IndexFile, meta: &Meta, residency: Residency) -> Result<Self, BuilderError> {
        let damaged = |problem: String| BuilderError::damaged(file.path(), problem);
        let IndexParams::IvfPq(params) = &meta.params else {
            return Err(damaged("section meta is of another kind of index".into()));
        };
        let record = VectorRecord { dtype: meta.dtype, dim: meta.dim, metric: meta.metric };
        let codec = file.section(Section::Codec)?;
        let (codec, centroids) =
            decode_codec(codec.as_slice(), params.codec, params.nlist, meta.dim).map_err(damaged)?;
        let graph = match file.has(Section::Nav) {
            true => Some(file.section(Section::Nav)?),
            false => None,
        };
        let graph = graph.map(|bytes| Navigation::from_bytes(bytes.as_slice(), params.nlist)).transpose();
        let coarse = Coarse::new(centroids, meta.metric, graph.map_err(damaged)?);
        let (lists_entry, vectors_entry) = (file.entry(Section::Lists)?, file.entry(Section::Vectors)?);
        if vectors_entry.length != meta.n * record.bytes() as u64 {
            return Err(damaged(format!(
                "section vectors has {} bytes, not those of {} rows",
                vectors_entry.length, meta.n
            )));
        }
        let directory_length = 16 * params.nlist;
        if lists_entry.length < directory_length as u64 {
            return Err(damaged("section lists is shorter than its directory".into()));
        }
        let decode = |bytes: &[u8]| decode_directory(bytes, meta.n, &codec, lists_entry.length).map_err(damaged);
        let (lists, data) = match residency {
            Residency::Memory => {
                let lists = file.section(Section::Lists)?;
                let directory = decode(&lists.as_slice()[..directory_length])?;
                let named = directory.iter().flat_map(|list| {
                    let end = (list.offset + list.bytes(&codec)) as usize;
                    lists.as_slice()[end - 4 * list.spilled as usize..end].as_chunks::<4>().0
                });
                check_positions(named, meta.n).map_err(damaged)?;
                (directory, Data::Memory { lists, vectors: file.section(Section::Vectors)? })
            }
            Residency::Ssd => {
                let drive = DirectFile::open(file.path(), file.sums()?)?;
                let mut cache = PageCache::default();
                let directory = decode(cache.bytes(&drive, lists_entry.offset, directory_length)?)?;
                let (lists_offset, vectors_offset) = (lists_entry.offset, vectors_entry.offset);
                (directory, Data::Drive { file: drive, lists_offset, vectors_offset })
            }
        };
        let ids = Ids::read(&file, meta.n)?;
        let copies = if lists.iter().any(|list| list.spilled > 0) { 2 } else { 1 };
        Ok(Self { record, codec, coarse, lists, copies, ids, data })
    }

    /// Bytes held in memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let data = match &self.data {
            Data::Memory { lists, vectors } => (lists.as_slice().len() + vectors.as_slice().len()) as u64,
            Data::Drive { file, .. } => file.sums_bytes(),
        };
        data + self.ids.bytes() + self.coarse.bytes() + size_of_val(&self.lists[..]) as u64
    }

    /// Lists of the index.
    pub(crate) fn nlist(&self) -> usize {
        self.lists.len()
    }

    pub(crate) fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Answers one query `(1, dim)`.
    pub(crate) fn search(
        &self,
        query: &RowsView<'_>,
        wanted: ListSearch,
        scratch: &mut IvfScratch,
    ) -> Result<Hits, BuilderError> {
        let mut hits = Vec::with_capacity(1);
        if query.len() != 1 {
            // Says what is wrong with it.
            RecordScorer::new(self.record, query)?;
        }
        self.search_tile(query, wanted, scratch, &mut hits)?;
        Ok(hits.pop().unwrap_or_default())
    }

    /// Answers queries `(queries, dim)`, each as if it were alone.
    pub(crate) fn search_batch(
        &self,
        queries: &RowsView<'_>,
        wanted: ListSearch,
        scratch: &mut IvfScratch,
    ) -> Result<Vec<Hits>, BuilderError> {
        // From the drive each query reads, and counts, its own pages.
        let tile = if matches!(self.data, Data::Memory { .. }) { TILE } else { 1 };
        let mut hits = Vec::with_capacity(queries.len());
        for first in (0..queries.len()).step_by(tile) {
            let tile = queries.slice(first..queries.len().min(first + tile));
            self.search_tile(&tile, wanted, scratch, &mut hits)?;
        }
        Ok(hits)
    }

    fn search_tile(
        &self,
        queries: &RowsView<'_>,
        wanted: ListSearch,
        scratch: &mut IvfScratch,
        hits: &mut Vec<Hits>,
    ) -> Result<(), BuilderError> {
        let each = 0..queries.len();
        let scorers: Vec<RecordScorer> =
            each.clone().map(|q| RecordScorer::new(self.record, &queries.slice(q..q + 1))).collect::<Result<_, _>>()?;
        let mut stats = vec![QueryStats::default(); queries.len()];
        scratch.cache.clear();
        self.plan(queries, wanted, scratch, &mut stats);
        self.scan(scratch, &mut stats)?;
        for (q, scorer) in each.zip(&scorers) {
            let nearest = self.rerank(scorer, wanted, &mut scratch.shortlists[q], &mut scratch.cache, &mut stats[q])?;
            stats[q].pages = scratch.cache.pages_read();
            stats[q].bytes = stats[q].pages * PAGE as u64;
            hits.push(Hits {
                ids: nearest.iter().map(|hit| u64::from(hit.id)).collect(),
                distances: nearest.iter().map(|hit| self.record.metric.reported(hit.distance)).collect(),
                stats: stats[q],
            });
        }
        Ok(())
    }

    /// Whether rows are passed over by their codes' bounds, which hold for most rows but not for all. Who asks for every
    /// row to be re-ranked gets every row.
    fn trusts_bounds(&self, wanted: ListSearch) -> bool {
        self.codec.gives_bounds() && (wanted.rerank as u64) < self.ids.len()
    }

    /// The k nearest of a shortlist by exact distances.
    ///
    /// Where bounds are trusted, rows are read from the least bound up, and no further than the k-th distance: what lies
    /// beyond it cannot enter.
    fn rerank(
        &self,
        scorer: &RecordScorer,
        wanted: ListSearch,
        shortlist: &mut Shortlist,
        cache: &mut PageCache,
        stats: &mut QueryStats,
    ) -> Result<Vec<Scored>, BuilderError> {
        let bounded = self.trusts_bounds(wanted);
        let keep = wanted.rerank.max(wanted.k);
        let mut candidates: Vec<(f32, u32)> = Vec::new();
        candidates.extend(shortlist.selected());
        // Reads go forward.
        candidates.sort_unstable_by(|a, b| a.1.cmp(&b.1).then(a.0.total_cmp(&b.0)));
        // A row that is coded in two of the lists stands here once.
        candidates.dedup_by_key(|&mut (_, position)| position);
        let least_first = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if candidates.len() > keep {
            candidates.select_nth_unstable_by(keep, least_first);
            candidates.truncate(keep);
            candidates.sort_unstable_by_key(|&(_, position)| position);
        }
        if bounded {
            candidates.sort_unstable_by(least_first);
        }
        // Codes know squared distances of unit vectors, twice 1 - cos.
        let unit = if self.record.metric == Metric::Cosine { 0.5 } else { 1.0 };
        let mut nearest = TopK::new(wanted.k);
        for (i, &(estimate, position)) in candidates.iter().enumerate() {
            if bounded && unit * estimate > nearest.bound() {
                break;
            }
            if let (Data::Memory { vectors, .. }, Some(&(_, next))) = (&self.data, candidates.get(i + AHEAD)) {
                prefetch(&vectors.as_slice()[next as usize * self.record.bytes()..][..self.record.bytes()]);
            }
            let distance = dispatch_scorer!(scorer, typed => typed.distance(self.vector(position, cache)?));
            // Rows of an index number less than 2^32; ties go to the lower one.
            nearest.push(Scored { distance, id: self.ids.get(position) as u32 });
            stats.distances += 1;
        }
        Ok(nearest.drain_sorted())
    }

    /// Finds every query's probes, prepares the queries, and orders the visits.
    fn plan(&self, queries: &RowsView<'_>, wanted: ListSearch, scratch: &mut IvfScratch, stats: &mut [QueryStats]) {
        let queries: Vec<Vec<f32>> =
            queries.to_f32().outer_iter().map(|row| self.at_unit_length(row.to_vec())).collect();
        let probes = self.coarse.probes(&queries, wanted.nprobe, &mut scratch.coarse);
        scratch.codec.resize_with(scratch.codec.len().max(queries.len()), CodecQuery::default);
        scratch.shortlists.resize_with(scratch.shortlists.len().max(queries.len()), Shortlist::default);
        scratch.visits.clear();
        let uppers = if self.trusts_bounds(wanted) { self.copies * wanted.k } else { 0 };
        for (q, (query, probes)) in queries.iter().zip(&probes).enumerate() {
            self.codec.prepare(query, self.record.metric, &mut scratch.codec[q]);
            scratch.shortlists[q].reset(self.copies * wanted.rerank.max(wanted.k), uppers);
            scratch.visits.extend(probes.iter().enumerate().map(|(rank, probe)| Planned {
                round: rank.min(NEAREST_FIRST) as u32,
                list: probe.id,
                query: q as u32,
                base: probe.distance.to_bits(),
            }));
            stats[q].distances += self.lists.len() as u64;
        }
        scratch.visits.sort_unstable();
    }

    /// Rows of unit length are what codes describe under cosine.
    fn at_unit_length(&self, mut query: Vec<f32>) -> Vec<f32> {
        if self.record.metric == Metric::Cosine {
            let inverse = inverse_norm(&query);
            query.iter_mut().for_each(|x| *x *= inverse);
        }
        query
    }

    /// Makes every visit, each list for several queries at a time.
    fn scan(&self, scratch: &mut IvfScratch, stats: &mut [QueryStats]) -> Result<(), BuilderError> {
        let IvfScratch { codec, shortlists, visits, cache, scan, .. } = scratch;
        let alike = |a: &Planned, b: &Planned| (a.round, a.list) == (b.round, b.list);
        for group in visits.chunk_by(alike) {
            let list = self.lists[group[0].list as usize];
            let bytes = self.list(list, cache)?;
            let (codes, spilled) = bytes.split_at(bytes.len() - 4 * list.spilled as usize);
            let (rows, spilled) = (list.rows() as usize, spilled.as_chunks::<4>().0);
            if let Data::Drive { file, .. } = &self.data {
                check_positions(spilled, self.ids.len()).map_err(|problem| file.damaged(problem))?;
            }
            let visit = |planned: &Planned| Visit {
                query: &codec[planned.query as usize],
                base: f32::from_bits(planned.base),
                shortlist: std::mem::take(&mut shortlists[planned.query as usize]),
            };
            let mut visiting: Vec<Visit<'_>> = group.iter().map(visit).collect();
            let scanned = List { bytes: codes, rows, first: list.first as u32, spilled };
            self.codec.scan(&mut visiting, scanned, self.record.metric, scan);
            for (planned, visit) in group.iter().zip(visiting) {
                let q = planned.query as usize;
                shortlists[q] = visit.shortlist;
                stats[q].distances += list.rows();
                stats[q].hops += 1;
            }
        }
        Ok(())
    }

    fn list<'a>(&'a self, list: ListEntry, cache: &'a mut PageCache) -> Result<&'a [u8], BuilderError> {
        let length = list.bytes(&self.codec) as usize;
        match &self.data {
            Data::Memory { lists, .. } => Ok(&lists.as_slice()[list.offset as usize..][..length]),
            Data::Drive { file, lists_offset, .. } => cache.bytes(file, lists_offset + list.offset, length),
        }
    }

    /// The vector record at a position.
    pub(crate) fn vector<'a>(&'a self, position: u32, cache: &'a mut PageCache) -> Result<&'a [u8], BuilderError> {
        let width = self.record.bytes();
        let start = position as usize * width;
        match &self.data {
            Data::Memory { vectors, .. } => Ok(&vectors.as_slice()[start..start + width]),
            Data::Drive { file, vectors_offset, .. } => cache.bytes(file, vectors_offset + start as u64, width),
        }
    }
}

/// Spilled rows must have a place in the file.
fn check_positions<'a>(spilled: impl IntoIterator<Item = &'a [u8; 4]>, n: u64) -> Result<(), String> {
    match spilled.into_iter().map(|b| u32::from_le_bytes(*b)).find(|&position| u64::from(position) >= n) {
        Some(position) => Err(format!("a list names position {position} of {n}")),
        None => Ok(()),
    }
}
