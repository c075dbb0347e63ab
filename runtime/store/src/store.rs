//! The public face: a folder of durable queues, from any thread.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;

use crate::cache::Cached;
use crate::clock::{Clock, SystemClock};
use crate::cold::ahead::ReadAhead;
use crate::cold::segment::{ChunkId, ColdMessage, LoadedChunk, Segment};
use crate::committer::{self, Caller, DropState, Inbox, Purge};
use crate::disk::{Disk, FolderLock, RealDisk, Shortage};
use crate::history::{self, HistoryPage, HistoryRange};
use crate::keeping::{AGAIN_MS, FILES_MIN};
use crate::kv::Found;
use crate::kv::file::FiledKeys;
use crate::open::{self, Layout, Opened};
use crate::queues::{Claimed, Claiming, ExpiredClaim, Glimpse, Phase};
use crate::record::QueueNumber;
use crate::shared::{Shared, State, Wanted};
use crate::transaction::{Receipt, Refusal, Transaction};
use crate::wal::Preparation;
use crate::{Delivery, Lease, Message, OpenError, QueueLimits, QueueName};

/// Deliveries that can be leased at once, of all queues together. A claim gets none beyond.
pub const LEASES_MAX: usize = 32 * 1024;

/// How large the store may become.
#[derive(Debug, Clone)]
pub struct Options {
    /// The room of the write-ahead log on disk, in bytes; at least 16 MiB. A third of it is made at once; the rest is used
    /// while messages come faster than they can be copied to segments. A message and what is committed with it take at
    /// most a 64th of it.
    pub log_bytes_max: u64,
    /// Bytes of messages that are kept in memory for the next claim.
    pub cache_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { log_bytes_max: 768 << 20, cache_bytes_max: 64 << 20 }
    }
}

impl Options {
    fn layout(&self) -> Layout {
        const MIB: u64 = 1 << 20;
        let file_bytes = (self.log_bytes_max / 16).clamp(MIB, 64 * MIB).next_multiple_of(MIB);
        Layout {
            file_bytes,
            files_max: (self.log_bytes_max / file_bytes).max(FILES_MIN + 1),
            cache_bytes_max: self.cache_bytes_max,
            attempt_slots: LEASES_MAX,
            chunk_bytes: 16 << 10,
            small_segment_bytes: file_bytes / 8,
            gap_max: 1 << 16,
            picked_max: 2048,
            dedup_runs_max: 12,
            state_bytes_min: 8 * MIB,
            handles_max: 128,
            checkpoint_bytes: MIB,
            preparation: Preparation::Thread,
        }
    }
}

/// A message's state, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageState {
    /// It can be claimed, or could if an earlier message of its key were not in the way.
    Ready,
    /// It is not due yet.
    Delayed,
    /// It is being handled.
    Leased,
}

/// A message that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peeked {
    /// The message.
    pub message: Message,
    /// Where it is in its life.
    pub state: MessageState,
    /// Attempts that have started so far.
    pub attempts: u32,
    /// When it is due, in milliseconds of the Unix epoch, if it is delayed.
    pub due_at_ms: Option<u64>,
}

/// Which messages of a queue are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeekRange {
    /// Only those after this position: [`PeekPage::next`] of the page before.
    pub after: Option<u64>,
    /// At most so many.
    pub limit: usize,
    /// Ends with the message with which the bodies have so many bytes.
    pub bytes_max: usize,
}

/// Some messages of a queue, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeekPage {
    /// The messages.
    pub messages: Vec<Peeked>,
    /// If there may be more: after which position they stand.
    pub next: Option<u64>,
    /// Messages in between that can't be read and are left out.
    pub unreadable: u64,
}

/// The counts of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStats {
    /// Its name.
    pub name: QueueName,
    /// Whether it takes sends. One that does not is shown for as long as it holds messages.
    pub declared: bool,
    /// Messages in state [`MessageState::Ready`].
    pub ready: u64,
    /// Messages in state [`MessageState::Delayed`].
    pub delayed: u64,
    /// Messages in state [`MessageState::Leased`].
    pub leased: u64,
    /// Bytes of bodies, keys, content types and attributes.
    pub bytes: u64,
    /// When the oldest message was sent, in milliseconds of the Unix epoch.
    pub oldest_enqueued_at_ms: Option<u64>,
    /// Acknowledged messages in the queue's history. They count for nothing else.
    pub history: u64,
    /// What those counted for in `bytes`.
    pub history_bytes: u64,
    /// Acknowledged messages that had to go before their time, because the disk was full.
    pub history_given_up: u64,
}

/// The queues of one folder. All methods may be called from any thread.
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    ahead: ReadAhead,
    // Taken once, by whoever closes first; the lock on the folder goes after the last write.
    running: Mutex<Option<Running>>,
}

struct Running {
    /// None in a simulation, which drives the engine itself.
    committer: Option<JoinHandle<()>>,
    lock: Box<dyn FolderLock>,
}

impl Store {
    /// Opens the store of a folder, or makes it. Nobody else can open it until it is closed or the process ends.
    pub fn open(folder: &Path, options: &Options) -> Result<Store, OpenError> {
        // The standard library draws these keys from the system's random source.
        let seed = RandomState::new().build_hasher().finish();
        Store::open_on(Arc::new(RealDisk::open(folder)?), &options.layout(), Arc::new(SystemClock::new()), seed)
    }

    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        layout: &Layout,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Result<Store, OpenError> {
        let Opened { engine, lock } = open::open(disk, layout, clock, seed)?;
        let shared = engine.shared.clone();
        let inbox = Arc::new(Inbox::default());
        let nudged = inbox.clone();
        shared.set_nudge(Arc::new(move || nudged.nudge()));
        let committer_inbox = inbox.clone();
        let ahead = ReadAhead::start(shared.clone()).map_err(|error| {
            OpenError::Stopped(format!("could not start the thread that reads ahead: {error}").into())
        })?;
        let committer = std::thread::Builder::new()
            .name("committer".into())
            .spawn(move || committer::run(engine, &committer_inbox))
            .map_err(|error| OpenError::Stopped(format!("could not start the committer's thread: {error}").into()))?;
        Ok(Store { shared, inbox, ahead, running: Mutex::new(Some(Running { committer: Some(committer), lock })) })
    }

    /// The face of an engine that the caller drives.
    #[cfg(test)]
    pub(crate) fn without_committer(shared: Arc<Shared>, lock: Box<dyn FolderLock>) -> Store {
        let ahead = ReadAhead::Inline(shared.clone());
        Store { shared, inbox: Arc::default(), ahead, running: Mutex::new(Some(Running { committer: None, lock })) }
    }

    /// Waits for what was submitted, then lets go of the folder. Later submissions are refused.
    pub fn close(&self) {
        self.inbox.close();
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { committer, lock }) = running {
            // It does not panic: what it comes to is told by [`Store::failure`].
            let _ = committer.map(JoinHandle::join);
            let why = self.shared.fail("it was closed");
            self.shared.state().stopped.get_or_insert(why);
            self.ahead.stop();
            drop(lock);
        }
    }

    /// Makes a queue known, or changes its limits. It is in the log from its first message on.
    pub fn declare(&self, queue: &QueueName, limits: QueueLimits) {
        let state = &mut *self.shared.state();
        let number = state.queues.declare(queue, limits);
        state.history.declare(number, limits.history_ms);
    }

    /// Takes no more sends for a queue, until it is declared again. Its messages stay, and what is leased may still be
    /// settled; a settlement may also send to it, or move its message there, as when it was leased.
    pub fn retract(&self, queue: &QueueName) {
        self.shared.state().queues.retract(queue);
    }

    /// Calls `arrived` whenever a queue may have something new to claim, on the committer's thread: it must be quick.
    pub fn watch(&self, queue: &QueueName, arrived: Arc<dyn Fn() + Send + Sync>) {
        let mut state = self.shared.state();
        if let Some(number) = state.queues.known(queue) {
            state.watchers.entry(number).or_default().push(arrived);
        }
    }

    /// Puts transactions on record, each atomic by itself. `done` gets an answer for each, in order, once they are
    /// durable or refused. It is called on the committer's thread: it must be quick.
    pub fn submit_all(
        &self,
        transactions: Vec<Transaction>,
        done: impl FnOnce(Vec<Result<Receipt, Refusal>>) + Send + 'static,
    ) {
        let caller = Caller::All(transactions.len(), Box::new(done));
        self.answer(self.inbox.push_all(transactions, caller));
    }

    /// Acknowledges deliveries that nothing goes with, each by itself; see [`Store::submit_all`]. `done` is told which were
    /// refused, by their places; the others are durable then.
    pub fn acknowledge(&self, leases: &[Lease], done: impl FnOnce(Vec<(usize, Refusal)>) + Send + 'static) {
        let caller = Caller::Acks(leases.len(), Box::new(done));
        self.answer(self.inbox.push_acks(leases, caller));
    }

    /// Puts one transaction on record; see [`Store::submit_all`].
    pub fn submit(&self, transaction: Transaction, done: impl FnOnce(Result<Receipt, Refusal>) + Send + 'static) {
        self.answer(self.inbox.push(transaction, Caller::One(Box::new(done))));
    }

    /// Takes away all messages that are in a queue by now, also those that are being handled: what comes of those is
    /// discarded. It goes on beside other work, step by step; `done` is told how many went, on the committer's thread.
    /// Idempotency keys stay remembered.
    pub fn purge(&self, queue: &QueueName, done: impl FnOnce(Result<u64, Refusal>) + Send + 'static) {
        let known = {
            let state = self.shared.state();
            state.queues.known(queue).map(|number| (number, state.queues.next_position(number)))
        };
        match known {
            Some((queue, below)) => {
                if let Some(purge) = self.inbox.push_purge(Purge { queue, below, removed: 0, done: Box::new(done) }) {
                    (purge.done)(Err(self.closed()));
                }
            }
            None => done(Err(Refusal::NoSuchQueue(queue.clone()))),
        }
    }

    /// Tells a caller for whom nobody works any more.
    fn answer(&self, refused: Option<Caller>) {
        if let Some(caller) = refused {
            caller.refuse(&self.closed());
        }
    }

    fn closed(&self) -> Refusal {
        Refusal::Stopped(self.failure().unwrap_or_else(|| "it was closed".into()))
    }

    /// Leases up to `max` messages for so long, in the queue's order. Nothing is claimable: nothing is leased.
    ///
    /// A message that can't be read stays leased, so that it does not hold up the others until the lease is over; the
    /// error is returned if no other message was claimed with it.
    pub fn claim(&self, queue: &QueueName, max: usize, lease_ms: u64) -> Result<Vec<Delivery>, Refusal> {
        let now_ms = self.shared.clock.now_ms();
        let expires_at_ms = now_ms.saturating_add(lease_ms);
        self.claim_with(queue, now_ms, expires_at_ms, 1, |state, number, claimed| {
            state.queues.advance(number, now_ms);
            let State { queues, chunks, .. } = state;
            queues.claim(number, max, expires_at_ms, chunks, claimed)
        })
    }

    /// Leases up to `max` messages that were sent longer ago than this, from the front of the queue on, whether they are
    /// ready or delayed. It ends at the first one that was sent later. One that was moved behind such a one may wait until
    /// that one would have expired, too, even if it is gone by then.
    ///
    /// A message that is given back before it was due is not due sooner for that, whatever delay it is given back with.
    ///
    /// What can't be read is passed over until the lease would be over; the error is returned as by [`Store::claim`].
    pub fn claim_expired(
        &self,
        queue: &QueueName,
        older_than_ms: u64,
        max: usize,
        lease_ms: u64,
    ) -> Result<Vec<Delivery>, Refusal> {
        let now_ms = self.shared.clock.now_ms();
        let expires_at_ms = now_ms.saturating_add(lease_ms);
        // Each one that fails may take the disk long.
        const UNREADABLE_MAX: usize = 16;
        let sent_before_ms = now_ms.saturating_sub(older_than_ms);
        let wanted = ExpiredClaim { max, sent_before_ms, now_ms, expires_at_ms };
        self.claim_with(queue, now_ms, expires_at_ms, UNREADABLE_MAX, |state, number, claimed| {
            state.queues.advance(number, now_ms);
            let State { queues, chunks, .. } = state;
            queues.claim_expired(number, &wanted, chunks, claimed)
        })
    }

    /// `unreadable_max`: chunks that can't be read with which it ends.
    fn claim_with(
        &self,
        queue: &QueueName,
        now_ms: u64,
        expires_at_ms: u64,
        unreadable_max: usize,
        mut claim: impl FnMut(&mut State, QueueNumber, &mut Vec<Claimed>) -> Claiming,
    ) -> Result<Vec<Delivery>, Refusal> {
        let mut claimed = Vec::new();
        let (mut failed, mut unreadable) = (None, 0);
        loop {
            let mut read_ahead = false;
            let claiming = {
                let mut guard = self.shared.state();
                let state = &mut *guard;
                if let Some(why) = &state.stopped {
                    return Err(Refusal::Stopped(why.clone()));
                }
                let number = state.queues.known(queue).ok_or_else(|| Refusal::NoSuchQueue(queue.clone()))?;
                let claiming = claim(state, number, &mut claimed);
                match &claiming {
                    Claiming::Reads(_, chunk) => state.chunks.not_ahead(*chunk),
                    _ => read_ahead = state.queues.read_ahead(number, &mut state.chunks),
                }
                claiming
            };
            if read_ahead {
                self.ahead.ring();
            }
            match claiming {
                Claiming::Done => break,
                Claiming::Reads(segment, chunk) => match segment.read_chunk(chunk) {
                    Ok(chunk) => self.shared.state().chunks.add(Arc::new(chunk)),
                    Err(error) => {
                        failed = Some(Arc::from(error.to_string()));
                        let span = segment.chunk_span(chunk);
                        // What is missing may be there again soon; what is damaged stays so.
                        let again_ms = if error.shortage().is_some() { now_ms + AGAIN_MS } else { expires_at_ms };
                        let again_ms = again_ms.min(expires_at_ms);
                        let state = &mut *self.shared.state();
                        state.queues.put_off(segment.queue, span, again_ms);
                        state.chunks.cannot_be_read(chunk, now_ms, again_ms);
                        unreadable += 1;
                        if unreadable >= unreadable_max || error.shortage().is_some() {
                            break;
                        }
                    }
                },
                Claiming::Unreadable(segment, chunk) => failed = Some(segment.damage(chunk).into()),
            }
        }
        if !claimed.is_empty() {
            self.inbox.lease_ends(expires_at_ms);
        }
        let mut deliveries = Vec::with_capacity(claimed.len());
        let mut cached: Option<Cached> = None;
        for one in &claimed {
            let wanted = one.wanted();
            let record = match &one.record {
                Some(record) => Some(&**record),
                None => {
                    if cached.as_ref().is_none_or(|frame| frame.get(one.location).is_none()) {
                        cached = self.shared.cache().frame(one.location).cloned();
                    }
                    cached.as_ref().and_then(|frame| frame.get(one.location))
                }
            };
            let id = self.shared.id(one.sequence);
            match record {
                // Straight to where it is handed out: there are many.
                Some(record) => match self.shared.checked_put(&wanted, record) {
                    Ok(put) => deliveries.push(one.delivery(put.named(id))),
                    Err(why) => failed = Some(why),
                },
                None => match self.shared.read(wanted) {
                    Ok(Some(content)) => deliveries.push(one.delivery(content.into_message(id))),
                    Ok(None) => {}
                    Err(why) => failed = Some(why),
                },
            }
        }
        match failed {
            Some(why) if deliveries.is_empty() => Err(Refusal::Read(why)),
            _ => Ok(deliveries),
        }
    }

    /// A message: out of its record, if that was still in memory.
    fn message(&self, wanted: &Wanted, record: Option<&[u8]>) -> Result<Option<Message>, Arc<str>> {
        let id = self.shared.id(wanted.sequence);
        match record {
            Some(record) => Ok(Some(self.shared.checked_put(wanted, record)?.named(id))),
            None => Ok(self.shared.read(*wanted)?.map(|content| content.into_message(id))),
        }
    }

    /// Whether something could be claimed now.
    pub fn has_claimable(&self, queue: &QueueName) -> bool {
        let state = self.shared.state();
        state.queues.known(queue).is_some_and(|number| state.queues.has_claimable(number))
    }

    /// How long until the next delayed message of a queue is due.
    pub fn next_due_in(&self, queue: &QueueName) -> Option<Duration> {
        let now_ms = self.shared.clock.now_ms();
        let state = self.shared.state();
        let due_at_ms = state.queues.next_due_at(state.queues.known(queue)?)?;
        Some(Duration::from_millis(due_at_ms.saturating_sub(now_ms)))
    }

    /// Writes down that an attempt begins; see [`crate::Delivery::attempt`]. False if the lease is over: then it must not.
    pub fn begin(&self, lease: Lease) -> bool {
        // Whether a lease is over is decided by whoever ends it; this need not be exact.
        self.shared.attempts.begin(lease, self.shared.clock.lately_ms())
    }

    /// Makes a lease end so long from now. False if it is over.
    pub fn extend(&self, lease: Lease, by_ms: u64) -> bool {
        let until_ms = self.shared.clock.now_ms().saturating_add(by_ms);
        let extended = self.shared.state().queues.extend(lease, until_ms);
        if extended {
            self.inbox.lease_ends(until_ms);
        }
        extended
    }

    /// The counts of all queues that are declared or hold messages, by name.
    pub fn queues(&self) -> Vec<QueueStats> {
        let names: Vec<QueueName> = self.shared.state().queues.visible().map(|(_, name)| name.clone()).collect();
        let mut all: Vec<QueueStats> = names.iter().filter_map(|name| self.queue(name)).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// The counts of one queue, if it is declared or holds messages.
    pub fn queue(&self, queue: &QueueName) -> Option<QueueStats> {
        let now_ms = self.shared.clock.now_ms();
        let mut state = self.shared.state();
        let number = state.queues.known(queue)?;
        state.queues.advance(number, now_ms);
        let counts = state.queues.counts(number);
        let history = state.history.counts(number);
        let holds_any = counts.oldest_enqueued_at_ms.is_some() || history.messages > 0;
        let declared = state.queues.declared(queue).is_some();
        (holds_any || declared).then(|| QueueStats {
            name: queue.clone(),
            declared,
            ready: counts.ready,
            delayed: counts.delayed,
            leased: counts.leased,
            bytes: counts.bytes,
            oldest_enqueued_at_ms: counts.oldest_enqueued_at_ms,
            history: history.messages,
            history_bytes: history.bytes,
            history_given_up: history.given_up,
        })
    }

    /// Acknowledged messages of a queue with [`QueueLimits::history_ms`], in the order in which they were acknowledged.
    /// Messages that are too old, or were purged, are not among them.
    pub fn history(&self, queue: &QueueName, range: &HistoryRange) -> Result<HistoryPage, Refusal> {
        let number = self.shared.state().queues.known(queue).ok_or_else(|| Refusal::NoSuchQueue(queue.clone()))?;
        history::page(&self.shared, number, range).map_err(Refusal::Read)
    }

    /// The first messages of a queue in its order, without claiming them. All of them are in memory at once, and all of them
    /// must be readable.
    pub fn peek(&self, queue: &QueueName, limit: usize) -> Result<Vec<Peeked>, Refusal> {
        let mut failed = None;
        let page = self.look_at(queue, &PeekRange { after: None, limit, bytes_max: usize::MAX }, &mut failed)?;
        failed.map_or(Ok(page.messages), |why| Err(Refusal::Read(why)))
    }

    /// The next messages of a queue in its order, without claiming them.
    pub fn peek_page(&self, queue: &QueueName, range: &PeekRange) -> Result<PeekPage, Refusal> {
        self.look_at(queue, range, &mut None)
    }

    /// `failed`: why the first one that can't be read can't be.
    fn look_at(
        &self,
        queue: &QueueName,
        range: &PeekRange,
        failed: &mut Option<Arc<str>>,
    ) -> Result<PeekPage, Refusal> {
        let PeekRange { after, limit, bytes_max } = *range;
        let from = after.map_or(0, |after| after.saturating_add(1));
        let now_ms = self.shared.clock.now_ms();
        let seen: Vec<Seen> = {
            let mut state = self.shared.state();
            let number = state.queues.known(queue).ok_or_else(|| Refusal::NoSuchQueue(queue.clone()))?;
            state.queues.advance(number, now_ms);
            state.queues.peek(number, from, limit).map(|glimpse| Seen::new(number, glimpse, &state)).collect()
        };
        let mut page = PeekPage { messages: Vec::with_capacity(seen.len()), ..PeekPage::default() };
        let is_full = seen.len() == limit;
        let (mut last, mut bytes) = (None, 0);
        for one in seen {
            if bytes >= bytes_max {
                return Ok(page);
            }
            page.next = Some(one.position());
            match self.look(one, &mut last) {
                Ok(Some(peeked)) => {
                    bytes += peeked.message.body.len();
                    page.messages.push(peeked);
                }
                Ok(None) => {}
                Err(why) => {
                    page.unreadable += 1;
                    failed.get_or_insert(why);
                }
            }
        }
        if !is_full {
            page.next = None;
        }
        Ok(page)
    }

    /// Reads a message that was seen; none if it is gone. `last`: the chunk that was read last.
    fn look(&self, seen: Seen, last: &mut Option<LastChunk>) -> Result<Option<Peeked>, Arc<str>> {
        let found = match seen {
            Seen::Known { wanted, state, attempts, due_at_ms } => {
                let record = self.shared.cache().get(wanted.location);
                let Some(message) = self.message(&wanted, record.as_deref())? else { return Ok(None) };
                (message, state, attempts, due_at_ms)
            }
            Seen::Cold { position, segment, chunk, ready } => {
                let (_, loaded) = match last.take().filter(|(id, _)| *id == chunk) {
                    Some(loaded) => last.insert(loaded),
                    None => last.insert((chunk, segment.read_chunk(chunk).map_err(|error| error.to_string().into()))),
                };
                let loaded = loaded.as_ref().map_err(Arc::clone)?;
                let message = loaded.get(position).ok_or_else(|| Arc::from(segment.damage(chunk)))?;
                let ColdMessage { sequence, location, .. } = message;
                let wanted = Wanted { queue: segment.queue, position, sequence, location };
                let record = loaded.record(&message);
                let content = self.shared.put(&wanted, location, &record)?.named(self.shared.id(sequence));
                let due_at_ms = if ready { 0 } else { message.state.due_at_ms };
                let state = if ready { MessageState::Ready } else { MessageState::Delayed };
                (content, state, message.state.attempts, due_at_ms)
            }
        };
        let (message, state, attempts, due_at_ms) = found;
        Ok(Some(Peeked { message, state, attempts, due_at_ms: (due_at_ms != 0).then_some(due_at_ms) }))
    }

    /// The value of a key of durable state (see [`crate::StateWrite::space`]). It may be read from disk.
    pub fn state_get(&self, space: &str, key: &str) -> Result<Option<Bytes>, Refusal> {
        {
            let state = self.shared.state();
            if let Found::Here(value) = state.kv.find(space, key) {
                return Ok(value.cloned());
            }
        }
        self.shared.state_file.get(space, key).map_err(Refusal::Read)
    }

    /// Keys of a space of durable state, in the order of their bytes: the first ones after `after`.
    pub fn state_keys(&self, space: &str, after: Option<&str>, limit: usize) -> Result<Vec<Box<str>>, Refusal> {
        let mut all = Vec::new();
        let mut after: Option<Box<str>> = after.map(Into::into);
        while all.len() < limit {
            let wanted = limit - all.len();
            let thaws = self.shared.state().kv.thaws();
            let FiledKeys { keys, more } =
                self.shared.state_file.keys(space, after.as_deref(), wanted).map_err(Refusal::Read)?;
            let last = keys.last().filter(|_| more).cloned();
            let state = self.shared.state();
            if state.kv.thaws() != thaws {
                // What was in memory may have gone into the file since that was read.
                continue;
            }
            all.extend(state.kv.merge_keys(space, after.as_deref(), keys, last.as_deref(), wanted));
            match last {
                // All of these may have been removed since.
                Some(last) => after = Some(last),
                None => break,
            }
        }
        Ok(all)
    }

    /// Bytes of the keys and values of a space of durable state.
    pub fn state_bytes(&self, space: &str) -> u64 {
        self.shared.state().kv.bytes(space)
    }

    /// Limits the bytes of a space of durable state. What is there stays; what would make it larger is refused.
    pub fn limit_state(&self, space: &str, bytes_max: u64) {
        self.shared.state().kv.set_limit(space, bytes_max);
    }

    /// Takes away all durable state of a space, at once. `done` is called on the committer's thread.
    pub fn drop_state(&self, space: &str, done: impl FnOnce(Result<(), Refusal>) + Send + 'static) {
        if let Some(dropped) = self.inbox.push_drop(DropState { space: space.into(), done: Box::new(done) }) {
            (dropped.done)(Err(self.closed()));
        }
    }

    /// What is missing while sends are refused. They are taken again when it is there.
    pub fn shortage(&self) -> Option<Shortage> {
        self.shared.state().shortage
    }

    /// Why the store has stopped confirming, if it has.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.shared.failure().or_else(|| self.shared.state().stopped.clone())
    }
}

/// What came of reading a chunk.
type LastChunk = (ChunkId, Result<LoadedChunk, Arc<str>>);

/// A message that was seen while the queues could not change; it is read afterwards.
enum Seen {
    Known { wanted: Wanted, state: MessageState, attempts: u32, due_at_ms: u64 },
    Cold { position: u64, segment: Arc<Segment>, chunk: ChunkId, ready: bool },
}

impl Seen {
    fn position(&self) -> u64 {
        match self {
            Seen::Known { wanted, .. } => wanted.position,
            Seen::Cold { position, .. } => *position,
        }
    }

    fn new(queue: QueueNumber, glimpse: Glimpse<'_>, state: &State) -> Seen {
        match glimpse {
            Glimpse::Cold { position, segment, chunk, ready } => Seen::Cold { position, segment, chunk, ready },
            Glimpse::Known(position, entry) => Seen::Known {
                wanted: Wanted { queue, position, sequence: entry.sequence(), location: entry.location() },
                state: match entry.phase() {
                    Phase::Fresh | Phase::Ready | Phase::Absent => MessageState::Ready,
                    Phase::Delayed { .. } => MessageState::Delayed,
                    Phase::Leased { .. } => MessageState::Leased,
                },
                attempts: state.queues.attempts_started(entry),
                due_at_ms: entry.state().due_at_ms,
            },
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}
