//! An open loop on an index of this process: how long answers take at loads that come whether or not it keeps up.
//!
//! In: an open index whose settings were measured. Out: a [`LoadRecord`] for what it answers at most and one for each load,
//! in the run folder's `load.jsonl`, where those of `kiln load` lie too. The index is asked at its fastest setting that
//! reaches a recall. Queries arrive by a Poisson process and are timed from when they were due ([`mod@crate::load`]); what a
//! server adds, its queue and its protocol, is not there.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use kiln_builder::{Effort, IndexKind, SearchParams, Searcher};
use kiln_kernels::{Progress, RowsView};
use serde_json::{Value, json};

use crate::error::EvalError;
use crate::io_state::{IoState, Placement};
use crate::load::drive::{DriveError, Line, Pace, Refused, Sample, drive_lines};
use crate::load::{LOAD_FILE, LoadContext, LoadMode, LoadRecord, Rate, keep};
use crate::metrics;
use crate::numa;
use crate::plan;
use crate::record::SettingRecord;
use crate::store::{RunFolder, read_lines};
use crate::sys;

/// The address of what was asked without a server, in [`LoadRecord::url`].
pub const IN_PROCESS: &str = "in process";

/// Searches may recurse and keep tables on the stack: as much as threads have by default.
const STACK: usize = 2 << 20;

/// Before anything is measured it answers for a tenth of the time of a load, or for so long if that is less.
const WARM_UP: Duration = Duration::from_secs(1);

/// What is offered to each index.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenLoop {
    /// The recall that the setting must reach.
    pub recall: f64,
    /// The loads.
    pub rates: Vec<Rate>,
    /// Threads that answer.
    pub threads: usize,
    /// How long each load lasts.
    pub duration: Duration,
}

/// An index in a place, open or not.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub build_key: &'a str,
    pub kind: IndexKind,
    pub file: &'a Path,
    pub placement: Placement,
    pub k: usize,
    /// The queries that are held out.
    pub held_out: Option<&'a [bool]>,
}

/// The same, open, with what it is asked.
pub(crate) struct Open<'a> {
    pub searcher: &'a Searcher,
    pub queries: RowsView<'a>,
    /// Those that its settings were measured with.
    pub efforts: &'a [Effort],
    pub seed: u64,
}

/// Loads that are to be offered: to this setting, by its parameters.
pub(crate) struct Due {
    params: BTreeMap<String, Value>,
    context: LoadContext,
}

impl OpenLoop {
    /// What is to be measured of an index; `None` where the folder holds it, or nothing can be.
    pub(crate) fn due(&self, asked: &Asked<'_>, folder: &RunFolder) -> Result<Option<Due>, EvalError> {
        let name = format!("{} ({})", asked.file.display(), asked.placement.words());
        if asked.placement.state() == Some(IoState::Cold) {
            tracing::info!("{name}: no load is offered: under load nothing stays cold");
            return Ok(None);
        }
        let Some((setting, recall)) = self.setting(asked, folder.settings()) else {
            tracing::warn!("{name}: no setting that was measured reaches recall {}: no load is offered", self.recall);
            return Ok(None);
        };
        let context = self.context(asked, setting, recall);
        if is_kept(folder.dir(), &context)? {
            tracing::info!("{name}: every load was offered already");
            return Ok(None);
        }
        Ok(Some(Due { params: setting.params.clone(), context }))
    }

    /// Offers the loads, and keeps what came of them.
    pub(crate) fn measure(
        &self,
        due: Due,
        open: &Open<'_>,
        folder: &RunFolder,
        progress: &dyn Progress,
    ) -> Result<(), EvalError> {
        let Due { params, mut context } = due;
        let Some(&effort) = open.efforts.iter().find(|effort| effort.by_name() == params) else { return Ok(()) };
        progress.stage("offer loads", self.rates.len() as u64 + 1);
        let params = SearchParams { k: context.k, effort };
        self.drive(open, &params, Pace::Closed(WARM_UP.min(self.duration / 10)))?;
        let mut records = Vec::with_capacity(self.rates.len() + 1);
        let closed = Pace::Closed(self.duration);
        let record = context.record(closed, self.drive(open, &params, closed)?);
        let capacity = record.achieved_rate;
        context.capacity = Some(capacity);
        records.push(record);
        progress.advance(1);
        for rate in &self.rates {
            let rate = match *rate {
                Rate::PerSecond(rate) => rate,
                Rate::OfCapacity(part) => part * capacity,
            };
            if rate > 0.0 {
                let pace = Pace::Open { rate, duration: self.duration, seed: open.seed };
                records.push(context.record(pace, self.drive(open, &params, pace)?));
            }
            progress.advance(1);
        }
        progress.finish();
        // All at once: what is there is whole.
        for record in &records {
            keep(folder.dir(), record)?;
        }
        Ok(())
    }

    /// The fastest setting of this index in this place that reaches the recall on the queries that choose, with its recall on
    /// all. Batches are driven otherwise, and do not count.
    fn setting<'r>(&self, asked: &Asked<'_>, settings: &'r [SettingRecord]) -> Option<(&'r SettingRecord, f64)> {
        let here = |setting: &&SettingRecord| {
            setting.build_key == asked.build_key
                && setting.residency == asked.placement.residency().name()
                && setting.io_state == asked.placement.state()
                && setting.memory_budget == asked.placement.memory()
                && setting.failure.is_none()
                && !setting.mode.is_batch()
        };
        let rated = settings.iter().filter(here).filter_map(|setting| {
            let chosen_by = crate::held_out::recall_of(setting, asked.held_out, false)?;
            (chosen_by >= self.recall).then_some(())?;
            Some((setting, metrics::recall(setting)?, metrics::qps(setting)?.median))
        });
        let fastest = rated.reduce(|best, next| if next.2 > best.2 { next } else { best });
        fastest.map(|(setting, recall, _)| (setting, recall))
    }

    fn context(&self, asked: &Asked<'_>, setting: &SettingRecord, recall: f64) -> LoadContext {
        let mut params: BTreeMap<String, Value> = setting.params.clone();
        params.insert("index".into(), asked.kind.name().into());
        params.insert("build".into(), asked.build_key.chars().take(8).collect::<String>().into());
        params.insert("place".into(), asked.placement.words().into());
        LoadContext {
            url: IN_PROCESS.to_string(),
            index: Some(json!({
                "kind": asked.kind.name(),
                "build_key": asked.build_key,
                "file": asked.file.display().to_string(),
                "threads": self.threads,
                "seconds": self.duration.as_secs_f64(),
                "loads": self.rates.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })),
            capacity: None,
            connections: self.threads,
            k: asked.k,
            params,
            recall: Some(recall),
        }
    }

    fn drive(&self, open: &Open<'_>, params: &SearchParams, pace: Pace) -> Result<Sample, EvalError> {
        let cpus = numa::search_order();
        let line = |thread: usize| SearchLine {
            // As in closed loops: each thread on its own, where there are no more threads than processors.
            cpu: cpus.get(thread).copied().filter(|_| self.threads <= cpus.len()),
            searcher: open.searcher,
            queries: &open.queries,
            params,
        };
        let sample = drive_lines(&line, self.threads, Duration::ZERO, STACK, pace)?;
        Ok(sample.ok_or(DriveError::NoServer { url: IN_PROCESS.to_string() })?)
    }
}

/// Whether the folder holds these loads of this setting, in the same time and on as many threads.
fn is_kept(dir: &Path, context: &LoadContext) -> Result<bool, EvalError> {
    let (kept, _): (Vec<LoadRecord>, _) = read_lines(&dir.join(LOAD_FILE))?;
    Ok(kept.iter().any(|record| {
        record.mode == LoadMode::OpenLoop
            && record.url == context.url
            && record.index == context.index
            && record.k == context.k
            && plan::named(&record.params) == plan::named(&context.params)
    }))
}

/// A thread that searches.
struct SearchLine<'a, 'q> {
    cpu: Option<usize>,
    searcher: &'a Searcher,
    queries: &'a RowsView<'q>,
    params: &'a SearchParams,
}

impl Line for SearchLine<'_, '_> {
    /// As long as many searches take.
    const SPIN: Duration = Duration::from_micros(100);

    fn open(&mut self) -> bool {
        // Where the system does not allow it, times vary more; the stopwatch of closed loops has said so.
        let _ = self.cpu.map(sys::pin_thread);
        true
    }

    fn ask(&mut self, number: usize) -> Result<(), Refused> {
        let query = number % self.queries.len();
        let search = || self.searcher.search(&self.queries.slice(query..query + 1), self.params);
        match catch_unwind(AssertUnwindSafe(search)) {
            Ok(Ok(hits)) => {
                black_box(hits);
                Ok(())
            }
            Ok(Err(error)) => Err(Refused { kind: error.to_string(), at_once: false }),
            Err(_) => Err(Refused { kind: "the search panicked; its message is in the log".into(), at_once: false }),
        }
    }
}
