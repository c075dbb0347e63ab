//! Errors as `application/problem+json` (RFC 9457). The detail says what is wrong and what to do about it.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::broker::{Broker, BrokerError};
use crate::config::nearest;

/// The media type of every error.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    status: StatusCode,
    /// The last part of its `type`: what programs tell errors apart by.
    name: &'static str,
    title: &'static str,
    detail: String,
    more: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// An error of any kind. `detail` is a sentence or two for people.
    pub fn new(status: StatusCode, name: &'static str, title: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, name, title, detail: detail.into(), more: Map::new(), headers: Vec::new() }
    }

    /// 400: something in the request is not what it should be.
    pub fn malformed(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "malformed-request", "Malformed request", detail)
    }

    /// 404: no such route.
    pub fn no_such_route(path: &str) -> Problem {
        let path: String = path.chars().take(200).collect();
        let detail = format!("there is nothing at {path}; queues are under /queues, consumers under /consumers");
        Problem::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// 405: the route exists for other methods, which the `Allow` header names.
    pub fn method_not_allowed(method: &str, path: &str) -> Problem {
        let (method, path): (String, String) = (method.chars().take(20).collect(), path.chars().take(200).collect());
        let detail = format!("{path} does not take {method}; the Allow header names the methods that it takes");
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
    }

    /// 413: a body is over its limit.
    pub fn too_large(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail)
    }

    /// 429: the client has too much under way.
    pub fn throttled(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "throttled", "Too much under way", detail)
            .header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// 501: a part of the API that does not exist yet. Ignoring it would promise what is not kept.
    pub fn not_supported_yet(what: &str) -> Problem {
        let detail = format!("{what} is not supported yet; leave it out, or wait for a version that has it");
        Problem::new(StatusCode::NOT_IMPLEMENTED, "not-supported", "Not supported yet", detail)
    }

    /// The engine's refusal.
    pub fn broker(error: &BrokerError) -> Problem {
        let detail = error.to_string();
        match error {
            BrokerError::NoSuchQueue(queue) => Problem::new(
                StatusCode::NOT_FOUND,
                "no-such-queue",
                "No such queue",
                format!("{detail}; declare [queues.{}] in queue.toml", toml_key(queue.as_str())),
            )
            .with("queue", queue.as_str()),
            BrokerError::QueueFull { queue, bytes_max } => Problem::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "queue-full",
                "The queue is full",
                format!("{detail}; send again once its consumer has caught up, or raise its max_bytes"),
            )
            .with("queue", queue.as_str())
            .with("bytes_max", *bytes_max),
            BrokerError::StoreFull(_) => Problem::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "store-full",
                "The store is full",
                format!("{detail}; nothing was stored, send again later"),
            ),
            BrokerError::TooLarge { .. } => {
                Problem::too_large(format!("{detail}; send less in one message, or raise log_max_bytes in [runtime]"))
            }
            BrokerError::StateKey(_) => Problem::new(StatusCode::BAD_REQUEST, "state-key", "No key of state", detail),
            BrokerError::StateFull { .. } => {
                Problem::new(StatusCode::INSUFFICIENT_STORAGE, "state-full", "The state is full", detail)
            }
            BrokerError::StateChanged { .. } => {
                Problem::new(StatusCode::CONFLICT, "state-changed", "The state has changed", detail)
            }
            BrokerError::LeaseLost => Problem::new(StatusCode::CONFLICT, "lease-lost", "The lease is lost", detail),
            BrokerError::Stopped(_) => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopped",
                "The engine has stopped",
                format!("{detail}; its log says why, and it must be started again"),
            ),
            BrokerError::Read(_) => Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "read-failed",
                "Reading failed",
                format!("reading the store failed: {detail}"),
            ),
        }
    }

    /// As [`Problem::broker`]; of a queue that does not exist it says whether it once did, or which one was probably meant.
    pub async fn of(error: BrokerError, broker: &dyn Broker) -> Problem {
        let mut problem = Problem::broker(&error);
        let BrokerError::NoSuchQueue(wanted) = &error else { return problem };
        if broker.queue(wanted).await.is_ok() {
            problem.detail = format!(
                "queue {wanted} is not declared in queue.toml any more; what is in it is kept: declare [queues.{}] again, or \
                 delete it with `linecook purge {wanted} --delete`",
                toml_key(wanted.as_str())
            );
            return problem;
        }
        if let Ok(queues) = broker.queues().await
            && let Some(meant) = nearest(wanted.as_str(), queues.iter().map(|queue| queue.name.as_str()))
        {
            problem.detail = format!("{error}; did you mean {meant}?");
            return problem.with("did_you_mean", meant);
        }
        problem
    }

    /// Adds a member for programs.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Problem {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.headers.push((name, value));
        self
    }

    /// 503: there is no room for this now, and soon there will be.
    pub fn busy(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Too much at once", detail)
            .header(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// Its status and its detail, for answers about many things at once.
    pub fn summary(&self) -> (u16, &str) {
        (self.status.as_u16(), &self.detail)
    }

    /// Puts a place before the detail.
    pub fn at(mut self, place: &str) -> Problem {
        self.detail = format!("{place}: {}", self.detail);
        self
    }
}

/// A queue name as a key of a TOML table header: one with a dot needs quotes.
fn toml_key(name: &str) -> String {
    if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": format!("urn:linecook:problem:{}", self.name),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Value::Object(members) = &mut body {
            members.extend(self.more);
        }
        let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))];
        let mut response = (self.status, content_type, body.to_string()).into_response();
        response.headers_mut().extend(self.headers);
        response
    }
}
