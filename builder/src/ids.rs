//! The `ids` section: the data set's row at each position of the file.

use crate::error::BuilderError;
use crate::file::Section;
use crate::file::reader::IndexFile;
use crate::file::writer::IndexWriter;

/// Row numbers by position.
pub(crate) struct Ids(Vec<u32>);

impl Ids {
    /// Writes the section.
    pub(crate) fn write(order: &[u32], writer: &mut IndexWriter) -> Result<(), BuilderError> {
        writer.section(Section::Ids, |sink| sink.write(bytemuck::cast_slice(order)))
    }

    /// Reads the section of an index of `n` rows; every row number must be one of them.
    pub(crate) fn read(file: &IndexFile, n: u64) -> Result<Self, BuilderError> {
        let bytes = file.section(Section::Ids)?;
        let ids: Vec<u32> = bytes.as_slice().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let mut seen = vec![false; ids.len()];
        let fresh = |&id: &u32| seen.get_mut(id as usize).is_some_and(|seen| !std::mem::replace(seen, true));
        if ids.len() as u64 != n || !ids.iter().all(fresh) {
            return Err(BuilderError::damaged(file.path(), format!("section ids does not name each of {n} rows once")));
        }
        Ok(Self(ids))
    }

    #[inline(always)]
    pub(crate) fn get(&self, position: u32) -> u64 {
        u64::from(self.0[position as usize])
    }

    /// Rows of the index.
    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        Self::bytes_of(self.len())
    }

    /// Bytes of the numbers of `n` rows.
    pub(crate) fn bytes_of(n: u64) -> u64 {
        4 * n
    }
}
