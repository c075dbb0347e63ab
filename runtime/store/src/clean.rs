//! Keeps the ring of log files short of full: frees the oldest file, after what still lives in it was copied forward.
//!
//! Until there are cold segments to move to, "forward" is the end of the log. A file is read frame by frame, the
//! messages whose puts still stand there are written again with the state that they have now, in frames of their own, and
//! after the sync the queues are told the new places. A crash in between leaves two copies of a message; the later one is
//! what counts. Updates and removals need no copy: they are about messages that stand in the same file or a later one.

use std::sync::Arc;

use crate::engine::Engine;
use crate::queues::{Entry, Location, Phase};
use crate::record::{self, PutPlace, QueueNumber, Record, Records};
use crate::wal::{LogFile, file, frame};

/// Files hold this many steps: what one step copies stands between two groups, so it is what a sender may wait for.
const STEPS_OF_A_FILE: u64 = 64;

/// What one step reads at most, in steps' worth of copying: a file full of garbage goes quickly.
const READ_FACTOR: u64 = 8;

/// How far the oldest file has been cleaned.
#[derive(Default)]
pub(crate) struct Cleaner {
    work: Option<Work>,
}

struct Work {
    epoch: u64,
    next_frame: u64,
}

/// A message that was copied.
struct Copied {
    queue: QueueNumber,
    position: u64,
    from: Location,
    offset_in_payload: u32,
    len: u32,
}

impl Cleaner {
    /// One step on the oldest file; at its end the file is free. Answers whether there was anything to do.
    pub(crate) fn step(&mut self, engine: &mut Engine) -> Result<bool, Arc<str>> {
        let Some(oldest) = engine.wal.oldest().cloned() else { return Ok(false) };
        let epoch = oldest.header.epoch;
        let work = match &mut self.work {
            Some(work) if work.epoch == epoch => work,
            other => other.insert(Work { epoch, next_frame: file::HEADER_BYTES as u64 }),
        };
        if engine.shared.state().queues.live_in_file(epoch) > 0 && copy_some(engine, &oldest, work)? {
            return Ok(true);
        }
        self.work = None;
        // What is still said to live there could not be found: bits have rotted since the file was written.
        let lost = engine.shared.state().queues.live_in_file(epoch);
        if lost > 0 {
            let name = file::name(oldest.slot);
            return Err(engine.stop(&format!("{name} is damaged: {lost} messages that stand in it can't be read")));
        }
        engine.wal.free_oldest().map_err(|error| engine.stop(&error.to_string()))?;
        Ok(true)
    }
}

/// Copies what lives in the next frames. Answers whether frames are left.
fn copy_some(engine: &mut Engine, oldest: &LogFile, work: &mut Work) -> Result<bool, Arc<str>> {
    let header = &oldest.header;
    let step_bytes = header.file_bytes / STEPS_OF_A_FILE;
    let mut window_bytes = step_bytes * READ_FACTOR;
    let mut copied = Vec::new();
    loop {
        let window_bytes_now = window_bytes.min(header.file_bytes - work.next_frame);
        let mut window = vec![0; window_bytes_now as usize];
        oldest.file.read_at(&mut window, work.next_frame).map_err(|error| engine.stop(&error.to_string()))?;

        let start = work.next_frame;
        let mut at = 0;
        let mut copied_bytes = 0;
        engine.begin_frame();
        while copied_bytes < step_bytes
            && let Some(found) = header.seal().read_in(&window, at, work.next_frame as u32)
        {
            let payload_offset = work.next_frame as u32 + frame::HEADER_BYTES as u32;
            copied_bytes += copy_live(engine, work.epoch, payload_offset, found.payload, &mut copied);
            at += frame::frame_bytes(found.payload.len());
            work.next_frame = start + at as u64;
        }
        if at > 0 {
            write(engine, &copied)?;
            return Ok(true);
        }
        if start + window_bytes_now == header.file_bytes {
            return Ok(false);
        }
        // The next frame may be larger than the window.
        window_bytes *= 4;
    }
}

/// Copies the puts of one frame that are still where their messages live. Answers how many bytes.
fn copy_live(engine: &mut Engine, epoch: u64, payload_offset: u32, payload: &[u8], copied: &mut Vec<Copied>) -> u64 {
    let before = engine.frame().len();
    for spanned in Records::new(payload).flatten() {
        let Record::Put(put) = spanned.record else { continue };
        let from = Location { file: epoch, offset: payload_offset + spanned.offset, len: spanned.len };
        let PutPlace { queue, position, .. } = put.place;
        let place = {
            let state = engine.shared.state();
            let entry = state.queues.entry(queue, position).filter(|entry| entry.location == from);
            entry.map(|entry| place_now(put.place, entry))
        };
        if let Some(place) = place {
            let start = engine.frame().len();
            record::encode_put(engine.frame(), &place, &put.message());
            copied.push(Copied {
                queue,
                position,
                from,
                offset_in_payload: (start - frame::HEADER_BYTES) as u32,
                len: (engine.frame().len() - start) as u32,
            });
        }
    }
    (engine.frame().len() - before) as u64
}

/// Writes what was copied and tells the queues where it is.
fn write(engine: &mut Engine, copied: &[Copied]) -> Result<(), Arc<str>> {
    if let Some(place) = engine.write_frame()? {
        let mut state = engine.shared.state();
        for one in copied {
            let offset = place.payload_offset + one.offset_in_payload;
            let to = Location { file: place.file, offset, len: one.len };
            // Only the committer moves or removes messages, and it is here: none has changed since it was encoded.
            assert!(
                state.queues.relocate(one.queue, one.position, one.from, to),
                "what was copied lived where it was read"
            );
        }
    }
    Ok(())
}

/// A message's place with the state that it has now. A lease is not part of it: it is in memory only.
fn place_now(place: PutPlace, entry: &Entry) -> PutPlace {
    PutPlace { state: entry.state(), holds_key: matches!(entry.phase(), Phase::Delayed { holds_key: true }), ..place }
}
