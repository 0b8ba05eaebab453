//! `kiln bench`: build, measure, report.

use std::path::PathBuf;

use kiln_builder::{IndexKind, IndexParams};
use kiln_datasets::Dataset;
use kiln_eval::metrics::{SearchRow, build_row, search_row};
use kiln_eval::record::RunData;
use kiln_eval::{IndexSpec, Plan, run_bench};
use serde_json::json;

use super::build::{ParamArgs, describe};
use super::device::DeviceArgs;
use super::drive::DriveArgs;
use super::residency::ResidencyArg;
use super::search::NavigateArg;
use super::{
    IndexArg, MetricArg, UsageError, bytes, command_line, metric_of, open_dataset, print, summary, with_threads,
    write_json,
};
use crate::terminal::TerminalProgress;

const EXAMPLES: &str = "\
Examples:
  kiln bench                                       the embedded demo, quickly
  kiln bench --dataset sift-128-euclidean.hdf5     both indexes, full repeats
  kiln bench --dataset base.hdf5 --index vamana --search-list 20,40,80 --threads 1,2 --out runs/base
  kiln bench --dataset base.hdf5 --open base.kiln --residency memory,ssd --io-state direct,cold,warm
  kiln bench --dataset base.hdf5 --open base.kiln --residency ssd --memory 8MiB,64MiB,512MiB

A run folder can be continued: settings that it holds are not measured again.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The data set: a file, the name of a fetched set, or synth:rows=N,dim=D,... [default: the embedded demo, with
    /// --quick]
    #[arg(long, value_name = "FILE|NAME")]
    dataset: Option<String>,
    /// A kind of index to build and measure; may be repeated [default: both]
    #[arg(long, value_enum)]
    index: Vec<IndexArg>,
    /// An index file to measure beside them; may be repeated
    #[arg(long, value_name = "X.kiln")]
    open: Vec<PathBuf>,
    /// How rows are compared; required where the data set does not say
    #[arg(long, value_enum)]
    metric: Option<MetricArg>,
    /// Neighbours wanted
    #[arg(long, default_value_t = 10)]
    k: usize,
    /// Vamana: search list sizes to measure [default: a sweep]
    #[arg(long, value_name = "L,L,..", value_delimiter = ',')]
    search_list: Vec<usize>,
    /// Vamana: how neighbours are scored
    #[arg(long, value_enum, default_value = "best")]
    navigate: NavigateArg,
    /// IVF-PQ: numbers of lists to scan [default: a sweep]
    #[arg(long, value_name = "P,P,..", value_delimiter = ',')]
    nprobe: Vec<usize>,
    /// IVF-PQ: candidates re-ranked by exact distance [default: 12 k, at least 100]
    #[arg(long, value_name = "N")]
    rerank: Option<usize>,
    /// Throughput is measured with each of these numbers of threads; the largest also builds [default: 1 and all]
    #[arg(long, value_name = "T,T,..", value_delimiter = ',')]
    threads: Vec<usize>,
    /// Measure batch-1 too: all queries in one call, whose answers must equal those to single queries
    #[arg(long)]
    batch: bool,
    /// Where the indexes are while they are searched; each is measured
    #[arg(long, value_enum, value_delimiter = ',', default_value = "memory")]
    residency: Vec<ResidencyArg>,
    #[command(flatten)]
    drive: DriveArgs,
    /// Search with the first N queries of the set only
    #[arg(long, value_name = "N")]
    queries: Option<usize>,
    /// Fewer settings and repeats; the report says so
    #[arg(long)]
    quick: bool,
    /// The run folder [default: kiln-runs/DATASET]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    params: ParamArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Write all figures, as JSON, to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let demo = args.dataset.is_none();
    let dataset = match &args.dataset {
        Some(spec) => open_dataset(spec)?,
        None => {
            let dataset = Dataset::embedded_demo()?;
            tracing::info!("no --dataset: using the embedded demo, quickly. {}", summary(&dataset));
            dataset
        }
    };
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("kiln-runs").join(&dataset.name));
    let threads = thread_counts(&args.threads)?;
    let plan = Plan {
        out: out.clone(),
        command: command_line(),
        k: args.k,
        metric: Some(metric_of(args.metric, &dataset)?),
        indexes: indexes(&args, &dataset)?,
        search_lists: args.search_list.clone(),
        navigate: args.navigate.into(),
        nprobes: args.nprobe.clone(),
        rerank: args.rerank,
        threads: threads.clone(),
        batch: if args.batch { vec![1] } else { Vec::new() },
        placements: args.drive.placements(&args.residency)?,
        queries: args.queries,
        quick: args.quick || demo,
        seed: args.params.seed(),
    };
    let progress = TerminalProgress::new();
    let widest = threads.iter().copied().max();
    let data = with_threads(widest, || -> anyhow::Result<RunData> {
        Ok(run_bench(&plan, &dataset, &args.device.open()?, &progress)?)
    })??;
    drop(progress);

    let report = out.join("report.html");
    let charts = out.join("charts");
    kiln_reports::write_report(&data, &report, Some(&charts))?;
    if let Some(path) = &args.json {
        write_json(path, &document(&data))?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    print(&table(&data))?;
    print(&format!("report: {}\ncharts: {}", report.display(), charts.display()))
}

/// The numbers of threads to measure with: those given, else one and all.
fn thread_counts(given: &[usize]) -> Result<Vec<usize>, UsageError> {
    if given.contains(&0) {
        return Err(UsageError("--threads 0: use 1 or more".into()));
    }
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut counts = if given.is_empty() { vec![1, all] } else { given.to_vec() };
    counts.sort_unstable();
    counts.dedup();
    Ok(counts)
}

/// What to measure. Build parameters of one kind of index are meant for that kind alone.
fn indexes(args: &Args, dataset: &Dataset) -> Result<Vec<IndexSpec>, UsageError> {
    let kinds: Vec<IndexKind> = match (args.index.is_empty(), args.open.is_empty()) {
        (true, true) => vec![IndexKind::Vamana, IndexKind::IvfPq],
        _ => args.index.iter().map(|&kind| kind.into()).collect(),
    };
    if args.open.is_empty() {
        refuse_foreign(args, &kinds)?;
    }
    let mut specs = Vec::new();
    for kind in kinds {
        let params: IndexParams = args.params.of_kind(kind).resolve(kind, dataset.base.as_ref())?;
        tracing::info!("{}", describe(&params));
        specs.push(IndexSpec::Build(params));
    }
    specs.extend(args.open.iter().cloned().map(IndexSpec::Open));
    Ok(specs)
}

/// Refuses flags that apply to none of the kinds measured: ignoring them would surprise.
fn refuse_foreign(args: &Args, kinds: &[IndexKind]) -> Result<(), UsageError> {
    let given = [
        (IndexKind::Vamana, "--search-list", !args.search_list.is_empty()),
        (IndexKind::IvfPq, "--nprobe", !args.nprobe.is_empty()),
        (IndexKind::IvfPq, "--rerank", args.rerank.is_some()),
        (IndexKind::Vamana, "--max-degree, --build-list, --alpha or --method", args.params.any_of(IndexKind::Vamana)),
        (IndexKind::IvfPq, "--nlist, --codec or --soar", args.params.any_of(IndexKind::IvfPq)),
    ];
    match given.iter().find(|(kind, _, given)| *given && !kinds.contains(kind)) {
        Some((kind, flag, _)) => {
            Err(UsageError(format!("{flag}: no {kind} index is measured; remove it, or add --index {kind}")))
        }
        None => Ok(()),
    }
}

/// The JSON document of a run.
fn document(data: &RunData) -> serde_json::Value {
    let builds: Vec<_> = data.builds.iter().map(|build| build_row(build, &data.header.dataset)).collect();
    let rows: Vec<_> = measured(data).collect();
    json!({
        "machine": data.header.machine,
        "dataset": data.header.dataset,
        "drive_ceiling": data.header.drive_ceiling,
        "builds": builds,
        "rows": rows,
    })
}

fn measured(data: &RunData) -> impl Iterator<Item = SearchRow<'_>> {
    data.settings.iter().filter_map(|setting| {
        let build = data.builds.iter().find(|build| build.key == setting.build_key)?;
        search_row(setting, build)
    })
}

/// All settings as a table for the terminal. What concerns the drive is shown where any index was on it.
fn table(data: &RunData) -> String {
    let mut rows: Vec<_> = measured(data).collect();
    let known = |recall: Option<f64>| recall.unwrap_or(f64::INFINITY);
    rows.sort_by(|a, b| {
        let place = |row: &SearchRow| (row.residency.to_string(), row.io_state.clone(), row.memory_budget_bytes);
        let of = |row: &SearchRow| (row.index.to_string(), row.mode.clone());
        of(a).cmp(&of(b)).then(place(a).cmp(&place(b))).then(known(a.recall).total_cmp(&known(b.recall)))
    });
    let on_drive = rows.iter().any(|row| row.residency == "ssd");
    let heading = |drive: &str| {
        format!(
            "{:<8} {:<13} {:<32} {:>8} {:>10} {:>9} {:>9}{drive}",
            "index", "mode", "setting", "recall", "QPS", "p50 us", "p99 us"
        )
    };
    let drive = format!(" {:<17} {:>9} {:>7} {:>7} {:>8}", "  I/O", "memory", "pages", "hops", "wait us");
    let mut lines = vec![heading(if on_drive { &drive } else { "" })];
    for row in rows {
        let setting: Vec<String> =
            row.params.iter().map(|(name, value)| format!("{name} {}", value.to_string().trim_matches('"'))).collect();
        let recall = row.recall.map_or("-".to_string(), |r| format!("{r:.4}"));
        let [p50, p99] = [row.latency_us.map(|l| l.p50), row.latency_us.map(|l| l.p99)]
            .map(|us| us.map_or("-".to_string(), |us| format!("{us:.0}")));
        let drive = if on_drive { drive_columns(&row) } else { String::new() };
        lines.push(format!(
            "{:<8} {:<13} {:<32} {recall:>8} {:>10.0} {p50:>9} {p99:>9}{drive}",
            row.index,
            row.mode,
            setting.join(", "),
            row.qps.median,
        ));
    }
    lines.join("\n")
}

/// What a setting asked of the drive: the state of its reads, the memory it was allowed, pages, hops and waiting a query.
fn drive_columns(row: &SearchRow) -> String {
    let state = match row.io_state.as_deref().map(|state| state.split_once(':')) {
        None => row.residency.to_string(),
        Some(Some((state, size))) => format!("{state} {}", size.parse().map_or(size.to_string(), bytes)),
        Some(None) => row.io_state.clone().unwrap_or_default(),
    };
    let memory = row.memory_budget_bytes.map_or("-".to_string(), bytes);
    let [pages, hops, wait] = [row.pages_per_query, row.hops_per_query, row.io_wait_us_per_query]
        .map(|figure| figure.map_or("-".to_string(), |figure| format!("{figure:.1}")));
    format!("   {state:<15} {memory:>9} {pages:>7} {hops:>7} {wait:>8}")
}
