//! Searching an IVF-PQ index: probe the nearest lists by codes, re-rank the best by exact distances.
//!
//! One way of searching serves a single query and a whole set. Queries are taken in tiles. A tile's probes are put in
//! order of (round, list): a query's nearest lists come first, one a round, so that its bound is tight soon; all its
//! other lists follow in order of their number, and each list is read once for all queries of the tile that probe it. A
//! query thus visits its lists in an order of its own, whatever the tile, and its answer does not depend on the others.

use std::sync::Arc;

use kiln_kernels::codec::{Codec, CodecQuery, List, ScanScratch, Shortlist, Visit};
use kiln_kernels::distance::{inverse_norm, prefetch};
use kiln_kernels::nodes::VectorRecord;
use kiln_kernels::{Metric, RowsView, Scored, TopK};

use super::coarse::{Coarse, CoarseScratch};
use super::drive::{DriveData, DriveScratch};
use super::layout::{ListEntry, decode_codec, decode_directory};
use super::nav::Navigation;
use crate::error::BuilderError;
use crate::file::pages::{AlignedBytes, PageCache};
use crate::file::reader::IndexFile;
use crate::file::{PAGE, Section};
use crate::ids::Ids;
use crate::io::Drive;
use crate::meta::Meta;
use crate::params::IndexParams;
use crate::record::{RecordScorer, dispatch_scorer};
use crate::search_types::{Hits, OpenParams, QueryStats, Residency, Serving};

/// Queries of a tile. Their tables and shortlists stay in the second-level cache, or nearly.
const TILE: usize = 1024;

/// Candidates that a tile re-ranks from the drive, about, at most.
const RERANKED_TOGETHER: usize = 1 << 20;

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
    Drive(DriveData),
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
    pub(super) codec: Vec<CodecQuery>,
    pub(super) shortlists: Vec<Shortlist>,
    pub(super) visits: Vec<Planned>,
    pub(super) scan: ScanScratch,
    /// Reads of the lists and vectors that are on the drive.
    pub(super) reads: DriveScratch,
}

/// One list to be scanned for one query of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Planned {
    round: u32,
    list: u32,
    query: u32,
    /// Bits of the ordering distance to the list's centroid; last, so that it decides no order.
    base: u32,
}

impl Planned {
    /// Whether two visits are made together.
    pub(super) fn alike(&self, other: &Self) -> bool {
        (self.round, self.list) == (other.round, other.list)
    }

    /// The query's number in its tile.
    pub(super) fn query(&self) -> usize {
        self.query as usize
    }
}

impl IvfIndex {
    pub(crate) fn open(file: IndexFile, meta: &Meta, params: &OpenParams) -> Result<Self, BuilderError> {
        let damaged = |problem: String| BuilderError::damaged(file.path(), problem);
        let IndexParams::IvfPq(built) = &meta.params else {
            return Err(damaged("section meta is of another kind of index".into()));
        };
        let record = VectorRecord { dtype: meta.dtype, dim: meta.dim, metric: meta.metric };
        let codec = file.section(Section::Codec)?;
        let (codec, centroids) = decode_codec(codec.as_slice(), built.codec, built.nlist, meta.dim).map_err(damaged)?;
        let graph = match file.has(Section::Nav) {
            true => Some(file.section(Section::Nav)?),
            false => None,
        };
        let graph = graph.map(|bytes| Navigation::from_bytes(bytes.as_slice(), built.nlist)).transpose();
        let coarse = Coarse::new(centroids, meta.metric, graph.map_err(damaged)?);
        let (lists_entry, vectors_entry) = (file.entry(Section::Lists)?, file.entry(Section::Vectors)?);
        if vectors_entry.length != meta.n * record.bytes() as u64 {
            return Err(damaged(format!(
                "section vectors has {} bytes, not those of {} rows",
                vectors_entry.length, meta.n
            )));
        }
        let directory_length = 16 * built.nlist;
        if lists_entry.length < directory_length as u64 {
            return Err(damaged("section lists is shorter than its directory".into()));
        }
        let decode = |bytes: &[u8]| decode_directory(bytes, meta.n, &codec, lists_entry.length).map_err(damaged);
        let (lists, data) = match params.residency {
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
                let drive = Arc::new(Drive::open(file.path(), file.sums()?, params)?);
                let mut cache = PageCache::default();
                let directory: Vec<ListEntry> =
                    decode(cache.bytes(&drive.file, lists_entry.offset, directory_length)?)?;
                let offsets = (lists_entry.offset, vectors_entry.offset);
                let fixed = drive.file.sums_bytes()
                    + Ids::bytes_of(meta.n)
                    + coarse.bytes()
                    + size_of_val(&directory[..]) as u64;
                (directory, Data::Drive(DriveData::new(drive, offsets, fixed, params.memory)?))
            }
        };
        let ids = Ids::read(&file, meta.n)?;
        let copies = if lists.iter().any(|list| list.spilled > 0) { 2 } else { 1 };
        Ok(Self { record, codec, coarse, lists, copies, ids, data })
    }

    /// The drive, where lists and vectors are left there.
    pub(crate) fn drive(&self) -> Option<&Drive> {
        match &self.data {
            Data::Memory { .. } => None,
            Data::Drive(data) => Some(&data.drive),
        }
    }

    /// What is held in memory.
    pub(crate) fn serving(&self) -> Serving {
        let data = match &self.data {
            Data::Memory { lists, vectors } => (lists.as_slice().len() + vectors.as_slice().len()) as u64,
            Data::Drive(..) => 0,
        };
        let drive = self.drive();
        Serving {
            engine: drive.map(Drive::engine),
            reads: drive.map(Drive::reads),
            data,
            codes: 0,
            navigation: self.coarse.bytes() + size_of_val(&self.lists[..]) as u64,
            sums: drive.map_or(0, |drive| drive.file.sums_bytes()),
            ids: self.ids.bytes(),
            pinned: 0,
            buffers: drive.map_or(0, Drive::buffers),
        }
    }

    /// The least that serving from the drive takes; nothing of an index in memory.
    pub(crate) fn least_memory(&self) -> u64 {
        match &self.data {
            Data::Memory { .. } => 0,
            Data::Drive(data) => data.least(),
        }
    }

    /// Fits the buffers of reads into `memory`.
    pub(crate) fn fit(&mut self, memory: Option<u64>) -> Result<(), BuilderError> {
        match &mut self.data {
            Data::Memory { .. } => Ok(()),
            Data::Drive(data) => data.fit(memory),
        }
    }

    /// Lists of the index.
    pub(crate) fn nlist(&self) -> usize {
        self.lists.len()
    }

    pub(super) fn codec(&self) -> &Codec {
        &self.codec
    }

    pub(super) fn record(&self) -> VectorRecord {
        self.record
    }

    /// The list that a group of visits is of.
    pub(super) fn list(&self, group: &[Planned]) -> ListEntry {
        self.lists[group[0].list as usize]
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
        let tile = match self.data {
            Data::Memory { .. } => TILE,
            // All that a tile re-ranks is asked for at a time.
            Data::Drive(..) => (RERANKED_TOGETHER / wanted.rerank.max(wanted.k)).clamp(1, TILE),
        };
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
        let scorer = |q: usize| RecordScorer::new(self.record, &queries.slice(q..q + 1));
        let scorers: Vec<RecordScorer> = (0..queries.len()).map(scorer).collect::<Result<_, _>>()?;
        let mut stats = vec![QueryStats::default(); queries.len()];
        self.plan(queries, wanted, scratch, &mut stats);
        let nearest: Vec<TopK> = match &self.data {
            Data::Memory { lists, vectors } => {
                self.scan(lists.as_slice(), scratch, &mut stats);
                let each = scorers.iter().zip(&mut scratch.shortlists).zip(&mut stats);
                let rerank = |((scorer, shortlist), stats): ((&_, &mut _), &mut _)| {
                    self.rerank(vectors.as_slice(), scorer, wanted, shortlist, stats)
                };
                each.map(rerank).collect()
            }
            Data::Drive(drive) => {
                self.scan_from_drive(drive, scratch, &mut stats)?;
                self.rerank_from_drive(drive, &scorers, wanted, scratch, &mut stats)?
            }
        };
        hits.extend(nearest.into_iter().zip(stats).map(|(mut nearest, mut stats)| {
            let nearest = nearest.drain_sorted();
            stats.bytes = stats.pages * PAGE as u64;
            Hits {
                ids: nearest.iter().map(|hit| u64::from(hit.id)).collect(),
                distances: nearest.iter().map(|hit| self.record.metric.reported(hit.distance)).collect(),
                stats,
            }
        }));
        Ok(())
    }

    /// Whether rows are passed over by their codes' bounds, which hold for most rows but not for all. Who asks for every
    /// row to be re-ranked gets every row.
    pub(super) fn trusts_bounds(&self, wanted: ListSearch) -> bool {
        self.codec.gives_bounds() && (wanted.rerank as u64) < self.ids.len()
    }

    /// The shortlist's candidates to be scored exactly, as (estimate, position), each position once, in the order in which
    /// they are scored: from the least bound up where bounds are trusted, else forward through the file.
    pub(super) fn candidates(&self, wanted: ListSearch, shortlist: &mut Shortlist) -> Vec<(f32, u32)> {
        let keep = wanted.rerank.max(wanted.k);
        let mut candidates: Vec<(f32, u32)> = shortlist.selected().collect();
        candidates.sort_unstable_by(|a, b| a.1.cmp(&b.1).then(a.0.total_cmp(&b.0)));
        // A row that is coded in two of the lists stands here once.
        candidates.dedup_by_key(|&mut (_, position)| position);
        let least_first = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if candidates.len() > keep {
            candidates.select_nth_unstable_by(keep, least_first);
            candidates.truncate(keep);
            candidates.sort_unstable_by_key(|&(_, position)| position);
        }
        if self.trusts_bounds(wanted) {
            candidates.sort_unstable_by(least_first);
        }
        candidates
    }

    /// Whether a candidate, and all after it, lies beyond the k-th distance by its bound, where bounds are trusted.
    pub(super) fn is_beyond(&self, wanted: ListSearch, estimate: f32, nearest: &TopK) -> bool {
        // Codes know squared distances of unit vectors, twice 1 - cos.
        let unit = if self.record.metric == Metric::Cosine { 0.5 } else { 1.0 };
        self.trusts_bounds(wanted) && unit * estimate > nearest.bound()
    }

    /// The k nearest of a shortlist by exact distances, in memory.
    fn rerank(
        &self,
        vectors: &[u8],
        scorer: &RecordScorer,
        wanted: ListSearch,
        shortlist: &mut Shortlist,
        stats: &mut QueryStats,
    ) -> TopK {
        let width = self.record.bytes();
        let vector = |position: u32| &vectors[position as usize * width..][..width];
        let candidates = self.candidates(wanted, shortlist);
        let mut nearest = TopK::new(wanted.k);
        for (i, &(estimate, position)) in candidates.iter().enumerate() {
            if self.is_beyond(wanted, estimate, &nearest) {
                break;
            }
            if let Some(&(_, next)) = candidates.get(i + AHEAD) {
                prefetch(vector(next));
            }
            let distance = dispatch_scorer!(scorer, typed => typed.distance(vector(position)));
            // Rows of an index number less than 2^32; ties go to the lower one.
            nearest.push(Scored { distance, id: self.ids.get(position) as u32 });
            stats.distances += 1;
        }
        nearest
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

    /// Makes every visit, each list for several queries at a time, in memory.
    fn scan(&self, lists: &[u8], scratch: &mut IvfScratch, stats: &mut [QueryStats]) {
        let IvfScratch { codec, shortlists, visits, scan, .. } = scratch;
        for group in visits.chunk_by(Planned::alike) {
            let list = self.list(group);
            let bytes = &lists[list.offset as usize..][..list.bytes(&self.codec) as usize];
            self.visit(group, bytes, codec, shortlists, scan, stats);
        }
    }

    /// Visits one list for all of `group`.
    pub(super) fn visit(
        &self,
        group: &[Planned],
        bytes: &[u8],
        codec: &[CodecQuery],
        shortlists: &mut [Shortlist],
        scan: &mut ScanScratch,
        stats: &mut [QueryStats],
    ) {
        let list = self.list(group);
        let (codes, spilled) = bytes.split_at(bytes.len() - 4 * list.spilled as usize);
        let (rows, spilled) = (list.rows() as usize, spilled.as_chunks::<4>().0);
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

    /// The vector record at a position.
    pub(crate) fn vector<'a>(&'a self, position: u32, cache: &'a mut PageCache) -> Result<&'a [u8], BuilderError> {
        let width = self.record.bytes();
        let start = position as usize * width;
        match &self.data {
            Data::Memory { vectors, .. } => Ok(&vectors.as_slice()[start..start + width]),
            Data::Drive(drive) => cache.bytes(&drive.drive.file, drive.vectors_offset + start as u64, width),
        }
    }
}

/// Spilled rows must have a place in the file.
pub(super) fn check_positions<'a>(spilled: impl IntoIterator<Item = &'a [u8; 4]>, n: u64) -> Result<(), String> {
    match spilled.into_iter().map(|b| u32::from_le_bytes(*b)).find(|&position| u64::from(position) >= n) {
        Some(position) => Err(format!("a list names position {position} of {n}")),
        None => Ok(()),
    }
}
