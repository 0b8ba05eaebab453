//! The index file: header, section table, pages and their checksums. Drawn in `builder/FORMAT.md`.
//!
//! In: sections as bytes. Out: one immutable file whose every byte is covered by a checksum, and a reader
//! that believes nothing before it is checked.

pub(crate) mod huge;
pub(crate) mod inspect;
pub(crate) mod pages;
pub(crate) mod reader;
pub(crate) mod writer;

/// Bytes of a page; sections start on page boundaries.
pub(crate) use kiln_kernels::nodes::PAGE;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// The format version that this code writes.
pub(crate) const VERSION: u32 = 2;

/// The oldest version that it reads.
pub(crate) const OLDEST_VERSION: u32 = 1;

pub(crate) const MAGIC: [u8; 8] = *b"KILNIDX\0";
const ENTRY_BYTES: usize = 32;
const TABLE_AT: usize = 32;
const CHECKSUM_AT: usize = PAGE - 8;
const MAX_SECTIONS: usize = (CHECKSUM_AT - TABLE_AT) / ENTRY_BYTES;

/// What a section holds. The numbers are part of the format and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u32)]
pub(crate) enum Section {
    /// Parameters as JSON.
    Meta = 1,
    /// The trained quantiser; for IVF followed by the centroids.
    Codec = 2,
    /// Vamana: one code a node, kept in memory.
    Codes = 3,
    /// Vamana, `inline`: sampled rows among which a search finds its entry. IVF: a small graph over the centroids, where
    /// there are many.
    Nav = 4,
    /// Vamana: vector, degree, neighbours of each node.
    Nodes = 5,
    /// IVF: directory and page-aligned lists of codes.
    Lists = 6,
    /// IVF: full vectors in list order.
    Vectors = 7,
    /// Row of the data set at each position, u32 or u64.
    Ids = 8,
    /// CRC32C of every page before this section.
    Sums = 9,
    // 10 is reserved for labels.
}

impl Section {
    const ALL: [Section; 9] = [
        Section::Meta,
        Section::Codec,
        Section::Codes,
        Section::Nav,
        Section::Nodes,
        Section::Lists,
        Section::Vectors,
        Section::Ids,
        Section::Sums,
    ];

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as u32 == number)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Section::Meta => "meta",
            Section::Codec => "codec",
            Section::Codes => "codes",
            Section::Nav => "nav",
            Section::Nodes => "nodes",
            Section::Lists => "lists",
            Section::Vectors => "vectors",
            Section::Ids => "ids",
            Section::Sums => "sums",
        }
    }
}

/// One row of the section table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SectionEntry {
    pub section: Section,
    /// Byte offset in the file, a multiple of [`PAGE`].
    pub offset: u64,
    /// Bytes, without the padding to the next page.
    pub length: u64,
    /// xxh3-64 of those bytes.
    pub checksum: u64,
}

/// Page 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub version: u32,
    pub file_length: u64,
    pub sections: Vec<SectionEntry>,
}

/// Why page 0 cannot be believed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    NotKiln,
    Version(u32),
    Invalid(String),
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        debug_assert!(self.sections.len() <= MAX_SECTIONS);
        let mut page = vec![0u8; PAGE];
        page[0..8].copy_from_slice(&MAGIC);
        page[8..12].copy_from_slice(&self.version.to_le_bytes());
        page[12..16].copy_from_slice(&(PAGE as u32).to_le_bytes());
        page[16..24].copy_from_slice(&self.file_length.to_le_bytes());
        page[24..28].copy_from_slice(&(self.sections.len() as u32).to_le_bytes());
        for (entry, bytes) in self.sections.iter().zip(page[TABLE_AT..].chunks_exact_mut(ENTRY_BYTES)) {
            bytes[0..4].copy_from_slice(&(entry.section as u32).to_le_bytes());
            bytes[8..16].copy_from_slice(&entry.offset.to_le_bytes());
            bytes[16..24].copy_from_slice(&entry.length.to_le_bytes());
            bytes[24..32].copy_from_slice(&entry.checksum.to_le_bytes());
        }
        let checksum = xxh3_64(&page[..CHECKSUM_AT]);
        page[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    /// Reads page 0 and checks everything that can be checked without reading further.
    pub(crate) fn decode(page: &[u8], actual_length: u64) -> Result<Self, HeaderError> {
        if page.len() < 8 || page[0..8] != MAGIC {
            return Err(HeaderError::NotKiln);
        }
        let invalid = |problem: String| HeaderError::Invalid(problem);
        if page.len() < PAGE {
            return Err(invalid(format!("the file ends within its header, at byte {}", page.len())));
        }
        // The version comes before the checksum: another version may keep its checksum elsewhere.
        let version = u32_at(page, 8);
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            return Err(HeaderError::Version(version));
        }
        if xxh3_64(&page[..CHECKSUM_AT]) != u64_at(page, CHECKSUM_AT) {
            return Err(invalid("the header's checksum does not match (page 0)".into()));
        }
        if u32_at(page, 12) as usize != PAGE {
            return Err(invalid(format!("page size {}, {PAGE} expected", u32_at(page, 12))));
        }
        let file_length = u64_at(page, 16);
        if file_length != actual_length {
            return Err(invalid(format!("the file has {actual_length} bytes, its header says {file_length}")));
        }
        let count = u32_at(page, 24) as usize;
        if count > MAX_SECTIONS {
            return Err(invalid(format!("{count} sections, at most {MAX_SECTIONS} fit")));
        }
        let mut sections = Vec::with_capacity(count);
        for bytes in page[TABLE_AT..].chunks_exact(ENTRY_BYTES).take(count) {
            let number = u32_at(bytes, 0);
            let section = Section::from_number(number).ok_or_else(|| invalid(format!("unknown section {number}")))?;
            let entry = SectionEntry {
                section,
                offset: u64_at(bytes, 8),
                length: u64_at(bytes, 16),
                checksum: u64_at(bytes, 24),
            };
            let end = entry.offset.checked_add(entry.length);
            if !entry.offset.is_multiple_of(PAGE as u64) || end.is_none_or(|end| end > file_length) {
                return Err(invalid(format!("section {} does not lie within the file", section.name())));
            }
            sections.push(entry);
        }
        Ok(Self { version, file_length, sections })
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
