//! Settings chosen by some of the queries and reported on the others.
//!
//! In: a finished run. Out: for each index, mode and recall level the fastest setting that reaches the level on the
//! queries that choose, with its figures on those that were held out. Whoever picks the best of many settings by the
//! queries that he then reports on reports his luck along with it: the best of forty recalls is an overestimate.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::metrics;
use crate::record::{IoState, Mode, RunData, SettingRecord};
use crate::stats;

/// Recall levels at which a setting is chosen.
pub const LEVELS: [f64; 3] = [0.90, 0.95, 0.99];

/// The queries by which no setting is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Their part of all queries, above 0 and below 1.
    pub fraction: f64,
    /// Draws them.
    pub seed: u64,
}

impl HeldOut {
    /// Whether each of `queries` queries is held out. At least one is where there are two, and at least one is not.
    pub fn mask(&self, queries: usize) -> Vec<bool> {
        let wanted = (queries as f64 * self.fraction).round() as usize;
        let held_out = wanted.clamp(1, queries.saturating_sub(1).max(1)).min(queries.saturating_sub(1));
        let mut mask: Vec<bool> = (0..queries).map(|query| query < held_out).collect();
        mask.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed));
        mask
    }
}

/// Strict recall of `setting` over the queries whose place in `mask` is `wanted`; all queries where there is no mask.
/// `None` where none of them has a known neighbour.
pub fn recall_of(setting: &SettingRecord, mask: Option<&[bool]>, wanted: bool) -> Option<f64> {
    let answers = &setting.answers;
    let of = |query: usize| mask.is_none_or(|mask| mask.get(query) == Some(&wanted));
    let recalls: Vec<f64> = (answers.strict_hits.iter().zip(&answers.possible).enumerate())
        .filter(|&(query, (_, &possible))| possible > 0 && of(query))
        .map(|(_, (&hits, &possible))| f64::from(hits) / f64::from(possible))
        .collect();
    stats::mean(&recalls)
}

/// A setting that was chosen, and what it is worth on queries that did not choose it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// The [`SettingRecord::key`].
    pub setting: String,
    /// The [`SettingRecord::build_key`].
    pub build_key: String,
    /// How it was driven.
    pub mode: String,
    /// Where the index was.
    pub residency: String,
    /// The recall that was to be reached.
    pub level: f64,
    /// Recall on the queries that chose.
    pub recall_tuned: f64,
    /// Recall on the queries that were held out.
    pub recall_held_out: f64,
    /// Queries a second, all queries of a pass: a pass answers both kinds.
    pub qps: f64,
    /// p50 and p99 in microseconds over the queries that were held out; `None` in batch mode.
    pub latency_us_held_out: Option<(f64, f64)>,
}

/// The choices of a run; none where no queries were held out.
pub fn choices(data: &RunData) -> Vec<Choice> {
    let Some(held_out) = data.header.held_out else { return Vec::new() };
    let mask = held_out.mask(data.header.dataset.queries);
    let mut groups: Vec<(Group<'_>, Vec<&SettingRecord>)> = Vec::new();
    for setting in data.settings.iter().filter(|setting| setting.failure.is_none()) {
        let group = Group::of(setting);
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, members)) => members.push(setting),
            None => groups.push((group, vec![setting])),
        }
    }
    let chosen = |members: &[&SettingRecord], level: f64| {
        let rated = members.iter().filter_map(|&setting| {
            let tuned = recall_of(setting, Some(&mask), false).filter(|recall| *recall >= level)?;
            Some((setting, tuned, metrics::qps(setting)?.median))
        });
        // Of equally fast ones the first: the least effort.
        let (setting, recall_tuned, qps) = rated.reduce(|best, next| if next.2 > best.2 { next } else { best })?;
        Some(Choice {
            setting: setting.key.clone(),
            build_key: setting.build_key.clone(),
            mode: setting.mode.name(),
            residency: setting.residency.clone(),
            level,
            recall_tuned,
            recall_held_out: recall_of(setting, Some(&mask), true)?,
            qps,
            latency_us_held_out: latency_of(setting, &mask),
        })
    };
    groups.iter().flat_map(|(_, members)| LEVELS.into_iter().filter_map(|level| chosen(members, level))).collect()
}

/// Settings of which one is chosen: those of one index in one place and mode.
#[derive(PartialEq)]
struct Group<'a> {
    build_key: &'a str,
    mode: Mode,
    residency: &'a str,
    io_state: Option<IoState>,
    memory: Option<u64>,
}

impl<'a> Group<'a> {
    fn of(setting: &'a SettingRecord) -> Self {
        Self {
            build_key: &setting.build_key,
            mode: setting.mode,
            residency: &setting.residency,
            io_state: setting.io_state,
            memory: setting.memory_budget,
        }
    }
}

fn latency_of(setting: &SettingRecord, mask: &[bool]) -> Option<(f64, f64)> {
    let kept: Vec<Vec<f32>> = (setting.runs.iter())
        .map(|run| run.latency_us.iter().zip(mask).filter(|(_, held)| **held).map(|(&us, _)| us).collect())
        .collect();
    stats::latency(kept.iter().map(Vec::as_slice)).map(|latency| (latency.p50, latency.p99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_holds_out_its_part_and_never_all() {
        let held =
            |fraction, queries| HeldOut { fraction, seed: 3 }.mask(queries).into_iter().filter(|held| *held).count();
        assert_eq!((held(0.2, 500), held(0.5, 3), held(0.001, 10), held(0.999, 10)), (100, 2, 1, 9));
        assert_eq!((held(0.5, 1), held(0.5, 0)), (0, 0));
        let mask = HeldOut { fraction: 0.3, seed: 3 }.mask(100);
        assert_eq!(mask, HeldOut { fraction: 0.3, seed: 3 }.mask(100));
        assert_ne!(mask, HeldOut { fraction: 0.3, seed: 4 }.mask(100));
    }
}
