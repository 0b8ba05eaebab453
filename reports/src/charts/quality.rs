//! How recall spreads over queries.
//!
//! In: per-query verdicts and the local intrinsic dimension of each query. Out: the distribution of per-query recall,
//! and mean recall by decile of difficulty.

use kiln_eval::metrics::{self, DifficultyBucket};

use super::series_legend;
use crate::axis::{Axis, Scale, Unit};
use crate::format;
use crate::model::{Model, Point};
use crate::plot::{Figure, Mark, Panel, Plot};
use crate::table::Table;

/// Both figures, as far as the run has judged queries.
pub fn figures(model: &Model) -> Vec<Figure> {
    let mut shown: Vec<(usize, &Point)> =
        (0..model.series.len()).filter_map(|series| Some((series, model.representative(series)?))).collect();
    // Those who state a mean alone have no queries to show.
    shown.retain(|(_, point)| !metrics::query_recalls(point.setting).is_empty());
    // What reads pass through, and how much memory serves them, is no matter to what is answered.
    let answers = |series: usize| (model.series[series].build_index, model.series[series].residency);
    let mut seen = Vec::new();
    shown.retain(|(series, _)| {
        let new = !seen.contains(&answers(*series));
        seen.push(answers(*series));
        new
    });
    [distribution(model, &shown), difficulty(model, &shown)].into_iter().flatten().collect()
}

fn distribution(model: &Model, shown: &[(usize, &Point)]) -> Option<Figure> {
    let mut marks = Vec::new();
    let mut table = Table::new(&[
        "Index",
        "Parameters",
        "Mean",
        "p1",
        "p5",
        "10%",
        "20%",
        "30%",
        "40%",
        "50%",
        "60%",
        "70%",
        "80%",
        "90%",
    ]);
    let mut lowest = 1.0_f64;
    let mut smallest_share = 0.1_f64;
    for &(series, point) in shown {
        let mut recalls = metrics::query_recalls(point.setting);
        recalls.sort_unstable_by(f64::total_cmp);
        let corners = staircase(&recalls);
        lowest = recalls.first().map_or(lowest, |r| lowest.min(*r));
        smallest_share = smallest_share.min(0.5 / recalls.len().max(1) as f64);
        marks.push(Mark::Line { series, points: corners });
        if let Some(spread) = metrics::recall_distribution(point.setting) {
            // Markers at the percentiles that the table names tell the lines apart without colour.
            for (share, recall) in
                [(0.01, spread.p1), (0.05, spread.p5), (0.1, spread.deciles[0]), (0.5, spread.deciles[4])]
            {
                if share * recalls.len() as f64 >= 1.0 {
                    marks.push(Mark::Point {
                        series,
                        at: (share, recall),
                        whisker: None,
                        faint: false,
                        tip: format!(
                            "{}\nthe worst {} of queries: recall {} or less\n{}",
                            model.series[series].name,
                            Unit::Share.label(share),
                            format::recall(recall),
                            format::params(&point.setting.params)
                        )
                        .into(),
                    });
                }
            }
            let head = [model.series[series].name.clone(), format::params(&point.setting.params)];
            let figures = [spread.mean, spread.p1, spread.p5].into_iter().chain(spread.deciles);
            table.row(head.into_iter().chain(figures.map(format::recall)));
        }
    }
    let x = share_axis(smallest_share);
    let y = Axis::recall("recall of the query", [lowest].into_iter());
    let panel = Panel { title: String::new(), x, y, grid: (true, true), marks };
    Figure {
        id: "recall-distribution".into(),
        title: "Recall of single queries".into(),
        caption: "Queries from the worst to the best: at 1%, the recall that all but the worst 1% of queries reach. \
                  Higher on the left is better."
            .into(),
        plot: Plot { height: 380.0, ..Plot::single(panel) },
        choices: Vec::new(),
        legend: series_legend(model, shown.iter().map(|(series, _)| *series)),
        table,
    }
    .if_drawn()
}

/// The quantile function of sorted recalls, as corners of a line: only where it steps.
fn staircase(sorted: &[f64]) -> Vec<(f64, f64)> {
    let n = sorted.len() as f64;
    let mut corners: Vec<(f64, f64)> = Vec::new();
    for (i, &recall) in sorted.iter().enumerate() {
        match corners.last().copied() {
            Some((_, last)) if last == recall => {}
            Some((_, last)) => corners.extend([(i as f64 / n, last), (i as f64 / n, recall)]),
            // On a log scale nothing starts at 0: half a query stands for it.
            None => corners.push((0.5 / n, recall)),
        }
    }
    if let Some(&(_, last)) = corners.last() {
        corners.push((1.0, last));
    }
    corners
}

/// Shares of the queries on a log scale down to half a query (or a thousandth of them).
fn share_axis(smallest: f64) -> Axis {
    let lo = smallest.clamp(0.001, 0.1);
    let ticks = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];
    Axis {
        title: "share of the queries, worst first".into(),
        scale: Scale::Log,
        unit: Unit::Share,
        lo,
        hi: 1.0,
        ticks: ticks.into_iter().filter(|t| *t >= lo * 0.999).map(|t| (t, Unit::Share.label(t))).collect(),
    }
}

fn difficulty(model: &Model, shown: &[(usize, &Point)]) -> Option<Figure> {
    let lid = &model.data.header.dataset.query_lid;
    let buckets: Vec<(usize, Vec<DifficultyBucket>)> = (shown.iter())
        .map(|(series, point)| (*series, metrics::difficulty_deciles(point.setting, lid)))
        .filter(|(_, buckets)| buckets.len() > 1)
        .collect();
    // Every setting answers the same queries, so all share the first one's buckets.
    let (_, scale) = buckets.first()?;
    let mut table = Table::new(&["Index", "Decile", "Local intrinsic dimension", "Queries", "Recall"]);
    let mut marks = Vec::new();
    for (series, buckets) in &buckets {
        let points: Vec<(f64, f64)> = buckets.iter().enumerate().map(|(i, b)| (i as f64, b.recall)).collect();
        marks.push(Mark::Line { series: *series, points });
        for (i, bucket) in buckets.iter().enumerate() {
            marks.push(Mark::Point {
                series: *series,
                at: (i as f64, bucket.recall),
                whisker: None,
                faint: false,
                tip: format!(
                    "{}\n{}, local intrinsic dimension {}\nrecall {}",
                    model.series[*series].name,
                    format::count(bucket.queries, "query", "queries"),
                    dimensions(bucket),
                    format::recall(bucket.recall)
                )
                .into(),
            });
            table.row([
                model.series[*series].name.clone(),
                (i + 1).to_string(),
                dimensions(bucket),
                bucket.queries.to_string(),
                format::recall(bucket.recall),
            ]);
        }
    }
    let x = Axis::positions(
        "local intrinsic dimension of the query, by decile: easy to hard",
        scale.iter().map(dimensions),
    );
    let y = Axis::recall("mean recall", buckets.iter().flat_map(|(_, b)| b).map(|b| b.recall));
    let panel = Panel { title: String::new(), x, y, grid: (false, true), marks };
    Figure {
        id: "difficulty".into(),
        title: "Recall by difficulty".into(),
        caption: "Queries in ten equal groups by the local intrinsic dimension of their true neighbours: the higher, \
                  the more points lie almost as near. Higher and flatter is better."
            .into(),
        plot: Plot { height: 360.0, ..Plot::single(panel) },
        choices: Vec::new(),
        legend: series_legend(model, buckets.iter().map(|(series, _)| *series)),
        table,
    }
    .if_drawn()
}

fn dimensions(bucket: &DifficultyBucket) -> String {
    format!("{:.0}–{:.0}", bucket.lid_min, bucket.lid_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staircase_steps_where_recall_does() {
        let corners = staircase(&[0.5, 0.5, 1.0, 1.0]);
        assert_eq!(corners, [(0.125, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)]);
        assert_eq!(staircase(&[1.0]), [(0.5, 1.0), (1.0, 1.0)]);
        assert!(staircase(&[]).is_empty());
    }
}
