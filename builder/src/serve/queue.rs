//! The requests that wait for a search thread.
//!
//! In: [`Job`]s, as many as the queue is allowed to hold; one more is refused. Out: [`Piece`]s of jobs that one call of an
//! engine can answer: what is waiting now and asks the same of the same index, never more than a thread's share of it, and
//! never waited for. A job of many queries goes in pieces and to the end of the queue after each, so that it is shared
//! among threads and nobody waits behind all of it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::oneshot;

use super::engine::Engine;
use crate::error::BuilderError;
use crate::search_types::{Hits, SearchParams};

/// Why a job has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The search of one of its queries failed.
    Search {
        /// Which, from 0.
        query: usize,
        /// Why.
        error: BuilderError,
    },
    /// The search panicked: a fault of ours.
    Panicked,
    /// Its deadline passed before it was searched to the end.
    Late,
}

/// What a job comes to: the hits of each of its queries.
pub(crate) type Outcome = Result<Vec<Hits>, Failure>;

/// Queries of one request.
pub(crate) struct Job {
    /// The index that was served when the request came; it answers even if another is served by now.
    pub engine: Arc<dyn Engine>,
    pub params: SearchParams,
    /// `(count, dim)`, row-major.
    pub queries: Vec<f32>,
    pub count: usize,
    pub asked: Instant,
    pub deadline: Instant,
    state: Mutex<State>,
}

struct State {
    hits: Vec<Hits>,
    missing: usize,
    /// Gone once the job is settled.
    reply: Option<oneshot::Sender<Outcome>>,
}

impl Job {
    /// A job of `count` queries, one at least, and where its outcome will arrive.
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        params: SearchParams,
        queries: Vec<f32>,
        count: usize,
        (asked, deadline): (Instant, Instant),
    ) -> (Arc<Self>, oneshot::Receiver<Outcome>) {
        let (reply, receiver) = oneshot::channel();
        let state = State { hits: vec![Hits::default(); count], missing: count, reply: Some(reply) };
        let job = Self { engine, params, queries, count, asked, deadline, state: Mutex::new(state) };
        (Arc::new(job), receiver)
    }

    /// The coordinates of some of its queries.
    pub(crate) fn rows(&self, queries: Range<usize>) -> &[f32] {
        let dim = self.queries.len() / self.count;
        &self.queries[queries.start * dim..queries.end * dim]
    }

    /// Keeps the hits of one query; the last one settles the job.
    pub(crate) fn answer(&self, query: usize, hits: Hits) {
        let mut state = self.state();
        state.hits[query] = hits;
        state.missing -= 1;
        if state.missing == 0
            && let Some(reply) = state.reply.take()
        {
            // Whoever asked may have gone.
            let _ = reply.send(Ok(std::mem::take(&mut state.hits)));
        }
    }

    /// Settles the job without an answer; what is left of it will not be searched.
    pub(crate) fn fail(&self, failure: Failure) {
        if let Some(reply) = self.state().reply.take() {
            let _ = reply.send(Err(failure));
        }
    }

    /// True when nothing is left to do for it: it failed, or nobody waits for it any more.
    fn is_settled(&self) -> bool {
        self.state().reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Whether to search it at all, at `now`; a job past its deadline is told so.
    pub(crate) fn is_wanted(&self, now: Instant) -> bool {
        if now >= self.deadline {
            self.fail(Failure::Late);
        }
        !self.is_settled()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave the state inconsistent: every change of it is whole before the next begins.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Some queries of a job.
pub(crate) struct Piece {
    pub job: Arc<Job>,
    pub queries: Range<usize>,
}

/// The queue is as long as it may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// Jobs in the order in which they came.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    capacity: usize,
    threads: usize,
    batch: usize,
}

#[derive(Default)]
struct Waiting {
    /// What is left of each job.
    pieces: VecDeque<Piece>,
    /// Their queries in all.
    queries: usize,
    closed: bool,
}

impl Queue {
    /// A queue of at most `capacity` jobs for `threads` threads, which take at most `batch` queries at a time.
    pub(crate) fn new(capacity: usize, threads: usize, batch: usize) -> Self {
        Self { waiting: Mutex::default(), filled: Condvar::new(), capacity, threads, batch }
    }

    /// Adds a job, if there is room.
    pub(crate) fn push(&self, job: Arc<Job>) -> Result<(), Full> {
        let mut waiting = self.waiting();
        if waiting.pieces.len() >= self.capacity || waiting.closed {
            return Err(Full);
        }
        waiting.queries += job.count;
        let several = job.count > self.batch;
        waiting.pieces.push_back(Piece { queries: 0..job.count, job });
        drop(waiting);
        if several {
            self.filled.notify_all()
        } else {
            self.filled.notify_one()
        }
        Ok(())
    }

    /// True when [`push`](Self::push) would refuse now.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting().pieces.len() >= self.capacity
    }

    /// (jobs, queries) that wait.
    pub(crate) fn depth(&self) -> (usize, usize) {
        let waiting = self.waiting();
        (waiting.pieces.len(), waiting.queries)
    }

    /// The next work for a thread; waits for some. `None` when the queue is closed and empty.
    pub(crate) fn take(&self) -> Option<Vec<Piece>> {
        let mut waiting = self.waiting();
        loop {
            let taken = waiting.take(self.threads, self.batch);
            if !taken.is_empty() {
                return Some(taken);
            }
            if waiting.closed {
                return None;
            }
            waiting = self.filled.wait(waiting).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// Takes no more jobs; threads end when those that wait are done.
    pub(crate) fn close(&self) {
        self.waiting().closed = true;
        self.filled.notify_all();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Waiting {
    /// Of the first job that still matters and of those that ask the same of the same index, a thread's share of the
    /// queries that wait, `batch` at most.
    fn take(&mut self, threads: usize, batch: usize) -> Vec<Piece> {
        let mut first = loop {
            let Some(first) = self.pieces.pop_front() else { return Vec::new() };
            if !first.job.is_settled() {
                break first;
            }
            self.queries -= first.queries.len();
        };
        let mut room = self.queries.div_ceil(threads).clamp(1, batch);
        let (engine, params) = (Arc::clone(&first.job.engine), first.job.params);
        let mut taken = vec![split(&mut first, &mut room)];
        if !first.queries.is_empty() {
            self.pieces.push_back(first);
        } else if room > 0 {
            self.pieces.retain_mut(|piece| {
                let alike = Arc::ptr_eq(&piece.job.engine, &engine) && piece.job.params == params;
                if room > 0 && alike {
                    taken.push(split(piece, &mut room));
                }
                !piece.queries.is_empty()
            });
        }
        self.queries -= taken.iter().map(|piece| piece.queries.len()).sum::<usize>();
        taken
    }
}

/// Takes as many queries off the front of a piece as there is room for.
fn split(piece: &mut Piece, room: &mut usize) -> Piece {
    let taken = piece.queries.len().min(*room);
    let middle = piece.queries.start + taken;
    *room -= taken;
    let queries = piece.queries.start..middle;
    piece.queries.start = middle;
    Piece { job: Arc::clone(&piece.job), queries }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kiln_kernels::RowsView;

    use super::*;
    use crate::search_types::{Effort, IndexKind};

    struct Nothing;

    impl Engine for Nothing {
        fn search(&self, queries: &RowsView<'_>, _: &SearchParams) -> Result<Vec<Hits>, BuilderError> {
            Ok(vec![Hits::default(); queries.len()])
        }
    }

    fn job(engine: &Arc<dyn Engine>, k: usize, count: usize) -> (Arc<Job>, oneshot::Receiver<Outcome>) {
        let params = SearchParams { k, effort: Effort::default_for(IndexKind::Vamana, 10) };
        let now = Instant::now();
        Job::new(Arc::clone(engine), params, vec![0.5; count * 2], count, (now, now + Duration::from_secs(60)))
    }

    /// What `take` gives, as (index among `jobs`, queries).
    fn shape(pieces: &[Piece], jobs: &[&Arc<Job>]) -> Vec<(usize, Range<usize>)> {
        let place = |piece: &Piece| jobs.iter().position(|job| Arc::ptr_eq(job, &piece.job)).expect("one of them");
        pieces.iter().map(|piece| (place(piece), piece.queries.clone())).collect()
    }

    #[test]
    fn alike_jobs_share_a_call_and_no_thread_takes_more_than_its_share() {
        let engines: [Arc<dyn Engine>; 2] = [Arc::new(Nothing), Arc::new((1, Nothing))];
        let queue = Queue::new(10, 2, 4);
        let jobs = [
            job(&engines[0], 10, 1),
            job(&engines[0], 5, 1),
            job(&engines[1], 10, 1),
            job(&engines[0], 10, 1),
            job(&engines[0], 10, 1),
            job(&engines[0], 10, 1),
        ];
        let each: Vec<&Arc<Job>> = jobs.iter().map(|(job, _)| job).collect();
        each.iter().for_each(|job| queue.push(Arc::clone(job)).expect("room"));
        // Six queries for two threads: three each. Another k and another index wait their turn.
        let mut order = Vec::new();
        while queue.depth().0 > 0 {
            order.push(shape(&queue.take().expect("open"), &each));
        }
        let one = 0..1;
        assert_eq!(
            order,
            [
                vec![(0, one.clone()), (3, one.clone()), (4, one.clone())],
                vec![(1, one.clone())],
                vec![(2, one.clone())],
                vec![(5, one)]
            ]
        );
        assert_eq!(queue.depth(), (0, 0));
    }

    impl Engine for (usize, Nothing) {
        fn search(&self, queries: &RowsView<'_>, params: &SearchParams) -> Result<Vec<Hits>, BuilderError> {
            self.1.search(queries, params)
        }
    }

    #[test]
    fn a_large_job_goes_in_pieces_and_lets_others_in_between() {
        let engine: Arc<dyn Engine> = Arc::new(Nothing);
        let queue = Queue::new(10, 1, 4);
        let (large, mut large_reply) = job(&engine, 10, 9);
        let (small, _small_reply) = job(&engine, 5, 1);
        queue.push(Arc::clone(&large)).expect("room");
        queue.push(Arc::clone(&small)).expect("room");
        let each = [&large, &small];
        let mut order = Vec::new();
        while queue.depth().0 > 0 {
            let pieces = queue.take().expect("open");
            order.push(shape(&pieces, &each));
            for piece in pieces {
                assert_eq!(piece.job.rows(piece.queries.clone()).len(), 2 * piece.queries.len());
                piece.queries.for_each(|query| piece.job.answer(query, Hits::default()));
            }
        }
        assert_eq!(order, [vec![(0, 0..4)], vec![(1, 0..1)], vec![(0, 4..8)], vec![(0, 8..9)]]);
        assert_eq!(large_reply.try_recv().expect("settled").expect("answered").len(), 9);
    }

    #[test]
    fn a_full_queue_refuses_and_what_nobody_waits_for_is_dropped() {
        let engine: Arc<dyn Engine> = Arc::new(Nothing);
        let queue = Queue::new(2, 1, 4);
        let jobs = [job(&engine, 10, 3), job(&engine, 10, 1), job(&engine, 10, 1)];
        let [(gone, gone_reply), (late, mut late_reply), (refused, _reply)] = jobs;
        queue.push(Arc::clone(&gone)).expect("room");
        assert!(!queue.is_full());
        queue.push(Arc::clone(&late)).expect("room");
        assert!(queue.is_full());
        assert_eq!(queue.push(refused), Err(Full));
        drop(gone_reply);
        let pieces = queue.take().expect("open");
        assert_eq!(shape(&pieces, &[&gone, &late]), [(1, 0..1)]);
        assert_eq!(queue.depth(), (0, 0));
        assert!(late.is_wanted(Instant::now()));
        assert!(!late.is_wanted(late.deadline));
        assert!(matches!(late_reply.try_recv(), Ok(Err(Failure::Late))));
        queue.close();
        assert!(queue.take().is_none());
        assert_eq!(queue.push(gone), Err(Full));
    }
}
