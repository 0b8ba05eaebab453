//! What stops a server, and what is answered to a request that cannot be.
//!
//! Out: for a request, a status and one JSON body, `{"error": {"kind", "message", "request_id"}}`. Clients decide by `kind`;
//! the message is for people and says what to do next. Kinds are part of the interface and never renamed.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::error::BuilderError;

/// A server that cannot start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The index cannot be opened.
    #[error(transparent)]
    Index(#[from] BuilderError),
    /// The index file became another while it was being opened.
    #[error("{path}: the file was replaced while it was being opened; try again when it is complete", path = path.display())]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// Whoever reaches this address could search.
    #[error(
        "--listen {address} can be reached from other machines, and no token is asked for: give one with --token-file or \
         KILN_TOKEN, listen on 127.0.0.1, or say --allow-unauthenticated"
    )]
    Exposed {
        /// The address.
        address: SocketAddr,
    },
    /// Not an address of this machine, or one that is taken.
    #[error(
        "--listen {address}: cannot listen: {source}; use HOST:PORT of this machine that is free, or port 0 for any"
    )]
    Listen {
        /// As given.
        address: String,
        /// The system's own words.
        source: io::Error,
    },
    /// A token that cannot be used.
    #[error("{whence}: {problem}; put one line of 1 to 4096 visible ASCII characters there")]
    Token {
        /// The file or variable.
        whence: String,
        /// What is wrong.
        problem: String,
    },
    /// The system gave no threads, or no signals.
    #[error("cannot start serving: {0}")]
    System(#[from] io::Error),
    /// The drain took too long.
    #[error(
        "not every client was done after --drain-timeout, or a second signal came: open connections that were cut: {connections}"
    )]
    Cut {
        /// How many.
        connections: usize,
    },
}

/// Why a request is not answered with what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// The body or the query string cannot be understood.
    Malformed,
    /// A parameter that does not exist for this index, contradicts another or is out of range.
    Parameter,
    /// More than this server allows in one request.
    Limit,
    /// Queries of another dimension than the index's.
    Dimension,
    /// A coordinate that is no finite number.
    NotFinite,
    /// A recall for which the index was not tuned.
    NotTuned,
    /// No token, or a wrong one.
    Unauthorized,
    /// No such path.
    NotFound,
    /// A path that has other methods.
    MethodNotAllowed,
    /// An answer in none of the forms that this server gives.
    NotAcceptable,
    /// The body did not come in time.
    SlowBody,
    /// Another swap is under way.
    SwapBusy,
    /// The body is larger than allowed.
    TooLarge,
    /// A body of another type than those understood.
    UnsupportedMediaType,
    /// A page of the index does not match its checksum.
    IndexDamaged,
    /// A page of the index cannot be read.
    IndexUnreadable,
    /// The new index cannot be served; the old one goes on.
    SwapFailed,
    /// A fault of the server.
    Internal,
    /// Too many requests wait, or too much memory is held by bodies.
    Overloaded,
    /// Too many connections are open.
    TooManyConnections,
    /// The server is about to end.
    Draining,
    /// The request waited too long.
    Timeout,
}

impl Kind {
    /// Every kind, as the OpenAPI description lists them.
    #[cfg(test)]
    pub(crate) const ALL: [Kind; 22] = [
        Kind::Malformed,
        Kind::Parameter,
        Kind::Limit,
        Kind::Dimension,
        Kind::NotFinite,
        Kind::NotTuned,
        Kind::Unauthorized,
        Kind::NotFound,
        Kind::MethodNotAllowed,
        Kind::NotAcceptable,
        Kind::SlowBody,
        Kind::SwapBusy,
        Kind::TooLarge,
        Kind::UnsupportedMediaType,
        Kind::IndexDamaged,
        Kind::IndexUnreadable,
        Kind::SwapFailed,
        Kind::Internal,
        Kind::Overloaded,
        Kind::TooManyConnections,
        Kind::Draining,
        Kind::Timeout,
    ];

    /// The word for it in bodies and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Malformed => "malformed",
            Kind::Parameter => "parameter",
            Kind::Limit => "limit",
            Kind::Dimension => "dimension",
            Kind::NotFinite => "not-finite",
            Kind::NotTuned => "not-tuned",
            Kind::Unauthorized => "unauthorized",
            Kind::NotFound => "not-found",
            Kind::MethodNotAllowed => "method-not-allowed",
            Kind::NotAcceptable => "not-acceptable",
            Kind::SlowBody => "slow-body",
            Kind::SwapBusy => "swap-busy",
            Kind::TooLarge => "too-large",
            Kind::UnsupportedMediaType => "unsupported-media-type",
            Kind::IndexDamaged => "index-damaged",
            Kind::IndexUnreadable => "index-unreadable",
            Kind::SwapFailed => "swap-failed",
            Kind::Internal => "internal",
            Kind::Overloaded => "overloaded",
            Kind::TooManyConnections => "too-many-connections",
            Kind::Draining => "draining",
            Kind::Timeout => "timeout",
        }
    }

    /// The status that goes with it.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Kind::Malformed | Kind::Parameter | Kind::Limit | Kind::Dimension | Kind::NotFinite | Kind::NotTuned => {
                StatusCode::BAD_REQUEST
            }
            Kind::Unauthorized => StatusCode::UNAUTHORIZED,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Kind::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Kind::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Kind::SwapBusy => StatusCode::CONFLICT,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Kind::IndexDamaged | Kind::IndexUnreadable | Kind::SwapFailed | Kind::Internal => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Kind::Overloaded | Kind::TooManyConnections | Kind::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Seconds after which to try again, where that may help.
    pub(crate) const fn retry_after(self) -> Option<u32> {
        match self {
            Kind::Overloaded | Kind::TooManyConnections | Kind::SwapBusy => Some(1),
            _ => None,
        }
    }
}

/// An error on its way to a client. As a response it is empty until [`body`](Self::body) is put in, with the request's id,
/// at the one place that every answer passes.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub kind: Kind,
    pub message: String,
}

impl ApiError {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What a search that failed is answered with.
    pub(crate) fn of_search(error: &BuilderError) -> Self {
        let kind = match error {
            BuilderError::Damaged { .. } | BuilderError::Version { .. } => Kind::IndexDamaged,
            BuilderError::Io { .. } => Kind::IndexUnreadable,
            BuilderError::Parameter { .. } | BuilderError::Mismatch(_) => Kind::Parameter,
            _ => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }

    /// The JSON body.
    pub(crate) fn body(&self, request_id: &str) -> String {
        let error = serde_json::json!({ "kind": self.kind.name(), "message": self.message, "request_id": request_id });
        serde_json::json!({ "error": error }).to_string()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_lists_every_kind_of_error_and_no_other() {
        let described: serde_json::Value = serde_json::from_str(super::super::openapi::WRITTEN).expect("JSON");
        let listed = described.pointer("/components/schemas/Error/properties/error/properties/kind/enum");
        let listed: Vec<&str> =
            listed.and_then(|l| l.as_array()).expect("a list").iter().filter_map(|v| v.as_str()).collect();
        assert_eq!(listed, Kind::ALL.map(Kind::name));
    }
}
