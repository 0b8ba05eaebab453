//! The index, driven through the crate's interface.

mod backends;
mod build;
mod codecs;
mod common;
mod compat;
mod damage;
mod demo;
mod exactness;
mod failover;
mod inline;
mod narrow;
mod odd_data;
mod refusals;
mod shards;
mod within;
