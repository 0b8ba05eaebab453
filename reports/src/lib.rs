//! Charts, one self-contained HTML report, and PNG pictures of a run.
//!
//! In: [`RunData`], the records of a run. Out: an HTML file that works offline and without scripts, and its charts as PNG
//! and SVG files. The way of a figure through this crate:
//!
//! | module | what |
//! |---|---|
//! | `model` | names series, finds frontiers, keeps what failed |
//! | `charts`, `verdict`, `told`, `summary`, `reproduce` | say what to show: `plot::Figure`s, sentences, tables |
//! | `draw`, `svg`, `paint`, `axis`, `font` | draw a figure as SVG, through plotters |
//! | `chart_json` | hands the same figure to the page's script, which draws it again when a reader asks |
//! | `html`, `png` | the page around it, the picture of it |
//! | `comparison` | two runs against each other, as text and as Markdown |

mod axis;
mod chart_json;
mod charts;
mod comparison;
mod draw;
mod error;
#[cfg(test)]
#[allow(dead_code, reason = "whole pages are tested in tests/")]
mod fixture;
mod font;
mod format;
mod html;
mod model;
mod paint;
mod plot;
mod png;
mod reproduce;
mod summary;
mod svg;
mod table;
mod told;
mod verdict;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

pub use comparison::{comparison_markdown, comparison_text};
pub use error::ReportError;
use kiln_eval::compare::Comparison;
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

/// Writes the report of a run to `html`, and every chart as a PNG and an SVG file into `charts_dir` if one is given, to which
/// the page then links where it lies beside or below it; folders are made as needed. Each file appears whole or not at all.
pub fn write_report(data: &RunData, html: &Path, charts_dir: Option<&Path>) -> Result<ReportFiles, ReportError> {
    write_report_against(data, None, html, charts_dir)
}

/// The same, with a section of its differences where the run was compared with a baseline.
pub fn write_report_against(
    data: &RunData,
    comparison: Option<&Comparison>,
    html: &Path,
    charts_dir: Option<&Path>,
) -> Result<ReportFiles, ReportError> {
    let model = Model::new(data);
    let sections = charts::sections(&model, comparison);
    let pictures = charts_dir.and_then(|dir| seen_from(html.parent()?, dir));
    let page = html::page(&model, &sections, pictures.as_deref())?;
    write_whole(html, page.as_bytes())?;
    let mut charts = Vec::new();
    if let Some(dir) = charts_dir {
        let subtitle = summary::one_line(&data.header);
        for figure in sections.iter().flat_map(|s| &s.figures) {
            let path = |kind: &str| dir.join(format!("{}.{kind}", figure.id));
            let refused = |reason| ReportError::Picture { path: path("png"), reason };
            let svg = draw::picture_svg(figure, &subtitle).map_err(|e| refused(e.to_string()))?;
            for (kind, bytes) in [("png", png::render(&svg).map_err(refused)?), ("svg", svg.into_bytes())] {
                write_whole(&path(kind), &bytes)?;
                charts.push(path(kind));
            }
        }
    }
    Ok(ReportFiles { html: html.to_path_buf(), charts })
}

/// The page alone, as a string.
pub fn report_html(data: &RunData) -> Result<String, ReportError> {
    let model = Model::new(data);
    html::page(&model, &charts::sections(&model, None), None)
}

/// A folder as a page in `from` links to it, with a slash at its end unless it is the page's own; `None` where it lies
/// elsewhere: a link that climbs would break when the page is moved.
fn seen_from(from: &Path, dir: &Path) -> Option<String> {
    let mut link = String::new();
    for part in dir.strip_prefix(from).ok()?.components() {
        let std::path::Component::Normal(name) = part else { return None };
        for byte in name.to_str()?.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => link.push(char::from(byte)),
                _ => link.push_str(&format!("%{byte:02X}")),
            }
        }
        link.push('/');
    }
    Some(link)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_below_the_page_are_linked() {
        let link = |from: &str, dir: &str| seen_from(Path::new(from), Path::new(dir));
        assert_eq!(link("", "charts").as_deref(), Some("charts/"));
        assert_eq!(link("run", "run").as_deref(), Some(""));
        assert_eq!(link("/a/run", "/a/run/größe 1/x").as_deref(), Some("gr%C3%B6%C3%9Fe%201/x/"));
        assert_eq!((link("/a/run", "/a/charts"), link("run", "run/../x")), (None, None));
    }
}
