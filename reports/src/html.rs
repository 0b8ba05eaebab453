//! The page.
//!
//! In: a [`Model`] and its sections. Out: one HTML file with everything inside: style, script, font, charts as SVG and as
//! JSON for the script, and the figures themselves to download. The template escapes every text; only SVG, CSS, JSON,
//! base64 and links to charts, made here, pass as they are. A content security policy lets the page's own script run and nothing be loaded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kiln_eval::metrics::{self, Better, METRICS};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::chart_json::ChartJson;
use crate::charts::{LEAST_STAGES, Section, stage_names};
use crate::error::ReportError;
use crate::model::Model;
use crate::plot::{Figure, LegendItem};
use crate::{draw, font, format, paint, summary, told, verdict};

const TEMPLATE: &str = include_str!("../templates/report.html");
const STYLE: &str = include_str!("../templates/report.css");
/// One function, so that its parts share names and the page's other scripts, of which there are none, would not.
const SCRIPT: &str = concat!(
    "(() => {\n'use strict';\n",
    include_str!("../templates/page.js"),
    include_str!("../templates/scales.js"),
    include_str!("../templates/draw.js"),
    include_str!("../templates/chart.js"),
    include_str!("../templates/threshold.js"),
    include_str!("../templates/state.js"),
    "})();\n"
);

/// The whole page. `pictures` is where the charts' own files lie, seen from the page, with a slash at its end; `None`
/// where there are none.
pub fn page(model: &Model, sections: &[Section], pictures: Option<&str>) -> Result<String, ReportError> {
    let header = &model.data.header;
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_template("report.html", TEMPLATE)?;
    let mut shown = Vec::new();
    let mut charts = ChartJson::new(model);
    for section in sections {
        let figures: Result<Vec<Value>, ReportError> =
            section.figures.iter().map(|shown| figure(shown, pictures, &mut charts)).collect();
        shown.push(context! {
            id => section.id.as_str(),
            title => section.title.as_str(),
            intro => section.intro.as_str(),
            figures => figures?,
            tables => section.tables.iter().map(|(title, table)| context! { title, table => Serde(table) }).collect::<Vec<_>>(),
        });
    }
    let chart_css = paint::chart_css(model.coloured().len(), stage_names(model).len().max(LEAST_STAGES));
    let method: Vec<Value> = METRICS
        .iter()
        .map(|metric| {
            let better = match metric.better {
                Better::Higher => "higher",
                Better::Lower => "lower",
            };
            context! { name => metric.name, description => metric.description, unit => metric.unit, better }
        })
        .collect();
    let swatches: Result<Vec<String>, _> = (model.series.iter().enumerate())
        .map(|(series, s)| draw::swatch_svg(&LegendItem::Series { series, name: s.name.clone() }))
        .collect();
    let swatches = swatches.map_err(|e| ReportError::Chart { id: "legend".into(), reason: e.to_string() })?;
    let page = environment.get_template("report.html")?.render(context! {
        dataset => header.dataset.name.as_str(),
        created => header.created.as_str(),
        command => header.command.as_str(),
        cpu => header.machine.cpu.as_str(),
        version => header.machine.kiln_version.as_str(),
        size => format!(
            "{} vectors of {} dimensions ({}, {}), {}, k = {}",
            format::number(header.dataset.rows as f64), header.dataset.dim, header.dataset.dtype,
            header.dataset.metric, format::count(header.dataset.queries, "query", "queries"), header.k
        ),
        verdict => verdict::verdict(model),
        notes => verdict::notes(model),
        levels => Serde(summary::level_tables(model)),
        told => told_tables(model),
        series => model.coloured().into_iter().map(Value::from).collect::<Vec<Value>>(),
        swatches,
        on_drive => model.series.iter().any(|s| s.io_state.is_some()),
        sections => shown,
        failures => Serde(summary::failures(model)),
        searched => !model.data.settings.is_empty(),
        held_out => Serde(summary::held_out(model)),
        held_out_share => header.held_out.map(|held| format!("{:.0}%", 100.0 * held.fraction)),
        noise => Serde(summary::noise(header)),
        charts => charts.text()?,
        policy => policy(),
        indexes => Serde(summary::indexes(model)),
        provenance => Serde(summary::provenance(header)),
        method,
        resamples => format::number(kiln_eval::stats::BOOTSTRAP_RESAMPLES as f64),
        data_uri => data_uri(model)?,
        file_stem => file_stem(&header.dataset.name),
        style => format!("{}{STYLE}{chart_css}", font::font_face_css()),
        script => SCRIPT,
    })?;
    Ok(page)
}

/// For each mode that has any: its name, and which of its differences are told.
fn told_tables(model: &Model) -> Vec<Value> {
    let tables = model.modes.iter().map(|mode| (mode.mode.name(), told::table(model, mode)));
    tables
        .filter(|(_, table)| !table.rows.is_empty())
        .map(|(mode, table)| context! { mode, table => Serde(table) })
        .collect()
}

/// The one inline script may run; nothing else, and nothing is fetched, whatever the records hold.
fn policy() -> String {
    let hash = STANDARD.encode(Sha256::digest(SCRIPT));
    format!(
        "default-src 'none'; script-src 'sha256-{hash}'; style-src 'unsafe-inline'; font-src data:; img-src data:; \
         base-uri 'none'; form-action 'none'"
    )
}

/// A figure for the template; it joins `charts` too.
fn figure(figure: &Figure, pictures: Option<&str>, charts: &mut ChartJson) -> Result<Value, ReportError> {
    let refused = |e: draw::DrawError| ReportError::Chart { id: figure.id.clone(), reason: e.to_string() };
    let mut views = Vec::new();
    let mut frames = Vec::new();
    for (name, plot) in figure.plots() {
        let label = if name.is_empty() { figure.title.clone() } else { format!("{} ({name})", figure.title) };
        let (svg, drawn) = draw::page_svg(&plot, &format!("{label}. {}", figure.caption)).map_err(refused)?;
        views.push(context! { name, svg });
        frames.push(drawn);
    }
    charts.add(figure, &frames);
    let mut legend = Vec::new();
    for item in &figure.legend {
        let swatch = draw::swatch_svg(item).map_err(refused)?;
        legend.push(match item {
            LegendItem::Series { series, name } => context! { swatch, name, series },
            LegendItem::Swatch { name, .. } | LegendItem::Guide { name, .. } => context! { swatch, name },
        });
    }
    let files: Vec<String> =
        pictures.map_or_else(Vec::new, |at| ["png", "svg"].map(|kind| format!("{at}{}.{kind}", figure.id)).into());
    Ok(context! {
        id => figure.id.as_str(),
        title => figure.title.as_str(),
        caption => figure.caption.as_str(),
        views,
        legend,
        files,
        table => Serde(&figure.table),
    })
}

/// The derived figures as JSON, for the download link.
fn data_uri(model: &Model) -> Result<String, ReportError> {
    let data = model.data;
    let header = &data.header;
    let mut dataset = serde_json::to_value(&header.dataset)?;
    if let Some(fields) = dataset.as_object_mut() {
        // A figure for every query: it stays in the run folder.
        fields.remove("query_lid");
    }
    let searches: Vec<_> = (data.settings.iter())
        .filter_map(|s| metrics::search_row(s, data.builds.iter().find(|b| b.key == s.build_key)?))
        .collect();
    let builds: Vec<_> = data.builds.iter().map(|b| metrics::build_row(b, &header.dataset)).collect();
    let failures: Vec<_> = (model.skipped.iter())
        .map(|s| json!({ "index": s.name, "params": s.setting.params, "mode": s.setting.mode.name(), "why": s.reason }))
        .collect();
    let figures = serde_json::to_vec(&json!({
        "created": header.created,
        "command": header.command,
        "machine": header.machine,
        "drive_ceiling": header.drive_ceiling,
        "noise": header.noise,
        "held_out": header.held_out,
        "choices": kiln_eval::held_out::choices(data),
        "peer_overhead": header.peer_overhead,
        "dataset": dataset,
        "k": header.k,
        "quick": header.quick,
        "builds": builds,
        "searches": searches,
        "failures": failures,
        "peers": data.peers,
        "loads": data.loads,
    }))?;
    Ok(format!("data:application/json;base64,{}", STANDARD.encode(figures)))
}

/// A file name from a data set's: letters, digits, dashes and underscores.
fn file_stem(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' }).collect()
}
