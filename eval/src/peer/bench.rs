//! One peer from beginning to end: built, its settings judged, measured side by side, and kept.
//!
//! In: a [`PeerSpec`]. Out: a [`BuildRecord`] and a [`SettingRecord`] for every setting, in the run folder as soon as it is
//! complete, by the same rules as Kiln's own: turns that alternate, repeats until there are enough, pruning, a budget.
//! Only one peer is alive at a time.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kiln_kernels::{Metric, Progress};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::PeerSpec;
use super::child::Lost;
use super::session::{Cost, Passes, Session, Turn};
use super::vectors::{Vectors, numpy_name};
use crate::budget::Budget;
use crate::error::EvalError;
use crate::index_bench::{NO_TIME, NOISE_SHARE, recalls};
use crate::interleave::{Measurement, Unmeasured, thin};
use crate::judge::Judge;
use crate::measure::agree;
use crate::noise::NoiseCheck;
use crate::plan::{self, Plan};
use crate::prune::{Probed, Sifted, sift, spread_out};
use crate::record::{Answers, BuildRecord, Mode, RunSample, SettingRecord, Skip, Warmup};
use crate::stats;
use crate::store::{RunFolder, StoreError};
use crate::subject::Subject;

/// Times that a process is started for one build at most: each loss costs a setting, and each start a build.
const STARTS: usize = 4;

/// What a peer's measurement needs of the run.
pub(crate) struct PeerStage<'a, 'j> {
    pub plan: &'a Plan,
    pub judge: &'a Judge<'j>,
    pub folder: &'a mut RunFolder,
    pub progress: &'a dyn Progress,
    /// The time that this peer may take.
    pub budget: Budget,
}

/// All peers of a run.
pub(crate) struct Peers<'a> {
    fingerprint: &'a str,
    pub(super) metric: Metric,
    pub(super) vectors: Vectors<'a>,
    /// Logs, vectors, and what processes write.
    pub(super) folder: PathBuf,
}

/// What is left to do of one peer.
pub(crate) struct Pending {
    build_key: String,
    settings: Vec<PeerSetting>,
    built: bool,
}

impl Pending {
    /// Whether nothing is.
    pub(crate) fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.built
    }
}

/// One search setting in one mode.
#[derive(Debug, Clone)]
struct PeerSetting {
    key: String,
    params: BTreeMap<String, Value>,
    mode: Mode,
}

impl<'a> Peers<'a> {
    pub(crate) fn new(subject: &'a Subject<'_>, plan: &Plan) -> Self {
        let folder = plan.out.join("peers");
        // Processes may have another working directory than this one.
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        let vectors = Vectors::new(folder.join("vectors"), subject.dataset.base.as_ref(), &subject.queries);
        Self { fingerprint: &subject.dataset.fingerprint, metric: subject.metric, vectors, folder }
    }

    /// The settings that the folder does not hold yet.
    pub(crate) fn pending(&self, spec: &PeerSpec, plan: &Plan, folder: &RunFolder) -> Pending {
        let build_key = spec.build_key(self.fingerprint, self.metric);
        // Whether a library uses a device is its own matter.
        let modes: Vec<Mode> = plan.modes().into_iter().filter(|mode| !mode.is_on_device()).collect();
        let each = spec.searches.iter().flat_map(|params| modes.iter().map(move |&mode| (params, mode)));
        let settings = each.map(|(params, mode)| PeerSetting {
            key: plan.key_of(&build_key, params, mode, &format!("peer,{}", spec.residency.name())),
            params: params.clone(),
            mode,
        });
        let settings: Vec<PeerSetting> =
            settings.filter(|setting| !folder.is_measured(&setting.key, plan.prune)).collect();
        let built = folder.build(&build_key).is_some();
        Pending { build_key, settings, built }
    }

    /// Measures what is pending. Whatever the process does is kept as the fate of settings.
    ///
    /// # Errors
    /// When records or the vectors cannot be written, or answers cannot be judged.
    pub(crate) fn measure(
        &mut self,
        spec: &PeerSpec,
        pending: Pending,
        stage: &mut PeerStage<'_, '_>,
    ) -> Result<(), EvalError> {
        std::fs::create_dir_all(&self.folder).map_err(|source| StoreError::Write {
            path: self.folder.clone(),
            action: "create the folder",
            source,
        })?;
        let available = stage.folder.header().map_or(u64::MAX, |header| {
            header.machine.memory_limit_bytes.unwrap_or(u64::MAX).min(header.machine.memory_bytes.max(1))
        });
        if let (Some(command), Some(None)) =
            (&stage.plan.noop, stage.folder.header().map(|header| header.peer_overhead.as_ref()))
            && !stage.budget.is_spent()
        {
            self.measure_overhead(command, stage, available)?;
        }
        let name: String = spec.name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
        let stem = format!("{name}-{}", &pending.build_key[..8]);
        let (work, log) = (self.folder.join(&stem), self.folder.join(format!("{stem}.log")));
        let Pending { build_key, settings, .. } = pending;
        let (metric, vectors) = (self.metric.name(), &mut self.vectors);
        let mut one = OnePeer {
            spec,
            build_key,
            metric,
            vectors,
            work,
            log,
            available,
            session: None,
            starts: 0,
            hopeless: None,
            serving_bytes: 0,
            kept: Vec::new(),
        };
        let outcome = one.measure(settings, stage);
        if let Some(session) = one.session.take() {
            one.part(session, stage)?;
        }
        let _ = std::fs::remove_dir_all(&one.work);
        outcome
    }
}

/// One peer, while it is measured.
struct OnePeer<'a, 'v> {
    spec: &'a PeerSpec,
    build_key: String,
    metric: &'a str,
    vectors: &'a mut Vectors<'v>,
    work: PathBuf,
    log: PathBuf,
    /// Bytes of memory of this machine.
    available: u64,
    session: Option<Session>,
    starts: usize,
    /// Why it is not started again.
    hopeless: Option<String>,
    serving_bytes: u64,
    /// What the living process has measured: worth nothing if it turns out to have changed the vectors.
    kept: Vec<SettingRecord>,
}

/// A setting that has answered.
struct Answered {
    setting: PeerSetting,
    /// Which of the processes answered: one that is started anew has built anew, and may answer otherwise.
    start: usize,
    answers: Answers,
    warmup: Warmup,
    runs: Vec<RunSample>,
}

impl OnePeer<'_, '_> {
    fn measure(&mut self, settings: Vec<PeerSetting>, stage: &mut PeerStage<'_, '_>) -> Result<(), EvalError> {
        stage.progress.stage(&format!("measure {}", self.spec.name), settings.len() as u64);
        if stage.budget.is_spent() {
            for setting in &settings {
                self.leave_out(setting, Some(Skip::TimeBudget), NO_TIME, stage)?;
            }
            return Ok(());
        }
        if let Err(reason) = self.session(stage)? {
            if settings.is_empty() {
                tracing::error!("{}: {reason}", self.spec.name);
            }
            for setting in &settings {
                self.leave_out(setting, None, &reason, stage)?;
            }
            return Ok(());
        }
        stage.budget = stage.budget.renewed();
        let answered = self.probe(settings, stage)?;
        if !answered.is_empty() && stage.folder.header().is_some_and(|header| header.noise.is_none()) {
            self.check_noise(&answered[answered.len() / 2], stage)?;
        }
        let worth = self.worth_measuring(answered, stage)?;
        self.measure_side_by_side(worth, stage)?;
        stage.progress.finish();
        Ok(())
    }

    /// The living process, started if there is none; or why there is none.
    fn session(&mut self, stage: &mut PeerStage<'_, '_>) -> Result<Result<&mut Session, String>, EvalError> {
        if self.session.is_none() && self.hopeless.is_none() {
            if self.starts == STARTS {
                self.hopeless = Some(format!("it was lost {STARTS} times, and is not started again"));
            } else {
                self.starts += 1;
                let (spec, work, log) = (self.spec, &self.work, &self.log);
                match Session::start(spec, self.metric, self.vectors, work, log, self.available)? {
                    Ok((session, cost)) => {
                        self.serving_bytes = session.serving_bytes();
                        let now = self.build_record(&session, &cost);
                        match stage.folder.build(&self.build_key).map(|then| then.device.clone()) {
                            Some(then) if then != now.device => {
                                let other = format!("it is {} now, and this run has measured {then}", now.device);
                                self.hopeless = Some(format!("{other}: choose another --out"));
                                session.farewell();
                                return Ok(Err(self.hopeless.clone().unwrap_or_default()));
                            }
                            Some(_) => (),
                            None => stage.folder.add_build(now)?,
                        }
                        tracing::info!("{} {}: built in {:.1} s", spec.name, cost.version, cost.built.seconds);
                        self.session = Some(session);
                    }
                    Err(lost) => self.hopeless = Some(self.tampering().unwrap_or(lost.reason)),
                }
            }
        }
        Ok(self.session.as_mut().ok_or_else(|| self.hopeless.clone().unwrap_or_default()))
    }

    /// One turn of the living process. One that is lost is parted from.
    fn turn(&mut self, turn: &Turn<'_>, stage: &mut PeerStage<'_, '_>) -> Result<Result<Passes, String>, EvalError> {
        let outcome = match self.session(stage)? {
            Ok(session) => session.turn(turn),
            Err(reason) => return Ok(Err(reason)),
        };
        match outcome {
            Ok(passes) => {
                self.serving_bytes = self.session.as_ref().map_or(0, Session::serving_bytes);
                Ok(Ok(passes))
            }
            Err(Lost { reason, gone }) => {
                if gone && let Some(session) = self.session.take() {
                    self.part(session, stage)?;
                }
                Ok(Err(reason))
            }
        }
    }

    /// Ends a process, and takes back what it has measured if the vectors are not what they were.
    fn part(&mut self, session: Session, stage: &mut PeerStage<'_, '_>) -> Result<(), EvalError> {
        session.farewell();
        let kept = std::mem::take(&mut self.kept);
        if let Some(reason) = self.tampering() {
            tracing::error!("{}: {reason}", self.spec.name);
            for record in kept {
                let failure = Some(reason.clone());
                let (runs, answers) = (Vec::new(), Answers::default());
                stage.folder.add_setting(SettingRecord { runs, answers, failure, skip: None, ..record })?;
            }
            self.hopeless.get_or_insert(reason);
        }
        Ok(())
    }

    /// What a process did to the vectors, if it did something. The next one has them as they were.
    fn tampering(&mut self) -> Option<String> {
        let changed = self.vectors.changed()?;
        let name = changed.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Some(format!("it changed {name}, which it was given to read: what it measured is not comparable"))
    }

    /// Has every setting answered once, spread over all of them first.
    fn probe(&mut self, settings: Vec<PeerSetting>, stage: &mut PeerStage<'_, '_>) -> Result<Vec<Answered>, EvalError> {
        let mut answered: Vec<(usize, Answered)> = Vec::with_capacity(settings.len());
        for place in spread_out(settings.len()) {
            let setting = &settings[place];
            if stage.budget.is_spent() {
                self.leave_out(setting, Some(Skip::TimeBudget), NO_TIME, stage)?;
                continue;
            }
            if let Some(one) = self.answer(setting.clone(), stage)? {
                answered.push((place, one));
            }
        }
        answered.sort_by_key(|(place, _)| *place);
        Ok(answered.into_iter().map(|(_, answered)| answered).collect())
    }

    /// Has one setting answer, and judges it. `None`: it could not, and is kept as such.
    fn answer(&mut self, setting: PeerSetting, stage: &mut PeerStage<'_, '_>) -> Result<Option<Answered>, EvalError> {
        let repeats = stage.plan.repeats;
        let warm_up = (3.0 * repeats.window_seconds).min(repeats.warmup_seconds);
        let turn = Turn {
            params: &setting.params,
            mode: setting.mode,
            k: stage.plan.k,
            warm_up,
            passes: 1,
            seconds: repeats.turn_seconds() / 2.0,
            answers: true,
        };
        let (runs, ids) = match self.turn(&turn, stage)? {
            Ok(Passes { runs, ids: Some(ids), .. }) => (runs, ids),
            Ok(_) => return self.leave_out(&setting, None, "it gave no answers", stage).map(|()| None),
            Err(reason) => return self.leave_out(&setting, None, &reason, stage).map(|()| None),
        };
        let judgement = stage.judge.judge(ids.view())?;
        let answers = Answers {
            strict_hits: judgement.strict_hits,
            id_hits: judgement.id_hits,
            ann_hits: judgement.ann_hits,
            possible: judgement.possible,
            ..Answers::default()
        };
        let rates: Vec<f64> = runs.iter().map(|run| 1.0 / run.seconds).collect();
        let seconds = warm_up + runs.iter().map(|run| run.seconds).sum::<f64>();
        // Of fewer passes nobody can say: they are long, and so is the warm-up.
        let warmup = Warmup { seconds, settled: rates.len() < 3 || agree(&rates) };
        Ok(Some(Answered { setting, start: self.starts, answers, warmup, runs }))
    }

    /// Measures one setting against itself, where no index of Kiln's was measured before.
    fn check_noise(&mut self, of: &Answered, stage: &mut PeerStage<'_, '_>) -> Result<(), EvalError> {
        let mut halves = [Vec::new(), Vec::new()];
        let (repeats, budget) = (stage.plan.repeats, stage.budget.share(NOISE_SHARE));
        while !halves.iter().all(|half: &Vec<RunSample>| repeats.satisfied(half)) && !budget.is_spent() {
            for half in &mut halves {
                match self.turn(&next_turn(&of.setting, stage.plan), stage)? {
                    Ok(passes) => half.extend(passes.runs),
                    // Its own turn will tell why.
                    Err(_) => return Ok(()),
                }
            }
        }
        let [first, second] = halves.map(|half| half.iter().map(|run| run.seconds).collect());
        let (params, mode) = (of.setting.params.clone(), of.setting.mode.name());
        let check = NoiseCheck { index: self.spec.name.clone(), params, mode, first, second };
        match check.noise() {
            Some(noise) if noise.noisy => tracing::warn!("this machine is noisy: {noise}"),
            Some(noise) => tracing::info!("noise check: {noise}"),
            None => return Ok(()),
        }
        Ok(stage.folder.set_noise(check)?)
    }

    /// Leaves out what cannot be on the frontier, and what there is no time for.
    fn worth_measuring(
        &mut self,
        answered: Vec<Answered>,
        stage: &mut PeerStage<'_, '_>,
    ) -> Result<Vec<Answered>, EvalError> {
        let (plan, modes) = (stage.plan, stage.plan.modes());
        let mask = plan.held_out.map(|held_out| held_out.mask(self.vectors.queries()));
        let probed: Vec<Probed> = (answered.iter())
            .map(|one| {
                let seconds: Vec<f64> = one.runs.iter().map(|run| run.seconds).collect();
                let pass = stats::median(&seconds).unwrap_or(0.0).max(1e-9);
                Probed {
                    name: plan::named(&one.setting.params),
                    group: modes.iter().position(|&mode| mode == one.setting.mode).unwrap_or(0),
                    recalls: recalls(&one.answers, mask.as_deref()),
                    qps: self.vectors.queries() as f64 / pass,
                    cost_seconds: plan.repeats.cost_seconds(pass),
                }
            })
            .collect();
        let noise = stage.folder.header().and_then(|header| header.noise.as_ref()?.noise());
        let sifted = sift(&probed, plan.prune, noise.map_or(0.0, |noise| noise.spread), stage.budget.left());
        let mut worth = Vec::with_capacity(answered.len());
        for (one, sifted) in answered.into_iter().zip(sifted) {
            match sifted {
                // What the probe timed was for the probe: it is measured anew.
                Sifted::Worth => worth.push(Answered { runs: Vec::new(), ..one }),
                Sifted::LeftOut(skip, reason) => self.leave_out(&one.setting, Some(skip), &reason, stage)?,
            }
        }
        Ok(worth)
    }

    fn measure_side_by_side(
        &mut self,
        mut pending: Vec<Answered>,
        stage: &mut PeerStage<'_, '_>,
    ) -> Result<(), EvalError> {
        let repeats = stage.plan.repeats;
        let mut rng = ChaCha8Rng::seed_from_u64(stage.plan.seed);
        while !pending.is_empty() {
            pending.shuffle(&mut rng);
            let mut unfinished = Vec::with_capacity(pending.len());
            for mut one in pending {
                if stage.budget.is_spent() {
                    let (runs, needed) = (one.runs.len(), repeats.min_runs);
                    let late = Unmeasured::OutOfTime { runs, needed }.to_string();
                    self.leave_out(&one.setting, Some(Skip::TimeBudget), &late, stage)?;
                    continue;
                }
                // Starts it anew where it was lost.
                if self.session(stage)?.is_ok() && one.start != self.starts {
                    if let Some(again) = self.answer(one.setting, stage)? {
                        unfinished.push(Answered { runs: Vec::new(), ..again });
                    }
                    continue;
                }
                match self.turn(&next_turn(&one.setting, stage.plan), stage)? {
                    Ok(passes) => {
                        RunSample::add_turn(&mut one.runs, passes.runs);
                        if repeats.satisfied(&one.runs) {
                            self.keep(one, stage)?;
                        } else {
                            unfinished.push(one);
                        }
                    }
                    Err(reason) => self.leave_out(&one.setting, None, &reason, stage)?,
                }
            }
            pending = unfinished;
        }
        Ok(())
    }

    fn keep(&mut self, one: Answered, stage: &mut PeerStage<'_, '_>) -> Result<(), EvalError> {
        let Answered { setting, answers, warmup, runs, .. } = one;
        let Measurement { warmup, runs } = thin(Measurement { warmup, runs });
        let record = SettingRecord { warmup, runs, answers, ..self.unmeasured(&setting, stage.plan) };
        // Only the key and the parameters are needed to take it back.
        self.kept.push(SettingRecord { runs: Vec::new(), answers: Answers::default(), ..record.clone() });
        stage.folder.add_setting(record)?;
        stage.progress.advance(1);
        Ok(())
    }

    fn leave_out(
        &mut self,
        setting: &PeerSetting,
        skip: Option<Skip>,
        reason: &str,
        stage: &mut PeerStage<'_, '_>,
    ) -> Result<(), EvalError> {
        if skip.is_none() {
            let (name, params) = (&self.spec.name, plan::named(&setting.params));
            tracing::error!("{name}, {params}, {}: {reason}", setting.mode.name());
        }
        let failure = Some(reason.to_string());
        let record = SettingRecord { failure, skip, ..self.unmeasured(setting, stage.plan) };
        if skip == Some(Skip::Pruned) {
            // By what this process has shown: worth as much as that.
            self.kept.push(record.clone());
        }
        stage.folder.add_setting(record)?;
        stage.progress.advance(1);
        Ok(())
    }

    fn unmeasured(&self, setting: &PeerSetting, plan: &Plan) -> SettingRecord {
        let (key, params) = (setting.key.as_str(), setting.params.clone());
        SettingRecord {
            residency: self.spec.residency.name().to_string(),
            serving_bytes: Some(self.serving_bytes).filter(|&bytes| bytes > 0),
            ..SettingRecord::unmeasured(key, self.build_key.as_str(), params, setting.mode, plan.k)
        }
    }

    fn build_record(&self, session: &Session, cost: &Cost) -> BuildRecord {
        BuildRecord {
            key: self.build_key.clone(),
            index: self.spec.name.clone(),
            path: self.spec.command.join(" "),
            params: self.spec.build.clone(),
            dtype: numpy_name(session.files.dtype).to_string(),
            device: format!("{} {}", self.spec.name, cost.version),
            threads: self.spec.threads,
            stage_seconds: vec![("build".to_string(), cost.built.seconds)],
            total_seconds: cost.built.seconds,
            cpu_seconds: cost.cpu_seconds,
            peak_rss_bytes: cost.peak_rss_bytes,
            index_bytes: cost.built.index_bytes.unwrap_or(0),
            serving_bytes: session.serving_bytes(),
        }
    }
}

/// A turn of measured passes.
fn next_turn<'s>(setting: &'s PeerSetting, plan: &Plan) -> Turn<'s> {
    let (params, mode) = (&setting.params, setting.mode);
    Turn { params, mode, k: plan.k, warm_up: 0.0, passes: 1, seconds: plan.repeats.turn_seconds(), answers: false }
}
