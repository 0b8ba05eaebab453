//! How a setting is driven: the name of its mode, and what follows from it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Threads of a mode at most: no machine that Kiln knows has more.
pub const MAX_THREADS: usize = 4096;

/// How a setting was driven. Modes never share a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode")]
pub enum Mode {
    /// One query at a time on one pinned core.
    Latency1,
    /// `threads` threads in a closed loop over the query set.
    Throughput {
        /// Number of threads.
        threads: usize,
    },
    /// The whole query set at once: `threads` threads answer an equal share each, in one call. Within a call queries
    /// may share work, so that none has a latency of its own.
    Batch {
        /// Number of threads.
        threads: usize,
    },
    /// The whole query set in one call to a device.
    BatchDevice {
        /// Whether a pass counts the way there and back, or only what the device does with queries that are there, leaving
        /// answers where they are.
        transfers: bool,
    },
}

impl Mode {
    /// `latency-1`, `throughput-2`, `batch-1`, `batch-device`, `batch-device-resident`, ...
    pub fn name(self) -> String {
        match self {
            Mode::Latency1 => "latency-1".to_string(),
            Mode::Throughput { threads } => format!("throughput-{threads}"),
            Mode::Batch { threads } => format!("batch-{threads}"),
            Mode::BatchDevice { transfers: true } => "batch-device".to_string(),
            Mode::BatchDevice { transfers: false } => "batch-device-resident".to_string(),
        }
    }

    /// Whether many queries are answered in a call: none then has a latency of its own.
    pub fn is_batch(self) -> bool {
        matches!(self, Mode::Batch { .. } | Mode::BatchDevice { .. })
    }

    /// Whether a device answers.
    pub fn is_on_device(self) -> bool {
        matches!(self, Mode::BatchDevice { .. })
    }

    /// Where it stands among others: latency first, then batches, then throughput, each by threads, devices last.
    pub fn order(self) -> (u8, usize) {
        match self {
            Mode::Latency1 => (0, 1),
            Mode::Batch { threads } => (1, threads),
            Mode::Throughput { threads } => (2, threads),
            Mode::BatchDevice { transfers } => (3, usize::from(!transfers)),
        }
    }

    /// Threads that search, or that hand queries to the device.
    pub fn threads(self) -> usize {
        match self {
            Mode::Latency1 | Mode::BatchDevice { .. } => 1,
            Mode::Throughput { threads } | Mode::Batch { threads } => threads,
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    /// As [`Mode::name`] spells it.
    fn from_str(text: &str) -> Result<Self, String> {
        let threads = |text: &str| text.parse::<usize>().ok().filter(|threads| (1..=MAX_THREADS).contains(threads));
        let mode = match text.split_once('-') {
            Some(("latency", "1")) => Some(Mode::Latency1),
            Some(("throughput", number)) => threads(number).map(|threads| Mode::Throughput { threads }),
            Some(("batch", "device")) => Some(Mode::BatchDevice { transfers: true }),
            Some(("batch", "device-resident")) => Some(Mode::BatchDevice { transfers: false }),
            Some(("batch", number)) => threads(number).map(|threads| Mode::Batch { threads }),
            _ => None,
        };
        mode.ok_or_else(|| {
            format!(
                "use latency-1, throughput-T or batch-T, with T from 1 to {MAX_THREADS} threads, batch-device or \
                 batch-device-resident"
            )
        })
    }
}
