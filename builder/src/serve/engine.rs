//! What answers queries, and the threads that ask it.
//!
//! In: [`Piece`]s from the [`Queue`]. Out: outcomes of jobs. Searches block, so they run here and nowhere else.
//! A search that fails or panics costs the queries that it fails for and no others: what was asked together is asked
//! again one by one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use kiln_kernels::RowsView;
use ndarray::ArrayView2;

use super::metrics::Metrics;
use super::queue::{Failure, Piece, Queue};
use crate::error::BuilderError;
use crate::search_types::{Hits, SearchParams};
use crate::searcher::Searcher;

/// What answers queries.
pub(crate) trait Engine: Send + Sync {
    /// The hits of each query of `queries` `(queries, dim)`, in order.
    fn search(&self, queries: &RowsView<'_>, params: &SearchParams) -> Result<Vec<Hits>, BuilderError>;

    /// Reads on their way from the drive now.
    fn reads_in_flight(&self) -> u64 {
        0
    }
}

impl Engine for Searcher {
    fn search(&self, queries: &RowsView<'_>, params: &SearchParams) -> Result<Vec<Hits>, BuilderError> {
        match queries.len() {
            1 => Ok(vec![self.search(queries, params)?]),
            _ => self.search_batch(queries, params),
        }
    }

    fn reads_in_flight(&self) -> u64 {
        self.io_counters().in_flight
    }
}

/// Starts the threads that answer what waits in `queue`, until it is closed.
pub(crate) fn start(
    queue: &Arc<Queue>,
    metrics: &Arc<Metrics>,
    threads: usize,
) -> std::io::Result<Vec<std::thread::JoinHandle<()>>> {
    let start = |thread: usize| {
        let (queue, metrics) = (Arc::clone(queue), Arc::clone(metrics));
        std::thread::Builder::new().name(format!("search-{thread}")).spawn(move || work(&queue, &metrics))
    };
    (0..threads).map(start).collect()
}

fn work(queue: &Queue, metrics: &Metrics) {
    let mut joined = Vec::new();
    while let Some(mut pieces) = queue.take() {
        let began = Instant::now();
        pieces.retain(|piece| piece.job.is_wanted(began));
        if pieces.is_empty() {
            continue;
        }
        for piece in &pieces {
            if piece.queries.start == 0 {
                metrics.waited(began.saturating_duration_since(piece.job.asked));
            }
        }
        let count: usize = pieces.iter().map(|piece| piece.queries.len()).sum();
        metrics.searching.inc();
        match pieces.as_slice() {
            [only] => answer(&pieces, count, only.job.rows(only.queries.clone()), metrics),
            several => {
                joined.clear();
                several.iter().for_each(|piece| joined.extend_from_slice(piece.job.rows(piece.queries.clone())));
                answer(&pieces, count, &joined, metrics);
            }
        }
        metrics.searching.dec();
        metrics.searched(began.elapsed(), count);
    }
}

/// Answers the queries of `pieces`, whose coordinates are `rows` `(count, dim)`, together; where that fails, one by one.
fn answer(pieces: &[Piece], count: usize, rows: &[f32], metrics: &Metrics) {
    let (engine, params) = (&pieces[0].job.engine, pieces[0].job.params);
    if count > 1
        && let Ok(hits) = ask(engine.as_ref(), rows, count, &params)
    {
        let queries = pieces.iter().flat_map(|piece| piece.queries.clone().map(move |query| (&piece.job, query)));
        for ((job, query), hits) in queries.zip(hits) {
            metrics.search_answered(&hits.stats);
            job.answer(query, hits);
        }
        return;
    }
    for piece in pieces {
        for query in piece.queries.clone() {
            match ask(engine.as_ref(), piece.job.rows(query..query + 1), 1, &params) {
                Ok(mut hits) => {
                    let hits = hits.pop().unwrap_or_default();
                    metrics.search_answered(&hits.stats);
                    piece.job.answer(query, hits);
                }
                Err(error) => {
                    metrics.search_failed(error.as_ref());
                    piece.job.fail(error.map_or(Failure::Panicked, |error| Failure::Search { query, error }));
                    break;
                }
            }
        }
    }
}

/// One call of the engine. `None` as error stands for a panic, whose message the panic hook has printed.
fn ask(
    engine: &dyn Engine,
    rows: &[f32],
    count: usize,
    params: &SearchParams,
) -> Result<Vec<Hits>, Option<BuilderError>> {
    let rows = ArrayView2::from_shape((count, rows.len() / count), rows).map_err(|_| None)?;
    // What a panic leaves behind inside the engine is its scratch memory, which is dropped with the call.
    let asked = catch_unwind(AssertUnwindSafe(|| engine.search(&RowsView::F32(rows), params)));
    let hits = asked.map_err(|_| None)?.map_err(Some)?;
    if hits.len() == count { Ok(hits) } else { Err(None) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::super::queue::Job;
    use super::*;
    use crate::search_types::{Effort, IndexKind, QueryStats};

    /// Answers with the first coordinate; fails for 1, panics for 2.
    struct Touchy;

    impl Engine for Touchy {
        fn search(&self, queries: &RowsView<'_>, _: &SearchParams) -> Result<Vec<Hits>, BuilderError> {
            let RowsView::F32(rows) = queries else { panic!("queries are floats") };
            let first: Vec<f32> = rows.column(0).to_vec();
            assert!(!first.contains(&2.0), "two is too much");
            if first.contains(&1.0) {
                return Err(BuilderError::damaged(&PathBuf::from("x.kiln"), "page 7 does not match its checksum"));
            }
            let stats = QueryStats { pages: 3, ..QueryStats::default() };
            Ok(first.iter().map(|&x| Hits { ids: vec![x as u64], distances: vec![x], stats }).collect())
        }
    }

    #[test]
    fn what_fails_costs_nobody_else_the_answer() {
        let (queue, metrics) = (Arc::new(Queue::new(16, 1, 16)), Arc::new(Metrics::new()));
        let engine: Arc<dyn Engine> = Arc::new(Touchy);
        let params = SearchParams { k: 1, effort: Effort::default_for(IndexKind::Vamana, 1) };
        let now = Instant::now();
        let ask = |values: &[f32]| {
            let times = (now, now + Duration::from_secs(60));
            let (job, reply) = Job::new(Arc::clone(&engine), params, values.to_vec(), values.len(), times);
            queue.push(job).expect("room");
            reply
        };
        let mut replies = [ask(&[5.0]), ask(&[1.0]), ask(&[2.0]), ask(&[7.0, 1.0, 8.0]), ask(&[6.0, 9.0])];
        queue.close();
        work(&queue, &metrics);
        let [five, one, two, mixed, both] = replies.each_mut().map(|reply| reply.try_recv().expect("settled"));
        assert_eq!(five.expect("answered")[0].ids, [5]);
        assert_eq!(both.expect("answered").iter().map(|hits| hits.ids[0]).collect::<Vec<_>>(), [6, 9]);
        assert!(matches!(one, Err(Failure::Search { query: 0, error: BuilderError::Damaged { .. } })));
        assert!(matches!(mixed, Err(Failure::Search { query: 1, .. })));
        assert!(matches!(two, Err(Failure::Panicked)));
        let told = metrics.encode();
        for line in [
            "kiln_crc_failures_total 2",
            "kiln_pages_read_total 12",
            "kiln_queries_total 7",
            "kiln_search_threads_busy 0",
        ] {
            assert!(told.lines().any(|told| told == line), "{line}: {told}");
        }
    }
}
