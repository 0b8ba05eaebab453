//! Throughput against the memory that serving may use.
//!
//! In: one file served from the drive under several budgets, in memory where that was measured, and other libraries.
//! Out: a figure for each mode: QPS at one recall level by memory, below what the drive's ceiling allows.

use kiln_eval::record::{IoState, Mode};
use kiln_eval::stats::{AtRecall, Interval};

use crate::axis::{Axis, Unit};
use crate::format;
use crate::model::{Curve, ModeView, Model};
use crate::paint::Dash;
use crate::plot::{Figure, LegendItem, Mark, Panel, Plot, Tip};
use crate::table::{Cell, Table};

/// The level that the figure speaks of; where nobody reaches it, the mode's own.
const LEVEL: f64 = 0.95;

/// One point of the figure.
struct Spot {
    /// Memory allowed, or held where nothing was said.
    bytes: f64,
    allowed: Option<u64>,
    held: Option<u64>,
    qps: Interval,
    /// Every setting is more accurate than the level.
    bound: bool,
    pages: Option<f64>,
    /// Queries a second at which the drive would be at its ceiling.
    ceiling: Option<f64>,
}

/// Spots of one index on the drive, joined by a line; or of a peer.
struct Group {
    colour: usize,
    name: String,
    /// An index of the run on the drive, whose ceiling is drawn.
    on_drive: bool,
    spots: Vec<Spot>,
}

/// A figure for each mode in which memory varied; `latency-1` stands for one thread where `throughput-1` is missing.
pub fn figures(model: &Model) -> Vec<Figure> {
    let loop_of_one = model.modes.iter().any(|mode| mode.mode == Mode::Throughput { threads: 1 });
    let modes = model.modes.iter().filter(|mode| mode.mode != Mode::Latency1 || !loop_of_one);
    modes.filter_map(|mode| figure(model, mode)).collect()
}

fn figure(model: &Model, mode: &ModeView) -> Option<Figure> {
    let best = mode.curves.iter().filter_map(|c| c.frontier_recalls().last().copied()).reduce(f64::max)?;
    let level = if best >= LEVEL { LEVEL } else { mode.focus()? };
    let drive = drive_groups(model, mode, level);
    if !drive.iter().any(|group| group.spots.len() > 1 && group.spots.iter().any(|spot| spot.allowed.is_some())) {
        return None;
    }
    let drawn: Vec<Group> =
        drive.into_iter().chain(memory_groups(model, mode, level)).chain(peer_groups(model, mode, level)).collect();

    let mut table = Table::new(&["Index", "Memory allowed", "Held", "QPS", "Pages a query", "Drive allows", "Of it"]);
    let (mut guides, mut lines, mut points) = (Vec::new(), Vec::new(), Vec::new());
    for group in &drawn {
        let ceilings: Vec<(f64, f64)> =
            group.spots.iter().filter_map(|spot| Some((spot.bytes, spot.ceiling?))).collect();
        if ceilings.len() > 1 && group.on_drive {
            guides.push(Mark::Guide { series: None, points: ceilings, dash: Dash::Dashed });
        }
        if group.spots.len() > 1 {
            let corners = group.spots.iter().map(|spot| (spot.bytes, spot.qps.median)).collect();
            lines.push(Mark::Line { series: group.colour, points: corners });
        }
        for spot in &group.spots {
            points.push(Mark::Point {
                series: group.colour,
                at: (spot.bytes, spot.qps.median),
                whisker: Some((spot.qps.lo, spot.qps.hi)),
                faint: spot.bound,
                tip: spot.tip(&group.name),
            });
            table.row(spot.row(&group.name));
        }
    }
    let mut legend: Vec<LegendItem> =
        drawn.iter().map(|g| LegendItem::Series { series: g.colour, name: g.name.clone() }).collect();
    let mut caption =
        "Each point is interpolated on the frontier of its own memory budget; whiskers are 95% bootstrap \
                       intervals. An index in memory stands at the memory that it holds, a peer at what its codes and \
                       its cache hold. Up and to the left is better."
            .to_string();
    if drawn.iter().flat_map(|group| &group.spots).any(|spot| spot.bound) {
        caption.push_str(" Pale: every setting is more accurate than the level, so that this is a lower bound.");
    }
    if let Some(ceiling) = model.data.header.drive_ceiling.as_ref().filter(|_| !guides.is_empty()) {
        let reads = format::number(ceiling.reads_per_second);
        legend
            .push(LegendItem::Guide { dash: Dash::Dashed, name: "the drive's ceiling over pages a query".to_string() });
        caption.push_str(&format!(
            " Dashed: {reads} random reads of 4 KiB a second, all that the drive gave ({}, depth {}), divided by the \
             pages that a query reads.",
            ceiling.tool, ceiling.depth
        ));
    }
    let marks: Vec<Mark> = guides.into_iter().chain(lines).chain(points).collect();
    let spots = || drawn.iter().flat_map(|group| &group.spots);
    let heights = drawn.iter().flat_map(|group| {
        let drawn = group.on_drive && group.spots.len() > 1;
        let each = move |spot: &Spot| [Some(spot.qps.lo), Some(spot.qps.hi), spot.ceiling.filter(|_| drawn)];
        group.spots.iter().flat_map(each).flatten()
    });
    let panel = Panel {
        title: String::new(),
        x: Axis::log_bytes("memory for serving", spots().map(|spot| spot.bytes)),
        y: Axis::log("queries per second", heights, Unit::Compact),
        grid: (true, true),
        marks,
    };
    Figure {
        id: format!("serving-memory-{}", mode.mode.name()),
        title: format!("QPS at recall {} against serving memory, {}", format::level(level), mode.mode.name()),
        caption,
        plot: Plot::single(panel),
        choices: Vec::new(),
        legend,
        table,
    }
    .if_drawn()
}

/// Indexes on the drive: a group for each index, a spot for each budget. Only where the page cache is passed by: what
/// lies in it is memory that serving uses, and no budget bounds it.
fn drive_groups(model: &Model, mode: &ModeView, level: f64) -> Vec<Group> {
    let mut groups: Vec<(usize, Option<IoState>, Group)> = Vec::new();
    for curve in &mode.curves {
        let series = &model.series[curve.series];
        if series.residency != "ssd" || !matches!(series.io_state, Some(IoState::Direct) | None) {
            continue;
        }
        let Some(spot) = spot(model, curve, level) else { continue };
        match groups.iter_mut().find(|(build, state, _)| (*build, *state) == (series.build_index, series.io_state)) {
            Some((.., group)) => group.spots.push(spot),
            None => {
                let state = series.io_state.map_or_else(String::new, |s| format!(" {}", crate::model::state_words(s)));
                let name = format!("{} (ssd{state})", model.build_names[series.build_index]);
                let group = Group { colour: curve.series, name, on_drive: true, spots: vec![spot] };
                groups.push((series.build_index, series.io_state, group));
            }
        }
    }
    let mut groups: Vec<Group> = groups.into_iter().map(|(.., group)| group).collect();
    groups.iter_mut().for_each(|group| group.spots.sort_by(|a, b| a.bytes.total_cmp(&b.bytes)));
    groups
}

/// Indexes in memory, a spot each.
fn memory_groups(model: &Model, mode: &ModeView, level: f64) -> Vec<Group> {
    let of = |curve: &Curve| {
        let series = &model.series[curve.series];
        let spots = vec![spot(model, curve, level)?];
        Some(Group { colour: curve.series, name: series.name.clone(), on_drive: false, spots })
    };
    mode.curves.iter().filter(|c| model.series[c.series].residency == "memory").filter_map(of).collect()
}

/// Other libraries that searched on as many threads: rows of one name and place, by memory, form a line.
fn peer_groups(model: &Model, mode: &ModeView, level: f64) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for peer in model.peers.iter().filter(|peer| peer.record.threads == mode.mode.threads()) {
        let Some(qps) = peer.qps_at(level) else { continue };
        let held = peer.record.serving_bytes;
        let pages = peer.pages_at(level);
        let ceiling = ceiling(model, pages);
        let spot = Spot { bytes: held as f64, allowed: None, held: Some(held), qps, bound: false, pages, ceiling };
        match groups.iter_mut().find(|group| group.name == peer.name) {
            Some(group) => group.spots.push(spot),
            None => {
                groups.push(Group { colour: peer.colour, name: peer.name.clone(), on_drive: false, spots: vec![spot] })
            }
        }
    }
    groups.iter_mut().for_each(|group| group.spots.sort_by(|a, b| a.bytes.total_cmp(&b.bytes)));
    groups
}

fn spot(model: &Model, curve: &Curve, level: f64) -> Option<Spot> {
    let qps = curve.qps_at(level)?;
    let series = &model.series[curve.series];
    let held = curve.points.iter().find_map(|point| point.setting.serving_bytes);
    let bytes = series.memory_budget.or(held).unwrap_or(series.build.serving_bytes) as f64;
    let pages = curve.at(level, |point| point.pages).and_then(AtRecall::value);
    // Reads that pass through the page cache need not reach the drive.
    let ceiling = ceiling(model, pages.filter(|_| series.io_state == Some(IoState::Direct)));
    let bound = matches!(curve.at(level, |point| Some(point.qps.median)), Some(AtRecall::Bound(_)));
    Some(Spot { bytes, allowed: series.memory_budget, held, qps, bound, pages, ceiling })
}

/// Queries a second of so many pages each at which the drive would be at its ceiling.
fn ceiling(model: &Model, pages: Option<f64>) -> Option<f64> {
    Some(model.data.header.drive_ceiling.as_ref()?.reads_per_second / pages.filter(|&pages| pages >= 1.0)?)
}

impl Spot {
    fn rate(&self) -> String {
        format!("{}{}", if self.bound { "≥ " } else { "" }, format::number(self.qps.median))
    }

    fn tip(&self, name: &str) -> Tip {
        let mut lines = vec![name.to_string(), format!("{} queries/s", self.rate())];
        lines.extend(self.pages.map(|pages| format!("{} pages a query", format::number(pages))));
        lines.extend(self.held.map(|held| format!("holds {}", format::bytes(held as f64))));
        lines.push(format!("memory={}", format::bytes_tick(self.bytes)));
        lines.join("\n").into()
    }

    fn row(&self, name: &str) -> [Cell; 7] {
        let size = |bytes: Option<u64>| format::maybe(bytes.map(|bytes| bytes as f64), format::bytes);
        let share = self.ceiling.map(|ceiling| format!("{:.0}%", 100.0 * self.qps.median / ceiling));
        [
            name.into(),
            size(self.allowed).into(),
            size(self.held).into(),
            (self.rate(), format::ends(self.qps)).into(),
            format::maybe(self.pages, format::number).into(),
            format::maybe(self.ceiling, format::number).into(),
            share.unwrap_or_else(|| "–".into()).into(),
        ]
    }
}
