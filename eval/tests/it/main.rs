//! Experiments, driven through the crate's interface.

mod bench;
mod common;
mod interchange;
mod io_states;
