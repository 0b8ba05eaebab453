//! What VIBE's files hold beside the layout of ann-benchmarks.

use std::path::{Path, PathBuf};

use kiln_datasets::{Dataset, Learning};
use ndarray::{Array2, array};
use tempfile::TempDir;

fn ramp(rows: usize, dim: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, dim), |(i, j)| (i * dim + j) as f32)
}

/// A file of five rows and two queries, with what `fill` adds.
fn file(fill: impl Fn(&hdf5::File)) -> (PathBuf, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vibe größe.hdf5");
    let file = hdf5::File::create(&path).unwrap();
    file.new_dataset_builder().with_data(&ramp(5, 3)).create("train").unwrap();
    file.new_dataset_builder().with_data(&ramp(2, 3)).create("test").unwrap();
    fill(&file);
    file.close().unwrap();
    (path, dir)
}

fn add<T: hdf5::H5Type + Clone>(file: &hdf5::File, name: &str, data: &Array2<T>) {
    file.new_dataset_builder().with_data(data).create(name).unwrap();
}

#[test]
fn learn_sets_are_read() {
    let (path, _dir) = file(|file| {
        add(file, "learn", &ramp(4, 3));
        add(file, "learn_neighbors", &Array2::from_shape_fn((4, 2), |(i, j)| (i + j) as u32));
        file.new_dataset_builder().with_data(&[1.5f64, 2.5]).create("avg_distances").unwrap();
    });
    let learning = Learning::open(&path).unwrap();
    let rows = learning.rows.unwrap();
    assert_eq!((rows.len(), rows.dim()), (4, 3));
    assert_eq!(rows.read(1..2).unwrap().view().to_f32(), ramp(4, 3).slice(ndarray::s![1..2, ..]));
    assert_eq!(learning.neighbors.unwrap().row(3).to_vec(), [3, 4]);
    assert_eq!(learning.avg_distances.unwrap(), [1.5, 2.5]);
    // The rest of the file is a data set like any other.
    assert_eq!(Dataset::open_file(&path).unwrap().queries.unwrap().len(), 2);
}

#[test]
fn what_is_not_there_is_none() {
    let (path, _dir) = file(|_| ());
    let learning = Learning::open(&path).unwrap();
    assert!(learning.rows.is_none() && learning.neighbors.is_none() && learning.avg_distances.is_none());
    let learning = Learning::open(Path::new("base.fbin")).unwrap();
    assert!(learning.rows.is_none(), "{learning:?}");
    let (path, _dir) = file(|file| add(file, "avg_distances", &array![[1.0f32], [2.0]]));
    assert_eq!(Learning::open(&path).unwrap().avg_distances.unwrap(), [1.0, 2.0]);
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let refused = |says: &str, fill: &dyn Fn(&hdf5::File)| {
        let (path, _dir) = file(fill);
        let message = Learning::open(&path).expect_err("refused").to_string();
        assert!(message.contains("vibe größe.hdf5") && message.contains(says), "{message}");
    };
    refused("those of `learn` 4", &|file| add(file, "learn", &ramp(4, 4)));
    refused("`learn` has 4 rows, but `learn_neighbors` 3", &|file| {
        add(file, "learn", &ramp(4, 3));
        add(file, "learn_neighbors", &Array2::<u32>::zeros((3, 2)));
    });
    for wrong in [5i64, -2] {
        refused(&format!("row 1, rank 0 is {wrong}"), &|file| {
            add(file, "learn", &ramp(2, 3));
            add(file, "learn_neighbors", &array![[0i64, -1], [wrong, 1]]);
        });
    }
    refused("not integers", &|file| {
        add(file, "learn", &ramp(2, 3));
        add(file, "learn_neighbors", &ramp(2, 2));
    });
    refused("2 queries, but `avg_distances` of 3", &|file| add(file, "avg_distances", &array![[1.0f64], [1.0], [1.0]]));
    refused("not (queries)", &|file| add(file, "avg_distances", &ramp(2, 2)));
}
