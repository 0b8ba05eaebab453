//! Experiments: run them, measure them, store them, judge them.
//!
//! In: a data set, indexes, and a plan of settings. Out: a run folder of raw measurements
//! ([`record`]), and figures derived from them by pure functions ([`metrics`]).
//!
//! [`run_bench`] walks the whole way: [`plan`] says which settings, [`measure`] and [`interleave`] time them,
//! [`judge`](mod@judge) scores their answers, [`store`] keeps both, [`provenance`] says where. A plan is made of options, or
//! of a file ([`experiment`]); [`noise`] says what the machine can tell apart, [`held_out`] what a choice is worth, and
//! [`peer`] measures other libraries beside. [`tune()`] finds the setting that reaches a recall, [`compare`](mod@compare)
//! says whether two runs differ, and [`interchange`] speaks the formats of other benchmarks. Where an index lies is a
//! [`Placement`]; [`page_cache`] and [`memory_cap`] bring its conditions about.

mod answers;
mod budget;
mod candidate;
pub mod compare;
mod conditions;
mod error;
pub mod experiment;
mod foreign;
pub mod held_out;
mod index_bench;
pub mod interchange;
pub mod interleave;
mod io_state;
pub mod judge;
mod lid;
pub mod load;
pub mod measure;
pub mod memory_cap;
pub mod metrics;
pub mod noise;
mod numa;
mod on_device;
pub mod open_loop;
pub mod page_cache;
mod pairs;
pub mod peer;
pub mod plan;
pub mod provenance;
mod prune;
pub mod record;
mod run;
mod single;
pub mod stats;
pub mod store;
mod subject;
mod sys;
mod tune;
pub mod units;

pub use answers::{QueryAnswers, answer_all, answer_in_batch};
pub use error::EvalError;
pub use io_state::{IoState, Placement};
pub use judge::{Judge, JudgeError, Judgement, judge};
pub use lid::query_lid;
pub use peer::{PeerLimits, PeerSpec};
pub use plan::{Engine, IndexSpec, Plan, PlanError, SearchGrid, Setting};
pub use run::{check, run_bench};
pub use single::{SingleMeasurement, SingleSearch, measure_single};
pub use store::{RunFolder, StoreError, load};
pub use tune::{
    LEAST_QUERIES, SampleRecall, TuneError, TuneFileError, TuneRequest, Tuned, all_tuned, keep_tuned,
    refuse_unreadable, tune, tune_path, tuned,
};
