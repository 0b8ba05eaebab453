//! Sweeps, keys and refusals of a plan.

use std::collections::BTreeSet;

use kiln_builder::Residency;

use super::*;

fn plan() -> Plan {
    Plan {
        out: "run".into(),
        command: "kiln bench".into(),
        k: 10,
        metric: None,
        indexes: vec![IndexSpec::Build(IndexParams::defaults(IndexKind::Vamana, 1000, 16))],
        search_lists: vec![],
        navigate: Navigate::Exact,
        nprobes: vec![],
        rerank: None,
        threads: vec![2, 1, 2],
        batch: vec![],
        placements: vec![Placement::Memory],
        queries: None,
        quick: false,
        seed: 1,
    }
}

fn lists(plan: &Plan, n: u64) -> Vec<usize> {
    let of = |effort| match effort {
        Effort::Graph { search_list, .. } => search_list,
        Effort::Lists { .. } => unreachable!("asked for a graph"),
    };
    plan.efforts(IndexKind::Vamana, None, n).into_iter().map(of).collect()
}

fn probes(plan: &Plan, nlist: usize) -> Vec<usize> {
    let of = |effort| match effort {
        Effort::Lists { nprobe, .. } => nprobe,
        Effort::Graph { .. } => unreachable!("asked for an inverted file"),
    };
    plan.efforts(IndexKind::IvfPq, Some(nlist), 1_000_000).into_iter().map(of).collect()
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
    let asked = Plan { search_lists: vec![500, 5, 8, 20], nprobes: vec![64, 3, 999], ..plan() };
    assert_eq!(lists(&asked, 100), [10, 20, 100]);
    assert_eq!(probes(&asked, 64), [3, 64]);
    let effort = Plan { rerank: Some(3), ..asked }.efforts(IndexKind::IvfPq, Some(64), 1000)[0];
    assert_eq!(effort, Effort::Lists { nprobe: 3, rerank: 10 });
}

#[test]
fn modes_ascend_without_repeats() {
    let names: Vec<String> = plan().modes().into_iter().map(Mode::name).collect();
    assert_eq!(names, ["latency-1", "throughput-1", "throughput-2"]);
    let batched = Plan { batch: vec![2, 1, 2], ..plan() };
    let names: Vec<String> = batched.modes().into_iter().map(Mode::name).collect();
    assert_eq!(names, ["latency-1", "batch-1", "batch-2", "throughput-1", "throughput-2"]);
}

#[test]
fn keys_tell_every_difference_and_only_those() {
    let keys = |plan: &Plan, build: &str| -> BTreeSet<String> {
        plan.settings(build, IndexKind::Vamana, None, 1000).into_iter().map(|setting| setting.key).collect()
    };
    let base = plan();
    let all = keys(&base, "a");
    assert_eq!(all.len(), 11 * 3);
    assert_eq!(all, keys(&Plan { out: "elsewhere".into(), seed: 9, command: String::new(), ..base.clone() }, "a"));
    for other in [
        keys(&base, "b"),
        keys(&Plan { placements: vec![Residency::Ssd.into()], ..base.clone() }, "a"),
        keys(&Plan { navigate: Navigate::Codes, ..base.clone() }, "a"),
        keys(&Plan { quick: true, ..base.clone() }, "a"),
        keys(&Plan { k: 9, ..base.clone() }, "a"),
    ] {
        assert!(all.is_disjoint(&other));
    }
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
fn keys_are_stable_across_versions() {
    // A key that changes makes every unfinished run start again: change it knowingly.
    let setting = &plan().settings("build", IndexKind::Vamana, None, 1000)[0];
    assert_eq!(setting.key, "033f26b8b3ac71fb");
}

#[test]
fn what_cannot_be_measured_is_refused_by_name() {
    let refused = |plan: Plan| plan.validate(100, 16).expect_err("refused").to_string();
    assert!(plan().validate(100, 16).is_ok());
    assert!(refused(Plan { k: 0, ..plan() }).starts_with("--k 0 is out of range: use 1 to 100"));
    assert!(refused(Plan { k: 101, ..plan() }).contains("--k 101"));
    assert!(refused(Plan { threads: vec![1, 0], ..plan() }).contains("--threads 0"));
    assert!(refused(Plan { batch: vec![0], ..plan() }).contains("--threads 0"));
    assert!(refused(Plan { nprobes: vec![0], ..plan() }).contains("--nprobe 0"));
    assert!(refused(Plan { indexes: vec![], ..plan() }).contains("--index"));
    assert!(refused(Plan { placements: vec![], ..plan() }).contains("--residency"));
    assert!(refused(Plan { queries: Some(0), ..plan() }).contains("--queries 0"));
    let bad = IndexParams::defaults(IndexKind::Vamana, 1000, 4096);
    assert!(refused(Plan { indexes: vec![IndexSpec::Build(bad)], ..plan() }).contains("--m"));
}
