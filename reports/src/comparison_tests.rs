//! Two synthetic runs, compared and printed.

use std::path::{Path, PathBuf};

use kiln_eval::compare::{Comparison, Rule, Run, Sides, compare, judge_rules};
use kiln_eval::record::RunData;

use super::*;
use crate::fixture;

fn run(dir: &str, data: RunData) -> Vec<Run> {
    vec![Run { dir: PathBuf::from(dir), data }]
}

fn compared(a: RunData, b: RunData) -> Comparison {
    let (a, b) = (run("before", a), run("after", b));
    let sides = Sides { a: (Path::new("before"), &a), b: (Path::new("after"), &b), noise: None };
    compare(&sides, &[0.9, 0.95, 0.99]).expect("no A/A run is given")
}

/// The graph's passes and queries take a fifth longer.
fn slowed(mut data: RunData) -> RunData {
    let graph = data.builds[0].key.clone();
    for setting in data.settings.iter_mut().filter(|setting| setting.build_key == graph) {
        for run in &mut setting.runs {
            run.seconds *= 1.2;
            run.latency_us.iter_mut().for_each(|us| *us *= 1.2);
        }
    }
    data.builds[0].total_seconds *= 2.0;
    data
}

fn rules() -> Vec<Rule> {
    ["slower:3%", "recall:0.5pt", "build-slower:50%", "memory:1%"].map(|rule| rule.parse().expect("a rule")).into()
}

#[test]
fn a_slowdown_is_said_first_and_in_full() {
    let comparison = compared(fixture::run(), slowed(fixture::run()));
    let text = comparison_text(&comparison, &judge_rules(&rules(), &comparison));
    let first = text.lines().next().unwrap_or_default();
    assert!(first.starts_with("B is slower than A in ") && first.contains("at most by 16.7%: vamana, "), "{text}");
    for part in
        ["latency-1", "throughput-2", ".90", ".95", "0.833", "no detectable difference", "slower by 16.7%", "100%"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let row = text
        .lines()
        .skip(1)
        .find(|l| l.contains("vamana") && l.contains("latency-1") && l.contains(".95"))
        .expect("a row");
    assert!(row.contains("<.001") && row.ends_with("slower"), "{row}");
    for rule in [
        "slower:3% FAILED: photosift-128-euclidean, vamana, ",
        "recall:0.5pt kept",
        "build-slower:50% FAILED: photosift-128-euclidean, vamana: built in ",
        "memory:1% kept",
    ] {
        assert!(text.contains(rule), "{rule}: {text}");
    }
    assert!(text.contains("(+100.0%)") && text.contains("--noise"), "{text}");
    assert!(!text.contains('\u{a0}') && text.lines().all(|line| line == line.trim_end()), "{text}");
}

#[test]
fn markdown_says_the_same_in_tables() {
    let comparison = compared(fixture::run(), slowed(fixture::run()));
    let markdown = comparison_markdown(&comparison, &judge_rules(&rules(), &comparison));
    assert!(markdown.starts_with("### Benchmark: B is slower than A in "), "{markdown}");
    assert!(markdown.contains("| index | mode | place | recall |") && markdown.contains("| ---: |"), "{markdown}");
    assert!(markdown.contains("search\\_list=") && markdown.contains("&lt;.001"), "{markdown}");
    assert_eq!(markdown.matches("<details>").count(), markdown.matches("</details>").count());
    // Every line of a table has as many cells as its head.
    for table in markdown.split("\n\n").filter(|block| block.starts_with("| ")) {
        let cells = |line: &str| line.replace("\\|", "").matches('|').count();
        let lines: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).collect();
        assert!(lines.iter().all(|line| cells(line) == cells(lines[0])), "{table}");
    }
}

#[test]
fn a_run_against_itself_shows_nothing() {
    let comparison = compared(fixture::on_drive(), fixture::on_drive());
    let text = comparison_text(&comparison, &[]);
    assert!(text.starts_with("No detectable difference between A and B in "), "{text}");
    for part in [
        "A run of A is a run of B too",
        "ssd, direct, 64 MiB",
        "diskannpy-ssd",
        "ssd, cold",
        "1.000",
        "B - A",
        "+0.0000",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("Rules"), "{text}");
}

#[test]
fn what_is_not_comparable_is_listed_with_the_reason() {
    let mut other = fixture::run();
    other.header.machine.cpu = "Another *CPU*".into();
    let comparison = compared(fixture::run(), other);
    assert!(comparison.pairs.is_empty());
    let text = comparison_text(&comparison, &judge_rules(&rules(), &comparison));
    assert!(text.starts_with("A and B are not comparable."), "{text}");
    assert!(
        text.contains("other machine: CPU Intel") && text.contains("slower:3% not judged: no recall level"),
        "{text}"
    );
    assert!(comparison_markdown(&comparison, &[]).contains("Another \\*CPU\\*"));

    // Levels that one side does not reach, or is above throughout.
    let mut high = fixture::run();
    for setting in &mut high.settings {
        setting.answers.strict_hits = setting.answers.possible.clone();
    }
    let text = comparison_text(&compared(fixture::run(), high), &[]);
    assert!(text.contains("≥ ") && text.contains("not comparable: every setting of B is above it"), "{text}");
    assert!(text.lines().next().is_some_and(|line| line.contains(" B's recall is higher at ")), "{text}");
}

#[test]
fn markup_in_names_stays_text() {
    assert_eq!(escape("a|b_c <script>&*x*\n[y]`"), "a\\|b\\_c &lt;script&gt;&amp;\\*x\\* \\[y\\]\\`");
    assert_eq!(place("ssd, direct, 8388608 bytes of memory"), "ssd, direct, 8\u{a0}MiB");
    assert_eq!(place("ssd, capped:268435456"), "ssd, capped at 256\u{a0}MiB");
    assert_eq!(
        [format::probability(0.0004), format::probability(0.0123), format::probability(1.0)],
        ["<.001", ".012", "1"]
    );
}
