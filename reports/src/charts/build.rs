//! What an index costs.
//!
//! In: builds, and the first mode's frontiers. Out: stages as stacked bars; peak memory, serving memory and size; and
//! throughput at a recall level against each cost.

use kiln_eval::record::BuildRecord;
use kiln_eval::stats::{AtRecall, Interval};

use super::{series_legend, stage_legend, stage_names};
use crate::axis::{Axis, Unit};
use crate::format;
use crate::model::{Model, Series, shorten};
use crate::paint::Role;
use crate::plot::{Figure, LegendItem, Mark, Panel, Plot};
use crate::table::Table;

/// Bars: one band each, this much of it filled.
const FILLED: f64 = 0.68;

/// What an index costs, in one respect.
struct Cost {
    title: &'static str,
    /// 0 where it is unknown.
    of: fn(&BuildRecord) -> f64,
    show: fn(f64) -> String,
}

impl Cost {
    fn shown(&self, build: &BuildRecord) -> String {
        format::known((self.of)(build), self.show)
    }
}

const BUILD_TIME: Cost = Cost { title: "Build time", of: |b| b.total_seconds, show: format::seconds };
const PEAK: Cost = Cost { title: "Build, peak memory", of: |b| b.peak_rss_bytes as f64, show: format::bytes };
const SERVING: Cost = Cost { title: "Serving from memory", of: |b| b.serving_bytes as f64, show: format::bytes };
const FILE: Cost = Cost { title: "Index file", of: |b| b.index_bytes as f64, show: format::bytes };

/// All figures about builds.
pub fn figures(model: &Model) -> Vec<Figure> {
    [stages(model), costs(model), trade(model)].into_iter().flatten().collect()
}

fn band(i: usize) -> (f64, f64) {
    (i as f64 + (1.0 - FILLED) / 2.0, i as f64 + (1.0 + FILLED) / 2.0)
}

/// Names of the builds, short enough to stand beside bars.
fn names(model: &Model) -> Vec<String> {
    model.build_names.iter().map(|name| shorten(name, 34)).collect()
}

fn bar_height(bands: usize) -> f64 {
    64.0 + 36.0 * bands as f64
}

fn stages(model: &Model) -> Option<Figure> {
    let mut stages = stage_names(model);
    let other = stages.len();
    let builds = &model.data.builds;
    let mut table = Table::new(&["Index", "Device", "Threads"]);
    let mut marks = Vec::new();
    let mut unnamed = false;
    let mut rows = Vec::new();
    for (i, (build, name)) in builds.iter().zip(names(model)).enumerate() {
        let mut parts: Vec<(usize, &str, f64)> = (build.stage_seconds.iter())
            .filter_map(|(stage, s)| Some((stages.iter().position(|n| n == stage)?, stage.as_str(), *s)))
            .collect();
        let rest = build.total_seconds - parts.iter().map(|(_, _, s)| s).sum::<f64>();
        if rest > 0.005 * build.total_seconds {
            parts.push((other, "other", rest));
            unnamed = true;
        }
        let mut left = 0.0;
        for (stage, stage_name, seconds) in &parts {
            let right = left + seconds.max(0.0);
            marks.push(Mark::Bar {
                x: (left, right),
                y: band(i),
                role: if *stage == other { Role::Muted } else { Role::stage(*stage) },
                tip: format!("{name}\n{stage_name}: {}", format::seconds(*seconds)).into(),
                inside: Some((
                    format!("{stage_name} {}", format::seconds(*seconds)),
                    if *stage == other { Role::Paper } else { Role::Black },
                )),
            });
            left = right;
        }
        let text = format::known(build.total_seconds, format::seconds);
        marks.push(Mark::Text { at: (left, i as f64 + 0.5), text, series: None });
        rows.push((name, build, parts));
    }
    let mut legend = stage_legend(&stages);
    if unnamed {
        stages.push("other");
        legend.push(LegendItem::Swatch { role: Role::Muted, name: "other".into() });
    }
    table.columns.extend(stages.iter().map(|s| s.to_string()));
    table.columns.extend(["Total", "CPU time"].map(String::from));
    for (name, build, parts) in rows {
        let of_stage = |i: usize| parts.iter().filter(|p| p.0 == i).map(|p| p.2).reduce(|a, b| a + b);
        let seconds = (0..stages.len()).map(|i| format::maybe(of_stage(i), format::seconds));
        let totals = [build.total_seconds, build.cpu_seconds].map(|s| format::known(s, format::seconds));
        table.row([name, build.device.clone(), build.threads.to_string()].into_iter().chain(seconds).chain(totals));
    }
    let panel = Panel {
        title: String::new(),
        x: bar_axis("wall seconds", builds.iter().map(|b| b.total_seconds), Unit::Plain),
        y: Axis::bands(names(model).into_iter()),
        grid: (true, false),
        marks,
    };
    Figure {
        id: "build".into(),
        title: "Build time by stage".into(),
        caption: "Wall time of each stage, in order; the figure at the end is the total. Shorter is better.".into(),
        plot: Plot { height: bar_height(builds.len()), ..Plot::single(panel) },
        choices: Vec::new(),
        legend,
        table,
    }
    .if_drawn()
}

/// From zero, with room for the figure at the end of the longest bar.
fn bar_axis(title: &str, values: impl Iterator<Item = f64>, unit: Unit) -> Axis {
    Axis::from_zero(title, values.map(|v| v * 1.08), unit)
}

fn costs(model: &Model) -> Option<Figure> {
    const SHOWN: [Cost; 3] = [PEAK, SERVING, FILE];
    let builds = &model.data.builds;
    let names = names(model);
    let mut table = Table::new(&["Index"]);
    table.columns.extend(SHOWN.iter().map(|cost| cost.title.to_string()));
    table.columns.push("Bytes per vector".into());
    for (build, name) in builds.iter().zip(&names) {
        let figures = SHOWN.iter().map(|cost| cost.shown(build));
        let each = format::known(model.bytes_per_vector(build), format::number);
        table.row([name.clone()].into_iter().chain(figures).chain([each]));
    }
    let panels = SHOWN.iter().enumerate().map(|(column, cost)| {
        let longest = builds.iter().map(cost.of).fold(0.0, f64::max);
        let mut marks = Vec::new();
        for (i, (build, name)) in builds.iter().zip(&names).enumerate() {
            let figure = (cost.of)(build);
            marks.push(Mark::Bar {
                x: (0.0, figure),
                y: band(i),
                role: Role::series(model.series_of_build(i)),
                tip: format!("{name}\n{}: {}", cost.title, cost.shown(build)).into(),
                inside: None,
            });
            let at = (figure, i as f64 + 0.5);
            marks.push(Mark::Text { at, text: cost.shown(build), series: Some(model.series_of_build(i)) });
        }
        let labels = names.iter().map(|name| if column == 0 { name.clone() } else { String::new() });
        Panel {
            title: cost.title.into(),
            // Figures stand at the bars, so the axis needs room for them and no ticks.
            x: Axis {
                hi: (longest * 1.6).max(1.0),
                ticks: Vec::new(),
                ..Axis::from_zero("", [1.0].into_iter(), Unit::Plain)
            },
            y: Axis::bands(labels),
            grid: (false, false),
            marks,
        }
    });
    let plot = Plot { width: 880.0, height: bar_height(builds.len()), panels: panels.collect(), threshold: false };
    Figure {
        id: "memory".into(),
        title: "Memory and size".into(),
        caption: "Highest resident set of the building process; resident bytes that serving from memory needs beyond \
                  the process itself; size of the file. Shorter is better."
            .into(),
        plot,
        choices: Vec::new(),
        legend: Vec::new(),
        table,
    }
    .if_drawn()
}

/// QPS at the focus level against what the index cost; only where there are two to compare.
fn trade(model: &Model) -> Option<Figure> {
    const SHOWN: [Cost; 3] = [BUILD_TIME, PEAK, FILE];
    let mode = model.primary()?;
    let level = mode.focus()?;
    let reached: Vec<Reached> = (mode.curves.iter())
        .filter_map(|curve| {
            let bound = matches!(curve.at(level, |p| Some(p.qps.median))?, AtRecall::Bound(_));
            let (owner, series) = (&model.series[curve.series], curve.series);
            Some(Reached { owner, series, qps: curve.qps_at(level)?, bound })
        })
        .collect();
    if reached.len() < 2 {
        return None;
    }
    let mut table = Table::new(&["Index", "QPS"]);
    table.columns.extend(SHOWN.iter().map(|cost| cost.title.to_string()));
    for one in &reached {
        let figures = SHOWN.iter().map(|cost| cost.shown(one.owner.build));
        table.row([one.owner.name.clone(), one.speed()].into_iter().chain(figures));
    }
    let panels = SHOWN.iter().enumerate().map(|(column, cost)| {
        // What is unknown has no place.
        let here: Vec<(&Reached, f64)> =
            (reached.iter().map(|one| (one, (cost.of)(one.owner.build)))).filter(|(_, figure)| *figure > 0.0).collect();
        let marks = here.iter().map(|(one, figure)| Mark::Point {
            series: one.series,
            at: (*figure, one.qps.median),
            whisker: Some((one.qps.lo, one.qps.hi)),
            faint: one.bound,
            tip: format!(
                "{}\n{} queries/s\n{}: {}",
                one.owner.name,
                one.speed(),
                cost.title,
                cost.shown(one.owner.build)
            )
            .into(),
        });
        let figures = here.iter().map(|(_, figure)| *figure);
        let x = match column {
            0 => Axis::from_zero("build time, seconds", figures, Unit::Plain),
            _ => byte_axis(&cost.title.to_lowercase(), figures),
        };
        let y_title = if column == 0 { "queries per second" } else { "" };
        let y = Axis::log(y_title, reached.iter().flat_map(|one| [one.qps.lo, one.qps.hi]), Unit::Compact);
        Panel { title: String::new(), x, y, grid: (true, true), marks: marks.collect() }
    });
    let plot = Plot { width: 880.0, height: 300.0, panels: panels.collect(), threshold: false };
    let mut caption = "Up and to the left is better: fast at little cost.".to_string();
    if reached.iter().any(|one| one.bound) {
        caption.push_str(" Pale: every setting is more accurate than the level, so that this is a lower bound.");
    }
    Figure {
        id: "trade".into(),
        title: format!("Throughput at recall {} against cost, {}", format::level(level), mode.mode.name()),
        caption,
        plot,
        choices: Vec::new(),
        legend: series_legend(model, reached.iter().map(|one| one.series)),
        table,
    }
    .if_drawn()
}

/// An index that is at least as accurate as the level.
struct Reached<'a> {
    owner: &'a Series<'a>,
    series: usize,
    qps: Interval,
    /// Every setting is more accurate.
    bound: bool,
}

impl Reached<'_> {
    fn speed(&self) -> String {
        format!("{}{}", if self.bound { "≥ " } else { "" }, format::number(self.qps.median))
    }
}

/// From zero, with few ticks at round binary sizes: decimal steps of bytes read badly in MiB.
fn byte_axis(title: &str, bytes: impl Iterator<Item = f64>) -> Axis {
    let largest = bytes.fold(1.0, f64::max);
    let unit = 1024f64.powf(largest.log(1024.0).floor());
    let scaled = Axis::from_zero(title, [largest / unit].into_iter(), Unit::Plain);
    let stride = scaled.ticks.len().div_ceil(4);
    let ticks = scaled.ticks.iter().step_by(stride).map(|(v, _)| (v * unit, format::bytes_tick(v * unit)));
    Axis { hi: scaled.hi * unit, unit: Unit::Bytes, ticks: ticks.collect(), ..scaled }
}
