//! IVF-PQ: inverted lists of quantised residuals, re-ranked by exact distances.

pub(crate) mod build;
mod coarse;
mod drive;
pub(crate) mod external;
pub(crate) mod layout;
mod nav;
pub(crate) mod search;
mod spill;
