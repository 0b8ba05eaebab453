//! Numbers as people read them.
//!
//! In: a figure in its base unit. Out: text with three significant digits or so, and its unit.

use kiln_eval::stats::{AtRecall, Interval};

/// Between a figure and its unit: a line never breaks there.
const SPACE: char = '\u{a0}';

/// Thousands separated, three significant digits below 1,000: `5,912`, `12.0`, `0.0420`; whole numbers as they are.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let magnitude = value.abs();
    if magnitude >= 999.5 {
        return thousands(value);
    }
    let decimals = match magnitude {
        m if m.fract() == 0.0 || m >= 99.95 => 0,
        m if m >= 9.995 => 1,
        m if m >= 0.9995 => 2,
        m => (2 - m.log10().floor() as i32).clamp(0, 9) as usize,
    };
    format!("{value:.decimals$}")
}

/// [`number`] without trailing zeros, for ticks: `0.5`, `20`.
pub fn tick(value: f64) -> String {
    trim_zeros(number(value))
}

fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::from(if value < 0.0 { "−" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn trim_zeros(text: String) -> String {
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// Short form for axes: `1.5k`, `20k`, `3M`.
pub fn compact(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        m if m >= 999_500_000.0 => (value / 1e9, "G"),
        m if m >= 999_500.0 => (value / 1e6, "M"),
        m if m >= 999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    format!("{}{suffix}", tick(scaled))
}

/// Recall without its leading zero: `.900`, `.953`, `.9987`, `1`. Only a recall of exactly 1 reads as 1.
pub fn recall(value: f64) -> String {
    if !(0.0..=1.0).contains(&value) {
        return number(value);
    }
    let digits = if value > 0.99 { 4 } else { 3 };
    let scale = 10f64.powi(digits);
    // Down at the very top, so that one miss in a million is not rounded away.
    let rounded = (value * scale).round() / scale;
    let shown = if rounded >= 1.0 && value < 1.0 { 1.0 - 1.0 / scale } else { rounded };
    if shown.fract() == 0.0 {
        return format!("{shown:.0}");
    }
    format!("{shown:.*}", digits as usize).trim_start_matches('0').to_string()
}

/// [`recall`] without trailing zeros past the second digit, for ticks and limits: `.90`, `.9995`.
pub fn recall_tick(value: f64) -> String {
    let text = recall(value);
    let keep = text.trim_end_matches('0').len().max(3);
    text.get(..keep).unwrap_or(&text).to_string()
}

/// A level as the methodology writes it: `.90`, `.95`.
pub fn level(value: f64) -> String {
    format!("{value:.2}").trim_start_matches('0').to_string()
}

/// Seconds: `420 ms`, `12.3 s`, `1,234 s`.
pub fn seconds(value: f64) -> String {
    if value < 0.9995 && value > 0.0 {
        return format!("{}{SPACE}ms", number(value * 1e3));
    }
    format!("{}{SPACE}s", number(value))
}

/// Microseconds: `87.1 µs`, `1.23 ms`.
pub fn micros(value: f64) -> String {
    match value {
        v if v >= 999_500.0 => format!("{}{SPACE}s", number(v / 1e6)),
        v if v >= 999.5 => format!("{}{SPACE}ms", number(v / 1e3)),
        v => format!("{}{SPACE}µs", number(v)),
    }
}

/// Bytes in binary units: `1.41 GiB`.
pub fn bytes(value: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value;
    let mut unit = 0;
    while scaled >= 1023.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{}{SPACE}{}", number(scaled), UNITS[unit])
}

/// [`micros`] without trailing zeros, for ticks.
pub fn micros_tick(value: f64) -> String {
    trim_unit(&micros(value))
}

/// [`bytes`] without trailing zeros, for ticks.
pub fn bytes_tick(value: f64) -> String {
    trim_unit(&bytes(value))
}

fn trim_unit(text: &str) -> String {
    match text.split_once(SPACE) {
        Some((number, unit)) => format!("{}{SPACE}{unit}", trim_zeros(number.to_string())),
        None => text.to_string(),
    }
}

/// An interval's ends: `5,800 – 6,010`; empty where it has no width.
pub fn ends(interval: Interval) -> String {
    let (lo, hi) = (number(interval.lo), number(interval.hi));
    if lo == hi { String::new() } else { format!("{lo} – {hi}") }
}

/// A figure at a recall level: `5,912`, `≥ 5,912` (every setting is more accurate), `max .93` (never reached).
/// `bound` is the sign of the second case.
pub fn at_recall(figure: AtRecall, bound: &str, show: fn(f64) -> String) -> String {
    match figure {
        AtRecall::Value(value) => show(value),
        AtRecall::Bound(value) => format!("{bound} {}", show(value)),
        AtRecall::Max(reached) => format!("max {}", recall_tick(reached)),
    }
}

/// `.034`, `<.001`.
pub fn probability(p: f64) -> String {
    match p {
        p if p < 0.001 => "<.001".into(),
        p if p >= 0.9995 => "1".into(),
        p => format!("{p:.3}").trim_start_matches('0').to_string(),
    }
}

/// A figure, or a dash where it is 0: of what was not measured zeros are kept.
pub fn known(value: f64, show: fn(f64) -> String) -> String {
    maybe(Some(value).filter(|&value| value > 0.0), show)
}

/// A figure or a dash.
pub fn maybe(value: Option<f64>, show: fn(f64) -> String) -> String {
    value.map_or_else(|| "–".into(), show)
}

/// `1 query`, `2 queries`.
pub fn count(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", number(n as f64), if n == 1 { one } else { many })
}

/// Parameters on a line: `max_degree=64 alpha=1.2`; text is shown without quotes.
pub fn params<'a>(params: impl IntoIterator<Item = (&'a String, &'a serde_json::Value)>) -> String {
    let parts: Vec<String> = (params.into_iter())
        .map(|(name, value)| match value {
            serde_json::Value::String(text) => format!("{name}={text}"),
            value => format!("{name}={value}"),
        })
        .collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let cases = [
            (5912.4, "5,912"),
            (1_234_567.0, "1,234,567"),
            (999.7, "1,000"),
            (123.4, "123"),
            (12.34, "12.3"),
            (47.02, "47.0"),
            (47.0, "47"),
            (1.5, "1.50"),
            (0.0423, "0.0423"),
            (0.0, "0"),
            (f64::NAN, "–"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn recall_never_rounds_up_to_one() {
        let cases = [
            (0.9, ".900"),
            (0.9534, ".953"),
            (0.99, ".990"),
            (0.99987, ".9999"),
            (0.999_999, ".9999"),
            (1.0, "1"),
            (0.0, "0"),
        ];
        for (value, text) in cases {
            assert_eq!(recall(value), text);
        }
        for (value, text) in [(0.9, ".90"), (0.995, ".995"), (0.999, ".999"), (1.0, "1"), (0.0, "0")] {
            assert_eq!(recall_tick(value), text);
        }
        assert_eq!(level(0.9), ".90");
    }

    #[test]
    fn units_follow_the_size() {
        assert_eq!(seconds(0.42), "420\u{a0}ms");
        assert_eq!(seconds(1234.0), "1,234\u{a0}s");
        assert_eq!(micros(1234.0), "1.23\u{a0}ms");
        assert_eq!(bytes(1.5 * 1024.0 * 1024.0), "1.50\u{a0}MiB");
        assert_eq!(bytes(17.0), "17\u{a0}B");
        assert_eq!(compact(1500.0), "1.5k");
    }

    #[test]
    fn levels_say_when_they_are_not_reached() {
        assert_eq!(at_recall(AtRecall::Max(0.93), "≥", number), "max .93");
        assert_eq!(at_recall(AtRecall::Bound(10.0), "≥", number), "≥ 10");
    }
}
