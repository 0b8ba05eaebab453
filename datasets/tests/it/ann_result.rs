//! Result files of ann-benchmarks: to the letter out, tolerant in, and every way to be wrong.

use std::path::Path;

use hdf5::types::{FixedAscii, FloatSize, IntSize, TypeDescriptor, VarLenUnicode};
use kiln_datasets::AnnResult;
use ndarray::{Array2, array};

fn result() -> AnnResult {
    AnnResult {
        algo: "kiln-vamana".into(),
        dataset: "photosift größe".into(),
        name: "vamana(max_degree=32, search_list=40)".into(),
        distance: "euclidean".into(),
        count: 3,
        batch_mode: false,
        run_count: 5,
        best_search_time: 1.0 / 3e4,
        build_time: 12.5,
        index_size: 4096.25,
        candidates: 2.5,
        expect_extra: false,
        dist_comps: Some(1234.0),
        plotted_recall: None,
        times: vec![3e-5, 4e-5],
        neighbors: array![[3i64, 1, 2], [9, 4, -1]],
        distances: array![[0.5f32, 1.0, 1.5], [0.25, 2.0, f32::INFINITY]],
    }
}

fn descriptor(dataset: &hdf5::Dataset) -> TypeDescriptor {
    dataset.dtype().unwrap().to_descriptor().unwrap()
}

#[test]
fn what_is_written_is_the_schema_to_the_letter() {
    let dir = tempfile::tempdir().unwrap();
    for batch_mode in [false, true] {
        let written = AnnResult { batch_mode, ..result() };
        let path = dir.path().join(written.relative_path(r#"[{"max_degree": 32}, {"search_list": 40}]"#));
        let algo = if batch_mode { "kiln-vamana-batch" } else { "kiln-vamana" };
        assert!(path.ends_with(format!("results/photosift größe/3/{algo}/max_degree_32_search_list_40.hdf5")));
        written.write(&path).unwrap();

        let file = hdf5::File::open(&path).unwrap();
        let mut attributes = file.attr_names().unwrap();
        attributes.sort();
        let expected = [
            "algo",
            "batch_mode",
            "best_search_time",
            "build_time",
            "candidates",
            "count",
            "dataset",
            "dist_comps",
            "distance",
            "expect_extra",
            "index_size",
            "name",
            "run_count",
        ];
        assert_eq!(attributes, expected);
        let text = |name: &str| file.attr(name).unwrap().read_scalar::<VarLenUnicode>().unwrap().to_string();
        assert_eq!((text("algo"), text("dataset")), (algo.to_string(), "photosift größe".to_string()));
        assert_eq!(file.attr("batch_mode").unwrap().read_scalar::<bool>().unwrap(), batch_mode);
        assert_eq!(file.attr("count").unwrap().read_scalar::<i64>().unwrap(), 3);
        assert_eq!(file.attr("best_search_time").unwrap().read_scalar::<f64>().unwrap(), 1.0 / 3e4);
        let [times, neighbors, distances] = ["times", "neighbors", "distances"].map(|name| file.dataset(name).unwrap());
        assert_eq!((times.shape(), descriptor(&times)), (vec![2], TypeDescriptor::Float(FloatSize::U4)));
        assert_eq!((neighbors.shape(), descriptor(&neighbors)), (vec![2, 3], TypeDescriptor::Integer(IntSize::U4)));
        assert_eq!((distances.shape(), descriptor(&distances)), (vec![2, 3], TypeDescriptor::Float(FloatSize::U4)));
        assert_eq!(neighbors.read_2d::<i32>().unwrap()[(1, 2)], -1);
        assert_eq!(distances.read_2d::<f32>().unwrap()[(1, 2)], f32::INFINITY);
        assert!(!file.link_exists("metrics"), "its plot program computes them");
        drop((times, neighbors, distances));
        file.close().unwrap();
        assert_eq!(AnnResult::read(&path).unwrap(), written);
    }
}

/// A file as another program may have written it.
fn draft(path: &Path, fill: impl Fn(&hdf5::File)) {
    let file = hdf5::File::create(path).unwrap();
    fill(&file);
    file.close().unwrap();
}

fn matrices(file: &hdf5::File, times: &[f32], neighbors: &Array2<i64>, distances: &Array2<f64>) {
    file.new_dataset_builder().with_data(times).create("times").unwrap();
    file.new_dataset_builder().with_data(neighbors).create("neighbors").unwrap();
    file.new_dataset_builder().with_data(distances).create("distances").unwrap();
}

#[test]
fn files_of_other_programs_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("results/a set/2/hnsw lib-batch");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("M_12.hdf5");
    draft(&path, |file| {
        matrices(file, &[0.5, 0.25], &array![[1i64, 2], [0, -1]], &array![[1.0f64, 2.0], [0.5, f64::INFINITY]]);
        let name = FixedAscii::<32>::from_ascii("hnsw(M=12)").unwrap();
        file.new_attr::<FixedAscii<32>>().create("name").unwrap().write_scalar(&name).unwrap();
        file.new_attr::<i32>().create("run_count").unwrap().write_scalar(&3).unwrap();
        file.new_attr::<i64>().create("index_size").unwrap().write_scalar(&77).unwrap();
    });
    let read = AnnResult::read(&path).unwrap();
    // What attributes do not tell, the path does; and the mean of the times is the least known.
    assert_eq!((read.algo.as_str(), read.dataset.as_str(), read.count), ("hnsw lib", "a set", 2));
    assert_eq!((read.name.as_str(), read.batch_mode, read.run_count), ("hnsw(M=12)", true, 3));
    assert_eq!((read.best_search_time, read.index_size, read.plotted_recall), (0.375, 77.0, None));

    draft(&path, |file| {
        matrices(file, &[0.5], &array![[1i64, 2]], &array![[1.0f64, 2.0]]);
        let group = file.create_group("metrics").unwrap().create_group("knn").unwrap();
        group.new_attr::<f64>().create("mean").unwrap().write_scalar(&0.75).unwrap();
    });
    assert_eq!(AnnResult::read(&path).unwrap().plotted_recall, Some(0.75));
}

#[test]
fn bad_result_files_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("größe 1.hdf5");
    let refusal = |fill: &dyn Fn(&hdf5::File)| {
        draft(&path, fill);
        let message = AnnResult::read(&path).expect_err("refused").to_string();
        assert!(message.contains("größe 1.hdf5"), "{message}");
        message
    };
    let (ids, distances) = (array![[1i64, 2], [0, 3]], array![[1.0f64, 2.0], [0.5, 1.0]]);
    let count = |file: &hdf5::File, count: i64| {
        file.new_attr::<i64>().create("count").unwrap().write_scalar(&count).unwrap();
    };
    let best = |file: &hdf5::File, seconds: f64| {
        file.new_attr::<f64>().create("best_search_time").unwrap().write_scalar(&seconds).unwrap();
    };
    let train = |file: &hdf5::File| {
        file.new_dataset_builder().with_data(&distances).create("train").unwrap();
    };
    assert!(refusal(&train).contains("no matrix `times` (it has: train)"));
    assert!(refusal(&|file| matrices(file, &[1.0], &ids, &distances)).contains("1 times"));
    assert!(refusal(&|file| matrices(file, &[1.0, f32::NAN], &ids, &distances)).contains("query 1 took NaN"));
    assert!(refusal(&|file| matrices(file, &[1.0, -1.0], &ids, &distances)).contains("query 1 took -1"));
    assert!(refusal(&|file| matrices(file, &[], &Array2::zeros((0, 2)), &Array2::zeros((0, 2)))).contains("0 queries"));
    assert!(
        refusal(&|file| matrices(file, &[1.0; 2], &ids, &Array2::zeros((2, 3)))).contains("do not belong together")
    );
    for wrong in [0, 3] {
        let message = refusal(&|file| {
            matrices(file, &[1.0; 2], &ids, &distances);
            count(file, wrong);
        });
        assert!(message.contains(&format!("`count` is {wrong}")), "{message}");
    }
    for wrong in [f64::NAN, 0.0, -1.0, f64::INFINITY] {
        let message = refusal(&|file| {
            matrices(file, &[1.0; 2], &ids, &distances);
            best(file, wrong);
        });
        assert!(message.contains("best_search_time"), "{message}");
    }
    let floats = |file: &hdf5::File| {
        file.new_dataset_builder().with_data(&[1.0f32, 1.0]).create("times").unwrap();
        file.new_dataset_builder().with_data(&distances).create("neighbors").unwrap();
        file.new_dataset_builder().with_data(&distances).create("distances").unwrap();
    };
    assert!(refusal(&floats).contains("not integers"));

    // Cut off anywhere, or no HDF5 at all.
    result().write(&path).unwrap();
    let sound = std::fs::read(&path).unwrap();
    for kept in [0, 1, 100, sound.len() / 2, sound.len() - 1] {
        std::fs::write(&path, &sound[..kept]).unwrap();
        let message = AnnResult::read(&path).expect_err("cut off").to_string();
        assert!(message.contains("größe 1.hdf5"), "{message}");
    }
    let message = AnnResult::read(&dir.path().join("none.hdf5")).expect_err("missing").to_string();
    assert!(message.contains("No such file"), "{message}");

    let wide = AnnResult { neighbors: array![[1i64 << 40, 1, 2], [9, 4, -1]], ..result() };
    assert!(wide.write(&path).expect_err("too wide").to_string().contains("1099511627776"));
    let ragged = AnnResult { times: vec![1.0], ..result() };
    assert!(ragged.write(&path).expect_err("ragged").to_string().contains("do not belong together"));
}
