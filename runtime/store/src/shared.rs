//! What the committer and the callers share: the queues in memory, and the way to a message's content.

use std::sync::{Arc, Mutex, MutexGuard};

use rustc_hash::FxHashMap;

use crate::attempts::{AttemptTable, Slot};
use crate::clock::Clock;
use crate::queues::{Location, Queues};
use crate::record::{self, QueueNumber, Record};
use crate::sequence_map::SequenceMap;
use crate::wal::Reader;
use crate::{Message, MessageId, NewMessage};

/// Called when a queue may have something to claim.
pub(crate) type Watcher = Arc<dyn Fn() + Send + Sync>;

pub(crate) struct Shared {
    // Short sections, no I/O and no callbacks in them: callers claim under it, the committer checks and applies under it.
    state: Mutex<State>,
    reader: Reader,
    pub(crate) clock: Arc<dyn Clock>,
    store_tag: u64,
}

pub(crate) struct State {
    pub(crate) queues: Queues,
    pub(crate) attempts: AttemptTable,
    /// The slots of the leases that are out, by token.
    pub(crate) slots: FxHashMap<u64, Slot>,
    pub(crate) cache: Cache,
    pub(crate) watchers: FxHashMap<QueueNumber, Vec<Watcher>>,
    /// Why nothing more is confirmed.
    pub(crate) stopped: Option<Arc<str>>,
}

impl Shared {
    pub(crate) fn new(state: State, reader: Reader, clock: Arc<dyn Clock>, store_tag: u64) -> Shared {
        Shared { state: Mutex::new(state), reader, clock, store_tag }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a broken invariant of the store: going on could lose messages.
        self.state.lock().expect("the store's state is whole")
    }

    pub(crate) fn id(&self, sequence: u64) -> MessageId {
        MessageId::new(self.store_tag, sequence)
    }

    /// Reads a live message. The committer may copy it forward and recycle its file at any time, so a failed read is
    /// tried again where the message is by then; `None` if it is no longer there.
    pub(crate) fn read(&self, sequence: u64, mut location: Location) -> Result<Option<Content>, Arc<str>> {
        loop {
            let failed = match self.read_at(sequence, location) {
                Ok(content) => return Ok(Some(content)),
                Err(why) => why,
            };
            match self.state().queues.entry(sequence).map(|entry| entry.location) {
                None => return Ok(None),
                Some(now) if now == location => return Err(failed),
                Some(now) => location = now,
            }
        }
    }

    fn read_at(&self, sequence: u64, location: Location) -> Result<Content, Arc<str>> {
        let bytes = self
            .reader
            .read(location.file, location.offset, location.len)
            .map_err(|error| Arc::from(format!("message {} can't be read: {error}", self.id(sequence))))?;
        // The record's checksum also tells a record from what has been written over it meanwhile.
        match record::decode(&bytes) {
            Ok(Record::Put(put)) if put.place.sequence == sequence => {
                Ok(Content { message: put.message(), enqueued_at_ms: put.place.enqueued_at_ms })
            }
            Ok(_) => {
                Err(format!("message {} is damaged: another record stands at {location}", self.id(sequence)).into())
            }
            Err(why) => Err(format!("message {} is damaged at {location}: {why}", self.id(sequence)).into()),
        }
    }
}

/// What a message carries, without its place in a queue.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) message: NewMessage,
    pub(crate) enqueued_at_ms: u64,
}

impl Content {
    pub(crate) fn into_message(self, id: MessageId) -> Message {
        let NewMessage { body, content_type, key, attributes, delay_ms: _ } = self.message;
        Message { id, body, content_type, key, attributes, enqueued_at_ms: self.enqueued_at_ms }
    }
}

/// The content of messages that nobody has claimed yet, so that a short queue is never read from disk. It takes what
/// comes while there is room: those are the heads of the queues.
pub(crate) struct Cache {
    contents: SequenceMap<Content>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Cache {
        Cache { contents: SequenceMap::default(), bytes: 0, bytes_max }
    }

    pub(crate) fn insert(&mut self, sequence: u64, content: Content) {
        let weight = weight(&content);
        if self.bytes + weight <= self.bytes_max {
            self.bytes += weight;
            self.contents.insert(sequence, content);
        }
    }

    pub(crate) fn get(&self, sequence: u64) -> Option<&Content> {
        self.contents.get(sequence)
    }

    pub(crate) fn take(&mut self, sequence: u64) -> Option<Content> {
        let content = self.contents.remove(sequence)?;
        self.bytes -= weight(&content);
        Some(content)
    }
}

/// Roughly what a content occupies in memory.
fn weight(content: &Content) -> usize {
    let message = &content.message;
    let attributes: usize = message.attributes.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    message.body.len() + attributes + 192
}
