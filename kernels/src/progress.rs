//! Progress of long work, as an observer that does nothing by default.

/// Receives the stages of a long computation. Implementations must be cheap: `advance` is called
/// from worker threads, once a batch.
pub trait Progress: Send + Sync {
    /// A stage begins; `total` units of work are expected (0: unknown). Ends the stage before it.
    fn stage(&self, _name: &str, _total: u64) {}

    /// `units` more of the current stage are done.
    fn advance(&self, _units: u64) {}

    /// The last stage has ended.
    fn finish(&self) {}
}

/// The observer that ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {}
