//! An index on a device: what it answers to a batch, and what a pass of batches takes.
//!
//! In: a [`DeviceGraph`] of any backend. Out: [`Work`] for the stopwatch, the way there and back counted or not, and answers
//! for the judge.

use std::ops::Range;

use kiln_builder::{BuilderError, DeviceAnswers, DeviceGraph, Effort, Searcher};
use kiln_kernels::{Backend, RowsView};

use crate::answers::QueryAnswers;
use crate::judge::Judgement;
use crate::measure::Work;
use crate::record::Answers;

/// A device that answers batches, of whatever kind.
pub(crate) trait AnswersBatches: Sync {
    fn search(&self, queries: &RowsView<'_>, k: usize, search_list: usize) -> Result<DeviceAnswers, BuilderError>;
    fn device(&self) -> String;
}

impl<B: Backend> AnswersBatches for DeviceGraph<'_, B> {
    fn search(&self, queries: &RowsView<'_>, k: usize, search_list: usize) -> Result<DeviceAnswers, BuilderError> {
        DeviceGraph::search(self, queries, k, search_list)
    }

    fn device(&self) -> String {
        DeviceGraph::device(self)
    }
}

/// An index on the device that was there when it was opened.
pub(crate) struct OnDevice<'a> {
    graph: Box<dyn AnswersBatches + 'a>,
    device: String,
}

impl<'a> OnDevice<'a> {
    /// Brings the index to the device.
    ///
    /// # Errors
    /// Where no device is at hand, and an index that none searches or that has no room.
    pub(crate) fn open<B: Backend>(searcher: &'a Searcher, backend: &'a B) -> Result<Self, String> {
        if backend.is_host() {
            return Err(format!("no device is at hand, and {} has its own mode: batch-T", backend.describe()));
        }
        let graph = DeviceGraph::open(searcher, backend).map_err(|error| error.to_string())?;
        let device = graph.device();
        Ok(Self { graph: Box::new(graph), device })
    }

    /// What answers, in words. An error where another device has taken over since the index was brought there.
    pub(crate) fn device(&self) -> Result<&str, String> {
        let now = self.graph.device();
        match now == self.device {
            true => Ok(&self.device),
            false => Err(format!("{} failed, and {now} went on: name a device that works by --device", self.device)),
        }
    }

    /// The answers to all of `queries`.
    pub(crate) fn answers(
        &self,
        queries: &RowsView<'_>,
        k: usize,
        effort: Effort,
    ) -> Result<QueryAnswers, BuilderError> {
        Ok(QueryAnswers::of(self.graph.search(queries, k, list(effort, k))?.hits, k))
    }

    /// What the stopwatch times: whole calls, or where `transfers` do not count, what the device says of its part.
    pub(crate) fn work<'w>(
        &'w self,
        queries: &'w RowsView<'_>,
        k: usize,
        effort: Effort,
        transfers: bool,
    ) -> Work<'w, BuilderError> {
        let search_list = list(effort, k);
        let search = move |share: Range<usize>| self.graph.search(&queries.slice(share), k, search_list);
        if transfers {
            return Work::batch(move |share| Ok(search(share)?.hits));
        }
        Work::timed(move |share| {
            let DeviceAnswers { hits, on_device } = search(share)?;
            let walked = on_device.ok_or_else(|| {
                BuilderError::Mismatch(format!(
                    "{} had not the room to walk this graph alone, and says nothing of its part: measure batch-device",
                    self.graph.device()
                ))
            })?;
            Ok((hits, walked))
        })
    }
}

/// The candidates that a walk keeps.
pub(crate) fn list(effort: Effort, k: usize) -> usize {
    match effort {
        Effort::Graph { search_list, .. } => search_list,
        Effort::Lists { .. } => k,
    }
}

/// The record of judged answers of a device, which counts the nodes that it expanded and nothing else.
pub(crate) fn judged(answers: &QueryAnswers, judgement: Judgement) -> Answers {
    Answers {
        strict_hits: judgement.strict_hits,
        id_hits: judgement.id_hits,
        ann_hits: judgement.ann_hits,
        possible: judgement.possible,
        hops: answers.stats.iter().map(|stats| u32::try_from(stats.hops).unwrap_or(u32::MAX)).collect(),
        ..Answers::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use kiln_builder::{Hits, Navigate};
    use kiln_kernels::{DType, Rows};

    use super::*;
    use crate::measure::Driver;

    /// A device that takes 2 ms for a call, of which it says that its own part was so long.
    struct Slow<'f> {
        own: Option<Duration>,
        failed: &'f AtomicBool,
    }

    impl AnswersBatches for Slow<'_> {
        fn search(&self, queries: &RowsView<'_>, _: usize, _: usize) -> Result<DeviceAnswers, BuilderError> {
            std::thread::sleep(Duration::from_millis(2));
            Ok(DeviceAnswers { hits: vec![Hits::default(); queries.len()], on_device: self.own })
        }

        fn device(&self) -> String {
            if self.failed.load(Ordering::Relaxed) { "cpu (scalar)" } else { "wgpu (slow)" }.into()
        }
    }

    const EFFORT: Effort = Effort::Graph { search_list: 20, navigate: Navigate::Exact };

    #[test]
    fn a_pass_is_the_call_or_what_the_device_says_of_it() {
        let (failed, own) = (AtomicBool::new(false), Duration::from_micros(300));
        let slow = |own| OnDevice { graph: Box::new(Slow { own, failed: &failed }), device: "wgpu (slow)".into() };
        let queries = Rows::zeros(DType::F32, 100, 4);
        let pass = |device: &OnDevice<'_>, transfers: bool| {
            let queries = queries.view();
            let work = device.work(&queries, 10, EFFORT, transfers);
            Driver::new(100).turn(1, 0.0, &work).map(|runs| (runs[0].seconds, runs[0].latency_us.len()))
        };
        let began = Instant::now();
        let (whole, latencies) = pass(&slow(Some(own)), true).expect("measured");
        assert!((0.002..began.elapsed().as_secs_f64()).contains(&whole) && latencies == 0, "{whole}");
        assert_eq!(pass(&slow(Some(own)), false).expect("measured"), (own.as_secs_f64(), 0));
        // Where the host had a part in the walks, nobody knows the device's.
        assert!(pass(&slow(None), true).is_ok());
        let problem = pass(&slow(None), false).expect_err("unknown").to_string();
        assert!(problem.contains("wgpu (slow)") && problem.contains("measure batch-device"), "{problem}");
    }

    #[test]
    fn a_device_that_another_replaced_is_told() {
        let failed = AtomicBool::new(false);
        let device = OnDevice { graph: Box::new(Slow { own: None, failed: &failed }), device: "wgpu (slow)".into() };
        assert_eq!(device.device(), Ok("wgpu (slow)"));
        failed.store(true, Ordering::Relaxed);
        let problem = device.device().expect_err("another");
        assert!(problem.contains("wgpu (slow) failed, and cpu (scalar) went on"), "{problem}");
    }
}
