//! What is to be done, written down once for all machines.

use kiln_datasets::Narrowed;
use kiln_kernels::distance::Isa;
use kiln_kernels::{DType, Metric, Progress};
use serde::{Deserialize, Serialize};

use super::WorkPlace;
use crate::build::{BuildRequest, checked_in_parts, stored_dtype};
use crate::durable::Store;
use crate::error::BuilderError;
use crate::params::{GraphMethod, IndexParams, VamanaParams};
use crate::resources::Stopwatch;
use crate::vamana::external::Plan;
use crate::vamana::external::units::Stage;
use crate::vamana::split::LEAF_SIZE;

/// The version of plans that this code makes and follows.
const VERSION: u32 = 1;

const NAME: &str = "plan.json";

/// A plan of units, as `plan.json` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitPlan {
    /// Version of the plan.
    pub version: u32,
    /// The data set as it is opened: a path that all machines have, or a name.
    pub dataset: String,
    /// Its name, kept in the index.
    pub dataset_name: String,
    /// Its fingerprint: another data set is refused.
    pub dataset_fingerprint: String,
    /// Rows.
    pub n: u64,
    /// Coordinates a row.
    pub dim: usize,
    /// Element type that rows are stored and computed in.
    pub dtype: DType,
    /// How rows are compared.
    pub metric: Metric,
    /// Kind and parameters.
    pub params: IndexParams,
    /// Bytes of memory of each machine.
    pub memory_budget: u64,
    /// Instruction set of all machines: sums of f32 differ between sets in the last bit.
    pub isa: String,
    /// Rows of a unit.
    pub unit_rows: usize,
    /// Places in clusters of a unit of `leaves`.
    pub group_places: usize,
    /// Where the index goes, unless `merge` is told otherwise.
    pub out: String,
    /// Stages in order.
    pub stages: Vec<PlannedUnits>,
}

/// A stage of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedUnits {
    /// Its name.
    pub stage: String,
    /// Its units; of `leaves` it is known once `assign` is finished.
    pub units: Option<u32>,
    /// About how many, where that is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<u32>,
    /// Stages that must be finished before.
    pub after: Vec<String>,
}

/// Plans a build by many machines, each within `memory` bytes, and writes the plan into its place. The same plan again
/// changes nothing. `dataset` is how machines open the data set.
///
/// # Errors
/// As [`crate::plan_within`]; rows so few that one leaf holds them; a place that holds another plan.
pub fn plan_units(
    request: &BuildRequest<'_>,
    dataset: String,
    memory: u64,
    place: &WorkPlace,
    progress: &dyn Progress,
) -> Result<UnitPlan, BuilderError> {
    let refused = || {
        let only = "machines share builds of --index vamana --method partition only";
        Err(BuilderError::Mismatch(format!("{only}: use these, or `kiln build`")))
    };
    if matches!(&request.params, IndexParams::Vamana(params) if params.method != GraphMethod::Partition) {
        return refused();
    }
    let IndexParams::Vamana(vamana) = checked_in_parts(request)? else { return refused() };
    let (n, dim) = (request.source.len(), request.source.dim());
    if n as usize <= LEAF_SIZE {
        return Err(BuilderError::Mismatch(format!(
            "{}: {n} rows are too few to share; use `kiln build`",
            request.source.path().display()
        )));
    }
    let before = UnitPlan::find(place)?;
    let mut watch = Stopwatch::start(progress);
    let dtype = stored_dtype(request, &mut watch, progress)?;
    watch.finish();
    let sizes = Plan::new(n as usize, dim, dtype, &vamana, memory)?;
    let plan = UnitPlan {
        version: VERSION,
        dataset,
        dataset_name: request.dataset_name.clone(),
        dataset_fingerprint: request.dataset_fingerprint.clone(),
        n,
        dim,
        dtype,
        metric: request.metric,
        params: request.params.clone(),
        memory_budget: memory,
        isa: Isa::best().name().to_string(),
        unit_rows: sizes.unit_rows,
        group_places: sizes.group_places,
        out: request.out.display().to_string(),
        stages: Stage::ALL.map(|stage| planned(stage, &sizes, n)).into(),
    };
    match before {
        Some(before) if before == plan => return Ok(plan),
        Some(_) => {
            return Err(BuilderError::Mismatch(format!(
                "{}: holds another plan; give another --work, or remove that one with `kiln unit clean --all`",
                place.root.display()
            )));
        }
        None => (),
    }
    place.create()?;
    let json = serde_json::to_vec_pretty(&plan).expect("a plan is plain data");
    let token = Store::shared(place.files.clone(), &place.root, "").token().unwrap_or_default().to_string();
    place.write(NAME, &token, &json)?;
    Ok(plan)
}

fn planned(stage: Stage, sizes: &Plan, n: u64) -> PlannedUnits {
    let (units, about) = match stage {
        Stage::Summary | Stage::Middle | Stage::Repair | Stage::Order => (Some(1), None),
        Stage::Leaves => (None, Some((8 * n).div_ceil(sizes.group_places as u64) as u32)),
        _ => (Some(sizes.units), None),
    };
    let after = stage.needs().iter().map(|stage| stage.name().to_string()).collect();
    PlannedUnits { stage: stage.name().to_string(), units, about, after }
}

impl UnitPlan {
    /// Reads the plan of a place.
    ///
    /// # Errors
    /// None there, one that is not whole, or of another version.
    pub fn read(place: &WorkPlace) -> Result<Self, BuilderError> {
        Self::find(place)?.ok_or_else(|| {
            BuilderError::Mismatch(format!(
                "{}: there is no plan; make one with `kiln unit plan`, or check --work",
                place.root.display()
            ))
        })
    }

    /// Removes the plan of a place.
    pub(super) fn remove(place: &WorkPlace) -> Result<(), BuilderError> {
        let path = place.root.join(NAME);
        place.files.remove(&path).map_err(BuilderError::io(&path, "remove"))
    }

    fn find(place: &WorkPlace) -> Result<Option<Self>, BuilderError> {
        let Some(bytes) = place.read(NAME)? else { return Ok(None) };
        let path = place.root.join(NAME);
        let not_whole = |error: serde_json::Error| BuilderError::Damaged {
            path: path.clone(),
            problem: format!("is not a plan ({error})"),
            remedy: "remove it and plan again: finished units are kept",
        };
        let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(not_whole)?;
        match json.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version != u64::from(VERSION) => Err(BuilderError::Mismatch(format!(
                "{}: plan version {version}, this Kiln follows version {VERSION}; use the Kiln that planned, or plan anew in \
                 another place",
                path.display()
            ))),
            _ => serde_json::from_value(json).map(Some).map_err(not_whole),
        }
    }

    /// Parameters of the graph.
    pub(super) fn vamana(&self) -> Result<&VamanaParams, BuilderError> {
        match &self.params {
            IndexParams::Vamana(params) => Ok(params),
            IndexParams::IvfPq(_) => Err(BuilderError::Mismatch(format!(
                "{NAME}: plans are of Vamana indexes; plan anew with --index vamana"
            ))),
        }
    }

    /// The sizes that this code works with; refuses a plan that was made with others.
    pub(super) fn sizes(&self, params: &VamanaParams) -> Result<Plan, BuilderError> {
        let sizes = Plan::new(self.n as usize, self.dim, self.dtype, params, self.memory_budget)?;
        if (sizes.unit_rows, sizes.group_places) != (self.unit_rows, self.group_places) {
            return Err(BuilderError::Mismatch(format!(
                "{NAME}: units of {} rows, but this Kiln would make units of {}; use the Kiln that planned, or plan anew in \
                 another place",
                self.unit_rows, sizes.unit_rows
            )));
        }
        Ok(sizes)
    }

    /// Refuses a machine whose figures would differ in the last bit.
    pub(super) fn refuse_other_isa(&self) -> Result<(), BuilderError> {
        let own = Isa::best().name();
        if own == self.isa {
            return Ok(());
        }
        Err(BuilderError::Mismatch(format!(
            "planned on a machine that computes with {}, and this one with {own}: the last bits would differ; set KILN_ISA to \
             what all machines have, and plan anew",
            self.isa
        )))
    }

    /// The rows of an opened data set as the plan has them.
    pub(super) fn narrowed<'a>(&self, source: &'a dyn kiln_datasets::RowSource) -> Narrowed<'a> {
        Narrowed::new(source, self.dtype)
    }
}
