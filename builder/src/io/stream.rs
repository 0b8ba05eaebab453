//! Many spans through one queue, in order.

use std::collections::VecDeque;
use std::time::Duration;

use super::queue::{Queue, Span, Ticket};
use crate::error::BuilderError;

impl Queue {
    /// Reads `spans`, as many side by side as fit, and hands each one's bytes to `take` with its number, in order. A span
    /// must fit the queue by itself. Returns the time in which nothing could be taken.
    ///
    /// # Errors
    /// The first span that cannot be read or does not match its checksums, and what `take` returns. Reads on their way
    /// are given up.
    pub(crate) fn stream(
        &mut self,
        spans: &[Span],
        mut take: impl FnMut(usize, &[u8]) -> Result<(), BuilderError>,
    ) -> Result<Duration, BuilderError> {
        let mut waiting = VecDeque::new();
        let outcome = self.stream_into(spans, &mut waiting, &mut take);
        waiting.into_iter().for_each(|ticket| self.release(ticket));
        outcome
    }

    fn stream_into(
        &mut self,
        spans: &[Span],
        waiting: &mut VecDeque<Ticket>,
        take: &mut impl FnMut(usize, &[u8]) -> Result<(), BuilderError>,
    ) -> Result<Duration, BuilderError> {
        let mut waited = Duration::ZERO;
        let mut asked = 0;
        for number in 0..spans.len() {
            while let Some(ticket) = spans.get(asked).and_then(|&span| self.request(span)) {
                waiting.push_back(ticket);
                asked += 1;
            }
            let &ticket = waiting.front().expect("a span that fits is taken by a queue that holds nothing");
            if self.is_ready(ticket) {
                // Sends what was asked for; the drive is never idle while there is something to take.
                self.enter(0)?;
            } else {
                waited += self.wait_for(ticket)?;
            }
            take(number, self.bytes(ticket)?)?;
            waiting.pop_front();
            self.release(ticket);
        }
        Ok(waited)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{fixture, open};
    use super::super::{Depth, IoEngine};
    use super::*;
    use crate::file::PAGE;
    use crate::search_types::DriveReads;

    #[test]
    fn spans_come_in_order_and_a_failure_gives_back_every_read() {
        let file = fixture();
        for io in [IoEngine::Auto, IoEngine::Pread] {
            let drive = Arc::new(open(&file, io, DriveReads::Cached));
            let mut queue = Queue::new(&drive, Depth { reads: 4, pages: 9 }).expect("a queue");
            let spans: Vec<Span> = (0..40).map(|i| Span { first: i * 2 % 83, pages: 1 + i as usize % 7 }).collect();
            for fails_at in [None, Some(0), Some(17)] {
                let mut taken = Vec::new();
                let outcome = queue.stream(&spans, |number, bytes| {
                    if Some(number) == fails_at {
                        return Err(BuilderError::Mismatch("enough".into()));
                    }
                    let span = spans[number];
                    assert_eq!(bytes, &file.bytes[span.first as usize * PAGE..][..span.pages * PAGE]);
                    taken.push(number);
                    Ok(())
                });
                assert_eq!(outcome.is_ok(), fails_at.is_none());
                assert_eq!(taken, (0..fails_at.unwrap_or(40)).collect::<Vec<_>>());
            }
            while queue.in_flight() > 0 {
                queue.enter(1).expect("the system reads");
            }
            // Everything was given back: the largest span fits.
            let whole = queue.request(Span { first: 0, pages: 9 }).expect("nothing is held");
            queue.release(whole);
        }
    }
}
