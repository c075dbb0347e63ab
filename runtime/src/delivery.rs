//! What happens to one delivery: its outcome, what its handler sent, and the settlement that puts both on record.

use std::time::Duration;

pub mod limits;

pub use linecook_store::{Delivery, Lease, Message, MessageId, NewMessage, QueueName, StateRead, StateWrite};

/// The space of a consumer's durable state (see [`StateWrite::space`]).
pub fn consumer_space(consumer: &str) -> Box<str> {
    format!("consumer/{consumer}").into()
}

/// How a handler, or what became of it, answers for a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done: the message is gone.
    Ack,
    /// A failed attempt. It comes back after `after`, or after the consumer's backoff.
    Retry {
        /// What failed, for people.
        reason: String,
        /// The handler's own wish for the delay.
        after: Option<Duration>,
    },
    /// Not now, and no attempt is used up.
    Snooze {
        /// How long it waits.
        after: Duration,
    },
    /// It can never succeed.
    DeadLetter {
        /// Why, for people.
        reason: String,
    },
}

impl Outcome {
    /// Whether the attempt failed. One that was put off did not.
    pub fn is_failure(&self) -> bool {
        matches!(self, Outcome::Retry { .. } | Outcome::DeadLetter { .. })
    }
}

/// A message that a handler sent. It exists only if the delivery is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The queue that it goes to.
    pub queue: QueueName,
    /// What is sent.
    pub message: NewMessage,
}

/// What is put on record for one delivery, in one atomic step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The right to settle. If it is no longer valid, nothing of this settlement happens.
    pub lease: Lease,
    /// What becomes of the message.
    pub resolution: Resolution,
    /// What is sent in the same step.
    pub sends: Vec<Outgoing>,
    /// What is written of the consumer's state in the same step.
    pub state: Vec<StateWrite>,
    /// What its handler had read of that state. If a value is another one by now, nothing of this settlement happens.
    pub state_reads: Vec<StateRead>,
}

impl Settlement {
    /// An ack that nothing goes with.
    pub fn ack(lease: Lease) -> Settlement {
        let (sends, state, state_reads) = Default::default();
        Settlement { lease, resolution: Resolution::Ack, sends, state, state_reads }
    }
}

/// What a handler read and wrote of its durable state. Like what it sent, it exists only if the delivery is acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateUse {
    /// The values that it saw, before it wrote any of them.
    pub reads: Vec<StateRead>,
    /// What it wrote.
    pub writes: Vec<StateWrite>,
}

/// What a handler did that goes on record with the ack of its message. To be dropped unless there is one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// What was sent.
    pub sends: Vec<Outgoing>,
    /// What was done with the durable state.
    pub state: StateUse,
}

impl Effects {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        let Effects { sends, state: StateUse { reads, writes } } = self;
        sends.is_empty() && reads.is_empty() && writes.is_empty()
    }
}

impl From<Vec<Outgoing>> for Effects {
    fn from(sends: Vec<Outgoing>) -> Effects {
        Effects { sends, ..Effects::default() }
    }
}

/// What becomes of the message: the outcome after the consumer's policy (backoff, limits) was applied to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The message is gone.
    Ack,
    /// A failed attempt: the message is due again after `delay`.
    Retry {
        /// How long until it is ready.
        delay: Duration,
    },
    /// The message is due again after `delay`, and its attempt does not count.
    Snooze {
        /// How long until it is ready.
        delay: Duration,
    },
    /// The message moves to `queue` and gains `facts` as attributes; `attempt` starts again at 1 there.
    DeadLetter {
        /// The dead-letter queue.
        queue: QueueName,
        /// Attributes that replace those of the same name.
        facts: Vec<(Box<str>, Box<str>)>,
    },
    /// The attempt never started: back to ready as if it had not been claimed.
    Release,
}

/// A delivery for unit tests, with a body of so many bytes.
#[cfg(test)]
pub(crate) fn sample(sequence: u64, attempt: u32, bytes: usize) -> Delivery {
    Delivery {
        message: Message {
            id: MessageId::new(1, sequence),
            body: vec![b'x'; bytes].into(),
            content_type: None,
            key: None,
            attributes: Vec::new(),
            enqueued_at_ms: 0,
        },
        attempt,
        first_failed_at_ms: None,
        lease: Lease { queue: 1, position: sequence, token: 7 },
    }
}
