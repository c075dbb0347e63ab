//! Sending messages to other queues.
//!
//! What a handler sends is held back until it returns, and is put on record in one step with the acknowledgement of
//! its message. If the handler fails, nothing was sent. So a handler that is tried again sends nothing twice.
//!
//! ```
//! use linecook_sdk::{Message, Outcome, queues};
//! use std::time::Duration;
//!
//! fn handle(message: Message) -> Outcome {
//!     queues::send("audit", &serde_json::json!({ "event": "welcomed", "id": message.id }))?;
//!     queues::message("How do you like it so far?")
//!         .content_type("text/plain")
//!         .key(&message.id)
//!         .attribute("campaign", "follow-up")
//!         .delay(Duration::from_secs(3 * 24 * 3600))
//!         .send("mails")?;
//!     Ok(())
//! }
//! ```

use std::error::Error;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

#[cfg(target_family = "wasm")]
use crate::__rt::bindings as backend;
use crate::batch;
#[cfg(not(target_family = "wasm"))]
use crate::testing::fake as backend;

/// Sends a value as JSON, with the content type `application/json`.
///
/// The queue must be among the consumer's `grants.send` in `queue.toml`.
///
/// # Errors
///
/// See [`SendError`]. By `?`, each is a retry.
///
/// ```
/// use linecook_sdk::{Message, Outcome, queues, testing};
///
/// fn count(message: Message) -> Outcome {
///     Ok(queues::send("counts", &message.body.len())?)
/// }
///
/// assert_eq!(testing::run(count, testing::message("four")).sends[0].json::<usize>(), 4);
/// ```
pub fn send<T: Serialize + ?Sized>(queue: &str, value: &T) -> Result<(), SendError> {
    json(value)?.send(queue)
}

/// Starts a message with the given body and nothing else: no content type, no key, no attributes, no delay.
///
/// ```
/// use linecook_sdk::{Message, Outcome, queues};
///
/// fn forward(message: Message) -> Outcome {
///     Ok(queues::message(message.body).key("customer-7").send("next")?)
/// }
/// ```
pub fn message(body: impl Into<Vec<u8>>) -> Outgoing {
    Outgoing {
        body: body.into(),
        content_type: None,
        key: None,
        attributes: Vec::new(),
        delay: Duration::ZERO,
        with_ack_of: None,
    }
}

/// Starts a message whose body is a value as JSON, with the content type `application/json`.
///
/// # Errors
///
/// [`SendError::Unserializable`], if the value can't be written as JSON.
///
/// ```
/// use linecook_sdk::{Message, Outcome, queues};
/// use std::time::Duration;
///
/// fn remind(message: Message) -> Outcome {
///     let reminder = queues::json(&serde_json::json!({ "about": message.id }))?;
///     Ok(reminder.delay(Duration::from_secs(3600)).send("reminders")?)
/// }
/// ```
pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Outgoing, SendError> {
    let body = serde_json::to_vec(value).map_err(|error| SendError::Unserializable { detail: error.to_string() })?;
    Ok(message(body).content_type("application/json"))
}

/// A message that is being put together; [`Outgoing::send`] sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is sent before `.send(queue)`"]
pub struct Outgoing {
    pub(crate) body: Vec<u8>,
    pub(crate) content_type: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) delay: Duration,
    /// The message of a batch that it goes with.
    pub(crate) with_ack_of: Option<String>,
}

impl Outgoing {
    /// The media type of the body.
    pub fn content_type(mut self, media_type: impl Into<String>) -> Outgoing {
        self.content_type = Some(media_type.into());
        self
    }

    /// The ordering key: messages of one queue with the same key are handled one at a time, in order.
    pub fn key(mut self, key: impl Into<String>) -> Outgoing {
        self.key = Some(key.into());
        self
    }

    /// Adds a name and a value that travel with the body. Names that start with `linecook-` are the runtime's.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Outgoing {
        self.attributes.push((name.into(), value.into()));
        self
    }

    /// How long the message waits before it is ready, counted from the acknowledgement, in whole milliseconds.
    pub fn delay(mut self, delay: Duration) -> Outgoing {
        self.delay = delay;
        self
    }

    /// In a batch: the id of the message with whose acknowledgement it is sent. If that message is not acknowledged, it is
    /// not sent. By default it is the message that [`batch::each`] is at, or else it belongs to the
    /// batch as a whole.
    ///
    /// ```
    /// use linecook_sdk::{Message, Outcome, queues};
    ///
    /// fn forward(messages: Vec<Message>) -> Outcome {
    ///     for message in messages {
    ///         queues::message(message.body).with_ack_of(message.id).send("next")?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn with_ack_of(mut self, message_id: impl Into<String>) -> Outgoing {
        self.with_ack_of = Some(message_id.into());
        self
    }

    /// Sends it to a queue. The queue must be among the consumer's `grants.send` in `queue.toml`.
    ///
    /// # Errors
    ///
    /// See [`SendError`]. By `?`, each is a retry.
    ///
    /// # Panics
    ///
    /// In native tests, outside of [`testing::run`](crate::testing::run): there is nobody to send to.
    pub fn send(mut self, queue: &str) -> Result<(), SendError> {
        self.with_ack_of = self.with_ack_of.or_else(batch::current);
        backend::send(queue, self)
    }
}

/// Why a message can't be sent. The text says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The consumer's grants do not name the queue.
    NotGranted {
        /// The queue.
        queue: String,
        /// What the runtime says about it.
        detail: String,
    },
    /// The message, or everything that was sent while this message was handled, is too large or too much.
    LimitExceeded {
        /// The queue.
        queue: String,
        /// What the runtime says about it.
        detail: String,
    },
    /// A queue name, key, content type or attribute that cannot be, or a message to go with that is not in the batch.
    Invalid {
        /// The queue.
        queue: String,
        /// What the runtime says about it.
        detail: String,
    },
    /// The value can't be written as JSON.
    Unserializable {
        /// What `serde_json` says about it.
        detail: String,
    },
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::NotGranted { queue, detail }
            | SendError::LimitExceeded { queue, detail }
            | SendError::Invalid { queue, detail } => write!(f, "can't send to {queue:?}: {detail}"),
            SendError::Unserializable { detail } => write!(f, "can't write the value as JSON: {detail}"),
        }
    }
}

impl Error for SendError {}
