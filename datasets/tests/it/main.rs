//! Data sets, driven through the crate's interface.

mod ann_result;
mod common;
mod fetch;
mod formats;
mod hdf5;
mod learn;
mod resume;
mod synth;
mod truth;
