//! `kiln load`: what it measures, prints and keeps.

use crate::common::*;
use crate::http::*;
use kiln_eval::load::{LoadMode, LoadRecord};
use serde_json::Value;

const RECORD_KEYS: [&str; 15] = [
    "url",
    "index",
    "created",
    "mode",
    "offered_rate",
    "achieved_rate",
    "seconds",
    "requests",
    "errors",
    "latency_us",
    "start_lag_us",
    "saturated",
    "capacity",
    "connections",
    "k",
];

#[test]
fn a_sweep_gives_the_curve_and_keeps_it() {
    let place = Place::new().with_indexes();
    let server = Server::start(&place, &["vamana.kiln"]);
    let load =
        ["load", "--url", &server.target.url, "--queries", "set.hdf5", "--connections", "4", "--duration", "200ms"];
    let more = ["--search-list", "30", "--out", "run", "--json", "load.json"];
    let printed = place.ok(&[&load[..], &["--sweep"], &more].concat());
    assert_eq!(printed.lines().count(), 11, "{printed}");
    let document = place.json("load.json");
    let records = document["records"].as_array().expect("records");
    assert_eq!(records.len(), 10);
    assert_keys(&records[0], &[&RECORD_KEYS[..], &["params", "recall"]].concat());
    let kept = place.text("run/load.jsonl");
    let kept: Vec<LoadRecord> = kept.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    let told: Vec<LoadRecord> = records.iter().map(|r| serde_json::from_value(r.clone()).expect("a record")).collect();
    assert_eq!(kept, told);
    let capacity = kept[0].achieved_rate;
    assert_eq!((kept[0].mode, kept[0].capacity), (LoadMode::ClosedLoop, None));
    for (record, part) in kept[1..].iter().zip([0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]) {
        assert_eq!((record.mode, record.capacity), (LoadMode::OpenLoop, Some(capacity)));
        assert!((record.offered_rate - part * capacity).abs() < 1e-6 * capacity);
        assert!(record.errors.is_empty() && record.requests > 0, "{record:?}");
        assert!(record.latency_us.p50 > 0.0 && record.latency_us.p50 <= record.latency_us.p99);
        assert!(record.recall.is_some_and(|recall| recall > 0.9), "{:?}", record.recall);
        assert_eq!(record.params["search_list"], 30);
        assert_eq!(record.index.as_ref().map(|index| &index["kind"]), Some(&Value::from("vamana")));
    }
    // Recall is that which `kiln search` judges.
    let searched = place.ok(&["search", "vamana.kiln", "--queries", "set.hdf5", "--search-list", "30", "--json", "-"]);
    let searched: Value = serde_json::from_str(&searched).expect("JSON");
    assert!((kept[1].recall.expect("told") - number(&searched, "/recall")).abs() < 1e-12);
}

#[test]
fn both_forms_of_body_are_answered_and_overload_is_told() {
    let place = Place::new().with_indexes();
    let server = Server::start(&place, &["ivf-pq.kiln", "--threads", "1", "--queue", "1"]);
    for body in ["json", "raw"] {
        let load =
            ["load", "--url", &server.target.url, "--queries", "query.fbin", "--rate", "50,100", "--duration", "300ms"];
        let printed = place.ok(&[&load[..], &["--body", body, "--nprobe", "2", "--json", "-"]].concat());
        let document: Value = serde_json::from_str(&printed).expect("one document");
        assert_eq!(document["records"].as_array().map(Vec::len), Some(2));
        assert_eq!(
            (&document["records"][0]["requests"], &document["records"][1]["requests"]),
            (&15.into(), &30.into())
        );
        assert_eq!(document["records"][0]["params"]["body"], body);
        assert_eq!(document["records"][0]["recall"], Value::Null);
    }
    let load =
        ["load", "--url", &server.target.url, "--queries", "query.fbin", "--rate", "30000", "--duration", "300ms"];
    let printed = place.ok(&[&load[..], &["--connections", "32", "--json", "-"]].concat());
    let record: Value = serde_json::from_str::<Value>(&printed).expect("one document")["records"][0].take();
    assert!(record["errors"]["overloaded"].as_u64().is_some_and(|count| count > 0), "{record}");
    assert_eq!(record["saturated"], true);
}

#[test]
fn loads_that_cannot_be_are_refused() {
    let place = Place::new().with_indexes();
    let server = Server::start(&place, &["vamana.kiln"]);
    let url = server.target.url.as_str();
    let fails = |code, args: &[&str]| place.fails(code, &[&["load", "--queries", "query.fbin"], args].concat());
    assert_says(&fails(2, &["--url", "https://x", "--closed"]), &["--url https://x", "http://HOST:PORT"]);
    assert_says(&fails(2, &["--url", url, "--rate", "fast"]), &["--rate", "\"fast\"", "80%"]);
    assert_says(&fails(2, &["--url", url, "--closed", "--k", "0"]), &["--k 0"]);
    assert_says(&fails(2, &["--url", url, "--closed", "--connections", "0"]), &["--connections 0"]);
    assert_says(
        &fails(1, &["--url", "http://127.0.0.1:1", "--closed"]),
        &["http://127.0.0.1:1: connect", "kiln serve"],
    );
    assert_says(&fails(1, &["--url", url, "--closed", "--nprobe", "3"]), &["status 400", "use search_list"]);
    assert_says(&fails(1, &["--url", url, "--closed", "--recall", ".9"]), &["status 400", "not tuned"]);
    place.write("six.fbin", fbin(&[vec![0.5; 6]]));
    let other = place.fails(1, &["load", "--queries", "six.fbin", "--url", url, "--closed"]);
    assert_says(&other, &["six.fbin", "6 coordinates", "has 8"]);
    let none = place.run(&["load", "--queries", "query.fbin", "--url", url]);
    assert_eq!(none.code, Some(2));
}
