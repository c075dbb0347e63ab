//! The records that a frame's payload is made of (`FORMAT.md`, "Records").
//!
//! A message is known by its queue and its position there; the sequence is the number in its id, which it keeps when it
//! moves to another queue.
//!
//! A put is also what a message is read from when it is claimed long after, so it has a checksum of its own (CRC32C of
//! what follows it): a frame's checksum can't be checked without reading the whole frame.
//!
//! Messages that outlive their log file are copied, put by put, into segments ([`crate::cold::segment`]).

use bytes::Bytes;

use crate::dedup::KeyHash;
use crate::{Message, MessageId, NewMessage, StateWrite};

const QUEUE: u8 = 1;
const NEXT: u8 = 2;
const PUT: u8 = 3;
const UPDATE: u8 = 4;
const REMOVE: u8 = 5;
const PURGE: u8 = 6;
const TIME: u8 = 7;
const STATE: u8 = 8;
const KEEP: u8 = 9;
const KEPT: u8 = 10;
const FORGET: u8 = 11;

const STATE_PUT: u8 = 0;
const STATE_REMOVE: u8 = 1;
const STATE_DROP: u8 = 2;

const HAS_ATTEMPTS: u8 = 1;
const HAS_DUE: u8 = 2;
const HOLDS_KEY: u8 = 4;
const HAS_KEY: u8 = 8;
const HAS_CONTENT_TYPE: u8 = 16;
const HAS_ATTRIBUTES: u8 = 32;
const HAS_IDEMPOTENCY: u8 = 64;
const FLAGS_UNKNOWN: u8 = 0x80;

/// The number that stands for a queue's name in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct QueueNumber(pub(crate) u32);

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    Queue {
        number: QueueNumber,
        name: &'a str,
        next_position: u64,
    },
    Next {
        sequence: u64,
    },
    Put(Put<'a>),
    Update {
        queue: QueueNumber,
        position: u64,
        state: DeliveryState,
    },
    Remove {
        queue: QueueNumber,
        position: u64,
        bytes: u32,
    },
    Purge {
        queue: QueueNumber,
        below: u64,
    },
    Time {
        now_ms: u64,
    },
    State(StateChange<'a>),
    /// A message is acknowledged, and its queue's history has it from now on. Its put stands in the same file of the log.
    Keep {
        queue: QueueNumber,
        position: u64,
        bytes: u32,
        kept: KeptPlace,
    },
    /// The same of a message whose put stands elsewhere: the whole message, for the history only.
    Kept(Kept<'a>),
    /// What stands before a position of a queue's history is gone.
    Forget {
        queue: QueueNumber,
        below: u64,
    },
}

/// Where an acknowledged message stands in its queue's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeptPlace {
    /// Its place in the order of acknowledgements: the first one of a queue is at 0, each later one at the next number.
    pub(crate) position: u64,
    pub(crate) acked_at_ms: u64,
}

/// An acknowledged message, whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept<'a> {
    pub(crate) kept: KeptPlace,
    /// As it stood in the queue.
    pub(crate) put: Put<'a>,
    /// Where the put starts in the record.
    pub(crate) put_offset: u32,
}

/// What happens to durable key-value state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateChange<'a> {
    Put {
        space: &'a str,
        key: &'a str,
        value: &'a [u8],
    },
    Remove {
        space: &'a str,
        key: &'a str,
    },
    /// All of a space is gone.
    Drop {
        space: &'a str,
    },
}

/// What changes from delivery to delivery, and is kept over restarts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DeliveryState {
    /// Attempts that started.
    pub(crate) attempts: u32,
    /// When it is due, 0 for at once.
    pub(crate) due_at_ms: u64,
    /// When an attempt first failed, 0 for never.
    pub(crate) first_failed_at_ms: u64,
}

impl DeliveryState {
    /// When an attempt first failed, if one has failed now.
    pub(crate) fn first_failed_at_ms_or(&self, now_ms: u64) -> u64 {
        if self.first_failed_at_ms == 0 { now_ms } else { self.first_failed_at_ms }
    }

    /// Attempts `v`, due at `v`, first failed at `v`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_number(out, u64::from(self.attempts));
        put_number(out, self.due_at_ms);
        put_number(out, self.first_failed_at_ms);
    }
}

/// A message in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Put<'a> {
    pub(crate) place: PutPlace,
    pub(crate) key: Option<&'a str>,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) body: &'a [u8],
    attributes: &'a [u8],
}

/// Where a message stands, and in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PutPlace {
    pub(crate) queue: QueueNumber,
    /// Its place in the queue's order.
    pub(crate) position: u64,
    /// The number in its id.
    pub(crate) sequence: u64,
    pub(crate) enqueued_at_ms: u64,
    pub(crate) state: DeliveryState,
    /// It is delayed, and later messages of its key wait for it.
    pub(crate) holds_key: bool,
    /// What it was sent with. Only a message that has just come tells.
    pub(crate) idempotency: Option<KeyHash>,
}

impl<'a> Put<'a> {
    /// The message without its place and state.
    pub(crate) fn message(&self) -> NewMessage {
        NewMessage {
            body: Bytes::copy_from_slice(self.body),
            content_type: self.content_type.map(Into::into),
            key: self.key.map(Into::into),
            attributes: self.attributes_owned(),
            idempotency_key: None,
            delay_ms: 0,
        }
    }

    /// The message as consumers see it.
    #[inline(always)]
    pub(crate) fn named(&self, id: MessageId) -> Message {
        Message {
            id,
            body: Bytes::copy_from_slice(self.body),
            content_type: self.content_type.map(Into::into),
            key: self.key.map(Into::into),
            attributes: self.attributes_owned(),
            enqueued_at_ms: self.place.enqueued_at_ms,
        }
    }

    fn attributes_owned(&self) -> Vec<(Box<str>, Box<str>)> {
        self.attributes().map(|(name, value)| (name.into(), value.into())).collect()
    }

    /// Bytes that it counts for in its queue's limit.
    pub(crate) fn message_bytes(&self) -> u32 {
        let texts = self.key.map_or(0, str::len) + self.content_type.map_or(0, str::len);
        let attributes: usize = self.attributes().map(|(name, value)| name.len() + value.len()).sum();
        // It is a part of a file, whose offsets are 32 bits long.
        (self.body.len() + texts + attributes) as u32
    }

    pub(crate) fn attributes(&self) -> Attributes<'a> {
        Attributes { input: Input { rest: self.attributes } }
    }
}

/// Names and values that were checked when the record was decoded.
pub(crate) struct Attributes<'a> {
    input: Input<'a>,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.input.text().ok()?, self.input.text().ok()?))
    }
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the record ends in the middle")]
    Short,
    #[error("there is no record of kind {0}")]
    Kind(u8),
    #[error("the record has unknown flags ({0:#x})")]
    Flags(u8),
    #[error("a number is too large")]
    Number,
    #[error("a text is not UTF-8")]
    Text,
    #[error("its checksum does not match")]
    Checksum,
}

/// Reads the records of a payload one by one. After an error it ends.
pub(crate) struct Records<'a> {
    input: Input<'a>,
    payload_bytes: usize,
    /// The checksums of puts need no look.
    is_whole: bool,
}

/// A record, and which bytes of the payload it takes.
pub(crate) struct Spanned<'a> {
    pub(crate) offset: u32,
    pub(crate) len: u32,
    pub(crate) record: Record<'a>,
}

impl<'a> Records<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Records<'a> {
        Records { input: Input::new(payload), payload_bytes: payload.len(), is_whole: false }
    }

    /// Of a frame whose own checksum has just been found to match.
    pub(crate) fn of_whole_frame(payload: &'a [u8]) -> Records<'a> {
        Records { is_whole: true, ..Records::new(payload) }
    }

    fn record(&mut self) -> Result<Record<'a>, Malformed> {
        if self.is_whole && self.input.rest.first() == Some(&PUT) {
            return self.input.checked_put().map(Record::Put);
        }
        self.input.record()
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Spanned<'a>, (u32, Malformed)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.input.rest.is_empty() {
            return None;
        }
        let offset = (self.payload_bytes - self.input.rest.len()) as u32;
        match self.record() {
            Ok(record) => {
                let end = (self.payload_bytes - self.input.rest.len()) as u32;
                Some(Ok(Spanned { offset, len: end - offset, record }))
            }
            Err(why) => {
                self.input.rest = &[];
                Some(Err((offset, why)))
            }
        }
    }
}

/// Decodes exactly one record.
pub(crate) fn decode(bytes: &[u8]) -> Result<Record<'_>, Malformed> {
    let mut input = Input::new(bytes);
    let record = input.record()?;
    if input.rest.is_empty() { Ok(record) } else { Err(Malformed::Number) }
}

/// Decodes exactly one record that is a put; `None` if it is another one.
#[inline]
pub(crate) fn decode_put(bytes: &[u8]) -> Result<Option<Put<'_>>, Malformed> {
    let mut input = Input::new(bytes);
    if input.byte()? != PUT {
        return decode(bytes).map(|_| None);
    }
    let put = input.put()?;
    if input.rest.is_empty() { Ok(Some(put)) } else { Err(Malformed::Number) }
}

/// Decodes once more a put in memory that [`decode`] has found to be whole. Claims do little else than this.
#[inline]
pub(crate) fn decode_checked_put(bytes: &[u8]) -> Result<Put<'_>, Malformed> {
    Input::new(bytes).checked_put()
}

/// The position in a put that nobody has checked yet.
pub(crate) fn put_position(bytes: &[u8]) -> Option<u64> {
    let mut input = Input::new(bytes);
    let is_put = input.byte().ok()? == PUT;
    let _checksum_and_flags = (input.array::<4>().ok()?, input.byte().ok()?);
    input.queue_number().ok()?;
    input.number().ok().filter(|_| is_put)
}

pub(crate) fn encode_queue(out: &mut Vec<u8>, number: QueueNumber, name: &str, next_position: u64) {
    out.push(QUEUE);
    put_number(out, u64::from(number.0));
    put_number(out, next_position);
    put_bytes(out, name.as_bytes());
}

pub(crate) fn encode_next(out: &mut Vec<u8>, sequence: u64) {
    out.push(NEXT);
    put_number(out, sequence);
}

pub(crate) fn encode_time(out: &mut Vec<u8>, now_ms: u64) {
    out.push(TIME);
    put_number(out, now_ms);
}

pub(crate) fn encode_put(out: &mut Vec<u8>, place: &PutPlace, message: &NewMessage) {
    let DeliveryState { attempts, due_at_ms, first_failed_at_ms } = place.state;
    let mut flags = 0;
    let mut flag = |set: bool, bit: u8| {
        flags |= if set { bit } else { 0 };
        set
    };
    let has_attempts = flag(attempts != 0 || first_failed_at_ms != 0, HAS_ATTEMPTS);
    let has_due = flag(due_at_ms != 0, HAS_DUE);
    flag(place.holds_key, HOLDS_KEY);
    flag(message.key.is_some(), HAS_KEY);
    flag(message.content_type.is_some(), HAS_CONTENT_TYPE);
    let has_attributes = flag(!message.attributes.is_empty(), HAS_ATTRIBUTES);
    flag(place.idempotency.is_some(), HAS_IDEMPOTENCY);

    out.push(PUT);
    let crc_at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(flags);
    put_number(out, u64::from(place.queue.0));
    put_number(out, place.position);
    put_number(out, place.sequence);
    out.extend_from_slice(&place.enqueued_at_ms.to_le_bytes());
    if has_attempts {
        put_number(out, u64::from(attempts));
        put_number(out, first_failed_at_ms);
    }
    if has_due {
        put_number(out, due_at_ms);
    }
    if let Some(key) = &message.key {
        put_bytes(out, key.as_bytes());
    }
    if let Some(content_type) = &message.content_type {
        put_bytes(out, content_type.as_bytes());
    }
    if has_attributes {
        put_number(out, message.attributes.len() as u64);
        for (name, value) in &message.attributes {
            put_bytes(out, name.as_bytes());
            put_bytes(out, value.as_bytes());
        }
    }
    if let Some(key) = place.idempotency {
        out.extend_from_slice(&key.to_le_bytes());
    }
    put_bytes(out, &message.body);
    let crc = crc32c::crc32c(&out[crc_at + 4..]);
    out[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
}

pub(crate) fn encode_update(out: &mut Vec<u8>, queue: QueueNumber, position: u64, state: &DeliveryState) {
    out.push(UPDATE);
    put_number(out, u64::from(queue.0));
    put_number(out, position);
    state.encode(out);
}

pub(crate) fn encode_remove(out: &mut Vec<u8>, queue: QueueNumber, position: u64, bytes: u32) {
    out.push(REMOVE);
    put_number(out, u64::from(queue.0));
    put_number(out, position);
    put_number(out, u64::from(bytes));
}

pub(crate) fn encode_purge(out: &mut Vec<u8>, queue: QueueNumber, below: u64) {
    out.push(PURGE);
    put_number(out, u64::from(queue.0));
    put_number(out, below);
}

pub(crate) fn encode_state(out: &mut Vec<u8>, change: StateChange<'_>) {
    out.push(STATE);
    let (kind, space, key, value) = match change {
        StateChange::Put { space, key, value } => (STATE_PUT, space, Some(key), Some(value)),
        StateChange::Remove { space, key } => (STATE_REMOVE, space, Some(key), None),
        StateChange::Drop { space } => (STATE_DROP, space, None, None),
    };
    out.push(kind);
    put_bytes(out, space.as_bytes());
    if let Some(key) = key {
        put_bytes(out, key.as_bytes());
    }
    if let Some(value) = value {
        put_bytes(out, value);
    }
}

/// The most bytes that the record of such a write may take.
pub(crate) fn state_bytes_max(write: &StateWrite) -> u64 {
    const LENGTH_MAX: usize = 10;
    let value = write.value.as_ref().map_or(0, Bytes::len);
    (2 + 3 * LENGTH_MAX + write.space.len() + write.key.len() + value) as u64
}

pub(crate) fn encode_keep(out: &mut Vec<u8>, queue: QueueNumber, position: u64, bytes: u32, kept: KeptPlace) {
    out.push(KEEP);
    put_number(out, u64::from(queue.0));
    put_number(out, position);
    put_number(out, u64::from(bytes));
    put_number(out, kept.position);
    put_number(out, kept.acked_at_ms);
}

/// `put` appends the record of the message. Answers where that starts.
pub(crate) fn encode_kept(out: &mut Vec<u8>, kept: KeptPlace, put: impl FnOnce(&mut Vec<u8>)) -> usize {
    out.push(KEPT);
    let crc_at = out.len();
    out.extend_from_slice(&[0; 4]);
    put_number(out, kept.position);
    put_number(out, kept.acked_at_ms);
    let put_at = out.len();
    put(out);
    let crc = crc32c::crc32c(&out[crc_at + 4..]);
    out[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    put_at
}

pub(crate) fn encode_forget(out: &mut Vec<u8>, queue: QueueNumber, below: u64) {
    out.push(FORGET);
    put_number(out, u64::from(queue.0));
    put_number(out, below);
}

/// The most bytes that the put of such a message may take, in whatever state.
pub(crate) fn put_bytes_max(message: &NewMessage) -> u64 {
    // Kind, checksum, flags, and the fixed and variable numbers at their longest.
    const NUMBERS_MAX: usize = 1 + 4 + 1 + 5 + 10 + 10 + 8 + 5 + 10 + 10 + 10 + 16 + 10;
    const LENGTH_MAX: usize = 10;
    let texts = message.key.iter().chain(&message.content_type).map(|text| text.len() + LENGTH_MAX);
    let attributes = message.attributes.iter().map(|(name, value)| name.len() + value.len() + 2 * LENGTH_MAX);
    (NUMBERS_MAX + message.body.len() + texts.chain(attributes).sum::<usize>()) as u64
}

pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Bytes that are read from the front.
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn record(&mut self) -> Result<Record<'a>, Malformed> {
        match self.byte()? {
            QUEUE => {
                let (number, next_position) = (self.queue_number()?, self.number()?);
                Ok(Record::Queue { number, name: self.text()?, next_position })
            }
            NEXT => Ok(Record::Next { sequence: self.number()? }),
            PUT => self.put().map(Record::Put),
            UPDATE => {
                Ok(Record::Update { queue: self.queue_number()?, position: self.number()?, state: self.state()? })
            }
            REMOVE => {
                Ok(Record::Remove { queue: self.queue_number()?, position: self.number()?, bytes: self.number_u32()? })
            }
            PURGE => Ok(Record::Purge { queue: self.queue_number()?, below: self.number()? }),
            TIME => Ok(Record::Time { now_ms: self.number()? }),
            STATE => self.state_change().map(Record::State),
            KEEP => Ok(Record::Keep {
                queue: self.queue_number()?,
                position: self.number()?,
                bytes: self.number_u32()?,
                kept: self.kept_place()?,
            }),
            KEPT => self.kept().map(Record::Kept),
            FORGET => Ok(Record::Forget { queue: self.queue_number()?, below: self.number()? }),
            other => Err(Malformed::Kind(other)),
        }
    }

    fn state_change(&mut self) -> Result<StateChange<'a>, Malformed> {
        let kind = self.byte()?;
        let space = self.text()?;
        match kind {
            STATE_PUT => Ok(StateChange::Put { space, key: self.text()?, value: self.bytes()? }),
            STATE_REMOVE => Ok(StateChange::Remove { space, key: self.text()? }),
            STATE_DROP => Ok(StateChange::Drop { space }),
            other => Err(Malformed::Flags(other)),
        }
    }

    fn kept_place(&mut self) -> Result<KeptPlace, Malformed> {
        Ok(KeptPlace { position: self.number()?, acked_at_ms: self.number()? })
    }

    fn kept(&mut self) -> Result<Kept<'a>, Malformed> {
        let crc = u32::from_le_bytes(self.array()?);
        let checked = self.rest;
        let kept = self.kept_place()?;
        // Kind and checksum stand before what is checked.
        let put_offset = (1 + 4 + checked.len() - self.rest.len()) as u32;
        match self.byte()? {
            PUT => {}
            other => return Err(Malformed::Kind(other)),
        }
        let put = self.put()?;
        if crc32c::crc32c(&checked[..checked.len() - self.rest.len()]) != crc {
            return Err(Malformed::Checksum);
        }
        Ok(Kept { kept, put, put_offset })
    }

    #[inline]
    fn put(&mut self) -> Result<Put<'a>, Malformed> {
        let crc = u32::from_le_bytes(self.array()?);
        let checked = self.rest;
        let put = self.put_fields()?;
        if crc32c::crc32c(&checked[..checked.len() - self.rest.len()]) != crc {
            return Err(Malformed::Checksum);
        }
        Ok(put)
    }

    /// A put that was found to be whole before.
    #[inline]
    fn checked_put(&mut self) -> Result<Put<'a>, Malformed> {
        match self.byte()? {
            PUT => {}
            other => return Err(Malformed::Kind(other)),
        }
        let _checksum = self.array::<4>()?;
        self.put_fields()
    }

    /// What stands after a put's checksum. Each claim decodes many: what is decoded is not to be copied on the way out.
    #[inline(always)]
    fn put_fields(&mut self) -> Result<Put<'a>, Malformed> {
        let flags = self.byte()?;
        if flags & FLAGS_UNKNOWN != 0 {
            return Err(Malformed::Flags(flags));
        }
        let has = |bit: u8| flags & bit != 0;
        let queue = self.queue_number()?;
        let position = self.number()?;
        let sequence = self.number()?;
        let enqueued_at_ms = self.fixed()?;
        let mut state = DeliveryState::default();
        if has(HAS_ATTEMPTS) {
            state.attempts = self.number_u32()?;
            state.first_failed_at_ms = self.number()?;
        }
        if has(HAS_DUE) {
            state.due_at_ms = self.number()?;
        }
        let key = has(HAS_KEY).then(|| self.text()).transpose()?;
        let content_type = has(HAS_CONTENT_TYPE).then(|| self.text()).transpose()?;
        let attributes = if has(HAS_ATTRIBUTES) { self.attributes()? } else { &[] };
        let idempotency = if has(HAS_IDEMPOTENCY) { Some(u128::from_le_bytes(self.array()?)) } else { None };
        let body = self.bytes()?;
        let holds_key = has(HOLDS_KEY);
        let place = PutPlace { queue, sequence, position, enqueued_at_ms, state, holds_key, idempotency };
        Ok(Put { place, key, content_type, body, attributes })
    }

    /// The names and values, checked and still encoded.
    fn attributes(&mut self) -> Result<&'a [u8], Malformed> {
        let count = self.number()?;
        let all = self.rest;
        for _ in 0..count {
            self.text()?;
            self.text()?;
        }
        Ok(&all[..all.len() - self.rest.len()])
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.take(N)?.try_into().expect("so many were taken"))
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn fixed(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed::Number);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed::Number)
    }

    fn number_u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed::Number)
    }

    pub(crate) fn state(&mut self) -> Result<DeliveryState, Malformed> {
        Ok(DeliveryState {
            attempts: self.number_u32()?,
            due_at_ms: self.number()?,
            first_failed_at_ms: self.number()?,
        })
    }

    pub(crate) fn queue_number(&mut self) -> Result<QueueNumber, Malformed> {
        self.number_u32().map(QueueNumber)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.number()?).map_err(|_| Malformed::Number)?;
        self.take(len)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_text() -> impl Strategy<Value = Box<str>> {
        ".{0,20}".prop_map(String::into_boxed_str)
    }

    prop_compose! {
        fn any_message()(
            body in proptest::collection::vec(any::<u8>(), 0..300),
            content_type in proptest::option::of(any_text()),
            key in proptest::option::of(any_text()),
            attributes in proptest::collection::vec((any_text(), any_text()), 0..4),
        ) -> NewMessage {
            NewMessage { body: Bytes::from(body), content_type, key, attributes, ..NewMessage::default() }
        }
    }

    prop_compose! {
        fn any_state()(attempts: u32, due_at_ms: u64, first_failed_at_ms: u64) -> DeliveryState {
            DeliveryState { attempts, due_at_ms, first_failed_at_ms }
        }
    }

    prop_compose! {
        fn any_place()(
            queue: u32, sequence: u64, position: u64, enqueued_at_ms: u64, holds_key: bool, idempotency: Option<u128>,
            state in prop_oneof![Just(DeliveryState::default()), any_state()],
        ) -> PutPlace {
            PutPlace { queue: QueueNumber(queue), sequence, position, enqueued_at_ms, state, holds_key, idempotency }
        }
    }

    proptest! {
        #[test]
        fn records_read_back(messages in proptest::collection::vec((any_place(), any_message()), 0..5), state in any_state()) {
            let mut payload = Vec::new();
            encode_queue(&mut payload, QueueNumber(300), "orders", 77);
            encode_next(&mut payload, u64::MAX);
            for (place, message) in &messages {
                let before = payload.len();
                encode_put(&mut payload, place, message);
                prop_assert!((payload.len() - before) as u64 <= put_bytes_max(message));
            }
            encode_update(&mut payload, QueueNumber(2), 5, &state);
            encode_remove(&mut payload, QueueNumber(2), 6, 40);
            encode_purge(&mut payload, QueueNumber(2), 7);
            encode_time(&mut payload, 1_700_000_000_000);
            let write = StateWrite { space: "consumer/a".into(), key: "k".into(), value: Some(Bytes::from(vec![7; 300])) };
            let changes = [
                StateChange::Put { space: &write.space, key: &write.key, value: &[7; 300] },
                StateChange::Remove { space: "consumer/a", key: "k" },
                StateChange::Drop { space: "" },
            ];
            let before = payload.len();
            encode_state(&mut payload, changes[0]);
            prop_assert!((payload.len() - before) as u64 <= state_bytes_max(&write));
            changes[1..].iter().for_each(|change| encode_state(&mut payload, *change));
            let kept = KeptPlace { position: 9, acked_at_ms: 1_700_000_000_001 };
            encode_keep(&mut payload, QueueNumber(2), 8, 41, kept);
            encode_forget(&mut payload, QueueNumber(2), 10);

            let records: Vec<_> = Records::new(&payload).map(|record| record.map(|spanned| {
                prop_assert_eq!(decode(&payload[spanned.offset as usize..][..spanned.len as usize]), Ok(spanned.record));
                Ok(spanned.record)
            }).unwrap()).collect::<Result<_, TestCaseError>>()?;
            prop_assert_eq!(records.len(), messages.len() + 11);
            for (at, change) in changes.into_iter().enumerate() {
                prop_assert_eq!(records[messages.len() + 6 + at], Record::State(change));
            }
            prop_assert_eq!(records[messages.len() + 9], Record::Keep { queue: QueueNumber(2), position: 8, bytes: 41, kept });
            prop_assert_eq!(records[messages.len() + 10], Record::Forget { queue: QueueNumber(2), below: 10 });
            prop_assert_eq!(records[messages.len() + 4], Record::Purge { queue: QueueNumber(2), below: 7 });
            prop_assert_eq!(records[messages.len() + 5], Record::Time { now_ms: 1_700_000_000_000 });
            prop_assert_eq!(records[0], Record::Queue { number: QueueNumber(300), name: "orders", next_position: 77 });
            prop_assert_eq!(records[1], Record::Next { sequence: u64::MAX });
            for ((place, message), record) in messages.iter().zip(&records[2..]) {
                let Record::Put(put) = record else { panic!("not a put") };
                prop_assert_eq!(&put.place, place);
                prop_assert_eq!(put.body, &message.body[..]);
                prop_assert_eq!(put.key, message.key.as_deref());
                prop_assert_eq!(put.content_type, message.content_type.as_deref());
                let attributes: Vec<(Box<str>, Box<str>)> = put.attributes().map(|(n, v)| (n.into(), v.into())).collect();
                prop_assert_eq!(&attributes, &message.attributes);
            }
            prop_assert_eq!(records[messages.len() + 2], Record::Update { queue: QueueNumber(2), position: 5, state });
            prop_assert_eq!(records[messages.len() + 3], Record::Remove { queue: QueueNumber(2), position: 6, bytes: 40 });
        }

        #[test]
        fn a_damaged_put_is_never_taken_for_whole(place in any_place(), message in any_message(), at: proptest::sample::Index, flip in 1u8..) {
            let mut bytes = Vec::new();
            encode_put(&mut bytes, &place, &message);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(!matches!(decode(&bytes), Ok(Record::Put(_))));
        }

        #[test]
        fn a_kept_message_reads_back_and_is_never_taken_for_whole_when_damaged(
            place in any_place(), message in any_message(), position: u64, acked_at_ms: u64,
            at: proptest::sample::Index, flip in 1u8..,
        ) {
            let (mut put, mut bytes) = (Vec::new(), Vec::new());
            encode_put(&mut put, &place, &message);
            let expected = KeptPlace { position, acked_at_ms };
            let put_at = encode_kept(&mut bytes, expected, |out| out.extend_from_slice(&put));
            let Ok(Record::Kept(Kept { kept, put: found, put_offset })) = decode(&bytes) else { panic!("not kept") };
            prop_assert_eq!((kept, put_offset as usize), (expected, put_at));
            prop_assert_eq!(decode(&bytes[put_at..]), Ok(Record::Put(found)));
            prop_assert_eq!(&bytes[put_at..], &put[..]);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(!matches!(decode(&bytes), Ok(Record::Kept(_))));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            Records::new(&bytes).for_each(drop);
        }
    }
}
