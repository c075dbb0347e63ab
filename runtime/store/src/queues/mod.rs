//! The state machine of all queues. Pure: it does no I/O, reads no clock and draws no numbers; what it knows, it was told
//! by records ([`Queues::apply`]), in the order of the log, or by claims.
//!
//! ```text
//!  put ──► [ready] ──claim──► [leased] ──remove─────────────► gone
//!             ▲                  │ ├─ update, due later ────► [delayed] ─due─► [ready]
//!   due ──────┤                  │ ├─ put into another queue: a dead letter, a redrive
//!  [delayed] ─┘                  │ └─ release ──────────────► [ready]
//!                                └─ a process that dies forgets the lease: [ready]
//! ```
//!
//! Claims and releases are in memory only; everything else is a record. A settlement takes two steps: it is begun, which
//! makes its lease worthless to everybody else, and ended when its record is durable and applied.

mod due;
mod entry;
mod in_log;
mod keys;
mod leases;
mod line;
mod phases;
mod position_map;
mod shelving;

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;

pub(crate) use self::entry::{Entry, Phase};
use self::in_log::InLog;
pub(crate) use self::leases::Leases;
use self::line::Line;
pub(crate) use self::phases::{Claiming, ExpiredClaim, Held};
use crate::cold::checkpoint::ToldState;
use crate::cold::segment::{ChunkId, Segment};
use crate::header::NUMBER_MAX;
use crate::location::Location;
use crate::record::{DeliveryState, PutPlace, QueueNumber, Record};
use crate::shared::Wanted;
use crate::{Delivery, Lease, Message, QueueName};

/// Names that a store can have seen in its life. Each has a place in memory, so a damaged number must not ask for more.
const QUEUES_MAX: u32 = 1 << 17;

#[derive(Default)]
pub(crate) struct Queues {
    /// By number. A number whose queue was never named in the log is free after a restart, and stays so.
    lines: Vec<Option<Line>>,
    numbers: FxHashMap<QueueName, QueueNumber>,
    leases: Leases,
    in_log: InLog,
    next_sequence: u64,
    /// It is at least that late: the latest time that a record tells.
    latest_ms: u64,
}

/// What a queue may hold, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// A send that would take the queue over this many bytes is refused.
    pub bytes_max: u64,
    /// For how long a message with the same idempotency key is a duplicate, in milliseconds. 0 remembers none.
    pub dedup_window_ms: u64,
    /// How long acknowledged messages are kept for replay, in milliseconds. 0 keeps none.
    pub history_ms: u64,
}

impl Default for QueueLimits {
    fn default() -> QueueLimits {
        QueueLimits { bytes_max: u64::MAX, dedup_window_ms: 0, history_ms: 0 }
    }
}

/// What a purge takes away one by one.
pub(crate) struct OneByOne {
    /// By their positions, which grow.
    pub(crate) messages: Vec<(u64, ToPurge)>,
    /// There are no others before the last of them.
    pub(crate) all: bool,
}

/// What is known of a message that goes.
pub(crate) enum ToPurge {
    /// It counts for so many bytes.
    Known(u32),
    /// It must be read for that.
    Cold(Arc<Segment>, ChunkId),
}

/// A message that goes.
pub(crate) struct Purged {
    pub(crate) position: u64,
    /// It counted for so many bytes; 0 if that is not known.
    pub(crate) bytes: u32,
    /// When it was due by its record, if that was read.
    pub(crate) due_at_ms: Option<u64>,
}

/// What is handed out with a lease.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) lease: Lease,
    pub(crate) sequence: u64,
    pub(crate) location: Location,
    /// The number of the attempt that may begin now.
    pub(crate) attempt: u32,
    pub(crate) first_failed_at_ms: u64,
    /// The message's record, if it was read and decoded already, so that it is whole.
    pub(crate) record: Option<Bytes>,
}

/// A message that is looked at.
pub(crate) enum Glimpse<'a> {
    Known(u64, &'a Entry),
    /// The rest stands in a chunk that must be read.
    Cold {
        position: u64,
        segment: Arc<Segment>,
        chunk: ChunkId,
        ready: bool,
    },
}

impl Claimed {
    /// How to read the message.
    pub(crate) fn wanted(&self) -> Wanted {
        let Claimed { lease, sequence, location, .. } = *self;
        Wanted { queue: QueueNumber(lease.queue), position: lease.position, sequence, location }
    }

    /// What is handed out.
    #[inline(always)]
    pub(crate) fn delivery(&self, message: Message) -> Delivery {
        Delivery {
            message,
            attempt: self.attempt,
            first_failed_at_ms: (self.first_failed_at_ms != 0).then_some(self.first_failed_at_ms),
            lease: self.lease,
        }
    }
}

/// The counts of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) ready: u64,
    pub(crate) delayed: u64,
    pub(crate) leased: u64,
    pub(crate) bytes: u64,
    pub(crate) oldest_enqueued_at_ms: Option<u64>,
}

impl Queues {
    /// A store without messages. Sequence numbers begin at 1.
    pub(crate) fn new() -> Queues {
        Queues { next_sequence: 1, ..Queues::default() }
    }

    /// From now on messages can be leased.
    pub(crate) fn serve(&mut self, leases: Leases) {
        self.leases = leases;
    }

    // --- names ---------------------------------------------------------------------------------------------------

    /// Makes a queue known, or changes its limit.
    pub(crate) fn declare(&mut self, name: &QueueName, limits: QueueLimits) -> QueueNumber {
        let number = self.number_or_new(name);
        let line = line_mut(&mut self.lines, number);
        line.declared = true;
        line.limits = limits;
        number
    }

    /// Takes no more sends for a queue. It keeps its messages, its limits and its number, and what is under way in it may end:
    /// see [`Queues::known`].
    pub(crate) fn retract(&mut self, name: &QueueName) {
        if let Some(number) = self.known(name) {
            line_mut(&mut self.lines, number).declared = false;
        }
    }

    fn number_or_new(&mut self, name: &QueueName) -> QueueNumber {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = QueueNumber(self.lines.len() as u32);
        assert!(number.0 < QUEUES_MAX, "fewer queues than that");
        self.give_number(number, name);
        number
    }

    fn give_number(&mut self, number: QueueNumber, name: &QueueName) {
        let place = number.0 as usize;
        if self.lines.len() <= place {
            self.lines.resize_with(place + 1, || None);
        }
        self.lines[place] = Some(Line::new(name.clone()));
        self.numbers.insert(name.clone(), number);
    }

    /// The number of a queue that messages may be sent to.
    pub(crate) fn declared(&self, name: &QueueName) -> Option<QueueNumber> {
        self.known(name).filter(|number| self.line(*number).declared)
    }

    /// The number of a queue that is declared, or was once.
    pub(crate) fn known(&self, name: &QueueName) -> Option<QueueNumber> {
        self.numbers.get(name).copied()
    }

    /// The queues that people should see: declared ones, and those that still hold messages.
    pub(crate) fn visible(&self) -> impl Iterator<Item = (QueueNumber, &QueueName)> {
        self.numbered().filter(|(_, line)| line.declared || line.len() > 0).map(|(number, line)| (number, &line.name))
    }

    /// All queues that ever had a number, with the position that their next message takes, for the log's catalogue.
    pub(crate) fn all(&self) -> impl Iterator<Item = (QueueNumber, &QueueName, u64)> {
        self.numbered().map(|(number, line)| (number, &line.name, line.next_position))
    }

    fn numbered(&self) -> impl Iterator<Item = (QueueNumber, &Line)> {
        let places = self.lines.iter().enumerate();
        places.filter_map(|(place, line)| Some((QueueNumber(place as u32), line.as_ref()?)))
    }

    /// The name of a queue that no durable record names yet, and its next position. It is not returned again.
    pub(crate) fn take_unnamed(&mut self, used: QueueNumber) -> Option<(QueueName, u64)> {
        let line = line_mut(&mut self.lines, used);
        (!std::mem::replace(&mut line.named_in_log, true)).then(|| (line.name.clone(), line.next_position))
    }

    fn line(&self, number: QueueNumber) -> &Line {
        self.lines[number.0 as usize].as_ref().expect("numbers come from names")
    }

    /// For how long a queue remembers idempotency keys.
    pub(crate) fn dedup_window_ms(&self, number: QueueNumber) -> u64 {
        self.line(number).limits.dedup_window_ms
    }

    /// The longest of these.
    pub(crate) fn dedup_window_max_ms(&self) -> u64 {
        self.lines.iter().flatten().map(|line| line.limits.dedup_window_ms).max().unwrap_or(0)
    }

    // --- numbers and room ----------------------------------------------------------------------------------------

    /// Draws sequence numbers. They are used up also if nothing comes of it.
    pub(crate) fn draw_sequence(&mut self) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        sequence
    }

    /// Draws the next position of a queue. It is used up also if nothing comes of it.
    pub(crate) fn draw_position(&mut self, queue: QueueNumber) -> u64 {
        let line = line_mut(&mut self.lines, queue);
        line.next_position += 1;
        line.next_position - 1
    }

    /// All smaller numbers may be in use.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// The latest time that the log tells.
    pub(crate) fn latest_ms(&self) -> u64 {
        self.latest_ms
    }

    /// Holds room in a queue for a message that is about to be put there. Answers the queue's limit if there is none.
    pub(crate) fn reserve(&mut self, queue: QueueNumber, bytes: u64) -> Result<(), u64> {
        let line = line_mut(&mut self.lines, queue);
        if line.bytes + line.bytes_reserved + bytes > line.limits.bytes_max {
            return Err(line.limits.bytes_max);
        }
        line.bytes_reserved += bytes;
        Ok(())
    }

    /// Gives reserved room back: the message was put, or will not be.
    pub(crate) fn unreserve(&mut self, queue: QueueNumber, bytes: u64) {
        line_mut(&mut self.lines, queue).bytes_reserved -= bytes;
    }

    // --- records -------------------------------------------------------------------------------------------------

    /// What the log says happens, here too. `location` is where a put stands.
    pub(crate) fn apply(&mut self, record: &Record<'_>, location: Location) -> Result<(), String> {
        match record {
            Record::Queue { number, name, next_position } => self.name_queue(*number, name, *next_position),
            Record::Next { sequence } if *sequence > NUMBER_MAX => Err("a number is too large".into()),
            Record::Next { sequence } => {
                self.next_sequence = self.next_sequence.max(*sequence);
                Ok(())
            }
            Record::Time { now_ms } => {
                self.latest_ms = self.latest_ms.max(*now_ms);
                Ok(())
            }
            // It is no queue's.
            Record::State(_) => Ok(()),
            Record::Put(put) => {
                self.latest_ms = self.latest_ms.max(put.place.enqueued_at_ms);
                self.check_number(put.place.queue)?;
                let PutPlace { queue, position, sequence, .. } = put.place;
                if position.max(sequence) > NUMBER_MAX {
                    return Err("a number is too large".into());
                }
                if self.entry(queue, position).is_some() || self.line(queue).shelf.lives(position) {
                    return Err(format!("a second message stands at position {position} of queue number {}", queue.0));
                }
                self.put(&put.place, put.key, put.message_bytes(), location);
                Ok(())
            }
            Record::Update { queue, position, state } => {
                self.check_number(*queue)?;
                self.update(*queue, *position, *state);
                Ok(())
            }
            Record::Purge { queue, below } => {
                self.check_number(*queue)?;
                self.purge(*queue, *below).map(drop)
            }
            // What it means for the history is the history's.
            Record::Kept(kept) => {
                self.latest_ms = self.latest_ms.max(kept.kept.acked_at_ms);
                self.check_number(kept.put.place.queue)
            }
            Record::Forget { queue, .. } => self.check_number(*queue),
            Record::Keep { queue, position, bytes, kept } => {
                self.latest_ms = self.latest_ms.max(kept.acked_at_ms);
                self.apply(&Record::Remove { queue: *queue, position: *position, bytes: *bytes }, location)
            }
            Record::Remove { queue, position, bytes } => {
                self.check_number(*queue)?;
                if self.entry(*queue, *position).is_some() {
                    self.remove(*queue, *position);
                    return Ok(());
                }
                let line = line_mut(&mut self.lines, *queue);
                if line.shelf.clear_live(*position) {
                    line.told.remove(position);
                    let bytes = u64::from(*bytes);
                    let left = line.bytes.checked_sub(bytes).zip(line.bytes_cold.checked_sub(bytes));
                    (line.bytes, line.bytes_cold) = left.ok_or("more bytes are removed than there were")?;
                    line.settle_cold_bytes();
                }
                Ok(())
            }
        }
    }

    /// All messages of a queue before a position are gone, also those that are leased. Answers how many that were.
    pub(crate) fn purge(&mut self, queue: QueueNumber, below: u64) -> Result<u64, String> {
        let (removed, slots) = line_mut(&mut self.lines, queue).purge(below, &mut self.in_log)?;
        slots.into_iter().for_each(|slot| self.leases.give_back(slot));
        Ok(removed)
    }

    pub(crate) fn is_empty(&self, queue: QueueNumber) -> bool {
        self.line(queue).len() == 0
    }

    /// The next messages, at most `step`, that a purge has to take away one by one, if it has to: one record can only tell that
    /// all goes that stands in segments, and that takes long if more than `many` of them have an entry.
    pub(crate) fn purged_one_by_one(
        &self,
        queue: QueueNumber,
        below: u64,
        many: usize,
        step: usize,
    ) -> Option<OneByOne> {
        self.line(queue).purged_one_by_one(below, many, step)
    }

    /// Takes them away. `all`: no others stand before the last of them.
    pub(crate) fn purge_these(&mut self, queue: QueueNumber, purged: &[Purged], all: bool) {
        let mut may_be_due = false;
        for Purged { position, bytes, due_at_ms } in purged {
            let line = line_mut(&mut self.lines, queue);
            may_be_due |= line.entries.get(*position).is_none() && !line.put_off_no_more(*position, *due_at_ms);
            let removal = Record::Remove { queue, position: *position, bytes: *bytes };
            self.apply(&removal, Location::NONE).expect("it counted for so many bytes");
        }
        // To look for them takes long if there are many others.
        if let Some(last) = purged.last().filter(|_| all && may_be_due) {
            line_mut(&mut self.lines, queue).put_off_none_below(last.position + 1);
        }
    }

    /// Where a purge may end that takes little time, if it is to end at `below` at last.
    pub(crate) fn purge_bound(&self, queue: QueueNumber, below: u64, entries_max: usize) -> u64 {
        self.line(queue).purge_bound(below, entries_max)
    }

    /// The position that the next message of a queue takes.
    pub(crate) fn next_position(&self, queue: QueueNumber) -> u64 {
        self.line(queue).next_position
    }

    fn check_number(&self, queue: QueueNumber) -> Result<(), String> {
        match self.lines.get(queue.0 as usize) {
            Some(Some(_)) => Ok(()),
            _ => Err(format!("a message stands in queue number {}, which has no name", queue.0)),
        }
    }

    fn name_queue(&mut self, number: QueueNumber, name: &str, next_position: u64) -> Result<(), String> {
        let name = QueueName::new(name).map_err(|error| error.to_string())?;
        if number.0 >= QUEUES_MAX {
            return Err(format!("queue {name} has number {}: there can't be so many", number.0));
        }
        let taken = self.lines.get(number.0 as usize).is_some_and(Option::is_some);
        match self.known(&name) {
            Some(known) if known == number => {}
            None if !taken => self.give_number(number, &name),
            _ => return Err(format!("queue {name} has number {}, which is another's, or has two", number.0)),
        }
        if next_position > NUMBER_MAX {
            return Err("a number is too large".into());
        }
        let line = line_mut(&mut self.lines, number);
        line.named_in_log = true;
        line.next_position = line.next_position.max(next_position);
        Ok(())
    }

    /// A message stands in a queue.
    pub(crate) fn put(&mut self, place: &PutPlace, key: Option<&str>, bytes: u32, location: Location) {
        self.next_sequence = self.next_sequence.max(place.sequence + 1);
        let mut entry = Entry::new(place.sequence, place.enqueued_at_ms, bytes, location);
        entry.set_state(place.state);
        self.in_log.add(location.file);
        line_mut(&mut self.lines, place.queue).add(place.position, entry, key, place.holds_key);
    }

    pub(crate) fn update(&mut self, queue: QueueNumber, position: u64, state: DeliveryState) {
        if self.entry(queue, position).is_some() {
            self.withdraw(queue, position);
            let line = line_mut(&mut self.lines, queue);
            line.entries.get_mut(position).expect("just looked up").set_state(state);
            line.arrange(position, true);
            return;
        }
        let line = line_mut(&mut self.lines, queue);
        if line.shelf.lives(position) {
            line.told.insert(position, ToldState { state, holds_key: true });
        }
    }

    pub(crate) fn remove(&mut self, queue: QueueNumber, position: u64) {
        if let Some(slot) = line_mut(&mut self.lines, queue).take(position, &mut self.in_log) {
            self.leases.give_back(slot);
        }
    }

    // --- looking -------------------------------------------------------------------------------------------------

    pub(crate) fn entry(&self, queue: QueueNumber, position: u64) -> Option<&Entry> {
        self.lines.get(queue.0 as usize)?.as_ref()?.entries.get(position)
    }

    /// What is known of a message's state when the store is opened, after [`Queues::wake`] was told of it: one on the shelf
    /// that has no entry could not be read.
    pub(crate) fn opening_state(&self, queue: QueueNumber, position: u64) -> Option<DeliveryState> {
        let line = self.lines.get(queue.0 as usize)?.as_ref()?;
        match line.entries.get(position) {
            Some(entry) => Some(entry.state()),
            None if !line.shelf.lives(position) => None,
            None => Some(line.told.get(&position).map_or_else(DeliveryState::default, |told| told.state)),
        }
    }

    pub(crate) fn counts(&self, queue: QueueNumber) -> Counts {
        let line = self.line(queue);
        let oldest_known = || line.entries.iter_from(0).next().map(|(_, entry)| entry.enqueued_at_ms());
        Counts {
            ready: line.len() - line.delayed() - line.leased(),
            delayed: line.delayed(),
            leased: line.leased(),
            bytes: line.bytes,
            oldest_enqueued_at_ms: line.shelf.oldest_enqueued_at_ms().or_else(oldest_known),
        }
    }

    /// The first messages of a queue in its order, from a position on.
    pub(crate) fn peek(&self, queue: QueueNumber, from: u64, limit: usize) -> impl Iterator<Item = Glimpse<'_>> {
        let line = self.line(queue);
        // What is on the shelf stands before what is only in the log.
        let shelved = line.shelf.iter_from(from).map(|position| match line.entries.get(position) {
            Some(entry) => Glimpse::Known(position, entry),
            None => {
                let (segment, chunk) = line.shelf.chunk_of(position).expect("it is on the shelf");
                Glimpse::Cold { position, segment, chunk, ready: line.shelf.is_fresh(position) }
            }
        });
        let in_log = line.entries.iter_from(from).filter(|(_, entry)| !entry.file().is_segment());
        shelved.chain(in_log.map(|(position, entry)| Glimpse::Known(position, entry))).take(limit)
    }
}

/// One queue, while other fields of [`Queues`] are borrowed.
fn line_mut(lines: &mut [Option<Line>], number: QueueNumber) -> &mut Line {
    lines[number.0 as usize].as_mut().expect("numbers come from names")
}
