//! What can end an experiment. Each message names the file or the value, and says what to do next.

use crate::judge::JudgeError;
use crate::plan::PlanError;
use crate::store::StoreError;

/// An experiment that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The plan does not fit the data.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The run folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The answers cannot be judged.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// The data set cannot be read.
    #[error(transparent)]
    Dataset(#[from] kiln_datasets::DatasetError),
    /// A batch that answers otherwise than single searches do: whichever is right, neither can be measured.
    #[error(
        "{index}: query {query} is answered with other rows in a batch than alone ({params}); \
         this is a fault of Kiln: please report it, and measure without --batch meanwhile",
        index = index.display()
    )]
    BatchDiffers {
        /// The index file.
        index: std::path::PathBuf,
        /// The first such query, from 0.
        query: usize,
        /// The search parameters.
        params: String,
    },
    /// A load cannot be offered.
    #[error(transparent)]
    Load(#[from] crate::load::drive::DriveError),
    /// What came of a load cannot be kept.
    #[error(transparent)]
    KeepLoad(#[from] crate::load::KeepError),
    /// An index cannot be built, opened or searched.
    #[error(transparent)]
    Builder(#[from] kiln_builder::BuilderError),
}
