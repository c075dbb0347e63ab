//! Reads a history by range. What is looked up under the lock is read outside of it, and looked up again if it has moved
//! from the log to a file meanwhile.

use std::sync::Arc;

use bytes::Bytes;

use super::{Glimpse, History, Line, Recent};
use crate::Message;
use crate::cache::FrameCache;
use crate::record::{self, Put, QueueNumber, Record};
use crate::shared::{Content, Shared};

/// Which part of a queue's history is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryRange {
    /// Only messages that were acknowledged then or later, in milliseconds of the Unix epoch.
    pub from_ms: u64,
    /// Only messages that were acknowledged before.
    pub to_ms: u64,
    /// Only messages after this position: [`HistoryPage::next`] of the page before.
    pub after: Option<u64>,
    /// At most so many messages.
    pub limit: usize,
    /// Ends with the message with which there are so many bytes.
    pub bytes_max: usize,
}

/// Some messages of a history, in the order in which they were acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// The messages.
    pub messages: Vec<HistoryMessage>,
    /// If there may be more: after which position they stand.
    pub next: Option<u64>,
    /// Messages in between that are damaged and left out.
    pub unreadable: u64,
}

/// An acknowledged message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryMessage {
    /// Its place in the history: later ones were acknowledged later.
    pub position: u64,
    /// The message.
    pub message: Message,
    /// When it was acknowledged, in milliseconds of the Unix epoch.
    pub acked_at_ms: u64,
}

/// Messages in the log that are looked up at a time.
const STEP: usize = 256;

impl Line {
    /// The first thing at a position or after it that may hold messages which were acknowledged then or later.
    fn look(&self, from: u64, since_ms: u64) -> Glimpse {
        let files = self.files.iter().filter(|file| file.end > from && file.newest_ms >= since_ms);
        if let Some(file) = files.min_by_key(|file| file.first) {
            let chunk = file.chunk_of(from).max(file.chunk_at(since_ms));
            return Glimpse::File(file.clone(), chunk);
        }
        let begin = self.recent_begin();
        let skip = from.saturating_sub(begin).min(self.recent.len() as u64) as usize;
        let old = self.recent.partition_point(|recent| recent.acked_at_ms < since_ms);
        let skip = skip.max(old);
        let recent = self.recent.range(skip..).take(STEP).copied();
        let found: Vec<(u64, Recent)> = (begin + skip as u64..).zip(recent).collect();
        if found.is_empty() { Glimpse::End } else { Glimpse::Recent(found) }
    }
}

impl History {
    /// What comes next from a position and a time on; both become what they are at least, so that nothing that is gone is
    /// read with the rest of its chunk.
    fn look(&self, queue: QueueNumber, from: &mut u64, since_ms: &mut u64, now_ms: u64) -> Glimpse {
        let Some(line) = self.lines.get(&queue) else { return Glimpse::End };
        *from = line.begin.max(*from);
        *since_ms = line.kept_since_ms(now_ms).max(*since_ms);
        line.look(*from, *since_ms)
    }
}

struct Reading<'a> {
    shared: &'a Shared,
    range: &'a HistoryRange,
    page: HistoryPage,
    bytes: usize,
    /// The next position to read.
    at: u64,
}

/// Whether to go on.
type Goes = bool;

impl Reading<'_> {
    /// Takes a message, or finds that it is beyond the range or the page.
    fn take(&mut self, position: u64, acked_at_ms: u64, put: &Put<'_>) -> Goes {
        if acked_at_ms >= self.range.to_ms {
            return false;
        }
        if self.page.messages.len() >= self.range.limit || self.bytes >= self.range.bytes_max {
            self.page.next = Some(position - 1);
            return false;
        }
        self.bytes += put.message_bytes() as usize;
        let content = Content { message: put.message(), enqueued_at_ms: put.place.enqueued_at_ms };
        let message = content.into_message(self.shared.id(put.place.sequence));
        self.page.messages.push(HistoryMessage { position, message, acked_at_ms });
        self.at = position + 1;
        true
    }

    /// Messages in the log. None if one has moved and must be looked up again.
    fn recent(&mut self, found: Vec<(u64, Recent, Option<Bytes>)>, failed: &mut Option<u64>) -> Option<Goes> {
        for (position, recent, record) in found {
            self.at = position;
            if recent.acked_at_ms >= self.range.to_ms {
                return Some(false);
            }
            let bytes = record.map_or_else(|| self.shared.reader.read(recent.location).map(Bytes::from), Ok);
            let whole = bytes.as_ref().ok().and_then(|bytes| match record::decode(bytes) {
                Ok(Record::Put(put)) if put.place.sequence == recent.sequence => Some(put),
                _ => None,
            });
            match whole {
                Some(put) => {
                    if !self.take(position, recent.acked_at_ms, &put) {
                        return Some(false);
                    }
                }
                // It is damaged where it is.
                None if *failed == Some(position) => {
                    self.page.unreadable += 1;
                    self.at = position + 1;
                }
                None => {
                    *failed = Some(position);
                    return None;
                }
            }
        }
        Some(true)
    }
}

/// Reads a page of a history.
pub(crate) fn page(shared: &Shared, queue: QueueNumber, range: &HistoryRange) -> Result<HistoryPage, Arc<str>> {
    let now_ms = shared.clock.now_ms();
    let at = range.after.map_or(0, |after| after.saturating_add(1));
    let mut reading = Reading { shared, range, page: HistoryPage::default(), bytes: 0, at };
    // A message in the log that could not be read. If it can't be read again, it has not moved.
    let mut failed = None;
    let mut since_ms = range.from_ms;
    loop {
        let (found, file) = {
            let state = shared.state();
            match state.history.look(queue, &mut reading.at, &mut since_ms, now_ms) {
                Glimpse::End => return Ok(reading.page),
                Glimpse::Recent(found) => (found, None),
                Glimpse::File(file, chunk) => (Vec::new(), Some((file, chunk))),
            }
        };
        let recent = with_records(found, &shared.cache());
        let goes = match file {
            None => reading.recent(recent, &mut failed).unwrap_or(true),
            Some((file, chunk)) => {
                let loaded = file.read_chunk(chunk).map_err(|error| Arc::from(error.to_string()))?;
                let mut goes = true;
                for stored in loaded.messages() {
                    let Some(kept) = stored else {
                        reading.page.unreadable += 1;
                        continue;
                    };
                    let (position, acked_at_ms) = (kept.kept.position, kept.kept.acked_at_ms);
                    if position < reading.at || acked_at_ms < since_ms {
                        continue;
                    }
                    if !reading.take(position, acked_at_ms, &kept.put) {
                        goes = false;
                        break;
                    }
                }
                reading.at = reading.at.max(file.chunk_span(chunk).end);
                goes
            }
        };
        if !goes {
            return Ok(reading.page);
        }
    }
}

fn with_records(found: Vec<(u64, Recent)>, cache: &FrameCache) -> Vec<(u64, Recent, Option<Bytes>)> {
    found.into_iter().map(|(position, recent)| (position, recent, cache.get(recent.location))).collect()
}
