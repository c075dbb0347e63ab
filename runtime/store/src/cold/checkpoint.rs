//! Checkpoints: what the log before a point came to, so that it need not be kept (`FORMAT.md`, "Checkpoints").
//!
//! Two files are written in turn, each in place: one that was torn by a power loss has a wrong checksum, and the other
//! counts. A checkpoint is derived, never evidence: whatever it says was in the log or in another checkpoint before. Log
//! files and segments go only after two checkpoints in a row did without them, so that either of the two will do.

use std::io;
use std::sync::Arc;

use super::bitmap::Bitmap;
use super::segment::{self, SPAN_MAX, Segment};
use crate::QueueName;
use crate::dedup::run::{self, Run};
use crate::disk::{Disk, DiskError, File};
use crate::error::OpenError;
use crate::header::{HEADER_BYTES, Kind, NUMBER_MAX};
use crate::history::HistorySnapshot;
use crate::history::file::{self as history_file, HistoryFile};
use crate::record::{DeliveryState, Input, Malformed, QueueNumber, put_bytes, put_number};

const KIND: Kind = Kind { magic: b"LNCKCKP\n", version: 1, what: "checkpoint" };
pub(crate) const NAMES: [&str; 2] = ["checkpoint-1", "checkpoint-2"];

const ALL: u8 = 0;
const WORDS: u8 = 1;
const LISTED: u8 = 2;

/// A section after the runs: the histories. It is only there if there are any.
const HISTORIES: u8 = 1;

/// What a checkpoint says.
pub(crate) struct Checkpoint {
    pub(crate) header: Header,
    pub(crate) queues: Vec<QueueSnapshot>,
    /// Oldest first.
    pub(crate) runs: Vec<Arc<Run>>,
    pub(crate) histories: Vec<HistorySnapshot>,
}

/// What a checkpoint says of a queue.
pub(crate) struct QueueSnapshot {
    pub(crate) number: QueueNumber,
    pub(crate) name: QueueName,
    pub(crate) next_position: u64,
    pub(crate) bytes_cold: u64,
    pub(crate) segments: Vec<(Arc<Segment>, Bitmap)>,
    /// Of messages in segments that changed since they were copied, by position.
    pub(crate) states: Vec<(u64, ToldState)>,
}

/// The state of a message in a segment, as the log or a checkpoint tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ToldState {
    pub(crate) state: DeliveryState,
    /// If it is delayed, later messages of its key wait for it.
    pub(crate) holds_key: bool,
}

/// The two files, as they were found.
pub(crate) struct Found {
    /// The newest whole one.
    pub(crate) newest: Option<Checkpoint>,
    /// Files that the other one names.
    pub(crate) other_files: Vec<String>,
    /// Epoch of the first log file that the other one needs. None if it is damaged or missing.
    pub(crate) other_epoch: Option<u64>,
    /// What is wrong with one of them, if something is.
    pub(crate) damage: Option<OpenError>,
    /// Those that the disk can't read. See [`remove`].
    pub(crate) unreadable: Vec<&'static str>,
}

/// The name of the file for a generation.
fn name(generation: u64) -> &'static str {
    NAMES[((generation + 1) % 2) as usize]
}

/// Makes both files if they are not there, with room for so many bytes: so they can be written on a full disk. On one that
/// is full already they get what there is.
pub(crate) fn reserve(disk: &dyn Disk, bytes: u64) -> Result<(), DiskError> {
    let names = disk.list()?;
    // The second one's name must not wait for the first one's room.
    let mut files = Vec::new();
    for name in NAMES {
        let is_there = names.iter().any(|there| there == name);
        files.extend(unless_full(if is_there { disk.open(name) } else { create(disk, name) })?);
    }
    for file in files {
        let len = file.len()?;
        if len < bytes {
            unless_full(file.write_at(&vec![0; (bytes - len) as usize], len))?;
            // Some file systems look for the room as late as this.
            unless_full(file.sync())?;
        }
    }
    Ok(())
}

/// Makes one of the files. Its name is durable.
fn create(disk: &dyn Disk, name: &str) -> Result<Arc<dyn File>, DiskError> {
    let file = disk.create(name)?;
    disk.sync_folder()?;
    Ok(file)
}

/// None if the disk has no room for it.
fn unless_full<T>(done: Result<T, DiskError>) -> Result<Option<T>, DiskError> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.is_full() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads both files.
pub(crate) fn read(disk: &dyn Disk) -> Result<Found, OpenError> {
    let names = disk.list()?;
    let mut found =
        Found { newest: None, other_files: Vec::new(), other_epoch: None, damage: None, unreadable: Vec::new() };
    let mut whole = Vec::new();
    for name in NAMES.into_iter().filter(|name| names.iter().any(|there| there == name)) {
        match read_one(disk, name) {
            Ok(Some(raw)) => whole.push(raw),
            Ok(None) => {}
            Err(error @ OpenError::Damaged { .. }) => found.damage = Some(error),
            Err(OpenError::Disk(error)) if error.is_unreadable() => {
                found.unreadable.push(name);
                found.damage = Some(error.into());
            }
            Err(error) => return Err(error),
        }
    }
    whole.sort_by_key(|raw| raw.header.generation);
    let newest = whole.pop();
    if let Some(newest) = &newest {
        // What is trusted from here on must also survive a power loss that comes now. If the last process ended because a
        // sync had failed, the system may take its pages for clean: it is written again.
        newest.file.write_at(&newest.bytes, 0)?;
        newest.file.sync()?;
    }
    found.other_epoch = match (whole.last(), &newest) {
        (Some(other), _) => Some(other.header.start_epoch),
        // As long as there was only one, the log from its start on stands in for the other.
        (None, Some(first)) if first.header.generation == 1 => Some(1),
        (None, _) => None,
    };
    found.other_files = whole.iter().flat_map(RawCheckpoint::files).collect();
    found.newest = newest.map(|raw| raw.open(disk)).transpose()?;
    Ok(found)
}

/// Removes those that the disk can't read, so that they are made anew elsewhere. To write over one is no way: a part of a
/// page is written by reading the rest of it first.
///
/// It must come before anything goes that only they name: the next process may be able to read them again.
pub(crate) fn remove(disk: &dyn Disk, unreadable: &[&str]) -> Result<(), DiskError> {
    if unreadable.is_empty() {
        return Ok(());
    }
    unreadable.iter().try_for_each(|name| disk.remove(name))?;
    disk.sync_folder()
}

/// The numbers in a checkpoint's header (`FORMAT.md`, "Checkpoints").
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) store_tag: u64,
    pub(crate) generation: u64,
    pub(crate) lsn: u64,
    pub(crate) start_epoch: u64,
    pub(crate) next_sequence: u64,
    pub(crate) next_segment: u64,
    /// The frame up to which the file of durable state is complete.
    pub(crate) state_lsn: u64,
    /// When it was taken.
    pub(crate) now_ms: u64,
}

/// A whole checkpoint whose segments were not opened yet.
pub(crate) struct RawCheckpoint {
    pub(crate) name: &'static str,
    file: Arc<dyn File>,
    bytes: Vec<u8>,
    pub(crate) header: Header,
    pub(crate) queues: Vec<RawQueue>,
    pub(crate) runs: Vec<u64>,
    pub(crate) histories: Vec<RawHistory>,
}

/// What a checkpoint says of a history whose files were not opened yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RawHistory {
    pub(crate) queue: QueueNumber,
    pub(crate) window_ms: Option<u64>,
    pub(crate) begin: u64,
    pub(crate) next: u64,
    pub(crate) given_up: u64,
    pub(crate) files: Vec<u64>,
}

pub(crate) struct RawQueue {
    pub(crate) number: QueueNumber,
    pub(crate) name: QueueName,
    pub(crate) next_position: u64,
    pub(crate) bytes_cold: u64,
    pub(crate) segments: Vec<(u64, RawBitmap)>,
    pub(crate) states: Vec<(u64, ToldState)>,
}

/// A bitmap as it stands in the file. A few bytes can stand for many, so it is only unfolded beside its segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RawBitmap {
    pub(crate) len: u64,
    bits: RawBits,
}

#[derive(Debug, PartialEq, Eq)]
enum RawBits {
    All,
    Words(Bitmap),
    Listed(Vec<u64>),
}

impl RawBitmap {
    pub(crate) fn ones(&self) -> u64 {
        match &self.bits {
            RawBits::All => self.len,
            RawBits::Words(bitmap) => bitmap.ones(),
            RawBits::Listed(listed) => listed.len() as u64,
        }
    }

    pub(crate) fn unfold(&self) -> Bitmap {
        match &self.bits {
            RawBits::All => Bitmap::full(self.len),
            RawBits::Words(bitmap) => bitmap.clone(),
            RawBits::Listed(listed) => {
                let mut bitmap = Bitmap::new(self.len);
                for at in listed {
                    bitmap.set(*at);
                }
                bitmap
            }
        }
    }
}

/// Reads one of the two files; none if it was never written.
pub(crate) fn read_one(disk: &dyn Disk, name: &'static str) -> Result<Option<RawCheckpoint>, OpenError> {
    let damaged = |offset: u64, why: &str| OpenError::Damaged { file: name.into(), offset, why: why.into() };
    let file = disk.open(name)?;
    let Some(numbers) = KIND.read(name, &*file)? else { return Ok(None) };
    let [store_tag, generation, lsn, start_epoch, next_sequence, next_segment, body_bytes, body_crc, now_ms, state_lsn] =
        numbers;
    let len = file.len()?;
    if body_bytes > len - HEADER_BYTES as u64 {
        return Err(damaged(len, "the rest of the file is missing"));
    }
    let mut bytes = vec![0; HEADER_BYTES + body_bytes as usize];
    file.read_at(&mut bytes, 0)?;
    let body = &bytes[HEADER_BYTES..];
    if u64::from(crc32c::crc32c(body)) != body_crc {
        return Err(damaged(HEADER_BYTES as u64, "it is damaged: its checksum does not match"));
    }
    if numbers[1..6].iter().chain([&state_lsn]).any(|number| *number > NUMBER_MAX) {
        return Err(damaged(16, "the header makes no sense"));
    }
    let header = Header { store_tag, generation, lsn, start_epoch, next_sequence, next_segment, state_lsn, now_ms };
    match decode_body(body) {
        Ok(Body { queues, runs, histories }) => {
            Ok(Some(RawCheckpoint { name, file, bytes, header, queues, runs, histories }))
        }
        Err(why) => Err(damaged(HEADER_BYTES as u64, &why.to_string())),
    }
}

impl RawCheckpoint {
    /// Names of the segments, runs and history files that it needs.
    pub(crate) fn files(&self) -> impl Iterator<Item = String> {
        let segments = self.queues.iter().flat_map(|queue| queue.segments.iter().map(|(id, _)| segment::name(*id)));
        let histories = self.histories.iter().flat_map(|history| &history.files);
        segments.chain(self.runs.iter().map(|id| run::name(*id))).chain(histories.map(|id| history_file::name(*id)))
    }

    fn open(self, disk: &dyn Disk) -> Result<Checkpoint, OpenError> {
        let store_tag = self.header.store_tag;
        let mut queues = Vec::with_capacity(self.queues.len());
        for RawQueue { number, name, next_position, bytes_cold, segments, states } in self.queues {
            let mut opened = Vec::with_capacity(segments.len());
            let mut end = 0;
            for (id, live) in segments {
                let segment = Segment::open(disk, id, store_tag)?;
                // They stand in the order of their positions, and don't overlap.
                if segment.span() != live.len || segment.queue != number || segment.first < end {
                    let why = format!("it does not go with segment {id}");
                    return Err(OpenError::Damaged { file: self.name.into(), offset: HEADER_BYTES as u64, why });
                }
                end = segment.end;
                opened.push((Arc::new(segment), live.unfold()));
            }
            queues.push(QueueSnapshot { number, name, next_position, bytes_cold, segments: opened, states });
        }
        let runs = self.runs.into_iter().map(|id| Ok(Arc::new(Run::open(disk, id, store_tag)?)));
        let runs = runs.collect::<Result<_, OpenError>>()?;
        let mut histories = Vec::with_capacity(self.histories.len());
        for RawHistory { queue, window_ms, begin, next, given_up, files } in self.histories {
            let mut opened = Vec::with_capacity(files.len());
            let mut end = 0;
            for id in files {
                let file = HistoryFile::open(disk, id, store_tag)?;
                if file.queue != queue || file.first < end || file.end > next {
                    let why = format!("it does not go with history file {id}");
                    return Err(OpenError::Damaged { file: self.name.into(), offset: HEADER_BYTES as u64, why });
                }
                end = file.end;
                opened.push(Arc::new(file));
            }
            histories.push(HistorySnapshot { queue, window_ms, begin, next, given_up, files: opened });
        }
        Ok(Checkpoint { header: self.header, queues, runs, histories })
    }
}

/// What stands after the header.
struct Body {
    queues: Vec<RawQueue>,
    runs: Vec<u64>,
    histories: Vec<RawHistory>,
}

fn decode_histories(input: &mut Input<'_>) -> Result<Vec<RawHistory>, Malformed> {
    let mut histories: Vec<RawHistory> = Vec::new();
    for _ in 0..input.number()? {
        let queue = input.queue_number()?;
        let window_ms = match input.byte()? {
            0 => None,
            1 => Some(input.number()?),
            other => return Err(Malformed::Flags(other)),
        };
        let (begin, next, given_up) = (input.number()?, input.number()?, input.number()?);
        if next.max(begin).max(given_up) > NUMBER_MAX || histories.last().is_some_and(|before| before.queue >= queue) {
            return Err(Malformed::Number);
        }
        let mut files = Vec::new();
        for _ in 0..input.number()? {
            files.push(file_number(input)?);
        }
        histories.push(RawHistory { queue, window_ms, begin, next, given_up, files });
    }
    Ok(histories)
}

fn encode_histories(out: &mut Vec<u8>, histories: &[HistorySnapshot]) {
    out.push(HISTORIES);
    put_number(out, histories.len() as u64);
    for HistorySnapshot { queue, window_ms, begin, next, given_up, files } in histories {
        put_number(out, u64::from(queue.0));
        out.push(u8::from(window_ms.is_some()));
        window_ms.iter().for_each(|window_ms| put_number(out, *window_ms));
        put_number(out, *begin);
        put_number(out, *next);
        put_number(out, *given_up);
        put_number(out, files.len() as u64);
        files.iter().for_each(|file| put_number(out, file.id));
    }
}

fn decode_body(body: &[u8]) -> Result<Body, Malformed> {
    let mut input = Input::new(body);
    let mut queues = Vec::new();
    for _ in 0..input.number()? {
        let number = input.queue_number()?;
        if queues.last().is_some_and(|before: &RawQueue| before.number >= number) {
            return Err(Malformed::Number);
        }
        let name = QueueName::new(input.text()?).map_err(|_| Malformed::Text)?;
        let (next_position, bytes_cold) = (input.number()?, input.number()?);
        if next_position.max(bytes_cold) > NUMBER_MAX {
            return Err(Malformed::Number);
        }
        let mut segments = Vec::new();
        for _ in 0..input.number()? {
            segments.push((file_number(&mut input)?, decode_bitmap(&mut input)?));
        }
        let mut states = Vec::new();
        for _ in 0..input.number()? {
            let (position, state) = (input.number()?, input.state()?);
            let holds_key = match input.byte()? {
                0 => false,
                1 => true,
                other => return Err(Malformed::Flags(other)),
            };
            states.push((position, ToldState { state, holds_key }));
        }
        queues.push(RawQueue { number, name, next_position, bytes_cold, segments, states });
    }
    let mut runs = Vec::new();
    for _ in 0..input.number()? {
        runs.push(file_number(&mut input)?);
    }
    let mut histories = Vec::new();
    while !input.is_empty() {
        match input.byte()? {
            HISTORIES => histories = decode_histories(&mut input)?,
            other => return Err(Malformed::Kind(other)),
        }
    }
    Ok(Body { queues, runs, histories })
}

/// The number in a file's name.
fn file_number(input: &mut Input<'_>) -> Result<u64, Malformed> {
    input.number().and_then(|number| if number < NUMBER_MAX { Ok(number) } else { Err(Malformed::Number) })
}

fn decode_bitmap(input: &mut Input<'_>) -> Result<RawBitmap, Malformed> {
    let len = input.number()?;
    if len > SPAN_MAX {
        return Err(Malformed::Number);
    }
    let bits = match input.byte()? {
        ALL => RawBits::All,
        WORDS => {
            let words = (0..len.div_ceil(64)).map(|_| input.fixed()).collect::<Result<_, _>>()?;
            RawBits::Words(Bitmap::from_words(len, words).ok_or(Malformed::Number)?)
        }
        LISTED => {
            let mut listed: Vec<u64> = Vec::new();
            for _ in 0..input.number()? {
                let step = input.number()?;
                let at = match listed.last() {
                    None => Some(step),
                    Some(before) => before.checked_add(step).filter(|_| step > 0),
                };
                listed.push(at.filter(|at| *at < len).ok_or(Malformed::Number)?);
            }
            RawBits::Listed(listed)
        }
        other => return Err(Malformed::Kind(other)),
    };
    Ok(RawBitmap { len, bits })
}

fn encode_bitmap(out: &mut Vec<u8>, bitmap: &Bitmap) {
    put_number(out, bitmap.len());
    if bitmap.ones() == bitmap.len() {
        out.push(ALL);
    } else if bitmap.ones() < bitmap.len() / 16 {
        out.push(LISTED);
        put_number(out, bitmap.ones());
        let mut before = 0;
        for at in bitmap.iter() {
            put_number(out, at - before);
            before = at;
        }
    } else {
        out.push(WORDS);
        bitmap.words().iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    }
}

impl Checkpoint {
    /// Writes it over the older of the two and syncs it.
    pub(crate) fn write(&self, disk: &dyn Disk) -> Result<(), DiskError> {
        let bytes = self.encode();
        let name = name(self.header.generation);
        let file = match disk.open(name) {
            // There was no room for it when the store was opened.
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => create(disk, name)?,
            opened => opened?,
        };
        let len = file.len()?;
        if len < bytes.len() as u64 {
            // Room for it to grow, so that a later one fits on a full disk; if there is none, for this one.
            let zeros = vec![0; bytes.len() * 2 - len as usize];
            match file.write_at(&zeros, len) {
                // What stands there stays whole until there is room for all of this one.
                Err(error) if !error.is_full() || file.len()? < bytes.len() as u64 => return Err(error),
                _ => {}
            }
        }
        file.write_at(&bytes, 0)?;
        file.sync()
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES];
        put_number(&mut out, self.queues.len() as u64);
        for queue in &self.queues {
            put_number(&mut out, u64::from(queue.number.0));
            put_bytes(&mut out, queue.name.as_str().as_bytes());
            put_number(&mut out, queue.next_position);
            put_number(&mut out, queue.bytes_cold);
            put_number(&mut out, queue.segments.len() as u64);
            for (segment, live) in &queue.segments {
                put_number(&mut out, segment.id);
                encode_bitmap(&mut out, live);
            }
            put_number(&mut out, queue.states.len() as u64);
            for (position, ToldState { state, holds_key }) in &queue.states {
                put_number(&mut out, *position);
                state.encode(&mut out);
                out.push(u8::from(*holds_key));
            }
        }
        put_number(&mut out, self.runs.len() as u64);
        self.runs.iter().for_each(|run| put_number(&mut out, run.id()));
        if !self.histories.is_empty() {
            encode_histories(&mut out, &self.histories);
        }
        let body = &out[HEADER_BYTES..];
        let (body_bytes, body_crc) = (body.len() as u64, crc32c::crc32c(body));
        let Header { store_tag, generation, lsn, start_epoch, next_sequence, next_segment, state_lsn, now_ms } =
            self.header;
        let body_crc = u64::from(body_crc);
        let header = KIND.encode(&[
            store_tag,
            generation,
            lsn,
            start_epoch,
            next_sequence,
            next_segment,
            body_bytes,
            body_crc,
            now_ms,
            state_lsn,
        ]);
        out[..HEADER_BYTES].copy_from_slice(&header);
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bitmaps_read_back(len in 1u64..3000, share in 0u32..=100, seed: u64) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut bitmap = Bitmap::new(len);
            for at in 0..len {
                if random.u32(0..100) < share {
                    bitmap.set(at);
                }
            }
            let mut bytes = Vec::new();
            encode_bitmap(&mut bytes, &bitmap);
            let mut input = Input::new(&bytes);
            let raw = decode_bitmap(&mut input).unwrap();
            prop_assert_eq!(raw.ones(), bitmap.ones());
            prop_assert_eq!(raw.unfold(), bitmap);
            prop_assert!(input.is_empty());
        }

        #[test]
        fn a_number_that_no_file_can_have_is_refused(number in NUMBER_MAX - 2..NUMBER_MAX + 3) {
            let body = |segments: &[u64], runs: &[u64]| {
                let mut out = vec![1, 0];
                put_bytes(&mut out, b"a");
                out.extend([0, 0, segments.len() as u8]);
                for segment in segments {
                    put_number(&mut out, *segment);
                    out.extend([1, ALL]);
                }
                out.extend([0, runs.len() as u8]);
                runs.iter().for_each(|run| put_number(&mut out, *run));
                out
            };
            let is_there = number < NUMBER_MAX;
            prop_assert!(decode_body(&body(&[1], &[2])).is_ok());
            prop_assert_eq!(decode_body(&body(&[number], &[2])).is_ok(), is_there);
            prop_assert_eq!(decode_body(&body(&[1], &[number])).is_ok(), is_there);
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_body(&bytes);
        }
    }
}
