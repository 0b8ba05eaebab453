//! `kiln report`: the report of a run folder, written again, and opened.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use kiln_eval::compare::{Sides, compare, read_side};

use super::print;

/// Recall levels at which the run is compared with a baseline.
const LEVELS: [f64; 3] = [0.90, 0.95, 0.99];

/// How long a program that opens the page may take to fail. One that still runs after that is taken for the browser.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  kiln report kiln-runs/demo --open\n  kiln report kiln-runs/demo --out \
                        shared/report.html\n  kiln report kiln-runs/after --against kiln-runs/before")]
pub struct Args {
    /// The run folder
    dir: PathBuf,
    /// The page to write [default: DIR/report.html]; its charts go into charts/ beside it, as PNG and SVG
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A baseline: a run folder, or a folder that holds several; the page shows the differences to it
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Open the page in the default browser
    #[arg(long)]
    open: bool,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let data = kiln_eval::load(&args.dir)?;
    let comparison = match &args.against {
        None => None,
        Some(baseline) => {
            let (a, b) = (read_side(baseline)?, read_side(&args.dir)?);
            Some(compare(&Sides { a: (baseline, &a), b: (&args.dir, &b), noise: None }, &LEVELS)?)
        }
    };
    let out = args.out.unwrap_or_else(|| args.dir.join("report.html"));
    let charts = out.with_file_name("charts");
    let files = kiln_reports::write_report_against(&data, comparison.as_ref(), &out, Some(&charts))?;
    print(&format!("report: {}\ncharts: {}", files.html.display(), charts.display()))?;
    if args.open { open(&files.html) } else { Ok(()) }
}

/// Opens a page with whatever this system opens pages with.
///
/// # Errors
/// Where nothing here does.
pub fn open(page: &Path) -> anyhow::Result<()> {
    // A name that begins with a dash would be taken for an option.
    let page = std::path::absolute(page)?;
    let mut tried = Vec::new();
    for mut command in open::commands(&page) {
        let name = command.get_program().to_string_lossy().into_owned();
        match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Err(error) => tried.push(format!("{name}: {error}")),
            Ok(mut child) => match waited(&mut child)? {
                Some(status) if !status.success() => tried.push(format!("{name}: {status}")),
                _ => return Ok(()),
            },
        }
    }
    anyhow::bail!(
        "cannot open {}: nothing here opens pages ({}); open the file in a browser by hand",
        page.display(),
        if tried.is_empty() { "this system is not known".into() } else { tried.join("; ") }
    )
}

/// How a program ended, or `None` where it still runs.
fn waited(child: &mut std::process::Child) -> std::io::Result<Option<std::process::ExitStatus>> {
    let until = Instant::now() + PATIENCE;
    loop {
        match child.try_wait()? {
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            ended => return Ok(ended),
        }
    }
}
