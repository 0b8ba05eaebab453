//! Opens reports in a headless Chromium, and does what a reader would.
//!
//! Skipped, with a word, where there is no Chromium; where `KILN_REQUIRE` names `chromium`, that is a failure.

mod chromium;
#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "../../src/fixture.rs"]
mod fixture;

use chromium::Chromium;
use kiln_eval::record::RunData;
use kiln_reports::write_report;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A chart that every fixture has, with its axes on a toggle.
const CHART: &str = "recall-qps-latency-1";

/// A browser, and a folder for pages.
struct Desk {
    browser: Chromium,
    folder: TempDir,
}

impl Desk {
    /// Writes the report of a run and says where.
    fn write(&self, name: &str, data: &RunData) -> String {
        let page = self.folder.path().join(name).join("report.html");
        let charts = page.with_file_name("charts");
        write_report(data, &page, Some(&charts)).expect("a report");
        format!("file://{}", page.display())
    }

    fn open(&mut self, url: &str) {
        self.browser.open(url);
    }

    fn number(&mut self, expression: &str) -> f64 {
        let value = self.browser.value(expression);
        value.as_f64().unwrap_or_else(|| panic!("{expression} is {value}"))
    }

    fn text(&mut self, expression: &str) -> String {
        let value = self.browser.value(expression);
        value.as_str().unwrap_or_else(|| panic!("{expression} is {value}")).to_string()
    }

    /// Markers of a series on [`CHART`].
    fn markers(&mut self, series: usize) -> f64 {
        self.number(&format!(
            "document.querySelectorAll('#{CHART} .marks :not(path)[data-series=\"{series}\"]').length"
        ))
    }

    /// Names in the first table of levels, in order.
    fn ranking(&mut self) -> Vec<String> {
        let names =
            "[...document.querySelector('table.levels tbody').rows].map((row) => row.cells[0].textContent.trim())";
        serde_json::from_value(self.browser.value(names)).expect("names")
    }

    fn assert_quiet(&mut self, what: &str) {
        let complaints = self.browser.complaints();
        assert!(complaints.is_empty(), "{what}: {complaints:#?}");
    }
}

#[test]
fn a_reader_can_do_what_the_page_offers() {
    let Some(program) = chromium::find() else {
        let required = std::env::var("KILN_REQUIRE").unwrap_or_default();
        let reason = "no Chromium is on the PATH, and CHROMIUM names none";
        assert!(!required.split(',').any(|required| required == "chromium"), "chromium is required: {reason}");
        eprintln!("browser: SKIPPED: {reason}");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut desk = Desk { browser: Chromium::start(&program), folder };
    let everything = desk.write("everything", &fixture::everything());
    every_chart_is_titled_and_has_a_table(&mut desk, &everything);
    without_scripts_nothing_is_missing(&mut desk, &everything);
    paper_shows_all_tables(&mut desk, &everything);
    let url = desk.write("größe 1", &fixture::indexes(3));
    series_are_hidden_and_shown(&mut desk, &url);
    the_fragment_is_obeyed_and_kept(&mut desk, &url);
    pointer_and_keys_ask_points(&mut desk, &url);
    let url = desk.write("large", &fixture::grid(12, 40));
    a_large_page_opens(&mut desk, &url);
}

fn every_chart_is_titled_and_has_a_table(desk: &mut Desk, url: &str) {
    desk.open(url);
    desk.assert_quiet("everything");
    let policy = desk.text("document.querySelector('meta[http-equiv=Content-Security-Policy]').content");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    let charts = "[...document.querySelectorAll('figure')].map((figure) => ({
        id: figure.id,
        title: figure.querySelector('h3').textContent,
        name: figure.querySelector('svg[role=img]').getAttribute('aria-label'),
        drawn: figure.querySelectorAll('.drawn .marks > *').length,
        frames: figure.querySelectorAll('.drawn .marks').length,
        cells: figure.querySelectorAll('details tbody td').length,
        files: [...figure.querySelectorAll('.files a')].map((link) => link.getAttribute('href')),
    }))";
    let charts = desk.browser.value(charts);
    let charts = charts.as_array().expect("figures");
    assert!(charts.len() > 12, "{} charts", charts.len());
    for chart in charts {
        let title = chart["title"].as_str().unwrap_or_default();
        assert!(!title.is_empty(), "{chart}");
        assert!(chart["name"].as_str().is_some_and(|name| name.starts_with(title)), "{chart}");
        assert!(chart["drawn"].as_u64() > Some(0) && chart["cells"].as_u64() > Some(1), "{chart}");
        for file in chart["files"].as_array().expect("links") {
            let file = desk.folder.path().join("everything").join(file.as_str().expect("a link"));
            assert!(file.metadata().is_ok_and(|file| file.len() > 1000), "{}", file.display());
        }
        assert_eq!(chart["files"].as_array().map(Vec::len), Some(2), "{chart}");
    }
    for id in ["told", "trust", "failures", "provenance", "method", "data"] {
        assert_eq!(desk.number(&format!("document.querySelectorAll('#{id}').length")), 1.0, "{id}");
    }
    let fates = desk.text("document.getElementById('failures').textContent");
    for fate in ["out of memory", "it hangs", "signal 11", "pruned after a probe", "out of time"] {
        assert!(fates.contains(fate), "{fate}: {fates}");
    }
    // Phones: nothing is wider than the window, but what scrolls by itself.
    let narrow = json!({ "width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": true });
    desk.browser.call("Emulation.setDeviceMetricsOverride", narrow);
    let overflow = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => \
                    done(document.documentElement.scrollWidth - innerWidth))))";
    assert!(desk.number(overflow) <= 0.0, "the page is wider than a phone");
    desk.browser.call("Emulation.clearDeviceMetricsOverride", json!({}));
    desk.assert_quiet("everything, narrow");
}

fn without_scripts_nothing_is_missing(desk: &mut Desk, url: &str) {
    let count = "document.querySelectorAll('figure').length";
    let with = desk.number(count);
    desk.browser.call("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
    desk.open(url);
    assert_eq!(desk.number(count), with);
    assert_eq!(desk.number("document.querySelectorAll('html.scripts, .drawn').length"), 0.0, "a script ran");
    let empty = "[...document.querySelectorAll('figure')].filter((figure) => [...figure.querySelectorAll('.view')]\
                 .filter((view) => view.offsetHeight > 100 && view.querySelectorAll('svg > *').length > 5).length !== 1)\
                 .map((figure) => figure.id).join(' ')";
    assert_eq!(desk.text(empty), "", "charts that are not shown once");
    let controls = "[...document.querySelectorAll('.scripted')].filter((control) => control.offsetHeight > 0).length";
    assert_eq!(desk.number(controls), 0.0, "a control that does nothing is shown");
    // The boxes that hide series work through style alone.
    let shown = format!("getComputedStyle(document.querySelector('#{CHART} .view svg .s-0')).display");
    assert_ne!(desk.text(&shown), "none");
    desk.browser.value("document.getElementById('series-0').checked = false");
    assert_eq!(desk.text(&shown), "none");
    desk.browser.call("Emulation.setScriptExecutionDisabled", json!({ "value": false }));
}

fn paper_shows_all_tables(desk: &mut Desk, url: &str) {
    let dark = json!([{ "name": "prefers-color-scheme", "value": "dark" }]);
    let paper = "getComputedStyle(document.body).backgroundColor";
    desk.browser.call("Emulation.setEmulatedMedia", json!({ "media": "", "features": dark }));
    desk.open(url);
    assert_eq!(desk.text(paper), "rgb(20, 23, 27)", "dark");
    desk.browser.call("Emulation.setEmulatedMedia", json!({ "media": "print", "features": dark }));
    assert_eq!(desk.text(paper), "rgb(255, 255, 255)", "paper is white");
    let hidden = "[...document.querySelectorAll('details table')].filter((table) => table.offsetHeight < 10).length";
    assert_eq!(desk.number(hidden), 0.0, "tables that are not printed");
    let controls = "[...document.querySelectorAll('nav, .choice, .scripted, button.copy')].filter((it) => it.offsetHeight > 0).length";
    assert_eq!(desk.number(controls), 0.0, "controls are printed");
    desk.browser.call("Emulation.setEmulatedMedia", json!({ "media": "", "features": [] }));
    desk.assert_quiet("paper");
}

fn series_are_hidden_and_shown(desk: &mut Desk, url: &str) {
    desk.open(url);
    let before = desk.markers(1);
    assert_eq!(before, 8.0, "one marker a setting");
    desk.browser.value(&format!("document.querySelector('#{CHART} .legend button[data-series=\"1\"]').click()"));
    assert_eq!((desk.markers(1), desk.markers(0)), (0.0, before));
    assert_eq!(desk.text("location.hash"), "#off=1");
    let pressed =
        desk.number("document.querySelectorAll('.legend button[data-series=\"1\"][aria-pressed=true]').length");
    assert_eq!(pressed, 0.0, "every legend knows");
    desk.browser.value("history.back(); new Promise((done) => addEventListener('popstate', () => setTimeout(done)))");
    assert_eq!((desk.markers(1), desk.text("location.hash")), (before, String::new()), "back undoes it");
    desk.assert_quiet("hiding");
}

fn the_fragment_is_obeyed_and_kept(desk: &mut Desk, url: &str) {
    desk.open(url);
    let at_95 = desk.ranking();
    let whole = desk.browser.value(&format!("document.querySelector('#{CHART} .drawn svg').innerHTML"));
    // A graph leads where recall must be high, whatever leads below.
    desk.open(&format!("{url}#recall=.5&off=0&zoom={CHART}:.9,1,2000,20000&view={CHART}:2&at=levels"));
    assert_eq!(desk.text("document.getElementById('threshold-value').textContent"), ".50");
    let at_50 = desk.ranking();
    assert_eq!(at_50.last(), Some(&"vamana max_degree=32".to_string()), "what is hidden does not rank: {at_50:?}");
    assert_ne!(at_50, at_95);
    assert_eq!(desk.markers(0), 0.0);
    assert_eq!(desk.browser.value(&format!("document.querySelector('#{CHART} .reset').hidden")), json!(false));
    assert_eq!(desk.browser.value(&format!("document.getElementById('view-{CHART}-2').checked")), json!(true));
    let ticks =
        format!("[...document.querySelectorAll('#{CHART} .drawn text')].map((text) => text.textContent).join(' ')");
    let ticks = desk.text(&ticks);
    assert!(ticks.contains("logit") && ticks.contains("5k") && !ticks.contains("50k"), "{ticks}");
    desk.browser.value(&format!("document.querySelector('#{CHART} .reset').click()"));
    assert_eq!(desk.text("location.hash"), format!("#recall=.50&off=0&view={CHART}:2&at=levels"));
    // What means nothing is passed over.
    desk.open(&format!("{url}#recall=x&off=99.-1&zoom=none:1,2&zoom={CHART}:5,1,1,2&view={CHART}:9&at=%00"));
    let again = desk.browser.value(&format!("document.querySelector('#{CHART} .drawn svg').innerHTML"));
    assert_eq!(again, whole);
    assert_eq!(desk.ranking(), at_95);
    desk.assert_quiet("odd fragments");
}

/// Until the page is told that it was scrolled, which closes what a key has opened.
const SETTLED: &str = "for (let frame = 0; frame < 2; frame += 1) await new Promise(requestAnimationFrame);";

fn pointer_and_keys_ask_points(desk: &mut Desk, url: &str) {
    desk.open(url);
    let place = format!(
        "(async () => {{ const svg = document.querySelector('#{CHART} .drawn svg'); svg.scrollIntoView({{ block: 'center' }}); \
         {SETTLED} const box = svg.getBoundingClientRect(); return [box.x, box.y, box.width, box.height]; }})()"
    );
    let [x, y, width, height]: [f64; 4] = serde_json::from_value(desk.browser.value(&place)).expect("a box");
    let at = |across: f64, down: f64| (x + across * width, y + down * height);
    let tip = "document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent";
    desk.browser.value(&format!("document.querySelector('#{CHART} .drawn svg').focus()"));
    desk.browser.key("ArrowRight");
    let first = desk.text(tip);
    assert!(first.contains("queries/s") && first.contains("kiln bench --dataset"), "{first}");
    desk.browser.key("ArrowRight");
    assert_ne!(desk.text(tip), first);
    let marker = format!(
        "(() => {{ const markers = [...document.querySelectorAll('#{CHART} .marks circle[data-series=\"0\"]')]; \
         const box = markers.map((marker) => marker.getBoundingClientRect()).sort((a, b) => a.x - b.x)[0]; \
         return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
    );
    let [mx, my]: [f64; 2] = serde_json::from_value(desk.browser.value(&marker)).expect("a place");
    desk.browser.mouse("mouseMoved", (mx + 3.0, my + 2.0));
    assert!(desk.text(tip).starts_with("vamana max_degree=32"), "{}", desk.text(tip));
    // A rectangle narrows the axes, Escape widens them again.
    desk.browser.mouse("mousePressed", at(0.5, 0.2));
    desk.browser.mouse("mouseMoved", at(0.6, 0.3));
    desk.browser.mouse("mouseMoved", at(0.8, 0.6));
    desk.browser.mouse("mouseReleased", at(0.8, 0.6));
    let hash = desk.text("location.hash");
    assert!(hash.starts_with(&format!("#zoom={CHART}:")), "{hash}");
    desk.browser.value(&format!("document.querySelector('#{CHART} .drawn svg').focus()"));
    desk.browser.key("Escape");
    assert_eq!(desk.text("location.hash"), "");
    // The threshold follows its keys.
    desk.browser.value("document.getElementById('threshold').focus()");
    desk.browser.key("ArrowRight");
    assert_eq!(desk.text("document.getElementById('threshold-value').textContent"), ".951");
    desk.assert_quiet("pointer and keys");
}

fn a_large_page_opens(desk: &mut Desk, url: &str) {
    let bytes = std::fs::metadata(desk.folder.path().join("large/report.html")).expect("written").len();
    assert!(bytes < 3_000_000, "{bytes} bytes");
    desk.open(url);
    assert_eq!(desk.markers(11), 40.0);
    desk.assert_quiet("12 x 40");
    let timing: Value = desk.browser.value("performance.getEntriesByType('navigation')[0].loadEventEnd");
    eprintln!("browser: 12 engines x 40 settings: {bytes} bytes, the load event ended after {timing} ms");
}
