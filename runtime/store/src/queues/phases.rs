//! How messages go from phase to phase: due, claimed, begun, settled, released, expired.

use super::entry::{Entry, Phase, Settling};
use super::{Claimed, Queues, line_mut};
use crate::Lease;
use crate::record::QueueNumber;

impl Queues {
    /// Puts a message that has no phase among the ready or the delayed. `holds_key`: if it is delayed, its key waits.
    pub(super) fn arrange(&mut self, sequence: u64, holds_key: bool) {
        let entry = self.entries.get_mut(sequence).expect("the caller has just seen it");
        line_mut(&mut self.lines, entry.queue).arrange(entry, sequence, holds_key);
    }

    /// Takes a message out of its phase, whatever it is.
    pub(super) fn withdraw(&mut self, sequence: u64) {
        let entry = self.entries.get_mut(sequence).expect("the caller has just seen it");
        let line = line_mut(&mut self.lines, entry.queue);
        match std::mem::replace(&mut entry.phase, Phase::Absent) {
            Phase::Absent => {}
            Phase::Ready => line.unmake_ready(entry.position, entry.key.as_ref()),
            Phase::Delayed { holds_key } => {
                line.delayed.remove(&(entry.state.due_at_ms, entry.position, sequence));
                if let Some(key) = entry.key.as_ref().filter(|_| holds_key) {
                    line.release(key);
                }
            }
            Phase::Leased { expires_at_ms, .. } => {
                line.leased -= 1;
                self.leases.remove(&(expires_at_ms, sequence));
                if let Some(key) = &entry.key {
                    line.release(key);
                }
            }
        }
    }

    /// Makes ready what is due in a queue.
    pub(crate) fn advance(&mut self, queue: QueueNumber, now_ms: u64) {
        while let Some((due_at_ms, _, sequence)) = self.line(queue).delayed.first().copied() {
            if due_at_ms > now_ms {
                break;
            }
            self.withdraw(sequence);
            self.entries.get_mut(sequence).expect("delayed messages are there").state.due_at_ms = 0;
            self.arrange(sequence, false);
        }
    }

    /// When the next delayed message of a queue is due.
    pub(crate) fn next_due_at(&self, queue: QueueNumber) -> Option<u64> {
        self.line(queue).delayed.first().map(|(due_at_ms, _, _)| *due_at_ms)
    }

    pub(crate) fn has_claimable(&self, queue: QueueNumber) -> bool {
        !self.line(queue).claimable.is_empty()
    }

    /// Leases up to `max` messages until `expires_at_ms`, in the queue's order.
    pub(crate) fn claim(&mut self, queue: QueueNumber, max: usize, expires_at_ms: u64, out: &mut Vec<Claimed>) {
        while out.len() < max {
            let Some((_, sequence)) = self.line(queue).claimable.first().copied() else { break };
            self.withdraw(sequence);
            let entry = self.entries.get_mut(sequence).expect("ready messages are there");
            let line = line_mut(&mut self.lines, queue);
            let lease = Lease { message: sequence, token: self.next_token };
            self.next_token += 1;
            entry.phase = Phase::Leased { token: lease.token, expires_at_ms, begun: false, settling: Settling::No };
            line.leased += 1;
            self.leases.insert((expires_at_ms, sequence));
            if let Some(key) = &entry.key {
                line.hold(key);
            }
            out.push(Claimed {
                lease,
                location: entry.location,
                attempt: entry.state.attempts.saturating_add(1),
                first_failed_at_ms: entry.state.first_failed_at_ms,
            });
        }
    }

    /// The entry of a lease that is still worth something.
    pub(crate) fn leased(&self, lease: Lease) -> Option<&Entry> {
        self.entries.get(lease.message).filter(|entry| entry.is_leased_as(lease.token))
    }

    /// The attempt starts. Answers its number, or nothing if the lease is over.
    pub(crate) fn begin(&mut self, lease: Lease, now_ms: u64) -> Option<u32> {
        let entry = self.entries.get_mut(lease.message).filter(|entry| entry.is_leased_as(lease.token))?;
        let Phase::Leased { expires_at_ms, begun, .. } = &mut entry.phase else { return None };
        if *expires_at_ms <= now_ms {
            return None;
        }
        *begun = true;
        Some(entry.state.attempts.saturating_add(1))
    }

    /// Moves the end of a lease. False if it is over.
    pub(crate) fn extend(&mut self, lease: Lease, until_ms: u64) -> bool {
        let Some(entry) = self.entries.get_mut(lease.message).filter(|entry| entry.is_leased_as(lease.token)) else {
            return false;
        };
        if let Phase::Leased { expires_at_ms, .. } = &mut entry.phase {
            self.leases.remove(&(*expires_at_ms, lease.message));
            *expires_at_ms = until_ms;
            self.leases.insert((until_ms, lease.message));
        }
        true
    }

    /// When the next lease is over.
    pub(crate) fn next_expiry(&self) -> Option<u64> {
        self.leases.first().map(|(expires_at_ms, _)| *expires_at_ms)
    }

    /// Leases that are over, and whether their attempts had begun.
    pub(crate) fn expired(&self, now_ms: u64) -> Vec<(Lease, bool)> {
        let over = self.leases.iter().take_while(|(expires_at_ms, _)| *expires_at_ms <= now_ms);
        over.filter_map(|(_, sequence)| match self.entries.get(*sequence).expect("what is listed is there").phase {
            Phase::Leased { token, begun, settling: Settling::No, .. } => {
                Some((Lease { message: *sequence, token }, begun))
            }
            _ => None,
        })
        .collect()
    }

    /// Begins a settlement: from here on the lease is nobody else's. Answers what it needs to know.
    pub(crate) fn settle_begin(&mut self, lease: Lease) -> Option<Entry> {
        let entry = self.entries.get_mut(lease.message).filter(|entry| entry.is_leased_as(lease.token))?;
        if let Phase::Leased { settling, .. } = &mut entry.phase {
            *settling = Settling::Yes;
        }
        Some(entry.clone())
    }

    /// The settlement was refused: the lease is what it was.
    pub(crate) fn settle_abort(&mut self, lease: Lease) {
        if let Some(entry) = self.entries.get_mut(lease.message)
            && let Phase::Leased { token, settling, .. } = &mut entry.phase
            && *token == lease.token
        {
            *settling = Settling::No;
        }
    }

    /// Gives a lease back as if the message had not been claimed. Nothing is written, so nothing but memory changes.
    pub(crate) fn release(&mut self, sequence: u64) {
        if self.entries.get(sequence).is_some() {
            self.withdraw(sequence);
            self.arrange(sequence, false);
        }
    }
}
