//! Load on a server: what was offered to it, and how long answers took.
//!
//! In: a server's address, queries and a rate. Out: a [`LoadRecord`] a rate, kept as one JSON line of `load.jsonl` in a
//! run folder. [`client`] speaks to the server, [`drive`](mod@drive) sends and measures, [`ask`] says what is sent.
//!
//! An open loop sends requests when they are due (a Poisson process), whether or not earlier ones are answered, and counts
//! a request's latency from the moment at which it was due: a server that stalls is charged for everyone who waited. A
//! closed loop sends the next request when the last is answered; it measures capacity, and its latencies say nothing of
//! what users would see.

pub mod ask;
pub mod client;
pub mod drive;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The file of a run folder that holds [`LoadRecord`]s.
pub const LOAD_FILE: &str = "load.jsonl";

/// How requests were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadMode {
    /// When due, at a rate.
    OpenLoop,
    /// When the last was answered, on every connection.
    ClosedLoop,
}

/// One rate offered to one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadRecord {
    /// Where the server was.
    pub url: String,
    /// What it served, as its `/v1/index` told; `None` where it did not tell.
    pub index: Option<serde_json::Value>,
    /// UTC, `2026-11-20T17:40:00Z`.
    pub created: String,
    /// How requests were sent.
    pub mode: LoadMode,
    /// Requests a second that were due; in a closed loop the rate achieved.
    pub offered_rate: f64,
    /// Requests answered well a second, until the last answer came.
    pub achieved_rate: f64,
    /// Seconds from the first request to the last answer.
    pub seconds: f64,
    /// Requests sent, answered well or not.
    pub requests: u64,
    /// Requests that were not answered well, by kind: the server's own word for it, or `connect`, `closed`, `timeout`,
    /// `malformed`.
    pub errors: BTreeMap<String, u64>,
    /// Microseconds from the moment at which a request was due until its answer was there; of those answered well.
    pub latency_us: LoadLatency,
    /// Microseconds from the moment at which a request was due until it was sent: what the generator added itself, by being
    /// late or by having no free connection.
    pub start_lag_us: StartLag,
    /// True where the server did not keep up: see [`is_saturated`].
    pub saturated: bool,
    /// Requests a second of the closed loop that rates were derived from, where one was measured.
    pub capacity: Option<f64>,
    /// Connections, each with one request at a time.
    pub connections: usize,
    /// Neighbours asked for.
    pub k: usize,
    /// What else was asked for, by name (`search_list`, `nprobe`, `rerank`, `recall`, `body`, ...).
    pub params: BTreeMap<String, serde_json::Value>,
    /// Recall of the answers, where truth is known.
    pub recall: Option<f64>,
}

/// Latencies in microseconds; all 0 where nothing was answered well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadLatency {
    /// Half of the answers came within this.
    pub p50: f64,
    /// 95% of them.
    pub p95: f64,
    /// 99% of them.
    pub p99: f64,
    /// 99.9% of them; only of [`crate::stats::P999_MIN_SAMPLES`] or more.
    pub p999: Option<f64>,
    /// The slowest.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
}

/// How late requests were sent, in microseconds; 0 in a closed loop, which has no due time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StartLag {
    /// Half of the requests were sent within this.
    pub p50: f64,
    /// 99% of them.
    pub p99: f64,
}

/// Part of the offered rate below which a server counts as saturated.
pub const KEPT_UP: f64 = 0.97;

/// Whether the server failed to keep up: answers came at less than [`KEPT_UP`] of the rate at which they were asked for.
pub fn is_saturated(mode: LoadMode, offered_rate: f64, achieved_rate: f64) -> bool {
    mode == LoadMode::OpenLoop && achieved_rate < KEPT_UP * offered_rate
}

/// A rate to offer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// Requests a second.
    PerSecond(f64),
    /// A part of the capacity, which a closed loop measures first.
    OfCapacity(f64),
}

impl std::fmt::Display for Rate {
    /// As [`parse_rates`] reads it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rate::PerSecond(rate) => write!(f, "{rate}"),
            Rate::OfCapacity(part) => write!(f, "{}%", (1e8 * part).round() / 1e6),
        }
    }
}

/// Rates as people write them: `500`, `80%`, or a range in steps of ten, `10%..120%`.
///
/// # Errors
/// What to write instead.
pub fn parse_rates(text: &str) -> Result<Vec<Rate>, String> {
    let help =
        || format!("{text:?} is no rate: write requests a second (500), a part of the capacity (80%) or 10%..120%");
    let percent = |text: &str| {
        let number = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
        number.filter(|number| (0.0..=1000.0).contains(number) && *number > 0.0)
    };
    if let Some((from, to)) = text.split_once("..") {
        let (Some(from), Some(to)) = (percent(from), percent(to)) else { return Err(help()) };
        let steps = (0u32..).map(|step| from + 10.0 * f64::from(step)).take_while(|rate| *rate <= to + 1e-9);
        let rates: Vec<Rate> = steps.map(|rate| Rate::OfCapacity(rate / 100.0)).collect();
        return if rates.is_empty() { Err(help()) } else { Ok(rates) };
    }
    let part = percent(text).map(|part| Rate::OfCapacity(part / 100.0));
    let number = text.parse::<f64>().ok().filter(|rate| *rate > 0.0 && *rate <= 1e7).map(Rate::PerSecond);
    part.or(number).map(|rate| vec![rate]).ok_or_else(help)
}

/// What a record says beside what was measured.
#[derive(Debug, Clone)]
pub struct LoadContext {
    /// Where the server was.
    pub url: String,
    /// What it served.
    pub index: Option<serde_json::Value>,
    /// Capacity that was measured.
    pub capacity: Option<f64>,
    /// Connections used.
    pub connections: usize,
    /// Neighbours asked for.
    pub k: usize,
    /// What else was asked for.
    pub params: BTreeMap<String, serde_json::Value>,
    /// Recall of the answers.
    pub recall: Option<f64>,
}

impl LoadContext {
    /// The record of one measurement.
    pub fn record(&self, pace: drive::Pace, sample: drive::Sample) -> LoadRecord {
        let achieved_rate = if sample.seconds > 0.0 { sample.answered as f64 / sample.seconds } else { 0.0 };
        let (mode, offered_rate, planned) = match pace {
            drive::Pace::Closed(_) => (LoadMode::ClosedLoop, achieved_rate, Duration::ZERO),
            drive::Pace::Open { rate, duration, .. } => (LoadMode::OpenLoop, rate, duration),
        };
        // The last request is due a little before the end: that must not make a slow rate look faster than it was.
        let lasted = sample.seconds.max(planned.as_secs_f64());
        let kept_up = if lasted > 0.0 { sample.answered as f64 / lasted } else { 0.0 };
        LoadRecord {
            url: self.url.clone(),
            index: self.index.clone(),
            created: crate::provenance::utc_now(),
            mode,
            offered_rate,
            achieved_rate: kept_up,
            seconds: lasted,
            requests: sample.requests,
            errors: sample.errors,
            latency_us: sample.latency_us,
            start_lag_us: sample.start_lag_us,
            saturated: is_saturated(mode, offered_rate, kept_up),
            capacity: self.capacity,
            connections: self.connections,
            k: self.k,
            params: self.params.clone(),
            recall: self.recall,
        }
    }
}

/// A record that could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot append a record: {source}; make room, or choose another --out", path = path.display())]
pub struct KeepError {
    /// The file.
    pub path: PathBuf,
    /// The system's own words.
    pub source: std::io::Error,
}

/// Appends a record to [`LOAD_FILE`] of a folder, which is made where it does not exist, and waits until it is on the
/// device. Returns the file.
///
/// # Errors
/// When it cannot be written.
pub fn keep(folder: &Path, record: &LoadRecord) -> Result<PathBuf, KeepError> {
    let path = folder.join(LOAD_FILE);
    let append = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        file.write_all(&line)?;
        file.sync_data()
    };
    match append() {
        Ok(()) => Ok(path),
        Err(source) => Err(KeepError { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_their_names() {
        let record = LoadRecord {
            url: "http://127.0.0.1:8080".into(),
            index: Some(serde_json::json!({ "kind": "vamana" })),
            created: "2026-11-20T17:40:00Z".into(),
            mode: LoadMode::OpenLoop,
            offered_rate: 100.0,
            achieved_rate: 96.5,
            seconds: 10.0,
            requests: 1000,
            errors: BTreeMap::from([("overloaded".to_string(), 35)]),
            latency_us: LoadLatency { p50: 500.0, p95: 800.0, p99: 1000.0, p999: None, max: 2000.0, mean: 550.5 },
            start_lag_us: StartLag { p50: 20.0, p99: 90.0 },
            saturated: true,
            capacity: Some(110.0),
            connections: 16,
            k: 10,
            params: BTreeMap::from([("search_list".to_string(), 40.into())]),
            recall: Some(0.95),
        };
        let line = serde_json::to_value(&record).expect("JSON");
        assert_eq!((&line["mode"], &line["latency_us"]["p999"]), (&"open-loop".into(), &serde_json::Value::Null));
        assert_eq!(serde_json::from_value::<LoadRecord>(line).expect("reads"), record);
    }

    #[test]
    fn only_an_open_loop_saturates() {
        assert!(is_saturated(LoadMode::OpenLoop, 100.0, 90.0));
        assert!(!is_saturated(LoadMode::OpenLoop, 100.0, 98.0));
        assert!(!is_saturated(LoadMode::ClosedLoop, 100.0, 90.0));
    }

    #[test]
    fn rates_are_numbers_parts_and_ranges() {
        assert_eq!(parse_rates("500"), Ok(vec![Rate::PerSecond(500.0)]));
        assert_eq!(parse_rates("80%"), Ok(vec![Rate::OfCapacity(0.8)]));
        assert_eq!(parse_rates("10%..30%"), Ok([0.1, 0.2, 0.3].map(Rate::OfCapacity).to_vec()));
        assert_eq!(parse_rates("10%..120%").map(|rates| rates.len()), Ok(12));
        for wrong in ["", "0", "-5", "x", "%", "0%", "30%..10%", "10..30", "nan", "inf", "1e9", "5000%"] {
            assert!(parse_rates(wrong).is_err_and(|why| why.contains("80%")), "{wrong}");
        }
    }

    #[test]
    fn records_are_lines_of_one_file() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let context = LoadContext {
            url: "http://127.0.0.1:1".into(),
            index: None,
            capacity: Some(200.0),
            connections: 2,
            k: 10,
            params: BTreeMap::new(),
            recall: None,
        };
        let sample = drive::Sample {
            seconds: 0.5,
            requests: 100,
            answered: 80,
            errors: BTreeMap::from([("timeout".into(), 20)]),
            latency_us: LoadLatency::default(),
            start_lag_us: StartLag::default(),
        };
        let pace = drive::Pace::Open { rate: 100.0, duration: Duration::from_secs(1), seed: 1 };
        let record = context.record(pace, sample.clone());
        assert_eq!((record.seconds, record.achieved_rate, record.saturated), (1.0, 80.0, true));
        let closed = context.record(drive::Pace::Closed(Duration::from_secs(1)), sample);
        assert_eq!((closed.offered_rate, closed.achieved_rate, closed.saturated), (160.0, 160.0, false));
        let out = folder.path().join("new").join("run");
        keep(&out, &record).expect("kept");
        let path = keep(&out, &closed).expect("kept");
        let lines = std::fs::read_to_string(path).expect("readable");
        let read: Vec<LoadRecord> = lines.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
        assert_eq!(read, [record, closed]);
    }
}
