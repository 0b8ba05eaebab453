//! Rows that are made as they are read, streamed into IVF-PQ within a budget, as the program does it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::*;
use serde_json::Value;

const BUDGET: &str = "112MiB";
const BUDGET_BYTES: f64 = 112.0 * 1_048_576.0;
/// 128 MB of rows, more than the budget.
const ROWS: &str = "synth:rows=2000000,dim=64,dtype=u8,lid=8,clusters=200";
const FEW: &str = "synth:rows=60000,dim=32,dtype=u8,lid=8,queries=50";

fn build<'a>(rows: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let lists =
        ["build", "--dataset", rows, "--index", "ivf-pq", "--nlist", "128", "--device", "cpu", "--threads", "2"];
    [&lists[..], &["--out", out], more].concat()
}

#[test]
fn rows_beyond_the_budget_stream_through() {
    let place = Place::new();
    let within = ["--memory-budget", BUDGET, "--json", "-"];
    let document: Value = serde_json::from_str(&place.ok(&build(ROWS, "x.kiln", &within))).expect("one document");
    let peak = number(&document, "/peak_anonymous_bytes");
    assert!(peak > 0.0 && peak <= 1.05 * BUDGET_BYTES, "{document}");
    assert_eq!(number(&document, "/n"), 2e6);
    assert!(number(&document, "/durable/units") >= 64.0, "{document}");
    assert!(number(&document, "/durable/temp_peak_bytes") > 128e6, "{document}");
    assert!(!place.path("x.kiln.work").exists());
    assert_says(&place.ok(&["inspect", "x.kiln", "--verify"]), &["2,000,000"]);
}

#[test]
fn lists_that_are_killed_end_as_those_made_in_memory() {
    let place = Place::new();
    place.ok(&build(FEW, "memory.kiln", &["--soar"]));
    let within = build(FEW, "x.kiln", &["--soar", "--memory-budget", BUDGET]);
    for moment in [5, 40, 90, 160, 250] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kiln"))
            .args(&within)
            .current_dir(place.path(""))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program runs");
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(moment) && child.try_wait().expect("asked").is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("killed");
        child.wait().expect("it ends");
    }
    place.ok(&within);
    assert!(place.read("x.kiln") == place.read("memory.kiln"), "the bytes differ from those made in memory");
    assert!(!place.path("x.kiln.work").exists());
}

#[test]
fn a_plan_is_printed_and_what_cannot_fit_is_refused() {
    let place = Place::new();
    let plan = place.ok(&build(ROWS, "x.kiln", &["--memory-budget", BUDGET, "--dry-run"]));
    assert_says(&plan, &["sample", "train codes", "encode", "write", "working files", "index", " s"]);
    assert!(!place.path("x.kiln").exists() && !place.path("x.kiln.work").exists());
    let refused = place.fails(1, &build(ROWS, "x.kiln", &["--memory-budget", "8MiB"]));
    assert_says(&refused, &["--memory-budget 8 MiB", "128 lists need", "give that much", "--nlist"]);
    let many = "synth:rows=5000000000,dim=8,dtype=u8,lid=4";
    let refused = place.fails(1, &build(many, "x.kiln", &["--memory-budget", "64GiB"]));
    assert_says(&refused, &["5000000000 rows", "32 bits", "shards"]);
    let unknown = place.fails(1, &build("synth:rows=5,dim=4,colour=red", "x.kiln", &[]));
    assert_says(&unknown, &["colour", "synth:rows=N"]);
}
