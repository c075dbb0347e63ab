//! What the host offers to guests: WASI without a network, and `linecook:worker/queues`.
//!
//! What a guest sends is checked here and collected; nothing leaves before the delivery is settled.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use linecook_store::ATTRIBUTE_PREFIX_RESERVED;
use wasmtime::Result;
use wasmtime::component::{HasSelf, Linker};

use super::InstanceSettings;
use super::bindings::linecook::worker::queues::{self, Outgoing as Wanted, SendError};
use super::limits::{
    ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_MAX, CONTENT_TYPE_BYTES_MAX, DELAY_MAX,
    KEY_BYTES_MAX, SEND_BODY_BYTES_MAX, SENDS_BYTES_MAX, SENDS_MAX, bytes_text,
};
use super::state::State;
use crate::delivery::{NewMessage, Outgoing, QueueName};

/// The interfaces that [`add_to_linker`] defines, by the beginning of their names. What a component imports beside
/// these can't be linked.
pub(super) const OFFERED: [&str; 7] = [
    "linecook:worker/",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/", // linked since std imports it; every use of it is denied
];

/// Defines everything that a guest may import.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    queues::add_to_linker::<State, HasSelf<Sender>>(linker, |state| &mut state.sender)
}

/// The queues whose missing grant was logged already, so that each is logged once and not for each message.
#[derive(Debug, Default)]
pub(super) struct Refused(Mutex<BTreeSet<(String, String)>>);

impl Refused {
    /// Names come from guests: beyond this many, none is remembered and none is logged.
    const NAMES_MAX: usize = 100;

    /// Whether this is the first time.
    fn note(&self, consumer: &str, queue: &str) -> bool {
        // A mutex, since the workers share a module; it is taken for refused sends only.
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.len() < Self::NAMES_MAX && names.insert((consumer.to_owned(), queue.to_owned()))
    }
}

/// Checks and collects what one delivery sends.
pub(super) struct Sender {
    settings: Arc<InstanceSettings>,
    refused: Arc<Refused>,
    sends: Vec<Outgoing>,
    bytes: usize,
}

impl Sender {
    pub(super) fn new(settings: &Arc<InstanceSettings>, refused: &Arc<Refused>) -> Sender {
        Sender { settings: settings.clone(), refused: refused.clone(), sends: Vec::new(), bytes: 0 }
    }

    /// What was sent so far, in order.
    pub(super) fn take(&mut self) -> Vec<Outgoing> {
        self.bytes = 0;
        std::mem::take(&mut self.sends)
    }

    fn granted(&self, queue: &QueueName) -> std::result::Result<(), SendError> {
        if self.settings.grants.send.contains(queue) {
            return Ok(());
        }
        let consumer = &self.settings.consumer;
        if self.refused.note(consumer, queue.as_str()) {
            let wanted = granting(&self.settings, queue);
            tracing::warn!(consumer, %queue, "a send was refused: it is not granted. In queue.toml, this grants it:\n{wanted}");
        }
        Err(SendError::NotGranted(format!(
            "{consumer} has no grant to send to {queue}: its grants' `send` must name it"
        )))
    }
}

/// The lines of `queue.toml` that grant what is granted now and `queue`.
fn granting(settings: &InstanceSettings, queue: &QueueName) -> String {
    let names: Vec<_> = settings.grants.send.iter().chain([queue]).map(|name| format!("{:?}", name.as_str())).collect();
    format!("[consumers.{}.grants]\nsend = [{}]", settings.consumer, names.join(", "))
}

impl queues::Host for Sender {
    fn send(&mut self, queue: String, message: Wanted) -> std::result::Result<(), SendError> {
        let queue = QueueName::new(&queue).map_err(|error| SendError::Invalid(error.to_string()))?;
        self.granted(&queue)?;
        let bytes = check(&message)?;
        if self.sends.len() == SENDS_MAX {
            return Err(SendError::LimitExceeded(format!("a delivery may send {SENDS_MAX} messages")));
        }
        if self.bytes + bytes > SENDS_BYTES_MAX {
            let max = bytes_text(SENDS_BYTES_MAX as u64);
            return Err(SendError::LimitExceeded(format!("a delivery may send {max} in all")));
        }
        self.bytes += bytes;
        let message = NewMessage {
            body: Bytes::from(message.body),
            content_type: message.content_type.map(String::into_boxed_str),
            key: message.key.map(String::into_boxed_str),
            attributes: message.attributes.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            delay_ms: message.delay_ms,
        };
        self.sends.push(Outgoing { queue, message });
        Ok(())
    }
}

/// Checks one message by itself, and gives its size.
fn check(message: &Wanted) -> std::result::Result<usize, SendError> {
    let invalid = |what: String| Err(SendError::Invalid(what));
    let limit = |what: String| Err(SendError::LimitExceeded(what));
    if message.body.len() > SEND_BODY_BYTES_MAX {
        let max = bytes_text(SEND_BODY_BYTES_MAX as u64);
        return limit(format!("the body has {} bytes; a message may have {max}", message.body.len()));
    }
    let mut bytes = message.body.len();
    for (what, text, bytes_max) in
        [("content type", &message.content_type, CONTENT_TYPE_BYTES_MAX), ("key", &message.key, KEY_BYTES_MAX)]
    {
        let Some(text) = text else { continue };
        if text.is_empty() || text.len() > bytes_max {
            return invalid(format!("a {what} has 1 to {bytes_max} bytes; this one has {}", text.len()));
        }
        bytes += text.len();
    }
    if message.attributes.len() > ATTRIBUTES_MAX {
        return limit(format!("{} attributes; a message may have {ATTRIBUTES_MAX}", message.attributes.len()));
    }
    for (name, value) in &message.attributes {
        if name.is_empty() || name.len() > ATTRIBUTE_NAME_BYTES_MAX {
            return invalid(format!(
                "the name of an attribute has 1 to {ATTRIBUTE_NAME_BYTES_MAX} bytes; this one has {}",
                name.len()
            ));
        }
        if name
            .as_bytes()
            .get(..ATTRIBUTE_PREFIX_RESERVED.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(ATTRIBUTE_PREFIX_RESERVED.as_bytes()))
        {
            return invalid(format!(
                "attribute {name:?}: names that start with {ATTRIBUTE_PREFIX_RESERVED:?} are Linecook's own"
            ));
        }
        if value.len() > ATTRIBUTE_VALUE_BYTES_MAX {
            let max = bytes_text(ATTRIBUTE_VALUE_BYTES_MAX as u64);
            return limit(format!("attribute {name:?} has {} bytes; a value may have {max}", value.len()));
        }
        bytes += name.len() + value.len();
    }
    if Duration::from_millis(message.delay_ms) > DELAY_MAX {
        return invalid(format!("a delay of {} ms is longer than 365 days", message.delay_ms));
    }
    Ok(bytes)
}
