//! Why there is no response.

use std::error::Error;
use std::fmt;
use std::time::Duration;

/// Why a request has no response, or none that can be used. The text says what to do.
///
/// By `?`, each is a retry. `request` is the method and the URL without its query, which may hold a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpError {
    /// The consumer's grants do not name the server, or name it only by a `*` while it has a private address.
    NotGranted {
        /// The request.
        request: String,
        /// What `grants.http` would have to name, such as `https://api.example`.
        grant: String,
    },
    /// A URL, method, header or body that cannot be.
    Invalid {
        /// The request.
        request: String,
        /// What is wrong with it.
        detail: String,
    },
    /// It took longer than [`Request::timeout`](super::Request::timeout) allows, or than the server's side lets it.
    Timeout {
        /// The request.
        request: String,
        /// The time that the request allowed, if that was over.
        after: Option<Duration>,
    },
    /// The response's body is larger than [`Request::response_bytes_max`](super::Request::response_bytes_max).
    TooLarge {
        /// The request.
        request: String,
        /// The limit.
        bytes_max: usize,
    },
    /// There is no connection, or it broke: the name does not resolve, nobody listens, the certificate is not trusted.
    Failed {
        /// The request.
        request: String,
        /// What happened.
        detail: String,
    },
    /// The status is 400 or more: see [`Response::error_for_status`](super::Response::error_for_status).
    Status {
        /// The request.
        request: String,
        /// The status.
        status: u16,
        /// The beginning of the response's body, as one line of text.
        body: String,
    },
    /// The response's body is not what it was read as.
    Unreadable {
        /// The request.
        request: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpError::NotGranted { request, grant } => write!(
                f,
                "can't {request}: it is not granted; add {grant:?} to `http` in the consumer's grants in queue.toml"
            ),
            HttpError::Invalid { request, detail } | HttpError::Failed { request, detail } => {
                write!(f, "can't {request}: {detail}")
            }
            HttpError::Timeout { request, after: Some(after) } => {
                write!(f, "{request} timed out: there was no whole response after {after:?}")
            }
            HttpError::Timeout { request, after: None } => write!(f, "{request} timed out"),
            HttpError::TooLarge { request, bytes_max } => {
                write!(f, "the response to {request} has more than {bytes_max} bytes; `response_bytes_max` allows more")
            }
            HttpError::Status { request, status, body } if body.is_empty() => {
                write!(f, "{request} was answered with {status}")
            }
            HttpError::Status { request, status, body } => write!(f, "{request} was answered with {status}: {body}"),
            HttpError::Unreadable { request, detail } => write!(f, "can't read the response to {request}: {detail}"),
        }
    }
}

impl Error for HttpError {}
