//! `linecook:worker/queues`: what a guest sends is checked here and collected; nothing leaves before the delivery is settled.

use std::time::Duration;

use bytes::Bytes;
use linecook_store::{ATTRIBUTE_PREFIX_RESERVED, MessageId};
use wasmtime::component::HasData;

use crate::delivery::limits::{ATTRIBUTE_BYTES, MESSAGE_BYTES};
use crate::delivery::{NewMessage, Outgoing, QueueName};
use crate::sandbox::bindings::linecook::worker::queues::{self, Outgoing as Wanted, SendError};
use crate::sandbox::grants::Grant;
use crate::sandbox::limits::{
    ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_MAX, CONTENT_TYPE_BYTES_MAX, DELAY_MAX,
    KEY_BYTES_MAX, SEND_BODY_BYTES_MAX, SENT_OVERHEAD_BYTES_MAX, bytes_text,
};
use crate::sandbox::state::{Outside, State};
use crate::subjects::{self, Subject};

/// What one delivery, or one batch, has sent so far.
#[derive(Default)]
pub(in crate::sandbox) struct Sends {
    /// The messages that are being handled: more than one only in a batch.
    handled: Vec<MessageId>,
    messages: Vec<Sent>,
    bytes: u64,
    /// What the messages take beside their bytes, more or less.
    overhead_bytes: u64,
    limit_hit: bool,
}

/// What was sent, and the place of the message in the batch whose acknowledgement it goes with.
pub(in crate::sandbox) struct Sent {
    pub(in crate::sandbox) with_ack_of: Option<usize>,
    pub(in crate::sandbox) outgoing: Outgoing,
}

impl Sends {
    /// Starts anew, for these messages.
    pub(in crate::sandbox) fn begin(&mut self, messages: impl Iterator<Item = MessageId>) {
        self.take();
        self.handled.clear();
        self.handled.extend(messages);
        self.limit_hit = false;
    }

    /// In order.
    pub(in crate::sandbox) fn take(&mut self) -> Vec<Sent> {
        (self.bytes, self.overhead_bytes) = (0, 0);
        std::mem::take(&mut self.messages)
    }

    /// Whether there is nothing to take.
    pub(in crate::sandbox) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The place of one of these messages.
    pub(in crate::sandbox) fn place(&self, id: MessageId) -> Option<usize> {
        // Most handlers send for their messages in order: the last one is where to begin.
        let last = self.messages.last().and_then(|sent| sent.with_ack_of).unwrap_or(0);
        (last..self.handled.len()).chain(0..last).find(|place| self.handled[*place] == id)
    }

    /// Whether something was refused because it was too much.
    pub(in crate::sandbox) fn limit_hit(&self) -> bool {
        self.limit_hit
    }
}

const _: () = assert!(size_of::<Sent>() as u64 <= MESSAGE_BYTES);

/// Where one message goes.
struct Targets {
    queues: Vec<QueueName>,
    /// If it was sent to one.
    subject: Option<Box<str>>,
}

/// Checks and collects what one delivery sends.
pub(in crate::sandbox) struct Sender<'s> {
    outside: &'s Outside,
    sends: &'s mut Sends,
}

impl Sender<'_> {
    pub(in crate::sandbox) fn of(state: &mut State) -> Sender<'_> {
        Sender { outside: &state.outside, sends: &mut state.sends }
    }

    /// Where what is sent to this name goes. A grant that names a queue makes it the queue; otherwise it is a subject.
    fn targets(&self, name: &str) -> Result<Targets, SendError> {
        let Outside { settings, access, .. } = self.outside;
        let grants = &settings.grants;
        if let Some(queue) = grants.send.iter().find(|queue| queue.as_str() == name) {
            return Ok(Targets { queues: vec![queue.clone()], subject: None });
        }
        let subject = Subject::new(name)
            .map_err(|error| SendError::Invalid(format!("{name:?} is not a queue name, and {error}")))?;
        if !grants.send_subjects.iter().any(|pattern| pattern.matches(name)) {
            let what = format!("a send to {name} was refused: it is not granted");
            access.tell_denied(settings, Grant::Send, name, &what);
            let consumer = &settings.consumer;
            let text = format!("{consumer} has no grant to send to {name}: its grants' `send` must name it");
            return Err(SendError::NotGranted(text));
        }
        let queues = access.subjects.current().queues(&subject);
        if queues.is_empty() {
            let text = format!("no queue subscribes to {name}: nobody would get the message");
            return Err(SendError::Invalid(text));
        }
        Ok(Targets { queues, subject: Some(name.into()) })
    }
}

/// The data of the interface.
pub(super) struct Queues;

impl HasData for Queues {
    type Data<'s> = Sender<'s>;
}

impl queues::Host for Sender<'_> {
    fn send(&mut self, queue: String, message: Wanted) -> Result<(), SendError> {
        self.collect(None, &queue, message)
    }

    fn send_for(&mut self, message_id: String, queue: String, message: Wanted) -> Result<(), SendError> {
        let id: Option<MessageId> = message_id.parse().ok();
        let place = id.and_then(|id| self.sends.place(id));
        if place.is_none() {
            let text = format!("{message_id:?} is not the id of a message that is being handled");
            return Err(SendError::Invalid(text));
        }
        self.collect(place, &queue, message)
    }
}

impl Sender<'_> {
    fn collect(&mut self, with_ack_of: Option<usize>, queue: &str, message: Wanted) -> Result<(), SendError> {
        let collected = self.check_and_collect(with_ack_of, queue, message);
        self.sends.limit_hit |= matches!(collected, Err(SendError::LimitExceeded(_)));
        collected
    }

    fn check_and_collect(&mut self, with_ack_of: Option<usize>, queue: &str, message: Wanted) -> Result<(), SendError> {
        let Targets { queues, subject } = self.targets(queue)?;
        // Each queue gets a message of its own, and each of them counts.
        let bytes = check(&message)? * queues.len() as u64;
        let limits = &self.outside.settings.limits;
        // A batch may send as much as its messages could one by one. The bytes are the host's memory: they don't grow.
        let room = (limits.sends as usize * self.sends.handled.len().max(1)).saturating_sub(self.sends.messages.len());
        if queues.len() > room {
            return Err(SendError::LimitExceeded(format!(
                "a delivery may send {} messages (limits.sends)",
                limits.sends
            )));
        }
        if self.sends.bytes + bytes > limits.send_bytes {
            let max = bytes_text(limits.send_bytes);
            return Err(SendError::LimitExceeded(format!("a delivery may send {max} in all (limits.send_bytes)")));
        }
        // An empty message weighs nothing, and a batch may send a thousand times as many.
        let attributes = message.attributes.len() as u64 + u64::from(subject.is_some());
        let overhead_bytes = (MESSAGE_BYTES + ATTRIBUTE_BYTES * attributes) * queues.len() as u64;
        if self.sends.overhead_bytes + overhead_bytes > SENT_OVERHEAD_BYTES_MAX {
            let max = bytes_text(SENT_OVERHEAD_BYTES_MAX);
            return Err(SendError::LimitExceeded(format!(
                "what is sent at once may take {max} beside its bytes: {MESSAGE_BYTES} for each message, and \
                 {ATTRIBUTE_BYTES} for each of its attributes"
            )));
        }
        self.sends.bytes += bytes;
        self.sends.overhead_bytes += overhead_bytes;
        let mut message = NewMessage {
            body: Bytes::from(message.body),
            content_type: message.content_type.map(String::into_boxed_str),
            key: message.key.map(String::into_boxed_str),
            attributes: message.attributes.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            delay_ms: message.delay_ms,
            ..NewMessage::default()
        };
        message.attributes.extend(subject.map(|subject| (subjects::ATTRIBUTE.into(), subject)));
        let copies = queues.into_iter().map(|queue| Outgoing { queue, message: message.clone() });
        self.sends.messages.extend(copies.map(|outgoing| Sent { with_ack_of, outgoing }));
        Ok(())
    }
}

/// Checks one message by itself, and gives its size.
fn check(message: &Wanted) -> Result<u64, SendError> {
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
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sandbox::InstanceSettings;
    use crate::sandbox::grants::Access;

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
        assert_eq!(check(&largest).unwrap(), bytes as u64);
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
    fn messages_without_a_byte_are_not_for_nothing() {
        let mut settings = InstanceSettings::of_a_test();
        settings.grants.send = vec![QueueName::new("audit").unwrap()];
        // As many as can be configured, of a batch that is as large as one can be.
        settings.limits.sends = 100_000;
        let outside = Outside {
            settings: Arc::new(settings),
            access: Arc::new(Access::of_a_test()),
            connections: None,
            limit_hit: false,
        };
        let sent = |attributes: u64| {
            let mut sends = Sends::default();
            sends.begin((0..1000).map(|sequence| MessageId::new(1, sequence)));
            let mut sender = Sender { outside: &outside, sends: &mut sends };
            let attributes: Vec<_> = (0..attributes).map(|_| ("a".to_owned(), String::new())).collect();
            let empty = || Wanted { body: Vec::new(), attributes: attributes.clone(), ..message() };
            let refused = (0..).find_map(|_| sender.collect(None, "audit", empty()).err()).unwrap();
            let SendError::LimitExceeded(why) = refused else { panic!("{refused:?}") };
            assert!(why.contains("64 MiB beside its bytes"), "{why}");
            assert!(sends.limit_hit());
            let count = sends.take().len() as u64;
            assert_eq!(sends.overhead_bytes, 0, "the next delivery begins anew");
            count
        };
        let max = 64 << 20;
        assert_eq!([sent(0), sent(12)], [max / 256, max / (256 + 12 * 64)]);
    }
}
