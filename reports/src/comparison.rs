//! A comparison as people read it: text for the terminal, Markdown for a pull request.
//!
//! In: a [`Comparison`] and how its rules fared. Out: text. Both say the same; Markdown folds away what only some want.

use std::fmt::Write;

use kiln_eval::compare::{
    Comparison, Decision, Figure, Outcome, Pair, Ratio, RecallChange, RecallRow, RuleOutcome, SideSummary, Verdict,
};

use crate::format;
use crate::table::Table;

/// The comparison for the terminal.
pub fn comparison_text(comparison: &Comparison, rules: &[RuleOutcome]) -> String {
    let mut out = format!("{}\n", sentence(comparison));
    for (name, side) in sides(comparison) {
        let _ = write!(out, "\n{name:<5}{}", side_line(side));
    }
    out.push('\n');
    for (title, table) in tables(comparison) {
        let _ = write!(out, "\n{title}\n{}", as_text(&table));
    }
    for (title, lines) in lists(comparison, rules) {
        let _ = writeln!(out, "\n{title}");
        lines.iter().for_each(|line| out.push_str(&format!("  {line}\n")));
    }
    plain(out.trim_end())
}

/// The comparison for a pull request or a job's summary.
pub fn comparison_markdown(comparison: &Comparison, rules: &[RuleOutcome]) -> String {
    let mut out = format!("### Benchmark: {}\n\n", escape(&sentence(comparison)));
    for (name, side) in sides(comparison) {
        let _ = writeln!(out, "- **{name}** {}", escape(&side_line(side)));
    }
    let mut tables = tables(comparison).into_iter();
    if let Some((title, table)) = tables.next() {
        let _ = write!(out, "\n**{}**\n\n{}", escape(&title), as_markdown(&table));
    }
    for (title, table) in tables {
        let _ =
            write!(out, "\n<details><summary>{}</summary>\n\n{}\n</details>\n", escape(&title), as_markdown(&table));
    }
    for (title, lines) in lists(comparison, rules) {
        let _ = writeln!(out, "\n**{title}**\n");
        lines.iter().for_each(|line| out.push_str(&format!("- {}\n", escape(line))));
    }
    plain(out.trim_end()) + "\n"
}

/// The verdict of all of it.
pub(crate) fn sentence(comparison: &Comparison) -> String {
    let decisions: Vec<Decision> = comparison.deciding().collect();
    if decisions.is_empty() {
        return "A and B are not comparable.".into();
    }
    let tests = |n: usize| match decisions.iter().any(|d| d.level.is_some()) {
        true => format::count(n, "comparison at equal recall", "comparisons at equal recall"),
        false => format::count(n, "comparison at equal settings", "comparisons at equal settings"),
    };
    let told = |verdict: Verdict| {
        let cases: Vec<&Decision> = decisions.iter().filter(|d| d.verdict == verdict).collect();
        let farthest = cases.iter().max_by(|a, b| a.ratio.ratio.ln().abs().total_cmp(&b.ratio.ratio.ln().abs()))?;
        Some(format!(
            "B is {} than A in {} of {} (at most by {}: {})",
            verdict.words(),
            cases.len(),
            tests(decisions.len()),
            percent(farthest.ratio.ratio),
            case(comparison, farthest),
        ))
    };
    let speed = match (told(Verdict::Slower), told(Verdict::Faster)) {
        (None, None) => format!("No detectable difference between A and B in {}.", tests(decisions.len())),
        (Some(one), None) | (None, Some(one)) => format!("{one}."),
        (Some(slower), Some(faster)) => format!("{slower}. {faster}."),
    };
    // Who reads one line must not miss that B finds less.
    [Some(speed), recall(comparison, RecallChange::Lower), recall(comparison, RecallChange::Higher)]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ")
}

/// `Its recall is lower at 3 of 4 equal settings (at most by 1.2 points: ivf-pq, memory, nprobe=8).`; `None` where that is not told.
fn recall(comparison: &Comparison, change: RecallChange) -> Option<String> {
    let cases: Vec<&RecallRow> = comparison.recalls.iter().filter(|row| row.change == change).collect();
    let farthest = cases.iter().max_by(|a, b| a.difference.abs().total_cmp(&b.difference.abs()))?;
    let word = if change == RecallChange::Lower { "lower" } else { "higher" };
    Some(format!(
        "B's recall is {word} at {} of {} (at most by {:.1} points: {}, {}, {}).",
        cases.len(),
        format::count(comparison.recalls.len(), "equal setting", "equal settings"),
        100.0 * farthest.difference.abs(),
        of_dataset(comparison, &farthest.dataset, &farthest.index),
        place(&farthest.place),
        format::params(&farthest.params),
    ))
}

/// What a decision is of: `vamana, recall .95, latency-1, memory`; with the data set where there are several.
pub(crate) fn case(comparison: &Comparison, decision: &Decision<'_>) -> String {
    let at = match (decision.level, decision.params) {
        (Some(level), _) => format!("recall {}", format::recall_tick(level)),
        (None, params) => params.map(format::params).unwrap_or_default(),
    };
    let pair = decision.pair;
    let index = of_dataset(comparison, &pair.dataset, &pair.index);
    format!("{index}, {at}, {}, {}", pair.mode, place(&pair.place))
}

/// How far a ratio lies from 1: `5.1%`.
fn percent(ratio: f64) -> String {
    format!("{:.1}%", 100.0 * (ratio - 1.0).abs())
}

fn sides(comparison: &Comparison) -> impl Iterator<Item = (&'static str, &SideSummary)> {
    let noise = comparison.noise.iter().map(|noise| ("A/A", noise));
    [("A", &comparison.a), ("B", &comparison.b)].into_iter().chain(noise)
}

/// `baseline: 3 runs, quick, kiln 0.1.0 (4f0c9a1d2b7e), 2026-11-20`.
fn side_line(side: &SideSummary) -> String {
    let mut programs: Vec<&str> = side.runs.iter().map(|run| run.program.as_str()).collect();
    programs.sort_unstable();
    programs.dedup();
    let mut days: Vec<&str> = side.runs.iter().map(|run| run.created.get(..10).unwrap_or(&run.created)).collect();
    days.sort_unstable();
    days.dedup();
    let quick = if side.runs.iter().any(|run| run.quick) { ", --quick" } else { "" };
    let runs = format::count(side.runs.len(), "run", "runs");
    format!("{}: {runs}{quick}, {}, {}", side.path, programs.join(" and "), days.join(" and "))
}

/// Title of the table that decides.
pub(crate) const LEVELS_TITLE: &str = "Queries a second at equal recall";

/// The tables, the one that decides first; those without a row are left out.
pub(crate) fn tables(comparison: &Comparison) -> Vec<(String, Table)> {
    let all = [
        (LEVELS_TITLE.to_string(), level_table(comparison)),
        settings_title(comparison),
        recall_title(comparison),
        ("Building and memory, A and B".to_string(), build_table(comparison)),
    ];
    all.into_iter().filter(|(_, table)| !table.rows.is_empty()).collect()
}

const RATIO_COLUMNS: [&str; 6] = ["A", "B", "B/A", "95% interval", "p", "verdict"];

fn level_table(comparison: &Comparison) -> Table {
    let mut table = Table::new(&[&["index", "mode", "place", "recall"], &RATIO_COLUMNS[..]].concat());
    for pair in &comparison.pairs {
        for row in &pair.levels {
            let verdict = match &row.reason {
                Some(reason) => format!("{}: {reason}", row.verdict.words()),
                None => row.verdict.words().to_string(),
            };
            let cells =
                [figure(row.a), figure(row.b)].into_iter().chain(ratio_cells(row.ratio.as_ref())).chain([verdict]);
            table.row(names(comparison, pair).into_iter().chain([format::recall_tick(row.recall)]).chain(cells));
        }
    }
    table
}

/// Equal settings: all of a pair that no recall level decides, of the others those in which something is told.
fn settings_title(comparison: &Comparison) -> (String, Table) {
    let mut table = Table::new(
        &[&["index", "mode", "place", "setting"], &RATIO_COLUMNS[..], &["queries slower", "typical query"]].concat(),
    );
    let (mut all, mut told) = (0, 0);
    for pair in &comparison.pairs {
        let undecided = !pair.levels.iter().any(|row| row.ratio.is_some());
        for row in &pair.settings {
            let quiet = |verdict: Verdict| verdict == Verdict::NoDetectableDifference;
            let silent = quiet(row.verdict) && row.typical_query.is_none_or(|typical| quiet(typical.verdict));
            all += 1;
            told += usize::from(!silent);
            if silent && !undecided {
                continue;
            }
            let typical = row.typical_query;
            let cells = [format::number(row.a_qps), format::number(row.b_qps)].into_iter();
            let cells = cells.chain(ratio_cells(Some(&row.ratio))).chain([row.verdict.words().to_string()]).chain([
                typical.map_or("–".into(), |t| format!("{:.0}%", 100.0 * t.slower)),
                typical.map_or("–".into(), |t| match t.verdict {
                    Verdict::NoDetectableDifference => "no detectable difference".into(),
                    verdict => format!("{} by {}", verdict.words(), percent(t.ratio)),
                }),
            ]);
            table.row(names(comparison, pair).into_iter().chain([format::params(&row.params)]).chain(cells));
        }
    }
    let title = format!(
        "Queries a second at equal settings: a difference is told in {told} of {}",
        format::count(all, "setting", "settings")
    );
    if all > 0 && table.rows.is_empty() {
        table = Table::new(&["", "settings", "verdict"]);
        table.row(["all", &all.to_string(), Verdict::NoDetectableDifference.words()]);
    }
    (title, table)
}

/// Recall at equal settings: where it is told to differ, else the largest difference alone.
fn recall_title(comparison: &Comparison) -> (String, Table) {
    let rows = &comparison.recalls;
    let told: Vec<&RecallRow> = rows.iter().filter(|r| r.change != RecallChange::NoDetectableDifference).collect();
    let title = format!(
        "Recall at equal settings: a difference is told in {} of {}{}",
        told.len(),
        format::count(rows.len(), "setting", "settings"),
        if told.is_empty() { ", the largest is shown" } else { "" }
    );
    let mut table = Table::new(&["index", "place", "setting", "A", "B", "B - A", "95% interval", "p", "verdict"]);
    let largest = || rows.iter().max_by(|a, b| a.difference.abs().total_cmp(&b.difference.abs()));
    let shown = if told.is_empty() { largest().into_iter().collect() } else { told };
    for row in shown {
        let change = match row.change {
            RecallChange::Higher => "higher",
            RecallChange::Lower => "lower",
            RecallChange::NoDetectableDifference => "no detectable difference",
        };
        table.row([
            of_dataset(comparison, &row.dataset, &row.index),
            place(&row.place),
            format::params(&row.params),
            format!("{:.4}", row.a),
            format!("{:.4}", row.b),
            format!("{:+.4}", row.difference),
            format!("{:+.4} to {:+.4}", row.interval.0, row.interval.1),
            format::probability(row.p_adjusted),
            change.to_string(),
        ]);
    }
    (title, table)
}

fn build_table(comparison: &Comparison) -> Table {
    let mut table = Table::new(&["index", "build", "peak memory", "memory while serving", "bytes a vector", "changed"]);
    for build in &comparison.builds {
        let both = |figures: Option<[f64; 2]>, show: fn(f64) -> String| {
            figures.map_or("unknown".into(), |[a, b]| {
                format!("{} and {} ({:+.1}%)", show(a), show(b), 100.0 * (b / a - 1.0))
            })
        };
        table.row([
            of_dataset(comparison, &build.dataset, &build.index),
            both(build.seconds, format::seconds),
            both(build.peak_rss_bytes, format::bytes),
            both(build.serving_bytes, format::bytes),
            both(build.bytes_per_vector, format::number),
            if build.changed.is_empty() { "–".into() } else { build.changed.join(", ") },
        ]);
    }
    table
}

/// What could not be compared, what to know, the noise floors, and the rules; empty lists are left out.
fn lists(comparison: &Comparison, rules: &[RuleOutcome]) -> Vec<(&'static str, Vec<String>)> {
    let apart = comparison.not_comparable.iter().map(|u| format!("{}: not comparable: {}", u.what, u.reason));
    let rules = rules.iter().map(|rule| {
        let (word, reasons) = match rule.outcome {
            Outcome::Kept => ("kept", String::new()),
            Outcome::Failed => ("FAILED", format!(": {}", rule.reasons.join("; "))),
            Outcome::NotJudged => ("not judged", format!(": {}", rule.reasons.join("; "))),
        };
        format!("{} {word}{reasons}", rule.rule)
    });
    let all =
        [("Not comparable", apart.collect::<Vec<_>>()), ("To know", to_know(comparison)), ("Rules", rules.collect())];
    all.into_iter().filter(|(_, lines)| !lines.is_empty()).collect()
}

/// Noise floors, and what else to know before believing it.
pub(crate) fn to_know(comparison: &Comparison) -> Vec<String> {
    floors(comparison).into_iter().chain(comparison.notes.iter().cloned()).collect()
}

/// The noise floor of each mode and place, where runs of the same thing tell it.
fn floors(comparison: &Comparison) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for pair in comparison.pairs.iter().filter(|pair| pair.noise.from_repeated_runs) {
        let line = format!(
            "Noise floor of {}, {}: runs of the same thing differ by up to {:.1}%.",
            pair.mode,
            place(&pair.place),
            100.0 * pair.noise.floor
        );
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

fn names(comparison: &Comparison, pair: &Pair) -> [String; 3] {
    [of_dataset(comparison, &pair.dataset, &pair.index), pair.mode.clone(), place(&pair.place)]
}

/// The index, with its data set where there are several.
fn of_dataset(comparison: &Comparison, dataset: &str, index: &str) -> String {
    let several = comparison.pairs.iter().any(|pair| pair.dataset != dataset);
    if several { format!("{dataset}, {index}") } else { index.to_string() }
}

/// A place, its bytes in units.
fn place(words: &str) -> String {
    let readable = |part: &str| {
        let size = |text: &str| text.parse::<u64>().ok().map(|bytes| format::bytes_tick(bytes as f64));
        match (part.strip_suffix(" bytes of memory").and_then(size), part.strip_prefix("capped:").and_then(size)) {
            (Some(size), _) => size,
            (_, Some(size)) => format!("capped at {size}"),
            _ => part.to_string(),
        }
    };
    words.split(", ").map(readable).collect::<Vec<_>>().join(", ")
}

fn figure(figure: Figure) -> String {
    match figure {
        Figure::Qps(qps) => format::number(qps),
        Figure::AtLeast(qps) => format!("≥ {}", format::number(qps)),
        Figure::MaxRecall(recall) => format!("max {}", format::recall_tick(recall)),
    }
}

/// Ratio, interval and p.
fn ratio_cells(ratio: Option<&Ratio>) -> [String; 3] {
    let Some(ratio) = ratio else { return ["–".into(), "–".into(), "–".into()] };
    let interval = ratio.interval.map_or("unknown".into(), |(lo, hi)| format!("{lo:.3} to {hi:.3}"));
    [format!("{:.3}", ratio.ratio), interval, format::probability(ratio.p_adjusted)]
}

/// Columns as wide as they must be: figures to the right.
fn as_text(table: &Table) -> String {
    let right = numeric(table);
    let width = |column: usize| {
        let cells = table.rows.iter().map(|row| row[column].text.as_str()).chain([table.columns[column].as_str()]);
        cells.map(|text| text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..table.columns.len()).map(width).collect();
    let mut out = String::new();
    let titles = table.columns.iter().map(String::as_str).collect::<Vec<_>>();
    let rows = table.rows.iter().map(|row| row.iter().map(|cell| cell.text.as_str()).collect::<Vec<_>>());
    for row in std::iter::once(titles).chain(rows) {
        let padded = row.iter().enumerate().map(|(column, text)| match right[column] {
            true => format!("{text:>width$}", width = widths[column]),
            false => format!("{text:<width$}", width = widths[column]),
        });
        let line = padded.collect::<Vec<_>>().join("  ");
        let _ = writeln!(out, "  {}", line.trim_end());
    }
    out
}

fn as_markdown(table: &Table) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut out = line(table.columns.iter().map(|title| escape(title)).collect());
    out += &line(numeric(table).iter().map(|&right| if right { "---:" } else { "---" }.to_string()).collect());
    for row in &table.rows {
        out += &line(row.iter().map(|cell| escape(&cell.text)).collect());
    }
    out
}

/// Which columns hold figures.
fn numeric(table: &Table) -> Vec<bool> {
    table
        .columns
        .iter()
        .map(|title| ["A", "B", "B/A", "B - A", "recall", "p", "settings"].contains(&title.as_str()))
        .collect()
}

/// What would be markup in a cell or a line is not.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '#' => out.extend(['\\', c]),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// No space that does not break: a terminal and a page of Markdown break by themselves.
fn plain(text: &str) -> String {
    text.replace('\u{a0}', " ")
}

#[cfg(test)]
#[path = "comparison_tests.rs"]
mod tests;
