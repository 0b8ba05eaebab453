//! How often the comparison is wrong: differences told where there are none, and slowdowns that are missed.
//!
//! Two sources of raw times. Stored ones: [`STORED`] holds what a full run measured on a shared virtual machine, turn by turn;
//! the sides of a comparison draw its turns anew, so that nothing differs but what differs between its turns. [`STORED_RUNS`]
//! holds several runs, of which each side has others. Made-up ones, where the truth is known: a mood of the machine that wanders from turn to turn, passes that stumble, queries of very different
//! cost, and a shift from run to run that no run can see in its own passes.

use rand::seq::index::sample;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::json;

use std::path::{Path, PathBuf};

use super::*;
use crate::record::{RunData, RunHeader, SettingRecord};

const STORED: &str = include_str!("../../data/stored-run.json");
const STORED_RUNS: &str = include_str!("../../data/stored-runs.json");

/// Comparisons behind a rate.
const COMPARISONS: usize = 500;
/// Of comparisons of equals, the part that may tell a difference.
const FALSE_AT_MOST: f64 = 0.08;
/// Of comparisons with a 5% slowdown, the part that must tell it.
const FOUND_AT_LEAST: f64 = 0.90;

/// Raw times of several runs of the same thing.
#[derive(Clone, Deserialize)]
struct Stored {
    /// Where they are from.
    source: String,
    runs: Vec<StoredRun>,
}

#[derive(Clone, Deserialize)]
struct StoredRun {
    settings: Vec<StoredSetting>,
}

#[derive(Clone, Deserialize)]
struct StoredSetting {
    mode: serde_json::Value,
    /// The search parameter, whatever it is called.
    effort: u32,
    /// Milliseconds of passes, by turn.
    turns: Vec<Vec<f64>>,
    /// Microseconds of every query, of some passes.
    latency_us: Vec<Vec<f32>>,
    /// Of every query, true neighbours among its ten.
    hits: Vec<u16>,
}

/// What is compared with what.
#[derive(Clone, Copy)]
struct Design {
    /// Runs of either side.
    runs: usize,
    /// A/A runs beside them.
    noise: usize,
    /// How many times as long B takes.
    slower: f64,
    /// Turns to draw of each setting; `None`: as many as it has.
    turns: Option<usize>,
}

/// How many comparisons told something.
#[derive(Debug, Default, Clone, Copy)]
struct Told {
    comparisons: usize,
    /// A recall level is faster or slower.
    levels: usize,
    /// An equal setting is.
    settings: usize,
    /// The typical query of an equal setting is.
    queries: usize,
    /// Recall at an equal setting differs.
    recall: usize,
    /// Any of these.
    any: usize,
    /// A recall level is slower, and none is faster.
    slower: usize,
    /// All levels are slower.
    all_slower: usize,
}

impl Told {
    fn of(comparison: &Comparison) -> Self {
        let moved = |verdict: Verdict| matches!(verdict, Verdict::Faster | Verdict::Slower);
        let rows = || comparison.pairs.iter().flat_map(|pair| &pair.settings);
        let verdicts: Vec<Verdict> = comparison.deciding().map(|decision| decision.verdict).collect();
        let levels = verdicts.iter().any(|&verdict| moved(verdict));
        let settings = rows().any(|row| moved(row.verdict));
        let queries = rows().filter_map(|row| row.typical_query).any(|typical| moved(typical.verdict));
        let recall = comparison.recalls.iter().any(|row| row.change != RecallChange::NoDetectableDifference);
        let slower = verdicts.contains(&Verdict::Slower) && !verdicts.contains(&Verdict::Faster);
        assert!(verdicts.len() >= 2, "too little was compared");
        Self {
            comparisons: 1,
            levels: levels.into(),
            settings: settings.into(),
            queries: queries.into(),
            recall: recall.into(),
            any: (levels || settings || queries || recall).into(),
            slower: slower.into(),
            all_slower: verdicts.iter().all(|&verdict| verdict == Verdict::Slower).into(),
        }
    }

    fn add(self, other: Self) -> Self {
        Self {
            comparisons: self.comparisons + other.comparisons,
            levels: self.levels + other.levels,
            settings: self.settings + other.settings,
            queries: self.queries + other.queries,
            recall: self.recall + other.recall,
            any: self.any + other.any,
            slower: self.slower + other.slower,
            all_slower: self.all_slower + other.all_slower,
        }
    }

    fn part(&self, count: usize) -> f64 {
        count as f64 / self.comparisons as f64
    }

    fn assert_false_alarms_are_rare(&self, what: &str) {
        println!(
            "{what}: of {} comparisons of equals {:.1}% tell a difference (levels {:.1}%, settings {:.1}%, typical query \
             {:.1}%, recall {:.1}%)",
            self.comparisons,
            100.0 * self.part(self.any),
            100.0 * self.part(self.levels),
            100.0 * self.part(self.settings),
            100.0 * self.part(self.queries),
            100.0 * self.part(self.recall),
        );
        assert!(self.part(self.any) <= FALSE_AT_MOST, "{what}: {self:?}");
    }

    fn assert_slowdown_is_found(&self, what: &str) {
        println!(
            "{what}: of {} comparisons with a slowdown of 5% {:.1}% tell it ({:.1}% at every level)",
            self.comparisons,
            100.0 * self.part(self.slower),
            100.0 * self.part(self.all_slower),
        );
        assert!(self.part(self.slower) >= FOUND_AT_LEAST, "{what}: {self:?}");
    }
}

/// Compares `COMPARISONS` times, each with runs and turns of its own.
fn told(design: Design, stored: impl Fn(&mut ChaCha8Rng) -> Stored + Sync) -> Told {
    let compare_once = |seed: usize| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
        let stored = stored(&mut rng);
        let (held, wanted) = (stored.runs.len(), 2 * design.runs + design.noise);
        // Different runs for the sides, where there are enough.
        let drawn: Vec<usize> = match held >= wanted {
            true => sample(&mut rng, held, wanted).into_vec(),
            false => (0..wanted).map(|run| run % held).collect(),
        };
        let mut drawn = drawn.into_iter();
        let mut side = |name: &str, runs: usize, slower: f64| -> Vec<Run> {
            (0..runs)
                .filter_map(|number| {
                    let run = &stored.runs[drawn.next()?];
                    Some(Run {
                        dir: PathBuf::from(format!("{name}/{number}")),
                        data: resampled(run, slower, design.turns, &mut rng),
                    })
                })
                .collect()
        };
        let (a, b) = (side("a", design.runs, 1.0), side("b", design.runs, design.slower));
        let noise = side("noise", design.noise, 1.0);
        let noise = (design.noise > 0).then_some((Path::new("noise"), noise.as_slice()));
        let comparison =
            compare(&Sides { a: (Path::new("a"), &a), b: (Path::new("b"), &b), noise }, &[0.90, 0.95, 0.98]);
        Told::of(&comparison.expect("the runs are alike"))
    };
    (0..COMPARISONS).into_par_iter().map(compare_once).reduce(Told::default, Told::add)
}

/// A run whose turns, and whose timed passes, are drawn anew from a stored one; everything takes `slower` times as long.
fn resampled(run: &StoredRun, slower: f64, wanted: Option<usize>, rng: &mut ChaCha8Rng) -> RunData {
    let settings = run.settings.iter().enumerate().map(|(number, setting)| {
        let turns = &setting.turns;
        let wanted = wanted.unwrap_or(turns.len());
        let drawn: Vec<&Vec<f64>> = (0..wanted).map(|_| &turns[rng.random_range(0..turns.len())]).collect();
        let mut runs: Vec<serde_json::Value> = (drawn.into_iter().enumerate())
            .flat_map(|(turn, passes)| passes.iter().map(move |ms| (turn, ms * slower / 1e3)))
            .map(|(turn, seconds)| json!({ "seconds": seconds, "turn": turn, "latency_us": [] }))
            .collect();
        for run in runs.iter_mut().take(setting.latency_us.len()) {
            let pass = &setting.latency_us[rng.random_range(0..setting.latency_us.len())];
            run["latency_us"] = pass.iter().map(|us| f64::from(*us) * slower).collect();
        }
        let queries = setting.hits.len();
        serde_json::from_value::<SettingRecord>(json!({
            "key": format!("s{number}"), "build_key": "b", "params": { "effort": setting.effort },
            "mode": setting.mode, "residency": "memory", "k": 10, "warmup": { "seconds": 1.0, "settled": true },
            "runs": runs, "failure": null,
            "answers": {
                "strict_hits": setting.hits, "id_hits": setting.hits, "ann_hits": setting.hits, "possible": vec![10; queries],
                "distances": vec![1; queries], "hops": [], "pages": [], "bytes": [],
            },
        }))
        .expect("a setting")
    });
    let settings = settings.collect();
    let build = json!({
        "key": "b", "index": "vamana", "path": "v.kiln", "params": {}, "device": "cpu", "threads": 2, "stage_seconds": [],
        "total_seconds": 1.0, "cpu_seconds": 2.0, "peak_rss_bytes": 1, "index_bytes": 1, "serving_bytes": 1,
    });
    let builds = vec![serde_json::from_value(build).expect("a build")];
    RunData { header: header(run.settings[0].hits.len()), builds, settings, peers: Vec::new(), loads: Vec::new() }
}

fn header(queries: usize) -> RunHeader {
    serde_json::from_value(json!({
        "schema": 1, "created": "2026-11-28T00:00:00Z", "command": "kiln bench", "k": 10, "quick": false,
        "machine": {
            "cpu": "a CPU", "cpus": 2, "isa": "avx512", "features": [], "governor": null, "memory_bytes": 1,
            "memory_limit_bytes": null, "cpu_limit": null, "kernel": "6", "filesystem": null, "drive": null, "gpu": null,
            "rustc": "rustc", "build_flags": "release", "kiln_version": "0.1.0", "commit": "c", "dirty": false,
        },
        "dataset": {
            "name": "set", "path": "set.hdf5", "fingerprint": "f", "sha256": null, "rows": 1000, "dim": 8, "queries": queries,
            "dtype": "f32", "metric": "l2", "truth_depth": 10, "query_lid": [], "warnings": [],
        },
    }))
    .expect("a header")
}

/// How noisy a made-up machine is.
#[derive(Clone, Copy)]
struct Machine {
    /// Turns of a setting, and passes in a turn.
    turns: usize,
    passes: usize,
    /// Deviation of the mood that wanders from turn to turn and moves all settings together; of each pass; and from run to
    /// run, all as parts of one.
    mood: f64,
    pass: f64,
    run: f64,
}

const QUERIES: usize = 60;
/// Recall, and microseconds of a typical query.
const SETTINGS: [(u32, f64, f64); 4] = [(10, 0.86, 20.0), (20, 0.93, 31.0), (40, 0.97, 52.0), (80, 0.99, 95.0)];

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.random_range(0.0..1.0f64)).sum::<f64>() - 6.0
}

/// `runs` runs on a made-up machine.
fn made_up(machine: Machine, runs: usize, rng: &mut ChaCha8Rng) -> Stored {
    let costs: Vec<f64> = (0..QUERIES).map(|_| (0.35 * normal(rng)).exp()).collect();
    let hits: Vec<Vec<u16>> = (SETTINGS.iter())
        .map(|(_, recall, _)| {
            // To the query: what 600 draws give would change the recall from one comparison to the next.
            let whole = (recall * 10.0 * QUERIES as f64).round() as usize;
            (0..QUERIES).map(|query| (whole / QUERIES + usize::from(query < whole % QUERIES)) as u16).collect()
        })
        .collect();
    let run = |rng: &mut ChaCha8Rng| {
        let shift = machine.run * normal(rng);
        // What another place in memory does to one setting and not to the next.
        let own: Vec<f64> = SETTINGS.iter().map(|_| 0.3 * machine.run * normal(rng)).collect();
        let mut mood = machine.mood * normal(rng);
        let mut turns = vec![Vec::new(); SETTINGS.len()];
        for _ in 0..machine.turns {
            for (setting, (_, _, us)) in SETTINGS.iter().enumerate() {
                // Settings have their turns after one another: the mood of one is nearly that of the next.
                mood = 0.9 * mood + (1.0f64 - 0.81).sqrt() * machine.mood * normal(rng);
                let pass = |rng: &mut ChaCha8Rng| {
                    let stumbles = if rng.random_range(0.0..1.0) < 0.03 { rng.random_range(0.05..0.5) } else { 0.0 };
                    let off = shift + own[setting] + mood + machine.pass * normal(rng) + stumbles;
                    us * QUERIES as f64 / 1e3 * off.exp()
                };
                turns[setting].push((0..machine.passes).map(|_| pass(rng)).collect::<Vec<f64>>());
            }
        }
        let settings = SETTINGS.iter().enumerate().map(|(setting, (effort, _, us))| {
            let timed = |rng: &mut ChaCha8Rng| -> Vec<f32> {
                let off = shift + own[setting] + machine.mood * normal(rng);
                costs.iter().map(|cost| (us * cost * (off + 0.08 * normal(rng)).exp()) as f32).collect()
            };
            StoredSetting {
                mode: json!({ "mode": "latency1" }),
                effort: *effort,
                turns: std::mem::take(&mut turns[setting]),
                latency_us: (0..6).map(|_| timed(rng)).collect(),
                hits: hits[setting].clone(),
            }
        });
        StoredRun { settings: settings.collect() }
    };
    Stored { source: "made up".into(), runs: (0..runs).map(|_| run(rng)).collect() }
}

/// A full measurement: ten turns of a setting; a quick one: three.
const FULL: Machine = Machine { turns: 10, passes: 6, mood: 0.01, pass: 0.015, run: 0.0 };

#[test]
fn made_up_runs_that_differ_by_their_passes_alone() {
    let stored = |machine| move |rng: &mut ChaCha8Rng| made_up(machine, 2, rng);
    let equals = Design { runs: 1, noise: 0, slower: 1.0, turns: None };
    let slower = Design { slower: 1.05, ..equals };
    told(equals, stored(FULL)).assert_false_alarms_are_rare("one full run a side");
    told(slower, stored(FULL)).assert_slowdown_is_found("one full run a side");
    let quick = Machine { turns: 3, ..FULL };
    told(equals, stored(quick)).assert_false_alarms_are_rare("one quick run a side");
    // A quarter slower, where little was measured.
    let large = told(Design { slower: 1.25, ..equals }, stored(quick));
    println!("one quick run a side, a quarter slower: told in {:.1}%", 100.0 * large.part(large.slower));
    assert!(large.part(large.slower) >= FOUND_AT_LEAST, "{large:?}");
}

#[test]
fn made_up_runs_that_shift_as_a_whole() {
    // One run a side cannot see it: the floor for runs of which nothing is known covers a shift of .5%.
    let one = Design { runs: 1, noise: 0, slower: 1.0, turns: None };
    let shifting = |run, runs| move |rng: &mut ChaCha8Rng| made_up(Machine { run, ..FULL }, runs, rng);
    told(one, shifting(0.005, 2)).assert_false_alarms_are_rare("runs shift by .5%: one a side");
    // A shift of 1% is covered by what A/A runs show, or several runs a side.
    let stored = |runs| shifting(0.01, runs);
    let beside = Design { noise: 4, ..one };
    told(beside, stored(6)).assert_false_alarms_are_rare("runs shift by 1%: one a side, four A/A runs");
    let several = Design { runs: 5, ..one };
    told(several, stored(10)).assert_false_alarms_are_rare("runs shift by 1%: five a side");
    let slower = Design { slower: 1.05, ..several };
    told(slower, stored(10)).assert_slowdown_is_found("runs shift by 1%: five a side");
}

#[test]
fn a_stored_run_drawn_anew() {
    let stored: Stored = serde_json::from_str(STORED).expect("a stored run");
    println!("{}", stored.source);
    let stored = |_: &mut ChaCha8Rng| stored.clone();
    let full = Design { runs: 1, noise: 0, slower: 1.0, turns: None };
    let slower = Design { slower: 1.05, ..full };
    told(full, stored).assert_false_alarms_are_rare("a full run of stored times a side");
    told(slower, stored).assert_slowdown_is_found("a full run of stored times a side");
    let three = Design { turns: Some(3), ..full };
    told(three, stored).assert_false_alarms_are_rare("three turns of stored times a side");
}

/// Runs of a machine whose speed wanders by tens of percent in minutes: passes do not show it, runs of the same thing do.
#[test]
fn stored_runs_of_a_restless_machine() {
    let stored: Stored = serde_json::from_str(STORED_RUNS).expect("stored runs");
    println!("{}", stored.source);
    let stored = |_: &mut ChaCha8Rng| stored.clone();
    let single = Design { runs: 1, noise: 4, slower: 1.0, turns: None };
    let double = Design { runs: 2, ..single };
    for (what, design) in [("one run a side, four A/A runs", single), ("two runs a side, four A/A runs", double)] {
        told(design, stored).assert_false_alarms_are_rare(what);
        // What such a machine allows to be found.
        for slower in [1.05, 1.25, 2.0] {
            let told = told(Design { slower, ..design }, stored);
            println!("{what}: {slower} times as long is told in {:.1}%", 100.0 * told.part(told.slower));
        }
    }
}
