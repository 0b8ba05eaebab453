//! Draws the report of a synthetic run: `cargo run -p kiln-reports --example synthetic -- FOLDER [INDEXES|eventful|batch|drive|imported]`.

#[path = "../src/fixture.rs"]
mod fixture;

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("usage: synthetic FOLDER [INDEXES|eventful|batch|drive|imported]")?);
    let data = match args.next().as_deref() {
        None => fixture::run(),
        Some("eventful") => fixture::eventful(),
        Some("batch") => fixture::with_batches(),
        Some("drive") => fixture::on_drive(),
        Some("imported") => fixture::imported(),
        Some(indexes) => fixture::indexes(indexes.parse()?),
    };
    let files = kiln_reports::write_report(&data, &folder.join("report.html"), Some(&folder))?;
    println!("{}", files.html.display());
    for chart in files.charts {
        println!("{}", chart.display());
    }
    Ok(())
}
