//! `kiln load`: a server under a load, measured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use kiln_datasets::{Dataset, open_queries, read_all};
use kiln_eval::judge::MAX_K;
use kiln_eval::load::ask::{BodyForm, answers, describe, searches};
use kiln_eval::load::client::Target;
use kiln_eval::load::drive::{Drive, Pace, drive};
use kiln_eval::load::{LoadContext, LoadMode, LoadRecord, Rate, keep, parse_rates};
use kiln_eval::{judge, stats};
use kiln_kernels::{Metric, RowsView};
use serde_json::{Value, json};

use super::search::NavigateArg;
use super::time::parse_time;
use super::truth::truth;
use super::tune::parse_recall;
use super::{UsageError, print, shape, thousands, write_json};

const EXAMPLES: &str = "\
Examples:
  kiln load --url http://127.0.0.1:8080 --queries sift.hdf5 --rate 1000 --search-list 40
  kiln load --url http://127.0.0.1:8080 --queries sift.hdf5 --sweep --out kiln-runs/sift
  kiln load --url http://127.0.0.1:8080 --queries sift.hdf5 --rate 10%..120% --duration 20s --json curve.json
  kiln load --url http://127.0.0.1:8080 --queries sift.hdf5 --closed --connections 16

Requests are sent when they are due, whether or not earlier ones are answered, and a latency counts from the moment at which
the request was due: a server that stalls is charged for everyone who waited. A rate in percent is a part of the capacity,
which a closed loop over the same connections measures first.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// The queries, one a request, sent in turn: HDF5 (its `test`), .npy, .fbin, .u8bin, .fvecs, ...
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// Requests a second, or parts of the capacity; may be several, or a range such as 10%..120%
    #[arg(long, value_name = "R,R,..", value_delimiter = ',', required_unless_present_any = ["sweep", "closed"])]
    rate: Vec<String>,
    /// The curve: capacity, then 10, 25, 50, 70, 80, 90, 100, 110 and 120% of it
    #[arg(long, conflicts_with = "rate")]
    sweep: bool,
    /// Only the capacity: every connection sends the next request when the last is answered
    #[arg(long, conflicts_with_all = ["rate", "sweep"])]
    closed: bool,
    /// Time for which each rate is offered
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "10s")]
    duration: Duration,
    /// Connections, each with one request at a time
    #[arg(long, value_name = "N", default_value_t = 64)]
    connections: usize,
    /// Neighbours wanted
    #[arg(long, default_value_t = 10)]
    k: usize,
    /// Ask for what `kiln tune` found best for this recall
    #[arg(long, value_name = "R", value_parser = parse_recall, conflicts_with_all = ["search_list", "navigate", "nprobe", "rerank"])]
    recall: Option<f64>,
    /// Vamana: candidates kept during the walk, L
    #[arg(long, value_name = "L", conflicts_with_all = ["nprobe", "rerank"])]
    search_list: Option<usize>,
    /// Vamana: how neighbours are scored
    #[arg(long, value_enum, conflicts_with_all = ["nprobe", "rerank"])]
    navigate: Option<NavigateArg>,
    /// IVF-PQ: lists scanned
    #[arg(long, value_name = "P")]
    nprobe: Option<usize>,
    /// IVF-PQ: candidates re-ranked by exact distance
    #[arg(long, value_name = "N")]
    rerank: Option<usize>,
    /// The form of bodies and answers
    #[arg(long, value_enum, default_value = "json")]
    body: BodyArg,
    /// File that holds the server's token [default: the variable KILN_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Ground truth: HDF5 (its `neighbors`), .ibin, .ivecs or .npy [default: that of the queries' HDF5 file]
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// An answer that takes longer is given up
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "10s")]
    timeout: Duration,
    /// Decides when requests are due
    #[arg(long, value_name = "S", default_value_t = 42)]
    seed: u64,
    /// Append a record a rate to `load.jsonl` in this run folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write all records, as JSON, to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The form of bodies.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum BodyArg {
    /// JSON, as most clients use
    Json,
    /// Little-endian f32, which costs both sides least
    Raw,
}

/// Parts of the capacity that `--sweep` offers.
const SWEEP: [f64; 9] = [0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2];

/// Before anything is measured the server answers for so long, or for a tenth of the duration if that is less.
const WARM_UP: Duration = Duration::from_secs(2);

pub fn run(args: Args) -> anyhow::Result<()> {
    if args.k == 0 || args.k > MAX_K {
        return Err(UsageError(format!("--k {}: use 1 to {MAX_K}", args.k)).into());
    }
    if args.connections == 0 || args.connections > 10_000 {
        return Err(UsageError(format!("--connections {}: use 1 to 10000", args.connections)).into());
    }
    let rates = rates(&args)?;
    let target = Target::new(&args.url, token(&args)?).map_err(|error| UsageError(error.to_string()))?;
    let source = open_queries(&args.queries)?;
    let queries = read_all(source.as_ref(), |_| ())?;
    anyhow::ensure!(!queries.is_empty(), "{}: it holds no queries", args.queries.display());
    let index = describe(&target, args.timeout)?;
    let (kind, dim) = (index["kind"].as_str().unwrap_or("unknown"), index["dim"].as_u64());
    anyhow::ensure!(
        dim.is_none_or(|dim| dim == queries.dim() as u64),
        "{}: its rows have {} coordinates, the server's index has {}; use queries of the same data set",
        args.queries.display(),
        queries.dim(),
        index["dim"]
    );
    tracing::info!("{}: {kind} index, {}; queries {}", target.url, index["file"], shape(source.as_ref()));
    let form = match args.body {
        BodyArg::Json => BodyForm::Json,
        BodyArg::Raw => BodyForm::Raw,
    };
    let asked = params(&args);
    let requests = searches(&target, &queries.view(), args.k, &asked, form);
    // One answer shows whether the parameters fit, before anything is timed.
    answers(&target, &requests[..1], args.k, form, args.timeout)?;
    let recall = recall(&args, &index, &queries.view(), &Asked { target: &target, requests: &requests, form })?;

    let load = Drive { target: &target, requests: &requests, connections: args.connections, timeout: args.timeout };
    drive(&load, Pace::Closed(WARM_UP.min(args.duration / 10)))?;
    let mut named = asked;
    named.insert("body".to_string(), form.name().into());
    let mut context = LoadContext {
        url: target.url.clone(),
        index: Some(index),
        capacity: None,
        connections: args.connections,
        k: args.k,
        params: named,
        recall,
    };
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let mut records = Vec::new();
    let mut measured = |context: &LoadContext, pace: Pace| -> anyhow::Result<f64> {
        let record = context.record(pace, drive(&load, pace)?);
        if let Some(out) = &args.out {
            keep(out, &record)?;
        }
        if !to_stdout {
            if records.is_empty() {
                print(&header())?;
            }
            print(&line(&record))?;
        }
        warn(&record);
        let rate = record.achieved_rate;
        records.push(record);
        Ok(rate)
    };
    if args.closed || rates.iter().any(|rate| matches!(rate, Rate::OfCapacity(_))) {
        context.capacity = Some(measured(&context, Pace::Closed(args.duration))?);
    }
    for rate in rates {
        let rate = match rate {
            Rate::PerSecond(rate) => rate,
            Rate::OfCapacity(part) => part * context.capacity.unwrap_or_default(),
        };
        anyhow::ensure!(rate > 0.0, "{}: no request was answered well in the closed loop", target.url);
        measured(&context, Pace::Open { rate, duration: args.duration, seed: args.seed })?;
    }
    match &args.json {
        Some(path) => write_json(path, &json!({ "records": records })),
        None => Ok(()),
    }
}

fn rates(args: &Args) -> Result<Vec<Rate>, UsageError> {
    if args.sweep {
        return Ok(SWEEP.map(Rate::OfCapacity).to_vec());
    }
    let rates: Result<Vec<_>, _> = args.rate.iter().map(|text| parse_rates(text)).collect();
    rates.map(|rates| rates.concat()).map_err(|problem| UsageError(format!("--rate: {problem}")))
}

fn token(args: &Args) -> anyhow::Result<Option<String>> {
    let text = match &args.token_file {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?),
        None => std::env::var("KILN_TOKEN").ok(),
    };
    let token = text.map(|text| text.trim().to_string()).filter(|token| !token.is_empty());
    match token {
        Some(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(UsageError("the token holds other characters than visible ASCII: it cannot be sent".into()).into())
        }
        token => Ok(token),
    }
}

/// Search parameters by the names that the server knows.
fn params(args: &Args) -> BTreeMap<String, Value> {
    let navigate = args.navigate.map(|navigate| match navigate {
        NavigateArg::Best => "best",
        NavigateArg::Exact => "exact",
        NavigateArg::Codes => "codes",
    });
    let pairs = [
        ("recall", args.recall.map(Value::from)),
        ("search_list", args.search_list.map(Value::from)),
        ("navigate", navigate.map(Value::from)),
        ("nprobe", args.nprobe.map(Value::from)),
        ("rerank", args.rerank.map(Value::from)),
    ];
    pairs.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))).collect()
}

/// What is asked of whom.
struct Asked<'a> {
    target: &'a Target,
    requests: &'a [Vec<u8>],
    form: BodyForm,
}

/// Recall of the server's answers, where truth and the rows that it is of are at hand.
fn recall(args: &Args, index: &Value, queries: &RowsView<'_>, asked: &Asked<'_>) -> anyhow::Result<Option<f64>> {
    let metric: Option<Metric> = serde_json::from_value(index["metric"].clone()).ok();
    let Some(metric) = metric else { return Ok(None) };
    let Some(truth) = truth(&args.queries, args.truth.as_deref(), metric)? else { return Ok(None) };
    let own = Dataset::open_file(&args.queries).ok().filter(|own| index["fingerprint"] == own.fingerprint.as_str());
    let Some(own) = own else {
        tracing::warn!(
            "{}: it is not the data set that the server's index was built from; recall is not told",
            args.queries.display()
        );
        return Ok(None);
    };
    if args.k > truth.depth() {
        tracing::warn!("--k {}: truth has depth {}; recall is not told", args.k, truth.depth());
        return Ok(None);
    }
    let ids = answers(asked.target, asked.requests, args.k, asked.form, args.timeout)?;
    let judged = judge(own.base.as_ref(), queries, truth.ids.view(), metric, args.k, ids.view())?;
    let of_query = |(&hits, &possible): (&u16, &u16)| (possible > 0).then(|| f64::from(hits) / f64::from(possible));
    let recalls: Vec<f64> = judged.strict_hits.iter().zip(&judged.possible).filter_map(of_query).collect();
    Ok(stats::mean(&recalls))
}

fn header() -> String {
    format!(
        "{:<11} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>8}  {}",
        "mode", "offered/s", "achieved/s", "p50 us", "p99 us", "p99.9 us", "max us", "lag p99", "errors"
    )
}

fn line(record: &LoadRecord) -> String {
    let latency = &record.latency_us;
    let mode = match record.mode {
        LoadMode::OpenLoop => "open loop",
        LoadMode::ClosedLoop => "closed loop",
    };
    let p999 = latency.p999.map_or("-".to_string(), |us| format!("{us:.0}"));
    let errors: Vec<String> = record.errors.iter().map(|(kind, n)| format!("{} {kind}", thousands(*n))).collect();
    let errors = if errors.is_empty() { "none".to_string() } else { errors.join(", ") };
    format!(
        "{mode:<11} {:>10.0} {:>10.0} {:>9.0} {:>9.0} {p999:>9} {:>9.0} {:>8.0}  {errors}{}",
        record.offered_rate,
        record.achieved_rate,
        latency.p50,
        latency.p99,
        latency.max,
        record.start_lag_us.p99,
        if record.saturated { ", saturated" } else { "" }
    )
}

/// Says where a measurement is of the generator rather than of the server.
fn warn(record: &LoadRecord) {
    let lag = record.start_lag_us;
    if record.mode == LoadMode::OpenLoop && !record.saturated && lag.p50 > 0.5 * record.latency_us.p50 {
        tracing::warn!(
            "half of the requests were sent {:.0} us late or more, of a median latency of {:.0} us: the generator is short of \
             processors or of --connections",
            lag.p50,
            record.latency_us.p50
        );
    }
}
