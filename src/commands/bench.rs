//! `kiln bench`: build, measure, report.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kiln_builder::{IndexKind, IndexParams};
use kiln_datasets::Dataset;
use kiln_eval::experiment::STARTER;
use kiln_eval::held_out::{Choice, choices};
use kiln_eval::measure::Repeats;
use kiln_eval::metrics::{SearchRow, build_row, search_row};
use kiln_eval::record::{Mode, RunData, Skip};
use kiln_eval::{Engine, IndexSpec, Plan, SearchGrid, run_bench};
use serde_json::json;

use super::build::{ParamArgs, describe};
use super::device::DeviceArgs;
use super::drive::DriveArgs;
use super::experiment::{Run, runs_of};
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
  kiln bench init                                  a commented run.toml, to be changed and run:
  kiln bench --config run.toml                     data sets, grids, other libraries, a time budget

A run folder can be continued: settings that it holds are not measured again.";

/// The flags that an experiment's file stands in for.
const IN_FILE: [&str; 28] = [
    "dataset",
    "index",
    "open",
    "metric",
    "k",
    "search_list",
    "navigate",
    "nprobe",
    "rerank",
    "threads",
    "batch",
    "residency",
    "io_state",
    "memory",
    "queries",
    "method",
    "max_degree",
    "build_list",
    "alpha",
    "layout",
    "edge_bits",
    "nlist",
    "codec",
    "soar",
    "m",
    "bits",
    "opq",
    "seed",
];

#[derive(clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    /// An experiment's file, which says what is measured; of the other flags only --out, --quick, --json and those of the
    /// device go with it
    #[arg(long, value_name = "RUN.toml", conflicts_with_all = IN_FILE)]
    config: Option<PathBuf>,
    /// The data set: a file, the name of a fetched set, demo, or synth:rows=N,dim=D,... [default: demo, which is in the
    /// program, with --quick]
    #[arg(long, value_name = "FILE|NAME")]
    dataset: Option<String>,
    /// A kind of index to build and measure; may be repeated [default: both, or none with --open]
    #[arg(long, value_enum)]
    index: Vec<IndexArg>,
    /// An index file to measure; may be repeated
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
    /// Measure batch-device and batch-device-resident too: all queries in one call to the device, which walks graphs in
    /// memory; with the way there and back, and without
    #[arg(long)]
    batch_device: bool,
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

#[derive(clap::Subcommand)]
enum BenchCommand {
    /// Write a commented experiment's file to begin with
    Init {
        /// The file; `-` is standard output
        #[arg(default_value = "run.toml")]
        file: PathBuf,
    },
}

pub fn run(args: Args) -> anyhow::Result<()> {
    if let Some(BenchCommand::Init { file }) = &args.command {
        return init(file);
    }
    let runs = match &args.config {
        Some(config) => runs_of(config, args.quick, args.out.as_deref(), &command_line())?,
        None => vec![of_flags(&args)?],
    };
    let mut documents = Vec::with_capacity(runs.len());
    let began = std::time::Instant::now();
    let (count, budget) = (runs.len(), runs.first().and_then(|run| run.plan.budget));
    for (number, mut run) in runs.into_iter().enumerate() {
        // Each data set may take an equal part of what the ones before it have left over.
        run.plan.budget = budget.map(|all| all.saturating_sub(began.elapsed()) / (count - number) as u32);
        documents.push(measure(&args, &run)?);
    }
    match (&args.json, documents.len()) {
        (Some(path), 1) => write_json(path, &documents[0]),
        (Some(path), _) => write_json(path, &json!({ "runs": documents })),
        (None, _) => Ok(()),
    }
}

/// Writes the starter file, unless there is a file already.
fn init(file: &Path) -> anyhow::Result<()> {
    use std::io::Write as _;
    if file.as_os_str() == "-" {
        return print(STARTER.trim_end());
    }
    let created = std::fs::File::create_new(file).and_then(|mut created| created.write_all(STARTER.as_bytes()));
    match created {
        Ok(()) => print(&format!("wrote {}; run it with: kiln bench --config {}", file.display(), file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(UsageError(format!("{}: it is there already; name another file, or remove it", file.display())).into())
        }
        Err(error) => Err(error).with_context(|| format!("{}: cannot write", file.display())),
    }
}

/// Measures one data set, and writes and prints its report. Returns all figures.
fn measure(args: &Args, run: &Run) -> anyhow::Result<serde_json::Value> {
    let Run { dataset, plan, threads } = run;
    let progress = TerminalProgress::new();
    let data = with_threads(*threads, || -> anyhow::Result<RunData> {
        Ok(run_bench(plan, dataset, &args.device.open()?, &progress)?)
    })??;
    drop(progress);

    let report = plan.out.join("report.html");
    let charts = plan.out.join("charts");
    kiln_reports::write_report(&data, &report, Some(&charts))?;
    let document = document(&data);
    if args.json.as_ref().is_none_or(|path| path.as_os_str() != "-") {
        print(&table(&data))?;
        print(&format!("report: {}\ncharts: {}", report.display(), charts.display()))?;
    }
    Ok(document)
}

/// What the flags ask for.
fn of_flags(args: &Args) -> anyhow::Result<Run> {
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
    let search = SearchGrid {
        search_lists: args.search_list.clone(),
        navigate: vec![args.navigate.into()],
        nprobes: args.nprobe.clone(),
        reranks: args.rerank.into_iter().collect(),
    };
    let batch = args.batch.then_some(Mode::Batch { threads: 1 });
    let on_device = [true, false].map(|transfers| Mode::BatchDevice { transfers });
    let on_device = on_device.into_iter().filter(|_| args.batch_device);
    let throughput = threads.iter().map(|&threads| Mode::Throughput { threads });
    let quick = args.quick || demo;
    let plan = Plan {
        out,
        command: command_line(),
        k: args.k,
        metric: Some(metric_of(args.metric, &dataset)?),
        engines: (indexes(args, &dataset)?.into_iter())
            .map(|index| Engine::Kiln { index, search: search.clone() })
            .collect(),
        modes: std::iter::once(Mode::Latency1).chain(batch).chain(throughput).chain(on_device).collect(),
        placements: args.drive.placements(&args.residency)?,
        queries: args.queries,
        repeats: if quick { Repeats::QUICK } else { Repeats::FULL },
        quick,
        held_out: None,
        budget: None,
        prune: false,
        open_loop: None,
        noop: None,
        seed: args.params.seed(),
    };
    Ok(Run { dataset, plan, threads: threads.into_iter().max() })
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
    let left_out: Vec<_> = (data.settings.iter())
        .filter_map(|setting| {
            let (params, mode) = (&setting.params, setting.mode.name());
            let (build, why, skip) = (&setting.build_key, setting.failure.as_ref()?, setting.skip);
            Some(json!({ "build_key": build, "params": params, "mode": mode, "skip": skip, "why": why }))
        })
        .collect();
    json!({
        "machine": data.header.machine,
        "dataset": data.header.dataset,
        "drive_ceiling": data.header.drive_ceiling,
        "noise": data.header.noise.as_ref().and_then(|check| check.noise()),
        "peer_overhead": data.header.peer_overhead,
        "builds": builds,
        "rows": rows,
        "choices": choices(data),
        "left_out": left_out,
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
    lines.extend(footnotes(data));
    lines.join("\n")
}

/// What the table does not show: settings that were chosen, what was left out, and what differences mean nothing.
fn footnotes(data: &RunData) -> Vec<String> {
    let mut notes = Vec::new();
    for choice in choices(data) {
        let Choice { mode, level, recall_tuned, recall_held_out, qps, .. } = &choice;
        let chosen = data.settings.iter().find(|setting| setting.key == choice.setting);
        let params = chosen.map(|setting| serde_json::to_string(&setting.params).unwrap_or_default());
        let index = data.builds.iter().find(|build| build.key == choice.build_key).map(|build| build.index.as_str());
        notes.push(format!(
            "chosen for recall {level:.2}: {} {mode} {}: {recall_tuned:.4} where it was chosen, {recall_held_out:.4} on held-out \
             queries, {qps:.0} queries/s",
            index.unwrap_or("?"),
            params.unwrap_or_default(),
        ));
    }
    let count = |skip| data.settings.iter().filter(|one| one.failure.is_some() && one.skip == skip).count();
    let left_out = [
        (count(Some(Skip::Pruned)), "pruned: they cannot be on the frontier"),
        (count(Some(Skip::TimeBudget)), "skipped: the time budget ended"),
        (count(None), "failed"),
    ];
    for (count, why) in left_out.into_iter().filter(|(count, _)| *count > 0) {
        notes.push(format!("{count} settings {why}; the report says more"));
    }
    if let Some(noise) = data.header.noise.as_ref().and_then(|check| check.noise()).filter(|noise| noise.noisy) {
        notes.push(format!("this machine is noisy: {noise}"));
    }
    notes
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
