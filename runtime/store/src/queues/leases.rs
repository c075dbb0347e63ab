//! The leases that are out. In memory only: a process that ends forgets them.
//!
//! A lease has a slot as long as it is out, which its token names, so that it is found without a search.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Lease;
use crate::attempts::{Attempts, Slot};
use crate::record::QueueNumber;

pub(crate) struct Leases {
    pub(super) attempts: Arc<Attempts>,
    /// By slot.
    out: Vec<Option<Out>>,
    free: Vec<u16>,
    /// How many leases end when. All of one claim end together, so this is short.
    ends: BTreeMap<u64, u32>,
    next_number: u64,
}

/// A lease that is out.
#[derive(Debug, Clone, Copy)]
struct Out {
    lease: Lease,
    expires_at_ms: u64,
    /// Its attempt had begun when its end did.
    begun: bool,
    /// Its end is on its way to the disk.
    ending: bool,
}

impl Default for Leases {
    /// Nothing can be leased.
    fn default() -> Leases {
        Leases::new(Arc::default())
    }
}

impl Leases {
    pub(crate) fn new(attempts: Arc<Attempts>) -> Leases {
        let slots = attempts.len();
        // Low slots are used first, so that a quiet store touches one page of the mapped table.
        let free = (0..slots).rev().map(|slot| u16::try_from(slot).expect("slots have small numbers")).collect();
        Leases { attempts, out: vec![None; slots], free, ends: BTreeMap::new(), next_number: 1 }
    }

    /// Whether one more can be taken.
    pub(super) fn any_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Leases a message until a time; `attempt` is the number of the attempt that may begin.
    pub(super) fn take(
        &mut self,
        queue: QueueNumber,
        position: u64,
        expires_at_ms: u64,
        attempt: u32,
    ) -> (Slot, Lease) {
        let slot = Slot(self.free.pop().expect("the caller has seen a free slot"));
        let token = self.attempts.take(slot, self.next_number, expires_at_ms, attempt);
        self.next_number += 1;
        let lease = Lease { queue: queue.0, position, token };
        self.out[usize::from(slot.0)] = Some(Out { lease, expires_at_ms, begun: false, ending: false });
        self.ends_at(expires_at_ms);
        (slot, lease)
    }

    /// Whether a lease is out and can still be settled.
    pub(super) fn is_out(&self, lease: Lease) -> bool {
        let Some(slot) = self.attempts.slot(lease.token) else { return false };
        let out = self.out[usize::from(slot.0)].is_some_and(|out| out.lease == lease);
        out && self.attempts.has_begun(slot, lease.token).is_some()
    }

    /// Whether the attempt of the lease in a slot has begun.
    pub(super) fn has_begun(&self, slot: Slot) -> bool {
        self.out[usize::from(slot.0)]
            .is_some_and(|out| out.begun || self.attempts.has_begun(slot, out.lease.token).is_some_and(|begun| begun))
    }

    /// The end of a lease begins: from here on it is nobody else's. Answers its slot, and whether its attempt has begun.
    pub(super) fn end(&mut self, lease: Lease) -> Option<(Slot, bool)> {
        let slot = self.attempts.slot(lease.token)?;
        let out = self.out[usize::from(slot.0)].as_mut().filter(|out| out.lease == lease)?;
        out.begun = self.attempts.end(slot, lease.token)?;
        out.ending = true;
        Some((slot, out.begun))
    }

    /// The end of a lease was refused: it is what it was.
    pub(super) fn end_refused(&mut self, lease: Lease) {
        let Some(slot) = self.attempts.slot(lease.token) else { return };
        let out = self.out[usize::from(slot.0)].as_mut();
        if let Some(out) = out.filter(|out| out.lease == lease) {
            out.ending = false;
            self.attempts.end_refused(slot, lease.token, std::mem::take(&mut out.begun));
        }
    }

    /// A lease is over, and whatever ended it is durable or needs no record.
    pub(super) fn give_back(&mut self, slot: Slot) {
        let out = self.out[usize::from(slot.0)].take().expect("a slot is given back once");
        if !out.ending {
            // It ends without a settlement (a purge): its attempt begins no more from here on.
            self.attempts.end(slot, out.lease.token);
        }
        self.attempts.give_back(slot);
        self.free.push(slot.0);
        self.ends_no_more(out.expires_at_ms);
    }

    fn ends_at(&mut self, expires_at_ms: u64) {
        *self.ends.entry(expires_at_ms).or_default() += 1;
        self.attempts.set_next_end_ms(self.next_end().unwrap_or(u64::MAX));
    }

    fn ends_no_more(&mut self, expires_at_ms: u64) {
        let count = self.ends.get_mut(&expires_at_ms).expect("each lease that is out is counted");
        *count -= 1;
        if *count == 0 {
            self.ends.remove(&expires_at_ms);
            self.attempts.set_next_end_ms(self.next_end().unwrap_or(u64::MAX));
        }
    }

    /// Moves the end of a lease. False if it is over.
    pub(super) fn extend(&mut self, lease: Lease, until_ms: u64) -> bool {
        if !self.is_out(lease) {
            return false;
        }
        let Some(slot) = self.attempts.slot(lease.token) else { return false };
        let Some(out) = &mut self.out[usize::from(slot.0)] else { return false };
        let before = std::mem::replace(&mut out.expires_at_ms, until_ms);
        self.attempts.extend(slot, until_ms);
        self.ends_no_more(before);
        self.ends_at(until_ms);
        true
    }

    /// When the next lease is over.
    fn next_end(&self) -> Option<u64> {
        self.ends.first_key_value().map(|(at_ms, _)| *at_ms)
    }

    /// Leases that are over and not being ended by somebody, oldest first, and whether their attempts have begun.
    pub(super) fn expired(&self, now_ms: u64) -> Vec<(Lease, bool)> {
        if self.next_end().is_none_or(|at_ms| at_ms > now_ms) {
            return Vec::new();
        }
        let slots = self.out.iter().zip(0..).filter_map(|(out, slot)| Some((Slot(slot), (*out)?)));
        let over = slots.filter(|(_, out)| out.expires_at_ms <= now_ms);
        let mut over: Vec<(u64, Lease, bool)> = over
            .filter_map(|(slot, Out { lease, expires_at_ms, .. })| {
                Some((expires_at_ms, lease, self.attempts.has_begun(slot, lease.token)?))
            })
            .collect();
        over.sort_unstable_by_key(|(at_ms, lease, _)| (*at_ms, lease.queue, lease.position));
        over.into_iter().map(|(_, lease, begun)| (lease, begun)).collect()
    }
}
