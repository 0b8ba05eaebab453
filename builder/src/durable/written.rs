//! How far the index file itself has come, so that a build which ends while it is written goes on in its middle.
//!
//! In: an index file in the making. Out: units of stage `written`, one a mark: where in the file's sections it lies, and the
//! sums of the pages since the mark before. The pages are in the file, on the drive before their unit is; whoever goes on
//! reads them back and believes the marks as far as the sums agree.

use super::{Key, Store, Unit};
use crate::error::BuilderError;
use crate::file::writer::{IndexWriter, Mark, SectionSink};

const STAGE: &str = "written";

/// Segments of a unit.
const PLACE: usize = 0;
const SUMS: usize = 1;

/// An index file is marked about so many times: what lies between two marks is a small part of a build.
pub(crate) const MARKS: u64 = 32;

/// The marks of one index file.
#[derive(Clone, Copy)]
pub(crate) struct Written<'a> {
    pub store: &'a Store,
    /// Of everything that the file's bytes, and the steps in which they are written, depend on.
    pub key: &'a Key,
    /// Bytes of the file, about.
    pub index_bytes: u64,
    /// Whether marks are made; without, a file is begun anew.
    pub kept: bool,
}

impl Written<'_> {
    /// Goes on with a file from the last mark that it bears out.
    pub(crate) fn go_on(&self, writer: &mut IndexWriter) -> Result<(), BuilderError> {
        let mut marks = Vec::new();
        while self.kept && self.store.has(Unit { stage: STAGE, number: marks.len() as u32 }, self.key) {
            match self.read(Unit { stage: STAGE, number: marks.len() as u32 }) {
                Ok(mark) => marks.push(mark),
                // What is not there any more is written again.
                Err(BuilderError::Spoiled { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        let held = writer.go_on(&marks)?;
        for number in (held as u32..).take_while(|&number| self.store.has(Unit { stage: STAGE, number }, self.key)) {
            self.store.remove(STAGE, Some(number))?;
        }
        Ok(())
    }

    fn read(&self, unit: Unit) -> Result<Mark, BuilderError> {
        let artifact = self.store.open_unit(unit)?;
        let place = serde_json::from_slice(&self.store.read(&artifact, PLACE)?);
        let sums = bytemuck::pod_collect_to_vec(&self.store.read(&artifact, SUMS)?);
        Ok(Mark { place: place.map_err(|_| self.store.spoiled(unit))?, sums })
    }

    /// Marks how far a section has come, `steps` of it, where enough was written since the last mark. Returns whether it did:
    /// an end would lose nothing now.
    pub(crate) fn mark(&self, sink: &mut SectionSink<'_>, steps: u64) -> Result<bool, BuilderError> {
        if !self.kept || sink.unmarked() * MARKS < self.index_bytes {
            return Ok(false);
        }
        let is_there = |&number: &u32| self.store.has(Unit { stage: STAGE, number }, self.key);
        let number = (0..).find(|number| !is_there(number)).expect("there are more numbers than pages");
        let mark = sink.mark(steps)?;
        let mut unit = self.store.begin(Unit { stage: STAGE, number })?;
        unit.segment(&serde_json::to_vec(&mark.place).expect("numbers are plain data"))?;
        unit.segment(bytemuck::cast_slice(&mark.sums))?;
        unit.commit(self.key, "host")?;
        Ok(true)
    }
}
