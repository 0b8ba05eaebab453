//! One search setting on one open index, outside a run folder: what `kiln search` measures.
//!
//! In: an open index, queries, parameters and perhaps truth. Out: the answers, and the same records as a
//! benchmark keeps, so that the same figures are derived from them.

use std::time::Instant;

use kiln_builder::{DeviceGraph, DriveReads, Residency, SearchParams, Searcher};
use kiln_datasets::RowSource;
use kiln_kernels::{Devices, RowsView};
use ndarray::ArrayView2;

use crate::answers::{QueryAnswers, QuerySet, answer_all, answer_in_batch, judged};
use crate::error::EvalError;
use crate::interleave::{Task, measure_interleaved};
use crate::judge::{Judgement, judge};
use crate::measure::{Driver, Repeats, Work};
use crate::on_device;
use crate::record::{BuildRecord, IoState, Mode, SettingRecord};

/// Seconds that measured passes may take in all before they are made fewer.
const PATIENCE_SECONDS: f64 = 10.0;

/// What to search and measure.
#[derive(Clone)]
pub struct SingleSearch<'a> {
    /// The open index.
    pub searcher: &'a Searcher,
    /// Queries `(queries, dim)`.
    pub queries: RowsView<'a>,
    /// k and effort.
    pub params: SearchParams,
    /// How it is driven. In batch mode the answers are those of the batch.
    pub mode: Mode,
    /// Truth `(queries, depth)` and the rows that answers are judged on, where truth is known.
    pub truth: Option<(ArrayView2<'a, i64>, &'a dyn RowSource)>,
    /// The index on a device, which then answers all queries in one call.
    pub device: Option<&'a DeviceGraph<'a, Devices>>,
}

/// What reads of the drive pass through. Nothing is done to the page cache here: what it holds, it holds.
fn io_state(searcher: &Searcher) -> Option<IoState> {
    let opened = searcher.opened();
    (opened.residency == Residency::Ssd).then_some(match opened.reads {
        DriveReads::Direct => IoState::Direct,
        DriveReads::Cached => IoState::Warm,
    })
}

/// What came out.
#[derive(Debug, Clone)]
pub struct SingleMeasurement {
    /// The answers.
    pub answers: QueryAnswers,
    /// The measured setting, as a run folder would hold it.
    pub setting: SettingRecord,
    /// The index, as a run folder would hold it; what its build cost is not known here.
    pub build: BuildRecord,
}

/// Answers all queries once, judges them where truth is known, then measures up to three passes over them.
///
/// # Errors
/// A search that fails, or answers that cannot be judged by this truth.
pub fn measure_single(request: &SingleSearch<'_>) -> Result<SingleMeasurement, EvalError> {
    let SingleSearch { searcher, queries, params, mode, truth, device } = request;
    let began = Instant::now();
    let list = on_device::list(params.effort, params.k);
    let answers = match (device, *mode) {
        (Some(device), _) => QueryAnswers::of(device.search(queries, params.k, list)?.hits, params.k),
        (None, Mode::Batch { threads }) => answer_in_batch(searcher, queries, params, threads)?,
        (None, _) => answer_all(searcher, queries, params)?,
    };
    // A pass that takes long is not repeated: its own length makes it steady, and someone is waiting.
    let passes = (PATIENCE_SECONDS / began.elapsed().as_secs_f64().max(1e-3)) as usize;
    let repeats = Repeats { min_runs: passes.clamp(1, Repeats::QUICK.min_runs), ..Repeats::QUICK };
    let judgement = match truth {
        Some((truth, base)) => {
            let judgement = judge(*base, queries, *truth, searcher.metric(), params.k, answers.ids.view())?;
            if let Some(first) = judgement.contradicted.first() {
                tracing::warn!(
                    "truth row {first}: a nearer row was found than it lists ({} of {} rows lie so); \
                     the truth is wrong or of another data set, and recall means nothing",
                    judgement.contradicted.len(),
                    queries.len()
                );
            }
            judgement
        }
        None => Judgement::default(),
    };
    let set = QuerySet::new(queries.clone());
    let mode = device.map_or(*mode, |_| Mode::BatchDevice { transfers: true });
    let task = match device {
        Some(device) => {
            let work = Work::batch(move |share| Ok(device.search(&queries.slice(share), params.k, list)?.hits));
            Task { threads: 1, work }
        }
        None => Task { threads: mode.threads(), work: set.work(searcher, *params, mode) },
    };
    let mut setting = SettingRecord {
        residency: searcher.residency().name().to_string(),
        io_state: io_state(searcher),
        memory_budget: searcher.opened().memory,
        serving_bytes: Some(searcher.serving_bytes()),
        device: device.map(DeviceGraph::device),
        answers: match device {
            Some(_) => on_device::judged(&answers, judgement),
            None => judged(&answers.stats, judgement, searcher.residency()),
        },
        ..SettingRecord::unmeasured("search", "search", params.effort.by_name(), mode, params.k)
    };
    measure_interleaved(&Driver::new(set.len()), &repeats, &[task], 1, |_, measured| {
        match measured {
            Ok(measured) => (setting.warmup, setting.runs) = (measured.warmup, measured.runs),
            Err(failed) => setting.failure = Some(failed.to_string()),
        }
        Ok::<_, EvalError>(())
    })?;
    let build = BuildRecord::of_unknown_build("search", searcher, searcher.file_bytes());
    Ok(SingleMeasurement { answers, setting, build })
}
