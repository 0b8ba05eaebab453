//! One build by several processes, as the program runs them: shared, repeated, damaged, refused, and the same bytes in the end.

use std::path::PathBuf;

use crate::common::*;
use serde_json::Value;

const STAGES: [&str; 10] =
    ["summary", "assign", "middle", "rows", "leaves", "prune", "graph", "repair", "place", "order"];

/// A set of 6,000 rows as `base.u8bin`, its index made in memory as `memory.kiln`, and a plan in `work`.
fn planned() -> Place {
    let place = Place::new();
    synth(&place, "1");
    place.ok(&[
        "build",
        "--dataset",
        "base.u8bin",
        "--metric",
        "l2",
        "--index",
        "vamana",
        "--device",
        "cpu",
        "--out",
        "memory.kiln",
    ]);
    let table = place.ok(&PLAN);
    assert_says(&table, &["leaves", "~", "summary, assign, middle, rows", "work: planned"]);
    place
}

fn synth(place: &Place, seed: &str) {
    let size = ["--rows", "6000", "--dim", "24", "--lid", "8", "--dtype", "u8", "--seed", seed];
    place.ok(&[&["datasets", "synth"], &size[..], &["--out", "base.u8bin"]].concat());
}

const PLAN: [&str; 13] = [
    "unit",
    "plan",
    "--dataset",
    "base.u8bin",
    "--metric",
    "l2",
    "--index",
    "vamana",
    "--memory-budget",
    "96MiB",
    "--work",
    "work",
    "--out=x.kiln",
];

fn build<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["unit", "build", "--work", "work", "--device", "cpu"], more].concat()
}

const MERGE: [&str; 6] = ["unit", "merge", "--work", "work", "--device", "cpu"];

fn status(place: &Place) -> Value {
    serde_json::from_str(&place.ok(&["unit", "status", "--work", "work", "--json"])).expect("one document")
}

fn same(place: &Place) {
    assert!(place.read("x.kiln") == place.read("memory.kiln"), "the bytes differ from those made in memory");
}

/// Files of finished units of a stage.
fn units_of(place: &Place, stage: &str) -> Vec<PathBuf> {
    let names = place.names("work");
    let of = names.iter().filter(|name| name.starts_with(&format!("{stage}-")) && !name.contains('.'));
    of.map(|name| place.path("work").join(name)).collect()
}

#[test]
fn several_processes_share_every_stage_and_the_bytes_are_the_same() {
    let place = planned();
    for stage in STAGES {
        std::thread::scope(|scope| {
            for share in ["0/3", "1/3", "2/3"] {
                let place = &place;
                scope.spawn(move || place.ok(&build(&["--stage", stage, "--share", share])));
            }
        });
        // What is finished is left alone, by whoever asks.
        let again = place.ok(&build(&["--stage", stage]));
        assert_says(&again, &[&format!("0 units of {stage} made")]);
        let gone = ["graph", "repair", "place", "order"].contains(&stage);
        assert!(!gone || units_of(&place, "assign").is_empty(), "{stage} makes no other stage's units");
        place.ok(&["unit", "clean", "--work", "work"]);
    }
    assert!(units_of(&place, "leaves").is_empty() && units_of(&place, "prune").is_empty());
    // Of stages whose makings are gone, too.
    for stage in STAGES {
        assert_says(&place.ok(&build(&["--stage", stage])), &[&format!("0 units of {stage} made")]);
    }
    assert_eq!(status(&place)["complete"], true);
    assert_says(&place.ok(&["unit", "status", "--work", "work"]), &["everything is there", "not needed any more"]);
    place.ok(&MERGE);
    same(&place);
    assert_eq!(place.json("x.kiln.build.json")["durable"]["memory_budget"], 96 << 20);
    assert_says(&place.ok(&MERGE), &["x.kiln", "is there already"]);
    place.ok(&["unit", "clean", "--work", "work", "--all"]);
    assert!(place.names("work").is_empty(), "{:?}", place.names("work"));
}

#[test]
fn processes_that_choose_for_themselves_finish_too() {
    let place = planned();
    let work = || {
        for _ in 0..200 {
            if place.ok(&build(&["--next"])).contains("nothing is missing") {
                return;
            }
        }
        panic!("200 units are more than there are");
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    // Two that write the index at once: it is written, and whoever was refused is told why.
    let merges: Vec<Ran> = std::thread::scope(|scope| {
        let merges: Vec<_> = (0..2).map(|_| scope.spawn(|| place.run(&MERGE))).collect();
        merges.into_iter().map(|merge| merge.join().expect("no panic")).collect()
    });
    assert!(merges.iter().any(|merge| merge.code == Some(0)), "{merges:?}");
    for merge in merges.iter().filter(|merge| merge.code != Some(0)) {
        assert_says(&merge.err, &["x.kiln.work", "another build is at work"]);
    }
    same(&place);
}

#[test]
fn what_is_missing_or_damaged_is_told_and_made_again() {
    let place = planned();
    let missing = place.fails(1, &build(&["--stage", "rows", "--units", "2"]));
    assert_says(&missing, &["unit 0 of stage summary is not in work", "kiln unit build --work work --stage summary"]);
    assert_says(&place.fails(1, &build(&["--stage", "pruning"])), &["--stage pruning", "summary, assign"]);
    place.ok(&build(&["--all"]));
    assert_says(&place.fails(1, &build(&["--stage", "rows", "--units", "6-900"])), &["--units 900", "6 units"]);

    // Damage in the middle of rows is found when they are read; the clusters have to be made first, and are.
    let rows = units_of(&place, "rows");
    let flip = |path: &PathBuf, at: usize| {
        let mut bytes = std::fs::read(path).expect("there");
        bytes[at] ^= 1;
        std::fs::write(path, bytes).expect("written");
    };
    flip(&rows[3], 9000);
    std::fs::remove_file(&units_of(&place, "order")[0]).expect("there");
    let merged = place.fails(1, &MERGE);
    assert_says(&merged, &["unit 0 of stage order is not in work", "--stage order --units 0"]);
    let ran = place.run(&build(&["--stage", "order"]));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_says(&ran.err, &["rows-00003", "damaged", "made again"]);

    // Damage that merge finds is removed, and the command that mends it is told.
    flip(&rows[1], 9000);
    let merged = place.run(&MERGE);
    assert_eq!(merged.code, Some(1));
    assert_says(&merged.err, &["rows-00001", "kiln unit build --work work --stage rows --units 1"]);
    place.ok(&build(&["--stage", "rows", "--units", "1"]));
    // A footer that is cut off makes a unit missing.
    let graph = &units_of(&place, "graph")[2];
    let bytes = std::fs::read(graph).expect("there");
    std::fs::write(graph, &bytes[..bytes.len() - 5]).expect("written");
    let merged = place.run(&MERGE);
    assert_says(&merged.err, &["graph-00002", "counts as missing", "--stage graph --units 2"]);
    // What it was made from may be gone: then that is made, too.
    place.ok(&["unit", "clean", "--work", "work"]);
    units_of(&place, "prune").iter().for_each(|path| std::fs::remove_file(path).expect("there"));
    assert!(units_of(&place, "leaves").is_empty(), "they were not needed");
    place.ok(&build(&["--all"]));
    place.ok(&MERGE);
    same(&place);
}

#[test]
fn other_plans_other_data_and_other_versions_are_refused() {
    let place = planned();
    let plan = place.read("work/plan.json");
    place.ok(&PLAN);
    assert!(place.read("work/plan.json") == plan, "planned again, nothing changes");
    let other = [&PLAN[..], &["--max-degree", "32"]].concat();
    assert_says(&place.fails(1, &other), &["work", "another plan", "--all"]);
    let insert = [&PLAN[..], &["--method", "insert"]].concat();
    assert_says(&place.fails(1, &insert), &["--method partition", "kiln build"]);
    assert_says(
        &place.fails(1, &["unit", "status", "--work", "elsewhere"]),
        &["elsewhere", "no plan", "kiln unit plan"],
    );
    for (text, says) in
        [("{", "not a plan"), ("{\"version\": 7}", "plan version 7"), ("{\"version\": 1}", "not a plan")]
    {
        place.write("work/plan.json", text);
        assert_says(&place.fails(1, &build(&["--all"])), &["plan.json", says]);
    }
    let text = String::from_utf8(plan.clone()).expect("text");
    place.write("work/plan.json", text.replace("\"unit_rows\": 1024", "\"unit_rows\": 1000"));
    assert_says(&place.fails(1, &build(&["--all"])), &["units of 1000 rows", "1024"]);
    let isa = place.json("work/plan.json")["isa"].as_str().expect("named").to_string();
    place.write("work/plan.json", text.replace(&isa, "other"));
    assert_says(&place.fails(1, &build(&["--all"])), &["computes with other", "KILN_ISA"]);
    place.write("work/plan.json", plan);
    synth(&place, "2");
    let refused = place.fails(1, &build(&["--stage", "summary"]));
    assert_says(&refused, &["planned with a data set of fingerprint", "base.u8bin", "plan anew"]);
    for wrong in [&["--units", "1"][..], &["--next", "--all"], &["--stage", "rows", "--share", "3/3"], &[]] {
        place.run(&build(wrong)).code.filter(|&code| code == 2).expect("a command line that cannot work");
    }
    assert_says(&place.fails(1, &["unit", "status", "--work", "file://work"]), &["file://work", "whole path"]);
}
