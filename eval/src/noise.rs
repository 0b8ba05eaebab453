//! How much a setting differs from itself: the noise of this machine, now.
//!
//! In: one setting, measured as two, with turns that alternate as those of all settings do. Out: a [`NoiseCheck`] of raw
//! passes, and from it [`Noise`]: the largest difference that two equal settings might show here. A difference between
//! others that is no larger means nothing.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::stats::{self, BOOTSTRAP_RESAMPLES};

/// From here on a machine is called noisy: methods that differ by less are common in this field.
pub const NOISY_SPREAD: f64 = 0.05;

const SEED: u64 = 0x006e_6f69_7365;

/// One setting, measured against itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NoiseCheck {
    /// The index: `vamana`, `ivf-pq`, or the name of a peer.
    pub index: String,
    /// Search parameters by name.
    pub params: BTreeMap<String, serde_json::Value>,
    /// `latency-1`, `throughput-2`, ...
    pub mode: String,
    /// Wall seconds of each pass of the one half.
    pub first: Vec<f64>,
    /// Wall seconds of each pass of the other.
    pub second: Vec<f64>,
}

/// What a [`NoiseCheck`] says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Noise {
    /// Queries a second of the second half over those of the first, by their medians: 1 on a machine without noise.
    pub ratio: f64,
    /// Lower end of its 95% bootstrap interval.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
    /// The largest difference that the interval allows, as a part: 0.03 is 3%.
    pub spread: f64,
    /// Whether the spread is above [`NOISY_SPREAD`].
    pub noisy: bool,
}

impl NoiseCheck {
    /// Derives the noise; `None` where a half has no pass.
    pub fn noise(&self) -> Option<Noise> {
        let (first, second) = (sound(&self.first), sound(&self.second));
        // A rate is the inverse of a time: the second's rate over the first's is the first's time over the second's.
        let ratio = stats::median(&first)? / stats::median(&second)?;
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let mut ratios = Vec::with_capacity(BOOTSTRAP_RESAMPLES);
        for _ in 0..BOOTSTRAP_RESAMPLES {
            let mut median_of = |values: &[f64]| {
                let drawn: Vec<f64> = (0..values.len()).map(|_| values[rng.random_range(0..values.len())]).collect();
                stats::median(&drawn)
            };
            ratios.push(median_of(&first)? / median_of(&second)?);
        }
        let (lo, hi) = (stats::quantile(&ratios, 0.025)?, stats::quantile(&ratios, 0.975)?);
        let spread = (1.0 - lo).abs().max((hi - 1.0).abs());
        Some(Noise { ratio, lo, hi, spread, noisy: spread > NOISY_SPREAD })
    }
}

fn sound(seconds: &[f64]) -> Vec<f64> {
    seconds.iter().copied().filter(|s| s.is_finite() && *s > 0.0).collect()
}

impl std::fmt::Display for Noise {
    /// `the same setting twice: 1.004 (95% interval 0.991 to 1.012), so that differences below 1.2% mean nothing here`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the same setting twice: {:.3} (95% interval {:.3} to {:.3}), so that differences below {:.1}% mean nothing \
             here",
            self.ratio,
            self.lo,
            self.hi,
            100.0 * self.spread
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(first: &[f64], second: &[f64]) -> Option<Noise> {
        let mode = "latency-1".to_string();
        let (index, params) = ("vamana".to_string(), BTreeMap::new());
        NoiseCheck { index, params, mode, first: first.to_vec(), second: second.to_vec() }.noise()
    }

    #[test]
    fn equal_halves_are_quiet_and_unequal_ones_are_not() {
        let quiet = check(&[1.0, 1.001, 0.999, 1.0], &[1.0, 0.999, 1.001, 1.0]).expect("measured");
        assert!(quiet.spread < 0.01 && !quiet.noisy && quiet.lo <= 1.0 && quiet.hi >= 1.0, "{quiet:?}");
        let drifting = check(&[1.0, 1.01, 0.99], &[1.2, 1.21, 1.19]).expect("measured");
        assert!(drifting.noisy && (drifting.ratio - 1.0 / 1.2).abs() < 1e-9, "{drifting:?}");
        let wild = check(&[1.0, 2.0, 1.0, 2.0], &[2.0, 1.0, 2.0, 1.0]).expect("measured");
        assert!(wild.noisy && wild.lo < 1.0 && wild.hi > 1.0, "{wild:?}");
        assert_eq!(check(&[1.0, 2.0], &[2.0, 1.0]), check(&[1.0, 2.0], &[2.0, 1.0]));
        assert_eq!((check(&[], &[1.0]), check(&[f64::NAN, 0.0], &[1.0])), (None, None));
    }
}
