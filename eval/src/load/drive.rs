//! Sends requests in an open or a closed loop, and measures.
//!
//! In: a [`Target`], prepared requests, connections; or [`Line`]s to whatever else answers. Out: [`Sample`], what came of it.
//! Each line is a thread that blocks: it takes the next request, waits until it is due, sends it and waits for the answer.
//! Where all lines are busy the next request is sent late, and that time is part of its latency.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::client::{Connection, Fault, Target};
use super::{LoadLatency, StartLag};
use crate::stats::P999_MIN_SAMPLES;
use crate::sys;

/// Significant digits of recorded times.
const DIGITS: u8 = 3;

/// Stack of a connection's thread.
const STACK: usize = 256 << 10;

/// How long a loop that is behind may go on after its last request was due, as a multiple of the time planned.
const PATIENCE: u32 = 2;

/// From the moment at which all threads are connected to the first that a request may be due.
const SETTLE: Duration = Duration::from_millis(5);

/// No request has this number.
const OVER: usize = usize::MAX / 2;

/// How requests are sent.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// The next when the last is answered, for so long.
    Closed(Duration),
    /// At `rate` a second, for so long: arrivals of a Poisson process, given that `rate` x `duration` of them come. `seed`
    /// decides when.
    Open {
        /// Requests a second.
        rate: f64,
        /// Time in which they are due.
        duration: Duration,
        /// Of the arrivals.
        seed: u64,
    },
}

/// What to send, and over how many connections.
#[derive(Debug, Clone, Copy)]
pub struct Drive<'a> {
    /// The server.
    pub target: &'a Target,
    /// Whole requests, sent in turn.
    pub requests: &'a [Vec<u8>],
    /// Connections, one at least.
    pub connections: usize,
    /// An answer that takes longer is given up.
    pub timeout: Duration,
}

/// One thread's way to whoever answers.
pub trait Line {
    /// Before a request is due its thread stops sleeping and spins for so long: a sleep ends some tens of microseconds late.
    const SPIN: Duration;

    /// Makes it ready, before anything is timed; false where nobody answers.
    fn open(&mut self) -> bool;

    /// Sends request `number`, counted from 0 without end, and waits until it is answered well.
    ///
    /// # Errors
    /// When it is not.
    fn ask(&mut self, number: usize) -> Result<(), Refused>;
}

/// A request that was not answered well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// In a word.
    pub kind: String,
    /// It failed at once, and would again: a closed loop must not spin on it.
    pub at_once: bool,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Seconds from the first request to the last answer.
    pub seconds: f64,
    /// Requests that were due.
    pub requests: u64,
    /// Answered well.
    pub answered: u64,
    /// The others by kind.
    pub errors: BTreeMap<String, u64>,
    /// Of those answered well.
    pub latency_us: LoadLatency,
    /// Of all that were sent.
    pub start_lag_us: StartLag,
}

/// A load that cannot be driven.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The system gave no thread.
    #[error("cannot start {connections} connections: {source}; use fewer --connections")]
    Threads {
        /// As asked for.
        connections: usize,
        /// The system's own words.
        source: std::io::Error,
    },
    /// Not one connection could be made.
    #[error("{url}: cannot connect; is `kiln serve` running there?")]
    NoServer {
        /// The server.
        url: String,
    },
}

/// One thread's part.
struct Part {
    latency: Histogram<u64>,
    lag: Histogram<u64>,
    errors: BTreeMap<String, u64>,
    sent: u64,
    last: Option<Instant>,
}

/// What the threads share.
struct Shared {
    /// Nanoseconds after the start at which each request is due; empty in a closed loop.
    due: Vec<u64>,
    closed: Option<Duration>,
    next: AtomicUsize,
    /// Past this nothing is sent any more.
    limit: Duration,
    gate: Mutex<Gate>,
    moved: Condvar,
}

/// Holds all threads until every one is connected.
#[derive(Default)]
struct Gate {
    ready: usize,
    connected: usize,
    begin: Option<Instant>,
}

/// A connection of HTTP.
struct HttpLine<'a> {
    connection: Connection<'a>,
    requests: &'a [Vec<u8>],
}

impl Line for HttpLine<'_> {
    /// Requests are many times longer than a sleep is late, and the server may want the processor.
    const SPIN: Duration = Duration::ZERO;

    fn open(&mut self) -> bool {
        self.connection.connect().is_ok()
    }

    fn ask(&mut self, number: usize) -> Result<(), Refused> {
        match self.connection.exchange(&self.requests[number % self.requests.len()]) {
            Ok(200) => Ok(()),
            Ok(status) => Err(Refused { kind: kind(status, self.connection.body()), at_once: false }),
            Err(fault) => Err(Refused { kind: fault.name().to_string(), at_once: fault == Fault::Connect }),
        }
    }
}

/// Sends requests to a server at `pace`, and measures.
///
/// # Errors
/// When threads cannot be started, or nothing listens.
pub fn drive(drive: &Drive<'_>, pace: Pace) -> Result<Sample, DriveError> {
    let line = |_| HttpLine { connection: Connection::new(drive.target, drive.timeout), requests: drive.requests };
    match drive_lines(&line, drive.connections, drive.timeout, STACK, pace)? {
        Some(sample) => Ok(sample),
        None => Err(DriveError::NoServer { url: drive.target.url.clone() }),
    }
}

/// Sends requests at `pace` by `lines` threads with `stack` bytes of stack, thread `t` over `line(t)`, and measures. What is
/// not sent `patience` after twice the planned time is given up. `None` where no line could be opened.
///
/// # Errors
/// When threads cannot be started.
pub fn drive_lines<L: Line>(
    line: &(dyn Fn(usize) -> L + Sync),
    lines: usize,
    patience: Duration,
    stack: usize,
    pace: Pace,
) -> Result<Option<Sample>, DriveError> {
    let (due, closed, limit) = match pace {
        Pace::Closed(duration) => (Vec::new(), Some(duration), Duration::MAX),
        Pace::Open { rate, duration, seed } => (arrivals(rate, duration, seed), None, PATIENCE * duration + patience),
    };
    let (next, gate, moved) = (AtomicUsize::new(0), Mutex::default(), Condvar::new());
    let shared = &Shared { due, closed, next, limit, gate, moved };
    let (begin, parts) = std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(lines);
        for thread in 0..lines {
            let run = move || shared.run(line(thread));
            match std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, run) {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    // Those that have begun find nothing to do.
                    shared.next.store(OVER, Ordering::Relaxed);
                    shared.open(0);
                    return Err(DriveError::Threads { connections: lines, source });
                }
            }
        }
        let begin = shared.open(lines);
        let parts: Vec<Part> = threads.into_iter().filter_map(|thread| thread.join().ok()).collect();
        Ok((begin, parts))
    })?;
    if shared.gate().connected == 0 {
        return Ok(None);
    }
    Ok(Some(summary(parts, begin, shared.due.len() as u64)))
}

/// When requests are due, in nanoseconds, ascending. Given their number, the arrivals of a Poisson process lie like so many
/// independent uniform draws: the rate is met exactly, and the gaps are those that users make.
fn arrivals(rate: f64, duration: Duration, seed: u64) -> Vec<u64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let end = duration.as_nanos() as f64;
    let count = (rate * duration.as_secs_f64()).round().max(1.0) as usize;
    let mut due: Vec<u64> = (0..count).map(|_| (rng.random::<f64>() * end) as u64).collect();
    due.sort_unstable();
    due
}

impl Shared {
    /// Waits until so many threads are ready, and lets all go.
    fn open(&self, ready: usize) -> Instant {
        let waited = self.moved.wait_while(self.gate(), |gate| gate.ready < ready);
        let mut gate = waited.unwrap_or_else(PoisonError::into_inner);
        let begin = Instant::now() + SETTLE;
        gate.begin = Some(begin);
        self.moved.notify_all();
        begin
    }

    /// Says that a thread is ready, and waits for the others.
    fn ready(&self, connected: bool) -> Instant {
        let mut gate = self.gate();
        gate.ready += 1;
        gate.connected += usize::from(connected);
        self.moved.notify_all();
        let waited = self.moved.wait_while(gate, |gate| gate.begin.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).begin.unwrap_or_else(Instant::now)
    }

    fn gate(&self) -> std::sync::MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run<L: Line>(&self, mut line: L) -> Part {
        sys::wake_on_time();
        let mut part = Part::new();
        let begin = self.ready(line.open());
        wait_until(begin, L::SPIN);
        while let Some((number, due)) = self.next(begin) {
            wait_until(due, L::SPIN);
            let sent = Instant::now();
            let due = if self.closed.is_some() { sent } else { due };
            if sent.saturating_duration_since(begin) > self.limit {
                part.error("unsent");
                continue;
            }
            part.sent += 1;
            let _ = part.lag.record(sent.saturating_duration_since(due).as_nanos() as u64);
            let outcome = line.ask(number);
            let answered = Instant::now();
            part.last = Some(answered);
            match outcome {
                Ok(()) => {
                    let _ = part.latency.record(answered.saturating_duration_since(due).as_nanos() as u64);
                }
                Err(refused) => {
                    part.error(&refused.kind);
                    if refused.at_once && self.closed.is_some() {
                        // Nothing slows down a loop that fails at once.
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
            }
        }
        part
    }

    /// The number of the next request, and when it is due.
    fn next(&self, begin: Instant) -> Option<(usize, Instant)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match self.closed {
            Some(duration) => {
                let now = Instant::now();
                (number < OVER && now.duration_since(begin) < duration).then_some((number, now))
            }
            None => self.due.get(number).map(|&due| (number, begin + Duration::from_nanos(due))),
        }
    }
}

/// Sleeps until `spin` before the moment, and spins from there.
fn wait_until(moment: Instant, spin: Duration) {
    if let Some(wait) = moment.checked_duration_since(Instant::now()) {
        std::thread::sleep(wait.saturating_sub(spin));
    }
    while !spin.is_zero() && Instant::now() < moment {
        std::hint::spin_loop();
    }
}

impl Part {
    fn new() -> Self {
        // Three digits always make a histogram.
        let empty = || Histogram::new(DIGITS).expect("a histogram of three digits");
        Self { latency: empty(), lag: empty(), errors: BTreeMap::new(), sent: 0, last: None }
    }

    fn error(&mut self, kind: &str) {
        *self.errors.entry(kind.to_string()).or_default() += 1;
    }
}

/// The server's own word for an error, else its status.
fn kind(status: u16, body: &[u8]) -> String {
    let told: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let kind = told.as_ref().and_then(|told| told.pointer("/error/kind")).and_then(|kind| kind.as_str());
    kind.map_or_else(|| format!("status-{status}"), str::to_string)
}

fn summary(parts: Vec<Part>, begin: Instant, due: u64) -> Sample {
    let mut all = Part::new();
    for part in parts {
        // Histograms of one precision always add up.
        let _ = all.latency.add(&part.latency).and_then(|()| all.lag.add(&part.lag));
        part.errors.into_iter().for_each(|(kind, count)| *all.errors.entry(kind).or_default() += count);
        all.sent += part.sent;
        all.last = all.last.max(part.last);
    }
    let us = |ns: u64| ns as f64 * 1e-3;
    let (latency, lag) = (&all.latency, &all.lag);
    let enough = latency.len() >= P999_MIN_SAMPLES;
    let answered = latency.len();
    Sample {
        seconds: all.last.map_or(0.0, |last| last.saturating_duration_since(begin).as_secs_f64()),
        requests: due.max(all.sent),
        answered,
        errors: all.errors,
        latency_us: LoadLatency {
            p50: us(latency.value_at_quantile(0.5)),
            p95: us(latency.value_at_quantile(0.95)),
            p99: us(latency.value_at_quantile(0.99)),
            p999: enough.then(|| us(latency.value_at_quantile(0.999))),
            max: us(latency.max()),
            mean: latency.mean() * 1e-3,
        },
        start_lag_us: StartLag { p50: us(lag.value_at_quantile(0.5)), p99: us(lag.value_at_quantile(0.99)) },
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn arrivals_are_a_poisson_process() {
        let due = arrivals(1000.0, Duration::from_secs(20), 7);
        assert_eq!(due, arrivals(1000.0, Duration::from_secs(20), 7));
        assert_ne!(due, arrivals(1000.0, Duration::from_secs(20), 8));
        assert_eq!(due.len(), 20_000);
        // Gaps are exponential: their deviation equals their mean, and a share of 1/e is longer than the mean.
        let gaps: Vec<f64> = due.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        let longer = gaps.iter().filter(|&&gap| gap > mean).count() as f64 / gaps.len() as f64;
        assert!((mean - 1e6).abs() < 1e4 && (deviation / mean - 1.0).abs() < 0.03, "{mean} {deviation}");
        assert!((longer - (-1f64).exp()).abs() < 0.015, "{longer}");
    }

    /// A server that answers everything after `pause`, one request at a time over all connections, with `answer`.
    fn slow_server(pause: Duration, answer: &'static str) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let busy = std::sync::Arc::new(std::sync::Mutex::new(()));
            for stream in listener.incoming() {
                let (busy, mut stream) = (busy.clone(), stream.expect("a connection"));
                std::thread::spawn(move || {
                    let mut request = [0; 4096];
                    while stream.read(&mut request).is_ok_and(|read| read > 0) {
                        let _alone = busy.lock();
                        std::thread::sleep(pause);
                        let _ = stream.write_all(answer.as_bytes());
                    }
                });
            }
        });
        Target::new(&format!("http://{address}"), None).expect("a target")
    }

    const WELL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

    #[test]
    fn latency_counts_from_when_a_request_was_due() {
        // The server can answer 100 a second and is asked for 200 over two connections: half of what is due in one second
        // waits, up to a second, for its turn. A generator that counts from sending would report 10 to 20 ms.
        let target = slow_server(Duration::from_millis(10), WELL);
        let requests = [target.request("POST", "/v1/search", &[], b"")];
        let load = Drive { target: &target, requests: &requests, connections: 2, timeout: Duration::from_secs(5) };
        let pace = Pace::Open { rate: 200.0, duration: Duration::from_secs(1), seed: 1 };
        let sample = drive(&load, pace).expect("driven");
        assert_eq!((sample.requests, sample.answered, sample.errors.len()), (200, 200, 0));
        assert!(sample.seconds > 1.9, "{sample:?}");
        assert!(sample.latency_us.p50 > 300e3 && sample.latency_us.max > 800e3, "{sample:?}");
        assert!(sample.start_lag_us.p99 > 700e3, "{sample:?}");
        // In a closed loop the same server looks quick: that is why it only measures capacity.
        let sample = drive(&load, Pace::Closed(Duration::from_millis(500))).expect("driven");
        assert!(sample.latency_us.p50 < 40e3 && sample.start_lag_us.p99 == 0.0, "{sample:?}");
        let rate = sample.answered as f64 / sample.seconds;
        assert!((50.0..101.0).contains(&rate), "{sample:?}");
    }

    #[test]
    fn a_server_that_keeps_up_shows_its_own_latency() {
        let target = slow_server(Duration::from_millis(2), WELL);
        let requests = [target.request("POST", "/v1/search", &[], b"")];
        let load = Drive { target: &target, requests: &requests, connections: 8, timeout: Duration::from_secs(5) };
        let pace = Pace::Open { rate: 30.0, duration: Duration::from_secs(1), seed: 1 };
        let sample = drive(&load, pace).expect("driven");
        assert_eq!((sample.requests, sample.answered), (30, 30));
        assert!((2e3..40e3).contains(&sample.latency_us.p50), "{sample:?}");
    }

    #[test]
    fn errors_are_told_by_kind() {
        let refusal = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 53\r\n\r\n\
             {\"error\":{\"kind\":\"overloaded\",\"message\":\"try later\"}}";
        for (answer, kind) in [
            (refusal, "overloaded"),
            ("HTTP/1.1 418 I\r\ncontent-length: 0\r\n\r\n", "status-418"),
            ("no\r\n", "malformed"),
        ] {
            let target = slow_server(Duration::ZERO, answer);
            let requests = [target.request("POST", "/v1/search", &[], b"")];
            let load = Drive { target: &target, requests: &requests, connections: 2, timeout: Duration::from_secs(1) };
            let pace = Pace::Open { rate: 100.0, duration: Duration::from_millis(100), seed: 1 };
            let sample = drive(&load, pace).expect("driven");
            assert_eq!((sample.answered, sample.errors), (0, BTreeMap::from([(kind.to_string(), 10)])));
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target =
            Target::new(&format!("http://{}", listener.local_addr().expect("an address")), None).expect("a target");
        drop(listener);
        let load = Drive { target: &target, requests: &[Vec::new()], connections: 2, timeout: Duration::from_secs(1) };
        let refused = drive(&load, Pace::Closed(Duration::from_millis(20))).expect_err("nothing listens").to_string();
        assert!(refused.contains("is `kiln serve` running there"), "{refused}");
    }
}
