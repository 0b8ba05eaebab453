//! `kiln unit`: one build by many machines, unit by unit, over a folder that they share or an object store.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::Subcommand;
use kiln_builder::BuildRequest;
use kiln_builder::units::{NearbyCopies, Selection, UnitPlan, UnitStatus, Units, UnitsMade, WorkPlace, plan_units};
use kiln_kernels::CpuBackend;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::budget::STOPPED;
use super::build::{ParamArgs, describe};
use super::device::DeviceArgs;
use super::{
    IndexArg, MetricArg, bytes, cache_dir, metric_of, open_dataset, print, thousands, with_threads, write_json,
};
use crate::terminal::TerminalProgress;

const EXAMPLES: &str = "\
Examples:
  kiln unit plan --dataset /data/base.u8bin --metric l2 --index vamana --memory-budget 16GiB --work /shared/base.work
  kiln unit build --work /shared/base.work --stage assign --share 3/8     the fourth of eight machines
  kiln unit build --work s3://bucket/base.work --next                     one unit that can be made now
  kiln unit status --work /shared/base.work
  kiln unit merge --work /shared/base.work --out base.kiln
  kiln unit clean --work /shared/base.work --all

The index has the bytes that `kiln build` gives it. Every command may be repeated, on any machine, at any time.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write down what is to be done
    Plan(Box<PlanArgs>),
    /// Make units of a stage, from those of the stages before
    Build(BuildArgs),
    /// Say how far every stage is
    Status(StatusArgs),
    /// Write the index from the last stages
    Merge(MergeArgs),
    /// Remove units that nothing is made from any more
    Clean(CleanArgs),
}

/// Where the units lie.
#[derive(Debug, Clone, clap::Args)]
struct WorkArgs {
    /// The place that all machines reach: a folder, or an address such as s3://BUCKET/FOLDER (gs://, az://)
    #[arg(long, value_name = "FOLDER|URL")]
    work: String,
    /// Folder for copies of what lies in an object store, and for what is not finished [default: of the user's cache]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// What these copies may take, such as 200GB
    #[arg(long, value_name = "SIZE", value_parser = super::parse_bytes, default_value = "100GB")]
    cache_size: u64,
}

#[derive(clap::Args)]
struct PlanArgs {
    /// The data set: a file that all machines find at this path, or the name of a fetched set
    #[arg(long, value_name = "FILE|NAME")]
    dataset: String,
    /// The kind of index: machines share builds of vamana, by partition
    #[arg(long, value_enum)]
    index: IndexArg,
    /// Memory of each machine to keep to, such as 16GiB
    #[arg(long, value_name = "SIZE", value_parser = super::parse_bytes)]
    memory_budget: u64,
    #[command(flatten)]
    work: WorkArgs,
    /// The index file that `merge` writes [default: the data set's name]
    #[arg(long, value_name = "X.kiln")]
    out: Option<PathBuf>,
    /// How rows are compared; required where the data set does not say
    #[arg(long, value_enum)]
    metric: Option<MetricArg>,
    #[command(flatten)]
    params: ParamArgs,
    /// Store f32 rows as f32 even where u8, i8 or f16 holds every value exactly
    #[arg(long)]
    keep_dtype: bool,
}

#[derive(clap::Args)]
struct BuildArgs {
    #[command(flatten)]
    work: WorkArgs,
    /// The stage whose units to make: all that are missing, unless --units or --share chooses
    #[arg(long, value_name = "STAGE", required_unless_present_any = ["next", "all"])]
    stage: Option<String>,
    /// Numbers of units, one or a range with both its ends, such as 7 or 0-15
    #[arg(long, value_name = "K|A-B", value_parser = parse_numbers, requires = "stage", conflicts_with = "share")]
    units: Option<RangeInclusive<u32>>,
    /// Every N-th unit from number I on: machine I of N, counted from 0
    #[arg(long, value_name = "I/N", value_parser = parse_share, requires = "stage")]
    share: Option<(u32, u32)>,
    /// One unit of any stage that can be made now
    #[arg(long, conflicts_with_all = ["stage", "all"])]
    next: bool,
    /// All that is missing, stage after stage
    #[arg(long, conflicts_with = "stage")]
    all: bool,
    /// The data set, where this machine has it elsewhere than the plan says
    #[arg(long, value_name = "FILE|NAME")]
    dataset: Option<String>,
    /// Threads to use [default: all]
    #[arg(long, value_name = "T")]
    threads: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(clap::Args)]
struct StatusArgs {
    #[command(flatten)]
    work: WorkArgs,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct MergeArgs {
    #[command(flatten)]
    work: WorkArgs,
    /// The index file to write [default: as planned]
    #[arg(long, value_name = "X.kiln")]
    out: Option<PathBuf>,
    /// Threads to use [default: all]
    #[arg(long, value_name = "T")]
    threads: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(clap::Args)]
struct CleanArgs {
    #[command(flatten)]
    work: WorkArgs,
    /// Remove everything, the plan too
    #[arg(long)]
    all: bool,
}

fn parse_numbers(text: &str) -> Result<RangeInclusive<u32>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err("write a number, or the first and the last of a range, such as 0-15".into()),
    }
}

fn parse_share(text: &str) -> Result<(u32, u32), String> {
    match text.split_once('/').map(|(index, of)| (index.parse(), of.parse())) {
        Some((Ok(index), Ok(of))) if index < of => Ok((index, of)),
        _ => Err("write the number of this machine, counted from 0, and how many there are, such as 0/8 to 7/8".into()),
    }
}

impl WorkArgs {
    fn open(&self) -> anyhow::Result<WorkPlace> {
        let folder = self.cache.clone().unwrap_or_else(|| cache_dir().join("units"));
        Ok(WorkPlace::open(&self.work, &NearbyCopies { folder, bytes: self.cache_size })?)
    }
}

pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Plan(args) => plan(&args),
        Command::Build(args) => build(&args),
        Command::Status(args) => status(&args),
        Command::Merge(args) => merge(&args),
        Command::Clean(args) => clean(&args),
    }
}

fn plan(args: &PlanArgs) -> anyhow::Result<()> {
    let dataset = open_dataset(&args.dataset)?;
    let metric = metric_of(args.metric, &dataset)?;
    let params = args.params.resolve(args.index.into(), dataset.base.as_ref())?;
    tracing::info!("{}, metric {metric}", describe(&params));
    // Machines find it by the whole path, or by the name.
    let given = std::path::Path::new(&args.dataset);
    let opened_as = match given.is_file() {
        true => given.canonicalize().context("the data set's path")?.display().to_string(),
        false => args.dataset.clone(),
    };
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}.kiln", dataset.name)));
    let request = BuildRequest {
        source: dataset.base.as_ref(),
        dataset_name: dataset.name.clone(),
        dataset_fingerprint: dataset.fingerprint.clone(),
        metric,
        params,
        keep_dtype: args.keep_dtype,
        out: &out,
    };
    let place = args.work.open()?;
    let progress = TerminalProgress::new();
    let plan = plan_units(&request, opened_as, args.memory_budget, &place, &progress)?;
    drop(progress);
    print(&format!("{:<10} {:>7}  after", "stage", "units"))?;
    for stage in &plan.stages {
        let units = match (stage.units, stage.about) {
            (Some(units), _) => thousands(u64::from(units)),
            (None, about) => format!("~{}", thousands(u64::from(about.unwrap_or(0)))),
        };
        print(&format!("{:<10} {units:>7}  {}", stage.stage, stage.after.join(", ")))?;
    }
    print(&format!("{}: planned, {} of memory a machine", place.root().display(), bytes(plan.memory_budget)))
}

fn build(args: &BuildArgs) -> anyhow::Result<()> {
    let place = args.work.open()?;
    let plan = UnitPlan::read(&place)?;
    let dataset = open_dataset(args.dataset.as_ref().unwrap_or(&plan.dataset))?;
    let selection = match (&args.stage, &args.units, args.share) {
        (Some(stage), Some(numbers), _) => Selection::Numbers(stage.clone(), numbers.clone()),
        (Some(stage), None, Some((index, of))) => Selection::Share { stage: stage.clone(), index, of },
        (Some(stage), None, None) => Selection::Stage(stage.clone()),
        (None, ..) if args.next => Selection::Next,
        (None, ..) => Selection::Everything,
    };
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The first asks for an end after the unit at hand, the second ends the process where it is.
        flag::register_conditional_shutdown(signal, STOPPED, Arc::clone(&asked)).context("cannot watch signals")?;
        flag::register(signal, Arc::clone(&asked)).context("cannot watch signals")?;
    }
    let progress = TerminalProgress::new();
    let made = with_threads(args.threads, || -> anyhow::Result<UnitsMade> {
        let device = args.device.open()?;
        let stop = || asked.load(Ordering::Relaxed);
        let units = Units { place: &place, plan: &plan, backend: &device, progress: &progress, stop: &stop };
        Ok(units.build(dataset.base.as_ref(), &dataset.fingerprint, &selection)?)
    })??;
    drop(progress);
    if selection == Selection::Next && made == UnitsMade::default() {
        return print("nothing is missing: merge");
    }
    let of = made.stage.map_or(String::new(), |stage| format!(" of {stage}"));
    print(&format!("{} units{of} made, {} were there", made.made, made.there))
}

/// Runs what needs neither rows nor a device.
fn without_rows<R>(
    work: &WorkArgs,
    run: impl FnOnce(&Units<'_, CpuBackend>) -> anyhow::Result<R>,
) -> anyhow::Result<R> {
    let place = work.open()?;
    let plan = UnitPlan::read(&place)?;
    let (backend, progress) = (CpuBackend::new(), kiln_kernels::NoProgress);
    run(&Units { place: &place, plan: &plan, backend: &backend, progress: &progress, stop: &|| false })
}

fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let status = without_rows(&args.work, |units| Ok(units.status()?))?;
    if args.json {
        return write_json("-".as_ref(), &status);
    }
    print(&format!("{:<10} {:>7} {:>9}", "stage", "units", "finished"))?;
    for stage in &status.stages {
        let units = stage.units.map_or("?".to_string(), |units| thousands(u64::from(units)));
        let finished = stage.units.unwrap_or(0) - stage.missing.len() as u32;
        let word = match (stage.needed, stage.ready, stage.missing.is_empty() && stage.units.is_some()) {
            (false, ..) => "not needed any more",
            (true, true, _) => "can be made now",
            (true, false, true) => "finished",
            (true, false, false) => "waits",
        };
        print(&format!("{:<10} {units:>7} {:>9}  {word}", stage.stage, thousands(u64::from(finished))))?;
    }
    print(&format!("{}: {}", summary(&status), bytes(status.bytes)))
}

fn summary(status: &UnitStatus) -> &'static str {
    if status.complete { "everything is there: merge" } else { "not finished" }
}

fn merge(args: &MergeArgs) -> anyhow::Result<()> {
    let place = args.work.open()?;
    let plan = UnitPlan::read(&place)?;
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(&plan.out));
    let progress = TerminalProgress::new();
    let report = with_threads(args.threads, || -> anyhow::Result<_> {
        let device = args.device.open()?;
        let units = Units { place: &place, plan: &plan, backend: &device, progress: &progress, stop: &|| false };
        Ok(units.merge(&out)?)
    })??;
    drop(progress);
    match report {
        None => print(&format!("{}: is there already, and whole", out.display())),
        Some(report) => {
            print(&format!("{}: {}, {:.1} s", out.display(), bytes(report.index_bytes), report.total_seconds))
        }
    }
}

fn clean(args: &CleanArgs) -> anyhow::Result<()> {
    let removed = without_rows(&args.work, |units| Ok(units.clean(args.all)?))?;
    print(&format!("{}: {} files removed", args.work.work, thousands(removed as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_shares_are_read() {
        assert_eq!(parse_numbers("7"), Ok(7..=7));
        assert_eq!(parse_numbers("0-15"), Ok(0..=15));
        assert_eq!(parse_share("3/8"), Ok((3, 8)));
        for wrong in ["", "-", "3-1", "a", "1-"] {
            assert!(parse_numbers(wrong).is_err(), "{wrong}");
        }
        for wrong in ["8/8", "1", "1/", "-1/3"] {
            assert!(parse_share(wrong).is_err(), "{wrong}");
        }
    }
}
