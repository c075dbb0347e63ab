//! Servers that answer as a test says, and note what they were asked.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::http::{Call, HttpError, Response};

thread_local! {
    /// What answers the handler that runs on this thread.
    static CURRENT: RefCell<Option<Web>> = const { RefCell::new(None) };
}

/// Puts back what was there before, also when the handler panics.
pub(super) struct Restore(Option<Web>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// This answers until what is returned is dropped.
#[must_use]
pub(super) fn set(web: Option<Web>) -> Restore {
    Restore(CURRENT.replace(web))
}

/// Starts a script of servers, which answers nothing yet.
///
/// ```
/// use linecook_sdk::{Failure, Message, Outcome, http, testing};
///
/// fn ping(message: Message) -> Outcome {
///     http::post("https://api.example/ping").body(message.body).send()?.error_for_status()?;
///     Ok(())
/// }
///
/// let web = testing::web()
///     .on("POST", "https://api.example/ping", testing::answer(503))
///     .on("POST", "https://api.example/ping", testing::answer(200));
/// let first = testing::http(&web).run(ping, testing::message("a"));
/// assert_eq!(first.outcome, Err(Failure::retry("POST https://api.example/ping was answered with 503")));
/// let second = testing::http(&web).run(ping, testing::message("a").attempt(2));
/// assert_eq!(second.outcome, Ok(()));
/// assert_eq!(web.requests().len(), 2);
/// assert_eq!(web.requests()[1].body, b"a");
/// ```
pub fn web() -> Web {
    Web::default()
}

/// Servers that answer as a test says. A clone is the same servers.
///
/// A request without a scripted answer is a panic that names both: a test that means a server that can't be reached says so, by
/// [`Answer::failed`] or [`Answer::not_granted`].
#[derive(Debug, Clone, Default)]
pub struct Web {
    /// A mutex, since a test may hold it on one thread while a handler runs on another.
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    routes: Vec<Route>,
    requests: Vec<WebRequest>,
}

#[derive(Debug)]
struct Route {
    method: String,
    url: String,
    answers: Vec<Answer>,
    asked: usize,
}

impl Route {
    fn takes(&self, call: &Call) -> bool {
        let url = match self.url.strip_suffix('*') {
            Some(beginning) => call.url.starts_with(beginning),
            None => call.url == self.url,
        };
        url && (self.method == "*" || self.method == call.method)
    }
}

impl Web {
    /// Answers requests with this method and this URL. `*` is any method; a `*` at the end of the URL is any rest of it.
    ///
    /// The first that fits answers. Of several for the same method and URL, each answers once, in turn, and the last one from
    /// then on.
    pub fn on(self, method: &str, url: &str, answer: impl Into<Answer>) -> Web {
        let answer = answer.into();
        let mut state = self.state();
        let same = state.routes.iter_mut().find(|route| route.method == method && route.url == url);
        match same {
            Some(route) => route.answers.push(answer),
            None => {
                state.routes.push(Route { method: method.into(), url: url.into(), answers: vec![answer], asked: 0 });
            }
        }
        drop(state);
        self
    }

    /// What was asked so far, in order.
    pub fn requests(&self) -> Vec<WebRequest> {
        self.state().requests.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer. The error is what is scripted, if nothing fits.
    fn answer(&self, call: &Call) -> Result<Answer, String> {
        let mut state = self.state();
        let header = |(name, value): &(::http::HeaderName, ::http::HeaderValue)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        state.requests.push(WebRequest {
            method: call.method.clone(),
            url: call.url.clone(),
            headers: call.headers.iter().map(header).collect(),
            body: call.body.clone(),
            timeout: call.timeout,
        });
        let Some(route) = state.routes.iter_mut().find(|route| route.takes(call)) else {
            let routes: Vec<_> = state.routes.iter().map(|route| format!("{} {}", route.method, route.url)).collect();
            return Err(if routes.is_empty() { "nothing".to_owned() } else { routes.join(", ") });
        };
        let answer = route.answers[route.asked.min(route.answers.len() - 1)].clone();
        route.asked += 1;
        Ok(answer)
    }
}

/// A request as a server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebRequest {
    /// The method.
    pub method: String,
    /// The URL, as the handler wrote it.
    pub url: String,
    /// Names, in small letters, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The time that the handler allowed for it.
    pub timeout: Option<Duration>,
}

impl WebRequest {
    /// The first value of a header. Capital letters in its name don't matter.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(each, _)| each.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// The body, read as JSON.
    ///
    /// # Panics
    ///
    /// If it is not such JSON, with the body's text.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!(
                "{} {} has a body that is not such JSON: {error}\n{}",
                self.method,
                self.url,
                self.body.escape_ascii()
            )
        })
    }
}

/// Starts an answer with this status, no headers and no body.
///
/// ```
/// use linecook_sdk::testing;
///
/// let web = testing::web()
///     .on("GET", "https://api.example/users/7", testing::answer(200).json(&serde_json::json!({ "name": "Ann" })))
///     .on("GET", "https://api.example/users/*", testing::answer(404).header("content-type", "text/plain").body("nobody"));
/// ```
pub fn answer(status: u16) -> Answer {
    Answer { kind: Kind::Response { status, headers: Vec::new(), body: Vec::new() } }
}

/// What a server answers, or why it does not.
#[derive(Debug, Clone)]
#[must_use]
pub struct Answer {
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Response { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    NotGranted,
    Timeout,
    Failed(String),
}

impl Answer {
    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Answer {
        if let Kind::Response { headers, .. } = &mut self.kind {
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        self
    }

    /// Sets the body.
    pub fn body(mut self, bytes: impl AsRef<[u8]>) -> Answer {
        if let Kind::Response { body, .. } = &mut self.kind {
            *body = bytes.as_ref().to_vec();
        }
        self
    }

    /// A value as JSON for a body, with its content type.
    ///
    /// # Panics
    ///
    /// If the value can't be written as JSON.
    #[track_caller]
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Answer {
        let body = serde_json::to_vec(value).unwrap_or_else(|error| panic!("can't write the value as JSON: {error}"));
        self.header("content-type", "application/json").body(body)
    }

    /// Not granted: [`HttpError::NotGranted`].
    pub fn not_granted() -> Answer {
        Answer { kind: Kind::NotGranted }
    }

    /// No answer within the time that the request allows, or at all: [`HttpError::Timeout`].
    pub fn timeout() -> Answer {
        Answer { kind: Kind::Timeout }
    }

    /// No connection, for this reason: [`HttpError::Failed`].
    ///
    /// ```
    /// use linecook_sdk::testing::{self, Answer};
    ///
    /// let web = testing::web().on("*", "https://api.example/*", Answer::failed("the connection was refused"));
    /// ```
    pub fn failed(detail: &str) -> Answer {
        Answer { kind: Kind::Failed(detail.to_owned()) }
    }
}

/// Answers as the test says.
pub(crate) fn exchange(call: Call) -> Result<Response, HttpError> {
    let answered = match CURRENT.with_borrow(Clone::clone) {
        Some(web) => web.answer(&call),
        None => Err("nothing (see linecook_sdk::testing::http)".to_owned()),
    };
    let answer = answered.unwrap_or_else(|scripted| {
        panic!("the test has no answer for {} {}; it has one for {scripted}", call.method, call.url)
    });
    let request = call.label;
    match answer.kind {
        Kind::Response { status, headers, body } => Ok(Response { status, headers, body, request }),
        Kind::NotGranted => Err(HttpError::NotGranted { request, grant: call.target.grant() }),
        Kind::Timeout => Err(HttpError::Timeout { request, after: call.timeout }),
        Kind::Failed(detail) => Err(HttpError::Failed { request, detail }),
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::http;
    use crate::testing::{self, message};

    /// What one request gives, with these servers.
    fn ask(web: &Web, request: http::Request) -> Result<Response, HttpError> {
        let mut answer = None;
        testing::http(web).run(
            |_| {
                answer = Some(request.send());
                Ok(())
            },
            message(""),
        );
        answer.unwrap()
    }

    #[test]
    fn the_first_route_that_fits_answers_and_all_requests_are_noted() {
        let web = web()
            .on("GET", "https://a.example/1", answer(201).header("X-Two", "b"))
            .on("GET", "https://a.example/*", answer(202))
            .on("*", "https://a.example/*", answer(203));
        let first =
            ask(&web, http::get("https://a.example/1").header("Accept", "text/html").timeout(Duration::from_secs(2)));
        let first = first.unwrap();
        assert_eq!((first.status, first.header("x-two"), first.is_success()), (201, Some("b"), true));
        assert_eq!(ask(&web, http::get("https://a.example/2")).unwrap().status, 202);
        assert_eq!(ask(&web, http::put("https://a.example/1").body("x")).unwrap().status, 203);
        let requests = web.requests();
        assert_eq!((requests.len(), &*requests[2].method, &*requests[2].body), (3, "PUT", &b"x"[..]));
        assert_eq!(
            (requests[0].header("ACCEPT"), requests[0].timeout),
            (Some("text/html"), Some(Duration::from_secs(2)))
        );
    }

    #[test]
    fn answers_of_one_route_come_in_turn_and_the_last_one_stays() {
        let web = web().on("GET", "*", answer(503)).on("GET", "*", answer(200));
        let statuses: Vec<_> = (0..3).map(|_| ask(&web, http::get("https://a.example/")).unwrap().status).collect();
        assert_eq!(statuses, [503, 200, 200]);
    }

    #[test]
    fn what_goes_wrong_is_the_error_that_a_handler_would_see() {
        let web = web()
            .on("GET", "https://denied.example*", Answer::not_granted())
            .on("GET", "https://slow.example/", Answer::timeout())
            .on("GET", "https://gone.example/", Answer::failed("the connection was refused"))
            .on("GET", "https://large.example/", answer(200).body([0; 11]))
            .on("GET", "https://odd.example/", answer(200).body(b"\xff"));
        let error = |request: http::Request| ask(&web, request).unwrap_err().to_string();
        assert_eq!(
            error(http::get("https://denied.example:8443/a?key=hidden")),
            "can't GET https://denied.example:8443/a: it is not granted; add \"https://denied.example:8443\" to `http` in the \
             consumer's grants in queue.toml"
        );
        assert_eq!(
            error(http::get("https://slow.example/").timeout(Duration::from_millis(1500))),
            "GET https://slow.example/ timed out: there was no whole response after 1.5s"
        );
        assert_eq!(
            error(http::get("https://gone.example/")),
            "can't GET https://gone.example/: the connection was refused"
        );
        assert!(error(http::get("https://large.example/").response_bytes_max(10)).contains("has more than 10 bytes"));
        assert_eq!(ask(&web, http::get("https://large.example/").response_bytes_max(11)).unwrap().body, [0; 11]);
        let odd = ask(&web, http::get("https://odd.example/")).unwrap();
        assert!(odd.text().unwrap_err().to_string().contains("it is not UTF-8"));
        assert!(odd.json::<u8>().unwrap_err().to_string().contains("not the JSON that is expected"));
    }

    #[test]
    fn the_text_of_a_bad_status_is_short_and_one_line() {
        let page = format!("<html>\r\n\t{}", "long ".repeat(1000));
        let web = web().on("GET", "*", answer(500).body(page));
        let error =
            ask(&web, http::get("https://a.example/?key=hidden")).unwrap().error_for_status().unwrap_err().to_string();
        assert!(error.starts_with("GET https://a.example/ was answered with 500: <html> long long"), "{error}");
        assert!(error.len() < 300 && !error.contains("hidden"), "{error}");
    }

    #[test]
    fn a_request_that_no_test_has_thought_of_is_told() {
        let told = |run: &dyn Fn()| {
            let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            panic.downcast_ref::<String>().unwrap().clone()
        };
        let servers = web().on("POST", "https://a.example/", answer(200));
        assert_eq!(
            told(&|| drop(ask(&servers, http::get("https://a.example/")))),
            "the test has no answer for GET https://a.example/; it has one for POST https://a.example/"
        );
        assert!(told(&|| drop(http::get("https://a.example/").send())).contains("see linecook_sdk::testing::http"));
    }
}
