//! What the protocol of peers costs: measured once a run, on an engine that does nothing.
//!
//! In: its command. Out: a [`PeerOverhead`] in the run's header; where it fails, a warning.

use std::collections::BTreeMap;

use kiln_builder::Residency;

use super::bench::{PeerStage, Peers};
use super::session::{Passes, Session, Turn};
use super::{PeerLimits, PeerSpec};
use crate::error::EvalError;
use crate::record::{Mode, PeerOverhead};
use crate::stats;

/// Timed passes of each mode.
const OVERHEAD_PASSES: usize = 20;

const WARM_UP_SECONDS: f64 = 0.05;

impl Peers<'_> {
    /// Measures once a run what the protocol costs, by an engine that does nothing. Where that fails, it is unknown.
    pub(super) fn measure_overhead(
        &mut self,
        command: &[String],
        stage: &mut PeerStage<'_, '_>,
        available: u64,
    ) -> Result<(), EvalError> {
        let spec = PeerSpec {
            name: "noop".into(),
            command: command.to_vec(),
            residency: Residency::Memory,
            build: BTreeMap::new(),
            searches: vec![BTreeMap::new()],
            threads: 1,
            limits: PeerLimits::default(),
        };
        let (work, log) = (self.folder.join("noop"), self.folder.join("noop.log"));
        let started = Session::start(&spec, self.metric.name(), &mut self.vectors, &work, &log, available)?;
        let measured = started.and_then(|(mut session, _)| {
            let params = BTreeMap::new();
            let mut turn = |mode| {
                let k = stage.plan.k;
                session.turn(&Turn {
                    params: &params,
                    mode,
                    k,
                    warm_up: WARM_UP_SECONDS,
                    passes: OVERHEAD_PASSES,
                    seconds: 0.0,
                    answers: true,
                })
            };
            let (single, batch) = (turn(Mode::Latency1)?, turn(Mode::Batch { threads: 1 })?);
            session.farewell();
            Ok((single, batch))
        });
        let _ = std::fs::remove_dir_all(&work);
        let overhead = measured.map(|(single, batch)| {
            let latencies: Vec<f64> =
                single.runs.iter().flat_map(|run| &run.latency_us).map(|&us| f64::from(us)).collect();
            let passes = |passes: &Passes| passes.runs.iter().map(|run| run.seconds).collect::<Vec<_>>();
            let seconds = passes(&batch);
            PeerOverhead {
                command: command.to_vec(),
                latency_us: stats::median(&latencies).unwrap_or(0.0),
                batch_qps: self.vectors.queries() as f64 / stats::median(&seconds).unwrap_or(f64::INFINITY).max(1e-12),
                turn_seconds: (batch.wall_seconds - WARM_UP_SECONDS - seconds.iter().sum::<f64>()).max(0.0),
            }
        });
        match overhead {
            Ok(overhead) => {
                let PeerOverhead { latency_us, turn_seconds, .. } = overhead;
                tracing::info!(
                    "an engine that does nothing takes {latency_us:.3} us a query through the protocol of peers, and a \
                     turn {:.1} ms beside what is timed",
                    1e3 * turn_seconds
                );
                stage.folder.set_peer_overhead(overhead)?;
            }
            Err(lost) => tracing::warn!("what the protocol of peers costs is unknown: {}", lost.reason),
        }
        Ok(())
    }
}
