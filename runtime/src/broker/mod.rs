//! The queue engine as the rest of the runtime sees it. The embedded engine is one implementation; others (NATS
//! JetStream, RabbitMQ, Redis Streams) stand behind the same trait.

pub mod embedded;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

pub use linecook_store::{HistoryMessage, HistoryPage, HistoryRange, LEASES_MAX};

use crate::delivery::{Delivery, Lease, MessageId, NewMessage, Outgoing, QueueName, Settlement, StateWrite};

/// A boxed future, so that `dyn Broker` works.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A queue engine. All methods may be called from any thread; waiting for durability is the future's part.
pub trait Broker: Send + Sync + 'static {
    /// Makes a queue known. An existing queue keeps its messages and gets the new limits.
    fn declare(&self, queue: &QueueName, limits: QueueLimits) -> Pending<'_, Result<(), BrokerError>>;

    /// Takes no more sends for a queue, and gives none of its messages away, until it is declared again: it has gone from
    /// `queue.toml`. Its messages stay, and what is being handled may end: its settlement may also send there.
    fn retract(&self, queue: &QueueName) -> Pending<'_, Result<(), BrokerError>>;

    /// Sends messages to one queue, all or none. Resolves once they are durable.
    fn publish(&self, queue: &QueueName, messages: Vec<NewMessage>)
    -> Pending<'_, Result<Vec<Published>, BrokerError>>;

    /// Sends messages to any number of queues and writes state, all in one atomic step. Resolves once it is durable, with
    /// one answer for each message, in order.
    fn publish_all(
        &self,
        sends: Vec<Outgoing>,
        state: Vec<StateWrite>,
    ) -> Pending<'_, Result<Vec<Published>, BrokerError>>;

    /// The value of a key in a state space (see [`StateWrite::space`]), as it is on record.
    fn state(&self, space: &str, key: &str) -> Result<Option<Bytes>, BrokerError>;

    /// Keys of a state space in their order, at most `limit`, from after `after` on.
    fn state_keys(&self, space: &str, after: Option<&str>, limit: usize) -> Result<Vec<Box<str>>, BrokerError>;

    /// Bytes of the keys and values of a state space.
    fn state_bytes(&self, space: &str) -> Result<u64, BrokerError> {
        const PAGE: usize = 1000;
        let mut bytes = 0;
        let mut after: Option<Box<str>> = None;
        loop {
            let keys = self.state_keys(space, after.as_deref(), PAGE)?;
            for key in &keys {
                bytes += self.state(space, key)?.map_or(0, |value| (key.len() + value.len()) as u64);
            }
            match keys.into_iter().next_back() {
                Some(last) => after = Some(last),
                None => return Ok(bytes),
            }
        }
    }

    /// Takes away all that is in a state space. Resolves once that is durable.
    fn drop_state(&self, space: &str) -> Pending<'_, Result<(), BrokerError>> {
        let why = format!("this queue engine keeps no state of {space}");
        Box::pin(async move { Err(BrokerError::Read(why)) })
    }

    /// Limits the bytes of a state space. An engine that keeps no state has nothing to limit.
    fn limit_state(&self, _space: &str, _bytes_max: u64) {}

    /// Leases up to `max` ready messages, waiting until there is at least one. Dropping the future leases nothing.
    fn claim(&self, queue: &QueueName, max: usize, lease: Duration) -> Pending<'_, Result<Vec<Delivery>, BrokerError>>;

    /// Leases up to `max` messages that were sent longer ago than this, from the front of the queue on, whether they are
    /// ready or delayed, until one comes that was sent later. There may be none.
    fn claim_expired(
        &self,
        queue: &QueueName,
        older_than: Duration,
        max: usize,
        lease: Duration,
    ) -> Pending<'_, Result<Vec<Delivery>, BrokerError>>;

    /// Writes down that the attempt begins, so that a handler that takes the whole process down is still counted.
    /// Cheap, and not durable against a power loss. False if the lease is gone: then the handler must not run.
    fn begin(&self, lease: Lease) -> bool;

    /// Puts settlements on record, each atomic by itself. One answer for each, in order, once durable.
    fn settle(&self, settlements: Vec<Settlement>) -> Pending<'_, Vec<Result<(), BrokerError>>>;

    /// Acknowledges deliveries that nothing goes with, each by itself. Answers, once durable, which were refused, by their
    /// places. Most settlements are these, and an engine may have a shorter way for them.
    fn acknowledge(&self, leases: &[Lease]) -> Pending<'_, Vec<(usize, BrokerError)>> {
        let settled = self.settle(leases.iter().copied().map(Settlement::ack).collect());
        Box::pin(async move {
            let answers = settled.await.into_iter().enumerate();
            answers.filter_map(|(place, answer)| Some((place, answer.err()?))).collect()
        })
    }

    /// Prolongs a lease to `lease` from now.
    fn extend(&self, lease: Lease, by: Duration) -> Result<(), BrokerError>;

    /// All queues that are declared or hold messages, by name.
    fn queues(&self) -> Pending<'_, Result<Vec<QueueStats>, BrokerError>>;

    /// One queue, if it is declared or holds messages.
    fn queue(&self, queue: &QueueName) -> Pending<'_, Result<QueueStats, BrokerError>>;

    /// The first `limit` messages of a queue in its order, without claiming them.
    fn peek(&self, queue: &QueueName, limit: usize) -> Pending<'_, Result<Vec<PeekedMessage>, BrokerError>>;

    /// The next messages of a queue in its order after a position, at most `limit`, and fewer if they are large.
    fn peek_after(
        &self,
        queue: &QueueName,
        after: Option<u64>,
        limit: usize,
    ) -> Pending<'_, Result<PeekedPage, BrokerError>> {
        let peeked = if after.is_none() { self.peek(queue, limit) } else { Box::pin(async { Ok(Vec::new()) }) };
        Box::pin(async move { Ok(PeekedPage { messages: peeked.await?, ..PeekedPage::default() }) })
    }

    /// Acknowledged messages of a queue that keeps them, in the order of their acknowledgement.
    fn history(&self, queue: &QueueName, _range: &HistoryRange) -> Pending<'_, Result<HistoryPage, BrokerError>> {
        let why = format!("this queue engine keeps no history of queue {queue}");
        Box::pin(async move { Err(BrokerError::Read(why)) })
    }

    /// Moves messages from a dead-letter queue back (to the queue in their facts, or to `to`).
    fn redrive(&self, request: Redrive) -> Pending<'_, Result<Redriven, BrokerError>>;

    /// Takes away all messages that are in a queue by now, also those that are being handled: what comes of those is
    /// discarded. Answers how many went.
    fn purge(&self, queue: &QueueName) -> Pending<'_, Result<u64, BrokerError>>;

    /// What is missing while sends are refused, and what to do about it. Everything else goes on.
    fn shortage(&self) -> Option<String> {
        None
    }

    /// Why the engine has stopped confirming, if it has.
    fn failure(&self) -> Option<String>;
}

/// Limits of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// A send that would take the queue over this is refused.
    pub bytes_max: u64,
    /// For how long a message with the same idempotency key is a duplicate. Zero remembers none.
    pub dedup_window: Duration,
    /// How long acknowledged messages are kept for replay. Zero keeps none.
    pub history: Duration,
}

impl QueueLimits {
    /// Those of a dead-letter queue that `queue.toml` does not name.
    pub const DEAD_LETTERS: QueueLimits =
        QueueLimits { bytes_max: 10 << 30, dedup_window: Duration::ZERO, history: Duration::ZERO };
}

/// What became of a message that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its name; if it is a duplicate, the name of the first message with its idempotency key.
    pub id: MessageId,
    /// A message with its idempotency key was taken before: this one was not.
    pub duplicate: bool,
}

/// The counts of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStats {
    /// Its name.
    pub name: QueueName,
    /// Whether it takes sends. One that does not is there for as long as it holds messages.
    pub declared: bool,
    /// Messages that can be claimed now, or could if an earlier message of their key were not in the way.
    pub ready: u64,
    /// Messages that are not due yet.
    pub delayed: u64,
    /// Messages that are being handled.
    pub leased: u64,
    /// Bytes of bodies and attributes.
    pub bytes: u64,
    /// When the oldest message was sent, in milliseconds of the Unix epoch.
    pub oldest_enqueued_at_ms: Option<u64>,
    /// Acknowledged messages in its history. They count for nothing else.
    pub history: u64,
    /// What those counted for in `bytes`.
    pub history_bytes: u64,
    /// Acknowledged messages that had to go before their time, because the disk was full.
    pub history_given_up: u64,
}

/// The state that a peeked message is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageState {
    /// Can be claimed.
    Ready,
    /// Not due yet.
    Delayed,
    /// Being handled.
    Leased,
}

impl fmt::Display for MessageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MessageState::Ready => "ready",
            MessageState::Delayed => "delayed",
            MessageState::Leased => "leased",
        })
    }
}

/// A message that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeekedMessage {
    /// The message.
    pub message: crate::delivery::Message,
    /// Where it is in its life.
    pub state: MessageState,
    /// Attempts that have started so far.
    pub attempts: u32,
    /// When it is due, in milliseconds of the Unix epoch, if it is delayed.
    pub due_at_ms: Option<u64>,
}

/// Some messages of a queue, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeekedPage {
    /// The messages.
    pub messages: Vec<PeekedMessage>,
    /// If there may be more: after which position they stand.
    pub next: Option<u64>,
    /// Messages in between that can't be read and are left out.
    pub unreadable: u64,
}

/// Which dead letters go back, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redrive {
    /// The dead-letter queue.
    pub from: QueueName,
    /// Where they go; by default the source queue that each one names.
    pub to: Option<QueueName>,
    /// At most this many, oldest first.
    pub limit: Option<usize>,
    /// Only count.
    pub dry_run: bool,
}

/// What a redrive did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Messages that went back, or would have.
    pub moved: u64,
    /// Messages that stayed because they name no source queue, or one that is not declared.
    pub skipped: u64,
}

/// Why the engine said no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// The queue is not declared.
    #[error("there is no queue {0}")]
    NoSuchQueue(QueueName),
    /// The queue holds `bytes_max` already.
    #[error("queue {queue} is full ({bytes_max} bytes)")]
    QueueFull {
        /// Which one.
        queue: QueueName,
        /// Its limit.
        bytes_max: u64,
    },
    /// The engine has no room for more messages.
    #[error("{0}")]
    StoreFull(String),
    /// A message is larger than the engine takes.
    #[error("a message of {bytes} bytes is larger than the limit of {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// A key of state that nobody may use.
    #[error("{0}")]
    StateKey(String),
    /// A state space holds all that it may.
    #[error("{space}'s state is full: it would take {bytes} bytes, and may take {bytes_max} (limits.state_bytes)")]
    StateFull {
        /// Which one.
        space: Box<str>,
        /// What it would come to.
        bytes: u64,
        /// Its limit.
        bytes_max: u64,
    },
    /// State has changed since it was read: what was to be written is out of date.
    #[error("{space}'s state has changed at key {key:?} since it was read")]
    StateChanged {
        /// Which space.
        space: Box<str>,
        /// Where.
        key: Box<str>,
    },
    /// The lease has expired, was settled, or was never given.
    #[error("the lease is no longer valid: it expired or the delivery was settled")]
    LeaseLost,
    /// The engine has stopped: it confirms nothing more.
    #[error("the queue engine has stopped: {0}")]
    Stopped(String),
    /// Reading failed.
    #[error("{0}")]
    Read(String),
}
