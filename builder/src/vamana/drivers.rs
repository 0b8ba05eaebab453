//! Two drivers of [`PageWalk`]: many searches in turn over a queue of reads, and, for tests, one after another with plain
//! `pread`.
//!
//! Both feed a walk the same pages in the same order, so that they answer alike whatever carries the reads, in whatever
//! order those complete, and whatever else is searched meanwhile. Throughput comes from searches in turn; reads ahead within one
//! search serve its latency.

use std::collections::VecDeque;

use super::nodes::DriveNodes;
use super::page_walk::{PageView, PageWalk, WIDE};
use super::pinned::Pinned;
use crate::error::BuilderError;
use crate::io::{Depth, Queue, Ticket};
use crate::search_types::QueryStats;

/// Searches in turn on one thread at most: their reads together keep a drive busy that takes dozens at a time. And at
/// least, where memory is short.
pub(super) const MOST_IN_TURN: usize = 64;
pub(super) const LEAST_IN_TURN: usize = 8;

/// Of so many reads on their way one part is waited for, where other searches have more on theirs: fewer calls of the system.
const WAITED_PART: usize = 8;

/// What a thread's queue holds for so many searches in turn.
pub(super) fn depth(nodes: &DriveNodes, in_turn: usize) -> Depth {
    let reads = in_turn * WIDE;
    Depth { reads, pages: reads * nodes.layout.pages_per_node() }
}

/// A graph on the drive, and the part of it that is kept in memory.
#[derive(Clone, Copy)]
pub(super) struct Pages<'a> {
    pub nodes: &'a DriveNodes,
    pub pinned: &'a Pinned,
    /// Searches that take turns.
    pub in_turn: usize,
}

/// One of the searches in turn.
struct Active<'w, V> {
    /// Its number in the batch.
    number: usize,
    view: V,
    walk: &'w mut PageWalk,
    stats: QueryStats,
    /// What each candidate that waits for its turn waits for, in order.
    sources: VecDeque<Source>,
}

/// Where the pages of a group come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Pinned,
    Drive(Ticket),
}

/// How far a search came.
enum Progress {
    Waits,
    Over,
}

impl<V: PageView> Active<'_, V> {
    /// Goes on until the next page is not there yet.
    fn advance(&mut self, pages: Pages<'_>, queue: &mut Queue) -> Result<Progress, BuilderError> {
        let Self { view, walk, stats, sources, .. } = self;
        loop {
            let (mut read, mut hits) = (0, 0);
            walk.top_up(view, stats, |group| {
                sources.push_back(if pages.pinned.holds(group) {
                    hits += 1;
                    Source::Pinned
                } else {
                    read += 1;
                    let ticket = queue.request(pages.nodes.span(group));
                    Source::Drive(ticket.expect("a queue has room for all searches in turn at their widest"))
                });
            })?;
            count(stats, pages.nodes, read, hits);
            let Some(next) = walk.next() else { return Ok(Progress::Over) };
            let Some(group) = next else {
                walk.admit(view, None, stats)?;
                continue;
            };
            match sources.front() {
                Some(&Source::Drive(ticket)) => {
                    if !queue.is_ready(ticket) {
                        return Ok(Progress::Waits);
                    }
                    sources.pop_front();
                    let admitted = queue.bytes(ticket).and_then(|bytes| walk.admit(view, Some(bytes), stats));
                    queue.release(ticket);
                    admitted?;
                }
                _ => {
                    sources.pop_front();
                    walk.admit(view, Some(pages.pinned.bytes(group)), stats)?;
                }
            }
        }
    }

    /// Gives back what is still on its way.
    fn abandon(&mut self, queue: &mut Queue) {
        for source in self.sources.drain(..) {
            if let Source::Drive(ticket) = source {
                queue.release(ticket);
            }
        }
    }
}

fn count(stats: &mut QueryStats, nodes: &DriveNodes, read: u64, hits: u64) {
    let each = nodes.layout.pages_per_node() as u64;
    stats.pages += read * each;
    stats.bytes += read * each * crate::file::PAGE as u64;
    stats.cache_hits += hits * each;
}

/// Searches `number` of times in turn: `view` prepares a search by its number, `over` takes its result.
///
/// # Errors
/// That of the first search by number that fails; those before it were answered.
pub(super) fn in_turn<V: PageView>(
    pages: Pages<'_>,
    number: usize,
    list: usize,
    walks: &mut Vec<PageWalk>,
    queue: &mut Queue,
    mut view: impl FnMut(usize) -> Result<V, BuilderError>,
    mut over: impl FnMut(usize, &mut PageWalk, QueryStats),
) -> Result<(), BuilderError> {
    // What a search that failed has left on its way takes room.
    while queue.in_flight() > 0 {
        queue.enter(1)?;
    }
    walks.resize_with(walks.len().max(pages.in_turn.min(number)), PageWalk::default);
    let mut waiting = 0..number;
    let mut failed: Option<(usize, BuilderError)> = None;
    let mut idle: Vec<&mut PageWalk> = walks.iter_mut().take(pages.in_turn).collect();
    let mut active: Vec<Active<'_, V>> = Vec::with_capacity(idle.len());
    loop {
        // A search that fails is the last to begin: those before it may fail too, and are heard out.
        while failed.is_none()
            && !idle.is_empty()
            && let Some(number) = waiting.next()
        {
            match (view(number), idle.pop()) {
                (Ok(mut view), Some(walk)) => {
                    let mut stats = QueryStats::default();
                    walk.begin(&mut view, list, &mut stats);
                    active.push(Active { number, view, walk, stats, sources: VecDeque::new() });
                }
                (Err(error), _) => failed = Some((number, error)),
                (Ok(_), None) => break,
            }
        }
        if active.is_empty() {
            return failed.map_or(Ok(()), |(_, error)| Err(error));
        }
        let mut at = 0;
        let mut ended = false;
        while at < active.len() {
            let search = &mut active[at];
            let result = search.advance(pages, queue);
            if let Ok(Progress::Waits) = result {
                at += 1;
                continue;
            }
            let mut search = active.swap_remove(at);
            ended = true;
            search.abandon(queue);
            match result {
                Ok(_) => over(search.number, &mut *search.walk, search.stats),
                Err(error) if failed.as_ref().is_none_or(|(first, _)| search.number < *first) => {
                    failed = Some((search.number, error));
                }
                Err(_) => {}
            }
            idle.push(search.walk);
        }
        if ended {
            continue;
        }
        let wanted = if active.len() > 1 { (queue.in_flight() / WAITED_PART).max(1) } else { 1 };
        match queue.enter(wanted) {
            Ok(waited) => active.iter_mut().for_each(|search| search.stats.io_wait_ns += waited.as_nanos() as u64),
            Err(error) => {
                active.iter_mut().for_each(|search| search.abandon(queue));
                return Err(error);
            }
        }
    }
}

/// The slow, obvious twin of [`in_turn`]: one search, each page read when its turn comes.
#[cfg(test)]
pub(super) fn one_by_one<V: PageView>(
    pages: Pages<'_>,
    list: usize,
    walk: &mut PageWalk,
    mut view: V,
) -> Result<QueryStats, BuilderError> {
    use crate::file::pages::PageCache;

    let mut stats = QueryStats::default();
    walk.begin(&mut view, list, &mut stats);
    let mut cache = PageCache::default();
    loop {
        let (mut read, mut hits) = (0, 0);
        walk.top_up(&mut view, &mut stats, |group| match pages.pinned.holds(group) {
            true => hits += 1,
            false => read += 1,
        })?;
        count(&mut stats, pages.nodes, read, hits);
        match walk.next() {
            None => return Ok(stats),
            Some(None) => walk.admit(&mut view, None, &mut stats)?,
            Some(Some(group)) => {
                let span = pages.nodes.span(group);
                let (offset, length) = (span.first * crate::file::PAGE as u64, span.pages * crate::file::PAGE);
                let bytes = cache.bytes(&pages.nodes.drive.file, offset, length)?;
                walk.admit(&mut view, Some(bytes), &mut stats)?;
            }
        }
    }
}
