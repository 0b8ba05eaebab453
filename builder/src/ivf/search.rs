//! Searching an IVF-PQ index: probe the nearest lists by codes, re-rank the best by exact distances.

use kiln_kernels::distance::{Isa, Kernels, inverse_norm};
use kiln_kernels::pq::ProductQuantizer;
use kiln_kernels::{Metric, RowsView, Scored, TopK};
use ndarray::Array2;

use super::layout::{ListEntry, decode_codec, decode_directory, list_bytes};
use crate::error::BuilderError;
use crate::file::pages::{AlignedBytes, DirectFile, PageCache};
use crate::file::reader::IndexFile;
use crate::file::{PAGE, Section};
use crate::ids::Ids;
use crate::meta::Meta;
use crate::params::IndexParams;
use crate::record::{RecordScorer, VectorRecord, dispatch_scorer};
use crate::search_types::{Hits, QueryStats, Residency};

/// An open IVF-PQ index.
pub(crate) struct IvfIndex {
    record: VectorRecord,
    pq: ProductQuantizer,
    centroids: Array2<f32>,
    lists: Vec<ListEntry>,
    ids: Ids,
    data: Data,
}

enum Data {
    Memory { lists: AlignedBytes, vectors: AlignedBytes },
    Drive { file: DirectFile, lists_offset: u64, vectors_offset: u64 },
}

impl IvfIndex {
    pub(crate) fn open(file: IndexFile, meta: &Meta, residency: Residency) -> Result<Self, BuilderError> {
        let damaged = |problem: String| BuilderError::damaged(file.path(), problem);
        let IndexParams::IvfPq(params) = &meta.params else {
            return Err(damaged("section meta is of another kind of index".into()));
        };
        let record = VectorRecord { dtype: meta.dtype, dim: meta.dim, metric: meta.metric };
        let (pq, centroids) =
            decode_codec(file.section(Section::Codec)?.as_slice(), params.nlist, meta.dim).map_err(damaged)?;
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
        let decode =
            |bytes: &[u8]| decode_directory(bytes, meta.n, pq.code_bytes(), lists_entry.length).map_err(damaged);
        let (lists, data) = match residency {
            Residency::Memory => {
                let lists = file.section(Section::Lists)?;
                let directory = decode(&lists.as_slice()[..directory_length])?;
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
        Ok(Self { record, pq, centroids, lists, ids, data })
    }

    /// Bytes held in memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let data = match &self.data {
            Data::Memory { lists, vectors } => (lists.as_slice().len() + vectors.as_slice().len()) as u64,
            Data::Drive { file, .. } => file.sums_bytes(),
        };
        data + self.ids.bytes() + 4 * self.centroids.len() as u64 + 24 * self.lists.len() as u64
    }

    /// Lists of the index.
    pub(crate) fn nlist(&self) -> usize {
        self.lists.len()
    }

    pub(crate) fn search(
        &self,
        query: &RowsView<'_>,
        k: usize,
        nprobe: usize,
        rerank: usize,
        cache: &mut PageCache,
    ) -> Result<Hits, BuilderError> {
        let scorer = RecordScorer::new(self.record, query)?;
        cache.clear();
        let mut stats = QueryStats::default();
        let candidates = self.scan(query, nprobe, rerank.max(k), cache, &mut stats)?;
        let mut nearest = TopK::new(k);
        for candidate in candidates {
            let distance = dispatch_scorer!(&scorer, typed => typed.distance(self.vector(candidate.id, cache)?));
            // Rows of an index number less than 2^32; ties go to the lower one.
            nearest.push(Scored { distance, id: self.ids.get(candidate.id) as u32 });
            stats.distances += 1;
        }
        let nearest = nearest.drain_sorted();
        stats.pages = cache.pages_read();
        stats.bytes = stats.pages * PAGE as u64;
        Ok(Hits {
            ids: nearest.iter().map(|hit| u64::from(hit.id)).collect(),
            distances: nearest.iter().map(|hit| self.record.metric.reported(hit.distance)).collect(),
            stats,
        })
    }

    /// The best `keep` positions by codes in the `nprobe` nearest lists, ascending by position so that
    /// re-ranking reads forward.
    fn scan(
        &self,
        query: &RowsView<'_>,
        nprobe: usize,
        keep: usize,
        cache: &mut PageCache,
        stats: &mut QueryStats,
    ) -> Result<Vec<Scored>, BuilderError> {
        let mut query = query.to_f32().into_raw_vec_and_offset().0;
        if self.record.metric == Metric::Cosine {
            let inverse = inverse_norm(&query);
            query.iter_mut().for_each(|x| *x *= inverse);
        }
        let kernel = f32::same(Isa::best());
        // Scores are base(list) + bias(row) + sum of table entries (see `layout`); under inner product
        // the bias is 0.
        let (base, factor): (fn(f32) -> f32, f32) = match self.record.metric {
            Metric::L2 | Metric::Cosine => (|x| x, 2.0),
            Metric::InnerProduct => (|x| -x, 1.0),
        };
        let between = if self.record.metric == Metric::InnerProduct { kernel.dot } else { kernel.l2_squared };
        let mut table = self.pq.dot_table(&self.pq.rotate(&query));
        table.iter_mut().for_each(|x| *x *= factor);

        let mut probes = TopK::new(nprobe.clamp(1, self.lists.len()));
        for (list, centroid) in self.centroids.outer_iter().enumerate() {
            let centroid = centroid.to_slice().expect("centroids are contiguous by construction");
            probes.push(Scored { distance: base(between(&query, centroid)), id: list as u32 });
        }
        stats.distances += self.lists.len() as u64;

        let mut best = TopK::new(keep);
        for probe in probes.drain_sorted() {
            let list = self.lists[probe.id as usize];
            let bytes = self.list(list, cache)?;
            let (biases, codes) = bytes.split_at(4 * list.count as usize);
            score_list(&self.pq, &table, probe.distance, biases, codes, list.first as u32, &mut best);
            stats.distances += list.count;
            stats.hops += 1;
        }
        let mut candidates = best.drain_sorted();
        candidates.sort_unstable_by_key(|c| c.id);
        Ok(candidates)
    }

    fn list<'a>(&'a self, list: ListEntry, cache: &'a mut PageCache) -> Result<&'a [u8], BuilderError> {
        let length = list_bytes(list.count, self.pq.code_bytes()) as usize;
        match &self.data {
            Data::Memory { lists, .. } => Ok(&lists.as_slice()[list.offset as usize..][..length]),
            Data::Drive { file, lists_offset, .. } => cache.bytes(file, lists_offset + list.offset, length),
        }
    }

    pub(crate) fn ids(&self) -> &Ids {
        &self.ids
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

/// Offers every code of a list to `best`.
fn score_list(
    pq: &ProductQuantizer,
    table: &[f32],
    base: f32,
    biases: &[u8],
    codes: &[u8],
    first: u32,
    best: &mut TopK,
) {
    let width = pq.code_bytes();
    for ((bias, code), id) in biases.as_chunks::<4>().0.iter().zip(codes.chunks_exact(width)).zip(first..) {
        let distance = base + f32::from_le_bytes(*bias) + pq.score(table, code);
        if distance <= best.bound() {
            best.push(Scored { distance, id });
        }
    }
}
