//! `kiln tune`, and `kiln search --recall`, which uses what it found.

use crate::common::*;
use serde_json::Value;

/// The demo, with a small index of each kind.
fn place() -> Place {
    let place = Place::new();
    std::fs::copy(demo(), place.path("demo.hdf5")).expect("copied");
    build(&place, "vamana", "42");
    build(&place, "ivf-pq", "42");
    place
}

fn build(place: &Place, kind: &str, seed: &str) {
    let own: &[&str] =
        if kind == "vamana" { &["--max-degree", "32", "--build-list", "32"] } else { &["--nlist", "64"] };
    let out = format!("{kind}.kiln");
    let build = ["build", "--dataset", "demo.hdf5", "--index", kind, "--out", &out, "--seed", seed];
    place.ok(&[&build[..], own].concat());
}

fn tune<'a>(index: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["tune", index, "--quick", "--queries", "demo.hdf5"], more].concat()
}

fn search<'a>(index: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["search", index, "--queries", "demo.hdf5"], more].concat()
}

#[test]
fn a_tuned_setting_is_kept_and_searched_with() {
    let place = place();
    for kind in KINDS {
        let index = format!("{kind}.kiln");
        let printed = place.ok(&tune(&index, &["--recall", ".9", "--json", "-"]));
        let document: Value = serde_json::from_str(&printed).expect("one document and nothing else");
        assert_keys(&document, &["index", "path", "tuned"]);
        let tuned = &document["tuned"];
        assert_keys(
            tuned,
            &["k", "recall", "residency", "mode", "effort", "qps", "tuning", "held_out", "created", "version"],
        );
        assert_eq!((&tuned["mode"], &tuned["residency"]), (&"latency-1".into(), &"memory".into()));
        assert_eq!((&tuned["tuning"]["queries"], &tuned["held_out"]["queries"]), (&250.into(), &250.into()));
        assert!(number(tuned, "/tuning/lo") >= 0.9 && number(tuned, "/held_out/recall") >= 0.88, "{tuned}");
        assert!(number(tuned, "/qps/lo") > 0.0);

        // Other targets lie beside it.
        let told = place.ok(&tune(&index, &["--recall", ".8", "--k", "5", "--batch", "--threads", "2"]));
        assert_says(
            &told,
            &["for recall@5 0.8", "batch-2 from memory", "held out  recall ", &format!("{index}.tune.json")],
        );
        let file = place.json(&format!("{index}.tune.json"));
        let held: Vec<(u64, f64)> = (file["tuned"].as_array().expect("list").iter())
            .map(|tuned| (tuned["k"].as_u64().expect("k"), number(tuned, "/recall")))
            .collect();
        assert_eq!(held, [(5, 0.8), (10, 0.9)]);
        assert!(!place.names(".").iter().any(|name| name.contains("partial")), "{:?}", place.names("."));

        // A search uses it, and finds what was promised.
        let row: Value =
            serde_json::from_str(&place.ok(&search(&index, &["--recall", "0.9", "--json", "-"]))).expect("json");
        assert_eq!(row["params"], tuned["effort"]);
        assert!(number(&row, "/recall") >= 0.88, "{row}");
        assert_says(&place.ok(&search(&index, &["--recall", ".8", "--k", "5", "--batch"])), &["recall@5 "]);
    }
    // On the drive a graph is walked by codes, and that is a target of its own.
    let message = place.fails(1, &search("vamana.kiln", &["--recall", ".7", "--residency", "ssd"]));
    assert_says(&message, &["vamana.kiln.tune.json", "0.7 (ssd)", "recall@10 0.9 (memory)", "--residency ssd`"]);
    place.ok(&tune("vamana.kiln", &["--recall", ".7", "--residency", "ssd"]));
    place.ok(&search("vamana.kiln", &["--recall", ".7", "--residency", "ssd"]));
}

#[test]
fn settings_do_not_outlive_their_index() {
    let place = place();
    place.ok(&tune("ivf-pq.kiln", &["--recall", ".8"]));
    let settings = place.read("ivf-pq.kiln.tune.json");
    // A build removes what was found for the index before it.
    build(&place, "ivf-pq", "7");
    assert!(!place.path("ivf-pq.kiln.tune.json").exists());
    // Were it copied back, it would be refused, and replaced by the next tuning.
    place.write("ivf-pq.kiln.tune.json", &settings);
    let message = place.fails(1, &search("ivf-pq.kiln", &["--recall", ".8"]));
    assert_says(&message, &["ivf-pq.kiln.tune.json", "another build of ivf-pq.kiln", "kiln tune ivf-pq.kiln"]);
    let again = place.run(&tune("ivf-pq.kiln", &["--recall", ".8"]));
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert_says(&again.err, &["for another build of the index are dropped"]);
    place.ok(&search("ivf-pq.kiln", &["--recall", ".8"]));
    // One that cannot be understood is refused before the work, and left as it is.
    place.write("ivf-pq.kiln.tune.json", "{}");
    for args in [tune("ivf-pq.kiln", &["--recall", ".8"]), search("ivf-pq.kiln", &["--recall", ".8"])] {
        assert_says(&place.fails(1, &args), &["ivf-pq.kiln.tune.json", "schema", "remove it"]);
    }
    assert_eq!(place.text("ivf-pq.kiln.tune.json"), "{}");
}

#[test]
fn targets_out_of_reach_and_command_lines_that_cannot_work_are_refused() {
    let place = place();
    let message = place.fails(1, &search("vamana.kiln", &["--recall", ".95"]));
    assert_says(
        &message,
        &["vamana.kiln.tune.json", "not tuned", "kiln tune vamana.kiln --queries FILE --recall 0.95`"],
    );

    place.ok(&["datasets", "convert", "demo.hdf5", "query.fbin", "--queries"]);
    let message = place.fails(1, &["tune", "vamana.kiln", "--queries", "query.fbin", "--recall", ".9"]);
    assert_says(&message, &["query.fbin", "no truth", "--truth"]);
    place.write("few.fbin", fbin(&fbin_rows(&place.read("query.fbin"))[..10]));
    place.ok(&["datasets", "truth", "demo.hdf5", "--k", "10", "--out", "truth.ibin"]);
    let few = ["tune", "vamana.kiln", "--queries", "few.fbin", "--truth", "truth.ibin", "--recall", ".9"];
    assert_says(&place.fails(1, &few), &["10 queries are too few", "20 or more"]);
    let given =
        ["tune", "vamana.kiln", "--queries", "query.fbin", "--truth", "truth.ibin", "--recall", ".8", "--quick"];
    place.ok(&given);
    // By the truth of other queries whatever is near counts as found.
    let mut reversed = fbin_rows(&place.read("query.fbin"));
    reversed.reverse();
    place.write("reversed.fbin", fbin(&reversed));
    let settings = place.read("vamana.kiln.tune.json");
    let wrong = ["tune", "vamana.kiln", "--queries", "reversed.fbin", "--truth", "truth.ibin", "--recall", ".8"];
    assert_says(&place.fails(1, &wrong), &["of 250 queries a nearer row was found", "kiln datasets truth"]);
    assert!(place.read("vamana.kiln.tune.json") == settings, "what was found before is gone");
    // Codes of half a byte lose neighbours, however many lists are scanned.
    let coarse = ["--index", "ivf-pq", "--nlist", "2", "--m", "1", "--bits", "4", "--out", "coarse.kiln"];
    place.ok(&[&["build", "--dataset", "demo.hdf5"], &coarse[..]].concat());
    let message = place.fails(1, &tune("coarse.kiln", &["--recall", "1"]));
    assert_says(
        &message,
        &["coarse.kiln", "recall@10 1 is not reached", "the best seen is 0.", "nprobe=2", "--bits 8"],
    );
    assert_says(&message, &["ask for less", "95% interval"]);
    assert!(!place.path("coarse.kiln.tune.json").exists());
    assert_says(&place.fails(1, &tune("vamana.kiln", &["--recall", ".9", "--k", "101"])), &["k 101", "100"]);

    for recall in ["0", "1.01", "NaN", "most"] {
        assert_says(&place.fails(2, &tune("vamana.kiln", &["--recall", recall])), &["--recall", recall, "at most 1"]);
    }
    assert_says(&place.fails(2, &tune("vamana.kiln", &[])), &["required arguments"]);
    assert_says(&place.fails(2, &tune("vamana.kiln", &["--recall", ".9", "--threads", "0"])), &["--threads 0"]);
    assert_says(&place.fails(2, &tune("vamana.kiln", &["--recall", ".9", "--k", "0"])), &["--k 0"]);
    let message = place.fails(2, &tune("ivf-pq.kiln", &["--recall", ".9", "--navigate", "codes"]));
    assert_says(&message, &["ivf-pq.kiln", "--navigate"]);
    for flag in [["--search-list", "20"], ["--navigate", "exact"], ["--nprobe", "2"], ["--rerank", "9"]] {
        let message = place.fails(2, &search("vamana.kiln", &[&["--recall", ".9"][..], &flag].concat()));
        assert_says(&message, &["--recall", flag[0]]);
    }
}
