//! `kiln search`: a query set against one index file or shard set, answered and measured.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use kiln_builder::{DeviceGraph, Effort, Index, IndexKind, Navigate, Residency, SearchParams, Searcher};
use kiln_datasets::{Content, MemorySource, RowSource, Truth, open_queries, read_all, write_distances, write_truth};
use kiln_eval::judge::MAX_K;
use kiln_eval::metrics::search_row;
use kiln_eval::record::Mode;
use kiln_eval::{QueryAnswers, SingleSearch, measure_single, tuned};
use kiln_kernels::{DType, NoProgress, Rows};

use super::device::DeviceArg;
use super::residency::{ResidencyArgs, serving};
use super::truth::{base_rows, names_rows_that_are_there, truth};
use super::tune::parse_recall;
use super::{UsageError, print, refuse_other_dim, shape, thousands, with_threads, write_json};

const EXAMPLES: &str = "\
Examples:
  kiln search sift.kiln --queries sift-128-euclidean.hdf5 --search-list 40
  kiln search sift.kiln --queries sift-128-euclidean.hdf5 --residency ssd --memory 64MiB --threads 2
  kiln search base.kiln --queries query.fbin --truth truth.ibin --nprobe 32 --out answers.npy
  kiln search sift.kiln --queries sift-128-euclidean.hdf5 --recall .95 --batch --threads 2
  kiln search sift.kiln --queries sift-128-euclidean.hdf5 --search-list 60 --batch --device cuda

Recall is told where truth is known: from --truth, or from the HDF5 file of the queries.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The index file, or the folder of a shard set
    #[arg(value_name = "X.kiln|SET")]
    index: PathBuf,
    /// The queries: HDF5 (its `test`), .npy, .fbin, .u8bin, .fvecs, ...
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// Ground truth: HDF5 (its `neighbors`), .ibin, .ivecs or .npy
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// Neighbours wanted
    #[arg(long, default_value_t = 10)]
    k: usize,
    /// Search as `kiln tune` found best for this recall, this k and this residency
    #[arg(long, value_name = "R", value_parser = parse_recall, conflicts_with_all = ["search_list", "navigate", "nprobe", "rerank", "probe_shards"])]
    recall: Option<f64>,
    /// Vamana: candidates kept during the walk, L [default: 4 k, at least 40]
    #[arg(long, value_name = "L", conflicts_with = "nprobe")]
    search_list: Option<usize>,
    /// Vamana: how neighbours are scored
    #[arg(long, value_enum, default_value = "best")]
    navigate: NavigateArg,
    /// IVF-PQ: lists scanned, of each shard of a set [default: 32]
    #[arg(long, value_name = "P")]
    nprobe: Option<usize>,
    /// IVF-PQ: candidates re-ranked by exact distance [default: 12 k, at least 100]
    #[arg(long, value_name = "N", conflicts_with = "search_list")]
    rerank: Option<usize>,
    /// Threads that search; 1 is measured as latency-1, more as throughput
    #[arg(long, value_name = "T", default_value_t = 1)]
    threads: usize,
    /// Answer all queries in one call a thread: the same answers, more of them a second, no latency of a single query
    #[arg(long)]
    batch: bool,
    /// What answers the batch: a device walks a graph in memory by exact distances [default: the processor, as without it]
    #[arg(long, value_enum, value_name = "DEVICE", requires = "batch", conflicts_with_all = ["nprobe", "rerank"])]
    device: Option<DeviceArg>,
    #[command(flatten)]
    residency: ResidencyArgs,
    /// Write ids (queries x k, int64, -1 where there are fewer) to R.npy and distances (float32, infinite there) to R.distances.npy
    #[arg(long, value_name = "R.npy")]
    out: Option<PathBuf>,
    /// Write the figures, as JSON, to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How neighbours are scored.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum NavigateArg {
    /// By codes where nodes hold them or stay on the drive, else exact
    Best,
    /// By exact distance; on SSD each neighbour costs its page
    Exact,
    /// By codes in memory; only expanded nodes are read
    Codes,
}

impl From<NavigateArg> for Navigate {
    fn from(arg: NavigateArg) -> Navigate {
        match arg {
            NavigateArg::Best => Navigate::Best,
            NavigateArg::Exact => Navigate::Exact,
            NavigateArg::Codes => Navigate::Codes,
        }
    }
}

pub fn run(args: Args) -> anyhow::Result<()> {
    if args.k == 0 || args.k > MAX_K {
        return Err(UsageError(format!("--k {}: use 1 to {MAX_K}", args.k)).into());
    }
    if args.device.is_some() && matches!(args.navigate, NavigateArg::Codes) {
        return Err(UsageError("--device walks by exact distances: leave --navigate codes out".into()).into());
    }
    let searcher = Index::open_with(&args.index, &args.residency.open_params(&args.index)?)?;
    let effort = match args.recall {
        Some(recall) => tuned(&args.index, args.k, recall, searcher.residency().name())?.effort,
        None => effort(&args, &searcher)?,
    };
    let source = open_queries(&args.queries)?;
    check_queries(&args, &searcher, source.as_ref())?;
    let queries = read_all(source.as_ref(), |_| ())?;
    tracing::info!(
        "{}: {} rows, {}; queries {}; {effort:?}",
        args.index.display(),
        thousands(searcher.len()),
        serving(&searcher),
        shape(source.as_ref())
    );
    if searcher.residency() == Residency::Ssd && searcher.navigates_exactly(&effort) {
        let hint = "every neighbour's page is read; --navigate codes reads expanded nodes only";
        tracing::info!("{hint}");
    }
    let truth = truth(&args.queries, args.truth.as_deref(), searcher.metric())?
        .filter(|truth| names_rows_that_are_there(truth, &searcher));
    let base = truth.as_ref().map(|_| base_rows(&args.queries, &searcher));
    let devices = args.device.map(DeviceArg::open_alone).transpose()?;
    let on_device = devices.as_ref().map(|devices| DeviceGraph::open(&searcher, devices)).transpose()?;
    let request = SingleSearch {
        searcher: &searcher,
        device: on_device.as_ref(),
        queries: queries.view(),
        params: SearchParams { k: args.k, effort },
        mode: mode(args.threads, args.batch),
        truth: truth.as_ref().zip(base.as_deref()).map(|(truth, base)| (truth.ids.view(), base)),
    };
    let measured = with_threads(Some(args.threads), || measure_single(&request))??;
    if let Some(out) = &args.out {
        write_answers(out, &measured.answers)?;
    }
    let row = search_row(&measured.setting, &measured.build).context("no pass over the queries was measured")?;
    if let Some(path) = &args.json {
        write_json(path, &row)?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    let recall = row.recall.map_or("recall unknown (no truth)".to_string(), |r| format!("recall@{} {r:.4}", args.k));
    let latency =
        row.latency_us.map_or(String::new(), |l| format!(", latency p50 {:.0} us, p99 {:.0} us", l.p50, l.p99));
    let pages = row.pages_per_query.map_or(String::new(), |p| format!(", {p:.1} pages a query"));
    print(&format!(
        "{recall}, {:.0} queries/s (95% interval {:.0} to {:.0}){latency}{pages}",
        row.qps.median, row.qps.lo, row.qps.hi
    ))
}

/// How `threads` threads are driven.
pub fn mode(threads: usize, batch: bool) -> Mode {
    match (threads, batch) {
        (threads, true) => Mode::Batch { threads },
        (1, false) => Mode::Latency1,
        (threads, false) => Mode::Throughput { threads },
    }
}

/// The effort that the flags ask for; a flag of the other kind of index is refused.
fn effort(args: &Args, searcher: &Searcher) -> Result<Effort, UsageError> {
    let kind = searcher.kind();
    let refuse = |flag: &str, use_instead: &str| {
        Err(UsageError(format!("{} is a {kind} index: {flag} does not apply, use {use_instead}", args.index.display())))
    };
    let zero = [("--search-list", args.search_list), ("--nprobe", args.nprobe), ("--rerank", args.rerank)];
    if let Some((flag, _)) = zero.iter().find(|(_, value)| *value == Some(0)) {
        return Err(UsageError(format!("{flag} 0: use 1 or more")));
    }
    match (kind, Effort::default_for(kind, args.k)) {
        (IndexKind::Vamana, _) if args.nprobe.is_some() => refuse("--nprobe", "--search-list"),
        (IndexKind::Vamana, _) if args.rerank.is_some() => refuse("--rerank", "--search-list"),
        (IndexKind::IvfPq, _) if args.search_list.is_some() => refuse("--search-list", "--nprobe"),
        (IndexKind::IvfPq, _) if matches!(args.navigate, NavigateArg::Codes) => refuse("--navigate", "--nprobe"),
        (_, Effort::Graph { search_list, .. }) => {
            Ok(Effort::Graph { search_list: args.search_list.unwrap_or(search_list), navigate: args.navigate.into() })
        }
        (_, Effort::Lists { nprobe, rerank }) => {
            let (asked, nlist) = (args.nprobe.unwrap_or(nprobe), searcher.nlist().unwrap_or(usize::MAX));
            if args.nprobe.is_some() && asked > nlist {
                tracing::warn!("--nprobe {asked}: the index has {nlist} lists; all are scanned");
            }
            Ok(Effort::Lists { nprobe: asked.min(nlist), rerank: args.rerank.unwrap_or(rerank) })
        }
    }
}

fn check_queries(args: &Args, searcher: &Searcher, queries: &dyn RowSource) -> anyhow::Result<()> {
    for path in [&args.out, &args.json].into_iter().flatten() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            // The dot asks whether it is a folder, and the system says why not.
            std::fs::metadata(folder.join(".")).with_context(|| format!("{}: cannot write", path.display()))?;
        }
    }
    if let Some(out) = args.out.as_ref().filter(|out| out.extension().is_none_or(|e| e != "npy")) {
        return Err(UsageError(format!("--out {}: answers are written as .npy; name it so", out.display())).into());
    }
    refuse_other_dim(&args.queries, queries, searcher)?;
    if args.k as u64 > searcher.len() {
        tracing::warn!("--k {}: the index has {} rows; answers are padded with -1", args.k, searcher.len());
    }
    Ok(())
}

/// Writes ids to `R.npy` and distances to `R.distances.npy`.
fn write_answers(out: &Path, answers: &QueryAnswers) -> anyhow::Result<()> {
    let ids = Truth { ids: answers.ids.clone(), distances: None };
    let no_rows = MemorySource::new(Rows::zeros(DType::F32, 0, 0), out);
    let content = Content { truth: Some(&ids), ..Content::rows(&no_rows) };
    write_truth(&content, out, &NoProgress)?;
    write_distances(&answers.distances, &out.with_extension("distances.npy"))?;
    Ok(())
}
