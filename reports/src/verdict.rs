//! The verdict: what the run says, in a sentence or two, and what to know before believing it.
//!
//! In: a [`Model`]. Out: plain text. Nothing is claimed that the intervals do not support.

use kiln_eval::compare::{Contrast, Noise, Series, Versus, holm, turn_seconds};
use kiln_eval::record::Mode;
use kiln_eval::stats::{AtRecall, Interval};

use crate::format;
use crate::model::{Curve, ModeView, Model};

/// The verdict of the first mode, at its focus level.
pub fn verdict(model: &Model) -> String {
    let Some(mode) = model.primary() else {
        let builds = format::count(model.data.builds.len(), "index was built", "indexes were built");
        return match model.skipped.len() {
            0 => format!("Nothing was searched; {builds}."),
            n => format!("No setting could be measured: {}; {builds}.", format::count(n, "failed", "failed")),
        };
    };
    let Some(level) = mode.focus() else {
        return without_level(model, mode);
    };
    let mut ranked: Vec<(&Curve, Interval)> = mode.curves.iter().filter_map(|c| Some((c, c.qps_at(level)?))).collect();
    ranked.sort_by(|a, b| b.1.median.total_cmp(&a.1.median));
    let name = |curve: &Curve| model.series[curve.series].name.clone();
    let Some(((best, qps), others)) = ranked.split_first() else {
        return without_level(model, mode);
    };
    let bounded = |curve: &Curve| matches!(curve.at(level, |p| Some(p.qps.median)), Some(AtRecall::Bound(_)));
    let at_least = |curve: &Curve| if bounded(curve) { "at least " } else { "" };
    let speed = |curve: &Curve, qps: &Interval| format!("{}{}", at_least(curve), format::number(qps.median));
    let lead = lead(model, level, best, others);
    let tied = lead.is_some_and(|(_, told)| !told);
    let mut text = format!("At recall {} ({}), ", format::level(level), setup(model, mode));
    match others.first() {
        Some((second, next)) if bounded(second) => text.push_str(&format!(
            "{} answers {} queries/s and {} {}; a bound does not rank: search with less effort to compare them",
            name(best),
            speed(best, qps),
            name(second),
            speed(second, next),
        )),
        Some((second, next)) if tied => text.push_str(&format!(
            "{} and {} show no detectable difference: {} and {} queries/s{}",
            name(best),
            name(second),
            speed(best, qps),
            speed(second, next),
            lead.map_or_else(String::new, |(contrast, _)| interval("; the ratio", &contrast)),
        )),
        second => {
            text.push_str(&format!("{} answers {} queries/s", name(best), speed(best, qps)));
            let ends = format::ends(*qps);
            if !ends.is_empty() {
                text.push_str(&format!(" [{ends}]"));
            }
            if let Some((second, next)) = second {
                text.push_str(&format!(
                    ", {}{} times {} ({}{})",
                    at_least(best),
                    format::number(qps.median / next.median),
                    name(second),
                    speed(second, next),
                    lead.map_or_else(String::new, |(contrast, _)| interval("; the ratio", &contrast)),
                ));
            }
        }
    }
    if others.len() > 1 {
        text.push_str(&format!(", ahead of {}", format::count(others.len() - 1, "other", "others")));
    }
    text.push('.');
    if let Some(p99) = best.at(level, |p| Some(p.latency?.p99)).and_then(AtRecall::value) {
        let build = model.series[best.series].build;
        let ranked = !tied && !others.first().is_some_and(|(second, _)| bounded(second));
        text.push_str(&format!(
            " {} p99 there is {}{}; it was built in {} and takes {} on the drive.",
            if ranked { "Its".into() } else { format!("{}'s", name(best)) },
            if bounded(best) { "at most " } else { "" },
            format::micros(p99),
            format::seconds(build.total_seconds),
            format::bytes(build.index_bytes as f64),
        ));
    }
    for curve in mode.curves.iter().filter(|c| c.qps_at(level).is_none()) {
        if let Some(max) = curve.frontier_recalls().last() {
            text.push_str(&format!(" {} stops at recall {}.", name(curve), format::recall(*max)));
        }
    }
    text
}

/// The leader against the next, and whether its lead is told: by the tests of `kiln compare`, corrected for all the others
/// that the leader is held against. `None` where there is no other, or either figure is a bound.
fn lead(model: &Model, level: f64, best: &Curve, others: &[(&Curve, Interval)]) -> Option<(Contrast, bool)> {
    let turn = turn_seconds(model.data.header.quick);
    let series = |curve: &Curve| Series::of_run(curve.points.iter().map(|point| point.setting), turn);
    let leader = series(best);
    let against = |curve: &Curve| Versus::new(&series(curve), &leader, Noise::unknown()).at_level(level).contrast;
    let contrasts: Vec<Option<Contrast>> = others.iter().map(|(curve, _)| against(curve)).collect();
    let adjusted = holm(&contrasts.iter().flatten().map(Contrast::p).collect::<Vec<_>>());
    let next = (*contrasts.first()?)?;
    Some((next, next.told(*adjusted.first()?) == Some(true)))
}

/// `; the ratio is .98 to 1.05 with 95% confidence`.
fn interval(lead: &str, contrast: &Contrast) -> String {
    contrast.interval().map_or_else(String::new, |(lo, hi)| format!("{lead} is {lo:.2} to {hi:.2} with 95% confidence"))
}

/// Nobody reached .90, or recall is unknown.
fn without_level(model: &Model, mode: &ModeView) -> String {
    let name = |curve: &Curve| &model.series[curve.series].name;
    let accurate = (mode.curves.iter())
        .filter_map(|c| Some((c, *c.frontier_recalls().last()?)))
        .max_by(|a, b| a.1.total_cmp(&b.1));
    if let Some((curve, recall)) = accurate {
        return format!(
            "No index reached recall .90 ({}); the most accurate, {}, stops at {}.",
            setup(model, mode),
            name(curve),
            format::recall(recall)
        );
    }
    let fastest = (mode.curves.iter())
        .flat_map(|c| c.points.iter().map(move |p| (c, p.qps.median)))
        .max_by(|a, b| a.1.total_cmp(&b.1));
    let speed = fastest.map_or_else(String::new, |(curve, qps)| {
        format!(" The fastest setting answers {} queries/s ({}).", format::number(qps), name(curve))
    });
    format!("Recall is unknown, so nothing can be compared: the data set has no ground truth.{speed}")
}

fn setup(model: &Model, mode: &ModeView) -> String {
    let header = &model.data.header;
    let threads = match mode.mode {
        Mode::Latency1 => "one query at a time".to_string(),
        Mode::Throughput { threads } => format::count(threads, "thread", "threads"),
        Mode::Batch { threads } => format!("all queries at once on {}", format::count(threads, "thread", "threads")),
    };
    format!("{}, k = {}, {threads}", header.dataset.name, header.k)
}

/// What a reader should know before believing the figures.
pub fn notes(model: &Model) -> Vec<String> {
    let header = &model.data.header;
    let mut notes = Vec::new();
    if header.quick {
        notes.push(
            "Measured with --quick: fewer runs than the methodology asks, so intervals are wider or unreliable.".into(),
        );
    }
    if header.machine.dirty == Some(true) {
        notes.push("The source differed from the commit that is named below.".into());
    }
    notes.extend(header.dataset.warnings.iter().map(|w| format!("Data set: {w}.")));
    let unsettled = model.points().filter(|p| !p.setting.warmup.settled).count();
    if unsettled > 0 {
        notes.push(format!(
            "{} did not settle during warm-up (three windows within 2%); ⚠ marks them in the tables.",
            format::count(unsettled, "setting", "settings")
        ));
    }
    let warm: usize = (model.modes.iter().flat_map(|m| &m.curves))
        .map(|curve| {
            let file = model.series[curve.series].build.index_bytes;
            curve.points.iter().map(|p| kiln_eval::metrics::passes_begun_warm(p.setting, file)).sum::<usize>()
        })
        .sum();
    if warm > 0 {
        notes.push(format!(
            "{} in state cold began with part of the index in the page cache: the system did not let go of it; ⚠ marks \
             the settings in the tables.",
            format::count(warm, "pass", "passes")
        ));
    }
    if !model.skipped.is_empty() {
        notes.push(format!(
            "{} could not be measured; see Failures.",
            format::count(model.skipped.len(), "setting", "settings")
        ));
    }
    let unjudged = model.points().filter(|p| p.recall.is_none()).count();
    if unjudged > 0 {
        notes.push(format!(
            "Recall is unknown for {}: they are in the tables, not on charts against recall.",
            format::count(unjudged, "setting", "settings")
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn the_leader_is_named_with_its_lead() {
        let data = fixture::run();
        let text = verdict(&Model::new(&data));
        assert!(
            text.starts_with("At recall .95 (photosift-128-euclidean, k = 10, one query at a time), vamana answers"),
            "{text}"
        );
        assert!(text.contains(" times ivf-pq ("), "{text}");
    }

    #[test]
    fn overlapping_intervals_are_no_lead() {
        let mut data = fixture::indexes(1);
        let mut twin = data.builds[0].clone();
        twin.key = "twin".into();
        data.builds.push(twin);
        let mut settings = data.settings.clone();
        settings.iter_mut().for_each(|s| s.build_key = "twin".into());
        data.settings.extend(settings);
        let text = verdict(&Model::new(&data));
        assert!(text.contains("vamana and vamana #2 show no detectable difference"), "{text}");
    }

    #[test]
    fn a_lead_below_the_noise_floor_is_none() {
        let mut data = fixture::indexes(1);
        let mut twin = data.builds[0].clone();
        twin.key = "twin".into();
        data.builds.push(twin);
        for (slower, lead) in [(1.015, false), (1.2, true)] {
            let mut settings = fixture::indexes(1).settings;
            data.settings = settings.clone();
            for setting in &mut settings {
                setting.build_key = "twin".into();
                setting.runs.iter_mut().for_each(|run| run.seconds *= slower);
            }
            data.settings.extend(settings);
            let text = verdict(&Model::new(&data));
            assert_eq!(text.contains(" times vamana #2 ("), lead, "{text}");
            assert!(text.contains("with 95% confidence"), "{text}");
        }
    }

    #[test]
    fn bounds_do_not_rank() {
        let mut data = fixture::run();
        for setting in &mut data.settings {
            setting.answers.strict_hits = setting.answers.possible.clone();
        }
        let text = verdict(&Model::new(&data));
        assert!(text.contains("answers at least ") && text.contains("a bound does not rank"), "{text}");
        assert!(!text.contains(" times "), "{text}");
    }

    #[test]
    fn a_run_without_truth_or_settings_says_so() {
        let mut data = fixture::indexes(1);
        for setting in &mut data.settings {
            setting.answers.strict_hits.clear();
        }
        let text = verdict(&Model::new(&data));
        assert!(text.starts_with("Recall is unknown"), "{text}");
        data.settings.clear();
        assert_eq!(verdict(&Model::new(&data)), "Nothing was searched; 1 index was built.");
        assert!(notes(&Model::new(&data)).is_empty());
    }
}
