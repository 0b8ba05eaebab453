//! `kiln append` and `kiln compact`, and the commands that take a shard set where they take an index file.

use std::fs::File;

use crate::common::*;
use kiln_builder::{Effort, Index, Navigate, Residency, SearchParams, Searcher};
use kiln_datasets::Dataset;
use kiln_kernels::RowsView;
use serde_json::Value;

/// The demo's rows in three parts, `a.fbin` to `c.fbin`, beside the whole as `demo.hdf5`.
fn demo_in_parts(place: &Place) {
    std::fs::copy(demo(), place.path("demo.hdf5")).expect("copied");
    place.ok(&["datasets", "convert", "demo.hdf5", "all.fbin"]);
    let rows = fbin_rows(&place.read("all.fbin"));
    for (name, part) in [("a", 0..4000), ("b", 4000..7000), ("c", 7000..10_000)] {
        place.write(&format!("{name}.fbin"), fbin(&rows[part]));
    }
}

/// Ids as they are deleted.
fn npy_of(ids: &[u64]) -> Vec<u8> {
    let mut text = format!("{{'descr': '<u8', 'fortran_order': False, 'shape': ({},), }}", ids.len());
    text.push_str(&" ".repeat(63 - (text.len() + 10) % 64));
    text.push('\n');
    let length = (text.len() as u16).to_le_bytes();
    let cells: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    [b"\x93NUMPY\x01\x00", &length[..], text.as_bytes(), &cells].concat()
}

fn inspected(place: &Place, set: &str) -> Value {
    let printed = place.ok(&["inspect", set, "--json", "-"]);
    serde_json::from_str::<Value>(&printed).expect("one document")["set"].clone()
}

/// Ids that a search finds, a list a query.
fn found(place: &Place, index: &str, more: &[&str]) -> Vec<Vec<i64>> {
    place.ok(&[&["search", index, "--queries", "query.fbin", "--out", "found.npy"], more].concat());
    Npy::parse(&place.read("found.npy")).int64()
}

#[test]
fn a_set_that_grew_recalls_no_less_than_one_index() {
    let place = Place::new();
    demo_in_parts(&place);
    place.ok(&["datasets", "convert", "demo.hdf5", "query.fbin", "--queries"]);
    for kind in KINDS {
        let set = format!("{kind}.kset");
        let effort: &[&str] = if kind == "vamana" { &["--search-list", "20"] } else { &["--nprobe", "8"] };
        let recall = |index: &str, more: &[&str]| {
            let search = ["search", index, "--queries", "demo.hdf5", "--json", "-"];
            let row: Value = serde_json::from_str(&place.ok(&[&search[..], effort, more].concat())).expect("json");
            assert_keys(&row, &SEARCH_KEYS);
            assert_eq!(row["path"], index);
            number(&row, "/recall")
        };
        let own: &[&str] = if kind == "vamana" { &["--max-degree", "32"] } else { &[] };
        let first = ["append", &set, "--dataset", "a.fbin", "--metric", "l2", "--index", kind];
        let told = place.ok(&[&first[..], own].concat());
        assert_eq!(told, format!("{set}: 4,000 rows added, ids 0 to 3,999; shards: 1\n"));
        place.ok(&["append", &set, "--dataset", "b.fbin"]);
        let printed = place.ok(&["append", &set, "--dataset", "c.fbin", "--json", "-"]);
        let told: Value = serde_json::from_str(&printed).expect("one document");
        assert_keys(&told, &["path", "shards", "first_id", "rows", "build"]);
        assert_eq!((&told["shards"], &told["first_id"], &told["rows"]), (&3.into(), &7000.into(), &3000.into()));
        assert_eq!(told["build"]["dtype"], "u8");
        if kind == "vamana" {
            assert_eq!(told["build"]["params"]["max_degree"], 32, "as the first shard");
        }

        no_shard_recalls_more(&place, &set, kind);

        // Truth numbers all rows: the ids of the set are those numbers.
        let build = ["build", "--dataset", "all.fbin", "--metric", "l2", "--index", kind, "--out", "whole.kiln"];
        place.ok(&[&build[..], own].concat());
        let (whole, of_set) = (recall("whole.kiln", &[]), recall(&set, &[]));
        assert!(of_set >= whole - 0.002 && of_set > 0.9, "{kind}: {of_set}, of one index {whole}");
        assert_eq!(recall(&set, &["--batch", "--threads", "2"]), of_set);
        if kind == "vamana" {
            let on_drive = recall(&set, &["--residency", "ssd"]);
            assert!(on_drive >= of_set - 0.05, "{kind}: {on_drive} from the drive, {of_set} from memory");
        }
        let few = recall(&set, &["--probe-shards", "2"]);
        assert!(few < of_set && few > 0.3, "{kind}: {few}");
        assert_eq!(recall(&set, &["--probe-shards", "3"]), of_set);

        // One index again, which is what building all rows at once gives.
        let told = place.ok(&["compact", &set]);
        assert_eq!(told, format!("{set}: 10,000 rows in one shard, of 3 before; 0 rows deleted\n"));
        let shard = inspected(&place, &set)["shards"][0]["inspection"].clone();
        let built: Value = serde_json::from_str(&place.ok(&["inspect", "whole.kiln", "--json", "-"])).expect("json");
        let content = |sections: &Value| -> Vec<Value> {
            let sections = sections.as_array().expect("a list").iter();
            sections.filter(|s| s["name"] != "meta" && s["name"] != "sums").cloned().collect()
        };
        assert_eq!(content(&shard["sections"]), content(&built["inspection"]["sections"]), "{kind}");
        assert_eq!(recall(&set, &[]), whole);
    }
}

/// For every query the set finds at least as many of the true neighbours as any of its shards does alone.
fn no_shard_recalls_more(place: &Place, set: &str, kind: &str) {
    let truth = Dataset::open_file(&demo()).expect("the demo").truth.expect("truth").ids;
    let queries = fbin_rows(&place.read("query.fbin"));
    let effort = match kind {
        "vamana" => Effort::Graph { search_list: 20, navigate: Navigate::Best },
        _ => Effort::Lists { nprobe: 8, rerank: 120 },
    };
    let found = |index: &Searcher, first: i64, query: usize| {
        let row = ndarray::ArrayView2::from_shape((1, queries[query].len()), &queries[query]).expect("a row");
        let hits = index.search(&RowsView::F32(row), &SearchParams { k: 10, effort }).expect("found");
        let near: Vec<i64> = truth.row(query).iter().take(10).copied().collect();
        hits.ids.iter().filter(|&&id| near.contains(&(id as i64 + first))).count()
    };
    let open = |path: &str| Index::open(&place.path(path), Residency::Memory).expect("opens");
    let whole = open(set);
    for (shard, first) in [("shard-00001", 0), ("shard-00002", 4000), ("shard-00003", 7000)] {
        let shard = open(&format!("{set}/{shard}.kiln"));
        for query in 0..queries.len() {
            let (all, alone) = (found(&whole, 0, query), found(&shard, first, query));
            assert!(all >= alone, "{kind}, query {query}: {all} of the set, {alone} of the shard from {first} on");
        }
    }
}

#[test]
fn rows_keep_their_ids_through_everything() {
    let place = Place::new().with_set();
    let rows = fbin_rows(&place.read("base.fbin"));
    for (name, part) in [("a", 0..200), ("b", 200..300), ("c", 300..500)] {
        place.write(&format!("{name}.fbin"), fbin(&rows[part]));
    }
    // Every row as a query finds itself.
    place.write("query.fbin", fbin(&rows));
    let nearest = |more: &[&str]| -> Vec<i64> {
        let all = [&["--k", "1", "--search-list", "100"], more].concat();
        found(&place, "x.kset", &all).iter().map(|ids| ids[0]).collect()
    };
    place.ok(&["append", "x.kset", "--dataset", "a.fbin", "--metric", "l2", "--index", "vamana"]);
    place.ok(&["append", "x.kset/", "--dataset", "b.fbin"]);
    assert_eq!(nearest(&[])[..300], (0..300).collect::<Vec<i64>>());
    place.write("gone.npy", npy_of(&[299, 7, 210, 7]));
    let printed = place.ok(&["compact", "x.kset", "--delete", "gone.npy", "--json", "-"]);
    let told: Value = serde_json::from_str(&printed).expect("one document");
    assert_keys(&told, &["shards_before", "rows", "deleted", "deleted_before", "build"]);
    assert_eq!((&told["rows"], &told["deleted"], &told["deleted_before"]), (&297.into(), &3.into(), &0.into()));
    place.ok(&["append", "x.kset", "--dataset", "c.fbin"]);
    for residency in ["memory", "ssd"] {
        for (row, id) in nearest(&["--residency", residency]).into_iter().enumerate() {
            let gone = [7, 210, 299].contains(&row);
            assert_eq!(id == row as i64, !gone, "row {row} is answered as {id}");
            assert!(![7, 210, 299].contains(&id), "row {row} is answered as {id}, which is deleted");
        }
    }
    let set = inspected(&place, "x.kset");
    assert_eq!((&set["rows"], &set["next_id"], &set["dim"]), (&497.into(), &500.into(), &8.into()));
    let shards = set["shards"].as_array().expect("a list");
    let spans = shards.iter().map(|s| ["rows", "first_id", "last_id"].map(|key| s[key].as_u64().unwrap_or(0)));
    assert_eq!(spans.collect::<Vec<_>>(), [[297, 0, 298], [200, 300, 499]]);
    let told = place.ok(&["inspect", "x.kset", "--verify"]);
    assert_says(&told, &["shard set of 2", "497 x 8 f32, metric l2", "3 are of deleted rows", "every shard matches"]);

    // Deleted before is no error, never there is.
    assert_says(&place.ok(&["compact", "x.kset", "--delete", "gone.npy"]), &["497 rows", "3 ids were of rows deleted"]);
    assert_says(&place.ok(&["compact", "x.kset"]), &["one shard of 497 rows, and nothing to delete"]);
    place.write("never.npy", npy_of(&[3, 500]));
    let message = place.fails(1, &["compact", "x.kset", "--delete", "never.npy"]);
    assert_says(&message, &["never.npy", "the id 500", "0 to 499"]);
    place.write("floats.npy", b"\x93NUMPY");
    assert_says(&place.fails(1, &["compact", "x.kset", "--delete", "floats.npy"]), &["floats.npy"]);
    assert_says(&place.fails(1, &["compact", "x.kset", "--delete", "missing.npy"]), &["missing.npy"]);
    assert_eq!(inspected(&place, "x.kset")["rows"], 497);
    // Truth of rows that are gone is of no use.
    let ran = place.run(&["search", "x.kset", "--queries", "set.hdf5"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_says(&(ran.err + &ran.out), &["the truth names row ", "recall unknown"]);
}

#[test]
fn an_index_file_becomes_the_first_shard() {
    let place = Place::new().with_indexes();
    let told = place.ok(&["append", "x.kset", "--shard", "vamana.kiln"]);
    assert_eq!(told, "x.kset: 500 rows added, ids 0 to 499; shards: 1\n");
    let alone = found(&place, "vamana.kiln", &[]);
    assert_eq!(found(&place, "x.kset", &[]), alone);
    // Such a set is the data set, and recall is told by its truth.
    assert_says(&place.ok(&["search", "x.kset", "--queries", "set.hdf5"]), &["recall@10 "]);
    place.ok(&["append", "x.kset", "--dataset", "base.fbin"]);
    let twice = found(&place, "x.kset", &[]);
    for (once, twice) in alone.iter().zip(twice) {
        let expected: Vec<i64> = once[..5].iter().flat_map(|&id| [id, id + 500]).collect();
        assert_eq!(twice, expected);
    }
    place.ok(&["compact", "x.kset"]);
    place.ok(&["inspect", "vamana.kiln", "--verify"]);
    // A setting that was tuned holds until the set changes.
    place.ok(&["append", "y.kset", "--shard", "ivf-pq.kiln"]);
    place.ok(&["tune", "y.kset/", "--queries", "set.hdf5", "--recall", ".8", "--quick"]);
    place.ok(&["search", "y.kset", "--queries", "set.hdf5", "--recall", ".8"]);
    place.ok(&["append", "y.kset", "--shard", "ivf-pq.kiln"]);
    assert_says(&place.fails(1, &["search", "y.kset", "--queries", "set.hdf5", "--recall", ".8"]), &["another build"]);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let place = Place::new().with_indexes();
    place.ok(&["append", "x.kset", "--shard", "vamana.kiln"]);
    place.write("wide.fbin", fbin(&[vec![0.5; 9], vec![1.5; 9]]));
    place.ok(&["datasets", "convert", demo().to_str().expect("text"), "demo.u8bin"]);
    std::fs::create_dir(place.path("taken")).expect("made");
    place.write("taken/file", "");
    let before = (place.names("x.kset"), place.names("."));
    let append = |more: &[&'static str]| [&["append", "x.kset"], more].concat();
    for (code, args, says) in [
        (2, append(&[]), &["required arguments"][..]),
        (2, append(&["--dataset", "base.fbin", "--shard", "vamana.kiln"]), &["--shard"]),
        (2, append(&["--shard", "vamana.kiln", "--max-degree", "32"]), &["built already"]),
        (2, append(&["--dataset", "base.fbin", "--index", "ivf-pq"]), &["vamana indexes", "--index"]),
        (2, append(&["--dataset", "base.fbin", "--nlist", "4"]), &["--nlist"]),
        (2, append(&["--dataset", "base.fbin", "--threads", "0"]), &["--threads 0"]),
        (1, append(&["--dataset", "wide.fbin"]), &["wide.fbin", "9 coordinates", "x.kset", "8"]),
        (1, append(&["--dataset", "base.fbin", "--metric", "cosine"]), &["base.fbin", "cosine", "l2"]),
        (1, append(&["--dataset", "demo.u8bin"]), &["demo.u8bin", "128 coordinates"]),
        (1, append(&["--dataset", "missing.fbin"]), &["missing.fbin"]),
        (1, append(&["--shard", "ivf-pq.kiln"]), &["ivf-pq.kiln", "kind of index"]),
        (1, append(&["--shard", "base.fbin"]), &["base.fbin", "not a Kiln index"]),
        (1, vec!["append", "vamana.kiln", "--shard", "vamana.kiln"], &["vamana.kiln", "append X.kset --shard"]),
        (1, vec!["append", "taken", "--shard", "vamana.kiln"], &["taken", "other things in it (file)"]),
        (1, vec!["append", "no/such.kset", "--shard", "vamana.kiln"], &["no/such.kset", "cannot create"]),
        (2, vec!["append", "new.kset", "--dataset", "set.hdf5"], &["new.kset", "--index vamana or ivf-pq"]),
        (2, vec!["append", "new.kset", "--dataset", "base.fbin", "--index", "vamana"], &["--metric"]),
        (1, vec!["compact", "vamana.kiln"], &["vamana.kiln", "append X.kset"]),
        (1, vec!["compact", "taken"], &["taken", "set.json"]),
        (1, vec!["compact", "missing.kset"], &["missing.kset"]),
        (1, vec!["search", "taken", "--queries", "set.hdf5"], &["taken", "kiln append"]),
        (1, vec!["inspect", "taken"], &["taken", "kiln append"]),
        (2, vec!["search", "x.kset", "--queries", "set.hdf5", "--probe-shards", "0"], &["--probe-shards 0"]),
        (2, vec!["search", "vamana.kiln", "--queries", "set.hdf5", "--probe-shards", "1"], &["--probe-shards"]),
        (2, vec!["search", "x.kset", "--queries", "set.hdf5", "--nprobe", "4"], &["vamana", "--search-list"]),
    ] {
        assert_says(&place.fails(code, &args), says);
        assert_eq!((place.names("x.kset"), place.names(".")), before, "{args:?}");
    }
    place.write("x.kset/set.json", "{}");
    for args in [append(&["--shard", "vamana.kiln"]), vec!["compact", "x.kset"], vec!["inspect", "x.kset"]] {
        assert_says(&place.fails(1, &args), &["x.kset/set.json", "restore"]);
    }
}

#[test]
fn an_interrupted_change_leaves_the_old_set_and_the_next_clears_up() {
    let place = Place::new().with_indexes();
    place.ok(&["append", "x.kset", "--shard", "vamana.kiln"]);
    let expected = found(&place, "x.kset", &[]);
    // As after a kill while the second shard was being written, or before it was named.
    for name in ["shard-00002.kiln.partial", "shard-00002.kiln", "shard-00002.rows", "set.json.partial"] {
        place.write(&format!("x.kset/{name}"), "cut sho");
    }
    assert_eq!(found(&place, "x.kset", &[]), expected);
    assert_eq!(inspected(&place, "x.kset")["rows"], 500);

    // While somebody is at work nobody else is, and whoever only reads is not disturbed.
    let lock = File::options().write(true).open(place.path("x.kset/lock")).expect("a lock");
    lock.lock().expect("free");
    for args in [&["append", "x.kset", "--shard", "vamana.kiln"][..], &["compact", "x.kset"]] {
        assert_says(&place.fails(1, args), &["x.kset", "another append or compact is at work"]);
    }
    assert_eq!(found(&place, "x.kset", &[]), expected);
    assert!(place.path("x.kset/shard-00002.rows").exists());
    drop(lock);
    place.ok(&["append", "x.kset", "--dataset", "base.fbin"]);
    let names: Vec<String> = place.names("x.kset").into_iter().collect();
    let shard = |n: u32, name: &str| format!("shard-0000{n}.{name}");
    let both = [shard(1, "kiln"), shard(1, "rows"), shard(2, "kiln"), shard(2, "kiln.build.json"), shard(2, "rows")];
    assert_eq!(names, [&["lock".to_string(), "set.json".to_string()], &both[..]].concat());
    place.ok(&["inspect", "x.kset", "--verify"]);
}

#[test]
fn a_set_survives_kills_at_any_moment() {
    let place = Place::new().with_indexes();
    place.ok(&["append", "x.kset", "--shard", "vamana.kiln"]);
    place.write("gone.npy", npy_of(&[3]));
    let append: &[&str] = &["append", "x.kset", "--dataset", "base.fbin"];
    let compact: &[&str] = &["compact", "x.kset", "--delete", "gone.npy"];
    let mut rows: u64 = 500;
    // Whether a kill comes before the change is done, after, or in between: the set is the old one or the new.
    for (args, delay) in [0, 10, 20, 40, 80, 160].iter().flat_map(|&delay| [(append, delay), (compact, delay)]) {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("kiln"));
        command.args(args).current_dir(place.path("")).env_remove("KILN_LOG");
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().expect("the program runs");
        std::thread::sleep(std::time::Duration::from_millis(delay));
        child.kill().expect("killed, or done already");
        child.wait().expect("ended");
        place.ok(&["inspect", "x.kset", "--verify"]);
        let now = inspected(&place, "x.kset")["rows"].as_u64().expect("a number");
        let changed = if args == append { rows + 500 } else { rows - u64::from(rows.is_multiple_of(500)) };
        assert!(now == rows || now == changed, "{args:?} after {delay} ms: {rows} rows became {now}");
        rows = now;
    }
    place.ok(append);
    place.ok(compact);
    assert_eq!(place.names("x.kset").len(), 2 + 3);
    place.ok(&["inspect", "x.kset", "--verify"]);
}

#[cfg(feature = "serve")]
#[test]
fn a_server_takes_a_set_and_what_is_appended_to_it() {
    use crate::http::{Server, body_of};
    use serde_json::json;

    let place = Place::new().with_indexes();
    let queries = fbin_rows(&place.read("query.fbin"));
    place.ok(&["append", "x.kset", "--shard", "vamana.kiln"]);
    for residency in ["memory", "ssd"] {
        let found = |index| found(&place, index, &["--residency", residency]);
        let first = found("vamana.kiln");
        let server = Server::start(&place, &["x.kset", "--residency", residency, "--verify"]);
        let ask = |more: Value| {
            let told = server.search(&body_of(&queries, more)).json();
            let results = told["results"].as_array().expect("results").clone();
            let ids: Vec<Value> = results.iter().map(|result| result["ids"].clone()).collect();
            (ids, results[0]["stats"]["hops"].as_u64())
        };
        let about = || server.get("/v1/index").json()["index"].clone();
        let before = about();
        let shards = before["shards"].as_u64().expect("a number");
        assert_eq!((&before["file"], &before["kind"]), (&"x.kset".into(), &"vamana".into()));
        assert_eq!((&before["rows"], &before["probe_shards"]), (&(500 * shards).into(), &Value::Null));
        assert_eq!(before["identity"], inspected(&place, "x.kset")["identity"]);
        let (ids, hops) = ask(json!({ "stats": true }));
        assert_eq!(json!(ids), json!(found("x.kset")));

        // Another shard, which a swap brings in, and a request gets the ids of the set.
        place.ok(&["append", "x.kset", "--dataset", "base.fbin"]);
        assert_eq!(ask(json!({})).0, ids, "until it is told");
        let swapped = server.swap().json();
        assert_eq!(
            (&swapped["index"]["shards"], &swapped["index"]["rows"]),
            (&(shards + 1).into(), &(500 * (shards + 1)).into())
        );
        assert!(swapped["index"]["identity"] != before["identity"]);
        let (more_ids, more_hops) = ask(json!({ "stats": true }));
        assert_eq!(json!(more_ids), json!(found("x.kset")));
        assert!(more_hops > hops, "the cost of all shards is told: {more_hops:?} after {hops:?}");

        // The shards that a server has open serve on when they are merged and removed.
        let next_id = inspected(&place, "x.kset")["next_id"].as_u64().expect("a number");
        place.write("gone.npy", npy_of(&(500..next_id).collect::<Vec<_>>()));
        place.ok(&["compact", "x.kset", "--delete", "gone.npy"]);
        assert_eq!(ask(json!({})).0, more_ids, "until it is told");
        assert_eq!(server.swap().json()["index"]["shards"], 1);
        assert_eq!(json!(ask(json!({})).0), json!(first), "the copies are gone");

        // A set that is damaged is not swapped in.
        let manifest = place.read("x.kset/set.json");
        place.write("x.kset/set.json", &manifest[..manifest.len() / 2]);
        assert_says(&server.swap().is_error(500, "swap-failed"), &["set.json", "goes on serving"]);
        place.write("x.kset/set.json", manifest);
        assert!(server.metric("kiln_index_generation") == 3.0 && server.metric("kiln_index_memory_bytes") > 0.0);
    }
    // Few of the shards.
    place.ok(&["append", "x.kset", "--dataset", "base.fbin"]);
    let server = Server::start(&place, &["x.kset", "--probe-shards", "1"]);
    let told = server.get("/v1/index").json();
    assert_eq!((&told["index"]["shards"], &told["index"]["probe_shards"]), (&2.into(), &1.into()));
    let told = server.search(&body_of(&queries, json!({ "k": 4 }))).json();
    let expected = found(&place, "x.kset", &["--probe-shards", "1", "--k", "4"]);
    for (result, expected) in told["results"].as_array().expect("results").iter().zip(expected) {
        assert_eq!(result["ids"], json!(expected));
    }
    let ran = place.run(&["serve", "vamana.kiln", "--probe-shards", "1"]);
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    drop(server);
}
