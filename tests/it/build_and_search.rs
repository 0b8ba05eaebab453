//! `kiln build`, `kiln search` and `kiln inspect`: what they print, write and refuse.

use crate::common::*;
use serde_json::Value;

const BUILD_KEYS: [&str; 16] = [
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
    "cpu_seconds",
    "peak_rss_bytes",
    "peak_anonymous_bytes",
    "peak_allocated_bytes",
    "index_bytes",
];

#[test]
fn a_build_tells_what_it_built_in_json() {
    let place = Place::new().with_set();
    for kind in KINDS {
        let printed = place.ok(&[
            "build",
            "--dataset",
            "set.hdf5",
            "--index",
            kind,
            "--out",
            "x.kiln",
            "--threads",
            "2",
            "--json",
            "-",
        ]);
        // Standard output holds the document and nothing else.
        let document: Value = serde_json::from_str(&printed).expect("one document");
        assert_keys(&document, &BUILD_KEYS);
        assert_eq!((&document["index"], &document["path"]), (&kind.into(), &"x.kiln".into()));
        assert_eq!((&document["dataset"], &document["metric"]), (&"set".into(), &"l2".into()));
        assert_eq!((&document["n"], &document["dim"], &document["threads"]), (&500.into(), &8.into(), &2.into()));
        assert_eq!(document["dtype"], "f32");
        assert_eq!(document["index_bytes"], place.read("x.kiln").len());
        assert_eq!(number(&document, "/params/seed"), 42.0);
        let seconds = document["seconds"].as_object().expect("stages");
        let total = number(&document, "/seconds/total");
        let stages: f64 = seconds.iter().filter(|(name, _)| *name != "total").filter_map(|(_, s)| s.as_f64()).sum();
        assert!(seconds.len() > 3 && 0.0 < stages && stages <= total * 1.001, "{seconds:?}");

        // To a file the same, and a line for people on standard output.
        let printed =
            place.ok(&["build", "--dataset", "set.hdf5", "--index", kind, "--out", "x.kiln", "--json", "x.json"]);
        assert!(printed.starts_with("x.kiln: ") && printed.lines().count() == 1, "{printed}");
        assert_eq!(keys(&place.json("x.json")), keys(&document));
    }
}

#[test]
fn floats_that_bytes_hold_are_stored_as_bytes() {
    let place = Place::new();
    let data = demo();
    let data = data.to_str().expect("text");
    let answers = |index: &str| {
        place.ok(&["search", index, "--queries", data, "--out", "found.npy"]);
        (place.read("found.npy"), place.read("found.distances.npy"))
    };
    for kind in KINDS {
        let build = ["build", "--dataset", data, "--index", kind, "--out"];
        let ran = place.run(&[&build[..], &["bytes.kiln", "--json", "bytes.json"]].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert_eq!(ran.err.matches("stored and computed as u8").count(), 1, "{}", ran.err);
        assert_eq!(ran.err.matches("--keep-dtype").count(), 1, "{}", ran.err);
        let kept = place.run(&[&build[..], &["floats.kiln", "--keep-dtype", "--json", "floats.json"]].concat());
        assert!(kept.code == Some(0) && !kept.err.contains("u8"), "{}", kept.err);
        let [bytes, floats] = ["bytes.json", "floats.json"].map(|name| place.json(name));
        assert_eq!((&bytes["dtype"], &floats["dtype"]), (&"u8".into(), &"f32".into()));
        assert!(number(&floats, "/index_bytes") > number(&bytes, "/index_bytes") + 3.0 * 128.0 * 9000.0);
        assert_says(&place.ok(&["inspect", "bytes.kiln"]), &["10,000 x 128 u8"]);
        assert!(answers("bytes.kiln") == answers("floats.kiln"), "{kind}: bytes are answered otherwise");
    }
}

#[test]
fn a_search_tells_its_figures_in_json() {
    let place = Place::new().with_indexes();
    for (residency, threads) in [("memory", "1"), ("ssd", "1"), ("memory", "2")] {
        for kind in KINDS {
            let index = format!("{kind}.kiln");
            let printed = place.ok(&[
                "search",
                &index,
                "--queries",
                "set.hdf5",
                "--k",
                "7",
                "--residency",
                residency,
                "--threads",
                threads,
                "--json",
                "-",
            ]);
            let row: Value = serde_json::from_str(&printed).expect("one document");
            assert_keys(&row, &SEARCH_KEYS);
            assert_keys(&row["qps"], &["median", "lo", "hi"]);
            assert_keys(&row["latency_us"], &["mean", "p50", "p95", "p99"]);
            assert_eq!((&row["index"], &row["path"]), (&kind.into(), &index.as_str().into()));
            assert_eq!((&row["k"], &row["queries"]), (&7.into(), &20.into()));
            let mode = if threads == "1" { "latency-1" } else { "throughput-2" };
            assert_eq!((row["mode"].as_str(), row["threads"].to_string()), (Some(mode), threads.to_string()));
            let asked: &[&str] = if kind == "vamana" { &["search_list", "navigate"] } else { &["nprobe", "rerank"] };
            assert_keys(&row["params"], asked);
            assert!((0.9..=1.0).contains(&number(&row, "/recall")), "{row}");
            assert!(number(&row, "/recall_ids") <= number(&row, "/recall"));
            let [lo, median, hi] = ["lo", "median", "hi"].map(|name| number(&row["qps"], &format!("/{name}")));
            assert!(0.0 < lo && lo <= median && median <= hi, "{row}");
            let [p50, p95, p99] = ["p50", "p95", "p99"].map(|name| number(&row["latency_us"], &format!("/{name}")));
            assert!(0.0 < p50 && p50 <= p95 && p95 <= p99, "{row}");
            assert!(number(&row, "/distances_per_query") >= 7.0 && number(&row, "/hops_per_query") >= 1.0);
            if residency == "ssd" {
                let pages = number(&row, "/pages_per_query");
                assert!(pages >= 1.0 && number(&row, "/bytes_per_query") == 4096.0 * pages, "{row}");
            } else {
                assert!(row["pages_per_query"].is_null() && row["bytes_per_query"].is_null(), "{row}");
            }
        }
    }
}

#[test]
fn a_batch_gives_the_same_answers_and_no_latency() {
    let place = Place::new().with_indexes();
    for kind in KINDS {
        let search = ["search", &format!("{kind}.kiln"), "--queries", "set.hdf5", "--out", "found.npy"];
        let alone = place.ok(&search);
        let files = || [place.read("found.npy"), place.read("found.distances.npy")];
        let answers = files();
        for (threads, residency) in [("1", "memory"), ("2", "memory"), ("1", "ssd")] {
            let batch = ["--batch", "--threads", threads, "--residency", residency, "--json", "-"];
            let printed = place.ok(&[&search[..], &batch].concat());
            assert!(files() == answers, "{kind} on {threads} threads, {residency}: a batch is answered otherwise");
            let row: Value = serde_json::from_str(&printed).expect("one document");
            assert_keys(&row, &SEARCH_KEYS);
            assert_eq!((&row["mode"], &row["latency_us"]), (&format!("batch-{threads}").into(), &Value::Null));
            assert_eq!((row["threads"].to_string().as_str(), &row["queries"]), (threads, &20.into()));
            assert!(number(&row, "/qps/lo") > 0.0 && number(&row, "/recall") >= 0.9, "{row}");
            assert_eq!(row["pages_per_query"].is_null(), residency == "memory", "{row}");
        }
        let told = place.ok(&[&search[..], &["--batch"]].concat());
        assert_says(&told, &[&alone[..17], "queries/s"]);
        assert!(!told.contains("latency"), "{told}");
    }
}

#[test]
fn a_device_answers_a_batch_as_an_exact_walk_does() {
    let place = Place::new().with_indexes();
    let search = ["search", "vamana.kiln", "--queries", "set.hdf5", "--out", "found.npy"];
    let files = || [place.read("found.npy"), place.read("found.distances.npy")];
    place.ok(&[&search[..], &["--navigate", "exact"]].concat());
    let answers = files();
    let printed = place.ok(&[&search[..], &["--batch", "--device", "cpu", "--json", "-"]].concat());
    assert!(files() == answers);
    let row: Value = serde_json::from_str(&printed).expect("one document");
    assert_keys(&row, &SEARCH_KEYS);
    assert!(row["device"].as_str().is_some_and(|device| device.starts_with("cpu (")), "{row}");
    assert!(
        row["mode"] == "batch-device" && number(&row, "/recall") >= 0.9 && number(&row, "/hops_per_query") > 1.0,
        "{row}"
    );

    let refused =
        |code, rest: &[&str], says: &str| assert_says(&place.fails(code, &[&search[..], rest].concat()), &[says]);
    refused(2, &["--device", "cpu"], "required arguments");
    refused(2, &["--batch", "--device", "cpu", "--navigate", "codes"], "exact distances");
    refused(2, &["--batch", "--device", "cpu", "--nprobe", "3"], "--nprobe");
    refused(1, &["--batch", "--device", "cpu", "--residency", "ssd"], "--residency memory");
    let lists = ["search", "ivf-pq.kiln", "--queries", "set.hdf5", "--batch", "--device", "cpu"];
    assert_says(&place.fails(1, &lists), &["--index vamana"]);
}

#[test]
fn an_index_on_the_drive_is_read_as_the_flags_say() {
    let place = Place::new().with_indexes();
    let search = ["search", "vamana.kiln", "--queries", "set.hdf5", "--out", "found.npy"];
    let on_drive = |flags: &[&str]| {
        let ran = place.run(&[&search[..], &["--residency", "ssd"], flags].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        (ran.err, [place.read("found.npy"), place.read("found.distances.npy")])
    };
    let (told, answers) = on_drive(&[]);
    assert_says(&told, &["in memory (codes ", "row numbers ", "the rest by "]);
    for (flags, says) in [
        (["--io", "pread"], "pread"),
        (["--io", "auto"], "the rest by "),
        (["--reads", "cached"], "by cached "),
        (["--memory", "64MiB"], "pinned pages "),
    ] {
        let (told, found) = on_drive(&flags);
        assert_says(&told, &[says]);
        assert!(found == answers, "{flags:?}: answered otherwise");
        let message = place.fails(2, &[&search[..], &flags].concat());
        assert_says(&message, &[flags[0], "--residency ssd"]);
    }
    let message = place.fails(1, &[&search[..], &["--residency", "ssd", "--memory", "2KiB"]].concat());
    assert_says(&message, &["vamana.kiln: --memory", "codes ", "buffers ", "--layout inline"]);
    place.fails(2, &[&search[..], &["--residency", "ssd", "--memory", "plenty"]].concat());
}

#[test]
fn an_index_is_built_searched_inspected_and_verified() {
    let place = Place::new().with_indexes();
    for kind in KINDS {
        let index = format!("{kind}.kiln");
        assert_says(&place.ok(&["search", &index, "--queries", "set.hdf5"]), &["recall@10 ", "queries/s", "p99"]);
        let told = place.ok(&["inspect", &index]);
        assert_says(&told, &["format version ", "500 x 8 f32, metric l2", kind, "meta", "sums"]);
        assert!(!told.contains("matches its checksum"), "{told}");
        assert_says(&place.ok(&["inspect", &index, "--verify"]), &["every page and section matches its checksum"]);
        let document: Value = serde_json::from_str(&place.ok(&["inspect", &index, "--json", "-"])).expect("json");
        assert_eq!((&document["verified"], &document["inspection"]["meta"]["n"]), (&Value::Null, &500.into()));
        let verified = place.ok(&["inspect", &index, "--verify", "--json", "-"]);
        assert_eq!(serde_json::from_str::<Value>(&verified).expect("json")["verified"], true);

        let mut bytes = place.read(&index);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        place.write("damaged.kiln", &bytes);
        place.ok(&["inspect", "damaged.kiln"]);
        assert_says(
            &place.fails(1, &["inspect", "damaged.kiln", "--verify"]),
            &["damaged.kiln", "checksum", "build it"],
        );
        bytes[8] = 9;
        place.write("damaged.kiln", &bytes);
        for args in [&["inspect", "damaged.kiln"][..], &["search", "damaged.kiln", "--queries", "set.hdf5"]] {
            assert_says(&place.fails(1, args), &["damaged.kiln", "format version 9", "reads versions 1 to "]);
        }
        place.write("damaged.kiln", &bytes[..5000]);
        place.fails(1, &["search", "damaged.kiln", "--queries", "set.hdf5"]);
    }
    assert_says(&place.fails(1, &["search", "set.hdf5", "--queries", "set.hdf5"]), &["set.hdf5", "not a Kiln index"]);
    assert_says(&place.fails(1, &["inspect", "missing.kiln"]), &["missing.kiln"]);
}

#[test]
fn answers_are_written_as_numpy_reads_them() {
    let place = Place::new().with_indexes();
    let (base, queries) = (fbin_rows(&place.read("base.fbin")), fbin_rows(&place.read("query.fbin")));
    for kind in KINDS {
        place.ok(&["search", &format!("{kind}.kiln"), "--queries", "set.hdf5", "--k", "6", "--out", "found.npy"]);
        let (ids, distances) = (Npy::parse(&place.read("found.npy")), Npy::parse(&place.read("found.distances.npy")));
        assert_eq!((ids.shape, distances.shape), ((20, 6), (20, 6)));
        for ((ids, distances), query) in ids.int64().iter().zip(distances.float32()).zip(&queries) {
            assert!(distances.is_sorted());
            for (&id, distance) in ids.iter().zip(distances) {
                let squared: f32 = base[id as usize].iter().zip(query).map(|(a, b)| (a - b) * (a - b)).sum();
                assert!((distance - squared.sqrt()).abs() <= 1e-5 * distance, "row {id}: {distance}, not {squared}");
            }
        }
    }
}

#[test]
fn fewer_rows_than_asked_for_are_padded() {
    let place = Place::new().with_set();
    place.write("few.fbin", fbin(&(0..5).map(|i| vec![i as f32, 1.0]).collect::<Vec<_>>()));
    for kind in KINDS {
        place.ok(&["build", "--dataset", "few.fbin", "--metric", "l2", "--index", kind, "--out", "few.kiln"]);
        let ran = place.run(&["search", "few.kiln", "--queries", "few.fbin", "--k", "8", "--out", "few.npy"]);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert_says(&ran.err, &["--k 8", "5 rows", "padded with -1"]);
        assert_says(&ran.out, &["recall unknown"]);
        let distances = Npy::parse(&place.read("few.distances.npy")).float32();
        for (query, (ids, distances)) in Npy::parse(&place.read("few.npy")).int64().iter().zip(distances).enumerate() {
            assert_eq!((ids[0], distances[0]), (query as i64, 0.0));
            let mut found = ids[..5].to_vec();
            found.sort_unstable();
            assert_eq!((found.as_slice(), &ids[5..]), (&[0, 1, 2, 3, 4][..], &[-1; 3][..]));
            assert!(distances[..5].iter().all(|d| d.is_finite()) && distances[5..].iter().all(|d| *d == f32::INFINITY));
        }
    }
}

#[test]
fn queries_come_in_every_format() {
    let place = Place::new().with_indexes();
    for name in ["query.npy", "query.fvecs", "query.hdf5"] {
        place.ok(&["datasets", "convert", "query.fbin", name]);
    }
    let answers = |queries: &str| {
        place.ok(&["search", "vamana.kiln", "--queries", queries, "--out", "found.npy"]);
        (place.read("found.npy"), place.read("found.distances.npy"))
    };
    let expected = answers("set.hdf5");
    for queries in ["query.fbin", "query.npy", "query.fvecs"] {
        assert!(answers(queries) == expected, "{queries} is answered otherwise");
    }
    // Bytes against an index of bytes; the truth comes from a file of its own.
    let size = ["--rows", "300", "--dim", "8", "--lid", "4", "--dtype", "u8", "--queries", "10", "--k", "10"];
    place.ok(&[&["datasets", "synth", "--out", "bytes.hdf5"], &size[..]].concat());
    place.ok(&["datasets", "convert", "bytes.hdf5", "bytes.u8bin", "--queries"]);
    place.ok(&["datasets", "truth", "bytes.hdf5", "--k", "10", "--out", "bytes.ibin"]);
    place.ok(&["build", "--dataset", "bytes.hdf5", "--index", "ivf-pq", "--nlist", "4", "--out", "bytes.kiln"]);
    let told =
        place.ok(&["search", "bytes.kiln", "--queries", "bytes.u8bin", "--truth", "bytes.ibin", "--rerank", "300"]);
    assert_says(&told, &["recall@10 1.0000"]);
    let message = place.fails(1, &["search", "vamana.kiln", "--queries", "bytes.ibin"]);
    assert_says(&message, &["bytes.ibin", "ground truth"]);
}

#[test]
fn a_command_line_that_cannot_work_exits_with_2() {
    let place = Place::new().with_indexes();
    let build =
        |more: &[&str]| place.fails(2, &[&["build", "--dataset", "set.hdf5", "--out", "new.kiln"], more].concat());
    let search =
        |index: &str, more: &[&str]| place.fails(2, &[&["search", index, "--queries", "set.hdf5"], more].concat());
    assert_says(&place.fails(2, &["frobnicate"]), &["frobnicate"]);
    assert_says(&build(&["--index", "hnsw"]), &["hnsw"]);
    assert_says(&build(&["--index", "vamana", "--nlist", "8"]), &["--nlist", "does not apply to a vamana index"]);
    assert_says(&build(&["--index", "ivf-pq", "--alpha", "1.2"]), &["--alpha", "does not apply to a ivf-pq index"]);
    assert_says(&build(&["--index", "vamana", "--max-degree", "1"]), &["--max-degree 1", "2 to 4096"]);
    assert_says(&build(&["--index", "vamana", "--alpha", "NaN"]), &["--alpha NaN"]);
    assert_says(&build(&["--index", "vamana", "--m", "9"]), &["--m 9", "dimension, 8"]);
    assert_says(&build(&["--index", "ivf-pq", "--bits", "5"]), &["5", "4"]);
    assert_says(&build(&["--index", "ivf-pq", "--threads", "0"]), &["--threads 0", "1 or more"]);
    assert_says(&search("vamana.kiln", &["--nprobe", "3"]), &["vamana.kiln", "--nprobe", "--search-list"]);
    assert_says(&search("ivf-pq.kiln", &["--search-list", "30"]), &["ivf-pq.kiln", "--search-list", "--nprobe"]);
    assert_says(&search("vamana.kiln", &["--k", "0"]), &["--k 0"]);
    assert_says(&search("vamana.kiln", &["--k", "18446744073709551615"]), &["--k 18446744073709551615", "65535"]);
    assert_says(&search("vamana.kiln", &["--search-list", "0"]), &["--search-list 0"]);
    assert_says(&search("vamana.kiln", &["--out", "found.txt"]), &["found.txt", ".npy"]);
    // Rows that do not say how they are compared.
    let message = place.fails(2, &["build", "--dataset", "base.fbin", "--index", "vamana", "--out", "new.kiln"]);
    assert_says(&message, &["base.fbin", "--metric l2, ip or cosine"]);
    assert!(!place.names(".").iter().any(|name| name.starts_with("new.kiln")), "{:?}", place.names("."));
    for metric in ["l2", "ip", "cosine"] {
        place.ok(&["build", "--dataset", "base.fbin", "--metric", metric, "--index", "vamana", "--out", "new.kiln"]);
        assert_says(&place.ok(&["inspect", "new.kiln"]), &[&format!("metric {metric}")]);
    }
}

#[test]
fn help_and_version_exit_with_0() {
    let place = Place::new();
    let commands = [
        "bench",
        "build",
        "search",
        "tune",
        "inspect",
        "append",
        "compact",
        "report",
        "datasets",
        "devices",
        "bench-kernels",
        "completions",
    ];
    let help = place.ok(&["--help"]);
    assert_says(&help, &commands);
    for command in commands {
        assert_says(&place.ok(&[command, "--help"]), &["Usage: kiln", command]);
    }
    assert!(place.ok(&["--version"]).starts_with("kiln "));
}

#[test]
fn neighbours_beyond_the_truth_are_refused_with_both_numbers() {
    let place = Place::new().with_indexes();
    let message = place.fails(1, &["search", "vamana.kiln", "--queries", "set.hdf5", "--k", "21"]);
    assert_says(&message, &["k 21", "20"]);
    let message = place.fails(1, &["bench", "--dataset", "set.hdf5", "--quick", "--k", "21", "--out", "run"]);
    assert_says(&message, &["k 21", "20"]);
    // Where no truth is given, none is missed.
    place.ok(&["search", "vamana.kiln", "--queries", "query.fbin", "--k", "21"]);
}

#[test]
fn queries_that_do_not_fit_are_refused() {
    let place = Place::new().with_indexes();
    place.write("narrow.fbin", fbin(&[vec![1.0, 2.0, 3.0]]));
    let message = place.fails(1, &["search", "vamana.kiln", "--queries", "narrow.fbin"]);
    assert_says(&message, &["narrow.fbin", "3 coordinates", "vamana.kiln", "8"]);
    let mut holed = fbin_rows(&place.read("query.fbin"));
    holed[13][5] = f32::NAN;
    place.write("holed.fbin", fbin(&holed));
    let message = place.fails(1, &["search", "vamana.kiln", "--queries", "holed.fbin", "--out", "found.npy"]);
    assert_says(&message, &["holed.fbin", "row 13, coordinate 5 is NaN"]);
    assert!(!place.path("found.npy").exists());
}

#[test]
fn damaged_data_sets_are_named_and_nothing_is_written() {
    let place = Place::new().with_set();
    let whole = std::fs::read(demo()).expect("the demo");
    place.write("cut.hdf5", &whole[..whole.len() / 2]);
    let mut overwritten = whole.clone();
    overwritten[..2048].fill(0x5A);
    place.write("overwritten.hdf5", &overwritten);
    // Within the packed rows, which is noticed when they are read.
    let mut scratched = whole.clone();
    let middle = whole.len() / 2;
    scratched[middle..middle + 20_000].fill(0x5A);
    place.write("scratched.hdf5", &scratched);
    place.write("empty.hdf5", b"");
    place.write("text.hdf5", b"this is not HDF5");
    let mut rows = fbin_rows(&place.read("base.fbin"));
    rows[321][2] = f32::NEG_INFINITY;
    place.write("holed.fbin", fbin(&rows));
    place.write("cut.fbin", &place.read("base.fbin")[..9000]);
    place.ok(&["datasets", "convert", "base.fbin", "base.npy"]);
    place.write("cut.npy", &place.read("base.npy")[..9000]);
    let before = place.names(".");
    for (file, says) in [
        ("cut.hdf5", ["HDF5", "cut off"]),
        ("overwritten.hdf5", ["HDF5", "damaged"]),
        ("scratched.hdf5", ["HDF5", "rows 0..10000 of `train` cannot be read"]),
        ("empty.hdf5", ["HDF5", "damaged"]),
        ("text.hdf5", ["HDF5", "damaged"]),
        ("holed.fbin", ["row 321, coordinate 2", "inf"]),
        ("cut.fbin", ["500 rows of 8", "9000"]),
        ("cut.npy", ["500 x 8", "9000"]),
        ("missing.hdf5", ["no such file", "kiln datasets list"]),
    ] {
        for kind in KINDS {
            let message =
                place.fails(1, &["build", "--dataset", file, "--metric", "l2", "--index", kind, "--out", "new.kiln"]);
            assert_says(&message, &[&[file], &says[..]].concat());
        }
        assert_says(&place.fails(1, &["datasets", "convert", file, "new.npy"]), &[file]);
    }
    assert_eq!(place.names("."), before);
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let place = Place::new().with_indexes();
    place.write("file", "in the way");
    let build = ["build", "--dataset", "set.hdf5", "--index", "ivf-pq"];
    let search = ["search", "ivf-pq.kiln", "--queries", "set.hdf5"];
    let bench = ["bench", "--dataset", "set.hdf5", "--quick", "--index", "ivf-pq", "--nprobe", "1", "--threads", "1"];
    // Below a regular file nobody can write, root included.
    for args in [
        [&build[..], &["--out", "file/x.kiln"]].concat(),
        [&search[..], &["--out", "file/x.npy"]].concat(),
        [&search[..], &["--json", "file/x.json"]].concat(),
        [&bench[..], &["--out", "file/run"]].concat(),
        vec!["datasets", "convert", "set.hdf5", "file/x.fbin"],
        vec!["datasets", "truth", "set.hdf5", "--k", "5", "--out", "file/x.ibin"],
        vec!["datasets", "synth", "--rows", "100", "--dim", "4", "--lid", "2", "--out", "file/x.npy"],
        vec!["completions", "man", "--out", "file/man"],
        vec!["inspect", "ivf-pq.kiln", "--json", "file/x.json"],
    ] {
        let message = place.fails(1, &args);
        assert_says(&message, &["file/"]);
        assert_eq!(message.matches("Not a directory").count(), 1, "{message}");
    }
    assert_eq!(place.text("file"), "in the way");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_drive_is_an_error_and_not_a_result() {
    let place = Place::new().with_indexes();
    let search = ["search", "ivf-pq.kiln", "--queries", "set.hdf5", "--json", "/dev/full"];
    for args in [&search[..], &["inspect", "ivf-pq.kiln", "--json", "/dev/full"], &["devices", "--json", "/dev/full"]] {
        assert_says(&place.fails(1, args), &["/dev/full", "No space left"]);
    }
}

#[test]
fn logs_go_to_standard_error_and_results_to_standard_output() {
    let place = Place::new().with_set();
    let build = ["build", "--dataset", "set.hdf5", "--index", "ivf-pq", "--out", "x.kiln"];
    let usual = place.run(&build);
    assert_says(&usual.err, &["500 x 8 f32, l2, 20 queries", "nlist"]);
    assert!(usual.out.starts_with("x.kiln: ") && !usual.out.contains("INFO"), "{}", usual.out);
    let quiet = place.run(&[&build[..], &["--quiet"]].concat());
    assert_eq!((quiet.code, quiet.err.as_str()), (Some(0), ""));
    assert!(quiet.out.starts_with("x.kiln: "));
}
