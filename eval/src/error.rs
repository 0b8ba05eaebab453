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
    /// An index cannot be built, opened or searched.
    #[error(transparent)]
    Builder(#[from] kiln_builder::BuilderError),
}
