//! Runs that do not measure everything: pruned, short of time, tuned on some of the queries; and what resuming makes of it.

use std::path::Path;
use std::time::Duration;

use kiln_builder::{IndexKind, Navigate};
use kiln_eval::held_out::{HeldOut, choices, recall_of};
use kiln_eval::load::{LoadMode, Rate};
use kiln_eval::measure::Repeats;
use kiln_eval::open_loop::{IN_PROCESS, OpenLoop};
use kiln_eval::record::{Mode, RunData, Skip};
use kiln_eval::{Engine, IndexSpec, Plan, SearchGrid, metrics, run_bench};
use kiln_kernels::{CpuBackend, NoProgress};

use crate::common::{demo, quick, small};

const BRIEF: Repeats = Repeats { min_runs: 2, min_seconds: 0.02, warmup_seconds: 0.01, window_seconds: 0.002 };

fn plan(out: &Path, kind: IndexKind, search: SearchGrid) -> Plan {
    let index = IndexSpec::Build(small(kind));
    Plan { engines: vec![Engine::Kiln { index, search }], repeats: BRIEF, queries: Some(200), ..quick(out) }
}

fn bench(plan: &Plan) -> RunData {
    run_bench(plan, &demo(), &CpuBackend::new(), &NoProgress).expect("measured")
}

#[test]
fn settings_that_are_beaten_in_both_are_pruned_for_good() {
    let folder = tempfile::tempdir().expect("temporary folder");
    // Re-ranking thousands of candidates is slow; of one list it cannot be accurate, and of sixteen few are enough.
    let search = SearchGrid { nprobes: vec![1, 2, 16], reranks: vec![100, 9000], ..SearchGrid::default() };
    let plan = Plan { prune: true, ..plan(folder.path(), IndexKind::IvfPq, search) };
    let data = bench(&plan);
    assert_eq!(data.settings.len(), 6);
    let pruned: Vec<_> = data.settings.iter().filter(|setting| setting.skip == Some(Skip::Pruned)).collect();
    for setting in &pruned {
        let reason = setting.failure.as_deref().expect("a reason");
        assert!(reason.starts_with("pruned: a probe found recall 0.") && reason.contains("nprobe="), "{reason}");
        assert!(setting.runs.is_empty());
    }
    let measured: Vec<_> = data.settings.iter().filter(|setting| setting.failure.is_none()).collect();
    assert_eq!(measured.len() + pruned.len(), 6);
    // The most accurate is never beaten.
    let best = measured.iter().filter_map(|setting| metrics::recall(setting)).fold(0.0, f64::max);
    assert!(best > 0.8, "{best}");
    let again = bench(&plan);
    assert!(again == data, "a finished run changed");
}

#[test]
fn a_budget_is_kept_and_what_it_left_out_is_measured_later() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let search =
        SearchGrid { search_lists: vec![10, 20, 40], navigate: vec![Navigate::Exact], ..SearchGrid::default() };
    let whole = plan(folder.path(), IndexKind::Vamana, search);
    let none = Plan { budget: Some(Duration::ZERO), ..whole.clone() };
    let data = bench(&none);
    assert_eq!((data.settings.len(), data.builds.len()), (3, 0));
    for setting in &data.settings {
        assert_eq!(setting.skip, Some(Skip::TimeBudget));
        assert!(setting.failure.as_deref().is_some_and(|why| why.starts_with("time budget")), "{:?}", setting.failure);
    }
    // Enough to begin the build, and never for repeats without end.
    let endless = Repeats { min_runs: usize::MAX / 2, ..BRIEF };
    let short = Plan { budget: Some(Duration::from_secs(2)), repeats: endless, ..whole.clone() };
    let data = bench(&short);
    let late: Vec<_> = data.settings.iter().filter(|setting| setting.skip == Some(Skip::TimeBudget)).collect();
    assert_eq!((data.builds.len(), late.len()), (1, 6), "settings of other repeats are other settings");
    let data = bench(&whole);
    let measured = data.settings.iter().filter(|setting| setting.failure.is_none()).count();
    assert_eq!(measured, 3, "there is time now");
}

#[test]
fn a_setting_is_chosen_by_some_queries_and_reported_on_the_others() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let search =
        SearchGrid { search_lists: vec![10, 40, 160], navigate: vec![Navigate::Exact], ..SearchGrid::default() };
    let held_out = HeldOut { fraction: 0.25, seed: 7 };
    let plan = Plan {
        held_out: Some(held_out),
        modes: vec![Mode::Latency1, Mode::Batch { threads: 1 }],
        ..plan(folder.path(), IndexKind::Vamana, search)
    };
    let data = bench(&plan);
    let chosen = choices(&data);
    assert!(chosen.iter().any(|choice| choice.level == 0.9), "{chosen:?}");
    let mask = held_out.mask(200);
    assert_eq!(mask.iter().filter(|held| **held).count(), 50);
    for choice in &chosen {
        let setting = data.settings.iter().find(|setting| setting.key == choice.setting).expect("measured");
        assert!(choice.recall_tuned >= choice.level);
        assert_eq!(Some(choice.recall_tuned), recall_of(setting, Some(&mask), false));
        assert_eq!(Some(choice.recall_held_out), recall_of(setting, Some(&mask), true));
        assert_eq!(choice.latency_us_held_out.is_some(), choice.mode == "latency-1");
        // None that reaches the level is faster.
        let faster = data.settings.iter().filter(|other| other.mode == setting.mode).any(|other| {
            recall_of(other, Some(&mask), false).is_some_and(|recall| recall >= choice.level)
                && metrics::qps(other).is_some_and(|qps| qps.median > choice.qps)
        });
        assert!(!faster, "{choice:?}");
    }
    let other = Plan { held_out: None, ..plan };
    let refused = run_bench(&other, &demo(), &CpuBackend::new(), &NoProgress).expect_err("another run").to_string();
    assert!(refused.contains("held-out part is 0.25 by seed 7") && refused.contains("is none"), "{refused}");
}

#[test]
fn builds_alone_are_measured_where_no_mode_is_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let plan = Plan { modes: vec![], ..plan(folder.path(), IndexKind::IvfPq, SearchGrid::default()) };
    let data = bench(&plan);
    assert_eq!((data.builds.len(), data.settings.len(), &data.header.noise), (1, 0, &None));
    assert!(data.builds[0].total_seconds > 0.0 && data.builds[0].serving_bytes > 0);
    assert!(bench(&plan) == data, "a finished run changed");
}

#[test]
fn loads_are_offered_once_at_the_fastest_setting_that_reaches_the_recall() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let search = SearchGrid { search_lists: vec![10, 40], navigate: vec![Navigate::Exact], ..SearchGrid::default() };
    let plan = plan(folder.path(), IndexKind::Vamana, search);
    let recalls: Vec<f64> = bench(&plan).settings.iter().filter_map(metrics::recall).collect();
    let [least, most] = [recalls[0].min(recalls[1]), recalls[0].max(recalls[1])];
    assert!(least < most, "{recalls:?}");
    let open_loop = OpenLoop {
        recall: most,
        rates: vec![Rate::OfCapacity(0.3), Rate::PerSecond(400.0), Rate::OfCapacity(3.0)],
        threads: 2,
        duration: Duration::from_millis(300),
    };
    let plan = Plan { open_loop: Some(open_loop.clone()), ..plan };
    let data = bench(&plan);
    let (closed, open) = data.loads.split_first().expect("loads");
    let capacity = closed.achieved_rate;
    assert!(closed.mode == LoadMode::ClosedLoop && capacity > 400.0 && closed.capacity.is_none(), "{closed:?}");
    let offered: Vec<f64> = open.iter().map(|load| load.offered_rate).collect();
    assert_eq!(offered, [0.3 * capacity, 400.0, 3.0 * capacity]);
    for load in open {
        assert_eq!((load.url.as_str(), load.connections, load.capacity), (IN_PROCESS, 2, Some(capacity)));
        assert_eq!(load.params["search_list"], 40, "ten are too few");
        assert!(load.latency_us.p50 > 0.0 && load.recall == Some(most), "{load:?}");
    }
    assert!(open[..2].iter().all(|load| load.errors.is_empty()), "{open:?}");
    // Thrice what it can: it falls behind, and whoever waits is counted from when he came.
    assert!(open[2].saturated && open[2].latency_us.p50 > 10.0 * closed.latency_us.p50, "{:?}", open[2]);
    assert!(bench(&plan) == data, "a finished run changed");
    // Other loads are another measurement; a recall that nothing reaches is none.
    let more = OpenLoop { rates: vec![Rate::OfCapacity(0.5)], ..open_loop.clone() };
    let data = bench(&Plan { open_loop: Some(more), ..plan.clone() });
    assert_eq!(data.loads.len(), 1 + open.len() + 2);
    let unreached = Plan { open_loop: Some(OpenLoop { recall: 1.1, ..open_loop }), ..plan };
    assert_eq!(bench(&unreached).loads.len(), data.loads.len());
}
