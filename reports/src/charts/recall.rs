//! Charts against recall: throughput, tail latency, pages read.
//!
//! In: one mode of a [`Model`]. Out: figures in which all points are faint, the Pareto frontier is solid, and intervals
//! are whiskers; recall is linear or logit on a toggle.

use kiln_eval::metrics;
use kiln_eval::record::IoState;
use kiln_eval::stats::Latency;

use super::{series_legend, tip};
use crate::axis::{Axis, LOGIT_CEILING, Scale, Unit};
use crate::format;
use crate::model::{Curve, ModeView, Model, Point};
use crate::paint::Dash;
use crate::plot::{Axes, Figure, LegendItem, Mark, Panel, Plot};
use crate::table::{Cell, Table};

/// One figure against recall.
struct Against {
    id: &'static str,
    title: &'static str,
    /// Where good is, in the caption.
    direction: &'static str,
    axis_title: &'static str,
    value: fn(&Point) -> Option<f64>,
    whisker: fn(&Point) -> Option<(f64, f64)>,
    /// True when less is better.
    lower_is_better: bool,
    scale: Scale,
    unit: Unit,
    table: fn(&Model, &ModeView) -> Table,
}

const QPS: Against = Against {
    id: "recall-qps",
    title: "Recall and throughput",
    direction: "Up and to the right is better; whiskers are 95% bootstrap intervals of the median over runs",
    axis_title: "queries per second",
    value: |p| Some(p.qps.median),
    whisker: |p| Some((p.qps.lo, p.qps.hi)),
    lower_is_better: false,
    scale: Scale::Log,
    unit: Unit::Compact,
    table: settings_table,
};

const P99: Against = Against {
    id: "recall-p99",
    title: "Recall and tail latency",
    direction: "Down and to the right is better; p99 is read from the merged histogram of the runs that keep times, 20 at most",
    axis_title: "p99 latency",
    value: |p| Some(p.latency?.p99),
    whisker: |_| None,
    lower_is_better: true,
    scale: Scale::Log,
    unit: Unit::Micros,
    table: latency_table,
};

const PAGES: Against = Against {
    id: "recall-pages",
    title: "Recall and pages read",
    direction: "Down and to the right is better; a page is 4 KiB; indexes served from memory read none and are not shown",
    axis_title: "pages per query",
    value: |p| p.pages,
    whisker: |_| None,
    lower_is_better: true,
    scale: Scale::Linear,
    unit: Unit::Plain,
    table: drive_table,
};

/// The figures of one mode.
pub fn figures(model: &Model, mode: &ModeView) -> Vec<Figure> {
    [QPS, P99, PAGES].iter().filter_map(|against| figure(model, mode, against)).collect()
}

fn figure(model: &Model, mode: &ModeView, against: &Against) -> Option<Figure> {
    let shown: Vec<(f64, &Point)> = (mode.curves.iter().flat_map(|c| &c.points))
        .filter(|p| (against.value)(p).is_some())
        .filter_map(|p| Some((p.recall?, p)))
        .collect();
    let recalls = shown.iter().map(|(recall, _)| *recall);
    let ceilings = if against.id == QPS.id { ceilings(model, mode) } else { Vec::new() };
    let values = shown.iter().flat_map(|(_, p)| {
        let ends = (against.whisker)(p).map(|(lo, hi)| [lo, hi]);
        (against.value)(p).into_iter().chain(ends.into_iter().flatten())
    });
    let values = values.chain(ceilings.iter().flatten().map(|(_, rate)| *rate));
    let linear = Axis::recall("recall (strict)", recalls.clone());
    let logit = Axis::logit_recall("recall (strict), logit scale", recalls.clone());
    let y = |scale| match scale {
        Scale::Log => Axis::log(against.axis_title, values.clone(), against.unit),
        _ => Axis::from_zero(against.axis_title, values.clone(), against.unit),
    };
    let axes = |name, x: &Axis, y: Axis| Axes { name, x: x.clone(), y };
    let mut choices =
        vec![axes("linear recall", &linear, y(against.scale)), axes("logit recall", &logit, y(against.scale))];
    if !against.lower_is_better {
        choices.push(axes("linear both", &linear, y(Scale::Linear)));
    }
    let guides = ceilings.iter().map(|line| Mark::Guide { series: None, points: line.clone(), dash: Dash::Dashed });
    let panel = Panel {
        title: String::new(),
        x: linear.clone(),
        y: y(against.scale),
        grid: (true, true),
        marks: guides.chain(marks(model, mode, against)).collect(),
    };
    let mut caption = format!(
        "Every setting is a point; solid ones form the Pareto frontier, which the line joins. {}.",
        against.direction
    );
    if recalls.clone().any(|recall| recall > LOGIT_CEILING) {
        caption.push_str(&format!(
            " On the logit scale, recall above {} is drawn there, since the logit of 1 is infinite.",
            format::recall_tick(LOGIT_CEILING)
        ));
    }
    let mut ceiling_legend = None;
    if let Some(ceiling) = model.data.header.drive_ceiling.as_ref().filter(|_| !ceilings.is_empty()) {
        let name = "the drive's ceiling over pages a query".to_string();
        ceiling_legend = Some(LegendItem::Guide { dash: Dash::Dashed, name });
        caption.push_str(&format!(
            " Dashed: {} random reads of 4 KiB a second, all that the drive gave ({}, depth {}), divided by the pages \
             that a query reads.",
            format::number(ceiling.reads_per_second),
            ceiling.tool,
            ceiling.depth
        ));
    }
    let drawn =
        mode.curves.iter().filter(|c| c.points.iter().any(|p| p.recall.is_some() && (against.value)(p).is_some()));
    Figure {
        id: format!("{}-{}", against.id, mode.mode.name()),
        title: format!("{}, {}", against.title, mode.mode.name()),
        caption,
        plot: Plot { threshold: true, ..Plot::single(panel) },
        choices,
        legend: series_legend(model, drawn.map(|c| c.series)).into_iter().chain(ceiling_legend).collect(),
        table: (against.table)(model, mode),
    }
    .if_drawn()
}

/// More lines than this below a ceiling each would hide what they are about; the figures by memory show them all.
const MOST_CEILINGS: usize = 3;

/// For each series whose every page comes from the drive, the rate at which the drive would be at its ceiling.
fn ceilings(model: &Model, mode: &ModeView) -> Vec<Vec<(f64, f64)>> {
    let Some(ceiling) = &model.data.header.drive_ceiling else { return Vec::new() };
    let direct = |curve: &&Curve| model.series[curve.series].io_state == Some(IoState::Direct);
    let line = |curve: &Curve| {
        let points = curve.frontier.iter().map(|&i| &curve.points[i]);
        let rates = points.filter_map(|p| Some((p.recall?, ceiling.reads_per_second / p.pages.filter(|p| *p > 0.0)?)));
        rates.collect::<Vec<_>>()
    };
    let lines: Vec<_> = mode.curves.iter().filter(direct).map(line).filter(|line| line.len() > 1).collect();
    if lines.len() > MOST_CEILINGS { Vec::new() } else { lines }
}

fn marks(model: &Model, mode: &ModeView, against: &Against) -> Vec<Mark> {
    let mut faint = Vec::new();
    let mut lines = Vec::new();
    let mut solid = Vec::new();
    for curve in &mode.curves {
        let sign = if against.lower_is_better { -1.0 } else { 1.0 };
        let frontier = curve.frontier_by(|p| (against.value)(p).map(|v| sign * v));
        let place = |p: &Point| Some((p.recall?, (against.value)(p)?));
        let corners: Vec<(f64, f64)> = frontier.iter().filter_map(|&i| place(&curve.points[i])).collect();
        if corners.len() > 1 {
            lines.push(Mark::Line { series: curve.series, points: corners });
        }
        for (i, point) in curve.points.iter().enumerate() {
            let Some(at) = place(point) else { continue };
            let on_frontier = frontier.contains(&i);
            let mark = Mark::Point {
                series: curve.series,
                at,
                whisker: (against.whisker)(point),
                faint: !on_frontier,
                tip: tip(model, curve.series, point),
            };
            if on_frontier { solid.push(mark) } else { faint.push(mark) }
        }
    }
    faint.into_iter().chain(lines).chain(solid).collect()
}

/// Everything known of every setting of a mode. A mode that times no single query has no columns for latency.
pub fn settings_table(model: &Model, mode: &ModeView) -> Table {
    let timed = mode.has_latency();
    let mut columns = vec!["Index", "Parameters", "Recall", "By ids", "ann-bench.", "QPS"];
    if timed {
        columns.extend(["Mean", "p50", "p95", "p99"]);
    }
    columns.extend(["Distances", "Hops", "Runs", "Warm-up"]);
    let mut table = Table::new(&columns);
    for curve in &mode.curves {
        for (i, point) in curve.points.iter().enumerate() {
            use kiln_eval::metrics::{distances_per_query, hops_per_query, recall_ann_benchmarks, recall_ids};
            let setting = point.setting;
            let frontier = if curve.frontier.contains(&i) { "frontier" } else { "" };
            let settled = if setting.warmup.settled { "" } else { "⚠ did not settle" };
            let mut row: Vec<Cell> = vec![
                (model.series[curve.series].name.clone(), frontier.to_string()).into(),
                format::params(&setting.params).into(),
                format::maybe(point.recall, format::recall).into(),
                format::maybe(recall_ids(setting), format::recall).into(),
                format::maybe(recall_ann_benchmarks(setting), format::recall).into(),
                (format::number(point.qps.median), format::ends(point.qps)).into(),
            ];
            if timed {
                row.extend(latencies(point, &[|l| l.mean, |l| l.p50, |l| l.p95, |l| l.p99]).map(Cell::from));
            }
            row.extend([
                format::maybe(distances_per_query(setting), format::number).into(),
                format::maybe(hops_per_query(setting), format::number).into(),
                setting.runs.len().to_string().into(),
                (format::seconds(setting.warmup.seconds), settled.to_string()).into(),
            ]);
            table.row(row);
        }
    }
    table
}

/// Figures of a point's latency, as a table shows them.
fn latencies<'a>(point: &'a Point, of: &'a [fn(&Latency) -> f64]) -> impl Iterator<Item = String> + 'a {
    of.iter().map(|figure| format::maybe(point.latency.as_ref().map(figure), format::micros))
}

/// What every setting asked of the drive.
fn drive_table(model: &Model, mode: &ModeView) -> Table {
    let mut table = Table::new(&[
        "Index",
        "Parameters",
        "Recall",
        "Pages",
        "Bytes",
        "By the kernel",
        "Hops",
        "Cache hits",
        "I/O wait",
        "Passes",
    ]);
    for curve in &mode.curves {
        let series = &model.series[curve.series];
        for point in curve.points.iter().filter(|point| point.pages.is_some()) {
            let setting = point.setting;
            let warm = metrics::passes_begun_warm(setting, series.build.index_bytes);
            let flag = if warm > 0 { format!("⚠ {warm} did not begin cold") } else { String::new() };
            table.row::<Cell>([
                series.name.clone().into(),
                format::params(&setting.params).into(),
                format::maybe(point.recall, format::recall).into(),
                format::maybe(point.pages, format::number).into(),
                format::maybe(metrics::bytes_per_query(setting), format::bytes).into(),
                format::maybe(metrics::kernel_bytes_per_query(setting), format::bytes).into(),
                format::maybe(metrics::hops_per_query(setting), format::number).into(),
                format::maybe(metrics::cache_hits_per_query(setting), format::number).into(),
                format::maybe(metrics::io_wait_per_query(setting), format::micros).into(),
                (setting.runs.len().to_string(), flag).into(),
            ]);
        }
    }
    table
}

fn latency_table(model: &Model, mode: &ModeView) -> Table {
    let timed = mode.has_latency();
    let mut columns = vec!["Index", "Parameters", "Recall"];
    if timed {
        columns.extend(["p50", "p95", "p99", "p99.9", "Samples"]);
    }
    columns.extend(["Pages", "Bytes"]);
    let mut table = Table::new(&columns);
    for curve in &mode.curves {
        for point in &curve.points {
            let bytes = kiln_eval::metrics::bytes_per_query(point.setting);
            let mut row = vec![
                model.series[curve.series].name.clone(),
                format::params(&point.setting.params),
                format::maybe(point.recall, format::recall),
            ];
            if timed {
                row.extend(latencies(point, &[|l| l.p50, |l| l.p95, |l| l.p99]));
                row.push(format::maybe(point.latency.and_then(|l| l.p999), format::micros));
                row.push(format::maybe(point.latency.map(|l| l.samples as f64), format::number));
            }
            row.extend([format::maybe(point.pages, format::number), format::maybe(bytes, format::bytes)]);
            table.row(row);
        }
    }
    table
}
