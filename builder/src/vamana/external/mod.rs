//! The `partition` method for rows that memory does not hold: the same graph, byte for byte, within a budget.
//!
//! In: a source of rows, a memory budget, a [`Store`] of finished units. Out: the sections of a Vamana index, equal to
//! those that [`super::build`] writes. Every decision of the build in memory depends on few rows at a time, and all ties are
//! broken by row number; so the same decisions are made here for a group of rows after another, gathered so that numbers in
//! a group ascend as in the whole:
//!
//! | stage | a unit | keeps |
//! |---|---|---|
//! | summary | all rows, read once | mean, sample, hashes of what was read |
//! | assign | consecutive rows | which leaders' clusters they belong to |
//! | middle | | entry, reach and radius |
//! | rows | rows of neighbouring clusters | the rows themselves in *home order*: by nearest leader, neighbours in space side by side |
//! | leaves | a group of neighbouring clusters | for each of its rows the nearest candidates that the group's leaves name |
//! | prune | rows of neighbouring clusters | edges kept and left over; edges by the row they name |
//! | graph | rows of neighbouring clusters | edges with reverse edges |
//! | repair | | edges changed so that every row is reached |
//! | place | rows of neighbouring clusters | the leader of the page order that each follows |
//! | order | | row at each position of the file |
//! | codec | | the trained quantiser |
//! | written | a part of the index file | how far that has come |
//!
//! Of every row a few numbers stay in memory (16 bytes at most); all else is sized from the budget ([`plan`]). Candidates
//! are spilled with their keys, so that the merge keeps what one reservoir would have kept, and their space is freed as rows
//! are pruned. Random reads go to rows and edges in home order, mostly neighbours of what was just read.

mod assign;
mod graph;
mod leaves;
mod locals;
mod merge;
mod place;
mod plan;
mod prune;
mod relink;
mod rows;
mod spill;
mod summary;
#[cfg(test)]
mod tests;
pub(crate) mod units;
mod write;

use std::sync::Arc;

use kiln_datasets::RowSource;
use kiln_kernels::{Backend, DType, Metric, Progress, Rows, Whole};

pub(crate) use plan::Plan;

use self::assign::Middle;
use self::summary::Summary;
use crate::durable::{Key, Store, Unit, Work};
use crate::error::BuilderError;
use crate::file::writer::IndexWriter;
use crate::params::VamanaParams;
use crate::resources::Stopwatch;

/// Everything that stays the same during a build.
pub(crate) struct Build<'a, B> {
    pub backend: &'a B,
    /// The rows, in the type in which they are stored.
    pub source: &'a dyn RowSource,
    pub fingerprint: &'a str,
    pub metric: Metric,
    pub params: &'a VamanaParams,
    pub plan: Plan,
    pub store: &'a Store,
    pub progress: &'a dyn Progress,
    /// Which units this process makes of a stage at hand.
    pub scope: Scope<'a>,
    /// Whether to stop after the unit at hand.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// Which units of a stage a process makes.
#[derive(Clone, Copy)]
pub(crate) enum Scope<'a> {
    /// All that are missing.
    All,
    /// Those of this stage whose numbers are among these, ascending, as far as they are missing; others make the rest.
    Some(&'static str, &'a [u32]),
}

impl Scope<'_> {
    /// Whether a unit is one of this process's.
    fn holds(&self, unit: Unit) -> bool {
        match self {
            Self::All => true,
            Self::Some(stage, numbers) => unit.stage == *stage && numbers.binary_search(&unit.number).is_ok(),
        }
    }
}

/// Keys of all stages.
struct Keys {
    summary: Key,
    assign: Key,
    middle: Key,
    rows: Key,
    leaves: Key,
    prune: Key,
    graph: Key,
    repair: Key,
    place: Key,
    order: Key,
    codec: Key,
    written: Key,
}

/// What a build came to.
pub(crate) struct Done {
    /// The entry's position.
    pub entry: u32,
    /// Units that were there before, and units in all.
    pub resumed: usize,
    pub units: usize,
}

/// Builds the graph and writes everything but meta.
pub(crate) fn build_and_write<B: Backend>(
    build: &Build<'_, B>,
    writer: &mut IndexWriter,
    watch: &mut Stopwatch<'_>,
) -> Result<Done, BuilderError> {
    let keys = build.keys();
    let all = [
        &keys.summary,
        &keys.assign,
        &keys.middle,
        &keys.rows,
        &keys.leaves,
        &keys.prune,
        &keys.graph,
        &keys.repair,
        &keys.place,
        &keys.order,
        &keys.codec,
        &keys.written,
    ];
    let work = build.work();
    let resumed = work.go_on_with(&all.map(Clone::clone))?;
    let entry = work.until_whole(|| write::write(build, &keys, build.stages(&keys, watch)?, writer, watch))?;
    Ok(Done { entry, resumed, units: build.store.made() + resumed })
}

/// What writing needs.
struct Finished {
    summary: Summary,
    middle: Middle,
    rows: rows::HomeRows,
    graph: graph::DriveGraph,
    /// Row at each position of the file.
    order: Vec<u32>,
}

impl<B: Backend> Build<'_, B> {
    fn n(&self) -> usize {
        self.source.len() as usize
    }

    fn dtype(&self) -> DType {
        self.source.dtype()
    }

    /// Makes some rows resident, as part of all.
    fn upload(&self, rows: Rows, whole: &Whole) -> Result<B::Rows, BuilderError> {
        Ok(self.backend.upload_part(Arc::new(rows), self.metric, whole)?)
    }

    fn keys(&self) -> Keys {
        let (p, plan) = (self.params, &self.plan);
        let summary = Key::new(
            "summary 1",
            None,
            &[
                self.fingerprint.to_string(),
                format!("{} {} {} {}", self.n(), self.source.dim(), self.dtype(), self.metric),
                format!("units of {} rows", plan.unit_rows),
            ],
        );
        let assign = Key::new("assign 2", Some(&summary), &[format!("seed {}", p.seed)]);
        let middle = Key::new("middle 1", Some(&assign), &[]);
        let rows = Key::new("rows 1", Some(&assign), &[]);
        let kept = super::partition::candidates_kept(p.max_degree);
        let groups = format!("keep {kept} groups of {} places", plan.group_places);
        let leaves = Key::new("leaves 1", Some(&rows), &[groups]);
        let pruning = format!("degree {} alpha {}", p.max_degree, p.alpha);
        let prune = Key::new("prune 1", Some(&leaves), &[pruning]);
        let graph = Key::new("graph 1", Some(&prune), &[]);
        let repair = Key::new("repair 1", Some(&graph), &[format!("list {}", p.build_list)]);
        let place = Key::new("place 1", Some(&rows), &[]);
        let per_page = p.node_layout(self.dtype(), self.source.dim(), self.metric).nodes_per_page();
        let order = Key::new("order 1", Some(&repair), &[format!("{per_page} nodes a page")]);
        let codes = format!("{} {:?} opq {} seed {}", p.m, p.bits, p.opq, p.seed);
        let codec = Key::new("codec 1", Some(&rows), &[codes]);
        let layout = format!("{:?} {} bits, codec {codec:?}", p.layout, p.edge_bits);
        // The steps in which codes are written are as long as the plan has them.
        let steps = format!("{} rows at a time", plan.read_rows(self.source.dim() * self.dtype().bytes()));
        let written = Key::new("written 1", Some(&order), &[layout, steps]);
        Keys { summary, assign, middle, rows, leaves, prune, graph, repair, place, order, codec, written }
    }

    fn work(&self) -> Work<'_> {
        Work { store: self.store, stop: self.stop }
    }

    /// As [`Work::all`].
    fn all(&self, stage: &'static str, key: &Key, units: u32) -> bool {
        self.work().all(stage, key, units)
    }

    /// As [`Work::each_missing`].
    fn each_missing(
        &self,
        stage: &'static str,
        key: &Key,
        units: u32,
        make: impl FnMut(Unit) -> Result<(), BuilderError>,
    ) -> Result<(), BuilderError> {
        let here = (0..units).filter(|&number| self.scope.holds(Unit { stage, number }));
        self.work().each_missing(stage, key, here, make)
    }

    fn may_stop(&self) -> Result<(), BuilderError> {
        self.work().may_stop()
    }

    /// All stages up to the order of the file, as far as they are not finished.
    fn stages(&self, keys: &Keys, watch: &mut Stopwatch<'_>) -> Result<Finished, BuilderError> {
        let (units, n) = (self.plan.units, self.n() as u64);
        let summary = self.summary(keys, watch)?;
        let middle = self.middle(keys, &summary, watch)?;
        if !self.all("graph", &keys.graph, units) {
            if !self.all("prune", &keys.prune, units) {
                self.assign(keys, &summary, watch)?;
                let rows = self.home_rows(keys, &summary, watch)?;
                watch.stage("leaves", 8 * n);
                let groups = self.leaves(keys, &summary, &middle, &rows)?;
                watch.stage("prune", n);
                self.prune(keys, &summary, &rows, &groups)?;
            }
            self.store.remove("leaves", None)?;
            let rows = self.home_rows(keys, &summary, watch)?;
            watch.stage("reverse", n);
            self.graph(keys, &summary, &rows)?;
        }
        self.store.remove("prune", None)?;
        let rows = self.home_rows(keys, &summary, watch)?;
        self.store.remove("assign", None)?;
        watch.stage("repair", 0);
        let graph = self.repaired(keys, &summary, &middle, &rows)?;
        watch.stage("order", n);
        let order = self.order(keys, &summary, &rows, &graph)?;
        self.store.remove("place", None)?;
        Ok(Finished { summary, middle, rows, graph, order })
    }
}

/// Little-endian numbers of a unit's segment.
fn words(bytes: &[u8]) -> Vec<u32> {
    bytemuck::pod_collect_to_vec(bytes)
}
