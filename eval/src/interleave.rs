//! Settings measured side by side, so that a slow minute of the machine falls on all of them alike.
//!
//! In: the settings of one opened index. Out: each one's warm-up and runs, handed over as soon as the setting
//! has enough. A round gives every unfinished setting one turn, in an order drawn anew for each round. Where the time
//! ends first, what is unfinished is handed over as that.

use std::fmt::Display;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::measure::{Driver, Repeats, SearchFailed, Work};
use crate::record::{LATENCY_RUNS, RunSample, Warmup};

/// One setting to measure.
pub struct Task<'a, E> {
    /// Threads that search.
    pub threads: usize,
    /// What they do.
    pub work: Work<'a, E>,
}

/// What was measured of one setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// The warm-up before the first run.
    pub warmup: Warmup,
    /// Every run, in the order measured; latencies of at most [`LATENCY_RUNS`] of them.
    pub runs: Vec<RunSample>,
}

/// A setting that has no measurement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmeasured {
    /// A search failed.
    #[error(transparent)]
    Failed(#[from] SearchFailed),
    /// The time ended before it had enough runs.
    #[error("time budget: it ended after {runs} of {needed} runs or more")]
    OutOfTime {
        /// Runs that it had, which are not kept: their number was chosen by their speed.
        runs: usize,
        /// Runs that it needs at least.
        needed: usize,
    },
}

/// Measures `tasks` in interleaved rounds, ordered by `seed`, and calls `done` with a task's number when it is complete
/// or has failed. A task that fails is dropped; the others go on.
///
/// # Errors
/// The first error of `done`, which ends the measurement.
pub fn measure_interleaved<E: Display, D>(
    driver: &Driver<'_>,
    repeats: &Repeats,
    tasks: &[Task<'_, E>],
    seed: u64,
    mut done: impl FnMut(usize, Result<Measurement, SearchFailed>) -> Result<(), D>,
) -> Result<(), D> {
    measure_until(driver, repeats, tasks, seed, &|| false, |task, measured| {
        done(
            task,
            measured.map_err(|unmeasured| match unmeasured {
                Unmeasured::Failed(failed) => failed,
                Unmeasured::OutOfTime { .. } => unreachable!("this time has no end"),
            }),
        )
    })
}

/// The same until `time_is_up`, which is asked before every turn.
///
/// # Errors
/// The first error of `done`, which ends the measurement.
pub(crate) fn measure_until<E: Display, D>(
    driver: &Driver<'_>,
    repeats: &Repeats,
    tasks: &[Task<'_, E>],
    seed: u64,
    time_is_up: &dyn Fn() -> bool,
    mut done: impl FnMut(usize, Result<Measurement, Unmeasured>) -> Result<(), D>,
) -> Result<(), D> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut pending: Vec<(usize, Option<Measurement>)> = (0..tasks.len()).map(|task| (task, None)).collect();
    while !pending.is_empty() {
        pending.shuffle(&mut rng);
        let mut unfinished = Vec::with_capacity(pending.len());
        for (number, so_far) in pending {
            if time_is_up() {
                let (runs, needed) = (so_far.map_or(0, |measured| measured.runs.len()), repeats.min_runs);
                done(number, Err(Unmeasured::OutOfTime { runs, needed }))?;
                continue;
            }
            match take_turn(driver, repeats, &tasks[number], so_far) {
                Ok(measured) if repeats.satisfied(&measured.runs) => done(number, Ok(thin(measured)))?,
                Ok(measured) => unfinished.push((number, Some(measured))),
                Err(failed) => done(number, Err(failed.into()))?,
            }
        }
        pending = unfinished;
    }
    Ok(())
}

/// One more turn of a task, after its warm-up where it is the first.
fn take_turn<E: Display>(
    driver: &Driver<'_>,
    repeats: &Repeats,
    task: &Task<'_, E>,
    so_far: Option<Measurement>,
) -> Result<Measurement, SearchFailed> {
    let mut measured = match so_far {
        Some(measured) => measured,
        None => Measurement { warmup: driver.warm_up(task.threads, repeats, &task.work)?, runs: Vec::new() },
    };
    RunSample::add_turn(&mut measured.runs, driver.turn(task.threads, repeats.turn_seconds(), &task.work)?);
    Ok(measured)
}

/// Keeps the latencies of at most [`LATENCY_RUNS`] runs, evenly spread and with the first and the last among them.
pub(crate) fn thin(mut measured: Measurement) -> Measurement {
    let runs = measured.runs.len();
    if runs > LATENCY_RUNS {
        let kept: Vec<usize> = (0..LATENCY_RUNS).map(|i| i * (runs - 1) / (LATENCY_RUNS - 1)).collect();
        for (number, run) in measured.runs.iter_mut().enumerate() {
            if kept.binary_search(&number).is_err() {
                run.latency_us = Vec::new();
            }
        }
    }
    measured
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;
    use std::time::Duration;

    use kiln_builder::Hits;

    use super::*;

    const BRIEF: Repeats = Repeats { min_runs: 4, min_seconds: 0.02, warmup_seconds: 0.003, window_seconds: 0.001 };

    #[test]
    fn every_task_gets_enough_and_turns_alternate() {
        let log = Mutex::new(Vec::new());
        let tasks: Vec<Task<_>> = (0..3usize)
            .map(|task| {
                let log = &log;
                let search = move |_: usize| {
                    log.lock().expect("no panic").push(task);
                    std::thread::sleep(Duration::from_micros(200));
                    Ok::<_, Infallible>(Hits::default())
                };
                Task { threads: 1, work: Work::single(search) }
            })
            .collect();
        let mut finished = Vec::new();
        measure_interleaved(&Driver::new(5), &BRIEF, &tasks, 1, |task, measured| {
            let measured = measured.expect("no failure");
            assert!(BRIEF.satisfied(&measured.runs));
            assert!(measured.warmup.seconds > 0.0);
            finished.push(task);
            Ok::<_, Infallible>(())
        })
        .expect("done never fails");
        finished.sort_unstable();
        assert_eq!(finished, [0, 1, 2]);
        let turns = log.lock().expect("no panic").chunk_by(|a, b| a == b).count();
        assert!(turns >= 6, "{turns} turns");
    }

    #[test]
    fn a_failure_drops_one_task_and_an_error_of_the_caller_ends_all() {
        let tasks = [0, 1].map(|task| Task {
            threads: 1,
            work: Work::single(move |_| if task == 0 { Err("broken") } else { Ok(Hits::default()) }),
        });
        let mut outcomes = Vec::new();
        measure_interleaved(&Driver::new(5), &BRIEF, &tasks, 1, |task, measured| {
            outcomes.push((task, measured.is_ok()));
            Ok::<_, Infallible>(())
        })
        .expect("done never fails");
        outcomes.sort_unstable();
        assert_eq!(outcomes, [(0, false), (1, true)]);
        let full = measure_interleaved(&Driver::new(5), &BRIEF, &tasks, 1, |_, _| Err("disk full"));
        assert_eq!(full, Err("disk full"));
    }

    #[test]
    fn what_is_unfinished_when_the_time_ends_is_told_as_that() {
        let tasks: Vec<Task<_>> =
            (0..3).map(|_| Task { threads: 1, work: Work::single(|_| Ok::<_, Infallible>(Hits::default())) }).collect();
        let asked = std::cell::Cell::new(0);
        let fourth = || {
            asked.set(asked.get() + 1);
            asked.get() > 4
        };
        let endless = Repeats { min_runs: usize::MAX, ..BRIEF };
        let mut outcomes = Vec::new();
        measure_until(&Driver::new(5), &endless, &tasks, 1, &fourth, |task, measured| {
            outcomes.push((task, measured));
            Ok::<_, Infallible>(())
        })
        .expect("done never fails");
        outcomes.sort_by_key(|(task, _)| *task);
        assert_eq!(outcomes.len(), 3);
        for (_, outcome) in outcomes {
            let unmeasured = outcome.expect_err("never enough");
            assert!(unmeasured.to_string().starts_with("time budget: it ended after"), "{unmeasured}");
        }
    }

    #[test]
    fn latencies_are_kept_of_a_bounded_number_of_runs() {
        let runs = vec![RunSample { seconds: 1.0, turn: 0, latency_us: vec![1.0], cached_bytes: None }; 1000];
        let thinned = thin(Measurement { warmup: Warmup::default(), runs });
        let kept: Vec<usize> = (0..1000).filter(|&i| !thinned.runs[i].latency_us.is_empty()).collect();
        assert_eq!((thinned.runs.len(), kept.len()), (1000, LATENCY_RUNS));
        assert_eq!((kept[0], kept[LATENCY_RUNS - 1]), (0, 999));
        let few = vec![RunSample { seconds: 1.0, turn: 0, latency_us: vec![1.0], cached_bytes: None }; LATENCY_RUNS];
        let same = thin(Measurement { warmup: Warmup::default(), runs: few.clone() });
        assert_eq!(same.runs, few);
    }
}
