//! What no walk from the entry reaches, found in sweeps over the drive and linked.

use kiln_kernels::distance::{GraphAux, GraphGeometry, Isa, Kernels};
use kiln_kernels::{Backend, Scored, dispatch_rows};
use ndarray::ArrayView2;

use super::assign::Middle;
use super::graph::DriveGraph;
use super::rows::HomeRows;
use super::summary::Summary;
use super::{Build, Keys, words};
use crate::durable::Unit;
use crate::error::BuilderError;
use crate::vamana::Bits;
use crate::vamana::repair::{Links, link_rest, tell};
use crate::vamana::walk::{GraphView, Visit, VisitedSet, Walk, greedy_search};

pub(super) const STAGE: &str = "repair";

/// Rows whose lists are read at a time.
const SWEEP: usize = 1 << 12;

impl<B: Backend> Build<'_, B> {
    /// The graph with every row reachable.
    pub(super) fn repaired(
        &self,
        keys: &Keys,
        summary: &Summary,
        middle: &Middle,
        rows: &HomeRows,
    ) -> Result<DriveGraph, BuilderError> {
        let unit = Unit { stage: STAGE, number: 0 };
        let mut graph = self.drive_graph()?;
        if self.store.has(unit, &keys.repair) {
            let changed = words(&self.store.read(&self.store.open_unit(unit)?, 0)?);
            let mut rest = &changed[..];
            while let [row, degree, after @ ..] = rest {
                let (list, after) = after.split_at_checked(*degree as usize).ok_or_else(|| self.store.spoiled(unit))?;
                graph.changed.insert(*row, list.to_vec());
                rest = after;
            }
            return Ok(graph);
        }
        let mut reached = self.reached(middle.entry, rows, &graph)?;
        let entry = middle.entry;
        let mut links = OnDrive { build: self, summary, rows, graph: &mut graph, entry, scratch: Walk::default() };
        tell(&link_rest(&mut links, self.n(), self.params.max_degree, &mut reached)?);
        let mut changed: Vec<(&u32, &Vec<u32>)> = graph.changed.iter().collect();
        changed.sort_unstable();
        let list = |(row, list): (&u32, &Vec<u32>)| [&[*row, list.len() as u32], &list[..]].concat();
        let changed: Vec<u32> = changed.into_iter().flat_map(list).collect();
        let mut writer = self.store.begin(unit)?;
        writer.segment(bytemuck::cast_slice(&changed))?;
        writer.commit(&keys.repair, "host")?;
        self.may_stop()?;
        Ok(graph)
    }

    /// The rows that are reached from `entry`: sweeps over the lists in home order, of each only the part that holds rows
    /// reached and not yet looked at, until nothing new is found.
    fn reached(&self, entry: u32, rows: &HomeRows, graph: &DriveGraph) -> Result<Bits, BuilderError> {
        let (n, width, unit_rows) = (self.n(), 1 + self.params.max_degree, self.plan.unit_rows);
        let mut reached = Bits::new(n);
        // By place in home order.
        let mut pending = Bits::new(n);
        let mut counts = vec![0u32; n.div_ceil(SWEEP)];
        let mark = |row: u32, reached: &mut Bits, pending: &mut Bits, counts: &mut [u32]| {
            if !reached.set(row) {
                let position = rows.position_of(row);
                pending.set(position);
                counts[position as usize / SWEEP] += 1;
            }
        };
        mark(entry, &mut reached, &mut pending, &mut counts);
        let mut records = Vec::new();
        while counts.iter().any(|&count| count > 0) {
            for part in 0..counts.len() {
                if counts[part] == 0 {
                    continue;
                }
                let places = part * SWEEP..n.min((part + 1) * SWEEP);
                records.resize(places.len() * width, 0);
                let mut at = places.start;
                while at < places.end {
                    let unit = at / unit_rows;
                    let end = places.end.min((unit + 1) * unit_rows);
                    let range = (at - places.start) * width..(end - places.start) * width;
                    graph.read(unit, at - unit * unit_rows, &mut records[range])?;
                    at = end;
                }
                while counts[part] > 0 {
                    for (place, record) in places.clone().zip(records.chunks_exact(width)) {
                        if pending.take(place as u32) {
                            counts[part] -= 1;
                            for &next in &record[1..=(record[0] as usize).min(width - 1)] {
                                mark(next, &mut reached, &mut pending, &mut counts);
                            }
                        }
                    }
                }
            }
        }
        Ok(reached)
    }
}

/// A graph on the drive that is being linked.
struct OnDrive<'a, 'b, B> {
    build: &'a Build<'b, B>,
    summary: &'a Summary,
    rows: &'a HomeRows,
    graph: &'a mut DriveGraph,
    entry: u32,
    scratch: Walk,
}

impl<B: Backend> Links for OnDrive<'_, '_, B> {
    type Error = BuilderError;

    fn neighbors(&mut self, row: u32, out: &mut Vec<u32>) -> Result<(), BuilderError> {
        self.graph.neighbors(self.rows, row, out)
    }

    fn set(&mut self, row: u32, edges: &[u32]) {
        self.graph.changed.insert(row, edges.to_vec());
    }

    fn search(&mut self, row: u32) -> Result<Vec<u32>, BuilderError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let build_list = self.build.params.build_list;
        greedy_search(&mut DriveView { links: self, query: row }, build_list, &mut scratch, &mut ())?;
        scratch.expanded.sort_unstable();
        let expanded = scratch.expanded.iter().map(|c| c.id).collect();
        self.scratch = scratch;
        Ok(expanded)
    }
}

/// The graph as a search for one of its rows sees it: what `insert::BuildView` is in memory.
struct DriveView<'v, 'a, 'b, B> {
    links: &'v OnDrive<'a, 'b, B>,
    query: u32,
}

impl<B: Backend> DriveView<'_, '_, '_, B> {
    /// Scores rows for the query.
    fn score(&self, found: &mut [Scored]) -> Result<(), BuilderError> {
        let ids: Vec<u32> = std::iter::once(self.query).chain(found.iter().map(|c| c.id)).collect();
        let OnDrive { build, summary, rows, .. } = self.links;
        let gathered = rows.gather(&ids)?;
        let largest = summary.whole.largest_squared();
        dispatch_rows!(gathered.view(), v => score(v, &GraphAux::of_part(v, build.metric, largest), found));
        Ok(())
    }
}

/// Distances of row 0 to all others.
fn score<T: Kernels>(rows: ArrayView2<'_, T>, aux: &GraphAux, found: &mut [Scored]) {
    let geometry = GraphGeometry::<T>::new(aux, Isa::best());
    let row = |i: usize| rows.row(i).to_slice().expect("rows are contiguous by construction");
    for (i, found) in found.iter_mut().enumerate() {
        found.distance = geometry.distance(row(0), geometry.aux(0), row(i + 1), geometry.aux(i + 1));
    }
}

impl<B: Backend> GraphView for DriveView<'_, '_, '_, B> {
    type Error = BuilderError;

    fn enter(&mut self, found: &mut Vec<Scored>) -> Result<usize, BuilderError> {
        found.push(Scored { distance: 0.0, id: self.links.entry });
        self.score(found)?;
        Ok(1)
    }

    fn visit(
        &mut self,
        node: Scored,
        _bound: f32,
        seen: &mut VisitedSet,
        found: &mut Vec<Scored>,
    ) -> Result<Visit, BuilderError> {
        let mut neighbors = Vec::new();
        self.links.graph.neighbors(self.links.rows, node.id, &mut neighbors)?;
        for id in neighbors {
            if seen.insert(id) {
                found.push(Scored { distance: 0.0, id });
            }
        }
        self.score(found)?;
        Ok(Visit { exact: node.distance, scored: found.len() })
    }

    fn prefetch(&self, _node: u32) {}
}
