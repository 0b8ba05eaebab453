//! Making units, seeing how far they are, and writing the index from the last.

use std::ops::{Range, RangeInclusive};
use std::path::Path;

use kiln_datasets::{DatasetError, RowSource};
use kiln_kernels::{Backend, DType, Progress, Rows};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::{UnitPlan, WorkPlace};
use crate::build::{BuildReport, BuildRequest, Built, DurableReport, beside, finish};
use crate::durable::{Lock, Store};
use crate::error::BuilderError;
use crate::file::inspect::{inspect, verify};
use crate::file::writer::IndexWriter;
use crate::resources::Stopwatch;
use crate::vamana::external::units::{Stage, Standing, Wanted};
use crate::vamana::external::{Build, Scope};

/// What a process does of a build that it shares with others.
pub struct Units<'a, B> {
    /// Where the units lie.
    pub place: &'a WorkPlace,
    /// The plan of that place.
    pub plan: &'a UnitPlan,
    /// What computes.
    pub backend: &'a B,
    /// Is told how far the unit at hand is.
    pub progress: &'a dyn Progress,
    /// Whether to stop after the unit at hand.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// Which units to make, as far as they are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All that the index needs, stage after stage.
    Everything,
    /// One that can be made now; several processes choose different ones as a rule.
    Next,
    /// All of a stage.
    Stage(String),
    /// Those of a stage with these numbers.
    Numbers(String, RangeInclusive<u32>),
    /// Every `of`-th of a stage, from `index` on: all of them by `of` processes.
    Share {
        /// The stage.
        stage: String,
        /// Number of this process, from 0.
        index: u32,
        /// How many processes there are.
        of: u32,
    },
}

/// What came of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitsMade {
    /// Units that it made.
    pub made: usize,
    /// Units that were there before.
    pub there: usize,
    /// The stage, where it was one.
    pub stage: Option<&'static str>,
}

/// How far a build is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnitStatus {
    /// Stages in order.
    pub stages: Vec<StageStatus>,
    /// Whether the index can be written.
    pub complete: bool,
    /// Bytes of all units that are there.
    pub bytes: u64,
    /// Bytes of memory that a machine keeps to.
    pub memory_budget: u64,
}

/// How far a stage is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageStatus {
    /// Its name.
    pub stage: &'static str,
    /// How many units it has; of `leaves` it is known once `assign` is finished.
    pub units: Option<u32>,
    /// Numbers of those that are not there.
    pub missing: Vec<u32>,
    /// Whether anything that is missing is made from it, or the index is. What is not needed may be missing.
    pub needed: bool,
    /// Whether those that are missing can be made now.
    pub ready: bool,
}

impl<B: Backend> Units<'_, B> {
    /// Makes units from the rows of `source`, the data set of the plan with this fingerprint.
    ///
    /// # Errors
    /// Another data set than the plan's, another instruction set; [`BuilderError::Missing`] where a unit that is needed is
    /// not there; a place that cannot be read or written; [`BuilderError::Interrupted`].
    pub fn build(
        &self,
        source: &dyn RowSource,
        fingerprint: &str,
        selection: &Selection,
    ) -> Result<UnitsMade, BuilderError> {
        let plan = self.plan;
        if (fingerprint, source.len(), source.dim()) != (&*plan.dataset_fingerprint, plan.n, plan.dim) {
            return Err(BuilderError::Mismatch(format!(
                "{}: planned with a data set of fingerprint {} ({} x {}), but {} has {fingerprint} ({} x {}); give the same \
                 data set, or plan anew in another place",
                self.place.root.display(),
                plan.dataset_fingerprint,
                plan.n,
                plan.dim,
                source.path().display(),
                source.len(),
                source.dim()
            )));
        }
        plan.refuse_other_isa()?;
        self.with(&plan.narrowed(source), |build| {
            let watch = &mut Stopwatch::start(self.progress);
            let of = |name: &str| {
                let stages = Stage::ALL.map(Stage::name).join(", ");
                let unknown = || BuilderError::Mismatch(format!("--stage {name}: the stages are {stages}"));
                Stage::named(name).ok_or_else(unknown)
            };
            let (stage, wanted) = match selection {
                Selection::Everything => return everything(build, watch),
                Selection::Next => match next(build)? {
                    Some(next) => next,
                    None => return Ok(UnitsMade::default()),
                },
                Selection::Stage(stage) => (of(stage)?, Wanted::All),
                Selection::Numbers(stage, numbers) => (of(stage)?, Wanted::Numbers(numbers.clone())),
                Selection::Share { stage, index, of: all } => (of(stage)?, Wanted::Share { index: *index, of: *all }),
            };
            let made = build.make(stage, &wanted, watch)?;
            Ok(UnitsMade { made: made.made, there: made.there, stage: Some(stage.name()) })
        })
    }

    /// How far the build is.
    ///
    /// # Errors
    /// A place that cannot be read.
    pub fn status(&self) -> Result<UnitStatus, BuilderError> {
        self.with(&Absent::of(self.plan), |build| {
            let standings = build.survey()?;
            Ok(UnitStatus {
                complete: standings.iter().all(|standing| !standing.ready),
                bytes: build.store.bytes_there(),
                memory_budget: self.plan.memory_budget,
                stages: standings.into_iter().map(StageStatus::from).collect(),
            })
        })
    }

    /// Writes the index from the last stages; `None` where it is there, whole, already.
    ///
    /// # Errors
    /// [`BuilderError::Missing`] where a unit is not there; another process at work on the same output; an output that cannot
    /// be written.
    pub fn merge(&self, out: &Path) -> Result<Option<BuildReport>, BuilderError> {
        let plan = self.plan;
        plan.refuse_other_isa()?;
        let folder = beside(out, ".work");
        let lock = Lock::take(&folder)?;
        let merged = match self.is_written(out) {
            true => Ok(None),
            false => self.written(out).map(Some),
        };
        if let Err(error) = std::fs::remove_dir_all(&folder) {
            tracing::warn!("{}: cannot remove: {error}; it may go", folder.display());
        }
        drop(lock);
        merged
    }

    fn written(&self, out: &Path) -> Result<BuildReport, BuilderError> {
        let (plan, source) = (self.plan, Absent::of(self.plan));
        self.with(&source, |build| {
            let (mut writer, mut watch) = (IndexWriter::create(out)?, Stopwatch::start(self.progress));
            let entry = build.write_shared(&mut writer, &mut watch)?;
            let units = build.store.len();
            let durable = DurableReport {
                memory_budget: plan.memory_budget,
                temp_peak_bytes: build.store.bytes_there(),
                resumed_units: units,
                units,
            };
            let request = BuildRequest {
                source: &source,
                dataset_name: plan.dataset_name.clone(),
                dataset_fingerprint: plan.dataset_fingerprint.clone(),
                metric: plan.metric,
                params: plan.params.clone(),
                keep_dtype: false,
                out,
            };
            let (params, dtype, device) = (plan.params.clone(), plan.dtype, self.backend.describe());
            finish(&request, Built { params, dtype, entry: Some(entry), device, durable: Some(durable) }, writer, watch)
        })
    }

    /// Whether the index of this plan is there, every byte as it was written.
    fn is_written(&self, out: &Path) -> bool {
        let plan = self.plan;
        let of_plan = inspect(out).is_ok_and(|found| {
            let meta = found.meta;
            (meta.params, meta.metric, meta.dtype, meta.isa)
                == (plan.params.clone(), plan.metric, plan.dtype, plan.isa.clone())
                && (meta.n, meta.dim, meta.dataset) == (plan.n, plan.dim, plan.dataset_name.clone())
                && meta.dataset_fingerprint == plan.dataset_fingerprint
        });
        of_plan && verify(out, |_| ()).is_ok()
    }

    /// Removes units that nothing which is missing is made from, and what crashes left of finished ones; or everything, the
    /// plan too. Returns how many files.
    ///
    /// # Errors
    /// A place that cannot be read or written.
    pub fn clean(&self, all: bool) -> Result<usize, BuilderError> {
        self.with(&Absent::of(self.plan), |build| {
            if all {
                let removed = build.store.sweep(|_, _, _| true)?;
                return UnitPlan::remove(self.place).map(|()| removed + 1);
            }
            let standings = build.survey()?;
            let standing = |name: &str| standings.iter().find(|standing| standing.stage.name() == name);
            build.store.sweep(|stage, number, partial| match standing(stage) {
                Some(Standing { needed: false, .. }) => true,
                Some(standing) => partial && standing.units.is_some() && !standing.missing.contains(&number),
                None => false,
            })
        })
    }

    fn with<R>(
        &self,
        source: &dyn RowSource,
        work: impl FnOnce(&Build<'_, B>) -> Result<R, BuilderError>,
    ) -> Result<R, BuilderError> {
        let plan = self.plan;
        let params = plan.vamana()?;
        let store = Store::shared(self.place.files.clone(), &self.place.root, &plan.dataset_fingerprint);
        work(&Build {
            backend: self.backend,
            source,
            fingerprint: &plan.dataset_fingerprint,
            metric: plan.metric,
            params,
            plan: plan.sizes(params)?,
            store: &store,
            progress: self.progress,
            scope: Scope::All,
            stop: self.stop,
        })
    }
}

/// Makes all that the index needs, stage after stage.
fn everything<B: Backend>(build: &Build<'_, B>, watch: &mut Stopwatch<'_>) -> Result<UnitsMade, BuilderError> {
    let (mut made, mut there) = (0, None);
    loop {
        let standings = build.survey()?;
        let there = *there.get_or_insert(build.store.len());
        let Some(ready) = standings.iter().find(|standing| standing.ready) else {
            return Ok(UnitsMade { made, there, stage: None });
        };
        made += build.make(ready.stage, &Wanted::All, watch)?.made;
    }
}

/// A unit that can be made now, chosen by what tells this process from others.
fn next<B: Backend>(build: &Build<'_, B>) -> Result<Option<(Stage, Wanted)>, BuilderError> {
    let standings = build.survey()?;
    let ready = standings.iter().filter(|standing| standing.ready);
    let ready: Vec<(Stage, u32)> =
        ready.flat_map(|standing| standing.missing.iter().map(|&number| (standing.stage, number))).collect();
    let token = build.store.token().unwrap_or_default();
    let chosen = ready.get((xxh3_64(token.as_bytes()) % ready.len().max(1) as u64) as usize);
    Ok(chosen.map(|&(stage, number)| (stage, Wanted::Numbers(number..=number))))
}

impl From<Standing> for StageStatus {
    fn from(standing: Standing) -> Self {
        let Standing { stage, units, missing, needed, ready } = standing;
        Self { stage: stage.name(), units, missing, needed, ready }
    }
}

/// The rows of a plan, where nothing is read from them.
struct Absent<'a>(&'a UnitPlan);

impl<'a> Absent<'a> {
    fn of(plan: &'a UnitPlan) -> Self {
        Self(plan)
    }
}

impl RowSource for Absent<'_> {
    fn len(&self) -> u64 {
        self.0.n
    }

    fn dim(&self) -> usize {
        self.0.dim
    }

    fn dtype(&self) -> DType {
        self.0.dtype
    }

    fn path(&self) -> &Path {
        Path::new(&self.0.dataset)
    }

    fn read(&self, _rows: Range<u64>) -> Result<Rows, DatasetError> {
        Err(DatasetError::invalid(self.path(), "its rows are not at hand here", "make units with `kiln unit build`"))
    }
}
