//! Two runs, or two sets of runs, set against each other: faster, slower, no detectable difference, not comparable.
//!
//! In: run folders A and B, perhaps an A/A run, and recall levels. Out: a [`Comparison`]. The way of a figure:
//!
//! | module | what |
//! |---|---|
//! | `side` | finds and reads the runs of a side |
//! | `collect` | sorts them by data, machine, k, index, mode and place: only what is alike in all is compared |
//! | `matching` | pairs both sides' lines; says why the rest cannot be compared |
//! | `sample` | recall and speed of each setting, with the variance that its passes show |
//! | `bootstrap` | draws turns of passes, and queries, anew |
//! | `noise` | how far runs of the same thing lie apart |
//! | `contrast` | the ratio at a recall level or at equal settings, its interval and its p |
//! | `signed_rank`, `rank_sum`, `holm`, `student` | the tests |
//! | `rules` | `--fail-if` |
//!
//! **How it decides.** Queries a second at a recall level are read between the two settings that bracket it, linear in
//! their logarithm, never beyond an end. The logarithm of the ratio has a variance of three parts: passes, queries (drawn
//! anew, alike on both sides) and runs (from runs of the same thing, where there are any). That of passes is what the ranks
//! of the turns leave open where one run a side has eight turns or more, and what drawing turns anew shows otherwise.
//! Student's t makes a p of it, never below that of the ranks; Holm's procedure corrects it for all levels of all pairs, and
//! what remains below 5% is told, unless it is smaller than the noise floor: the difference that 95% of runs of the same
//! thing stay below, at least [`LEAST_FLOOR`]; and [`FLOOR_WITHOUT_AA`] where none were measured. The floor is there because
//! passes of one run say nothing about what differs from run to run.

mod bootstrap;
mod collect;
mod contrast;
mod decide;
mod holm;
mod matching;
mod model;
mod noise;
mod notes;
mod rank_sum;
mod rules;
mod sample;
mod side;
mod signed_rank;
mod student;

pub use contrast::{ALPHA, AtLevel, Contrast, Field, Paired, Versus};
pub use decide::{Sides, compare};
pub use holm::holm;
pub use model::{
    BuildPair, Comparison, Decision, Figure, LevelRow, NoiseSummary, Pair, Ratio, RecallChange, RecallRow, RunSummary,
    SettingRow, SideSummary, TypicalQuery, Unpaired, Verdict,
};
pub use noise::{FLOOR_WITHOUT_AA, LEAST_FLOOR, Noise};
pub use rules::{Outcome, Rule, RuleOutcome, judge_rules};
pub use sample::{Sampled, Series, Session};
pub use side::{CompareError, Run, read_side};

#[cfg(test)]
#[path = "error_rates.rs"]
mod error_rates;
