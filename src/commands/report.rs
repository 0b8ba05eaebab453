//! `kiln report`: the report of a run folder, written again.

use std::path::PathBuf;

use super::print;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  kiln report kiln-runs/demo\n  kiln report kiln-runs/demo --out shared/report.html"
)]
pub struct Args {
    /// The run folder
    dir: PathBuf,
    /// The page to write [default: DIR/report.html]; pictures go into charts/ beside it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let data = kiln_eval::load(&args.dir)?;
    let out = args.out.unwrap_or_else(|| args.dir.join("report.html"));
    let charts = out.with_file_name("charts");
    let files = kiln_reports::write_report(&data, &out, Some(&charts))?;
    print(&format!("report: {}\ncharts: {}", files.html.display(), charts.display()))
}
