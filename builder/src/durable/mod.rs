//! Work that survives its process: finished units kept in a folder, found again by whoever goes on.
//!
//! In: units of work, each made of segments of bytes. Out: the same bytes, in this process or the next, or word that a unit
//! is not there. A folder looks like this:
//!
//! ```text
//! X.kiln.work/
//!   lock             held by the process that works here; the system lets go of it when that process ends
//!   manifest.json    which units are finished: replaced as a whole, with a checksum of its own
//!   STAGE-NUMBER     one finished unit: segments, then a footer that names and checks each
//!   *.partial        what a crash left unfinished: removed when the folder is opened again
//! ```
//!
//! A unit is written under a temporary name, flushed, renamed, its folder flushed, and only then named by the manifest,
//! which is replaced in the same way: a unit that the manifest names was on the drive before. Where several machines share a
//! folder ([`Store::shared`]) there is neither lock nor manifest: a finished unit is a file whose footer has its name and key,
//! and two machines that make the same unit put the same bytes in its place, whole. A unit is known by a key, the
//! hash of everything that its bytes depend on; a unit of another key is of other parameters and counts as missing. All
//! operations on files go through [`Files`], so that tests can take the power away between any two of them.

#[cfg(feature = "object-store")]
mod copies;
mod files;
mod manifest;
#[cfg(feature = "object-store")]
mod objects;
#[cfg(test)]
pub(crate) mod simulated;
mod store;
mod work;
mod written;

#[cfg(test)]
pub(crate) use files::is_at;
pub(crate) use files::{Disk, Files, Lock, Reading, Writing};
#[cfg(feature = "object-store")]
pub(crate) use objects::Objects;
pub(crate) use store::{Artifact, Store, Unit, UnitWriter};
pub(crate) use work::{DAMAGED_AT_MOST, Work};
pub(crate) use written::{MARKS, Written};

/// Hash of what a stage's bytes depend on, as 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct Key(String);

impl Key {
    /// The key of a stage: its name and version, the key of the stage it goes on from, and its own parameters.
    pub(crate) fn new(stage: &str, before: Option<&Key>, parameters: &[String]) -> Self {
        let mut text = format!("{stage}\n{}", before.map_or("", |key| &key.0));
        for parameter in parameters {
            text.push('\n');
            text.push_str(parameter);
        }
        Self(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes())))
    }
}
