//! Every limit of the HTTP API, in one place. Sizes are bytes.

use std::time::Duration;

/// The body of one message: 1 MiB. One byte more is refused with 413.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// The body of one batch request: 8 MiB.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// Messages in one batch.
pub const BATCH_MESSAGES_MAX: usize = 10_000;
/// Messages of one request to a subject, times the queues that subscribe to it.
pub const FAN_OUT_MAX: usize = 100_000;
/// The body of a request that only carries parameters.
pub const PARAMETERS_BYTES_MAX: usize = 16 << 10;
/// A body that is too large is still read up to this, and thrown away, so that its sender gets to read the answer
/// instead of a broken connection.
pub const DISCARDED_BYTES_MAX: usize = 16 << 20;

/// The names and values of all headers of a request together; more is refused with 431.
pub const HEADERS_BYTES_MAX: usize = 32 << 10;
/// Headers in a request; more are refused with 431.
pub const HEADERS_MAX: usize = 100;

/// An ordering key.
pub const KEY_BYTES_MAX: usize = 512;
/// An idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 512;
/// A content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 256;
/// Attributes of one message.
pub const ATTRIBUTES_MAX: usize = 64;
/// The name of one attribute.
pub const ATTRIBUTE_NAME_BYTES_MAX: usize = 256;
/// The value of one attribute.
pub const ATTRIBUTE_VALUE_BYTES_MAX: usize = 8 << 10;
/// The longest delay of a message: 365 days.
pub const DELAY_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Messages in one look into a queue.
pub const PEEK_MESSAGES_MAX: usize = 1000;
/// The bodies in one look into a queue: the answer ends after the message that reaches this.
pub const PEEK_BYTES_MAX: usize = 16 << 20;

/// Connections that are open at once. Further ones wait in the kernel's backlog.
pub const CONNECTIONS_MAX: usize = 1024;

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
