//! What a build within a budget will take, before it begins.
//!
//! In: a request and a budget. Out: stages, units, memory, disk, and after a calibration on a few of the rows, time.

use std::sync::Arc;
use std::time::Instant;

use kiln_datasets::{MemorySource, Narrowed, blocks, narrowest};
use kiln_kernels::{Backend, CentroidTree, DType, NoProgress};

use crate::build::{BuildRequest, WithinBudget, beside, checked_in_parts};
use crate::durable::MARKS;
use crate::error::BuilderError;
use crate::file::writer::IndexWriter;
use crate::ivf;
use crate::ivf::external::Shape;
use crate::params::{IndexParams, IvfPqParams, Layout, VamanaParams};
use crate::resources::Stopwatch;
use crate::search_types::IndexKind;
use crate::vamana;
use crate::vamana::external::Plan;
use crate::vamana::split::first_leaders;

/// Rows that a calibration builds an index of.
const CALIBRATED: u64 = 1 << 14;

/// Time of stages on the drive as a multiple of those in memory.
const ON_DRIVE: f64 = 1.25;

/// What one stage will take.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedStage {
    /// Its name, as progress has it.
    pub name: &'static str,
    /// Units of work, each of which is kept when it is finished.
    pub units: u64,
    /// Memory, bytes, that of the program included.
    pub memory_bytes: u64,
    /// Bytes of rows that a device is given at a time; it may take them in parts.
    pub device_bytes: u64,
    /// Wall seconds; 0 until it is calibrated.
    pub seconds: f64,
}

/// What a build will take.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildPlan {
    /// Bytes of memory to keep to.
    pub memory_budget: u64,
    /// Stages in order.
    pub stages: Vec<PlannedStage>,
    /// Most bytes of working files at a time.
    pub temp_bytes: u64,
    /// Bytes that they may take where they will lie, where the system says: what is free, and what they take already; less
    /// the index, if that will lie there too and they do not make room for it.
    pub temp_free: Option<u64>,
    /// Bytes of the index.
    pub index_bytes: u64,
    n: u64,
    dtype: DType,
    params: IndexParams,
}

/// Plans a build of `request` within a budget.
///
/// # Errors
/// As [`crate::build_within`], as far as can be known before rows are read; a budget that is too small.
pub fn plan_within(request: &BuildRequest<'_>, within: &WithinBudget<'_>) -> Result<BuildPlan, BuilderError> {
    let params = checked_in_parts(request)?;
    let (n, dim) = (request.source.len(), request.source.dim());
    // The first block tells as a rule which type the rows will be stored in.
    let dtype = match blocks(request.source, 0..n).next() {
        Some(first) if !request.keep_dtype => {
            narrowest(&MemorySource::new(request.source.read(first)?, request.source.path()), |_| ())?
        }
        _ => request.source.dtype(),
    };
    let (memory_budget, room) = (within.memory, within.room(request.out));
    let planned = match &params {
        IndexParams::Vamana(graph) => {
            let size = n as usize;
            let plan = Plan::new(size, dim, dtype, graph, within.memory)?;
            let layout = graph.node_layout(dtype, dim, request.metric);
            let codes = if graph.layout == Layout::Compact { size * graph.m } else { 0 };
            let index_bytes = (layout.section_bytes(size) + codes + 4 * size) as u64;
            let own = if within.temp.is_none() { index_bytes } else { 0 };
            BuildPlan {
                memory_budget,
                stages: stages(&plan, size, dim, dtype, graph),
                temp_bytes: Plan::temp_bytes(size, dim, dtype, graph),
                temp_free: room.map(|room| room.saturating_sub(own)),
                index_bytes,
                n,
                dtype,
                params,
            }
        }
        IndexParams::IvfPq(lists) => {
            let shape = Shape { n, dim, dtype, metric: request.metric, params: lists };
            let plan = ivf::external::Plan::new(shape, within.memory)?;
            let (temp_bytes, index_bytes) = (shape.temp_bytes(&plan), shape.index_bytes());
            // Where one drive holds both, working files make room for the index as it grows.
            let own = if within.temp.is_none() { shape.either_bytes(&plan) - temp_bytes } else { 0 };
            BuildPlan {
                memory_budget,
                stages: plan.stages(shape),
                temp_bytes,
                temp_free: room.map(|room| room.saturating_sub(own)),
                index_bytes,
                n,
                dtype,
                params,
            }
        }
    };
    Ok(planned)
}

fn stages(plan: &Plan, n: usize, dim: usize, dtype: DType, params: &VamanaParams) -> Vec<PlannedStage> {
    let row = (dim * dtype.bytes()) as u64;
    let units = u64::from(plan.units);
    let (read, gathered) = ((plan.read_rows(row as usize) as u64) * row, plan.gathered as u64);
    let unit = (plan.unit_rows * Plan::bytes_a_unit_row(dim, dtype, params)) as u64;
    let groups = (8 * n).div_ceil(plan.group_places) as u64;
    let group = (plan.group_places * plan.bytes_a_place) as u64;
    let base = Plan::resident_bytes(n);
    let stage = |name, units, memory: u64, device_bytes| PlannedStage {
        name,
        units,
        memory_bytes: base + memory,
        device_bytes,
        seconds: 0.0,
    };
    let group_rows = plan.group_places as u64 * row;
    vec![
        stage("read", 1, read, 0),
        stage("partition", units, 2 * read + 96 * plan.unit_rows as u64, 2 * read),
        stage("copy", units, read + 2 * plan.unit_rows as u64 * row, 0),
        stage("leaves", groups, group + gathered / 2, group_rows),
        stage("prune", units, unit + gathered, gathered),
        stage("reverse", units, unit + gathered, gathered),
        stage("repair", 1, 0, 0),
        stage("order", units + 1, read, read),
        stage("write", MARKS, 2 * gathered, gathered),
    ]
}

impl BuildPlan {
    /// The most memory of any stage, bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.stages.iter().map(|stage| stage.memory_bytes).max().unwrap_or(0)
    }

    /// The kind of index.
    pub fn kind(&self) -> IndexKind {
        self.params.kind()
    }

    /// Wall seconds in all.
    pub fn seconds(&self) -> f64 {
        self.stages.iter().map(|stage| stage.seconds).sum()
    }

    /// The same with times, from an index of the first rows that `backend` builds in memory.
    ///
    /// # Errors
    /// Rows that cannot be read, or a device that fails.
    pub fn calibrated<B: Backend>(mut self, backend: &B, request: &BuildRequest<'_>) -> Result<Self, BuilderError> {
        let few = self.n.min(CALIBRATED);
        let began = Instant::now();
        let rows = Arc::new(kiln_datasets::RowSource::read(&Narrowed::new(request.source, self.dtype), 0..few)?);
        let reading = began.elapsed().as_secs_f64();
        // The index of these rows goes as soon as it is made.
        let mut writer = IndexWriter::create(&beside(request.out, ".calibration"))?;
        let mut watch = Stopwatch::start(&NoProgress);
        let (metric, to, timed) = (request.metric, &mut writer, &mut watch);
        let fewer = match &self.params {
            IndexParams::Vamana(params) => {
                vamana::build::build_and_write(backend, &rows, metric, params, to, timed, &NoProgress)?;
                self.params.clone()
            }
            IndexParams::IvfPq(params) => {
                let fewer = IvfPqParams { nlist: params.nlist.min(few as usize / 16).max(1), ..params.clone() };
                ivf::build::build_and_write(backend, &rows, metric, &fewer, to, timed, &NoProgress)?;
                IndexParams::IvfPq(fewer)
            }
        };
        let measured = Measured { few, n: self.n, reading, stages: watch.finish().stage_seconds };
        let on_cpu = backend.describe().starts_with("cpu");
        for stage in &mut self.stages {
            let seconds = match (&self.params, &fewer) {
                (IndexParams::IvfPq(params), IndexParams::IvfPq(fewer)) => measured.of_lists(stage.name, params, fewer),
                (params, _) => measured.of_graph(stage.name, params.seed()),
            };
            stage.seconds = ON_DRIVE * seconds;
            if on_cpu {
                stage.device_bytes = 0;
            }
        }
        Ok(self)
    }
}

/// What an index of a few of the rows took.
struct Measured {
    few: u64,
    n: u64,
    /// Seconds to read them.
    reading: f64,
    stages: Vec<(String, f64)>,
}

impl Measured {
    fn seconds(&self, name: &str) -> f64 {
        self.stages.iter().filter(|(stage, _)| stage == name).map(|(_, seconds)| seconds).sum()
    }

    fn more(&self) -> f64 {
        self.n as f64 / self.few as f64
    }

    /// A stage of a graph for all rows: linear in their number, but for the choice among leaders, which become more with
    /// the rows until there are 8,192.
    fn of_graph(&self, stage: &str, seed: u64) -> f64 {
        let (more, leaders) = (self.more(), |n: u64| first_leaders(n as usize, seed).len() as f64);
        match stage {
            "partition" => self.seconds("partition") * more * (leaders(self.n) / leaders(self.few)),
            "order" => self.seconds("order") * more * (self.n.isqrt() as f64 / self.few.isqrt().max(1) as f64),
            "write" => self.seconds("train codes") + (self.seconds("encode") + self.seconds("write")) * more,
            name => self.seconds(name) * more,
        }
    }

    /// A stage of lists for all rows: linear in their number, and where each is assigned in that of the lists it is compared
    /// with.
    fn of_lists(&self, stage: &str, params: &IvfPqParams, fewer: &IvfPqParams) -> f64 {
        let more_lists = params.nlist as f64 / fewer.nlist as f64;
        let more_scores = CentroidTree::scores(params.nlist) as f64 / CentroidTree::scores(fewer.nlist) as f64;
        let rows = |sample: u64| sample.min(self.n) as f64 / sample.min(self.few) as f64;
        match stage {
            "sample" => self.reading * self.more(),
            "train" => {
                let sampled = |n, params| ivf::external::training_rows(n, params) as f64;
                self.seconds("train") * (sampled(self.n, params) / sampled(self.few, fewer)) * more_scores
            }
            "train codes" => self.seconds("train codes") * rows(ivf::build::RESIDUAL_ROWS as u64),
            "encode" => {
                let again = if params.soar { more_lists } else { 1.0 };
                let a_row = self.reading + self.seconds("assign") * more_scores + self.seconds("encode") * again;
                a_row * self.more()
            }
            name => self.seconds(name) * self.more(),
        }
    }
}
