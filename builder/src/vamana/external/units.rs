//! Units one at a time: what a process makes that shares a build with others.
//!
//! In: a shared [`Store`](crate::durable::Store), a stage and which of its units to make. Out: these units, made from those of
//! the stages before, or word of the first that is not there. Nobody holds the whole: what there is to do is read from what
//! there is. A stage is needed as long as anything that is missing is made from it, and may go afterwards.

use kiln_kernels::Backend;

use super::{Build, Finished, Keys, Scope, assign, graph, leaves, place, prune, relink, rows, summary, write};
use crate::durable::{DAMAGED_AT_MOST, Key, Unit};
use crate::error::BuilderError;
use crate::file::writer::IndexWriter;
use crate::resources::Stopwatch;

/// A stage of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Summary,
    Assign,
    Middle,
    Rows,
    Leaves,
    Prune,
    Graph,
    Repair,
    Place,
    Order,
}

use Stage::{Assign, Graph, Leaves, Middle, Order, Place, Prune, Repair, Rows, Summary};

/// What the index is written from.
const WRITTEN_FROM: [Stage; 6] = [Summary, Middle, Rows, Graph, Repair, Order];

impl Stage {
    /// All of them, each after those that it needs.
    pub(crate) const ALL: [Self; 10] = [Summary, Assign, Middle, Rows, Leaves, Prune, Graph, Repair, Place, Order];

    /// Its name, which units have too.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Summary => summary::STAGE,
            Assign => assign::STAGE,
            Middle => assign::MIDDLE,
            Rows => rows::STAGE,
            Leaves => leaves::STAGE,
            Prune => prune::STAGE,
            Graph => graph::STAGE,
            Repair => relink::STAGE,
            Place => place::STAGE,
            Order => place::ORDER,
        }
    }

    /// The stage of a name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// Stages all of whose units its own are made from.
    pub(crate) fn needs(self) -> &'static [Self] {
        match self {
            Summary => &[],
            Assign => &[Summary],
            Middle => &[Summary, Assign],
            Rows => &[Summary, Assign],
            Leaves => &[Summary, Assign, Middle, Rows],
            // The clusters tell how many groups there are.
            Prune => &[Summary, Assign, Rows, Leaves],
            Graph => &[Summary, Rows, Prune],
            Repair => &[Summary, Middle, Rows, Graph],
            Place => &[Summary, Rows],
            Order => &[Summary, Middle, Rows, Graph, Repair, Place],
        }
    }
}

/// Which units of a stage to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    /// Those of these numbers, which must be there.
    Numbers(std::ops::RangeInclusive<u32>),
    /// Every `of`-th from `index` on, be it none.
    Share {
        index: u32,
        of: u32,
    },
}

impl Wanted {
    /// Their numbers, of a stage of so many units.
    fn numbers(&self, stage: Stage, units: u32) -> Result<Vec<u32>, BuilderError> {
        match self {
            Self::All => Ok((0..units).collect()),
            Self::Share { index, of } => Ok((*index..units).step_by(*of as usize).collect()),
            Self::Numbers(numbers) if *numbers.end() < units => Ok(numbers.clone().collect()),
            Self::Numbers(numbers) => Err(BuilderError::Mismatch(format!(
                "--units {}: stage {} has {units} units, numbered from 0; give numbers below that",
                numbers.end(),
                stage.name()
            ))),
        }
    }
}

/// How far a stage is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub stage: Stage,
    /// How many units it has, once that is known.
    pub units: Option<u32>,
    /// Numbers of those that are not there.
    pub missing: Vec<u32>,
    /// Whether anything that is missing is made from it, or the index is.
    pub needed: bool,
    /// Whether its units can be made now.
    pub ready: bool,
}

impl Standing {
    fn complete(&self) -> bool {
        self.units.is_some() && self.missing.is_empty()
    }
}

/// What a call made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Made {
    pub made: usize,
    /// Units that were there before.
    pub there: usize,
}

impl Keys {
    fn of(&self, stage: Stage) -> &Key {
        match stage {
            Summary => &self.summary,
            Assign => &self.assign,
            Middle => &self.middle,
            Rows => &self.rows,
            Leaves => &self.leaves,
            Prune => &self.prune,
            Graph => &self.graph,
            Repair => &self.repair,
            Place => &self.place,
            Order => &self.order,
        }
    }
}

impl<'a, B: Backend> Build<'a, B> {
    /// How many units a stage has; `None` before the clusters are known that tell.
    fn units_of(&self, stage: Stage, keys: &Keys) -> Result<Option<u32>, BuilderError> {
        Ok(match stage {
            Summary | Middle | Repair | Order => Some(1),
            Leaves if !self.all(Assign.name(), &keys.assign, self.plan.units) => None,
            Leaves => Some(self.groups(&self.members()?).len() as u32),
            Assign | Rows | Prune | Graph | Place => Some(self.plan.units),
        })
    }

    /// How far every stage is. What is found damaged on the way is removed, and counts as missing.
    pub(crate) fn survey(&self) -> Result<Vec<Standing>, BuilderError> {
        self.work().until_whole(|| self.survey_once())
    }

    fn survey_once(&self) -> Result<Vec<Standing>, BuilderError> {
        let keys = self.keys();
        self.store.refresh(&Stage::ALL.map(Stage::name))?;
        let mut standings = Vec::with_capacity(Stage::ALL.len());
        for stage in Stage::ALL {
            let units = self.units_of(stage, &keys)?;
            let is_missing = |&number: &u32| !self.store.has(Unit { stage: stage.name(), number }, keys.of(stage));
            let missing = (0..units.unwrap_or(0)).filter(is_missing).collect();
            standings.push(Standing { stage, units, missing, needed: false, ready: false });
        }
        let mut wanted = WRITTEN_FROM.to_vec();
        while let Some(stage) = wanted.pop() {
            let standing = &mut standings[stage as usize];
            if !std::mem::replace(&mut standing.needed, true) && !standing.complete() {
                wanted.extend(stage.needs());
            }
        }
        for at in 0..standings.len() {
            let needs = standings[at].stage.needs();
            let can = standings[at].needed && needs.iter().all(|&need| standings[need as usize].complete());
            standings[at].ready = can && !standings[at].complete();
        }
        Ok(standings)
    }

    /// Makes units of a stage, as far as they are missing and needed. What is found damaged is made again first.
    ///
    /// # Errors
    /// [`BuilderError::Missing`] where a unit that they are made from is not there.
    pub(crate) fn make(&self, stage: Stage, wanted: &Wanted, watch: &mut Stopwatch<'_>) -> Result<Made, BuilderError> {
        for _ in 0..DAMAGED_AT_MOST {
            match self.make_once(stage, wanted, watch) {
                Err(BuilderError::Spoiled { path, stage: name, number }) => {
                    let Some(damaged) = Stage::named(name) else { break };
                    tracing::warn!("{}: damaged; this unit is made again", path.display());
                    self.store.remove(name, Some(number))?;
                    self.make(damaged, &Wanted::Numbers(number..=number), watch)?;
                }
                made => return made,
            }
        }
        Err(self.work().too_much_damage())
    }

    fn make_once(&self, stage: Stage, wanted: &Wanted, watch: &mut Stopwatch<'_>) -> Result<Made, BuilderError> {
        let keys = &self.keys();
        let names: Vec<&str> = stage.needs().iter().chain([&stage]).map(|stage| stage.name()).collect();
        self.store.refresh(&names)?;
        let is_there = |&&number: &&u32| self.store.has(Unit { stage: stage.name(), number }, keys.of(stage));
        let mut numbers = Vec::new();
        if let Some(units) = self.units_of(stage, keys)? {
            numbers = wanted.numbers(stage, units)?;
            if numbers.iter().all(|number| is_there(&number)) {
                return Ok(Made { made: 0, there: numbers.len() });
            }
        }
        if !self.survey()?[stage as usize].needed {
            tracing::info!("stage {} is not needed any more: all that is made from it is there", stage.name());
            return Ok(Made::default());
        }
        for &need in stage.needs() {
            self.require(need, keys)?;
        }
        let there = numbers.iter().filter(is_there).count();
        let before = self.store.made();
        Build { scope: Scope::Some(stage.name(), &numbers), plan: self.plan.clone(), ..*self }
            .run(stage, keys, watch)?;
        let made = self.store.made() - before;
        Ok(Made { made, there })
    }

    /// Runs a stage, all of whose needs are there.
    fn run(&self, stage: Stage, keys: &Keys, watch: &mut Stopwatch<'_>) -> Result<(), BuilderError> {
        let summary = self.summary(keys, watch)?;
        let n = self.n() as u64;
        match stage {
            Summary => Ok(()),
            Assign => self.assign(keys, &summary, watch),
            Middle => self.middle(keys, &summary, watch).map(drop),
            Rows => self.copy_rows(keys, &summary, watch).map(drop),
            Leaves => {
                let middle = self.middle(keys, &summary, watch)?;
                let rows = self.home_rows(keys, &summary, watch)?;
                watch.stage("leaves", 8 * n);
                self.leaves(keys, &summary, &middle, &rows).map(drop)
            }
            Prune => {
                let rows = self.home_rows(keys, &summary, watch)?;
                watch.stage("prune", n);
                self.prune(keys, &summary, &rows, &self.groups(&self.members()?))
            }
            Graph => {
                let rows = self.home_rows(keys, &summary, watch)?;
                watch.stage("reverse", n);
                self.graph(keys, &summary, &rows)
            }
            Repair => {
                let middle = self.middle(keys, &summary, watch)?;
                let rows = self.home_rows(keys, &summary, watch)?;
                watch.stage("repair", 0);
                self.repaired(keys, &summary, &middle, &rows).map(drop)
            }
            Place => {
                let rows = self.home_rows(keys, &summary, watch)?;
                watch.stage("order", n);
                self.place(keys, &summary, &rows).map(drop)
            }
            Order => {
                let middle = self.middle(keys, &summary, watch)?;
                let rows = self.home_rows(keys, &summary, watch)?;
                let graph = self.repaired(keys, &summary, &middle, &rows)?;
                watch.stage("order", n);
                self.order(keys, &summary, &rows, &graph).map(drop)
            }
        }
    }

    /// Refuses to go on where a unit of a stage is not there.
    fn require(&self, stage: Stage, keys: &Keys) -> Result<(), BuilderError> {
        let units = self.units_of(stage, keys)?.unwrap_or(0);
        let missing = |&number: &u32| !self.store.has(Unit { stage: stage.name(), number }, keys.of(stage));
        let mut missing = (0..units).filter(missing);
        match missing.next() {
            None => Ok(()),
            Some(number) => Err(BuilderError::Missing {
                work: self.store.folder().to_path_buf(),
                stage: stage.name(),
                number,
                others: missing.count(),
            }),
        }
    }

    /// Writes the sections of the index from the last stages, all but meta. Returns the entry's position.
    ///
    /// # Errors
    /// [`BuilderError::Missing`] where one of their units is not there, or was damaged, and is not there any more.
    pub(crate) fn write_shared(
        &self,
        writer: &mut IndexWriter,
        watch: &mut Stopwatch<'_>,
    ) -> Result<u32, BuilderError> {
        let keys = &self.keys();
        self.store.refresh(&WRITTEN_FROM.map(Stage::name))?;
        for stage in WRITTEN_FROM {
            self.require(stage, keys)?;
        }
        let finished = self.finished(keys, watch);
        match finished.and_then(|finished| write::write(self, keys, finished, writer, watch)) {
            Err(BuilderError::Spoiled { path, stage, number }) => {
                tracing::warn!("{}: damaged, and removed", path.display());
                self.store.remove(stage, Some(number))?;
                let work = self.store.folder().to_path_buf();
                Err(BuilderError::Missing { work, stage, number, others: 0 })
            }
            written => written,
        }
    }

    /// What writing needs, of stages that are there.
    fn finished(&self, keys: &Keys, watch: &mut Stopwatch<'_>) -> Result<Finished, BuilderError> {
        let summary = self.summary(keys, watch)?;
        let middle = self.middle(keys, &summary, watch)?;
        let rows = self.home_rows(keys, &summary, watch)?;
        let graph = self.repaired(keys, &summary, &middle, &rows)?;
        let order = self.order(keys, &summary, &rows, &graph)?;
        Ok(Finished { summary, middle, rows, graph, order })
    }
}
