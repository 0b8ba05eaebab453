//! Axes: scales, ranges and ticks.
//!
//! In: the values to be shown. Out: an [`Axis`] with labelled ticks that do not collide, usable as a plotters
//! coordinate. Scales are linear, logarithmic, or logit for recall (which spreads .9, .99 and .999 evenly).

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use serde::Serialize;

use crate::format;

/// Recall above this is drawn at it: the logit of 1 is infinite.
pub const LOGIT_CEILING: f64 = 0.9999;
const LOGIT_FLOOR: f64 = 0.0001;

/// How values become lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Proportional.
    Linear,
    /// By logarithm.
    Log,
    /// By log odds, clamped to [`LOGIT_CEILING`].
    Logit,
}

/// What values are, and so how ticks read. The page's script writes them alike (`templates/scales.js`), since it sets
/// ticks of its own where a reader zooms in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Any number, in full: `0.5`, `1,000`.
    Plain,
    /// Many: `1.5k`, `3M`.
    Compact,
    /// Between 0 and 1: `.95`.
    Recall,
    /// Microseconds: `87 µs`, `1.2 ms`.
    Micros,
    /// Bytes in binary units.
    Bytes,
    /// A part of a whole: `5%`.
    Share,
    /// Names that stand at 0, 1, 2, ...: there is nothing between them.
    Named,
}

/// A scale over a range, with ticks and a title.
#[derive(Debug, Clone, Serialize)]
pub struct Axis {
    /// What it shows, with its unit.
    pub title: String,
    /// Its scale.
    pub scale: Scale,
    /// What its values are.
    pub unit: Unit,
    /// Value at the left or bottom end.
    pub lo: f64,
    /// Value at the right or top end; may be below `lo` where the axis runs downwards.
    pub hi: f64,
    /// Labelled grid lines.
    pub ticks: Vec<(f64, String)>,
}

impl Scale {
    /// The value on a straight axis.
    pub fn straighten(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log => value.max(f64::MIN_POSITIVE).ln(),
            Scale::Logit => {
                let p = value.clamp(LOGIT_FLOOR, LOGIT_CEILING);
                (p / (1.0 - p)).ln()
            }
        }
    }
}

impl Unit {
    /// A value as a tick says it.
    pub fn label(self, value: f64) -> String {
        match self {
            Unit::Plain | Unit::Named => format::tick(value),
            Unit::Compact => format::compact(value),
            Unit::Recall => format::recall_tick(value),
            Unit::Micros => format::micros_tick(value),
            Unit::Bytes => format::bytes_tick(value),
            Unit::Share => format!("{}%", format::tick(value * 100.0)),
        }
    }
}

impl Axis {
    /// Where a value falls: 0 at `lo`, 1 at `hi`; clamped.
    pub fn project(&self, value: f64) -> f64 {
        let (lo, hi) = (self.scale.straighten(self.lo), self.scale.straighten(self.hi));
        if hi == lo {
            return 0.5;
        }
        ((self.scale.straighten(value) - lo) / (hi - lo)).clamp(0.0, 1.0)
    }

    /// From zero (or `floor`, where given) to a round number that holds every value.
    pub fn from_zero(title: &str, values: impl Iterator<Item = f64>, unit: Unit) -> Axis {
        let top = finite_max(values).unwrap_or(1.0);
        let step = nice_step(if top > 0.0 { top } else { 1.0 }, 5);
        let hi = (top / step * 1.02).ceil().max(1.0) * step;
        Axis { title: title.into(), scale: Scale::Linear, unit, lo: 0.0, hi, ticks: linear_ticks(0.0, hi, step, unit) }
    }

    /// Logarithmic around positive values, with some air.
    pub fn log(title: &str, values: impl Iterator<Item = f64>, unit: Unit) -> Axis {
        let (mut lo, mut hi) = (values.filter(|v| v.is_finite() && *v > 0.0))
            .fold((f64::INFINITY, 0.0_f64), |(lo, hi), v| (lo.min(v), hi.max(v)));
        if hi <= 0.0 {
            (lo, hi) = (1.0, 10.0);
        }
        let air = (hi / lo).powf(0.06).max(1.15);
        (lo, hi) = (lo / air, hi * air);
        Axis { title: title.into(), scale: Scale::Log, unit, lo, hi, ticks: log_ticks(lo, hi, unit) }
    }

    /// Bytes by logarithm, with ticks at powers of two.
    pub fn log_bytes(title: &str, bytes: impl Iterator<Item = f64> + Clone) -> Axis {
        const MOST_TICKS: usize = 9;
        let mut axis = Axis::log(title, bytes, Unit::Bytes);
        let (first, last) = (axis.lo.log2().ceil() as i32, axis.hi.log2().floor() as i32);
        let stride = (((last - first).max(0) as usize + 1).div_ceil(MOST_TICKS)).max(1);
        let powers = (first..=last).step_by(stride).map(|power| 2f64.powi(power));
        axis.ticks = powers.map(|value| (value, Unit::Bytes.label(value))).collect();
        axis
    }

    /// Recall on a linear scale: from a round number below the lowest to 1.
    pub fn recall(title: &str, values: impl Iterator<Item = f64>) -> Axis {
        let lowest = values.fold(1.0, f64::min);
        let grain = if lowest >= 0.9 {
            0.02
        } else if lowest >= 0.7 {
            0.05
        } else {
            0.1
        };
        let lo = ((lowest.min(0.979) / grain - 0.2).floor() * grain).max(0.0);
        let step = nice_step(1.0 - lo, 7);
        let first = (lo / step - 1e-9).ceil() * step;
        let ticks = linear_ticks(first, 1.0, step, Unit::Recall);
        // A little room on the right, so that a marker at 1 is whole.
        Axis { title: title.into(), scale: Scale::Linear, unit: Unit::Recall, lo, hi: 1.0 + (1.0 - lo) * 0.02, ticks }
    }

    /// Recall by log odds.
    pub fn logit_recall(title: &str, values: impl Iterator<Item = f64> + Clone) -> Axis {
        let clamped = values.map(|v| v.clamp(LOGIT_FLOOR, LOGIT_CEILING));
        let lowest = clamped.clone().fold(0.9, f64::min);
        let highest = clamped.fold(0.95, f64::max);
        let odds = |p: f64| p / (1.0 - p);
        // A quarter of a natural log unit of air; the ceiling itself gets its own.
        let below = odds(lowest) * 0.78;
        let lo = below / (1.0 + below);
        let hi = (odds(highest) * 1.28 / (1.0 + odds(highest) * 1.28)).min(LOGIT_CEILING);
        let mut axis = Axis { title: title.into(), scale: Scale::Logit, unit: Unit::Recall, lo, hi, ticks: Vec::new() };
        // The levels everyone asks for come first; the rest fills gaps.
        const CANDIDATES: [f64; 19] = [
            0.9, 0.99, 0.999, 0.95, 0.9999, 0.5, 0.98, 0.8, 0.995, 0.7, 0.998, 0.9995, 0.3, 0.1, 0.97, 0.85, 0.6, 0.01,
            0.001,
        ];
        const MIN_GAP: f64 = 0.055;
        for value in CANDIDATES.into_iter().filter(|v| (lo..=hi).contains(v)) {
            let at = axis.project(value);
            if axis.ticks.iter().all(|(other, _)| (axis.project(*other) - at).abs() >= MIN_GAP) {
                axis.ticks.push((value, Unit::Recall.label(value)));
            }
        }
        axis
    }

    /// One band a label, the first at the top: the y axis of a bar chart. Band `i` spans `i..i + 1`.
    pub fn bands(labels: impl Iterator<Item = String>) -> Axis {
        let ticks: Vec<(f64, String)> = labels.enumerate().map(|(i, l)| (i as f64 + 0.5, l)).collect();
        Axis { title: String::new(), scale: Scale::Linear, unit: Unit::Named, lo: ticks.len() as f64, hi: 0.0, ticks }
    }

    /// One position a label, the first on the left, at 0, 1, 2, ...
    pub fn positions(title: &str, labels: impl Iterator<Item = String>) -> Axis {
        let ticks: Vec<(f64, String)> = labels.enumerate().map(|(i, l)| (i as f64, l)).collect();
        let hi = ticks.len() as f64 - 0.6;
        Axis { title: title.into(), scale: Scale::Linear, unit: Unit::Named, lo: -0.4, hi, ticks }
    }
}

fn finite_max(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.filter(|v| v.is_finite()).reduce(f64::max)
}

/// 1, 2 or 5 times a power of ten, so that `span` holds about `count` of them.
fn nice_step(span: f64, count: usize) -> f64 {
    let raw = span / count as f64;
    let power = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= raw * 0.999).unwrap_or(10.0);
    factor * power
}

fn linear_ticks(first: f64, hi: f64, step: f64, unit: Unit) -> Vec<(f64, String)> {
    let count = ((hi - first) / step + 1e-6).floor() as usize;
    (0..=count.min(50))
        .map(|i| {
            // Rounding to a small part of a step hides binary noise from labels.
            let value = first + i as f64 * step;
            (value, unit.label((value / step * 1e3).round() / 1e3 * step))
        })
        .collect()
}

/// The densest of a few usual patterns that gives at most eight ticks.
fn log_ticks(lo: f64, hi: f64, unit: Unit) -> Vec<(f64, String)> {
    const PATTERNS: [&[f64]; 5] = [
        &[1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0],
        &[1.0, 2.0, 5.0],
        &[1.0, 3.0],
        &[1.0],
    ];
    let (first, last) = (lo.log10().floor() as i32, hi.log10().ceil() as i32);
    let mut ticks = Vec::new();
    for pattern in PATTERNS {
        ticks = (first..=last)
            .flat_map(|power| pattern.iter().map(move |f| f * 10f64.powi(power)))
            .filter(|v| (lo..=hi).contains(v))
            .map(|v| (v, unit.label(v)))
            .collect();
        if ticks.len() <= 8 {
            break;
        }
    }
    if ticks.len() < 3 {
        // A fraction of an octave: round numbers instead.
        let step = nice_step(hi - lo, 5);
        ticks = linear_ticks((lo / step).ceil() * step, hi, step, unit);
    }
    ticks
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        (f64::from(from) + self.project(*value) * f64::from(to - from)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, hint: H) -> Vec<f64> {
        // plotters asks twice, for minor and for major grid lines; there are only major ones.
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.ticks.iter().map(|(value, _)| *value).collect()
    }

    fn range(&self) -> Range<f64> {
        self.lo..self.hi
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        (self.ticks.iter()).find(|(tick, _)| tick == value).map_or_else(String::new, |(_, label)| label.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn log_ticks_are_round_and_few() {
        let wide = Axis::log("q", [900.0, 42_000.0].into_iter(), Unit::Compact);
        assert_eq!(labels(&wide), ["1k", "2k", "5k", "10k", "20k", "50k"]);
        let narrow = Axis::log("q", [1_000.0].into_iter(), Unit::Compact);
        assert!(narrow.ticks.len() >= 2, "{:?}", narrow.ticks);
        for values in [vec![], vec![1e-3, 1e9], vec![0.0, 5.0], vec![f64::NAN, 3.0]] {
            let axis = Axis::log("q", values.into_iter(), Unit::Compact);
            assert!((2..=16).contains(&axis.ticks.len()), "{axis:?}");
        }
    }

    #[test]
    fn bytes_are_marked_at_powers_of_two() {
        const MIB: f64 = 1_048_576.0;
        let axis = Axis::log_bytes("m", [8.0 * MIB, 1024.0 * MIB].into_iter());
        let plain: Vec<String> = labels(&axis).into_iter().map(|label| label.replace('\u{a0}', " ")).collect();
        assert_eq!(plain, ["8 MiB", "16 MiB", "32 MiB", "64 MiB", "128 MiB", "256 MiB", "512 MiB", "1 GiB"]);
        let wide = Axis::log_bytes("m", [1.0, 1e15].into_iter());
        assert!((3..=9).contains(&wide.ticks.len()), "{wide:?}");
        assert!(Axis::log_bytes("m", [].into_iter()).lo > 0.0);
    }

    #[test]
    fn logit_holds_one_and_keeps_ticks_apart() {
        let axis = Axis::logit_recall("r", [0.4, 1.0].into_iter());
        assert_eq!(axis.project(1.0), axis.project(LOGIT_CEILING));
        assert!(axis.project(1.0) <= 1.0 && axis.project(0.4) > 0.0);
        assert!(labels(&axis).contains(&".99"));
        let narrow = Axis::logit_recall("r", [0.93, 0.97].into_iter());
        assert!(labels(&narrow).contains(&".95"), "{narrow:?}");
    }

    #[test]
    fn recall_axis_starts_below_the_lowest() {
        for lowest in [0.0, 0.3, 0.75, 0.91, 0.999, 1.0] {
            let axis = Axis::recall("r", [lowest].into_iter());
            assert!(axis.lo < lowest || lowest == 0.0, "{axis:?}");
            assert!(axis.ticks.len() >= 2 && axis.ticks.len() <= 12, "{axis:?}");
        }
    }

    #[test]
    fn zero_based_axis_survives_odd_values() {
        for values in [vec![], vec![0.0], vec![f64::NAN], vec![1e-9], vec![7.3e11]] {
            let axis = Axis::from_zero("b", values.clone().into_iter(), Unit::Compact);
            assert!(axis.hi > 0.0 && axis.ticks.len() >= 2, "{values:?} {axis:?}");
            assert!(values.iter().all(|v| v.is_nan() || *v <= axis.hi));
        }
    }
}
