//! What a build within a budget will take, before it begins.
//!
//! In: a request and a budget. Out: stages, units, memory, disk, and after a calibration on a few of the rows, time.

use std::path::Path;
use std::sync::Arc;

use kiln_datasets::{MemorySource, Narrowed, blocks, narrowest};
use kiln_kernels::{Backend, DType, NoProgress};

use crate::build::{BuildRequest, WithinBudget, beside, checked_partition};
use crate::error::BuilderError;
use crate::file::writer::IndexWriter;
use crate::params::{Layout, VamanaParams};
use crate::resources::{Stopwatch, free_bytes};
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
    /// Bytes free where they will lie, where the system says; less the index, if that will lie there too.
    pub temp_free: Option<u64>,
    /// Bytes of the index.
    pub index_bytes: u64,
    n: u64,
    dtype: DType,
    params: VamanaParams,
}

/// Plans a build of `request` within a budget.
///
/// # Errors
/// As [`crate::build_within`], as far as can be known before rows are read; a budget that is too small.
pub fn plan_within(request: &BuildRequest<'_>, within: &WithinBudget<'_>) -> Result<BuildPlan, BuilderError> {
    let params = checked_partition(request)?;
    let (n, dim) = (request.source.len() as usize, request.source.dim());
    // The first block tells as a rule which type the rows will be stored in.
    let dtype = match blocks(request.source, 0..n as u64).next() {
        Some(first) if !request.keep_dtype => {
            narrowest(&MemorySource::new(request.source.read(first)?, request.source.path()), |_| ())?
        }
        _ => request.source.dtype(),
    };
    let plan = Plan::new(n, dim, dtype, &params, within.memory)?;
    let layout = params.node_layout(dtype, dim, request.metric);
    let codes = if params.layout == Layout::Compact { n * params.m } else { 0 };
    let index_bytes = (layout.section_bytes(n) + codes + 4 * n) as u64;
    let folder = within.folder(request.out);
    let free =
        folder.parent().map(|at| if at.as_os_str().is_empty() { Path::new(".") } else { at }).and_then(free_bytes);
    let own = if within.temp.is_none() { index_bytes } else { 0 };
    Ok(BuildPlan {
        memory_budget: within.memory,
        stages: stages(&plan, n, dim, dtype, &params),
        temp_bytes: Plan::temp_bytes(n, dim, dtype, &params),
        temp_free: free.map(|free| free.saturating_sub(own)),
        index_bytes,
        n: n as u64,
        dtype,
        params,
    })
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
        stage("write", 1, 2 * gathered, gathered),
    ]
}

impl BuildPlan {
    /// The most memory of any stage, bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.stages.iter().map(|stage| stage.memory_bytes).max().unwrap_or(0)
    }

    /// Wall seconds in all.
    pub fn seconds(&self) -> f64 {
        self.stages.iter().map(|stage| stage.seconds).sum()
    }

    /// The same with times, from an index of the first rows that `backend` builds in memory. Stages are linear in the
    /// number of rows, but for the choice among leaders, which become more with the rows until there are 8,192.
    ///
    /// # Errors
    /// Rows that cannot be read, or a device that fails.
    pub fn calibrated<B: Backend>(mut self, backend: &B, request: &BuildRequest<'_>) -> Result<Self, BuilderError> {
        let few = self.n.min(CALIBRATED);
        let rows = Arc::new(kiln_datasets::RowSource::read(&Narrowed::new(request.source, self.dtype), 0..few)?);
        // The index of these rows goes as soon as it is made.
        let mut writer = IndexWriter::create(&beside(request.out, ".calibration"))?;
        let mut watch = Stopwatch::start(&NoProgress);
        let (metric, params) = (request.metric, &self.params);
        crate::vamana::build::build_and_write(backend, &rows, metric, params, &mut writer, &mut watch, &NoProgress)?;
        let measured = watch.finish().stage_seconds;
        let seconds = |name: &str| measured.iter().filter(|(stage, _)| stage == name).map(|(_, s)| s).sum::<f64>();
        let more = self.n as f64 / few as f64;
        let leaders = |n: u64| first_leaders(n as usize, params.seed).len() as f64;
        let more_leaders = leaders(self.n) / leaders(few);
        let more_places = (self.n.isqrt() as f64) / few.isqrt().max(1) as f64;
        let on_cpu = backend.describe().starts_with("cpu");
        for stage in &mut self.stages {
            stage.seconds = ON_DRIVE
                * match stage.name {
                    "partition" => seconds("partition") * more * more_leaders,
                    "order" => seconds("order") * more * more_places,
                    "write" => seconds("train codes") + (seconds("encode") + seconds("write")) * more,
                    name => seconds(name) * more,
                };
            if on_cpu {
                stage.device_bytes = 0;
            }
        }
        Ok(self)
    }
}
