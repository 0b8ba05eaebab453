//! `kiln tune`: the fastest search setting that reaches a recall, kept beside the index.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kiln_builder::{Index, IndexKind, Navigate, Residency};
use kiln_datasets::{open_queries, read_all};
use kiln_eval::judge::MAX_K;
use kiln_eval::{TuneRequest, Tuned, keep_tuned, refuse_unreadable, tune};
use serde_json::json;

use super::residency::ResidencyArg;
use super::search::{NavigateArg, mode};
use super::truth::{base_rows, names_rows_that_are_there, truth};
use super::{UsageError, print, refuse_other_dim, shape, thousands, with_threads, write_json};
use crate::terminal::TerminalProgress;

const EXAMPLES: &str = "\
Examples:
  kiln tune sift.kiln --queries sift-128-euclidean.hdf5 --recall .95
  kiln tune base.kiln --queries query.fbin --truth truth.ibin --recall .9 --k 100 --batch
  kiln search sift.kiln --queries sift-128-euclidean.hdf5 --recall .95

Half of the queries choose the setting: the lower end of the 95% interval of their recall must reach the target. The
other half is held out, and its recall is told beside. The setting is kept in X.kiln.tune.json, one for each k, recall
and residency, until the index is built again.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The index file, or the folder of a shard set
    #[arg(value_name = "X.kiln|SET")]
    index: PathBuf,
    /// The queries: HDF5 (its `test`), .npy, .fbin, .u8bin, .fvecs, ...
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// Ground truth: HDF5 (its `neighbors`), .ibin, .ivecs or .npy [default: that of the queries' HDF5 file]
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// The mean recall to reach, above 0 and at most 1
    #[arg(long, value_name = "R", value_parser = parse_recall)]
    recall: f64,
    /// Neighbours wanted
    #[arg(long, default_value_t = 10)]
    k: usize,
    /// Vamana: how neighbours are scored [default: whichever is faster; on SSD by codes]
    #[arg(long, value_enum)]
    navigate: Option<NavigateArg>,
    /// Threads that search while settings are timed
    #[arg(long, value_name = "T", default_value_t = 1)]
    threads: usize,
    /// Time settings with all queries in one call a thread
    #[arg(long)]
    batch: bool,
    /// Where the index is while it is searched
    #[arg(long, value_enum, default_value = "memory")]
    residency: ResidencyArg,
    /// Time settings briefly: the recall is as certain, the choice between settings that reach it less so
    #[arg(long)]
    quick: bool,
    /// Splits the queries into halves
    #[arg(long, value_name = "S", default_value_t = 42)]
    seed: u64,
    /// Write what was found, as JSON, to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A recall as it is asked for.
pub fn parse_recall(text: &str) -> Result<f64, String> {
    let recall: f64 = text.parse().map_err(|_| "use a number above 0 and at most 1, such as .95".to_string())?;
    if recall > 0.0 && recall <= 1.0 { Ok(recall) } else { Err("use a number above 0 and at most 1".to_string()) }
}

pub fn run(args: Args) -> anyhow::Result<()> {
    if args.k == 0 || args.k > MAX_K {
        return Err(UsageError(format!("--k {}: use 1 to {MAX_K}", args.k)).into());
    }
    if args.threads == 0 {
        return Err(UsageError("--threads 0: use 1 or more".into()).into());
    }
    refuse_unreadable(&args.index)?;
    let searcher = Index::open(&args.index, args.residency.into())?;
    if let (Some(_), IndexKind::IvfPq) = (args.navigate, searcher.kind()) {
        let problem = format!("{} is an ivf-pq index: --navigate does not apply", args.index.display());
        return Err(UsageError(problem).into());
    }
    let source = open_queries(&args.queries)?;
    refuse_other_dim(&args.queries, source.as_ref(), &searcher)?;
    let truth = truth(&args.queries, args.truth.as_deref(), searcher.metric())?;
    let truth = truth.filter(|truth| names_rows_that_are_there(truth, &searcher)).with_context(|| {
        format!(
            "{}: it holds no truth to tune by; give some with --truth, or compute it with `kiln datasets truth`",
            args.queries.display()
        )
    })?;
    let base = base_rows(&args.queries, &searcher);
    let queries = read_all(source.as_ref(), |_| ())?;
    tracing::info!("{}: {} rows; queries {}", args.index.display(), thousands(searcher.len()), shape(source.as_ref()));
    let navigate = match (args.navigate, searcher.residency()) {
        (Some(navigate), _) => vec![navigate.into()],
        (None, Residency::Memory) => vec![Navigate::Exact, Navigate::Codes],
        // To read a page for every neighbour never wins, and takes long to find that out.
        (None, Residency::Ssd) => vec![Navigate::Codes],
    };
    let request = TuneRequest {
        searcher: &searcher,
        queries: queries.view(),
        truth: truth.ids.view(),
        base: base.as_ref(),
        k: args.k,
        recall: args.recall,
        mode: mode(args.threads, args.batch),
        navigate: &navigate,
        quick: args.quick,
        seed: args.seed,
    };
    let progress = TerminalProgress::new();
    // Recall is judged by all processors; only timing keeps to the threads asked for.
    let found = with_threads(None, || tune(&request, &progress));
    drop(progress);
    let found = found??;
    if found.held_out.recall < found.recall {
        tracing::warn!(
            "the held-out half has recall {:.4}, below the target: tune with more queries, or for a little more",
            found.held_out.recall
        );
    }
    let path = keep_tuned(&args.index, &found)?;
    if let Some(json) = &args.json {
        write_json(json, &json!({ "index": args.index, "path": path, "tuned": found }))?;
        if json.as_os_str() == "-" {
            return Ok(());
        }
    }
    print(&told(&found, &args.index, &path))
}

/// What was found, for people.
fn told(found: &Tuned, index: &Path, path: &Path) -> String {
    let pairs = found.effort.by_name();
    let setting: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{name} {}", value.to_string().trim_matches('"'))).collect();
    format!(
        "{}: {} for recall@{} {}\nqueries/s {:.0} (95% interval {:.0} to {:.0}), {} from {}\ntuned by  recall {}\n\
         held out  recall {}\nsettings: {}",
        index.display(),
        setting.join(", "),
        found.k,
        found.recall,
        found.qps.median,
        found.qps.lo,
        found.qps.hi,
        found.mode,
        found.residency,
        found.tuning,
        found.held_out,
        path.display()
    )
}
