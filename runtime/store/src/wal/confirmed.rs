//! Remembers the newest confirmed frame in a small mapped file (`FORMAT.md`, "`confirmed.map`").
//!
//! The last frame of the log is the one whose damage looks like a torn tail: nothing after it says that it was ever
//! whole. So its LSN is noted here after the sync and before anybody hears of it. A note outlives `kill -9`; after a
//! power loss it may be older than the log, never newer, and then a torn tail is taken for what it most likely is.
//!
//! Two notes are written in turn. A note whose check is wrong counts for nothing, so damage in here costs the extra evidence
//! and no message.

use std::sync::Arc;

use crate::disk::Words;

pub(crate) const FILE_NAME: &str = "confirmed.map";
pub(crate) const WORDS: usize = 2 * NOTE_WORDS;
const NOTE_WORDS: usize = 3;

pub(crate) struct Confirmed {
    words: Arc<dyn Words>,
}

/// A note that was found whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) store_tag: u64,
    pub(crate) lsn: u64,
}

impl Confirmed {
    pub(crate) fn new(words: Arc<dyn Words>) -> Confirmed {
        Confirmed { words }
    }

    /// The newest whole note.
    pub(crate) fn newest(&self) -> Option<Note> {
        (0..2).filter_map(|which| self.read(which).ok().flatten()).max_by_key(|note| note.lsn)
    }

    /// One of the two notes, if it was ever written. The error is where it stands, in bytes, if it is not whole.
    pub(crate) fn read(&self, which: usize) -> Result<Option<Note>, u64> {
        let at = which * NOTE_WORDS;
        let [store_tag, lsn, written_check] = [at, at + 1, at + 2].map(|word| self.words.load(word));
        let note = Note { store_tag, lsn };
        match (store_tag, lsn, written_check) {
            (0, 0, 0) => Ok(None),
            (_, 1.., _) if written_check == check(note) => Ok(Some(note)),
            _ => Err(at as u64 * 8),
        }
    }

    /// Notes that the frame with this LSN is durable. Frames are noted in order.
    pub(crate) fn note(&self, note: Note) {
        let at = (note.lsn % 2) as usize * NOTE_WORDS;
        self.words.store(at, note.store_tag);
        self.words.store(at + 1, note.lsn);
        self.words.store(at + 2, check(note));
    }
}

fn check(note: Note) -> u64 {
    (note.store_tag.rotate_left(32) ^ note.lsn).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6c69_6e65_636f_6f6b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, SimulatedDisk};

    #[test]
    fn the_newest_whole_note_counts() {
        let disk = SimulatedDisk::new(1);
        let words = disk.map_words(FILE_NAME, WORDS).unwrap();
        let confirmed = Confirmed::new(words.clone());
        assert_eq!(confirmed.newest(), None);
        for lsn in 1..=5 {
            confirmed.note(Note { store_tag: 9, lsn });
            assert_eq!(confirmed.newest(), Some(Note { store_tag: 9, lsn }));
        }
        // Whatever single word is damaged, the other note still counts.
        for word in 0..WORDS {
            let before = words.load(word);
            words.store(word, before ^ 1 << 13);
            assert!(matches!(confirmed.newest(), Some(Note { lsn: 4 | 5, .. })), "word {word}");
            words.store(word, before);
        }
    }
}
