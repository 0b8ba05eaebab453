//! What a search asks for and what it answers.

use serde::{Deserialize, Serialize};

/// The two kinds of index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IndexKind {
    /// A pruned proximity graph (DiskANN, NeurIPS 2019).
    Vamana,
    /// Inverted lists of product-quantised residuals, re-ranked exactly.
    IvfPq,
}

impl IndexKind {
    /// `vamana` or `ivf-pq`.
    pub const fn name(self) -> &'static str {
        match self {
            IndexKind::Vamana => "vamana",
            IndexKind::IvfPq => "ivf-pq",
        }
    }
}

impl std::fmt::Display for IndexKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Where the index lives while it is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Residency {
    /// Read into memory when opened.
    Memory,
    /// Left on the drive; pages are read per query, past the page cache where the filesystem allows.
    Ssd,
}

impl Residency {
    /// `memory` or `ssd`.
    pub const fn name(self) -> &'static str {
        match self {
            Residency::Memory => "memory",
            Residency::Ssd => "ssd",
        }
    }
}

/// How pages are read from the drive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriveReads {
    /// Past the page cache (O_DIRECT), where the filesystem allows: every page comes from the drive.
    #[default]
    Direct,
    /// Through the page cache: a page that is there already costs no read of the drive.
    Cached,
}

/// What carries reads to the drive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoEngine {
    /// io_uring, or where the system refuses it a pool of threads that call `pread`.
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// A pool of threads that call `pread`.
    Pread,
}

/// How an index is opened for search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenParams {
    /// Where the index lives.
    pub residency: Residency,
    /// On SSD: how pages are read.
    pub reads: DriveReads,
    /// On SSD: what reads them.
    pub io: IoEngine,
    /// On SSD: bytes of memory that serving may hold beside the process itself; codes, navigation and pinned pages are
    /// fitted in. `None` takes what the layout does best with.
    pub memory: Option<u64>,
    /// A shard set: search only so many shards, those whose centroids are nearest to the query. `None` searches all.
    pub probe_shards: Option<usize>,
}

impl From<Residency> for OpenParams {
    /// As a residency is opened by default.
    fn from(residency: Residency) -> Self {
        let (reads, io) = (DriveReads::default(), IoEngine::default());
        Self { residency, reads, io, memory: None, probe_shards: None }
    }
}

/// How an open index fits itself into memory, in bytes, and what reads the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// What carries reads to the drive, never `Auto`; none where the index is in memory.
    pub engine: Option<IoEngine>,
    /// How pages are read in truth: a filesystem may refuse what was asked for.
    pub reads: Option<DriveReads>,
    /// Nodes, lists and vectors, where they are in memory.
    pub data: u64,
    /// Codes of a graph's nodes.
    pub codes: u64,
    /// What a search finds its entry by: sampled rows, centroids, the directory of the lists.
    pub navigation: u64,
    /// Checksums of the pages on the drive.
    pub sums: u64,
    /// The data set's row at each position.
    pub ids: u64,
    /// Pages kept because searches often want them.
    pub pinned: u64,
    /// Buffers that reads fill, of all threads that have searched so far.
    pub buffers: u64,
}

impl std::ops::AddAssign for Serving {
    /// Sizes add up; how pages are read is that of the first.
    fn add_assign(&mut self, other: Self) {
        (self.engine, self.reads) = (self.engine.or(other.engine), self.reads.or(other.reads));
        self.data += other.data;
        self.codes += other.codes;
        self.navigation += other.navigation;
        self.sums += other.sums;
        self.ids += other.ids;
        self.pinned += other.pinned;
        self.buffers += other.buffers;
    }
}

impl Serving {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.data + self.codes + self.navigation + self.sums + self.ids + self.pinned + self.buffers
    }
}

/// How the graph is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Navigate {
    /// As layout and residency do best: by codes where nodes hold them or stay on the drive, else exactly.
    Best,
    /// Every neighbour is scored by its exact distance. On SSD each costs its page.
    Exact,
    /// Neighbours are scored by codes and only expanded nodes exactly (DiskANN's search): in the `inline` layout by the
    /// codes that the node holds, in the `compact` layout by product-quantised ones that stay in memory.
    Codes,
}

/// How much of the index one query visits. Which variant applies depends on the [`IndexKind`]; their fields tell them
/// apart where they are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Effort {
    /// Vamana.
    Graph {
        /// Candidates kept during the walk, L; at least k is used.
        search_list: usize,
        /// How neighbours are scored.
        navigate: Navigate,
    },
    /// IVF-PQ.
    Lists {
        /// Lists scanned.
        nprobe: usize,
        /// Candidates re-ranked by exact distance; at least k is used.
        rerank: usize,
    },
}

/// One search request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SearchParams {
    /// Neighbours wanted.
    pub k: usize,
    /// How much to visit.
    pub effort: Effort,
}

/// What one query cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueryStats {
    /// Distance computations, exact or by codes.
    pub distances: u64,
    /// Nodes expanded, or lists scanned.
    pub hops: u64,
    /// 4 KiB pages read from the drive. Queries of one batch may share a read; each counts what it would read alone.
    pub pages: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Pages that were wanted and lay in the pinned cache.
    pub cache_hits: u64,
    /// Nanoseconds in which the query waited for the drive and had nothing to compute.
    pub io_wait_ns: u64,
}

impl std::ops::AddAssign for QueryStats {
    fn add_assign(&mut self, other: Self) {
        self.distances += other.distances;
        self.hops += other.hops;
        self.pages += other.pages;
        self.bytes += other.bytes;
        self.cache_hits += other.cache_hits;
        self.io_wait_ns += other.io_wait_ns;
    }
}

/// The answer to one query, nearest first. Shorter than k when the index, or the lists scanned, hold fewer rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hits {
    /// Row numbers in the data set.
    pub ids: Vec<u64>,
    /// Reported distances: L2 not squared, 1 - cos, minus the dot product.
    pub distances: Vec<f32>,
    /// What it cost.
    pub stats: QueryStats,
}
