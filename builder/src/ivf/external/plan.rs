//! How much is worked on at a time, from the memory budget.

use kiln_kernels::codec::CodecKind;
use kiln_kernels::codec::fastscan::BLOCK;
use kiln_kernels::kmeans::ROWS_AT_A_TIME;
use kiln_kernels::nodes::VectorRecord;
use kiln_kernels::tree::TREE_TILE;
use kiln_kernels::{CentroidTree, DType, Metric};

use crate::durable::MARKS;
use crate::error::BuilderError;
use crate::file::PAGE;
use crate::ivf::build::{ITERATIONS, RESIDUAL_ROWS, TRAINING_ROWS_PER_LIST};
use crate::ivf::spill::CHUNK;
use crate::params::IvfPqParams;
use crate::plan::PlannedStage;
use crate::resources::PROGRAM_BYTES;

/// Rows that the sections `ids` and `lists` can name, by u32.
pub(crate) const ROWS_AT_MOST: u64 = u32::MAX as u64;

/// The pass is made in this many units at least, and a unit has so many rows at least: a crash costs little, and so does
/// keeping units.
const UNITS: u64 = 64;
const UNIT_ROWS: u64 = 4096;

/// Every unit is open at a time: no more of them than files that a process may open.
const UNITS_AT_MOST: u64 = 512;

/// Rows that are assigned and coded at a time: as few as keep threads at work, and as many as are worth a call.
const BLOCK_ROWS: (usize, usize) = (8 * ROWS_AT_A_TIME, 128 * ROWS_AT_A_TIME);

/// Rows whose lists are put together at a time.
const WINDOW_ROWS: (u64, u64) = (64 * BLOCK as u64, 1 << 20);

/// Bytes that a thread's products and their packed operands take.
const A_THREAD: u64 = 5 << 20;

/// What is built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape<'a> {
    pub n: u64,
    pub dim: usize,
    pub dtype: DType,
    pub metric: Metric,
    pub params: &'a IvfPqParams,
}

/// What a build works on at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Rows of a unit of the pass, whole tiles, and how many units that makes.
    pub unit_rows: u64,
    pub units: u32,
    /// Rows that are assigned and coded at a time, whole tiles.
    pub block_rows: usize,
    /// Rows whose lists are put together at a time, whole blocks of codes.
    pub window_rows: u64,
    /// Whether working files are freed while the index is written: it then does not survive an end before it is finished.
    pub frees: bool,
}

impl Plan {
    /// Sizes for a budget of so many bytes.
    ///
    /// # Errors
    /// When the budget is too small: says what is enough.
    pub(crate) fn new(shape: Shape<'_>, budget: u64) -> Result<Self, BuilderError> {
        let least = shape.least();
        if budget < least {
            let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
            let Shape { n, dim, dtype, params, .. } = shape;
            return Err(BuilderError::Budget(format!(
                "--memory-budget {} MiB: {n} rows of {dim} {dtype} coordinates in {} lists need {} MiB; give that much, \
                 use a smaller --nlist, or fewer --threads",
                mebibytes(budget),
                params.nlist,
                mebibytes(least)
            )));
        }
        let tile = ROWS_AT_A_TIME as u64;
        let work = budget - shape.fixed();
        let pass = work - shape.of_second();
        let by_memory = pass / 2 / shape.a_unit_row() / tile * tile;
        // The last unit may be smaller; none has part of a tile but the last.
        let wanted = shape.n.div_ceil(UNITS).max(UNIT_ROWS).min(by_memory).max(tile);
        let unit_rows = wanted.next_multiple_of(tile).min(by_memory.max(tile));
        let block = pass / 3 / shape.a_block_row() / tile * tile;
        let window = (work - shape.tables(shape.n.div_ceil(unit_rows)) - shape.sums()) / 2 / shape.a_window_row();
        Ok(Self {
            unit_rows,
            units: shape.n.div_ceil(unit_rows) as u32,
            block_rows: (block as usize).clamp(BLOCK_ROWS.0, BLOCK_ROWS.1),
            window_rows: (window / BLOCK as u64 * BLOCK as u64).clamp(WINDOW_ROWS.0, WINDOW_ROWS.1),
            frees: false,
        })
    }

    /// Rows of a unit.
    pub(crate) fn rows_of(&self, unit: u32, n: u64) -> std::ops::Range<u64> {
        let first = u64::from(unit) * self.unit_rows;
        first..n.min(first + self.unit_rows)
    }

    /// What every stage takes; seconds are not known yet.
    pub(crate) fn stages(&self, shape: Shape<'_>) -> Vec<PlannedStage> {
        let row = shape.row();
        let block = self.block_rows as u64 * shape.a_block_row() + shape.of_second();
        let window = self.window_rows * shape.a_window_row();
        let tables = shape.tables(u64::from(self.units)) + shape.sums();
        let trained = ITERATIONS as u64 + 1;
        let stage = |name, units, memory: u64, device_bytes| PlannedStage {
            name,
            units,
            memory_bytes: shape.fixed() + memory,
            device_bytes,
            seconds: 0.0,
        };
        vec![
            stage("sample", 1, shape.choosing(), 0),
            stage("train", trained, shape.training(), shape.training_rows() * row),
            stage("train codes", 1, shape.training_codes(), (RESIDUAL_ROWS * shape.dim * 4) as u64),
            stage(
                "encode",
                u64::from(self.units),
                block + self.unit_rows.min(shape.n) * shape.a_unit_row(),
                self.block_rows as u64 * row,
            ),
            stage("write", if self.frees { 1 } else { MARKS }, tables + window, 0),
        ]
    }
}

/// Rows that centroids are trained on, of `n`.
pub(crate) fn training_rows(n: u64, params: &IvfPqParams) -> u64 {
    (params.nlist as u64).saturating_mul(TRAINING_ROWS_PER_LIST as u64).min(n)
}

impl Shape<'_> {
    /// Bytes of a row.
    fn row(&self) -> u64 {
        (self.dim * self.dtype.bytes()) as u64
    }

    fn nlist(&self) -> u64 {
        (self.params.nlist as u64).min(self.n)
    }

    fn assignments(&self) -> u64 {
        if self.params.soar { 2 } else { 1 }
    }

    /// Bytes of a row in a list.
    fn in_list(&self) -> u64 {
        self.params.codec.bytes_a_row(self.dim, self.params.m, self.params.bits) as u64
    }

    /// Bytes of a row's code between pass and list, by each assignment.
    fn codes(&self) -> u64 {
        match self.params.codec {
            // Spilled rows are kept themselves.
            CodecKind::Sq8 => (self.assignments() - 1) * self.row(),
            _ => self.assignments() * self.in_list(),
        }
    }

    /// Rows that the centroids are trained on.
    fn training_rows(&self) -> u64 {
        training_rows(self.n, self.params)
    }

    /// The smallest budget that is accepted.
    fn least(&self) -> u64 {
        let unit = self.n.div_ceil(UNITS_AT_MOST).max(ROWS_AT_A_TIME as u64).min(self.n);
        let unit = 2 * (unit + ROWS_AT_A_TIME as u64) * self.a_unit_row();
        let pass = self.of_second() + unit.max(3 * BLOCK_ROWS.0 as u64 * self.a_block_row());
        let write = self.tables(UNITS_AT_MOST) + self.sums() + 2 * WINDOW_ROWS.0 * self.a_window_row();
        self.fixed() + self.choosing().max(self.training()).max(self.training_codes()).max(pass).max(write)
    }

    /// The program, the centroids, and what assigning takes whatever the number of rows: copies of the centroids, sums in f64,
    /// and products for every thread.
    fn fixed(&self) -> u64 {
        let (centroids, threads) = (self.nlist() * self.dim as u64, rayon::current_num_threads() as u64);
        let a_thread = 4 * (TREE_TILE * self.dim) as u64 + A_THREAD;
        let tree = CentroidTree::bytes(self.nlist() as usize, self.dim);
        PROGRAM_BYTES + tree + centroids * (2 * 4 + 8) + 64 * self.nlist() + threads * a_thread
    }

    /// Numbers of the sample: its drawing may list all rows, if they are not many more than the sample.
    fn choosing(&self) -> u64 {
        let sample = self.training_rows().max((RESIDUAL_ROWS as u64).min(self.n));
        24 * sample + 4 * self.n.min(37 * sample) + 2 * 16_384 * self.row()
    }

    /// The sample, the part of it that one coarse cluster holds, and their lists.
    fn training(&self) -> u64 {
        self.training_rows() * (2 * self.row() + 64)
    }

    /// Residuals as f32, and what training makes of them: with a rotation they are rotated, divided and decoded.
    fn training_codes(&self) -> u64 {
        let copies = if self.params.opq { 6 } else { 2 };
        (RESIDUAL_ROWS as u64).min(self.n) * (copies * 4 * self.dim as u64 + 2 * self.row() + 64)
    }

    /// A row of a unit: itself, and by each assignment its list, its code, and its place in order.
    fn a_unit_row(&self) -> u64 {
        self.row() + self.codes() + self.assignments() * 12 + 8
    }

    /// A row of a block: as it is read and as it is kept, its code, its assignment.
    fn a_block_row(&self) -> u64 {
        4 * self.dim as u64 + self.row() + self.codes() + 32
    }

    /// What finding second lists takes beside.
    fn of_second(&self) -> u64 {
        match self.params.soar {
            true => CHUNK as u64 * (3 * 4 * self.dim as u64 + 512) + 2 * 4 * self.nlist() * self.dim as u64,
            false => 0,
        }
    }

    /// A row of a window: its code as it is read and as it is laid out, or the row and its record.
    fn a_window_row(&self) -> u64 {
        let residuals = if self.params.codec == CodecKind::Sq8 { 12 * self.dim as u64 } else { 0 };
        (3 * self.codes() + 2 * self.in_list() + residuals).max(4 * self.row()) + 32
    }

    /// Counts of so many units, and where lists lie.
    fn tables(&self, units: u64) -> u64 {
        self.assignments() * self.nlist() * (4 * units.min(self.n.div_ceil(ROWS_AT_A_TIME as u64)) + 64)
    }

    /// Page sums of the index, as they grow and as they are written.
    fn sums(&self) -> u64 {
        self.index_bytes() / PAGE as u64 * 12
    }

    /// Bytes of the index, about.
    pub(crate) fn index_bytes(&self) -> u64 {
        let record = VectorRecord { dtype: self.dtype, dim: self.dim, metric: self.metric }.bytes() as u64;
        let spilled = if self.params.soar { 4 } else { 0 };
        let a_row = self.assignments() * self.in_list() + spilled + record + 4;
        let a_list = PAGE as u64 / 2 + 16 + 4 * self.dim as u64;
        let all = self.n * a_row + self.nlist() * a_list + 4 * PAGE as u64;
        all + all / 1024
    }

    /// Bytes of working files and index together, with something to spare.
    pub(crate) fn both_bytes(&self, plan: &Plan) -> u64 {
        let both = self.temp_bytes(plan) + self.index_bytes();
        both + both / 16
    }

    /// The same where working files are freed as the index grows.
    pub(crate) fn either_bytes(&self, plan: &Plan) -> u64 {
        let most = self.temp_bytes(plan).max(self.index_bytes());
        most + most / 8
    }

    /// Most bytes of working files at a time, about.
    pub(crate) fn temp_bytes(&self, plan: &Plan) -> u64 {
        let spilled = if self.params.soar { 8 } else { 0 };
        let pass = self.n * (self.row() + self.codes() + 4 + spilled);
        let sample = (self.training_rows() + (RESIDUAL_ROWS as u64).min(self.n)) * self.row();
        let trained = 2 * 4 * self.nlist() * self.dim as u64;
        let unit = 4 * self.assignments() * self.nlist() + 10 * PAGE as u64;
        pass + sample + trained + u64::from(plan.units) * unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::IndexParams;
    use crate::search_types::IndexKind;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_accepted_is_kept_to(
            (n, dim) in (prop_oneof![1u64..2000, 1000u64..ROWS_AT_MOST], 1usize..2000),
            dtype in prop::sample::select(vec![DType::U8, DType::F32]),
            codec in prop::sample::select(CodecKind::all().collect::<Vec<_>>()),
            (soar, opq) in any::<(bool, bool)>(),
            more in prop_oneof![Just(0u64), 1u64..1 << 36],
        ) {
            let IndexParams::IvfPq(params) = IndexParams::defaults(IndexKind::IvfPq, n, dim) else {
                unreachable!("asked for")
            };
            let params = IvfPqParams { codec, soar, opq, ..params };
            let shape = Shape { n, dim, dtype, metric: Metric::L2, params: &params };
            let budget = shape.least() + more;
            prop_assert!(Plan::new(shape, shape.least() - 1).is_err());
            let plan = Plan::new(shape, budget).expect("enough");
            for stage in plan.stages(shape) {
                prop_assert!(stage.memory_bytes <= budget, "{stage:?} of {budget}: {plan:?}");
            }
            prop_assert!(u64::from(plan.units) <= UNITS_AT_MOST);
            prop_assert!(plan.unit_rows.is_multiple_of(ROWS_AT_A_TIME as u64));
            prop_assert!(plan.block_rows.is_multiple_of(ROWS_AT_A_TIME) && plan.window_rows.is_multiple_of(BLOCK as u64));
            let mut next = 0;
            for unit in 0..plan.units {
                let rows = plan.rows_of(unit, n);
                prop_assert!(rows.start == next && !rows.is_empty());
                next = rows.end;
            }
            prop_assert_eq!(next, n);
            if n > 64 * UNIT_ROWS {
                prop_assert!(plan.unit_rows <= n.div_ceil(UNITS).next_multiple_of(ROWS_AT_A_TIME as u64));
            }
        }
    }
}
