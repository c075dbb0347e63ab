//! The newest frames of the log, as they were written, so that a short queue is never read from disk.
//!
//! Frames rather than messages are kept: a message that is never claimed in time costs nothing of its own, and what a
//! claim reads is decoded and checked as if it came from the disk.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::location::{FileId, Location};
use crate::wal::FramePlace;

pub(crate) struct FrameCache {
    /// In the order of the log.
    frames: VecDeque<Cached>,
    bytes: usize,
    bytes_max: usize,
}

struct Cached {
    place: FramePlace,
    payload: Bytes,
}

/// What a frame occupies beside its payload.
const OVERHEAD_BYTES: usize = 96;

impl FrameCache {
    pub(crate) fn new(bytes_max: usize) -> FrameCache {
        FrameCache { frames: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds the newest frame; the oldest ones make room for it.
    pub(crate) fn push(&mut self, place: FramePlace, payload: Bytes) {
        self.bytes += payload.len() + OVERHEAD_BYTES;
        self.frames.push_back(Cached { place, payload });
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.frames.pop_front()
        {
            self.bytes -= oldest.payload.len() + OVERHEAD_BYTES;
        }
    }

    /// The record that stands there, if its frame is still kept.
    pub(crate) fn get(&self, location: Location) -> Option<Bytes> {
        let at = |cached: &Cached| (FileId::log(cached.place.file), cached.place.payload_offset);
        let after = self.frames.partition_point(|cached| at(cached) <= (location.file, location.offset));
        let cached = &self.frames[after.checked_sub(1)?];
        if FileId::log(cached.place.file) != location.file {
            return None;
        }
        let start = (location.offset - cached.place.payload_offset) as usize;
        let range = start..start + location.len as usize;
        (range.end <= cached.payload.len()).then(|| cached.payload.slice(range))
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
            cache.push(place, Bytes::from_static(payload));
        }
        let get = |file, offset, len| cache.get(Location { file: FileId::log(file), offset, len });
        assert_eq!(get(1, 544, 2), None, "the oldest made room");
        assert_eq!(get(1, 600, 2).as_deref(), Some(&b"ij"[..]));
        assert_eq!(get(2, 546, 3).as_deref(), Some(&b"stu"[..]));
        assert_eq!(get(2, 606, 2).as_deref(), Some(&b"67"[..]));
        for (file, offset, len) in [(2, 606, 3), (2, 590, 2), (0, 600, 2), (3, 600, 2), (2, 20, 4)] {
            assert_eq!(get(file, offset, len), None, "nothing was written at {offset} of file {file}");
        }
    }
}
