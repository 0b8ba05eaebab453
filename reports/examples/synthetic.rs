//! Draws the report of a synthetic run: `cargo run -p kiln-reports --example synthetic -- FOLDER [WHAT]`, where WHAT is
//! INDEXES, INDEXESxSETTINGS, eventful, batch, device, drive, imported or everything.

#[path = "../src/fixture.rs"]
mod fixture;

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("usage: synthetic FOLDER [WHAT]; its source says what")?);
    let data = match args.next().as_deref() {
        None => fixture::run(),
        Some("eventful") => fixture::eventful(),
        Some("batch") => fixture::with_batches(),
        Some("device") => fixture::on_device(),
        Some("drive") => fixture::on_drive(),
        Some("imported") => fixture::imported(),
        Some("everything") => fixture::everything(),
        Some(size) => match size.split_once('x') {
            Some((indexes, settings)) => fixture::grid(indexes.parse()?, settings.parse()?),
            None => fixture::indexes(size.parse()?),
        },
    };
    let files = kiln_reports::write_report(&data, &folder.join("report.html"), Some(&folder))?;
    println!("{}", files.html.display());
    for chart in files.charts {
        println!("{}", chart.display());
    }
    Ok(())
}
