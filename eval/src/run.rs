//! A benchmark from beginning to end: build what is missing, measure what is missing, keep everything.
//!
//! In: a [`Plan`], a data set, a backend. Out: the run folder, as [`RunData`]. Indexes are measured one after
//! another, and each in one place after another, so that only one is in memory and none disturbs what the page cache
//! holds of another; the settings of one index in one place are interleaved.

use std::path::Path;

use kiln_builder::{Index, SearchParams, Searcher};
use kiln_datasets::Dataset;
use kiln_kernels::{Backend, Progress};

use crate::budget::Budget;
use crate::candidate::{Built, Candidate, Left, unreadable};
use crate::conditions::Conditions;
use crate::error::EvalError;
use crate::held_out::HeldOut;
use crate::index_bench::{IndexBench, NO_TIME, failed};
use crate::io_state::Placement;
use crate::judge::Judge;
use crate::numa;
use crate::on_device::OnDevice;
use crate::open_loop::Open;
use crate::peer::{PeerSpec, PeerStage, Peers};
use crate::plan::{Engine, Plan, Setting};
use crate::provenance;
use crate::record::{Machine, RunData, RunHeader, SCHEMA_VERSION, SettingRecord, Skip};
use crate::store::{self, RunFolder, StoreError};
use crate::subject::Subject;

/// Runs `plan` on `dataset`, resuming what its run folder already holds: settings that were measured and indexes that
/// were built are not done again. A setting whose search fails is kept as a failure, and the rest go on; so is a peer
/// that crashes, hangs or takes too much memory. Settings for which the plan's time does not suffice are kept as skipped.
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
    let budget = Budget::new(plan.budget);
    plan.validate(dataset.base.len(), dataset.base.dim())?;
    let subject = Subject::new(plan, dataset)?;
    let mut folder = RunFolder::open(&plan.out)?;
    let machine = provenance::machine(folder.dir());
    match folder.header() {
        Some(header) => refuse_other_run(folder.dir(), header, plan, &subject, &machine)?,
        None => {
            let dataset = subject.record(plan, backend, progress)?;
            let (created, command) = (provenance::utc_now(), plan.command.clone());
            folder.begin(RunHeader {
                schema: SCHEMA_VERSION,
                created,
                command,
                machine,
                dataset,
                k: plan.k,
                quick: plan.quick,
                drive_ceiling: None,
                noise: None,
                held_out: plan.held_out,
                peer_overhead: None,
            })?;
        }
    }
    let mut judge = None;
    let mut peers = Peers::new(&subject, plan);
    // What is measured already takes no part of the time.
    let mut todo = Vec::with_capacity(plan.engines.len());
    for engine in &plan.engines {
        match engine {
            Engine::Kiln { index, search } => {
                let index = Candidate::of(index, search, &subject, backend, &folder)?;
                let left = index.left(plan, &subject, &folder)?;
                match left.is_empty() {
                    true => tracing::info!("{}: every setting is measured already", index.path.display()),
                    false => todo.push(Todo::Kiln(index, left)),
                }
            }
            Engine::Peer(peer) => match peers.pending(peer, plan, &folder).is_empty() {
                true => tracing::info!("{}: every setting is measured already", peer.name),
                false => todo.push(Todo::Peer(peer)),
            },
        }
    }
    let engines = todo.len();
    for (number, engine) in todo.into_iter().enumerate() {
        let budget = budget.share(engines - number);
        match engine {
            Todo::Kiln(index, mut left) => {
                // Where the plan names it twice.
                left.settings.retain(|setting| !folder.is_measured(&setting.key, plan.prune));
                left.unbuilt &= folder.build(&index.key).is_none();
                if left.is_empty() {
                    continue;
                }
                if budget.is_spent() {
                    give_up(&mut folder, plan, &left.settings, Some(Skip::TimeBudget), NO_TIME)?;
                    continue;
                }
                let mut built = index.built(&subject, backend, progress, &folder)?;
                let budget = budget.renewed();
                let judge = judged_by(&mut judge, plan, &subject, backend, progress)?;
                let mut stage = Stage { plan, subject: &subject, backend, judge, folder: &mut folder, progress };
                let places = left.places(plan);
                let all = places.len();
                for (number, (placement, here)) in places.into_iter().enumerate() {
                    stage.measure(&index, built.as_mut(), placement, here, budget.share(all - number))?;
                }
            }
            Todo::Peer(peer) => {
                let pending = peers.pending(peer, plan, &folder);
                if pending.is_empty() {
                    continue;
                }
                let judge = judged_by(&mut judge, plan, &subject, backend, progress)?;
                peers.measure(peer, pending, &mut PeerStage { plan, judge, folder: &mut folder, progress, budget })?;
            }
        }
    }
    Ok(folder.into_data()?)
}

/// Refuses a plan that cannot be run on `dataset`, without running anything: what [`run_bench`] would refuse.
///
/// # Errors
/// A plan that does not fit the data set, or a run folder that holds another run.
pub fn check(plan: &Plan, dataset: &Dataset) -> Result<(), EvalError> {
    plan.validate(dataset.base.len(), dataset.base.dim())?;
    let subject = Subject::new(plan, dataset)?;
    match store::read_header(&plan.out)? {
        Some(header) => Ok(refuse_other_run(&plan.out, &header, plan, &subject, &provenance::machine(&plan.out))?),
        None => Ok(()),
    }
}

/// The judge of a run, made when it is first needed.
fn judged_by<'j, 'd, B: Backend>(
    judge: &'j mut Option<Judge<'d>>,
    plan: &Plan,
    subject: &Subject<'d>,
    backend: &B,
    progress: &dyn Progress,
) -> Result<&'j Judge<'d>, EvalError> {
    match judge {
        Some(judge) => Ok(judge),
        missing => Ok(missing.insert(subject.judge(plan, backend, progress)?)),
    }
}

/// Keeps settings as not measured, on purpose or not.
fn give_up(
    folder: &mut RunFolder,
    plan: &Plan,
    pending: &[Setting],
    skip: Option<Skip>,
    problem: &str,
) -> Result<(), EvalError> {
    for setting in pending {
        folder.add_setting(SettingRecord { skip, ..failed(setting, plan.k, problem) })?;
    }
    Ok(())
}

/// What all measurements of a run share.
struct Stage<'a, 'd, 'j, B> {
    plan: &'a Plan,
    subject: &'a Subject<'d>,
    backend: &'a B,
    judge: &'a Judge<'j>,
    folder: &'a mut RunFolder,
    progress: &'a dyn Progress,
}

impl<B: Backend> Stage<'_, '_, '_, B> {
    /// Measures settings of one index in one place. Conditions that cannot be had here, and memory that the index does
    /// not fit in, cost these settings and not the run.
    fn measure(
        &mut self,
        index: &Candidate,
        built: Option<&mut Built>,
        placement: Placement,
        mut pending: Vec<Setting>,
        budget: Budget,
    ) -> Result<(), EvalError> {
        if placement != Placement::Memory {
            self.measure_drive(&index.path)?;
        }
        let conditions = match Conditions::establish(&placement, &index.path) {
            Ok(conditions) => conditions,
            Err(problem) => return self.give_up(&placement, &pending, &problem),
        };
        // The memory of an index is touched first where it is to be searched from.
        let _near = numa::prefer_searching_node();
        let searcher = match Index::open_with(&index.path, &placement.open_params()) {
            Ok(searcher) => searcher,
            Err(error) if placement.memory().is_some() => {
                return self.give_up(&placement, &pending, &error.to_string());
            }
            Err(error) => return Err(error.into()),
        };
        let queries = self.subject.queries.view();
        if built.as_ref().is_some_and(|built| built.fresh) || self.folder.build(&index.key).is_none() {
            // Parts that only some searches need are read by the first of them: the memory is counted after one. Should
            // it fail, the settings that fail with it say so.
            if let Some(&effort) =
                self.plan.efforts(&index.search, searcher.kind(), searcher.nlist(), searcher.len()).first()
            {
                let _ = searcher.search(&queries.slice(0..1), &SearchParams { k: self.plan.k, effort });
            }
            self.folder.add_build(index.record(&searcher, built.as_ref().map(|built| &built.report))?)?;
            if let Some(built) = built {
                built.fresh = false;
            }
        }
        let index_bytes = std::fs::metadata(&index.path).map_err(unreadable(&index.path))?.len();
        let device = self.on_device(&searcher, &mut pending)?;
        let bench = IndexBench {
            plan: self.plan,
            searcher: &searcher,
            device: device.as_ref(),
            placement,
            conditions: &conditions,
            index_bytes,
            queries: queries.clone(),
            judge: self.judge,
            budget,
        };
        if !pending.is_empty() {
            bench.measure(pending, self.folder, self.progress)?;
        }
        let Some(open_loop) = &self.plan.open_loop else { return Ok(()) };
        if budget.is_spent() {
            tracing::warn!("{}: no load is offered: the time budget is spent", index.path.display());
            return Ok(());
        }
        let held_out = self.plan.held_out.map(|held_out| held_out.mask(queries.len()));
        let asked = index.asked(placement, self.plan.k, held_out.as_deref());
        let Some(due) = open_loop.due(&asked, self.folder)? else { return Ok(()) };
        let open = Open {
            searcher: &searcher,
            queries,
            efforts: &self.plan.efforts(&index.search, searcher.kind(), searcher.nlist(), searcher.len()),
            seed: self.plan.seed,
        };
        open_loop.measure(due, &open, self.folder, self.progress)
    }

    /// The index on the device, where settings ask for one. Where that cannot be, they are kept as failures, and the others
    /// go on.
    fn on_device<'s>(
        &mut self,
        searcher: &'s Searcher,
        pending: &mut Vec<Setting>,
    ) -> Result<Option<OnDevice<'s>>, EvalError>
    where
        Self: 's,
    {
        let (asked, others): (Vec<Setting>, _) = pending.drain(..).partition(|setting| setting.mode.is_on_device());
        *pending = others;
        if asked.is_empty() {
            return Ok(None);
        }
        match OnDevice::open(searcher, self.backend) {
            Ok(device) => {
                pending.extend(asked);
                Ok(Some(device))
            }
            Err(problem) => {
                tracing::error!("{}: not searched on a device: {problem}", searcher.path().display());
                give_up(self.folder, self.plan, &asked, None, &problem)?;
                Ok(None)
            }
        }
    }

    fn give_up(&mut self, placement: &Placement, pending: &[Setting], problem: &str) -> Result<(), EvalError> {
        tracing::error!("{}: not measured: {problem}", placement.words());
        give_up(self.folder, self.plan, pending, None, problem)
    }

    /// Measures once a run what the drive below an index can do.
    fn measure_drive(&mut self, index: &Path) -> Result<(), StoreError> {
        if self.folder.header().is_some_and(|header| header.drive_ceiling.is_some()) {
            return Ok(());
        }
        self.progress.stage("measure the drive", 1);
        let ceiling = provenance::drive_ceiling(index);
        self.progress.advance(1);
        match ceiling {
            Ok(ceiling) => {
                let rate = ceiling.reads_per_second;
                tracing::info!("the drive gives {rate:.0} random reads of 4 KiB a second ({})", ceiling.tool);
                self.folder.set_drive_ceiling(ceiling)
            }
            Err(why) => {
                tracing::warn!("{}: what the drive can do is not measured: {why}", index.display());
                Ok(())
            }
        }
    }
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
    let held_out = |held_out: Option<HeldOut>| match held_out {
        Some(HeldOut { fraction, seed }) => format!("{fraction} by seed {seed}"),
        None => "none".to_string(),
    };
    let (theirs, ours) = (&header.dataset, subject.dataset);
    let compared = [
        // By content: one file may go by several names.
        ("data set's fingerprint", theirs.fingerprint.clone(), ours.fingerprint.clone()),
        ("metric", theirs.metric.clone(), subject.metric.name().to_string()),
        ("k", header.k.to_string(), plan.k.to_string()),
        ("number of queries", theirs.queries.to_string(), subject.queries.len().to_string()),
        ("plan of repeats", repeats(header.quick), repeats(plan.quick)),
        ("held-out part", held_out(header.held_out), held_out(plan.held_out)),
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

/// What a run has to do.
#[expect(clippy::large_enum_variant, reason = "a plan names a few")]
enum Todo<'a> {
    Kiln(Candidate, Left),
    Peer(&'a PeerSpec),
}
