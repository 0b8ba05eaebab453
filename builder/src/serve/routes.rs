//! What can be asked of the server, and how.
//!
//! In: requests. Out: answers, every one with a request id, counted, and if it is an error with a typed JSON body: all
//! through [`observe`]. Searches go to the queue; nothing here blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use tower_http::catch_panic::CatchPanicLayer;

use super::Limits;
use super::answer::encode;
use super::auth::Token;
use super::body::{Answer, BodyMemory};
use super::engine::Engine as _;
use super::error::{ApiError, Kind};
use super::metrics::{CONTENT_TYPE, Metrics};
use super::queue::{Failure, Job, Queue};
use super::request::{Asked, Form};
use super::served::Current;

/// Work on bodies from this size on is moved off the threads that drive connections.
const LARGE: usize = 64 << 10;

/// The header that carries a request's id, both ways.
const REQUEST_ID: &str = "x-request-id";

/// Characters of a client's request id at most; a longer one is replaced.
const REQUEST_ID_LENGTH: usize = 128;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const RAW: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// What all requests share.
pub(crate) struct App {
    pub current: Arc<Current>,
    pub queue: Arc<Queue>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub token: Option<Token>,
    pub bodies: BodyMemory,
    pub draining: AtomicBool,
    pub log_requests: bool,
    ids: RequestIds,
}

impl App {
    pub(crate) fn new(
        (current, queue, metrics): (Arc<Current>, Arc<Queue>, Arc<Metrics>),
        limits: Limits,
        token: Option<Token>,
        log_requests: bool,
    ) -> Self {
        let bodies = BodyMemory::new(limits.body_bytes);
        let (draining, ids) = (AtomicBool::new(false), RequestIds::default());
        Self { current, queue, metrics, limits, token, bodies, draining, log_requests, ids }
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// All routes.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let panicked = |_: Box<dyn std::any::Any + Send>| {
        let problem = "a fault of the server: its log has the details under this request id";
        ApiError::new(Kind::Internal, problem).into_response()
    };
    Router::new()
        .route("/v1/search", post(search))
        .route("/v1/index", get(index))
        .route("/v1/index:swap", post(swap))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .fallback(unknown)
        .method_not_allowed_fallback(other_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::clone(app), observe))
        .with_state(Arc::clone(app))
}

/// The names of routes in metrics and logs: only those that exist, whatever clients ask for.
fn route_name(request: &Request) -> &'static str {
    match request.extensions().get::<MatchedPath>().map(MatchedPath::as_str) {
        Some("/v1/search") => "/v1/search",
        Some("/v1/index") => "/v1/index",
        Some("/v1/index:swap") => "/v1/index:swap",
        Some("/healthz") => "/healthz",
        Some("/readyz") => "/readyz",
        Some("/metrics") => "/metrics",
        Some("/openapi.json") => "/openapi.json",
        _ => "other",
    }
}

fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "other",
    }
}

/// Health is for whoever restarts the process, and the description for whoever writes a client: neither needs the token.
fn is_open_to_all(route: &str) -> bool {
    matches!(route, "/healthz" | "/readyz" | "/openapi.json")
}

/// What every request passes on its way in and out.
async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (route, method) = (route_name(&request), method_name(request.method()));
    let id = app.ids.of(request.headers());
    let in_flight = InFlight::new(&app);
    let mut response = match &app.token {
        Some(token) if !is_open_to_all(route) && !token.is_in(request.headers()) => {
            let problem = "send the server's token: Authorization: Bearer TOKEN";
            ApiError::new(Kind::Unauthorized, problem).into_response()
        }
        _ => next.run(request).await,
    };
    in_flight.answered();
    let error = response.extensions_mut().remove::<ApiError>();
    if let Some(error) = &error {
        app.metrics.error(error.kind);
        *response.body_mut() = Body::from(error.body(id.to_str().unwrap_or_default()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, JSON);
        headers.remove(header::CONTENT_LENGTH);
        if let Some(seconds) = error.kind.retry_after() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if error.kind == Kind::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(error.kind, Kind::SlowBody | Kind::TooLarge) {
            // The rest of the body may still come: nothing else can be read here.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    if app.is_draining() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let (status, took) = (response.status().as_u16(), began.elapsed());
    app.metrics.answered(route, method, status, took);
    let us = took.as_micros() as u64;
    let request_id = id.to_str().unwrap_or_default();
    match &error {
        Some(error) if status >= 500 && error.kind != Kind::Overloaded => {
            tracing::warn!(request_id, method, route, status, us, kind = error.kind.name(), "{}", error.message);
        }
        Some(error) if app.log_requests => {
            tracing::info!(request_id, method, route, status, us, kind = error.kind.name(), "{}", error.message);
        }
        None if app.log_requests => tracing::info!(request_id, method, route, status, us, "answered"),
        _ => {}
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Counts a request while it is being answered, and as abandoned if its client goes first.
struct InFlight<'a> {
    app: &'a App,
    answered: bool,
}

impl<'a> InFlight<'a> {
    fn new(app: &'a App) -> Self {
        app.metrics.in_flight.inc();
        Self { app, answered: false }
    }

    fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.app.metrics.in_flight.dec();
        if !self.answered {
            self.app.metrics.abandoned.inc();
        }
    }
}

/// Ids for requests that bring none.
struct RequestIds {
    /// Differs from run to run.
    run: u64,
    next: AtomicU64,
}

impl Default for RequestIds {
    fn default() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self { run: RandomState::new().hash_one(std::process::id()), next: AtomicU64::new(1) }
    }
}

impl RequestIds {
    /// The client's own id where it can be written into a log, else a new one.
    fn of(&self, headers: &HeaderMap) -> HeaderValue {
        let fits = |id: &&HeaderValue| {
            (1..=REQUEST_ID_LENGTH).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        headers.get(REQUEST_ID).filter(fits).cloned().unwrap_or_else(|| {
            let id = format!("{:08x}-{:x}", self.run as u32, self.next.fetch_add(1, Ordering::Relaxed));
            HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
        })
    }
}

async fn search(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let deadline = arrived + app.limits.timeout;
    let (parts, body) = request.into_parts();
    let form = content_type(&parts.headers)?;
    let answer_form = accepted(&parts.headers)?;
    let (body, mut held) =
        app.bodies.read(&parts.headers, body, app.limits.body_bytes, app.limits.read_timeout).await?;
    let overloaded = || {
        let problem = format!("{} requests wait already: try again later", app.limits.queue);
        ApiError::new(Kind::Overloaded, problem)
    };
    if app.queue.is_full() {
        return Err(overloaded());
    }
    let served = app.current.get();
    let asked = {
        let (app, served, large) = (Arc::clone(&app), Arc::clone(&served), body.len() >= LARGE);
        let read = move || Asked::read(form, &body, parts.uri.query(), &served, &app.limits);
        aside(large, read).await??
    };
    let (params, stats, count) = (asked.params, asked.stats, asked.count);
    let (job, outcome) = Job::new(served.engine(), params, asked.queries, count, (arrived, deadline));
    app.queue.push(job).map_err(|_| overloaded())?;
    let late = || {
        let problem =
            format!("not answered within {} s: try again later, or with less", app.limits.timeout.as_secs_f64());
        ApiError::new(Kind::Timeout, problem)
    };
    let hits = match tokio::time::timeout_at(deadline.into(), outcome).await {
        Ok(Ok(Ok(hits))) => hits,
        Ok(Ok(Err(Failure::Search { query, error }))) => {
            let mut error = ApiError::of_search(&error);
            if count > 1 {
                error.message = format!("query {query}: {}", error.message);
            }
            return Err(error);
        }
        Ok(Ok(Err(Failure::Late))) | Err(_) => return Err(late()),
        // The sender is never dropped before it has sent, but for a fault.
        Ok(Ok(Err(Failure::Panicked)) | Err(_)) => {
            return Err(ApiError::new(
                Kind::Internal,
                "the search failed by a fault of the server: its log has the details",
            ));
        }
    };
    let neighbours: usize = hits.iter().map(|hits| hits.ids.len()).sum();
    let body = aside(12 * neighbours >= LARGE, move || encode(answer_form, &hits, params.k, stats)).await?;
    let body = if body.len() >= LARGE {
        drop(std::mem::take(&mut held));
        app.bodies.hold(&mut held, body.len())?;
        Answer::into_bytes(body, held)
    } else {
        Bytes::from(body)
    };
    let form = if answer_form == Form::Raw { RAW } else { JSON };
    Ok(([(header::CONTENT_TYPE, form)], body).into_response())
}

/// Runs `work` here if it is small, else on a thread that may be busy for a while.
async fn aside<T: Send + 'static>(large: bool, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    if !large {
        return Ok(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::new(Kind::Internal, format!("a fault of the server: {error}")))
}

/// The form of a request's body.
fn content_type(headers: &HeaderMap) -> Result<Form, ApiError> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    match essence {
        _ if essence.eq_ignore_ascii_case("application/json") => Ok(Form::Json),
        _ if essence.eq_ignore_ascii_case("application/octet-stream") => Ok(Form::Raw),
        _ => {
            let problem = format!(
                "Content-Type {given:?} is not understood: use application/json, or application/octet-stream for raw \
                 little-endian f32"
            );
            Err(ApiError::new(Kind::UnsupportedMediaType, problem))
        }
    }
}

/// The form of the answer: JSON unless raw is asked for.
fn accepted(headers: &HeaderMap) -> Result<Form, ApiError> {
    let mut given = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if given.peek().is_none() {
        return Ok(Form::Json);
    }
    let mut json = false;
    for choice in given.flat_map(|value| value.split(',')) {
        let essence = choice.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/octet-stream" => return Ok(Form::Raw),
            "application/json" | "application/*" | "*/*" => json = true,
            _ => {}
        }
    }
    if json {
        return Ok(Form::Json);
    }
    let problem = "Accept names none of the answer's forms: application/json and application/octet-stream";
    Err(ApiError::new(Kind::NotAcceptable, problem))
}

async fn index(State(app): State<Arc<App>>) -> Response {
    let served = app.current.get();
    let limits = &app.limits;
    let told = serde_json::json!({
        "index": served.about(),
        "limits": {
            "body_bytes": limits.body_bytes,
            "k": limits.k,
            "list": limits.list,
            "queries": limits.queries,
            "answers": limits.answers,
            "timeout_seconds": limits.timeout.as_secs_f64(),
        },
        "version": env!("CARGO_PKG_VERSION"),
    });
    ([(header::CONTENT_TYPE, JSON)], told.to_string()).into_response()
}

async fn swap(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let (current, metrics) = (Arc::clone(&app.current), Arc::clone(&app.metrics));
    let served = aside(true, move || current.swap(&metrics)).await??;
    let told = serde_json::json!({ "index": served.about() });
    Ok(([(header::CONTENT_TYPE, JSON)], told.to_string()).into_response())
}

async fn healthy() -> Response {
    ([(header::CONTENT_TYPE, JSON)], r#"{"status":"ok"}"#).into_response()
}

async fn ready(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if app.is_draining() {
        return Err(ApiError::new(Kind::Draining, "the server is about to end"));
    }
    Ok(([(header::CONTENT_TYPE, JSON)], r#"{"status":"ready"}"#).into_response())
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let (metrics, served) = (&app.metrics, app.current.get());
    let (requests, queries) = app.queue.depth();
    metrics.queued_requests.set(requests as i64);
    metrics.queued_queries.set(queries as i64);
    metrics.reads_in_flight.set(served.searcher.reads_in_flight() as i64);
    metrics.index_memory.set(served.searcher.serving_bytes() as i64);
    metrics.ready.set(i64::from(!app.is_draining()));
    ([(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))], metrics.encode()).into_response()
}

async fn openapi(State(app): State<Arc<App>>) -> Response {
    let described = super::openapi::describe(&app.current.get(), &app.limits);
    ([(header::CONTENT_TYPE, JSON)], described.to_string()).into_response()
}

async fn unknown(request: Request) -> ApiError {
    let known = "/v1/search, /v1/index, /v1/index:swap, /healthz, /readyz, /metrics and /openapi.json";
    ApiError::new(Kind::NotFound, format!("there is no {}: there are {known}", shown(request.uri().path())))
}

async fn other_method(request: Request) -> ApiError {
    let problem = format!("{} is not for {}", request.method(), shown(request.uri().path()));
    ApiError::new(Kind::MethodNotAllowed, problem)
}

/// A path as far as it is worth repeating.
fn shown(path: &str) -> String {
    path.chars().take(100).collect()
}
