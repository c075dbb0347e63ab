//! Everything in a folder that can be read, entry by entry, in the order in which it stands in the files.

use std::sync::Arc;

use super::Folder;
use super::finding::{Finding, Meaning};
use super::log::{Step, walk};
use super::segments::{Role, SegmentFile};
use super::survey::{InLog, RunFile, Survey, SurveyedQueue, read_all};
use crate::cold::checkpoint::RawCheckpoint;
use crate::disk::DiskError;
use crate::kv::{self, file::StateFile};
use crate::record::{self, DeliveryState, Malformed, Put, QueueNumber, Record, Records, StateChange};
use crate::wal::{LogFile, file, frame};
use crate::{MessageId, QueueName};

/// What is dumped.
#[derive(Debug, Clone, Default)]
pub struct DumpOptions {
    /// Only what concerns this queue.
    pub queue: Option<QueueName>,
    /// Only the messages that live, as [`Entry::Message`], queue by queue and in order.
    pub messages_only: bool,
}

/// One thing that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry<'a> {
    /// Something is damaged; what can be read follows all the same.
    Finding(&'a Finding),
    /// A message that lives.
    Message(StoredMessage<'a>),
    /// One of the two checkpoints; what it says follows.
    Checkpoint {
        /// The file's name.
        file: &'a str,
        /// One more for each checkpoint.
        generation: u64,
        /// The last frame that it covers.
        lsn: u64,
        /// Of the first log file that is replayed after it.
        start_epoch: u64,
        /// Sequence numbers below this were used.
        next_sequence: u64,
        /// Segments with smaller numbers were made.
        next_segment: u64,
    },
    /// A checkpoint names a queue.
    CheckpointQueue {
        /// The file's name.
        file: &'a str,
        /// The queue.
        queue: QueueRef<'a>,
        /// Positions below this were used.
        next_position: u64,
        /// Of its messages in segments.
        bytes: u64,
    },
    /// A checkpoint names a segment.
    CheckpointSegment {
        /// The file's name.
        file: &'a str,
        /// The queue.
        queue: QueueRef<'a>,
        /// The segment's number.
        segment: u64,
        /// How many positions it spans.
        span: u64,
        /// On how many of them a message lives.
        live: u64,
    },
    /// A checkpoint tells the state of a message in a segment.
    CheckpointState {
        /// The file's name.
        file: &'a str,
        /// The queue.
        queue: QueueRef<'a>,
        /// The message's place.
        position: u64,
        /// Its state.
        state: StateRef,
        /// It is delayed, and later messages of its key wait for it.
        holds_key: bool,
    },
    /// A log file begins.
    Log {
        /// The file's name.
        file: &'a str,
        /// One more for each file that is begun.
        epoch: u64,
        /// LSN of its first frame.
        first_lsn: u64,
        /// What it holds has been copied, and is not replayed.
        given_up: bool,
    },
    /// A frame; its records follow.
    Frame {
        /// The file's name.
        file: &'a str,
        /// From the file's start.
        offset: u64,
        /// Log sequence number.
        lsn: u64,
        /// Of its records.
        payload_bytes: u64,
    },
    /// A record of a log file or a segment.
    Record {
        /// The file's name.
        file: &'a str,
        /// From the file's start.
        offset: u64,
        /// What it says.
        record: Recorded<'a>,
    },
    /// A segment begins; its records follow.
    Segment {
        /// The file's name.
        file: &'a str,
        /// The queue, if the header can be read.
        queue: Option<QueueRef<'a>>,
        /// Whether opening needs it.
        needed: bool,
    },
    /// A run of idempotency keys begins.
    Run {
        /// The file's name.
        file: &'a str,
        /// How many it remembers.
        keys: u64,
        /// Whether opening needs it.
        needed: bool,
    },
    /// An idempotency key is remembered.
    Remembered {
        /// The file's name.
        file: &'a str,
        /// Of the key, with its queue.
        hash: u128,
        /// The first message that was sent with it.
        id: MessageId,
        /// When that was.
        at_ms: u64,
    },
    /// Durable key-value state that the log does not hold any more; what the log says of it comes later.
    State {
        /// The file's name.
        file: &'a str,
        /// What is there.
        state: StateRecorded<'a>,
    },
    /// The newest frame that was confirmed.
    Confirmed {
        /// Its number.
        lsn: u64,
    },
    /// An attempt that was running when the last process ended.
    Attempt {
        /// The queue.
        queue: QueueRef<'a>,
        /// The message's place.
        position: u64,
        /// 1 for the first.
        attempt: u32,
    },
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded<'a> {
    /// A queue gets its number.
    Queue {
        /// Which.
        queue: QueueRef<'a>,
        /// Positions below this were used.
        next_position: u64,
    },
    /// Sequence numbers below this were used.
    Next {
        /// The next one.
        sequence: u64,
    },
    /// A message stands in a queue.
    Put(StoredMessage<'a>),
    /// A message's state changed.
    Update {
        /// Where it stands.
        queue: QueueRef<'a>,
        /// Its place there.
        position: u64,
        /// Its state from here on.
        state: StateRef,
    },
    /// A message is gone.
    Remove {
        /// Where it stood.
        queue: QueueRef<'a>,
        /// Its place there.
        position: u64,
        /// What it counted for.
        bytes: u32,
    },
    /// All messages of a queue that stand before a position are gone.
    Purge {
        /// Which queue.
        queue: QueueRef<'a>,
        /// The position.
        below: u64,
    },
    /// Durable key-value state changed.
    State(StateRecorded<'a>),
    /// It was this late when what stands around it was written.
    Time {
        /// Milliseconds of the Unix epoch.
        now_ms: u64,
    },
}

/// A change of durable key-value state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRecorded<'a> {
    /// Whose state it is: `consumer/NAME` or `producer/NAME`.
    pub space: &'a str,
    /// The key; none if all keys of the space are gone.
    pub key: Option<&'a str>,
    /// The new value; none if the key is gone.
    pub value: Option<&'a [u8]>,
}

impl<'a> From<StateChange<'a>> for StateRecorded<'a> {
    fn from(change: StateChange<'a>) -> StateRecorded<'a> {
        let (space, key, value) = match change {
            StateChange::Put { space, key, value } => (space, Some(key), Some(value)),
            StateChange::Remove { space, key } => (space, Some(key), None),
            StateChange::Drop { space } => (space, None, None),
        };
        StateRecorded { space, key, value }
    }
}

/// A queue, by number and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueRef<'a> {
    /// The store's number of it.
    pub number: u32,
    /// Its name, if anything that can be read tells it.
    pub name: Option<&'a QueueName>,
}

/// A message's state. Times are milliseconds of the Unix epoch, 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateRef {
    /// Attempts that started.
    pub attempts: u32,
    /// When it is due.
    pub due_at_ms: u64,
    /// When an attempt first failed.
    pub first_failed_at_ms: u64,
}

/// A message as it stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage<'a> {
    /// Its name, for ever.
    pub id: MessageId,
    /// Where it stands.
    pub queue: QueueRef<'a>,
    /// Its place there.
    pub position: u64,
    /// Its state.
    pub state: StateRef,
    /// When it was first sent.
    pub enqueued_at_ms: u64,
    /// Its ordering key.
    pub key: Option<&'a str>,
    /// Its media type.
    pub content_type: Option<&'a str>,
    /// Of the idempotency key that it was sent with, and its queue.
    pub idempotency_hash: Option<u128>,
    /// Names and values that travel with the body.
    pub attributes: Vec<(&'a str, &'a str)>,
    /// The payload.
    pub body: &'a [u8],
}

impl From<DeliveryState> for StateRef {
    fn from(state: DeliveryState) -> StateRef {
        let DeliveryState { attempts, due_at_ms, first_failed_at_ms } = state;
        StateRef { attempts, due_at_ms, first_failed_at_ms }
    }
}

impl Folder {
    /// Hands all that can be read to `sink`, until that returns an error. Damage is an entry, and does not end it. The
    /// outer error is that the folder itself can't be read.
    pub fn dump<E>(
        &self,
        options: &DumpOptions,
        mut sink: impl FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<Result<(), E>, DiskError> {
        let survey = Survey::new(self.disk.clone())?;
        let mut told = None;
        let mut sink = |entry: Entry<'_>| match sink(entry) {
            Ok(()) => true,
            Err(error) => {
                told = Some(error);
                false
            }
        };
        // Whether it went on to its end is of no interest, but in the error.
        let view = View { survey: &survey, only: options.queue.as_ref() };
        let _ = Dump { view, sink: &mut sink }.all(options.messages_only);
        Ok(told.map_or(Ok(()), Err))
    }
}

struct Dump<'s, 'f> {
    view: View<'s>,
    /// Answers whether to go on.
    sink: &'f mut dyn FnMut(Entry<'_>) -> bool,
}

/// How what is in the files is shown.
#[derive(Clone, Copy)]
struct View<'s> {
    survey: &'s Survey,
    only: Option<&'s QueueName>,
}

/// Whether to go on: none is no.
type Goes = Option<()>;

impl<'s> Dump<'s, '_> {
    fn put(&mut self, entry: Entry<'_>) -> Goes {
        (self.sink)(entry).then_some(())
    }

    fn all(&mut self, messages_only: bool) -> Goes {
        let survey: &'s Survey = self.view.survey;
        survey.findings.iter().try_for_each(|finding| self.put(Entry::Finding(finding)))?;
        if messages_only {
            return survey.queues.iter().try_for_each(|(number, queue)| self.messages(*number, queue));
        }
        survey.checkpoints.iter().try_for_each(|raw| self.checkpoint(raw))?;
        survey.segments.values().try_for_each(|file| self.segment(file))?;
        survey.runs.iter().try_for_each(|file| self.run(file))?;
        self.state()?;
        survey.given_up.iter().try_for_each(|log| self.log(log, true))?;
        survey.logs.iter().try_for_each(|log| self.log(log, false))?;
        if let Some(lsn) = survey.confirmed_lsn {
            self.put(Entry::Confirmed { lsn })?;
        }
        survey.running.iter().try_for_each(|one| {
            let queue = self.view.queue(QueueNumber(one.queue));
            if !self.view.shows(QueueNumber(one.queue)) {
                return Some(());
            }
            self.put(Entry::Attempt { queue, position: one.position, attempt: one.attempt })
        })
    }

    fn state(&mut self) -> Goes {
        // It is of no queue.
        if self.view.only.is_some() {
            return Some(());
        }
        let file = match StateFile::open(Arc::new(self.view.survey.disk().clone())) {
            Ok(file) => file,
            Err(error) => return self.put(Entry::Finding(&Finding::from_open(&error, Meaning::Refuses))),
        };
        let mut goes = true;
        let read = file.each(|space, key, value| {
            let state = StateRecorded { space, key: Some(key), value: Some(value) };
            goes = self.put(Entry::State { file: kv::file::NAME, state }).is_some();
            goes
        });
        match read {
            Err(error) => {
                self.put(Entry::Finding(&Finding::from_disk(kv::file::NAME, &error, Meaning::StateUnreadable)))
            }
            Ok(()) => goes.then_some(()),
        }
    }

    fn unreadable(&mut self, file: &str, error: &DiskError) -> Goes {
        self.put(Entry::Finding(&Finding::from_disk(file, error, Meaning::Refuses)))
    }

    fn checkpoint(&mut self, raw: &RawCheckpoint) -> Goes {
        let (file, header) = (raw.name, raw.header);
        self.put(Entry::Checkpoint {
            file,
            generation: header.generation,
            lsn: header.lsn,
            start_epoch: header.start_epoch,
            next_sequence: header.next_sequence,
            next_segment: header.next_segment,
        })?;
        for one in &raw.queues {
            if self.view.only.is_some_and(|only| *only != one.name) {
                continue;
            }
            let queue = QueueRef { number: one.number.0, name: Some(&one.name) };
            let (next_position, bytes) = (one.next_position, one.bytes_cold);
            self.put(Entry::CheckpointQueue { file, queue, next_position, bytes })?;
            for (segment, live) in &one.segments {
                let (segment, span, live) = (*segment, live.len, live.ones());
                self.put(Entry::CheckpointSegment { file, queue, segment, span, live })?;
            }
            for (position, told) in &one.states {
                let (position, state, holds_key) = (*position, told.state.into(), told.holds_key);
                self.put(Entry::CheckpointState { file, queue, position, state, holds_key })?;
            }
        }
        Some(())
    }

    fn segment(&mut self, file: &SegmentFile) -> Goes {
        let number = file.queue();
        if number.is_some_and(|number| !self.view.shows(number)) {
            return Some(());
        }
        let queue = number.map(|number| self.view.queue(number));
        self.put(Entry::Segment { file: &file.name, queue, needed: file.role == Role::Needed })?;
        if let Err(error) = &file.opened {
            self.put(Entry::Finding(&Finding::from_open(error, file.role.meaning())))?;
        }
        let mut goes = Some(());
        let read = file.each_record(|found| {
            if goes.is_none() {
                return;
            }
            let offset = u64::from(found.offset);
            goes = match found.put {
                Ok(put) if self.view.shows(put.place.queue) => {
                    let record = Recorded::Put(self.view.stored(&put, put.place.state));
                    self.put(Entry::Record { file: &file.name, offset, record })
                }
                Ok(_) => Some(()),
                Err(why) => self.damaged_record(file, offset, why),
            };
        });
        match read {
            Err(error) => self.unreadable(&file.name, &error),
            Ok(()) => goes,
        }
    }

    fn run(&mut self, file: &RunFile) -> Goes {
        let (name, needed) = (&*file.name, file.role == Role::Needed);
        let run = match &file.opened {
            Ok(run) => run,
            Err(error) => {
                return self.put(Entry::Finding(&Finding::from_open(error, file.role.meaning())));
            }
        };
        self.put(Entry::Run { file: name, keys: run.keys(), needed })?;
        // Which queue a key belongs to is not known.
        if self.view.only.is_some() {
            return Some(());
        }
        for block in 0..run.blocks() {
            match run.read_block(block) {
                Ok(keys) => keys.into_iter().try_for_each(|(hash, seen)| {
                    let id = MessageId::new(self.view.survey.store_tag, seen.sequence);
                    self.put(Entry::Remembered { file: name, hash, id, at_ms: seen.at_ms })
                })?,
                Err(why) => self.put(Entry::Finding(&Finding::of_file(name, why, Meaning::SendsRefused)))?,
            }
        }
        Some(())
    }

    /// After the end of a segment whose index can't be read there is no record; that was told already.
    fn damaged_record(&mut self, file: &SegmentFile, offset: u64, why: Malformed) -> Goes {
        if file.opened.is_err() {
            return Some(());
        }
        self.put(Entry::Finding(&Finding::at(&file.name, offset, why.to_string(), file.role.meaning())))
    }

    fn log(&mut self, log: &LogFile, given_up: bool) -> Goes {
        let name = file::name(log.slot);
        let (epoch, first_lsn) = (log.header.epoch, log.header.first_lsn);
        self.put(Entry::Log { file: &name, epoch, first_lsn, given_up })?;
        let bytes = match read_all(log) {
            Ok(bytes) => bytes,
            Err(error) => return self.unreadable(&name, &error),
        };
        for step in walk(log.header.seal(), &bytes) {
            // What is wrong was told by the survey.
            let Step::Frame { offset, frame } = step else { continue };
            let payload_bytes = frame.payload.len() as u64;
            self.put(Entry::Frame { file: &name, offset: offset as u64, lsn: frame.lsn, payload_bytes })?;
            for spanned in Records::new(frame.payload).flatten() {
                let offset = (offset + frame::HEADER_BYTES) as u64 + u64::from(spanned.offset);
                if let Some(record) = self.view.recorded(&spanned.record) {
                    self.put(Entry::Record { file: &name, offset, record })?;
                }
            }
        }
        Some(())
    }

    // --- messages ------------------------------------------------------------------------------------------------

    /// The messages of a queue that live, in its order: what is in segments comes before what is only in the log.
    fn messages(&mut self, number: QueueNumber, queue: &SurveyedQueue) -> Goes {
        if !self.view.shows(number) {
            return Some(());
        }
        for (first, cold) in &queue.cold {
            let file = &self.view.survey.segments[&cold.segment];
            if let Err(error) = &file.opened {
                self.put(Entry::Finding(&Finding::from_open(error, file.role.meaning())))?;
            }
            let mut goes = Some(());
            let mut found = 0;
            let read = file.each_record(|record| {
                let Ok(put) = record.put else { return };
                let position = put.place.position;
                if goes.is_none() || put.place.queue != number || !cold.live.get(position.wrapping_sub(*first)) {
                    return;
                }
                found += 1;
                let state = queue.told.get(&position).copied().unwrap_or(put.place.state);
                let state = self.view.survey.state_of(number, position, state);
                goes = self.put(Entry::Message(self.view.stored(&put, state)));
            });
            goes?;
            if let Err(error) = read {
                self.unreadable(&file.name, &error)?;
            }
            let missing = cold.live.ones() - found.min(cold.live.ones());
            if missing > 0 {
                let why = "messages that live in it are damaged";
                let meaning = Meaning::Unreadable { messages: missing };
                self.put(Entry::Finding(&Finding::of_file(&file.name, why, meaning)))?;
            }
        }
        queue.in_log.iter().try_for_each(|(position, message)| self.message_in_log(number, *position, message))
    }

    fn message_in_log(&mut self, number: QueueNumber, position: u64, message: &InLog) -> Goes {
        let InLog { location, state, .. } = *message;
        let Some(log) = self.view.survey.log(location.file) else { return Some(()) };
        let mut bytes = vec![0; location.len as usize];
        if let Err(error) = log.file.read_at(&mut bytes, u64::from(location.offset)) {
            return self.unreadable(&file::name(log.slot), &error);
        }
        let why = match record::decode(&bytes) {
            Ok(Record::Put(put)) => {
                let state = self.view.survey.state_of(number, position, state);
                return self.put(Entry::Message(self.view.stored(&put, state)));
            }
            Ok(_) => "another record stands there".to_owned(),
            Err(why) => why.to_string(),
        };
        // It was whole a moment ago, when the survey read its frame.
        let meaning = Meaning::Unreadable { messages: 1 };
        let finding = Finding::at(&file::name(log.slot), u64::from(location.offset), why, meaning);
        self.put(Entry::Finding(&finding))
    }
}

impl<'s> View<'s> {
    fn queue(self, number: QueueNumber) -> QueueRef<'s> {
        let survey: &'s Survey = self.survey;
        let name = survey.queues.get(&number).and_then(|queue| queue.name.as_ref());
        QueueRef { number: number.0, name }
    }

    fn shows(self, number: QueueNumber) -> bool {
        self.only.is_none_or(|only| self.queue(number).name == Some(only))
    }

    /// A record for people; none if it is about another queue than the one that was asked for.
    fn recorded<'a>(self, record: &Record<'a>) -> Option<Recorded<'a>>
    where
        's: 'a,
    {
        let shown = |number: QueueNumber| self.shows(number).then(|| self.queue(number));
        Some(match *record {
            Record::Queue { number, next_position, .. } => Recorded::Queue { queue: shown(number)?, next_position },
            Record::Next { sequence } if self.only.is_none() => Recorded::Next { sequence },
            Record::Time { now_ms } if self.only.is_none() => Recorded::Time { now_ms },
            Record::State(change) if self.only.is_none() => Recorded::State(change.into()),
            Record::Next { .. } | Record::Time { .. } | Record::State(_) => return None,
            Record::Put(ref put) => {
                shown(put.place.queue)?;
                Recorded::Put(self.stored(put, put.place.state))
            }
            Record::Update { queue, position, state } => {
                Recorded::Update { queue: shown(queue)?, position, state: state.into() }
            }
            Record::Purge { queue, below } => Recorded::Purge { queue: shown(queue)?, below },
            Record::Remove { queue, position, bytes } => Recorded::Remove { queue: shown(queue)?, position, bytes },
        })
    }

    fn stored<'a>(self, put: &Put<'a>, state: DeliveryState) -> StoredMessage<'a>
    where
        's: 'a,
    {
        StoredMessage {
            id: MessageId::new(self.survey.store_tag, put.place.sequence),
            queue: self.queue(put.place.queue),
            position: put.place.position,
            state: state.into(),
            enqueued_at_ms: put.place.enqueued_at_ms,
            key: put.key,
            content_type: put.content_type,
            idempotency_hash: put.place.idempotency,
            attributes: put.attributes().collect(),
            body: put.body,
        }
    }
}
