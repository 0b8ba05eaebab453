//! `kiln`: parse, run one command, exit. 0 is success, 1 a failure, 2 a command line that cannot work, 130 a stop that was asked for.

mod commands;
mod terminal;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use commands::budget::STOPPED;
#[cfg(feature = "serve")]
use commands::serve;
use commands::{
    StdoutClosed, UsageError, append, bench, bench_kernels, build, compact, compare, completions, datasets, devices,
    export, import, inspect, load, peer, report, search, tune, unit,
};
use kiln_builder::BuilderError;

/// So that a build can say what it has asked for.
#[global_allocator]
static ALLOCATOR: kiln_builder::CountingAllocator = kiln_builder::CountingAllocator;

/// Builds, searches and measures approximate-nearest-neighbour indexes that live in one file on an SSD.
#[derive(Parser)]
#[command(name = "kiln", version, propagate_version = true, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    /// Print less on standard error: warnings and errors only.
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print more on standard error.
    #[arg(long, short, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  kiln bench                                            both indexes over the embedded demo, with a report
  kiln bench --dataset sift.hdf5 --index vamana --threads 1,2
  kiln build --dataset sift.hdf5 --index vamana --out sift.kiln
  kiln search sift.kiln --queries sift.hdf5 --search-list 40 --residency ssd
  kiln tune sift.kiln --queries sift.hdf5 --recall .95

Exit codes: 0 success, 1 failure, 2 usage, 130 stopped by a signal. Results go to standard output, all else to standard error.";

#[derive(Subcommand)]
enum Command {
    /// Build indexes, measure them and write a report
    #[command(display_order = 1)]
    Bench(bench::Args),
    /// Build one index file
    #[command(display_order = 2)]
    Build(build::Args),
    /// Search an index file or a shard set with a set of queries
    #[command(display_order = 3)]
    Search(search::Args),
    /// Find the fastest search setting that reaches a recall
    #[command(display_order = 4)]
    Tune(tune::Args),
    /// Serve an index file or a shard set over HTTP
    #[cfg(feature = "serve")]
    #[command(display_order = 5)]
    Serve(serve::Args),
    /// Put a server under load, and measure its latency at each rate
    #[command(display_order = 6)]
    Load(load::Args),
    /// Show what an index file or a shard set holds, and verify it
    #[command(display_order = 7)]
    Inspect(inspect::Args),
    /// Add rows to a shard set, as one more index of it
    #[command(display_order = 8)]
    Append(append::Args),
    /// Merge the shards of a set into one index, and drop deleted rows
    #[command(display_order = 9)]
    Compact(compact::Args),
    /// Write the report of a run folder again
    #[command(display_order = 10)]
    Report(report::Args),
    /// Say whether one run is faster or slower than another, and whether that can be told
    #[command(display_order = 11)]
    Compare(compare::Args),
    /// List, fetch, convert and make data sets
    #[command(display_order = 12)]
    Datasets(datasets::Args),
    /// List the devices that can compute
    #[command(display_order = 13)]
    Devices(devices::Args),
    /// Measure every stage of a device beside what it can do at most
    #[command(display_order = 14)]
    BenchKernels(bench_kernels::Args),
    /// Build one index by many machines, unit by unit
    #[command(display_order = 15)]
    Unit(unit::Args),
    /// Be a peer of another Kiln: build and search as its `--config` asks, in JSON lines
    #[command(display_order = 16)]
    Peer(peer::Args),
    /// Write a run in the format of another benchmark, or as a table
    #[command(display_order = 17)]
    Export(export::Args),
    /// Bring results of other benchmarks or machines into a run folder
    #[command(display_order = 18)]
    Import(import::Args),
    /// Print a shell completion script, or write man pages
    #[command(display_order = 19)]
    Completions(completions::Args),
}

fn main() -> ExitCode {
    terminal::expect_no_display();
    let cli = Cli::parse();
    match &cli.command {
        #[cfg(feature = "serve")]
        Command::Serve(args) => terminal::start_server_logging(cli.quiet, cli.verbose, args.log_format()),
        _ => terminal::start_logging(cli.quiet, cli.verbose),
    }
    let outcome = match cli.command {
        Command::Bench(args) => bench::run(args),
        Command::Build(args) => build::run(args),
        Command::Search(args) => search::run(args),
        Command::Tune(args) => tune::run(args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(args),
        Command::Load(args) => load::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Append(args) => append::run(args),
        Command::Compact(args) => compact::run(args),
        Command::Peer(args) => peer::run(args),
        Command::Report(args) => report::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Datasets(args) => datasets::run(args),
        Command::Devices(args) => devices::run(args),
        Command::BenchKernels(args) => bench_kernels::run(args),
        Command::Unit(args) => unit::run(args),
        Command::Export(args) => export::run(args),
        Command::Import(args) => import::run(args),
        Command::Completions(args) => completions::run(args, Cli::command()),
    };
    #[cfg(feature = "serve")]
    terminal::finish_server_logging();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<StdoutClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            terminal::tell_error(&error);
            match error.downcast_ref::<BuilderError>() {
                Some(BuilderError::Interrupted { .. }) => ExitCode::from(STOPPED as u8),
                _ if error.is::<UsageError>() => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
