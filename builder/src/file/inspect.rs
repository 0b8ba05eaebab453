//! What an index file says of itself, and whether every byte is as it was written.

use std::path::Path;

use serde::Serialize;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::reader::IndexFile;
use super::{PAGE, Section};
use crate::error::BuilderError;
use crate::meta::Meta;

/// Everything that the header and the meta section tell.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// Format version.
    pub version: u32,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Tells one build of an index from another: xxh3-128 of the first page, which holds the checksum of every section,
    /// in hex.
    pub identity: String,
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
    inspect_file(&IndexFile::open(path)?)
}

/// What an open file says of itself.
pub(crate) fn inspect_file(file: &IndexFile) -> Result<Inspection, BuilderError> {
    let sections = file.header().sections.iter().map(|e| SectionSummary {
        name: e.section.name(),
        offset: e.offset,
        length: e.length,
        checksum: format!("{:016x}", e.checksum),
    });
    Ok(Inspection {
        version: file.header().version,
        file_bytes: file.header().file_length,
        identity: identity(file),
        sections: sections.collect(),
        meta: file.meta()?,
    })
}

/// Tells one build of an index from another.
pub(crate) fn identity(file: &IndexFile) -> String {
    format!("{:032x}", xxh3_128(&file.header().encode()))
}

/// Reads every page and section of the index at `path` and holds each against its checksum, calling
/// `advance` with the bytes read. The error names the first place that does not match.
pub fn verify(path: &Path, mut advance: impl FnMut(u64)) -> Result<(), BuilderError> {
    let file = IndexFile::open(path)?;
    let sums = file.sums()?;
    let mut page = vec![0u8; PAGE];
    let sections = &file.header().sections;
    // One pass: pages go by their sums, and into the running checksum of the section that they lie in.
    let mut running: Vec<Xxh3> = sections.iter().map(|_| Xxh3::new()).collect();
    for (number, &sum) in sums.iter().enumerate().skip(1) {
        file.read_page(number as u64, &mut page)?;
        let at = (number * PAGE) as u64;
        let within = sections.iter().position(|e| (e.offset..e.offset + e.length).contains(&at));
        if crc32c::crc32c(&page) != sum {
            let name = within.map_or("none", |i| sections[i].section.name());
            let problem = format!("page {number} (byte {at}, section {name}) does not match its checksum");
            return Err(BuilderError::damaged(file.path(), problem));
        }
        if let Some(i) = within {
            let length = (sections[i].offset + sections[i].length - at).min(PAGE as u64) as usize;
            running[i].update(&page[..length]);
        }
        advance(PAGE as u64);
    }
    for (entry, running) in sections.iter().zip(&running).filter(|(e, _)| e.section != Section::Sums) {
        if running.digest() != entry.checksum {
            let problem =
                format!("section {} (byte {} on) does not match its checksum", entry.section.name(), entry.offset);
            return Err(BuilderError::damaged(file.path(), problem));
        }
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
