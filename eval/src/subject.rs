//! What a run measures on: the data set with its queries in memory, its metric settled and its truth at hand.
//!
//! In: a [`Dataset`] and a [`Plan`]. Out: a [`Subject`], and the record of the data set for the run's header.
//! A data set without truth is searched exactly here, so that recall is always known.

use std::borrow::Cow;
use std::cell::OnceCell;

use kiln_datasets::{
    Dataset, Difficulty, DifficultyRequest, MemorySource, Truth, difficulty, exact_truth, read_all, verify_truth,
};
use kiln_kernels::{Backend, Metric, Progress, Rows};
use ndarray::s;

use crate::error::EvalError;
use crate::judge::{Judge, JudgeError};
use crate::lid::query_lid;
use crate::plan::{Plan, PlanError};
use crate::provenance;
use crate::record::DatasetRecord;

/// Base rows x queries x coordinates up to which missing truth is computed: minutes on a laptop.
const TRUTH_PRODUCTS: f64 = 5e12;
/// Depth of a computed truth, or k where that is more.
const TRUTH_DEPTH: usize = 100;
const TRUTH_MEMORY_BYTES: u64 = 1 << 30;

/// Rows of the truth that are checked.
const VERIFIED_QUERIES: usize = 100;

/// Base bytes up to which the neighbours of every query are read for its local intrinsic dimension, and the file for
/// its SHA-256: above, each would cost minutes of reading.
const READ_THROUGH_BYTES: u64 = 8 << 30;

/// Queries, and rows of the base, from which a set's difficulty is told.
const DIFFICULTY_SAMPLE: usize = 500;
/// Base rows x sampled rows x coordinates up to which it is: seconds on a laptop.
const DIFFICULTY_PRODUCTS: f64 = 5e11;

/// A data set ready to be measured on.
pub(crate) struct Subject<'a> {
    pub dataset: &'a Dataset,
    pub metric: Metric,
    /// All queries `(queries, dim)`.
    pub queries: Rows,
    /// Computed when it is first needed.
    truth: OnceCell<Cow<'a, Truth>>,
}

impl<'a> Subject<'a> {
    /// Reads the queries and settles the metric. Truth that is too shallow is refused now rather than after a build.
    pub(crate) fn new(plan: &Plan, dataset: &'a Dataset) -> Result<Self, EvalError> {
        let path = || dataset.path.display().to_string();
        let metric = plan.metric.or(dataset.metric).ok_or_else(|| PlanError::NoMetric { path: path() })?;
        let source = dataset.queries.as_deref().filter(|queries| !queries.is_empty());
        let queries = read_all(source.ok_or_else(|| PlanError::NoQueries { path: path() })?, |_| ())?;
        let wanted = plan.queries.unwrap_or(usize::MAX);
        let few = wanted < queries.len();
        let queries = if few { queries.view().slice(0..wanted).to_rows() } else { queries };
        let first = |truth: &Truth| Truth {
            ids: truth.ids.slice(s![..wanted, ..]).to_owned(),
            distances: truth.distances.as_ref().map(|all| all.slice(s![..wanted, ..]).to_owned()),
        };
        let truth = match &dataset.truth {
            Some(truth) if plan.k > truth.depth() => {
                return Err(JudgeError::BeyondTruth { k: plan.k, depth: truth.depth() }.into());
            }
            Some(truth) if few => OnceCell::from(Cow::Owned(first(truth))),
            Some(truth) => OnceCell::from(Cow::Borrowed(truth)),
            None => {
                let products = dataset.base.len() as f64 * queries.len() as f64 * dataset.base.dim() as f64;
                if products > TRUTH_PRODUCTS {
                    return Err(PlanError::TruthTooLarge { path: path(), products, limit: TRUTH_PRODUCTS }.into());
                }
                OnceCell::new()
            }
        };
        Ok(Self { dataset, metric, queries, truth })
    }

    /// The exact neighbours, computed by `backend` where the data set has none.
    fn truth<B: Backend>(&self, plan: &Plan, backend: &B, progress: &dyn Progress) -> Result<&Truth, EvalError> {
        if let Some(truth) = self.truth.get() {
            return Ok(truth);
        }
        tracing::info!("{} has no ground truth: computing it exactly", self.dataset.name);
        let base = self.dataset.base.as_ref();
        let depth = plan.k.max(TRUTH_DEPTH).min(usize::try_from(base.len()).unwrap_or(usize::MAX));
        let queries = MemorySource::new(self.queries.clone(), &self.dataset.path);
        let truth = exact_truth(backend, base, &queries, self.metric, depth, TRUTH_MEMORY_BYTES, progress)?;
        Ok(self.truth.get_or_init(|| Cow::Owned(truth)))
    }

    /// A judge of answers at the plan's k.
    pub(crate) fn judge<B: Backend>(
        &self,
        plan: &Plan,
        backend: &B,
        progress: &dyn Progress,
    ) -> Result<Judge<'a>, EvalError> {
        let ids = self.truth(plan, backend, progress)?.ids.view();
        Ok(Judge::new(self.dataset.base.as_ref(), &self.queries.view(), ids, self.metric, plan.k)?)
    }

    /// The data set as a run's header records it: its truth checked, its queries' difficulty measured.
    pub(crate) fn record<B: Backend>(
        &self,
        plan: &Plan,
        backend: &B,
        progress: &dyn Progress,
    ) -> Result<DatasetRecord, EvalError> {
        let (dataset, metric) = (self.dataset, self.metric);
        let warnings: Vec<String> = match &dataset.truth {
            Some(_) => {
                let issues = verify_truth(dataset, metric, VERIFIED_QUERIES, plan.seed)?;
                issues.iter().map(ToString::to_string).collect()
            }
            None => Vec::new(),
        };
        for warning in &warnings {
            tracing::warn!("{}: {warning}", dataset.name);
        }
        let ids = self.truth(plan, backend, progress)?.ids.view();
        let base = dataset.base.as_ref();
        let base_bytes = base.len().saturating_mul((base.dim() * base.dtype().bytes()) as u64);
        let query_lid = if base_bytes <= READ_THROUGH_BYTES {
            query_lid(base, &self.queries.view(), ids, metric)?
        } else {
            vec![None; self.queries.len()]
        };
        Ok(DatasetRecord {
            name: dataset.name.clone(),
            path: dataset.location(),
            fingerprint: dataset.fingerprint.clone(),
            sha256: provenance::sha256(&dataset.path, READ_THROUGH_BYTES).unwrap_or_else(|error| {
                tracing::warn!("{}: no SHA-256 is recorded: {error}", dataset.path.display());
                None
            }),
            rows: base.len(),
            dim: base.dim(),
            queries: self.queries.len(),
            dtype: base.dtype().name().to_string(),
            metric: metric.name().to_string(),
            truth_depth: ids.ncols(),
            query_lid,
            warnings,
            difficulty: self.difficulty(plan, backend, progress)?,
        })
    }

    /// How hard the set is, and whether its queries come from where its rows do; `None` where exact search for a sample
    /// would keep the user waiting.
    fn difficulty<B: Backend>(
        &self,
        plan: &Plan,
        backend: &B,
        progress: &dyn Progress,
    ) -> Result<Option<Difficulty>, EvalError> {
        let base = self.dataset.base.as_ref();
        let sampled = DIFFICULTY_SAMPLE + DIFFICULTY_SAMPLE.min(self.queries.len());
        if base.len() as f64 * (sampled * base.dim()) as f64 > DIFFICULTY_PRODUCTS {
            tracing::info!("{}: too large to look at its difficulty here: see `kiln datasets info`", self.dataset.name);
            return Ok(None);
        }
        let queries = MemorySource::new(self.queries.clone(), &self.dataset.path);
        let request = DifficultyRequest {
            base,
            queries: &queries,
            metric: self.metric,
            sample: DIFFICULTY_SAMPLE,
            seed: plan.seed,
            memory_budget_bytes: TRUTH_MEMORY_BYTES,
        };
        Ok(Some(difficulty(backend, &request, progress)?))
    }
}
