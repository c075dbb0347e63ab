//! The durable key-value state of a consumer, as one delivery sees it: over what is on record lies what the delivery has
//! written so far. Nothing of it leaves before the delivery is settled.
//!
//! What was read goes along with what was written, so that two deliveries that read and then write the same key at the same
//! time can't both take effect: the second one is handled again. That costs it no attempt. A key that is written without
//! having been read, directly or by an increment, takes the value of whoever is settled last. Lists of keys are not
//! compared, nor what a delivery read that writes nothing.
//!
//! In a batch each message has a part of its own, which goes with its acknowledgement. A later message sees what the
//! earlier ones wrote, and has read it then: if the earlier one is not acknowledged after all, the later one comes again.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use linecook_store::{STATE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX};

use super::limits::{STATE_CURSORS_MAX, STATE_HELD_BYTES_MAX, STATE_KEYS_PAGE, bytes_text};
use crate::delivery::{StateRead, StateUse, StateWrite};

/// What an entry takes beside its key and its value, more or less.
const ENTRY_BYTES: u64 = 128;

/// A key and its value, if it has one.
type Entry = Option<(String, Vec<u8>)>;

/// Where the state of one consumer is on record. Reading may go to the disk, but never waits for it to write.
pub trait StateReader: Send + Sync {
    /// The value of a key.
    fn get(&self, key: &str) -> Result<Option<Bytes>, String>;

    /// The first keys after `after`, in order.
    fn keys(&self, after: Option<&str>, limit: usize) -> Result<Vec<Box<str>>, String>;

    /// Bytes of all keys and values.
    fn bytes(&self) -> Result<u64, String>;
}

/// The state of one consumer.
#[derive(Clone)]
pub struct DurableState {
    /// Whose it is; see [`StateWrite::space`].
    pub space: Box<str>,
    /// Where it is on record.
    pub reader: Arc<dyn StateReader>,
}

impl fmt::Debug for DurableState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DurableState").field(&self.space).finish()
    }
}

/// Why a delivery can't read or write. The text is for the guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// More than a limit allows.
    #[error("{0}")]
    Limit(String),
    /// What can't be.
    #[error("{0}")]
    Invalid(String),
    /// What is on record can't be read.
    #[error("the state can't be read: {0}")]
    Unreadable(String),
}

/// What one delivery, or one batch, has read and written so far.
#[derive(Default)]
pub(super) struct Session {
    /// Several messages are being handled.
    is_batch: bool,
    /// The message of the batch that is read and written for.
    current: Option<usize>,
    parts: BTreeMap<usize, Part>,
    /// What was read for no message in particular. It goes along with each message that writes.
    common_reads: BTreeMap<Box<str>, Option<Bytes>>,
    /// What a copy of them takes, values aside.
    common_bytes: u64,
    /// The messages that have written.
    writers: u64,
    /// The keys that it has come across, as they are now.
    seen: BTreeMap<Box<str>, Seen>,
    /// What its writes add to the bytes on record.
    growth: i64,
    held_bytes: u64,
    /// Where lists of keys went on. A cursor is a place here, and 1 more.
    cursors: Vec<Box<str>>,
    limit_hit: bool,
}

#[derive(Default)]
struct Part {
    reads: BTreeMap<Box<str>, Option<Bytes>>,
    writes: BTreeMap<Box<str>, Option<Bytes>>,
}

struct Seen {
    value: Option<Bytes>,
    /// The guest knows it.
    was_read: bool,
    was_written: bool,
}

impl Session {
    /// Starts anew, for so many messages.
    pub(super) fn begin(&mut self, messages: usize) {
        // Most deliveries have nothing to do with state: then there is nothing to take down.
        if !self.is_untouched() {
            *self = Session::default();
        }
        self.is_batch = messages > 1;
    }

    /// Whether it is as one that has just begun, but for `is_batch`.
    pub(super) fn is_untouched(&self) -> bool {
        let Session { is_batch: _, current, parts, common_reads, common_bytes, .. } = self;
        let Session { writers, seen, growth, held_bytes, cursors, limit_hit, .. } = self;
        let are_empty = parts.is_empty() && common_reads.is_empty() && seen.is_empty() && cursors.is_empty();
        let are_zero = (*common_bytes, *writers, *growth, *held_bytes) == (0, 0, 0, 0);
        are_empty && are_zero && current.is_none() && !limit_hit
    }

    /// From here on it is read and written for this message of the batch, or for none in particular.
    pub(super) fn set_current(&mut self, place: Option<usize>) {
        // Alone, everything is for the one message.
        self.current = place.filter(|_| self.is_batch);
    }

    /// Whether something was refused because it was too much.
    pub(super) fn limit_hit(&self) -> bool {
        self.limit_hit
    }

    /// What was read and written for each message that wrote something. That a limit was hit is remembered: whether the instance
    /// is kept is decided after this.
    pub(super) fn take(&mut self, state: &DurableState) -> Vec<(usize, StateUse)> {
        let begun = Session { limit_hit: self.limit_hit, ..Session::default() };
        let Session { parts, common_reads, seen, .. } = std::mem::replace(self, begun);
        let space = &state.space;
        let uses = parts.into_iter().filter(|(_, part)| !part.writes.is_empty()).map(|(place, mut part)| {
            for (key, value) in &common_reads {
                // What a message has written meanwhile is known by its own reads.
                if !part.writes.contains_key(key) && !seen.get(key).is_some_and(|seen| seen.was_written) {
                    part.reads.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
            let read = |(key, seen)| StateRead { space: space.clone(), key, seen };
            let write = |(key, value)| StateWrite { space: space.clone(), key, value };
            let reads = part.reads.into_iter().map(read).collect();
            (place, StateUse { reads, writes: part.writes.into_iter().map(write).collect() })
        });
        uses.collect()
    }

    pub(super) fn get(&mut self, state: &DurableState, key: &str) -> Result<Option<Bytes>, Refused> {
        check_key(key)?;
        self.come_across(state, key)?;
        let seen = &self.seen[key];
        let (value, was_written) = (seen.value.clone(), seen.was_written);
        match self.current {
            None if self.is_batch && was_written => {}
            None if self.is_batch => self.read_in_common(key, &value)?,
            place => self.read_for(place, key, &value)?,
        }
        self.seen.get_mut(key).expect("it was just come across").was_read = true;
        Ok(value)
    }

    /// The values of many keys, each with its key, as an answer of its own: a key that is asked for again is copied again.
    pub(super) fn get_many(&mut self, state: &DurableState, keys: Vec<String>) -> Result<Vec<Entry>, Refused> {
        let mut bytes = 0;
        let one = |key: String| {
            let value = self.get(state, &key)?;
            bytes += (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64 + ENTRY_BYTES;
            if bytes > STATE_HELD_BYTES_MAX {
                self.limit_hit = true;
                let max = bytes_text(STATE_HELD_BYTES_MAX);
                return Err(Refused::Limit(format!("{max} of state may be read at once")));
            }
            Ok(value.map(|value| (key, Vec::from(value))))
        };
        keys.into_iter().map(one).collect()
    }

    /// Writes a value, or takes the key away.
    pub(super) fn set(
        &mut self,
        state: &DurableState,
        bytes_max: u64,
        key: &str,
        value: Option<Bytes>,
    ) -> Result<(), Refused> {
        let written = self.try_set(state, bytes_max, key, value);
        self.limit_hit |= matches!(written, Err(Refused::Limit(_)));
        written
    }

    fn try_set(
        &mut self,
        state: &DurableState,
        bytes_max: u64,
        key: &str,
        value: Option<Bytes>,
    ) -> Result<(), Refused> {
        check_key(key)?;
        if self.is_batch && self.current.is_none() {
            return Err(Refused::Invalid(
                "in a batch, state is written for one of its messages: write it in `batch::each`, or say for which one"
                    .into(),
            ));
        }
        let value_bytes = value.as_ref().map_or(0, Bytes::len);
        if value_bytes > STATE_VALUE_BYTES_MAX {
            let max = bytes_text(STATE_VALUE_BYTES_MAX as u64);
            return Err(Refused::Limit(format!(
                "the value of {key:?} has {value_bytes} bytes; a value may have {max}"
            )));
        }
        self.come_across(state, key)?;
        self.hold(key.len() + value_bytes)?;
        let entry_bytes = |value: &Option<Bytes>| value.as_ref().map_or(0, |value| (key.len() + value.len()) as i64);
        let seen = &self.seen[key];
        let more = entry_bytes(&value) - entry_bytes(&seen.value);
        if more > 0 {
            let on_record = state.reader.bytes().map_err(Refused::Unreadable)?;
            if on_record as i64 + self.growth + more > bytes_max.min(i64::MAX as u64) as i64 {
                let max = bytes_text(bytes_max);
                return Err(Refused::Limit(format!("the state may take {max} in all (limits.state_bytes)")));
            }
        }
        // From here on it only takes room, and changes nothing before it has all of it.
        let (place, before, was_read) = (self.current, seen.value.clone(), seen.was_read);
        if was_read {
            // What is written may come of it.
            self.read_for(place, key, &before)?;
        }
        if self.part(place).writes.is_empty() {
            self.hold_bytes(self.common_bytes)?;
            self.writers += 1;
        }
        self.growth += more;
        let seen = self.seen.get_mut(key).expect("it was just come across");
        (seen.value, seen.was_written) = (value.clone(), true);
        self.part(place).writes.insert(key.into(), value);
        Ok(())
    }

    /// Adds to a number, which stands there as decimal text. A missing one is 0.
    pub(super) fn increment(
        &mut self,
        state: &DurableState,
        bytes_max: u64,
        key: &str,
        delta: u64,
    ) -> Result<u64, Refused> {
        let number = match self.get(state, key)? {
            None => 0,
            Some(text) => {
                std::str::from_utf8(&text).ok().and_then(|text| text.parse::<u64>().ok()).ok_or_else(|| {
                    Refused::Invalid(format!("the value of {key:?} is no number that can be incremented"))
                })?
            }
        };
        let number = number
            .checked_add(delta)
            .ok_or_else(|| Refused::Invalid(format!("{key:?} would be larger than {}", u64::MAX)))?;
        self.set(state, bytes_max, key, Some(number.to_string().into()))?;
        Ok(number)
    }

    /// Keys from a cursor on, in order, and the cursor for the next ones.
    pub(super) fn keys(
        &mut self,
        state: &DurableState,
        cursor: Option<u64>,
    ) -> Result<(Vec<Box<str>>, Option<u64>), Refused> {
        let mut after = match cursor {
            None => None,
            Some(cursor) => {
                let place = usize::try_from(cursor).ok().and_then(|cursor| cursor.checked_sub(1));
                let known = place.and_then(|place| self.cursors.get(place));
                Some(
                    known
                        .cloned()
                        .ok_or_else(|| Refused::Invalid(format!("{cursor} is no cursor of this delivery")))?,
                )
            }
        };
        loop {
            let on_record = state.reader.keys(after.as_deref(), STATE_KEYS_PAGE).map_err(Refused::Unreadable)?;
            let last = on_record.last().filter(|_| on_record.len() == STATE_KEYS_PAGE).cloned();
            let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let to = last.as_deref().map_or(Bound::Unbounded, Bound::Included);
            let written = self.seen.range::<str, _>((from, to)).filter(|(_, seen)| seen.was_written);
            let new = written.filter(|(_, seen)| seen.value.is_some()).map(|(key, _)| key.clone());
            let mut keys: Vec<Box<str>> = new.collect();
            keys.extend(on_record.into_iter().filter(|key| !self.seen.get(key).is_some_and(|seen| seen.was_written)));
            keys.sort_unstable();
            let Some(last) = last else { return Ok((keys, None)) };
            if keys.is_empty() {
                after = Some(last);
                continue;
            }
            return Ok((keys, Some(self.cursor(last)?)));
        }
    }

    fn cursor(&mut self, after: Box<str>) -> Result<u64, Refused> {
        let place = match self.cursors.iter().position(|known| *known == after) {
            Some(place) => place,
            None if self.cursors.len() >= STATE_CURSORS_MAX => {
                let why = format!("a delivery may list {} keys", STATE_CURSORS_MAX * STATE_KEYS_PAGE);
                self.limit_hit = true;
                return Err(Refused::Limit(why));
            }
            None => {
                self.cursors.push(after);
                self.cursors.len() - 1
            }
        };
        Ok(place as u64 + 1)
    }

    /// Sees to it that `seen` knows a key.
    fn come_across(&mut self, state: &DurableState, key: &str) -> Result<(), Refused> {
        if self.seen.contains_key(key) {
            return Ok(());
        }
        let value = state.reader.get(key).map_err(Refused::Unreadable)?;
        self.hold(key.len() + value.as_ref().map_or(0, Bytes::len))?;
        self.seen.insert(key.into(), Seen { value, was_read: false, was_written: false });
        Ok(())
    }

    /// Takes down what one message has read: what it saw first counts; what it wrote itself, it knows.
    fn read_for(&mut self, place: Option<usize>, key: &str, value: &Option<Bytes>) -> Result<(), Refused> {
        let part = self.part(place);
        if part.writes.contains_key(key) || part.reads.contains_key(key) {
            return Ok(());
        }
        // Alone, it has one copy of each key that was come across. In a batch, each message has.
        if self.is_batch {
            self.hold(key.len())?;
        }
        self.part(place).reads.insert(key.into(), value.clone());
        Ok(())
    }

    /// Takes down what was read for no message in particular.
    fn read_in_common(&mut self, key: &str, value: &Option<Bytes>) -> Result<(), Refused> {
        if self.common_reads.contains_key(key) {
            return Ok(());
        }
        let bytes = key.len() as u64 + ENTRY_BYTES;
        self.hold_bytes(bytes * (1 + self.writers))?;
        self.common_bytes += bytes;
        self.common_reads.insert(key.into(), value.clone());
        Ok(())
    }

    /// Takes room for an entry that the host keeps.
    fn hold(&mut self, bytes: usize) -> Result<(), Refused> {
        self.hold_bytes(bytes as u64 + ENTRY_BYTES)
    }

    fn hold_bytes(&mut self, bytes: u64) -> Result<(), Refused> {
        self.held_bytes += bytes;
        if self.held_bytes > STATE_HELD_BYTES_MAX {
            self.limit_hit = true;
            let max = bytes_text(STATE_HELD_BYTES_MAX);
            return Err(Refused::Limit(format!("a delivery may read and write {max} of state in all")));
        }
        Ok(())
    }

    fn part(&mut self, place: Option<usize>) -> &mut Part {
        self.parts.entry(place.unwrap_or(0)).or_default()
    }
}

fn check_key(key: &str) -> Result<(), Refused> {
    if (1..=STATE_KEY_BYTES_MAX).contains(&key.len()) {
        return Ok(());
    }
    let why = format!("a key of the state has 1 to {STATE_KEY_BYTES_MAX} bytes; this one has {}", key.len());
    Err(Refused::Invalid(why))
}

#[cfg(test)]
#[path = "durable_tests.rs"]
mod tests;
