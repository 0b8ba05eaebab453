//! `--fail-if`: what a comparison must not show.
//!
//! In: rules as text, and a [`Comparison`]. Out: for each rule whether it is kept, failed (with every case), or cannot be
//! judged by what both sides measured.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::collect::plain;
use super::model::{BuildPair, Comparison, Decision, RecallChange, Verdict};

/// What fails a comparison. Each limit is a part of one, not percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// `slower:P%`: a verdict of slower, with queries a second more than this below A's.
    Slower(f64),
    /// `recall:Xpt`: detectably lower recall at an equal setting, by more than this.
    Recall(f64),
    /// `build-slower:P%`: an index that takes more than this longer to build.
    BuildSlower(f64),
    /// `memory:P%`: more peak memory while building, or more memory while serving, by more than this.
    Memory(f64),
}

/// What rules there are, for messages.
const GRAMMAR: &str = "use slower:P%, recall:Xpt, build-slower:P% or memory:P%, such as slower:3% or recall:0.5pt";

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let token = text.trim();
        let Some((name, limit)) = token.split_once(':') else {
            return Err(format!("`{token}` is not a rule: {GRAMMAR}"));
        };
        type Make = fn(f64) -> Rule;
        let (unit, most, make): (&str, f64, Make) = match name {
            "slower" => ("%", 100.0, Rule::Slower),
            "recall" => ("pt", 100.0, Rule::Recall),
            "build-slower" => ("%", f64::MAX, Rule::BuildSlower),
            "memory" => ("%", f64::MAX, Rule::Memory),
            _ => return Err(format!("`{name}` in `{token}` is not a rule: {GRAMMAR}")),
        };
        let Some(number) = limit.strip_suffix(unit) else {
            return Err(format!("`{limit}` in `{token}` has no unit {unit}: write {name}:3{unit}"));
        };
        // Not "inf", "nan" or "-0": digits and a point.
        let plain = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || c == '.');
        let value = number.parse::<f64>().ok().filter(|value| plain && *value < most);
        let Some(value) = value else {
            let below = if most < f64::MAX { format!(" below {most:.0}") } else { String::new() };
            return Err(format!("`{number}` in `{token}` is not a number{below}: write {name}:3{unit}"));
        };
        Ok(make(value / 100.0))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, limit, unit) = match *self {
            Rule::Slower(limit) => ("slower", limit, "%"),
            Rule::Recall(limit) => ("recall", limit, "pt"),
            Rule::BuildSlower(limit) => ("build-slower", limit, "%"),
            Rule::Memory(limit) => ("memory", limit, "%"),
        };
        // To the digits that were written: a hundredth of them is not exact.
        write!(f, "{name}:{}{unit}", (limit * 1e8).round() / 1e6)
    }
}

/// How a rule fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing is beyond the limit.
    Kept,
    /// Something is.
    Failed,
    /// Neither: both sides measured nothing that it could be judged by.
    NotJudged,
}

/// A rule and how it fared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleOutcome {
    /// The rule as it is written.
    pub rule: String,
    /// How it fared.
    pub outcome: Outcome,
    /// Every case beyond the limit, or why it was not judged.
    pub reasons: Vec<String>,
}

/// Judges every rule.
pub fn judge_rules(rules: &[Rule], comparison: &Comparison) -> Vec<RuleOutcome> {
    rules.iter().map(|rule| rule.judge(comparison)).collect()
}

impl Rule {
    fn judge(&self, comparison: &Comparison) -> RuleOutcome {
        // For each case whether it is beyond the limit, in words.
        let (cases, missing): (Vec<Option<String>>, &str) = match *self {
            Rule::Slower(limit) => (
                // Without an interval a ratio is told from nothing, however far from one it is.
                (comparison.deciding())
                    .filter(|decision| decision.ratio.interval.is_some())
                    .map(|decision| slower(&decision, limit))
                    .collect(),
                "no recall level and no setting that both sides measured, in two turns or more",
            ),
            Rule::Recall(limit) => (
                (comparison.recalls.iter())
                    .map(|row| {
                        let beyond = row.change == RecallChange::Lower && -row.difference > limit;
                        let setting = row.params.iter().map(|(name, value)| format!("{name} {}", plain(value)));
                        let setting = setting.collect::<Vec<_>>().join(", ");
                        let (points, a, b) = (-100.0 * row.difference, row.a, row.b);
                        beyond.then(|| {
                            let (dataset, index, place) = (&row.dataset, &row.index, &row.place);
                            let of = format!("{dataset}, {index}, {place}, {setting}");
                            format!("{of}: recall {points:.2} points lower ({a:.4}, {b:.4})")
                        })
                    })
                    .collect(),
                "no setting of known recall that both sides measured",
            ),
            Rule::BuildSlower(limit) => (
                (comparison.builds.iter())
                    .filter_map(|build| rise(build, "built in", build.seconds, "s", 1.0, limit))
                    .collect(),
                "no index of which both sides tell the build time",
            ),
            Rule::Memory(limit) => (
                (comparison.builds.iter())
                    .flat_map(|build| {
                        let mib = f64::from(1 << 20);
                        let peak = rise(build, "peak memory of the build", build.peak_rss_bytes, "MiB", mib, limit);
                        [peak, rise(build, "memory while serving", build.serving_bytes, "MiB", mib, limit)]
                    })
                    .flatten()
                    .collect(),
                "no index of which both sides tell the memory",
            ),
        };
        let judged = !cases.is_empty();
        let beyond: Vec<String> = cases.into_iter().flatten().collect();
        let (outcome, reasons) = match (judged, beyond.is_empty()) {
            (false, _) => (Outcome::NotJudged, vec![missing.to_string()]),
            (true, true) => (Outcome::Kept, beyond),
            (true, false) => (Outcome::Failed, beyond),
        };
        RuleOutcome { rule: self.to_string(), outcome, reasons }
    }
}

fn slower(decision: &Decision<'_>, limit: f64) -> Option<String> {
    let ratio = decision.ratio.ratio;
    if decision.verdict != Verdict::Slower || 1.0 - ratio <= limit {
        return None;
    }
    let pair = decision.pair;
    let at = match (decision.level, decision.params) {
        (Some(level), _) => format!("at recall {level}"),
        (None, params) => {
            let params = params.into_iter().flatten();
            params.map(|(name, value)| format!("{name} {}", plain(value))).collect::<Vec<_>>().join(", ")
        }
    };
    let (dataset, index, mode, place) = (&pair.dataset, &pair.index, &pair.mode, &pair.place);
    Some(format!("{dataset}, {index}, {mode}, {place}, {at}: {:.1}% slower", 100.0 * (1.0 - ratio)))
}

/// Whether a figure rose by more than `limit`, in words; `None` where it is unknown.
fn rise(
    build: &BuildPair,
    what: &str,
    figures: Option<[f64; 2]>,
    unit: &str,
    size: f64,
    limit: f64,
) -> Option<Option<String>> {
    let [a, b] = figures?;
    let percent = 100.0 * (b / a - 1.0);
    let told = || {
        let of = format!("{}, {}", build.dataset, build.index);
        format!("{of}: {what} {:.2} {unit}, {percent:.1}% more than {:.2}", b / size, a / size)
    };
    Some((b / a - 1.0 > limit).then(told))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_they_are_written() {
        for (text, rule) in [
            ("slower:3%", Rule::Slower(0.03)),
            ("recall:0.5pt", Rule::Recall(0.005)),
            ("build-slower:150%", Rule::BuildSlower(1.5)),
            (" memory:0% ", Rule::Memory(0.0)),
            ("slower:.5%", Rule::Slower(0.005)),
        ] {
            assert_eq!(text.parse(), Ok(rule), "{text}");
        }
        for text in ["slower:3%", "recall:0.5pt", "build-slower:12.25%", "memory:0%", "slower:0.07%"] {
            assert_eq!(text.parse::<Rule>().map(|rule| rule.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_is_no_rule_is_named() {
        for (text, named) in [
            ("slowr:3%", "`slowr` in `slowr:3%`"),
            ("slower", "`slower` is not a rule"),
            ("", "`` is not a rule"),
            ("slower:3", "`3` in `slower:3` has no unit %"),
            ("recall:1%", "`1%` in `recall:1%` has no unit pt"),
            ("slower:-3%", "`-3` in `slower:-3%`"),
            ("slower:100%", "below 100"),
            ("memory:inf%", "`inf` in `memory:inf%`"),
            ("memory:nan%", "`nan`"),
            ("build-slower:1e3%", "`1e3`"),
            ("slower:%", "`` in `slower:%`"),
            ("слower:3%", "`слower`"),
        ] {
            let told = text.parse::<Rule>().expect_err(text);
            assert!(told.contains(named), "{text}: {told}");
        }
    }
}
