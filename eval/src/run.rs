//! A benchmark from beginning to end: build what is missing, measure what is missing, keep everything.
//!
//! In: a [`Plan`], a data set, a backend. Out: the run folder, as [`RunData`]. Indexes are measured one after
//! another, so that only one is in memory; the settings of one index are interleaved.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use kiln_builder::{
    BuildReport, BuildRequest, BuilderError, Effort, Index, IndexParams, Residency, SearchParams, Searcher,
};
use kiln_datasets::Dataset;
use kiln_kernels::{Backend, Progress, RowsView};

use crate::answers::{QuerySet, answer_all, answer_in_batch, judged};
use crate::error::EvalError;
use crate::interleave::{Measurement, Task, measure_interleaved};
use crate::judge::Judge;
use crate::measure::Driver;
use crate::plan::{self, IndexSpec, Plan, PlanError, Setting};
use crate::provenance;
use crate::record::{Answers, BuildRecord, Machine, RunData, RunHeader, SCHEMA_VERSION, SettingRecord, Warmup};
use crate::store::{RunFolder, StoreError};
use crate::subject::Subject;

/// Bytes of an index's first page, which identifies its contents.
const PAGE: u64 = 4096;

/// Runs `plan` on `dataset`, resuming what its run folder already holds: settings that were measured and indexes that
/// were built are not done again. A setting whose search fails is kept as a failure, and the rest go on.
///
/// # Errors
/// A plan that does not fit the data set, a run folder that cannot be used or belongs to another run, an index that
/// cannot be built or opened.
pub fn run_bench<B: Backend>(
    plan: &Plan,
    dataset: &Dataset,
    backend: &B,
    progress: &dyn Progress,
) -> Result<RunData, EvalError> {
    plan.validate(dataset.base.len(), dataset.base.dim())?;
    let subject = Subject::new(plan, dataset)?;
    let mut folder = RunFolder::open(&plan.out)?;
    let machine = provenance::machine(folder.dir());
    match folder.header() {
        Some(header) => refuse_other_run(folder.dir(), header, plan, &subject, &machine)?,
        None => {
            let dataset = subject.record(plan, backend, progress)?;
            let (created, command) = (provenance::utc_now(), plan.command.clone());
            let (k, quick) = (plan.k, plan.quick);
            folder.begin(RunHeader { schema: SCHEMA_VERSION, created, command, machine, dataset, k, quick })?;
        }
    }
    let mut judge = None;
    for spec in &plan.indexes {
        let index = Candidate::of(spec, &subject, backend, &folder)?;
        let pending = index.pending(plan, &folder);
        if pending.is_empty() && folder.build(&index.key).is_some() {
            tracing::info!("{}: every setting is measured already", index.path.display());
            continue;
        }
        let searcher = index.ready(plan, &subject, backend, progress, &mut folder)?;
        let judge = match &mut judge {
            Some(judge) => judge,
            missing => missing.insert(subject.judge(plan, backend, progress)?),
        };
        let bench = IndexBench { plan, searcher: &searcher, queries: subject.queries.view(), judge };
        bench.measure(pending, &mut folder, progress)?;
    }
    Ok(folder.into_data()?)
}

/// Refuses to mix measurements of different things in one folder.
fn refuse_other_run(
    dir: &Path,
    header: &RunHeader,
    plan: &Plan,
    subject: &Subject<'_>,
    machine: &Machine,
) -> Result<(), StoreError> {
    let repeats = |quick: bool| (if quick { "quick" } else { "full" }).to_string();
    let (theirs, ours) = (&header.dataset, subject.dataset);
    let compared = [
        // By content: one file may go by several names.
        ("data set's fingerprint", theirs.fingerprint.clone(), ours.fingerprint.clone()),
        ("metric", theirs.metric.clone(), subject.metric.name().to_string()),
        ("k", header.k.to_string(), plan.k.to_string()),
        ("plan of repeats", repeats(header.quick), repeats(plan.quick)),
        ("CPU", header.machine.cpu.clone(), machine.cpu.clone()),
        ("program", program(&header.machine), program(machine)),
    ];
    match compared.into_iter().find(|(_, found, asked)| found != asked) {
        Some((what, found, asked)) => Err(StoreError::OtherRun { dir: dir.to_path_buf(), what, found, asked }),
        None => Ok(()),
    }
}

/// The program that measured: figures of two versions are not one run.
fn program(machine: &Machine) -> String {
    let commit = machine.commit.as_deref().unwrap_or("unknown commit");
    let dirty = if machine.dirty == Some(true) { ", changed" } else { "" };
    format!("kiln {} ({commit}{dirty})", machine.kiln_version)
}

/// An index of the plan before it is open.
struct Candidate {
    key: String,
    path: PathBuf,
    /// As asked for, or as found in the file.
    params: IndexParams,
    rows: u64,
    build: bool,
}

impl Candidate {
    fn of<B: Backend>(
        spec: &IndexSpec,
        subject: &Subject<'_>,
        backend: &B,
        folder: &RunFolder,
    ) -> Result<Self, EvalError> {
        let (dataset, rows) = (subject.dataset, subject.dataset.base.len());
        match spec {
            IndexSpec::Build(params) => {
                let key = plan::build_key(&dataset.fingerprint, subject.metric, params, &backend.describe());
                let path = folder.index_path(params.kind().name(), &key);
                Ok(Self { key, path, params: params.clone(), rows, build: true })
            }
            IndexSpec::Open(path) => {
                // From the drive: this reads what the index is, and only measuring needs it in memory.
                let searcher = Index::open(path, Residency::Ssd)?;
                refuse_foreign(&searcher, subject)?;
                let key = plan::opened_key(&dataset.fingerprint, &first_page(path)?);
                Ok(Self { key, path: path.clone(), params: searcher.meta().params.clone(), rows, build: false })
            }
        }
    }

    /// The settings that the folder does not hold yet.
    fn pending(&self, plan: &Plan, folder: &RunFolder) -> Vec<Setting> {
        let nlist = match &self.params {
            IndexParams::IvfPq(params) => Some(params.nlist),
            IndexParams::Vamana(_) => None,
        };
        let mut settings = plan.settings(&self.key, self.params.kind(), nlist, self.rows);
        settings.retain(|setting| !folder.is_measured(&setting.key));
        settings
    }

    /// Builds the index unless it is there, opens it, and records it.
    fn ready<B: Backend>(
        &self,
        plan: &Plan,
        subject: &Subject<'_>,
        backend: &B,
        progress: &dyn Progress,
        folder: &mut RunFolder,
    ) -> Result<Searcher, EvalError> {
        let recorded = folder.build(&self.key).is_some();
        let report = read_report(&self.path);
        // An index file has its name only when it is whole. One of which neither a report nor a record tells what it
        // cost is built again: a crash came between.
        let missing = !self.path.is_file() || (report.is_none() && !recorded);
        let (report, fresh) = if self.build && missing {
            let dataset = subject.dataset;
            let request = BuildRequest {
                source: dataset.base.as_ref(),
                dataset_name: dataset.name.clone(),
                dataset_fingerprint: dataset.fingerprint.clone(),
                metric: subject.metric,
                params: self.params.clone(),
                keep_dtype: false,
                out: &self.path,
            };
            (Some(kiln_builder::build(backend, &request, progress)?), true)
        } else {
            (report, false)
        };
        let searcher = Index::open(&self.path, plan.residency)?;
        if fresh || !recorded {
            // Parts that only some searches need are read by the first of them: the memory is counted after one. Should
            // it fail, the settings that fail with it say so.
            if let Some(&effort) = plan.efforts(searcher.kind(), searcher.nlist(), searcher.len()).first() {
                let _ = searcher.search(&subject.queries.view().slice(0..1), &SearchParams { k: plan.k, effort });
            }
            folder.add_build(self.record(&searcher, report)?)?;
        }
        Ok(searcher)
    }

    /// The record of an open index; without a report, what building it cost is unknown.
    fn record(&self, searcher: &Searcher, report: Option<BuildReport>) -> Result<BuildRecord, EvalError> {
        let length = std::fs::metadata(&self.path).map_err(unreadable(&self.path))?.len();
        if report.is_none() {
            tracing::warn!("{}: no build report lies beside it: its build times are unknown", self.path.display());
        }
        let unknown = BuildRecord::of_unknown_build(&self.key, searcher, length);
        Ok(match report {
            Some(report) => BuildRecord {
                device: report.device,
                threads: report.threads,
                stage_seconds: report.stage_seconds,
                total_seconds: report.total_seconds,
                cpu_seconds: report.cpu_seconds,
                peak_rss_bytes: report.peak_rss_bytes,
                ..unknown
            },
            None => unknown,
        })
    }
}

/// The report beside an index, where there is one that belongs to it.
fn read_report(index: &Path) -> Option<BuildReport> {
    let mut name = index.as_os_str().to_owned();
    name.push(".build.json");
    let report: BuildReport = serde_json::from_slice(&std::fs::read(name).ok()?).ok()?;
    (std::fs::metadata(index).ok()?.len() == report.index_bytes).then_some(report)
}

fn first_page(path: &Path) -> Result<Vec<u8>, StoreError> {
    let mut page = Vec::new();
    let read = File::open(path).and_then(|file| file.take(PAGE).read_to_end(&mut page));
    read.map_err(unreadable(path))?;
    Ok(page)
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::Read { path, source }
}

/// Refuses an index of other data, or of another metric: its recall here would mean nothing.
fn refuse_foreign(searcher: &Searcher, subject: &Subject<'_>) -> Result<(), PlanError> {
    let (meta, dataset) = (searcher.meta(), subject.dataset);
    if meta.dataset_fingerprint == dataset.fingerprint && meta.metric == subject.metric {
        return Ok(());
    }
    Err(PlanError::ForeignIndex {
        path: searcher.path().display().to_string(),
        found: format!("{} ({}, {})", meta.dataset, meta.metric, meta.dataset_fingerprint),
        asked: format!("{} ({}, {})", dataset.name, subject.metric, dataset.fingerprint),
    })
}

/// An open index with the queries to measure it by.
struct IndexBench<'a> {
    plan: &'a Plan,
    searcher: &'a Searcher,
    queries: RowsView<'a>,
    judge: &'a Judge<'a>,
}

impl IndexBench<'_> {
    /// Judges and measures settings, and keeps each in the folder as soon as it is complete.
    fn measure(&self, pending: Vec<Setting>, folder: &mut RunFolder, progress: &dyn Progress) -> Result<(), EvalError> {
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
        let (driver, repeats) = (Driver::new(set.len()), self.plan.repeats());
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
            let answers = answer_all(self.searcher, &self.queries, &params)?;
            let differs = match self.plan.batch.is_empty() {
                true => None,
                false => {
                    let threads = rayon::current_num_threads();
                    let batch = answer_in_batch(self.searcher, &self.queries, &params, threads)?;
                    answers.first_difference(&batch)
                }
            };
            Ok::<_, BuilderError>((answers, differs))
        }));
        Ok(match answered {
            Ok(Ok((_, Some(query)))) => {
                return Err(EvalError::BatchDiffers {
                    index: self.searcher.path().to_path_buf(),
                    query,
                    params: plan::named(&effort.by_name()),
                });
            }
            Ok(Ok((answers, None))) => Ok(judged(&answers.stats, self.judge.judge(answers.ids.view())?)),
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
        SettingRecord {
            key: setting.key.clone(),
            build_key: setting.build_key.clone(),
            params: setting.effort.by_name(),
            mode: setting.mode,
            residency: self.plan.residency.name().to_string(),
            k: self.plan.k,
            warmup,
            runs,
            answers,
            failure,
        }
    }
}
