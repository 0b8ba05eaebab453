//! The program, run as its users run it.

mod bench;
mod book;
mod build_and_search;
mod common;
mod compare;
mod datasets;
mod devices;
mod durable;
mod experiment;
#[cfg(feature = "serve")]
mod http;
mod interchange;
#[cfg(feature = "serve")]
mod load;
#[cfg(feature = "object-store")]
mod object_server;
#[cfg(feature = "serve")]
mod serve;
#[cfg(feature = "serve")]
mod serve_hard_times;
mod shards;
mod stream;
mod tune;
mod units;
#[cfg(feature = "object-store")]
mod units_objects;
