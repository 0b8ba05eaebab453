//! Latency of a server under load.
//!
//! In: the open-loop loads of a run. Out: a figure of p50 and p99 against the rate that was offered, with the rate marked
//! from which the server no longer kept up.

use kiln_eval::load::KEPT_UP;
use kiln_eval::record::LoadRecord;

use crate::axis::{Axis, Unit};
use crate::format;
use crate::model::{LoadCurve, Model};
use crate::paint::Dash;
use crate::plot::{Figure, LegendItem, Mark, Panel, Plot, Tip};
use crate::table::{Cell, Table};

/// Offered load against latency, where any load was recorded.
pub fn figure(model: &Model) -> Option<Figure> {
    let several = model.loads.len() > 1;
    let mut table = Table::new(&[
        "Offered, requests/s",
        "Achieved",
        "p50",
        "p95",
        "p99",
        "p99.9",
        "Requests",
        "Errors",
        "Sent late, p99",
        "Saturated",
    ]);
    if several {
        table.columns.insert(0, "Server".into());
    }
    let (mut lines, mut points, mut legend) = (Vec::new(), Vec::new(), Vec::new());
    for curve in &model.loads {
        for (percentile, (name, of)) in curve.names.iter().zip(PERCENTILES).enumerate() {
            let series = curve.colour + percentile;
            let answered = || curve.records.iter().filter(|record| of(record) > 0.0);
            lines.push(Mark::Line { series, points: answered().map(|r| (r.offered_rate, of(r))).collect() });
            points.extend(answered().map(|record| Mark::Point {
                series,
                at: (record.offered_rate, of(record)),
                whisker: None,
                faint: record.saturated,
                tip: point_tip(name, record),
            }));
            legend.push(LegendItem::Series { series, name: name.clone() });
        }
        for record in &curve.records {
            let server = several.then(|| curve.title.clone().into());
            table.row(server.into_iter().chain(row(record)));
        }
    }
    let heights = || {
        let records = model.loads.iter().flat_map(|curve| &curve.records);
        records.flat_map(|record| PERCENTILES.map(|of| of(record))).filter(|us| *us > 0.0)
    };
    let y = Axis::log("latency from the intended start", heights(), Unit::Micros);
    let guides = saturations(&model.loads, &y, &mut legend);
    let rates = model.loads.iter().flat_map(|curve| &curve.records).map(|record| record.offered_rate);
    let panel = Panel {
        title: String::new(),
        x: Axis::from_zero("offered load, requests per second", rates, Unit::Compact),
        y,
        grid: (true, true),
        marks: guides.into_iter().chain(lines).chain(points).collect(),
    };
    let of_one = model
        .loads
        .first()
        .filter(|_| !several)
        .map_or_else(String::new, |curve| format!(" Asked of {}.", curve.title));
    Figure {
        id: "load-latency".into(),
        title: "Latency under load".into(),
        caption: format!(
            "Requests arrive by a Poisson process whether or not earlier ones are answered, and are timed from when they \
             were due. Pale: answers came at less than {:.0}% of the rate at which they were asked for. Down and to the \
             right is better.{of_one}",
            100.0 * KEPT_UP
        ),
        plot: Plot { height: 400.0, ..Plot::single(panel) },
        choices: Vec::new(),
        legend,
        table,
    }
    .if_drawn()
}

const PERCENTILES: [fn(&LoadRecord) -> f64; 2] = [|record| record.latency_us.p50, |record| record.latency_us.p99];

/// A line at the lowest rate of each server at which it did not keep up.
fn saturations(loads: &[LoadCurve], y: &Axis, legend: &mut Vec<LegendItem>) -> Vec<Mark> {
    let mut marks = Vec::new();
    for curve in loads {
        let Some(first) = curve.records.iter().find(|record| record.saturated) else { continue };
        let rate = first.offered_rate;
        marks.push(Mark::Guide { series: None, points: vec![(rate, y.lo), (rate, y.hi)], dash: Dash::Dashed });
    }
    if !marks.is_empty() {
        legend.push(LegendItem::Guide { dash: Dash::Dashed, name: "saturated from here on".into() });
    }
    marks
}

fn point_tip(name: &str, record: &LoadRecord) -> Tip {
    let latency = &record.latency_us;
    let mut lines = vec![
        name.to_string(),
        format!("{} requests/s offered", format::number(record.offered_rate)),
        format!("{} answered", format::number(record.achieved_rate)),
        format!("p50 {}, p99 {}", format::micros(latency.p50), format::micros(latency.p99)),
    ];
    let errors: u64 = record.errors.values().sum();
    if errors > 0 {
        lines.push(format!("{} not answered well", format::number(errors as f64)));
    }
    lines.push(format!("rate={}", record.offered_rate));
    lines.join("\n").into()
}

fn row(record: &LoadRecord) -> Vec<Cell> {
    let latency = &record.latency_us;
    let kinds: Vec<String> =
        record.errors.iter().map(|(kind, n)| format!("{kind} {}", format::number(*n as f64))).collect();
    vec![
        format::number(record.offered_rate).into(),
        format::number(record.achieved_rate).into(),
        format::micros(latency.p50).into(),
        format::micros(latency.p95).into(),
        format::micros(latency.p99).into(),
        format::maybe(latency.p999, format::micros).into(),
        format::number(record.requests as f64).into(),
        if kinds.is_empty() { "none".into() } else { kinds.join(", ").into() },
        format::micros(record.start_lag_us.p99).into(),
        if record.saturated { "yes".into() } else { "no".into() },
    ]
}
