//! Data sets, driven through the crate's interface.

mod common;
mod fetch;
mod formats;
mod hdf5;
mod synth;
mod truth;
