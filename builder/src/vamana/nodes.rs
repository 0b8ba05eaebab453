//! Where nodes are: in memory, or on the drive.
//!
//! Both give the same bytes for the same node; a view of the graph does not know which it reads.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use kiln_kernels::distance::prefetch;
use kiln_kernels::nodes::NodeLayout;

use super::search_drive::DriveGraph;
use crate::error::BuilderError;
use crate::file::huge::HugeBytes;
use crate::file::pages::PageCache;
use crate::file::reader::IndexFile;
use crate::file::{PAGE, Section};
use crate::io::{Drive, Span};

/// Pages read at a time while nodes are loaded.
const PIECE_PAGES: usize = 1024;

/// Nodes in memory start on cache lines.
const LINE: usize = 64;

/// All nodes of an open index.
pub(crate) enum Nodes {
    Memory(MemoryNodes),
    Drive(DriveGraph),
}

/// Nodes side by side, without the gaps that pages have.
pub(crate) struct MemoryNodes {
    bytes: HugeBytes,
    node_bytes: usize,
    stride: usize,
}

/// Nodes left in the file.
pub(crate) struct DriveNodes {
    pub drive: Arc<Drive>,
    /// Byte offset of the section.
    pub section: u64,
    pub layout: NodeLayout,
    pub n: u32,
}

impl DriveNodes {
    /// Groups of nodes that are read together.
    pub(crate) fn groups(&self) -> u32 {
        self.layout.group(self.n - 1) + 1
    }

    /// The nodes of a group.
    pub(crate) fn members(&self, group: u32) -> Range<u32> {
        let per_page = self.layout.nodes_per_page() as u32;
        group * per_page..((group + 1) * per_page).min(self.n)
    }

    /// The pages of a group.
    pub(crate) fn span(&self, group: u32) -> Span {
        let pages = self.layout.pages_per_node();
        Span { first: self.section / PAGE as u64 + u64::from(group) * pages as u64, pages }
    }

    /// Refuses neighbours of the node at `position` that are no nodes.
    pub(crate) fn check(&self, position: u32, mut neighbors: impl Iterator<Item = u32>) -> Result<(), BuilderError> {
        let n = self.n;
        match neighbors.find(|&neighbor| neighbor >= n) {
            None => Ok(()),
            Some(wrong) => Err(self.drive.file.damaged(wrong_neighbor(position, wrong, n))),
        }
    }
}

/// A reader of nodes during one search.
pub(crate) trait NodeSource {
    type Error;

    /// The first `length` bytes of a node.
    fn bytes(&mut self, position: u32, length: usize) -> Result<&[u8], Self::Error>;

    /// Asks for the first `length` bytes of a node before they are needed.
    fn prefetch(&self, position: u32, length: usize);

    /// Refuses neighbours that are no nodes, where that was not done when the index was opened.
    fn check(&self, position: u32, neighbors: impl Iterator<Item = u32>) -> Result<(), Self::Error>;
}

impl MemoryNodes {
    /// Reads and checks the section of `n` nodes.
    pub(crate) fn read(file: &IndexFile, layout: NodeLayout, n: u32) -> Result<Self, BuilderError> {
        let node_bytes = layout.node_bytes();
        let stride = node_bytes.next_multiple_of(LINE);
        let bytes = HugeBytes::zeroed(n as usize * stride).map_err(BuilderError::io(file.path(), "find memory for"))?;
        let mut nodes = Self { bytes, node_bytes, stride };
        // Whole nodes a piece: of a large node as many pages as it takes.
        let group_pages = node_bytes.div_ceil(PAGE);
        let pieces = PIECE_PAGES.next_multiple_of(group_pages);
        let (per_page, group_bytes) = (layout.nodes_per_page(), group_pages * PAGE);
        file.section_pieces(Section::Nodes, pieces, |start, piece| {
            let first = start / group_bytes * per_page;
            for (group, bytes) in piece.chunks(group_bytes).enumerate() {
                let first = first + group * per_page;
                for (position, node) in (first..n as usize).zip(bytes.chunks_exact(node_bytes)).take(per_page) {
                    nodes.bytes.as_mut_slice()[position * stride..][..node_bytes].copy_from_slice(node);
                }
            }
        })?;
        nodes.check_neighbors(layout, n).map_err(|problem| BuilderError::damaged(file.path(), problem))?;
        Ok(nodes)
    }

    #[inline(always)]
    pub(crate) fn node(&self, position: u32) -> &[u8] {
        &self.bytes.as_slice()[position as usize * self.stride..][..self.node_bytes]
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        self.bytes.as_slice().len() as u64
    }

    /// Every neighbour is a node.
    fn check_neighbors(&self, layout: NodeLayout, n: u32) -> Result<(), String> {
        let mut neighbors = Vec::new();
        for position in 0..n {
            neighbors.clear();
            layout.neighbors(self.node(position), &mut neighbors);
            if let Some(wrong) = neighbors.iter().find(|&&neighbor| neighbor >= n) {
                return Err(wrong_neighbor(position, *wrong, n));
            }
        }
        Ok(())
    }
}

fn wrong_neighbor(position: u32, neighbor: u32, n: u32) -> String {
    format!("node {position} names neighbour {neighbor} of {n} nodes")
}

impl NodeSource for &MemoryNodes {
    type Error = Infallible;

    #[inline(always)]
    fn bytes(&mut self, position: u32, length: usize) -> Result<&[u8], Infallible> {
        Ok(&self.node(position)[..length])
    }

    #[inline(always)]
    fn prefetch(&self, position: u32, length: usize) {
        prefetch(&self.node(position)[..length]);
    }

    #[inline(always)]
    fn check(&self, _position: u32, _neighbors: impl Iterator<Item = u32>) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Nodes on the drive during one search; a page is fetched once.
pub(crate) struct CachedNodes<'a> {
    pub nodes: &'a DriveNodes,
    pub cache: &'a mut PageCache,
}

impl NodeSource for CachedNodes<'_> {
    type Error = BuilderError;

    fn bytes(&mut self, position: u32, length: usize) -> Result<&[u8], BuilderError> {
        let offset = self.nodes.section + self.nodes.layout.offset(position) as u64;
        self.cache.bytes(&self.nodes.drive.file, offset, length)
    }

    fn prefetch(&self, _position: u32, _length: usize) {}

    fn check(&self, position: u32, neighbors: impl Iterator<Item = u32>) -> Result<(), BuilderError> {
        self.nodes.check(position, neighbors)
    }
}
