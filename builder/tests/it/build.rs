//! What a build promises of its file: the same bytes from any number of threads, and a whole file or none.

use std::ops::Range;
use std::path::Path;

use crate::common::*;
use kiln_builder::{BuilderError, GraphMethod, Index, IndexKind, IndexParams, Residency, VamanaParams, build, verify};
use kiln_datasets::{DatasetError, MemorySource, RowSource};
use kiln_kernels::pq::CodeBits;
use kiln_kernels::{CpuBackend, DType, Metric, NoProgress, Rows};

/// Both kinds, with and without what is optional.
fn all_params() -> Vec<IndexParams> {
    let (graph, lists) = (vamana(24, 40, 5), ivf_pq(24, 5));
    let odd_graph = VamanaParams { method: GraphMethod::Partition, bits: CodeBits::Four, opq: true, ..graph.clone() };
    let odd_lists = kiln_builder::IvfPqParams { bits: CodeBits::Four, opq: true, ..lists.clone() };
    vec![
        IndexParams::Vamana(graph),
        IndexParams::Vamana(odd_graph),
        IndexParams::IvfPq(lists),
        IndexParams::IvfPq(odd_lists),
    ]
}

fn with_seed(params: &IndexParams, seed: u64) -> IndexParams {
    match params.clone() {
        IndexParams::Vamana(p) => IndexParams::Vamana(VamanaParams { seed, ..p }),
        IndexParams::IvfPq(p) => IndexParams::IvfPq(kiln_builder::IvfPqParams { seed, ..p }),
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_byte() {
    for dtype in [DType::F32, DType::U8] {
        let rows = clustered(dtype, 1500, 17, 1);
        for params in all_params() {
            for metric in METRICS {
                let bytes = |threads, seed| {
                    on_threads(threads, || build_index(&rows, metric, with_seed(&params, seed)).bytes())
                };
                let one = bytes(1, 42);
                // Not assert_eq: two files on the screen help nobody.
                assert!(one == bytes(2, 42), "{metric} {dtype} {params:?}: 2 threads");
                assert!(one == bytes(5, 42), "{metric} {dtype} {params:?}: 5 threads");
                assert!(one != bytes(2, 43), "{metric} {dtype} {params:?}: another seed");
            }
        }
    }
}

#[test]
fn leaves_of_leaves_do_not_depend_on_threads_either() {
    // Enough rows that clusters are split again, and that reservoirs take several shards.
    let params = VamanaParams { method: GraphMethod::Partition, ..vamana(16, 40, 2) };
    for (dtype, metric) in [(DType::U8, Metric::L2), (DType::F32, Metric::Cosine)] {
        let rows = clustered(dtype, 9000, 8, 1);
        let bytes =
            |threads| on_threads(threads, || build_index(&rows, metric, IndexParams::Vamana(params.clone())).bytes());
        let one = bytes(1);
        assert!([2, 5].into_iter().all(|threads| one == bytes(threads)), "{metric} {dtype}");
    }
}

#[test]
fn the_report_says_what_the_file_is() {
    let rows = clustered(DType::I8, 500, 10, 1);
    for kind in KINDS {
        let params = defaults(kind, &rows);
        let built = build_index(&rows, Metric::InnerProduct, params.clone());
        let (report, index) = (&built.report, built.open(Residency::Ssd));
        assert_eq!((report.index, &report.params, report.path.as_path()), (kind, &params, built.path.as_path()));
        assert_eq!((report.n, report.dim, report.metric, report.dtype), (500, 10, Metric::InnerProduct, DType::I8));
        assert_eq!(report.index_bytes, std::fs::metadata(&built.path).expect("there").len());
        assert_eq!((index.meta().dataset.as_str(), index.meta().dataset_fingerprint.as_str()), ("made", "0123"));
        assert_eq!((index.len(), index.dim(), index.metric(), index.dtype()), (500, 10, report.metric, report.dtype));
        assert!(report.total_seconds > 0.0 && report.peak_rss_bytes > report.index_bytes);
        let stages: f64 = report.stage_seconds.iter().map(|(_, seconds)| seconds).sum();
        assert!(stages <= report.total_seconds * 1.001, "{:?} in {}", report.stage_seconds, report.total_seconds);
        let beside = std::fs::read(built.folder.path().join("x.kiln.build.json")).expect("beside the index");
        let read: kiln_builder::BuildReport = serde_json::from_slice(&beside).expect("a report");
        assert_eq!(&read, report);
    }
}

#[test]
fn more_lists_than_rows_are_cut_to_the_rows() {
    let rows = clustered(DType::F32, 10, 4, 1);
    let built = build_index(&rows, Metric::L2, IndexParams::IvfPq(ivf_pq(64, 2)));
    let nlist = built.open(Residency::Memory).nlist().expect("lists");
    assert!((1..=10).contains(&nlist), "{nlist} lists of 10 rows");
    let IndexParams::IvfPq(params) = &built.report.params else { panic!("{:?}", built.report.params) };
    assert_eq!(params.nlist, nlist);
}

/// Rows of which the second half cannot be read.
struct BreaksOff(MemorySource);

impl RowSource for BreaksOff {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn dim(&self) -> usize {
        self.0.dim()
    }

    fn dtype(&self) -> DType {
        self.0.dtype()
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read(&self, rows: Range<u64>) -> Result<Rows, DatasetError> {
        if rows.end > self.len() / 2 {
            return Err(DatasetError::invalid(self.path(), "the drive was pulled out", "put it back"));
        }
        self.0.read(rows)
    }
}

fn breaks_off() -> BreaksOff {
    // Larger than one block of reading, so that it breaks off midway.
    BreaksOff(MemorySource::new(clustered(DType::F32, 40_000, 128, 1), "half-a-file.fbin"))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("readable");
    let mut names: Vec<String> = entries.map(|e| e.expect("entry").file_name().to_string_lossy().into()).collect();
    names.sort();
    names
}

/// Builds from `source` into `out`, which must fail.
fn failure(source: &dyn RowSource, kind: IndexKind, out: &Path) -> BuilderError {
    let request = kiln_builder::BuildRequest {
        source,
        dataset_name: "made".into(),
        dataset_fingerprint: "0".into(),
        metric: Metric::L2,
        params: IndexParams::defaults(kind, source.len(), source.dim()),
        keep_dtype: false,
        out,
    };
    build(&CpuBackend::new(), &request, &NoProgress).expect_err("it cannot be built")
}

#[test]
fn a_build_that_fails_leaves_nothing() {
    for kind in KINDS {
        let folder = tempfile::tempdir().expect("temporary folder");
        let out = folder.path().join("x.kiln");
        let message = failure(&breaks_off(), kind, &out).to_string();
        assert!(message.contains("half-a-file.fbin") && message.contains("pulled out"), "{message}");
        assert_eq!(names(folder.path()), [""; 0]);

        let mut holed = clustered(DType::F32, 100, 4, 1);
        if let Rows::F32(rows) = &mut holed {
            rows[(77, 2)] = f32::NAN;
        }
        let message = failure(&MemorySource::new(holed, "holed.fbin"), kind, &out).to_string();
        assert!(message.contains("holed.fbin: row 77, coordinate 2 is NaN"), "{message}");
        assert_eq!(names(folder.path()), [""; 0]);
    }
}

#[test]
fn an_output_that_cannot_be_written_is_named_and_leaves_nothing() {
    let source = MemorySource::new(clustered(DType::F32, 100, 4, 1), "rows");
    for kind in KINDS {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "in the way").expect("written");
        let directory = folder.path().join("directory.kiln");
        std::fs::create_dir(&directory).expect("made");
        // Below a regular file, below nothing, and where a folder has the name: so for root too.
        for out in [file.join("x.kiln"), folder.path().join("missing/x.kiln"), directory] {
            let error = failure(&source, kind, &out);
            assert!(matches!(error, BuilderError::Io { .. }), "{error:?}");
            assert!(error.to_string().contains(&out.display().to_string()), "{error}");
            assert_eq!(names(folder.path()), ["directory.kiln", "file"]);
        }
    }
}

#[test]
fn an_index_is_replaced_by_a_whole_one_or_not_at_all() {
    for kind in KINDS {
        let rows = clustered(DType::F32, 200, 8, 1);
        let old = build_index(&rows, Metric::L2, defaults(kind, &rows));
        let before = old.bytes();
        failure(&breaks_off(), kind, &old.path);
        assert!(old.bytes() == before, "a failed build touched the index");
        assert_eq!(names(old.folder.path()), ["x.kiln", "x.kiln.build.json"]);

        // An open index stays what it was while another takes its name.
        let open = old.open(Residency::Ssd);
        let larger = clustered(DType::F32, 300, 8, 2);
        try_build(&larger, Metric::L2, defaults(kind, &larger), &old.path).expect("replaced");
        verify(&old.path, |_| ()).expect("whole");
        assert_eq!(Index::open(&old.path, Residency::Memory).expect("whole").len(), 300);
        BruteForce::new(&rows, Metric::L2).check(
            &rows,
            5,
            10,
            &search(&open, &rows, 5, 10, everything(kind, 200)),
            "the index that was open",
        );
    }
}
