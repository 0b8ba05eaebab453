//! Metrics: how far apart two rows are, as ordered inside Kiln and as reported to users.

use serde::{Deserialize, Serialize};

/// How two rows are compared. Smaller is nearer for every metric.
///
/// | metric | ordered by | reported as |
/// |---|---|---|
/// | `L2` | squared Euclidean distance | Euclidean distance |
/// | `InnerProduct` | minus the dot product | minus the dot product |
/// | `Cosine` | 1 - cos; a zero row is at 1 from everything | the same |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Euclidean distance.
    L2,
    /// Maximum inner product.
    #[serde(rename = "ip")]
    InnerProduct,
    /// Angular distance, 1 - cos.
    Cosine,
}

impl Metric {
    /// The name used on the command line and in files: `l2`, `ip`, `cosine`.
    pub const fn name(self) -> &'static str {
        match self {
            Metric::L2 => "l2",
            Metric::InnerProduct => "ip",
            Metric::Cosine => "cosine",
        }
    }

    /// Turns an ordering distance into the one users see: the root of a squared L2, others as they are.
    pub fn reported(self, ordering_distance: f32) -> f32 {
        match self {
            Metric::L2 => ordering_distance.max(0.0).sqrt(),
            Metric::InnerProduct | Metric::Cosine => ordering_distance,
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Metric {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "l2" | "euclidean" => Ok(Metric::L2),
            "ip" | "dot" => Ok(Metric::InnerProduct),
            "cosine" | "angular" => Ok(Metric::Cosine),
            _ => Err(format!("unknown metric {name:?}: use l2, ip or cosine")),
        }
    }
}
