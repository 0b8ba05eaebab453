//! The run as charts and tables see it.
//!
//! In: the records of a run. Out: a [`Model`]: named series (an index and where it resided), their measured points
//! and Pareto frontiers by mode, other libraries and loads, and the settings that could not be drawn, with the reason.

mod names;
mod others;

use kiln_eval::metrics;
use kiln_eval::record::{BuildRecord, IoState, Mode, RunData, SettingRecord};
use kiln_eval::stats::{self, AtRecall, Interval, Latency, Level};

use names::{name_builds, name_series};

pub use names::{shorten, state_words};
pub use others::{LoadCurve, PeerCurve};

/// The recall levels that every table answers for.
pub const LEVELS: [f64; 3] = [0.90, 0.95, 0.99];

/// A run, ordered and derived.
pub struct Model<'a> {
    /// The records.
    pub data: &'a RunData,
    /// A unique name for each build, in their order.
    pub build_names: Vec<String>,
    /// In build order; every build has at least one.
    pub series: Vec<Series<'a>>,
    /// `latency-1` first, then batches, then throughput, each by threads.
    pub modes: Vec<ModeView<'a>>,
    /// Other libraries; their colours follow those of `series`.
    pub peers: Vec<PeerCurve<'a>>,
    /// Loads on servers; their colours, two each, follow those of `peers`.
    pub loads: Vec<LoadCurve<'a>>,
    /// Settings without figures.
    pub skipped: Vec<Skipped<'a>>,
}

/// An index, where it resided while it was searched and what its reads passed through: one colour on every chart.
pub struct Series<'a> {
    /// Position among the builds.
    pub build_index: usize,
    /// The index.
    pub build: &'a BuildRecord,
    /// `memory`, `ssd`; empty for an index that was never searched.
    pub residency: &'a str,
    /// What reads of the drive passed through; `None` in memory and in older records.
    pub io_state: Option<IoState>,
    /// Bytes of memory that serving was allowed.
    pub memory_budget: Option<u64>,
    /// Unique in the run: kind, the parameters that tell it from others, residency where there are several; and that it
    /// was measured elsewhere.
    pub name: String,
    /// Measured elsewhere: shown, and never ranked.
    pub foreign: bool,
}

/// Everything measured in one mode.
pub struct ModeView<'a> {
    /// The mode.
    pub mode: Mode,
    /// Series with at least one point.
    pub curves: Vec<Curve<'a>>,
}

/// One series in one mode.
pub struct Curve<'a> {
    /// Position in [`Model::series`].
    pub series: usize,
    /// In ascending recall; those of unknown recall last.
    pub points: Vec<Point<'a>>,
    /// Positions in `points` that no other beats in recall and QPS; ascending recall.
    pub frontier: Vec<usize>,
}

/// One measured setting.
pub struct Point<'a> {
    /// The record.
    pub setting: &'a SettingRecord,
    /// Strict recall; `None` when truth is unknown.
    pub recall: Option<f64>,
    /// Queries a second.
    pub qps: Interval,
    /// Latency over all runs; `None` in batch mode.
    pub latency: Option<Latency>,
    /// Pages read a query; `None` in memory.
    pub pages: Option<f64>,
}

/// A setting without figures.
pub struct Skipped<'a> {
    /// The record.
    pub setting: &'a SettingRecord,
    /// What it searched.
    pub name: String,
    /// Why there are no figures.
    pub reason: String,
}

impl<'a> Model<'a> {
    /// Derives everything once.
    pub fn new(data: &'a RunData) -> Model<'a> {
        let build_names = name_builds(&data.builds);
        let series = name_series(data, &build_names);
        let mut modes: Vec<ModeView> = Vec::new();
        let mut skipped = Vec::new();
        for setting in &data.settings {
            let owner = series.iter().position(|s| s.build.key == setting.build_key && s.holds(setting));
            match measure(setting, owner) {
                Ok((owner, point)) => {
                    let mode = entry(
                        &mut modes,
                        |m| m.mode == setting.mode,
                        || ModeView { mode: setting.mode, curves: Vec::new() },
                    );
                    let curve = entry(
                        &mut mode.curves,
                        |c| c.series == owner,
                        || Curve { series: owner, points: Vec::new(), frontier: Vec::new() },
                    );
                    curve.points.push(point);
                }
                Err(reason) => skipped.push(Skipped {
                    setting,
                    name: owner.map_or_else(|| setting.build_key.clone(), |i| series[i].name.clone()),
                    reason,
                }),
            }
        }
        modes.sort_by_key(|m| m.mode.order());
        for mode in &mut modes {
            mode.curves.sort_by_key(|c| c.series);
            mode.curves.iter_mut().for_each(Curve::finish);
        }
        let peers = others::peers(data, series.len());
        let taken = peers.iter().map(|peer| peer.colour + 1).max().unwrap_or(series.len());
        let loads = others::loads(data, taken);
        Model { data, build_names, series, modes, peers, loads, skipped }
    }

    /// The names of everything that has a colour, in the order of the colours.
    pub fn coloured(&self) -> Vec<&str> {
        let series = self.series.iter().map(|s| s.name.as_str());
        let mut by_colour: Vec<&PeerCurve> = self.peers.iter().collect();
        by_colour.sort_by_key(|peer| peer.colour);
        by_colour.dedup_by_key(|peer| peer.colour);
        let peers = by_colour.into_iter().map(|peer| peer.name.as_str());
        let loads = self.loads.iter().flat_map(|load| &load.names).map(String::as_str);
        series.chain(peers).chain(loads).collect()
    }

    /// The mode that the verdict speaks of: the first.
    pub fn primary(&self) -> Option<&ModeView<'a>> {
        self.modes.first()
    }

    /// The colour of a build: its first series.
    pub fn series_of_build(&self, build_index: usize) -> usize {
        self.series.iter().position(|s| s.build_index == build_index).unwrap_or(0)
    }

    /// The setting that stands for a series where one must be chosen: the least accurate of the frontier that reaches
    /// .95, else the most accurate; from the first mode that has the series.
    pub fn representative(&self, series: usize) -> Option<&Point<'a>> {
        let mut curves = self.modes.iter().flat_map(|m| &m.curves);
        let curve = curves.find(|c| c.series == series && !c.frontier.is_empty())?;
        let reaches = |i: &&usize| curve.points[**i].recall.is_some_and(|r| r >= 0.95);
        let chosen = curve.frontier.iter().find(reaches).or(curve.frontier.last())?;
        Some(&curve.points[*chosen])
    }

    /// All points of all modes.
    pub fn points(&self) -> impl Iterator<Item = &Point<'a>> {
        self.modes.iter().flat_map(|m| &m.curves).flat_map(|c| &c.points)
    }

    /// Bytes of the index file for each row.
    pub fn bytes_per_vector(&self, build: &BuildRecord) -> f64 {
        build.index_bytes as f64 / self.data.header.dataset.rows.max(1) as f64
    }
}

impl Series<'_> {
    /// Whether a setting of this index was measured in this place.
    pub fn holds(&self, setting: &SettingRecord) -> bool {
        (self.residency, self.io_state, self.memory_budget)
            == (setting.residency.as_str(), setting.io_state, setting.memory_budget)
    }
}

/// The element that `found` accepts, appended by `new` if there is none.
fn entry<T>(list: &mut Vec<T>, found: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> &mut T {
    let at = list.iter().position(found).unwrap_or_else(|| {
        list.push(new());
        list.len() - 1
    });
    &mut list[at]
}

fn measure(setting: &SettingRecord, owner: Option<usize>) -> Result<(usize, Point<'_>), String> {
    if let Some(failure) = &setting.failure {
        return Err(failure.clone());
    }
    let owner = owner.ok_or_else(|| format!("no build with key {} in the run", setting.build_key))?;
    let latency = metrics::latency(setting);
    let times_queries = !setting.mode.is_batch();
    let timed = latency.is_some() || !times_queries || setting.is_foreign();
    let Some(qps) = metrics::qps(setting).filter(|_| timed) else {
        return Err("no run was kept".into());
    };
    let recall = metrics::recall(setting);
    Ok((owner, Point { setting, recall, qps, latency, pages: metrics::pages_per_query(setting) }))
}

impl<'a> Curve<'a> {
    fn finish(&mut self) {
        let rank = |p: &Point| p.recall.unwrap_or(f64::INFINITY);
        self.points.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
        self.frontier = self.frontier_by(|p| Some(p.qps.median));
    }

    /// Positions of the points that no other beats in recall and in `goodness` (higher is better).
    pub fn frontier_by(&self, goodness: impl Fn(&Point<'a>) -> Option<f64>) -> Vec<usize> {
        let plane: Vec<(f64, f64)> =
            (self.points.iter()).map(|p| (p.recall.unwrap_or(f64::NAN), goodness(p).unwrap_or(f64::NAN))).collect();
        stats::pareto_frontier(&plane)
    }

    /// Recall of the frontier's points.
    pub fn frontier_recalls(&self) -> Vec<f64> {
        self.frontier.iter().filter_map(|&i| self.points[i].recall).collect()
    }

    /// A figure at a recall level, between the frontier's settings that bracket it; `None` without recall, or where a
    /// setting of the frontier lacks the figure.
    pub fn at(&self, level: f64, figure: impl Fn(&Point<'a>) -> Option<f64>) -> Option<AtRecall> {
        let values: Option<Vec<f64>> = self.frontier.iter().map(|&i| figure(&self.points[i])).collect();
        Level::locate(&self.frontier_recalls(), level)?.read(&values?)
    }

    /// QPS at a recall level with its interval's ends; `None` where the level was not reached.
    pub fn qps_at(&self, level: f64) -> Option<Interval> {
        let read = |figure: fn(&Point) -> f64| self.at(level, |p| Some(figure(p)))?.value();
        Some(Interval { median: read(|p| p.qps.median)?, lo: read(|p| p.qps.lo)?, hi: read(|p| p.qps.hi)? })
    }
}

impl ModeView<'_> {
    /// The level at which figures are compared: .95 where anyone reaches it, else .90; `None` where nobody does.
    pub fn focus(&self) -> Option<f64> {
        Self::focus_of(&self.curves.iter().collect::<Vec<_>>())
    }

    /// The same of some curves.
    pub fn focus_of(curves: &[&Curve]) -> Option<f64> {
        let best = (curves.iter()).filter_map(|c| c.frontier_recalls().last().copied()).reduce(f64::max)?;
        [0.95, 0.90].into_iter().find(|level| best >= *level)
    }

    /// Whether single queries were timed: in batch mode none is.
    pub fn has_latency(&self) -> bool {
        self.curves.iter().flat_map(|c| &c.points).any(|p| p.latency.is_some())
    }

    /// The device that answered, where one answered everything.
    fn device(&self) -> Option<&str> {
        let mut devices = self.curves.iter().flat_map(|c| &c.points).map(|p| p.setting.device.as_deref());
        let first = devices.next()??;
        devices.all(|device| device == Some(first)).then_some(first)
    }

    /// The mode in a few words.
    pub fn words(&self) -> String {
        match self.mode {
            Mode::Latency1 => "one query at a time on one core".into(),
            Mode::Throughput { threads: 1 } => "a closed loop on 1 thread".into(),
            Mode::Throughput { threads } => format!("a closed loop on {threads} threads"),
            Mode::Batch { threads: 1 } => "all queries in one call on 1 thread".into(),
            Mode::Batch { threads } => {
                format!("all queries at once, an equal share in one call on each of {threads} threads")
            }
            Mode::BatchDevice { transfers } => {
                let device = self.device().unwrap_or("a device");
                let way = if transfers { "the way there and back included" } else { "without the way there and back" };
                format!("all queries in one call to {device}, {way}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn settings_without_figures_are_listed_with_the_reason() {
        let mut data = fixture::run();
        data.settings[0].failure = Some("killed".into());
        data.settings[1].runs.clear();
        data.settings[2].build_key = "gone".into();
        let model = Model::new(&data);
        let reasons: Vec<&str> = model.skipped.iter().map(|s| s.reason.as_str()).collect();
        assert_eq!(reasons, ["killed", "no run was kept", "no build with key gone in the run"]);
    }

    #[test]
    fn modes_are_apart_and_ordered() {
        let data = fixture::with_batches();
        let model = Model::new(&data);
        let names: Vec<String> = model.modes.iter().map(|m| m.mode.name()).collect();
        assert_eq!(names, ["latency-1", "batch-1", "throughput-1", "throughput-2"]);
        let timed: Vec<bool> = model.modes.iter().map(ModeView::has_latency).collect();
        assert_eq!(timed, [true, false, true, true]);
        assert_eq!(model.primary().and_then(ModeView::focus), Some(0.95));
    }

    #[test]
    fn a_device_is_named_and_its_modes_come_last() {
        let data = fixture::on_device();
        let model = Model::new(&data);
        let [.., whole, resident] = &model.modes[..] else { panic!("{} modes", model.modes.len()) };
        assert_eq!((whole.mode.name(), whole.has_latency()), ("batch-device".into(), false));
        let device = "all queries in one call to cuda (NVIDIA H100, 80 GiB, compute capability 9.0)";
        assert_eq!(whole.words(), format!("{device}, the way there and back included"));
        assert_eq!(resident.words(), format!("{device}, without the way there and back"));
        assert!(model.skipped.is_empty());
    }
}
