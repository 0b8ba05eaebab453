//! The cheapest search setting that reaches a recall: found on one half of the queries, checked on the other.
//!
//! In: an open index, queries with truth, a target. Out: a [`Tuned`] setting, which [`file`](self::file) keeps beside
//! the index.
//!
//! Queries are split by a seeded shuffle. A setting *reaches* the target when the lower end of the 95% bootstrap
//! interval of its mean recall over the tuning half does: the point estimate alone would promise the target and miss
//! it on half of all other query sets. The bootstrap draws whole queries, because the hits of one query are not
//! independent of each other. [`climb`](self::climb) proposes the least settings that reach; the fastest of them, timed
//! side by side on the tuning half, is chosen, and its recall on the held-out half is what the user may expect.

mod climb;
mod error;
mod file;

use std::collections::HashMap;
use std::convert::Infallible;

use kiln_builder::{Effort, IndexKind, Navigate, SearchParams, Searcher};
use kiln_datasets::RowSource;
use kiln_kernels::{Progress, Rows, RowsView};
use ndarray::{ArrayView2, Axis};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::answers::{QuerySet, answer_all, answer_in_batch};
use crate::interleave::{Task, measure_interleaved};
use crate::judge::Judge;
use crate::measure::{Driver, Repeats};
use crate::provenance;
use crate::record::Mode;
use crate::stats::{self, Interval};

use climb::{GraphBounds, ListBounds};
pub use error::TuneError;
pub use file::{TuneFileError, all_tuned, keep_tuned, refuse_unreadable, tune_path, tuned};

/// Queries below which neither half says anything.
pub const LEAST_QUERIES: usize = 20;

/// The part of the truth's rows that may be wrong, as a row or two of published truth is, before nothing is believed.
const WRONG_TRUTH: f64 = 0.02;

/// Candidates are timed longer than a quick look and shorter than a benchmark: someone is waiting.
const REPEATS: Repeats = Repeats { min_runs: 5, min_seconds: 0.5, warmup_seconds: 1.0, window_seconds: 0.05 };

/// What to find.
pub struct TuneRequest<'a> {
    /// The open index.
    pub searcher: &'a Searcher,
    /// Queries `(queries, dim)`.
    pub queries: RowsView<'a>,
    /// Truth `(queries, depth)`.
    pub truth: ArrayView2<'a, i64>,
    /// The rows that answers are judged on.
    pub base: &'a dyn RowSource,
    /// Neighbours wanted.
    pub k: usize,
    /// Mean recall to reach, above 0 and at most 1.
    pub recall: f64,
    /// How candidates are timed.
    pub mode: Mode,
    /// Graphs: the ways to navigate that are tried.
    pub navigate: &'a [Navigate],
    /// Time candidates briefly.
    pub quick: bool,
    /// Splits the queries.
    pub seed: u64,
}

/// The setting that was found for a target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// Neighbours wanted.
    pub k: usize,
    /// The recall that was asked for.
    pub recall: f64,
    /// Where the index was: `memory` or `ssd`.
    pub residency: String,
    /// How candidates were timed: `latency-1`, `throughput-2`, `batch-1`, ...
    pub mode: String,
    /// The setting.
    pub effort: Effort,
    /// Its queries a second on the tuning half, in that mode.
    pub qps: Interval,
    /// Its recall on the half that it was chosen by.
    pub tuning: SampleRecall,
    /// Its recall on the half that it never saw.
    pub held_out: SampleRecall,
    /// When, in UTC.
    pub created: String,
    /// The Kiln that found it.
    pub version: String,
}

/// Mean recall over some queries, with its 95% bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SampleRecall {
    /// Queries that have a true neighbour.
    pub queries: usize,
    /// Mean of their recalls.
    pub recall: f64,
    /// Lower end of its interval.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
}

impl SampleRecall {
    /// Of these per-query recalls; `None` of none.
    fn of(recalls: &[f64]) -> Option<Self> {
        let (lo, hi) = stats::mean_interval(recalls)?;
        Some(Self { queries: recalls.len(), recall: stats::mean(recalls)?, lo, hi })
    }

    /// Whether this is enough for `target`: see the module's head.
    fn reaches(&self, target: f64) -> bool {
        self.lo >= target
    }
}

impl std::fmt::Display for SampleRecall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.4} (95% interval {:.4} to {:.4}, {} queries)", self.recall, self.lo, self.hi, self.queries)
    }
}

/// Finds the fastest setting that reaches the target.
///
/// # Errors
/// Too few queries, a target that no setting reaches (with the best recall that was seen), a search that fails, or
/// truth that does not fit.
pub fn tune(request: &TuneRequest<'_>, progress: &dyn Progress) -> Result<Tuned, TuneError> {
    let queries = request.queries.len();
    if queries < LEAST_QUERIES {
        return Err(TuneError::TooFewQueries { queries });
    }
    let mut shuffled: Vec<usize> = (0..queries).collect();
    shuffled.shuffle(&mut ChaCha8Rng::seed_from_u64(request.seed));
    let (tuning, held_out) = shuffled.split_at(queries.div_ceil(2));
    tracing::info!("{} queries: {} to tune by, {} held out", queries, tuning.len(), held_out.len());
    let (mut tuning, mut held_out) = (Half::new(request, tuning)?, Half::new(request, held_out)?);

    progress.stage("recall", 0);
    let efforts = candidates(request, &mut tuning, progress)?;
    progress.stage("measure", efforts.len() as u64);
    let timed = time(request, &tuning, &efforts, progress)?;
    progress.finish();
    let (effort, qps) = timed.into_iter().max_by(|a, b| a.1.median.total_cmp(&b.1.median)).expect("one is measured");
    Ok(Tuned {
        k: request.k,
        recall: request.recall,
        residency: request.searcher.residency().name().to_string(),
        mode: request.mode.name(),
        effort,
        qps,
        tuning: tuning.recall(effort)?,
        held_out: held_out.recall(effort)?,
        created: provenance::utc_now(),
        version: env!("CARGO_PKG_VERSION").to_string(),
    })
}

/// The least settings that reach the target; at least one.
fn candidates(
    request: &TuneRequest<'_>,
    tuning: &mut Half<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Effort>, TuneError> {
    let TuneRequest { searcher, k, recall: target, .. } = *request;
    let n = usize::try_from(searcher.len()).unwrap_or(usize::MAX);
    let mut best: Option<(Effort, SampleRecall)> = None;
    let mut probe = |effort: Effort| -> Result<SampleRecall, TuneError> {
        let found = tuning.recall(effort)?;
        progress.advance(1);
        if best.is_none_or(|(_, best)| found.lo > best.lo) {
            best = Some((effort, found));
        }
        Ok(found)
    };
    let efforts = match searcher.kind() {
        IndexKind::Vamana => climb::graph(&GraphBounds { k, n, navigate: request.navigate }, target, &mut probe)?,
        IndexKind::IvfPq => {
            climb::lists(&ListBounds { k, n, nlist: searcher.nlist().unwrap_or(1) }, target, &mut probe)?
        }
    };
    match best {
        Some((effort, best)) if efforts.is_empty() => Err(TuneError::Unreachable {
            index: searcher.path().to_path_buf(),
            k,
            target,
            best,
            effort: crate::plan::named(&effort.by_name()),
            remedy: error::remedy(effort),
        }),
        _ => Ok(efforts),
    }
}

/// Times settings side by side, as a benchmark does.
fn time(
    request: &TuneRequest<'_>,
    tuning: &Half<'_>,
    efforts: &[Effort],
    progress: &dyn Progress,
) -> Result<Vec<(Effort, Interval)>, TuneError> {
    let set = QuerySet::new(tuning.queries.view());
    let task = |&effort: &Effort| Task {
        threads: request.mode.threads(),
        work: set.work(request.searcher, SearchParams { k: request.k, effort }, request.mode),
    };
    let tasks: Vec<Task<'_, _>> = efforts.iter().map(task).collect();
    let mut timed = Vec::with_capacity(efforts.len());
    let mut failure = None;
    let repeats = if request.quick { Repeats::QUICK } else { REPEATS };
    let Ok(()) = measure_interleaved(&Driver::new(set.len()), &repeats, &tasks, request.seed, |task, measured| {
        match measured {
            Ok(measured) => {
                let rates: Vec<f64> = measured.runs.iter().map(|run| set.len() as f64 / run.seconds).collect();
                if let Some(qps) = stats::median_interval(&rates) {
                    tracing::debug!("{:?}: {:.0} queries/s", efforts[task], qps.median);
                    timed.push((efforts[task], qps));
                }
            }
            Err(failed) => failure = Some(failed),
        }
        progress.advance(1);
        Ok::<_, Infallible>(())
    });
    failure.map_or(Ok(timed), |failed| Err(failed.into()))
}

/// Some of the queries, with what judges the answers to them.
struct Half<'a> {
    searcher: &'a Searcher,
    k: usize,
    mode: Mode,
    queries: Rows,
    judge: Judge<'a>,
    known: HashMap<Effort, SampleRecall>,
    warned: bool,
}

impl<'a> Half<'a> {
    fn new(request: &TuneRequest<'a>, chosen: &[usize]) -> Result<Self, TuneError> {
        let TuneRequest { searcher, base, k, mode, .. } = *request;
        if request.truth.nrows() != request.queries.len() {
            let (queries, truth) = (request.queries.len(), request.truth.nrows());
            return Err(TuneError::OtherTruth { queries, truth });
        }
        let queries = request.queries.select(chosen);
        let truth = request.truth.select(Axis(0), chosen);
        let judge = Judge::new(base, &queries.view(), truth.view(), searcher.metric(), k)?;
        Ok(Self { searcher, k, mode, queries, judge, known: HashMap::new(), warned: false })
    }

    /// The recall of a setting, judged once.
    fn recall(&mut self, effort: Effort) -> Result<SampleRecall, TuneError> {
        if let Some(known) = self.known.get(&effort) {
            return Ok(*known);
        }
        let (params, queries) = (SearchParams { k: self.k, effort }, self.queries.view());
        let answers = match self.mode {
            Mode::Latency1 | Mode::Throughput { .. } | Mode::BatchDevice { .. } => {
                answer_all(self.searcher, &queries, &params)?
            }
            Mode::Batch { .. } => answer_in_batch(self.searcher, &queries, &params, rayon::current_num_threads())?,
        };
        let judgement = self.judge.judge(answers.ids.view())?;
        let (contradicted, queries) = (judgement.contradicted.len(), queries.len());
        if contradicted as f64 > WRONG_TRUTH * queries as f64 {
            return Err(TuneError::WrongTruth { contradicted, queries });
        }
        if contradicted > 0 && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!("to {contradicted} of {queries} queries a nearer row was found than their truth lists");
        }
        let found = SampleRecall::of(&judgement.recalls()).ok_or(TuneError::NoNeighbours)?;
        tracing::debug!("{effort:?}: recall {found}");
        self.known.insert(effort, found);
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
