//! One build by many machines: a plan of units of work in a place that all of them reach.
//!
//! In: a request, a budget of memory, and a place: a folder that is shared, or an address in an object store. Out: the index
//! that [`build`](crate::build) writes, byte for byte. `plan` writes down what is to be done; each [`Units::build`], on any
//! machine, makes units of a stage from those of the stages before; [`Units::merge`] writes the index from the last. Every step
//! may be repeated, at any time, by any number of processes: a unit that is there is left alone, and two that make the same
//! unit put the same bytes in its place, whole. Nothing here schedules: whoever has a scheduler gives it the stages in order.

mod place;
mod plan;
mod run;

pub use place::{NearbyCopies, WorkPlace};
pub use plan::{UnitPlan, plan_units};
pub use run::{Selection, StageStatus, UnitStatus, Units, UnitsMade};
