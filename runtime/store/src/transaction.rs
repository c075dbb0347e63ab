//! What callers ask the store to put on record, and what it answers.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::disk::Shortage;
use crate::{Lease, MessageId, NewMessage, QueueName};

/// One atomic step: it lies whole in one frame of the log, so all of it happens or nothing does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The delivery that it settles. If the lease is no longer valid, nothing of the transaction happens.
    pub settle: Option<(Lease, Action)>,
    /// Messages that it sends, to any number of queues.
    pub sends: Sends,
    /// What it writes of consumers' and producers' durable state.
    pub state: Vec<StateWrite>,
    /// What it saw of that state before. If a value is another one by now, nothing of the transaction happens.
    pub state_reads: Vec<StateRead>,
}

/// What the committer is given. Most of it is acks that nothing goes with, and those need a tenth of a transaction's room.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    /// A transaction that acknowledges this delivery, and no more.
    Ack(Lease),
    Whole(Box<Transaction>),
}

impl From<Transaction> for Job {
    fn from(transaction: Transaction) -> Job {
        let Transaction { settle, sends, state, state_reads } = &transaction;
        match settle {
            Some((lease, Action::Ack)) if sends.is_empty() && state.is_empty() && state_reads.is_empty() => {
                Job::Ack(*lease)
            }
            _ => Job::Whole(Box::new(transaction)),
        }
    }
}

impl Job {
    /// The transaction, if there is more to it than an ack.
    pub(crate) fn whole(&self) -> Option<&Transaction> {
        match self {
            Job::Ack(_) => None,
            Job::Whole(transaction) => Some(transaction),
        }
    }

    pub(crate) fn sends(&self) -> &[(QueueName, NewMessage)] {
        self.whole().map_or(&[], |transaction| &transaction.sends)
    }
}

/// A value of durable key-value state, as somebody saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRead {
    /// Whose state it is; see [`StateWrite::space`].
    pub space: Box<str>,
    /// The key.
    pub key: Box<str>,
    /// The value, or `None` if there was none.
    pub seen: Option<Bytes>,
}

/// One change of durable key-value state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateWrite {
    /// Whose state it is: `consumer/NAME` or `producer/NAME`. Keys of different spaces have nothing to do with each other.
    pub space: Box<str>,
    /// The key.
    pub key: Box<str>,
    /// The new value, or `None` to take the key away.
    pub value: Option<Bytes>,
}

/// Most transactions send one message or none: those need no allocation.
pub type Sends = SmallVec<[(QueueName, NewMessage); 1]>;

/// What becomes of a delivered message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It is gone.
    Ack,
    /// The attempt failed; it is due again after so many milliseconds.
    Retry {
        /// Until it is ready.
        delay_ms: u64,
    },
    /// It is due again after so many milliseconds, and the attempt does not count.
    Snooze {
        /// Until it is ready.
        delay_ms: u64,
    },
    /// It goes to the end of another queue, keeps its id and body, and starts again at attempt 1. Dead-lettering and
    /// redriving are this.
    Move {
        /// Where it goes.
        queue: QueueName,
        /// What happens to its attributes.
        attributes: AttributeEdit,
    },
    /// The attempt never started: ready again, as if it had not been claimed. Nothing is written.
    Release,
}

/// A change of a message's attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeEdit {
    /// Adds these, in place of those of the same name.
    Set(Vec<(Box<str>, Box<str>)>),
    /// Takes away all whose names start with [`crate::ATTRIBUTE_PREFIX_RESERVED`], but for [`crate::ATTRIBUTE_SUBJECT`].
    /// What is redriven so is as if it were sent now: its time of sending is that of the move.
    StripReserved,
}

impl AttributeEdit {
    /// Whether the message's age counts from now on: one that has waited too long would not come back otherwise.
    pub(crate) fn starts_anew(&self) -> bool {
        matches!(self, AttributeEdit::StripReserved)
    }

    /// Bytes that it may add to the message's record.
    pub(crate) fn bytes_gained(&self) -> u64 {
        match self {
            AttributeEdit::Set(new) => new.iter().map(|(name, value)| (name.len() + value.len() + 20) as u64).sum(),
            AttributeEdit::StripReserved => 0,
        }
    }

    pub(crate) fn apply(&self, attributes: &mut Vec<(Box<str>, Box<str>)>) {
        match self {
            AttributeEdit::Set(new) => {
                attributes.retain(|(name, _)| !new.iter().any(|(new_name, _)| new_name == name));
                attributes.extend(new.iter().cloned());
            }
            AttributeEdit::StripReserved => {
                attributes.retain(|(name, _)| {
                    !name.starts_with(crate::ATTRIBUTE_PREFIX_RESERVED) || **name == *crate::ATTRIBUTE_SUBJECT
                });
            }
        }
    }
}

/// What became of the messages that a transaction sent, in order.
pub type Receipt = SmallVec<[Sent; 1]>;

/// What became of a message that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Its name; if it is a duplicate, the name of the first message with its idempotency key.
    pub id: MessageId,
    /// A message with its idempotency key was taken before, within the queue's window: this one was not.
    pub duplicate: bool,
}

/// Why a transaction did not happen. Nothing of it did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A queue that is not declared; for a settlement, one that never was.
    #[error("there is no queue {0}")]
    NoSuchQueue(QueueName),
    /// The queue's own limit.
    #[error("queue {queue} is full: it may hold {bytes_max} bytes")]
    QueueFull {
        /// Which one.
        queue: QueueName,
        /// Its limit.
        bytes_max: u64,
    },
    /// The disk has no room for more messages. Acks, retries and dead letters still work.
    #[error("the disk is full: free some space, or consume some messages; acks, retries and dead letters still work")]
    DiskFull,
    /// The store can't open one more file, so that it can't make room for more messages.
    #[error(
        "too many open files: the store can't make room for more messages until some are closed, or the limit is \
         raised (`ulimit -n`); acks, retries and dead letters still work"
    )]
    OutOfFiles,
    /// More than fits into one frame.
    #[error("{bytes} bytes in one step are more than the log takes ({bytes_max})")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// A key of durable state that nobody may use.
    #[error("a key of {space} has {bytes} bytes; a key has 1 to {max}", max = crate::STATE_KEY_BYTES_MAX)]
    StateKey {
        /// Whose state it is.
        space: Box<str>,
        /// How long the key is.
        bytes: u64,
    },
    /// The limit of a space of durable state.
    #[error("the state of {space} is full: it would take {bytes} bytes, and may take {bytes_max}")]
    StateFull {
        /// Whose state it is.
        space: Box<str>,
        /// What it would come to.
        bytes: u64,
        /// Its limit.
        bytes_max: u64,
    },
    /// A value that the transaction had read is another one by now: it is to be tried again with the new one.
    #[error("the state of {space} has changed since it was read, at key {key:?}")]
    StateChanged {
        /// Whose state it is.
        space: Box<str>,
        /// Where.
        key: Box<str>,
    },
    /// The lease has expired or was settled.
    #[error("the lease is no longer valid: it expired, or the delivery was settled")]
    LeaseLost,
    /// The content of a message could not be read; it stays where it was.
    #[error("{0}")]
    Read(Arc<str>),
    /// The store has stopped after a failed write; nothing more is confirmed.
    #[error("the store has stopped: {0}")]
    Stopped(Arc<str>),
}

impl From<Shortage> for Refusal {
    fn from(shortage: Shortage) -> Refusal {
        match shortage {
            Shortage::Disk => Refusal::DiskFull,
            Shortage::OpenFiles => Refusal::OutOfFiles,
        }
    }
}
