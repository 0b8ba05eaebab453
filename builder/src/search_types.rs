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

/// How the graph is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Navigate {
    /// As the layout does best: by the codes inside nodes where it is `inline`, else exactly.
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
    /// 4 KiB pages read from the drive.
    pub pages: u64,
    /// Bytes read from the drive.
    pub bytes: u64,
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
