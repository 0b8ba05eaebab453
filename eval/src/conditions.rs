//! The conditions under which an index on the drive is measured: the state of the page cache, and a cap on memory.
//!
//! In: a [`Placement`] and the index file. Out: [`Conditions`] in force until they are dropped, and what the page cache
//! holds before each pass; or why they cannot be had here, in words that a record keeps.

use std::path::{Path, PathBuf};

use kiln_builder::Index;

use crate::io_state::{IoState, Placement};
use crate::memory_cap::MemoryCap;
use crate::page_cache::PageCache;
use crate::provenance::open_direct;

/// A cache counts as dropped where no more than this share of the file is still in it.
pub(crate) const DROPPED_SHARE: f64 = 0.001;

/// What a capped process takes beside what its index holds: stacks, scratch memory, the times of a pass.
const CAP_SLACK_BYTES: u64 = 32 << 20;

/// Conditions in force.
pub(crate) struct Conditions {
    path: PathBuf,
    state: Option<IoState>,
    /// `None` where nothing is read through it.
    cache: Option<PageCache>,
    /// Held for its effect.
    _cap: Option<MemoryCap>,
}

impl Conditions {
    /// Brings about what `placement` asks for, for the index at `path`, which is then to be opened.
    pub(crate) fn establish(placement: &Placement, path: &Path) -> Result<Self, String> {
        let state = placement.state();
        let shown = path.display();
        let mut conditions = Self { path: path.to_path_buf(), state, cache: None, _cap: None };
        match state {
            None => return Ok(conditions),
            Some(IoState::Direct) => {
                // The builder would read through the page cache instead, and the figures would be of another state.
                open_direct(path).map_err(|error| {
                    format!("{shown}: it cannot be read past the page cache ({error}); measure --io-state cold or warm")
                })?;
                return Ok(conditions);
            }
            Some(IoState::Cold | IoState::Warm) => {}
            Some(IoState::Capped { bytes }) => {
                let needed = serving_bytes(placement, path)? + CAP_SLACK_BYTES;
                if needed > bytes {
                    return Err(format!(
                        "{shown}: serving it takes {needed} bytes of memory, and a process capped at {bytes} would be \
                         killed; raise the cap, or lower --memory"
                    ));
                }
                conditions._cap = Some(MemoryCap::enter(bytes).map_err(|refused| refused.to_string())?);
            }
        }
        let cache = PageCache::of(path).and_then(|cache| {
            // What others have read is charged to them: only pages that are read from here on fall under a cap.
            if matches!(state, Some(IoState::Capped { .. })) {
                cache.drop_pages()?;
            }
            cache.resident_bytes()?;
            Ok(cache)
        });
        let silent =
            |error| format!("{shown}: the system does not tell what it caches of it ({error}); measure direct");
        conditions.cache = Some(cache.map_err(silent)?);
        Ok(conditions)
    }

    /// Readies the page cache for a pass, and returns the bytes of the file that are in it.
    pub(crate) fn before_pass(&self) -> Option<u64> {
        let cache = self.cache.as_ref()?;
        let cold = self.state == Some(IoState::Cold);
        match if cold { cache.drop_pages() } else { cache.resident_bytes() } {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                // What cannot be told is not called dropped.
                tracing::warn!("{}: its part of the page cache is unknown: {error}", self.path.display());
                cold.then_some(u64::MAX)
            }
        }
    }
}

/// What the index holds in memory when it is opened so.
fn serving_bytes(placement: &Placement, path: &Path) -> Result<u64, String> {
    Ok(Index::open_with(path, &placement.open_params()).map_err(|error| error.to_string())?.serving_bytes())
}

/// Whether a pass in state `cold` began with more of the file in the page cache than [`DROPPED_SHARE`].
pub(crate) fn began_warm(cached_bytes: Option<u64>, file_bytes: u64) -> bool {
    cached_bytes.is_some_and(|cached| cached as f64 > DROPPED_SHARE * file_bytes as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_of_the_file_is_not_a_warm_start() {
        assert!(!began_warm(None, 1 << 20) && !began_warm(Some(0), 1 << 20) && !began_warm(Some(4096), 64 << 20));
        assert!(began_warm(Some(4096), 1 << 20) && began_warm(Some(u64::MAX), 1 << 20));
    }
}
