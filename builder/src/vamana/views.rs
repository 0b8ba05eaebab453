//! A graph as one query sees it: three ways to score a node's neighbours, over either residency.

use kiln_kernels::Scored;
use kiln_kernels::distance::Kernels;
use kiln_kernels::edge_codes::{EdgeCodes, EdgeQuery};
use kiln_kernels::nodes::NodeLayout;

use super::codes::{Codes, CodesQuery};
use super::entry::EntryTable;
use super::nodes::NodeSource;

use super::walk::{GraphView, Visit, VisitedSet};
use crate::record::{RecordScorer, Typed};

/// Exact distance from the query to a vector record.
pub(super) trait Score {
    fn distance(&self, record: &[u8]) -> f32;
}

impl<A: Kernels, T: Kernels> Score for &Typed<A, T> {
    #[inline(always)]
    fn distance(&self, record: &[u8]) -> f32 {
        Typed::distance(self, record)
    }
}

impl Score for RecordScorer {
    #[inline(always)]
    fn distance(&self, record: &[u8]) -> f32 {
        RecordScorer::distance(self, record)
    }
}

/// Neighbours are scored by their exact distances, which reads their vectors.
pub(super) struct ExactView<S, D> {
    pub source: S,
    pub layout: NodeLayout,
    pub scorer: D,
    pub entry: u32,
    pub neighbors: Vec<u32>,
}

impl<S: NodeSource, D: Score> ExactView<S, D> {
    /// The exact distance of a node.
    #[inline(always)]
    fn exact(&mut self, node: u32) -> Result<f32, S::Error> {
        Ok(self.scorer.distance(self.source.bytes(node, self.layout.record.bytes())?))
    }

    /// Leaves the neighbours of `node` that are not in `seen` in `self.neighbors`, and adds them to `seen`.
    #[inline(always)]
    fn expand(&mut self, node: u32, seen: &mut VisitedSet) -> Result<(), S::Error> {
        self.neighbors.clear();
        self.layout.neighbors(self.source.bytes(node, self.layout.node_bytes())?, &mut self.neighbors);
        self.source.check(node, self.neighbors.iter().copied())?;
        self.neighbors.retain(|&neighbor| seen.insert(neighbor));
        Ok(())
    }
}

impl<S: NodeSource, D: Score> GraphView for ExactView<S, D> {
    type Error = S::Error;

    fn enter(&mut self, found: &mut Vec<Scored>) -> Result<usize, S::Error> {
        found.push(Scored { distance: self.exact(self.entry)?, id: self.entry });
        Ok(1)
    }

    #[inline(always)]
    fn visit(
        &mut self,
        node: Scored,
        _bound: f32,
        seen: &mut VisitedSet,
        found: &mut Vec<Scored>,
    ) -> Result<Visit, S::Error> {
        self.expand(node.id, seen)?;
        for &neighbor in &self.neighbors {
            self.source.prefetch(neighbor, self.layout.record.bytes());
        }
        for at in 0..self.neighbors.len() {
            let id = self.neighbors[at];
            found.push(Scored { distance: self.exact(id)?, id });
        }
        Ok(Visit { exact: node.distance, scored: self.neighbors.len() })
    }

    #[inline(always)]
    fn prefetch(&self, node: u32) {
        self.source.prefetch(node, self.layout.node_bytes());
    }
}

/// Neighbours are scored by codes that are in memory; only visited nodes are read and scored exactly (DiskANN's search).
pub(super) struct CodesView<'a, S, D> {
    pub inner: ExactView<S, D>,
    pub codes: &'a Codes,
    pub query: &'a CodesQuery,
}

impl<S: NodeSource, D: Score> CodesView<'_, S, D> {
    #[inline(always)]
    fn scored(&self, id: u32) -> Scored {
        Scored { distance: self.codes.score(self.query, id), id }
    }
}

impl<S: NodeSource, D: Score> GraphView for CodesView<'_, S, D> {
    type Error = S::Error;

    fn enter(&mut self, found: &mut Vec<Scored>) -> Result<usize, S::Error> {
        found.push(self.scored(self.inner.entry));
        Ok(1)
    }

    #[inline(always)]
    fn visit(
        &mut self,
        node: Scored,
        _bound: f32,
        seen: &mut VisitedSet,
        found: &mut Vec<Scored>,
    ) -> Result<Visit, S::Error> {
        self.inner.expand(node.id, seen)?;
        found.extend(self.inner.neighbors.iter().map(|&id| self.scored(id)));
        Ok(Visit { exact: self.inner.exact(node.id)?, scored: self.inner.neighbors.len() + 1 })
    }

    fn prefetch(&self, node: u32) {
        self.inner.prefetch(node);
    }
}

/// Neighbours are scored by the codes that the node itself holds: one sequential read a visit.
pub(super) struct InlineView<'a, S> {
    pub source: S,
    pub layout: NodeLayout,
    pub scorer: RecordScorer,
    pub codes: &'a EdgeCodes,
    pub query: EdgeQuery,
    pub entries: &'a EntryTable,
    /// Where the walk starts when no sampled row can be told.
    pub entry: u32,
}

impl<S: NodeSource> GraphView for InlineView<'_, S> {
    type Error = S::Error;

    fn enter(&mut self, found: &mut Vec<Scored>) -> Result<usize, S::Error> {
        Ok(self.entries.nearest_or(self.entry, &self.query, found))
    }

    #[inline(always)]
    fn visit(
        &mut self,
        node: Scored,
        bound: f32,
        seen: &mut VisitedSet,
        found: &mut Vec<Scored>,
    ) -> Result<Visit, S::Error> {
        let bytes = self.source.bytes(node.id, self.layout.node_bytes())?;
        let exact = self.scorer.distance(self.layout.vector(bytes));
        let (places, blocks) = self.layout.places(bytes);
        match bytemuck::try_cast_slice::<u8, u32>(places) {
            Ok(ids) => self.codes.neighbors_below(&self.query, exact, bound, ids, blocks, found),
            // A node joined from two pages may start anywhere.
            Err(_) => {
                let ids: Vec<u32> = bytemuck::pod_collect_to_vec(places);
                self.codes.neighbors_below(&self.query, exact, bound, &ids, blocks, found);
            }
        }
        self.source.check(node.id, found.iter().map(|c| c.id))?;
        found.retain(|c| seen.insert(c.id));
        Ok(Visit { exact, scored: self.layout.max_degree + 1 })
    }

    #[inline(always)]
    fn prefetch(&self, node: u32) {
        self.source.prefetch(node, self.layout.node_bytes());
    }
}
