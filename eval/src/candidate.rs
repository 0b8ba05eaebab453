//! An index of a plan before it is open: what is left to do of it, building it, and what its build cost.
//!
//! In: an [`IndexSpec`] and a data set. Out: an index file, the settings that a run folder does not hold yet, and the
//! [`BuildRecord`] of the open index.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use kiln_builder::{BuildReport, BuildRequest, Index, IndexParams, Residency, Searcher};
use kiln_kernels::{Backend, Progress};

use crate::error::EvalError;
use crate::io_state::Placement;
use crate::open_loop::Asked;
use crate::plan::{self, IndexSpec, Plan, PlanError, SearchGrid, Setting};
use crate::record::BuildRecord;
use crate::store::{RunFolder, StoreError};
use crate::subject::Subject;

/// Bytes of an index's first page, which identifies its contents.
const PAGE: u64 = 4096;

/// An index file that is there, and what building it cost.
pub(crate) struct Built {
    pub report: BuildReport,
    /// Built just now, and not in the records yet.
    pub fresh: bool,
}

/// What is left to do of an index.
pub(crate) struct Left {
    pub settings: Vec<Setting>,
    /// Where loads have not been offered to it.
    pub unloaded: Vec<Placement>,
    pub unbuilt: bool,
}

impl Left {
    pub(crate) fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.unloaded.is_empty() && !self.unbuilt
    }

    /// The places where something is left, with the settings to measure there.
    pub(crate) fn places(&self, plan: &Plan) -> Vec<(Placement, Vec<Setting>)> {
        let here = |&placement: &Placement| {
            let settings: Vec<Setting> =
                self.settings.iter().filter(|setting| setting.placement == placement).cloned().collect();
            (!settings.is_empty() || self.unloaded.contains(&placement)).then_some((placement, settings))
        };
        let places: Vec<_> = plan.placements().iter().filter_map(here).collect();
        if places.is_empty() && self.unbuilt {
            return plan.placements().first().map(|&first| (first, Vec::new())).into_iter().collect();
        }
        places
    }
}

/// An index of the plan before it is open.
pub(crate) struct Candidate {
    pub key: String,
    pub path: PathBuf,
    /// As asked for, or as found in the file.
    params: IndexParams,
    pub search: SearchGrid,
    rows: u64,
    build: bool,
    /// What answers in modes of a device.
    device: String,
}

impl Candidate {
    pub(crate) fn of<B: Backend>(
        spec: &IndexSpec,
        search: &SearchGrid,
        subject: &Subject<'_>,
        backend: &B,
        folder: &RunFolder,
    ) -> Result<Self, EvalError> {
        let (dataset, rows) = (subject.dataset, subject.dataset.base.len());
        let (search, device) = (search.clone(), backend.describe());
        match spec {
            IndexSpec::Build(params) => {
                let key = plan::build_key(&dataset.fingerprint, subject.metric, params, &device);
                let path = folder.index_path(params.kind().name(), &key);
                Ok(Self { key, path, params: params.clone(), search, rows, build: true, device })
            }
            IndexSpec::Open(path) => {
                // From the drive: this reads what the index is, and only measuring needs it in memory.
                let searcher = Index::open(path, Residency::Ssd)?;
                refuse_foreign(&searcher, subject)?;
                let key = plan::opened_key(&dataset.fingerprint, &first_page(path)?);
                let params = searcher.meta().params.clone();
                Ok(Self { key, path: path.clone(), params, search, rows, build: false, device })
            }
        }
    }

    /// As loads are offered to it.
    pub(crate) fn asked<'a>(&'a self, placement: Placement, k: usize, held_out: Option<&'a [bool]>) -> Asked<'a> {
        Asked { build_key: &self.key, kind: self.params.kind(), file: &self.path, placement, k, held_out }
    }

    /// All that is left to do of it.
    pub(crate) fn left(&self, plan: &Plan, subject: &Subject<'_>, folder: &RunFolder) -> Result<Left, EvalError> {
        let settings = self.pending(plan, folder);
        let held_out = plan.held_out.map(|held_out| held_out.mask(subject.queries.len()));
        let mut unloaded = Vec::new();
        // Loads are offered to the fastest setting, which is known when all are measured: then they are due in any case.
        if settings.is_empty()
            && let Some(open_loop) = &plan.open_loop
        {
            for placement in plan.placements() {
                if open_loop.due(&self.asked(placement, plan.k, held_out.as_deref()), folder)?.is_some() {
                    unloaded.push(placement);
                }
            }
        }
        Ok(Left { settings, unloaded, unbuilt: folder.build(&self.key).is_none() })
    }

    /// The settings that the folder does not hold yet.
    fn pending(&self, plan: &Plan, folder: &RunFolder) -> Vec<Setting> {
        let nlist = match &self.params {
            IndexParams::IvfPq(params) => Some(params.nlist),
            IndexParams::Vamana(_) => None,
        };
        let mut settings = plan.settings(&self.key, &self.search, self.params.kind(), nlist, self.rows, &self.device);
        settings.retain(|setting| !folder.is_measured(&setting.key, plan.prune));
        settings
    }

    /// Builds the index unless it is there. Returns what building it cost, where that is known.
    pub(crate) fn built<B: Backend>(
        &self,
        subject: &Subject<'_>,
        backend: &B,
        progress: &dyn Progress,
        folder: &RunFolder,
    ) -> Result<Option<Built>, EvalError> {
        let report = read_report(&self.path);
        // An index file has its name only when it is whole. One of which neither a report nor a record tells what it
        // cost is built again: a crash came between.
        let missing = !self.path.is_file() || (report.is_none() && folder.build(&self.key).is_none());
        if !(self.build && missing) {
            return Ok(report.map(|report| Built { report, fresh: false }));
        }
        let dataset = subject.dataset;
        let request = BuildRequest {
            source: dataset.base.as_ref(),
            dataset_name: dataset.name.clone(),
            dataset_fingerprint: dataset.fingerprint.clone(),
            metric: subject.metric,
            params: self.params.clone(),
            keep_dtype: false,
            out: &self.path,
        };
        Ok(Some(Built { report: kiln_builder::build(backend, &request, progress)?, fresh: true }))
    }

    /// The record of an open index; without a report, what building it cost is unknown.
    pub(crate) fn record(&self, searcher: &Searcher, report: Option<&BuildReport>) -> Result<BuildRecord, EvalError> {
        let length = std::fs::metadata(&self.path).map_err(unreadable(&self.path))?.len();
        if report.is_none() {
            tracing::warn!("{}: no build report lies beside it: its build times are unknown", self.path.display());
        }
        let unknown = BuildRecord::of_unknown_build(&self.key, searcher, length);
        Ok(match report {
            Some(report) => BuildRecord {
                device: report.device.clone(),
                threads: report.threads,
                stage_seconds: report.stage_seconds.clone(),
                total_seconds: report.total_seconds,
                cpu_seconds: report.cpu_seconds,
                peak_rss_bytes: report.peak_rss_bytes,
                ..unknown
            },
            None => unknown,
        })
    }
}

/// The report beside an index, where there is one that belongs to it.
fn read_report(index: &Path) -> Option<BuildReport> {
    let mut name = index.as_os_str().to_owned();
    name.push(".build.json");
    let report: BuildReport = serde_json::from_slice(&std::fs::read(name).ok()?).ok()?;
    (std::fs::metadata(index).ok()?.len() == report.index_bytes).then_some(report)
}

fn first_page(path: &Path) -> Result<Vec<u8>, StoreError> {
    let mut page = Vec::new();
    let read = File::open(path).and_then(|file| file.take(PAGE).read_to_end(&mut page));
    read.map_err(unreadable(path))?;
    Ok(page)
}

pub(crate) fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::Read { path, source }
}

/// Refuses an index of other data, or of another metric: its recall here would mean nothing.
fn refuse_foreign(searcher: &Searcher, subject: &Subject<'_>) -> Result<(), PlanError> {
    let (meta, dataset) = (searcher.meta(), subject.dataset);
    if meta.dataset_fingerprint == dataset.fingerprint && meta.metric == subject.metric {
        return Ok(());
    }
    Err(PlanError::ForeignIndex {
        path: searcher.path().display().to_string(),
        found: format!("{} ({}, {})", meta.dataset, meta.metric, meta.dataset_fingerprint),
        asked: format!("{} ({}, {})", dataset.name, subject.metric, dataset.fingerprint),
    })
}
