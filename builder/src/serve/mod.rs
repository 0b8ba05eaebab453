//! Serving an index over HTTP: what `kiln serve` runs.
//!
//! In: [`ServeParams`]: an index file or a shard set, an address, limits. Out: answers to requests, until a signal ends it. `openapi.json` says
//! what can be asked.
//!
//! A request passes `connections` (how many, how slow), `routes` (what it wants, who asks), `body` and `request` (what it
//! holds, within limits), `queue` (how many wait), and a search thread of `engine`; `answer` writes what was found. The threads
//! that drive connections never search, and those that search never wait for a client. `served` is the index, and how another takes
//! its place.

mod answer;
mod auth;
mod body;
mod connections;
mod engine;
mod error;
mod metrics;
mod openapi;
mod queue;
mod request;
mod routes;
mod served;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use auth::Token;
pub use error::ServeError;
pub use served::{FindTuned, TunedSetting};

use crate::resources::allow_open_files;
use crate::search_types::OpenParams;
use crate::shards::shard_count;
use connections::{Drain, EndSignals};
use metrics::Metrics;
use queue::Queue;
use routes::App;
use served::{Current, OpenWith};

/// Connections that the system holds until they are accepted.
const BACKLOG: u32 = 4096;

/// File descriptors that are no connections: the index, rings, logs.
const OTHER_FILES: usize = 256;

/// What one request, and all together, may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Neighbours a query.
    pub k: usize,
    /// search_list, nprobe and rerank.
    pub list: usize,
    /// Queries a request.
    pub queries: usize,
    /// Neighbours a request, over all its queries.
    pub answers: usize,
    /// Requests that wait for a search thread.
    pub queue: usize,
    /// Open connections.
    pub connections: usize,
    /// From the head of a request to its answer.
    pub timeout: Duration,
    /// From the head of a request to the end of its body.
    pub read_timeout: Duration,
    /// A client that takes no byte of its answer for so long is cut off.
    pub write_timeout: Duration,
    /// From one answer to the head of the next request.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 16 << 20,
            k: 1000,
            list: 10_000,
            queries: 1000,
            answers: 100_000,
            queue: 256,
            connections: 4096,
            timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// How an index is served.
pub struct ServeParams {
    /// The index file or shard set; a swap opens what is there then.
    pub index: PathBuf,
    /// How it is opened.
    pub open: OpenParams,
    /// Hold every byte of an index against its checksum before it is served.
    pub verify: bool,
    /// Finds the settings that requests may name by their recall.
    pub find_tuned: FindTuned,
    /// `HOST:PORT`; port 0 takes one that is free.
    pub listen: String,
    /// What requests must carry.
    pub token: Option<Token>,
    /// Listen on any address without a token.
    pub allow_unauthenticated: bool,
    /// Threads that search.
    pub threads: usize,
    /// Threads that drive connections.
    pub http_threads: usize,
    /// Queries that a thread answers in one call, at most.
    pub batch: usize,
    /// What requests may take.
    pub limits: Limits,
    /// New connections are taken for so long after a signal to end.
    pub drain_grace: Duration,
    /// What is open so long after that is cut.
    pub drain_timeout: Duration,
    /// Log every request, not only those that failed by the server's fault.
    pub log_requests: bool,
}

/// Serves an index until SIGTERM or SIGINT; SIGHUP swaps it. `listening` is told the address once requests are taken.
///
/// # Errors
/// When it cannot begin, or connections had to be cut at the end.
pub fn serve(params: ServeParams, listening: impl FnOnce(SocketAddr)) -> Result<(), ServeError> {
    let addresses = resolve(&params)?;
    let mut limits = params.limits;
    let others = OTHER_FILES + files_of_shards(&params);
    let files = allow_open_files(limits.connections + others);
    if files < limits.connections + others {
        limits.connections = files.saturating_sub(others).max(1);
        tracing::warn!(
            "the system allows {files} open files: {} connections are taken, not {}; raise it with `ulimit -n`",
            limits.connections,
            params.limits.connections
        );
    }
    let how = OpenWith { params: params.open, verify: params.verify, find_tuned: params.find_tuned };
    let current = Arc::new(Current::open(params.index, how)?);
    let metrics = Arc::new(Metrics::new());
    metrics.generation.set(1);
    metrics.threads.set(params.threads as i64);
    let queue = Arc::new(Queue::new(limits.queue, params.threads, params.batch));
    let searching = engine::start(&queue, &metrics, params.threads)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(params.http_threads)
        .max_blocking_threads(params.threads.max(2))
        .thread_name("http")
        .enable_all()
        .build()?;
    let shared = (Arc::clone(&current), Arc::clone(&queue), Arc::clone(&metrics));
    let app = Arc::new(App::new(shared, limits, params.token, params.log_requests));
    let drain = Drain { grace: params.drain_grace, timeout: params.drain_timeout };
    let outcome = runtime.block_on(async {
        let signals = EndSignals::new()?;
        let hangups = signal(SignalKind::hangup())?;
        let listener = bind(&params.listen, &addresses)?;
        let address = listener.local_addr()?;
        let swaps = tokio::spawn(swap_on_hangup(hangups, current, metrics));
        listening(address);
        let outcome = connections::run(listener, Arc::clone(&app), routes::router(&app), drain, signals).await;
        swaps.abort();
        outcome
    });
    queue.close();
    match &outcome {
        Ok(()) => {
            searching.into_iter().for_each(|thread| drop(thread.join()));
            let answers = app.metrics.answers.load(std::sync::atomic::Ordering::Relaxed);
            tracing::info!(answers, "ended: every request that was accepted is answered");
        }
        // Whatever still runs is cut with the process.
        Err(_) => runtime.shutdown_background(),
    }
    outcome
}

/// File descriptors of a shard set: each shard's file twice, and a ring for each thread that searches it. Twice over, since
/// during a swap two sets are open. What a set grows to after that, it must find in [`OTHER_FILES`].
fn files_of_shards(params: &ServeParams) -> usize {
    let shards = shard_count(&params.index);
    2 * shards * (2 + params.threads)
}

/// The addresses that `--listen` names; refused where strangers could reach them and nothing is asked of them.
fn resolve(params: &ServeParams) -> Result<Vec<SocketAddr>, ServeError> {
    let failed = |source| ServeError::Listen { address: params.listen.clone(), source };
    let addresses: Vec<SocketAddr> = params.listen.to_socket_addrs().map_err(failed)?.collect();
    let guarded = params.token.is_some() || params.allow_unauthenticated;
    match addresses.iter().find(|address| !address.ip().is_loopback()) {
        Some(&address) if !guarded => Err(ServeError::Exposed { address }),
        _ => Ok(addresses),
    }
}

/// Listens on the first of the addresses that can be had.
fn bind(listen: &str, addresses: &[SocketAddr]) -> Result<TcpListener, ServeError> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for &address in addresses {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let listening = socket.and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        });
        match listening {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(ServeError::Listen { address: listen.to_string(), source: failed })
}

/// Swaps the index whenever SIGHUP comes; what goes wrong is logged and counted where it is found.
async fn swap_on_hangup(mut hangups: Signal, current: Arc<Current>, metrics: Arc<Metrics>) {
    while hangups.recv().await.is_some() {
        let (current, metrics) = (Arc::clone(&current), Arc::clone(&metrics));
        let _ = tokio::task::spawn_blocking(move || current.swap(&metrics).map(drop)).await;
    }
}
