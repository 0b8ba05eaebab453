//! The index: build, file format and search.
//!
//! In: a [`kiln_datasets::RowSource`] and [`IndexParams`]. Out: one immutable file (`FORMAT.md`), and a
//! [`Searcher`] over it, or over several such files that are one [shard set](shards). Every caller (command line, harness, server) goes through
//! [`Searcher::search`], so what is measured is what is served.

mod allocated;
mod build;
mod device_graph;
mod durable;
mod error;
mod file;
mod ids;
mod io;
mod ivf;
mod meta;
mod params;
mod plan;
mod quantiser;
mod record;
mod resources;
mod search_types;
mod searcher;
#[cfg(feature = "serve")]
pub mod serve;
pub mod shards;
mod stored_rows;
pub mod units;
mod vamana;

pub use allocated::CountingAllocator;
pub use build::{BuildReport, BuildRequest, DurableReport, WithinBudget, build, build_within};
pub use device_graph::{DeviceAnswers, DeviceGraph};
pub use error::BuilderError;
pub use file::inspect::{Inspection, SectionSummary, inspect, verify};
pub use io::IoCounters;
pub use meta::Meta;
pub use params::{GraphMethod, IndexParams, IvfPqParams, Layout, VamanaParams};
pub use plan::{BuildPlan, PlannedStage, plan_within};
pub use search_types::{
    DriveReads, Effort, Hits, IndexKind, IoEngine, Navigate, OpenParams, QueryStats, Residency, SearchParams, Serving,
};
pub use searcher::{Index, Searcher};
pub use stored_rows::StoredRows;
