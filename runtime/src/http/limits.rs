//! Every limit of the HTTP API, in one place. Sizes are bytes.

use std::time::Duration;

pub use crate::delivery::limits::{
    ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_MAX, BODY_BYTES_MAX, CONTENT_TYPE_BYTES_MAX,
    IDEMPOTENCY_KEY_BYTES_MAX, KEY_BYTES_MAX,
};

/// The body of one batch request: 8 MiB.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// Messages in one batch.
pub const BATCH_MESSAGES_MAX: usize = 10_000;
/// Messages of one request to a subject, times the queues that subscribe to it.
pub const FAN_OUT_MAX: usize = 100_000;
/// The body of a request that only carries parameters.
pub const PARAMETERS_BYTES_MAX: usize = 16 << 10;
/// The body of a request with a reason, however its characters are escaped.
pub const REASON_REQUEST_BYTES_MAX: usize = 64 << 10;
/// A body that is too large is still read up to this, and thrown away, so that its sender gets to read the answer
/// instead of a broken connection.
pub const DISCARDED_BYTES_MAX: usize = 16 << 20;

/// Bodies of all requests that are being received or wait for the disk: 256 MiB. More is refused with 503.
pub const BUFFERED_BYTES_MAX: usize = 256 << 20;

/// Answers of all requests that their clients have not read yet: 256 MiB. Whatever may be answered at length is refused
/// with 503 beyond it.
pub const ANSWERED_BYTES_MAX: usize = 256 << 20;

/// Messages in one claim.
pub const CLAIM_MESSAGES_MAX: usize = 100;
/// The bodies in one claim: it ends after the messages that reach this.
pub const CLAIM_BYTES_MAX: usize = 4 << 20;
/// Leases that clients hold at once: half of those that there are, so that clients who settle nothing leave the others to
/// the consumers. Further claims are refused with 429.
pub const LEASES_MAX: usize = crate::broker::LEASES_MAX / 2;
/// The shortest lease of a client.
pub const LEASE_MIN: Duration = Duration::from_secs(1);
/// The longest lease of a client.
pub const LEASE_MAX: Duration = Duration::from_secs(12 * 3600);
/// The longest wait for a message.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// The reason of a dead letter, in characters.
pub const REASON_CHARS_MAX: usize = 4096;
/// Answers in one request.
pub const SETTLEMENTS_MAX: usize = 1000;

/// The names and values of all headers of a request together; more is refused with 431.
pub const HEADERS_BYTES_MAX: usize = 32 << 10;
/// Headers in a request; more are refused with 431. Below 100, from where on hyper refuses them without a word.
pub const HEADERS_MAX: usize = 96;

/// The longest delay of a message: 365 days.
pub const DELAY_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Messages in one look into a queue.
pub const PEEK_MESSAGES_MAX: usize = 1000;
/// The bodies in one look into a queue, whatever the engine hands out: the answer ends after the message that reaches this.
pub const PEEK_BYTES_MAX: usize = 16 << 20;
/// The messages in one look into a history: the answer ends after the message that reaches this.
pub const HISTORY_BYTES_MAX: usize = 8 << 20;
/// Messages that one request replays.
pub const REPLAY_MESSAGES_MAX: usize = 10_000;
/// The name of a replay.
pub const REPLAY_ID_BYTES_MAX: usize = 128;

/// Connections that are open at once, or half of the files that the process may open, if that is less. Further ones are
/// answered with 503 and closed. An idle one takes a few KiB.
pub const CONNECTIONS_MAX: usize = 8192;

/// A client that takes nothing of what it is to get for so long is cut off.
pub const UNREAD_PATIENCE: Duration = Duration::from_secs(30);

/// How long the parts of a conversation may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the last answer, or the start of the connection, to the end of a request's headers.
    pub headers: Duration,
    /// To receive a whole body.
    pub body: Duration,
    /// For running requests to end once the server is told to stop.
    pub shutdown: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { headers: Duration::from_secs(15), body: Duration::from_secs(30), shutdown: Duration::from_secs(10) }
    }
}
