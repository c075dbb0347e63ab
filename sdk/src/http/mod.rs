//! Calling servers over HTTP and HTTPS: a thin client over the standard interface `wasi:http`.
//!
//! The server must be among the consumer's `grants.http` in `queue.toml`; the runtime checks each request before it looks up
//! or connects to anything, and verifies the certificates.
//!
//! ```toml
//! [consumers.billing.grants]
//! http = ["https://api.example"]
//! ```
//!
//! ```
//! use linecook_sdk::{Failure, Message, Outcome, http, testing};
//! use serde_json::{Value, json};
//! use std::time::Duration;
//!
//! fn charge(message: Message) -> Outcome {
//!     let order: Value = message.json()?;
//!     let response = http::post("https://api.example/charges")
//!         // The same in each attempt, so that the server charges once.
//!         .header("Idempotency-Key", &message.id)
//!         .json(&json!({ "amount": order["amount"] }))
//!         .timeout(Duration::from_secs(5))
//!         .send()?;
//!     if response.status == 422 {
//!         return Err(Failure::dead_letter(response.text()?)); // it will say so each time
//!     }
//!     let charge: Value = response.error_for_status()?.json()?; // any other error is a retry
//!     println!("charged as {}", charge["id"]);
//!     Ok(())
//! }
//!
//! let web = testing::web().on("POST", "https://api.example/charges", testing::answer(201).json(&json!({ "id": 7 })));
//! let run = testing::http(&web).run(charge, testing::json(&json!({ "amount": 1000 })));
//! assert_eq!(run.outcome, Ok(()));
//! assert_eq!(web.requests()[0].json::<Value>(), json!({ "amount": 1000 }));
//! ```
//!
//! A call to the outside is not part of the commit: it can happen more than once for a message, if the handler fails after it.
//! So pass [`Message::id`](crate::Message::id) along as the idempotency key, as above.
//!
//! A response is read whole, up to [`Request::response_bytes_max`]. A redirect is an answer like any other: the address is in its
//! header `location`, and calling that is a request of its own, under the same grants.

mod error;
mod response;

use std::time::Duration;

use ::http::uri::Scheme;
use ::http::{HeaderName, HeaderValue, Method, Uri};
use serde::Serialize;

#[cfg(target_family = "wasm")]
use crate::__rt::http as backend;
#[cfg(not(target_family = "wasm"))]
use crate::testing::web as backend;

pub use error::HttpError;
pub use response::Response;

/// The most that is read of a response's body, if the request does not say otherwise: 4 MiB.
pub const RESPONSE_BYTES_MAX: usize = 4 << 20;

/// Starts a `GET`.
///
/// ```
/// use linecook_sdk::{Message, Outcome, http, testing};
///
/// fn look(_message: Message) -> Outcome {
///     println!("{}", http::get("https://api.example/motd").send()?.text()?);
///     Ok(())
/// }
///
/// let web = testing::web().on("GET", "https://api.example/motd", testing::answer(200).body("hello"));
/// assert_eq!(testing::http(&web).run(look, testing::message("")).outcome, Ok(()));
/// ```
pub fn get(url: impl Into<String>) -> Request {
    request("GET", url)
}

/// Starts a `POST`.
///
/// ```
/// use linecook_sdk::{Message, Outcome, http};
///
/// fn forward(message: Message) -> Outcome {
///     http::post("https://api.example/inbox").body(message.body).send()?.error_for_status()?;
///     Ok(())
/// }
/// ```
pub fn post(url: impl Into<String>) -> Request {
    request("POST", url)
}

/// Starts a `PUT`.
///
/// ```
/// use linecook_sdk::{Message, Outcome, http};
///
/// fn store(message: Message) -> Outcome {
///     http::put(format!("https://files.example/{}", message.id)).body(message.body).send()?.error_for_status()?;
///     Ok(())
/// }
/// ```
pub fn put(url: impl Into<String>) -> Request {
    request("PUT", url)
}

/// Starts a `DELETE`.
///
/// ```
/// use linecook_sdk::{Message, Outcome, http};
///
/// fn remove(message: Message) -> Outcome {
///     http::delete(format!("https://files.example/{}", message.text()?)).send()?.error_for_status()?;
///     Ok(())
/// }
/// ```
pub fn delete(url: impl Into<String>) -> Request {
    request("DELETE", url)
}

/// Starts a request with any method. A URL is absolute: `https://host[:port][/path][?query]`.
///
/// ```
/// use linecook_sdk::{Message, Outcome, http};
///
/// fn touch(_message: Message) -> Outcome {
///     http::request("PATCH", "https://api.example/last-seen").send()?.error_for_status()?;
///     Ok(())
/// }
/// ```
pub fn request(method: &str, url: impl Into<String>) -> Request {
    let mut request = Request {
        method: method.to_owned(),
        url: url.into(),
        headers: Vec::new(),
        body: Vec::new(),
        timeout: None,
        response_bytes_max: RESPONSE_BYTES_MAX,
        mistake: None,
    };
    if let Err(error) = Method::from_bytes(method.as_bytes()) {
        request.mistake(format_args!("{method:?} is no method: {error}"));
    }
    request
}

/// A request that is being put together; [`Request::send`] sends it.
#[derive(Debug, Clone)]
#[must_use = "nothing is sent before `.send()`"]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
    response_bytes_max: usize,
    /// The first thing that was wrong with an argument; `send` tells it, so that the calls before it chain.
    mistake: Option<String>,
}

impl Request {
    /// Adds a header. The host sets `host`, `connection` and the headers that say how the body is transferred.
    ///
    /// ```
    /// # use linecook_sdk::http;
    /// let request = http::get("https://api.example/").header("accept", "application/json");
    /// ```
    pub fn header(mut self, name: &str, value: impl AsRef<str>) -> Request {
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value.as_ref())) {
            (Ok(name), Ok(value)) => self.headers.push((name, value)),
            (Err(error), _) => self.mistake(format_args!("{name:?} is no header: {error}")),
            // Without the value: it may be a secret.
            (_, Err(error)) => self.mistake(format_args!("the value of the header {name:?}: {error}")),
        }
        self
    }

    /// The body, as it is. Its media type is for [`Request::header`] to say.
    ///
    /// ```
    /// # use linecook_sdk::http;
    /// let request = http::post("https://api.example/").header("content-type", "text/csv").body("a,b\n1,2\n");
    /// ```
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self
    }

    /// A value as JSON for a body, with the content type `application/json` unless the request has one. A value that can't be
    /// written as JSON fails in [`Request::send`].
    ///
    /// ```
    /// # use linecook_sdk::http;
    /// let request = http::post("https://api.example/").json(&serde_json::json!({ "amount": 1000 }));
    /// ```
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Request {
        match serde_json::to_vec(value) {
            Ok(body) => self.body = body,
            Err(error) => self.mistake(format_args!("can't write the value as JSON: {error}")),
        }
        if !self.headers.iter().any(|(name, _)| *name == ::http::header::CONTENT_TYPE) {
            self.headers.push((::http::header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        }
        self
    }

    /// How long the whole of it may take, from looking up the host to the last byte of the body. Without it, the `timeout` of
    /// the delivery ends it, and the handler with it.
    ///
    /// ```
    /// # use linecook_sdk::http;
    /// let request = http::get("https://api.example/").timeout(std::time::Duration::from_secs(5));
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Request {
        self.timeout = Some(timeout);
        self
    }

    /// The most that the response's body may have, in bytes. By default it is [`RESPONSE_BYTES_MAX`]. What is longer is an error,
    /// [`HttpError::TooLarge`]: a body that was cut off is no body.
    ///
    /// ```
    /// # use linecook_sdk::http;
    /// let request = http::get("https://api.example/").response_bytes_max(64 << 10);
    /// ```
    pub fn response_bytes_max(mut self, bytes: usize) -> Request {
        self.response_bytes_max = bytes;
        self
    }

    /// Sends it and reads the response. A status of 400 or more is an answer, too: see [`Response::error_for_status`].
    ///
    /// # Errors
    ///
    /// See [`HttpError`]. By `?`, each is a retry.
    ///
    /// # Panics
    ///
    /// In native tests, if no answer is scripted for it: see [`testing::web`](crate::testing::web()).
    pub fn send(self) -> Result<Response, HttpError> {
        let call = self.check()?;
        let (label, bytes_max) = (call.label.clone(), call.response_bytes_max);
        let response = backend::exchange(call)?;
        // The host's side stops reading there already; a fake one does not.
        if response.body.len() > bytes_max {
            return Err(HttpError::TooLarge { request: label, bytes_max });
        }
        Ok(response)
    }

    fn mistake(&mut self, what: impl std::fmt::Display) {
        self.mistake.get_or_insert_with(|| what.to_string());
    }

    fn check(self) -> Result<Call, HttpError> {
        let parts = self.url.parse::<Uri>().map_err(|error| error.to_string()).and_then(|uri| Target::of(&uri));
        let shown = match &parts {
            Ok(target) => target.to_string(),
            Err(_) => self.url.split(['?', '#']).next().unwrap_or_default().to_owned(),
        };
        let label = format!("{} {shown}", self.method);
        let target = match (self.mistake, parts) {
            (Some(detail), _) | (None, Err(detail)) => return Err(HttpError::Invalid { request: label, detail }),
            (None, Ok(target)) => target,
        };
        Ok(Call {
            label,
            method: self.method,
            #[cfg(not(target_family = "wasm"))]
            url: self.url,
            target,
            headers: self.headers,
            body: self.body,
            timeout: self.timeout,
            response_bytes_max: self.response_bytes_max,
        })
    }
}

/// A request that was checked, as the host gets it.
#[derive(Debug)]
pub(crate) struct Call {
    /// Method and URL for error texts. Without the query, which may hold a key.
    pub(crate) label: String,
    pub(crate) method: String,
    /// As the handler wrote it, for tests to match.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) url: String,
    pub(crate) target: Target,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Vec<u8>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) response_bytes_max: usize,
}

/// The parts of a URL.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) https: bool,
    pub(crate) authority: String,
    pub(crate) path_with_query: String,
}

impl Target {
    fn of(uri: &Uri) -> Result<Target, String> {
        let https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err("a URL starts with http:// or https://".to_owned()),
        };
        let Some(authority) = uri.authority() else { return Err("the URL names no host".to_owned()) };
        if authority.as_str().contains('@') {
            return Err("a user name in the URL is not sent: use the header `authorization`".to_owned());
        }
        let path_with_query = uri.path_and_query().map_or("/", |path| path.as_str());
        let path_with_query =
            if path_with_query.starts_with('/') { path_with_query.to_owned() } else { format!("/{path_with_query}") };
        Ok(Target { https, authority: authority.as_str().to_ascii_lowercase(), path_with_query })
    }

    /// What `grants.http` would have to name.
    pub(crate) fn grant(&self) -> String {
        let (scheme, default_port) = if self.https { ("https", ":443") } else { ("http", ":80") };
        format!("{scheme}://{}", self.authority.strip_suffix(default_port).unwrap_or(&self.authority))
    }
}

impl std::fmt::Display for Target {
    /// The URL without the query.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path_with_query.split('?').next().unwrap_or_default();
        write!(f, "{}{path}", self.grant())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(request: Request) -> String {
        let error = request.check().unwrap_err();
        assert!(matches!(error, HttpError::Invalid { .. }), "{error:?}");
        error.to_string()
    }

    #[test]
    fn a_url_is_taken_apart() {
        for (url, grant, path) in [
            ("https://api.example", "https://api.example", "/"),
            ("https://API.example:443/a?b=c", "https://api.example", "/a?b=c"),
            ("http://127.0.0.1:8080/a/", "http://127.0.0.1:8080", "/a/"),
            ("http://[::1]:80?q", "http://[::1]", "/?q"),
            ("https://api.example:80/#part", "https://api.example:80", "/"),
        ] {
            let call = get(url).check().unwrap();
            assert_eq!((&*call.target.grant(), &*call.target.path_with_query), (grant, path), "{url}");
            assert_eq!(call.label, format!("GET {grant}{}", path.split('?').next().unwrap()));
        }
    }

    #[test]
    fn a_request_that_cannot_be_sent_says_what_is_wrong() {
        for (url, says) in [
            ("", "can't GET : empty string"),
            ("/charges", "can't GET /charges: a URL starts with http:// or https://"),
            ("ftp://api.example/", "can't GET ftp://api.example/: a URL starts with http:// or https://"),
            ("https://a b/?key=1", "can't GET https://a b/: invalid uri character"),
            ("https://me:pw@api.example/", "a user name in the URL is not sent"),
            ("https://", "can't GET https://: empty string"),
            ("https:///a", "can't GET https:///a: invalid"),
        ] {
            assert!(refused(get(url)).contains(says), "{}", refused(get(url)));
        }
        let url = "https://api.example/?key=hidden";
        assert!(refused(request("GE T", url)).contains("\"GE T\" is no method"));
        assert!(refused(get(url).header("a b", "c")).contains("\"a b\" is no header"));
        let text = refused(get(url).header("authorization", "hidden\n").header("a b", "c"));
        assert!(text.contains("the value of the header \"authorization\"") && !text.contains("hidden"), "{text}");
        let odd = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert_eq!(
            refused(post(url).json(&odd)),
            "can't POST https://api.example/: can't write the value as JSON: key must be a string"
        );
    }

    #[test]
    fn json_has_its_content_type_unless_another_was_given() {
        let types = |request: Request| -> Vec<String> {
            let call = request.check().unwrap();
            call.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
        };
        let url = "https://api.example/";
        assert_eq!(types(post(url).json(&1)), ["content-type: application/json"]);
        assert_eq!(
            types(post(url).header("Content-Type", "application/ld+json").json(&1)),
            ["content-type: application/ld+json"]
        );
    }
}
