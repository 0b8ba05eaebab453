//! `kiln bench` and `kiln report`: a run from nothing to a report, resumed, refused, repaired.

use crate::common::*;
use serde_json::Value;

/// The shortest run there is: one index and one setting, as latency and as throughput.
const SHORT: [&str; 9] =
    ["bench", "--dataset", "set.hdf5", "--quick", "--index", "ivf-pq", "--threads", "1", "--nprobe=4"];

fn short<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SHORT[..], more].concat()
}

fn assert_png(place: &Place, name: &str) {
    assert_eq!(place.read(name)[..8], *b"\x89PNG\r\n\x1a\n", "{name}");
}

#[test]
fn without_arguments_the_demo_is_measured_and_reported() {
    let place = Place::new();
    let first = place.run(&["bench"]);
    assert_eq!(first.code, Some(0), "{}", first.err);
    assert_says(&first.err, &["no --dataset", "embedded demo", "10,000 x 128", "vamana: ", "ivf-pq: "]);

    let run = "kiln-runs/photosift-10k-128-euclidean";
    let held = ["run.json", "builds.jsonl", "settings.jsonl", "indexes", "report.html", "charts"];
    assert_eq!(place.names(run), held.map(String::from).into());
    let header = place.json(&format!("{run}/run.json"));
    assert_eq!((&header["command"], &header["quick"]), (&"kiln bench".into(), &true.into()));
    let records = |file: &str| -> Vec<Value> {
        let text = place.text(&format!("{run}/{file}"));
        text.lines().map(|line| serde_json::from_str(line).expect("a record a line")).collect()
    };
    assert_eq!(records("builds.jsonl").len(), 2);
    let settings = records("settings.jsonl");
    assert!(settings.iter().all(|setting| setting["failure"].is_null()), "a setting failed");

    let page = place.text(&format!("{run}/report.html"));
    assert!(page.starts_with("<!doctype html>") || page.starts_with("<!DOCTYPE html>"), "{}", &page[..40]);
    assert_says(&page, &["photosift-10k-128-euclidean", "kiln bench", "vamana", "ivf-pq", "<svg", "</html>"]);
    let charts = place.names(&format!("{run}/charts"));
    assert!(charts.contains("recall-qps-latency-1.png") && charts.len() >= 4, "{charts:?}");
    for chart in charts.iter().filter_map(|name| name.strip_suffix(".png")) {
        assert_png(&place, &format!("{run}/charts/{chart}.png"));
        assert!(place.text(&format!("{run}/charts/{chart}.svg")).starts_with("<svg "), "{chart}");
        assert_says(&page, &[&format!("href=\"charts/{chart}.png\""), &format!("href=\"charts/{chart}.svg\"")]);
    }

    // A line of figures for each setting, the best of each index near exact, and where the report is.
    let figures: Vec<&str> = first.out.lines().filter(|l| l.starts_with("vamana") || l.starts_with("ivf-pq")).collect();
    assert_eq!(figures.len(), settings.len());
    assert_says(
        &first.out,
        &["recall", "QPS", &format!("report: {run}/report.html"), &format!("charts: {run}/charts")],
    );
    for kind in KINDS {
        // The last columns are recall, QPS, p50 and p99.
        let recall = |line: &&str| line.split_whitespace().nth_back(3).and_then(|r| r.parse().ok()).expect("a recall");
        let best = figures.iter().filter(|line| line.starts_with(kind)).map(recall).fold(0.0, f64::max);
        assert!(best >= 0.99, "{kind}: {best}");
    }

    // Again: nothing is built or measured, and the same is printed.
    let kept = ["run.json", "builds.jsonl", "settings.jsonl"].map(|file| place.read(&format!("{run}/{file}")));
    let second = place.run(&["bench"]);
    assert_eq!((second.code, &second.out), (Some(0), &first.out));
    assert_eq!(second.err.matches("every setting is measured already").count(), 2, "{}", second.err);
    let now = ["run.json", "builds.jsonl", "settings.jsonl"].map(|file| place.read(&format!("{run}/{file}")));
    assert!(now == kept, "a finished run changed");
    assert!(place.text(&format!("{run}/report.html")) == page, "the report changed");

    // What a click on a point copies measures that point again.
    let charts = page.split("id=\"charts\">").nth(1).and_then(|rest| rest.split("</script>").next());
    let charts: Value = serde_json::from_str(charts.expect("charts for the script")).expect("JSON");
    let commands = charts["tips"].as_array().expect("tips").iter().filter_map(|tip| tip[1].as_str());
    let again = commands.clone().find(|text| text.contains("--search-list 10 ") && text.contains("--threads 1 "));
    let again: Vec<&str> = again.expect("a command").split(' ').collect();
    assert_eq!(again[0], "kiln");
    place.ok(&again[1..]);
    let measured = place.text("kiln-runs/again/settings.jsonl");
    for text in measured.lines() {
        let setting: Value = serde_json::from_str(text).expect("a record");
        let before = settings.iter().find(|old| ["params", "mode"].iter().all(|key| old[key] == setting[key]));
        let hits = |setting: &Value| setting["answers"]["strict_hits"].clone();
        assert!(before.is_some_and(|old| hits(old) == hits(&setting) && !hits(old).is_null()), "{text}");
    }
    assert!(commands.filter(|text| text.starts_with("kiln bench ")).count() >= settings.len() / 2);
}

#[test]
fn a_report_is_opened_or_says_why_not() {
    let place = Place::new().with_set();
    place.ok(&short(&["--out", "run"]));
    std::fs::create_dir(place.path("programs")).expect("a folder");
    let programs = place.path("programs");
    let path = [("PATH", programs.to_str().expect("text"))];
    let ran = place.run_with(&["report", "run", "--open"], &path);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_says(&ran.out, &["report: run/report.html"]);
    assert_says(&ran.err, &["error: cannot open ", "run/report.html", "in a browser by hand"]);
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::PermissionsExt;
        let opener = programs.join("xdg-open");
        place.write("programs/xdg-open", "#!/bin/sh\nprintf %s \"$1\" >opened\n");
        std::fs::set_permissions(&opener, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let ran = place.run_with(&["report", "run", "--open"], &path);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(std::path::Path::new(&place.text("opened")).is_absolute());
        assert!(place.text("opened").ends_with("run/report.html"));
        place.write("programs/xdg-open", "#!/bin/sh\nexit 3\n");
        let ran = place.run_with(&["report", "run", "--open"], &path);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert_says(&ran.err, &["xdg-open: exit status: 3"]);
    }
}

#[test]
fn a_report_tells_the_differences_to_a_baseline() {
    let place = Place::new().with_set();
    for out in ["before", "after"] {
        place.ok(&short(&["--out", out]));
    }
    assert!(!place.text("after/report.html").contains("id=\"section-differences\""), "nobody asked");
    place.ok(&["report", "after", "--against", "before"]);
    let page = place.text("after/report.html");
    assert_says(&page, &["id=\"section-differences\"", "A is the baseline, before; B is this run."]);
    let error = place.fails(1, &["report", "after", "--against", "none"]);
    assert_says(&error, &["none"]);
}

#[test]
fn a_run_tells_all_figures_in_json() {
    let place = Place::new().with_indexes();
    let build_row = [
        "index",
        "path",
        "params",
        "dataset",
        "n",
        "dim",
        "metric",
        "dtype",
        "device",
        "threads",
        "seconds",
        "peak_rss_bytes",
        "index_bytes",
    ];
    let printed = place.ok(&short(&["--open", "vamana.kiln", "--search-list", "10,20", "--out", "run", "--json", "-"]));
    let document: Value = serde_json::from_str(&printed).expect("one document and nothing else");
    assert_keys(
        &document,
        &["machine", "dataset", "drive_ceiling", "noise", "peer_overhead", "builds", "rows", "choices", "left_out"],
    );
    assert!(document["drive_ceiling"].is_null(), "nothing was on the drive");
    let (builds, rows) = (document["builds"].as_array().expect("list"), document["rows"].as_array().expect("list"));
    assert_eq!(builds.len(), 2);
    for build in builds {
        assert_keys_but(build, &build_row, "cpu_seconds");
        assert!(number(build, "/seconds/total") > 0.0, "{build}");
    }
    // One setting of the one index and two of the other, each as latency and as throughput.
    assert_eq!(rows.len(), 6);
    for row in rows {
        assert_keys(row, &SEARCH_KEYS);
        assert!(number(row, "/qps/median") > 0.0 && (0.0..=1.0).contains(&number(row, "/recall")), "{row}");
    }
    assert_eq!((&document["dataset"]["name"], &document["dataset"]["rows"]), (&"set".into(), &500.into()));
    assert!(document["machine"]["cpus"].as_u64().is_some_and(|cpus| cpus > 0));
    assert_png(&place, "run/charts/recall-qps-latency-1.png");
}

#[test]
fn batches_are_measured_beside_single_queries() {
    let place = Place::new().with_indexes();
    let asked = ["--open", "vamana.kiln", "--search-list", "20", "--batch", "--out", "run", "--json", "figures.json"];
    let told = place.ok(&short(&asked));
    let batches: Vec<&str> = told.lines().filter(|line| line.contains(" batch-1 ")).collect();
    assert!(batches.len() == 2 && batches.iter().all(|line| line.trim_end().ends_with("-         -")), "{told}");
    let document = place.json("figures.json");
    let rows = document["rows"].as_array().expect("list");
    assert_eq!(rows.len(), 6);
    for row in rows {
        assert_keys(row, &SEARCH_KEYS);
        assert_eq!(row["latency_us"].is_null(), row["mode"] == "batch-1", "{row}");
        assert_eq!(row["queries"], 20);
        let alike = rows.iter().find(|r| r["mode"] == "latency-1" && r["index"] == row["index"]).expect("measured");
        assert_eq!(alike["recall_ids"], row["recall_ids"]);
    }
    let charts = place.names("run/charts");
    assert!(charts.contains("recall-qps-batch-1.png") && !charts.contains("recall-p99-batch-1.png"), "{charts:?}");
    // What was measured without batches is not measured again for them.
    let settings = |args: &[&str]| {
        place.ok(&short(args));
        place.text("more/settings.jsonl").lines().count()
    };
    assert_eq!([settings(&["--out", "more"]), settings(&["--out", "more", "--batch"])], [2, 3]);
}

#[test]
fn the_drive_is_measured_in_every_state_and_memory() {
    let place = Place::new().with_indexes();
    let asked = [
        &["bench", "--dataset", "set.hdf5", "--open", "vamana.kiln", "--search-list", "20", "--threads", "1"][..],
        &["--queries", "15", "--quick", "--residency", "memory,ssd", "--io-state", "cold,warm"],
        &["--memory", "8MiB,1GiB", "--out", "run", "--json", "figures.json"],
    ]
    .concat();
    let told = place.ok(&asked);
    let heading = told.lines().next().expect("a table");
    assert_says(heading, &["I/O", "memory", "pages", "hops", "wait us"]);
    for (state, memory) in [("memory", " - "), ("cold", "8.0 MiB"), ("cold", "1.00 GiB"), ("warm", "8.0 MiB")] {
        let found =
            told.lines().any(|line| line.contains("latency-1") && [state, memory].iter().all(|w| line.contains(w)));
        assert!(found, "{state}, {memory}: {told}");
    }
    let document = place.json("figures.json");
    let rows = document["rows"].as_array().expect("list");
    assert_eq!(rows.len(), (1 + 2 * 2) * 2);
    for row in rows {
        assert_keys(row, &SEARCH_KEYS);
        let drive = row["residency"] == "ssd";
        assert_eq!((row["io_state"].is_string(), row["io_wait_us_per_query"].is_number()), (drive, drive), "{row}");
        assert_eq!((row["pages_per_query"].is_number(), &row["queries"]), (drive, &15.into()), "{row}");
    }
    assert!(place.names("run/charts").contains("cold-warm-latency-1.png"));

    let message = place.fails(2, &short(&["--io-state", "cold"]));
    assert_says(&message, &["--io-state", "--residency ssd"]);
    let message = place.fails(2, &short(&["--residency", "ssd", "--io-state", "lukewarm"]));
    assert_says(&message, &["lukewarm", "capped:256MiB"]);
    let message = place.fails(2, &short(&["--residency", "ssd", "--memory", "plenty"]));
    assert_says(&message, &["plenty", "512MiB"]);
}

/// As `assert_keys`, where one more key may be there.
fn assert_keys_but(value: &Value, expected: &[&str], also: &str) {
    let mut value = value.clone();
    value.as_object_mut().expect("an object").remove(also);
    assert_keys(&value, expected);
}

#[test]
fn a_run_goes_on_with_what_it_lacks() {
    let place = Place::new().with_set();
    place.ok(&short(&["--out", "run"]));
    let lines = || place.text("run/settings.jsonl").lines().count();
    let (first, kept) = (lines(), place.text("run/settings.jsonl"));
    place.ok(&short(&["--out", "run", "--nprobe=2"]));
    assert!(lines() == first + 2 && place.text("run/settings.jsonl").starts_with(&kept));

    // A crash tears the last line: it alone is measured again, and the user is told.
    let whole = place.text("run/settings.jsonl");
    place.write("run/settings.jsonl", &whole[..whole.len() - 30]);
    let report = place.run(&["report", "run"]);
    assert_eq!(report.code, Some(0), "{}", report.err);
    assert_says(&report.err, &["settings.jsonl", &format!("line {} is torn", first + 2)]);
    let again = place.run(&short(&["--out", "run", "--nprobe=2"]));
    assert_eq!((again.code, lines()), (Some(0), first + 2), "{}", again.err);
    assert_says(&again.err, &["settings.jsonl", "is torn"]);
}

#[test]
fn a_folder_of_another_run_is_refused() {
    let place = Place::new().with_set();
    place.ok(&short(&["--out", "run"]));
    place.ok(&[
        "datasets",
        "synth",
        "--rows",
        "400",
        "--dim",
        "8",
        "--lid",
        "4",
        "--queries",
        "5",
        "--out",
        "other.hdf5",
    ]);
    let before = place.text("run/settings.jsonl");
    let other = ["bench", "--dataset", "other.hdf5", "--quick", "--index", "ivf-pq", "--out", "run"];
    assert_says(&place.fails(1, &other), &["run: it holds a run", "data set", "choose another --out"]);
    assert_says(&place.fails(1, &short(&["--out", "run", "--k", "5"])), &["k is 10", "is 5", "choose another --out"]);
    assert_says(&place.fails(1, &short(&["--out", "run", "--metric", "ip"])), &["metric", "l2", "ip"]);
    assert_eq!(place.text("run/settings.jsonl"), before);
    // So is an index of other data.
    place.ok(&["build", "--dataset", "other.hdf5", "--index", "vamana", "--out", "other.kiln"]);
    let message =
        place.fails(1, &["bench", "--dataset", "set.hdf5", "--quick", "--open", "other.kiln", "--out", "new"]);
    assert_says(&message, &["other.kiln", "other", "set"]);
}

#[test]
fn a_report_is_written_again_from_the_records_alone() {
    let place = Place::new().with_set();
    place.ok(&short(&["--out", "run"]));
    let (page, charts) = (place.read("run/report.html"), place.names("run/charts"));
    std::fs::remove_file(place.path("run/report.html")).expect("removed");
    std::fs::remove_dir_all(place.path("run/charts")).expect("removed");
    std::fs::remove_dir_all(place.path("run/indexes")).expect("removed");
    let records = ["run.json", "builds.jsonl", "settings.jsonl"];
    let before = records.map(|file| place.read(&format!("run/{file}")));
    assert_eq!(place.ok(&["report", "run"]), "report: run/report.html\ncharts: run/charts\n");
    assert!(place.read("run/report.html") == page, "another report");
    assert_eq!(place.names("run/charts"), charts);
    assert!(records.map(|file| place.read(&format!("run/{file}"))) == before, "the records changed");

    place.ok(&["report", "run", "--out", "shared/page.html"]);
    assert!(place.read("shared/page.html") == page, "another report");
    assert_eq!(place.names("shared/charts"), charts);
    place.write("file", "in the way");
    let message = place.fails(1, &["report", "run", "--out", "file/page.html"]);
    assert_says(&message, &["cannot write file/page.html"]);
}

#[test]
fn records_that_are_broken_are_named_with_a_remedy() {
    let place = Place::new().with_set();
    assert_says(&place.fails(1, &["report", "nowhere"]), &["nowhere", "there is no run here", "kiln bench"]);
    place.ok(&short(&["--out", "run"]));
    let (header, settings) = (place.text("run/run.json"), place.text("run/settings.jsonl"));
    let broken_in_both = |parts: &[&str]| {
        for args in [&["report", "run"][..], &short(&["--out", "run"])] {
            assert_says(&place.fails(1, args), parts);
        }
    };

    place.write("run/run.json", &header[..header.len() / 2]);
    broken_in_both(&["run/run.json, line ", "restore the file"]);
    place.write("run/run.json", header.replacen("\"schema\": 1", "\"schema\": 77", 1));
    broken_in_both(&["run/run.json", "schema version 77", "reads version 1"]);
    place.write("run/run.json", &header);

    place.write("run/settings.jsonl", settings.replacen("\"key\"", "\"kez\"", 1));
    broken_in_both(&["run/settings.jsonl, line 1", "key", "restore the file"]);
    place.write("run/settings.jsonl", &settings);

    std::fs::remove_file(place.path("run/run.json")).expect("removed");
    assert_says(&place.fails(1, &short(&["--out", "run"])), &["run", "no run.json", "choose another --out"]);
    place.write("run/run.json", &header);
    place.ok(&["report", "run"]);
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is_built() {
    let place = Place::new().with_set();
    let bench = |code: i32, more: &[&str]| {
        let message = place.fails(code, &[&["bench", "--quick", "--out", "run"], more].concat());
        assert!(!place.path("run/indexes").exists() || place.names("run/indexes").is_empty(), "something was built");
        message
    };
    assert_says(&bench(2, &["--dataset", "base.fbin"]), &["base.fbin", "--metric"]);
    assert_says(&bench(1, &["--dataset", "base.fbin", "--metric", "l2"]), &["base.fbin", "no queries"]);
    assert_says(&bench(2, &["--dataset", "set.hdf5", "--threads", "0"]), &["--threads 0"]);
    assert_says(&bench(1, &["--dataset", "sift-128-euclidean"]), &["kiln datasets fetch sift-128-euclidean"]);
    assert_says(&bench(1, &["--dataset", "set.hdf5", "--k", "0"]), &["0"]);
    assert_says(&bench(1, &["--dataset", "set.hdf5", "--open", "missing.kiln"]), &["missing.kiln"]);
}

#[test]
fn batches_on_a_device_are_told_where_there_is_none() {
    let place = Place::new().with_indexes();
    let asked = ["--open", "vamana.kiln", "--search-list", "20", "--batch-device", "--device", "cpu"];
    place.ok(&short(&[&asked[..], &["--out", "run", "--json", "figures.json"]].concat()));
    let document = place.json("figures.json");
    let left_out = document["left_out"].as_array().expect("list");
    let told: Vec<&str> = left_out.iter().map(|one| one["mode"].as_str().expect("text")).collect();
    assert_eq!(told, ["batch-device", "batch-device-resident"], "{document}");
    assert!(left_out.iter().all(|one| one["why"].as_str().is_some_and(|why| why.contains("no device is at hand"))));
    assert!(document["rows"].as_array().expect("list").iter().any(|row| row["mode"] == "latency-1"));
}
