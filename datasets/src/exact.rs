//! Exact ground truth by brute force, of any size, in bounded memory.
//!
//! In: base and query sources, a backend, a metric. Out: a [`Truth`]. Each block of base rows that the budget holds
//! is compared with all queries by the backend's dense product; the candidates of each query are then measured again
//! in f64 and merged by (distance, id), so that the answer does not depend on the backend, the blocks or the budget.
//! Queries that do not fit the budget go in groups, each with its own pass over the base.

use std::sync::Arc;

use kiln_kernels::{Backend, DType, Metric, Neighbors, PAD_ID, Progress, Rows};
use ndarray::Array2;
use rayon::prelude::*;

use crate::error::DatasetError;
use crate::geometry::Point;
use crate::source::RowSource;
use crate::truth::Truth;

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
    let groups = queries.len().div_ceil(plan.group_queries);
    progress.stage("exact neighbours", groups * base.len());
    let mut ids = Array2::from_elem((queries.len() as usize, k), -1i64);
    let mut distances = Array2::from_elem((queries.len() as usize, k), f32::INFINITY);

    let mut start = 0;
    while start < queries.len() {
        let end = (start + plan.group_queries).min(queries.len());
        let group = plan.served(queries.read(start..end)?);
        let nearest = nearest_of_group(backend, base, &group, metric, &plan, progress)?;
        for (hits, query) in nearest.iter().zip(start as usize..) {
            for (rank, hit) in hits.iter().enumerate() {
                ids[(query, rank)] = hit.id as i64;
                distances[(query, rank)] = hit.distance as f32;
            }
        }
        start = end;
    }
    progress.finish();
    Ok(Truth { ids, distances: Some(distances) })
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

/// The nearest rows of each query of one group, in one pass over the base.
fn nearest_of_group<B: Backend>(
    backend: &B,
    base: &dyn RowSource,
    group: &Arc<Rows>,
    metric: Metric,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Vec<Vec<Hit>>, DatasetError> {
    let uploaded = backend.upload(Arc::clone(group), metric)?;
    let mut best: Vec<Vec<Hit>> = vec![Vec::with_capacity(plan.k); group.len()];
    let mut start = 0;
    while start < base.len() {
        let end = (start + plan.block_rows).min(base.len());
        let block = plan.served(base.read(start..end)?);
        let resident = backend.upload(Arc::clone(&block), metric)?;
        let candidates = backend.nearest(&uploaded, &resident, (plan.k + SLACK).min(block.len()))?;
        let block = Block { rows: &block, first: start, candidates };
        best.par_iter_mut().enumerate().for_each(|(query, best)| {
            block.merge_into(best, query, &Point::of(&group.view(), query), metric);
            best.truncate(plan.k);
        });
        progress.advance(end - start);
        start = end;
    }
    Ok(best)
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
    fn merge_into(&self, best: &mut Vec<Hit>, query: usize, point: &Point, metric: Metric) {
        let view = self.rows.view();
        best.extend(self.candidates.ids.row(query).iter().filter(|&&id| id != PAD_ID).map(|&id| Hit {
            distance: point.distance(&Point::of(&view, id as usize), metric),
            id: self.first + u64::from(id),
        }));
        best.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then(a.id.cmp(&b.id)));
    }
}
