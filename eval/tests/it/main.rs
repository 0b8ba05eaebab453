//! Experiments, driven through the crate's interface.

mod bench;
mod common;
mod io_states;
