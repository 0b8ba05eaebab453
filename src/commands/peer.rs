//! `kiln peer`: Kiln as a peer of another Kiln, by the protocol of `docs/peers.md`.
//!
//! In: commands as JSON lines on standard input. Out: events as JSON lines on standard output, and answers in files. With
//! it an index can be measured by the same road as other libraries; with `--noop` the road alone.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use kiln_builder::{BuildRequest, Effort, Hits, Index, IndexKind, Navigate, Residency, SearchParams, Searcher};
use kiln_datasets::{Content, MemorySource, Truth, open_rows, read_all, write_distances, write_truth};
use kiln_eval::measure::{Driver, Repeats, Work};
use kiln_eval::peer::{Built, Command, Event, MOST_PASSES, PROTOCOL, Searched};
use kiln_eval::record::RunSample;
use kiln_eval::{answer_all, answer_in_batch};
use kiln_kernels::{DType, Metric, NoProgress, Rows};
use ndarray::Array2;
use serde_json::Value;

use super::build::ParamArgs;
use super::device::DeviceArgs;
use super::with_threads;

const EXAMPLES: &str = "\
In a file for `kiln bench --config`:
  [[engine]]
  peer = \"kiln\"
  command = [\"kiln\", \"peer\"]
  build = { index = \"vamana\", max_degree = 32 }
  search = { search_list = [10, 20, 40] }";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Build nothing and answer at once, and wrongly: what the protocol itself costs
    #[arg(long)]
    noop: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let dtypes = ["float32", "float16", "uint8", "int8"].map(String::from).to_vec();
    say(&Event::Ready { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_string(), dtypes })?;
    let mut index = None;
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read standard input")?;
        let answer = serde_json::from_str(&line).context("this is no command").and_then(|command| match command {
            Command::Build { base, metric, params, threads, folder } => {
                let (built, searched) = if args.noop {
                    (Built { seconds: 1e-9, index_bytes: Some(0), ..Built::default() }, None)
                } else {
                    let task = Task { base, metric, params, threads, folder };
                    let (built, searcher) = task.build(&args.device)?;
                    (built, Some(searcher))
                };
                index = Some(searched);
                Ok(Event::Built(built))
            }
            Command::Search { queries, k, mode, threads, params, warm_up, passes, seconds, answers, latencies } => {
                let index = index.as_ref().context("nothing is built yet")?;
                let search = Search { mode: &mode, k, threads, warm_up, passes, seconds, answers, latencies };
                let rows = read_all(open_rows(&queries)?.as_ref(), |_| ())?;
                let searched = match index {
                    Some(searcher) => with_threads(Some(threads), || search.kiln(searcher, &rows, &params))??,
                    None => search.noop(&rows)?,
                };
                Ok(Event::Searched(searched))
            }
        });
        say(&answer.unwrap_or_else(|error| Event::Error { reason: format!("{error:#}"), out_of_memory: false }))?;
    }
    Ok(())
}

fn say(event: &Event) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, event)?;
    out.write_all(b"\n").and_then(|()| out.flush()).context("cannot write to standard output")
}

/// What is to be built.
struct Task {
    base: PathBuf,
    metric: String,
    params: BTreeMap<String, Value>,
    threads: usize,
    folder: PathBuf,
}

impl Task {
    fn build(mut self, device: &DeviceArgs) -> anyhow::Result<(Built, Searcher)> {
        let mut word = |name: &str| self.params.remove(name).and_then(|value| value.as_str().map(str::to_string));
        let kind = match word("index").as_deref() {
            Some("vamana") => IndexKind::Vamana,
            Some("ivf-pq") => IndexKind::IvfPq,
            _ => bail!("name the index to build: index = \"vamana\" or \"ivf-pq\""),
        };
        let residency = match word("residency").as_deref() {
            None | Some("memory") => Residency::Memory,
            Some("ssd") => Residency::Ssd,
            Some(other) => bail!("residency {other:?}: use memory or ssd"),
        };
        let metric: Metric = self.metric.parse().map_err(anyhow::Error::msg)?;
        let source = open_rows(&self.base)?;
        let params = ParamArgs::of_names(&self.params)?.resolve(kind, source.as_ref())?;
        let out = self.folder.join("index.kiln");
        let request = BuildRequest {
            source: source.as_ref(),
            dataset_name: "base".to_string(),
            dataset_fingerprint: "of a peer".to_string(),
            metric,
            params,
            keep_dtype: false,
            out: &out,
        };
        let devices = device.open()?;
        let report = with_threads(Some(self.threads), || kiln_builder::build(&devices, &request, &NoProgress))??;
        let built = Built {
            seconds: report.total_seconds,
            index_bytes: Some(report.index_bytes),
            cpu_seconds: Some(report.cpu_seconds),
            peak_rss_bytes: Some(report.peak_rss_bytes),
        };
        Ok((built, Index::open(&out, residency)?))
    }
}

/// Passes that are asked for.
struct Search<'a> {
    mode: &'a str,
    k: usize,
    threads: usize,
    warm_up: f64,
    passes: usize,
    seconds: f64,
    answers: Option<PathBuf>,
    latencies: Option<PathBuf>,
}

impl Search<'_> {
    fn kiln(&self, searcher: &Searcher, queries: &Rows, params: &BTreeMap<String, Value>) -> anyhow::Result<Searched> {
        let params = SearchParams { k: self.k, effort: effort_of(searcher.kind(), self.k, params)? };
        let all = queries.view();
        let rows: Vec<_> = (0..all.len()).map(|query| all.slice(query..query + 1)).collect();
        let work = match self.mode {
            "batch" => Work::batch(|share| searcher.search_batch(&all.slice(share), &params)),
            _ => Work::single(|query: usize| searcher.search(&rows[query], &params)),
        };
        let searched = self.time(all.len(), &work)?;
        if let Some(path) = &self.answers {
            let answers = match self.mode {
                "batch" => answer_in_batch(searcher, &all, &params, self.threads)?,
                _ => answer_all(searcher, &all, &params)?,
            };
            write_ids(answers.ids, path)?;
        }
        Ok(searched)
    }

    fn noop(&self, queries: &Rows) -> anyhow::Result<Searched> {
        let nothing = Hits::default;
        let work: Work<'_, std::convert::Infallible> = match self.mode {
            "batch" => Work::batch(|share| Ok(share.map(|_| nothing()).collect())),
            _ => Work::single(|_| Ok(nothing())),
        };
        let searched = self.time(queries.len(), &work)?;
        if let Some(path) = &self.answers {
            write_ids(Array2::from_elem((queries.len(), self.k), -1), path)?;
        }
        Ok(searched)
    }

    /// Makes the passes, and writes the latencies where they are wanted.
    fn time<E: std::fmt::Display>(&self, queries: usize, work: &Work<'_, E>) -> anyhow::Result<Searched> {
        let driver = Driver::new(queries);
        if self.warm_up > 0.0 {
            let repeats =
                Repeats { warmup_seconds: self.warm_up, window_seconds: self.warm_up / 4.0, ..Repeats::QUICK };
            driver.warm_up(self.threads, &repeats, work)?;
        }
        let mut runs: Vec<RunSample> = Vec::new();
        let timed = |runs: &[RunSample]| runs.iter().map(|run| run.seconds).sum::<f64>();
        while runs.len() < self.passes || timed(&runs) < self.seconds {
            runs.extend(driver.turn(self.threads, self.seconds - timed(&runs), work)?);
            if runs.len() >= MOST_PASSES {
                runs.truncate(MOST_PASSES);
                break;
            }
        }
        if let Some(path) = &self.latencies {
            let cells = runs.iter().flat_map(|run| run.latency_us.iter().map(|&us| us.max(0.01))).collect();
            let latencies =
                Array2::from_shape_vec((runs.len(), queries), cells).context("batches have no latencies")?;
            write_distances(&latencies, path)?;
        }
        Ok(Searched { seconds: runs.iter().map(|run| run.seconds).collect() })
    }
}

/// Search parameters by name; those of the other kind of index are refused.
fn effort_of(kind: IndexKind, k: usize, params: &BTreeMap<String, Value>) -> anyhow::Result<Effort> {
    let mut effort = Effort::default_for(kind, k);
    for (name, value) in params {
        let number = || {
            value
                .as_u64()
                .filter(|&n| n > 0)
                .context(format!("{name} {value}: use a number from 1"))
                .map(|n| n as usize)
        };
        match (&mut effort, name.as_str()) {
            (Effort::Graph { search_list, .. }, "search_list") => *search_list = number()?,
            (Effort::Graph { navigate, .. }, "navigate") => {
                *navigate = match value.as_str() {
                    Some("best") => Navigate::Best,
                    Some("exact") => Navigate::Exact,
                    Some("codes") => Navigate::Codes,
                    _ => bail!("navigate {value}: use best, exact or codes"),
                }
            }
            (Effort::Lists { nprobe, .. }, "nprobe") => *nprobe = number()?,
            (Effort::Lists { rerank, .. }, "rerank") => *rerank = number()?,
            _ => bail!("{name}: a {kind} index has no such search parameter"),
        }
    }
    Ok(effort)
}

fn write_ids(ids: Array2<i64>, path: &Path) -> anyhow::Result<()> {
    let ids = Truth { ids, distances: None };
    let no_rows = MemorySource::new(Rows::zeros(DType::F32, 0, 0), path);
    write_truth(&Content { truth: Some(&ids), ..Content::rows(&no_rows) }, path, &NoProgress)?;
    Ok(())
}
