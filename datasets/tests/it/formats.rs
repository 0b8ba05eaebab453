//! The flat formats: round trips, both headers, and every way to be wrong.

use std::path::{Path, PathBuf};

use crate::common::{message_naming, refusal};
use kiln_datasets::{
    Content, Dataset, MemorySource, RowSource, SynthSource, SynthSpec, Truth, convert, open_rows, read_all, write_truth,
};
use kiln_kernels::{DType, Metric, NoProgress, Rows, f16};
use ndarray::{Array2, array};
use proptest::prelude::*;
use tempfile::TempDir;

fn memory(rows: Rows) -> MemorySource {
    MemorySource::new(rows, "memory")
}

fn bytes(n: usize, dim: usize) -> Array2<u8> {
    Array2::from_shape_fn((n, dim), |(i, j)| (i * 31 + j * 7) as u8)
}

/// Writes raw bytes under `name` in a folder of its own.
fn raw(name: &str, bytes: &[u8]) -> (PathBuf, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (path, dir)
}

fn round_trip(rows: &Rows, name: &str) -> Rows {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    convert(&Content::rows(&memory(rows.clone())), &path, &NoProgress).unwrap();
    let source = open_rows(&path).unwrap();
    assert_eq!((source.len() as usize, source.dim()), (rows.len(), rows.dim()));
    let read = read_all(source.as_ref(), |_| {}).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left");
    read
}

#[test]
fn every_format_gives_back_what_it_was_given() {
    for (n, dim) in [(1, 1), (1, 4096), (5000, 3), (17, 128)] {
        let u8s = bytes(n, dim);
        let as_rows = |dtype: DType| match dtype {
            DType::F32 => Rows::F32(u8s.mapv(|x| f32::from(x) / 8.0 - 9.0)),
            DType::F16 => Rows::F16(u8s.mapv(|x| f16::from_f32(f32::from(x) / 8.0 - 9.0))),
            DType::U8 => Rows::U8(u8s.clone()),
            DType::I8 => Rows::I8(u8s.mapv(|x| x as i8)),
        };
        for (name, dtype) in [
            ("x.fbin", DType::F32),
            ("x.f16bin", DType::F16),
            ("x.u8bin", DType::U8),
            ("x.i8bin", DType::I8),
            ("x.fvecs", DType::F32),
            ("x.bvecs", DType::U8),
        ] {
            assert_eq!(round_trip(&as_rows(dtype), name), as_rows(dtype), "{name} {n} x {dim}");
        }
        for dtype in [DType::F32, DType::F16, DType::U8, DType::I8] {
            assert_eq!(round_trip(&as_rows(dtype), "x.npy"), as_rows(dtype), "npy {dtype}");
            assert_eq!(round_trip(&as_rows(dtype), "x.hdf5"), as_rows(dtype), "hdf5 {dtype}");
        }
    }
}

proptest! {
    // Every case waits for the disk, as a writer must.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_bytes_survive_every_byte_format(n in 1usize..40, dim in 1usize..40, seed: u8) {
        let rows = Rows::U8(bytes(n, dim).mapv(|x| x.wrapping_mul(seed | 1)));
        for name in ["x.u8bin", "x.bvecs", "x.npy"] {
            prop_assert_eq!(round_trip(&rows, name), rows.clone());
        }
        // Widening is exact, so narrowing gives the bytes back.
        let widened = round_trip(&rows, "x.fbin");
        prop_assert_eq!(round_trip(&widened, "x.u8bin"), rows);
    }

    #[test]
    fn no_prefix_of_a_file_is_taken_for_the_file(cut in 0usize..60) {
        for name in ["x.u8bin", "x.npy"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            convert(&Content::rows(&memory(Rows::U8(bytes(5, 11)))), &path, &NoProgress).unwrap();
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() - 1 - cut]).unwrap();
            refusal(&path);
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(content in proptest::collection::vec(any::<u8>(), 0..200)) {
        for name in ["x.fbin", "x.u8bin", "x.fvecs", "x.bvecs", "x.npy"] {
            let (path, _dir) = raw(name, &content);
            if let Ok(source) = open_rows(&path) {
                let _ = source.read(0..source.len());
            }
        }
        for name in ["x.ibin", "x.ivecs", "x.npy", "unknown"] {
            let (path, _dir) = raw(name, &content);
            let _ = Truth::open(&path);
        }
    }

    #[test]
    fn no_header_makes_the_npy_reader_panic(header in "[ -~]{0,120}") {
        let mut content = b"\x93NUMPY\x01\x00".to_vec();
        content.extend((header.len() as u16).to_le_bytes());
        content.extend(header.as_bytes());
        let (path, _dir) = raw("x.npy", &content);
        let _ = open_rows(&path);
    }
}

#[test]
fn wide_headers_are_told_by_the_size() {
    let mut content = [3u64.to_le_bytes(), 2u64.to_le_bytes()].concat();
    content.extend([1, 2, 3, 4, 5, 6]);
    let (path, _dir) = raw("x.u8bin", &content);
    assert_eq!(open_rows(&path).unwrap().read(0..3).unwrap(), Rows::U8(array![[1, 2], [3, 4], [5, 6]]));
}

#[test]
fn wrong_sizes_state_both() {
    let mut content = [3u32.to_le_bytes(), 2u32.to_le_bytes()].concat();
    content.extend([0; 7]);
    let (path, _dir) = raw("x.u8bin", &content);
    let message = refusal(&path);
    assert!(message.contains("takes 14 bytes") && message.contains("has 15"), "{message}");
    let (path, _dir) = raw("x.fvecs", &[2, 0, 0, 0, 1, 2, 3]);
    let message = refusal(&path);
    assert!(message.contains("12 bytes each") && message.contains("7 bytes"), "{message}");
    // A header of absurd counts must not overflow.
    let (path, _dir) = raw("x.fbin", &[0xFF; 24]);
    assert!(refusal(&path).contains("4294967295"));
    let (path, _dir) = raw("x.fbin", &[0; 8]);
    assert!(refusal(&path).contains("0 rows"));
}

#[test]
fn a_vecs_row_of_another_dimension_is_named() {
    let mut content = Vec::new();
    for dim in [2i32, 2, 7, 2] {
        content.extend(dim.to_le_bytes());
        content.extend([9, 9]);
    }
    let (path, _dir) = raw("x.bvecs", &content);
    let source = open_rows(&path).unwrap();
    assert!(source.read(0..2).is_ok());
    let message = message_naming(&path, source.read(1..4).unwrap_err());
    assert!(message.contains("row 2 says that it has 7 coordinates"), "{message}");
}

#[test]
fn nan_is_named_by_row_in_every_format() {
    for name in ["x.fbin", "x.fvecs", "x.npy"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        convert(&Content::rows(&memory(Rows::F32(Array2::ones((9, 4))))), &path, &NoProgress).unwrap();
        let mut content = std::fs::read(&path).unwrap();
        let last = content.len() - 4;
        content[last..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(&path, content).unwrap();
        let message = message_naming(&path, open_rows(&path).unwrap().read(7..9).unwrap_err());
        assert!(message.contains("row 8, coordinate 3 is NaN"), "{message}");
    }
}

/// The bytes of a `.npy` of format version `version`.
fn npy(version: u8, header: &str, cells: &[u8]) -> Vec<u8> {
    let mut content = vec![0x93, b'N', b'U', b'M', b'P', b'Y', version, 0];
    match version {
        1 => content.extend((header.len() as u16).to_le_bytes()),
        _ => content.extend((header.len() as u32).to_le_bytes()),
    }
    content.extend(header.as_bytes());
    content.extend(cells);
    content
}

#[test]
fn npy_versions_and_f64_are_read() {
    let header = "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 1), }\n";
    let cells = [1.5f64.to_le_bytes(), (-2.25f64).to_le_bytes()].concat();
    for version in [1, 2, 3] {
        let (path, _dir) = raw("x.npy", &npy(version, header, &cells));
        assert_eq!(open_rows(&path).unwrap().read(0..2).unwrap(), Rows::F32(array![[1.5], [-2.25]]));
    }
}

#[test]
fn npy_that_cannot_be_rows_is_refused() {
    for (header, word) in [
        ("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }", "Fortran"),
        ("{'descr': '>f4', 'fortran_order': False, 'shape': (1, 1), }", ">f4"),
        ("{'descr': '<i8', 'fortran_order': False, 'shape': (1, 1), }", "<i8"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "[1]"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4), }", "0 rows"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (9, 9), }", "324 bytes"),
        ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 1), }", "type"),
        ("", "type"),
    ] {
        let cells: &[u8] = if word == "0 rows" { &[] } else { &[0; 4] };
        let expected = if word == "324 bytes" { "but the file has" } else { word };
        let (path, _dir) = raw("x.npy", &npy(1, header, cells));
        let message = refusal(&path);
        assert!(message.contains(expected), "{header}: {message}");
    }
    let (path, _dir) = raw("x.npy", &npy(9, "", &[]));
    assert!(refusal(&path).contains("version is 9"));
}

#[test]
fn values_that_do_not_fit_are_named_and_leave_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = Array2::<f32>::ones((4, 3));
    for (name, value) in
        [("x.u8bin", 256.0), ("x.u8bin", 0.5), ("x.i8bin", -129.0), ("x.f16bin", 2049.0), ("x.bvecs", -1.0)]
    {
        rows[(2, 1)] = value;
        let path = dir.path().join(name);
        let error =
            convert(&Content::rows(&memory(Rows::F32(rows.clone()))), &path, &NoProgress).unwrap_err().to_string();
        assert!(error.contains(&format!("row 2, coordinate 1 is {value}")), "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn extensions_decide_and_are_explained() {
    for name in ["x.txt", "x"] {
        let (path, _dir) = raw(name, &[0; 8]);
        assert!(refusal(&path).contains(".fbin"));
    }
    let (path, _dir) = raw("x.ibin", &[0; 8]);
    assert!(refusal(&path).contains("ground truth"));
    let error = convert(&Content::rows(&memory(Rows::U8(bytes(1, 1)))), Path::new("/tmp/x.ivecs"), &NoProgress);
    assert!(error.unwrap_err().to_string().contains("ground truth"));
    let error = convert(&Content::rows(&memory(Rows::U8(bytes(1, 1)))), Path::new("/nonexistent/x.npy"), &NoProgress);
    assert!(error.unwrap_err().to_string().contains("/nonexistent/x.npy"));
}

#[test]
fn truth_survives_every_format() {
    let ids = array![[3i64, 1, 4], [1, 5, 9]];
    let distances = array![[0.5f32, 1.0, 2.0], [0.0, 0.25, 8.0]];
    let base = memory(Rows::U8(bytes(10, 4)));
    let queries = memory(Rows::U8(bytes(2, 4)));
    let truth = Truth { ids: ids.clone(), distances: Some(distances) };
    let content = Content { base: &base, queries: Some(&queries), truth: Some(&truth), metric: Some(Metric::Cosine) };
    let dir = tempfile::tempdir().unwrap();
    for (name, with_distances) in [("t.ibin", true), ("t.hdf5", true), ("t.npy", false), ("t.ivecs", false)] {
        let path = dir.path().join(name);
        write_truth(&content, &path, &NoProgress).unwrap();
        let read = Truth::open(&path).unwrap();
        assert_eq!(read.ids, ids, "{name}");
        assert_eq!(read.distances, truth.distances.clone().filter(|_| with_distances), "{name}");
    }
    let whole = Dataset::open_file(&dir.path().join("t.hdf5")).unwrap();
    assert_eq!((whole.metric, whole.queries.unwrap().len()), (Some(Metric::Cosine), 2));
    assert!(write_truth(&content, &dir.path().join("t.fbin"), &NoProgress).unwrap_err().to_string().contains(".ibin"));
}

#[test]
fn big_ann_truth_of_other_kinds_is_told_by_size() {
    // Ids without distances.
    let mut content = [2u32.to_le_bytes(), 1u32.to_le_bytes()].concat();
    content.extend([7i32.to_le_bytes(), 8i32.to_le_bytes()].concat());
    let (path, _dir) = raw("deep-10M", &content);
    assert_eq!(Truth::open(&path).unwrap(), Truth { ids: array![[7], [8]], distances: None });
    // Range truth: 3 queries with 2 matches in all.
    let mut content = [3u32.to_le_bytes(), 2u32.to_le_bytes()].concat();
    content.extend([0; 4 * 3 + 8 * 2]);
    let (path, _dir) = raw("range", &content);
    assert!(message_naming(&path, Truth::open(&path).unwrap_err()).contains("range search"));
    let (path, _dir) = raw("short", &content[..20]);
    let message = message_naming(&path, Truth::open(&path).unwrap_err());
    assert!(message.contains("56 bytes with distances and 32 without") && message.contains("has 20"), "{message}");
}

#[test]
fn a_synthetic_set_converts() {
    let spec = SynthSpec { dtype: DType::U8, ..SynthSpec::new(500, 16, 4.0) };
    let source = SynthSource::new(&spec).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("synth.u8bin");
    convert(&Content::rows(&source), &path, &NoProgress).unwrap();
    assert_eq!(read_all(open_rows(&path).unwrap().as_ref(), |_| {}).unwrap(), source.read(0..500).unwrap());
}
