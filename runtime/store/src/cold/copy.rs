//! Copies messages to new segments: what still lives in a full file of the log, or in old segments that are mostly dead.
//!
//! It runs beside the committer and looks at the queues frame by frame. A message that is settled after it was copied is
//! dead in the segment from the start; one whose state changes is known to the queues, which tell the checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::bitmap::Bitmap;
use super::frames::Frames;
use super::places::{Places, Written};
use super::segment::{self, Finished, Segment, Writer};
use crate::courtesy::give_way;
use crate::dedup::run::{self, Run, RunWriter};
use crate::dedup::{KeyHash, Seen};
use crate::disk::{Disk, DiskError};
use crate::history::copy::copy_history;
use crate::history::file::HistoryFile;
use crate::location::{FileId, Location};
use crate::queues::{Entry, Queues};
use crate::record::{self, DeliveryState, Put, PutPlace, QueueNumber, Record, Records};
use crate::shared::{Shared, Wanted};
use crate::wal::LogFile;

/// A segment that was made, and what the queues must know to take it in.
pub(crate) struct Copied {
    pub(crate) segment: Arc<Segment>,
    pub(crate) written: Places,
    /// The states that their records tell, of those that were retried. The others may be many, so they do without.
    retried: FxHashMap<u64, DeliveryState>,
}

impl Copied {
    /// Which positions it holds, from the segment's first on.
    pub(crate) fn positions(&self) -> Bitmap {
        let mut positions = Bitmap::new(self.segment.span());
        for written in self.written.iter() {
            positions.set(written.position - self.segment.first);
        }
        positions
    }

    /// The state that the record of a message tells.
    pub(crate) fn state(&self, written: &Written) -> DeliveryState {
        let Written { position, due_at_ms, .. } = *written;
        let state = self.retried.get(&position).copied();
        state.unwrap_or(DeliveryState { due_at_ms, ..DeliveryState::default() })
    }
}

/// Why nothing was copied.
#[derive(Debug)]
pub(crate) enum CopyError {
    Disk(DiskError),
    /// Bits have rotted since one of the files with these numbers was written, or it can't be read.
    Damaged {
        files: Vec<u64>,
    },
    /// The same of a log file: it says where. What lives behind that would be lost with the file.
    LogDamaged(String),
}

impl From<DiskError> for CopyError {
    fn from(error: DiskError) -> CopyError {
        CopyError::Disk(error)
    }
}

/// How segments are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Making {
    pub(crate) store_tag: u64,
    pub(crate) chunk_bytes: usize,
    /// See [`crate::open::Layout::gap_max`].
    pub(crate) gap_max: u64,
    /// The number of the next segment or run. Numbers are used up also if nothing comes of it.
    pub(crate) next_id: u64,
    /// See [`crate::open::Layout::picked_max`].
    pub(crate) picked_max: u64,
}

/// What a full file of the log came to.
pub(crate) struct CopiedFile {
    /// Messages that were picked out; `None` if the file was read from end to end.
    #[cfg(test)]
    pub(crate) picked: Option<u64>,
    pub(crate) segments: Vec<Copied>,
    pub(crate) run: Option<Arc<Run>>,
    pub(crate) history: Vec<Arc<HistoryFile>>,
}

/// A full file of the log that is to be copied.
pub(crate) struct FullFile {
    pub(crate) file: LogFile,
    /// Of its last frame.
    pub(crate) last_lsn: u64,
    /// Whether messages came to it with idempotency keys.
    pub(crate) has_keys: bool,
}

/// Copies what lives in a full file of the log, and what it keeps of histories.
///
/// Mostly that is little: what was acknowledged meanwhile needs no copy. Then the file is not read from end to end.
pub(crate) fn copy_log_file(
    disk: &dyn Disk,
    shared: &Shared,
    full: &FullFile,
    making: &mut Making,
) -> Result<CopiedFile, CopyError> {
    let log_file = &full.file;
    let few = match full.has_keys {
        true => None,
        false => shared.state().queues.in_log_file(FileId::log(log_file.header.epoch), making.picked_max),
    };
    #[cfg(test)]
    let picked = few.as_ref().map(|few| few.len() as u64);
    let mut copier = Copier::new(disk, making);
    let run = match few {
        Some(few) => pick(shared, log_file, &few, &mut copier).map(|()| None),
        None => read_all(shared, full, &mut copier).and_then(|keys| Ok(copier.write_run(&keys)?)),
    };
    let run = run?.map(Arc::new);
    let Copier { making, begun, .. } = &mut copier;
    let history = copy_history(disk, shared, log_file, making, begun)?;
    Ok(CopiedFile {
        #[cfg(test)]
        picked,
        segments: copier.finish()?,
        run,
        history,
    })
}

/// Copies a few messages of a log file, each by itself.
fn pick(shared: &Shared, log_file: &LogFile, few: &[Wanted], copier: &mut Copier<'_>) -> Result<(), CopyError> {
    let mut bytes = Vec::new();
    for wanted in few {
        let Location { offset, len, .. } = wanted.location;
        bytes.resize(len as usize, 0);
        log_file.file.read_at(&mut bytes, u64::from(offset))?;
        let put = shared.put(wanted, wanted.location, &bytes);
        let place = {
            let state = shared.state();
            match &put {
                Ok(put) => place_now(&state.queues, put.place, wanted.location),
                // It is no loss if nobody needs it any more.
                Err(_) if entry_at(&state.queues, wanted.queue, wanted.position, wanted.location).is_none() => None,
                Err(why) => {
                    let name = crate::wal::file::name(log_file.slot);
                    return Err(CopyError::LogDamaged(format!("{name} is damaged at offset {offset}: {why}")));
                }
            }
        };
        if let (Some(place), Ok(put)) = (place, put) {
            copier.put(&place, &put, &bytes)?;
        }
    }
    Ok(())
}

/// Copies what lives in a log file that is read from end to end. Answers the idempotency keys that are found.
fn read_all(shared: &Shared, full: &FullFile, copier: &mut Copier<'_>) -> Result<BTreeMap<KeyHash, Seen>, CopyError> {
    let log_file = &full.file;
    let file = FileId::log(log_file.header.epoch);
    let mut frames = Frames::new(log_file);
    let mut keys: BTreeMap<KeyHash, Seen> = BTreeMap::new();
    let mut lsn = log_file.header.first_lsn - 1;
    while let Some((payload_offset, frame)) = frames.next()? {
        lsn = frame.lsn;
        let mut live: Vec<(PutPlace, Put<'_>, &[u8])> = Vec::new();
        {
            let state = shared.state();
            for spanned in Records::of_whole_frame(frame.payload).flatten() {
                let Record::Put(put) = spanned.record else { continue };
                if let Some(key) = put.place.idempotency {
                    keys.insert(key, Seen { sequence: put.place.sequence, at_ms: put.place.enqueued_at_ms });
                }
                let offset = payload_offset + spanned.offset;
                let location = Location { file, offset, len: spanned.len };
                if let Some(place) = place_now(&state.queues, put.place, location) {
                    let start = spanned.offset as usize;
                    live.push((place, put, &frame.payload[start..start + spanned.len as usize]));
                }
            }
        }
        for (place, put, record) in live {
            copier.put(&place, &put, record)?;
        }
    }
    if lsn < full.last_lsn {
        let (name, offset) = (crate::wal::file::name(log_file.slot), frames.at());
        let why = format!("{name} is damaged at offset {offset}: frame {} has changed since it was written", lsn + 1);
        return Err(CopyError::LogDamaged(why));
    }
    Ok(keys)
}

/// A message's place with the state that it has now, if it still stands there. A lease is in memory only.
fn place_now(queues: &Queues, place: PutPlace, location: Location) -> Option<PutPlace> {
    let entry = entry_at(queues, place.queue, place.position, location)?;
    Some(PutPlace { state: entry.state(), holds_key: entry.holds_key(), idempotency: None, ..place })
}

/// What is known of a message, if it still stands there.
fn entry_at(queues: &Queues, queue: QueueNumber, position: u64, location: Location) -> Option<&Entry> {
    queues.entry(queue, position).filter(|entry| entry.location() == location)
}

/// Copies what lives in segments of one queue that stand side by side into one.
pub(crate) fn rewrite(
    disk: &dyn Disk,
    shared: &Shared,
    old: &[Arc<Segment>],
    making: &mut Making,
) -> Result<Vec<Copied>, CopyError> {
    let mut copier = Copier::new(disk, making);
    for segment in old {
        for id in segment.chunks() {
            give_way();
            let chunk = segment.read_chunk(id).map_err(|error| match error.shortage() {
                Some(_) => CopyError::Disk(error),
                // The segment is no worse off if it stays.
                None => CopyError::Damaged { files: vec![segment.id] },
            })?;
            let span = segment.chunk_span(id);
            let live: Vec<u64> = {
                let state = shared.state();
                span.filter(|position| state.queues.lives_in_segment(segment.queue, *position)).collect()
            };
            for position in live {
                let Some(message) = chunk.get(position) else {
                    return Err(CopyError::Damaged { files: vec![segment.id] });
                };
                let bytes = chunk.record(&message);
                let Ok(Record::Put(put)) = record::decode(&bytes) else { unreachable!("it was decoded before") };
                copier.put(&put.place, &put, &bytes)?;
            }
        }
    }
    copier.finish()
}

struct Copier<'a> {
    disk: &'a dyn Disk,
    making: &'a mut Making,
    writers: BTreeMap<QueueNumber, Writer>,
    retried: BTreeMap<QueueNumber, FxHashMap<u64, DeliveryState>>,
    copied: Vec<Copied>,
    /// Files that were begun, until all of them are whole.
    begun: Vec<String>,
}

impl<'a> Copier<'a> {
    fn new(disk: &'a dyn Disk, making: &'a mut Making) -> Copier<'a> {
        Copier {
            disk,
            making,
            writers: BTreeMap::new(),
            retried: BTreeMap::new(),
            copied: Vec::new(),
            begun: Vec::new(),
        }
    }

    /// `record`: what `put` was decoded from.
    fn put(&mut self, place: &PutPlace, put: &Put<'_>, record: &[u8]) -> Result<(), DiskError> {
        /// What another state may add to a record.
        const STATE_BYTES: usize = 32;
        let queue = place.queue;
        let record_bytes = record.len() + STATE_BYTES;
        let takes = |writer: &Writer| writer.takes(place.position, record_bytes, self.making.gap_max);
        if self.writers.get(&queue).is_some_and(|writer| !takes(writer)) {
            self.finish_one(queue)?;
        }
        if !self.writers.contains_key(&queue) {
            let id = self.making.next_id;
            self.making.next_id += 1;
            self.writers.insert(queue, Writer::new(self.disk, id, queue, self.making.chunk_bytes)?);
            self.begun.push(segment::name(id));
        }
        if place.state != (DeliveryState { due_at_ms: place.state.due_at_ms, ..DeliveryState::default() }) {
            self.retried.entry(queue).or_default().insert(place.position, place.state);
        }
        self.writers.get_mut(&queue).expect("just put there").put(place, put, record)
    }

    fn finish_one(&mut self, queue: QueueNumber) -> Result<(), DiskError> {
        let Some(writer) = self.writers.remove(&queue) else { return Ok(()) };
        let Finished { segment, written } = writer.finish(self.disk, self.making.store_tag)?;
        let retried = self.retried.remove(&queue).unwrap_or_default();
        self.copied.push(Copied { segment: Arc::new(segment), written, retried });
        Ok(())
    }

    /// A run of the idempotency keys that were found.
    fn write_run(&mut self, keys: &BTreeMap<KeyHash, Seen>) -> Result<Option<Run>, DiskError> {
        if keys.is_empty() {
            return Ok(None);
        }
        let id = self.making.next_id;
        self.making.next_id += 1;
        self.begun.push(run::name(id));
        let mut writer = RunWriter::new(self.disk, id, keys.len() as u64)?;
        keys.iter().try_for_each(|(key, seen)| writer.put(*key, *seen))?;
        writer.finish(self.making.store_tag).map(Some)
    }

    /// All segments are durable when this returns.
    fn finish(mut self) -> Result<Vec<Copied>, CopyError> {
        let queues: Vec<QueueNumber> = self.writers.keys().copied().collect();
        queues.into_iter().try_for_each(|queue| self.finish_one(queue))?;
        if !self.begun.is_empty() {
            self.disk.sync_folder()?;
        }
        self.begun.clear();
        Ok(std::mem::take(&mut self.copied))
    }
}

impl Drop for Copier<'_> {
    /// A copy that does not come to its end leaves nothing behind, if the disk lets go of it. What stays is removed when the
    /// store is opened.
    fn drop(&mut self) {
        for name in &self.begun {
            let _ = self.disk.remove(name);
        }
    }
}
