//! The facts that a dead letter gains, as attributes. They survive everything but a redrive, which takes them away.

use crate::delivery::{Message, QueueName};
use crate::time::rfc3339;

/// The queue that the message was claimed from.
pub const SOURCE_QUEUE: &str = "linecook-source-queue";
/// The consumer that gave up on it.
pub const CONSUMER: &str = "linecook-consumer";
/// The SHA-256 of the module that handled the last attempt, in hexadecimal.
pub const MODULE_HASH: &str = "linecook-module-hash";
/// Attempts that started.
pub const ATTEMPTS: &str = "linecook-attempts";
/// Why, for people.
pub const REASON: &str = "linecook-reason";
/// The last bytes that the last attempt wrote to stderr.
pub const STDERR: &str = "linecook-stderr";
/// When an attempt first failed, RFC 3339 in UTC.
pub const FIRST_FAILED_AT: &str = "linecook-first-failed-at";
/// When the last attempt failed, RFC 3339 in UTC.
pub const LAST_FAILED_AT: &str = "linecook-last-failed-at";

/// What is known about a message that was given up.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// See [`SOURCE_QUEUE`].
    pub source_queue: &'a QueueName,
    /// See [`CONSUMER`].
    pub consumer: &'a str,
    /// See [`MODULE_HASH`]; empty if no module was involved.
    pub module_hash: &'a str,
    /// See [`ATTEMPTS`].
    pub attempts: u32,
    /// See [`REASON`].
    pub reason: &'a str,
    /// See [`STDERR`].
    pub stderr: &'a str,
    /// Milliseconds of the Unix epoch.
    pub first_failed_at_ms: u64,
    /// Milliseconds of the Unix epoch.
    pub last_failed_at_ms: u64,
}

impl Facts<'_> {
    /// As attributes. Every one is there, so that each replaces what an earlier dead-lettering left.
    pub fn attributes(&self) -> Vec<(Box<str>, Box<str>)> {
        [
            (SOURCE_QUEUE, self.source_queue.as_str().into()),
            (CONSUMER, self.consumer.into()),
            (MODULE_HASH, self.module_hash.into()),
            (ATTEMPTS, self.attempts.to_string().into()),
            (REASON, self.reason.into()),
            (STDERR, self.stderr.into()),
            (FIRST_FAILED_AT, rfc3339(self.first_failed_at_ms).into()),
            (LAST_FAILED_AT, rfc3339(self.last_failed_at_ms).into()),
        ]
        .map(|(name, value): (&str, Box<str>)| (name.into(), value))
        .into()
    }
}

/// The queue that a dead letter came from, if it is one.
pub fn source_queue(message: &Message) -> Option<QueueName> {
    let (_, name) = message.attributes.iter().find(|(name, _)| **name == *SOURCE_QUEUE)?;
    QueueName::new(name).ok()
}
