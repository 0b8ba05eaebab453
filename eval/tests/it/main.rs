//! Experiments, driven through the crate's interface.

mod bench;
mod common;
mod devices;
mod experiments;
mod interchange;
mod io_states;
mod peers;
