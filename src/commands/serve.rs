//! `kiln serve`: one index file, or one shard set, over HTTP.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use kiln_builder::serve::{FindTuned, Limits, ServeError, ServeParams, Token, TunedSetting, serve};
use kiln_eval::all_tuned;

use super::residency::ResidencyArgs;
use super::time::parse_time;
use super::{UsageError, parse_bytes, print};

const EXAMPLES: &str = "\
Examples:
  kiln serve sift.kiln
  kiln serve sift.kiln --residency ssd --memory 64MiB
  kiln serve photos.kset --probe-shards 4
  kiln serve sift.kiln --listen 0.0.0.0:8080 --token-file token.txt --log-format json
  curl -s http://127.0.0.1:8080/v1/search -H 'Content-Type: application/json' -d '{\"queries\": [[...]], \"k\": 10}'
  kill -HUP PID    serve what is at the index's path now; POST /v1/index:swap does the same and tells how it went
  kill PID         answer what was accepted, then end

The interface is described at /openapi.json; /metrics is for Prometheus, /healthz and /readyz for whoever watches over it.
Without a token only this machine can be served. The token may also stand in the variable KILN_TOKEN.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The index file, or the folder of a shard set
    #[arg(value_name = "X.kiln|SET")]
    index: PathBuf,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    listen: String,
    #[command(flatten)]
    residency: ResidencyArgs,
    /// Hold every byte of an index against its checksum before it is served
    #[arg(long)]
    verify: bool,
    /// File that holds the token which requests must bring
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Listen on addresses that other machines can reach, without a token
    #[arg(long)]
    allow_unauthenticated: bool,
    /// Threads that search [default: all processors]
    #[arg(long, value_name = "T")]
    threads: Option<usize>,
    /// Threads that drive connections [default: one for each four processors]
    #[arg(long, value_name = "T")]
    http_threads: Option<usize>,
    /// Queries that a thread answers in one call, of those that wait
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: usize,
    /// Requests that wait for a search thread; further ones are refused with 503
    #[arg(long, value_name = "N", default_value_t = Limits::default().queue)]
    queue: usize,
    /// Open connections; further ones are refused with 503
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections)]
    max_connections: usize,
    /// Size of a body
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "16MiB")]
    max_body: u64,
    /// Neighbours a query
    #[arg(long, value_name = "K", default_value_t = Limits::default().k)]
    max_k: usize,
    /// Size of search_list, nprobe and rerank
    #[arg(long, value_name = "L", default_value_t = Limits::default().list)]
    max_list: usize,
    /// Queries a request
    #[arg(long, value_name = "N", default_value_t = Limits::default().queries)]
    max_queries: usize,
    /// Neighbours a request, over all its queries
    #[arg(long, value_name = "N", default_value_t = Limits::default().answers)]
    max_answers: usize,
    /// A request that is not answered so long after it came is answered 504
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "10s")]
    timeout: Duration,
    /// A body that is not there so long after its head is answered 408
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "10s")]
    read_timeout: Duration,
    /// A client that takes nothing of its answer for so long is cut off
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "10s")]
    write_timeout: Duration,
    /// A connection on which no whole head of a request came for so long is closed
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "60s")]
    idle_timeout: Duration,
    /// After a signal to end, new connections are taken for so long
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "1s")]
    drain_grace: Duration,
    /// What is open so long after that is cut, and the exit code is 1
    #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "30s")]
    drain_timeout: Duration,
    /// Log every request, not only those that failed by the server's fault
    #[arg(long)]
    log_requests: bool,
    /// The form of the log on standard error
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl Args {
    /// The form of the log, which begins before anything else.
    pub fn log_format(&self) -> LogFormat {
        self.log_format
    }
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let (threads, http_threads) = (args.threads.unwrap_or(cpus), args.http_threads.unwrap_or(cpus.div_ceil(4)));
    let sizes = [
        ("--threads", threads),
        ("--http-threads", http_threads),
        ("--batch", args.batch),
        ("--queue", args.queue),
        ("--max-connections", args.max_connections),
        ("--max-k", args.max_k),
        ("--max-list", args.max_list),
        ("--max-queries", args.max_queries),
        ("--max-answers", args.max_answers),
    ];
    if let Some((flag, _)) = sizes.iter().find(|(_, size)| *size == 0) {
        return Err(UsageError(format!("{flag} 0: use 1 or more")).into());
    }
    let token = token(&args).map_err(|error| UsageError(error.to_string()))?;
    let find_tuned: FindTuned = Box::new(|index, residency| match all_tuned(index, residency.name()) {
        Ok(tuned) => tuned.iter().map(|t| TunedSetting { k: t.k, recall: t.recall, effort: t.effort }).collect(),
        Err(error) => {
            tracing::warn!("requests cannot ask for a recall: {error}");
            Vec::new()
        }
    });
    let limits = Limits {
        body_bytes: usize::try_from(args.max_body).unwrap_or(usize::MAX),
        k: args.max_k,
        list: args.max_list,
        queries: args.max_queries,
        answers: args.max_answers,
        queue: args.queue,
        connections: args.max_connections,
        timeout: args.timeout,
        read_timeout: args.read_timeout,
        write_timeout: args.write_timeout,
        idle_timeout: args.idle_timeout,
    };
    let params = ServeParams {
        index: args.index.clone(),
        open: args.residency.open_params(&args.index)?,
        verify: args.verify,
        find_tuned,
        listen: args.listen,
        token,
        allow_unauthenticated: args.allow_unauthenticated,
        threads,
        http_threads,
        batch: args.batch,
        limits,
        drain_grace: args.drain_grace,
        drain_timeout: args.drain_timeout,
        log_requests: args.log_requests,
    };
    let served = serve(params, |address| {
        tracing::info!(%address, index = %args.index.display(), "serving");
        // Whoever started the server may have closed its standard output: that is no reason not to serve.
        let _ = print(&format!("listening on http://{address}"));
    });
    served.map_err(|error| match error {
        ServeError::Exposed { .. } | ServeError::Token { .. } => UsageError(error.to_string()).into(),
        error => error.into(),
    })
}

/// The token of `--token-file`, else of `KILN_TOKEN`.
fn token(args: &Args) -> Result<Option<Token>, ServeError> {
    match (&args.token_file, std::env::var("KILN_TOKEN")) {
        (Some(path), _) => Token::from_file(path).map(Some),
        (None, Ok(text)) => Token::new(&text, "KILN_TOKEN").map(Some),
        (None, Err(std::env::VarError::NotPresent)) => Ok(None),
        (None, Err(error)) => Err(ServeError::Token { whence: "KILN_TOKEN".into(), problem: error.to_string() }),
    }
}
