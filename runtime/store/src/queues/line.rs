//! One queue: its messages in order, and which of them can be claimed.
//!
//! A message is known by its position: the first one is at 0, each later one at the next number, and none is used twice.
//! What can be claimed next is found in two places: *fresh* messages lie in order and are found by walking from where
//! the last one was; everything that became ready in another way is listed.

use std::collections::BTreeSet;

use super::entry::{Entry, LeaseState, Phase};
use super::keys::Keys;
use super::position_map::PositionMap;
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
    pub(super) next_position: u64,
    pub(super) entries: PositionMap<Entry>,
    /// How many are leased.
    leased: u64,
    /// How many are fresh. None of them stands before `fresh_from`.
    fresh: u64,
    fresh_from: u64,
    /// Other ready messages that no earlier message of their key holds back.
    claimable: BTreeSet<u64>,
    /// (due at, position)
    delayed: BTreeSet<(u64, u64)>,
    keys: Keys,
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
            next_position: 0,
            entries: PositionMap::default(),
            leased: 0,
            fresh: 0,
            fresh_from: 0,
            claimable: BTreeSet::new(),
            delayed: BTreeSet::new(),
            keys: Keys::default(),
        }
    }

    /// Adds a message where there is none. `holds_key`: if it is delayed, its key waits for it.
    pub(super) fn add(&mut self, position: u64, mut entry: Entry, key: Option<&str>, holds_key: bool) {
        if let Some(key) = key {
            entry.rare.get_or_insert_default().key = Some(self.keys.intern(key));
        }
        self.next_position = self.next_position.max(position + 1);
        self.bytes += u64::from(entry.bytes);
        if entry.rare.is_none() && position >= self.fresh_from {
            entry.phase = Phase::Fresh;
            self.fresh += 1;
            self.entries.insert(position, entry);
        } else {
            self.entries.insert(position, entry);
            self.arrange(position, holds_key);
        }
    }

    /// Takes a message away, whatever its phase. Answers it and the lease that was out.
    pub(super) fn take(&mut self, position: u64) -> Option<(Entry, Option<LeaseState>)> {
        self.entries.get(position)?;
        let lease = self.withdraw(position);
        let entry = self.entries.remove(position).expect("it has just been seen");
        self.bytes -= u64::from(entry.bytes);
        if let Some(key) = entry.key() {
            self.keys.forget(key);
        }
        Some((entry, lease))
    }

    /// Puts a message that has no phase among the ready or the delayed. `holds_key`: if it is delayed, its key waits.
    pub(super) fn arrange(&mut self, position: u64, holds_key: bool) {
        let entry = self.entries.get_mut(position).expect("the caller has just seen it");
        let due_at_ms = entry.state().due_at_ms;
        if due_at_ms != 0 {
            let held = entry.key().filter(|_| holds_key);
            let phase = Phase::Delayed { holds_key: held.is_some() };
            self.delayed.insert((due_at_ms, position));
            if let Some(key) = held {
                self.keys.hold(key, &mut self.claimable);
            }
            entry.phase = phase;
            return;
        }
        entry.phase = Phase::Ready;
        match entry.key() {
            None => {
                self.claimable.insert(position);
            }
            Some(key) => self.keys.wait(key, position, &mut self.claimable),
        }
    }

    /// Takes a message out of its phase, whatever it is. Answers the lease that was out.
    pub(super) fn withdraw(&mut self, position: u64) -> Option<LeaseState> {
        let entry = self.entries.get_mut(position).expect("the caller has just seen it");
        match std::mem::replace(&mut entry.phase, Phase::Absent) {
            Phase::Absent => {}
            Phase::Fresh => self.fresh -= 1,
            Phase::Ready => match entry.key() {
                None => {
                    self.claimable.remove(&position);
                }
                Some(key) => self.keys.leave(key, position, &mut self.claimable),
            },
            Phase::Delayed { holds_key } => {
                self.delayed.remove(&(entry.state().due_at_ms, position));
                if let Some(key) = entry.key().filter(|_| holds_key) {
                    self.keys.release(key, &mut self.claimable);
                }
            }
            Phase::Leased => {
                self.leased -= 1;
                let rare = entry.rare.as_mut().expect("a leased message has its lease");
                if let Some(key) = &rare.key {
                    self.keys.release(key, &mut self.claimable);
                }
                return rare.lease.take();
            }
        }
        None
    }

    /// Leases the first message that can be claimed. Answers its position.
    pub(super) fn lease_next(&mut self, lease: impl FnOnce() -> LeaseState) -> Option<u64> {
        let position = self.next_claimable()?;
        self.withdraw(position);
        let entry = self.entries.get_mut(position).expect("claimable messages are there");
        entry.phase = Phase::Leased;
        let rare = entry.rare.get_or_insert_default();
        rare.lease = Some(lease());
        self.leased += 1;
        if let Some(key) = &rare.key {
            self.keys.hold(key, &mut self.claimable);
        }
        Some(position)
    }

    fn next_claimable(&mut self) -> Option<u64> {
        let listed = self.claimable.first().copied();
        if self.fresh == 0 || listed.is_some_and(|listed| listed < self.fresh_from) {
            return listed;
        }
        let mut walk = self.entries.iter_from(self.fresh_from);
        let (fresh, _) = walk.find(|(_, entry)| entry.phase == Phase::Fresh).expect("fresh messages are counted");
        self.fresh_from = fresh;
        Some(listed.map_or(fresh, |listed| listed.min(fresh)))
    }

    pub(super) fn has_claimable(&self) -> bool {
        self.fresh > 0 || !self.claimable.is_empty()
    }

    /// When the next delayed message is due.
    pub(super) fn next_due_at(&self) -> Option<u64> {
        self.delayed.first().map(|(due_at_ms, _)| *due_at_ms)
    }

    /// Makes ready what is due.
    pub(super) fn advance(&mut self, now_ms: u64) {
        while let Some((due_at_ms, position)) = self.delayed.first().copied() {
            if due_at_ms > now_ms {
                break;
            }
            self.withdraw(position);
            let entry = self.entries.get_mut(position).expect("delayed messages are there");
            entry.set_state(crate::record::DeliveryState { due_at_ms: 0, ..entry.state() });
            self.arrange(position, false);
        }
    }

    pub(super) fn leased(&self) -> u64 {
        self.leased
    }

    pub(super) fn delayed(&self) -> u64 {
        self.delayed.len() as u64
    }
}
