//! The settings of one open index: answered, judged, measured side by side, and kept.
//!
//! In: an index opened as a [`Placement`] says, under its [`Conditions`]. Out: a [`SettingRecord`] for every setting, in
//! the run folder as soon as it is complete. A setting whose search fails is kept as a failure.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use kiln_builder::{BuilderError, Effort, SearchParams, Searcher};
use kiln_kernels::{Progress, RowsView};

use crate::answers::{QuerySet, answer_all, answer_in_batch, judged};
use crate::budget::Budget;
use crate::conditions::{Conditions, began_warm};
use crate::error::EvalError;
use crate::interleave::{Measurement, Task, Unmeasured, measure_until};
use crate::io_state::{IoState, Placement};
use crate::judge::Judge;
use crate::measure::Driver;
use crate::noise::NoiseCheck;
use crate::on_device::{self, OnDevice};
use crate::page_cache::kernel_read_bytes;
use crate::plan::{self, Plan, Setting};
use crate::prune::{Probed, Sifted, sift, spread_out};
use crate::record::{Answers, Mode, SettingRecord, Skip, Warmup};
use crate::stats;
use crate::store::{RunFolder, StoreError};

/// The noise check takes so much of the time that the first index has, at most: one in so many parts.
pub(crate) const NOISE_SHARE: usize = 10;

/// Why a setting is left out before anything is known of it.
pub(crate) const NO_TIME: &str = "time budget: nothing of it was left";

/// An open index with the queries to measure it by.
pub(crate) struct IndexBench<'a> {
    pub plan: &'a Plan,
    pub searcher: &'a Searcher,
    /// The same on a device, for settings of one.
    pub device: Option<&'a OnDevice<'a>>,
    pub placement: Placement,
    pub conditions: &'a Conditions,
    pub index_bytes: u64,
    pub queries: RowsView<'a>,
    pub judge: &'a Judge<'a>,
    /// The time that these settings may take.
    pub budget: Budget,
}

/// What is told of a search that panicked.
const PANICKED: &str = "the search panicked; its message is in the log";

/// What a setting's answers depend on: its effort, and whether a device gives them.
fn answered_by(setting: &Setting) -> (Effort, bool) {
    (setting.effort, setting.mode.is_on_device())
}

/// A setting whose answers are judged.
type Sound<'s> = (Setting, &'s Answers);

impl IndexBench<'_> {
    /// Judges and measures settings, and keeps each in the folder as soon as it is complete; those that are pruned, and
    /// those for which there is no time, as that.
    pub(crate) fn measure(
        &self,
        pending: Vec<Setting>,
        folder: &mut RunFolder,
        progress: &dyn Progress,
    ) -> Result<(), EvalError> {
        // Answers depend on the effort and on what answers, and not on the mode: each is judged once.
        let mut judged: HashMap<(Effort, bool), Result<Answers, String>> = HashMap::new();
        progress.stage("judge answers", pending.len() as u64);
        let mut late = HashSet::new();
        for place in spread_out(pending.len()) {
            let answered = answered_by(&pending[place]);
            if self.budget.is_spent() && !judged.contains_key(&answered) {
                late.insert(place);
            } else if let Entry::Vacant(slot) = judged.entry(answered) {
                slot.insert(self.answers(answered)?);
            }
            progress.advance(1);
        }

        progress.stage("measure", pending.len() as u64);
        let mut sound = Vec::with_capacity(pending.len());
        for (place, setting) in pending.into_iter().enumerate() {
            let kept = match judged.get(&answered_by(&setting)) {
                Some(Ok(answers)) if !late.contains(&place) => {
                    sound.push((setting, answers));
                    continue;
                }
                Some(Err(problem)) => self.record(&setting, Err(problem.clone())),
                _ => skipped(&setting, self.plan.k, Skip::TimeBudget, NO_TIME),
            };
            folder.add_setting(kept)?;
            progress.advance(1);
        }
        let set = QuerySet::new(self.queries.clone());
        let prepare = || self.conditions.before_pass();
        let driver = Driver::with_preparation(set.len(), &prepare);
        if !sound.is_empty() && folder.header().is_some_and(|header| header.noise.is_none()) {
            self.check_noise(&driver, &set, &sound, folder)?;
        }
        let sound = self.worth_measuring(&driver, &set, sound, folder, progress)?;
        let tasks: Vec<Task<'_, _>> = sound.iter().map(|(setting, _)| self.task(&set, setting)).collect();
        let time_is_up = || self.budget.is_spent();
        measure_until(&driver, &self.plan.repeats, &tasks, self.plan.seed, &time_is_up, |task, measured| {
            let (setting, answers) = &sound[task];
            let kept = match measured {
                Ok(measured) => self.record(setting, Ok((measured, (*answers).clone()))),
                Err(Unmeasured::Failed(failed)) => self.record(setting, Err(failed.to_string())),
                Err(late) => skipped(setting, self.plan.k, Skip::TimeBudget, &late.to_string()),
            };
            folder.add_setting(kept)?;
            progress.advance(1);
            Ok::<_, StoreError>(())
        })?;
        progress.finish();
        Ok(())
    }

    /// Settings of a device are only measured where there is one.
    fn task<'a>(&'a self, set: &'a QuerySet<'_>, setting: &Setting) -> Task<'a, BuilderError> {
        let work = match (setting.mode, self.device) {
            (Mode::BatchDevice { transfers }, Some(device)) => {
                device.work(set.all(), self.plan.k, setting.effort, transfers)
            }
            _ => set.work(self.searcher, self.params(setting.effort), setting.mode),
        };
        Task { threads: setting.mode.threads(), work }
    }

    /// Measures the middle one of these settings against itself, once a run.
    fn check_noise(
        &self,
        driver: &Driver<'_>,
        set: &QuerySet<'_>,
        sound: &[Sound<'_>],
        folder: &mut RunFolder,
    ) -> Result<(), EvalError> {
        let mode = sound[0].0.mode;
        let alike: Vec<&Setting> = sound.iter().map(|(setting, _)| setting).filter(|one| one.mode == mode).collect();
        let setting = alike[alike.len() / 2];
        let twice = [self.task(set, setting), self.task(set, setting)];
        let mut halves = [Vec::new(), Vec::new()];
        let budget = self.budget.share(NOISE_SHARE);
        let time_is_up = || budget.is_spent();
        measure_until(driver, &self.plan.repeats, &twice, self.plan.seed, &time_is_up, |half, measured| {
            // One that fails is told when its own turn comes.
            let runs = measured.map(|measured| measured.runs).unwrap_or_default();
            halves[half] = runs.iter().map(|run| run.seconds).collect();
            Ok::<_, StoreError>(())
        })?;
        let [first, second] = halves;
        let check = NoiseCheck {
            index: self.searcher.kind().name().to_string(),
            params: setting.effort.by_name(),
            mode: mode.name(),
            first,
            second,
        };
        match check.noise() {
            Some(noise) if noise.noisy => tracing::warn!("this machine is noisy: {noise}"),
            Some(noise) => tracing::info!("noise check: {noise}"),
            None => return Ok(()),
        }
        Ok(folder.set_noise(check)?)
    }

    /// Probes settings briefly where some may be left out, and keeps those that are as what they are.
    fn worth_measuring<'s>(
        &self,
        driver: &Driver<'_>,
        set: &QuerySet<'_>,
        sound: Vec<Sound<'s>>,
        folder: &mut RunFolder,
        progress: &dyn Progress,
    ) -> Result<Vec<Sound<'s>>, EvalError> {
        let hurried = self.budget.left().is_some();
        if !hurried && !self.plan.prune {
            return Ok(sound);
        }
        let repeats = &self.plan.repeats;
        let mask = self.plan.held_out.map(|held_out| held_out.mask(set.len()));
        let modes = self.plan.modes();
        let (mut candidates, mut probed) = (Vec::with_capacity(sound.len()), Vec::with_capacity(sound.len()));
        for (setting, answers) in sound {
            if self.budget.is_spent() {
                folder.add_setting(skipped(&setting, self.plan.k, Skip::TimeBudget, NO_TIME))?;
                progress.advance(1);
                continue;
            }
            let task = self.task(set, &setting);
            match driver.turn(task.threads, repeats.turn_seconds() / 2.0, &task.work) {
                Ok(runs) => {
                    let seconds: Vec<f64> = runs.iter().map(|run| run.seconds).collect();
                    let pass = stats::median(&seconds).unwrap_or(0.0).max(1e-9);
                    probed.push(Probed {
                        name: plan::named(&setting.effort.by_name()),
                        group: modes.iter().position(|&mode| mode == setting.mode).unwrap_or(0),
                        recalls: recalls(answers, mask.as_deref()),
                        qps: set.len() as f64 / pass,
                        cost_seconds: repeats.cost_seconds(pass),
                    });
                    candidates.push((setting, answers));
                }
                Err(failed) => {
                    folder.add_setting(self.record(&setting, Err(failed.to_string())))?;
                    progress.advance(1);
                }
            }
        }
        let noise = folder.header().and_then(|header| header.noise.as_ref()?.noise());
        let spread = noise.map_or(0.0, |noise| noise.spread);
        let sifted = sift(&probed, self.plan.prune, spread, self.budget.left());
        let mut worth = Vec::with_capacity(candidates.len());
        for ((setting, answers), sifted) in candidates.into_iter().zip(sifted) {
            match sifted {
                Sifted::Worth => worth.push((setting, answers)),
                Sifted::LeftOut(skip, reason) => {
                    folder.add_setting(skipped(&setting, self.plan.k, skip, &reason))?;
                    progress.advance(1);
                }
            }
        }
        Ok(worth)
    }

    fn params(&self, effort: Effort) -> SearchParams {
        SearchParams { k: self.plan.k, effort }
    }

    /// The judged answers of one effort, or why the search gave none.
    fn answers(&self, (effort, on_device): (Effort, bool)) -> Result<Result<Answers, String>, EvalError> {
        if let Some(device) = self.device.filter(|_| on_device) {
            let answered = catch_unwind(AssertUnwindSafe(|| device.answers(&self.queries, self.plan.k, effort)));
            return Ok(match answered {
                Ok(Ok(answers)) => Ok(on_device::judged(&answers, self.judge.judge(answers.ids.view())?)),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(PANICKED.to_string()),
            });
        }
        let params = self.params(effort);
        // A search that panics costs its settings and not the run; nothing that it touched is used to judge.
        let answered = catch_unwind(AssertUnwindSafe(|| {
            self.conditions.before_pass();
            let before = kernel_read_bytes();
            let answers = answer_all(self.searcher, &self.queries, &params)?;
            let fetched = kernel_read_bytes().zip(before).map(|(after, before)| after.saturating_sub(before));
            let differs = match self.plan.modes.iter().any(|mode| matches!(mode, Mode::Batch { .. })) {
                false => None,
                true => {
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
            Err(_) => Err(PANICKED.to_string()),
        })
    }

    fn record(&self, setting: &Setting, outcome: Result<(Measurement, Answers), String>) -> SettingRecord {
        let device = self.device.filter(|_| setting.mode.is_on_device()).map(OnDevice::device).transpose();
        let (device, outcome) = match device {
            Ok(device) => (device.map(str::to_string), outcome),
            Err(problem) => (None, Err(problem)),
        };
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
            device,
            serving_bytes: Some(self.searcher.serving_bytes()),
            ..unmeasured(setting, self.plan.k)
        }
    }
}

/// Strict recall of every query that has neighbours and is not held out.
pub(crate) fn recalls(answers: &Answers, mask: Option<&[bool]>) -> Vec<f64> {
    (answers.strict_hits.iter().zip(&answers.possible).enumerate())
        .filter(|&(query, (_, &possible))| possible > 0 && mask.is_none_or(|mask| !mask[query]))
        .map(|(_, (&hits, &possible))| f64::from(hits) / f64::from(possible))
        .collect()
}

/// The record of a setting that could not be measured.
pub(crate) fn failed(setting: &Setting, k: usize, problem: &str) -> SettingRecord {
    SettingRecord { failure: Some(problem.to_string()), ..unmeasured(setting, k) }
}

/// The record of a setting that was left out on purpose.
fn skipped(setting: &Setting, k: usize, skip: Skip, reason: &str) -> SettingRecord {
    SettingRecord { skip: Some(skip), ..failed(setting, k, reason) }
}

/// What a setting's record says before anything was measured.
fn unmeasured(setting: &Setting, k: usize) -> SettingRecord {
    let (key, build_key) = (setting.key.as_str(), setting.build_key.as_str());
    SettingRecord {
        residency: setting.placement.residency().name().to_string(),
        io_state: setting.placement.state(),
        memory_budget: setting.placement.memory(),
        ..SettingRecord::unmeasured(key, build_key, setting.effort.by_name(), setting.mode, k)
    }
}
