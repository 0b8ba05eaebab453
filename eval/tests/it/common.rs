//! What the tests of this folder share: the embedded demo, and small indexes of it.

use kiln_builder::{IndexKind, IndexParams, IvfPqParams, VamanaParams};
use kiln_datasets::Dataset;

pub fn demo() -> Dataset {
    Dataset::embedded_demo().expect("the demo unpacks")
}

/// Small enough to build in seconds without optimisation.
pub fn small(kind: IndexKind) -> IndexParams {
    match IndexParams::defaults(kind, 10_000, 128) {
        IndexParams::Vamana(params) => {
            IndexParams::Vamana(VamanaParams { max_degree: 24, build_list: 32, m: 16, ..params })
        }
        IndexParams::IvfPq(params) => IndexParams::IvfPq(IvfPqParams { nlist: 32, m: 16, ..params }),
    }
}
