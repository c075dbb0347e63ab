//! How messages go from phase to phase: due, claimed, begun, settled, released, expired.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::entry::{Entry, Phase};
use super::leases::Leases;
use super::line::{Line, Next};
use super::{Claimed, Queues, line_mut};
use crate::Lease;
use crate::attempts::Slot;
use crate::cold::chunks::Chunks;
use crate::cold::segment::{ChunkId, LoadedChunk, Segment};
use crate::location::Location;
use crate::record::{DeliveryState, QueueNumber};

/// What a settlement needs to know of its message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) sequence: u64,
    pub(crate) enqueued_at_ms: u64,
    pub(crate) bytes: u32,
    pub(crate) location: Location,
    pub(crate) state: DeliveryState,
    pub(crate) attempts_started: u32,
    pub(crate) slot: Slot,
}

/// What [`Queues::claim_expired`] is to lease.
pub(crate) struct ExpiredClaim {
    pub(crate) max: usize,
    pub(crate) sent_before_ms: u64,
    pub(crate) now_ms: u64,
    pub(crate) expires_at_ms: u64,
}

/// Hands out leases of one queue that end at the same time.
struct Leasing<'a> {
    leases: &'a mut Leases,
    queue: QueueNumber,
    expires_at_ms: u64,
}

impl Leasing<'_> {
    /// Leases a message that has an entry; there must be a free slot. `record`: the message's record, if it was read
    /// already.
    fn lease(&mut self, line: &mut Line, position: u64, record: Option<Bytes>) -> Claimed {
        let entry = line.entries.get_mut(position).expect("claimable messages are there");
        let (sequence, location, state) = (entry.sequence(), entry.location(), entry.state());
        let attempt = state.attempts.saturating_add(1);
        let (slot, lease) = self.leases.take(self.queue, position, self.expires_at_ms, attempt);
        line.lease(position, slot);
        Claimed { lease, sequence, location, attempt, first_failed_at_ms: state.first_failed_at_ms, record }
    }

    /// Leases messages of a chunk that stand at these positions, can be claimed and are not known: as many as there are
    /// slots, up to the first one that is damaged, whose position is answered.
    fn lease_cold(
        &mut self,
        line: &mut Line,
        chunk: &LoadedChunk,
        positions: &[u64],
        out: &mut Vec<Claimed>,
    ) -> Option<u64> {
        let (mut leased, mut damaged) = (0, None);
        for message in chunk.get_all(positions) {
            if !self.leases.any_free() {
                break;
            }
            let Some(message) = message else {
                damaged = Some(positions[leased]);
                break;
            };
            let state = line.told(&message);
            let attempt = state.attempts.saturating_add(1);
            let (slot, lease) = self.leases.take(self.queue, message.position, self.expires_at_ms, attempt);
            line.lease_cold(&message, slot);
            out.push(Claimed {
                lease,
                sequence: message.sequence,
                location: message.location,
                attempt,
                first_failed_at_ms: state.first_failed_at_ms,
                record: Some(chunk.record(&message)),
            });
            leased += 1;
        }
        line.shelf.clear_all_fresh(&positions[..leased]);
        damaged
    }
}

/// How far a claim came.
pub(crate) enum Claiming {
    /// There is no more to claim.
    Done,
    /// The next message stands in a chunk that must be read first.
    Reads(Arc<Segment>, ChunkId),
    /// A message in this chunk is damaged. It was put off; the next one can be claimed.
    Unreadable(Arc<Segment>, ChunkId),
}

impl Queues {
    /// Makes ready what is due in a queue.
    pub(crate) fn advance(&mut self, queue: QueueNumber, now_ms: u64) {
        line_mut(&mut self.lines, queue).advance(now_ms);
    }

    /// When the next delayed message of a queue is due.
    pub(crate) fn next_due_at(&self, queue: QueueNumber) -> Option<u64> {
        self.line(queue).next_due_at()
    }

    pub(crate) fn has_claimable(&self, queue: QueueNumber) -> bool {
        self.line(queue).has_claimable()
    }

    /// Leases up to `max` messages in all until `expires_at_ms`, in the queue's order, as long as there are slots.
    pub(crate) fn claim(
        &mut self,
        queue: QueueNumber,
        max: usize,
        expires_at_ms: u64,
        chunks: &mut Chunks,
        out: &mut Vec<Claimed>,
    ) -> Claiming {
        let Queues { lines, leases, .. } = self;
        let line = line_mut(lines, queue);
        let mut leasing = Leasing { leases, queue, expires_at_ms };
        while out.len() < max && leasing.leases.any_free() {
            let Some(next) = line.next_claimable() else { break };
            let position = match next {
                Next::Known(position) => {
                    out.push(leasing.lease(line, position, None));
                    continue;
                }
                Next::Cold(position) => position,
            };
            let (segment, id) = line.shelf.chunk_of(position).expect("it is on the shelf");
            let Some(chunk) = chunks.get(id).cloned() else { return Claiming::Reads(segment, id) };
            let chunk_end = segment.chunk_span(id).end;
            // One that is listed may come between those of the chunk.
            let end = line.first_listed().map_or(chunk_end, |listed| listed.min(chunk_end));
            let positions = line.shelf.fresh_in(position..end, max - out.len());
            let damaged = leasing.lease_cold(line, &chunk, &positions, out);
            if let Some(damaged) = damaged {
                line.put_off(damaged, expires_at_ms);
            }
            if line.shelf.next_fresh().is_none_or(|next| next >= chunk_end) {
                chunks.used_up(id);
            }
            if damaged.is_some() {
                return Claiming::Unreadable(segment, id);
            }
        }
        Claiming::Done
    }

    /// Leases up to `max` messages in all that were sent before a time, from the front of the queue on, whether they are
    /// ready or delayed. It ends at the first one that was sent later.
    pub(crate) fn claim_expired(
        &mut self,
        queue: QueueNumber,
        claim: &ExpiredClaim,
        chunks: &Chunks,
        out: &mut Vec<Claimed>,
    ) -> Claiming {
        let ExpiredClaim { max, sent_before_ms, now_ms, expires_at_ms } = *claim;
        let Queues { lines, leases, .. } = self;
        let line = line_mut(lines, queue);
        let mut leasing = Leasing { leases, queue, expires_at_ms };
        let mut from = 0;
        while out.len() < max && leasing.leases.any_free() {
            let Some(position) = line.first_from(from) else { break };
            from = position + 1;
            let mut record = None;
            match line.entries.get(position) {
                Some(entry) if matches!(entry.phase(), Phase::Leased { .. }) => continue,
                Some(entry) if entry.enqueued_at_ms() >= sent_before_ms => break,
                Some(_) => {}
                None => {
                    let (segment, id) = line.shelf.chunk_of(position).expect("it is on the shelf");
                    if segment.enqueued_at_ms(position) >= sent_before_ms {
                        break;
                    }
                    let Some(chunk) = chunks.get(id) else {
                        if chunks.is_unreadable(id, now_ms) {
                            let known = line.entries.iter_from(from).next().map(|(known, _)| known);
                            let end = segment.chunk_span(id).end;
                            from = known.map_or(end, |known| known.min(end));
                            continue;
                        }
                        return Claiming::Reads(segment, id);
                    };
                    // One that can't be read stays, and whoever claims it hears of it.
                    let Some(message) = chunk.get(position) else { continue };
                    if message.enqueued_at_ms >= sent_before_ms {
                        break;
                    }
                    if !line.know_waiting(&message) {
                        continue;
                    }
                    record = Some(chunk.record(&message));
                }
            }
            out.push(leasing.lease(line, position, record));
        }
        Claiming::Done
    }

    /// Notes which chunks a queue's next claims will need, so that they are read ahead. Answers whether there are any. It is
    /// looked for them once for each chunk that claims come to.
    pub(crate) fn read_ahead(&mut self, queue: QueueNumber, chunks: &mut Chunks) -> bool {
        let line = line_mut(&mut self.lines, queue);
        let next = line.shelf.next_fresh().and_then(|position| line.shelf.chunk_of(position)).map(|(_, id)| id);
        if next.is_none() || next == line.ahead_of {
            return false;
        }
        line.ahead_of = next;
        chunks.want(line.shelf.fresh_chunks())
    }

    /// A chunk can't be read for now: its messages are due again later.
    pub(crate) fn put_off(&mut self, queue: QueueNumber, span: Range<u64>, due_at_ms: u64) {
        let line = line_mut(&mut self.lines, queue);
        let inside = line.shelf.iter_from(span.start).take_while(|position| span.contains(position));
        let unreadable: Vec<u64> = inside.filter(|position| line.shelf.is_fresh(*position)).collect();
        for position in unreadable {
            line.put_off(position, due_at_ms);
        }
    }

    /// Moves the end of a lease. False if it is over.
    pub(crate) fn extend(&mut self, lease: Lease, until_ms: u64) -> bool {
        self.leases.extend(lease, until_ms)
    }

    /// Leases that are over, and whether their attempts had begun.
    pub(crate) fn expired(&self, now_ms: u64) -> Vec<(Lease, bool)> {
        self.leases.expired(now_ms)
    }

    /// Where the message of a lease stands, if the lease is still worth something.
    pub(crate) fn leased_at(&self, lease: Lease) -> Option<Location> {
        self.leases.is_out(lease).then(|| self.entry(QueueNumber(lease.queue), lease.position))?.map(Entry::location)
    }

    /// Attempts of a message that started, the running one among them.
    pub(crate) fn attempts_started(&self, entry: &Entry) -> u32 {
        let begun = matches!(entry.phase(), Phase::Leased { slot, .. } if self.leases.has_begun(slot));
        entry.state().attempts.saturating_add(u32::from(begun))
    }

    /// Begins a settlement: from here on the lease is nobody else's. Answers what it needs to know.
    pub(crate) fn settle_begin(&mut self, lease: Lease) -> Option<Held> {
        let (slot, begun) = self.leases.end(lease)?;
        let line = line_mut(&mut self.lines, QueueNumber(lease.queue));
        let entry = line.entries.get_mut(lease.position).expect("a lease that is out has its message");
        let state = entry.state();
        Some(Held {
            sequence: entry.sequence(),
            enqueued_at_ms: entry.enqueued_at_ms(),
            bytes: entry.bytes,
            location: entry.location(),
            state,
            attempts_started: state.attempts.saturating_add(u32::from(begun)),
            slot,
        })
    }

    /// The settlement was refused: the lease is what it was.
    pub(crate) fn settle_abort(&mut self, lease: Lease) {
        self.leases.end_refused(lease);
    }

    /// The attempt of a lease that is being settled is not to count, if the process ends before that is on record.
    pub(crate) fn forget_attempt(&mut self, slot: Slot) {
        self.leases.attempts.forget(slot);
    }

    /// Gives a lease back as if the message had not been claimed. Nothing is written, so nothing but memory changes.
    pub(crate) fn release(&mut self, queue: QueueNumber, position: u64) {
        if let Some(entry) = self.entry(queue, position) {
            let held_key = entry.holds_key();
            self.withdraw(queue, position);
            line_mut(&mut self.lines, queue).arrange(position, held_key);
        }
    }

    /// Takes a message out of its phase, whatever it is, and ends the lease that was out.
    pub(super) fn withdraw(&mut self, queue: QueueNumber, position: u64) {
        if let Some(slot) = line_mut(&mut self.lines, queue).withdraw(position) {
            self.leases.give_back(slot);
        }
    }
}
