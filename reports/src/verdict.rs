//! The verdict: what the run says, in a sentence or two, and what to know before believing it.
//!
//! In: a [`Model`]. Out: plain text. Nothing is claimed that the intervals do not support.

use kiln_eval::compare::Contrast;
use kiln_eval::record::{Foreign, Mode, SHIFT_NEIGHBOUR, Shift, Skip};
use kiln_eval::stats::AtRecall;

use crate::format;
use crate::model::{Curve, ModeView, Model, shorten};
use crate::told;

/// The verdict of the first mode, at its focus level; and, where the machine is noisy, that it is.
pub fn verdict(model: &Model) -> String {
    let check = model.data.header.noise.as_ref();
    match check.and_then(|check| check.noise()).filter(|noise| noise.noisy) {
        Some(noise) => format!("{} This machine is noisy: {noise}.", of_figures(model)),
        None => of_figures(model),
    }
}

fn of_figures(model: &Model) -> String {
    let Some(mode) = model.primary() else {
        let builds = format::count(model.data.builds.len(), "index was built", "indexes were built");
        return match model.skipped.len() {
            0 if model.data.builds.is_empty() && model.loads.is_empty() && model.peers.is_empty() => {
                "This run is empty: nothing was built and nothing was searched.".into()
            }
            0 => format!("Nothing was searched; {builds}."),
            _ => {
                let fates = [(None, "failed"), (Some(Skip::Pruned), "pruned"), (Some(Skip::TimeBudget), "out of time")];
                let counted = fates.map(|(fate, words)| {
                    let count = model.skipped.iter().filter(|skipped| skipped.setting.skip == fate).count();
                    (count > 0).then(|| format!("{} {words}", format::number(count as f64)))
                });
                let counted: Vec<String> = counted.into_iter().flatten().collect();
                format!("No setting could be measured: {}; {builds}.", counted.join(", "))
            }
        };
    };
    // What was measured elsewhere is shown, and says nothing about this machine.
    let own: Vec<&Curve> = mode.curves.iter().filter(|c| !model.series[c.series].foreign).collect();
    if own.is_empty() {
        return format!(
            "Everything here ({}) was measured elsewhere and imported: it is shown, and not ranked.",
            setup(model, mode)
        );
    }
    let Some(level) = ModeView::focus_of(&own) else {
        return without_level(model, mode, &own);
    };
    let ranked = told::against_fastest(&own, level);
    let name = |curve: &Curve| model.series[curve.series].name.clone();
    let Some((first, others)) = ranked.split_first() else {
        return without_level(model, mode, &own);
    };
    let best = first.curve;
    let at_least = |entry: &told::Ranked| if entry.bound { "at least " } else { "" };
    let speed = |entry: &told::Ranked| format!("{}{}", at_least(entry), format::number(entry.qps.median));
    // Either may be a bound, which leads nobody.
    let lead = others.first().filter(|_| !first.bound).and_then(|second| Some((second.contrast?, second.told)));
    let tied = lead.is_some_and(|(_, told)| !told);
    let mut text = format!("At recall {} ({}), ", format::level(level), setup(model, mode));
    match others.first() {
        Some(second) if second.bound => text.push_str(&format!(
            "{} answers {} queries/s and {} {}; a bound does not rank: search with less effort to compare them",
            name(best),
            speed(first),
            name(second.curve),
            speed(second),
        )),
        Some(second) if tied => text.push_str(&format!(
            "{} and {} show no detectable difference: {} and {} queries/s{}",
            name(best),
            name(second.curve),
            speed(first),
            speed(second),
            lead.map_or_else(String::new, |(contrast, _)| interval("; the ratio", &contrast)),
        )),
        second => {
            text.push_str(&format!("{} answers {} queries/s", name(best), speed(first)));
            let ends = format::ends(first.qps);
            if !ends.is_empty() {
                text.push_str(&format!(" [{ends}]"));
            }
            if let Some(second) = second {
                text.push_str(&format!(
                    ", {}{} times {} ({}{})",
                    at_least(first),
                    format::number(first.qps.median / second.qps.median),
                    name(second.curve),
                    speed(second),
                    lead.map_or_else(String::new, |(contrast, _)| interval("; the ratio", &contrast)),
                ));
            }
        }
    }
    // Those that the test, too, tells from the first.
    let behind = others.iter().skip(1).filter(|other| other.told && !other.bound && !first.bound).count();
    if behind > 0 && !others.first().is_some_and(|second| second.bound) {
        text.push_str(&format!(", ahead of {}", format::count(behind, "other", "others")));
    }
    text.push('.');
    if let Some(p99) = best.at(level, |p| Some(p.latency?.p99)).and_then(AtRecall::value) {
        let build = model.series[best.series].build;
        let ranked = !tied && !others.first().is_some_and(|second| second.bound);
        text.push_str(&format!(
            " {} p99 there is {}{}",
            if ranked { "Its".into() } else { format!("{}'s", name(best)) },
            if first.bound { "at most " } else { "" },
            format::micros(p99),
        ));
        let cost = [
            Some(format!("was built in {}", format::seconds(build.total_seconds)))
                .filter(|_| build.total_seconds > 0.0),
            Some(format!("takes {} on the drive", format::bytes(build.index_bytes as f64)))
                .filter(|_| build.index_bytes > 0),
        ];
        let cost: Vec<String> = cost.into_iter().flatten().collect();
        if !cost.is_empty() {
            text.push_str(&format!("; it {}", cost.join(" and ")));
        }
        text.push('.');
    }
    for curve in own.iter().filter(|c| c.qps_at(level).is_none()) {
        if let Some(max) = curve.frontier_recalls().last() {
            text.push_str(&format!(" {} stops at recall {}.", name(curve), format::recall(*max)));
        }
    }
    text
}

/// `; the ratio is .98 to 1.05 with 95% confidence`.
fn interval(lead: &str, contrast: &Contrast) -> String {
    contrast.interval().map_or_else(String::new, |(lo, hi)| format!("{lead} is {lo:.2} to {hi:.2} with 95% confidence"))
}

/// Nobody reached .90, or recall is unknown.
fn without_level(model: &Model, mode: &ModeView, own: &[&Curve]) -> String {
    let name = |curve: &Curve| &model.series[curve.series].name;
    let accurate = (own.iter().copied())
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
    let fastest = (own.iter().copied())
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
        Mode::BatchDevice { transfers: true } => "all queries in one call to a device".to_string(),
        Mode::BatchDevice { transfers: false } => {
            "all queries in one call to a device, without the way there and back".to_string()
        }
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
    let left_out = |skip| model.skipped.iter().filter(|skipped| skipped.setting.skip == skip).count();
    let reasons = [
        (None, "could not be measured; see Failures."),
        (
            Some(Skip::Pruned),
            "left out after a short probe: others beat them in recall and in throughput; see Failures.",
        ),
        (Some(Skip::TimeBudget), "left out because the time budget ended; a run that is continued measures them."),
    ];
    for (skip, what) in reasons {
        let count = left_out(skip);
        if count > 0 {
            notes.push(format!("{} {what}", format::count(count, "setting", "settings")));
        }
    }
    let imported: Vec<&Foreign> = model.points().filter_map(|p| p.setting.foreign.as_deref()).collect();
    if !imported.is_empty() {
        let mut hardware: Vec<&str> =
            imported.iter().map(|f| f.hardware.as_deref().unwrap_or("hardware unknown")).collect();
        hardware.sort_unstable();
        hardware.dedup();
        let mut rules: Vec<&str> = imported.iter().filter_map(|f| f.recall_rule.as_deref()).collect();
        rules.sort_unstable();
        rules.dedup();
        let rules = match rules.len() {
            0 => String::new(),
            _ => format!(" The recall of some is by their source's rule: {}.", rules.join("; ")),
        };
        notes.push(format!(
            "{} measured elsewhere ({}) and imported: marked “other hardware”, neither ranked nor tested against what was \
             measured here.{rules}",
            format::count(imported.len(), "setting was", "settings were"),
            shorten(&hardware.join("; "), 160),
        ));
    }
    if let Some(shift) = header.dataset.difficulty.as_ref().and_then(|d| d.shift).filter(Shift::is_detected) {
        notes.push(format!(
            "The queries do not come from where the rows do: their {SHIFT_NEIGHBOUR}th nearest row lies {:.2} times as far \
             as that of a row of the base (Kolmogorov-Smirnov {:.2}, p {}).",
            shift.ratio,
            shift.statistic,
            if shift.p_value < 1e-4 { "below .0001".to_string() } else { format!("{:.4}", shift.p_value) }
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
    use kiln_eval::record::{BuildRecord, SettingRecord};

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
        let third = BuildRecord { key: "third".into(), ..data.builds[0].clone() };
        data.builds.push(third);
        let third = |s: &SettingRecord| SettingRecord { build_key: "third".into(), ..s.clone() };
        let settings: Vec<SettingRecord> = data.settings.iter().filter(|s| s.build_key == "twin").map(third).collect();
        data.settings.extend(settings);
        let text = verdict(&Model::new(&data));
        assert!(text.contains(" show no detectable difference") && !text.contains("ahead of"), "{text}");
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
    fn a_noisy_machine_is_named_and_so_is_what_was_left_out() {
        let mut data = fixture::run();
        let quiet = verdict(&Model::new(&data));
        let check = |second: [f64; 3]| kiln_eval::noise::NoiseCheck {
            index: "vamana".into(),
            params: Default::default(),
            mode: "latency-1".into(),
            first: vec![1.0, 1.001, 0.999],
            second: second.into(),
        };
        data.header.noise = Some(check([1.0, 1.001, 0.999]));
        assert_eq!(verdict(&Model::new(&data)), quiet);
        data.header.noise = Some(check([1.3, 1.31, 1.29]));
        let noisy = verdict(&Model::new(&data));
        assert!(
            noisy.starts_with(&quiet) && noisy.contains("This machine is noisy: the same setting twice"),
            "{noisy}"
        );
        for (setting, skip) in [(0, Skip::Pruned), (1, Skip::Pruned), (2, Skip::TimeBudget)] {
            data.settings[setting].failure = Some("left out".into());
            data.settings[setting].skip = Some(skip);
        }
        let notes = notes(&Model::new(&data)).join(" ");
        assert!(notes.contains("2 settings left out after a short probe"), "{notes}");
        assert!(notes.contains("1 setting left out because the time budget ended"), "{notes}");
        assert!(!notes.contains("could not be measured"), "{notes}");
    }

    #[test]
    fn what_was_measured_elsewhere_is_not_ranked() {
        let mut data = fixture::imported();
        let model = Model::new(&data);
        let text = verdict(&model);
        assert!(text.contains("vamana answers") && !text.contains("ivf-pq") && !text.contains(" times "), "{text}");
        let notes = notes(&model);
        let note = notes.iter().find(|note| note.contains("measured elsewhere")).expect("a note");
        assert!(
            note.contains("24 settings were") && note.contains("NVIDIA H100") && note.contains("cuvs-bench"),
            "{note}"
        );
        let names: Vec<&str> = model.series.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["vamana", "ivf-pq [other hardware]"]);
        // It is on the charts.
        let drawn = model.modes[0].curves.iter().find(|c| model.series[c.series].foreign).expect("drawn");
        assert!(drawn.points.len() == 8 && drawn.points.iter().all(|p| p.latency.is_none() && p.recall.is_some()));

        let keys: Vec<String> = data.builds.iter().map(|build| build.key.clone()).collect();
        data.settings.retain(|setting| setting.build_key == keys[1]);
        let text = verdict(&Model::new(&data));
        assert!(text.starts_with("Everything here (") && text.contains("not ranked"), "{text}");
    }

    #[test]
    fn queries_from_elsewhere_are_noted() {
        let mut data = fixture::run();
        let mut found = kiln_eval::record::Difficulty {
            queries: 500,
            rows: 500,
            lid_queries: Some(31.4),
            lid_rows: Some(20.1),
            relative_contrast: Some(1.42),
            shift: Some(Shift { statistic: 0.61, p_value: 1e-60, ratio: 1.7 }),
        };
        data.header.dataset.difficulty = Some(found.clone());
        let told = notes(&Model::new(&data));
        assert!(told[0].contains("1.70 times as far") && told[0].contains("p below .0001"), "{told:?}");
        let table = crate::summary::provenance(&data.header);
        let row = table.rows.iter().find(|row| row[0].text == "Difficulty").expect("a row");
        for says in ["31.4 around queries", "relative contrast 1.42", "queries lie elsewhere than rows", "500 queries"]
        {
            assert!(row[1].text.contains(says), "{}", row[1].text);
        }
        found.shift = Some(Shift { statistic: 0.03, p_value: 0.9, ratio: 1.01 });
        data.header.dataset.difficulty = Some(found);
        assert!(notes(&Model::new(&data)).is_empty());
    }

    #[test]
    fn a_run_without_truth_or_settings_says_so() {
        let mut data = fixture::indexes(1);
        for setting in &mut data.settings {
            setting.answers.strict_hits.clear();
        }
        let text = verdict(&Model::new(&data));
        assert!(text.starts_with("Recall is unknown"), "{text}");
        for (number, setting) in data.settings.iter_mut().enumerate() {
            setting.failure = Some("none".into());
            setting.skip = (number > 0).then_some(Skip::TimeBudget);
        }
        let text = verdict(&Model::new(&data));
        let late = data.settings.len() - 1;
        assert_eq!(text, format!("No setting could be measured: 1 failed, {late} out of time; 1 index was built."));
        data.settings.clear();
        assert_eq!(verdict(&Model::new(&data)), "Nothing was searched; 1 index was built.");
        assert!(notes(&Model::new(&data)).is_empty());
    }
}
