//! Connections: accepted as far as the server can hold them, driven, and closed when the server ends.
//!
//! In: a listener and the routes. Out: nothing; returns when the last connection is closed, or was cut.
//!
//! One more connection than allowed is answered 503 at once and closed. A connection that has not sent the whole head of a
//! request after the idle timeout, slow or silent, is closed; one that does not take its answer is closed after
//! the write timeout. On SIGTERM or SIGINT the server says on `/readyz` and with `Connection: close` in every answer that it is
//! about to end, for the grace time still takes what comes, then closes its door, answers what was accepted and ends. A second
//! signal ends it at once.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::error::{ApiError, Kind, ServeError};
use super::routes::App;

/// Bytes of a request's head at most.
const HEAD: usize = 16 << 10;

/// Wait after a failure to accept that lies with this system: it has no file descriptors or memory left.
const BREATH: Duration = Duration::from_millis(50);

/// Refused connections that are still being told so.
const REFUSALS: usize = 256;

/// How the server ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drain {
    /// New connections are taken for so long after the signal.
    pub grace: Duration,
    /// What is open so long after that is cut.
    pub timeout: Duration,
}

/// The signals that end a server.
pub(crate) struct EndSignals(Signal, Signal);

impl EndSignals {
    /// Listens for SIGTERM and SIGINT.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    }

    async fn next(&mut self) {
        tokio::select! { _ = self.0.recv() => {}, _ = self.1.recv() => {} }
    }
}

/// The door: what comes in gets a task of its own.
struct Door {
    listener: TcpListener,
    app: Arc<App>,
    router: Router,
    http: http1::Builder,
    open: GracefulShutdown,
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

/// Serves until a signal ends it.
pub(crate) async fn run(
    listener: TcpListener,
    app: Arc<App>,
    router: Router,
    drain: Drain,
    mut signals: EndSignals,
) -> Result<(), ServeError> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(app.limits.idle_timeout).max_header_size(HEAD);
    let (places, refusals) = (Semaphore::new(app.limits.connections), Semaphore::new(REFUSALS));
    let (places, refusals) = (Arc::new(places), Arc::new(refusals));
    let door = Door { listener, app: Arc::clone(&app), router, http, open: GracefulShutdown::new(), places, refusals };
    tokio::select! { () = door.serve() => {}, () = signals.next() => {} }

    app.draining.store(true, Ordering::Relaxed);
    let cut = || ServeError::Cut { connections: app.metrics.connections.get().max(0) as usize };
    tracing::info!(
        connections = door.open.count(),
        "draining: what comes in the next {:?} is still taken",
        drain.grace
    );
    tokio::select! {
        () = door.serve() => {}
        () = tokio::time::sleep(drain.grace) => {}
        () = signals.next() => return Err(cut()),
    }
    let open = door.close().await;
    tokio::select! {
        () = open.shutdown() => Ok(()),
        () = tokio::time::sleep(drain.timeout) => Err(cut()),
        () = signals.next() => Err(cut()),
    }
}

impl Door {
    /// Lets in whoever comes. Ends only when dropped.
    async fn serve(&self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => self.admit(stream),
                // The client went away before it was let in.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    /// Lets in whoever stands there already, and nobody after that.
    async fn close(self) -> GracefulShutdown {
        loop {
            tokio::select! {
                biased;
                Ok((stream, _)) = self.listener.accept() => self.admit(stream),
                () = std::future::ready(()) => break,
            }
        }
        drop(self.listener);
        // Requests on connections just accepted are read before silent ones are closed.
        tokio::time::sleep(BREATH).await;
        self.open
    }

    fn admit(&self, stream: TcpStream) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.app.metrics.error(Kind::TooManyConnections);
            if let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() {
                tokio::spawn(refuse(stream, self.app.limits.connections, permit));
            }
            return;
        };
        // Answers are small and whole: to wait for more to send with them gains nothing.
        let _ = stream.set_nodelay(true);
        let place = Place::new(&self.app, place);
        let stream = TokioIo::new(Patient::new(stream, self.app.limits.write_timeout));
        let service = TowerToHyperService::new(self.router.clone());
        let connection = self.open.watch(self.http.serve_connection(stream, service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended: {error}");
            }
            drop(place);
        });
    }
}

/// One of the connections that there may be; counted while it lasts.
struct Place {
    app: Arc<App>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn new(app: &Arc<App>, permit: OwnedSemaphorePermit) -> Self {
        app.metrics.connections.inc();
        Self { app: Arc::clone(app), _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.app.metrics.connections.dec();
    }
}

/// Tells a client that there is no place, without reading what it wants.
async fn refuse(stream: TcpStream, connections: usize, _permit: OwnedSemaphorePermit) {
    let kind = Kind::TooManyConnections;
    let body = ApiError::new(kind, format!("{connections} connections are open already: try again later")).body("none");
    let answer = format!(
        "HTTP/1.1 {}\r\ncontent-type: application/json\r\nretry-after: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        kind.status(),
        kind.retry_after().unwrap_or(1),
        body.len()
    );
    let mut unread = [0u8; 4096];
    let tell = async {
        // A new connection has room for all of it.
        if stream.writable().await.is_err() || stream.try_write(answer.as_bytes()).is_err() {
            return;
        }
        // To close with a request unread would reset the connection, and the answer might not be seen.
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut unread) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                _ => {}
            }
        }
    };
    let _ = tokio::time::timeout(BREATH, tell).await;
}

/// A stream whose writes must get on: the error is told to whoever writes.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Set while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, patience, stalled: None }
    }

    fn watched<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.patience)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no answer"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.watched(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
