//! `kiln compare`: runs of the embedded demo, copied and edited.
//!
//! One run is measured; what it measured is then replaced by times that are made up, so that nothing here depends on how
//! busy the machine is.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::common::*;

/// A name that a careless program trips over.
const BASE: &str = "läufe/vor der Änderung";

/// The records of a quick run of the demo: header, builds and settings.
struct Records {
    header: Value,
    builds: Vec<Value>,
    settings: Vec<Value>,
}

/// Measured once for all tests of this file.
fn demo_run() -> &'static Records {
    static RUN: OnceLock<Records> = OnceLock::new();
    RUN.get_or_init(|| {
        let place = Place::new();
        place.ok(&[
            "bench",
            "--index",
            "ivf-pq",
            "--nprobe=1,4,16",
            "--threads",
            "1",
            "--queries",
            "60",
            "--out",
            BASE,
        ]);
        let lines = |file: &str| -> Vec<Value> {
            let text = place.text(&format!("{BASE}/{file}"));
            text.lines().map(|line| serde_json::from_str(line).expect("a record a line")).collect()
        };
        let header = place.json(&format!("{BASE}/run.json"));
        // Measured in an order drawn by lot: here by effort, as their times will be made up.
        let mut settings = lines("settings.jsonl");
        settings.sort_by_key(|setting| (setting["mode"]["mode"].to_string(), setting["params"]["nprobe"].as_u64()));
        Records { header, builds: lines("builds.jsonl"), settings }
    })
}

/// A copy of the run, in which every pass of a setting takes `base` times a figure of its own, within 1%, that differs from
/// one `copy` to the next.
fn copy(base: f64, copy: usize) -> Records {
    let run = demo_run();
    let mut settings = run.settings.clone();
    for (number, setting) in settings.iter_mut().enumerate() {
        let queries = setting["answers"]["distances"].as_array().expect("counted").len();
        let pass = |pass: usize| {
            let wave = 1.0 + 0.01 * ((pass * 7 + number * 3 + copy * 5) as f64).sin();
            let query_us = |query: usize| base * wave * (40.0 + (query % 17) as f64 + 5.0 * number as f64);
            let latency: Vec<f64> = (0..queries).map(query_us).collect();
            // Each pass is a turn of its own.
            json!({ "seconds": 0.1 * base * wave * (1.0 + number as f64), "turn": pass, "latency_us": latency })
        };
        setting["runs"] = (0..12).map(pass).collect();
    }
    Records { header: run.header.clone(), builds: run.builds.clone(), settings }
}

impl Records {
    fn write(&self, place: &Place, dir: &str) {
        std::fs::create_dir_all(place.path(dir)).expect("created");
        let lines = |records: &[Value]| records.iter().map(|record| format!("{record}\n")).collect::<String>();
        place.write(&format!("{dir}/run.json"), self.header.to_string());
        place.write(&format!("{dir}/builds.jsonl"), lines(&self.builds));
        place.write(&format!("{dir}/settings.jsonl"), lines(&self.settings));
    }

    /// The same, with something changed.
    fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn each(self, change: impl Fn(&mut Value)) -> Self {
        self.but(|records| records.settings.iter_mut().for_each(change))
    }
}

/// A place with the baseline and, as `out`, another copy of it that takes `slower` times as long.
fn two(slower: f64) -> Place {
    let place = Place::new();
    copy(1.0, 0).write(&place, BASE);
    copy(slower, 1).write(&place, "out");
    place
}

fn compare<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["compare", BASE, "out"], more].concat()
}

/// Recall levels that the middle settings of the run bracket, whatever they are.
fn levels() -> String {
    let run = demo_run();
    let recall = |setting: &Value| {
        let sum = |name: &str| {
            setting["answers"][name].as_array().expect("list").iter().filter_map(Value::as_f64).sum::<f64>()
        };
        sum("strict_hits") / sum("possible")
    };
    let recalls: Vec<f64> = run.settings.iter().map(recall).collect();
    let (lo, hi) = recalls.iter().fold((1.0f64, 0.0f64), |(lo, hi), &r| (lo.min(r), hi.max(r)));
    assert!(lo < hi, "{recalls:?}");
    format!("{:.4},{:.4}", lo + 0.3 * (hi - lo), lo + 0.7 * (hi - lo))
}

#[test]
fn a_slowdown_fails_where_a_rule_says_so() {
    let (place, levels) = (two(1.2), levels());
    let told = place.ok(&compare(&["--at-recall", &levels]));
    assert!(told.starts_with("B is slower than A in 4 of 4 comparisons at equal recall"), "{told}");
    assert_says(
        &told,
        &["läufe/vor der Änderung: 1 run, --quick", "latency-1", "throughput-1", "0.83", "<.001", "--noise"],
    );

    let rules = "slower:3%,recall:0.5pt,build-slower:50%,memory:10%";
    let ran = place.run(&compare(&[
        "--at-recall",
        &levels,
        "--fail-if",
        rules,
        "--markdown",
        "summary é.md",
        "--json",
        "all.json",
    ]));
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_says(
        &ran.err,
        &["error: --fail-if slower:3%: photosift-10k-128-euclidean, ivf-pq, latency-1, memory, at recall ", "% slower"],
    );
    assert_says(
        &ran.out,
        &["Rules", "slower:3% FAILED", "recall:0.5pt kept", "build-slower:50% kept", "memory:10% kept"],
    );
    let markdown = place.text("summary é.md");
    assert_says(&markdown, &["### Benchmark: B is slower than A", "| index | mode |", "slower:3% FAILED", "<details>"]);

    let document = place.json("all.json");
    let top = ["version", "a", "b", "noise", "pairs", "recalls", "builds", "not_comparable", "notes", "rules"];
    assert_keys(&document, &top);
    let pairs = document["pairs"].as_array().expect("list");
    assert_eq!(pairs.len(), 2);
    for pair in pairs {
        assert_eq!((&pair["index"], &pair["place"], &pair["k"]), (&"ivf-pq".into(), &"memory".into(), &10.into()));
        assert_eq!(pair["settings"].as_array().map(Vec::len), Some(3));
        for row in pair["levels"].as_array().expect("list") {
            assert_keys(row, &["recall", "a", "b", "ratio", "verdict", "reason"]);
            let ratio = number(row, "/ratio/ratio");
            assert!((ratio - 1.0 / 1.2).abs() < 0.02, "{row}");
            assert!(number(row, "/ratio/interval/0") < ratio && ratio < number(row, "/ratio/interval/1"), "{row}");
            assert!(number(row, "/ratio/p_adjusted") < 0.001 && row["verdict"] == "slower", "{row}");
            assert!((number(row, "/b/qps") / number(row, "/a/qps") - ratio).abs() < 1e-9, "{row}");
        }
        for row in pair["settings"].as_array().expect("list") {
            assert_eq!(
                (&row["verdict"], &row["typical_query"]["verdict"]),
                (&"slower".into(), &"slower".into()),
                "{row}"
            );
            assert_eq!((number(row, "/typical_query/slower"), number(row, "/typical_query/queries")), (1.0, 60.0));
        }
    }
    assert_eq!(document["rules"][0]["outcome"], "failed");
    assert_eq!(document["recalls"].as_array().map(Vec::len), Some(3), "once for each setting, whatever the mode");

    // The same slowdown is within a larger limit; and to standard output goes what is asked for alone.
    place.ok(&compare(&["--at-recall", &levels, "--fail-if", "slower:30%"]));
    let printed: Value =
        serde_json::from_str(&place.ok(&compare(&["--json", "-"]))).expect("one document and nothing else");
    assert_eq!(printed["version"], 1);
    assert!(place.ok(&compare(&["--markdown", "-"])).starts_with("### Benchmark: "));
}

#[test]
fn within_the_noise_nothing_is_told() {
    let (place, levels) = (two(1.02), levels());
    let told = place.ok(&compare(&["--at-recall", &levels, "--fail-if", "slower:0%,recall:0pt"]));
    assert!(told.starts_with("No detectable difference between A and B in 4 comparisons"), "{told}");
    assert_says(&told, &["differences under 3% are not told", "slower:0% kept"]);

    // Still runs of the same program bring the floor down, and the same 2% are told; restless ones bring it up.
    for still in 2..6 {
        copy(1.0, still).write(&place, &format!("again/{still}"));
    }
    let noise = ["--at-recall", &levels, "--noise", "again"];
    let told = place.ok(&compare(&noise));
    assert!(told.starts_with("B is slower than A in 4 of 4"), "{told}");
    assert_says(
        &told,
        &["A/A  again: 4 runs", "Noise floor of latency-1, memory: runs of the same thing differ by up to 1.0%"],
    );
    assert!(!told.contains("are not told"), "{told}");
    for (restless, base) in [0.9, 1.1, 0.95, 1.05].into_iter().enumerate() {
        copy(base, restless).write(&place, &format!("again/{}", restless + 2));
    }
    assert!(place.ok(&compare(&noise)).starts_with("No detectable difference"));
    // The same from several runs of each side.
    for number in 0..3 {
        copy(1.0, number).write(&place, &format!("many a/{number}"));
        copy(1.05, number + 3).write(&place, &format!("many b/deep/{number}"));
    }
    let told = place.ok(&["compare", "many a", "many b", "--at-recall", &levels]);
    assert!(told.starts_with("B is slower than A in 4 of 4") && told.contains("many b: 3 runs"), "{told}");
}

/// Half as fast, and nothing by which that could be told from chance: no rule may call it kept.
#[test]
fn runs_of_a_single_turn_say_nothing_of_speed() {
    let place = Place::new();
    let in_one_turn = |setting: &mut Value| {
        for pass in setting["runs"].as_array_mut().expect("list") {
            pass["turn"] = json!(0);
        }
    };
    copy(1.0, 0).each(in_one_turn).write(&place, BASE);
    copy(2.0, 1).each(in_one_turn).write(&place, "out");
    let ran = place.run(&compare(&["--fail-if", "slower:3%"]));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_says(
        &ran.out,
        &[
            "No detectable difference",
            "slower:3% not judged",
            "2 runs were measured in a single turn",
            "two repeats or more",
        ],
    );
    assert_says(&ran.err, &["slower:3% is not judged", "in two turns or more"]);
    // Of several runs a side the runs are the samples.
    for number in 0..4 {
        copy(1.0, number).each(in_one_turn).write(&place, &format!("many a/{number}"));
        copy(2.0, number + 4).each(in_one_turn).write(&place, &format!("many b/{number}"));
    }
    let told = place.run(&["compare", "many a", "many b", "--fail-if", "slower:3%"]);
    assert_eq!(told.code, Some(1));
    assert_says(&told.err, &["% slower"]);
}

#[test]
fn recall_and_builds_have_rules_of_their_own() {
    let place = two(1.0);
    // Every query loses a neighbour that it had.
    let worse = |setting: &mut Value| {
        for hits in setting["answers"]["strict_hits"].as_array_mut().expect("list") {
            *hits = hits.as_u64().expect("a count").saturating_sub(1).into();
        }
    };
    let slower_build = |records: &mut Records| {
        for (field, by) in [("total_seconds", 2.0), ("peak_rss_bytes", 1.5), ("index_bytes", 1.25)] {
            let value = records.builds[0][field].as_f64().expect("a number") * by;
            records.builds[0][field] = if field == "total_seconds" { json!(value) } else { json!(value as u64) };
        }
    };
    copy(1.0, 1).each(worse).but(slower_build).write(&place, "out");
    let all = "recall:5pt,build-slower:50%,memory:20%,slower:20%";
    let ran = place.run(&compare(&["--fail-if", all]));
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_says(
        &ran.err,
        &[
            "recall:5pt: photosift-10k-128-euclidean, ivf-pq, memory, nprobe ",
            "points lower",
            "build-slower:50%: photosift-10k-128-euclidean, ivf-pq: built in ",
        ],
    );
    assert_says(&ran.err, &["memory:20%: photosift-10k-128-euclidean, ivf-pq: peak memory of the build", "50.0% more"]);
    assert_says(&ran.out, &["lower", "(+100.0%)", "(+25.0%)"]);
    // A rule is met once; with the limits above it, none is.
    place.ok(&compare(&["--fail-if", "recall:20pt,build-slower:150%,memory:60%"]));
}

#[test]
fn what_is_not_alike_is_not_compared() {
    let place = two(1.0);
    let refused = |records: Records, why: &[&str]| {
        records.write(&place, "out");
        let ran = place.run(&compare(&["--fail-if", "slower:3%"]));
        assert_eq!(ran.code, Some(1), "{}", ran.out);
        assert_says(&ran.out, &[&["A and B are not comparable.", "not comparable: "], why].concat());
        assert_says(&ran.err, &[&["nothing in common"], why].concat());
    };
    let header =
        |field: &'static str, value: Value| copy(1.0, 1).but(|r| *r.header.pointer_mut(field).expect("there") = value);
    refused(header("/dataset/fingerprint", json!("xxh3:other")), &["other data: fingerprint"]);
    refused(header("/dataset/metric", json!("ip")), &["other data: metric l2 in A, ip in B"]);
    refused(header("/dataset/queries", json!(59)), &["other queries: 60 in A, 59 in B"]);
    refused(header("/machine/cpu", json!("Another CPU")), &["other machine: CPU", "Another CPU in B"]);
    refused(header("/machine/cpus", json!(1024)), &["other machine: CPUs"]);
    refused(header("/k", json!(5)), &["other k: 10 in A, 5 in B"]);
    refused(
        copy(1.0, 1).each(|s| s["mode"] = json!({ "mode": "batch", "threads": 3 })),
        &["other mode: B has it only in batch-3"],
    );
    let on_drive = |s: &mut Value| {
        (s["residency"], s["io_state"]) = (json!("ssd"), json!({ "state": "cold" }));
    };
    refused(copy(1.0, 1).each(on_drive), &["other place: B has it only from ssd, cold"]);
    refused(copy(1.0, 1).but(|r| r.builds[0]["index"] = json!("vamana")), &["B has no such index"]);

    // Both on the drive, but on another one.
    copy(1.0, 0).each(on_drive).write(&place, BASE);
    refused(
        copy(1.0, 1).each(on_drive).but(|r| r.header["machine"]["drive"] = json!("nvme9")),
        &["other machine: in B it lies on nvme9"],
    );
}

#[test]
fn folders_that_cannot_be_used_are_named_with_a_remedy() {
    let place = two(1.0);
    assert_says(&place.fails(1, &["compare", BASE, "nowhere"]), &["nowhere: ", "No such file", "kiln bench --out DIR"]);
    place.write("file", "no folder");
    assert_says(&place.fails(1, &["compare", "file", "out"]), &["file: ", "give a run folder"]);
    std::fs::create_dir_all(place.path("bare/below")).expect("created");
    assert_says(&place.fails(1, &["compare", BASE, "bare"]), &["bare: there is no run in it", "kiln bench --out bare"]);
    copy(1.0, 1).but(|r| r.settings.clear()).write(&place, "empty");
    assert_says(
        &place.fails(1, &["compare", BASE, "empty"]),
        &["empty: no setting is measured", "kiln bench --out empty"],
    );
    let failed = |setting: &mut Value| {
        (setting["runs"], setting["failure"]) = (json!([]), json!("killed"));
    };
    copy(1.0, 1).each(failed).write(&place, "empty");
    assert_says(&place.fails(1, &["compare", "empty", "out"]), &["empty: no setting is measured"]);

    copy(1.0, 1).but(|r| r.header["schema"] = json!(77)).write(&place, "future/run");
    assert_says(
        &place.fails(1, &["compare", BASE, "future"]),
        &["future/run/run.json", "schema version 77", "reads version 1"],
    );
    place.write("out/settings.jsonl", "{}\n{}\n");
    assert_says(&place.fails(1, &compare(&[])), &["out/settings.jsonl, line 1"]);

    // An A/A run of other data says nothing of the noise here; nor does a single one of another program.
    copy(1.0, 1).write(&place, "out");
    copy(1.0, 1).but(|r| r.header["k"] = json!(5)).write(&place, "again");
    assert_says(
        &place.fails(1, &compare(&["--noise", "again"])),
        &["again: it says nothing of the noise", "a second time"],
    );
    copy(1.0, 1).but(|r| r.header["machine"]["commit"] = json!("0123456789abcdef")).write(&place, "again");
    assert_says(&place.fails(1, &compare(&["--noise", "again"])), &["again: ", "(0123456789ab"]);
    let message = place.fails(1, &compare(&["--markdown", "nowhere/summary.md"]));
    assert_says(&message, &["nowhere/summary.md: cannot write"]);
}

#[test]
fn command_lines_that_cannot_work_are_usage_errors() {
    let place = Place::new();
    let usage = |args: &[&str], parts: &[&str]| assert_says(&place.fails(2, &[&["compare"], args].concat()), parts);
    usage(&["a"], &["required arguments"]);
    usage(&["a", "b", "--fail-if", "slower:3%,slowr:3%"], &["--fail-if", "`slowr` in `slowr:3%`", "recall:Xpt"]);
    usage(&["a", "b", "--fail-if", "slower:3"], &["`3` in `slower:3` has no unit %", "slower:3%"]);
    usage(&["a", "b", "--fail-if", "recall:näher"], &["`näher` in `recall:näher`", "pt"]);
    usage(&["a", "b", "--at-recall", ".9,2"], &["--at-recall", "'2'", "at most 1"]);
    usage(&["a", "b", "--json", "-", "--markdown", "-"], &["--json -", "--markdown -"]);
    let help = place.ok(&["compare", "--help"]);
    assert_says(&help, &["slower:P%", "recall:Xpt", "build-slower:P%", "memory:P%", "no detectable difference"]);
}

/// Every `kiln compare` that the documentation shows, in its workflows and in its examples.
#[test]
fn documented_command_lines_work() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let place = Place::new();
    let folders = ["before", "before-again", "after", "baseline", "out", "aa/1", "aa/2", "aa/more/3", "aa/more/4"];
    for (number, folder) in folders.into_iter().enumerate() {
        copy(1.0, number).write(&place, folder);
    }
    let mut shown = 0;
    for file in ["comparing.md", "ci/benchmark.yml", "ci/nightly-noise.yml"] {
        let text = std::fs::read_to_string(docs.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let joined = text.replace("\\\n", " ");
        // What the book shows with its output is run with it.
        let calls =
            joined.lines().filter_map(|line| line.split_once("kiln compare ")).filter(|(before, _)| *before != "$ ");
        for (_, line) in calls {
            // Up to the end of inline code; the job's summary is a file as any other.
            let code = line.split('`').next().unwrap_or_default();
            let named =
                |word: &'_ str| if word.contains("GITHUB") { "summary.md".to_string() } else { word.to_string() };
            let words: Vec<String> = code.split_whitespace().map(named).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            if words.first().is_some_and(|word| folders.iter().any(|f| f.split('/').next() == word.split('/').next())) {
                let ran = place.run(&[&["compare"], &words[..]].concat());
                assert!(matches!(ran.code, Some(0)), "{file}: kiln compare {line}: {}", ran.err);
                shown += 1;
            }
        }
    }
    assert!(shown >= 4, "{shown} command lines were found");
}
