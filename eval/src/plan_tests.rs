//! Sweeps, keys and refusals of a plan.

use std::collections::BTreeSet;

use kiln_builder::Residency;

use super::*;

fn plan() -> Plan {
    let index = IndexSpec::Build(IndexParams::defaults(IndexKind::Vamana, 1000, 16));
    Plan {
        out: "run".into(),
        command: "kiln bench".into(),
        k: 10,
        metric: None,
        engines: vec![Engine::Kiln { index, search: exact() }],
        modes: vec![Mode::Latency1, Mode::Throughput { threads: 1 }, Mode::Throughput { threads: 2 }],
        placements: vec![Placement::Memory],
        queries: None,
        repeats: Repeats::FULL,
        quick: false,
        held_out: None,
        budget: None,
        prune: false,
        open_loop: None,
        noop: None,
        seed: 1,
    }
}

fn exact() -> SearchGrid {
    SearchGrid { navigate: vec![Navigate::Exact], ..SearchGrid::default() }
}

fn lists_of(plan: &Plan, search: &SearchGrid, n: u64) -> Vec<usize> {
    let of = |effort| match effort {
        Effort::Graph { search_list, .. } => search_list,
        Effort::Lists { .. } => unreachable!("asked for a graph"),
    };
    plan.efforts(search, IndexKind::Vamana, None, n).into_iter().map(of).collect()
}

fn lists(plan: &Plan, n: u64) -> Vec<usize> {
    lists_of(plan, &exact(), n)
}

fn probes_of(plan: &Plan, search: &SearchGrid, nlist: usize) -> Vec<usize> {
    let of = |effort| match effort {
        Effort::Lists { nprobe, .. } => nprobe,
        Effort::Graph { .. } => unreachable!("asked for an inverted file"),
    };
    plan.efforts(search, IndexKind::IvfPq, Some(nlist), 1_000_000).into_iter().map(of).collect()
}

fn probes(plan: &Plan, nlist: usize) -> Vec<usize> {
    probes_of(plan, &exact(), nlist)
}

#[test]
fn default_sweeps_follow_k_and_nlist() {
    assert_eq!(lists(&plan(), 1_000_000), [10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 400]);
    assert_eq!(lists(&Plan { k: 1, ..plan() }, 1_000_000)[..3], [10, 15, 20]);
    assert_eq!(lists(&Plan { k: 100, quick: true, ..plan() }, 1_000_000), [100, 200, 400, 800, 1600]);
    assert_eq!(lists(&plan(), 50), [10, 15, 20, 30, 40, 50]);
    assert_eq!(probes(&plan(), 2048), [1, 2, 4, 8, 16, 32, 64, 128, 256]);
    assert_eq!(probes(&plan(), 40), [1, 2, 4, 8, 16, 32]);
    assert_eq!(probes(&Plan { quick: true, ..plan() }, 256), [1, 4, 16, 64]);
    assert_eq!(probes(&plan(), 1), [1]);
}

#[test]
fn what_is_asked_for_is_clamped_to_what_the_search_does() {
    let asked = SearchGrid { search_lists: vec![500, 5, 8, 20], nprobes: vec![64, 3, 999], ..exact() };
    assert_eq!(lists_of(&plan(), &asked, 100), [10, 20, 100]);
    assert_eq!(probes_of(&plan(), &asked, 64), [3, 64]);
    let effort = plan().efforts(&SearchGrid { reranks: vec![3], ..asked }, IndexKind::IvfPq, Some(64), 1000)[0];
    assert_eq!(effort, Effort::Lists { nprobe: 3, rerank: 10 });
}

#[test]
fn a_grid_is_the_product_of_its_sides() {
    let grid = SearchGrid {
        search_lists: vec![20, 10],
        navigate: vec![Navigate::Codes, Navigate::Exact, Navigate::Codes],
        nprobes: vec![4, 2],
        reranks: vec![300, 100, 200],
    };
    assert_eq!(plan().efforts(&grid, IndexKind::Vamana, None, 1000).len(), 2 * 2);
    assert_eq!(plan().efforts(&grid, IndexKind::IvfPq, Some(64), 1000).len(), 2 * 3);
}

#[test]
fn modes_keep_their_order_without_repeats() {
    let names: Vec<String> = plan().modes().into_iter().map(Mode::name).collect();
    assert_eq!(names, ["latency-1", "throughput-1", "throughput-2"]);
    let batched =
        Plan { modes: vec![Mode::Batch { threads: 2 }, Mode::Latency1, Mode::Batch { threads: 2 }], ..plan() };
    let names: Vec<String> = batched.modes().into_iter().map(Mode::name).collect();
    assert_eq!(names, ["batch-2", "latency-1"]);
    for name in names {
        assert_eq!(name.parse::<Mode>().map(Mode::name), Ok(name));
    }
    for wrong in ["", "latency", "latency-2", "throughput-", "throughput-0", "batch-x", "batch-99999", "open-loop"] {
        assert!(wrong.parse::<Mode>().is_err_and(|why| why.contains("throughput-T")), "{wrong}");
    }
}

#[test]
fn keys_tell_every_difference_and_only_those() {
    let keys = |plan: &Plan, build: &str| -> BTreeSet<String> {
        let settings = plan.settings(build, &exact(), IndexKind::Vamana, None, 1000, "cpu");
        settings.into_iter().map(|setting| setting.key).collect()
    };
    let base = plan();
    let all = keys(&base, "a");
    assert_eq!(all.len(), 11 * 3);
    assert_eq!(all, keys(&Plan { out: "elsewhere".into(), seed: 9, command: String::new(), ..base.clone() }, "a"));
    for other in [
        keys(&base, "b"),
        keys(&Plan { placements: vec![Residency::Ssd.into()], ..base.clone() }, "a"),
        keys(&Plan { repeats: Repeats::QUICK, ..base.clone() }, "a"),
        keys(&Plan { k: 9, ..base.clone() }, "a"),
    ] {
        assert!(all.is_disjoint(&other));
    }
    let codes = SearchGrid { navigate: vec![Navigate::Codes], ..SearchGrid::default() };
    let by_codes = base.settings("a", &codes, IndexKind::Vamana, None, 1000, "cpu");
    assert!(by_codes.iter().all(|setting| !all.contains(&setting.key)));
    let everywhere = vec![Residency::Memory.into(), Residency::Ssd.into(), Residency::Memory.into()];
    assert_eq!(keys(&Plan { placements: everywhere, ..base.clone() }, "a").len(), 2 * 11 * 3);
    let params = IndexParams::defaults(IndexKind::Vamana, 1000, 16);
    let key = build_key("f", Metric::L2, &params, "cpu");
    assert_eq!(key, build_key("f", Metric::L2, &params, "cpu"));
    assert_ne!(key, build_key("g", Metric::L2, &params, "cpu"));
    assert_ne!(key, build_key("f", Metric::Cosine, &params, "cpu"));
    assert_ne!(key, build_key("f", Metric::L2, &params, "gpu"));
    assert_ne!(opened_key("f", b"page"), opened_key("f", b"pagf"));
}

#[test]
fn devices_have_settings_of_graphs_in_memory_by_exact_distances() {
    let (whole, resident) = (Mode::BatchDevice { transfers: true }, Mode::BatchDevice { transfers: false });
    for mode in [whole, resident] {
        assert_eq!(mode.name().parse(), Ok(mode));
    }
    let placements = vec![Residency::Memory.into(), Residency::Ssd.into()];
    let base = Plan { modes: vec![Mode::Latency1, whole, resident], placements, ..plan() };
    let grid = SearchGrid { search_lists: vec![20, 40], navigate: vec![Navigate::Best, Navigate::Codes], ..exact() };
    let on = |device: &str, kind| base.settings("a", &grid, kind, Some(64), 1000, device);
    let (settings, elsewhere) = (on("cuda", IndexKind::Vamana), on("wgpu", IndexKind::Vamana));
    let of = |mode: Mode| settings.iter().filter(move |setting| setting.mode == mode);
    assert_eq!(of(Mode::Latency1).count(), 2 * 2 * 2);
    for mode in [whole, resident] {
        let exactly = |list| Effort::Graph { search_list: list, navigate: Navigate::Exact };
        assert_eq!(of(mode).map(|one| one.effort).collect::<Vec<_>>(), [exactly(20), exactly(40)]);
        assert!(of(mode).all(|one| one.placement == Placement::Memory));
    }
    assert!(on("cuda", IndexKind::IvfPq).iter().all(|setting| setting.mode == Mode::Latency1));
    // What was measured on one device is not taken for another's.
    for (one, other) in settings.iter().zip(&elsewhere) {
        assert_eq!(one.key == other.key, one.mode == Mode::Latency1, "{one:?}");
    }
}

#[test]
fn keys_are_stable_across_versions() {
    // A key that changes makes every unfinished run start again: change it knowingly.
    let setting = &plan().settings("build", &exact(), IndexKind::Vamana, None, 1000, "cpu")[0];
    assert_eq!(setting.key, "033f26b8b3ac71fb");
}

#[test]
fn what_cannot_be_measured_is_refused_by_name() {
    let refused = |plan: Plan| plan.validate(100, 16).expect_err("refused").to_string();
    assert!(plan().validate(100, 16).is_ok());
    assert!(refused(Plan { k: 0, ..plan() }).starts_with("--k 0 is out of range: use 1 to 100"));
    assert!(refused(Plan { k: 101, ..plan() }).contains("--k 101"));
    for mode in [Mode::Throughput { threads: 0 }, Mode::Batch { threads: 0 }] {
        assert!(refused(Plan { modes: vec![mode], ..plan() }).contains("--threads 0"));
    }
    let index = IndexSpec::Open("x.kiln".into());
    let search = SearchGrid { nprobes: vec![0], ..SearchGrid::default() };
    assert!(refused(Plan { engines: vec![Engine::Kiln { index, search }], ..plan() }).contains("--nprobe 0"));
    assert!(refused(Plan { engines: vec![], ..plan() }).contains("--index"));
    assert!(refused(Plan { placements: vec![], ..plan() }).contains("--residency"));
    assert!(refused(Plan { queries: Some(0), ..plan() }).contains("--queries 0"));
    let index = IndexSpec::Build(IndexParams::defaults(IndexKind::Vamana, 1000, 4096));
    let search = SearchGrid::default();
    assert!(refused(Plan { engines: vec![Engine::Kiln { index, search }], ..plan() }).contains("--m"));
}
