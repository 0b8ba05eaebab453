//! The conversation with one process: started, built, asked for passes; and every word of it checked.
//!
//! In: a [`PeerSpec`] and the files of the vectors. Out: a build's cost, passes with their times, and ids that are those of
//! rows; or a [`Lost`] in words.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_datasets::{Truth, open_rows, read_all};
use ndarray::Array2;
use serde_json::Value;

use super::PeerSpec;
use super::child::{Child, Lost};
use super::message::{Built, Command, Event, PROTOCOL, Searched};
use super::vectors::{Files, Vectors};
use crate::error::EvalError;
use crate::numa;
use crate::record::{Mode, RunSample};
use crate::sys;

/// The part by which a process may claim more time than passed here: clocks are read in another order.
const CLOCK_SLACK: f64 = 1.02;
const CLOCK_SLACK_SECONDS: f64 = 1e-3;

/// A file of answers that is larger than these by so much is not even opened.
const ABSURD: u64 = 64;

/// What a build cost.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cost {
    pub version: String,
    pub built: Built,
    pub cpu_seconds: f64,
    pub peak_rss_bytes: u64,
}

/// One turn of passes.
#[derive(Debug, Clone)]
pub(super) struct Turn<'a> {
    pub params: &'a BTreeMap<String, Value>,
    pub mode: Mode,
    pub k: usize,
    pub warm_up: f64,
    pub passes: usize,
    pub seconds: f64,
    /// Whether the answers are wanted.
    pub answers: bool,
}

/// What came of a turn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Passes {
    pub runs: Vec<RunSample>,
    /// `(queries, k)`, where they were wanted.
    pub ids: Option<Array2<i64>>,
    /// Seconds from the question to the answer.
    pub wall_seconds: f64,
}

/// A process whose index is built.
pub(super) struct Session {
    child: Child,
    pub files: Files,
    folder: PathBuf,
    rows: u64,
    queries: usize,
    search_limit: Duration,
    /// Memory that was no file's before there was an index: the interpreter's, and the library's own.
    memory_before: u64,
    /// The most that there was beyond it, when the index was ready and after each turn.
    serving_bytes: u64,
}

impl Session {
    /// Starts the process and has it build, in the folder `work`, which is made anew. `available` is the memory of the
    /// machine.
    pub(super) fn start(
        spec: &PeerSpec,
        metric: &str,
        vectors: &mut Vectors<'_>,
        work: &Path,
        log: &Path,
        available: u64,
    ) -> Result<Result<(Self, Cost), Lost>, EvalError> {
        let _ = std::fs::remove_dir_all(work);
        if let Err(error) = std::fs::create_dir_all(work) {
            return Ok(Err(Lost::gone(format!("{}: cannot make the folder: {error}", work.display()))));
        }
        // Which files it maps is known when it has said what it takes: a limit allows for the larger.
        let mapped = vectors.rows().saturating_mul(4 * vectors.dim() as u64);
        let mut child = match Child::start(&spec.command, log, spec.limits.memory, available / 10 * 9, mapped) {
            Ok(child) => child,
            Err(lost) => return Ok(Err(lost)),
        };
        let (version, dtypes) = match child.hear(spec.limits.start, "when it was started") {
            Ok(Event::Ready { protocol: PROTOCOL, version, dtypes }) => (version, dtypes),
            Ok(Event::Ready { protocol, .. }) => {
                let ours = format!("it speaks version {protocol} of the protocol, and this Kiln version {PROTOCOL}");
                return Ok(Err(Lost::gone(ours)));
            }
            Ok(other) => return Ok(Err(unexpected(&other, "ready"))),
            Err(lost) => return Ok(Err(Lost::gone(lost.reason))),
        };
        let files = match vectors.dtype_for(&dtypes) {
            Ok(dtype) => vectors.files(dtype)?,
            Err(problem) => return Ok(Err(Lost::gone(problem))),
        };
        let (rows, queries) = (vectors.rows(), vectors.queries());
        let folder = work.to_path_buf();
        let memory_before = status_bytes(child.id(), "RssAnon:");
        let search_limit = spec.limits.search;
        let mut session = Self { child, files, folder, rows, queries, search_limit, memory_before, serving_bytes: 0 };
        Ok(session.build(spec, metric, version).map(|cost| (session, cost)))
    }

    fn build(&mut self, spec: &PeerSpec, metric: &str, version: String) -> Result<Cost, Lost> {
        let folder = self.folder.join("index");
        std::fs::create_dir_all(&folder)
            .map_err(|error| Lost::gone(format!("{}: cannot make the folder: {error}", folder.display())))?;
        let before = cpu_seconds(self.child.id());
        forget_peak(self.child.id());
        let began = Instant::now();
        self.child.tell(&Command::Build {
            base: self.files.base.clone(),
            metric: metric.to_string(),
            params: spec.build.clone(),
            threads: spec.threads,
            folder,
        });
        let built = match self.child.hear(spec.limits.build, "while building") {
            Ok(Event::Built(built)) => built,
            Ok(other) => return Err(unexpected(&other, "built")),
            // Without an index it is of no use.
            Err(lost) => return Err(Lost::gone(lost.reason)),
        };
        check_seconds(&[built.seconds], began.elapsed().as_secs_f64())?;
        self.look_at_memory();
        let id = self.child.id();
        // What is seen here includes reading the rows and saving the index, and not the processes that it waited for: what it
        // tells of the build alone is believed where the processors had so much time.
        let seen = (cpu_seconds(id) - before).max(0.0);
        let most = began.elapsed().as_secs_f64() * available_threads() * CLOCK_SLACK + CLOCK_SLACK_SECONDS;
        let cpu_seconds = built.cpu_seconds.filter(|told| (0.0..=most).contains(told)).unwrap_or(seen);
        let peak = status_bytes(id, "VmHWM:");
        let peak_rss_bytes = built.peak_rss_bytes.map_or(peak, |told| told.min(peak));
        Ok(Cost { version, built, cpu_seconds, peak_rss_bytes })
    }

    fn look_at_memory(&mut self) {
        let now = status_bytes(self.child.id(), "RssAnon:").saturating_sub(self.memory_before);
        self.serving_bytes = self.serving_bytes.max(now);
    }

    /// Memory that serving took, so far: that of no file, beyond what the process held before it had built.
    pub(super) fn serving_bytes(&self) -> u64 {
        self.serving_bytes
    }

    /// Has passes made, and checks what is said of them. In latency and throughput mode each query is timed.
    pub(super) fn turn(&mut self, turn: &Turn<'_>) -> Result<Passes, Lost> {
        let path = |name: &str| self.folder.join(name);
        let times = !turn.mode.is_batch();
        let latencies = times.then(|| path("latencies.npy"));
        let answers = turn.answers.then(|| path("answers.npy"));
        for old in [&latencies, &answers].into_iter().flatten() {
            // What an earlier turn left is no answer to this one.
            let _ = std::fs::remove_file(old);
        }
        let cpus = numa::search_order();
        let threads = turn.mode.threads();
        // Where there are fewer processors than threads: all of them, not those of an earlier turn.
        if let Err(error) = sys::pin_process(self.child.id(), &cpus[..threads.min(cpus.len())]) {
            tracing::debug!("a peer cannot be pinned: {error}");
        }
        let began = Instant::now();
        self.child.tell(&Command::Search {
            queries: self.files.queries.clone(),
            k: turn.k,
            mode: mode_name(turn.mode).to_string(),
            threads,
            params: turn.params.clone(),
            warm_up: turn.warm_up,
            passes: turn.passes,
            seconds: turn.seconds,
            answers: answers.clone(),
            latencies: latencies.clone(),
        });
        let limit = self.search_limit + Duration::from_secs_f64(turn.seconds + turn.warm_up);
        let Searched { seconds } = match self.child.hear(limit, "while searching")? {
            Event::Searched(searched) => searched,
            other => return Err(unexpected(&other, "searched")),
        };
        let wall_seconds = began.elapsed().as_secs_f64();
        self.look_at_memory();
        check_seconds(&seconds, wall_seconds)?;
        if seconds.len() < turn.passes {
            let (told, asked) = (seconds.len(), turn.passes);
            return Err(Lost::here(format!("it timed {told} passes, and was asked for {asked} or more")));
        }
        let mut latencies = latencies.map(|path| self.latencies(&path, &seconds, threads)).transpose()?;
        let runs = (seconds.iter().enumerate())
            .map(|(pass, &seconds)| RunSample {
                seconds,
                turn: 0,
                latency_us: latencies.as_mut().map(|passes| std::mem::take(&mut passes[pass])).unwrap_or_default(),
                cached_bytes: None,
            })
            .collect();
        let ids = answers.map(|path| self.ids(&path, turn.k)).transpose()?;
        Ok(Passes { runs, ids, wall_seconds })
    }

    /// Answers: as many as there are queries, k each, all of them rows or -1.
    fn ids(&self, path: &Path, k: usize) -> Result<Array2<i64>, Lost> {
        self.refuse_absurd(path, 8 * self.queries as u64 * k as u64)?;
        let ids = Truth::open(path).map_err(|error| Lost::here(format!("its answers cannot be read: {error}")))?.ids;
        if ids.dim() != (self.queries, k) {
            let (rows, columns) = ids.dim();
            let wanted = format!("{} queries x {k} ids are wanted", self.queries);
            return Err(Lost::here(format!("its answers are {rows} x {columns}, and {wanted}")));
        }
        let stranger =
            ids.indexed_iter().find(|&(_, &id)| id < -1 || u64::try_from(id).is_ok_and(|id| id >= self.rows));
        match stranger {
            Some(((query, place), id)) => Err(Lost::here(format!(
                "its answer {place} to query {query} is {id}, which is no row: 0 to {} are, and -1 says that there is none",
                self.rows - 1
            ))),
            None => Ok(ids),
        }
    }

    /// Latencies in microseconds of each pass, each pass of as many as there are queries, none longer than its pass.
    fn latencies(&self, path: &Path, seconds: &[f64], threads: usize) -> Result<Vec<Vec<f32>>, Lost> {
        self.refuse_absurd(path, 4 * seconds.len() as u64 * self.queries as u64)?;
        let unreadable = |error| Lost::here(format!("its latencies cannot be read: {error}"));
        let source = open_rows(path).map_err(unreadable)?;
        if (source.len(), source.dim()) != (seconds.len() as u64, self.queries) {
            let (rows, columns, passes) = (source.len(), source.dim(), seconds.len());
            let wanted = format!("{passes} passes x {} queries are wanted", self.queries);
            return Err(Lost::here(format!("its latencies are {rows} x {columns}, and {wanted}")));
        }
        let all = read_all(source.as_ref(), |_| ()).map_err(unreadable)?.view().to_f32();
        for (pass, (latencies, &seconds)) in all.outer_iter().zip(seconds).enumerate() {
            if latencies.iter().any(|&us| us <= 0.0) {
                return Err(Lost::here(format!("a latency of pass {pass} is not above 0")));
            }
            let busy: f64 = latencies.iter().map(|&us| f64::from(us) * 1e-6).sum();
            if busy > seconds * threads as f64 * CLOCK_SLACK + CLOCK_SLACK_SECONDS {
                let most = format!("{seconds:.6} s on {threads} threads");
                return Err(Lost::here(format!("the latencies of pass {pass} are {busy:.6} s together, in {most}")));
            }
        }
        Ok(all.outer_iter().map(|row| row.to_vec()).collect())
    }

    fn refuse_absurd(&self, path: &Path, expected: u64) -> Result<(), Lost> {
        let size = match std::fs::metadata(path) {
            Ok(file) => file.len(),
            Err(error) => return Err(Lost::here(format!("it did not write {}: {error}", file_name(path)))),
        };
        match size > expected.saturating_mul(ABSURD).saturating_add(1 << 16) {
            true => Err(Lost::here(format!("{} has {size} bytes, and {expected} suffice", file_name(path)))),
            false => Ok(()),
        }
    }

    /// Ends the process in an orderly way.
    pub(super) fn farewell(self) {
        self.child.farewell();
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn unexpected(event: &Event, wanted: &str) -> Lost {
    let said = match event {
        Event::Ready { .. } => "ready",
        Event::Built(_) => "built",
        Event::Searched(_) => "searched",
        Event::Error { .. } => "error",
    };
    // What it answers next is the answer to something else.
    Lost::gone(format!("it said `{said}` where `{wanted}` was expected"))
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Latency1 => "latency",
        Mode::Throughput { .. } => "throughput",
        // Peers are asked in no other way: what a device of theirs does is theirs.
        Mode::Batch { .. } | Mode::BatchDevice { .. } => "batch",
    }
}

/// Refuses times that cannot be: not above 0, or more than passed here.
fn check_seconds(seconds: &[f64], wall: f64) -> Result<(), Lost> {
    if let Some(wrong) = seconds.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        return Err(Lost::here(format!("it says that something took {wrong} s")));
    }
    let told: f64 = seconds.iter().sum();
    if told > wall * CLOCK_SLACK + CLOCK_SLACK_SECONDS {
        return Err(Lost::here(format!("it says that it took {told:.3} s, and answered after {wall:.3} s")));
    }
    Ok(())
}

/// A field of a process's status, bytes; 0 where it is unknown.
fn status_bytes(process: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Has the peak of a process begin again; where the system refuses, it is that of its whole life.
fn forget_peak(process: u32) {
    let _ = std::fs::write(format!("/proc/{process}/clear_refs"), "5");
}

fn available_threads() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |threads| threads.get() as f64)
}

/// Processor seconds of a process; 0 where they are unknown.
fn cpu_seconds(process: u32) -> f64 {
    /// Linux tells /proc's times in hundredths on every architecture that Kiln runs on.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in brackets, may hold anything; user and system time are fields 14 and 15, counted from 1.
    let Some((_, rest)) = stat.rsplit_once(')') else { return 0.0 };
    rest.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_cannot_be_are_refused() {
        assert_eq!(check_seconds(&[0.1, 0.2], 0.35), Ok(()));
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(check_seconds(&[wrong], 1.0).is_err_and(|lost| !lost.gone), "{wrong}");
        }
        let lost = check_seconds(&[1.0, 1.0], 1.5).expect_err("more than passed");
        assert!(lost.reason.contains("2.000 s") && lost.reason.contains("1.500 s"), "{lost:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_and_has_used_time() {
        let me = std::process::id();
        assert!(status_bytes(me, "VmHWM:") > 1 << 20 && status_bytes(me, "NoSuch:") == 0);
        assert!(cpu_seconds(me) >= 0.0 && cpu_seconds(u32::MAX) == 0.0);
    }
}
