//! The navigation graph over the centroids, section `nav`: how probes are found where there are many lists.
//!
//! In: centroids. Out: a small Vamana graph over them, walked greedily from its entry. The section: u32 entry, u32
//! max_degree; then of each centroid u32 degree and u32 neighbours x max_degree, unused ones zero.

use std::convert::Infallible;

use kiln_kernels::{Metric, NoProgress, Scored};
use ndarray::Array2;

use crate::file::u32_at;
use crate::params::IndexParams;
use crate::search_types::IndexKind;
use crate::vamana::insert::build_graph;
use crate::vamana::walk::{GraphView, Visit, VisitedSet, Walk, greedy_search};

/// Lists from which on a graph is built and walked. Below, scoring all centroids by bytes is faster: at 128 coordinates
/// and nprobe 16 a scan took 36 us a query where a walk took 113 at 16,384 lists, and 292 against 223 at 65,536; of a
/// whole query set, 17 and 90 us.
pub(super) const NAVIGATED_LISTS: usize = 65_536;

/// Edges a centroid, and candidates kept while building.
const MAX_DEGREE: usize = 32;
const BUILD_LIST: usize = 64;

/// A graph over centroids.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Navigation {
    entry: u32,
    max_degree: usize,
    /// `(nlist, 1 + max_degree)`: degree, neighbours.
    nodes: Vec<u32>,
}

impl Navigation {
    /// Builds the graph of `centroids` `(nlist, dim)`.
    pub(super) fn build(centroids: &Array2<f32>, metric: Metric, seed: u64) -> Self {
        let IndexParams::Vamana(mut params) =
            IndexParams::defaults(IndexKind::Vamana, centroids.nrows() as u64, centroids.ncols())
        else {
            unreachable!("the defaults of a graph are those of a graph")
        };
        (params.max_degree, params.build_list, params.seed) = (MAX_DEGREE, BUILD_LIST, seed);
        // Under cosine lists are assigned by L2 to centroids that are not quite of unit length.
        let metric = if metric == Metric::InnerProduct { metric } else { Metric::L2 };
        let graph = build_graph(centroids.view(), metric, &params, &NoProgress);
        let mut nodes = Vec::with_capacity(graph.len() * (1 + MAX_DEGREE));
        for row in 0..graph.len() as u32 {
            let neighbors = graph.neighbors(row);
            nodes.push(neighbors.len() as u32);
            nodes.extend_from_slice(neighbors);
            nodes.resize(nodes.len() + MAX_DEGREE - neighbors.len(), 0);
        }
        Self { entry: graph.entry, max_degree: MAX_DEGREE, nodes }
    }

    /// The section's bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let head = [self.entry, self.max_degree as u32];
        head.iter().chain(&self.nodes).flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Reads the section of an index of `nlist` lists; every centroid that it names must exist.
    pub(super) fn from_bytes(bytes: &[u8], nlist: usize) -> Result<Self, String> {
        if bytes.len() < 8 {
            return Err("section nav is cut short".into());
        }
        let (entry, max_degree) = (u32_at(bytes, 0), u32_at(bytes, 4) as usize);
        let words = (max_degree + 1).checked_mul(nlist);
        if words.and_then(|words| words.checked_mul(4)) != Some(bytes.len() - 8) {
            return Err(format!("section nav has {} bytes, not those of {nlist} centroids", bytes.len()));
        }
        let nodes: Vec<u32> = bytes[8..].as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let sound = |node: &[u32]| {
            let degree = node[0] as usize;
            degree <= max_degree && node[1..=degree].iter().all(|&to| (to as usize) < nlist)
        };
        if entry as usize >= nlist || !nodes.chunks_exact(max_degree + 1).all(sound) {
            return Err("section nav names a centroid that does not exist".into());
        }
        Ok(Self { entry, max_degree, nodes })
    }

    /// Bytes held in memory.
    pub(super) fn bytes(&self) -> u64 {
        4 * self.nodes.len() as u64
    }

    /// About the `list_size` nearest centroids by `distance`, in no order.
    pub(super) fn nearest<'s>(
        &self,
        list_size: usize,
        distance: impl Fn(u32) -> f32,
        scratch: &'s mut Walk,
    ) -> &'s [Scored] {
        let mut view = View { graph: self, distance };
        let Ok(()) = greedy_search(&mut view, list_size, scratch, &mut ());
        &scratch.expanded
    }
}

struct View<'a, D> {
    graph: &'a Navigation,
    distance: D,
}

impl<D: Fn(u32) -> f32> GraphView for View<'_, D> {
    type Error = Infallible;

    fn enter(&mut self, found: &mut Vec<Scored>) -> Result<usize, Infallible> {
        found.push(Scored { distance: (self.distance)(self.graph.entry), id: self.graph.entry });
        Ok(1)
    }

    #[inline(always)]
    fn visit(
        &mut self,
        node: Scored,
        _bound: f32,
        seen: &mut VisitedSet,
        found: &mut Vec<Scored>,
    ) -> Result<Visit, Infallible> {
        let width = self.graph.max_degree + 1;
        let words = &self.graph.nodes[node.id as usize * width..][..width];
        let new = words[1..=words[0] as usize].iter().filter(|&&id| seen.insert(id));
        found.extend(new.map(|&id| Scored { distance: (self.distance)(id), id }));
        Ok(Visit { exact: node.distance, scored: found.len() })
    }

    fn prefetch(&self, _node: u32) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn centroids() -> Array2<f32> {
        Array2::from_shape_fn((300, 4), |(i, j)| ((i * (7 + 3 * j)) % 61) as f32 + i as f32 * 1e-3)
    }

    #[test]
    fn a_walk_finds_the_nearest() {
        let centroids = centroids();
        for metric in [Metric::L2, Metric::Cosine] {
            let graph = Navigation::build(&centroids, metric, 1);
            for query in (0..300).step_by(17) {
                let distance = |id: u32| (&centroids.row(id as usize) - &centroids.row(query)).mapv(|x| x * x).sum();
                let mut scratch = Walk::default();
                let found = graph.nearest(20, distance, &mut scratch);
                assert!(found.iter().any(|hit| hit.id == query as u32), "{query}");
            }
        }
    }

    #[test]
    fn it_survives_storage_and_is_checked() {
        let graph = Navigation::build(&centroids(), Metric::InnerProduct, 1);
        let bytes = graph.to_bytes();
        assert_eq!(Navigation::from_bytes(&bytes, 300).unwrap(), graph);
        assert!(Navigation::from_bytes(&bytes, 299).is_err() && Navigation::from_bytes(&bytes[..4], 300).is_err());
        for (at, value) in [(0, 300u32), (8, 33), (12, 300), (4, u32::MAX)] {
            let mut broken = bytes.clone();
            broken[at..at + 4].copy_from_slice(&value.to_le_bytes());
            assert!(Navigation::from_bytes(&broken, 300).is_err(), "{value} at {at}");
        }
    }
}
