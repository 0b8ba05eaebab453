//! Other libraries beside Kiln: judged as it is, and none of them able to end a run, however it behaves.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kiln_builder::Residency;
use kiln_datasets::{Dataset, MemorySource};
use kiln_eval::measure::Repeats;
use kiln_eval::record::{Mode, RunData, SettingRecord, Skip};
use kiln_eval::{Engine, PeerLimits, PeerSpec, Plan, load, metrics, run_bench};
use kiln_kernels::{CpuBackend, NoProgress, Rows};
use ndarray::Array2;
use serde_json::json;

use crate::common::{demo, quick};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/peer.py");

/// Whether there is a Python to run peers with; says so where there is none.
fn has_python() -> bool {
    let there = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("SKIPPED: there is no python3 to run a peer with");
    }
    there
}

/// 60 rows of 3 coordinates and 8 queries, without truth.
fn small_set() -> Dataset {
    let rows = |n: usize, seed: usize| {
        let cell = |(i, j): (usize, usize)| (((i * 31 + j * 17 + seed) * 2_654_435_761) % 1009) as f32;
        Rows::F32(Array2::from_shape_fn((n, 3), cell))
    };
    let mut dataset = demo();
    dataset.name = "made".to_string();
    dataset.fingerprint = "made".to_string();
    dataset.base = Box::new(MemorySource::new(rows(60, 0), "made"));
    dataset.queries = Some(Box::new(MemorySource::new(rows(8, 5), "made")));
    dataset.truth = None;
    dataset
}

fn peer(behaviour: &str) -> PeerSpec {
    let seconds = Duration::from_secs;
    let limits =
        PeerLimits { memory: Some(256 << 20), start: seconds(20), build: seconds(20), search: Duration::from_secs(20) };
    PeerSpec {
        name: behaviour.to_string(),
        command: ["python3", SCRIPT, behaviour].map(String::from).to_vec(),
        residency: Residency::Memory,
        build: [("M".to_string(), json!(16))].into(),
        searches: [1, 2, 3].map(|ef| [("ef".to_string(), json!(ef))].into()).to_vec(),
        threads: 1,
        limits,
    }
}

fn plan(out: &Path, peers: Vec<PeerSpec>) -> Plan {
    Plan {
        k: 5,
        engines: peers.into_iter().map(Engine::Peer).collect(),
        repeats: Repeats { min_runs: 2, min_seconds: 0.0, warmup_seconds: 0.0, window_seconds: 0.0 },
        ..quick(out)
    }
}

fn bench(plan: &Plan, dataset: &Dataset) -> RunData {
    run_bench(plan, dataset, &CpuBackend::new(), &NoProgress).expect("the run goes on")
}

fn of<'a>(data: &'a RunData, name: &str) -> Vec<&'a SettingRecord> {
    let build = data.builds.iter().find(|build| build.index == name);
    let mut settings: Vec<_> =
        data.settings.iter().filter(|setting| build.is_some_and(|build| build.key == setting.build_key)).collect();
    settings.sort_by_key(|setting| setting.params["ef"].as_u64());
    settings
}

#[test]
fn a_peer_is_measured_judged_kept_and_not_measured_again() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("out of é");
    let modes = vec![Mode::Latency1, Mode::Throughput { threads: 1 }, Mode::Batch { threads: 1 }];
    let noop = ["python3", SCRIPT, "good"].map(String::from).to_vec();
    let plan = Plan { modes, noop: Some(noop), ..plan(&out, vec![peer("good")]) };
    let dataset = small_set();
    let data = bench(&plan, &dataset);
    assert!(load(&out).expect("kept") == data, "what is read back differs");

    assert_eq!(data.builds.len(), 1);
    let build = &data.builds[0];
    assert_eq!((build.index.as_str(), build.device.as_str(), build.index_bytes), ("good", "good 7.1", 1234));
    assert!(build.total_seconds > 0.0 && build.peak_rss_bytes > 0 && build.dtype == "float32");
    assert_eq!(data.settings.len(), 9);
    for setting in &data.settings {
        assert_eq!((&setting.failure, setting.runs.len() >= 2), (&None, true), "{setting:?}");
        let recall = metrics::recall(setting).expect("judged");
        let ef = setting.params["ef"].as_u64().expect("a number");
        assert!(if ef == 1 { recall < 0.9 } else { recall == 1.0 }, "{ef}: {recall}");
        assert!(metrics::qps(setting).is_some_and(|qps| qps.median > 0.0) && metrics::queries(setting) == 8);
        let times = setting.runs.iter().all(|run| run.latency_us.len() == 8);
        assert_eq!(times, setting.mode != Mode::Batch { threads: 1 });
    }
    let noise = data.header.noise.as_ref().expect("checked where there is no index of Kiln's, too");
    assert_eq!((noise.index.as_str(), noise.first.len() >= 2), ("good", true));
    // This one is not made to do without search parameters: what the protocol costs is unknown, and nothing else is lost.
    assert_eq!(data.header.peer_overhead, None);
    assert!(!out.join("peers/vectors").exists(), "the vectors are left behind");
    assert!(bench(&plan, &dataset) == data, "a finished run changed");
}

#[test]
fn whatever_a_peer_does_costs_a_setting_and_not_the_run() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    // What it does where ef is 2, and what is then said of it.
    let cases = [
        ("garbage", "it wrote \"Loading the index ... done\" while searching"),
        ("binary", "where an event was expected"),
        ("endless line", "a line of more than"),
        ("wrong event", "it said `built` where `searched` was expected"),
        ("sleep", "it did not answer within"),
        ("close", "it closed its standard output"),
        ("kill", "SIGKILL"),
        ("abort", "by signal 6"),
        ("heir", "by signal 6"),
        ("die later", "by signal 6"),
        ("exit", "exit code 3; its last words: the disk is on fire"),
        ("memory", "out of memory: "),
        ("say error", "it said, while searching: ef must be odd"),
        ("too few ids", "its answers are 8 x 4, and 8 queries x 5 ids are wanted"),
        ("too few queries", "its answers are 7 x 5"),
        ("too many", "its answers are 8 x 6"),
        ("negative", "its answer 0 to query 1 is -7"),
        ("foreign", "its answer 2 to query 1 is 60, which is no row: 0 to 59 are"),
        ("slower than light", "took -1 s"),
        ("longer than it was", "it says that it took"),
        ("fewer passes", "it timed 0 passes"),
        ("long latencies", "the latencies of pass 0 are"),
        ("no answers", "it did not write answers.npy"),
    ];
    let mut peers: Vec<PeerSpec> = cases.iter().map(|(behaviour, _)| peer(behaviour)).collect();
    for hasty in peers.iter_mut().filter(|peer| ["sleep", "close"].contains(&peer.name.as_str())) {
        hasty.limits.search = Duration::from_secs(2);
    }
    peers.push(peer("good"));
    let data = bench(&plan(folder.path(), peers), &small_set());
    for (behaviour, said) in cases {
        let settings = of(&data, behaviour);
        assert_eq!(settings.len(), 3, "{behaviour}");
        for sound in [settings[0], settings[2]] {
            assert_eq!(sound.failure, None, "{behaviour}");
        }
        let failure = settings[1].failure.as_deref().unwrap_or_else(|| panic!("{behaviour}: it was not found out"));
        assert!(failure.contains(said), "{behaviour}: {failure}");
        assert!(settings[1].runs.is_empty() && settings[1].skip.is_none());
    }
    assert!(of(&data, "good").iter().all(|setting| setting.failure.is_none()), "the run did not go on");
}

/// A library that was replaced between two runs is another one.
#[test]
fn another_version_of_a_peer_is_not_mixed_in() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let plan = plan(folder.path(), vec![peer("say error")]);
    bench(&plan, &small_set());
    let builds = folder.path().join("builds.jsonl");
    let older = std::fs::read_to_string(&builds).expect("read").replace("say error 7.1", "say error 6.0");
    std::fs::write(&builds, older).expect("written");
    // The setting that failed is tried again.
    let data = bench(&plan, &small_set());
    let settings = of(&data, "say error");
    let failure = settings[1].failure.as_deref().expect("not measured");
    assert!(failure.contains("it is say error 7.1 now, and this run has measured say error 6.0"), "{failure}");
    assert!(settings[0].failure.is_none() && settings[2].failure.is_none());
}

#[test]
fn missing_answers_and_duplicates_are_misses_and_no_fault() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = bench(&plan(folder.path(), vec![peer("padded"), peer("duplicate")]), &small_set());
    for (behaviour, expected) in [("padded", 0.8), ("duplicate", 0.2)] {
        let settings = of(&data, behaviour);
        assert_eq!(settings[1].failure, None);
        let recall = metrics::recall(settings[1]).expect("judged");
        assert!((recall - expected).abs() < 1e-12, "{behaviour}: {recall}");
        assert_eq!(metrics::recall(settings[2]), Some(1.0));
    }
}

#[test]
fn a_peer_that_never_has_an_index_loses_all_its_settings_with_one_reason() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let start = Duration::from_millis(500);
    let mut late = peer("never starts");
    late.limits.start = start;
    let missing = PeerSpec { command: vec!["/no/such/program".into()], ..peer("missing") };
    let cases = [
        (late, "it did not answer within 0.5 s when it was started"),
        (peer("other protocol"), "it speaks version 2 of the protocol"),
        (peer("build dies"), "it ended while building with exit code 1; its last words: no such luck"),
        (missing, "cannot start /no/such/program"),
    ];
    let peers = cases.iter().map(|(peer, _)| peer.clone()).chain([peer("good")]).collect();
    let data = bench(&plan(folder.path(), peers), &small_set());
    assert_eq!((data.builds.len(), data.settings.len()), (1, 15));
    for (number, (peer, said)) in cases.iter().enumerate() {
        for setting in &data.settings[3 * number..3 * number + 3] {
            let failure = setting.failure.as_deref().expect("failed");
            assert!(failure.contains(said), "{}: {failure}", peer.name);
        }
    }
    assert!(data.settings[12..].iter().all(|setting| setting.failure.is_none()));
}

#[test]
fn a_peer_that_changes_the_vectors_loses_what_it_measured_and_no_other_does() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = bench(&plan(folder.path(), vec![peer("mutate"), peer("good")]), &small_set());
    let changed = of(&data, "mutate");
    assert_eq!(changed.len(), 3);
    for setting in changed {
        let failure = setting.failure.as_deref().expect("not comparable");
        assert!(failure.contains("it changed base.float32.npy") && setting.runs.is_empty(), "{failure}");
    }
    let good = of(&data, "good");
    assert!(good.iter().all(|setting| setting.failure.is_none()), "{:?}", good[0].failure);
    assert_eq!(metrics::recall(good[2]), Some(1.0), "the vectors were made again");
}

#[test]
fn a_peer_has_a_budget_as_everybody_has() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let late = Plan { budget: Some(Duration::ZERO), ..plan(folder.path(), vec![peer("good")]) };
    let data = bench(&late, &small_set());
    assert_eq!(data.settings.len(), 3);
    assert!(data.settings.iter().all(|setting| setting.skip == Some(Skip::TimeBudget)));
    // There is time now: what was skipped is measured.
    let data = bench(&Plan { budget: None, ..late }, &small_set());
    assert!(data.settings.len() == 3 && data.settings.iter().all(|setting| setting.failure.is_none()));
}

#[test]
fn a_build_longer_than_its_part_of_the_budget_is_not_in_vain() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    // Four seconds of building, of which three are this peer's: there are eight yet to measure in.
    let peers = ["builds slowly", "good", "padded", "duplicate"].map(peer).to_vec();
    let data = bench(&Plan { budget: Some(Duration::from_secs(12)), ..plan(folder.path(), peers) }, &small_set());
    let slow = of(&data, "builds slowly");
    assert!(slow.len() == 3 && slow.iter().all(|setting| setting.failure.is_none()), "{:?}", slow[0].failure);
}
