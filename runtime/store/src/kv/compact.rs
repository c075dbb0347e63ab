//! Writes `state.redb` anew, beside itself, when most of it holds nothing any more. The file itself never shrinks: redb uses
//! what was freed again, but a consumer whose state was large once would keep that room for ever.
//!
//! It is done by the only one who writes to the file, between two times that it does, so that the new file is complete up to
//! the same frame. Who reads goes on reading the old one until the new one is durable under its name.

use std::sync::PoisonError;

use bytes::Bytes;

use super::file::{NAME, NEW_NAME, Open, PIECE_BYTES, PIECE_KEYS, State, StateFile, failed, put};
use super::sectors::Sectors;
use crate::disk::{DiskError, File};

/// A file is mostly empty if it is so many times longer than what it holds.
const EMPTY_FACTOR: u64 = 4;

/// What is copied at most. Full files of the log wait for so long.
const LIVE_BYTES_MAX: u64 = 64 << 20;

/// What became of it.
pub(crate) enum Compacted {
    Done,
    /// The old file can't be read to its end: it stays as it is.
    Unreadable,
    /// What an attempt before this one has left can't be removed: it stays as it is for now.
    Blocked,
}

impl StateFile {
    /// Whether the file should be written anew. `live_bytes`: of all spaces. `bytes_min`: a shorter file may be empty.
    pub(crate) fn is_mostly_empty(&self, live_bytes: u64, bytes_min: u64) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let State::Open(open) = &*state else { return false };
        let file_bytes = open.sectors.file_bytes();
        // What small keys cost beside their bytes is no reason to write them over and over.
        let has_grown = file_bytes / 2 > open.compact_bytes;
        file_bytes > bytes_min.max(live_bytes * EMPTY_FACTOR) && live_bytes <= LIVE_BYTES_MAX && has_grown
    }

    /// Writes the file anew. An error is of what is written.
    pub(crate) fn compact(&self) -> Result<Compacted, DiskError> {
        if self.remove_new().is_err() {
            return Ok(Compacted::Blocked);
        }
        let copied = match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(open) => self.disk.create(NEW_NAME).and_then(|file| open.copy_to(file)),
            State::Missing | State::Failed(_) | State::Closed => return Ok(Compacted::Done),
        };
        let new = match copied {
            Ok(Some(new)) => new,
            other => {
                // As with its making.
                let _ = self.disk.remove(NEW_NAME);
                return other.map(|_| Compacted::Unreadable);
            }
        };
        self.disk.rename(NEW_NAME, NAME)?;
        self.disk.sync_folder()?;
        let old = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *state, State::Open(new))
        };
        // Takes a while, which nobody has to wait for.
        drop(old);
        Ok(Compacted::Done)
    }
}

impl Open {
    /// Copies everything to a file that is empty. None if it can't be read.
    fn copy_to(&self, file: std::sync::Arc<dyn File>) -> Result<Option<Open>, DiskError> {
        let mut new = Open::new(Sectors::create(NAME, file, self.sectors.store_tag())?, failed)?;
        new.begin().map_err(|error| new.failed(error))?;
        let Ok(lsn) = self.lsn() else { return Ok(None) };
        let mut piece = Piece::default();
        let mut unwritten = None;
        let read = self.each(&mut |space, key, value| {
            let written = if piece.add(space, key, value) { piece.write_to(&new) } else { Ok(()) };
            unwritten = written.err();
            unwritten.is_none()
        });
        if read.is_err() {
            return Ok(None);
        }
        let written = unwritten.map_or_else(|| piece.write_to(&new), Err).and_then(|()| new.set_lsn(lsn));
        written.map_err(|error| new.failed(error))?;
        new.compact_bytes = new.sectors.file_bytes();
        Ok(Some(new))
    }
}

/// What is written at once.
#[derive(Default)]
struct Piece {
    entries: Vec<(Box<str>, Box<str>, Bytes)>,
    bytes: usize,
}

impl Piece {
    /// Answers whether it is full.
    fn add(&mut self, space: &str, key: &str, value: &[u8]) -> bool {
        self.entries.push((space.into(), key.into(), Bytes::copy_from_slice(value)));
        self.bytes += value.len();
        self.entries.len() >= PIECE_KEYS || self.bytes >= PIECE_BYTES
    }

    fn write_to(&mut self, new: &Open) -> Result<(), redb::Error> {
        let piece: Vec<_> = self.entries.iter().map(|(space, key, value)| (&**space, &**key, Some(value))).collect();
        new.write(|writing| put(writing, &piece))?;
        *self = Piece::default();
        Ok(())
    }
}
