//! `kiln datasets info`: what a file or a set holds, whether its truth holds, and how hard it is.

use std::path::PathBuf;

use kiln_datasets::{
    Dataset, Difficulty, DifficultyRequest, Learning, RowSource, Shift, Truth, difficulty, local_dimension,
    verify_truth,
};
use kiln_kernels::{Metric, Progress};
use serde_json::json;

use super::TRUTH_MEMORY;
use crate::commands::device::DeviceArgs;
use crate::commands::{MetricArg, UsageError, cache_dir, print, shape, summary, write_json};
use crate::terminal::TerminalProgress;

/// Rows, and queries, that difficulty is told from.
const SAMPLE: usize = 1000;
/// How far stated mean distances may lie from those of the sample: two standard errors and more of a thousand.
const STATED_SLACK: f64 = 0.1;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  kiln datasets info sift-128-euclidean.hdf5\n  kiln datasets info laion-clip-512-normalized.hdf5 --difficulty"
)]
pub struct Args {
    /// A file, demo, or the name of a fetched set
    dataset: String,
    /// How rows are compared, where the data set does not say
    #[arg(long, value_enum)]
    metric: Option<MetricArg>,
    /// Truth rows to check
    #[arg(long, default_value_t = 100)]
    sample: usize,
    /// Estimate the local intrinsic dimension as well (exact search for 1,000 rows)
    #[arg(long)]
    lid: bool,
    /// Tell how hard the set is: local intrinsic dimension, relative contrast, and whether its queries come from where its
    /// rows do (exact search for 1,000 queries and 1,000 rows)
    #[arg(long)]
    difficulty: bool,
    /// Write what --difficulty finds, as JSON, to this file (- for standard output)
    #[arg(long, value_name = "FILE", requires = "difficulty")]
    json: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let dataset = Dataset::open(&args.dataset, &cache_dir())?;
    let mut lines = vec![
        summary(&dataset),
        format!("file         {}", dataset.path.display()),
        format!("fingerprint  {}", dataset.fingerprint),
    ];
    let metric = args.metric.map(Metric::from).or(dataset.metric);
    if let (Some(metric), true, true) = (metric, dataset.queries.is_some(), dataset.truth.is_some()) {
        let issues = verify_truth(&dataset, metric, args.sample, 1)?;
        for issue in &issues {
            tracing::warn!("{}: {issue}", dataset.path.display());
        }
        lines.push(format!(
            "truth        {} of {} sampled rows are wrong",
            issues.len(),
            args.sample.min(dataset.truth.as_ref().map_or(0, Truth::queries))
        ));
    }
    let learning = Learning::open(&dataset.path)?;
    if let Some(rows) = &learning.rows {
        let truth = learning
            .neighbors
            .as_ref()
            .map_or("no neighbours".to_string(), |ids| format!("neighbours of depth {}", ids.ncols()));
        lines.push(format!("learn        {}, {truth}", shape(rows.as_ref())));
    }
    if args.lid {
        let backend = args.device.open()?;
        let lid = local_dimension(&backend, dataset.base.as_ref(), SAMPLE, 1, TRUTH_MEMORY, &TerminalProgress::new())?;
        lines.push(lid.median().map_or("LID          unknown".into(), |m| {
            format!("LID          {m:.1} (median of 1,000 rows, maximum likelihood, k = 100)")
        }));
    }
    if args.difficulty {
        let metric = metric.ok_or_else(|| {
            UsageError(format!("{} does not say how its rows are compared: add --metric l2 or cosine", args.dataset))
        })?;
        let (found, of_learn) = measured(&args, &dataset, &learning, metric)?;
        if let Some(path) = &args.json {
            write_json(path, &json!({ "queries": found, "learn": of_learn }))?;
            if path.as_os_str() == "-" {
                return Ok(());
            }
        }
        lines.extend(told(&found, of_learn.as_ref(), metric));
    }
    print(&lines.join("\n"))
}

/// The difficulty of the set's queries, and of its `learn` rows where it has some.
fn measured(
    args: &Args,
    dataset: &Dataset,
    learning: &Learning,
    metric: Metric,
) -> anyhow::Result<(Difficulty, Option<Difficulty>)> {
    let Some(queries) = &dataset.queries else {
        return Err(UsageError(format!(
            "{} has no queries: its difficulty is that of searching for them",
            args.dataset
        ))
        .into());
    };
    let (backend, progress) = (args.device.open()?, TerminalProgress::new());
    let of = |queries: &dyn RowSource| {
        let base = dataset.base.as_ref();
        let request =
            DifficultyRequest { base, queries, metric, sample: SAMPLE, seed: 1, memory_budget_bytes: TRUTH_MEMORY };
        difficulty(&backend, &request, &progress)
    };
    let found = of(queries.as_ref())?;
    let of_learn = learning.rows.as_ref().map(|rows| of(rows.as_ref())).transpose()?;
    progress.finish();
    doubt_stated(dataset, learning, &found, metric);
    Ok((found, of_learn))
}

/// Warns where the mean distances that the file states contradict those of a sample.
fn doubt_stated(dataset: &Dataset, learning: &Learning, found: &Difficulty, metric: Metric) {
    let (Some(stated), Some(contrast)) = (&learning.avg_distances, found.relative_contrast) else { return };
    let nearest = dataset.truth.as_ref().and_then(|truth| truth.distances.as_ref());
    let Some(nearest) = nearest.filter(|nearest| nearest.nrows() == stated.len()) else { return };
    // Under the cosine metric the file states 1 - cos: on average that is half the squared chord.
    let (stated, nearest): (f64, f64) = match metric {
        Metric::Cosine => (
            stated.iter().map(|d| (2.0 * d.max(0.0)).sqrt()).sum(),
            nearest.column(0).iter().map(|&d| (2.0 * f64::from(d).max(0.0)).sqrt()).sum(),
        ),
        Metric::L2 | Metric::InnerProduct => {
            (stated.iter().sum(), nearest.column(0).iter().map(|&d| f64::from(d)).sum())
        }
    };
    let of_file = stated / nearest;
    if nearest > 0.0 && (of_file / contrast - 1.0).abs() > STATED_SLACK {
        tracing::warn!(
            "{}: by its `avg_distances` the relative contrast is {of_file:.2}, by a sample {contrast:.2}: one of them is wrong",
            dataset.path.display()
        );
    }
}

fn told(found: &Difficulty, of_learn: Option<&Difficulty>, metric: Metric) -> Vec<String> {
    if metric == Metric::InnerProduct {
        return vec!["difficulty   unknown: the inner product is no distance".into()];
    }
    let figure = |value: Option<f64>, digits: usize| value.map_or("unknown".into(), |v| format!("{v:.digits$}"));
    let mut lines = vec![
        format!(
            "LID          {} around queries, {} around rows (medians of {} and {}, maximum likelihood, k = 100)",
            figure(found.lid_queries, 1),
            figure(found.lid_rows, 1),
            found.queries,
            found.rows
        ),
        format!("contrast     {} (mean distance over mean nearest distance)", figure(found.relative_contrast, 2)),
        format!("queries      {}", shifted(found.shift, "queries")),
    ];
    if let Some(of_learn) = of_learn {
        lines.push(format!("learn rows   {}", shifted(of_learn.shift, "learn rows")));
    }
    lines
}

fn shifted(shift: Option<Shift>, what: &str) -> String {
    let Some(shift) = shift else { return "cannot be compared with rows".into() };
    let verdict = if shift.is_detected() {
        format!("out of distribution: {what} lie elsewhere than rows")
    } else {
        format!("no difference between {what} and rows found")
    };
    format!(
        "{verdict} (Kolmogorov-Smirnov {:.3}, p {:.4}; 10th nearest row {:.2} times as far)",
        shift.statistic, shift.p_value, shift.ratio
    )
}
