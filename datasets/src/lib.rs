//! Vectors in and out of Kiln.
//!
//! In: files in the formats of ann-benchmarks (HDF5) and big-ann (`.fbin` family), `.fvecs` family,
//! `.npy`, or a synthetic recipe. Out: [`RowSource`]s that serve bounded blocks of rows, a [`Dataset`]
//! with its queries and ground truth, and converted files.

pub mod ann_result;
mod atomic;
mod bin;
mod calibration;
pub mod convert;
pub mod dataset;
pub mod difficulty;
mod download;
pub mod error;
pub mod exact;
pub mod fetch;
mod flat;
mod format;
mod geometry;
mod hdf5_attributes;
mod hdf5_file;
mod hdf5_rows;
mod hdf5_write;
mod ids;
pub mod learn;
pub mod lid;
pub mod narrow;
mod npy;
mod recipe;
pub mod registry;
pub mod source;
pub mod synth;
mod synth_name;
pub mod truth;
pub mod truth_checkpoint;
pub mod verify;

pub use ann_result::AnnResult;
pub use convert::{Content, convert, write_distances, write_truth};
pub use dataset::{Dataset, open_queries, open_rows};
pub use difficulty::{Difficulty, DifficultyRequest, Shift, difficulty, shift};
pub use error::DatasetError;
pub use exact::{exact_truth, exact_truth_resumed};
pub use fetch::{FetchOptions, fetch, fetch_entry};
pub use ids::open_ids;
pub use learn::Learning;
pub use lid::{LID_NEIGHBOURS, LocalDimension, estimate_dimension, local_dimension};
pub use narrow::{Narrowed, first_lost, narrowest};
pub use registry::{Entry, Registry};
pub use source::{MemorySource, RowSource, blocks, gather_rows, read_all, zero_rows};
pub use synth::{SynthSource, SynthSpec};
pub use truth::Truth;
pub use truth_checkpoint::TruthCheckpoint;
pub use verify::{TruthIssue, verify_truth};
