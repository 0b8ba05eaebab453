//! The `meta` section: what determines the bytes of an index, and nothing else.

use kiln_kernels::{DType, Metric};
use serde::{Deserialize, Serialize};

use crate::params::IndexParams;
use crate::search_types::IndexKind;

/// Parameters of an index. Two builds with equal meta on one kind of processor have equal bytes; timings, memory and threads
/// stand in `X.kiln.build.json` beside the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// Kind and build parameters.
    pub params: IndexParams,
    /// Metric of the rows.
    pub metric: Metric,
    /// Element type of the stored vectors.
    pub dtype: DType,
    /// Rows.
    pub n: u64,
    /// Coordinates a row.
    pub dim: usize,
    /// Name of the data set it was built from.
    pub dataset: String,
    /// Content fingerprint of that data set.
    pub dataset_fingerprint: String,
    /// Instruction set of the build: f32 sums differ between sets in the last bit.
    pub isa: String,
    /// Vamana: the position where every search starts.
    pub entry: Option<u32>,
}

impl Meta {
    /// The kind of index.
    pub fn kind(&self) -> IndexKind {
        self.params.kind()
    }
}
