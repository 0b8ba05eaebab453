//! From two sides to a [`Comparison`]: pairs what is alike, tests it, corrects for the number of tests, and says the
//! verdict.

use std::path::Path;

use rayon::prelude::*;

use super::collect::{Engine, Subject, collect, pair_engines};
use super::contrast::{ALPHA, AtLevel, Contrast, Versus};
use super::holm::holm;
use super::matching::{Matched, apart, match_lines};
use super::model::{
    BuildPair, Comparison, DOCUMENT_VERSION, LevelRow, NoiseSummary, Pair, Ratio, RecallChange, RecallRow, RunSummary,
    SettingRow, SideSummary, TypicalQuery, Verdict,
};
use super::noise::Noise;
use super::notes::notes;
use super::sample::{Sampled, Series};
use super::side::{CompareError, Run};
use super::signed_rank::p_along_mean;
use crate::record::BuildRecord;
use crate::stats::{self, AtRecall};

/// What is compared.
pub struct Sides<'a> {
    /// The baseline: its folder and its runs.
    pub a: (&'a Path, &'a [Run]),
    /// What is held against it.
    pub b: (&'a Path, &'a [Run]),
    /// Runs of the program of A (or of B), measured again: what lies between them is noise.
    pub noise: Option<(&'a Path, &'a [Run])>,
}

/// Compares B with A at these recall levels and at equal settings.
///
/// # Errors
/// An A/A run that measured nothing of what A and B have in common.
pub fn compare(sides: &Sides<'_>, levels: &[f64]) -> Result<Comparison, CompareError> {
    let (a, b) = (collect(sides.a.1), collect(sides.b.1));
    let repeated = repeated(sides);
    let mut not_comparable = apart(&a, &b);
    let mut matched = Vec::new();
    for (a, b) in
        a.iter().filter_map(|a| Some((a, b.iter().find(|b| a.conditions.difference(&b.conditions).is_none())?)))
    {
        match_lines(a, b, &mut matched, &mut not_comparable);
    }
    let raw: Vec<RawPair> = matched.par_iter().map(|pair| RawPair::of(pair, &repeated, levels)).collect();
    if let Some((dir, runs)) = sides.noise
        && !raw.is_empty()
        && !raw.iter().any(|raw| raw.noise.is_known())
    {
        return Err(foreign_noise(dir, runs, sides));
    }
    Ok(Comparison {
        version: DOCUMENT_VERSION,
        a: summary(sides.a),
        b: summary(sides.b),
        noise: sides.noise.map(summary),
        recalls: recalls(&matched),
        builds: builds(&a, &b),
        notes: notes(sides, &raw.iter().map(|raw| raw.noise).collect::<Vec<_>>()),
        pairs: decided(&matched, raw, levels),
        not_comparable,
    })
}

/// Runs of the same thing: those of A and the A/A runs of its program, those of B likewise.
fn repeated<'a>(sides: &Sides<'a>) -> Vec<Subject<'a>> {
    let (a, b) = (sides.a.1, sides.b.1);
    let noise = sides.noise.map_or(&[][..], |(_, runs)| runs);
    let programs = |runs: &[Run]| runs.iter().map(Run::program).collect::<Vec<_>>();
    let (of_a, of_b) = (programs(a), programs(b));
    let mut groups: Vec<Vec<&Run>> = vec![a.iter().collect(), b.iter().collect()];
    for run in noise {
        let program = run.program();
        // Where A and B are of one program, what differs is something else: an A/A run repeats A.
        let group = if of_a.contains(&program) {
            0
        } else if of_b.contains(&program) {
            1
        } else {
            let known = groups.iter().skip(2).position(|group| group.iter().any(|known| known.program() == program));
            known.map_or(groups.len(), |at| at + 2)
        };
        match groups.get_mut(group) {
            Some(known) => known.push(run),
            None => groups.push(vec![run]),
        }
    }
    groups.into_iter().filter(|group| group.len() > 1).flat_map(collect).collect()
}

fn foreign_noise(dir: &Path, runs: &[Run], sides: &Sides<'_>) -> CompareError {
    let programs = |runs: &[Run]| {
        let mut programs: Vec<String> = runs.iter().map(Run::program).collect();
        programs.dedup();
        programs.join(" and ")
    };
    let problem = format!(
        "an A/A run measures what A measured a second time (data, machine, k, index, mode), by the same program, which is {} \
         in it and {} in A; or it holds two runs of one program",
        programs(runs),
        programs(sides.a.1),
    );
    CompareError::ForeignNoise { dir: dir.to_path_buf(), problem }
}

/// What the runs of the same thing show about noise under the conditions of a pair.
fn noise_of(pair: &Matched<'_>, repeated: &[Subject<'_>]) -> Noise {
    let alike = repeated.iter().filter(|subject| subject.conditions.difference(&pair.a.0.conditions).is_none());
    let line = pair.a.1;
    let lines = alike.flat_map(|subject| &subject.lines).filter(|l| l.mode == line.mode && l.place == line.place);
    Noise::of(lines.map(|line| &line.series))
}

/// A pair before its p are corrected.
struct RawPair {
    noise: Noise,
    levels: Vec<AtLevel>,
    settings: Vec<(usize, usize, Contrast)>,
}

impl RawPair {
    fn of(pair: &Matched<'_>, repeated: &[Subject<'_>], levels: &[f64]) -> Self {
        let noise = noise_of(pair, repeated);
        let versus = Versus::new(&pair.a.1.series, &pair.b.1.series, noise);
        let settings = pair.equal_settings().into_iter().map(|(a, b)| (a, b, versus.at_setting(a, b))).collect();
        Self { noise, levels: levels.iter().map(|&level| versus.at_level(level)).collect(), settings }
    }
}

/// Corrects every p for the tests of its kind, and says the verdicts.
fn decided(matched: &[Matched<'_>], raw: Vec<RawPair>, levels: &[f64]) -> Vec<Pair> {
    let at_levels = || raw.iter().flat_map(|raw| &raw.levels).filter_map(|row| row.contrast);
    let at_settings = || raw.iter().flat_map(|raw| raw.settings.iter().map(|(_, _, contrast)| contrast));
    let mut level_p = holm(&at_levels().map(|contrast| contrast.p()).collect::<Vec<_>>()).into_iter();
    let setting_p = holm(&at_settings().map(Contrast::p).collect::<Vec<_>>());
    let tests = setting_p.len();
    let mut setting_p = setting_p.into_iter();
    let mut pairs: Vec<Pair> = (matched.iter().zip(&raw))
        .map(|(pair, raw)| {
            let (a, b) = (&pair.a.1.series, &pair.b.1.series);
            let runs = [runs_of(a), runs_of(b)];
            let (one, other) = pair.engines();
            let level_rows =
                levels.iter().zip(&raw.levels).filter_map(|(&level, row)| level_row(level, row, &mut level_p));
            let levels = level_rows.collect();
            let rows = raw.settings.iter().map(|(i, j, contrast)| {
                let p_adjusted = setting_p.next().unwrap_or(1.0);
                SettingRow {
                    params: a.settings[*i].params.clone(),
                    a_qps: a.settings[*i].log_qps().exp(),
                    b_qps: b.settings[*j].log_qps().exp(),
                    ratio: Ratio::of(contrast, p_adjusted),
                    verdict: Verdict::of(contrast, p_adjusted),
                    typical_query: typical_query(&a.settings[*i], &b.settings[*j], contrast, tests),
                }
            });
            Pair {
                dataset: pair.a.0.conditions.dataset.clone(),
                k: pair.a.0.conditions.k,
                index: pair.label(),
                changed: one.changes(other),
                mode: pair.a.1.mode.name(),
                place: pair.a.1.place.words(),
                runs,
                noise: NoiseSummary {
                    floor: raw.noise.floor(runs[0], runs[1]).exp_m1(),
                    from_repeated_runs: raw.noise.is_known(),
                    freedom: raw.noise.freedom,
                },
                levels,
                settings: rows.collect(),
            }
        })
        .collect();
    correct_typical_queries(&mut pairs);
    pairs
}

fn runs_of(series: &Series) -> usize {
    series.settings.iter().map(|setting| setting.sessions.len()).max().unwrap_or(0)
}

/// `None` where recall is unknown on either side.
fn level_row(level: f64, row: &AtLevel, p_adjusted: &mut impl Iterator<Item = f64>) -> Option<LevelRow> {
    let (a, b) = (row.a?, row.b?);
    let ratio = row.contrast.map(|contrast| {
        let p_adjusted = p_adjusted.next().unwrap_or(1.0);
        (Ratio::of(&contrast, p_adjusted), Verdict::of(&contrast, p_adjusted))
    });
    let reason = |side: &str, figure: AtRecall| match figure {
        AtRecall::Value(_) => None,
        AtRecall::Bound(_) => Some(format!("every setting of {side} is above it")),
        AtRecall::Max(_) => Some(format!("{side} does not reach it")),
    };
    let reasons: Vec<String> = [reason("A", a), reason("B", b)].into_iter().flatten().collect();
    Some(LevelRow {
        recall: level,
        a: a.into(),
        b: b.into(),
        ratio: ratio.map(|(ratio, _)| ratio),
        verdict: ratio.map_or(Verdict::NotComparable, |(_, verdict)| verdict),
        reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
    })
}

/// The typical query of a setting that both sides measured; its p is corrected later.
fn typical_query(a: &Sampled, b: &Sampled, contrast: &Contrast, tests: usize) -> Option<TypicalQuery> {
    let paired = contrast.paired(&a.times, &b.times, tests)?;
    Some(TypicalQuery {
        queries: paired.queries,
        ratio: paired.log_ratio.exp(),
        slower: paired.slower,
        p: paired.p,
        p_adjusted: paired.p,
        verdict: Verdict::NoDetectableDifference,
    })
}

fn correct_typical_queries(pairs: &mut [Pair]) {
    let rows = pairs.iter_mut().flat_map(|pair| &mut pair.settings).filter_map(|row| row.typical_query.as_mut());
    let mut rows: Vec<&mut TypicalQuery> = rows.collect();
    let adjusted = holm(&rows.iter().map(|row| row.p).collect::<Vec<_>>());
    for (row, p_adjusted) in rows.iter_mut().zip(adjusted) {
        row.p_adjusted = p_adjusted;
        row.verdict = Verdict::told((p_adjusted <= ALPHA).then_some(row.ratio > 1.0));
    }
}

/// Recall at equal settings. Answers do not depend on the mode: each setting is tested once.
fn recalls(matched: &[Matched<'_>]) -> Vec<RecallRow> {
    let mut rows: Vec<RecallRow> = Vec::new();
    for pair in matched {
        for (i, j) in pair.equal_settings() {
            let (a, b) = (&pair.a.1.series.settings[i], &pair.b.1.series.settings[j]);
            let (dataset, index, place) = (pair.a.0.conditions.dataset.clone(), pair.label(), pair.a.1.place.words());
            let seen = |row: &RecallRow| {
                (&row.dataset, &row.index, &row.place, &row.params) == (&dataset, &index, &place, &a.params)
            };
            if rows.iter().any(seen) || a.query_recall.is_empty() || a.query_recall.len() != b.query_recall.len() {
                continue;
            }
            let both = a.query_recall.iter().zip(&b.query_recall).filter_map(|(a, b)| Some((*b)? - (*a)?));
            let differences: Vec<f64> = both.collect();
            let (Some(difference), Some(interval)) = (stats::mean(&differences), stats::mean_interval(&differences))
            else {
                continue;
            };
            let p = p_along_mean(&differences);
            rows.push(RecallRow {
                dataset,
                index,
                place,
                params: a.params.clone(),
                a: a.recall.unwrap_or(f64::NAN),
                b: b.recall.unwrap_or(f64::NAN),
                difference,
                interval,
                p,
                p_adjusted: p,
                change: RecallChange::NoDetectableDifference,
            });
        }
    }
    let adjusted = holm(&rows.iter().map(|row| row.p).collect::<Vec<_>>());
    for (row, p_adjusted) in rows.iter_mut().zip(adjusted) {
        row.p_adjusted = p_adjusted;
        row.change = match p_adjusted <= ALPHA {
            true if row.difference > 0.0 => RecallChange::Higher,
            true if row.difference < 0.0 => RecallChange::Lower,
            _ => RecallChange::NoDetectableDifference,
        };
    }
    rows
}

/// What building cost, of every index that both sides built or opened.
fn builds(a: &[Subject<'_>], b: &[Subject<'_>]) -> Vec<BuildPair> {
    let mut rows = Vec::new();
    for (a, b) in
        a.iter().filter_map(|a| Some((a, b.iter().find(|b| a.conditions.difference(&b.conditions).is_none())?)))
    {
        for (i, j) in pair_engines(&a.engines, &b.engines) {
            let (one, other) = (&a.engines[i], &b.engines[j]);
            if one.builds.is_empty() || other.builds.is_empty() {
                continue;
            }
            let both = |figure: fn(&BuildRecord) -> f64| {
                let of = |engine: &Engine<'_>| {
                    let known: Vec<f64> =
                        engine.builds.iter().map(|build| figure(build)).filter(|f| *f > 0.0).collect();
                    stats::median(&known)
                };
                Some([of(one)?, of(other)?])
            };
            let rows_of = a.rows.max(1) as f64;
            rows.push(BuildPair {
                dataset: a.conditions.dataset.clone(),
                index: one.label(&a.engines),
                changed: one.changes(other),
                seconds: both(|build| build.total_seconds),
                peak_rss_bytes: both(|build| build.peak_rss_bytes as f64),
                serving_bytes: both(|build| build.serving_bytes as f64),
                bytes_per_vector: both(|build| build.index_bytes as f64).map(|bytes| bytes.map(|b| b / rows_of)),
            });
        }
    }
    rows
}

fn summary((path, runs): (&Path, &[Run])) -> SideSummary {
    let run = |run: &Run| RunSummary {
        path: run.dir.display().to_string(),
        created: run.data.header.created.clone(),
        program: run.program(),
        quick: run.data.header.quick,
        command: run.data.header.command.clone(),
    };
    SideSummary { path: path.display().to_string(), runs: runs.iter().map(run).collect() }
}
