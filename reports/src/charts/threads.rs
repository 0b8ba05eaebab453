//! Throughput against threads.
//!
//! In: the `throughput-T` modes. Out: a figure where at least two thread counts were measured.

use kiln_eval::record::Mode;

use super::series_legend;
use crate::axis::{Axis, Unit};
use crate::format;
use crate::model::{ModeView, Model};
use crate::paint::Dash;
use crate::plot::{Figure, Mark, Panel, Plot};
use crate::table::{Cell, Table};

/// QPS at one recall level by threads, and perfect scaling beside it.
pub fn figure(model: &Model) -> Option<Figure> {
    let modes: Vec<&ModeView> = model.modes.iter().filter(|m| matches!(m.mode, Mode::Throughput { .. })).collect();
    if modes.len() < 2 {
        return None;
    }
    let level = modes.iter().filter_map(|m| m.focus()).reduce(f64::max)?;
    let mut table = Table::new(&["Index", "Threads", "QPS", "Speed-up", "Efficiency"]);
    let mut marks = Vec::new();
    let mut drawn = Vec::new();
    for (series, owner) in model.series.iter().enumerate() {
        let measured: Vec<_> = (modes.iter())
            .filter_map(|m| {
                let curve = m.curves.iter().find(|c| c.series == series)?;
                Some((m.mode.threads(), curve.qps_at(level)?))
            })
            .collect();
        let Some(((first_threads, first), rest)) = measured.split_first() else {
            continue;
        };
        if rest.is_empty() {
            continue;
        }
        let place = |threads: usize, qps: f64| (position(&modes, threads), qps);
        let perfect = |threads: usize| first.median * threads as f64 / *first_threads as f64;
        marks.push(Mark::Guide {
            series: Some(series),
            points: measured.iter().map(|(t, _)| place(*t, perfect(*t))).collect(),
            dash: Dash::Dotted,
        });
        marks.push(Mark::Line { series, points: measured.iter().map(|(t, qps)| place(*t, qps.median)).collect() });
        for (threads, qps) in &measured {
            let efficiency = qps.median / perfect(*threads);
            marks.push(Mark::Point {
                series,
                at: place(*threads, qps.median),
                whisker: Some((qps.lo, qps.hi)),
                faint: false,
                tip: format!(
                    "{}\n{}: {} queries/s\n{:.0}% of perfect scaling",
                    owner.name,
                    format::count(*threads, "thread", "threads"),
                    format::number(qps.median),
                    efficiency * 100.0
                )
                .into(),
            });
            table.row([
                Cell::from(owner.name.clone()),
                threads.to_string().into(),
                (format::number(qps.median), format::ends(*qps)).into(),
                format!("{:.2}", qps.median / first.median).into(),
                format!("{:.0}%", efficiency * 100.0).into(),
            ]);
        }
        drawn.push(series);
    }
    let values = marks.iter().flat_map(|mark| match mark {
        Mark::Guide { points, .. } | Mark::Line { points, .. } => points.iter().map(|p| p.1).collect(),
        _ => Vec::new(),
    });
    let y = Axis::from_zero("queries per second", values, Unit::Compact);
    let labels = modes.iter().map(|m| m.mode.threads().to_string());
    let panel = Panel { title: String::new(), x: Axis::positions("threads", labels), y, grid: (false, true), marks };
    Figure {
        id: "threads".into(),
        title: format!("Throughput against threads at recall {}", format::level(level)),
        caption: "QPS interpolated on each thread count's own frontier. Dotted: the first point scaled perfectly."
            .into(),
        plot: Plot { height: 360.0, ..Plot::single(panel) },
        choices: Vec::new(),
        legend: series_legend(model, drawn),
        table,
    }
    .if_drawn()
}

fn position(modes: &[&ModeView], threads: usize) -> f64 {
    modes.iter().position(|m| m.mode.threads() == threads).unwrap_or(0) as f64
}
