//! `Index::open` and the `Searcher` that every caller shares.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use kiln_kernels::{Adjacency, DType, MAX_DIM, Metric, RowsView};

use crate::error::BuilderError;
use crate::file::pages::PageCache;
use crate::file::reader::IndexFile;
use crate::io::IoCounters;
use crate::ivf::search::{IvfIndex, IvfScratch, ListSearch};
use crate::meta::Meta;
use crate::search_types::{Effort, Hits, IndexKind, Navigate, OpenParams, Residency, SearchParams, Serving};
use crate::shards;
use crate::shards::search::SetIndex;
use crate::vamana::search::{VamanaIndex, VamanaScratch};

/// An index on disk: a file, or a shard set.
pub struct Index;

impl Index {
    /// Opens the index at `path`.
    ///
    /// With [`Residency::Memory`] sections are read and held against their checksums now; with [`Residency::Ssd`] nodes,
    /// lists and vectors stay on the drive and each page is checked when read. A graph's codes are read, and checked, now
    /// if it stays on the drive, else when a search first navigates by them.
    ///
    /// # Errors
    /// A file that is not an index, is damaged, cut short or of another version; the message names it.
    pub fn open(path: &Path, residency: Residency) -> Result<Searcher, BuilderError> {
        Self::open_with(path, &residency.into())
    }

    /// Opens the index at `path`, or the shard set where it is a folder, as `params` say.
    ///
    /// # Errors
    /// As [`open`](Self::open); and what `params` ask for and this system or this much memory cannot give.
    pub fn open_with(path: &Path, params: &OpenParams) -> Result<Searcher, BuilderError> {
        if shards::is_set(path) {
            return shards::search::open(path, params);
        }
        Self::open_file(IndexFile::open(path)?, params)
    }

    /// The same of a file that is open.
    pub(crate) fn open_file(file: IndexFile, params: &OpenParams) -> Result<Searcher, BuilderError> {
        let path = file.path().to_path_buf();
        let (path, file_bytes) = (path.as_path(), file.header().file_length);
        let meta = file.meta()?;
        if meta.dim > MAX_DIM || meta.n >= u64::from(u32::MAX) {
            let problem = format!("section meta: {} rows of {} coordinates are beyond the format", meta.n, meta.dim);
            return Err(BuilderError::damaged(path, problem));
        }
        meta.params.validate(meta.dim).map_err(|e| BuilderError::damaged(path, format!("section meta: {e}")))?;
        let engine = match meta.kind() {
            IndexKind::Vamana => Engine::Vamana(VamanaIndex::open(file, &meta, params)?, Pool::default()),
            IndexKind::IvfPq => Engine::IvfPq(IvfIndex::open(file, &meta, params)?, Pool::default()),
        };
        Ok(Searcher { path: path.to_path_buf(), meta, params: *params, file_bytes, engine })
    }
}

/// An open index. Shared by reference among threads; working memory is pooled inside.
pub struct Searcher {
    path: PathBuf,
    meta: Meta,
    params: OpenParams,
    file_bytes: u64,
    engine: Engine,
}

#[expect(clippy::large_enum_variant, reason = "an open index is one of them")]
enum Engine {
    Vamana(VamanaIndex, Pool<VamanaScratch>),
    IvfPq(IvfIndex, Pool<IvfScratch>),
    Set(SetIndex),
}

/// Working memory handed from search to search.
#[derive(Default)]
struct Pool<S>(Mutex<Vec<S>>);

impl<S: Default> Pool<S> {
    fn with<R>(&self, work: impl FnOnce(&mut S) -> R) -> R {
        // A panic elsewhere cannot leave the list of spare scratches inconsistent.
        let lock = || self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let spare = lock().pop();
        let mut scratch = spare.unwrap_or_default();
        let result = work(&mut scratch);
        lock().push(scratch);
        result
    }
}

impl Searcher {
    /// A shard set, of shards that agree with `meta`.
    pub(crate) fn of_set(path: &Path, meta: Meta, params: &OpenParams, set: SetIndex) -> Self {
        let file_bytes = set.shards().iter().map(|shard| shard.searcher.file_bytes).sum();
        Self { path: path.to_path_buf(), meta, params: *params, file_bytes, engine: Engine::Set(set) }
    }

    /// The nearest rows to `query` `(1, dim)`, of any element type.
    ///
    /// # Errors
    /// A query that does not fit the index, an effort of the other kind of index, k = 0, or on SSD a page
    /// that cannot be read or does not match its checksum.
    pub fn search(&self, query: &RowsView<'_>, params: &SearchParams) -> Result<Hits, BuilderError> {
        if params.k == 0 {
            return Err(BuilderError::Parameter { name: "k", value: "0".into(), allowed: "1 or more".into() });
        }
        // Room for more than all rows is never needed, however much is asked for.
        let all = usize::try_from(self.meta.n).unwrap_or(usize::MAX);
        let k = params.k.min(all);
        match (&self.engine, params.effort) {
            (Engine::Vamana(index, pool), Effort::Graph { search_list, navigate }) => {
                pool.with(|scratch| index.search(query, k, search_list, navigate, scratch))
            }
            (Engine::IvfPq(index, pool), Effort::Lists { nprobe, rerank }) => {
                let wanted = ListSearch { k, nprobe, rerank: rerank.min(all) };
                pool.with(|scratch| index.search(query, wanted, scratch))
            }
            (Engine::Set(set), effort) => set.search(query, &SearchParams { k, effort }),
            (Engine::Vamana(..), Effort::Lists { .. }) => Err(BuilderError::Mismatch(format!(
                "{}: a Vamana index takes --search-list, not --nprobe",
                self.path.display()
            ))),
            (Engine::IvfPq(..), Effort::Graph { .. }) => Err(BuilderError::Mismatch(format!(
                "{}: an IVF-PQ index takes --nprobe, not --search-list",
                self.path.display()
            ))),
        }
    }

    /// Answers a whole query set `(queries, dim)` on this thread: the same answers as [`search`](Self::search) gives
    /// one by one, in order, at less cost where queries can share work or hide each other's memory latency.
    ///
    /// # Errors
    /// As [`search`](Self::search), for the first query that fails.
    pub fn search_batch(&self, queries: &RowsView<'_>, params: &SearchParams) -> Result<Vec<Hits>, BuilderError> {
        let all = usize::try_from(self.meta.n).unwrap_or(usize::MAX);
        let k = params.k.min(all);
        match (&self.engine, params.effort) {
            (Engine::Vamana(index, pool), Effort::Graph { search_list, navigate }) if k > 0 => {
                pool.with(|scratch| index.search_batch(queries, k, search_list, navigate, scratch))
            }
            (Engine::IvfPq(index, pool), Effort::Lists { nprobe, rerank }) if k > 0 => {
                let wanted = ListSearch { k, nprobe, rerank: rerank.min(all) };
                pool.with(|scratch| index.search_batch(queries, wanted, scratch))
            }
            (Engine::Set(set), effort) if k > 0 => set.search_batch(queries, &SearchParams { k, effort }),
            _ => (0..queries.len()).map(|query| self.search(&queries.slice(query..query + 1), params)).collect(),
        }
    }

    /// Whether a search with this effort reads the vector of every neighbour that it scores.
    pub fn navigates_exactly(&self, effort: &Effort) -> bool {
        match (&self.engine, *effort) {
            (Engine::Vamana(index, _), Effort::Graph { navigate, .. }) => index.navigate(navigate) == Navigate::Exact,
            (Engine::Set(set), _) => set.shards().iter().any(|shard| shard.searcher.navigates_exactly(effort)),
            _ => false,
        }
    }

    /// What the index is made of. Of a shard set: the rows of all shards, and the parameters of the last.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The kind of index.
    pub fn kind(&self) -> IndexKind {
        self.meta.kind()
    }

    /// Rows in the index.
    pub fn len(&self) -> u64 {
        self.meta.n
    }

    /// True when the index holds no rows (never written by a build).
    pub fn is_empty(&self) -> bool {
        self.meta.n == 0
    }

    /// Coordinates a row.
    pub fn dim(&self) -> usize {
        self.meta.dim
    }

    /// Metric of the index.
    pub fn metric(&self) -> Metric {
        self.meta.metric
    }

    /// Element type of the stored vectors.
    pub fn dtype(&self) -> DType {
        self.meta.dtype
    }

    /// Where the index lives.
    pub fn residency(&self) -> Residency {
        self.params.residency
    }

    /// How the index was opened.
    pub fn opened(&self) -> &OpenParams {
        &self.params
    }

    /// The shards, where it is a shard set.
    pub fn set(&self) -> Option<&SetIndex> {
        match &self.engine {
            Engine::Set(set) => Some(set),
            Engine::Vamana(..) | Engine::IvfPq(..) => None,
        }
    }

    /// Bytes of the index file, or of those of all shards.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The index file, or the folder of the shard set.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that the index holds in memory.
    pub fn serving_bytes(&self) -> u64 {
        self.serving().total()
    }

    /// How the index fits itself into memory, and what reads the rest. Buffers come with the threads that search, and
    /// what only some searches need with the first of them.
    pub fn serving(&self) -> Serving {
        match &self.engine {
            Engine::Vamana(index, _) => index.serving(),
            Engine::IvfPq(index, _) => index.serving(),
            Engine::Set(set) => set.serving(),
        }
    }

    /// The least memory that serving from the drive takes.
    pub(crate) fn least_memory(&self) -> u64 {
        match &self.engine {
            Engine::Vamana(index, _) => index.least_memory(),
            Engine::IvfPq(index, _) => index.least_memory(),
            Engine::Set(set) => set.shards().iter().map(|shard| shard.searcher.least_memory()).sum(),
        }
    }

    /// Fits a single index that was opened without a limit into `memory` bytes.
    pub(crate) fn fit(&mut self, memory: u64) -> Result<(), BuilderError> {
        self.params.memory = Some(memory);
        match &mut self.engine {
            Engine::Vamana(index, _) => index.fit(Some(memory)),
            Engine::IvfPq(index, _) => index.fit(Some(memory)),
            Engine::Set(_) => unreachable!("a set is fitted shard by shard"),
        }
    }

    /// What was read from the drive since the index was opened; all zero where it is in memory.
    pub fn io_counters(&self) -> IoCounters {
        let drive = match &self.engine {
            Engine::Vamana(index, _) => index.drive(),
            Engine::IvfPq(index, _) => index.drive(),
            Engine::Set(set) => {
                let mut all = IoCounters::default();
                set.shards().iter().for_each(|shard| all += shard.searcher.io_counters());
                return all;
            }
        };
        drive.map(|drive| drive.counters().snapshot()).unwrap_or_default()
    }

    /// The data set's row at a position of the file; of a single index.
    pub(crate) fn row_at(&self, position: u32) -> u64 {
        match &self.engine {
            Engine::Vamana(index, _) => index.ids().get(position),
            Engine::IvfPq(index, _) => index.ids().get(position),
            Engine::Set(_) => unreachable!("each shard of a set has positions of its own"),
        }
    }

    /// A graph in memory by positions of the file, and where its walks start.
    pub(crate) fn graph(&self) -> Result<(Adjacency, u32), BuilderError> {
        let wrong = |problem: &str| Err(BuilderError::Mismatch(format!("{}: {problem}", self.path.display())));
        match &self.engine {
            Engine::IvfPq(..) => wrong("a device searches graphs: build the index with --index vamana"),
            Engine::Set(_) => wrong("a device searches one graph: make one of the shards with `kiln compact`"),
            Engine::Vamana(index, _) => match index.adjacency() {
                Some(graph) => Ok(graph),
                None => wrong("a device searches what is in memory: open the index with --residency memory"),
            },
        }
    }

    /// The vector record at a position of the file; of a single index.
    pub(crate) fn record_at<'a>(&'a self, position: u32, cache: &'a mut PageCache) -> Result<&'a [u8], BuilderError> {
        match &self.engine {
            Engine::Vamana(index, _) => index.vector(position, cache),
            Engine::IvfPq(index, _) => index.vector(position, cache),
            Engine::Set(_) => unreachable!("each shard of a set has positions of its own"),
        }
    }

    /// Inverted lists, where the index has them; of a shard set the most that a shard has.
    pub fn nlist(&self) -> Option<usize> {
        match &self.engine {
            Engine::Vamana(..) => None,
            Engine::IvfPq(index, _) => Some(index.nlist()),
            Engine::Set(set) => set.shards().iter().filter_map(|shard| shard.searcher.nlist()).max(),
        }
    }
}
