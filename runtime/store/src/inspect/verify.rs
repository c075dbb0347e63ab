//! Is everything in a folder as it was written?

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Folder;
use super::finding::{Finding, Meaning};
use super::segments::{Role, SegmentFile, records};
use super::survey::{LogTally, Survey};
use crate::QueueName;
use crate::attempts::{self, WORDS_OF_A_SLOT};
use crate::cold::bitmap::Bitmap;
use crate::cold::checkpoint;
use crate::cold::segment::Segment;
use crate::disk::{Disk, DiskError, OverlayDisk};
use crate::error::OpenError;
use crate::kv::{self, file::StateFile};
use crate::open::{self, Layout};
use crate::record::QueueNumber;
use crate::wal::confirmed;
use crate::wal::{Preparation, file};

/// What is in a folder, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether the store opens, or what it says when it refuses to.
    pub opens: Result<(), String>,
    /// The files of the store, by name.
    pub files: Vec<FileReport>,
    /// The queues that were ever used, by name.
    pub queues: Vec<QueueReport>,
    /// What is wrong, and what was left unfinished.
    pub findings: Vec<Finding>,
}

/// A file of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReport {
    /// Its name in the data folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// What it is.
    pub kind: FileKind,
}

/// What a file of the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A log file that is replayed when the store opens.
    Log {
        /// One more for each file that is begun.
        epoch: u64,
        /// Whole frames in it.
        frames: u64,
        /// Records in these.
        records: u64,
    },
    /// A log file that is free: it was never begun, or what it held has been copied.
    Spare,
    /// One of the two checkpoints.
    Checkpoint {
        /// One more for each checkpoint.
        generation: u64,
    },
    /// Messages of one queue.
    Segment {
        /// The queue, if its name is known.
        queue: Option<QueueName>,
        /// Messages in it that can be read.
        messages: u64,
        /// Those that still live.
        live: u64,
    },
    /// Acknowledged messages of one queue.
    History {
        /// The queue, if its name is known.
        queue: Option<QueueName>,
        /// Messages in it.
        messages: u64,
    },
    /// Idempotency keys of messages that were sent.
    Run {
        /// How many.
        keys: u64,
    },
    /// The durable key-value state that the log does not hold any more.
    State {
        /// How many keys, if they can be counted.
        keys: Option<u64>,
    },
    /// The note of the newest frame that was confirmed.
    Confirmed {
        /// Its number, if there is a whole note.
        lsn: Option<u64>,
    },
    /// The table of attempts that are running.
    Attempts {
        /// How many were running when the last process ended.
        running: u64,
    },
    /// It can't be read.
    Damaged,
}

/// What a queue holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueReport {
    /// Its name, if that is known.
    pub name: Option<QueueName>,
    /// The store's number of it.
    pub number: u32,
    /// Messages that live.
    pub messages: u64,
    /// Those that can't be read.
    pub unreadable: u64,
    /// Bytes of bodies, keys, content types and attributes of those that can be read.
    pub bytes: u64,
}

impl Report {
    /// Whether nothing is damaged.
    pub fn is_healthy(&self) -> bool {
        self.opens.is_ok() && !self.findings.iter().any(Finding::is_damage)
    }
}

impl Folder {
    /// Reads every file and says what is wrong. The error is that the folder itself can't be read.
    pub fn verify(&self) -> Result<Report, DiskError> {
        let opened = try_open(self.disk.clone());
        let mut survey = Survey::new(self.disk.clone())?;
        let mut check = Check { findings: std::mem::take(&mut survey.findings), ..Check::default() };
        check.segments(&survey);
        check.runs(&survey);
        check.histories(&survey);
        check.checkpoint(&survey);
        check.state(&survey);
        let files = check.files(&survey)?;
        let queues = check.queues(&survey);
        let opens = opened.as_ref().map(drop).map_err(ToString::to_string);
        let refusal = opened.as_ref().err().map(|error| Finding::from_open(error, Meaning::Refuses));
        // What opening says comes first, and the survey need not say it again.
        let told = |finding: &Finding| {
            let same = |refusal: &Finding| refusal.file == finding.file && refusal.offset == finding.offset;
            refusal.as_ref().is_some_and(same)
        };
        check.findings.retain(|finding| !told(finding));
        let findings = refusal.clone().into_iter().chain(check.findings).collect();
        Ok(Report { opens, files, queues, findings })
    }
}

/// Opens the folder as far as that can fail, on a disk whose writes stay in memory.
fn try_open(disk: Arc<dyn Disk>) -> Result<(), OpenError> {
    let attempts_bytes = match disk.open(attempts::FILE_NAME) {
        Ok(file) => file.len()?,
        Err(_) => 0,
    };
    // Nothing is written that would fill files, so their sizes don't matter.
    let layout = Layout {
        file_bytes: 1 << 20,
        files_max: 1,
        cache_bytes_max: 0,
        attempt_slots: (attempts_bytes as usize / 8 / WORDS_OF_A_SLOT).max(1),
        chunk_bytes: 0,
        small_segment_bytes: 0,
        gap_max: 1,
        picked_max: 4,
        dedup_runs_max: 0,
        state_bytes_min: 0,
        handles_max: 1,
        checkpoint_bytes: 0,
        preparation: Preparation::Thread,
    };
    open::recover(Arc::new(OverlayDisk::new(disk)), &layout, 0).map(drop)
}

#[derive(Default)]
struct Check {
    findings: Vec<Finding>,
    /// Messages in each segment that can be read.
    readable: BTreeMap<u64, u64>,
    queues: BTreeMap<QueueNumber, Tally>,
    /// In the file of durable state.
    state_keys: Option<u64>,
}

#[derive(Default)]
struct Tally {
    bytes: u64,
    unreadable: u64,
    /// Bytes of the messages in segments that lived when the checkpoint was taken.
    bytes_at_checkpoint: u64,
}

impl Check {
    fn segments(&mut self, survey: &Survey) {
        let nothing = Bitmap::new(0);
        for file in survey.segments.values() {
            let cold = survey.queues.iter().find_map(|(number, queue)| {
                let (first, cold) = queue.cold.iter().find(|(_, cold)| cold.segment == file.id)?;
                Some((*number, *first, &cold.live))
            });
            let (number, first, live) = cold.unwrap_or((QueueNumber(0), 0, &nothing));
            let at_checkpoint = checkpointed(survey, file.id);
            let known = Known { number, first, live, at_checkpoint: at_checkpoint.as_ref() };
            let checked = match &file.opened {
                Ok(segment) => self.segment(file, segment, &known),
                Err(error) => self.damaged_segment(file, error, &known),
            };
            if let Err(error) = checked {
                self.findings.push(Finding::from_disk(&file.name, &error, Meaning::Refuses));
            }
        }
    }

    /// Reads all of a segment, as the store does.
    fn segment(&mut self, file: &SegmentFile, segment: &Segment, known: &Known<'_>) -> Result<(), DiskError> {
        // A power loss may tear a segment that was being made.
        let harmless = if file.role == Role::Leftover { Meaning::Leftover } else { Meaning::Recoverable };
        let mut messages = 0;
        let (mut delayed, mut keyed) = (Vec::new(), Vec::new());
        for id in segment.chunks() {
            let indexed = segment.indexed(id);
            let bytes = file.read(&indexed.bytes)?;
            let mut damage: Option<(u32, String)> = None;
            let mut at_start = true;
            for found in records(&bytes, indexed.bytes.start, Some(segment.queue)) {
                match found.put {
                    Ok(put) => {
                        messages += 1;
                        let place = &put.place;
                        let starts =
                            (place.position, place.enqueued_at_ms) == (indexed.position, indexed.enqueued_at_ms);
                        if at_start && !starts {
                            damage.get_or_insert((found.offset, "it is not the message that the index names".into()));
                        }
                        if place.state.due_at_ms != 0 {
                            delayed.push((place.position, place.state.due_at_ms));
                        }
                        keyed.extend(put.key.map(|_| place.position));
                        self.count(known, place.position, put.message_bytes());
                    }
                    Err(why) => drop(damage.get_or_insert((found.offset, why.to_string()))),
                }
                at_start = false;
            }
            // What the store finds in it is what counts.
            let loaded = segment.read_chunk(id)?;
            let lost =
                segment.chunk_span(id).filter(|position| known.lives(*position) && loaded.get(*position).is_none());
            let lost = lost.count() as u64;
            self.queues.entry(known.number).or_default().unreadable += lost;
            if lost > 0 {
                damage.get_or_insert((indexed.bytes.start, "messages that should be here are not".into()));
            }
            if let Some((offset, why)) = damage {
                let meaning = if lost > 0 { Meaning::Unreadable { messages: lost } } else { harmless };
                self.findings.push(Finding::at(&file.name, u64::from(offset), why, meaning));
            }
        }
        self.readable.insert(file.id, messages);
        let special = segment.special().ok();
        let agrees = special.is_some_and(|special| special.delayed == delayed && special.keyed == keyed);
        if messages == segment.messages && !agrees {
            let why = "the index does not list the delayed and keyed messages that are there";
            self.findings.push(Finding::of_file(&file.name, why, harmless));
        }
        Ok(())
    }

    /// Counts what is left of a segment that can't be opened.
    fn damaged_segment(&mut self, file: &SegmentFile, error: &OpenError, known: &Known<'_>) -> Result<(), DiskError> {
        let (mut messages, mut live) = (0, 0);
        file.each_record(|found| {
            if let Ok(put) = found.put {
                messages += 1;
                live += u64::from(known.lives(put.place.position));
                self.count(known, put.place.position, put.message_bytes());
            }
        })?;
        self.readable.insert(file.id, messages);
        self.queues.entry(known.number).or_default().unreadable += known.live.ones() - live;
        self.findings.push(Finding::from_open(error, file.role.meaning()));
        Ok(())
    }

    fn runs(&mut self, survey: &Survey) {
        for file in &survey.runs {
            let run = match &file.opened {
                Ok(run) => run,
                Err(error) => {
                    self.findings.push(Finding::from_open(error, file.role.meaning()));
                    continue;
                }
            };
            let damaged = (0..run.blocks()).filter_map(|block| run.read_block(block).err());
            let meaning = if file.role == Role::Needed { Meaning::SendsRefused } else { file.role.meaning() };
            self.findings.extend(damaged.map(|why| Finding::of_file(&file.name, why, meaning)));
        }
    }

    /// Reads all durable state that is in its file.
    fn state(&mut self, survey: &Survey) {
        let file = match StateFile::open(Arc::new(survey.disk().clone())) {
            Ok(file) => file,
            Err(error) => return self.findings.push(Finding::from_open(&error, Meaning::Refuses)),
        };
        match file.inspect() {
            Ok(keys) => self.state_keys = Some(keys),
            Err(wrong) => self.findings.extend(wrong.into_iter().map(|(offset, why)| Finding {
                file: Some(kv::file::NAME.into()),
                offset,
                why,
                meaning: Meaning::StateUnreadable,
            })),
        }
    }

    /// Reads all acknowledged messages. What was forgotten may be damaged.
    fn histories(&mut self, survey: &Survey) {
        for entry in &survey.histories {
            let file = match &entry.opened {
                Ok(file) => file,
                Err(error) => {
                    self.findings.push(Finding::from_open(error, entry.role.meaning()));
                    continue;
                }
            };
            let begin = survey.history_begins.get(&file.queue).copied().unwrap_or(0);
            let (mut kept, mut damaged) = (0, None);
            for chunk in 0..file.chunks() {
                let loaded = match file.read_chunk(chunk) {
                    Ok(loaded) => loaded,
                    Err(error) => {
                        self.findings.push(Finding::from_disk(&entry.name, &error, Meaning::Refuses));
                        continue;
                    }
                };
                for (offset, stored) in loaded.with_offsets() {
                    match stored {
                        Some(stored) => kept += u64::from(stored.kept.position >= begin),
                        None => drop(damaged.get_or_insert(file.chunk_bytes(chunk).start + offset)),
                    }
                }
            }
            if let Some(offset) = damaged {
                let lost = file.left_from(begin).0.saturating_sub(kept);
                let meaning = match entry.role {
                    Role::Needed if lost > 0 => Meaning::Unreadable { messages: lost },
                    Role::Leftover => Meaning::Leftover,
                    _ => Meaning::Recoverable,
                };
                let why = "an acknowledged message is damaged";
                self.findings.push(Finding::at(&entry.name, u64::from(offset), why, meaning));
            }
        }
    }

    fn count(&mut self, known: &Known<'_>, position: u64, bytes: u32) {
        let tally = self.queues.entry(known.number).or_default();
        if known.lives(position) {
            tally.bytes += u64::from(bytes);
        }
        let at = position.wrapping_sub(known.first);
        if known.at_checkpoint.is_some_and(|live| live.get(at)) {
            tally.bytes_at_checkpoint += u64::from(bytes);
        }
    }

    /// Does the newest checkpoint agree with the segments that it names?
    fn checkpoint(&mut self, survey: &Survey) {
        let Some(newest) = survey.checkpoints.first() else { return };
        for raw in &newest.queues {
            let segments: Vec<&Segment> =
                raw.segments.iter().filter_map(|(id, _)| survey.segments.get(id)?.opened.as_ref().ok()).collect();
            let all_readable = segments.len() == raw.segments.len()
                && segments.iter().all(|segment| self.readable.get(&segment.id) == Some(&segment.messages));
            if !all_readable {
                continue;
            }
            let tally = self.queues.entry(raw.number).or_default();
            let mut disagree = |why: String| {
                let why = format!("queue {}: {why}", raw.name);
                self.findings.push(Finding::of_file(newest.name, why, Meaning::Recoverable));
            };
            if tally.bytes_at_checkpoint != raw.bytes_cold {
                let (says, are) = (raw.bytes_cold, tally.bytes_at_checkpoint);
                disagree(format!("it counts {says} bytes of messages in segments, and there are {are}"));
            }
            if let Some(late) = segments.iter().find(|segment| segment.end > raw.next_position) {
                disagree(format!(
                    "its next position is {}, and segment {} goes to {}",
                    raw.next_position, late.id, late.end
                ));
            }
            let covered = |position: u64| segments.iter().any(|one| (one.first..one.end).contains(&position));
            if let Some((position, _)) = raw.states.iter().find(|(position, _)| !covered(*position)) {
                disagree(format!("it tells the state of position {position}, which no segment has"));
            }
        }
    }

    fn files(&self, survey: &Survey) -> Result<Vec<FileReport>, DiskError> {
        let mut files = Vec::new();
        for name in survey.disk().list()? {
            let Some(kind) = self.kind(survey, &name) else { continue };
            let bytes = survey.disk().open(&name)?.len()?;
            files.push(FileReport { name, bytes, kind });
        }
        Ok(files)
    }

    fn kind(&self, survey: &Survey, name: &str) -> Option<FileKind> {
        if let Some(slot) = file::slot(name) {
            let mut logs = survey.logs.iter().zip(&survey.log_tallies);
            if let Some((log, LogTally { frames, records, .. })) = logs.find(|(log, _)| log.slot == slot) {
                return Some(FileKind::Log { epoch: log.header.epoch, frames: *frames, records: *records });
            }
            let spare =
                survey.blank.iter().any(|blank| blank == name) || survey.given_up.iter().any(|log| log.slot == slot);
            return Some(if spare { FileKind::Spare } else { FileKind::Damaged });
        }
        if checkpoint::NAMES.contains(&name) {
            let found = survey.checkpoints.iter().find(|raw| raw.name == name);
            let damaged = self.findings.iter().any(|finding| finding.file.as_deref() == Some(name));
            return Some(match found {
                None if damaged => FileKind::Damaged,
                // Made ahead, and not written to yet.
                None => FileKind::Checkpoint { generation: 0 },
                Some(raw) => FileKind::Checkpoint { generation: raw.header.generation },
            });
        }
        if let Some(file) = survey.segments.values().find(|file| file.name == name) {
            let live = |queue: &super::survey::SurveyedQueue| {
                let cold = queue.cold.values().find(|cold| cold.segment == file.id)?;
                Some((queue.name.clone(), cold.live.ones()))
            };
            let found = survey.queues.values().find_map(live);
            let named = || survey.queues.get(&file.queue()?)?.name.clone();
            let (queue, live) = found.unwrap_or_else(|| (named(), 0));
            let messages = self.readable.get(&file.id).copied().unwrap_or(0);
            return Some(FileKind::Segment { queue, messages, live });
        }
        if let Some(file) = survey.runs.iter().find(|file| file.name == name) {
            return Some(match &file.opened {
                Ok(run) => FileKind::Run { keys: run.keys() },
                Err(_) => FileKind::Damaged,
            });
        }
        if let Some(file) = survey.histories.iter().find(|file| file.name == name) {
            return Some(match &file.opened {
                Ok(file) => FileKind::History {
                    queue: survey.queues.get(&file.queue).and_then(|queue| queue.name.clone()),
                    messages: file.messages,
                },
                Err(_) => FileKind::Damaged,
            });
        }
        match name {
            kv::file::NAME => Some(FileKind::State { keys: self.state_keys }),
            confirmed::FILE_NAME => Some(FileKind::Confirmed { lsn: survey.confirmed_lsn }),
            attempts::FILE_NAME => Some(FileKind::Attempts { running: survey.running.len() as u64 }),
            _ => None,
        }
    }

    fn queues(&self, survey: &Survey) -> Vec<QueueReport> {
        let mut queues: Vec<QueueReport> = survey
            .queues
            .iter()
            .map(|(number, queue)| {
                let tally = self.queues.get(number);
                let cold: u64 = queue.cold.values().map(|cold| cold.live.ones()).sum();
                let bytes: u64 = queue.in_log.values().map(|message| u64::from(message.bytes)).sum();
                QueueReport {
                    name: queue.name.clone(),
                    number: number.0,
                    messages: cold + queue.in_log.len() as u64,
                    unreadable: tally.map_or(0, |tally| tally.unreadable),
                    bytes: bytes + tally.map_or(0, |tally| tally.bytes),
                }
            })
            .collect();
        queues.sort_by(|one, other| one.name.cmp(&other.name));
        queues
    }
}

/// What is known of a segment beside what stands in it.
struct Known<'a> {
    number: QueueNumber,
    first: u64,
    live: &'a Bitmap,
    at_checkpoint: Option<&'a Bitmap>,
}

impl Known<'_> {
    fn lives(&self, position: u64) -> bool {
        self.live.get(position.wrapping_sub(self.first))
    }
}

/// What lived in a segment when the newest checkpoint was taken.
fn checkpointed(survey: &Survey, id: u64) -> Option<Bitmap> {
    let newest = survey.checkpoints.first()?;
    let mut named = newest.queues.iter().flat_map(|queue| &queue.segments);
    named.find(|(named, _)| *named == id).map(|(_, live)| live.unfold())
}
