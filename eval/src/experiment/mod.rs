//! An experiment as a file: data sets, engines with their grids, modes, repeats, limits.
//!
//! In: TOML. Out: an [`Experiment`], or everything that is wrong with the file ([`BadExperiment`]). What only the data can
//! tell (a k beyond its truth, more probes than lists) is added to the same [`Problems`] by whoever opens it, before
//! anything runs. [`STARTER`] is a file to begin with, which explains every key.

mod engines;
mod problems;
mod reader;

use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_builder::Residency;
use kiln_kernels::Metric;
use toml::de::DeTable;

pub use engines::{BuildPoint, EngineSpec, MAX_BUILDS, MAX_SETTINGS, SearchPlaces};
pub use problems::{At, BadExperiment, Located, Problem, Problems};

use crate::held_out::HeldOut;
use crate::io_state::{IoState, Placement};
use crate::judge::MAX_K;
use crate::load::{Rate, parse_rates};
use crate::measure::Repeats;
use crate::open_loop::OpenLoop;
use crate::record::{MAX_THREADS, Mode};
use crate::units::{parse_bytes, parse_duration};
use reader::{Field, Table, syntax};

/// A commented file to begin with.
pub const STARTER: &str = include_str!("starter.toml");

/// An experiment, as far as the file alone can tell that it makes sense.
#[derive(Debug)]
pub struct Experiment {
    /// Data sets, each a file or a name, as [`kiln_datasets::Dataset::open`] takes them.
    pub datasets: Vec<Located<String>>,
    /// What is measured on each of them.
    pub engines: Vec<EngineSpec>,
    /// How it is driven; none where only builds are measured.
    pub modes: Vec<Mode>,
    /// Neighbours asked for.
    pub k: Located<usize>,
    /// How rows are compared, where the data set does not say.
    pub metric: Option<Located<Metric>>,
    /// Only so many queries.
    pub queries: Option<usize>,
    /// The queries by which no setting is chosen.
    pub held_out: Option<HeldOut>,
    /// How often and how long each setting is measured.
    pub repeats: Repeats,
    /// Fewer repeats and settings.
    pub quick: bool,
    /// The time that all may take.
    pub budget: Option<Duration>,
    /// Whether settings that cannot be on the frontier are left out.
    pub prune: bool,
    /// Loads that are offered to each of Kiln's indexes.
    pub open_loop: Option<OpenLoop>,
    /// Where Kiln's indexes lie while they are searched.
    pub placements: Vec<Placement>,
    /// Threads to build and to judge with; `None`: all.
    pub threads: Option<usize>,
    /// The folder of the records; with several data sets, of a folder for each.
    pub out: Option<PathBuf>,
    /// Orders everything that is random.
    pub seed: u64,
    /// What is wrong so far, which is nothing, and what may yet be found.
    pub problems: Problems,
}

/// Reads the experiment at `path`. `quick` reduces repeats as if the file said so.
///
/// # Errors
/// When the file cannot be read, with the system's words; or everything that is wrong with it.
pub fn read(path: &Path, quick: bool) -> Result<Experiment, BadExperiment> {
    let unreadable = |error: std::io::Error| {
        let problems = Problems::new(path, "");
        problems.add(&At::default(), format!("cannot read: {error}; `kiln bench init` writes a file to begin with"));
        problems.outcome().expect_err("one was added")
    };
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| unreadable(std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8")))?;
    parse(path, &text, quick)
}

/// The same of a file's text; `path` is for messages.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(path: &Path, text: &str, quick: bool) -> Result<Experiment, BadExperiment> {
    let problems = Problems::new(path, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What follows a slip of syntax is read as something that was not meant.
        errors.iter().for_each(|error| syntax(&problems, error));
        problems.outcome()?;
    }
    let read = of_table(&Table::root(&problems, &table), quick);
    problems.outcome()?;
    match read {
        Some(experiment) => Ok(Experiment { problems, ..experiment }),
        // Whatever keeps a file from being read is among the problems.
        None => unreachable!("a file without problems was not read"),
    }
}

/// All keys of the file. `None` only where something is wrong.
fn of_table(table: &Table<'_>, quick: bool) -> Option<Experiment> {
    let datasets: Vec<Located<String>> = table
        .need("dataset", "name a file, a fetched set, or \"demo\"")
        .iter()
        .flat_map(|field| field.each())
        .filter_map(|field| Some(field.located(field.text()?.to_string())))
        .collect();
    let out = table.take("out").and_then(|field| Some(PathBuf::from(field.text()?)));
    let k = table.take("k").map(|field| (field.integer(1..=MAX_K as u64), field));
    let k = match k {
        Some((value, field)) => field.located(value.unwrap_or(1) as usize),
        None => Located { value: 10, at: table.at().clone() },
    };
    let metric = table.take("metric").and_then(|field| {
        let metric = field.choice(&[("l2", Metric::L2), ("ip", Metric::InnerProduct), ("cosine", Metric::Cosine)])?;
        Some(field.located(metric))
    });
    let queries = table.take("queries").and_then(|field| field.integer(1..=u64::MAX)).map(|queries| queries as usize);
    let seed = table.take("seed").and_then(|field| field.integer(0..=u64::MAX)).unwrap_or(42);
    let held_out = table.take("held_out").and_then(|field| held_out(&field, seed));
    let quick = table.take("quick").and_then(|field| field.boolean()).unwrap_or(false) || quick;
    let budget = table.take("time_budget").and_then(|field| field.measure(parse_duration));
    let prune = table.take("prune").and_then(|field| field.boolean()).unwrap_or(true);
    let threads = table.take("threads").and_then(|field| field.integer(1..=MAX_THREADS as u64));
    let modes =
        table.need("modes", "name latency-1, throughput-T, batch-T, batch-device or build").map(|field| modes(&field));
    let placements = placements(table);
    let repeats = table.take("repeats").and_then(|field| field.table());
    let repeats = repeats.map_or(if quick { Repeats::QUICK } else { Repeats::FULL }, |table| repeats_of(&table, quick));
    let loads = table.take("open_loop");
    let open_loop = loads.as_ref().and_then(|field| open_loop_of(&field.table()?, quick));
    if let Some(field) = loads.as_ref().filter(|_| modes.as_ref().is_some_and(Vec::is_empty)) {
        field.wrong("it asks an index at a setting that was measured: add latency-1 or throughput-T to modes");
    }
    let engines = engines::of_file(table, threads.map(|threads| threads as usize));
    table.finish(|key| match key {
        "engines" => Some("unknown key; each engine is headed [[engine]]".into()),
        "datasets" => Some("unknown key; did you mean dataset? It takes one, or a list".into()),
        _ => None,
    });
    Some(Experiment {
        datasets,
        engines,
        modes: modes?,
        k,
        metric,
        queries,
        held_out,
        repeats,
        quick,
        budget,
        prune,
        open_loop,
        placements,
        threads: threads.map(|threads| threads as usize),
        out,
        seed,
        problems: Problems::new(Path::new(""), ""),
    })
}

fn held_out(field: &Field<'_>, seed: u64) -> Option<HeldOut> {
    let fraction = field.number()?;
    if !(0.0..1.0).contains(&fraction) {
        field
            .wrong(format!("{fraction} is out of range: use a part of the queries from 0 up to, and not including, 1"));
        return None;
    }
    (fraction > 0.0).then_some(HeldOut { fraction, seed })
}

/// The modes; that builds are measured needs no mode of its own, but may be all that is wanted.
fn modes(field: &Field<'_>) -> Vec<Mode> {
    let parse = |text: &str| match text {
        "build" => Ok(None),
        "open-loop" => Err("it has a table of its own: head one [open_loop]".to_string()),
        _ => text.parse::<Mode>().map(Some).map_err(|allowed| format!("{allowed}, or build")),
    };
    field.each().iter().filter_map(|field| field.parsed(parse).flatten()).collect()
}

fn placements(table: &Table<'_>) -> Vec<Placement> {
    let each = |key| table.take(key).map(|field: Field<'_>| field.each()).unwrap_or_default();
    let words = [("memory", Residency::Memory), ("ssd", Residency::Ssd)];
    let named = each("residency");
    let mut residencies: Vec<Residency> = named.iter().filter_map(|field| field.choice(&words)).collect();
    if named.is_empty() {
        residencies.push(Residency::Memory);
    }
    let states = each("io_state");
    let memories = each("memory");
    if !residencies.contains(&Residency::Ssd) {
        for field in states.iter().chain(&memories) {
            field.wrong("it is for indexes on the drive: add \"ssd\" to residency, or leave it out");
        }
    }
    let states: Vec<IoState> = states.iter().filter_map(|field| field.parsed(str::parse)).collect();
    let memories: Vec<u64> = memories.iter().filter_map(|field| field.measure(parse_bytes)).collect();
    Placement::product(&residencies, &states, &memories)
}

/// Repeats of the file's own; where they are quick, at most the quick ones.
fn repeats_of(table: &Table<'_>, quick: bool) -> Repeats {
    let base = if quick { Repeats::QUICK } else { Repeats::FULL };
    let seconds = |key, least: f64, default: f64| {
        let given = table.take(key).and_then(|field| {
            let seconds = field.number()?;
            let fits = (least..=86_400.0).contains(&seconds);
            if !fits {
                field.wrong(format!("{seconds} is out of range: use {least} to 86400 seconds"));
            }
            fits.then_some(seconds)
        });
        given.unwrap_or(default)
    };
    let runs = table.take("runs").and_then(|field| field.integer(1..=100_000)).map(|runs| runs as usize);
    let mut repeats = Repeats {
        min_runs: runs.unwrap_or(base.min_runs),
        min_seconds: seconds("seconds", 0.0, base.min_seconds),
        warmup_seconds: seconds("warmup_seconds", 0.0, base.warmup_seconds),
        ..base
    };
    if quick {
        repeats.min_runs = repeats.min_runs.min(base.min_runs);
        repeats.min_seconds = repeats.min_seconds.min(base.min_seconds);
        repeats.warmup_seconds = repeats.warmup_seconds.min(base.warmup_seconds);
    }
    table.finish(|_| None);
    repeats
}

/// The loads to offer.
fn open_loop_of(table: &Table<'_>, quick: bool) -> Option<OpenLoop> {
    let in_range = |key, range: std::ops::RangeInclusive<f64>, default: f64| {
        let Some(field) = table.take(key) else { return default };
        let value = field.number().unwrap_or(default);
        if !range.contains(&value) {
            field.wrong(format!("{value} is out of range: use {} to {}", range.start(), range.end()));
        }
        value
    };
    let recall = in_range("recall", 0.0..=1.0, 0.95);
    let seconds = in_range("seconds", 0.1..=3600.0, if quick { 0.5 } else { 5.0 });
    let threads = table.take("threads").and_then(|field| field.integer(1..=MAX_THREADS as u64)).unwrap_or(1) as usize;
    let load = table.take("load");
    let rates: Vec<Rate> = match &load {
        Some(field) => field.each().iter().filter_map(|field| field.measure(parse_rates)).flatten().collect(),
        None => parse_rates("10%..120%").unwrap_or_default(),
    };
    table.finish(|_| None);
    Some(OpenLoop { recall, rates, threads, duration: Duration::from_secs_f64(seconds) })
}

#[cfg(test)]
mod tests;
