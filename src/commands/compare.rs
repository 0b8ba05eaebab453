//! `kiln compare`: whether B is faster or slower than A, and whether that can be told at all.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kiln_eval::compare::{Comparison, Outcome, Rule, RuleOutcome, Sides, compare, judge_rules, read_side};
use kiln_reports::{comparison_markdown, comparison_text};
use serde::Serialize;

use super::tune::parse_recall;
use super::{UsageError, print, write_json};

const EXAMPLES: &str = "\
Examples:
  kiln compare kiln-runs/before kiln-runs/after
  kiln compare before after --noise before-again          the noise floor from a second run of the same program
  kiln compare baseline out --at-recall .9,.95 --fail-if slower:3%,recall:0.5pt --markdown summary.md
  kiln compare baseline out --json -

Rules of --fail-if, several separated by commas; the exit code is 1 where one is met, and the error names it:
  slower:P%        B is told to be slower at a recall level, by more than P% of A's queries a second (at equal settings
                   where there is no level that both reach)
  recall:Xpt       at equal settings B's recall is told to be lower, by more than X points (hundredths)
  build-slower:P%  an index takes more than P% longer to build; a run builds once, so there is no test
  memory:P%        building or serving an index takes more than P% more memory

What is told: `faster`, `slower`, `no detectable difference`, `not comparable`. Only runs of the same data, queries and k on
the same machine are compared, index by index, mode by mode, place by place. docs/comparing.md says how it decides.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The baseline: a run folder, or a folder that holds several
    #[arg(value_name = "A")]
    a: PathBuf,
    /// What is held against it
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Recall levels at which queries a second are compared
    #[arg(long, value_name = "R,R,..", value_delimiter = ',', value_parser = parse_recall, default_value = ".90,.95,.99")]
    at_recall: Vec<f64>,
    /// A run, or several, of A's program under the same conditions: what lies between them is noise
    #[arg(long, value_name = "DIR")]
    noise: Option<PathBuf>,
    /// What must not be: slower:P%, recall:Xpt, build-slower:P%, memory:P%
    #[arg(long, value_name = "RULE,RULE,..", value_delimiter = ',')]
    fail_if: Vec<Rule>,
    /// Write everything, as JSON, to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the comparison, as Markdown, to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    comparison: &'a Comparison,
    rules: &'a [RuleOutcome],
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let on_stdout = |path: &Option<PathBuf>| path.as_deref() == Some(Path::new("-"));
    if on_stdout(&args.json) && on_stdout(&args.markdown) {
        return Err(UsageError("--json - and --markdown -: only one of them can go to standard output".into()).into());
    }
    let (a, b) = (read_side(&args.a)?, read_side(&args.b)?);
    let noise = args.noise.as_deref().map(|dir| Ok::<_, anyhow::Error>((dir, read_side(dir)?))).transpose()?;
    let sides =
        Sides { a: (&args.a, &a), b: (&args.b, &b), noise: noise.as_ref().map(|(dir, runs)| (*dir, runs.as_slice())) };
    let mut levels = args.at_recall.clone();
    levels.sort_by(f64::total_cmp);
    levels.dedup();
    let comparison = compare(&sides, &levels)?;
    let rules = judge_rules(&args.fail_if, &comparison);

    if let Some(path) = &args.json {
        write_json(path, &Document { comparison: &comparison, rules: &rules })?;
    }
    if let Some(path) = &args.markdown {
        let markdown = comparison_markdown(&comparison, &rules);
        match on_stdout(&args.markdown) {
            true => print(markdown.trim_end())?,
            false => std::fs::write(path, markdown).with_context(|| format!("{}: cannot write", path.display()))?,
        }
    }
    if !on_stdout(&args.json) && !on_stdout(&args.markdown) {
        print(&comparison_text(&comparison, &rules))?;
    }
    for rule in rules.iter().filter(|rule| rule.outcome == Outcome::NotJudged) {
        tracing::warn!("--fail-if {} is not judged: {}", rule.rule, rule.reasons.join("; "));
    }
    fail_where_asked(&args, &comparison, &rules)
}

/// Nothing in common, or a rule that is met, is a failure.
fn fail_where_asked(args: &Args, comparison: &Comparison, rules: &[RuleOutcome]) -> anyhow::Result<()> {
    if comparison.deciding().next().is_none() {
        let first = comparison.not_comparable.first();
        let why = first.map_or_else(
            || "nothing was measured at equal settings, and no recall level is reached by both".to_string(),
            |unpaired| format!("{}: {}", unpaired.what, unpaired.reason),
        );
        anyhow::bail!(
            "{} and {} have nothing in common that can be compared ({why})",
            args.a.display(),
            args.b.display()
        );
    }
    let failed: Vec<String> = (rules.iter())
        .filter(|rule| rule.outcome == Outcome::Failed)
        .map(|rule| format!("--fail-if {}: {}", rule.rule, rule.reasons.join("; ")))
        .collect();
    anyhow::ensure!(failed.is_empty(), "{}", failed.join(". "));
    Ok(())
}
