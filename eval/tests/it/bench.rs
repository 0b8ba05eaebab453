//! `run_bench` from beginning to end on the embedded demo: measured, judged, kept, and resumed after a crash.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_builder::{BuildRequest, IndexKind, IndexParams, Navigate, Residency};
use kiln_datasets::{Dataset, MemorySource};
use kiln_eval::metrics;
use kiln_eval::record::{LATENCY_RUNS, Mode, RunData, SettingRecord};
use kiln_eval::{Engine, EvalError, IndexSpec, Plan, SearchGrid, load, run_bench};
use kiln_kernels::{CpuBackend, Metric, NoProgress, Rows};
use ndarray::Array2;

use crate::common::{demo, quick, small};

fn plan(out: &Path, indexes: Vec<IndexSpec>) -> Plan {
    Plan { modes: vec![Mode::Latency1, Mode::Throughput { threads: 2 }], ..searched(out, indexes, &[10, 80], &[1, 32]) }
}

/// As `plan`, in latency mode alone, with these search lists and probes.
fn searched(out: &Path, indexes: Vec<IndexSpec>, search_lists: &[usize], nprobes: &[usize]) -> Plan {
    let search = SearchGrid {
        search_lists: search_lists.to_vec(),
        navigate: vec![Navigate::Exact],
        nprobes: nprobes.to_vec(),
        reranks: vec![],
    };
    Plan {
        modes: vec![Mode::Latency1],
        engines: indexes.into_iter().map(|index| Engine::Kiln { index, search: search.clone() }).collect(),
        ..quick(out)
    }
}

/// As `plan`, with these search lists.
fn with_lists(plan: &Plan, search_lists: &[usize]) -> Plan {
    let mut plan = plan.clone();
    for engine in &mut plan.engines {
        if let Engine::Kiln { search, .. } = engine {
            search.search_lists = search_lists.to_vec();
        }
    }
    plan
}

fn both() -> Vec<IndexSpec> {
    [IndexKind::Vamana, IndexKind::IvfPq].map(|kind| IndexSpec::Build(small(kind))).into()
}

fn bench(plan: &Plan, dataset: &Dataset) -> Result<RunData, EvalError> {
    run_bench(plan, dataset, &CpuBackend::new(), &NoProgress)
}

/// Modification times of all index files: a rebuild would change them.
fn index_times(out: &Path) -> Vec<(PathBuf, std::time::SystemTime)> {
    let entries = fs::read_dir(out.join("indexes")).expect("readable").map(|entry| entry.expect("readable").path());
    let mut times: Vec<_> =
        entries.map(|path| (path.clone(), fs::metadata(&path).and_then(|m| m.modified()).expect("readable"))).collect();
    times.sort();
    times
}

fn lines(out: &Path, file: &str) -> usize {
    fs::read_to_string(out.join(file)).expect("readable").lines().count()
}

fn check_setting(setting: &SettingRecord) {
    assert_eq!(setting.failure, None);
    let answers = &setting.answers;
    for length in [answers.strict_hits.len(), answers.possible.len(), answers.hops.len(), answers.bytes.len()] {
        assert_eq!(length, 500);
    }
    assert!(answers.possible.iter().all(|&possible| possible == 10));
    assert!(answers.distances.iter().all(|&distances| distances > 0));
    assert!(setting.runs.len() >= 3);
    assert!(setting.runs.iter().map(|run| run.seconds).sum::<f64>() >= 0.15);
    let timed: Vec<_> = setting.runs.iter().filter(|run| !run.latency_us.is_empty()).collect();
    assert!((3..=LATENCY_RUNS).contains(&timed.len()));
    for run in timed {
        assert_eq!(run.latency_us.len(), 500);
        // Threads cannot be busy for longer than the pass lasts.
        let busy: f64 = run.latency_us.iter().map(|&us| f64::from(us) * 1e-6).sum();
        assert!(busy > 0.0 && busy <= run.seconds * setting.mode.threads() as f64 * 1.001, "{busy} {}", run.seconds);
    }
    assert!(setting.warmup.seconds > 0.0);
}

#[test]
fn a_run_is_measured_judged_kept_and_resumed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("run");
    let (plan, dataset) = (plan(&out, both()), demo());
    let data = bench(&plan, &dataset).expect("measured");
    // Not assert_eq: thousands of figures on the screen help nobody.
    assert!(load(&out).expect("kept") == data, "what is read back differs");

    let header = &data.header;
    assert_eq!((header.dataset.rows, header.dataset.dim, header.dataset.queries), (10_000, 128, 500));
    assert_eq!(header.dataset.sha256.as_ref().map(String::len), Some(64));
    assert!(header.dataset.warnings.is_empty(), "{:?}", header.dataset.warnings);
    let known: Vec<f32> = header.dataset.query_lid.iter().flatten().copied().collect();
    assert!(known.len() > 450 && known.iter().all(|lid| (1.0..100.0).contains(lid)));
    assert!(header.quick && header.k == 10);
    let noise = header.noise.as_ref().expect("checked before all else");
    assert!(noise.first.len() >= 3 && noise.second.len() >= 3 && noise.noise().is_some(), "{noise:?}");

    assert_eq!((data.builds.len(), data.settings.len()), (2, 8));
    for build in &data.builds {
        assert!(build.total_seconds > 0.0 && build.serving_bytes > 0);
        assert_eq!(fs::metadata(&build.path).expect("built").len(), build.index_bytes);
        let of_build: Vec<_> = data.settings.iter().filter(|setting| setting.build_key == build.key).collect();
        assert_eq!(of_build.len(), 4);
        for mode in [Mode::Latency1, Mode::Throughput { threads: 2 }] {
            let mut recalls: Vec<f64> =
                of_build.iter().filter(|s| s.mode == mode).filter_map(|s| metrics::recall(s)).collect();
            recalls.sort_by(f64::total_cmp);
            assert!(recalls[0] < recalls[1] && recalls[1] > 0.9, "{}: {recalls:?}", build.index);
        }
    }
    data.settings.iter().for_each(check_setting);

    // Again: nothing is left to do.
    let times = index_times(&out);
    let again = bench(&plan, &dataset).expect("nothing to do");
    assert!(again == data, "a finished run changed");
    assert_eq!(index_times(&out), times);
    assert_eq!(lines(&out, "settings.jsonl"), 8);

    // One more search list: only its two settings are measured, and nothing is built.
    let wider = with_lists(&plan, &[10, 20, 80]);
    let more = bench(&wider, &dataset).expect("two more");
    assert_eq!((more.settings.len(), more.builds.len()), (10, 2));
    assert_eq!(index_times(&out), times);

    // kill -9: the last line is torn and the one before it lost with its block.
    let path = out.join("settings.jsonl");
    let text = fs::read_to_string(&path).expect("readable");
    let whole: Vec<&str> = text.lines().collect();
    fs::write(&path, format!("{}\n{}", whole[..8].join("\n"), &whole[8][..40])).expect("written");
    let repaired = bench(&wider, &dataset).expect("resumed");
    assert_eq!((repaired.settings.len(), lines(&out, "settings.jsonl")), (10, 10));
    assert!(repaired.settings[..8] == data.settings, "settings that were kept changed");
    assert_eq!(index_times(&out), times);

    // A crash after a build and before its record: the report beside the index tells what it cost.
    fs::write(out.join("builds.jsonl"), "").expect("written");
    let kept = bench(&wider, &dataset).expect("resumed");
    assert_eq!((kept.builds, index_times(&out)), (data.builds.clone(), times));

    // A lost index is built again only when something of it is left to measure.
    fs::remove_file(&data.builds[0].path).expect("removed");
    assert!(bench(&wider, &dataset).expect("nothing to do").settings == repaired.settings, "a finished run changed");
    let widest = with_lists(&plan, &[40]);
    assert_eq!(bench(&widest, &dataset).expect("rebuilt").settings.len(), 12);
    assert!(Path::new(&data.builds[0].path).is_file());
}

#[test]
fn a_folder_of_another_run_is_refused_with_a_remedy() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let ivf = vec![IndexSpec::Build(small(IndexKind::IvfPq))];
    let (plan, dataset) = (searched(folder.path(), ivf, &[], &[1]), demo());
    bench(&plan, &dataset).expect("measured");
    let refused = |plan: Plan, dataset: &Dataset| bench(&plan, dataset).expect_err("another run").to_string();
    let message = refused(Plan { k: 5, ..plan.clone() }, &dataset);
    assert!(message.contains("k is 10") && message.contains("is 5; choose another --out"), "{message}");
    let message = refused(Plan { queries: Some(7), ..plan.clone() }, &dataset);
    assert!(message.contains("number of queries is 500") && message.contains("is 7;"), "{message}");
    let message = refused(Plan { quick: false, ..plan.clone() }, &dataset);
    assert!(message.contains("quick") && message.contains("choose another --out"), "{message}");
    let message = refused(Plan { metric: Some(Metric::Cosine), ..plan.clone() }, &dataset);
    assert!(message.contains("l2") && message.contains("cosine"), "{message}");
    let mut other = demo();
    other.fingerprint = "other".to_string();
    let message = refused(plan.clone(), &other);
    assert!(message.contains("data set") && message.contains("choose another --out"), "{message}");
    let message = refused(Plan { k: 101, ..plan }, &dataset);
    assert!(message.contains("k 101") && message.contains("100 neighbours"), "{message}");
}

#[test]
fn a_file_is_measured_from_the_drive_and_truth_is_computed_where_there_is_none() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let rows = |n: usize, seed: usize| {
        let cell = |(i, j): (usize, usize)| (((i * 31 + j * 17 + seed) * 2_654_435_761) % 1009) as f32;
        Rows::F32(Array2::from_shape_fn((n, 8), cell))
    };
    let mut dataset = demo();
    dataset.name = "made".to_string();
    dataset.fingerprint = "made".to_string();
    dataset.base = Box::new(MemorySource::new(rows(600, 0), "made"));
    dataset.queries = Some(Box::new(MemorySource::new(rows(40, 5), "made")));
    dataset.truth = None;
    let index = folder.path().join("made.kiln");
    let request = BuildRequest {
        source: dataset.base.as_ref(),
        dataset_name: dataset.name.clone(),
        dataset_fingerprint: dataset.fingerprint.clone(),
        metric: Metric::L2,
        params: IndexParams::defaults(IndexKind::Vamana, 600, 8),
        keep_dtype: false,
        out: &index,
    };
    kiln_builder::build(&CpuBackend::new(), &request, &NoProgress).expect("built");
    let out = folder.path().join("run");
    let plan = Plan { placements: vec![Residency::Ssd.into()], ..plan(&out, vec![IndexSpec::Open(index.clone())]) };
    let data = bench(&plan, &dataset).expect("measured");
    assert_eq!((data.builds.len(), data.settings.len()), (1, 4));
    assert_eq!(data.builds[0].path, index.display().to_string());
    assert!(data.builds[0].total_seconds > 0.0, "the report beside the file was read");
    for setting in &data.settings {
        assert_eq!((setting.residency.as_str(), &setting.failure), ("ssd", &None));
        assert!(metrics::recall(setting).is_some_and(|recall| recall > 0.8));
        assert!(metrics::pages_per_query(setting).is_some_and(|pages| pages >= 1.0));
    }
    assert!(bench(&plan, &dataset).expect("nothing to do") == data, "a finished run changed");

    dataset.fingerprint = "other".to_string();
    let message = bench(&Plan { out: folder.path().join("new"), ..plan }, &dataset).expect_err("foreign").to_string();
    assert!(message.contains("made.kiln") && message.contains("other)"), "{message}");
}

#[test]
fn a_damaged_index_costs_its_settings_and_not_the_run() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let dataset = demo();
    let indexes = vec![IndexSpec::Build(small(IndexKind::IvfPq))];
    let at = |nprobes: &[usize]| Plan {
        placements: vec![Residency::Ssd.into()],
        ..searched(folder.path(), indexes.clone(), &[], nprobes)
    };
    let plan = at(&[1]);
    let data = bench(&plan, &dataset).expect("measured");
    let path = &data.builds[0].path;
    // The middle of the file is vectors or lists, which are checked page by page when they are read.
    let mut bytes = fs::read(path).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 200_000].fill(0xAA);
    fs::write(path, bytes).expect("written");
    let data = bench(&at(&[1, 32]), &dataset).expect("the run goes on");
    let failed: Vec<_> = data.settings.iter().filter(|setting| setting.failure.is_some()).collect();
    assert_eq!((data.settings.len(), failed.len()), (2, 1));
    assert!(failed[0].runs.is_empty() && failed[0].failure.as_ref().is_some_and(|f| f.contains("kiln")), "{failed:?}");
}
