//! Each released version of the format keeps an index that this version must open and answer from.

use std::path::{Path, PathBuf};

use kiln_builder::{Effort, Index, Navigate, Residency, SearchParams, verify};
use kiln_datasets::{RowSource, SynthSource, SynthSpec};
use kiln_kernels::DType;

/// The rows that the fixtures were built from: `kiln datasets synth --rows 300 --dim 16 --dtype u8 --clusters 4 --lid 6`.
fn rows() -> SynthSource {
    let spec = SynthSpec { clusters: 4, dtype: DType::U8, ..SynthSpec::new(300, 16, 6.0) };
    SynthSource::new(&spec).expect("the recipe of the fixtures")
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Every row of the data set finds itself at distance 0.
fn answers_from(path: &Path, effort: Effort) {
    verify(path, |_| ()).expect("every checksum of the fixture");
    let rows = rows().read(0..300).expect("rows");
    for residency in [Residency::Memory, Residency::Ssd] {
        let searcher = Index::open(path, residency).expect("open the fixture");
        assert_eq!((searcher.len(), searcher.dim()), (300, 16));
        for row in 0..300 {
            let hits =
                searcher.search(&rows.view().slice(row..row + 1), &SearchParams { k: 1, effort }).expect("search");
            assert_eq!((hits.ids[0], hits.distances[0]), (row as u64, 0.0), "{} {residency:?}", path.display());
        }
    }
}

#[test]
fn version_1_vamana_is_answered_from() {
    for navigate in [Navigate::Exact, Navigate::Codes] {
        answers_from(&fixture("v1-vamana.kiln"), Effort::Graph { search_list: 50, navigate });
    }
}

#[test]
fn version_1_ivf_pq_is_answered_from() {
    answers_from(&fixture("v1-ivf-pq.kiln"), Effort::Lists { nprobe: 16, rerank: 300 });
}
