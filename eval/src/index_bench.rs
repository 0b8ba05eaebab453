//! The settings of one open index: answered, judged, measured side by side, and kept.
//!
//! In: an index opened as a [`Placement`] says, under its [`Conditions`]. Out: a [`SettingRecord`] for every setting, in
//! the run folder as soon as it is complete. A setting whose search fails is kept as a failure.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};

use kiln_builder::{BuilderError, Effort, SearchParams, Searcher};
use kiln_kernels::{Progress, RowsView};

use crate::answers::{QuerySet, answer_all, answer_in_batch, judged};
use crate::conditions::{Conditions, began_warm};
use crate::error::EvalError;
use crate::interleave::{Measurement, Task, measure_interleaved};
use crate::io_state::{IoState, Placement};
use crate::judge::Judge;
use crate::measure::Driver;
use crate::page_cache::kernel_read_bytes;
use crate::plan::{self, Plan, Setting};
use crate::record::{Answers, SettingRecord, Warmup};
use crate::store::{RunFolder, StoreError};

/// An open index with the queries to measure it by.
pub(crate) struct IndexBench<'a> {
    pub plan: &'a Plan,
    pub searcher: &'a Searcher,
    pub placement: Placement,
    pub conditions: &'a Conditions,
    pub index_bytes: u64,
    pub queries: RowsView<'a>,
    pub judge: &'a Judge<'a>,
}

impl IndexBench<'_> {
    /// Judges and measures settings, and keeps each in the folder as soon as it is complete.
    pub(crate) fn measure(
        &self,
        pending: Vec<Setting>,
        folder: &mut RunFolder,
        progress: &dyn Progress,
    ) -> Result<(), EvalError> {
        // Answers depend on the effort and not on the mode: each is judged once.
        let mut judged: HashMap<Effort, Result<Answers, String>> = HashMap::new();
        progress.stage("judge answers", pending.len() as u64);
        for setting in &pending {
            if let Entry::Vacant(slot) = judged.entry(setting.effort) {
                slot.insert(self.answers(setting.effort)?);
            }
            progress.advance(1);
        }

        progress.stage("measure", pending.len() as u64);
        let mut sound = Vec::with_capacity(pending.len());
        for setting in pending {
            match &judged[&setting.effort] {
                Ok(answers) => sound.push((setting, answers)),
                Err(problem) => {
                    folder.add_setting(self.record(&setting, Err(problem.clone())))?;
                    progress.advance(1);
                }
            }
        }
        let set = QuerySet::new(self.queries.clone());
        let tasks: Vec<Task<'_, _>> = (sound.iter())
            .map(|(setting, _)| Task {
                threads: setting.mode.threads(),
                work: set.work(self.searcher, self.params(setting.effort), setting.mode),
            })
            .collect();
        let prepare = || self.conditions.before_pass();
        let (driver, repeats) = (Driver::with_preparation(set.len(), &prepare), self.plan.repeats());
        measure_interleaved(&driver, &repeats, &tasks, self.plan.seed, |task, measured| {
            let (setting, answers) = &sound[task];
            let outcome = match measured {
                Ok(measured) => Ok((measured, (*answers).clone())),
                Err(failed) => Err(failed.to_string()),
            };
            folder.add_setting(self.record(setting, outcome))?;
            progress.advance(1);
            Ok::<_, StoreError>(())
        })?;
        progress.finish();
        Ok(())
    }

    fn params(&self, effort: Effort) -> SearchParams {
        SearchParams { k: self.plan.k, effort }
    }

    /// The judged answers of one effort, or why the search gave none.
    fn answers(&self, effort: Effort) -> Result<Result<Answers, String>, EvalError> {
        let params = self.params(effort);
        // A search that panics costs its settings and not the run; nothing that it touched is used to judge.
        let answered = catch_unwind(AssertUnwindSafe(|| {
            self.conditions.before_pass();
            let before = kernel_read_bytes();
            let answers = answer_all(self.searcher, &self.queries, &params)?;
            let fetched = kernel_read_bytes().zip(before).map(|(after, before)| after.saturating_sub(before));
            let differs = match self.plan.batch.is_empty() {
                true => None,
                false => {
                    let threads = rayon::current_num_threads();
                    let batch = answer_in_batch(self.searcher, &self.queries, &params, threads)?;
                    answers.first_difference(&batch)
                }
            };
            Ok::<_, BuilderError>((answers, fetched, differs))
        }));
        Ok(match answered {
            Ok(Ok((.., Some(query)))) => {
                return Err(EvalError::BatchDiffers {
                    index: self.searcher.path().to_path_buf(),
                    query,
                    params: plan::named(&effort.by_name()),
                });
            }
            Ok(Ok((answers, fetched, None))) => {
                let judgement = self.judge.judge(answers.ids.view())?;
                let kernel_bytes = fetched.filter(|_| self.placement != Placement::Memory);
                Ok(Answers { kernel_bytes, ..judged(&answers.stats, judgement, self.placement.residency()) })
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the search panicked; its message is in the log".to_string()),
        })
    }

    fn record(&self, setting: &Setting, outcome: Result<(Measurement, Answers), String>) -> SettingRecord {
        let (warmup, runs, answers, failure) = match outcome {
            Ok((measured, answers)) => (measured.warmup, measured.runs, answers, None),
            Err(problem) => {
                tracing::error!("{} {:?}: {problem}", self.searcher.path().display(), setting.effort);
                (Warmup::default(), Vec::new(), Answers::default(), Some(problem))
            }
        };
        if self.placement.state() == Some(IoState::Cold) {
            let warm = runs.iter().filter(|run| began_warm(run.cached_bytes, self.index_bytes)).count();
            if warm > 0 {
                tracing::warn!(
                    "{}: {warm} of {} passes did not begin cold: the system kept part of the file in its cache; the \
                     report flags them",
                    self.searcher.path().display(),
                    runs.len()
                );
            }
        }
        SettingRecord {
            warmup,
            runs,
            answers,
            failure,
            serving_bytes: Some(self.searcher.serving_bytes()),
            ..unmeasured(setting, self.plan.k)
        }
    }
}

/// The record of a setting that could not be measured.
pub(crate) fn failed(setting: &Setting, k: usize, problem: &str) -> SettingRecord {
    SettingRecord { failure: Some(problem.to_string()), ..unmeasured(setting, k) }
}

/// What a setting's record says before anything was measured.
fn unmeasured(setting: &Setting, k: usize) -> SettingRecord {
    SettingRecord {
        key: setting.key.clone(),
        build_key: setting.build_key.clone(),
        params: setting.effort.by_name(),
        mode: setting.mode,
        residency: setting.placement.residency().name().to_string(),
        io_state: setting.placement.state(),
        memory_budget: setting.placement.memory(),
        serving_bytes: None,
        k,
        warmup: Warmup::default(),
        runs: Vec::new(),
        answers: Answers::default(),
        failure: None,
        foreign: None,
    }
}
