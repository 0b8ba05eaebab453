//! The order of nodes in the file, as `order::page_order` finds it in memory.

use kiln_kernels::{Backend, Lists};

use super::graph::DriveGraph;
use super::leaves::joined;
use super::rows::HomeRows;
use super::summary::Summary;
use super::{Build, Keys, words};
use crate::durable::Unit;
use crate::error::BuilderError;
use crate::quantiser::sample_rows;
use crate::vamana::order::{CHAIN_CHOICE, chain, fill_pages};
use crate::vamana::refine::{refine, window_bytes};

pub(super) const STAGE: &str = "place";
pub(super) const ORDER: &str = "order";

impl<B: Backend> Build<'_, B> {
    /// The row at each position.
    pub(super) fn order(
        &self,
        keys: &Keys,
        summary: &Summary,
        rows: &HomeRows,
        graph: &DriveGraph,
    ) -> Result<Vec<u32>, BuilderError> {
        let unit = Unit { stage: ORDER, number: 0 };
        if self.store.has(unit, &keys.order) {
            return Ok(words(&self.store.read(&self.store.open_unit(unit)?, 0)?));
        }
        let leaders = self.place(keys, summary, rows)?;
        let mut places = vec![0u32; self.n()];
        for number in 0..self.plan.units {
            let artifact = self.store.open_unit(Unit { stage: STAGE, number })?;
            let found = words(&self.store.read(&artifact, 0)?);
            for (id, place) in rows.ids_of(number)?.into_iter().zip(found) {
                places[id as usize] = place;
            }
        }
        let grouped = Lists::grouped(&places, leaders).items;
        drop(places);
        let layout = self.params.node_layout(self.dtype(), self.source.dim(), self.metric);
        let read = |row: u32, neighbors: &mut Vec<u32>| graph.neighbors(rows, row, neighbors);
        let mut order = fill_pages(layout.nodes_per_page(), &grouped, read)?;
        drop(grouped);
        let windows = 2 * self.plan.gathered / window_bytes(self.n());
        refine(layout.nodes_per_page(), &mut order, windows, read)?;
        let mut writer = self.store.begin(unit)?;
        writer.segment(bytemuck::cast_slice(&order))?;
        writer.commit(&keys.order, "host")?;
        self.may_stop()?;
        Ok(order)
    }

    /// Finds the place in the chain of leaders that each row follows, where that is not done. Returns the number of leaders.
    pub(super) fn place(&self, keys: &Keys, summary: &Summary, rows: &HomeRows) -> Result<usize, BuilderError> {
        let n = self.n();
        let leaders: Vec<u32> = sample_rows(n, n.isqrt(), self.params.seed).into_iter().map(|row| row as u32).collect();
        if self.all(STAGE, &keys.place, self.plan.units) {
            return Ok(leaders.len());
        }
        let leader_rows = rows.gather(&leaders)?;
        // By number among the leaders, which ascend as the rows do.
        let numbers: Vec<u32> = (0..leaders.len() as u32).collect();
        let resident = self.upload(leader_rows.clone(), &summary.whole)?;
        let near = self.backend.nearest_leaders(&resident, &numbers, &numbers, CHAIN_CHOICE)?;
        let places = chain(&numbers, &near);
        drop(resident);
        self.each_missing(STAGE, &keys.place, self.plan.units, |unit| {
            let count = self.plan.rows_of(unit.number, n).len();
            let step = self.plan.read_rows(self.source.dim() * self.dtype().bytes());
            let mut writer = self.store.begin(unit)?;
            for first in (0..count).step_by(step) {
                let vectors = rows.vectors_of(unit.number, first..count.min(first + step))?;
                let points = vectors.len();
                let resident = self.upload(joined(vectors, &leader_rows), &summary.whole)?;
                let numbers: Vec<u32> = (0..(points + leaders.len()) as u32).collect();
                let (of_points, of_leaders) = numbers.split_at(points);
                let found = self.backend.nearest_leaders(&resident, of_points, of_leaders, 1)?;
                let found: Vec<u32> = found.into_iter().map(|leader| places[leader as usize - points]).collect();
                writer.write(bytemuck::cast_slice(&found))?;
                self.progress.advance(points as u64);
            }
            writer.end_segment()?;
            writer.commit(&keys.place, &self.backend.describe())
        })?;
        Ok(leaders.len())
    }
}
