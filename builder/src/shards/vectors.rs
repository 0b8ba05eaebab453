//! Rows read back out of index files.
//!
//! In: index files that keep full vectors. Out: those vectors by row number, as given at the build, each page held against its
//! checksum as it is read. Nothing of the files stays in memory but the place of each row.

use std::ops::Range;
use std::path::{Path, PathBuf};

use kiln_datasets::{DatasetError, RowSource};
use kiln_kernels::nodes::{NodeLayout, VectorRecord};
use kiln_kernels::{DType, Rows};
use rayon::prelude::*;

use crate::error::BuilderError;
use crate::file::Section;
use crate::file::pages::{DirectFile, PageCache};
use crate::file::reader::IndexFile;
use crate::ids::Ids;
use crate::meta::Meta;
use crate::params::IndexParams;
use crate::search_types::DriveReads;

/// Rows that one thread reads at a time.
const TOGETHER: usize = 1024;

/// Pages that one thread keeps meanwhile.
const PAGES: u64 = 64;

/// The vectors of one index file by position.
pub(super) struct Vectors {
    file: DirectFile,
    place: Place,
    width: usize,
}

/// Where vectors lie in a file, from the byte at which their section begins.
enum Place {
    Nodes(u64, NodeLayout),
    Records(u64, VectorRecord),
}

impl Vectors {
    /// Opens the vectors of an index, and the position of each of its rows.
    ///
    /// # Errors
    /// A damaged file, or one that keeps no vectors.
    pub(super) fn open(path: &Path) -> Result<(Self, Meta, Vec<u32>), BuilderError> {
        let file = IndexFile::open(path)?;
        let meta = file.meta()?;
        let (section, needed) = match &meta.params {
            IndexParams::Vamana(p) => {
                let layout = p.node_layout(meta.dtype, meta.dim, meta.metric);
                (Section::Nodes, layout.section_bytes(meta.n as usize) as u64)
            }
            IndexParams::IvfPq(_) => (Section::Vectors, meta.n * record(&meta).bytes() as u64),
        };
        if !file.has(section) {
            return Err(BuilderError::Mismatch(format!(
                "{}: it keeps codes of its rows and not the rows, which merging needs; build a set of the data again with \
                 indexes that keep them",
                path.display()
            )));
        }
        let entry = file.entry(section)?;
        if entry.length != needed {
            let problem = format!("section {} has {} bytes, not {needed}", section.name(), entry.length);
            return Err(BuilderError::damaged(path, problem));
        }
        let place = match &meta.params {
            IndexParams::Vamana(p) => Place::Nodes(entry.offset, p.node_layout(meta.dtype, meta.dim, meta.metric)),
            IndexParams::IvfPq(_) => Place::Records(entry.offset, record(&meta)),
        };
        let ids = Ids::read(&file, meta.n)?;
        let mut positions = vec![0; meta.n as usize];
        (0..meta.n as u32).for_each(|position| positions[ids.get(position) as usize] = position);
        let file = DirectFile::open(path, file.sums()?, DriveReads::Cached)?;
        Ok((Self { file, place, width: meta.dim * meta.dtype.bytes() }, meta, positions))
    }

    fn vector<'a>(&self, position: u32, cache: &'a mut PageCache) -> Result<&'a [u8], BuilderError> {
        let at = match self.place {
            Place::Nodes(section, layout) => section + layout.offset(position) as u64,
            Place::Records(section, record) => section + u64::from(position) * record.bytes() as u64,
        };
        cache.bytes(&self.file, at, self.width)
    }

    /// The bytes of the vectors at `positions`, in their order, into `out`.
    pub(super) fn read_into(&self, positions: &[u32], out: &mut [u8]) -> Result<(), BuilderError> {
        // In the order of the file, so that a page with several of them is read once.
        let mut wanted: Vec<(u32, &mut [u8])> =
            positions.iter().copied().zip(out.chunks_exact_mut(self.width)).collect();
        wanted.sort_unstable_by_key(|(position, _)| *position);
        wanted.par_chunks_mut(TOGETHER).try_for_each_init(PageCache::default, |cache, some| {
            cache.clear();
            for (position, out) in some {
                if cache.pages_read() > PAGES {
                    cache.clear();
                }
                out.copy_from_slice(self.vector(*position, cache)?);
            }
            Ok(())
        })
    }
}

fn record(meta: &Meta) -> VectorRecord {
    VectorRecord { dtype: meta.dtype, dim: meta.dim, metric: meta.metric }
}

/// Some rows of several index files, one after another.
pub(super) struct Gathered {
    label: PathBuf,
    dtype: DType,
    dim: usize,
    rows: u64,
    parts: Vec<Part>,
}

/// The rows of one file.
struct Part {
    /// The number of its first row among all.
    first: u64,
    vectors: Vectors,
    /// Where its rows are, in their order.
    positions: Vec<u32>,
}

impl Gathered {
    /// No rows yet; `label` names them in messages.
    pub(super) fn new(label: &Path, dtype: DType, dim: usize) -> Self {
        Self { label: label.to_path_buf(), dtype, dim, rows: 0, parts: Vec::new() }
    }

    /// The rows at `positions` of an index of the same type and dimension follow.
    pub(super) fn push(&mut self, vectors: Vectors, positions: Vec<u32>) {
        let first = self.rows;
        self.rows += positions.len() as u64;
        self.parts.push(Part { first, vectors, positions });
    }
}

impl RowSource for Gathered {
    fn len(&self) -> u64 {
        self.rows
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn path(&self) -> &Path {
        &self.label
    }

    fn read(&self, rows: Range<u64>) -> Result<Rows, DatasetError> {
        let invalid = |problem: String| DatasetError::invalid(&self.label, problem, "restore the set from a copy");
        if rows.start > rows.end || rows.end > self.rows {
            return Err(invalid(format!("rows {} to {} were asked for, it has {}", rows.start, rows.end, self.rows)));
        }
        let count = (rows.end - rows.start) as usize;
        let mut all = Rows::zeros(self.dtype, count, self.dim);
        let width = self.dim * self.dtype.bytes();
        for part in &self.parts {
            let end = part.first + part.positions.len() as u64;
            let (from, to) = (rows.start.max(part.first), rows.end.min(end));
            if from < to {
                let positions = &part.positions[(from - part.first) as usize..(to - part.first) as usize];
                let out = (from - rows.start) as usize * width..(to - rows.start) as usize * width;
                let read = part.vectors.read_into(positions, &mut all.as_bytes_mut()[out]);
                read.map_err(|error| invalid(error.to_string()))?;
            }
        }
        Ok(all)
    }
}
