//! The stopwatch: drives one search setting with a closed loop of threads, and times every query.
//!
//! In: a closure that answers query `i`, a number of threads, a plan of repeats. Out: the warm-up and one
//! [`RunSample`] a pass over the query set. Threads take the next query from one shared counter; where
//! there are no more of them than CPUs, each stays on its own. A search that fails or panics ends the
//! setting with [`SearchFailed`], and nothing else.

use std::fmt::Display;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kiln_builder::Hits;

use crate::record::{RunSample, Warmup};
use crate::sys;

/// Queries that each thread answers, untimed, when it takes its turn: they allocate its scratch memory and fault it in.
const ENTRY_QUERIES: usize = 64;

/// Windows of a warm-up that must agree, and how closely.
const WARMUP_WINDOWS: usize = 3;
const WARMUP_AGREEMENT: f64 = 0.02;

/// How often and how long a setting is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Repeats {
    /// Passes over the query set at least.
    pub min_runs: usize,
    /// Seconds of measured passes at least.
    pub min_seconds: f64,
    /// Seconds of warm-up at most.
    pub warmup_seconds: f64,
    /// Seconds of one window of the warm-up.
    pub window_seconds: f64,
}

impl Repeats {
    /// What the methodology asks for.
    pub const FULL: Repeats = Repeats { min_runs: 10, min_seconds: 3.0, warmup_seconds: 5.0, window_seconds: 0.25 };
    /// A quick look, marked as one in every record.
    pub const QUICK: Repeats = Repeats { min_runs: 3, min_seconds: 0.15, warmup_seconds: 0.2, window_seconds: 0.02 };

    /// Seconds that a setting is measured for before the next has its turn.
    pub fn turn_seconds(&self) -> f64 {
        self.min_seconds / self.min_runs.max(1) as f64
    }

    /// Whether these runs suffice.
    pub fn satisfied(&self, runs: &[RunSample]) -> bool {
        runs.len() >= self.min_runs && runs.iter().map(|run| run.seconds).sum::<f64>() >= self.min_seconds
    }
}

/// A search that gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("query {query}: {problem}")]
pub struct SearchFailed {
    /// The query, from 0.
    pub query: usize,
    /// What the search said.
    pub problem: String,
}

/// Drives searches over one query set.
#[derive(Debug)]
pub struct Driver {
    queries: usize,
    /// CPUs to pin to, in the order in which threads take them; empty when the system does not allow pinning.
    cpus: Vec<usize>,
}

impl Driver {
    /// A driver of `queries` queries.
    pub fn new(queries: usize) -> Self {
        // Threads inherit their creator's affinity: were rayon's pool first used by a search on a pinned thread, all of
        // it would share that thread's CPU for good.
        rayon::current_num_threads();
        // From the last down: the first CPU serves most interrupts.
        let mut cpus: Vec<usize> = sys::allowed_cpus().into_iter().rev().collect();
        if let Some(&cpu) = cpus.first() {
            let pinned = std::thread::scope(|scope| scope.spawn(|| sys::pin_thread(cpu)).join());
            if !matches!(pinned, Ok(Ok(()))) {
                tracing::warn!("threads cannot be pinned to CPUs here: latencies may vary more");
                cpus.clear();
            }
        }
        Self { queries, cpus }
    }

    /// Searches, cycling through the queries, until three windows in a row agree in queries a second within 2%
    /// or the plan's limit is reached.
    ///
    /// # Errors
    /// The first search that failed.
    pub fn warm_up<E: Display>(
        &self,
        threads: usize,
        repeats: &Repeats,
        search: &(impl Fn(usize) -> Result<Hits, E> + Sync),
    ) -> Result<Warmup, SearchFailed> {
        let crew = Crew::new(threads);
        if self.queries == 0 {
            return Ok(Warmup { seconds: 0.0, settled: true });
        }
        let began = Instant::now();
        let mut rates = Vec::new();
        loop {
            let window = Instant::now();
            let until = window + Duration::from_secs_f64(repeats.window_seconds);
            let answered: usize = self
                .each_thread(threads, || {
                    let mut answered = 0;
                    while Instant::now() < until && !crew.stopped() {
                        let query = crew.next.fetch_add(1, Ordering::Relaxed) % self.queries;
                        crew.answer(query, search);
                        answered += 1;
                    }
                    answered
                })
                .into_iter()
                .sum();
            crew.outcome()?;
            rates.push(answered as f64 / window.elapsed().as_secs_f64());
            let seconds = began.elapsed().as_secs_f64();
            let settled = agree(&rates);
            if settled || seconds >= repeats.warmup_seconds {
                return Ok(Warmup { seconds, settled });
            }
        }
    }

    /// Passes over the query set until `seconds` have been measured; at least one. Threads start a pass together; it
    /// lasts from the first one's start to the last one's end.
    ///
    /// # Errors
    /// The first search that failed.
    pub fn turn<E: Display>(
        &self,
        threads: usize,
        seconds: f64,
        search: &(impl Fn(usize) -> Result<Hits, E> + Sync),
    ) -> Result<Vec<RunSample>, SearchFailed> {
        let crew = Crew::new(threads);
        let began = Instant::now();
        let passes = self.each_thread(threads, || {
            for query in 0..ENTRY_QUERIES.min(self.queries) {
                crew.answer(query, search);
            }
            let mut passes = Vec::new();
            loop {
                // Room for the case that one thread answers everything: the timed loop must not grow it.
                let mut samples = Vec::with_capacity(self.queries);
                crew.barrier.wait();
                if crew.done.load(Ordering::Relaxed) {
                    return passes;
                }
                let from = Instant::now();
                while !crew.stopped() {
                    let query = crew.next.fetch_add(1, Ordering::Relaxed);
                    if query >= self.queries {
                        break;
                    }
                    samples.push((query, crew.answer(query, search)));
                }
                passes.push(ThreadPass { from, to: Instant::now(), samples });
                // Between this barrier and the next only the leader writes.
                if crew.barrier.wait().is_leader() {
                    crew.next.store(0, Ordering::Relaxed);
                    let over = crew.stopped() || began.elapsed().as_secs_f64() >= seconds;
                    crew.done.store(over, Ordering::Relaxed);
                }
            }
        });
        crew.outcome()?;
        Ok(merge_passes(self.queries, passes))
    }

    /// Runs `body` on `threads` new threads, each on its own CPU where there are enough, and returns what they return.
    fn each_thread<T: Send>(&self, threads: usize, body: impl Fn() -> T + Sync) -> Vec<T> {
        let pin = threads <= self.cpus.len();
        let run = |thread: usize| {
            if pin {
                // That pinning works was seen when the driver was made; a CPU taken away since costs only steadiness.
                let _ = sys::pin_thread(self.cpus[thread]);
            }
            body()
        };
        std::thread::scope(|scope| {
            let run = &run;
            let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }
}

/// What the threads of one turn or window share.
struct Crew {
    barrier: Barrier,
    /// The next query that nobody has taken.
    next: AtomicUsize,
    /// The turn is over.
    done: AtomicBool,
    /// A search has failed.
    failed: AtomicBool,
    failure: Mutex<Option<SearchFailed>>,
}

impl Crew {
    fn new(threads: usize) -> Self {
        Self {
            barrier: Barrier::new(threads),
            next: AtomicUsize::new(0),
            done: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    fn stopped(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Answers one query and returns its microseconds. A failure is kept and stops the crew.
    fn answer<E: Display>(&self, query: usize, search: &impl Fn(usize) -> Result<Hits, E>) -> f32 {
        let began = Instant::now();
        // A panic must not unwind past the barrier at which the other threads wait. Its state is never used again: the
        // setting ends here.
        let answer = catch_unwind(AssertUnwindSafe(|| search(query)));
        let took = began.elapsed();
        match answer {
            Ok(Ok(hits)) => drop(black_box(hits)),
            Ok(Err(error)) => self.fail(query, error.to_string()),
            Err(_) => self.fail(query, "the search panicked; its message is in the log".to_string()),
        }
        took.as_secs_f32() * 1e6
    }

    fn fail(&self, query: usize, problem: String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(SearchFailed { query, problem });
        self.failed.store(true, Ordering::Relaxed);
    }

    fn outcome(&self) -> Result<(), SearchFailed> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone().map_or(Ok(()), Err)
    }
}

/// One thread's part of a pass.
struct ThreadPass {
    from: Instant,
    to: Instant,
    /// Query and microseconds.
    samples: Vec<(usize, f32)>,
}

/// Joins what the threads saw of each pass; every thread has seen the same passes.
fn merge_passes(queries: usize, threads: Vec<Vec<ThreadPass>>) -> Vec<RunSample> {
    let mut threads: Vec<_> = threads.into_iter().map(Vec::into_iter).collect();
    let mut runs = Vec::new();
    loop {
        let parts: Vec<ThreadPass> = threads.iter_mut().filter_map(Iterator::next).collect();
        let from = parts.iter().map(|part| part.from).min();
        let to = parts.iter().map(|part| part.to).max();
        let (Some(from), Some(to)) = (from, to) else { return runs };
        let mut latency_us = vec![0.0; queries];
        for (query, microseconds) in parts.into_iter().flat_map(|part| part.samples) {
            latency_us[query] = round_to_clock(microseconds);
        }
        runs.push(RunSample { seconds: (to - from).as_secs_f64(), latency_us });
    }
}

/// Rounds microseconds to 10 ns: digits below what the clock resolves would only lengthen the records.
fn round_to_clock(microseconds: f32) -> f32 {
    ((f64::from(microseconds) * 100.0).round() / 100.0) as f32
}

/// Whether the last windows of a warm-up lie within 2% of the fastest of them.
fn agree(rates: &[f64]) -> bool {
    let Some(last) = rates.len().checked_sub(WARMUP_WINDOWS).map(|start| &rates[start..]) else { return false };
    let fastest = last.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let slowest = last.iter().copied().fold(f64::INFINITY, f64::min);
    slowest >= fastest * (1.0 - WARMUP_AGREEMENT)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// A search that sleeps for as many microseconds as the query's number says.
    fn sleepy(query: usize) -> Result<Hits, Infallible> {
        std::thread::sleep(Duration::from_micros(query as u64));
        Ok(Hits::default())
    }

    #[test]
    fn every_query_of_a_pass_is_timed_once_by_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let counts: Vec<AtomicUsize> = (0..200).map(|_| AtomicUsize::new(0)).collect();
            let search = |query: usize| {
                counts[query].fetch_add(1, Ordering::Relaxed);
                sleepy(query)
            };
            let runs = Driver::new(200).turn(threads, 0.05, &search).expect("no failure");
            assert!(!runs.is_empty());
            for run in &runs {
                assert_eq!(run.latency_us.len(), 200);
                assert!(run.latency_us.iter().enumerate().all(|(q, &us)| us >= q as f32 * 0.99), "{threads}");
                let longest = run.latency_us.iter().fold(0.0f32, |a, &b| a.max(b));
                assert!(run.seconds >= f64::from(longest) * 1e-6);
            }
            let entry = threads * ENTRY_QUERIES;
            let answered: usize = counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
            assert_eq!(answered, runs.len() * 200 + entry);
            assert!(runs.iter().map(|run| run.seconds).sum::<f64>() <= 5.0);
        }
    }

    #[test]
    fn a_failing_search_ends_the_turn_and_names_the_query() {
        for threads in [1, 3] {
            let search = |query: usize| if query == 70 { Err("disk on fire") } else { Ok(Hits::default()) };
            let driver = Driver::new(100);
            let failed = driver.turn(threads, 0.01, &search).expect_err("query 70 fails");
            assert_eq!(failed.to_string(), "query 70: disk on fire");
            assert_eq!(driver.warm_up(threads, &Repeats::QUICK, &search).expect_err("query 70 fails").query, 70);
        }
    }

    #[test]
    fn a_panicking_search_is_a_failure_and_not_a_deadlock() {
        let search = |query: usize| {
            assert!(query != 3, "on purpose");
            Ok::<_, Infallible>(Hits::default())
        };
        let failed = Driver::new(10).turn(2, 0.01, &search).expect_err("query 3 panics");
        assert_eq!(failed.query, 3);
        assert!(failed.problem.contains("panicked"));
    }

    #[test]
    fn the_warm_up_ends_at_its_limit_or_when_windows_agree() {
        assert!(!agree(&[1.0, 1.0]));
        assert!(agree(&[50.0, 100.0, 99.0, 98.5]));
        assert!(!agree(&[100.0, 97.0, 100.0]));
        assert!(!agree(&[100.0, 100.0, 103.0]));
        let warmup = Driver::new(50).warm_up(1, &Repeats::QUICK, &sleepy).expect("no failure");
        assert!(warmup.seconds >= 2.0 * Repeats::QUICK.window_seconds, "{warmup:?}");
        assert!(warmup.settled || warmup.seconds >= Repeats::QUICK.warmup_seconds, "{warmup:?}");
    }

    #[test]
    fn no_queries_are_no_work() {
        let driver = Driver::new(0);
        assert!(driver.warm_up(2, &Repeats::QUICK, &sleepy).expect("nothing fails").settled);
        assert!(driver.turn(2, 0.0, &sleepy).expect("nothing fails").iter().all(|run| run.latency_us.is_empty()));
    }

    #[test]
    fn repeats_ask_for_runs_and_for_seconds() {
        let runs = |n: usize, seconds| vec![RunSample { seconds, latency_us: vec![] }; n];
        assert!(Repeats::FULL.satisfied(&runs(10, 0.31)));
        assert!(!Repeats::FULL.satisfied(&runs(10, 0.2)));
        assert!(!Repeats::FULL.satisfied(&runs(9, 10.0)));
    }
}
