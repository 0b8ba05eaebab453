//! `kiln import`: results of other benchmarks, or of Kiln on other machines, into a run folder.

use std::path::PathBuf;

use kiln_datasets::Dataset;
use kiln_eval::interchange;

use super::export::FormatArg;
use super::{command_line, open_dataset, print};

const EXAMPLES: &str = "\
Examples:
  kiln import results/sift-128-euclidean/10/hnswlib --dataset sift-128-euclidean.hdf5 --out runs/hnswlib
  kiln import gpu-machine.csv --out runs/sift
  kiln import sift/result/search/cuvs_cagra,base,k10,bs10000.json --out runs/cagra

What is imported was measured elsewhere: reports mark it, and neither rank nor test it against what was measured here.
Answers of ann-benchmarks files are judged anew on the data set's own rows where --dataset names it.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Result files; of a folder, all below it
    #[arg(value_name = "FILE|DIR", required = true)]
    files: Vec<PathBuf>,
    /// What all of them are [default: as their names, and the first line of a CSV, tell]
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    /// ann-benchmarks: the data set, on whose rows the answers are judged
    #[arg(long, value_name = "FILE|NAME")]
    dataset: Option<String>,
    /// The run folder: a new one, or one of the same data set and k
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let dataset: Option<Dataset> = args.dataset.as_deref().map(open_dataset).transpose()?;
    let format = args.format.map(Into::into);
    let report = interchange::import(&args.files, format, dataset.as_ref(), &args.out, &command_line())?;
    let known = match report.known {
        0 => String::new(),
        known => format!(", {known} were there already"),
    };
    let count = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    let (settings, files) = (count(report.added, "setting"), count(report.files, "file"));
    print(&format!("{}: {settings} of {files} imported{known}", args.out.display()))
}
