//! What a server has answered.

use serde::de::DeserializeOwned;

use super::HttpError;

/// As much of an error's body as its text shows.
const EXCERPT_CHARACTERS_MAX: usize = 200;

/// A response that was read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Response {
    /// The status, such as 200.
    pub status: u16,
    /// Names, in small letters, and values, in the server's order. See [`Response::header`].
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The request that it answers, for error texts.
    pub(crate) request: String,
}

impl Response {
    /// The first value of a header. Capital letters in its name don't matter.
    ///
    /// ```
    /// # use linecook_sdk::{http, testing};
    /// # let web = testing::web().on("GET", "*", testing::answer(302).header("Location", "https://b.example/"));
    /// # let run = testing::http(&web).run(|_| {
    /// let response = http::get("https://a.example/").send()?;
    /// assert_eq!(response.header("LOCATION"), Some("https://b.example/"));
    /// # Ok(())
    /// # }, testing::message(""));
    /// # assert_eq!(run.outcome, Ok(()));
    /// ```
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(each, _)| each.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Whether the status is 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The response itself, unless its status is 400 or more.
    ///
    /// # Errors
    ///
    /// [`HttpError::Status`], with the status and the beginning of the body.
    ///
    /// ```
    /// # use linecook_sdk::{Failure, http, testing};
    /// # let web = testing::web().on("GET", "*", testing::answer(503).body("back soon"));
    /// let handle = |_| {
    ///     http::get("https://a.example/").send()?.error_for_status()?;
    ///     Ok(())
    /// };
    /// let failure = Failure::retry("GET https://a.example/ was answered with 503: back soon");
    /// # let run = testing::http(&web).run(handle, testing::message(""));
    /// assert_eq!(run.outcome, Err(failure));
    /// ```
    pub fn error_for_status(self) -> Result<Response, HttpError> {
        if self.status < 400 {
            return Ok(self);
        }
        let text = String::from_utf8_lossy(&self.body);
        let words: Vec<&str> =
            text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
        let body = words.join(" ").chars().take(EXCERPT_CHARACTERS_MAX).collect();
        Err(HttpError::Status { request: self.request, status: self.status, body })
    }

    /// The body as text.
    ///
    /// # Errors
    ///
    /// [`HttpError::Unreadable`], if it is not UTF-8.
    ///
    /// ```
    /// # use linecook_sdk::{http, testing};
    /// # let web = testing::web().on("GET", "*", testing::answer(200).body("hello"));
    /// # let run = testing::http(&web).run(|_| {
    /// assert_eq!(http::get("https://a.example/").send()?.text()?, "hello");
    /// # Ok(())
    /// # }, testing::message(""));
    /// # assert_eq!(run.outcome, Ok(()));
    /// ```
    pub fn text(&self) -> Result<&str, HttpError> {
        std::str::from_utf8(&self.body).map_err(|error| self.unreadable(format_args!("it is not UTF-8: {error}")))
    }

    /// The body, read as JSON. Neither the status nor the content type matters.
    ///
    /// # Errors
    ///
    /// [`HttpError::Unreadable`], if it is not such JSON.
    ///
    /// ```
    /// # use linecook_sdk::{http, testing};
    /// # let web = testing::web().on("GET", "*", testing::answer(200).body("[1,2]"));
    /// # let run = testing::http(&web).run(|_| {
    /// let numbers: Vec<u32> = http::get("https://a.example/").send()?.json()?;
    /// assert_eq!(numbers, [1, 2]);
    /// # Ok(())
    /// # }, testing::message(""));
    /// # assert_eq!(run.outcome, Ok(()));
    /// ```
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| self.unreadable(format_args!("it is not the JSON that is expected: {error}")))
    }

    fn unreadable(&self, detail: impl std::fmt::Display) -> HttpError {
        HttpError::Unreadable { request: self.request.clone(), detail: detail.to_string() }
    }
}
