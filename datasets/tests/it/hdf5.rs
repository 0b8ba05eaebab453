//! HDF5 in: every element type, chunking and attribute that occurs, and every way to be wrong.

use std::path::{Path, PathBuf};

use crate::common::{message_naming, refusal};
use hdf5::types::{FixedAscii, VarLenUnicode};
use kiln_datasets::{Dataset, DatasetError, Truth, open_queries, open_rows, read_all};
use kiln_kernels::{DType, Metric, Rows, f16};
use ndarray::{Array2, s};
use tempfile::TempDir;

/// A file under construction in a folder of its own.
struct Draft {
    file: hdf5::File,
    path: PathBuf,
    dir: TempDir,
}

impl Draft {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("draft.hdf5");
        Self { file: hdf5::File::create(&path).unwrap(), path, dir }
    }

    fn with<T: hdf5::H5Type + Clone>(self, name: &str, data: &Array2<T>) -> Self {
        self.file.new_dataset_builder().with_data(data).create(name).unwrap();
        self
    }

    fn text(self, name: &str, value: &str) -> Self {
        let value: VarLenUnicode = value.parse().unwrap();
        self.file.new_attr::<VarLenUnicode>().create(name).unwrap().write_scalar(&value).unwrap();
        self
    }

    fn finish(self) -> (PathBuf, TempDir) {
        self.file.close().unwrap();
        (self.path, self.dir)
    }
}

fn ramp(rows: usize, dim: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, dim), |(i, j)| (i * dim + j) as f32)
}

#[test]
fn the_demo_opens_whole() {
    let demo = Dataset::embedded_demo().unwrap();
    assert_eq!((demo.base.len(), demo.base.dim(), demo.base.dtype()), (10_000, 128, DType::F32));
    assert_eq!(demo.metric, Some(Metric::L2));
    assert_eq!(demo.queries.as_ref().unwrap().len(), 500);
    let truth = demo.truth.as_ref().unwrap();
    assert_eq!((truth.queries(), truth.depth()), (500, 100));
    assert!(truth.distances.is_some());
    assert_eq!(demo.fingerprint.len(), 32);
    assert_eq!(demo.fingerprint, Dataset::embedded_demo().unwrap().fingerprint);
    let unpacked = demo.path.clone();
    drop(demo);
    assert!(!unpacked.exists());
}

#[test]
fn the_demo_reads_the_same_in_any_blocks() {
    let demo = Dataset::embedded_demo().unwrap();
    let whole = read_all(demo.base.as_ref(), |_| {}).unwrap().view().to_f32();
    for rows in [0..1, 999..1001, 9_999..10_000, 4_000..6_500, 7..7] {
        let block = demo.base.read(rows.clone()).unwrap().view().to_f32();
        assert_eq!(block, whole.slice(s![rows.start as usize..rows.end as usize, ..]));
    }
    let message = demo.base.read(9_999..10_001).unwrap_err().to_string();
    assert!(message.contains("holds 10000"), "{message}");
}

#[test]
fn element_types_are_served_as_they_are_or_widened() {
    fn served<T: hdf5::H5Type + Clone>(convert: impl Fn(f32) -> T) -> (DType, Array2<f32>) {
        let (path, _dir) = Draft::new().with("train", &ramp(7, 4).mapv(convert)).finish();
        let source = open_rows(&path).unwrap();
        let rows = source.read(2..5).unwrap();
        assert_eq!(rows.dtype(), source.dtype());
        (source.dtype(), rows.view().to_f32())
    }
    let expected = ramp(7, 4).slice(s![2..5, ..]).to_owned();
    let of = |dtype: DType| (dtype, expected.clone());
    assert_eq!(served(|x| x), of(DType::F32));
    assert_eq!(served(f64::from), of(DType::F32));
    assert_eq!(served(f16::from_f32), of(DType::F16));
    assert_eq!(served(|x| x as u8), of(DType::U8));
    assert_eq!(served(|x| x as i8), of(DType::I8));
    assert_eq!(served(|x| x as i16), of(DType::F32));
    assert_eq!(served(|x| x as u16), of(DType::F32));
    assert_eq!(served(|x| x as i32), of(DType::F32));
    assert_eq!(served(|x| x as u32), of(DType::F32));
    assert_eq!(served(|x| x as i64), of(DType::F32));
    assert_eq!(served(|x| x as u64), of(DType::F32));
}

#[test]
fn integers_that_f32_cannot_hold_are_named() {
    let mut wide = ramp(5, 3).mapv(|x| x as i64);
    wide[(3, 1)] = (1 << 24) + 1;
    let (path, _dir) = Draft::new().with("train", &wide).finish();
    let message = message_naming(&path, open_rows(&path).unwrap().read(2..5).unwrap_err());
    assert!(message.contains("row 3, coordinate 1 is 16777217"), "{message}");
    let (path, _dir) = Draft::new().with("train", &Array2::from_elem((1, 1), u64::MAX)).finish();
    let message = message_naming(&path, open_rows(&path).unwrap().read(0..1).unwrap_err());
    assert!(message.contains("18446744073709551615"), "{message}");
}

#[test]
fn chunks_and_filters_do_not_show() {
    let data = ramp(1_000, 24);
    for chunk in [(1, 24), (1_000, 24), (333, 5), (7, 1)] {
        let draft = Draft::new();
        let dataset = draft.file.new_dataset::<f32>().shape((1_000, 24)).chunk(chunk).shuffle().deflate(4);
        dataset.create("train").unwrap().write(&data).unwrap();
        let (path, _dir) = draft.finish();
        let rows = open_rows(&path).unwrap().read(331..670).unwrap();
        assert_eq!(rows, Rows::F32(data.slice(s![331..670, ..]).to_owned()), "chunks of {chunk:?}");
    }
}

#[test]
fn attributes_may_be_of_any_string_kind_or_missing() {
    // Fixed ASCII, fixed UTF-8, variable ASCII, big-endian rows: written by h5py.
    let strings = Dataset::open_file(Path::new("tests/data/strings.hdf5")).unwrap();
    assert_eq!(strings.metric, Some(Metric::Cosine));
    assert_eq!(strings.base.read(1..2).unwrap(), Rows::F32(ramp(10, 4).slice(s![1..2, ..]).mapv(|x| x + 1.0)));
    assert!(strings.queries.is_none() && strings.truth.is_none());

    let (path, _dir) = Draft::new().with("train", &ramp(3, 2)).finish();
    assert_eq!(Dataset::open_file(&path).unwrap().metric, None);
    let draft = Draft::new().with("train", &ramp(3, 2));
    let padded = FixedAscii::<16>::from_ascii("dot").unwrap();
    draft.file.new_attr::<FixedAscii<16>>().create("distance").unwrap().write_scalar(&padded).unwrap();
    let (path, _dir) = draft.finish();
    assert_eq!(Dataset::open_file(&path).unwrap().metric, Some(Metric::InnerProduct));
}

#[test]
fn truth_may_be_of_any_integer_width_and_without_distances() {
    let ids = Array2::from_shape_fn((2, 3), |(i, j)| (i + j) as i64);
    let distances = Array2::from_shape_fn((2, 3), |(_, j)| j as f64);
    let base = || Draft::new().with("train", &ramp(5, 2)).with("test", &ramp(2, 2));
    let (path, _dir) = base().with("neighbors", &ids).with("distances", &distances).finish();
    let truth = Dataset::open_file(&path).unwrap().truth.unwrap();
    assert_eq!((truth.ids.clone(), truth.distances.unwrap()), (ids.clone(), distances.mapv(|d| d as f32)));
    for (path, _dir) in [
        base().with("neighbors", &ids.mapv(|id| id as i32)).finish(),
        base().with("neighbors", &ids.mapv(|id| id as u16)).finish(),
    ] {
        assert_eq!(Truth::open(&path).unwrap(), Truth { ids: ids.clone(), distances: None });
        assert_eq!(open_queries(&path).unwrap().len(), 2);
    }
}

#[test]
fn what_is_not_dense_is_refused() {
    let (path, _dir) = Draft::new().text("type", "sparse").with("train", &ramp(3, 2)).finish();
    assert!(refusal(&path).contains("sparse"));
    let (path, _dir) = Draft::new().with("train", &ramp(3, 2)).with("size_train", &ramp(3, 1)).finish();
    assert!(refusal(&path).contains("sparse"));
    let (path, _dir) = Draft::new().text("point_type", "bit").with("train", &ramp(3, 2)).finish();
    assert!(refusal(&path).contains("bit"));
    for distance in ["hamming", "jaccard", "canberra"] {
        let (path, _dir) = Draft::new().text("distance", distance).with("train", &ramp(3, 2)).finish();
        assert!(refusal(&path).contains(distance));
    }
    let draft = Draft::new();
    draft.file.new_dataset_builder().with_data(&[1.0f32, 2.0]).create("train").unwrap();
    let (path, _dir) = draft.finish();
    assert!(refusal(&path).contains("shape [2]"));
    let (path, _dir) = Draft::new().with("train", &Array2::from_elem((2, 2), true)).finish();
    assert!(refusal(&path).contains("not a number"));
    let (path, _dir) = Draft::new().with("vectors", &ramp(3, 2)).finish();
    assert!(refusal(&path).contains("no matrix `train` (it has: vectors)"));
    let (path, _dir) = Draft::new().with("train", &ramp(0, 2)).finish();
    assert!(refusal(&path).contains("0 rows"));
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    let (path, _dir) = Draft::new().with("train", &ramp(3, 2)).with("test", &ramp(3, 4)).finish();
    assert!(refusal(&path).contains("its rows have 2 coordinates but its queries 4"));
    let ids = Array2::<i32>::zeros((5, 2));
    let (path, _dir) =
        Draft::new().with("train", &ramp(3, 2)).with("test", &ramp(3, 2)).with("neighbors", &ids).finish();
    assert!(refusal(&path).contains("3 queries but truth for 5"));
    let (path, _dir) = Draft::new().with("train", &ramp(3, 2)).with("neighbors", &ramp(3, 2)).finish();
    assert!(refusal(&path).contains("not integers"));
    let wrong = Array2::<f32>::zeros((5, 3));
    let (path, _dir) =
        Draft::new().with("train", &ramp(3, 2)).with("neighbors", &ids).with("distances", &wrong).finish();
    assert!(refusal(&path).contains("`distances` has shape [5, 3]"));
}

#[test]
fn values_that_are_not_finite_are_named() {
    for bad in [f64::NAN, f64::INFINITY, 1e300] {
        let mut data = ramp(10, 3).mapv(f64::from);
        data[(8, 2)] = bad;
        let (path, _dir) = Draft::new().with("train", &data).finish();
        let source = open_rows(&path).unwrap();
        assert!(source.read(0..8).is_ok());
        let error = source.read(5..10).unwrap_err();
        assert!(matches!(error, DatasetError::NonFinite { row: 8, coordinate: 2, .. }), "{error}");
    }
}

#[test]
fn shapes_at_the_edges_are_read() {
    for (rows, dim) in [(1, 1), (1, 4096), (3, 1), (2, 4096)] {
        let (path, _dir) = Draft::new().with("train", &ramp(rows, dim)).finish();
        let source = open_rows(&path).unwrap();
        assert_eq!((source.len() as usize, source.dim()), (rows, dim));
        assert_eq!(source.read(0..rows as u64).unwrap(), Rows::F32(ramp(rows, dim)));
    }
}

#[test]
fn files_of_a_newer_hdf5_say_what_to_do() {
    let path = Path::new("tests/data/libver-latest.hdf5");
    match Dataset::open_file(path) {
        // The statically linked library is new enough.
        Ok(dataset) => assert_eq!(dataset.base.len(), 10),
        Err(error) => {
            let message = message_naming(path, error);
            assert!(message.contains("h5repack") && message.contains("hdf5-static"), "{message}");
        }
    }
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let sound = std::fs::read("data/photosift-10k-128-euclidean.hdf5").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.hdf5");
    for kept in [0, 1, 100, 4096, sound.len() / 2, sound.len() - 1] {
        std::fs::write(&path, &sound[..kept]).unwrap();
        let message = refusal(&path);
        assert!(message.contains("damaged, cut off or not HDF5"), "{kept} bytes: {message}");
    }
    std::fs::write(&path, b"not HDF5 at all").unwrap();
    refusal(&path);
    // A flipped byte in packed rows breaks their checksum; wherever it falls, reading ends in a value.
    let mut caught = 0;
    for step in 1..40 {
        let mut damaged = sound.clone();
        damaged[step * sound.len() / 40] ^= 0x5A;
        std::fs::write(&path, &damaged).unwrap();
        let outcome = Dataset::open_file(&path).and_then(|dataset| {
            read_all(dataset.base.as_ref(), |_| {})?;
            read_all(dataset.queries.unwrap().as_ref(), |_| {})
        });
        caught += usize::from(outcome.is_err());
    }
    assert!(caught > 20, "only {caught} of 39 flips were noticed");
}

#[test]
fn what_is_missing_is_named() {
    let missing = Path::new("/nonexistent/nothing.hdf5");
    assert!(refusal(missing).contains("No such file"));
    let error = Dataset::open("sift-128-euclidean", Path::new("/nonexistent/cache")).unwrap_err().to_string();
    assert!(error.contains("kiln datasets fetch sift-128-euclidean"), "{error}");
    let error = Dataset::open("no-such-set", Path::new("/nonexistent/cache")).unwrap_err().to_string();
    assert!(error.contains("kiln datasets list"), "{error}");
    let error = Dataset::open("kosarak-jaccard", Path::new("/nonexistent/cache")).unwrap_err().to_string();
    assert!(error.contains("sparse"), "{error}");
}
