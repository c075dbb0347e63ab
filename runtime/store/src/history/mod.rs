//! History: acknowledged messages that are kept for a time, to be read by range and replayed.
//!
//! ```text
//!  ack ──► [recent: in the log, an entry each] ──log file copied──► [history files: 16 bytes a chunk] ──window over──► gone
//! ```
//!
//! Constraints:
//! - An ack and its message's coming into the history are one record. Nothing in the history is part of its queue any more:
//!   it can't be claimed, counts for no limit, holds no key.
//! - A history is ordered by acknowledgement, and so by time. What goes, goes from its front: `begin` says all.
//! - **Each log file is whole in itself.** A message whose put stands in the file that its ack goes to is kept by reference;
//!   any other is written once more, with its ack. So when a log file is copied, all that it keeps stands in it, and
//!   the history files never overlap.
//! - On a full disk history is given up, oldest first, before a message is refused. What is given up is counted.
//!
//! Pure, as the queues are: it is told what the log says, and is asked what to do next.

pub(crate) mod copy;
pub(crate) mod file;
mod read;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use self::file::HistoryFile;
pub(crate) use self::read::page;
pub use self::read::{HistoryMessage, HistoryPage, HistoryRange};
use crate::header::NUMBER_MAX;
use crate::location::{FileId, Location};
use crate::record::{KeptPlace, QueueNumber};

/// Small files that stand side by side are put together when there are so many.
const JOIN_MIN: usize = 4;

/// The histories of all queues that have, or had, one.
#[derive(Default)]
pub(crate) struct History {
    lines: BTreeMap<QueueNumber, Line>,
}

#[derive(Default)]
struct Line {
    /// How long messages are kept. None if nobody has said so yet.
    window_ms: Option<u64>,
    /// What stands before this is gone.
    begin: u64,
    /// The position that the next message takes.
    next: u64,
    /// Oldest first.
    files: VecDeque<Arc<HistoryFile>>,
    /// What stands in the log: the last ones, without a gap.
    recent: VecDeque<Recent>,
    recent_bytes: u64,
    /// Messages that had to go before their time.
    given_up: u64,
}

/// An acknowledged message in the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recent {
    pub(crate) sequence: u64,
    pub(crate) acked_at_ms: u64,
    /// Of its put.
    pub(crate) location: Location,
    pub(crate) bytes: u32,
}

/// What a checkpoint says of a history.
pub(crate) struct HistorySnapshot {
    pub(crate) queue: QueueNumber,
    pub(crate) window_ms: Option<u64>,
    pub(crate) begin: u64,
    pub(crate) next: u64,
    pub(crate) given_up: u64,
    pub(crate) files: Vec<Arc<HistoryFile>>,
}

/// The counts of one history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HistoryCounts {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) given_up: u64,
}

/// What stands at a position, or after it.
enum Glimpse {
    End,
    Recent(Vec<(u64, Recent)>),
    /// A chunk of a file.
    File(Arc<HistoryFile>, usize),
}

impl Line {
    /// Position of the first message that stands in the log.
    fn recent_begin(&self) -> u64 {
        self.next - self.recent.len() as u64
    }

    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.recent.is_empty()
    }

    fn counts(&self) -> HistoryCounts {
        let mut counts =
            HistoryCounts { messages: self.recent.len() as u64, bytes: self.recent_bytes, given_up: self.given_up };
        for file in &self.files {
            let (messages, bytes) = file.left_from(self.begin);
            counts.messages += messages;
            counts.bytes += bytes;
        }
        counts
    }

    /// When a message must have been acknowledged not to be too old.
    fn kept_since_ms(&self, now_ms: u64) -> u64 {
        self.window_ms.map_or(0, |window_ms| now_ms.saturating_sub(window_ms).saturating_add(1))
    }

    fn add(&mut self, position: u64, recent: Recent) -> Result<(), String> {
        if position < self.begin {
            return Ok(());
        }
        if self.recent.is_empty() {
            self.next = position;
        }
        let cold_end = self.files.back().map_or(0, |file| file.end);
        if position != self.next || position < cold_end || position > NUMBER_MAX {
            return Err(format!("a message comes to position {position} of a history, not to {}", self.next));
        }
        self.next += 1;
        self.recent_bytes += u64::from(recent.bytes);
        self.recent.push_back(recent);
        Ok(())
    }

    fn forget(&mut self, below: u64) {
        self.begin = self.begin.max(below);
        let gone = self.begin.saturating_sub(self.recent_begin()).min(self.recent.len() as u64);
        for recent in self.recent.drain(..gone as usize) {
            self.recent_bytes -= u64::from(recent.bytes);
        }
        self.next = self.next.max(self.begin);
    }

    /// The first position that is not too old. In files that is told to the chunk.
    fn first_kept(&self, now_ms: u64) -> u64 {
        let since_ms = self.kept_since_ms(now_ms);
        for file in self.files.iter().filter(|file| file.end > self.begin) {
            if file.newest_ms >= since_ms {
                return self.begin.max(file.chunk_span(file.chunk_at(since_ms)).start);
            }
        }
        let gone = self.recent.partition_point(|recent| recent.acked_at_ms < since_ms);
        self.begin.max(self.recent_begin() + gone as u64)
    }
}

impl History {
    /// How long a queue keeps its messages, from now on.
    pub(crate) fn declare(&mut self, queue: QueueNumber, window_ms: u64) {
        if window_ms > 0 || self.lines.contains_key(&queue) {
            self.lines.entry(queue).or_default().window_ms = Some(window_ms);
        }
    }

    /// Whether a message that is acknowledged now is kept.
    pub(crate) fn keeps(&self, queue: QueueNumber) -> bool {
        !self.lines.is_empty()
            && self.lines.get(&queue).is_some_and(|line| line.window_ms.is_some_and(|window_ms| window_ms > 0))
    }

    /// The position that the next message of a queue takes.
    pub(crate) fn next(&self, queue: QueueNumber) -> u64 {
        self.lines.get(&queue).map_or(0, |line| line.next)
    }

    /// A message is acknowledged and stands in the log.
    pub(crate) fn add(&mut self, queue: QueueNumber, kept: KeptPlace, recent: Recent) -> Result<(), String> {
        self.lines.entry(queue).or_default().add(kept.position, recent)
    }

    /// A message could not be kept.
    pub(crate) fn give_up_one(&mut self, queue: QueueNumber) {
        self.lines.entry(queue).or_default().given_up += 1;
    }

    /// What stands before a position is gone.
    pub(crate) fn forget(&mut self, queue: QueueNumber, below: u64) -> Result<(), String> {
        if below > NUMBER_MAX {
            return Err("a number is too large".into());
        }
        self.lines.entry(queue).or_default().forget(below);
        Ok(())
    }

    /// What stands before a position has to go before its time. Answers how many messages that are.
    pub(crate) fn count_given_up(&mut self, queue: QueueNumber, below: u64) {
        let Some(line) = self.lines.get_mut(&queue) else { return };
        let before = line.counts().messages;
        let left = {
            let cold: u64 = line.files.iter().map(|file| file.left_from(below.max(line.begin)).0).sum();
            cold + line.next.saturating_sub(below.max(line.recent_begin())).min(line.recent.len() as u64)
        };
        line.given_up += before.saturating_sub(left);
    }

    pub(crate) fn counts(&self, queue: QueueNumber) -> HistoryCounts {
        self.lines.get(&queue).map(Line::counts).unwrap_or_default()
    }

    /// Whether a queue has anything in its history.
    pub(crate) fn is_empty(&self, queue: QueueNumber) -> bool {
        self.lines.get(&queue).is_none_or(Line::is_empty)
    }

    /// Queues with messages that are too old, and before which position those stand.
    pub(crate) fn due(&self, now_ms: u64) -> Vec<(QueueNumber, u64)> {
        let due = self.lines.iter().filter(|(_, line)| !line.is_empty());
        let due = due.map(|(queue, line)| (*queue, line.begin, line.first_kept(now_ms)));
        due.filter(|(_, begin, first)| first > begin).map(|(queue, _, first)| (queue, first)).collect()
    }

    /// What is given up to make room for so many bytes: the oldest files of all queues. If there is none, what stands in a
    /// log file that can't be copied.
    pub(crate) fn oldest(&self, bytes: u64, log_file: Option<FileId>) -> Vec<(QueueNumber, u64)> {
        let files = self.lines.values().flat_map(|line| line.files.iter().filter(|file| file.end > line.begin));
        let mut files: Vec<&Arc<HistoryFile>> = files.collect();
        files.sort_by_key(|file| file.newest_ms);
        let mut found = 0;
        let enough = files.iter().take_while(|file| {
            let before = found;
            found += file.bytes();
            before < bytes
        });
        let cold: Vec<_> = enough.map(|file| (file.queue, file.end)).collect();
        if !cold.is_empty() {
            return cold;
        }
        let Some(log_file) = log_file else { return Vec::new() };
        let in_log = self.lines.iter().filter_map(|(queue, line)| {
            let count = line.recent.iter().take_while(|recent| recent.location.file <= log_file).count();
            (count > 0).then(|| (*queue, line.recent_begin() + count as u64))
        });
        in_log.collect()
    }

    // --- cold -----------------------------------------------------------------------------------------------------

    /// The next messages from a position on that stand in a log file, and that log file's history of the next queues after
    /// them.
    fn in_log_file(&self, log_file: FileId, queue: QueueNumber, from: u64, max: usize) -> Vec<(u64, Recent)> {
        let Some(line) = self.lines.get(&queue) else { return Vec::new() };
        let begin = line.recent_begin();
        let skip = from.saturating_sub(begin).min(line.recent.len() as u64);
        let recent = line.recent.range(skip as usize..);
        let here = (begin + skip..).zip(recent).take_while(|(_, recent)| recent.location.file == log_file);
        here.take(max).map(|(position, recent)| (position, *recent)).collect()
    }

    fn queues(&self) -> Vec<QueueNumber> {
        self.lines.keys().copied().collect()
    }

    /// A log file was copied: what stood there stands in these files now.
    pub(crate) fn take_in(&mut self, log_file: FileId, files: Vec<Arc<HistoryFile>>) {
        for line in self.lines.values_mut() {
            let gone = line.recent.partition_point(|recent| recent.location.file <= log_file);
            for recent in line.recent.drain(..gone) {
                line.recent_bytes -= u64::from(recent.bytes);
            }
        }
        for file in files {
            let line = self.lines.entry(file.queue).or_default();
            line.given_up += file.end - file.first - file.messages;
            line.files.push_back(file);
        }
    }

    /// Files of one queue that are better put together: some in a row, none of them much larger than the others, so that
    /// nothing is copied more often than it doubles.
    pub(crate) fn joinable(&self, small_bytes: u64, unreadable: &[u64]) -> Option<(Vec<Arc<HistoryFile>>, u64)> {
        for line in self.lines.values() {
            let small = |file: &Arc<HistoryFile>| file.bytes() < small_bytes && !unreadable.contains(&file.id);
            for run in line.files.iter().collect::<Vec<_>>().windows(JOIN_MIN) {
                let bytes: u64 = run.iter().map(|file| file.bytes()).sum();
                let even = run.iter().all(|file| file.bytes() * 2 <= bytes);
                if even && run.iter().all(|file| small(file)) {
                    return Some((run.iter().map(|file| Arc::clone(file)).collect(), line.begin));
                }
            }
        }
        None
    }

    /// One file stands in the place of some.
    pub(crate) fn joined(&mut self, old: &[Arc<HistoryFile>], new: Option<Arc<HistoryFile>>) {
        let Some(line) = old.first().and_then(|file| self.lines.get_mut(&file.queue)) else { return };
        let is_old = |file: &Arc<HistoryFile>| old.iter().any(|old| old.id == file.id);
        let at = line.files.iter().position(is_old);
        line.files.retain(|file| !is_old(file));
        if let (Some(at), Some(new)) = (at, new) {
            line.files.insert(at, new);
        }
    }

    pub(crate) fn has_expired(&self) -> bool {
        self.lines.values().any(|line| line.files.front().is_some_and(|file| file.end <= line.begin))
    }

    /// Takes out the files in which nothing is kept any more.
    pub(crate) fn take_expired(&mut self) -> Vec<Arc<HistoryFile>> {
        let mut expired = Vec::new();
        for line in self.lines.values_mut() {
            while let Some(file) = line.files.pop_front_if(|file| file.end <= line.begin) {
                expired.push(file);
            }
        }
        expired
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &Arc<HistoryFile>> {
        self.lines.values().flat_map(|line| &line.files)
    }

    pub(crate) fn snapshot(&self) -> Vec<HistorySnapshot> {
        let used = self.lines.iter().filter(|(_, line)| line.next > 0 || line.given_up > 0);
        let snapshot = |(queue, line): (&QueueNumber, &Line)| HistorySnapshot {
            queue: *queue,
            window_ms: line.window_ms,
            begin: line.begin,
            next: line.next,
            given_up: line.given_up,
            files: line.files.iter().cloned().collect(),
        };
        used.map(snapshot).collect()
    }

    /// Begins with what a checkpoint says.
    pub(crate) fn restore(&mut self, snapshots: Vec<HistorySnapshot>) {
        for HistorySnapshot { queue, window_ms, begin, next, given_up, files } in snapshots {
            let line = Line { window_ms, begin, next, given_up, files: files.into(), ..Line::default() };
            self.lines.insert(queue, line);
        }
    }
}
