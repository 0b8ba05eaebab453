//! `kiln serve`: what it answers, and what it refuses.

use crate::common::*;
use crate::http::*;
use kiln_builder::{Effort, IndexKind, Residency, SearchParams};
use kiln_eval::load::client::Connection;
use kiln_kernels::RowsView;
use serde_json::{Value, json};

/// What `Searcher::search` says, as JSON answers and as raw ones.
fn expected(
    place: &Place,
    kind: &str,
    residency: Residency,
    queries: &[Vec<f32>],
    params: SearchParams,
) -> Vec<(Vec<u64>, Vec<f32>)> {
    let searcher = open(&place.path(&format!("{kind}.kiln")), residency);
    let answer = |query: &Vec<f32>| {
        let row = ndarray::ArrayView2::from_shape((1, query.len()), query).expect("a row");
        let hits = searcher.search(&RowsView::F32(row), &params).expect("found");
        (hits.ids, hits.distances)
    };
    queries.iter().map(answer).collect()
}

#[test]
fn answers_are_those_of_the_searcher() {
    let place = Place::new().with_indexes();
    let queries = fbin_rows(&place.read("query.fbin"));
    for (kind, index_kind) in KINDS.into_iter().zip([IndexKind::Vamana, IndexKind::IvfPq]) {
        for residency in ["memory", "ssd"] {
            let server = Server::start(&place, &[&format!("{kind}.kiln"), "--residency", residency]);
            let residency = if residency == "ssd" { Residency::Ssd } else { Residency::Memory };
            let mut params = SearchParams { k: 7, effort: Effort::default_for(index_kind, 7) };
            let check = |params, more: Value, path: &str| {
                let expected = expected(&place, kind, residency, &queries, params);
                let told = server.search(&body_of(&queries, more)).json();
                let results = told["results"].as_array().expect("results");
                assert_eq!(results.len(), queries.len());
                for (result, (ids, distances)) in results.iter().zip(&expected) {
                    assert_eq!(result["ids"], json!(ids));
                    let told = result["distances"].as_array().expect("distances");
                    let told: Vec<f32> = told.iter().filter_map(|x| Some(x.as_f64()? as f32)).collect();
                    assert_eq!(&told, distances);
                }
                let headers = ["content-type: application/octet-stream", "accept: application/octet-stream"];
                let raw = server.ask("POST", path, &headers, &raw_of(&queries));
                assert_eq!(raw.header("content-type"), Some("application/octet-stream"));
                assert_eq!(parse_raw(&raw.body), expected);
            };
            check(params, json!({ "k": 7 }), "/v1/search?k=7");
            let (more, path) = match &mut params.effort {
                Effort::Graph { search_list, .. } => {
                    *search_list = 11;
                    (json!({ "k": 7, "search_list": 11 }), "/v1/search?k=7&search_list=11")
                }
                Effort::Lists { nprobe, rerank, .. } => {
                    (*nprobe, *rerank) = (2, 9);
                    (json!({ "k": 7, "nprobe": 2, "rerank": 9 }), "/v1/search?k=7&nprobe=2&rerank=9")
                }
            };
            check(params, more, path);
        }
    }
}

#[test]
fn small_requests_that_wait_together_are_answered_alike() {
    let place = Place::new().with_indexes();
    let queries = fbin_rows(&place.read("query.fbin"));
    let params = SearchParams { k: 10, effort: Effort::default_for(IndexKind::Vamana, 10) };
    let expected = expected(&place, "vamana", Residency::Ssd, &queries, params);
    let server = Server::start(&place, &["vamana.kiln", "--residency", "ssd", "--threads", "1"]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut connection = Connection::new(&server.target, PATIENCE);
                for (query, (ids, _)) in queries.iter().zip(&expected) {
                    let body = body_of(std::slice::from_ref(query), json!({})).to_string();
                    let headers = ["content-type: application/json"];
                    let request = server.target.request("POST", "/v1/search", &headers, body.as_bytes());
                    assert_eq!(ask_on(&mut connection, &request).json()["results"][0]["ids"], json!(ids));
                }
            });
        }
    });
    assert_eq!(server.metric("kiln_queries_total"), 160.0);
    assert!(server.metric("kiln_pages_read_total") > 0.0);
}

#[test]
fn every_bad_request_is_told_what_is_wrong() {
    let place = Place::new().with_indexes();
    let args =
        ["--max-k", "50", "--max-list", "100", "--max-queries", "5", "--max-answers", "100", "--max-body", "10KiB"];
    let server = Server::start(&place, &[&["vamana.kiln"], &args[..]].concat());
    let good = vec![0.5f32; 8];
    let one = |more: Value| body_of(std::slice::from_ref(&good), more);
    assert_eq!(server.search(&one(json!({}))).status, 200);

    // Bodies that cannot be understood.
    for (body, says) in [
        ("", "not a JSON object"),
        ("{", "EOF"),
        ("nonsense", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{}", "missing field `queries`"),
        (r#"{"queries": 5}"#, "a list of queries"),
        (r#"{"queries": [1, 2]}"#, "a query: a list of numbers"),
        (r#"{"queries": [["1"]]}"#, "f32"),
        (r#"{"queries": [[NaN]]}"#, "line 1"),
        (r#"{"queries": [[0,0,0,1e39,0,0,0,0]]}"#, "out of range at line 1 column 2"),
        (r#"{"queries": [[1e999]]}"#, "out of range"),
        (r#"{"queries": [[0,0,0,0,0,0,0,0]], "k": -1}"#, "integer `-1`"),
        (r#"{"queries": [[0,0,0,0,0,0,0,0]], "k": "10"}"#, "string"),
        (r#"{"queries": [[0,0,0,0,0,0,0,0]], "k": 1.5}"#, "1.5"),
        (r#"{"queries": [[0,0,0,0,0,0,0,0]], "nprobs": 1}"#, "nprobs"),
        (r#"{"queries": [], "queries": []}"#, "duplicate field"),
        (format!("{{\"queries\": {}", "[".repeat(9000)).as_str(), "line 1"),
    ] {
        let message = server.search_text(body).is_error(400, "malformed");
        assert!(message.contains(says), "{body}: {message}");
    }
    // Values that cannot be.
    for (body, kind, says) in [
        (json!({ "queries": [] }), "parameter", "no queries"),
        (json!({ "queries": [[]] }), "dimension", "query 0 has 0 coordinates, the index has 8"),
        (json!({ "queries": [[1, 2]] }), "dimension", "query 0 has 2"),
        (json!({ "queries": [good, [1], [2]] }), "dimension", "query 1 has 1"),
        (one(json!({ "k": 0 })), "parameter", "k is 0: use 1 to 50"),
        (one(json!({ "k": 51 })), "limit", "k is 51: this server allows 1 to 50"),
        (one(json!({ "k": u64::MAX })), "limit", "allows 1 to 50"),
        (one(json!({ "search_list": 0 })), "parameter", "search_list is 0"),
        (one(json!({ "search_list": 101 })), "limit", "1 to 100"),
        (one(json!({ "nprobe": 5 })), "parameter", "nprobe does not apply to an index of kind vamana: use search_list"),
        (one(json!({ "rerank": 5 })), "parameter", "use search_list"),
        (one(json!({ "recall": 0.9 })), "not-tuned", "kiln tune"),
        (one(json!({ "recall": 0.9, "search_list": 9 })), "parameter", "contradict"),
        (body_of(&vec![good.clone(); 6], json!({})), "limit", "6 queries, allowed are 5"),
        (body_of(&vec![good.clone(); 5], json!({ "k": 40 })), "limit", "200 neighbours, allowed are 100"),
    ] {
        let message = server.search(&body).is_error(400, kind);
        assert!(message.contains(says), "{body}: {message}");
    }
    // Raw bodies and query strings.
    let raw = ["content-type: application/octet-stream"];
    let nan = raw_of(&[vec![0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0, 0.0, f32::INFINITY]]);
    for (path, body, kind, says) in [
        ("/v1/search", &[0u8; 31][..], "dimension", "31 bytes"),
        ("/v1/search", &[0; 36][..], "dimension", "8 coordinates of 4 bytes"),
        ("/v1/search", &b""[..], "parameter", "no queries"),
        ("/v1/search", &nan[..], "not-finite", "coordinate 1 of query 0"),
        ("/v1/search?k=x", &[0; 32][..], "malformed", "k=\"x\""),
        ("/v1/search?k=1&k=2", &[0; 32][..], "malformed", "more than once"),
        ("/v1/search?top=1", &[0; 32][..], "malformed", "\"top\""),
        ("/v1/search?navigate=up", &[0; 32][..], "malformed", "best, exact or codes"),
        ("/v1/search?k=0", &[0; 32][..], "parameter", "k is 0"),
    ] {
        let message = server.ask("POST", path, &raw, body).is_error(400, kind);
        assert!(message.contains(says), "{path}: {message}");
    }
    let json = ["content-type: application/json; charset=utf-8"];
    let both = server.ask("POST", "/v1/search?k=3", &json, one(json!({ "k": 2 })).to_string().as_bytes()).json();
    assert_eq!(both["results"][0]["ids"].as_array().map(Vec::len), Some(2), "the body counts");
    for (path, says) in [("/v1/search?search_list=0", "search_list is 0"), ("/v1/search?recall=2", "recall is 2")] {
        let body = one(json!({ "search_list": 20, "recall": null })).to_string();
        let message = server.ask("POST", path, &json, body.as_bytes()).is_error(400, "parameter");
        assert!(message.contains(says), "what the body says otherwise is looked at too: {message}");
    }
    let outside = server.ask("POST", "/v1/search?k=3", &json, one(json!({})).to_string().as_bytes()).json();
    assert_eq!(outside["results"][0]["ids"].as_array().map(Vec::len), Some(3));

    // What HTTP has words for.
    server.get("/v1/searches").is_error(404, "not-found");
    server.get("/").is_error(404, "not-found");
    let other = server.get("/v1/search");
    other.is_error(405, "method-not-allowed");
    assert_eq!(other.header("allow"), Some("POST"));
    server.ask("DELETE", "/v1/index", &[], b"").is_error(405, "method-not-allowed");
    for headers in [&[][..], &["content-type: text/plain"], &["content-type: application/x-www-form-urlencoded"]] {
        server.ask("POST", "/v1/search", headers, b"{}").is_error(415, "unsupported-media-type");
    }
    let html = ["content-type: application/json", "accept: text/html"];
    server.ask("POST", "/v1/search", &html, b"{}").is_error(406, "not-acceptable");
    server.search_text(&" ".repeat(20_000)).is_error(413, "too-large");
    let chunked =
        "POST /v1/search HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("2000\r\n{}\r\n", " ".repeat(0x2000));
    let told = server.raw(format!("{chunked}{chunk}{chunk}{chunk}0\r\n\r\n").as_bytes());
    assert!(told.starts_with("HTTP/1.1 413") && told.contains("too-large"), "{told}");
    // What is no HTTP at all.
    assert!(server.raw(b"\x16\x03\x01\x02\x00hello\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(
        server
            .raw(format!("GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(40_000)).as_bytes())
            .starts_with("HTTP/1.1 431")
    );

    // Request ids come back, and only those that a log can hold.
    let named = server.ask("GET", "/healthz", &["x-request-id: mine-7"], b"");
    assert_eq!(named.header("x-request-id"), Some("mine-7"));
    let error = server.ask("GET", "/nothing", &["x-request-id: mine-8"], b"");
    assert!(error.is_error(404, "not-found").contains("/nothing") && error.header("x-request-id") == Some("mine-8"));
    let long = format!("x-request-id: {}", "x".repeat(200));
    for wrong in [long.as_str(), "x-request-id: two words"] {
        let given = server.ask("GET", "/healthz", &[wrong], b"");
        let id = given.header("x-request-id").expect("an id");
        assert!(id.len() < 30 && !id.contains(' '), "{id}");
    }
    // All of that is counted, and the server is well.
    assert!(server.metric("kiln_errors_total{kind=\"malformed\"}") >= 20.0);
    assert_eq!(server.metric("kiln_errors_total{kind=\"internal\"}"), 0.0);
    assert_eq!(server.search(&one(json!({}))).status, 200);
    assert!(!place.text("server.log").contains("panicked"));
}

#[test]
fn it_tells_what_it_serves_and_counts() {
    let place = Place::new().with_indexes();
    place.ok(&["tune", "ivf-pq.kiln", "--queries", "set.hdf5", "--recall", ".8", "--quick"]);
    let server = Server::start(&place, &["ivf-pq.kiln", "--max-k", "99", "--log-format", "json", "--log-requests"]);
    let told = server.get("/v1/index").json();
    let index = &told["index"];
    assert_eq!((&index["kind"], &index["rows"], &index["dim"]), (&"ivf-pq".into(), &500.into(), &8.into()));
    assert_eq!(
        (&index["file"], &index["metric"], &index["residency"]),
        (&"ivf-pq.kiln".into(), &"l2".into(), &"memory".into())
    );
    assert_eq!((&index["generation"], &index["tuned"][0]["recall"]), (&1.into(), &0.8.into()));
    assert_eq!(told["limits"]["k"], 99);
    let inspected = place.ok(&["inspect", "ivf-pq.kiln", "--json", "-"]);
    let inspected: Value = serde_json::from_str(&inspected).expect("JSON");
    assert_eq!(index["identity"], inspected["inspection"]["identity"]);
    assert_eq!(index["fingerprint"], inspected["inspection"]["meta"]["dataset_fingerprint"]);
    assert_eq!(index["format_version"], inspected["inspection"]["version"]);

    let queries = fbin_rows(&place.read("query.fbin"));
    let tuned = server.search(&body_of(&queries[..1], json!({ "recall": 0.8, "stats": true }))).json();
    assert!(tuned["results"][0]["stats"]["hops"].as_u64().is_some_and(|hops| hops > 0), "{tuned}");
    assert!(
        server
            .search(&body_of(&queries[..1], json!({ "recall": 0.7 })))
            .is_error(400, "not-tuned")
            .contains("recall@10 0.8")
    );

    assert_eq!(server.get("/healthz").json()["status"], "ok");
    assert_eq!(server.get("/readyz").json()["status"], "ready");
    let described = server.get("/openapi.json").json();
    assert_eq!(described["openapi"], "3.1.0");
    // The description is of this index and these limits.
    let asked = &described["components"]["schemas"]["SearchRequest"]["properties"];
    assert_eq!(asked["queries"]["items"]["minItems"], 8);
    assert_eq!((&asked["k"]["maximum"], &asked["recall"]["enum"]), (&99.into(), &json!([0.8, null])));
    assert_eq!((&asked["search_list"], &asked["nprobe"]["minimum"]), (&Value::Null, &1.into()));
    let metrics = server.get("/metrics");
    assert!(metrics.header("content-type").is_some_and(|form| form.starts_with("application/openmetrics-text")));
    let text = metrics.text();
    for line in [
        "kiln_http_requests_total{route=\"/v1/search\",method=\"POST\",status=\"200\"} 1",
        "kiln_http_requests_total{route=\"/v1/search\",method=\"POST\",status=\"400\"} 1",
        "kiln_http_request_duration_seconds_count{route=\"/v1/search\"} 2",
        "kiln_errors_total{kind=\"not-tuned\"} 1",
        "kiln_http_in_flight 1",
        "kiln_queue_requests 0",
        "kiln_queries_total 1",
        "kiln_crc_failures_total 0",
        "kiln_reads_in_flight 0",
        "kiln_index_generation 1",
        "kiln_ready 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|told| told == line), "{line} is not in {text}");
    }
    // Logs are JSON, with the id of each request.
    server.ask("GET", "/nowhere", &["x-request-id: lost"], b"");
    let line = wait_for_line(&place, "\"lost\"");
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&line["request_id"], &line["status"], &line["kind"]),
        (&"lost".into(), &404.into(), &"not-found".into())
    );
}

/// The first line of the server's log that holds a text; lines are written by a thread of their own.
fn wait_for_line(place: &Place, text: &str) -> String {
    for _ in 0..500 {
        if let Some(line) = place.text("server.log").lines().find(|line| line.contains(text)) {
            return line.to_string();
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{text} is not in {}", place.text("server.log"));
}

#[test]
fn a_token_opens_and_nothing_else_does() {
    let place = Place::new().with_indexes();
    place.write("token", "s3cret-token\n");
    let server = Server::start(&place, &["vamana.kiln", "--token-file", "token"]);
    let asked = |headers: &[&str]| server.ask("GET", "/v1/index", headers, b"");
    for headers in [
        &[][..],
        &["authorization: Bearer s3cret-toke"],
        &["authorization: Bearer wrong"],
        &["authorization: Basic s3cret-token"],
    ] {
        let refused = asked(headers);
        refused.is_error(401, "unauthorized");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    }
    assert_eq!(asked(&["authorization: Bearer s3cret-token"]).status, 200);
    for path in ["/metrics", "/nowhere"] {
        server.get(path).is_error(401, "unauthorized");
    }
    server.swap().is_error(401, "unauthorized");
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    // From the environment, too; and the load generator brings it.
    drop(server);
    let server = Server::start_with(&place, &["vamana.kiln"], |command| {
        command.env("KILN_TOKEN", "other");
    });
    server.get("/v1/index").is_error(401, "unauthorized");
    assert_eq!(server.ask("GET", "/v1/index", &["authorization: bearer other"], b"").status, 200);
    place.write("other", "other");
    let load = ["load", "--url", &server.target.url, "--queries", "query.fbin", "--rate", "50", "--duration", "200ms"];
    assert_says(&place.fails(1, &load), &["401", "token"]);
    assert!(place.ok(&[&load[..], &["--token-file", "other"]].concat()).contains("open loop"));
}

#[test]
fn it_does_not_listen_to_strangers_unasked() {
    let place = Place::new().with_indexes();
    place.write("empty", "\n");
    for (args, says) in [
        (&["--listen", "0.0.0.0:0"][..], "--token-file"),
        (&["--listen", "[::]:0"], "--allow-unauthenticated"),
        (&["--token-file", "empty"], "the token is empty"),
        (&["--token-file", "missing"], "missing: cannot read"),
        (&["--threads", "0"], "--threads 0"),
        (&["--queue", "0"], "--queue 0"),
        (&["--timeout", "5"], "500ms"),
    ] {
        let ran = place.run(&[&["serve", "vamana.kiln"], args].concat());
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(says), "{args:?}: {}", ran.err);
    }
    for (args, says) in [
        (&["serve", "missing.kiln"][..], "missing.kiln: cannot open"),
        (&["serve", "query.fbin"], "not a Kiln index"),
        (&["serve", "vamana.kiln", "--listen", "no.such.host.invalid:80"], "--listen no.such.host.invalid:80"),
        (&["serve", "vamana.kiln", "--listen", "127.0.0.1"], "HOST:PORT"),
    ] {
        assert!(place.fails(1, args).contains(says), "{args:?}");
    }
    let server = Server::start(&place, &["vamana.kiln"]);
    let taken = place.fails(1, &["serve", "vamana.kiln", "--listen", &server.address]);
    assert_says(&taken, &["--listen", "cannot listen", "port 0"]);
}
