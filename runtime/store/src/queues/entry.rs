//! One message, as the queues see it.

use std::sync::Arc;

use crate::attempts::Slot;
use crate::location::{FileId, Location};
use crate::record::DeliveryState;
use crate::short::Short;

/// What is known of a message without reading it. Most messages are only ever ready, so what the others need lies apart.
///
/// There is one for each message in the log, of which there may be millions: 48 bytes each.
#[derive(Debug)]
pub(crate) struct Entry {
    sequence: Short,
    enqueued_at_ms: Short,
    file: Short,
    /// 0 for at once. Not among the rare things: messages may be delayed by the million.
    due_at_ms: Short,
    offset: u32,
    len: u32,
    /// Of body, key, content type and attributes.
    pub(crate) bytes: u32,
    /// Not in the log.
    pub(super) phase: Phase,
    pub(super) rare: Option<Box<Rare>>,
}

const _: () = assert!(size_of::<Option<Entry>>() == 48);

/// What only messages have that carry a key or were retried.
#[derive(Debug, Default)]
pub(super) struct Rare {
    pub(super) key: Option<Arc<str>>,
    attempts: u32,
    first_failed_at_ms: u64,
}

/// Where a message is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// On its way from one phase to another.
    Absent,
    /// Ready since it was put, without a key, and never claimed: found by walking, listed nowhere.
    Fresh,
    /// Ready and listed, or waiting for an earlier message of its key.
    Ready,
    Delayed {
        holds_key: bool,
    },
    Leased {
        /// Of its lease.
        slot: Slot,
        /// It was delayed, and its key waited for it. If it is given back, that is so again.
        held_key: bool,
    },
}

impl Entry {
    /// A message without a key and a phase, in its first state.
    pub(super) fn new(sequence: u64, enqueued_at_ms: u64, bytes: u32, location: Location) -> Entry {
        let Location { file, offset, len } = location;
        Entry {
            sequence: Short::new(sequence),
            enqueued_at_ms: Short::at_most(enqueued_at_ms),
            file: file.to_short(),
            due_at_ms: Short::ZERO,
            offset,
            len,
            bytes,
            phase: Phase::Absent,
            rare: None,
        }
    }

    /// The number in its id.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.get()
    }

    pub(crate) fn enqueued_at_ms(&self) -> u64 {
        self.enqueued_at_ms.get()
    }

    /// The file that it stands in.
    pub(crate) fn file(&self) -> FileId {
        FileId::from_short(self.file)
    }

    pub(crate) fn location(&self) -> Location {
        Location { file: self.file(), offset: self.offset, len: self.len }
    }

    /// It was copied.
    pub(super) fn set_location(&mut self, location: Location) {
        let Location { file, offset, len } = location;
        (self.file, self.offset, self.len) = (file.to_short(), offset, len);
    }

    /// Whether there is nothing more to know of it than that it waits.
    pub(super) fn is_plain(&self) -> bool {
        self.rare.is_none() && self.due_at_ms == Short::ZERO
    }

    pub(super) fn key(&self) -> Option<&Arc<str>> {
        self.rare.as_ref()?.key.as_ref()
    }

    pub(crate) fn state(&self) -> DeliveryState {
        let (attempts, first_failed_at_ms) =
            self.rare.as_ref().map_or((0, 0), |rare| (rare.attempts, rare.first_failed_at_ms));
        DeliveryState { attempts, due_at_ms: self.due_at_ms.get(), first_failed_at_ms }
    }

    pub(super) fn set_state(&mut self, state: DeliveryState) {
        let DeliveryState { attempts, due_at_ms, first_failed_at_ms } = state;
        self.due_at_ms = Short::at_most(due_at_ms);
        if self.rare.is_some() || (attempts, first_failed_at_ms) != (0, 0) {
            let rare = self.rare.get_or_insert_default();
            (rare.attempts, rare.first_failed_at_ms) = (attempts, first_failed_at_ms);
        }
    }

    /// It is delayed and its key waits for it, or was until it was leased.
    pub(crate) fn holds_key(&self) -> bool {
        match self.phase {
            Phase::Delayed { holds_key } => holds_key,
            Phase::Leased { held_key, .. } => held_key,
            Phase::Absent | Phase::Fresh | Phase::Ready => false,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }
}
