//! Why no setting was found, and what to do.

use std::path::PathBuf;

use kiln_builder::{BuilderError, Effort, Navigate};

use super::{LEAST_QUERIES, SampleRecall};
use crate::judge::JudgeError;
use crate::measure::SearchFailed;

/// A target for which no setting is kept.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// Halves of so few queries say nothing.
    #[error(
        "{queries} queries are too few to tune by: half of them are held out, and recall is only known to the nearest \
         few per cent; give {LEAST_QUERIES} or more, better 1,000"
    )]
    TooFewQueries {
        /// Queries given.
        queries: usize,
    },
    /// Truth for other queries.
    #[error("there are {queries} queries but truth for {truth}: give both of one data set")]
    OtherTruth {
        /// Queries given.
        queries: usize,
        /// Rows of the truth.
        truth: usize,
    },
    /// Truth without neighbours.
    #[error("no query of one half has a true neighbour: compute the truth again with `kiln datasets truth`")]
    NoNeighbours,
    /// Truth that the index contradicts: distant rows pass for neighbours, and every setting seems to reach.
    #[error(
        "to {contradicted} of {queries} queries a nearer row was found than their truth lists: it is wrong or of another \
         data set, and recall by it means nothing; give the right truth, or compute it with `kiln datasets truth`"
    )]
    WrongTruth {
        /// Queries with a nearer row.
        contradicted: usize,
        /// Queries judged.
        queries: usize,
    },
    /// No setting is good enough.
    #[error(
        "{index}: recall@{k} {target} is not reached with certainty: the best seen is {best}, at {effort}; {remedy}, \
         ask for less, or give more queries to narrow the interval",
        index = index.display()
    )]
    Unreachable {
        /// The index file.
        index: PathBuf,
        /// Neighbours wanted.
        k: usize,
        /// The recall asked for.
        target: f64,
        /// The best that was seen on the tuning half.
        best: SampleRecall,
        /// Where.
        effort: String,
        /// What would raise it.
        remedy: &'static str,
    },
    /// A search failed while it was timed.
    #[error(transparent)]
    Search(#[from] SearchFailed),
    /// The answers cannot be judged.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// A search failed.
    #[error(transparent)]
    Builder(#[from] BuilderError),
}

/// What raises the recall of an index past that of its best setting.
pub(super) fn remedy(effort: Effort) -> &'static str {
    match effort {
        Effort::Graph { navigate: Navigate::Exact, .. } => "build with a larger --max-degree or --build-list",
        Effort::Graph { .. } => "try --navigate exact, build with a larger --m or --max-degree",
        Effort::Lists { .. } => "build with a larger --m or with --bits 8",
    }
}
