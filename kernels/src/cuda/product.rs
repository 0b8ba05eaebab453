//! Products with a selection fused into them: what nearest rows, leaves and leaders have in common.
//!
//! In: two sets of rows resident on a device, tiles of work. Out: sorted lists of keys on the device, then answers: row
//! numbers and distances. Kernels: `select.cu` and `lists.cu`, whose structs have their twins here.

use bytemuck::{Pod, Zeroable};

use super::driver::{Arg, Buffer, Gpu};
use super::rows::{CudaRows, InverseNorms};
use crate::backend::BackendError;
use crate::element::DType;
use crate::metric::Metric;

/// Rows of a tile, and columns.
pub(super) const TILE: usize = 128;
const SWEEP_THREADS: u32 = 256;

/// Bytes that a staged row takes, and bytes of it that are new.
pub(super) const STAGED_PITCH: usize = 80;
pub(super) const STAGE_BYTES: usize = 64;

/// Terms of a tile's columns: norm, aux and number of each.
const TERMS_BYTES: usize = TILE * 12;

/// Queue, threshold and count of a row.
const SELECTION_BYTES: usize = 32 * 8 + 8 + 4;

/// Candidates beyond k that an inexact product selects for exact scoring; a quarter of k where that is more.
const MARGIN: usize = 8;

/// How distances are made of products (`geometry.cuh`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Mode {
    L2 = 0,
    InnerProduct = 1,
    Cosine = 2,
    GraphInner = 3,
    GraphCosine = 4,
    ScaledL2 = 5,
}

impl Mode {
    /// As queries are ordered.
    pub(super) fn query(metric: Metric) -> Self {
        match metric {
            Metric::L2 => Mode::L2,
            Metric::InnerProduct => Mode::InnerProduct,
            Metric::Cosine => Mode::Cosine,
        }
    }

    /// As graphs are built.
    pub(super) fn graph(metric: Metric) -> Self {
        match metric {
            Metric::L2 => Mode::L2,
            Metric::InnerProduct => Mode::GraphInner,
            Metric::Cosine => Mode::GraphCosine,
        }
    }
}

/// In what form rows are multiplied (`tile.cuh`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// u8, exactly.
    U8,
    /// i8, exactly.
    I8,
    /// f16 with f32 sums.
    F16,
    /// Any pair of types as pairs of bf16.
    Float,
}

impl Form {
    pub(super) fn of(a: DType, b: DType) -> Self {
        match (a, b) {
            (DType::U8, DType::U8) => Form::U8,
            (DType::I8, DType::I8) => Form::I8,
            (DType::F16, DType::F16) => Form::F16,
            _ => Form::Float,
        }
    }

    /// Whether products are exact, and with them every distance.
    pub(super) fn is_exact(self) -> bool {
        matches!(self, Form::U8 | Form::I8)
    }

    /// Bytes of a stage of one operand of `rows` rows.
    pub(super) fn stage_bytes(self, rows: usize) -> usize {
        rows * STAGED_PITCH * if self == Form::Float { 2 } else { 1 }
    }

    /// Stages that all of k takes, for rows of `dim` coordinates at `pitch` bytes.
    pub(super) fn steps(self, dim: usize, pitch: usize) -> usize {
        if self == Form::Float { 2 * dim } else { pitch }.div_ceil(STAGE_BYTES)
    }

    /// Relative error of a dot product against |a||b|, and of the exact kernel's, with a margin of two.
    ///
    /// Every 16 coordinates are added to an f32 sum by one instruction, three times where rows are split into two bf16;
    /// tensor cores may truncate where f32 arithmetic rounds, and keep two bits less of what they add: 2^-22 an addition.
    /// A coordinate split twice leaves 2^-18 of itself, twice a product, and the product of the lower parts is
    /// left out: less than 2^-16. Sums of the exact kernel: dim / 32 additions and five, 2^-24 each.
    pub(super) fn slack(self, dim: usize) -> f32 {
        let (products, split) = if self == Form::Float { (3.0, 2f32.powi(-16)) } else { (1.0, 0.0) };
        let additions = products * dim.div_ceil(16) as f32 + 8.0;
        let exact = (dim.div_ceil(32) as f32 + 8.0) * 2f32.powi(-24);
        2.0 * (additions * 2f32.powi(-22) + exact) + split
    }
}

/// `RowSet` of `tile.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RowSet {
    data: u64,
    pitch: u64,
    ids: u64,
    norms: u64,
    aux: u64,
    dtype: u32,
    dim: u32,
}

impl RowSet {
    /// Rows as `form` multiplies them: all in their order, or those that `ids` name.
    pub(super) fn new(rows: &CudaRows, ids: Option<&Buffer<u32>>, form: Form) -> Self {
        Self {
            data: rows.data.address(),
            pitch: rows.pitch as u64,
            ids: ids.map_or(0, Buffer::address),
            norms: if form.is_exact() {
                rows.numbers.integer_norms.address()
            } else {
                rows.numbers.squared_norms.address()
            },
            // Under L2 there are none.
            aux: rows.numbers.aux.address(),
            dtype: rows.dtype as u32,
            dim: rows.dim as u32,
        }
    }

    /// With these inverse norms, where there are any.
    pub(super) fn with_inverse_norms(self, norms: &InverseNorms<'_>) -> Self {
        match norms {
            InverseNorms::None => self,
            InverseNorms::Kept(norms) => Self { aux: norms.address(), ..self },
            InverseNorms::Made(norms) => Self { aux: norms.address(), ..self },
        }
    }
}

/// `SelectItem` of `select.cu`: up to [`TILE`] rows against a run of the base.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Item {
    pub row_first: u32,
    pub row_count: u32,
    pub base_first: u32,
    pub base_count: u32,
    /// Number of the first row's list.
    pub list: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SelectArguments {
    rows: RowSet,
    base: RowSet,
    items: u64,
    lists: u64,
    k: u32,
    mode: u32,
    exclude_self: u32,
    a_stages: u32,
    lists_shared: u32,
    padding: u32,
}

/// `Certificate` of `lists.cu`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Certificate {
    wanted: u32,
    slack: f32,
    row_norms: u64,
    largest: u64,
}

impl Certificate {
    /// Nothing is certified.
    pub(super) fn none() -> Self {
        Self::zeroed()
    }

    /// For selections among `base` by products in `form`.
    pub(super) fn new(rows: &CudaRows, base: &CudaRows, form: Form) -> Self {
        let (row_norms, largest) = (rows.numbers.squared_norms.address(), base.numbers.largest.address());
        Self { wanted: 1, slack: form.slack(base.dim), row_norms, largest }
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ScoreArguments {
    rows: RowSet,
    base: RowSet,
    row_first: u64,
    lists: u64,
    selected: u32,
    k: u32,
    mode: u32,
    padding: u32,
    certificate: Certificate,
    ids: u64,
    distances: u64,
    uncertain: u64,
}

/// The nearest of some rows, on the device.
pub(super) struct Answers {
    /// Row numbers `(rows, k)`, padded by [`PAD_ID`](crate::topk::PAD_ID).
    pub ids: Buffer<u32>,
    /// Distances `(rows, k)`, padded by infinity.
    pub distances: Buffer<f32>,
}

/// A search of rows among base rows.
pub(super) struct Search<'a> {
    pub gpu: &'a Gpu,
    pub operation: &'static str,
    pub form: Form,
    pub mode: Mode,
    pub rows: RowSet,
    pub base: RowSet,
    pub k: usize,
    pub exclude_self: bool,
    pub certificate: Certificate,
}

impl Search<'_> {
    /// Keys of a list.
    pub(super) fn selected(&self) -> usize {
        if self.form.is_exact() { self.k } else { self.k + MARGIN.max(self.k / 4) }
    }

    /// Bytes of device memory that a row's list and answer take where the base is searched in `runs` runs.
    pub(super) fn bytes_a_row(&self, runs: usize) -> usize {
        let lists = if runs > 1 { runs + 1 } else { 1 };
        lists * self.selected() * 8 + self.k * 8 + 4
    }

    /// Fills the lists of `items`, `(lists, selected)`.
    pub(super) fn select(&self, items: &[Item], lists: &Buffer<u64>) -> Result<(), BackendError> {
        let device_items = self.gpu.upload(self.operation, items)?;
        let steps = self.form.steps(self.base.dim as usize, self.base.pitch as usize);
        let layout = SharedLayout::choose(self.gpu, self.form, steps, self.selected());
        let arguments = SelectArguments {
            rows: self.rows,
            base: self.base,
            items: device_items.address(),
            lists: lists.address(),
            k: self.selected() as u32,
            mode: self.mode as u32,
            exclude_self: self.exclude_self.into(),
            a_stages: layout.a_stages as u32,
            lists_shared: layout.lists.into(),
            padding: 0,
        };
        let kernel = match self.form {
            Form::U8 => "select_u8",
            Form::I8 => "select_i8",
            Form::F16 => "select_f16",
            Form::Float => "select_float",
        };
        let (grid, arguments) = ([items.len() as u32, 1, 1], [Arg::Struct(bytemuck::bytes_of(&arguments))]);
        self.gpu.launch(self.operation, kernel, grid, SWEEP_THREADS, layout.bytes as u32, &arguments)
    }

    /// One list a row of `runs` lists a row, `(runs, rows, selected)`.
    pub(super) fn merge(&self, lists: Buffer<u64>, runs: usize, rows: usize) -> Result<Buffer<u64>, BackendError> {
        if runs <= 1 {
            return Ok(lists);
        }
        let keys = self.selected();
        let merged = self.gpu.alloc(self.operation, rows * keys)?;
        self.gpu.fill(self.operation, &merged, 0xff)?;
        let arguments =
            [(&lists).into(), (runs as u32).into(), (rows as u64).into(), (keys as u32).into(), (&merged).into()];
        let grid = [(runs * rows * keys).div_ceil(256) as u32, 1, 1];
        self.gpu.launch(self.operation, "merge_runs", grid, 256, 0, &arguments)?;
        Ok(merged)
    }

    /// The answers of `rows` lists, whose first row is at position `row_first`; and, where answers are certified, which
    /// rows are uncertain.
    pub(super) fn answer(
        &self,
        lists: &Buffer<u64>,
        row_first: usize,
        rows: usize,
    ) -> Result<(Answers, Option<Buffer<u32>>), BackendError> {
        let cells = rows * self.k;
        let (ids, distances) = (self.gpu.alloc(self.operation, cells)?, self.gpu.alloc(self.operation, cells)?);
        let answers = Answers { ids, distances };
        if self.form.is_exact() {
            let arguments = [lists.into(), (cells as u64).into(), (&answers.ids).into(), (&answers.distances).into()];
            let grid = [cells.div_ceil(256) as u32, 1, 1];
            self.gpu.launch(self.operation, "unpack_lists", grid, 256, 0, &arguments)?;
            return Ok((answers, None));
        }
        let certified = self.certificate.wanted != 0;
        let uncertain = self.gpu.alloc(self.operation, if certified { rows } else { 0 })?;
        let arguments = self.score_arguments(lists, self.selected(), row_first, &answers, Some(&uncertain));
        let arguments = [Arg::Struct(bytemuck::bytes_of(&arguments))];
        self.gpu.launch(self.operation, "score_lists", [rows as u32, 1, 1], 128, 0, &arguments)?;
        Ok((answers, certified.then_some(uncertain)))
    }

    /// Answers the rows at positions `which` behind `row_first` by scanning all `base_rows` exactly.
    pub(super) fn scan(
        &self,
        which: &[u32],
        row_first: usize,
        base_rows: usize,
        answers: &Answers,
    ) -> Result<(), BackendError> {
        let lists = self.gpu.alloc(self.operation, which.len() * self.k)?;
        let device_which = self.gpu.upload(self.operation, which)?;
        let arguments = self.score_arguments(&lists, self.k, row_first, answers, None);
        let arguments =
            [Arg::Struct(bytemuck::bytes_of(&arguments)), (&device_which).into(), (base_rows as u32).into()];
        let shared = SELECTION_BYTES.next_multiple_of(16) as u32;
        self.gpu.launch(self.operation, "scan_exactly", [which.len() as u32, 1, 1], 256, shared, &arguments)
    }

    fn score_arguments(
        &self,
        lists: &Buffer<u64>,
        selected: usize,
        row_first: usize,
        answers: &Answers,
        uncertain: Option<&Buffer<u32>>,
    ) -> ScoreArguments {
        ScoreArguments {
            rows: self.rows,
            base: self.base,
            row_first: row_first as u64,
            lists: lists.address(),
            selected: selected as u32,
            k: self.k as u32,
            mode: self.mode as u32,
            padding: 0,
            certificate: self.certificate,
            ids: answers.ids.address(),
            distances: answers.distances.address(),
            uncertain: uncertain.map_or(0, Buffer::address),
        }
    }
}

/// How a block's shared memory is spent.
struct SharedLayout {
    /// Stages of the rows: all of k, or 2.
    a_stages: usize,
    /// Whether lists are worked on in shared memory.
    lists: bool,
    bytes: usize,
}

impl SharedLayout {
    /// Two blocks a multiprocessor where their registers allow it; within that, lists first, then rows that stay.
    fn choose(gpu: &Gpu, form: Form, steps: usize, keys: usize) -> Self {
        let limit = gpu.properties().shared_memory_per_block as usize;
        let limits = if form == Form::Float { [limit, limit] } else { [limit / 2 - 1024, limit] };
        let few = steps.min(2);
        let choices = [(true, steps), (true, few), (false, steps), (false, few)];
        let layouts = choices.map(|(lists, a_stages)| {
            let lists_bytes = if lists { TILE * keys * 8 } else { 0 };
            let bytes = sweep_bytes(form, a_stages) + TILE * SELECTION_BYTES + lists_bytes;
            Self { a_stages, lists, bytes }
        });
        let fits = |limit: usize| layouts.iter().position(|layout| layout.bytes <= limit);
        let chosen = limits.into_iter().find_map(fits).unwrap_or(layouts.len() - 1);
        layouts.into_iter().nth(chosen).unwrap_or(Self { a_stages: few, lists: false, bytes: limit })
    }
}

/// Dynamic shared memory of `ProductSweep` (`product.cuh`).
pub(super) fn sweep_bytes(form: Form, a_stages: usize) -> usize {
    (a_stages + 2) * form.stage_bytes(TILE) + 3 * TERMS_BYTES
}
