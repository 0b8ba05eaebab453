//! Searching lists and vectors that are on the drive: what is in memory elsewhere is streamed past the queries here.
//!
//! In: planned visits, shortlists. Out: the same scans and the same exact distances, in the same order, as in memory.
//! Lists are read whole, in large pieces, each once a round for all queries of a tile that probe it. Vectors to re-rank
//! are asked for in one batch, forward through the file, each page once for all of the tile.

use std::sync::Arc;
use std::time::Duration;

use kiln_kernels::{Scored, TopK};

use super::search::{IvfIndex, IvfScratch, ListSearch, Planned, check_positions};
use crate::error::BuilderError;
use crate::file::PAGE;
use crate::io::{Depth, Drive, Queue, Span};
use crate::record::{RecordScorer, dispatch_scorer};
use crate::search_types::QueryStats;

/// Pages of one read at most: 256 KiB, from where on the drive gains nothing.
const PIECE: usize = 64;

/// What a thread reads at a time at most, and at least: two pieces, so that one is on its way while one is scanned.
const MOST: Depth = Depth { reads: 64, pages: 4 * PIECE };
const LEAST_PAGES: usize = 2 * PIECE;

/// Candidates of a query whose vectors are asked for at a time, where bounds may spare the rest.
const BOUNDED_STEP: usize = 32;

/// Lists and vectors on the drive.
pub(super) struct DriveData {
    pub drive: Arc<Drive>,
    /// Byte offsets of the two sections.
    pub lists_offset: u64,
    pub vectors_offset: u64,
    /// Bytes that the index keeps in memory beside the buffers.
    fixed: u64,
    depth: Depth,
}

/// Working memory of reads.
#[derive(Default)]
pub(super) struct DriveScratch {
    queue: Option<Queue>,
    /// A list of several pieces.
    joined: Vec<u8>,
}

/// A vector that a query wants scored.
struct Wanted {
    position: u32,
    query: u32,
    /// Where its distance goes.
    slot: usize,
}

impl DriveData {
    /// Fits the buffers of reads beside the `fixed` bytes that an index keeps in memory into `memory`.
    ///
    /// # Errors
    /// Too little memory; the message names the least.
    pub(super) fn new(
        drive: Arc<Drive>,
        (lists_offset, vectors_offset): (u64, u64),
        fixed: u64,
        memory: Option<u64>,
    ) -> Result<Self, BuilderError> {
        let mut data = Self { drive, lists_offset, vectors_offset, fixed, depth: MOST };
        data.fit(memory)?;
        Ok(data)
    }

    /// Fits the buffers anew.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(super) fn fit(&mut self, memory: Option<u64>) -> Result<(), BuilderError> {
        let Some(memory) = memory else { return Ok(()) };
        if memory < self.least() {
            return Err(BuilderError::too_little_memory(self.drive.path(), memory, self.least()));
        }
        let pages = (memory - self.fixed) / PAGE as u64 / threads();
        self.depth = Depth { pages: pages.min(MOST.pages as u64) as usize, ..MOST };
        Ok(())
    }

    /// The least memory that serving takes.
    pub(super) fn least(&self) -> u64 {
        self.fixed + LEAST_PAGES as u64 * PAGE as u64 * threads()
    }

    fn queue<'a>(&self, queue: &'a mut Option<Queue>) -> Result<&'a mut Queue, BuilderError> {
        match queue {
            Some(queue) => Ok(queue),
            none => Ok(none.insert(Queue::new(&self.drive, self.depth)?)),
        }
    }
}

/// Threads that may search at a time, as far as can be known beforehand.
fn threads() -> u64 {
    std::thread::available_parallelism().map_or(1, usize::from) as u64
}

impl IvfIndex {
    /// Makes every visit of a tile, each list for several queries at a time.
    pub(super) fn scan_from_drive(
        &self,
        data: &DriveData,
        scratch: &mut IvfScratch,
        stats: &mut [QueryStats],
    ) -> Result<(), BuilderError> {
        let IvfScratch { codec, shortlists, visits, scan, reads: DriveScratch { queue, joined }, .. } = scratch;
        let queue = data.queue(queue)?;
        let (mut groups, mut spans, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        for group in visits.chunk_by(Planned::alike) {
            let list = self.list(group);
            let pages = (list.bytes(self.codec()) as usize).div_ceil(PAGE);
            if pages == 0 {
                self.visit(group, &[], codec, shortlists, scan, stats);
                continue;
            }
            group.iter().for_each(|planned| stats[planned.query()].pages += pages as u64);
            let first = (data.lists_offset + list.offset) / PAGE as u64;
            for from in (0..pages).step_by(PIECE) {
                spans.push(Span { first: first + from as u64, pages: PIECE.min(pages - from) });
                parts.push((groups.len(), from + PIECE >= pages));
            }
            groups.push(group);
        }
        joined.clear();
        let waited = queue.stream(&spans, |number, piece| {
            let (group, is_last) = parts[number];
            let whole = if is_last && joined.is_empty() {
                piece
            } else {
                joined.extend_from_slice(piece);
                &joined[..]
            };
            if !is_last {
                return Ok(());
            }
            let list = self.list(groups[group]);
            let bytes = &whole[..list.bytes(self.codec()) as usize];
            let spilled = bytes[bytes.len() - 4 * list.spilled as usize..].as_chunks::<4>().0;
            check_positions(spilled, self.ids().len()).map_err(|problem| data.drive.file.damaged(problem))?;
            self.visit(groups[group], bytes, codec, shortlists, scan, stats);
            joined.clear();
            Ok(())
        })?;
        share_wait(waited, stats);
        Ok(())
    }

    /// The k nearest of each query's shortlist by exact distances.
    pub(super) fn rerank_from_drive(
        &self,
        data: &DriveData,
        scorers: &[RecordScorer],
        wanted: ListSearch,
        scratch: &mut IvfScratch,
        stats: &mut [QueryStats],
    ) -> Result<Vec<TopK>, BuilderError> {
        let queue = data.queue(&mut scratch.reads.queue)?;
        let mut nearest = vec![TopK::new(wanted.k); scorers.len()];
        let mut waiting: Vec<std::vec::IntoIter<(f32, u32)>> = (scratch.shortlists.iter_mut().take(scorers.len()))
            .map(|shortlist| self.candidates(wanted, shortlist).into_iter())
            .collect();
        let step = if self.trusts_bounds(wanted) { BOUNDED_STEP } else { usize::MAX };
        loop {
            let (mut rows, mut taken) = (Vec::new(), Vec::new());
            for (q, waiting) in waiting.iter_mut().enumerate() {
                // What lies beyond the k-th distance cannot enter, and is not read.
                if waiting.as_slice().first().is_some_and(|&(bound, _)| self.is_beyond(wanted, bound, &nearest[q])) {
                    *waiting = Vec::new().into_iter();
                }
                for candidate in waiting.take(step) {
                    rows.push(Wanted { position: candidate.1, query: q as u32, slot: taken.len() });
                    taken.push((q, candidate));
                }
            }
            if rows.is_empty() {
                return Ok(nearest);
            }
            let distances = self.distances(data, queue, scorers, &mut rows, stats)?;
            for (&(q, (bound, position)), distance) in taken.iter().zip(distances) {
                if !self.is_beyond(wanted, bound, &nearest[q]) {
                    // Rows of an index number less than 2^32; ties go to the lower one.
                    nearest[q].push(Scored { distance, id: self.ids().get(position) as u32 });
                    stats[q].distances += 1;
                }
            }
        }
    }

    /// The exact distance of each of `rows`, by slot, read forward through the file.
    fn distances(
        &self,
        data: &DriveData,
        queue: &mut Queue,
        scorers: &[RecordScorer],
        rows: &mut [Wanted],
        stats: &mut [QueryStats],
    ) -> Result<Vec<f32>, BuilderError> {
        rows.sort_unstable_by_key(|row| (row.position, row.query));
        let (page, width) = (PAGE as u64, self.record().bytes());
        let start = |row: &Wanted| data.vectors_offset + u64::from(row.position) * width as u64;
        let pages_of = |row: &Wanted| (start(row) / page, (start(row) + width as u64 - 1) / page);
        // Rows whose pages are the same or neighbours are read together.
        let mut spans: Vec<Span> = Vec::new();
        let mut first_rows = Vec::new();
        let mut counted = vec![0; scorers.len()];
        for (number, row) in rows.iter().enumerate() {
            let (first, last) = pages_of(row);
            // Each query counts the pages that it would read alone.
            let uncounted = &mut counted[row.query as usize];
            stats[row.query as usize].pages += (last + 1).saturating_sub(first.max(*uncounted));
            *uncounted = last + 1;
            match spans.last_mut() {
                Some(span)
                    if first <= span.first + span.pages as u64 && ((last + 1 - span.first) as usize) <= PIECE =>
                {
                    span.pages = span.pages.max((last + 1 - span.first) as usize);
                }
                _ => {
                    spans.push(Span { first, pages: (last + 1 - first) as usize });
                    first_rows.push(number);
                }
            }
        }
        first_rows.push(rows.len());
        let mut distances = vec![0f32; rows.len()];
        let waited = queue.stream(&spans, |number, bytes| {
            for row in &rows[first_rows[number]..first_rows[number + 1]] {
                let at = (start(row) - spans[number].first * page) as usize;
                let record = &bytes[at..at + width];
                let scorer = &scorers[row.query as usize];
                distances[row.slot] = dispatch_scorer!(scorer, typed => typed.distance(record));
            }
            Ok(())
        })?;
        share_wait(waited, stats);
        Ok(distances)
    }
}

/// Queries of a tile wait together: each for an equal part.
fn share_wait(waited: Duration, stats: &mut [QueryStats]) {
    let each = waited.as_nanos() as u64 / stats.len().max(1) as u64;
    stats.iter_mut().for_each(|stats| stats.io_wait_ns += each);
}
