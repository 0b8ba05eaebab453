//! `kiln datasets` from end to end, and `kiln completions`.

use crate::common::*;
use serde_json::Value;

#[test]
fn known_sets_are_listed() {
    let place = Place::new();
    let sets: Value = serde_json::from_str(&place.ok(&["datasets", "list", "--json", "-"])).expect("one document");
    let sets = sets.as_array().expect("a list");
    let sift = sets.iter().find(|set| set["name"] == "sift-128-euclidean").expect("the best known set");
    assert_eq!((&sift["rows"], &sift["dim"], &sift["metric"]), (&1_000_000.into(), &128.into(), &"l2".into()));
    let table = place.ok(&["datasets", "list"]);
    // The header, and the demo, which has no address.
    assert_eq!(table.lines().count(), sets.len() + 2);
    for set in sets {
        let name = set["name"].as_str().expect("a name");
        assert!(table.lines().any(|line| line.starts_with(name)), "{name} is not in the table");
    }
}

#[test]
fn a_set_is_described_and_its_truth_checked() {
    let place = Place::new().with_set();
    let told = place.ok(&["datasets", "info", "set.hdf5", "--sample", "20"]);
    assert_says(
        &told,
        &["500 x 8 f32, l2, 20 queries, truth of depth 20", "fingerprint", "0 of 20 sampled rows are wrong"],
    );
    assert_says(&place.ok(&["datasets", "info", "base.fbin"]), &["metric unknown, no queries, no truth"]);
    let told = place.ok(&["datasets", "info", demo().to_str().expect("text"), "--lid"]);
    assert_says(&told, &["10,000 x 128", "500 queries, truth of depth 100", "0 of 100 sampled", "LID"]);
    assert_says(&place.fails(1, &["datasets", "info", "nothing-known"]), &["nothing-known", "kiln datasets list"]);
    let message = place.fails(1, &["datasets", "info", "sift-128-euclidean"]);
    assert_says(&message, &["sift-128-euclidean", "kiln datasets fetch"]);
}

#[test]
fn rows_survive_a_tour_of_all_formats() {
    let place = Place::new().with_set();
    let tour = ["base.fbin", "a.npy", "b.fvecs", "c.hdf5", "d.fbin"];
    for pair in tour.windows(2) {
        assert_eq!(place.ok(&["datasets", "convert", pair[0], pair[1]]), format!("{}\n", pair[1]));
    }
    assert_eq!(place.read("d.fbin"), place.read("base.fbin"));
    assert_eq!(Npy::parse(&place.read("a.npy")).float32(), fbin_rows(&place.read("base.fbin")));
    // A whole set keeps its queries, truth and metric.
    place.ok(&["datasets", "convert", "set.hdf5", "copy.hdf5"]);
    assert_says(&place.ok(&["datasets", "info", "copy.hdf5"]), &["500 x 8 f32, l2, 20 queries, truth of depth 20"]);

    let before = place.names(".");
    let message = place.fails(1, &["datasets", "convert", "base.fbin", "x.u8bin"]);
    assert_says(&message, &["base.fbin", "row 0", "u8 cannot hold exactly"]);
    assert_says(&place.fails(1, &["datasets", "convert", "base.fbin", "x.csv"]), &["x.csv", ".csv", ".fbin"]);
    assert_says(
        &place.fails(2, &["datasets", "convert", "base.fbin", "x.npy", "--queries"]),
        &["base.fbin", "no queries"],
    );
    assert_eq!(place.names("."), before, "a refused conversion left something");
}

#[test]
fn computed_truth_equals_the_demos_own() {
    let place = Place::new();
    let demo = demo();
    let demo = demo.to_str().expect("text");
    // Both ways through one writer: what differs is only where the truth is from.
    let told = place.ok(&["datasets", "truth", demo, "--k", "100", "--out", "computed.hdf5", "--threads", "2"]);
    assert_says(&told, &["computed.hdf5", "500 x 100 neighbours by l2"]);
    let read = |path: &std::path::Path| kiln_datasets::Truth::open(path).expect("truth");
    let (computed, stored) = (read(&place.path("computed.hdf5")), read(std::path::Path::new(demo)));
    assert!(computed.ids == stored.ids, "other neighbours than the demo's truth");
    let (computed, stored) = (computed.distances.expect("distances"), stored.distances.expect("distances"));
    assert!(computed.iter().zip(&stored).all(|(a, b)| (a - b).abs() <= 1e-5 * b), "other distances than the demo's");
}

#[test]
fn truth_of_separate_files_is_computed_and_used() {
    let place = Place::new().with_indexes();
    let truth = ["datasets", "truth", "base.fbin", "--queries", "query.fbin", "--metric", "l2", "--k", "12", "--out"];
    for name in ["t.ibin", "t.ivecs", "t.npy", "t.hdf5"] {
        place.ok(&[&truth[..], &[name]].concat());
        let search = ["search", "vamana.kiln", "--queries", "query.fbin", "--search-list", "500", "--truth", name];
        assert_says(&place.ok(&search), &["recall@10 1.0000"]);
    }
    let ids = Npy::parse(&place.read("t.npy"));
    assert_eq!((ids.shape, ids.int64()[3].len()), ((20, 12), 12));
    let before = place.names(".");
    let refused = |code: i32, more: &[&str]| {
        place.fails(code, &[&["datasets", "truth", "base.fbin", "--out", "x.ibin"], more].concat())
    };
    assert_says(&refused(2, &["--queries", "query.fbin"]), &["base.fbin", "--metric"]);
    assert_says(&refused(2, &["--metric", "l2"]), &["base.fbin", "no queries", "--queries"]);
    let too_many = refused(1, &["--queries", "query.fbin", "--metric", "l2", "--k", "501"]);
    assert_says(&too_many, &["501 neighbours", "500 rows"]);
    assert_eq!(place.names("."), before);
}

#[test]
fn synthetic_sets_come_from_their_seed_alone() {
    let place = Place::new();
    let synth = |seed: &str, out: &str| {
        let size = ["--rows", "300", "--dim", "12", "--lid", "6", "--dtype", "i8", "--queries", "7", "--k", "9"];
        place.ok(&[&["datasets", "synth", "--seed", seed, "--out", out], &size[..]].concat())
    };
    assert_eq!(synth("1", "a.i8bin"), "a.i8bin: 300 x 12 i8\n");
    synth("1", "b.i8bin");
    synth("2", "c.i8bin");
    assert!(place.read("a.i8bin") == place.read("b.i8bin") && place.read("a.i8bin") != place.read("c.i8bin"));
    synth("1", "whole.hdf5");
    assert_says(&place.ok(&["datasets", "info", "whole.hdf5"]), &["300 x 12 i8, l2, 7 queries, truth of depth 9"]);
    assert_says(
        &place.fails(1, &["datasets", "synth", "--rows", "0", "--dim", "4", "--out", "x.fbin"]),
        &["rows is 0", "ask for 1"],
    );
    assert!(!place.path("x.fbin").exists());
}

#[test]
fn completions_and_man_pages_are_made() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.ok(&["completions", shell]);
        assert_says(&script, &["kiln", "search-list", "datasets"]);
    }
    assert_eq!(place.ok(&["completions", "man", "--out", "man/man1"]), "man pages: man/man1\n");
    let pages = place.names("man/man1");
    for page in ["kiln.1", "kiln-bench.1", "kiln-search.1", "kiln-datasets-truth.1"] {
        assert!(pages.contains(page), "{pages:?}");
        assert!(place.text(&format!("man/man1/{page}")).contains(".TH"), "{page}");
    }
    assert_says(&place.fails(2, &["completions", "tcsh"]), &["tcsh", "bash", "man"]);
}
