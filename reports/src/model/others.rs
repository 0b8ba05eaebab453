//! What was measured beside the indexes of the run: other libraries, and loads on servers.
//!
//! In: their records. Out: curves with a name and colours of their own.

use kiln_eval::record::{LoadRecord, PeerPoint, PeerRecord, RunData};
use kiln_eval::stats::{self, AtRecall, Interval, Level};

use crate::format;

/// Another library's index.
pub struct PeerCurve<'a> {
    /// The record.
    pub record: &'a PeerRecord,
    /// The library, where its index was and on how many threads it searched: the same whatever memory it held.
    pub name: String,
    /// Its colour: that of its name.
    pub colour: usize,
    /// Points that no other beats in recall and QPS, with their rates; ascending recall.
    frontier: Vec<(&'a PeerPoint, Interval)>,
}

/// Loads of one kind on one server, by rate.
pub struct LoadCurve<'a> {
    /// The server and what was asked of it.
    pub title: String,
    /// Names of its two lines: p50, p99.
    pub names: [String; 2],
    /// The colour of the first line; the second's follows.
    pub colour: usize,
    /// In ascending offered rate.
    pub records: Vec<&'a LoadRecord>,
}

/// The peers of a run; their colours start at `colour`.
pub(super) fn peers(data: &RunData, colour: usize) -> Vec<PeerCurve<'_>> {
    let mut names: Vec<String> = Vec::new();
    (data.peers.iter())
        .map(|record| {
            let rated: Vec<(&PeerPoint, Interval)> =
                record.points.iter().filter_map(|p| Some((p, stats::median_interval(&p.qps)?))).collect();
            let plane: Vec<(f64, f64)> = rated.iter().map(|(p, qps)| (p.recall, qps.median)).collect();
            let frontier = stats::pareto_frontier(&plane).into_iter().map(|i| rated[i]).collect();
            let threads = format::count(record.threads, "thread", "threads");
            let name = format!("{} {} ({}, {threads})", record.name, record.version, record.residency);
            let place = names.iter().position(|known| *known == name).unwrap_or_else(|| {
                names.push(name.clone());
                names.len() - 1
            });
            PeerCurve { record, name, colour: colour + place, frontier }
        })
        .collect()
}

impl PeerCurve<'_> {
    /// A figure at a recall level; `None` where a setting lacks it.
    fn at(&self, level: f64, figure: impl Fn(&(&PeerPoint, Interval)) -> Option<f64>) -> Option<AtRecall> {
        let recalls: Vec<f64> = self.frontier.iter().map(|(p, _)| p.recall).collect();
        let values: Option<Vec<f64>> = self.frontier.iter().map(figure).collect();
        Level::locate(&recalls, level)?.read(&values?)
    }

    /// QPS at a recall level with its interval's ends; `None` where the level was not reached.
    pub fn qps_at(&self, level: f64) -> Option<Interval> {
        let read = |end: fn(&Interval) -> f64| self.at(level, |(_, qps)| Some(end(qps)))?.value();
        Some(Interval { median: read(|i| i.median)?, lo: read(|i| i.lo)?, hi: read(|i| i.hi)? })
    }

    /// Pages a query at a recall level, where they were counted.
    pub fn pages_at(&self, level: f64) -> Option<f64> {
        self.at(level, |(point, _)| point.pages)?.value()
    }
}

/// The loads of a run, a curve for each server and kind of request; their colours start at `colour`.
pub(super) fn loads(data: &RunData, colour: usize) -> Vec<LoadCurve<'_>> {
    let mut curves: Vec<LoadCurve> = Vec::new();
    for record in data.loads.iter().filter(|record| record.mode == kiln_eval::load::LoadMode::OpenLoop) {
        let params = format::params(&record.params);
        let title = [record.url.clone(), format!("k={}", record.k), params].join(" ").trim_end().to_string();
        match curves.iter_mut().find(|curve| curve.title == title) {
            Some(curve) => curve.records.push(record),
            None => curves.push(LoadCurve { title, names: Default::default(), colour: 0, records: vec![record] }),
        }
    }
    let several = curves.len() > 1;
    for (i, curve) in curves.iter_mut().enumerate() {
        curve.colour = colour + 2 * i;
        let of = if several { format!(", {}", curve.title) } else { String::new() };
        curve.names = ["p50", "p99"].map(|percentile| format!("{percentile} under load{of}"));
        curve.records.sort_by(|a, b| a.offered_rate.total_cmp(&b.offered_rate));
    }
    curves
}
