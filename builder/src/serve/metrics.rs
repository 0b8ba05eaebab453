//! What a server counts, and how Prometheus reads it.
//!
//! Counters only grow, also across swaps. What is true now and kept elsewhere (queue depth, reads in flight) is set when
//! metrics are asked for.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::error::Kind;
use crate::error::BuilderError;
use crate::search_types::QueryStats;

/// The form of [`Metrics::encode`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Seconds = Counter<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRoute {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
}

/// All counts of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    durations: Family<OfRoute, Histogram>,
    requests: Family<Answered, Counter>,
    errors: Family<OfKind, Counter>,
    swaps: Family<Ended, Counter>,
    queue_wait: Histogram,
    search: Histogram,
    batches: Histogram,
    queries: Counter,
    pages: Counter,
    bytes: Counter,
    cache_hits: Counter,
    io_wait: Seconds,
    crc_failures: Counter,
    read_failures: Counter,
    /// Requests answered, on all routes.
    pub answers: AtomicU64,
    /// Requests that are being answered.
    pub in_flight: Gauge,
    /// Requests whose client went away before the answer was ready.
    pub abandoned: Counter,
    /// Connections that are open.
    pub connections: Gauge,
    /// Threads that search now.
    pub searching: Gauge,
    /// Set when asked for.
    pub queued_requests: Gauge,
    /// Set when asked for.
    pub queued_queries: Gauge,
    /// Set when asked for.
    pub reads_in_flight: Gauge,
    /// Of the index that is served: 1 for the first, one more after each swap.
    pub generation: Gauge,
    /// Bytes that the index holds in memory; set when asked for.
    pub index_memory: Gauge,
    /// Search threads that there are.
    pub threads: Gauge,
    /// 1 until the server drains.
    pub ready: Gauge,
}

/// Latencies from 10 us to 84 s, four buckets in each factor of ten.
fn latencies() -> Histogram {
    Histogram::new(exponential_buckets(1e-5, 10f64.powf(0.25), 28))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("kiln");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::<u64>::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let queries = counter("queries", "Queries searched");
        let pages = counter("pages_read", "4 KiB pages that searches read from the drive");
        let cache_hits = counter("page_cache_hits", "Pages that searches found pinned in memory");
        let crc_failures =
            counter("crc_failures", "Queries that met a page which does not match its checksum, or is missing");
        let read_failures = counter("read_failures", "Queries that met a page which the system could not read");
        let abandoned = counter("http_abandoned", "Requests whose client went away before the answer was ready");
        let bytes = Counter::<u64>::default();
        registry.register_with_unit("read", "Bytes that searches read from the drive", Unit::Bytes, bytes.clone());
        let io_wait = Seconds::default();
        let waited = "Time in which queries waited for the drive with nothing to compute";
        registry.register_with_unit("io_wait", waited, Unit::Seconds, io_wait.clone());

        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::<i64>::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let in_flight = gauge("http_in_flight", "Requests that are being answered");
        let connections = gauge("connections", "Connections that are open");
        let threads = gauge("search_threads", "Threads that search");
        let searching = gauge("search_threads_busy", "Threads that search now");
        let queued_requests = gauge("queue_requests", "Requests that wait for a search thread");
        let queued_queries = gauge("queue_queries", "Queries of the requests that wait for a search thread");
        let reads_in_flight = gauge("reads_in_flight", "Reads on their way from the drive, on all rings together");
        let generation = gauge("index_generation", "1 for the index opened first, one more after each swap");
        let ready = gauge("ready", "1 until the server drains");
        let index_memory = Gauge::<i64>::default();
        let held = "Memory that the served index holds";
        registry.register_with_unit("index_memory", held, Unit::Bytes, index_memory.clone());

        let durations = Family::new_with_constructor(latencies as fn() -> Histogram);
        let taken = "From the head of a request to the head of its answer";
        registry.register_with_unit("http_request_duration", taken, Unit::Seconds, durations.clone());
        let requests = Family::default();
        registry.register("http_requests", "Requests answered", requests.clone());
        let errors = Family::default();
        registry.register("errors", "Errors answered, by the kind in their body", errors.clone());
        let swaps = Family::default();
        registry.register("swaps", "Swaps of the index", swaps.clone());
        let (queue_wait, search) = (latencies(), latencies());
        let waited = "Time that a request waited for a search thread";
        registry.register_with_unit("queue_wait", waited, Unit::Seconds, queue_wait.clone());
        let taken = "Time of one call of the index, of one query or several together";
        registry.register_with_unit("search_call", taken, Unit::Seconds, search.clone());
        let batches = Histogram::new(exponential_buckets(1.0, 2.0, 10));
        registry.register("search_call_queries", "Queries answered by one call of the index", batches.clone());
        Self {
            registry,
            durations,
            requests,
            errors,
            swaps,
            queue_wait,
            search,
            batches,
            queries,
            pages,
            bytes,
            cache_hits,
            io_wait,
            crc_failures,
            read_failures,
            answers: AtomicU64::new(0),
            in_flight,
            abandoned,
            connections,
            searching,
            queued_requests,
            queued_queries,
            reads_in_flight,
            generation,
            index_memory,
            threads,
            ready,
        }
    }

    /// A request to `route` was answered.
    pub(crate) fn answered(&self, route: &'static str, method: &'static str, status: u16, took: Duration) {
        self.answers.fetch_add(1, Relaxed);
        self.durations.get_or_create(&OfRoute { route }).observe(took.as_secs_f64());
        self.requests.get_or_create(&Answered { route, method, status }).inc();
    }

    /// An error was answered.
    pub(crate) fn error(&self, kind: Kind) {
        self.errors.get_or_create(&OfKind { kind: kind.name() }).inc();
    }

    /// A swap ended.
    pub(crate) fn swapped(&self, well: bool) {
        self.swaps.get_or_create(&Ended { outcome: if well { "done" } else { "failed" } }).inc();
    }

    /// A request waited so long for a search thread.
    pub(crate) fn waited(&self, wait: Duration) {
        self.queue_wait.observe(wait.as_secs_f64());
    }

    /// A search thread was busy so long with so many queries.
    pub(crate) fn searched(&self, took: Duration, queries: usize) {
        self.search.observe(took.as_secs_f64());
        self.batches.observe(queries as f64);
    }

    /// A query was answered and cost this. Counted before whoever asked has the answer, so that they find it counted.
    pub(crate) fn search_answered(&self, stats: &QueryStats) {
        self.queries.inc();
        if stats.pages > 0 || stats.cache_hits > 0 {
            self.pages.inc_by(stats.pages);
            self.bytes.inc_by(stats.bytes);
            self.cache_hits.inc_by(stats.cache_hits);
            self.io_wait.inc_by(stats.io_wait_ns as f64 * 1e-9);
        }
    }

    /// The search of a query failed; `None` stands for a panic.
    pub(crate) fn search_failed(&self, error: Option<&BuilderError>) {
        self.queries.inc();
        match error {
            Some(BuilderError::Damaged { .. }) => self.crc_failures.inc(),
            Some(BuilderError::Io { .. }) => self.read_failures.inc(),
            _ => 0,
        };
    }

    /// Everything, as Prometheus reads it.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::with_capacity(1 << 14);
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
