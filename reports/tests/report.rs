//! Writes whole reports, of ordinary and of odd runs, and looks at the files.

#[path = "../src/fixture.rs"]
mod fixture;

use std::collections::BTreeSet;
use std::path::Path;

use kiln_eval::record::{Answers, IoState, RunData};
use kiln_reports::{ReportError, report_html, write_report};

/// Checks what every page must be: balanced, self-contained, accessible. Panics with `what` otherwise.
fn page(data: &RunData, what: &str) -> String {
    let html = report_html(data).unwrap_or_else(|e| panic!("{what}: {e}"));
    check_balanced(&html, what);
    for forbidden in
        ["<script src", "<link rel=\"stylesheet\"", "@import", "src=\"http", "href=\"http", "url(http", "NaN", "inf\""]
    {
        assert!(!html.contains(forbidden), "{what}: the page contains {forbidden}");
    }
    let figures = html.matches("<figure ").count();
    assert_eq!(figures, html.matches("<figcaption>").count(), "{what}: captions");
    assert_eq!(figures, html.matches("Figures behind this chart").count(), "{what}: tables behind charts");
    assert_eq!(figures, html.matches("<h3 id=\"title-").count(), "{what}: titled charts");
    assert_eq!(html.matches("http-equiv=\"Content-Security-Policy\"").count(), 1, "{what}: a policy");
    let charts = html.matches("<div class=\"view").count() - html.matches("<div class=\"views").count();
    assert_eq!(charts, html.matches("role=\"img\" aria-label=\"").count(), "{what}: labelled charts");
    let ids: Vec<&str> = html.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{what}: ids repeat");
    for anchor in html.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(ids.contains(&anchor), "{what}: nothing is called {anchor}");
    }
    html
}

/// Every tag that opens also closes, in order; style and script are opaque.
fn check_balanced(html: &str, what: &str) {
    const VOID: [&str; 5] = ["meta", "link", "input", "br", "!DOCTYPE"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        let end = rest.find('>').unwrap_or_else(|| panic!("{what}: a tag never ends"));
        let tag = &rest[..end];
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap_or_default();
        rest = &rest[end + 1..];
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{what}: </{name}> closes another element");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
            if ["style", "script"].contains(&name) {
                let close = rest.find(&format!("</{name}>")).unwrap_or_else(|| panic!("{what}: {name} never ends"));
                rest = &rest[close..];
            }
        }
    }
    assert!(open.is_empty(), "{what}: never closed: {open:?}");
}

fn ids(html: &str) -> BTreeSet<&str> {
    html.split("<figure id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// Sets the verdict on every query of every setting.
fn judge(data: &mut RunData, hits: impl Fn(usize) -> u16) {
    for setting in &mut data.settings {
        let answers = &mut setting.answers;
        answers.strict_hits = (0..answers.possible.len()).map(&hits).collect();
        answers.id_hits = answers.strict_hits.clone();
        answers.ann_hits = answers.strict_hits.clone();
    }
}

#[test]
fn an_ordinary_run_has_every_chart() {
    let html = page(&fixture::run(), "two indexes");
    let expected = [
        "build",
        "difficulty",
        "memory",
        "recall-distribution",
        "recall-p99-latency-1",
        "recall-p99-throughput-1",
        "recall-p99-throughput-2",
        "recall-qps-latency-1",
        "recall-qps-throughput-1",
        "recall-qps-throughput-2",
        "threads",
        "trade",
    ];
    assert_eq!(ids(&html), BTreeSet::from(expected));
    assert!(html.contains("At recall .95 (photosift-128-euclidean, k = 10, one query at a time), vamana answers"));
    assert!(html.contains("kiln bench --dataset photosift-128-euclidean.hdf5"));
    assert!(html.len() < 500_000, "{} bytes", html.len());
}

#[test]
fn drives_failures_and_warnings_are_shown() {
    let html = page(&fixture::eventful(), "eventful");
    assert!(ids(&html).contains("recall-pages-latency-1"));
    for text in [
        "vamana max_degree=32 (ssd)",
        "out of memory: the kernel killed the process",
        "⚠ did not settle",
        "1 setting did not settle during warm-up",
        "Measured with --quick",
        "with local changes",
        "Pages per query",
    ] {
        assert!(html.contains(text), "{text} is missing");
    }
}

#[test]
fn batches_of_a_device_are_apart_with_transfers_and_without() {
    let data = fixture::on_device();
    let html = page(&data, "device");
    let ids = ids(&html);
    for mode in ["batch-device", "batch-device-resident"] {
        assert!(
            ids.contains(&*format!("recall-qps-{mode}")) && !ids.contains(&*format!("recall-p99-{mode}")),
            "{ids:?}"
        );
    }
    assert!(html.contains("80 GiB, compute capability 9.0), without the way there and back"));
    assert!(html.contains("--batch-device"), "the command that measures it again");
    // A run of devices alone has a verdict too.
    let mut alone = data;
    alone.settings.retain(|s| s.mode.name() == "batch-device-resident");
    let html = page(&alone, "device alone");
    assert!(html.contains("in one call to a device, without the way there and back), vamana answers"));
}

#[test]
fn batches_have_charts_of_their_own_and_no_latency() {
    let data = fixture::with_batches();
    let html = page(&data, "batches");
    let ids = ids(&html);
    assert!(ids.contains("recall-qps-batch-1") && !ids.contains("recall-p99-batch-1"), "{ids:?}");
    assert!(ids.contains("recall-p99-throughput-1") && ids.contains("recall-p99-latency-1"), "{ids:?}");
    // The section of the mode, and its table of levels.
    let section = html.split("<section id=\"section-mode-batch-1\">").nth(1).and_then(|s| s.split("</section>").next());
    let section = section.expect("a section for batches");
    assert!(!section.contains("p99") && !section.contains("p50"), "latencies of batches are shown");
    let level = html.split("<h3>batch-1 ").nth(1).and_then(|s| s.split("</table>").next()).expect("levels of batches");
    assert!(level.contains("QPS at .95") && !level.contains("p99"), "{level}");
    assert_eq!(html.matches("all queries in one call on 1 thread").count(), 2);
    // A run of batches alone has a verdict too.
    let mut alone = data;
    alone.settings.retain(|s| s.mode.name() == "batch-1");
    let html = page(&alone, "batches alone");
    assert!(html.contains("all queries at once on 1 thread), vamana answers"), "the verdict does not speak of batches");
}

#[test]
fn a_run_on_the_drive_has_the_drives_charts() {
    let data = fixture::on_drive();
    let html = page(&data, "on the drive");
    let found = ids(&html);
    for id in [
        "serving-memory-throughput-1",
        "serving-memory-throughput-2",
        "recall-pages-latency-1",
        "cold-warm-latency-1",
        "cold-warm-throughput-2",
        "load-latency",
    ] {
        assert!(found.contains(id), "{id}: {found:?}");
    }
    assert!(!found.contains("serving-memory-latency-1"), "a mode of throughput says the same");
    let figure =
        |id: &str| html.split(&format!("<figure id=\"{id}\"")).nth(1).and_then(|s| s.split("</figure>").next());
    let memory = figure("serving-memory-throughput-2").expect("drawn").replace('\u{a0}', " ");
    // Eight budgets, the index in memory, and the peer's three sizes on two threads; the page cache is no budget.
    let rows = memory.split("<tbody>").nth(1).map(|body| body.matches("<tr>").count());
    assert_eq!(rows, Some(8 + 1 + 3), "{memory}");
    for text in ["8 MiB", "1 GiB", "diskannpy-ssd 0.7.0 (ssd, 2 threads)", "83,340 random reads", "vamana (memory)"] {
        assert!(memory.contains(text), "{text} is missing");
    }
    assert!(!memory.contains("1 thread)"), "peers of another number of threads");
    let pairs = figure("cold-warm-latency-1").expect("drawn");
    assert_eq!(pairs.matches("search_list=10").count(), 3, "two points and a row");
    assert!(figure("recall-pages-latency-1").is_some_and(|pages| pages.contains("⚠ 1 did not begin cold")));
    assert!(html.contains("8 passes in state cold began with part of the index in the page cache"));
    let load = figure("load-latency").expect("drawn");
    assert!(load.contains("saturated from here on") && load.contains("overloaded 731"), "{load}");
    assert!(html.contains("at depth 64 (fio-3.33, io_uring"), "the ceiling is provenance");

    // Each chart goes with its data.
    let mut bare = data;
    bare.loads.clear();
    bare.peers.clear();
    bare.header.drive_ceiling = None;
    bare.settings.retain(|s| s.io_state != Some(IoState::Cold) && s.memory_budget.is_none_or(|bytes| bytes == 1 << 23));
    let html = page(&bare, "on the drive, without most of it");
    let found: Vec<&str> = ids(&html).into_iter().filter(|id| !id.starts_with("recall")).collect();
    assert!(!found.iter().any(|id| ["serving", "cold", "load"].iter().any(|start| id.starts_with(start))), "{found:?}");
    assert!(!html.contains("ceiling"), "no ceiling was measured");
}

#[test]
fn the_same_run_gives_the_same_page() {
    assert_eq!(report_html(&fixture::run()).ok(), report_html(&fixture::run()).ok());
}

#[test]
fn the_download_holds_a_row_for_every_setting() {
    use base64::Engine;
    let data = fixture::eventful();
    let html = page(&data, "eventful");
    let encoded = html.split("data:application/json;base64,").nth(1).and_then(|rest| rest.split('"').next());
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded.expect("a link")).expect("base64");
    let figures: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(figures["searches"].as_array().map(Vec::len), Some(data.settings.len() - 1));
    assert_eq!(figures["failures"].as_array().map(Vec::len), Some(1));
    assert_eq!(figures["builds"].as_array().map(Vec::len), Some(3));
    assert!(figures["dataset"].get("query_lid").is_none());
}

#[test]
fn odd_runs_still_make_a_page() {
    let mut data = fixture::run();
    data.settings.clear();
    let html = page(&data, "no settings");
    assert!(html.contains("Nothing was searched; 2 indexes were built."));
    data.builds.clear();
    let html = page(&data, "nothing at all");
    assert!(ids(&html).is_empty() && html.contains("This run is empty: nothing was built and nothing was searched."));

    let mut data = fixture::run();
    data.settings.truncate(1);
    page(&data, "one setting");

    let mut data = fixture::run();
    judge(&mut data, |_| 10);
    let html = page(&data, "perfect recall");
    assert!(html.contains("≥ "), "the easiest setting exceeds every level");
    assert!(html.contains("recall above .9999 is drawn there"));

    let mut data = fixture::run();
    judge(&mut data, |_| 0);
    let html = page(&data, "no recall at all");
    assert!(html.contains("No index reached recall .90") && html.contains("max 0"));

    let mut data = fixture::run();
    data.settings.iter_mut().for_each(|s| s.answers = Answers::default());
    let html = page(&data, "unknown truth");
    assert!(html.contains("Recall is unknown"));
    assert!(html.contains("search_list=10"), "the settings are listed all the same");
    assert!(!ids(&html).iter().any(|id| id.starts_with("recall")));

    let mut data = fixture::run();
    data.header.dataset.queries = 1;
    for setting in &mut data.settings {
        setting.runs.iter_mut().for_each(|run| run.latency_us.truncate(1));
        let answers = &mut setting.answers;
        for hits in [&mut answers.strict_hits, &mut answers.id_hits, &mut answers.ann_hits, &mut answers.possible] {
            hits.truncate(1);
        }
    }
    page(&data, "one query");

    page(&fixture::indexes(1), "one index");
    page(&fixture::indexes(12), "twelve indexes");

    let mut data = fixture::run();
    data.settings.iter_mut().for_each(|s| s.failure = Some("killed".into()));
    let html = page(&data, "only failures");
    assert!(html.contains("No setting could be measured: 48 failed"));

    let mut data = fixture::run();
    data.builds[0].stage_seconds.clear();
    data.builds[0].total_seconds = 0.0;
    data.builds[0].index_bytes = 0;
    data.header.dataset.rows = 0;
    data.header.dataset.query_lid.clear();
    page(&data, "zero costs");
}

#[test]
fn hostile_names_are_escaped() {
    let evil = "<img src=x onerror=alert(1)>\"'&</script>";
    let mut data = fixture::run();
    data.header.dataset.name = evil.into();
    data.header.command = evil.into();
    data.builds[0].index = evil.into();
    data.builds[0].stage_seconds[0].0 = evil.into();
    data.settings[0].params.insert(evil.into(), evil.into());
    data.settings[1].failure = Some(evil.into());
    let html = page(&data, "hostile names");
    assert!(!html.contains("<img"));
    assert_eq!(html.matches("</script>").count(), 2, "the charts and the script");
}

#[test]
fn files_are_written_whole_and_pictures_decode() {
    let folder = tempfile::tempdir().expect("a folder");
    let html = folder.path().join("new/report.html");
    let charts = folder.path().join("new/charts");
    let files = write_report(&fixture::run(), &html, Some(&charts)).expect("a report");
    assert_eq!(files.html, html);
    let names: Vec<String> =
        (files.charts.iter()).filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    for name in ["recall-qps-latency-1.png", "recall-p99-latency-1.png", "recall-distribution.png", "build.png"] {
        assert!(names.iter().any(|n| n == name), "{name} is missing of {names:?}");
    }
    let svg = names.iter().filter(|name| name.ends_with(".svg")).count();
    assert_eq!((svg, 2 * svg), (names.len() / 2, names.len()), "each chart is there twice: {names:?}");
    for path in files.charts.iter().filter(|path| path.extension().is_some_and(|kind| kind == "png")) {
        let pixmap = resvg::tiny_skia::Pixmap::load_png(path).expect("a PNG");
        assert_eq!(pixmap.width(), 1760, "{}", path.display());
        assert!(pixmap.height() > 300);
        assert!(pixmap.pixels().iter().all(|p| p.alpha() == 255), "{} is not opaque", path.display());
        let inked = pixmap.pixels().iter().filter(|p| p.red() < 128).count();
        assert!(inked > 2_000, "{} is almost empty", path.display());
    }
    let left: Vec<_> = [html.parent(), Some(&charts)]
        .into_iter()
        .flatten()
        .flat_map(|dir| std::fs::read_dir(dir).expect("a folder"))
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.ends_with(".partial"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn pages_stay_small() {
    let html = page(&fixture::grid(12, 40), "12 engines, 40 settings each");
    assert!(html.len() < 3_000_000, "{} bytes", html.len());
    assert_eq!(html.matches("data-frontier=").count(), 12);
}

#[test]
fn everything_that_a_report_names_is_there() {
    let html = page(&fixture::everything(), "everything");
    for says in [
        "Differences that are told",
        "no detectable difference",
        "the fastest",
        "on\nthe 30% that were held out",
        "measured as if it were two",
        "pruned after a probe",
        "it hangs, and was stopped",
        "[other hardware]",
        "--io-state cold",
        "Recall by difficulty",
        "Latency under load",
    ] {
        assert!(html.contains(says), "{says}");
    }
    let html = page(&fixture::run(), "nothing failed");
    assert!(html.contains("None: every setting was measured.") && !html.contains("id=\"trust\""));
}

#[test]
fn imported_rows_come_last_and_are_not_ranked() {
    let html = page(&fixture::imported(), "imported");
    let table = html.split("<table class=\"levels\">").nth(1).and_then(|rest| rest.split("</table>").next());
    let rows: Vec<&str> = table.expect("levels").split("<tr data-series").skip(1).collect();
    let foreign: Vec<bool> = rows.iter().map(|row| row.contains(" data-foreign ")).collect();
    assert_eq!(foreign, [false, true]);
    assert!(rows[1].contains("[other hardware]"));
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "").expect("a file");
    let error = write_report(&fixture::run(), &blocked.join("report.html"), None).expect_err("a file is no folder");
    assert!(matches!(error, ReportError::Write { .. }));
    assert!(error.to_string().contains("report.html"), "{error}");
    let error = write_report(&fixture::run(), Path::new("/"), None).expect_err("a folder is no file");
    assert!(matches!(error, ReportError::Write { .. }));
}

#[test]
fn imported_settings_are_marked() {
    let page = report_html(&fixture::imported()).expect("drawn");
    for says in ["ivf-pq [other hardware]", "measured elsewhere (gpu-node, NVIDIA H100)", "as cuvs-bench counts"] {
        assert!(page.contains(says), "{says}");
    }
}
