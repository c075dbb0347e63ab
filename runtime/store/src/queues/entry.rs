//! One message, as the queues see it.

use std::fmt;
use std::sync::Arc;

use crate::record::{DeliveryState, QueueNumber};

/// What is known of a message without reading it. The fields up to `location` come from its put and the last two from
/// its life since; only `phase` is not in the log.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) queue: QueueNumber,
    pub(crate) position: u64,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) enqueued_at_ms: u64,
    /// Of body, key, content type and attributes.
    pub(crate) bytes: u64,
    pub(crate) location: Location,
    pub(crate) state: DeliveryState,
    pub(crate) phase: Phase,
}

/// Where a message is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// On its way from one phase to another.
    Absent,
    Ready,
    Delayed {
        holds_key: bool,
    },
    Leased {
        token: u64,
        expires_at_ms: u64,
        /// Its handler has started.
        begun: bool,
        settling: Settling,
    },
}

/// Whether the end of a lease is on its way to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settling {
    No,
    Yes,
}

impl Entry {
    /// Whether a lease with this token can be settled.
    pub(crate) fn is_leased_as(&self, wanted: u64) -> bool {
        matches!(self.phase, Phase::Leased { token, settling: Settling::No, .. } if token == wanted)
    }

    /// Attempts that started, the running one among them.
    pub(crate) fn attempts_started(&self) -> u32 {
        let begun = matches!(self.phase, Phase::Leased { begun: true, .. });
        self.state.attempts.saturating_add(u32::from(begun))
    }
}

/// Where the put of a message stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    /// The epoch of the file.
    pub(crate) file: u64,
    /// From the start of the file.
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

impl Location {
    /// Of a record that is no put.
    pub(crate) const NONE: Location = Location { file: 0, offset: 0, len: 0 };
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at offset {} of the log file with epoch {}", self.len, self.offset, self.file)
    }
}
