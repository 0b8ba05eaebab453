//! What an index file says of itself, and whether every byte is as it was written.

use std::path::Path;

use serde::Serialize;

use super::reader::IndexFile;
use super::{PAGE, Section, VERSION};
use crate::error::BuilderError;
use crate::meta::Meta;

/// Everything that the header and the meta section tell.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// Format version.
    pub version: u32,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Sections in file order.
    pub sections: Vec<SectionSummary>,
    /// Parameters.
    pub meta: Meta,
}

/// One section of the file.
#[derive(Debug, Clone, Serialize)]
pub struct SectionSummary {
    /// Its name in `FORMAT.md`.
    pub name: &'static str,
    /// Byte offset.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// xxh3-64, in hex.
    pub checksum: String,
}

/// Reads the header and the meta section of the index at `path`.
pub fn inspect(path: &Path) -> Result<Inspection, BuilderError> {
    let file = IndexFile::open(path)?;
    let sections = file.header().sections.iter().map(|e| SectionSummary {
        name: e.section.name(),
        offset: e.offset,
        length: e.length,
        checksum: format!("{:016x}", e.checksum),
    });
    Ok(Inspection {
        version: VERSION,
        file_bytes: file.header().file_length,
        sections: sections.collect(),
        meta: file.meta()?,
    })
}

/// Reads every page and section of the index at `path` and holds each against its checksum, calling
/// `advance` with the bytes read. The error names the first place that does not match.
pub fn verify(path: &Path, mut advance: impl FnMut(u64)) -> Result<(), BuilderError> {
    let file = IndexFile::open(path)?;
    let sums = file.sums()?;
    let mut page = vec![0u8; PAGE];
    for (number, &sum) in sums.iter().enumerate().skip(1) {
        file.read_page(number as u64, &mut page)?;
        if crc32c::crc32c(&page) != sum {
            let section = file.header().sections.iter().rfind(|e| e.offset <= (number * PAGE) as u64);
            let problem = format!(
                "page {number} (byte {}, section {}) does not match its checksum",
                number * PAGE,
                section.map_or("none", |e| e.section.name())
            );
            return Err(BuilderError::damaged(file.path(), problem));
        }
        advance(PAGE as u64);
    }
    for entry in file.header().sections.iter().filter(|e| e.section != Section::Sums) {
        file.section(entry.section)?;
    }
    // The sums have a checksum of their own; what pads them to the end of the file has none, and is zero.
    let sums = file.entry(Section::Sums)?;
    let end = sums.offset + sums.length;
    let within = (end % PAGE as u64) as usize;
    if within > 0 {
        file.read_page(end / PAGE as u64, &mut page)?;
        if let Some(stray) = page[within..].iter().position(|&byte| byte != 0) {
            let problem = format!("byte {} is padding and not zero", end + stray as u64);
            return Err(BuilderError::damaged(file.path(), problem));
        }
    }
    file.meta().map(|_| ())
}
