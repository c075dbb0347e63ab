//! The frames of a log file, also those after damage.

use crate::wal::file;
use crate::wal::frame::{self, Frame, Seal};

/// What comes next in a log file.
pub(super) enum Step<'a> {
    Frame {
        offset: usize,
        frame: Frame<'a>,
    },
    /// Here should be a frame, and the next whole one is only there.
    Gap {
        offset: usize,
        next: usize,
    },
    /// The last whole frame ends here.
    End {
        offset: usize,
        torn: bool,
    },
}

/// Goes through a file's bytes.
pub(super) fn walk(seal: Seal, bytes: &[u8]) -> impl Iterator<Item = Step<'_>> {
    let mut at = Some(file::HEADER_BYTES);
    std::iter::from_fn(move || {
        let offset = at?;
        if let Some(frame) = seal.read(bytes, offset) {
            at = Some(offset + frame::frame_bytes(frame.payload.len()));
            return Some(Step::Frame { offset, frame });
        }
        at = seal.find(bytes, offset).map(|(next, _)| next);
        Some(match at {
            Some(next) => Step::Gap { offset, next },
            None => Step::End { offset, torn: is_torn(seal, bytes, offset) },
        })
    })
}

/// Whether a frame of this life of the file was begun here. Its epoch stands in its first sector.
fn is_torn(seal: Seal, bytes: &[u8], offset: usize) -> bool {
    bytes.get(offset + 16..offset + 24).is_some_and(|epoch| epoch == seal.epoch.to_le_bytes())
}
