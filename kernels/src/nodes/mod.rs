//! Nodes of a graph as they lie in pages of an index file.
//!
//! In: rows, and of consecutive nodes their row, their neighbours' positions and, in the `inline` layout, their
//! neighbours' rows and what the codes have in common. Out: the pages' finished bytes ([`Backend::pack_nodes`]), laid out
//! as [`NodeLayout`] says; the same type reads them.
//!
//! [`Backend::pack_nodes`]: crate::Backend::pack_nodes

mod layout;
mod pack;

pub use layout::{Edges, NodeLayout, PAGE, VectorRecord};
pub use pack::Rotated;
pub(crate) use pack::{Source, pack};

use crate::backend::{BackendError, Lists};
use crate::checks::{check_ids, same_count};
use crate::edge_codes::EdgeCodes;

/// Consecutive nodes of a file, the first of which starts a page.
#[derive(Debug, Clone, Copy)]
pub struct NodeBlock<'a> {
    /// How nodes lie in pages.
    pub layout: NodeLayout,
    /// Row of each node `(count)`.
    pub rows: &'a [u32],
    /// Positions in the file of each node's neighbours, at most `max_degree`.
    pub places: &'a Lists<u32>,
    /// In the `inline` layout, what neighbours are coded with.
    pub codes: Option<NeighborCodes<'a>>,
}

/// How neighbours are coded, and which rows they are.
#[derive(Debug, Clone, Copy)]
pub struct NeighborCodes<'a> {
    /// What the codes of the index have in common.
    pub codes: &'a EdgeCodes,
    /// Row of each neighbour, as `places.items` has its position.
    pub rows: &'a [u32],
}

/// The method's name in errors.
pub(crate) const PACK: &str = "pack nodes";

impl<'a> NodeBlock<'a> {
    /// Whether the block is one of `n` rows of `record`'s kind, and its parts fit one another.
    pub(crate) fn check(&self, n: usize, record: VectorRecord) -> Result<(), BackendError> {
        let shape = |expected: String, got: String| Err(BackendError::Shape { operation: PACK, expected, got });
        let NodeLayout { record: own, max_degree, edges } = self.layout;
        if own != record {
            let words = |r: VectorRecord| format!("{} {} coordinates under {}", r.dim, r.dtype, r.metric);
            return shape(format!("rows of {}", words(own)), words(record));
        }
        check_ids(PACK, self.rows.iter().copied(), n)?;
        same_count(PACK, "list of places", self.places.len(), "node", self.rows.len())?;
        if let Some(long) = self.places.iter().map(<[u32]>::len).find(|&degree| degree > max_degree) {
            return shape(format!("at most {max_degree} neighbours a node"), long.to_string());
        }
        match (edges, &self.codes) {
            (Edges::Compact, None) => Ok(()),
            (Edges::Inline { bits }, Some(NeighborCodes { codes, rows })) => {
                if (codes.dim(), codes.bits(), codes.metric()) != (own.dim, bits, own.metric) {
                    let words =
                        |dim, bits, metric| format!("codes of {dim} coordinates and {bits} bits under {metric}");
                    let got = words(codes.dim(), codes.bits(), codes.metric());
                    return shape(words(own.dim, bits, own.metric), got);
                }
                if !max_degree.is_multiple_of(crate::edge_codes::LANES) {
                    return shape("places in blocks of sixteen".into(), max_degree.to_string());
                }
                same_count(PACK, "neighbour's row", rows.len(), "place", self.places.items.len())?;
                check_ids(PACK, rows.iter().copied(), n)
            }
            (Edges::Compact, Some(_)) => shape("no codes in the compact layout".into(), "some".into()),
            (Edges::Inline { .. }, None) => shape("codes in the inline layout".into(), "none".into()),
        }
    }

    /// Rows of the neighbours of node `i`; none in the `compact` layout, which does not ask for them.
    pub(crate) fn neighbors(&self, i: usize) -> &'a [u32] {
        match &self.codes {
            Some(codes) => &codes.rows[self.places.offsets[i]..self.places.offsets[i + 1]],
            None => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::Backend;
    use crate::conformance::random_rows;
    use crate::cpu::CpuBackend;
    use crate::element::DType;
    use crate::metric::Metric;

    #[test]
    fn nodes_that_do_not_fit_their_rows_are_refused() {
        let cpu = CpuBackend::new();
        let rows = cpu.upload(Arc::new(random_rows(DType::U8, 5, 8, 1)), Metric::L2).unwrap();
        let record = VectorRecord { dtype: DType::U8, dim: 8, metric: Metric::L2 };
        let layout = NodeLayout { record, max_degree: 2, edges: Edges::Compact };
        let refused = |layout, rows_of: &[u32], lists: Vec<Vec<u32>>| {
            let places: Lists<u32> = lists.into_iter().collect();
            let error = cpu.pack_nodes(&rows, &NodeBlock { layout, rows: rows_of, places: &places, codes: None });
            error.expect_err("a shape that does not fit").to_string()
        };
        let says = |error: String, part: &str| assert!(error.contains(part), "{error}");
        says(refused(layout, &[5], vec![vec![]]), "row numbers below 5, got 5");
        says(refused(layout, &[0, 1], vec![vec![]]), "one list of places for each node, 2, got 1");
        says(refused(layout, &[0], vec![vec![1, 2, 3]]), "at most 2 neighbours a node, got 3");
        let other = NodeLayout { record: VectorRecord { dim: 9, ..record }, ..layout };
        says(refused(other, &[0], vec![vec![]]), "rows of 9 u8 coordinates under l2, got 8 u8");
        let inline = NodeLayout { max_degree: 16, edges: Edges::Inline { bits: 2 }, ..layout };
        says(refused(inline, &[0], vec![vec![]]), "codes in the inline layout, got none");
    }
}
