//! Rows of f32 that a smaller type holds exactly: stored as it, answered as before.

use crate::common::*;
use kiln_builder::{BuildRequest, Index, IndexParams, Residency, Searcher, build};
use kiln_datasets::MemorySource;
use kiln_kernels::{CpuBackend, DType, Metric, NoProgress, Rows, f16};
use ndarray::Array2;
use tempfile::TempDir;

/// An index of these rows, whose type the build chooses or keeps.
fn built(rows: &Rows, metric: Metric, params: IndexParams, keep_dtype: bool) -> (TempDir, Searcher) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("x.kiln");
    let source = MemorySource::new(rows.clone(), "made-up rows");
    let request = BuildRequest { keep_dtype, ..request(&source, metric, params, &path) };
    let report = build(&CpuBackend::new(), &request, &NoProgress).expect("built");
    let index = Index::open(&path, Residency::Memory).expect("opens");
    assert_eq!((report.dtype, index.dtype()), (index.meta().dtype, index.meta().dtype));
    let narrowed = report.stage_seconds.iter().any(|(stage, _)| stage == "narrow");
    assert_eq!(narrowed, !keep_dtype && rows.dtype() == DType::F32, "{:?}", report.stage_seconds);
    (folder, index)
}

fn all_params(rows: &Rows) -> [IndexParams; 2] {
    let m = rows.dim().div_ceil(4);
    [IndexParams::Vamana(vamana(16, 32, m)), IndexParams::IvfPq(ivf_pq(8, m))]
}

fn stored(rows: &Rows) -> DType {
    built(rows, Metric::L2, all_params(rows)[1].clone(), false).1.dtype()
}

/// Whole numbers of a range, as f32.
fn whole(low: i32, span: i32) -> Rows {
    let Rows::I8(cells) = clustered(DType::I8, 1200, 16, 3) else { unreachable!() };
    Rows::F32(cells.mapv(|x| (low + (i32::from(x) + 128) % span) as f32))
}

#[test]
fn whole_numbers_are_stored_as_bytes_and_answered_alike() {
    for (rows, dtype) in [(whole(0, 256), DType::U8), (whole(-128, 256), DType::I8)] {
        for metric in METRICS {
            for params in all_params(&rows) {
                let kind = params.kind();
                let (_a, narrow) = built(&rows, metric, params.clone(), false);
                let (_b, kept) = built(&rows, metric, params, true);
                assert_eq!((narrow.dtype(), kept.dtype()), (dtype, DType::F32));
                for query in (0..rows.len()).step_by(17) {
                    for effort in [everything(kind, 40), everything(kind, rows.len())] {
                        let [ours, theirs] = [&narrow, &kept].map(|index| search(index, &rows, query, 10, effort));
                        assert_eq!(ours.ids, theirs.ids, "{kind} {metric} {dtype}, query {query}");
                        assert!(
                            metric != Metric::L2 || ours.distances == theirs.distances,
                            "{kind} {metric} {dtype}, query {query}: {:?}, not {:?}",
                            ours.distances,
                            theirs.distances
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn halves_are_stored_as_halves_and_answered_alike() {
    let Rows::F32(wide) = clustered(DType::F32, 1200, 24, 3) else { unreachable!() };
    let rows = Rows::F32(wide.mapv(|x| f16::from_f32(x * 0.013).to_f32()));
    // Queries that f16 does not hold are compared as they are.
    let queries = Rows::F32(wide.mapv(|x| x * 0.0131));
    for metric in METRICS {
        let exact = BruteForce::new(&rows, metric);
        for params in all_params(&rows) {
            let kind = params.kind();
            let (_a, narrow) = built(&rows, metric, params.clone(), false);
            let (_b, kept) = built(&rows, metric, params, true);
            assert_eq!((narrow.dtype(), kept.dtype()), (DType::F16, DType::F32));
            for query in (0..rows.len()).step_by(37) {
                for queries in [&rows, &queries] {
                    let [ours, theirs] =
                        [&narrow, &kept].map(|index| search(index, queries, query, 10, everything(kind, rows.len())));
                    assert_eq!(ours.ids, theirs.ids, "{kind} {metric}, query {query}");
                    exact.check(queries, query, 10, &ours, "f16");
                }
            }
        }
    }
}

#[test]
fn one_value_prevents_it() {
    let Rows::F32(bytes) = whole(0, 256) else { unreachable!() };
    let with = |value: f32| {
        let mut rows = bytes.clone();
        rows[(1100, 5)] = value;
        stored(&Rows::F32(rows))
    };
    assert_eq!([with(255.0), with(0.0)], [DType::U8; 2]);
    // What bytes do not hold, halves may: 2,048 is the last whole number before they skip some.
    assert_eq!([with(256.0), with(0.5), with(-1.0), with(-0.0), with(2048.0)], [DType::F16; 5]);
    assert_eq!([with(1e-8), with(0.1), with(2049.0), with(1e6)], [DType::F32; 4]);
    // Types that are given are kept.
    for dtype in DTYPES {
        if dtype != DType::F32 {
            assert_eq!(stored(&clustered(dtype, 300, 8, 1)), dtype);
        }
    }
    assert_eq!(stored(&Rows::F32(Array2::zeros((40, 4)))), DType::U8);
}
