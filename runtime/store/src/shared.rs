//! What the committer and the callers share: the queues in memory, and the way to a message's content.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};

use rustc_hash::FxHashMap;

use crate::apart::Apart;
use crate::attempts::Attempts;
use crate::cache::FrameCache;
use crate::clock::Clock;
use crate::cold::chunks::Chunks;
use crate::courtesy::Pressed;
use crate::disk::Shortage;
use crate::history::History;
use crate::kv::Kv;
use crate::kv::file::StateFile;
use crate::location::Location;
use crate::queues::{Entry, Queues};
use crate::reader::Reader;
use crate::record::{self, Put, QueueNumber};
use crate::{Message, MessageId, NewMessage};

/// Called when a queue may have something to claim.
pub(crate) type Watcher = Arc<dyn Fn() + Send + Sync>;

pub(crate) struct Shared {
    // Apart, since handlers that begin read the other fields without a lock, and this one changes all the time.
    // Short sections, no I/O and no callbacks in them: callers claim under it, the committer checks and applies under it.
    state: Apart<Mutex<State>>,
    /// Callers that wait for the state.
    waiting: Apart<AtomicUsize>,
    // Held to find a record or to add a frame. Not a part of the state, so that looking records up holds up nobody.
    cache: Apart<Mutex<FrameCache>>,
    /// Of the leases that are out in `state`.
    pub(crate) attempts: Arc<Attempts>,
    pub(crate) reader: Reader,
    pub(crate) state_file: StateFile,
    /// Wakes the committer: something that was done beside it is finished.
    nudge: OnceLock<Watcher>,
    /// Why nothing more is confirmed. The state says so too, but it may be what is broken.
    failure: OnceLock<Arc<str>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) pressed: Pressed,
    store_tag: u64,
}

/// How often the state is tried for before a thread sleeps: about as long as that would take.
const TRIES: u32 = 4000;

pub(crate) struct State {
    pub(crate) queues: Queues,
    pub(crate) history: History,
    pub(crate) chunks: Chunks,
    pub(crate) kv: Kv,
    pub(crate) watchers: FxHashMap<QueueNumber, Vec<Watcher>>,
    /// Why nothing more is confirmed.
    pub(crate) stopped: Option<Arc<str>>,
    /// Why sends are refused for now.
    pub(crate) shortage: Option<Shortage>,
}

impl Shared {
    pub(crate) fn new(
        state: State,
        attempts: Arc<Attempts>,
        cache: FrameCache,
        reader: Reader,
        state_file: StateFile,
        clock: Arc<dyn Clock>,
        store_tag: u64,
    ) -> Shared {
        Shared {
            state: Apart::new(Mutex::new(state)),
            waiting: Apart::default(),
            cache: Apart::new(Mutex::new(cache)),
            attempts,
            reader,
            state_file,
            nudge: OnceLock::new(),
            failure: OnceLock::new(),
            clock,
            pressed: Pressed::default(),
            store_tag,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        if let Ok(state) = self.state.try_lock() {
            return state;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let state = self.state_soon();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        state
    }

    /// As [`Shared::state`], for the committer, for which others make no room. Whoever has the lock has it for microseconds,
    /// and to sleep and be woken takes longer. So it tries for a while before it sleeps.
    pub(crate) fn state_soon(&self) -> MutexGuard<'_, State> {
        for _ in 0..TRIES {
            match self.state.try_lock() {
                Ok(state) => return state,
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
                Err(TryLockError::Poisoned(_)) => break,
            }
        }
        match self.state.lock() {
            Ok(state) => state,
            // The committer has ended: nothing can be lost any more, and whoever asks is told that it has.
            Err(broken) if let Some(why) = self.failure() => {
                let mut state = broken.into_inner();
                state.stopped.get_or_insert(why);
                state
            }
            // A panic under the lock is a broken invariant of the store: going on could lose messages.
            Err(_) => panic!("a thread has panicked while it changed the queues"),
        }
    }

    /// Lets those have the state that wait for it, before the committer goes on with a long list. False if nobody came: who
    /// sleeps by now takes longer to wake up than is worth waiting for.
    pub(crate) fn let_others<'a>(&'a self, state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, bool) {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return (state, true);
        }
        drop(state);
        let came = (0..TRIES).any(|_| {
            std::hint::spin_loop();
            self.waiting.load(Ordering::Relaxed) == 0
        });
        (self.state_soon(), came)
    }

    /// Notes why nothing more is confirmed; the first reason stays. It takes no lock.
    pub(crate) fn fail(&self, why: &str) -> Arc<str> {
        self.failure.get_or_init(|| why.into()).clone()
    }

    /// Why nothing more is confirmed.
    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        self.failure.get().cloned()
    }

    pub(crate) fn cache(&self) -> MutexGuard<'_, FrameCache> {
        self.cache.lock().expect("the cache is whole")
    }

    /// Whom to tell when something that was done beside the committer is finished. Once.
    pub(crate) fn set_nudge(&self, nudge: Watcher) {
        assert!(self.nudge.set(nudge).is_ok(), "there is one committer");
    }

    pub(crate) fn nudge(&self) {
        if let Some(nudge) = self.nudge.get() {
            nudge();
        }
    }

    pub(crate) fn id(&self, sequence: u64) -> MessageId {
        MessageId::new(self.store_tag, sequence)
    }

    /// Reads a live message. It may be copied and its file recycled at any time, so a failed read is
    /// tried again where the message is by then; `None` if it is no longer there.
    pub(crate) fn read(&self, wanted: Wanted) -> Result<Option<Content>, Arc<str>> {
        let mut location = wanted.location;
        loop {
            let failed = match self.read_at(&wanted, location) {
                Ok(content) => return Ok(Some(content)),
                Err(why) => why,
            };
            match self.state().queues.entry(wanted.queue, wanted.position).map(Entry::location) {
                None => return Ok(None),
                Some(now) if now == location => return Err(failed),
                Some(now) => location = now,
            }
        }
    }

    fn read_at(&self, wanted: &Wanted, location: Location) -> Result<Content, Arc<str>> {
        let bytes = self
            .reader
            .read(location)
            .map_err(|error| Arc::from(format!("message {} can't be read: {error}", self.id(wanted.sequence))))?;
        self.decode(wanted, location, &bytes)
    }

    /// What stands in a message's record, after a check that it is this message's.
    pub(crate) fn decode(&self, wanted: &Wanted, location: Location, bytes: &[u8]) -> Result<Content, Arc<str>> {
        let put = self.put(wanted, location, bytes)?;
        Ok(Content { message: put.message(), enqueued_at_ms: put.place.enqueued_at_ms })
    }

    /// A message's record, after a check that it is this message's.
    #[inline]
    pub(crate) fn put<'a>(&self, wanted: &Wanted, location: Location, bytes: &'a [u8]) -> Result<Put<'a>, Arc<str>> {
        // The record's checksum also tells a record from what has been written over it meanwhile.
        match record::decode_put(bytes) {
            Ok(Some(put)) => self.check(wanted, location, put),
            Ok(None) => Err(self.damaged(wanted, location, &"another record stands there")),
            Err(why) => Err(self.damaged(wanted, location, &why)),
        }
    }

    /// As [`Shared::put`], of a record in memory: this process has encoded it, or decoded it before.
    #[inline]
    pub(crate) fn checked_put<'a>(&self, wanted: &Wanted, bytes: &'a [u8]) -> Result<Put<'a>, Arc<str>> {
        let put = record::decode_checked_put(bytes).map_err(|why| self.damaged(wanted, wanted.location, &why))?;
        self.check(wanted, wanted.location, put)
    }

    #[inline]
    fn check<'a>(&self, wanted: &Wanted, location: Location, put: Put<'a>) -> Result<Put<'a>, Arc<str>> {
        if put.place.queue != wanted.queue || put.place.position != wanted.position {
            return Err(self.damaged(wanted, location, &"another record stands there"));
        }
        Ok(put)
    }

    fn damaged(&self, wanted: &Wanted, location: Location, why: &dyn fmt::Display) -> Arc<str> {
        format!("message {} is damaged at {location}: {why}", self.id(wanted.sequence)).into()
    }
}

/// A message that is to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) queue: QueueNumber,
    pub(crate) position: u64,
    pub(crate) sequence: u64,
    pub(crate) location: Location,
}

/// What a message carries, without its place in a queue.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) message: NewMessage,
    pub(crate) enqueued_at_ms: u64,
}

impl Content {
    pub(crate) fn into_message(self, id: MessageId) -> Message {
        let NewMessage { body, content_type, key, attributes, idempotency_key: _, delay_ms: _ } = self.message;
        Message { id, body, content_type, key, attributes, enqueued_at_ms: self.enqueued_at_ms }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::clock::ManualClock;
    use crate::disk::SimulatedDisk;
    use crate::simulation::LAYOUT;

    #[test]
    fn whoever_waits_for_the_state_gets_it_before_a_long_list_is_done() {
        let opened =
            crate::open::open(Arc::new(SimulatedDisk::new(1)), &LAYOUT, Arc::new(ManualClock::new(1)), 1).unwrap();
        let shared = &opened.engine.shared;
        let had = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mut state = shared.state_soon();
            scope.spawn(|| {
                let _state = shared.state();
                had.store(true, Ordering::Relaxed);
            });
            while !had.load(Ordering::Relaxed) {
                (state, _) = shared.let_others(state);
            }
            let (_state, came) = shared.let_others(state);
            assert!(came, "nobody waits");
        });
        assert_eq!(shared.waiting.load(Ordering::Relaxed), 0);
    }
}
