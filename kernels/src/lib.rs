//! Compute for Kiln: distances, top-k, k-means, quantisers and graph pruning.
//!
//! In: matrices of vectors ([`Rows`]), a [`Metric`]. Out: neighbours, centroids, codes, pruned edges.
//! Every stage is a method of [`Backend`]; [`cpu::CpuBackend`] is the reference, and the
//! [`conformance`] suite holds each backend against the plain twins in [`plain`].

pub mod adjacency;
pub mod backend;
mod batches;
pub mod candidates;
mod checks;
pub mod codec;
pub mod conformance;
pub mod cpu;
pub mod cuda;
pub mod devices;
pub mod distance;
pub mod edge_codes;
pub mod element;
pub mod graph_search;
pub mod kmeans;
pub mod metric;
pub mod nodes;
pub mod out_of_core;
pub mod plain;
pub mod pq;
pub mod progress;
pub mod reservoir;
pub mod resident_graph;
pub mod reverse;
pub mod rotation;
pub mod rows;
pub mod topk;
pub mod tree;
pub mod wgpu;
pub mod whole;

pub use self::wgpu::WgpuBackend;
pub use adjacency::Adjacency;
pub use backend::{Backend, BackendError, Ceilings, KMeansStep, Lists, MAX_DIM, PruneParams};
pub use candidates::{CandidateParams, Candidates, PrunedRows};
pub use cpu::CpuBackend;
pub use devices::Devices;
pub use element::{DType, Element};
pub use graph_search::{GraphNeighbors, GraphSearchParams};
pub use half::f16;
pub use metric::Metric;
pub use nodes::{NeighborCodes, NodeBlock, NodeLayout};
pub use out_of_core::OutOfCore;
pub use progress::{NoProgress, Progress};
pub use resident_graph::ResidentGraph;
pub use reverse::Pruned;
pub use rows::{Rows, RowsView};
pub use topk::{Neighbors, PAD_ID, Scored, TopK};
pub use tree::CentroidTree;
pub use whole::Whole;
