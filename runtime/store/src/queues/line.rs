//! One queue: its messages in order, and which of them can be claimed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::entry::{Entry, Phase};
use super::keys::Keys;
use crate::QueueName;

pub(super) struct Line {
    pub(super) name: QueueName,
    pub(super) declared: bool,
    /// A durable record gives the queue its number.
    pub(super) named_in_log: bool,
    pub(super) bytes_max: u64,
    pub(super) bytes: u64,
    /// Held for messages that are on their way to the disk.
    pub(super) bytes_reserved: u64,
    pub(super) leased: u64,
    /// All messages: position to sequence.
    pub(super) order: BTreeMap<u64, u64>,
    /// (position, sequence) of the ready messages that no earlier message of their key holds back.
    pub(super) claimable: BTreeSet<(u64, u64)>,
    /// (due at, position, sequence)
    pub(super) delayed: BTreeSet<(u64, u64, u64)>,
    pub(super) keys: Keys,
}

impl Line {
    pub(super) fn new(name: QueueName) -> Line {
        Line {
            name,
            declared: false,
            named_in_log: false,
            bytes_max: u64::MAX,
            bytes: 0,
            bytes_reserved: 0,
            leased: 0,
            order: BTreeMap::new(),
            claimable: BTreeSet::new(),
            delayed: BTreeSet::new(),
            keys: Keys::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Puts a message that has no phase among the ready or the delayed. `holds_key`: if it is delayed, its key waits.
    pub(super) fn arrange(&mut self, entry: &mut Entry, sequence: u64, holds_key: bool) {
        let due_at_ms = entry.state.due_at_ms;
        if due_at_ms == 0 {
            entry.phase = Phase::Ready;
            self.make_ready(entry.position, sequence, entry.key.as_ref());
        } else {
            let held = holds_key && entry.key.is_some();
            entry.phase = Phase::Delayed { holds_key: held };
            self.delayed.insert((due_at_ms, entry.position, sequence));
            if let Some(key) = entry.key.as_ref().filter(|_| held) {
                self.hold(key);
            }
        }
    }

    fn make_ready(&mut self, position: u64, sequence: u64, key: Option<&Arc<str>>) {
        match key {
            None => {
                self.claimable.insert((position, sequence));
            }
            Some(key) => self.keys.wait(key, (position, sequence), &mut self.claimable),
        }
    }

    pub(super) fn unmake_ready(&mut self, position: u64, key: Option<&Arc<str>>) {
        let sequence = self.order[&position];
        match key {
            None => {
                self.claimable.remove(&(position, sequence));
            }
            Some(key) => self.keys.leave(key, (position, sequence), &mut self.claimable),
        }
    }

    pub(super) fn hold(&mut self, key: &Arc<str>) {
        self.keys.hold(key, &mut self.claimable);
    }

    pub(super) fn release(&mut self, key: &Arc<str>) {
        self.keys.release(key, &mut self.claimable);
    }
}
