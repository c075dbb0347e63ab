//! One queue: its messages in order, and which of them can be claimed.
//!
//! A message is known by its position: the first one is at 0, each later one at the next number, and none is used twice.
//! It has an entry if it stands in the log, and if there is more to know of it than that it waits. The others are on the
//! shelf only ([`crate::cold`]).
//!
//! What can be claimed next is found in three places: *fresh* messages lie in order, on the shelf and after it among the
//! entries, and are found by walking from where the last one was; everything that became ready in another way is listed.

use std::collections::{BTreeMap, BTreeSet};

use super::due::Delayed;
use super::entry::{Entry, Phase};
use super::in_log::InLog;
use super::keys::Keys;
use super::position_map::PositionMap;
use super::{OneByOne, QueueLimits, ToPurge};
use crate::QueueName;
use crate::attempts::Slot;
use crate::cold::checkpoint::ToldState;
use crate::cold::places::Written;
use crate::cold::segment::{ChunkId, ColdMessage, Segment};
use crate::cold::shelf::Shelf;
use crate::location::{FileId, Location};
use crate::record::DeliveryState;

pub(super) struct Line {
    pub(super) name: QueueName,
    pub(super) declared: bool,
    /// A durable record gives the queue its number.
    pub(super) named_in_log: bool,
    pub(super) limits: QueueLimits,
    pub(super) bytes: u64,
    /// Of those, the ones of messages on the shelf.
    pub(super) bytes_cold: u64,
    /// Held for messages that are on their way to the disk.
    pub(super) bytes_reserved: u64,
    pub(super) next_position: u64,
    pub(super) entries: PositionMap<Entry>,
    pub(super) shelf: Shelf,
    /// Entries whose messages are on the shelf, too.
    known: u64,
    /// How many are leased.
    leased: u64,
    /// Fresh entries. None of them stands before `fresh_from`.
    fresh: u64,
    fresh_from: u64,
    /// Other ready messages that no earlier message of their key holds back. They have entries.
    claimable: BTreeSet<u64>,
    /// Those that are not due yet, with entries and without.
    delayed: Delayed,
    keys: Keys,
    /// The chunk from which on it was last looked for some to read ahead.
    pub(super) ahead_of: Option<ChunkId>,
    /// The states of messages on the shelf that the log and the checkpoint know better than their records: while the store is
    /// opened, and later of those that could not be read then and have no entry.
    pub(super) told: BTreeMap<u64, ToldState>,
}

/// What can be claimed next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It has an entry.
    Known(u64),
    /// It is on the shelf only: it must be read before it can be leased.
    Cold(u64),
}

impl Line {
    pub(super) fn new(name: QueueName) -> Line {
        Line {
            name,
            declared: false,
            named_in_log: false,
            limits: QueueLimits::default(),
            bytes: 0,
            bytes_cold: 0,
            bytes_reserved: 0,
            next_position: 0,
            entries: PositionMap::default(),
            shelf: Shelf::default(),
            known: 0,
            leased: 0,
            fresh: 0,
            fresh_from: 0,
            claimable: BTreeSet::new(),
            delayed: Delayed::default(),
            keys: Keys::default(),
            ahead_of: None,
            told: BTreeMap::new(),
        }
    }

    /// How many messages there are.
    pub(super) fn len(&self) -> u64 {
        self.entries.len() + self.shelf.live() - self.known
    }

    /// Adds a message that came into the log. `holds_key`: if it is delayed, its key waits for it.
    pub(super) fn add(&mut self, position: u64, mut entry: Entry, key: Option<&str>, holds_key: bool) {
        if let Some(key) = key {
            entry.rare.get_or_insert_default().key = Some(self.keys.intern(key));
        }
        self.next_position = self.next_position.max(position + 1);
        self.bytes += u64::from(entry.bytes);
        if entry.is_plain() && position >= self.fresh_from {
            entry.phase = Phase::Fresh;
            self.fresh += 1;
            self.entries.insert(position, entry);
        } else {
            self.entries.insert(position, entry);
            self.arrange(position, holds_key);
        }
    }

    /// Takes a message away, whatever its phase. Answers the slot of the lease that was out.
    pub(super) fn take(&mut self, position: u64, in_log: &mut InLog) -> Option<Slot> {
        let slot = match self.entries.get_mut(position)? {
            // The way of most messages: there is no more to it than that.
            Entry { phase: Phase::Leased { slot, .. }, rare: None, .. } => {
                self.leased -= 1;
                Some(*slot)
            }
            _ => self.withdraw(position),
        };
        let entry = self.entries.remove(position).expect("it has just been seen");
        self.bytes -= u64::from(entry.bytes);
        in_log.remove(entry.file());
        if entry.file().is_segment() {
            self.known -= 1;
            self.bytes_cold -= u64::from(entry.bytes);
            self.shelf.clear_live(position);
            self.settle_cold_bytes();
        }
        if let Some(key) = entry.key() {
            self.keys.forget(key);
        }
        slot
    }

    /// What is gone without anybody knowing how long it was counts until nothing is on the shelf.
    pub(super) fn settle_cold_bytes(&mut self) {
        if self.shelf.live() == 0 {
            self.bytes -= self.bytes_cold;
            self.bytes_cold = 0;
        }
    }

    /// Puts a message that has no phase among the ready or the delayed. `holds_key`: if it is delayed, its key waits.
    pub(super) fn arrange(&mut self, position: u64, holds_key: bool) {
        let entry = self.entries.get_mut(position).expect("the caller has just seen it");
        let due_at_ms = entry.state().due_at_ms;
        if due_at_ms != 0 {
            let held = entry.key().filter(|_| holds_key);
            let phase = Phase::Delayed { holds_key: held.is_some() };
            self.delayed.insert(due_at_ms, position);
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

    /// Takes a message out of its phase, whatever it is. Answers the slot of the lease that was out.
    pub(super) fn withdraw(&mut self, position: u64) -> Option<Slot> {
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
                self.delayed.remove(entry.state().due_at_ms, position);
                if let Some(key) = entry.key().filter(|_| holds_key) {
                    self.keys.release(key, &mut self.claimable);
                }
            }
            Phase::Leased { slot, .. } => {
                self.leased -= 1;
                if let Some(key) = entry.key() {
                    self.keys.release(key, &mut self.claimable);
                }
                return Some(slot);
            }
        }
        None
    }

    /// Leases a message that can be claimed and has an entry.
    pub(super) fn lease(&mut self, position: u64, slot: Slot) {
        let entry = self.entries.get_mut(position).expect("claimable messages are there");
        if entry.phase == Phase::Fresh {
            // It has no key: that is a matter of order.
            entry.phase = Phase::Leased { slot, held_key: false };
            self.fresh -= 1;
            self.leased += 1;
            return;
        }
        let held_key = entry.holds_key();
        self.withdraw(position);
        let entry = self.entries.get_mut(position).expect("it has just been seen");
        entry.phase = Phase::Leased { slot, held_key };
        self.leased += 1;
        if let Some(key) = entry.key() {
            self.keys.hold(key, &mut self.claimable);
        }
    }

    pub(super) fn next_claimable(&mut self) -> Option<Next> {
        let listed = self.claimable.first().copied();
        if let Some(cold) = self.shelf.next_fresh() {
            return Some(match listed {
                Some(listed) if listed < cold => Next::Known(listed),
                _ => Next::Cold(cold),
            });
        }
        if self.fresh == 0 || listed.is_some_and(|listed| listed < self.fresh_from) {
            return listed.map(Next::Known);
        }
        // It is mostly one of the next: that costs no walk.
        let near = self.fresh_from..self.fresh_from.saturating_add(4);
        let entries = &mut self.entries;
        let is_fresh = |position: &u64| entries.get_mut(*position).is_some_and(|entry| entry.phase == Phase::Fresh);
        if let Some(fresh) = near.into_iter().find(is_fresh) {
            self.fresh_from = fresh;
            return Some(Next::Known(listed.map_or(fresh, |listed| listed.min(fresh))));
        }
        let mut walk = self.entries.iter_from(self.fresh_from);
        let (fresh, _) = walk.find(|(_, entry)| entry.phase == Phase::Fresh).expect("fresh messages are counted");
        self.fresh_from = fresh;
        Some(Next::Known(listed.map_or(fresh, |listed| listed.min(fresh))))
    }

    /// The first of the ready messages that are listed.
    pub(super) fn first_listed(&self) -> Option<u64> {
        self.claimable.first().copied()
    }

    pub(super) fn has_claimable(&self) -> bool {
        self.fresh > 0 || self.shelf.has_fresh() || !self.claimable.is_empty()
    }

    /// When the next delayed message is due.
    pub(super) fn next_due_at(&self) -> Option<u64> {
        self.delayed.next_at_ms()
    }

    /// Makes ready what is due, so many messages at a time that nobody waits long for the queues meanwhile.
    pub(super) fn advance(&mut self, now_ms: u64) {
        const MESSAGES_MAX: usize = 1024;
        for _ in 0..MESSAGES_MAX {
            let Some(position) = self.delayed.pop_due(now_ms) else { break };
            if self.entries.get(position).is_none() {
                if self.shelf.lives(position) {
                    self.shelf.set_fresh(position);
                }
                continue;
            }
            self.withdraw(position);
            let entry = self.entries.get_mut(position).expect("just looked up");
            entry.set_state(DeliveryState { due_at_ms: 0, ..entry.state() });
            self.arrange(position, false);
        }
    }

    pub(super) fn leased(&self) -> u64 {
        self.leased
    }

    pub(super) fn delayed(&self) -> u64 {
        self.delayed.len()
    }

    /// See [`Queues::purged_one_by_one`](super::Queues::purged_one_by_one).
    pub(super) fn purged_one_by_one(&self, below: u64, many: usize, step: usize) -> Option<OneByOne> {
        let shelved = |from: u64| self.shelf.iter_from(from).take_while(move |position| *position < below);
        // Messages came after those that go, and are in segments already.
        if self.shelf.iter_from(below).next().is_some() && shelved(0).next().is_some() {
            let to_purge = |position: u64| match self.entries.get(position) {
                Some(entry) => (position, ToPurge::Known(entry.bytes)),
                None => {
                    let (segment, chunk) = self.shelf.chunk_of(position).expect("it is on the shelf");
                    (position, ToPurge::Cold(segment, chunk))
                }
            };
            return Some(OneByOne { messages: shelved(0).take(step).map(to_purge).collect(), all: true });
        }
        if self.known <= many as u64 {
            return None;
        }
        let end = self.shelf.end().min(below);
        let known = self.entries.iter_from(0).take_while(|(position, _)| *position < end).take(step);
        let messages: Vec<_> = known.map(|(position, entry)| (position, ToPurge::Known(entry.bytes))).collect();
        (!messages.is_empty()).then_some(OneByOne { messages, all: false })
    }

    /// A message that is on the shelf only goes: it is not due any more. False if it may be so still, since it is not known
    /// when.
    pub(super) fn put_off_no_more(&mut self, position: u64, due_at_ms: Option<u64>) -> bool {
        self.shelf.is_fresh(position) || due_at_ms.is_some_and(|due_at_ms| self.delayed.remove(due_at_ms, position))
    }

    /// No messages stand before a position: none of them is due any more.
    pub(super) fn put_off_none_below(&mut self, below: u64) {
        self.delayed.remove_below(below);
    }

    /// Where a purge may end that takes at most so many entries away, and all that is on the shelf.
    pub(super) fn purge_bound(&self, below: u64, entries_max: usize) -> u64 {
        let in_log_max = entries_max.saturating_sub(self.known as usize);
        let after = self.entries.iter_from(self.shelf.end()).nth(in_log_max).map(|(position, _)| position);
        after.map_or(below, |after| after.min(below))
    }

    /// All messages before a position are gone. Answers how many that were, and the slots of the leases that
    /// were out.
    pub(super) fn purge(&mut self, below: u64, in_log: &mut InLog) -> Result<(u64, Vec<Slot>), String> {
        let before = self.len();
        let entries = self.entries.iter_from(0).take_while(|(position, _)| *position < below);
        let known: Vec<u64> = entries.map(|(position, _)| position).collect();
        let slots = known.into_iter().filter_map(|position| self.take(position, in_log)).collect();
        if self.shelf.clear_below(below) > 0 {
            if self.shelf.live() > 0 {
                return Err("a purge ends among messages that were older".into());
            }
            self.bytes -= self.bytes_cold;
            self.bytes_cold = 0;
        }
        self.delayed.remove_below(below);
        self.told = self.told.split_off(&below);
        Ok((before - self.len(), slots))
    }

    // --- the shelf -----------------------------------------------------------------------------------------------

    /// A message that is on the shelf only gets an entry, without a phase.
    pub(super) fn know(&mut self, message: &ColdMessage, state: DeliveryState, key: Option<&str>) {
        let position = message.position;
        self.shelf.clear_fresh(position);
        let mut entry = Entry::new(message.sequence, message.enqueued_at_ms, message.bytes, message.location);
        entry.set_state(state);
        if let Some(key) = key {
            entry.rare.get_or_insert_default().key = Some(self.keys.intern(key));
        }
        self.entries.insert(position, entry);
        self.known += 1;
    }

    /// A message that is on the shelf only and can be claimed is leased. The caller tells the shelf.
    pub(super) fn lease_cold(&mut self, message: &ColdMessage, slot: Slot) {
        let mut entry = Entry::new(message.sequence, message.enqueued_at_ms, message.bytes, message.location);
        let state = self.take_told(message);
        entry.set_state(DeliveryState { due_at_ms: 0, ..state });
        // Messages with a key are known.
        entry.phase = Phase::Leased { slot, held_key: false };
        self.entries.insert(message.position, entry);
        self.known += 1;
        self.leased += 1;
    }

    /// The state of a message that is on the shelf only.
    pub(super) fn told(&self, message: &ColdMessage) -> DeliveryState {
        self.told.get(&message.position).map_or(message.state, |told| told.state)
    }

    /// Likewise, for an entry that tells it from here on.
    fn take_told(&mut self, message: &ColdMessage) -> DeliveryState {
        self.told.remove(&message.position).map_or(message.state, |told| told.state)
    }

    /// A message that is on the shelf only, ready or delayed, gets an entry in the same phase, or in none if it is ready.
    /// False if it can't: it was put off.
    pub(super) fn know_waiting(&mut self, message: &ColdMessage) -> bool {
        let position = message.position;
        if self.shelf.is_fresh(position) {
            let state = self.take_told(message);
            self.know(message, DeliveryState { due_at_ms: 0, ..state }, None);
            return true;
        }
        if !self.delayed.contains(message.state.due_at_ms, position) {
            return false;
        }
        self.know(message, message.state, None);
        self.entries.get_mut(position).expect("it has just been put there").phase = Phase::Delayed { holds_key: false };
        true
    }

    /// The first message at a position or after it.
    pub(super) fn first_from(&self, position: u64) -> Option<u64> {
        let known = self.entries.iter_from(position).next().map(|(position, _)| position);
        let shelved = self.shelf.iter_from(position).next();
        match (known, shelved) {
            (Some(known), Some(shelved)) => Some(known.min(shelved)),
            (one, other) => one.or(other),
        }
    }

    /// A message on the shelf can't be read for now: it is due again later.
    pub(super) fn put_off(&mut self, position: u64, due_at_ms: u64) {
        self.shelf.clear_fresh(position);
        self.delayed.insert(due_at_ms, position);
    }

    /// One message was copied to a segment on the shelf, from where its entry says that it stands. It needs no entry any
    /// more if it only waits.
    pub(super) fn shelve(
        &mut self,
        written: &Written,
        copied_state: DeliveryState,
        from: FileId,
        to: FileId,
        in_log: &mut InLog,
    ) {
        let position = written.position;
        let entry = self.entries.get_mut(position);
        // Gone since it was copied.
        let Some(entry) = entry.filter(|entry| entry.file() == from) else { return };
        entry.set_location(Location { file: to, offset: written.offset, len: written.len });
        in_log.remove(from);
        let bytes = u64::from(entry.bytes);
        let state = entry.state();
        let (phase, has_key) = (entry.phase, entry.key().is_some());
        self.shelf.set_live(position);
        self.known += 1;
        self.bytes_cold += bytes;
        // The record tells its state as of when it was copied; that it became due since is no news.
        let told = state == copied_state || state == DeliveryState { due_at_ms: 0, ..copied_state };
        if has_key || !told {
            return;
        }
        match phase {
            Phase::Fresh => self.fresh -= 1,
            Phase::Ready => {
                self.claimable.remove(&position);
            }
            Phase::Delayed { .. } if state == copied_state => {}
            _ => return,
        }
        self.entries.remove(position);
        self.known -= 1;
        if matches!(phase, Phase::Fresh | Phase::Ready) {
            self.shelf.set_fresh(position);
        }
    }

    /// Messages were copied to another segment on the shelf. Those that have an entry stand there from now on.
    pub(super) fn relocate(&mut self, segment: &Segment, written: impl Iterator<Item = Written>) {
        for Written { position, offset, len, .. } in written {
            if let Some(entry) = self.entries.get_mut(position) {
                entry.set_location(Location { file: segment.file_id(), offset, len });
            }
        }
    }

    /// Whether a message on the shelf has an entry.
    pub(super) fn knows_any(&self) -> bool {
        self.known > 0
    }

    /// What is known of messages that are on the shelf, for a checkpoint: of those whose state says something.
    pub(super) fn known_states(&self) -> Vec<(u64, ToldState)> {
        let known = self.entries.iter_from(0).filter(|(_, entry)| entry.file().is_segment());
        let states = known
            .take(self.known as usize)
            .map(|(position, entry)| (position, ToldState { state: entry.state(), holds_key: entry.holds_key() }));
        let known = states.filter(|(_, told)| told.state != DeliveryState::default());
        let mut all: Vec<_> = known.chain(self.told.iter().map(|(position, told)| (*position, *told))).collect();
        all.sort_unstable_by_key(|(position, _)| *position);
        all
    }
}
