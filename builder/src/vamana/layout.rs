//! The `nodes` section: a vector record and its edges.
//!
//! `compact`: degree, neighbour positions. `inline`: neighbour positions, then the neighbours' codes in blocks of
//! sixteen. Nodes of a fixed size lie side by side; none straddles a page when it fits in one. A larger node
//! starts on a page of its own and takes as many whole pages as it needs.

use kiln_kernels::edge_codes::{LANES, NO_NEIGHBOR, block_bytes};

use crate::file::{PAGE, u32_at};
use crate::record::VectorRecord;

/// What a node keeps of its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edges {
    /// Positions.
    Compact,
    /// Positions and codes of so many bits a coordinate.
    Inline { bits: u8 },
}

/// Sizes of the `nodes` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeLayout {
    pub record: VectorRecord,
    pub max_degree: usize,
    pub edges: Edges,
}

impl NodeLayout {
    /// Bytes of a node.
    pub(crate) fn node_bytes(self) -> usize {
        match self.edges {
            Edges::Compact => self.record.bytes() + 4 + 4 * self.max_degree,
            Edges::Inline { bits } => self.codes_at() + self.max_degree / LANES * block_bytes(self.record.dim, bits),
        }
    }

    /// Where the codes of an `inline` node begin.
    fn codes_at(self) -> usize {
        self.record.bytes() + 4 * self.max_degree
    }

    /// Whole nodes in a page; 1 when a node takes a page or more.
    pub(crate) fn nodes_per_page(self) -> usize {
        (PAGE / self.node_bytes()).max(1)
    }

    fn pages_per_node(self) -> usize {
        self.node_bytes().div_ceil(PAGE)
    }

    /// Byte offset of node `position` within the section.
    pub(crate) fn offset(self, position: u32) -> usize {
        let (position, per_page) = (position as usize, self.nodes_per_page());
        (position / per_page) * self.pages_per_node() * PAGE + (position % per_page) * self.node_bytes()
    }

    /// Bytes of a section of `n` nodes, whole pages.
    pub(crate) fn section_bytes(self, n: usize) -> usize {
        n.div_ceil(self.nodes_per_page()) * self.pages_per_node() * PAGE
    }

    /// Appends a `compact` node's degree and neighbours to its vector record, already in `out`.
    pub(crate) fn append_edges(self, neighbors: impl ExactSizeIterator<Item = u32>, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&(neighbors.len() as u32).to_le_bytes());
        for neighbor in neighbors {
            out.extend_from_slice(&neighbor.to_le_bytes());
        }
        out.resize(start + 4 + 4 * self.max_degree, 0);
    }

    /// Appends an `inline` node's places to its vector record; the codes are to follow.
    pub(crate) fn append_places(self, neighbors: impl ExactSizeIterator<Item = u32>, out: &mut Vec<u8>) {
        let missing = self.max_degree - neighbors.len();
        for neighbor in neighbors.chain(std::iter::repeat_n(NO_NEIGHBOR, missing)) {
            out.extend_from_slice(&neighbor.to_le_bytes());
        }
    }

    /// The vector record of a node.
    #[inline(always)]
    pub(crate) fn vector(self, node: &[u8]) -> &[u8] {
        &node[..self.record.bytes()]
    }

    /// Appends the neighbours of a node; a degree beyond R (never written) reads as R.
    #[inline(always)]
    pub(crate) fn neighbors(self, node: &[u8], out: &mut Vec<u32>) {
        let at = self.record.bytes();
        let words = |bytes: &[u8], out: &mut Vec<u32>| {
            out.extend(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)));
        };
        match self.edges {
            Edges::Compact => {
                let degree = (u32_at(node, at) as usize).min(self.max_degree);
                words(&node[at + 4..at + 4 + 4 * degree], out);
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
    pub(crate) fn places(self, node: &[u8]) -> (&[u8], &[u8]) {
        let (head, codes) = node.split_at(self.codes_at());
        (&head[self.record.bytes()..], codes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_kernels::{DType, Metric};

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
        let mut node = Vec::new();
        odd.record.append(&[1u8, 2, 3, 4, 5, 6, 7], &mut node);
        odd.append_edges([5, 6, 7].into_iter(), &mut node);
        assert_eq!(node.len(), odd.node_bytes());
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
        node[128..256].fill(0xff);
        node[128..132].copy_from_slice(&7u32.to_le_bytes());
        node[256] = 9;
        let mut neighbors = vec![3];
        sift.neighbors(&node, &mut neighbors);
        assert_eq!(neighbors, [3, 7]);
        let (places, codes) = sift.places(&node);
        assert_eq!((places.len(), codes.len(), codes[0]), (128, 32 * 36, 9));
    }
}
