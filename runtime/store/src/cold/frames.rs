//! The frames of a full log file, read a piece at a time: files are large, and copying one must not take their size in
//! memory.

use crate::courtesy::give_way;
use crate::disk::DiskError;
use crate::wal::frame::{self, Frame};
use crate::wal::{LogFile, file};

/// What is read at once, unless a frame is longer.
const PIECE_BYTES: usize = 128 << 10;

pub(crate) struct Frames<'a> {
    log_file: &'a LogFile,
    /// What was read last, and where it stands in the file.
    piece: Vec<u8>,
    piece_at: usize,
    /// Where the next frame stands in the file.
    next_at: usize,
}

impl Frames<'_> {
    pub(crate) fn new(log_file: &LogFile) -> Frames<'_> {
        let start = file::HEADER_BYTES;
        Frames { log_file, piece: Vec::new(), piece_at: start, next_at: start }
    }

    /// The next frame, and where its payload stands in the file. None after the last one.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Frame<'_>)>, DiskError> {
        let seal = self.log_file.header.seal();
        self.hold(frame::HEADER_BYTES)?;
        let Some(len) = seal.len_in(&self.piece, self.next_at - self.piece_at) else { return Ok(None) };
        self.hold(len)?;
        let at = self.next_at;
        let Some(found) = seal.read_in(&self.piece, at - self.piece_at, at as u32) else { return Ok(None) };
        self.next_at += len;
        Ok(Some(((at + frame::HEADER_BYTES) as u32, found)))
    }

    /// Where the next frame should stand in the file.
    pub(crate) fn at(&self) -> usize {
        self.next_at
    }

    /// Sees to it that so many bytes of the next frame are in the piece, if the file has them.
    fn hold(&mut self, bytes: usize) -> Result<(), DiskError> {
        let left = (self.log_file.header.file_bytes as usize).saturating_sub(self.next_at);
        if self.next_at + bytes.min(left) <= self.piece_at + self.piece.len() {
            return Ok(());
        }
        give_way();
        self.piece.resize(bytes.max(PIECE_BYTES).min(left), 0);
        self.piece_at = self.next_at;
        self.log_file.file.read_at(&mut self.piece, self.piece_at as u64)
    }
}
