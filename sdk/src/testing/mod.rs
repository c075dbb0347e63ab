//! Unit tests for consumers, natively: no runtime, no WebAssembly.
//!
//! [`message`] and [`json`] make a message, [`run`] hands it to the handler, and [`Run`] says what came of it.
//!
//! ```
//! use linecook_sdk::{Failure, Message, Outcome, queues, testing};
//!
//! fn double(message: Message) -> Outcome {
//!     let number: u64 = message.json()?;
//!     queues::send("doubled", &(number * 2))?;
//!     if number > 100 {
//!         return Err(Failure::dead_letter("too large"));
//!     }
//!     Ok(())
//! }
//!
//! let run = testing::run(double, testing::json(&21));
//! assert_eq!(run.outcome, Ok(()));
//! assert_eq!(run.sends[0].queue, "doubled");
//! assert_eq!(run.sends[0].json::<u64>(), 42);
//!
//! // What a failed handler sent is not sent.
//! let run = testing::run(double, testing::json(&101));
//! assert_eq!(run.outcome, Err(Failure::dead_letter("too large")));
//! assert!(run.sends.is_empty());
//! assert_eq!(run.dropped[0].json::<u64>(), 202);
//! ```
//!
//! [`state()`](state()) is the consumer's durable state, to be filled before and looked at after.
//!
//! In [`run`] every queue may be sent to; [`granting`] allows only some, as `queue.toml` does. [`config`](fn@config) says what the values of
//! `[consumers.NAME.config]` are, and [`http`](fn@http) which servers there are and what they answer; both chain, as in
//! `testing::granting(["audit"]).config([("greeting", "Hello")]).http(&web).run(…)`. Folders and environment
//! variables are the machine's own: give the handler's inner function the folder as a parameter and pass a temporary
//! one.

pub(crate) mod config;
pub(crate) mod fake;
pub(crate) mod state;
pub(crate) mod web;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::state::{State, state};
use crate::__rt::BatchOutput;
use crate::{Message, Outcome};

pub use web::{Answer, Web, WebRequest, answer, web};

/// What came of one call of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// What the handler returned.
    pub outcome: Outcome,
    /// What was sent with the acknowledgement, in the handler's order. Empty if the handler failed.
    pub sends: Vec<Sent>,
    /// What the handler had sent before it failed. None of it takes effect. Empty if the handler succeeded.
    pub dropped: Vec<Sent>,
}

/// A message that a handler sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// The queue that it goes to.
    pub queue: String,
    /// The payload.
    pub body: Vec<u8>,
    /// The payload's media type.
    pub content_type: Option<String>,
    /// The ordering key.
    pub key: Option<String>,
    /// Names and values that travel with the body.
    pub attributes: Vec<(String, String)>,
    /// How long it waits before it is ready.
    pub delay: Duration,
    /// In a batch: the id of the message whose acknowledgement it goes with, or none if it belongs to the whole batch.
    pub with_ack_of: Option<String>,
}

/// What came of one call of a handler of batches.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchRun {
    /// What became of each message, in the order of the messages. One without an answer has failed.
    pub outcomes: Vec<Outcome>,
    /// What was sent with the acknowledgements, in the handler's order.
    pub sends: Vec<Sent>,
    /// What was sent with messages that were not acknowledged. None of it takes effect.
    pub dropped: Vec<Sent>,
}

impl Sent {
    /// The body, read as JSON.
    ///
    /// # Panics
    ///
    /// If it is not such JSON, with the body's text.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("what was sent to {:?} is not such JSON: {error}\n{}", self.queue, self.body.escape_ascii())
        })
    }
}

/// Hands a message to a handler. Every queue may be sent to.
///
/// A panic of the handler is a panic of the test. (The runtime takes it as a failed attempt.)
pub fn run(handler: impl FnOnce(Message) -> Outcome, message: impl Into<Message>) -> Run {
    Setup::default().run(handler, message)
}

/// Hands a batch to a handler. Every queue may be sent to.
///
/// Messages that have the same id (as all have that are made without one) get ids of their own.
///
/// ```
/// use linecook_sdk::{Message, Outcome, batch, queues, testing};
///
/// fn shout(messages: Vec<Message>) -> Vec<Outcome> {
///     batch::each(messages, |message| Ok(queues::send("loud", &message.text()?.to_uppercase())?))
/// }
///
/// let run = testing::run_batch(shout, [testing::message("a"), testing::message(b"\xff"), testing::message("c")]);
/// assert_eq!(run.outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
/// assert_eq!(run.sends[1].json::<String>(), "C");
/// ```
pub fn run_batch<O: BatchOutput>(
    handler: impl FnOnce(Vec<Message>) -> O,
    messages: impl IntoIterator<Item: Into<Message>>,
) -> BatchRun {
    Setup::default().run_batch(handler, messages)
}

/// The `grants.send` of a consumer: only these queues may be sent to.
///
/// ```
/// use linecook_sdk::{Failure, Message, Outcome, queues, testing};
///
/// fn forward(message: Message) -> Outcome {
///     Ok(queues::message(message.body).send("next")?)
/// }
///
/// assert!(testing::granting(["next"]).run(forward, testing::message("x")).outcome.is_ok());
/// assert!(matches!(
///     testing::granting(["audit"]).run(forward, testing::message("x")).outcome,
///     Err(Failure::Retry { .. })
/// ));
/// ```
pub fn granting<Q: Into<String>>(queues: impl IntoIterator<Item = Q>) -> Setup {
    Setup::default().granting(queues)
}

/// The values of `[consumers.NAME.config]`, for [`config`](mod@crate::config).
///
/// ```
/// use linecook_sdk::{config, testing};
///
/// let run = testing::config([("greeting", "Hello")]).run(
///     |_| {
///         assert_eq!(config::get("greeting").as_deref(), Some("Hello"));
///         Ok(())
///     },
///     testing::message(""),
/// );
/// assert_eq!(run.outcome, Ok(()));
/// ```
pub fn config<K: Into<String>, V: Into<String>>(values: impl IntoIterator<Item = (K, V)>) -> Setup {
    Setup::default().config(values)
}

/// The servers that there are, for [`http`](mod@crate::http). See [`web`](fn@web).
///
/// ```
/// use linecook_sdk::{http, testing};
///
/// let web = testing::web().on("GET", "https://api.example/", testing::answer(200).body("hello"));
/// let run = testing::http(&web).run(
///     |_| {
///         assert_eq!(http::get("https://api.example/").send()?.text()?, "hello");
///         Ok(())
///     },
///     testing::message(""),
/// );
/// assert_eq!(run.outcome, Ok(()));
/// ```
pub fn http(web: &Web) -> Setup {
    Setup::default().http(web)
}

/// What there is around the handler: the queues that it may send to, its values, the servers. See [`granting`],
/// [`config`](fn@config) and [`http`](fn@http). What is not set is as in [`run`].
#[derive(Debug, Clone, Default)]
#[must_use = "nothing is run before `.run(handler, message)`"]
pub struct Setup {
    /// The queues that may be sent to; `None` is every one.
    send: Option<Vec<String>>,
    config: BTreeMap<String, String>,
    web: Option<Web>,
}

impl Setup {
    /// As the function [`granting`].
    pub fn granting<Q: Into<String>>(mut self, queues: impl IntoIterator<Item = Q>) -> Setup {
        self.send = Some(queues.into_iter().map(Into::into).collect());
        self
    }

    /// As the function [`config`](fn@config).
    pub fn config<K: Into<String>, V: Into<String>>(mut self, values: impl IntoIterator<Item = (K, V)>) -> Setup {
        self.config = values.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        self
    }

    /// As the function [`http`](fn@http).
    pub fn http(mut self, web: &Web) -> Setup {
        self.web = Some(web.clone());
        self
    }

    /// As the function [`run`], with this around it.
    pub fn run(&self, handler: impl FnOnce(Message) -> Outcome, message: impl Into<Message>) -> Run {
        let _outside = self.outside();
        fake::run(self.send.clone(), handler, message.into())
    }

    /// As the function [`run_batch`], with this around it.
    pub fn run_batch<O: BatchOutput>(
        &self,
        handler: impl FnOnce(Vec<Message>) -> O,
        messages: impl IntoIterator<Item: Into<Message>>,
    ) -> BatchRun {
        let _outside = self.outside();
        fake::run_batch(self.send.clone(), handler, messages.into_iter().map(Into::into).collect())
    }

    fn outside(&self) -> (config::Restore, web::Restore) {
        (config::set(self.config.clone()), web::set(self.web.clone()))
    }
}

/// Starts a message with the given body: the first attempt of a message of a queue `test`, sent at a fixed time
/// (2026-01-01 00:00 UTC), with no content type, key or attributes.
pub fn message(body: impl AsRef<[u8]>) -> MessageBuilder {
    MessageBuilder {
        message: Message {
            id: "0123456789abcdefghjkmnpqrs".into(),
            queue: "test".into(),
            body: body.as_ref().to_vec(),
            content_type: None,
            key: None,
            attributes: Vec::new(),
            attempt: 1,
            enqueued_at: UNIX_EPOCH + Duration::from_secs(1_767_225_600),
        },
    }
}

/// Starts a message whose body is a value as JSON, with the content type `application/json`; else as [`message`].
///
/// # Panics
///
/// If the value can't be written as JSON.
#[track_caller]
pub fn json<T: Serialize + ?Sized>(value: &T) -> MessageBuilder {
    let body = serde_json::to_vec(value).unwrap_or_else(|error| panic!("can't write the value as JSON: {error}"));
    message(body).content_type("application/json")
}

/// A message that is being put together. [`run`] takes it as it is.
///
/// ```
/// use linecook_sdk::testing;
///
/// let message = testing::message("hello").key("customer-7").attribute("source", "web").attempt(3).build();
/// assert_eq!(message.attempt, 3);
/// assert_eq!(message.attribute("source"), Some("web"));
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct MessageBuilder {
    message: Message,
}

impl MessageBuilder {
    /// Sets [`Message::id`].
    pub fn id(mut self, id: impl Into<String>) -> MessageBuilder {
        self.message.id = id.into();
        self
    }

    /// Sets [`Message::queue`].
    pub fn queue(mut self, queue: impl Into<String>) -> MessageBuilder {
        self.message.queue = queue.into();
        self
    }

    /// Sets [`Message::content_type`].
    pub fn content_type(mut self, media_type: impl Into<String>) -> MessageBuilder {
        self.message.content_type = Some(media_type.into());
        self
    }

    /// Sets [`Message::key`].
    pub fn key(mut self, key: impl Into<String>) -> MessageBuilder {
        self.message.key = Some(key.into());
        self
    }

    /// Adds to [`Message::attributes`].
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> MessageBuilder {
        self.message.attributes.push((name.into(), value.into()));
        self
    }

    /// Sets [`Message::attempt`]; 1 is the first.
    pub fn attempt(mut self, attempt: u32) -> MessageBuilder {
        self.message.attempt = attempt;
        self
    }

    /// Sets [`Message::enqueued_at`].
    pub fn enqueued_at(mut self, at: SystemTime) -> MessageBuilder {
        self.message.enqueued_at = at;
        self
    }

    /// The message.
    pub fn build(self) -> Message {
        self.message
    }
}

impl From<MessageBuilder> for Message {
    fn from(builder: MessageBuilder) -> Message {
        builder.message
    }
}
