//! Exact ground truth by brute force, of any size, in bounded memory.
//!
//! In: base and query sources, a backend, a metric. Out: a [`Truth`]. Each block of base rows that the budget holds
//! is compared with all queries by the backend's dense product; the candidates of each query are then measured again
//! in f64 and merged by (distance, id), so that the answer does not depend on the backend, the blocks or the budget.
//! Queries that do not fit the budget go in groups, each with its own pass over the base. [`exact_truth_resumed`] goes on
//! where a process that was ended left off.

use std::ops::Range;
use std::sync::Arc;

use kiln_kernels::{Backend, DType, Metric, Neighbors, PAD_ID, Progress, Rows};
use ndarray::Array2;
use rayon::prelude::*;

use crate::error::DatasetError;
use crate::geometry::Point;
use crate::source::RowSource;
use crate::truth::Truth;
use crate::truth_checkpoint::{self, Keeper, TruthCheckpoint};

/// Candidates beyond k that the backend is asked for: f32 may misplace neighbours whose distances nearly tie, by a
/// few ranks and not by sixteen.
const SLACK: usize = 16;
/// A block of base rows is no larger than this: more memory would not be faster, and progress would stutter.
const BLOCK_LIMIT_BYTES: u64 = 256 << 20;

/// A row at its f64 distance, ordered by (distance, id).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Hit {
    distance: f64,
    id: u64,
}

/// The `k` nearest base rows of every query, exactly. Distances are as [`Truth`] states them, the Euclidean one
/// not squared. Operands of different element types are both widened to f32. `memory_budget_bytes` bounds the
/// rows held: half for a block of the base, a quarter for a group of queries.
///
/// # Errors
/// When `k` is 0 or exceeds the base, dimensions differ, the budget does not hold one row of each, a source cannot
/// be read, or the backend refuses.
pub fn exact_truth<B: Backend>(
    backend: &B,
    base: &dyn RowSource,
    queries: &dyn RowSource,
    metric: Metric,
    k: usize,
    memory_budget_bytes: u64,
    progress: &dyn Progress,
) -> Result<Truth, DatasetError> {
    let plan = Plan::new(base, queries, k, memory_budget_bytes)?;
    Search::new(base, queries, metric, plan, None).run(backend, progress)
}

/// As [`exact_truth`], by a process that may be ended at any moment: what is found is kept in `checkpoint`, and the same
/// call goes on from there and ends with the same truth to the bit. The checkpoint is the caller's to remove, once the
/// truth is where it belongs.
///
/// # Errors
/// As [`exact_truth`]; and when the checkpoint cannot be written, is damaged, or is of another search.
#[expect(clippy::too_many_arguments, reason = "exact_truth's, and where to keep what is found")]
pub fn exact_truth_resumed<B: Backend>(
    backend: &B,
    base: &dyn RowSource,
    queries: &dyn RowSource,
    metric: Metric,
    k: usize,
    memory_budget_bytes: u64,
    checkpoint: &TruthCheckpoint,
    progress: &dyn Progress,
) -> Result<Truth, DatasetError> {
    let plan = Plan::new(base, queries, k, memory_budget_bytes)?;
    let keeper = Keeper::new(checkpoint, truth_checkpoint::identity(checkpoint, base, queries, metric, k)?, k);
    let mut search = Search::new(base, queries, metric, plan, Some(keeper));
    search.resume(checkpoint)?;
    search.run(backend, progress)
}

/// An exact search, as far as it has come.
struct Search<'a> {
    base: &'a dyn RowSource,
    queries: &'a dyn RowSource,
    metric: Metric,
    plan: Plan,
    keeper: Option<Keeper<'a>>,
    /// The queries that are being searched for; those before are finished.
    group: Range<u64>,
    /// Base rows that they have been compared with.
    compared: u64,
    /// Row numbers `(queries, k)`, -1 where none was found yet.
    ids: Vec<i64>,
    /// Their distances in f64, so that merging forgets nothing.
    distances: Vec<f64>,
}

impl<'a> Search<'a> {
    fn new(
        base: &'a dyn RowSource,
        queries: &'a dyn RowSource,
        metric: Metric,
        plan: Plan,
        keeper: Option<Keeper<'a>>,
    ) -> Self {
        let cells = queries.len() as usize * plan.k;
        let group = 0..plan.group_queries.min(queries.len());
        let (ids, distances) = (vec![-1; cells], vec![f64::INFINITY; cells]);
        Self { base, queries, metric, plan, keeper, group, compared: 0, ids, distances }
    }

    /// Takes over what an earlier process has found.
    fn resume(&mut self, checkpoint: &TruthCheckpoint) -> Result<(), DatasetError> {
        let Some(found) = self.keeper.as_ref().map(Keeper::load).transpose()?.flatten() else { return Ok(()) };
        if found.group.end > self.queries.len() || found.base_rows > self.base.len() {
            let problem = format!("it tells of {} queries and {} base rows", found.group.end, found.base_rows);
            return Err(DatasetError::invalid(&checkpoint.path, problem, "remove it to begin anew"));
        }
        // A group that was begun with more memory may not fit now: unless it is finished, its queries are searched for
        // again.
        let finished = found.base_rows == self.base.len();
        let fits = finished || found.group.end - found.group.start <= self.plan.group_queries;
        let kept = if fits { found.group.end } else { found.group.start } as usize * self.plan.k;
        self.ids[..kept].copy_from_slice(&found.ids[..kept]);
        self.distances[..kept].copy_from_slice(&found.distances[..kept]);
        (self.group, self.compared) = if fits {
            (found.group, found.base_rows)
        } else {
            (found.group.start..(found.group.start + self.plan.group_queries).min(self.queries.len()), 0)
        };
        tracing::info!(
            "{}: going on with queries {}..{} of {} at base row {} of {}",
            checkpoint.path.display(),
            self.group.start,
            self.group.end,
            self.queries.len(),
            self.compared,
            self.base.len()
        );
        Ok(())
    }

    fn run<B: Backend>(mut self, backend: &B, progress: &dyn Progress) -> Result<Truth, DatasetError> {
        let later = self.queries.len().saturating_sub(self.group.end).div_ceil(self.plan.group_queries);
        progress.stage("exact neighbours", (later + 1) * self.base.len());
        progress.advance(self.compared);
        loop {
            self.search_group(backend, progress)?;
            if self.group.end >= self.queries.len() {
                break;
            }
            let start = self.group.end;
            self.group = start..(start + self.plan.group_queries).min(self.queries.len());
            self.compared = 0;
        }
        // Writing the result may take long, or fail: it need not be computed again.
        self.keep(true)?;
        progress.finish();
        let shape = (self.queries.len() as usize, self.plan.k);
        let distances: Vec<f32> = self.distances.iter().map(|&distance| distance as f32).collect();
        Ok(Truth {
            ids: Array2::from_shape_vec(shape, self.ids).expect("a row of k for each query"),
            distances: Some(Array2::from_shape_vec(shape, distances).expect("a row of k for each query")),
        })
    }

    /// Compares the group with what it was not compared with yet of the base, block by block.
    fn search_group<B: Backend>(&mut self, backend: &B, progress: &dyn Progress) -> Result<(), DatasetError> {
        if self.group.is_empty() || self.compared == self.base.len() {
            return Ok(());
        }
        let (k, metric) = (self.plan.k, self.metric);
        let group = self.plan.served(self.queries.read(self.group.clone())?);
        let uploaded = backend.upload(Arc::clone(&group), metric)?;
        let cells = self.group.start as usize * k..self.group.end as usize * k;
        while self.compared < self.base.len() {
            let (start, end) = (self.compared, (self.compared + self.plan.block_rows).min(self.base.len()));
            let rows = self.plan.served(self.base.read(start..end)?);
            let resident = backend.upload(Arc::clone(&rows), metric)?;
            let candidates = backend.nearest(&uploaded, &resident, (k + SLACK).min(rows.len()))?;
            let block = Block { rows: &rows, first: start, candidates };
            let (ids, distances) = (&mut self.ids[cells.clone()], &mut self.distances[cells.clone()]);
            let best = ids.par_chunks_mut(k).zip(distances.par_chunks_mut(k));
            best.enumerate().for_each(|(query, (ids, distances))| {
                block.merge_into(ids, distances, query, &Point::of(&group.view(), query), metric);
            });
            self.compared = end;
            self.keep(false)?;
            progress.advance(end - start);
        }
        Ok(())
    }

    /// Writes the checkpoint, where there is one and it is due, or `now`.
    fn keep(&mut self, now: bool) -> Result<(), DatasetError> {
        let cells = self.group.end as usize * self.plan.k;
        match &mut self.keeper {
            Some(keeper) if now || keeper.is_due() => {
                keeper.write(self.group.clone(), self.compared, &self.ids[..cells], &self.distances[..cells])
            }
            _ => Ok(()),
        }
    }
}

/// How much is held at a time.
#[derive(Debug)]
struct Plan {
    k: usize,
    block_rows: u64,
    group_queries: u64,
    /// Both operands become f32.
    widen: bool,
}

impl Plan {
    fn new(base: &dyn RowSource, queries: &dyn RowSource, k: usize, budget: u64) -> Result<Self, DatasetError> {
        let refuse =
            |source: &dyn RowSource, problem, remedy| Err(DatasetError::invalid(source.path(), problem, remedy));
        if base.dim() != queries.dim() {
            let problem = format!("the queries have {} coordinates, the base {}", queries.dim(), base.dim());
            return refuse(queries, problem, "give queries of the base's dimension");
        }
        if k == 0 || k as u64 > base.len() {
            let problem = format!("{k} neighbours were asked for of {} rows", base.len());
            return refuse(base, problem, "ask for at least one neighbour, and at most as many as there are rows");
        }
        let widen = base.dtype() != queries.dtype();
        let cell = if widen { DType::F32.bytes() } else { base.dtype().bytes() };
        let row = (base.dim() * cell) as u64;
        // A query needs its row, its merged hits, and a block's candidates as ids and distances.
        let query = row + (k * size_of::<Hit>()) as u64 + ((k + SLACK) * 8) as u64;
        if budget / 2 < row || budget / 4 < query {
            let problem =
                format!("a memory budget of {budget} bytes does not hold a row ({row} bytes) and a query ({query})");
            return refuse(base, problem, "raise the memory budget");
        }
        let block_rows = (budget / 2).min(BLOCK_LIMIT_BYTES).max(row) / row;
        Ok(Self { k, block_rows, group_queries: budget / 4 / query, widen })
    }

    /// Rows in the element type that the backend computes on.
    fn served(&self, rows: Rows) -> Arc<Rows> {
        Arc::new(if self.widen { Rows::F32(rows.view().to_f32()) } else { rows })
    }
}

/// A block of base rows, with what the backend found in it.
struct Block<'a> {
    rows: &'a Rows,
    /// Number of the block's row 0 in the base.
    first: u64,
    candidates: Neighbors,
}

impl Block<'_> {
    /// Measures a query's candidates in f64 and merges them into its hits, ascending.
    fn merge_into(&self, ids: &mut [i64], distances: &mut [f64], query: usize, point: &Point, metric: Metric) {
        let view = self.rows.view();
        let known = ids.iter().zip(distances.iter()).take_while(|&(&id, _)| id >= 0);
        let mut best: Vec<Hit> = known.map(|(&id, &distance)| Hit { distance, id: id as u64 }).collect();
        best.extend(self.candidates.ids.row(query).iter().filter(|&&id| id != PAD_ID).map(|&id| Hit {
            distance: point.distance(&Point::of(&view, id as usize), metric),
            id: self.first + u64::from(id),
        }));
        best.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then(a.id.cmp(&b.id)));
        for (hit, (id, distance)) in best.iter().zip(ids.iter_mut().zip(distances)) {
            (*id, *distance) = (hit.id as i64, hit.distance);
        }
    }
}
