//! A graph in pages as one query sees it: scored by codes in memory, or by the codes inside nodes.

use kiln_kernels::Scored;
use kiln_kernels::edge_codes::{EdgeCodes, EdgeQuery};

use super::codes::{Codes, CodesQuery};
use super::entry::EntryTable;
use super::nodes::DriveNodes;
use super::page_walk::PageView;
use super::pool::VisitedSet;
use crate::error::BuilderError;
use crate::record::RecordScorer;

/// The `compact` layout: neighbours are scored by product-quantised codes that are in memory.
pub(super) struct CodesPages<'a> {
    pub nodes: &'a DriveNodes,
    pub scorer: RecordScorer,
    pub codes: &'a Codes,
    pub query: CodesQuery,
    /// Where the walk starts beside the nearest of the sampled nodes.
    pub entry: u32,
    pub neighbors: Vec<u32>,
}

impl PageView for CodesPages<'_> {
    fn enter(&mut self, found: &mut Vec<Scored>) -> usize {
        self.codes.enter(&self.query, self.entry, found)
    }

    #[inline]
    fn nodes(&self) -> &DriveNodes {
        self.nodes
    }

    #[inline]
    fn scorer(&self) -> &RecordScorer {
        &self.scorer
    }

    /// By its code as any other: estimates and exact distances do not mix in one order.
    fn met(&self, id: u32, _exact: f32) -> f32 {
        self.codes.score(&self.query, id)
    }

    fn expand(
        &mut self,
        node: Scored,
        bytes: &[u8],
        bound: f32,
        seen: &mut VisitedSet,
        found: &mut Vec<Scored>,
    ) -> Result<usize, BuilderError> {
        self.neighbors.clear();
        self.nodes.layout.neighbors(bytes, &mut self.neighbors);
        self.nodes.check(node.id, self.neighbors.iter().copied())?;
        self.neighbors.retain(|&neighbor| seen.insert(neighbor));
        self.codes.score_below(&self.query, &self.neighbors, bound, found);
        Ok(self.neighbors.len())
    }
}

/// The `inline` layout: neighbours are scored by the codes that the node itself holds.
pub(super) struct InlinePages<'a> {
    pub nodes: &'a DriveNodes,
    pub scorer: RecordScorer,
    pub codes: &'a EdgeCodes,
    pub query: EdgeQuery,
    pub entries: &'a EntryTable,
    /// Where the walk starts when no sampled row can be told.
    pub entry: u32,
}

impl PageView for InlinePages<'_> {
    fn enter(&mut self, found: &mut Vec<Scored>) -> usize {
        self.entries.nearest_or(self.entry, &self.query, found)
    }

    #[inline]
    fn nodes(&self) -> &DriveNodes {
        self.nodes
    }

    #[inline]
    fn scorer(&self) -> &RecordScorer {
        &self.scorer
    }

    /// Its neighbours' nodes hold its codes, and they are not at hand.
    fn met(&self, _id: u32, exact: f32) -> f32 {
        exact
    }

    fn expand(
        &mut self,
        node: Scored,
        bytes: &[u8],
        bound: f32,
        seen: &mut VisitedSet,
        found: &mut Vec<Scored>,
    ) -> Result<usize, BuilderError> {
        let (places, blocks) = self.nodes.layout.places(bytes);
        let start = found.len();
        // Pages and stashed nodes begin on words, and so do the places within.
        match bytemuck::try_cast_slice::<u8, u32>(places) {
            Ok(ids) => self.codes.neighbors_below(&self.query, node.distance, bound, ids, blocks, found),
            Err(_) => {
                let ids: Vec<u32> = bytemuck::pod_collect_to_vec(places);
                self.codes.neighbors_below(&self.query, node.distance, bound, &ids, blocks, found);
            }
        }
        self.nodes.check(node.id, found[start..].iter().map(|c| c.id))?;
        let mut kept = start;
        for at in start..found.len() {
            if seen.insert(found[at].id) {
                found[kept] = found[at];
                kept += 1;
            }
        }
        found.truncate(kept);
        Ok(self.nodes.layout.max_degree)
    }
}
