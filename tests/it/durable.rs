//! Builds within a budget, as the program runs them: stopped, killed, run twice at once, planned and refused.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::*;
use serde_json::Value;

const BUDGET: &str = "96MiB";

/// A set of 20,000 rows as `base.u8bin`, and its index made in memory as `memory.kiln`.
fn place() -> Place {
    let place = Place::new();
    place.ok(&[
        "datasets",
        "synth",
        "--rows",
        "20000",
        "--dim",
        "32",
        "--lid",
        "8",
        "--dtype",
        "u8",
        "--out",
        "base.u8bin",
    ]);
    place.ok(&[&COMMON[..], &["--out", "memory.kiln"]].concat());
    place
}

const COMMON: [&str; 9] =
    ["build", "--dataset", "base.u8bin", "--metric", "l2", "--index", "vamana", "--device", "cpu"];

fn within<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&COMMON[..], &["--out", "x.kiln", "--memory-budget", BUDGET], more].concat()
}

/// Begins a build within a budget, and does not wait for it.
fn begin(place: &Place) -> Child {
    Command::new(env!("CARGO_BIN_EXE_kiln"))
        .args(within(&[]))
        .current_dir(place.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs")
}

/// Waits until so many units are finished, or the build is over.
fn wait_for_units(place: &Place, child: &mut Child, units: usize) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(120) && child.try_wait().expect("asked").is_none() {
        let folder = std::fs::read_dir(place.path("x.kiln.work"));
        let finished = folder.map_or(0, |folder| {
            folder.filter(|entry| entry.as_ref().is_ok_and(|e| !e.file_name().to_string_lossy().contains('.'))).count()
        });
        if finished > units {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn same(place: &Place) {
    assert!(place.read("x.kiln") == place.read("memory.kiln"), "the bytes differ from those made in memory");
    assert!(!place.path("x.kiln.work").exists());
}

#[test]
fn a_build_keeps_to_its_budget_and_says_so() {
    let place = place();
    let document: Value = serde_json::from_str(&place.ok(&within(&["--json", "-"]))).expect("one document");
    same(&place);
    let budget = number(&document, "/durable/memory_budget");
    let peak = number(&document, "/peak_anonymous_bytes");
    assert!(budget == f64::from(96 << 20) && peak > 0.0 && peak <= 1.05 * budget, "{document}");
    let allocated = number(&document, "/peak_allocated_bytes");
    assert!(allocated > 1e6 && allocated <= budget, "{document}");
    assert!(number(&document, "/durable/units") > 50.0 && number(&document, "/durable/temp_peak_bytes") > 0.0);
    assert_eq!(number(&document, "/durable/resumed_units"), 0.0);
    let beside = place.json("x.kiln.build.json");
    assert_eq!(beside["durable"], document["durable"]);
}

#[test]
fn a_signal_stops_between_units_and_the_same_command_goes_on() {
    let place = place();
    let mut child = begin(&place);
    wait_for_units(&place, &mut child, 5);
    signal(&child, "INT");
    let output = child.wait_with_output().expect("it ends");
    let told = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert_says(&told, &["stopped", "x.kiln.work", "run the same command"]);
    assert!(!place.path("x.kiln").exists());
    let ran = place.run(&within(&[]));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_says(&ran.err, &["going on with"]);
    same(&place);
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

#[test]
fn a_build_that_is_killed_ends_the_same() {
    let place = place();
    let mut kills = 0;
    for units in [0, 1, 9, 22, 30, 41, 55, 70] {
        let mut child = begin(&place);
        wait_for_units(&place, &mut child, units);
        // At any moment within a unit.
        std::thread::sleep(Duration::from_millis(7 * units as u64 % 23));
        kills += usize::from(child.try_wait().expect("asked").is_none());
        child.kill().expect("killed");
        child.wait().expect("it ends");
        if place.path("x.kiln").exists() {
            break;
        }
    }
    assert!(kills >= 3, "{kills} kills");
    place.ok(&within(&[]));
    same(&place);
}

#[test]
fn two_builds_of_one_output_exclude_each_other() {
    let place = place();
    let mut child = begin(&place);
    wait_for_units(&place, &mut child, 1);
    let refused = place.fails(1, &within(&[]));
    assert_says(&refused, &["x.kiln.work", "another build is at work"]);
    child.kill().expect("killed");
    child.wait().expect("it ends");
    // Its lock went with it.
    place.ok(&within(&[]));
    same(&place);
}

#[test]
fn other_data_is_refused_until_told_to_begin_anew() {
    let place = place();
    let mut child = begin(&place);
    wait_for_units(&place, &mut child, 3);
    child.kill().expect("killed");
    child.wait().expect("it ends");
    place.ok(&[
        "datasets",
        "synth",
        "--rows",
        "20000",
        "--dim",
        "32",
        "--lid",
        "8",
        "--dtype",
        "u8",
        "--seed",
        "5",
        "--out",
        "base.u8bin",
    ]);
    assert_says(&place.fails(1, &within(&[])), &["fingerprint", "--restart"]);
    place.ok(&within(&["--restart"]));
    place.ok(&[&COMMON[..], &["--out", "memory.kiln"]].concat());
    same(&place);
}

#[test]
fn a_plan_is_printed_and_what_cannot_fit_is_refused() {
    let place = place();
    let plan = place.ok(&within(&["--dry-run"]));
    assert_says(&plan, &["stage", "leaves", "prune", "reverse", "memory", "working files", "index", " s"]);
    assert!(!place.path("x.kiln").exists() && !place.path("x.kiln.work").exists());
    let too_little = [&COMMON[..], &["--out", "x.kiln", "--memory-budget", "8MiB"]].concat();
    assert_says(&place.fails(1, &too_little), &["--memory-budget 8 MiB", "need", "give that much"]);
    assert_says(&place.fails(1, &within(&["--temp-budget", "1MB"])), &["--temp-budget", "working files take about"]);
    assert_says(&place.fails(1, &within(&["--method", "insert"])), &["--method partition", "--memory-budget"]);
    for needs in ["--restart", "--dry-run"] {
        place.fails(2, &[&COMMON[..], &["--out", "x.kiln", needs]].concat());
    }
}
