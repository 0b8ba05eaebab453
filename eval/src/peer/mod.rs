//! Other libraries, each in a process of its own that speaks JSON lines.
//!
//! In: a [`PeerSpec`]: a command, build parameters, search parameters. Out: records like those of Kiln's own indexes. The
//! process times itself; its answers are judged here, by the judge of everybody. The protocol is written down in
//! `docs/peers.md`.
//!
//! A process that crashes, hangs, takes more memory than it may, writes what is no answer or changes the vectors costs the
//! setting at hand; it is started again for the rest, a few times. Whatever it does, the run goes on.
//!
//! `Peers` walks through one peer; `session` holds the conversation with one process and checks what it says; `child` is
//! the process itself; `vectors` are the files that it maps.

mod bench;
mod child;
mod message;
mod overhead;
mod session;
mod vectors;

use std::collections::BTreeMap;
use std::time::Duration;

use kiln_builder::Residency;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

pub(crate) use bench::{PeerStage, Peers};
pub use message::{Built, Command, Event, MOST_PASSES, PROTOCOL, Searched};

use crate::plan::named;

/// Another library's index, and how it is searched.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerSpec {
    /// The name under which it is reported.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Where its index lies while it is searched, as it says itself.
    pub residency: Residency,
    /// Build parameters by the names that the process knows.
    pub build: BTreeMap<String, Value>,
    /// Search settings, each by the names that the process knows; at least one.
    pub searches: Vec<BTreeMap<String, Value>>,
    /// Threads to build with.
    pub threads: usize,
    /// What it may take.
    pub limits: PeerLimits,
}

/// What a peer may take before it is ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeerLimits {
    /// Bytes of memory, beside the vectors' own file; `None`: nine tenths of what there is, where a control group can be
    /// made, and no limit elsewhere.
    pub memory: Option<u64>,
    /// From its start to its first word.
    pub start: Duration,
    /// The build.
    pub build: Duration,
    /// A turn of searches, each of which takes a fraction of a second or one pass over the queries.
    pub search: Duration,
}

impl Default for PeerLimits {
    /// Two minutes to start, two hours to build, ten minutes a turn.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { memory: None, start: seconds(120), build: seconds(7200), search: seconds(600) }
    }
}

impl PeerSpec {
    /// What the records of its build are called by: its data, its program, its parameters.
    pub(crate) fn build_key(&self, fingerprint: &str, metric: kiln_kernels::Metric) -> String {
        let (name, residency, threads) = (&self.name, self.residency.name(), self.threads);
        let command = self.command.join("\u{0}");
        let build = named(&self.build);
        let determines = format!(
            "data={fingerprint};metric={metric};peer={name};command={command};{build};at={residency};threads={threads}"
        );
        format!("{:032x}", xxh3_128(determines.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use kiln_kernels::Metric;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_build_is_known_by_all_that_determines_it() {
        let spec = PeerSpec {
            name: "x".into(),
            command: vec!["python3".into(), "x.py".into()],
            residency: Residency::Memory,
            build: [("m".to_string(), json!(16))].into(),
            searches: vec![BTreeMap::new()],
            threads: 2,
            limits: PeerLimits::default(),
        };
        let key = |spec: &PeerSpec| spec.build_key("f", Metric::L2);
        let patient = PeerLimits { build: Duration::from_secs(9), ..PeerLimits::default() };
        assert_eq!(key(&spec), key(&PeerSpec { limits: patient, searches: vec![], ..spec.clone() }));
        for other in [
            PeerSpec { name: "y".into(), ..spec.clone() },
            PeerSpec { command: vec!["python3 x.py".into()], ..spec.clone() },
            PeerSpec { build: [("m".to_string(), json!(17))].into(), ..spec.clone() },
            PeerSpec { residency: Residency::Ssd, ..spec.clone() },
            PeerSpec { threads: 1, ..spec.clone() },
        ] {
            assert_ne!(key(&spec), key(&other));
        }
    }
}
