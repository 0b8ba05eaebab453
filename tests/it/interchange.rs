//! `kiln export`, `kiln import`, and truth that survives being killed.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::*;

/// A set, and a run of one index over it in a folder with a space and a letter beyond ASCII.
fn with_run() -> Place {
    let place = Place::new().with_set();
    place.ok(&[
        "bench",
        "--dataset",
        "set.hdf5",
        "--quick",
        "--index",
        "vamana",
        "--threads",
        "1",
        "--batch",
        "--search-list",
        "10,20",
        "--out",
        "lauf größe",
    ]);
    place
}

#[test]
fn a_run_goes_out_and_comes_back_marked() {
    let place = with_run();
    let told = place.ok(&["export", "lauf größe", "--format", "csv", "--out", "a tabelle.csv"]);
    // Two efforts in the modes latency-1, batch-1 and throughput-1.
    assert_eq!(told, "a tabelle.csv: 6 rows\n");
    let text = place.text("a tabelle.csv");
    assert!(text.starts_with("dataset,dataset_fingerprint,metric,"), "{text}");
    place.ok(&["export", "lauf größe", "--format", "parquet", "--out", "t.parquet"]);

    let told = place.ok(&["export", "lauf größe", "--format", "ann-benchmarks", "--out", "ann"]);
    let files: Vec<&str> = told.lines().collect();
    assert_eq!(files.len(), 4, "{told}");
    assert!(files.iter().all(|path| path.starts_with("ann/results/set/10/kiln-vamana") && path.ends_with(".hdf5")));
    let told = place.ok(&["export", "lauf größe", "--format", "cuvs-bench", "--out", "cuvs"]);
    assert_says(
        &told,
        &["cuvs/set/result/search/kiln-vamana,base,k10,bs1.json", "cuvs/set/result/build/kiln-vamana,base.csv"],
    );

    // All of it into one run folder, which is reported; its own run is the one thing that is ranked.
    let told = place.ok(&["import", "a tabelle.csv", "--out", "lauf größe"]);
    assert_eq!(told, "lauf größe: 6 settings of 1 file imported\n");
    let told = place.ok(&["import", "a tabelle.csv", "t.parquet", "--out", "lauf größe"]);
    assert_eq!(told, "lauf größe: 6 settings of 2 files imported, 6 were there already\n");
    place.ok(&["import", "ann", "--dataset", "set.hdf5", "--out", "lauf größe"]);
    // Its folder holds each result three times more, as CSV: they are not read again.
    let told = place.ok(&["import", "cuvs", "--out", "lauf größe"]);
    assert_eq!(told, "lauf größe: 4 settings of 2 files imported\n");
    place.ok(&["report", "lauf größe"]);
    let page = place.text("lauf größe/report.html");
    assert_says(
        &page,
        &["[other hardware]", "measured elsewhere", "ids of the truth, as cuvs-bench counts", "Difficulty"],
    );
    let verdict =
        page.split("<p class=\"verdict\">").nth(1).and_then(|rest| rest.split("</p>").next()).expect("a verdict");
    assert!(!verdict.contains("other hardware"), "{verdict}");

    // A folder of nothing but imported settings says so.
    let told = place.ok(&["import", "ann", "--dataset", "set.hdf5", "--out", "fremd"]);
    assert_eq!(told, "fremd: 4 settings of 4 files imported\n");
    place.ok(&["report", "fremd"]);
    assert_says(
        &place.text("fremd/report.html"),
        &["was measured elsewhere and imported: it is shown, and not ranked"],
    );
    // Without the data set nobody can judge.
    let ran = place.run(&["import", "ann", "--out", "ungerichtet"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_says(&ran.err, &["its recall is unknown", "--dataset"]);
    place.ok(&["report", "ungerichtet"]);
}

#[test]
fn what_cannot_be_exchanged_is_refused_by_name() {
    let place = with_run();
    let before = place.names(".");
    let export = |code: i32, more: &[&str]| place.fails(code, &[&["export"], more].concat());
    assert_says(&export(1, &["nowhere", "--format", "csv", "--out", "x.csv"]), &["nowhere", "no run"]);
    place.write("file", "in the way");
    assert_says(&export(2, &["lauf größe", "--format", "cuvs-bench", "--out", "file"]), &["file", "name a folder"]);
    assert_says(&export(2, &["lauf größe", "--format", "csv", "--out", "."]), &["it is a folder"]);
    assert_says(&export(1, &["lauf größe", "--format", "csv", "--out", "file/x.csv"]), &["file/"]);
    assert_says(&export(2, &["lauf größe", "--format", "csv", "--out", "x", "--dataset", "set.hdf5"]), &["--dataset"]);
    assert_says(&export(2, &["lauf größe", "--format", "xml", "--out", "x"]), &["xml"]);
    let other =
        ["datasets", "synth", "--rows", "300", "--dim", "8", "--lid", "4", "--queries", "20", "--k", "20", "--out"];
    place.ok(&[&other[..], &["other.hdf5"]].concat());
    let message = export(1, &["lauf größe", "--format", "ann-benchmarks", "--out", "ann", "--dataset", "other.hdf5"]);
    assert_says(&message, &["other.hdf5", "not the data set of the run"]);

    let import = |code: i32, more: &[&str]| place.fails(code, &[&["import", "--out", "neu"], more].concat());
    assert_says(&import(1, &["none.hdf5"]), &["none.hdf5", "No such file"]);
    // A data set is no result.
    assert_says(&import(1, &["set.hdf5"]), &["set.hdf5", "no matrix `times`"]);
    assert_says(&import(1, &["base.fbin"]), &["base.fbin", "--format"]);
    assert_says(&import(1, &["base.fbin", "--format", "csv"]), &["base.fbin"]);
    assert_says(&import(1, &["base.fbin", "--format", "parquet"]), &["base.fbin"]);
    assert_says(&import(1, &["base.fbin", "--format", "cuvs-bench"]), &["base.fbin", "Google Benchmark"]);
    assert_says(&import(1, &["base.fbin", "--format", "ann-benchmarks"]), &["base.fbin", "not HDF5"]);
    assert_says(&import(1, &["set.hdf5", "--dataset", "base.fbin"]), &["base.fbin", "no queries"]);
    std::fs::create_dir(place.path("leer")).expect("made");
    assert_says(&import(1, &["leer"]), &["nothing to import"]);
    let mut left = place.names(".");
    for made in ["file", "other.hdf5", "leer"] {
        left.remove(made);
    }
    assert_eq!(left, before);

    // A result of other queries.
    place.ok(&["export", "lauf größe", "--format", "ann-benchmarks", "--out", "ann"]);
    let few =
        ["datasets", "synth", "--rows", "500", "--dim", "8", "--lid", "4", "--queries", "3", "--k", "20", "--out"];
    place.ok(&[&few[..], &["few.hdf5"]].concat());
    assert_says(&import(1, &["ann", "--dataset", "few.hdf5"]), &["answers 20 queries", "few has 3"]);
}

#[test]
fn difficulty_is_told() {
    let place = Place::new().with_set();
    let told = place.ok(&["datasets", "info", "set.hdf5", "--difficulty"]);
    assert_says(&told, &["LID ", "around queries", "contrast ", "no difference between queries and rows found"]);
    let found: serde_json::Value =
        serde_json::from_str(&place.ok(&["datasets", "info", "set.hdf5", "--difficulty", "--json", "-"]))
            .expect("JSON");
    assert!(number(&found, "/queries/relative_contrast") > 1.0, "{found}");
    assert!(number(&found, "/queries/shift/p_value") > 0.01, "{found}");
    assert!(found["learn"].is_null());
    assert_says(&place.fails(2, &["datasets", "info", "base.fbin", "--difficulty"]), &["base.fbin", "--metric"]);
    let message = place.fails(2, &["datasets", "info", "base.fbin", "--difficulty", "--metric", "l2"]);
    assert_says(&message, &["base.fbin", "no queries"]);
}

const TRUTH: [&str; 12] = [
    "datasets",
    "truth",
    "base.fbin",
    "--queries",
    "query.fbin",
    "--metric",
    "l2",
    "--k",
    "10",
    "--memory",
    "6KiB",
    "--device",
];

fn truth<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&TRUTH[..], &["cpu"], more].concat()
}

/// Begins a search that writes its checkpoint after every block, and does not wait for it.
fn begin(place: &Place) -> Child {
    Command::new(env!("CARGO_BIN_EXE_kiln"))
        .args(truth(&["--out", "x größe.ibin", "--checkpoint", "0"]))
        .current_dir(place.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs")
}

#[test]
fn truth_that_is_killed_ends_with_the_same_bytes() {
    let place = Place::new();
    let set =
        ["datasets", "synth", "--rows", "4000", "--dim", "8", "--lid", "4", "--queries", "40", "--k", "10", "--out"];
    place.ok(&[&set[..], &["set.hdf5"]].concat());
    place.ok(&["datasets", "convert", "set.hdf5", "base.fbin"]);
    place.ok(&["datasets", "convert", "set.hdf5", "query.fbin", "--queries"]);
    place.ok(&truth(&["--out", "whole.ibin"]));

    let checkpoint = place.path("x größe.ibin.checkpoint");
    let mut kills = 0;
    for _ in 0..8 {
        let before = std::fs::read(&checkpoint).unwrap_or_default();
        let mut child = begin(&place);
        let begun = Instant::now();
        // As soon as another block is kept: it is at work on the next, or writing.
        while std::fs::read(&checkpoint).unwrap_or_default() == before
            && child.try_wait().expect("asked").is_none()
            && begun.elapsed() < Duration::from_secs(60)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        kills += usize::from(child.try_wait().expect("asked").is_none());
        child.kill().expect("killed");
        child.wait().expect("it ends");
        if place.path("x größe.ibin").exists() {
            break;
        }
    }
    assert!(kills >= 3, "{kills} kills");
    // Other queries do not go on from there.
    place.ok(&["datasets", "convert", "set.hdf5", "other.fbin"]);
    let other = ["datasets", "truth", "base.fbin", "--queries", "other.fbin", "--metric", "l2", "--k", "10", "--out"];
    let message = place.fails(1, &[&other[..], &["x größe.ibin"]].concat());
    assert_says(&message, &["x größe.ibin.checkpoint", "other queries", "remove it"]);
    let ran = place.run(&truth(&["--out", "x größe.ibin"]));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_says(&ran.err, &["going on with queries"]);
    assert!(place.read("x größe.ibin") == place.read("whole.ibin"), "other bytes");
    let left: Vec<String> = place.names(".").into_iter().filter(|name| name.contains("checkpoint")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_says(&place.fails(2, &truth(&["--out", "x.fbin"])), &["x.fbin", ".ibin"]);
}
