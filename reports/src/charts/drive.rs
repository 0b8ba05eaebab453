//! One setting under two conditions: the page cache cold, and the page cache warm.
//!
//! In: series of one index that differ in nothing but the state of their reads. Out: a figure for each mode that times
//! queries: p99 of both, joined setting by setting.

use kiln_eval::record::IoState;

use super::{series_legend, tip};
use crate::axis::{Axis, Unit};
use crate::format;
use crate::model::{Curve, ModeView, Model, Point};
use crate::paint::Dash;
use crate::plot::{Figure, LegendItem, Mark, Panel, Plot};
use crate::table::Table;

/// A figure for each mode in which settings were measured cold and warm.
pub fn figures(model: &Model) -> Vec<Figure> {
    model.modes.iter().filter_map(|mode| figure(model, mode)).collect()
}

/// One setting in both states.
struct Pair<'m, 'a> {
    cold: (usize, &'m Point<'a>),
    warm: (usize, &'m Point<'a>),
}

fn figure(model: &Model, mode: &ModeView) -> Option<Figure> {
    let pairs = pairs(model, mode);
    let mut table = Table::new(&[
        "Index",
        "Parameters",
        "Recall",
        "Cold p50",
        "Warm p50",
        "Cold p99",
        "Warm p99",
        "Cold over warm",
    ]);
    let (mut guides, mut points, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    let mut drawn: Vec<usize> = Vec::new();
    for Pair { cold, warm } in &pairs {
        let ((cold_series, cold), (warm_series, warm)) = (*cold, *warm);
        let (Some(recall), Some(cold_us), Some(warm_us)) = (cold.recall, cold.latency, warm.latency) else { continue };
        guides.push(Mark::Guide {
            series: None,
            points: vec![(recall, cold_us.p99), (recall, warm_us.p99)],
            dash: Dash::Dotted,
        });
        for (series, point, us) in [(cold_series, cold, cold_us), (warm_series, warm, warm_us)] {
            let at = (recall, us.p99);
            points.push(Mark::Point { series, at, whisker: None, faint: false, tip: tip(model, series, point) });
            ends.push((series, at));
            if !drawn.contains(&series) {
                drawn.push(series);
            }
        }
        let series = &model.series[cold_series];
        let memory = series.memory_budget.map_or_else(String::new, |b| format!(", {}", format::bytes_tick(b as f64)));
        table.row([
            format!("{}{memory}", model.build_names[series.build_index]),
            format::params(&cold.setting.params),
            format::recall(recall),
            format::micros(cold_us.p50),
            format::micros(warm_us.p50),
            format::micros(cold_us.p99),
            format::micros(warm_us.p99),
            format::number(cold_us.p99 / warm_us.p99),
        ]);
    }
    let lines = drawn.iter().map(|&series| {
        let points = ends.iter().filter(|(of, _)| *of == series).map(|(_, at)| *at).collect();
        Mark::Line { series, points }
    });
    let marks: Vec<Mark> = guides.into_iter().chain(lines).chain(points).collect();
    let panel = Panel {
        title: String::new(),
        x: Axis::recall("recall (strict)", ends.iter().map(|(_, at)| at.0)),
        y: Axis::log("p99 latency", ends.iter().map(|(_, at)| at.1), Unit::Micros),
        grid: (true, true),
        marks,
    };
    let mut legend = series_legend(model, drawn);
    legend.push(LegendItem::Guide { dash: Dash::Dotted, name: "one setting".into() });
    Figure {
        id: format!("cold-warm-{}", mode.mode.name()),
        title: format!("Tail latency, cold and warm, {}", mode.mode.name()),
        caption: "Every setting twice: with the index file dropped from the page cache before each pass over the \
                  queries, and with the cache as earlier passes left it. A cold pass warms the cache as it goes, so \
                  that its first queries pay most. Lower is better, and so is a short distance."
            .into(),
        plot: Plot { height: 380.0, ..Plot::single(panel) },
        choices: Vec::new(),
        legend,
        table,
    }
    .if_drawn()
}

/// Settings of a mode that were measured in both states, everything else being equal.
fn pairs<'m, 'a>(model: &Model<'a>, mode: &'m ModeView<'a>) -> Vec<Pair<'m, 'a>> {
    let mut pairs = Vec::new();
    let of = |state| mode.curves.iter().filter(move |c| model.series[c.series].io_state == Some(state));
    let elsewhere = |curve: &Curve| {
        let series = &model.series[curve.series];
        (series.build_index, series.memory_budget)
    };
    for cold in of(IoState::Cold) {
        for warm in of(IoState::Warm).filter(|warm| elsewhere(warm) == elsewhere(cold)) {
            for point in &cold.points {
                let twin = warm.points.iter().find(|twin| twin.setting.params == point.setting.params);
                pairs.extend(twin.map(|twin| Pair { cold: (cold.series, point), warm: (warm.series, twin) }));
            }
        }
    }
    pairs
}
