//! Batches on a device: what a run measures there, and what it says where there is none.

use std::path::{Path, PathBuf};

use kiln_builder::{IndexKind, Navigate, Residency};
use kiln_eval::record::{Mode, RunData, SettingRecord};
use kiln_eval::{Engine, IndexSpec, Plan, PlanError, SearchGrid, metrics, run_bench};
use kiln_kernels::conformance::enrolled;
use kiln_kernels::cuda::{CudaBackend, Emulation};
use kiln_kernels::wgpu::{WgpuBackend, WgpuOptions};
use kiln_kernels::{Backend, CpuBackend, NoProgress};

use crate::common::{demo, quick, small};

const MODES: [Mode; 3] =
    [Mode::Latency1, Mode::BatchDevice { transfers: true }, Mode::BatchDevice { transfers: false }];

fn built() -> Vec<IndexSpec> {
    [IndexKind::Vamana, IndexKind::IvfPq].map(|kind| IndexSpec::Build(small(kind))).into()
}

/// A graph and lists, in memory and on the drive, by a few queries: the emulator takes its time.
fn plan(out: &Path, indexes: Vec<IndexSpec>) -> Plan {
    let search = SearchGrid {
        search_lists: vec![20],
        navigate: vec![Navigate::Exact, Navigate::Codes],
        nprobes: vec![8],
        reranks: vec![],
    };
    Plan {
        engines: indexes.into_iter().map(|index| Engine::Kiln { index, search: search.clone() }).collect(),
        modes: MODES.to_vec(),
        placements: vec![Residency::Memory.into(), Residency::Ssd.into()],
        queries: Some(12),
        ..quick(out)
    }
}

/// Settings of a mode, each of a graph in memory: what else there is has none.
fn of_mode(data: &RunData, mode: Mode) -> Vec<&SettingRecord> {
    let found: Vec<_> = data.settings.iter().filter(|setting| setting.mode == mode).collect();
    if mode.is_on_device() {
        let graphs = |key: &str| data.builds.iter().any(|build| build.key == key && build.index == "vamana");
        assert!(found.iter().all(|setting| graphs(&setting.build_key) && setting.residency == "memory"));
        // By exact distances, once, whatever ways there are to navigate.
        assert!(found.iter().all(|setting| setting.params["navigate"] == "exact") && found.len() == 1, "{found:?}");
    }
    found
}

/// On `backend`, of indexes that are there: building them would take the emulator minutes.
fn measures_batches(backend: &impl Backend, indexes: &[IndexSpec]) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let plan = plan(folder.path(), indexes.to_vec());
    let data = run_bench(&plan, &demo(), backend, &NoProgress).expect("measured");
    assert_eq!(of_mode(&data, Mode::Latency1).len(), 6);
    let exact = of_mode(&data, Mode::Latency1).into_iter().find(|setting| {
        setting.residency == "memory" && setting.params.get("navigate").is_some_and(|way| way == "exact")
    });
    let exact = exact.expect("measured");
    for mode in &MODES[1..] {
        let setting = of_mode(&data, *mode)[0];
        assert_eq!((&setting.failure, setting.device.as_deref()), (&None, Some(backend.describe().as_str())));
        assert_eq!(metrics::recall(setting), metrics::recall(exact), "bytes are compared exactly");
        assert_eq!(setting.answers.hops, exact.answers.hops);
        assert!(setting.answers.distances.is_empty(), "a device does not count them");
        assert!(setting.runs.len() >= 3 && setting.runs.iter().all(|run| run.seconds > 0.0));
        assert!(setting.runs.iter().all(|run| run.latency_us.is_empty()));
    }
    assert!(exact.device.is_none());
    let again = run_bench(&plan, &demo(), backend, &NoProgress).expect("nothing to do");
    assert_eq!(again, data, "a run that is complete is not measured again");
}

#[test]
fn a_device_answers_whole_query_sets() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let builds = Plan { modes: vec![], ..plan(folder.path(), built()) };
    let built = run_bench(&builds, &demo(), &CpuBackend::new(), &NoProgress).expect("built").builds;
    let indexes: Vec<IndexSpec> = built.iter().map(|build| IndexSpec::Open(PathBuf::from(&build.path))).collect();
    let wgpu = WgpuBackend::probe(&WgpuOptions { software: true, ..WgpuOptions::default() });
    if let Some(backend) = enrolled("wgpu", "batches", wgpu) {
        measures_batches(&backend, &indexes);
    }
    if let Some(backend) = enrolled("cuda_emulated", "batches", CudaBackend::emulated(Emulation::default())) {
        measures_batches(&backend, &indexes);
    }
}

#[test]
fn without_a_device_the_rest_is_measured() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = run_bench(&plan(folder.path(), built()), &demo(), &CpuBackend::new(), &NoProgress).expect("measured");
    assert!(of_mode(&data, Mode::Latency1).iter().all(|setting| setting.failure.is_none()));
    for mode in &MODES[1..] {
        let failure = of_mode(&data, *mode)[0].failure.as_deref().expect("kept as a failure");
        assert!(failure.contains("no device is at hand") && failure.contains("batch-T"), "{failure}");
    }
}

#[test]
fn a_plan_of_nothing_for_a_device_is_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let lists = plan(folder.path(), built().split_off(1));
    let on_drive = Plan { placements: vec![Residency::Ssd.into()], ..plan(folder.path(), built()) };
    for plan in [lists, on_drive] {
        let refused = run_bench(&plan, &demo(), &CpuBackend::new(), &NoProgress).expect_err("refused").to_string();
        let told = PlanError::NothingForDevice { mode: "batch-device".into() }.to_string();
        assert_eq!(refused, told);
        assert!(told.contains("vamana indexes in memory"), "{told}");
    }
}
