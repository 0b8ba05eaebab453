//! The one pass over the rows: each is assigned, coded, and put beside the others of its list.

use std::sync::Arc;

use kiln_kernels::codec::Codec;
use kiln_kernels::{Backend, Lists, Metric, Rows};

use super::train::Trained;
use super::{Build, Keys};
use crate::durable::{Unit, UnitWriter};
use crate::error::BuilderError;
use crate::ivf::spill::SecondLists;
use crate::resources::Stopwatch;

pub(super) const STAGE: &str = "pass";

/// Segments of a unit. Of its rows by first list: how many each list has, u32; their numbers within the unit, u32; their
/// codes, none where lists are coded from the rows; the rows. Of its rows by second list: how many each list has, and
/// their codes, or the rows; where they have their own place: list and rank among the unit's rows there, u32 each.
pub(super) const COUNTS: usize = 0;
pub(super) const NUMBERS: usize = 1;
pub(super) const CODES: usize = 2;
pub(super) const VECTORS: usize = 3;
pub(super) const SPILLED_COUNTS: usize = 4;
pub(super) const SPILLED_CODES: usize = 5;
pub(super) const SPILLED_FROM: usize = 6;
/// Rows whose every coordinate is zero, u64: under cosine worth a word.
pub(super) const ZEROS: usize = 7;

/// Bytes that are gathered before they are written.
const GATHERED: usize = 1 << 20;

/// A unit's rows in one of their assignments.
struct Assigned {
    lists: Vec<u32>,
    /// Codes by row.
    codes: Vec<u8>,
}

impl<B: Backend> Build<'_, B> {
    /// Makes the units that are missing.
    pub(super) fn pass(&self, keys: &Keys, trained: &Trained, watch: &mut Stopwatch<'_>) -> Result<(), BuilderError> {
        let (work, units) = (self.work(), self.plan.units);
        if work.all(STAGE, &keys.pass, units) {
            return Ok(());
        }
        watch.stage("encode", self.n());
        let soar = self.params.soar && trained.tree.centroids().nrows() > 1;
        let second = soar.then(|| SecondLists::among(self.backend, trained.tree.centroids())).transpose()?;
        work.each_missing(STAGE, &keys.pass, 0..units, |unit| self.pass_unit(unit, keys, trained, second.as_ref()))
    }

    fn pass_unit(
        &self,
        unit: Unit,
        keys: &Keys,
        trained: &Trained,
        second: Option<&SecondLists<'_, B>>,
    ) -> Result<(), BuilderError> {
        let rows = self.plan.rows_of(unit.number, self.n());
        let count = (rows.end - rows.start) as usize;
        let width = code_bytes(&trained.codec);
        let room = |wanted: bool| Assigned {
            lists: Vec::with_capacity(if wanted { count } else { 0 }),
            codes: Vec::with_capacity(if wanted { count * width } else { 0 }),
        };
        let (mut own, mut spilled) = (room(true), room(second.is_some()));
        let row_bytes = self.source.dim() * self.dtype().bytes();
        let (mut vectors, mut zeros) = (Vec::with_capacity(count * row_bytes), 0u64);
        for first in rows.clone().step_by(self.plan.block_rows) {
            let block = Arc::new(self.source.read(first..rows.end.min(first + self.plan.block_rows as u64))?);
            if self.metric == Metric::Cosine {
                zeros += kiln_datasets::zero_rows(&block);
            }
            let resident = self.backend.upload(Arc::clone(&block), self.metric)?;
            let lists = self.backend.kmeans_step_among(&resident, &trained.tree)?.assignments;
            if let Some(second) = second {
                let lists = second.of(&block, self.metric, &lists)?;
                self.add(&resident, block.len(), trained, lists, &mut spilled)?;
            }
            self.add(&resident, block.len(), trained, lists, &mut own)?;
            vectors.extend_from_slice(block.as_bytes());
            self.progress.advance(block.len() as u64);
        }
        let nlist = trained.tree.centroids().nrows();
        let mut writer = self.store.begin(unit)?;
        let order = Lists::grouped(&own.lists, nlist);
        write_counts(&mut writer, &order)?;
        writer.segment(bytemuck::cast_slice(&order.items))?;
        write_items(&mut writer, &order.items, &own.codes, width)?;
        write_items(&mut writer, &order.items, &vectors, row_bytes)?;
        if second.is_some() {
            let by_second = Lists::grouped(&spilled.lists, nlist);
            write_counts(&mut writer, &by_second)?;
            match trained.codec.codes_residuals() {
                true => write_items(&mut writer, &by_second.items, &vectors, row_bytes)?,
                false => write_items(&mut writer, &by_second.items, &spilled.codes, width)?,
            }
            let from = spilled_from(&own.lists, &order);
            write_items(&mut writer, &by_second.items, bytemuck::cast_slice(&from), 8)?;
        } else {
            (0..3).try_for_each(|_| writer.segment(&[]))?;
        }
        writer.segment(&zeros.to_le_bytes())?;
        writer.commit(&keys.pass, &self.backend.describe())
    }

    /// Adds a block of rows in one of their assignments.
    fn add(
        &self,
        resident: &B::Rows,
        rows: usize,
        trained: &Trained,
        lists: Vec<u32>,
        to: &mut Assigned,
    ) -> Result<(), BuilderError> {
        let residual_to = (trained.tree.centroids().view(), &lists[..]);
        let codes = match &trained.codec {
            Codec::Pq(_) | Codec::Pq4(_) => {
                let pq = trained.codec.product().expect("these are product codes");
                self.backend.pq_encode(resident, Some(residual_to), pq)?
            }
            Codec::Rabitq(rabitq) => {
                let all: Vec<u32> = (0..rows as u32).collect();
                self.backend.rabitq_encode(resident, &all, residual_to, rabitq)?
            }
            Codec::Sq8(_) => ndarray::Array2::zeros((rows, 0)),
        };
        to.codes.extend_from_slice(codes.as_slice().expect("codes are contiguous by construction"));
        to.lists.extend(lists);
        Ok(())
    }
}

/// Bytes of a row's code between the pass and the list: 0 where lists are coded from the rows.
pub(super) fn code_bytes(codec: &Codec) -> usize {
    match codec {
        Codec::Pq(_) | Codec::Pq4(_) => codec.product().map_or(0, |pq| pq.code_bytes()),
        Codec::Rabitq(rabitq) => rabitq.row_bytes(),
        Codec::Sq8(_) => 0,
    }
}

/// Where each row has its own place: its first list, and its rank among the rows there.
fn spilled_from(lists: &[u32], order: &Lists<u32>) -> Vec<[u32; 2]> {
    let mut from: Vec<[u32; 2]> = lists.iter().map(|&list| [list, 0]).collect();
    for members in order.iter() {
        for (&row, rank) in members.iter().zip(0..) {
            from[row as usize][1] = rank;
        }
    }
    from
}

fn write_counts(writer: &mut UnitWriter<'_>, order: &Lists<u32>) -> Result<(), BuilderError> {
    let counts: Vec<u32> = order.iter().map(|list| list.len() as u32).collect();
    writer.segment(bytemuck::cast_slice(&counts))
}

/// A segment of `items` of `width` bytes each, in this order.
fn write_items(writer: &mut UnitWriter<'_>, order: &[u32], items: &[u8], width: usize) -> Result<(), BuilderError> {
    let mut gathered = Vec::with_capacity(GATHERED);
    for some in order.chunks((GATHERED / width.max(1)).max(1)) {
        gathered.clear();
        some.iter().for_each(|&row| gathered.extend_from_slice(&items[row as usize * width..][..width]));
        writer.write(&gathered)?;
    }
    writer.end_segment()
}

/// Rows of a segment of them.
pub(super) fn rows_of<B: Backend>(build: &Build<'_, B>, bytes: &[u8]) -> Rows {
    let (dim, dtype) = (build.source.dim(), build.dtype());
    Rows::from_bytes(dtype, bytes.len() / (dim * dtype.bytes()), dim, bytes).expect("whole rows")
}
