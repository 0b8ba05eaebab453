//! One build's units as they are made, whatever the kind of index: what is missing is made, between two units the build may
//! be stopped, and a unit that turns out damaged is made again.

use super::{Key, Store, Unit};
use crate::error::BuilderError;
use crate::resources::return_freed_memory;

/// Units that are found damaged and made again before a build gives up on its drive.
pub(crate) const DAMAGED_AT_MOST: usize = 1000;

/// The units of a build, and who may stop it.
#[derive(Clone, Copy)]
pub(crate) struct Work<'a> {
    pub store: &'a Store,
    /// Whether to stop after the unit at hand.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

impl Work<'_> {
    /// Keeps the units of these keys, says what is gone on with, and returns how many they are.
    pub(crate) fn go_on_with(&self, keys: &[Key]) -> Result<usize, BuilderError> {
        let before = self.store.len();
        let stale = self.store.keep_only(keys)?;
        if before > 0 {
            let folder = self.store.folder().display();
            tracing::info!("{folder}: going on with {} finished units", before - stale);
            if stale > 0 {
                tracing::info!("{folder}: {stale} units were of other parameters, and are made again");
            }
        }
        Ok(before - stale)
    }

    /// Does `work`, again as often as a unit turns out damaged: that unit is then missing.
    pub(crate) fn until_whole<R>(&self, mut work: impl FnMut() -> Result<R, BuilderError>) -> Result<R, BuilderError> {
        for _ in 0..DAMAGED_AT_MOST {
            match work() {
                Err(BuilderError::Spoiled { path, stage, number }) => {
                    tracing::warn!("{}: damaged; this unit is made again", path.display());
                    self.store.remove(stage, Some(number))?;
                }
                done => return done,
            }
        }
        Err(self.too_much_damage())
    }

    /// That more units were damaged than a sound drive damages.
    pub(crate) fn too_much_damage(&self) -> BuilderError {
        BuilderError::damaged(self.store.folder(), format!("more than {DAMAGED_AT_MOST} units were damaged"))
    }

    /// Whether every unit of a stage is finished.
    pub(crate) fn all(&self, stage: &'static str, key: &Key, units: u32) -> bool {
        (0..units).all(|number| self.store.has(Unit { stage, number }, key))
    }

    /// Makes those of some units of a stage that are missing; between two, the build may be stopped.
    pub(crate) fn each_missing(
        &self,
        stage: &'static str,
        key: &Key,
        units: impl IntoIterator<Item = u32>,
        mut make: impl FnMut(Unit) -> Result<(), BuilderError>,
    ) -> Result<(), BuilderError> {
        for number in units {
            let unit = Unit { stage, number };
            if !self.store.has_by_now(unit, key)? {
                make(unit)?;
                return_freed_memory();
                self.may_stop()?;
            }
        }
        Ok(())
    }

    /// Ends the build here where it was asked to.
    pub(crate) fn may_stop(&self) -> Result<(), BuilderError> {
        if (self.stop)() {
            let folder = self.store.folder().to_path_buf();
            return Err(BuilderError::Interrupted { folder, units: self.store.len() });
        }
        Ok(())
    }
}
