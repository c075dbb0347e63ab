//! What is in a folder, as far as it can be told: its files, and the messages that live.
//!
//! It does what opening does, in the same order, but goes on where opening refuses. What it finds wrong on its way is
//! noted. It keeps where messages stand and not what they carry.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::finding::{Finding, Meaning};
use super::log::{Step, walk};
use super::segments::{Role, SegmentFile};
use crate::QueueName;
use crate::attempts::{self, Attempts, LeftOver, WORDS_OF_A_SLOT};
use crate::cold::bitmap::Bitmap;
use crate::cold::checkpoint::{self, RawCheckpoint};
use crate::cold::segment::{self, SPAN_MAX};
use crate::dedup::run::{self, Run};
use crate::disk::{Disk, DiskError, OverlayDisk, Words};
use crate::error::OpenError;
use crate::history::file::{self as history_file, HistoryFile};
use crate::location::{FileId, Location};
use crate::record::{DeliveryState, QueueNumber, Record, Records};
use crate::wal::confirmed::{self, Confirmed};
use crate::wal::file::{self, FileHeader};
use crate::wal::{LogFile, frame};

pub(super) struct Survey {
    /// Its writes stay in memory.
    disk: OverlayDisk,
    pub(super) findings: Vec<Finding>,
    /// Whole checkpoints, the newest first.
    pub(super) checkpoints: Vec<RawCheckpoint>,
    /// Log files that are replayed, oldest first.
    pub(super) logs: Vec<LogFile>,
    /// What is known of each of those, in the same order.
    pub(super) log_tallies: Vec<LogTally>,
    /// Log files whose content is not needed any more.
    pub(super) given_up: Vec<LogFile>,
    /// Log files that were never begun.
    pub(super) blank: Vec<String>,
    pub(super) segments: BTreeMap<u64, SegmentFile>,
    pub(super) runs: Vec<RunFile>,
    pub(super) histories: Vec<HistoryEntry>,
    /// What stands before these positions of histories is gone.
    pub(super) history_begins: BTreeMap<QueueNumber, u64>,
    pub(super) queues: BTreeMap<QueueNumber, SurveyedQueue>,
    pub(super) store_tag: u64,
    /// LSN of the newest frame that was confirmed, if there is a note of it.
    pub(super) confirmed_lsn: Option<u64>,
    /// Attempts that were running when the last process ended.
    pub(super) running: Vec<LeftOver>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LogTally {
    pub(super) frames: u64,
    pub(super) records: u64,
    pub(super) last_lsn: u64,
}

/// Idempotency keys that were remembered by log files that are gone.
pub(super) struct RunFile {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) opened: Result<Run, OpenError>,
}

/// Acknowledged messages of a queue.
pub(super) struct HistoryEntry {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) opened: Result<HistoryFile, OpenError>,
}

/// A queue, and its messages that live.
#[derive(Default)]
pub(super) struct SurveyedQueue {
    pub(super) name: Option<QueueName>,
    /// By the position of their first message.
    pub(super) cold: BTreeMap<u64, Cold>,
    overlapping: bool,
    /// States of messages in segments that the checkpoint or the log know better than their records.
    pub(super) told: BTreeMap<u64, DeliveryState>,
    pub(super) in_log: BTreeMap<u64, InLog>,
}

/// What lives in a segment.
pub(super) struct Cold {
    pub(super) segment: u64,
    pub(super) live: Bitmap,
}

/// A message that stands in the log.
pub(super) struct InLog {
    pub(super) location: Location,
    pub(super) state: DeliveryState,
    pub(super) bytes: u32,
}

impl Survey {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Result<Survey, DiskError> {
        let mut survey = Survey {
            disk: OverlayDisk::new(disk),
            findings: Vec::new(),
            checkpoints: Vec::new(),
            logs: Vec::new(),
            log_tallies: Vec::new(),
            given_up: Vec::new(),
            blank: Vec::new(),
            segments: BTreeMap::new(),
            runs: Vec::new(),
            histories: Vec::new(),
            history_begins: BTreeMap::new(),
            queues: BTreeMap::new(),
            store_tag: 0,
            confirmed_lsn: None,
            running: Vec::new(),
        };
        let names = survey.disk.list()?;
        survey.read_checkpoints(&names);
        survey.find_logs(&names);
        survey.choose_tag();
        survey.read_maps(&names);
        survey.open_cold(&names);
        survey.restore();
        survey.replay();
        Ok(survey)
    }

    fn newest(&self) -> Option<&RawCheckpoint> {
        self.checkpoints.first()
    }

    fn read_checkpoints(&mut self, names: &[String]) {
        for name in checkpoint::NAMES.into_iter().filter(|name| names.iter().any(|there| there == name)) {
            match checkpoint::read_one(&self.disk, name) {
                Ok(found) => self.checkpoints.extend(found),
                Err(OpenError::Disk(error)) => {
                    self.findings.push(Finding::from_disk(name, &error, Meaning::Recoverable));
                }
                Err(error) => self.findings.push(Finding::from_open(&error, Meaning::Recoverable)),
            }
        }
        self.checkpoints.sort_by_key(|raw| std::cmp::Reverse(raw.header.generation));
    }

    fn find_logs(&mut self, names: &[String]) {
        for (name, slot) in names.iter().filter_map(|name| Some((name, file::slot(name)?))) {
            match self.find_log(name, slot) {
                Ok(Some(log)) => self.logs.push(log),
                Ok(None) => self.blank.push(name.clone()),
                Err(error) => self.findings.push(Finding::from_open(&error, Meaning::Refuses)),
            }
        }
        self.logs.sort_by_key(|log| log.header.epoch);
        let start_epoch = self.newest().map_or(0, |newest| newest.header.start_epoch);
        let first = self.logs.partition_point(|log| log.header.epoch < start_epoch);
        self.given_up = self.logs.drain(..first).collect();
    }

    fn find_log(&mut self, name: &str, slot: u32) -> Result<Option<LogFile>, OpenError> {
        let file = self.disk.open(name)?;
        match FileHeader::read(name, &*file) {
            Ok(header) => Ok(header.map(|header| LogFile { slot, header, file })),
            Err(error) => {
                self.findings.push(Finding::from_open(&error, Meaning::Refuses));
                let header = FileHeader { file_bytes: file.len()?, ..FileHeader::read_unproven(&*file)? };
                let bytes = read_all(&LogFile { slot, header, file: file.clone() })?;
                let proven = walk(header.seal(), &bytes).any(|step| matches!(step, Step::Frame { .. }));
                Ok(proven.then_some(LogFile { slot, header, file }))
            }
        }
    }

    fn choose_tag(&mut self) {
        let newest_log = self.logs.iter().chain(&self.given_up).next_back();
        let tag = self.newest().map(|newest| newest.header.store_tag);
        let tag = tag.or(newest_log.map(|log| log.header.store_tag));
        self.store_tag = tag.unwrap_or_default();
        let strangers = |log: &mut LogFile| log.header.store_tag != self.store_tag;
        for stranger in self.logs.extract_if(.., strangers) {
            let name = file::name(stranger.slot);
            self.findings.push(Finding::at(&name, 0, "it belongs to another store", Meaning::Refuses));
        }
    }

    /// A file of words, if it is there.
    fn words(&mut self, names: &[String], name: &str, words_max: usize) -> Option<Arc<dyn Words>> {
        names.iter().find(|there| *there == name)?;
        let mapped = self.disk.open(name).and_then(|file| {
            let words = usize::try_from(file.len()?.div_ceil(8)).unwrap_or(usize::MAX);
            self.disk.map_words(name, words.min(words_max))
        });
        mapped.map_err(|error| self.findings.push(Finding::from_disk(name, &error, Meaning::Refuses))).ok()
    }

    fn read_maps(&mut self, names: &[String]) {
        const SLOTS_MAX: usize = 1 << 20;
        if let Some(words) =
            self.words(names, confirmed::FILE_NAME, confirmed::WORDS).filter(|words| words.len() == confirmed::WORDS)
        {
            let confirmed = Confirmed::new(words);
            for offset in (0..2).filter_map(|which| confirmed.read(which).err()) {
                let why = "a note of the newest confirmed frame is not whole; it counts for nothing";
                self.findings.push(Finding::at(confirmed::FILE_NAME, offset, why, Meaning::Leftover));
            }
            let own = confirmed.newest().filter(|note| note.store_tag == self.store_tag);
            self.confirmed_lsn = own.map(|note| note.lsn);
        }
        if let Some(words) = self.words(names, attempts::FILE_NAME, SLOTS_MAX * WORDS_OF_A_SLOT) {
            for used in Attempts::used(&*words) {
                match used {
                    Ok(one) => self.running.push(one),
                    Err(offset) => {
                        let why = "a note of a running attempt is not whole; it counts for nothing";
                        self.findings.push(Finding::at(attempts::FILE_NAME, offset, why, Meaning::Leftover));
                    }
                }
            }
        }
    }

    fn open_cold(&mut self, names: &[String]) {
        let named =
            |raw: Option<&RawCheckpoint>| -> Vec<String> { raw.map(|raw| raw.files().collect()).unwrap_or_default() };
        let (needed, other) = (named(self.newest()), named(self.checkpoints.get(1)));
        // Without a checkpoint the log is all there is, if it is whole from its start on.
        let all_there = (1..).zip(&self.logs).all(|(epoch, log)| log.header.epoch == epoch) && !self.logs.is_empty();
        let lost = self.newest().is_none() && !all_there;
        let role = |name: &String| match () {
            () if needed.contains(name) => Role::Needed,
            () if other.contains(name) => Role::OnlyOther,
            () if lost => Role::Unknown,
            () => Role::Leftover,
        };
        for name in names {
            if let Some(id) = segment::id(name) {
                match SegmentFile::open(&self.disk, id, role(name), self.store_tag) {
                    Ok(segment) => drop(self.segments.insert(id, segment)),
                    Err(error) => self.findings.push(Finding::from_disk(name, &error, Meaning::Refuses)),
                }
            } else if let Some(id) = run::id(name) {
                let opened = Run::open(&self.disk, id, self.store_tag);
                self.runs.push(RunFile { name: name.clone(), role: role(name), opened });
            } else if let Some(id) = history_file::id(name) {
                let opened = HistoryFile::open(&self.disk, id, self.store_tag);
                self.histories.push(HistoryEntry { name: name.clone(), role: role(name), opened });
            }
        }
        for name in needed.iter().filter(|needed| !names.contains(needed)) {
            let why = "it is missing, and a checkpoint needs it";
            self.findings.push(Finding::of_file(name, why, Meaning::Refuses));
        }
        if lost && !self.segments.is_empty() {
            let why = "no checkpoint is whole, and the log does not reach back to its start: messages in segments that \
                       were settled can't be told from those that live";
            self.findings.push(Finding { file: None, offset: None, why: why.into(), meaning: Meaning::Refuses });
        }
    }

    /// Begins with what the newest checkpoint says.
    fn restore(&mut self) {
        let Survey { checkpoints, segments, queues, findings, history_begins, .. } = self;
        let histories = checkpoints.first().into_iter().flat_map(|newest| &newest.histories);
        history_begins.extend(histories.map(|history| (history.queue, history.begin)));
        for raw in checkpoints.first().iter().flat_map(|newest| &newest.queues) {
            let queue = queues.entry(raw.number).or_default();
            queue.name = Some(raw.name.clone());
            queue.told = raw.states.iter().map(|(position, told)| (*position, told.state)).collect();
            for (id, live) in &raw.segments {
                let Some(segment) = segments.get(id) else { continue };
                match segment.first() {
                    Ok(first) => drop(queue.cold.insert(first, Cold { segment: *id, live: live.unfold() })),
                    Err(error) => findings.push(Finding::from_disk(&segment.name, &error, Meaning::Refuses)),
                }
            }
        }
        // A segment that was made from others has a higher number than they.
        for segment in segments.values().filter(|segment| segment.role == Role::Unknown) {
            if let Err(error) = take_all(segment, queues) {
                findings.push(Finding::from_disk(&segment.name, &error, Meaning::Refuses));
            }
        }
    }

    fn replay(&mut self) {
        let logs = std::mem::take(&mut self.logs);
        // The last frame that each file must have: the one before the next file, or the last one that was confirmed.
        let covered_lsn = self.newest().map_or(0, |newest| newest.header.lsn);
        let confirmed_lsn = self.confirmed_lsn.unwrap_or(0).max(covered_lsn);
        let next: Vec<u64> = logs.iter().skip(1).map(|log| log.header.first_lsn.saturating_sub(1)).collect();
        for (log, last_lsn) in logs.into_iter().zip(next.into_iter().chain([confirmed_lsn])) {
            let name = file::name(log.slot);
            let tally = match read_all(&log) {
                Ok(bytes) => self.replay_one(&log, &name, &bytes, last_lsn),
                Err(error) => {
                    self.findings.push(Finding::from_disk(&name, &error, Meaning::Refuses));
                    LogTally::default()
                }
            };
            self.log_tallies.push(tally);
            self.logs.push(log);
        }
    }

    fn replay_one(&mut self, log: &LogFile, name: &str, bytes: &[u8], last_lsn: u64) -> LogTally {
        let mut tally = LogTally { last_lsn: log.header.first_lsn.saturating_sub(1), ..LogTally::default() };
        for step in walk(log.header.seal(), bytes) {
            match step {
                Step::Frame { offset, frame } => {
                    tally.frames += 1;
                    tally.last_lsn = frame.lsn;
                    let payload_at = offset + frame::HEADER_BYTES;
                    for spanned in Records::new(frame.payload) {
                        match spanned {
                            Ok(spanned) => {
                                tally.records += 1;
                                let offset = payload_at as u32 + spanned.offset;
                                let file = FileId::log(log.header.epoch);
                                self.apply(&spanned.record, Location { file, offset, len: spanned.len });
                            }
                            Err((at, why)) => {
                                let offset = payload_at as u64 + u64::from(at);
                                self.findings.push(Finding::at(name, offset, why.to_string(), Meaning::Refuses));
                            }
                        }
                    }
                }
                Step::Gap { offset, next } => {
                    let why = format!("a frame is damaged; the next whole one is at offset {next}");
                    self.findings.push(Finding::at(name, offset as u64, why, Meaning::Refuses));
                }
                Step::End { offset, .. } if tally.last_lsn < last_lsn => {
                    let missing = tally.last_lsn + 1;
                    let why =
                        format!("frame {missing} is damaged or missing, and frames up to {last_lsn} were confirmed");
                    self.findings.push(Finding::at(name, offset as u64, why, Meaning::Refuses));
                }
                Step::End { offset, torn: true } => {
                    let why = "a frame that was never confirmed is torn; it counts for nothing";
                    self.findings.push(Finding::at(name, offset as u64, why, Meaning::Leftover));
                }
                Step::End { torn: false, .. } => {}
            }
        }
        if (bytes.len() as u64) < log.header.file_bytes {
            let why = "the rest of the file is missing";
            self.findings.push(Finding::at(name, bytes.len() as u64, why, Meaning::Refuses));
        }
        tally
    }

    fn apply(&mut self, record: &Record<'_>, location: Location) {
        let queues = &mut self.queues;
        match record {
            Record::Queue { number, name, .. } => queues.entry(*number).or_default().name = QueueName::new(name).ok(),
            Record::Next { .. } | Record::Time { .. } | Record::State(_) => {}
            Record::Put(put) => {
                let queue = queues.entry(put.place.queue).or_default();
                // A segment that nobody could vouch for may have been copied from here.
                if !queue.lives_cold(put.place.position) {
                    let in_log = InLog { location, state: put.place.state, bytes: put.message_bytes() };
                    queue.in_log.insert(put.place.position, in_log);
                }
            }
            Record::Update { queue: number, position, state } => {
                let queue = queues.entry(*number).or_default();
                if let Some(message) = queue.in_log.get_mut(position) {
                    message.state = *state;
                } else if queue.lives_cold(*position) {
                    queue.told.insert(*position, *state);
                }
            }
            Record::Purge { queue, below } => queues.entry(*queue).or_default().purge(*below),
            Record::Kept(_) => {}
            Record::Forget { queue, below } => {
                let begin = self.history_begins.entry(*queue).or_default();
                *begin = (*begin).max(*below);
            }
            Record::Remove { queue: number, position, .. } | Record::Keep { queue: number, position, .. } => {
                let queue = queues.entry(*number).or_default();
                if queue.in_log.remove(position).is_none() {
                    queue.clear_cold(*position);
                }
            }
        }
    }

    /// The log file with this epoch.
    pub(super) fn log(&self, id: FileId) -> Option<&LogFile> {
        self.logs.iter().find(|log| FileId::log(log.header.epoch) == id)
    }

    /// The state that opening gives a message: a running attempt counts.
    pub(super) fn state_of(&self, queue: QueueNumber, position: u64, state: DeliveryState) -> DeliveryState {
        let running = self.running.iter().filter(|one| one.queue == queue.0 && one.position == position);
        let attempts = running.map(|one| one.attempt).fold(state.attempts, u32::max);
        DeliveryState { attempts, ..state }
    }

    pub(super) fn disk(&self) -> &OverlayDisk {
        &self.disk
    }
}

impl SurveyedQueue {
    fn find_cold(&mut self, position: u64) -> Option<(u64, &mut Cold)> {
        // They only overlap if nobody could say which of them count.
        let most = if self.overlapping { usize::MAX } else { 1 };
        let mut before = self.cold.range_mut(..=position).rev().take(most);
        let (first, cold) = before.find(|(first, cold)| position - **first < cold.live.len())?;
        Some((position - first, cold))
    }

    fn lives_cold(&mut self, position: u64) -> bool {
        self.find_cold(position).is_some_and(|(at, cold)| cold.live.get(at))
    }

    fn purge(&mut self, below: u64) {
        self.in_log = self.in_log.split_off(&below);
        self.told = self.told.split_off(&below);
        for (first, cold) in self.cold.range_mut(..below) {
            for at in cold.live.clone().iter().take_while(|at| first + at < below) {
                cold.live.clear(at);
            }
        }
    }

    fn clear_cold(&mut self, position: u64) {
        if let Some((at, cold)) = self.find_cold(position) {
            cold.live.clear(at);
            self.told.remove(&position);
        }
    }
}

/// Takes all messages of a segment for living, in place of what an older segment has of them.
fn take_all(segment: &SegmentFile, queues: &mut BTreeMap<QueueNumber, SurveyedQueue>) -> Result<(), DiskError> {
    let mut found: Vec<(QueueNumber, u64)> = Vec::new();
    segment.each_record(|record| found.extend(record.put.ok().map(|put| (put.place.queue, put.place.position))))?;
    let (Some((number, first)), Some((_, last))) = (found.first().copied(), found.last().copied()) else {
        return Ok(());
    };
    if last - first >= SPAN_MAX {
        return Ok(());
    }
    let mut live = Bitmap::new(last - first + 1);
    let queue = queues.entry(number).or_default();
    queue.overlapping = true;
    for (_, position) in &found {
        queue.clear_cold(*position);
        live.set(position - first);
    }
    // What stands at the same place was made into this one.
    queue.cold.insert(first, Cold { segment: segment.id, live });
    Ok(())
}

/// All bytes of a log file that are there.
pub(super) fn read_all(log: &LogFile) -> Result<Vec<u8>, DiskError> {
    let mut bytes = vec![0; log.file.len()?.min(log.header.file_bytes) as usize];
    log.file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}
