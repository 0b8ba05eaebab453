//! `kiln export`: a run in the format of another benchmark, or as a table.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use kiln_datasets::Dataset;
use kiln_eval::interchange::{self, Format, ann_benchmarks, cuvs};
use kiln_eval::record::DatasetRecord;

use super::{UsageError, cache_dir, print};

const EXAMPLES: &str = "\
Examples:
  kiln export runs/sift --format csv --out sift.csv
  kiln export runs/sift --format parquet --out sift.parquet
  kiln export runs/sift --format ann-benchmarks --out ../ann-benchmarks
  kiln export runs/sift --format cuvs-bench --out datasets

csv and parquet hold a row for every setting, failed ones too, and an empty cell where a figure does not apply.
ann-benchmarks files hold answers, which a run folder does not keep: the run's indexes answer once more, and must answer
as they did. They appear as OUT/results/DATASET/K/ALGO/*.hdf5; settings of several threads have no place in that format, and
those of peers are left out, for their indexes are gone.
cuvs-bench files appear as OUT/DATASET/result/search/*.json, with CSV beside.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The run folder
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// What to write
    #[arg(long, value_enum)]
    format: FormatArg,
    /// The file to write, for csv and parquet; else the folder to write below
    #[arg(long, value_name = "DIR|FILE")]
    out: PathBuf,
    /// ann-benchmarks: the run's data set [default: where the run read it]
    #[arg(long, value_name = "FILE|NAME")]
    dataset: Option<String>,
}

/// Formats by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// Result files of ann-benchmarks (HDF5), with every answer
    AnnBenchmarks,
    /// Result files of cuvs-bench (JSON as Google Benchmark writes it, and CSV)
    CuvsBench,
    /// One row a setting
    Csv,
    /// The same rows
    Parquet,
}

impl From<FormatArg> for Format {
    fn from(arg: FormatArg) -> Self {
        match arg {
            FormatArg::AnnBenchmarks => Self::AnnBenchmarks,
            FormatArg::CuvsBench => Self::CuvsBench,
            FormatArg::Csv => Self::Csv,
            FormatArg::Parquet => Self::Parquet,
        }
    }
}

pub fn run(args: Args) -> anyhow::Result<()> {
    if args.dataset.is_some() && args.format != FormatArg::AnnBenchmarks {
        return Err(
            UsageError("--dataset: only --format ann-benchmarks needs the data set; leave it out".into()).into()
        );
    }
    let is_table = matches!(args.format, FormatArg::Csv | FormatArg::Parquet);
    if is_table && args.out.is_dir() {
        return Err(UsageError(format!(
            "--out {}: it is a folder, and one file is written; name it",
            args.out.display()
        ))
        .into());
    }
    if !is_table && args.out.is_file() {
        return Err(UsageError(format!(
            "--out {}: it is a file, and several are written; name a folder",
            args.out.display()
        ))
        .into());
    }
    let data = kiln_eval::load(&args.run)?;
    match args.format {
        FormatArg::Csv | FormatArg::Parquet => {
            let rows = interchange::export_table(&args.run, &data, args.format.into(), &args.out)?;
            print(&format!("{}: {rows} rows", args.out.display()))
        }
        FormatArg::CuvsBench => {
            let files = cuvs::export(&args.run, &data, &args.out)?;
            print(&lines(&files))
        }
        FormatArg::AnnBenchmarks => {
            let dataset = dataset(args.dataset.as_deref(), &data.header.dataset)?;
            let exported = ann_benchmarks::export(&args.run, &data, &dataset, &args.out)?;
            for (why, count) in &exported.left_out {
                tracing::info!("{count} settings are left out: {why}");
            }
            print(&lines(&exported.files))
        }
    }
}

fn lines(files: &[PathBuf]) -> String {
    files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n")
}

/// The run's data set: as given, else where its record says; the demo is in the program.
fn dataset(given: Option<&str>, record: &DatasetRecord) -> anyhow::Result<Dataset> {
    if let Some(given) = given {
        return Ok(Dataset::open(given, &cache_dir())?);
    }
    let demo = Dataset::embedded_demo()?;
    if demo.fingerprint == record.fingerprint {
        return Ok(demo);
    }
    if Path::new(&record.path).exists() || record.path.starts_with("synth:") {
        return Ok(Dataset::open(&record.path, &cache_dir())?);
    }
    Err(UsageError(format!("{}: the run's data set is not there any more; name it with --dataset", record.path)).into())
}
