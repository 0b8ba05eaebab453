//! What the tests of this folder share: the embedded demo, and small indexes of it.

use std::path::Path;

use kiln_builder::{IndexKind, IndexParams, IvfPqParams, Residency, VamanaParams};
use kiln_datasets::Dataset;
use kiln_eval::Plan;
use kiln_eval::measure::Repeats;
use kiln_eval::record::Mode;

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

/// A quick plan of nothing, for indexes in memory and one query at a time.
pub fn quick(out: &Path) -> Plan {
    Plan {
        out: out.to_path_buf(),
        command: "kiln bench --dataset demo --quick".to_string(),
        k: 10,
        metric: None,
        engines: vec![],
        modes: vec![Mode::Latency1],
        placements: vec![Residency::Memory.into()],
        queries: None,
        repeats: Repeats::QUICK,
        quick: true,
        held_out: None,
        budget: None,
        prune: false,
        open_loop: None,
        noop: None,
        seed: 1,
    }
}
