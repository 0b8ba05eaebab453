//! Out to the formats of other benchmarks and back: figures stay what they were.

use std::path::{Path, PathBuf};

use kiln_builder::IndexKind;
use kiln_datasets::{AnnResult, Dataset};
use kiln_eval::interchange::{Format, ann_benchmarks, cuvs, export_table, import};
use kiln_eval::metrics::{self, METRICS, Measured};
use kiln_eval::record::{BuildRecord, Mode, PeerPoint, PeerRecord, RunData, SettingRecord, Skip};
use kiln_eval::{Engine, IndexSpec, Plan, SearchGrid, load, run_bench};
use kiln_kernels::{CpuBackend, NoProgress};
use ndarray::s;
use tempfile::TempDir;

use crate::common::{demo, quick, small};

/// A short run of both indexes over the demo, in a folder whose name holds a space and a letter beyond ASCII.
fn measured() -> (RunData, Dataset, PathBuf, TempDir) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("lauf größe 1");
    let search = SearchGrid { search_lists: vec![10, 40], nprobes: vec![1, 8], ..SearchGrid::default() };
    let engine = |kind| Engine::Kiln { index: IndexSpec::Build(small(kind)), search: search.clone() };
    let plan = Plan {
        engines: [IndexKind::Vamana, IndexKind::IvfPq].map(engine).into(),
        modes: vec![Mode::Latency1, Mode::Throughput { threads: 2 }, Mode::Batch { threads: 1 }],
        ..quick(&out)
    };
    let dataset = demo();
    let data = run_bench(&plan, &dataset, &CpuBackend::new(), &NoProgress).expect("measured");
    assert!(
        data.header.dataset.difficulty.as_ref().is_some_and(|d| d.relative_contrast.is_some() && d.shift.is_some())
    );
    (data, dataset, out, folder)
}

fn settings<'a>(data: &'a RunData, wanted: impl Fn(&SettingRecord) -> bool + 'a) -> Vec<&'a SettingRecord> {
    data.settings.iter().filter(|setting| wanted(setting)).collect()
}

fn build_of<'a>(data: &'a RunData, setting: &SettingRecord) -> &'a kiln_eval::record::BuildRecord {
    data.builds.iter().find(|build| build.key == setting.build_key).expect("its build")
}

#[test]
fn every_format_gives_back_what_it_was_given() {
    let (data, dataset, dir, folder) = measured();
    tables_give_back_every_figure(&data, &dir, folder.path());
    ann_benchmarks_files_give_back_answers(&data, &dataset, &dir, folder.path());
    cuvs_files_give_back_their_figures(&data, &dir, folder.path());
    a_moved_run_is_found_and_another_index_is_not_believed(&data, &dataset, &dir, folder.path());
}

fn tables_give_back_every_figure(data: &RunData, dir: &Path, scratch: &Path) {
    let mut data = data.clone();
    data.settings[0].failure = Some("killed, \"twice\",\nby hand".into());
    data.settings[0].runs.clear();
    (data.settings[1].failure, data.settings[1].skip) = (Some("pruned: a probe found".into()), Some(Skip::Pruned));
    data.settings[1].runs.clear();
    data.peers.push(PeerRecord {
        name: "hnswlib".into(),
        version: "0.8".into(),
        residency: "memory".into(),
        threads: 2,
        serving_bytes: 77,
        points: vec![PeerPoint {
            params: [("ef".into(), 40.into())].into(),
            recall: 0.875,
            qps: vec![100.0, 200.0, 150.0],
            pages: None,
        }],
    });
    for format in [Format::Csv, Format::Parquet] {
        let path = scratch.join(format!("tabelle größe 1.{format}"));
        let rows = export_table(dir, &data, format, &path).expect("written");
        assert_eq!(rows, data.settings.len() + 1);
        assert_eq!(Format::guess(&path).expect("by its name"), format);
        let out = scratch.join(format!("run of {format}"));
        let report = import(std::slice::from_ref(&path), None, None, &out, "kiln import").expect("imported");
        assert_eq!((report.added, report.known), (rows, 0), "{format}");
        let back = load(&out).expect("a run");
        assert_eq!((&back.header.dataset.name, back.header.k), (&data.header.dataset.name, data.header.k));
        for (theirs, ours) in data.settings.iter().zip(&back.settings) {
            assert!(ours.is_foreign() && !theirs.is_foreign());
            assert_eq!((&ours.params, ours.mode, ours.k), (&theirs.params, theirs.mode, theirs.k));
            assert_eq!((&ours.failure, ours.skip), (&theirs.failure, theirs.skip));
            let foreign = ours.foreign.as_ref().expect("marked");
            assert_eq!(foreign.hardware.as_ref(), Some(&data.header.machine.cpu));
            let (their_build, our_build) = (build_of(&data, theirs), build_of(&back, ours));
            assert_eq!((&their_build.index, &their_build.params), (&our_build.index, &our_build.params));
            if theirs.failure.is_some() {
                continue;
            }
            for metric in METRICS {
                let their = (metric.value)(&Measured { setting: theirs, build: their_build });
                let our = (metric.value)(&Measured { setting: ours, build: our_build });
                assert_eq!(our, their, "{format}: {} of {:?}", metric.name, theirs.params);
            }
            assert_eq!(metrics::qps(ours), metrics::qps(theirs));
        }
        // Settings without figures are of the same indexes.
        assert_eq!(back.builds.len(), data.builds.len() + 1, "{format}");
        let peer = back.settings.last().expect("the other library's");
        assert_eq!((metrics::recall(peer), metrics::qps(peer).map(|q| q.median)), (Some(0.875), Some(150.0)));
        // Again: nothing is added.
        let again = import(std::slice::from_ref(&path), Some(format), None, &out, "kiln import").expect("imported");
        // A failure counts as not measured, and is tried, that is kept, again.
        assert_eq!((again.added, again.known), (1, rows - 1), "{format}");
        // And once more from the imported run: the same rows.
        let copy = scratch.join(format!("copy.{format}"));
        export_table(&out, &load(&out).expect("a run"), format, &copy).expect("written");
        let out = scratch.join(format!("run of the copy of {format}"));
        assert_eq!(import(&[copy], None, None, &out, "kiln import").expect("imported").added, rows);
    }
}

fn ann_benchmarks_files_give_back_answers(data: &RunData, dataset: &Dataset, dir: &Path, scratch: &Path) {
    let root = scratch.join("ann größe");
    // A peer that was measured in the same run: its index is gone, and its name is its own.
    let mut beside = data.clone();
    beside.builds.push(BuildRecord {
        key: "peer".into(),
        index: "hnswlib".into(),
        device: "hnswlib 0.8".into(),
        path: "python3 peer.py".into(),
        ..data.builds[0].clone()
    });
    let of_peer = |setting: &SettingRecord| SettingRecord { build_key: "peer".into(), ..setting.clone() };
    beside.settings.extend(data.settings.iter().filter(|s| s.mode == Mode::Latency1).take(1).map(of_peer));
    let exported = ann_benchmarks::export(dir, &beside, dataset, &scratch.join("ann beside")).expect("written");
    let (why, _) = exported.left_out.iter().find(|(_, count)| **count == 1).expect("one is left out");
    assert!(why.contains("of another library"), "{why}");
    let shown = cuvs::export(dir, &beside, &scratch.join("cuvs beside")).expect("written");
    let named = |name: &str| shown.iter().filter(|path| path.to_string_lossy().contains(name)).count();
    assert!(named("kiln-hnswlib") == 0 && named("hnswlib") > 0 && named("kiln-vamana") > 0, "{shown:?}");

    let exported = ann_benchmarks::export(dir, data, dataset, &root).expect("written");
    let single = settings(data, |setting| setting.mode == Mode::Latency1);
    let batch = settings(data, |setting| setting.mode == Mode::Batch { threads: 1 });
    assert_eq!(exported.files.len(), single.len() + batch.len());
    assert_eq!(exported.left_out.values().sum::<usize>(), data.settings.len() - exported.files.len());
    let truth = dataset.truth.as_ref().and_then(|truth| truth.distances.as_ref()).expect("the demo states distances");
    let mut recalls: Vec<f64> = Vec::new();
    for path in &exported.files {
        let result = AnnResult::read(path).expect("a result file");
        assert_eq!((result.neighbors.dim(), result.count, result.distance.as_str()), ((500, 10), 10, "euclidean"));
        assert!(path.starts_with(root.join("results").join(&data.header.dataset.name).join("10")), "{path:?}");
        // Its own rule, on what the files state.
        recalls.push(ann_benchmarks::plotted_recall(truth.view(), result.distances.view(), 10));
        let ordered = result.distances.rows().into_iter().all(|row| row.windows(2).into_iter().all(|w| w[0] <= w[1]));
        assert!(ordered, "answers come nearest first");
    }
    // To the last digit what Kiln's judge says by that rule: in each mode, the same settings.
    let mut judged: Vec<f64> =
        single.iter().chain(&batch).map(|setting| metrics::recall_ann_benchmarks(setting).expect("judged")).collect();
    recalls.sort_by(f64::total_cmp);
    judged.sort_by(f64::total_cmp);
    assert_eq!(recalls, judged);

    let out = scratch.join("run of ann-benchmarks");
    let report = import(&[root], None, Some(dataset), &out, "kiln import").expect("imported");
    assert_eq!((report.files, report.added), (exported.files.len(), exported.files.len()));
    let back = load(&out).expect("a run");
    assert_eq!(back.header.dataset.fingerprint, data.header.dataset.fingerprint);
    assert!(back.settings.iter().all(SettingRecord::is_foreign));
    let figures = |settings: &[&SettingRecord]| {
        let mut figures: Vec<[f64; 4]> = (settings.iter())
            .map(|setting| {
                let recall = metrics::recall(setting).expect("judged");
                let ids = metrics::recall_ids(setting).expect("judged");
                [
                    recall,
                    ids,
                    metrics::recall_ann_benchmarks(setting).expect("judged"),
                    metrics::distances_per_query(setting).expect("counted"),
                ]
            })
            .collect();
        figures.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
        figures
    };
    for (mode, theirs) in [(Mode::Latency1, single), (Mode::Batch { threads: 1 }, batch)] {
        let ours = settings(&back, |setting| setting.mode == mode);
        assert_eq!(figures(&ours), figures(&theirs), "{}", mode.name());
        // Its figure of speed is that of the best pass.
        let best = |setting: &&&SettingRecord| {
            let pass = |seconds: f64| 500.0 / seconds;
            let rates = setting.runs.iter().filter(|run| mode != Mode::Latency1 || run.latency_us.len() == 500);
            let seconds = |run: &kiln_eval::record::RunSample| match mode {
                Mode::Latency1 => run.latency_us.iter().map(|&us| f64::from(us)).sum::<f64>() / 1e6,
                _ => run.seconds,
            };
            rates.map(|run| pass(seconds(run))).fold(0.0, f64::max)
        };
        let mut theirs: Vec<f64> = theirs.iter().map(|setting| best(&setting)).collect();
        let mut ours: Vec<f64> = ours.iter().map(|setting| metrics::qps(setting).expect("stated").median).collect();
        theirs.sort_by(f64::total_cmp);
        ours.sort_by(f64::total_cmp);
        for (our, their) in ours.iter().zip(&theirs) {
            assert!((our / their - 1.0).abs() < 1e-12, "{our} {their}");
        }
        assert_eq!(mode == Mode::Latency1, settings(&back, |s| s.mode == mode)[0].runs[0].latency_us.len() == 500);
    }

    // Other answers: of other rows, of none, twice the same.
    let path = exported.files.iter().find(|path| !path.to_string_lossy().contains("-batch")).expect("single queries");
    let sound = AnnResult::read(path).expect("a result file");
    let mut wrong = sound.clone();
    wrong.neighbors.slice_mut(s![.., 1..]).fill(-1);
    wrong.neighbors.slice_mut(s![.., 2]).fill(1 << 30);
    let nearest = wrong.neighbors.column(0).to_owned();
    wrong.neighbors.column_mut(3).assign(&nearest);
    let altered = scratch.join("altered.hdf5");
    wrong.write(&altered).expect("written");
    let out = scratch.join("run of altered answers");
    import(std::slice::from_ref(&altered), None, Some(dataset), &out, "kiln import").expect("imported");
    let back = load(&out).expect("a run");
    // One of ten is right; the one that repeats it is seen by distances alone.
    let of = metrics::recall_distribution(&back.settings[0]).expect("judged");
    assert!(of.mean <= 0.1 + 1e-12, "{of:?}");
    let by_distances = metrics::recall_ann_benchmarks(&back.settings[0]).expect("judged");
    let strict = metrics::recall(&back.settings[0]).expect("judged");
    assert!((by_distances - 2.0 * strict).abs() < 1e-9, "{by_distances} {strict}");

    // More queries than the set has, and other k side by side.
    let narrow = AnnResult {
        count: 5,
        neighbors: sound.neighbors.slice(s![.., ..5]).to_owned(),
        distances: sound.distances.slice(s![.., ..5]).to_owned(),
        ..sound.clone()
    };
    let five = scratch.join("five.hdf5");
    narrow.write(&five).expect("written");
    let refused = import(&[altered.clone(), five.clone()], None, Some(dataset), &scratch.join("x"), "kiln import");
    let message = refused.expect_err("two k").to_string();
    assert!(message.contains("five.hdf5") && message.contains("k 5") && message.contains("k 10"), "{message}");
    let message = import(&[five], None, Some(dataset), &out, "kiln import").expect_err("another k").to_string();
    assert!(message.contains("the run of k 10"), "{message}");
    // The first queries alone are judged as such.
    let few = AnnResult {
        times: sound.times[..7].to_vec(),
        neighbors: sound.neighbors.slice(s![..7, ..]).to_owned(),
        distances: sound.distances.slice(s![..7, ..]).to_owned(),
        ..sound.clone()
    };
    few.write(&altered).expect("written");
    let out = scratch.join("run of seven queries");
    import(std::slice::from_ref(&altered), None, Some(dataset), &out, "kiln import").expect("imported");
    assert_eq!(load(&out).expect("a run").settings[0].answers.strict_hits.len(), 7);
    let angular = AnnResult { distance: "angular".into(), ..sound };
    angular.write(&altered).expect("written");
    let message =
        import(&[altered], None, Some(dataset), &scratch.join("y"), "kiln import").expect_err("another metric");
    assert!(message.to_string().contains("by cosine"), "{message}");
    assert!(!scratch.join("y").exists(), "a refused import has left something");
}

fn cuvs_files_give_back_their_figures(data: &RunData, dir: &Path, scratch: &Path) {
    let root = scratch.join("cuvs größe");
    let files = cuvs::export(dir, data, &root).expect("written");
    let name = &data.header.dataset.name;
    let search = root.join(name).join("result/search");
    let kept = settings(data, |setting| setting.mode != Mode::Throughput { threads: 1 });
    for algo in ["kiln-vamana", "kiln-ivf-pq"] {
        for file in [
            ",base,k10,bs1.json",
            ",base,k10,bs1,raw.csv",
            ",base,k10,bs1,throughput.csv",
            ",base,k10,bs500,latency.csv",
        ] {
            let path = search.join(format!("{algo}{file}"));
            assert!(files.contains(&path) && path.is_file(), "{path:?} of {files:?}");
        }
    }
    let documents: Vec<PathBuf> = files
        .iter()
        .filter(|path| path.parent() == Some(&search) && path.extension().is_some_and(|e| e == "json"))
        .cloned()
        .collect();
    let raw: Vec<PathBuf> = files.iter().filter(|path| path.to_string_lossy().ends_with(",raw.csv")).cloned().collect();
    let figures = |settings: &[&SettingRecord]| {
        let mut figures: Vec<(String, String, [f64; 2])> = (settings.iter())
            .map(|s| {
                let figures = [metrics::recall_ids(s).expect("known"), metrics::qps(s).expect("known").median];
                (s.mode.name(), serde_json::to_string(&s.params).expect("JSON"), figures)
            })
            .collect();
        figures.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
        figures
    };
    for (files, number) in [(documents, 0), (raw, 1)] {
        let out = scratch.join(format!("run of cuvs {number}"));
        let report = import(&files, None, None, &out, "kiln import").expect("imported");
        assert_eq!(report.added, kept.len());
        let back = load(&out).expect("a run");
        assert_eq!(&back.header.dataset.name, name);
        let ours: Vec<&SettingRecord> = back.settings.iter().collect();
        assert_eq!(figures(&ours), figures(&kept));
        assert!(ours.iter().all(|setting| setting.is_foreign()));
        for setting in &ours {
            let built = build_of(&back, setting).total_seconds;
            let expected =
                if number == 0 { data.builds.iter().any(|build| build.total_seconds == built) } else { true };
            assert!(expected, "build seconds {built}");
        }
    }
}

fn a_moved_run_is_found_and_another_index_is_not_believed(
    data: &RunData,
    dataset: &Dataset,
    dir: &Path,
    scratch: &Path,
) {
    let moved = scratch.join("moved");
    std::fs::rename(dir, &moved).expect("moved");
    let files = ann_benchmarks::export(&moved, data, dataset, &scratch.join("again")).expect("written").files;
    assert!(!files.is_empty());
    let mut other = data.clone();
    for setting in &mut other.settings {
        setting.answers.strict_hits[3] = 0;
    }
    let message =
        ann_benchmarks::export(&moved, &other, dataset, &scratch.join("z")).expect_err("other answers").to_string();
    assert!(message.contains("answers otherwise than the run recorded"), "{message}");
    std::fs::remove_dir_all(moved.join("indexes")).expect("removed");
    let message = ann_benchmarks::export(&moved, data, dataset, &scratch.join("z")).expect_err("no index").to_string();
    assert!(message.contains("is gone") && message.contains("csv"), "{message}");
    let mut foreign = data.clone();
    foreign.header.dataset.fingerprint = "other".into();
    let message =
        ann_benchmarks::export(&moved, &foreign, dataset, &scratch.join("z")).expect_err("other data").to_string();
    assert!(message.contains("not the data set of the run"), "{message}");
}

#[test]
fn bad_tables_and_documents_are_refused_by_name_and_place() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let refused = |name: &str, text: &str, says: &[&str]| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        let out = folder.path().join("run");
        let message = import(&[path], None, None, &out, "kiln import").expect_err("refused").to_string();
        for says in says.iter().chain(&[name]) {
            assert!(message.contains(says), "{message:?} does not say {says:?}");
        }
        assert!(!out.exists(), "a refused import has left something");
    };
    let header = "dataset,k,engine,mode,qps,recall";
    refused("größe 1.csv", "", &["empty"]);
    refused("a.csv", "x,y\n1,2\n", &["x, y", "cuvs-bench"]);
    refused("a.csv", "engine,mode,k\n", &["no column `dataset`"]);
    refused("a.csv", &format!("{header}\n"), &["no rows"]);
    refused("a.csv", &format!("{header}\nset,10,e,latency-1,NaN,0.5\n"), &["line 2", "`qps`", "NaN"]);
    refused(
        "a.csv",
        &format!("{header}\nset,10,e,latency-1,1e3,0.5\nset,10,e,latency-1,-5,0.5\n"),
        &["row 3", "`qps`"],
    );
    refused("a.csv", &format!("{header}\nset,10,e,latency-1,,0.5\n"), &["row 2", "`qps`", "no rate"]);
    refused("a.csv", &format!("{header}\nset,10,e,latency-1,100,1.5\n"), &["row 2", "1.5 is no recall"]);
    refused("a.csv", &format!("{header}\nset,0,e,latency-1,100,0.5\n"), &["row 2", "`k`"]);
    refused("a.csv", &format!("{header}\nset,10,e,open-loop,100,0.5\n"), &["row 2", "open-loop"]);
    refused("a.csv", &format!("{header}\nset,10,e,latency-1,100,0.5\nset,5,e,latency-1,100,0.5\n"), &["k 5", "k 10"]);
    refused("a.csv", &format!("{header}\nset,10,e,latency-1,100\n"), &["a.csv", "line: 2"]);
    refused("a.parquet", "not Parquet", &["damaged"]);
    refused("a.txt", "x", &["--format"]);
    refused("a.json", "{\"benchmarks\": [", &["Google Benchmark"]);
    refused("a.json", "{\"benchmarks\": []}", &["no benchmarks"]);
    refused(
        "a.json",
        "{\"benchmarks\": [{\"name\": \"x/0\", \"k\": 10, \"real_time\": 1}]}",
        &["benchmark 1", "result of a build"],
    );
    refused("a.json", "{\"benchmarks\": [{\"name\": \"x/0\", \"items_per_second\": 5}]}", &["benchmark 1", "`k`"]);
    refused(
        "a.json",
        "{\"benchmarks\": [{\"name\": \"x/0\", \"k\": 10, \"items_per_second\": -5}]}",
        &["no measurement"],
    );
    refused(
        "a.json",
        "{\"benchmarks\": [{\"name\": \"x/0\", \"k\": 10, \"items_per_second\": 5, \"Recall\": 2}]}",
        &["2 is no recall"],
    );

    // Parquet that is cut off.
    let whole = folder.path().join("whole.csv");
    std::fs::write(&whole, format!("{header}\nset,10,größe,latency-1,100,0.5\nset,10,größe,batch-2,200,0.25\n"))
        .expect("written");
    let run = folder.path().join("of two");
    let report = import(&[whole], None, None, &run, "kiln import").expect("imported");
    assert_eq!(report.added, 2);
    let parquet = folder.path().join("two.parquet");
    export_table(&run, &load(&run).expect("a run"), Format::Parquet, &parquet).expect("written");
    let bytes = std::fs::read(&parquet).expect("there");
    for kept in [0, 4, bytes.len() / 2, bytes.len() - 1] {
        let path = folder.path().join("cut.parquet");
        std::fs::write(&path, &bytes[..kept]).expect("written");
        let message =
            import(&[path], None, None, &folder.path().join("x"), "kiln import").expect_err("cut off").to_string();
        assert!(message.contains("cut.parquet"), "{message}");
    }
    // Another run's folder is not mixed with it.
    let other = folder.path().join("other.csv");
    std::fs::write(&other, format!("{header}\nelse,10,e,latency-1,100,0.5\n")).expect("written");
    let message = import(&[other], None, None, &run, "kiln import").expect_err("another set").to_string();
    assert!(message.contains("other.csv") && message.contains("choose another --out"), "{message}");
    // A header of another version of the schema.
    let text = std::fs::read_to_string(run.join("run.json")).expect("there").replace("\"schema\": 1", "\"schema\": 99");
    std::fs::write(run.join("run.json"), text).expect("written");
    let again = folder.path().join("whole.csv");
    let message = import(&[again], None, None, &run, "kiln import").expect_err("of another version").to_string();
    assert!(message.contains("schema version 99"), "{message}");
}
