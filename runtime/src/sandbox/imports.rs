//! What the host offers to guests: WASI without a network, and `linecook:worker/queues`.
//!
//! What a guest sends is checked here and collected; nothing leaves before the delivery is settled.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use linecook_store::{ATTRIBUTE_PREFIX_RESERVED, MessageId};
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
    /// The messages that are being handled: more than one only in a batch.
    messages: Vec<MessageId>,
    sends: Vec<Sent>,
    bytes: usize,
    limit_hit: bool,
}

/// What was sent, and the place of the message in the batch whose acknowledgement it goes with.
pub(super) struct Sent {
    pub(super) with_ack_of: Option<usize>,
    pub(super) outgoing: Outgoing,
}

impl Sender {
    pub(super) fn new(settings: &Arc<InstanceSettings>, refused: &Arc<Refused>) -> Sender {
        Sender {
            settings: settings.clone(),
            refused: refused.clone(),
            messages: Vec::new(),
            sends: Vec::new(),
            bytes: 0,
            limit_hit: false,
        }
    }

    /// Starts anew, for these messages.
    pub(super) fn begin(&mut self, messages: impl Iterator<Item = MessageId>) {
        self.take();
        self.messages.clear();
        self.messages.extend(messages);
        self.limit_hit = false;
    }

    /// What was sent so far, in order.
    pub(super) fn take(&mut self) -> Vec<Sent> {
        self.bytes = 0;
        std::mem::take(&mut self.sends)
    }

    /// Whether something was refused because it was too much.
    pub(super) fn limit_hit(&self) -> bool {
        self.limit_hit
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
        self.collect(None, &queue, message)
    }

    fn send_for(&mut self, message_id: String, queue: String, message: Wanted) -> std::result::Result<(), SendError> {
        let id: Option<MessageId> = message_id.parse().ok();
        // Most handlers send for their messages in order: the last one is where to begin.
        let last = self.sends.last().and_then(|sent| sent.with_ack_of).unwrap_or(0);
        let place = (last..self.messages.len()).chain(0..last).find(|place| Some(self.messages[*place]) == id);
        if place.is_none() {
            let text = format!("{message_id:?} is not the id of a message that is being handled");
            return Err(SendError::Invalid(text));
        }
        self.collect(place, &queue, message)
    }
}

impl Sender {
    fn collect(
        &mut self,
        with_ack_of: Option<usize>,
        queue: &str,
        message: Wanted,
    ) -> std::result::Result<(), SendError> {
        let collected = self.check_and_collect(with_ack_of, queue, message);
        self.limit_hit |= matches!(collected, Err(SendError::LimitExceeded(_)));
        collected
    }

    fn check_and_collect(
        &mut self,
        with_ack_of: Option<usize>,
        queue: &str,
        message: Wanted,
    ) -> std::result::Result<(), SendError> {
        let queue = QueueName::new(queue).map_err(|error| SendError::Invalid(error.to_string()))?;
        self.granted(&queue)?;
        let bytes = check(&message)?;
        if self.sends.len() == SENDS_MAX * self.messages.len().max(1) {
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
            ..NewMessage::default()
        };
        self.sends.push(Sent { with_ack_of, outgoing: Outgoing { queue, message } });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Wanted {
        Wanted { body: b"{}".to_vec(), content_type: None, key: None, attributes: Vec::new(), delay_ms: 0 }
    }

    fn with_attribute(name: &str, value: &str) -> Wanted {
        Wanted { attributes: vec![(name.to_owned(), value.to_owned())], ..message() }
    }

    #[test]
    fn a_message_may_be_as_large_as_the_limits_say() {
        let largest = Wanted {
            body: vec![0; SEND_BODY_BYTES_MAX],
            content_type: Some("t".repeat(CONTENT_TYPE_BYTES_MAX)),
            key: Some("k".repeat(KEY_BYTES_MAX)),
            attributes: vec![("n".repeat(ATTRIBUTE_NAME_BYTES_MAX), "v".repeat(100)); ATTRIBUTES_MAX],
            delay_ms: DELAY_MAX.as_millis() as u64,
        };
        let bytes = SEND_BODY_BYTES_MAX + CONTENT_TYPE_BYTES_MAX + KEY_BYTES_MAX + ATTRIBUTES_MAX * 356;
        assert_eq!(check(&largest).unwrap(), bytes);
        assert_eq!(check(&with_attribute("n", &"v".repeat(ATTRIBUTE_VALUE_BYTES_MAX))).unwrap(), 3 + (8 << 10));
    }

    #[test]
    fn anything_beyond_is_refused_with_the_limit() {
        let delay_ms = DELAY_MAX.as_millis() as u64 + 1;
        for (wrong, says) in [
            (Wanted { body: vec![0; SEND_BODY_BYTES_MAX + 1], ..message() }, "a message may have 1 MiB"),
            (Wanted { key: Some(String::new()), ..message() }, "a key has 1 to 512 bytes; this one has 0"),
            (Wanted { key: Some("k".repeat(513)), ..message() }, "a key has 1 to 512 bytes; this one has 513"),
            (Wanted { content_type: Some(String::new()), ..message() }, "a content type has 1 to 256 bytes"),
            (Wanted { delay_ms, ..message() }, "is longer than 365 days"),
            (Wanted { delay_ms: u64::MAX, ..message() }, "is longer than 365 days"),
            (Wanted { attributes: vec![("a".into(), "b".into()); 65], ..message() }, "a message may have 64"),
            (with_attribute("", "b"), "1 to 256 bytes; this one has 0"),
            (with_attribute(&"a".repeat(257), "b"), "1 to 256 bytes; this one has 257"),
            (with_attribute("a", &"b".repeat((8 << 10) + 1)), "a value may have 8 KiB"),
            (with_attribute("linecook-reason", "mine"), "are Linecook's own"),
            (with_attribute("Linecook-Reason", "mine"), "are Linecook's own"),
        ] {
            let (SendError::NotGranted(text) | SendError::LimitExceeded(text) | SendError::Invalid(text)) =
                check(&wrong).unwrap_err();
            assert!(text.contains(says), "{text:?} does not say {says:?}");
        }
    }

    #[test]
    fn refusals_are_remembered_once_and_not_without_end() {
        let refused = Refused::default();
        assert!(refused.note("a", "q"));
        assert!(!refused.note("a", "q"));
        assert!(refused.note("b", "q"));
        let noted = (0..1000).filter(|number| refused.note("a", &number.to_string())).count();
        assert_eq!(noted, Refused::NAMES_MAX - 2);
    }
}
