//! What is said: one JSON object a line, commands to the process and events from it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the protocol.
pub const PROTOCOL: u32 = 1;

/// Passes of one turn at most, however short they are: what is still missing is asked for again.
pub const MOST_PASSES: usize = 10_000;

/// What Kiln asks. The process answers each command with one event, and ends when its standard input does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Command {
    /// Build an index; answered by [`Event::Built`].
    Build {
        /// Base rows `(n, dim)`, a `.npy` of one of the types that the process takes. Not to be written to.
        base: PathBuf,
        /// `l2`, `ip` or `cosine`.
        metric: String,
        /// Build parameters.
        params: BTreeMap<String, Value>,
        /// Threads to use at most.
        threads: usize,
        /// An empty folder of its own.
        folder: PathBuf,
    },
    /// Search all queries, pass by pass, and time it; answered by [`Event::Searched`].
    Search {
        /// Queries `(q, dim)`, a `.npy` of the base's type. Not to be written to.
        queries: PathBuf,
        /// Neighbours wanted.
        k: usize,
        /// `latency`: one query a call. `throughput`: one query a call on each of the threads. `batch`: all queries in one
        /// call.
        mode: String,
        /// Threads to use; the process is kept on so many CPUs.
        threads: usize,
        /// Search parameters.
        params: BTreeMap<String, Value>,
        /// Seconds to search before anything is timed.
        warm_up: f64,
        /// Timed passes at least.
        passes: usize,
        /// Seconds of timed passes at least, unless [`MOST_PASSES`] take less.
        seconds: f64,
        /// Where to write the ids `(q, k)` of one pass, int64 or int32, -1 where there are fewer; absent: nowhere.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        answers: Option<PathBuf>,
        /// Where to write the microseconds of each query `(passes, q)`, float32; absent: nowhere.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        latencies: Option<PathBuf>,
    },
}

/// What the process says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The library is loaded; said once, unasked.
    Ready {
        /// [`PROTOCOL`].
        protocol: u32,
        /// The library's version.
        version: String,
        /// NumPy's names of the element types that it takes; float32 where it does not say.
        #[serde(default)]
        dtypes: Vec<String>,
    },
    /// The index is built.
    Built(Built),
    /// Passes were made.
    Searched(Searched),
    /// What was asked cannot be done; the process may go on.
    Error {
        /// Why.
        reason: String,
        /// Whether memory did not suffice.
        #[serde(default)]
        out_of_memory: bool,
    },
}

/// A build, as the process tells it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Built {
    /// Wall seconds of the build alone.
    pub seconds: f64,
    /// Bytes of the index as the library saves it, where it can.
    #[serde(default)]
    pub index_bytes: Option<u64>,
    /// Processor seconds of the build alone, where the process can tell them from what it did besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// Highest resident set while it built, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
}

/// Passes over the queries, as the process tells them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Searched {
    /// Wall seconds of each pass.
    pub seconds: Vec<f64>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_are_spelt_as_the_protocol_says() {
        let told = |text: &str| serde_json::from_str::<Event>(text).expect("an event");
        let ready = Event::Ready { protocol: 1, version: "0.8".into(), dtypes: vec![] };
        assert_eq!(told(r#"{"event": "ready", "protocol": 1, "version": "0.8", "colour": "red"}"#), ready);
        let built = Event::Built(Built { seconds: 1.5, ..Built::default() });
        assert_eq!(told(r#"{"event":"built","seconds":1.5}"#), built);
        assert_eq!(told(r#"{"event":"searched","seconds":[0.5]}"#), Event::Searched(Searched { seconds: vec![0.5] }));
        let error = Event::Error { reason: "so".into(), out_of_memory: false };
        assert_eq!(told(r#"{"event":"error","reason":"so"}"#), error);
        let search = Command::Search {
            queries: "q.npy".into(),
            k: 10,
            mode: "batch".into(),
            threads: 1,
            params: [("ef".to_string(), json!(40))].into(),
            warm_up: 0.0,
            passes: 1,
            seconds: 0.3,
            answers: Some("a.npy".into()),
            latencies: None,
        };
        let text = serde_json::to_string(&search).expect("serialises");
        assert_eq!(
            text,
            r#"{"do":"search","queries":"q.npy","k":10,"mode":"batch","threads":1,"params":{"ef":40},"warm_up":0.0,"passes":1,"seconds":0.3,"answers":"a.npy"}"#
        );
        assert_eq!(serde_json::from_str::<Command>(&text).expect("a command"), search);
    }
}
