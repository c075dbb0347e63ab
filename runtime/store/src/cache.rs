//! The newest frames of the log, as they were written, so that a short queue is never read from disk.
//!
//! Frames rather than messages are kept: a message that is never claimed in time costs nothing of its own, and what a
//! claim reads is decoded as if it came from the disk. Only its checksum is not looked at: nobody else writes to this memory.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::location::{FileId, Location};
use crate::wal::FramePlace;

pub(crate) struct FrameCache {
    /// In the order of the log.
    frames: VecDeque<Cached>,
    bytes: usize,
    bytes_max: usize,
    /// Where the last record was found: the next one is mostly there, too.
    last: Cell<usize>,
    /// Room for the next frames. To ask the allocator for each of them would have it tidy up each time.
    room: BytesMut,
}

/// Frames share pieces of memory of this size, which go when the last of them does.
const PIECE_BYTES: usize = 256 << 10;

/// A frame that is kept.
#[derive(Clone)]
pub(crate) struct Cached {
    place: FramePlace,
    payload: Bytes,
}

impl Cached {
    /// The record that stands there, if it is of this frame.
    pub(crate) fn get(&self, location: Location) -> Option<&[u8]> {
        self.payload.get(self.range(location)?)
    }

    fn range(&self, location: Location) -> Option<Range<usize>> {
        if FileId::log(self.place.file) != location.file {
            return None;
        }
        let start = location.offset.checked_sub(self.place.payload_offset)? as usize;
        let end = start + location.len as usize;
        (end <= self.payload.len()).then_some(start..end)
    }
}

/// What a frame occupies beside its payload.
const OVERHEAD_BYTES: usize = 96;

impl FrameCache {
    pub(crate) fn new(bytes_max: usize) -> FrameCache {
        FrameCache { frames: VecDeque::new(), bytes: 0, bytes_max, last: Cell::new(0), room: BytesMut::new() }
    }

    /// Adds the newest frame; the oldest ones make room for it.
    pub(crate) fn push(&mut self, place: FramePlace, payload: &[u8]) {
        if self.room.capacity() < payload.len() {
            self.room = BytesMut::with_capacity(PIECE_BYTES.max(payload.len()));
        }
        self.room.extend_from_slice(payload);
        let payload = self.room.split().freeze();
        self.bytes += payload.len() + OVERHEAD_BYTES;
        self.frames.push_back(Cached { place, payload });
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.frames.pop_front()
        {
            self.bytes -= oldest.payload.len() + OVERHEAD_BYTES;
        }
    }

    /// The frame of the record that stands there, if it is still kept.
    pub(crate) fn frame(&self, location: Location) -> Option<&Cached> {
        let last = self.last.get();
        if let Some(found) = self.frames.get(last).filter(|cached| cached.range(location).is_some()) {
            return Some(found);
        }
        let at = |cached: &Cached| (FileId::log(cached.place.file), cached.place.payload_offset);
        let after = self.frames.partition_point(|cached| at(cached) <= (location.file, location.offset));
        let place = after.checked_sub(1)?;
        self.last.set(place);
        Some(&self.frames[place]).filter(|cached| cached.range(location).is_some())
    }

    /// The record that stands there, if its frame is still kept.
    pub(crate) fn get(&self, location: Location) -> Option<Bytes> {
        let frame = self.frame(location)?;
        Some(frame.payload.slice(frame.range(location)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_frames_are_found_record_by_record() {
        let mut cache = FrameCache::new(3 * (8 + OVERHEAD_BYTES));
        let places =
            [(1, 544), (1, 600), (2, 544), (2, 600)].map(|(file, payload_offset)| FramePlace { file, payload_offset });
        for (place, payload) in places.into_iter().zip([b"abcdefgh", b"ijklmnop", b"qrstuvwx", b"01234567"]) {
            cache.push(place, payload);
        }
        let get = |file, offset, len| {
            let location = Location { file: FileId::log(file), offset, len };
            let record = cache.get(location);
            assert_eq!(cache.frame(location).and_then(|frame| frame.get(location)), record.as_deref());
            record
        };
        assert_eq!(get(1, 544, 2), None, "the oldest made room");
        assert_eq!(get(1, 600, 2).as_deref(), Some(&b"ij"[..]));
        assert_eq!(get(2, 546, 3).as_deref(), Some(&b"stu"[..]));
        assert_eq!(get(2, 606, 2).as_deref(), Some(&b"67"[..]));
        for (file, offset, len) in [(2, 606, 3), (2, 590, 2), (0, 600, 2), (3, 600, 2), (2, 20, 4)] {
            assert_eq!(get(file, offset, len), None, "nothing was written at {offset} of file {file}");
        }
    }
}
