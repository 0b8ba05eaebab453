//! How much is worked on at a time, from the memory budget.

use kiln_kernels::DType;
use kiln_kernels::reservoir::bytes_a_row;

use super::spill::id_bytes;
use crate::error::BuilderError;
use crate::params::{Layout, VamanaParams};
use crate::quantiser::SAMPLE_ROWS;
use crate::resources::PROGRAM_BYTES;
use crate::vamana::partition::{BATCH, candidates_kept, leaf_k};
use crate::vamana::refine::window_bytes;
use crate::vamana::split::{FANOUT, LEAF_SIZE};

/// Bytes a row that stay in memory: its place in home order, in the file, and what is being made of them.
const RESIDENT: u64 = 16;

/// A stage's rows are worked on in this many units at least, and a unit has so many rows at least: a crash costs little,
/// and so does keeping units.
const UNITS: usize = 64;
const UNIT_ROWS: usize = 1024;

/// Every unit of a stage is open at a time: no more of them than files that a process may open.
const UNITS_AT_MOST: usize = 256;

/// Groups of fewer places are not worth their files.
const GROUP_PLACES: usize = 1 << 14;

/// Bytes of candidates that a row is named with, as they are spilled; twice what was measured.
const SPILLED: usize = 1500;

/// Bytes of candidates that a row is named with, on the drive: 540 were measured of a million rows, 730 of ten million, whose
/// clusters lie in more groups.
const SPILLED_ON_DRIVE: usize = 750;

/// What a build works on at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Bytes of memory to keep to.
    pub budget: u64,
    /// Rows of a unit, and how many units that makes.
    pub unit_rows: usize,
    pub units: u32,
    /// Places in clusters of a group: rows, counted as often as they are in one.
    pub group_places: usize,
    /// Places that memory holds at a time (a larger cluster is split on the drive), and bytes of one.
    pub most_places: usize,
    pub bytes_a_place: usize,
    /// Places whose leaves are searched at a time.
    pub batch_places: usize,
    /// Bytes of rows that are gathered at a time.
    pub gathered: usize,
    /// Rows whose candidates are merged and pruned at a time, at most.
    pub block_rows: usize,
}

impl Plan {
    /// Sizes for `n` rows of `dim` coordinates.
    ///
    /// # Errors
    /// When the budget is too small: says what is enough.
    pub(crate) fn new(
        n: usize,
        dim: usize,
        dtype: DType,
        params: &VamanaParams,
        budget: u64,
    ) -> Result<Self, BuilderError> {
        let least = Self::least(n, dim, dtype, params);
        if budget < least {
            let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
            return Err(BuilderError::Budget(format!(
                "--memory-budget {} MiB: {n} rows of {dim} {dtype} coordinates need {} MiB; give that much, or use a \
                 smaller --max-degree",
                mebibytes(budget),
                mebibytes(least)
            )));
        }
        Ok(Self::sized(n, dim, dtype, params, budget))
    }

    /// The smallest budget that is accepted.
    pub(crate) fn least(n: usize, dim: usize, dtype: DType, params: &VamanaParams) -> u64 {
        // Two average clusters, so that one of twice the average is a group.
        let leaders = crate::vamana::split::first_leaders(n, params.seed).len();
        let cluster = (FANOUT[0] * n).div_ceil(leaders).max(GROUP_PLACES);
        let places = 2 * cluster * Self::bytes_a_place(dim, dtype, params);
        let unit = UNIT_ROWS.max(n.div_ceil(UNITS_AT_MOST)).min(n) * Self::bytes_a_unit_row(dim, dtype, params);
        let leader_rows = 4 * leaders * dim * dtype.bytes();
        // Codes are trained on a sample as f32, and on what training makes of it.
        let sample = if params.layout == Layout::Compact { 2 * n.min(SAMPLE_ROWS) * dim * size_of::<f32>() } else { 0 };
        let work = 2 * places.max(unit).max(leader_rows).max(sample).max(window_bytes(n));
        Self::resident_bytes(n) + work as u64
    }

    fn sized(n: usize, dim: usize, dtype: DType, params: &VamanaParams, budget: u64) -> Self {
        let work = (budget - Self::resident_bytes(n)) as usize;
        let by_memory = work / 2 / Self::bytes_a_unit_row(dim, dtype, params);
        let unit_rows = n.div_ceil(UNITS).max(UNIT_ROWS).min(by_memory).clamp(1, n);
        // A batch of leaves takes an eighth, a group three quarters at most.
        let a_batch_place = FANOUT[1] * (leaf_k(n) * 8 + 24);
        let bytes_a_place = Self::bytes_a_place(dim, dtype, params);
        let most_places = work / 4 * 3 / bytes_a_place;
        Self {
            budget,
            most_places,
            bytes_a_place,
            unit_rows,
            units: n.div_ceil(unit_rows) as u32,
            group_places: most_places.min((FANOUT[0] * n).div_ceil(UNITS).max(GROUP_PLACES)),
            batch_places: (work / 8 / a_batch_place).clamp(LEAF_SIZE, BATCH),
            gathered: work / 4,
            block_rows: 1 << 14,
        }
    }

    /// Bytes that a group takes for a place: the row, its reservoir, its numbers, and what is spilled of it.
    fn bytes_a_place(dim: usize, dtype: DType, params: &VamanaParams) -> usize {
        dim * dtype.bytes() + bytes_a_row(candidates_kept(params.max_degree)) + 64
    }

    /// Bytes that a row of a unit takes while it is merged and pruned, or gets its reverse edges, or is put in order: then it
    /// is held twice.
    pub(crate) fn bytes_a_unit_row(dim: usize, dtype: DType, params: &VamanaParams) -> usize {
        let row = dim * dtype.bytes() + size_of::<u32>();
        (SPILLED * params.max_degree.div_ceil(64) + 16 * params.max_degree).max(2 * row)
    }

    /// Bytes that are held whatever is worked on.
    pub(crate) fn resident_bytes(n: usize) -> u64 {
        PROGRAM_BYTES + RESIDENT * n as u64
    }

    /// Most bytes of working files at a time, about: rows, memberships, and the largest of what follows one another.
    pub(crate) fn temp_bytes(n: usize, dim: usize, dtype: DType, params: &VamanaParams) -> u64 {
        let rows = dim * dtype.bytes() + size_of::<u32>();
        let memberships = FANOUT[0] * id_bytes(n.div_ceil(UNITS)) + size_of::<u16>();
        let graph = params.max_degree * size_of::<u32>();
        let largest = SPILLED_ON_DRIVE.max(2 * graph);
        (n * (rows + memberships + largest)) as u64
    }

    /// Rows of a unit.
    pub(crate) fn rows_of(&self, unit: u32, n: usize) -> std::ops::Range<usize> {
        let first = unit as usize * self.unit_rows;
        first..n.min(first + self.unit_rows)
    }

    /// Rows of `bytes` each that are read at a time.
    pub(crate) fn read_rows(&self, bytes: usize) -> usize {
        (self.gathered / 2 / bytes).clamp(1, 1 << 16)
    }
}
