//! Charts, one self-contained HTML report, and PNG pictures of a run.
//!
//! In: [`RunData`], the records of a run. Out: an HTML file that works offline and without scripts, and the main
//! charts as PNG files. The way of a figure through this crate:
//!
//! | module | what |
//! |---|---|
//! | `model` | names series, finds frontiers, keeps what failed |
//! | `charts`, `verdict`, `summary` | say what to show: `plot::Figure`s, sentences, tables |
//! | `draw`, `svg`, `paint`, `axis`, `font` | draw a figure as SVG, through plotters |
//! | `html`, `png` | the page around it, the picture of it |
//! | `comparison` | two runs against each other, as text and as Markdown |

mod axis;
mod charts;
mod comparison;
mod draw;
mod error;
#[cfg(test)]
mod fixture;
mod font;
mod format;
mod html;
mod model;
mod paint;
mod plot;
mod png;
mod summary;
mod svg;
mod table;
mod verdict;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

pub use comparison::{comparison_markdown, comparison_text};
pub use error::ReportError;
use kiln_eval::record::RunData;
use model::Model;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportFiles {
    /// The page.
    pub html: PathBuf,
    /// The pictures, in the order of the page.
    pub charts: Vec<PathBuf>,
}

/// Writes the report of a run to `html`, and its main charts as PNG files into `charts_dir` if one is given; folders
/// are made as needed. Each file appears whole or not at all.
pub fn write_report(data: &RunData, html: &Path, charts_dir: Option<&Path>) -> Result<ReportFiles, ReportError> {
    let model = Model::new(data);
    let sections = charts::sections(&model);
    let page = html::page(&model, &sections)?;
    write_whole(html, page.as_bytes())?;
    let mut charts = Vec::new();
    if let Some(dir) = charts_dir {
        let subtitle = summary::one_line(&data.header);
        for figure in sections.iter().flat_map(|s| &s.figures).filter(|f| f.picture) {
            let path = dir.join(format!("{}.png", figure.id));
            let refused = |reason| ReportError::Picture { path: path.clone(), reason };
            let Some(view) = figure.views.first() else {
                continue;
            };
            let svg = draw::picture_svg(figure, &view.plot, &subtitle).map_err(|e| refused(e.to_string()))?;
            write_whole(&path, &png::render(&svg).map_err(refused)?)?;
            charts.push(path);
        }
    }
    Ok(ReportFiles { html: html.to_path_buf(), charts })
}

/// The page alone, as a string.
pub fn report_html(data: &RunData) -> Result<String, ReportError> {
    let model = Model::new(data);
    html::page(&model, &charts::sections(&model))
}

/// Writes beside the target, then renames: a reader never sees half a file.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    let failed = |source| ReportError::Write { path: path.to_path_buf(), source };
    let name = path.file_name().ok_or_else(|| failed(std::io::ErrorKind::InvalidFilename.into()))?;
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let partial = path.with_file_name(format!(".{}.{}.partial", name.to_string_lossy(), std::process::id()));
    let written = fs::File::create(&partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, path));
    written.map_err(|source| {
        // The first error is the one to report.
        let _ = fs::remove_file(&partial);
        failed(source)
    })
}
