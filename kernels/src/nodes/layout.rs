//! The layout of the `nodes` section: a vector record and its edges.
//!
//! `compact`: degree, neighbour positions. `inline`: neighbour positions, then the neighbours' codes in blocks of
//! sixteen. Nodes of a fixed size lie side by side; none straddles a page when it fits in one. A larger node
//! starts on a page of its own and takes as many whole pages as it needs.

use crate::edge_codes::{LANES, NO_NEIGHBOR, block_bytes};
use crate::element::DType;
use crate::metric::Metric;

/// Bytes of a page of an index file.
pub const PAGE: usize = 4096;

/// How one vector lies in a file: its coordinates as given, zeros up to a multiple of four bytes, and under cosine its
/// inverse norm, f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VectorRecord {
    /// Element type.
    pub dtype: DType,
    /// Coordinates.
    pub dim: usize,
    /// How rows are compared.
    pub metric: Metric,
}

impl VectorRecord {
    /// Bytes of the coordinates, padded to four.
    pub fn coordinates(self) -> usize {
        (self.dim * self.dtype.bytes()).next_multiple_of(4)
    }

    /// Bytes of a record.
    pub fn bytes(self) -> usize {
        self.coordinates() + if self.metric == Metric::Cosine { 4 } else { 0 }
    }

    /// Writes the record of a vector, given as bytes, to `record` ([`bytes`](Self::bytes)), which is zero.
    #[inline]
    pub fn write(self, row: &[u8], inverse_norm: f32, record: &mut [u8]) {
        record[..row.len()].copy_from_slice(row);
        if self.metric == Metric::Cosine {
            record[self.coordinates()..].copy_from_slice(&inverse_norm.to_le_bytes());
        }
    }
}

/// What a node keeps of its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edges {
    /// Positions.
    Compact,
    /// Positions and codes of so many bits a coordinate.
    Inline {
        /// Bits a coordinate.
        bits: u8,
    },
}

/// Sizes of the `nodes` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLayout {
    /// The vector's record.
    pub record: VectorRecord,
    /// Neighbours at most; in the `inline` layout a multiple of sixteen.
    pub max_degree: usize,
    /// What follows the record.
    pub edges: Edges,
}

impl NodeLayout {
    /// Bytes of a node.
    pub fn node_bytes(self) -> usize {
        match self.edges {
            Edges::Compact => self.record.bytes() + 4 + 4 * self.max_degree,
            Edges::Inline { bits } => self.codes_at() + self.max_degree / LANES * block_bytes(self.record.dim, bits),
        }
    }

    /// Where the codes of an `inline` node begin.
    pub fn codes_at(self) -> usize {
        self.record.bytes() + 4 * self.max_degree
    }

    /// Whole nodes in a page; 1 when a node takes a page or more.
    pub fn nodes_per_page(self) -> usize {
        (PAGE / self.node_bytes()).max(1)
    }

    /// Pages of a node; 1 where several share one.
    pub fn pages_per_node(self) -> usize {
        self.node_bytes().div_ceil(PAGE)
    }

    /// Byte offset of node `position` within the section.
    pub fn offset(self, position: u32) -> usize {
        let (position, per_page) = (position as usize, self.nodes_per_page());
        (position / per_page) * self.pages_per_node() * PAGE + (position % per_page) * self.node_bytes()
    }

    /// Nodes are read in groups: those of one page, or a single one of several pages.
    #[inline(always)]
    pub fn group(self, position: u32) -> u32 {
        position / self.nodes_per_page() as u32
    }

    /// The bytes of node `position` within those of its group.
    #[inline(always)]
    pub fn within(self, group: &[u8], position: u32) -> &[u8] {
        let at = position as usize % self.nodes_per_page() * self.node_bytes();
        &group[at..at + self.node_bytes()]
    }

    /// Bytes of a section of `n` nodes, whole pages.
    pub fn section_bytes(self, n: usize) -> usize {
        n.div_ceil(self.nodes_per_page()) * self.pages_per_node() * PAGE
    }

    /// Writes a node's neighbour positions, at most R, to `node`, which is zero: behind the degree in the `compact` layout,
    /// filled up by [`NO_NEIGHBOR`] in the `inline` one.
    #[inline]
    pub fn write_places(self, positions: &[u32], node: &mut [u8]) {
        let edges = &mut node[self.record.bytes()..];
        let (degree, places) = edges.split_at_mut(if self.edges == Edges::Compact { 4 } else { 0 });
        degree.copy_from_slice(&(positions.len() as u32).to_le_bytes()[..degree.len()]);
        let (taken, free) = places[..4 * self.max_degree].split_at_mut(4 * positions.len());
        taken.as_chunks_mut::<4>().0.iter_mut().zip(positions).for_each(|(place, p)| *place = p.to_le_bytes());
        if self.edges != Edges::Compact {
            free.as_chunks_mut::<4>().0.iter_mut().for_each(|place| *place = NO_NEIGHBOR.to_le_bytes());
        }
    }

    /// The vector record of a node.
    #[inline(always)]
    pub fn vector(self, node: &[u8]) -> &[u8] {
        &node[..self.record.bytes()]
    }

    /// Appends the neighbours of a node; a degree beyond R (never written) reads as R.
    #[inline(always)]
    pub fn neighbors(self, node: &[u8], out: &mut Vec<u32>) {
        let at = self.record.bytes();
        let words = |bytes: &[u8], out: &mut Vec<u32>| {
            out.extend(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)));
        };
        match self.edges {
            Edges::Compact => {
                let degree = u32::from_le_bytes([node[at], node[at + 1], node[at + 2], node[at + 3]]) as usize;
                words(&node[at + 4..at + 4 + 4 * degree.min(self.max_degree)], out);
            }
            Edges::Inline { .. } => {
                words(&node[at..self.codes_at()], out);
                // Places without a neighbour come last.
                out.truncate(out.len() - out.iter().rev().take_while(|&&id| id == NO_NEIGHBOR).count());
            }
        }
    }

    /// An `inline` node's places, one u32 each, and the codes of their neighbours.
    #[inline(always)]
    pub fn places(self, node: &[u8]) -> (&[u8], &[u8]) {
        let (head, codes) = node.split_at(self.codes_at());
        (&head[self.record.bytes()..], codes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(dtype: DType, dim: usize, metric: Metric) -> NodeLayout {
        NodeLayout { record: VectorRecord { dtype, dim, metric }, max_degree: 64, edges: Edges::Compact }
    }

    #[test]
    fn nodes_do_not_straddle_pages_when_they_fit() {
        let sift = layout(DType::U8, 128, Metric::L2);
        assert_eq!((sift.node_bytes(), sift.nodes_per_page()), (388, 10));
        assert_eq!(sift.offset(10), PAGE);
        for position in 0..100 {
            let start = sift.offset(position) % PAGE;
            assert!(start + sift.node_bytes() <= PAGE);
        }
        assert_eq!(sift.section_bytes(11), 2 * PAGE);
    }

    #[test]
    fn large_nodes_start_on_pages() {
        let wide = layout(DType::F32, 4096, Metric::Cosine);
        assert_eq!(wide.node_bytes(), 4 * 4096 + 4 + 4 + 256);
        assert_eq!(wide.offset(3), 3 * 5 * PAGE);
        assert_eq!(wide.section_bytes(2), 10 * PAGE);
    }

    #[test]
    fn what_is_written_is_read() {
        let odd = layout(DType::U8, 7, Metric::Cosine);
        let mut node = vec![0; odd.node_bytes()];
        odd.record.write(&[1, 2, 3, 4, 5, 6, 7], 0.5, &mut node[..odd.record.bytes()]);
        odd.write_places(&[5, 6, 7], &mut node);
        assert_eq!(node[..12], [1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0x3f]);
        let mut neighbors = Vec::new();
        odd.neighbors(&node, &mut neighbors);
        assert_eq!(neighbors, [5, 6, 7]);
    }

    #[test]
    fn inline_nodes_hold_codes_after_their_places() {
        let sift =
            NodeLayout { max_degree: 32, edges: Edges::Inline { bits: 2 }, ..layout(DType::U8, 128, Metric::L2) };
        // Vector, positions, and for each neighbour a quarter of a byte a coordinate and two f16.
        assert_eq!(sift.node_bytes(), 128 + 32 * 4 + 32 * (32 + 4));
        let mut node = vec![0u8; sift.node_bytes()];
        sift.write_places(&[7], &mut node);
        node[256] = 9;
        let mut neighbors = vec![3];
        sift.neighbors(&node, &mut neighbors);
        assert_eq!(neighbors, [3, 7]);
        let (places, codes) = sift.places(&node);
        assert_eq!((places.len(), codes.len(), codes[0]), (128, 32 * 36, 9));
    }
}
