//! The stopwatch: drives one search setting with a closed loop of threads, and times every query or every batch.
//!
//! In: [`Work`], which answers one query or many in a call, a number of threads, a plan of repeats. Out: the warm-up and
//! one [`RunSample`] a pass over the query set. Single queries are taken from one shared counter, batches are equal
//! shares of the set; where there are no more threads than CPUs, each stays on its own. A search that fails or panics
//! ends the setting with [`SearchFailed`], and nothing else.

use std::fmt::Display;
use std::hint::black_box;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kiln_builder::Hits;

use crate::numa;
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

    /// About how many seconds a setting takes whose passes take `pass` each, its warm-up included.
    pub(crate) fn cost_seconds(&self, pass: f64) -> f64 {
        // Three windows at least, of a pass each at least where passes are long.
        let warmup = (3.0 * self.window_seconds.max(pass)).min(self.warmup_seconds.max(pass));
        warmup + self.min_seconds.max(self.min_runs as f64 * pass) * 1.1
    }

    /// Whether these runs suffice.
    pub fn satisfied(&self, runs: &[RunSample]) -> bool {
        runs.len() >= self.min_runs && runs.iter().map(|run| run.seconds).sum::<f64>() >= self.min_seconds
    }
}

/// A search that gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", named(.queries))]
pub struct SearchFailed {
    /// The query, from 0, or the batch of queries that it was in.
    pub queries: Range<usize>,
    /// What the search said.
    pub problem: String,
}

fn named(queries: &Range<usize>) -> String {
    match queries.len() {
        1 => format!("query {}", queries.start),
        _ => format!("queries {} to {}, in one batch", queries.start, queries.end.saturating_sub(1)),
    }
}

/// Answers query `i`.
type Single<'a, E> = dyn Fn(usize) -> Result<Hits, E> + Sync + 'a;
/// Answers a range of queries, in order.
type Batch<'a, E> = dyn Fn(Range<usize>) -> Result<Vec<Hits>, E> + Sync + 'a;

/// Answers a range of queries, in order, and says what that took by another clock than the host's.
type Timed<'a, E> = dyn Fn(Range<usize>) -> Result<(Vec<Hits>, Duration), E> + Sync + 'a;

/// How queries are put to an index.
pub enum Work<'a, E> {
    /// One at a time.
    Single(Box<Single<'a, E>>),
    /// Many in one call.
    Batch(Box<Batch<'a, E>>),
    /// Many in one call, which knows what counts of the time that it takes.
    Timed(Box<Timed<'a, E>>),
}

impl<'a, E> Work<'a, E> {
    /// Queries one at a time.
    pub fn single(search: impl Fn(usize) -> Result<Hits, E> + Sync + 'a) -> Self {
        Self::Single(Box::new(search))
    }

    /// Each thread's share of the queries in one call.
    pub fn batch(search: impl Fn(Range<usize>) -> Result<Vec<Hits>, E> + Sync + 'a) -> Self {
        Self::Batch(Box::new(search))
    }

    /// The same, each pass lasting as long as the search says.
    pub fn timed(search: impl Fn(Range<usize>) -> Result<(Vec<Hits>, Duration), E> + Sync + 'a) -> Self {
        Self::Timed(Box::new(search))
    }
}

/// The share of `queries` queries that thread `thread` of `threads` takes: shares differ by one query at most.
pub(crate) fn share(queries: usize, thread: usize, threads: usize) -> Range<usize> {
    queries * thread / threads..queries * (thread + 1) / threads
}

/// Done before each pass while no thread searches; returns the bytes of the index file that the page cache then holds,
/// where that matters.
pub type Prepare<'a> = dyn Fn() -> Option<u64> + Sync + 'a;

/// Drives searches over one query set.
pub struct Driver<'a> {
    queries: usize,
    /// CPUs to pin to, in the order in which threads take them; empty when the system does not allow pinning.
    cpus: Vec<usize>,
    prepare: &'a Prepare<'a>,
}

impl<'a> Driver<'a> {
    /// A driver of `queries` queries.
    pub fn new(queries: usize) -> Self {
        Self::with_preparation(queries, &|| None)
    }

    /// A driver of `queries` queries that calls `prepare` before each pass.
    pub fn with_preparation(queries: usize, prepare: &'a Prepare<'a>) -> Self {
        // Threads inherit their creator's affinity: were rayon's pool first used by a search on a pinned thread, all of
        // it would share that thread's CPU for good.
        rayon::current_num_threads();
        let mut cpus: Vec<usize> = numa::search_order();
        if let Some(&cpu) = cpus.first() {
            let pinned = std::thread::scope(|scope| scope.spawn(|| sys::pin_thread(cpu)).join());
            if !matches!(pinned, Ok(Ok(()))) {
                tracing::warn!("threads cannot be pinned to CPUs here: latencies may vary more");
                cpus.clear();
            }
        }
        Self { queries, cpus, prepare }
    }

    /// Searches, cycling through the queries, until three windows in a row agree in queries a second within 2%
    /// or the plan's limit is reached. A window of batches holds at least one whole batch a thread.
    ///
    /// # Errors
    /// The first search that failed.
    pub fn warm_up<E: Display>(
        &self,
        threads: usize,
        repeats: &Repeats,
        work: &Work<'_, E>,
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
                .each_thread(threads, |thread| {
                    let mut answered = 0;
                    while Instant::now() < until && !crew.stopped() {
                        answered += match work {
                            Work::Single(search) => {
                                crew.answer(crew.next.fetch_add(1, Ordering::Relaxed) % self.queries, search);
                                1
                            }
                            Work::Batch(search) => crew.answer_batch(share(self.queries, thread, threads), search),
                            Work::Timed(search) => {
                                let share = share(self.queries, thread, threads);
                                crew.answer_timed(share.clone(), search);
                                share.len()
                            }
                        };
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

    /// Passes over the query set until `seconds` have gone by; at least one. Threads start a pass together; it
    /// lasts from the first one's start to the last one's end, or as long as the search itself says ([`Work::Timed`]). A pass
    /// in batches has no latencies: within a batch no query has a time of its own.
    ///
    /// # Errors
    /// The first search that failed.
    pub fn turn<E: Display>(
        &self,
        threads: usize,
        seconds: f64,
        work: &Work<'_, E>,
    ) -> Result<Vec<RunSample>, SearchFailed> {
        let crew = Crew::new(threads);
        let began = Instant::now();
        // Room for the case that one thread answers everything: the timed loop must not grow it.
        let timed = match work {
            Work::Single(_) => self.queries,
            Work::Batch(_) | Work::Timed(_) => 0,
        };
        let passes = self.each_thread(threads, |thread| {
            let share = share(self.queries, thread, threads);
            let first = share.start..share.end.min(share.start + ENTRY_QUERIES);
            match work {
                Work::Single(search) => {
                    for query in 0..ENTRY_QUERIES.min(self.queries) {
                        crew.answer(query, search);
                    }
                }
                Work::Batch(search) => {
                    crew.answer_batch(first, search);
                }
                Work::Timed(search) => {
                    crew.answer_timed(first, search);
                }
            }
            let mut passes = Vec::new();
            loop {
                let mut samples = Vec::with_capacity(timed);
                // Nobody searches between the first of these barriers and the second.
                let leads = crew.barrier.wait().is_leader();
                if crew.done.load(Ordering::Relaxed) {
                    return passes;
                }
                let cached_bytes = if leads { (self.prepare)() } else { None };
                crew.barrier.wait();
                let from = Instant::now();
                let to = match work {
                    Work::Single(search) => {
                        while !crew.stopped() {
                            let query = crew.next.fetch_add(1, Ordering::Relaxed);
                            if query >= self.queries {
                                break;
                            }
                            samples.push((query, crew.answer(query, search)));
                        }
                        Instant::now()
                    }
                    Work::Batch(search) => {
                        crew.answer_batch(share.clone(), search);
                        Instant::now()
                    }
                    Work::Timed(search) => from + crew.answer_timed(share.clone(), search),
                };
                passes.push(ThreadPass { from, to, samples, cached_bytes });
                // Between this barrier and the next only the leader writes.
                if crew.barrier.wait().is_leader() {
                    crew.next.store(0, Ordering::Relaxed);
                    let over = crew.stopped() || began.elapsed().as_secs_f64() >= seconds;
                    crew.done.store(over, Ordering::Relaxed);
                }
            }
        });
        crew.outcome()?;
        Ok(merge_passes(timed, passes))
    }

    /// Runs `body` with its number on each of `threads` new threads, each on its own CPU where there are enough, and
    /// returns what they return.
    fn each_thread<T: Send>(&self, threads: usize, body: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let pin = threads <= self.cpus.len();
        let run = |thread: usize| {
            if pin {
                // That pinning works was seen when the driver was made; a CPU taken away since costs only steadiness.
                let _ = sys::pin_thread(self.cpus[thread]);
            }
            body(thread)
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
    fn answer<E: Display>(&self, query: usize, search: &Single<'_, E>) -> f32 {
        let began = Instant::now();
        // A panic must not unwind past the barrier at which the other threads wait. Its state is never used again: the
        // setting ends here.
        let answer = catch_unwind(AssertUnwindSafe(|| search(query)));
        let took = began.elapsed();
        self.keep(query..query + 1, answer);
        took.as_secs_f32() * 1e6
    }

    /// Answers a batch of queries and returns their number. A failure is kept and stops the crew.
    fn answer_batch<E: Display>(&self, queries: Range<usize>, search: &Batch<'_, E>) -> usize {
        if queries.is_empty() {
            return 0;
        }
        // As for a single query.
        let answer = catch_unwind(AssertUnwindSafe(|| search(queries.clone())));
        let answered = queries.len();
        self.keep(queries, answer);
        answered
    }

    /// The same by a search that says what it took; nothing where it failed.
    fn answer_timed<E: Display>(&self, queries: Range<usize>, search: &Timed<'_, E>) -> Duration {
        let mut took = Duration::ZERO;
        if queries.is_empty() {
            return took;
        }
        // As for a single query.
        let answer = catch_unwind(AssertUnwindSafe(|| {
            search(queries.clone()).map(|(hits, said)| {
                took = said;
                hits
            })
        }));
        self.keep(queries, answer);
        took
    }

    /// Drops an answer that nobody wants, where the compiler does not see that; keeps a failure.
    fn keep<A, E: Display>(&self, queries: Range<usize>, answer: std::thread::Result<Result<A, E>>) {
        match answer {
            Ok(Ok(hits)) => drop(black_box(hits)),
            Ok(Err(error)) => self.fail(queries, error.to_string()),
            Err(_) => self.fail(queries, "the search panicked; its message is in the log".to_string()),
        }
    }

    fn fail(&self, queries: Range<usize>, problem: String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(SearchFailed { queries, problem });
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
    /// What was in the page cache when the pass began, told by one of the threads.
    cached_bytes: Option<u64>,
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
        let cached_bytes = parts.iter().find_map(|part| part.cached_bytes);
        let mut latency_us = vec![0.0; queries];
        for (query, microseconds) in parts.into_iter().flat_map(|part| part.samples) {
            latency_us[query] = round_to_clock(microseconds);
        }
        runs.push(RunSample { seconds: (to - from).as_secs_f64(), turn: 0, latency_us, cached_bytes });
    }
}

/// Rounds microseconds to 10 ns: digits below what the clock resolves would only lengthen the records.
fn round_to_clock(microseconds: f32) -> f32 {
    ((f64::from(microseconds) * 100.0).round() / 100.0) as f32
}

/// Whether the last windows of a warm-up lie within 2% of the fastest of them.
pub(crate) fn agree(rates: &[f64]) -> bool {
    let Some(last) = rates.len().checked_sub(WARMUP_WINDOWS).map(|start| &rates[start..]) else { return false };
    let fastest = last.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let slowest = last.iter().copied().fold(f64::INFINITY, f64::min);
    slowest >= fastest * (1.0 - WARMUP_AGREEMENT)
}

#[cfg(test)]
#[path = "measure_tests.rs"]
mod tests;
