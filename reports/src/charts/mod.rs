//! The charts of a report.
//!
//! In: a [`Model`]. Out: [`Section`]s of [`Figure`]s in reading order; a chart that the run has no figures for is left
//! out.

mod build;
mod difference;
mod drive;
mod load;
mod memory;
mod quality;
mod recall;
mod threads;

use kiln_eval::compare::Comparison;

use crate::model::{Model, Point};
use crate::plot::{Figure, LegendItem, Tip};
use crate::reproduce;
use crate::table::Table;
use crate::{format, paint::Role};

/// Figures under one heading.
pub struct Section {
    /// Anchor on the page.
    pub id: String,
    /// Heading.
    pub title: String,
    /// A sentence before the figures.
    pub intro: String,
    /// The figures.
    pub figures: Vec<Figure>,
    /// Shown after the figures, each under its title, which may be empty: what no figure can show.
    pub tables: Vec<(String, Table)>,
}

/// Every section with something to show; `comparison` is of this run with a baseline.
pub fn sections(model: &Model, comparison: Option<&Comparison>) -> Vec<Section> {
    let mut sections: Vec<Section> = comparison.map(difference::section).into_iter().collect();
    sections.push(Section {
        id: "memory".into(),
        title: "Serving memory".into(),
        intro: "One file on the drive, served with more and less memory.".into(),
        figures: memory::figures(model),
        tables: Vec::new(),
    });
    for mode in &model.modes {
        let name = mode.mode.name();
        let figures = recall::figures(model, mode);
        let tables = match figures.is_empty() {
            true => vec![(String::new(), recall::settings_table(model, mode))],
            false => Vec::new(),
        };
        sections.push(Section {
            id: format!("mode-{name}"),
            title: format!("Search: {name}"),
            intro: format!("Measured as {}. Figures of different modes are never drawn on one chart.", mode.words()),
            figures,
            tables,
        });
    }
    sections.push(Section {
        id: "drive".into(),
        title: "Cold and warm".into(),
        intro: String::new(),
        figures: drive::figures(model),
        tables: Vec::new(),
    });
    sections.push(Section {
        id: "load".into(),
        title: "Load".into(),
        intro: String::new(),
        figures: load::figure(model).into_iter().collect(),
        tables: Vec::new(),
    });
    sections.push(Section {
        id: "threads".into(),
        title: "Threads".into(),
        intro: String::new(),
        figures: threads::figure(model).into_iter().collect(),
        tables: Vec::new(),
    });
    sections.push(Section {
        id: "quality".into(),
        title: "Quality by query".into(),
        intro: "A mean hides the queries that fail. Each index is shown at one setting: the least accurate on its \
                frontier that reaches recall .95, or else its most accurate."
            .into(),
        figures: quality::figures(model),
        tables: Vec::new(),
    });
    sections.push(Section {
        id: "build".into(),
        title: "Build".into(),
        intro: String::new(),
        figures: build::figures(model),
        tables: Vec::new(),
    });
    sections.retain(|section| !section.figures.is_empty() || !section.tables.is_empty());
    sections
}

pub use difference::STAGES as LEAST_STAGES;

/// Stages of all builds, in order of first appearance: the index of a stage is its colour.
pub fn stage_names<'a>(model: &Model<'a>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in model.data.builds.iter().flat_map(|b| &b.stage_seconds) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

fn series_legend(model: &Model, series: impl IntoIterator<Item = usize>) -> Vec<LegendItem> {
    (series.into_iter()).map(|series| LegendItem::Series { series, name: model.series[series].name.clone() }).collect()
}

fn stage_legend(names: &[&str]) -> Vec<LegendItem> {
    (names.iter().enumerate())
        .map(|(i, name)| LegendItem::Swatch { role: Role::stage(i), name: name.to_string() })
        .collect()
}

/// What hovering over a setting shows: its figures and its parameters; a click copies what measures it again.
fn tip(model: &Model, series: usize, point: &Point) -> Tip {
    let mut lines = vec![model.series[series].name.clone()];
    if let Some(recall) = point.recall {
        lines.push(format!("recall {}", format::recall(recall)));
    }
    let ends = format::ends(point.qps);
    let ends = if ends.is_empty() { ends } else { format!(" [{ends}]") };
    lines.push(format!("{} queries/s{ends}", format::number(point.qps.median)));
    if let Some(latency) = point.latency {
        lines.push(format!("p50 {}, p99 {}", format::micros(latency.p50), format::micros(latency.p99)));
    }
    if let Some(pages) = point.pages {
        let wait = kiln_eval::metrics::io_wait_per_query(point.setting);
        let wait = wait.map_or_else(String::new, |us| format!(", {} of waiting", format::micros(us)));
        lines.push(format!("{} pages a query{wait}", format::number(pages)));
    }
    if !point.setting.warmup.settled {
        lines.push("⚠ warm-up did not settle".into());
    }
    lines.push(format::params(&point.setting.params));
    let copy = reproduce::copy_of(model.data, model.series[series].build, point.setting);
    Tip { text: lines.join("\n"), copy }
}
