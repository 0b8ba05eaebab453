//! Which indexes differ, and which only seem to.
//!
//! In: one mode of a [`Model`] and a recall level. Out: the indexes measured here by speed, each with its ratio to the
//! fastest, and ranks that only a told difference parts. The tests are those of `kiln compare`: at equal recall, with the
//! variance of passes and of queries, corrected by Holm's procedure, and never below the noise floor.

use kiln_eval::compare::{Contrast, Field, Noise, Series, holm};
use kiln_eval::stats::{AtRecall, Interval};

use crate::format;
use crate::model::{Curve, LEVELS, ModeView, Model};
use crate::table::{Cell, Table};

/// An index at a recall level.
pub struct Ranked<'m, 'a> {
    /// Its curve.
    pub curve: &'m Curve<'a>,
    /// Its queries a second.
    pub qps: Interval,
    /// Every setting of it is more accurate than the level: a bound does not rank.
    pub bound: bool,
    /// Against the fastest; `None` of the fastest itself, and where either figure is a bound.
    pub contrast: Option<Contrast>,
    /// The probability of such a ratio where there is no difference, corrected for all the others that the fastest is held
    /// against.
    pub p_adjusted: f64,
    /// Whether it is told to be slower than the fastest.
    pub told: bool,
    /// 1 for all that are not told from the fastest; the first of the others leads the next rank; `None` for a bound.
    pub rank: Option<usize>,
}

/// The settings of some curves, as tests take them.
fn tested(curves: &[&Curve]) -> Vec<Series> {
    curves.iter().map(|curve| Series::of_run(curve.points.iter().map(|point| point.setting))).collect()
}

/// Those of `curves` that reach a level, the fastest first, each held against the fastest.
pub fn against_fastest<'m, 'a>(curves: &[&'m Curve<'a>], level: f64) -> Vec<Ranked<'m, 'a>> {
    let reached: Vec<&Curve> = curves.iter().copied().filter(|curve| curve.qps_at(level).is_some()).collect();
    ranked(&reached, &Field::new(&tested(&reached), Noise::unknown()), level, false)
}

/// The same; `all_ranks` also asks which of the slower ones differ among themselves. `field` holds the curves in their order.
fn ranked<'m, 'a>(curves: &[&'m Curve<'a>], field: &Field, level: f64, all_ranks: bool) -> Vec<Ranked<'m, 'a>> {
    let mut order: Vec<(usize, Interval)> =
        (curves.iter().enumerate()).filter_map(|(i, curve)| Some((i, curve.qps_at(level)?))).collect();
    order.sort_by(|a, b| b.1.median.total_cmp(&a.1.median));
    let mut found: Vec<Ranked> = (order.iter())
        .map(|&(i, qps)| {
            let curve = curves[i];
            let bound = matches!(curve.at(level, |p| Some(p.qps.median)), Some(AtRecall::Bound(_)));
            Ranked { curve, qps, bound, contrast: None, p_adjusted: 1.0, told: false, rank: None }
        })
        .collect();
    // Those that are no bound, not yet in a rank.
    let mut left: Vec<usize> = (0..found.len()).filter(|&i| !found[i].bound).collect();
    let mut rank = 1;
    let (mut first, mut ahead) = (true, 0);
    while let Some((&leader, others)) = left.split_first() {
        let contrasts: Vec<Option<Contrast>> =
            (others.iter()).map(|&i| field.at_level(order[i].0, order[leader].0, level).contrast).collect();
        let adjusted = holm(&contrasts.iter().flatten().map(Contrast::p).collect::<Vec<_>>());
        let mut adjusted = adjusted.into_iter();
        found[leader].rank = Some(rank);
        let mut slower = Vec::new();
        for (&i, contrast) in others.iter().zip(contrasts) {
            let p = if contrast.is_some() { adjusted.next().unwrap_or(1.0) } else { 1.0 };
            let told = contrast.is_some_and(|contrast| contrast.told(p) == Some(true));
            if first {
                (found[i].contrast, found[i].p_adjusted, found[i].told) = (contrast, p, told);
            }
            if told { slower.push(i) } else { found[i].rank = Some(rank) }
        }
        ahead += left.len() - slower.len();
        rank = ahead + 1;
        first = false;
        left = slower;
        if !all_ranks {
            break;
        }
    }
    found
}

/// What is told at each recall level of a mode; without rows where fewer than two indexes reach one.
pub fn table(model: &Model, mode: &ModeView) -> Table {
    let own: Vec<&Curve> = mode.curves.iter().filter(|c| !model.series[c.series].foreign).collect();
    let mut table = Table::new(&["Index", "Recall", "Rank", "QPS", "Of the fastest", "95% interval", "p", "Verdict"]);
    let reached = |level: f64| own.iter().filter(|curve| curve.qps_at(level).is_some()).count();
    let levels: Vec<f64> = LEVELS.into_iter().filter(|&level| reached(level) > 1).collect();
    if levels.is_empty() {
        return table;
    }
    let series = tested(&own);
    let field = Field::new(&series, Noise::unknown());
    for level in levels {
        let ranked = ranked(&own, &field, level, true);
        for entry in &ranked {
            // The contrast is the fastest over this one; read the other way round, it is this one's part of the fastest.
            let part = entry.contrast.map(|contrast| format!("{:.3}", 1.0 / contrast.ratio()));
            let ends = entry.contrast.and_then(|contrast| contrast.interval());
            let verdict = match (entry.bound, entry.contrast) {
                (true, _) => "not ranked: every setting is more accurate",
                (_, None) if entry.rank == Some(1) => "the fastest",
                (_, None) => "not comparable",
                _ if entry.told => "slower",
                _ => "no detectable difference",
            };
            table.row::<Cell>([
                model.series[entry.curve.series].name.clone().into(),
                format::level(level).into(),
                entry.rank.map_or_else(|| "–".into(), |rank| rank.to_string()).into(),
                format!("{}{}", if entry.bound { "≥ " } else { "" }, format::number(entry.qps.median)).into(),
                part.unwrap_or_else(|| "–".into()).into(),
                ends.map_or_else(|| "–".into(), |(lo, hi)| format!("{:.3} to {:.3}", 1.0 / hi, 1.0 / lo)).into(),
                entry.contrast.map_or_else(|| "–".into(), |_| format::probability(entry.p_adjusted)).into(),
                verdict.into(),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn twins_share_a_rank_and_a_slower_one_does_not() {
        let mut data = fixture::indexes(1);
        for (name, slower) in [("twin", 1.0), ("slow", 1.4)] {
            let mut build = data.builds[0].clone();
            build.key = name.into();
            data.builds.push(build);
            let mut settings = fixture::indexes(1).settings;
            for setting in &mut settings {
                setting.build_key = name.into();
                setting.runs.iter_mut().for_each(|run| run.seconds *= slower);
            }
            data.settings.extend(settings);
        }
        let model = Model::new(&data);
        let table = table(&model, &model.modes[0]);
        let at_95: Vec<Vec<&str>> = (table.rows.iter())
            .filter(|row| row[1].text == ".95")
            .map(|row| [0, 2, 7].map(|cell| row[cell].text.as_str()).to_vec())
            .collect();
        assert_eq!(
            at_95,
            [
                ["vamana", "1", "the fastest"],
                ["vamana #2", "1", "no detectable difference"],
                ["vamana #3", "3", "slower"],
            ]
        );
        let part: f64 = table.rows[5][4].text.parse().expect("a ratio");
        assert!((part - 1.0 / 1.4).abs() < 0.02, "{part}");
    }

    #[test]
    fn what_was_measured_elsewhere_is_not_tested() {
        let data = fixture::imported();
        let model = Model::new(&data);
        assert!(table(&model, &model.modes[0]).rows.is_empty(), "there is only one of our own");
    }
}
