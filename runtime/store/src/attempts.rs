//! The table of attempts that are running, in a small mapped file.
//!
//! An attempt must be on record before its handler starts, so that a message that takes the whole process down is
//! still counted and reaches its dead-letter queue in the end. A record in the log would do, but it would have to
//! wait for the committer; a store into mapped memory costs nanoseconds, survives `kill -9`, and says exactly which
//! attempts had started. After a power loss it may be older than the log: the attempt that was running may be forgotten,
//! or one that was snoozed may count after all. No message is lost by that, and none counts more attempts than it had.
//!
//! One slot, two words:
//!
//! | word | bits | what |
//! | --- | --- | --- |
//! | 0 | 0..64 | sequence of the message, 0 for a free slot |
//! | 1 | 0..32 | the attempt's number |
//! | 1 | 32..64 | check: a mix of the sequence, the number and the message's position in its queue |
//!
//! The position is in the check because a message that moves to another queue starts again there: what the table says
//! of its former place must not count.

use std::sync::Arc;

use crate::disk::Words;

pub(crate) const FILE_NAME: &str = "attempts.map";

/// Words of the mapped file for each delivery that can be leased at once.
pub(crate) const WORDS_OF_A_SLOT: usize = 2;

pub(crate) struct AttemptTable {
    words: Arc<dyn Words>,
    slots: usize,
    free: Vec<u32>,
}

/// A place for one leased delivery. It is written to when the attempt begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(u32);

/// An attempt that was running when the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeftOver {
    pub(crate) sequence: u64,
    pub(crate) attempt: u32,
    word: u64,
}

impl LeftOver {
    /// Whether it is whole and was an attempt of the message while it stood there.
    pub(crate) fn is_of(&self, position: u64) -> bool {
        self.word == pack(self.sequence, self.attempt, position)
    }
}

impl AttemptTable {
    /// A table of as many slots as it has words for. It must be cleared before the first attempt, and whatever a former
    /// process left in it recorded before that.
    pub(crate) fn new(words: Arc<dyn Words>) -> AttemptTable {
        let slots = words.len() / WORDS_OF_A_SLOT;
        // Low slots are used first, so that a quiet store touches one page.
        AttemptTable { words, slots, free: (0..slots as u32).rev().collect() }
    }

    /// Forgets what a former process left.
    pub(crate) fn clear(&self) {
        for slot in (0..self.slots).filter(|slot| self.words.load(slot * WORDS_OF_A_SLOT) != 0) {
            self.words.store(slot * WORDS_OF_A_SLOT, 0);
        }
    }

    /// The attempts that were running when the process ended.
    pub(crate) fn left_over(words: &dyn Words) -> Vec<LeftOver> {
        (0..words.len() / WORDS_OF_A_SLOT)
            .filter_map(|slot| {
                let at = slot * WORDS_OF_A_SLOT;
                let (sequence, word) = (words.load(at), words.load(at + 1));
                (sequence != 0).then_some(LeftOver { sequence, attempt: word as u32, word })
            })
            .collect()
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn take(&mut self) -> Option<Slot> {
        self.free.pop().map(Slot)
    }

    /// The attempt starts now.
    pub(crate) fn begin(&self, slot: Slot, sequence: u64, attempt: u32, position: u64) {
        let at = slot.0 as usize * WORDS_OF_A_SLOT;
        self.words.store(at + 1, pack(sequence, attempt, position));
        self.words.store(at, sequence);
    }

    /// The attempt that began here is not to count.
    pub(crate) fn forget(&self, slot: Slot) {
        self.words.store(slot.0 as usize * WORDS_OF_A_SLOT, 0);
    }

    /// The delivery was settled, and that is durable.
    pub(crate) fn give_back(&mut self, slot: Slot) {
        self.forget(slot);
        self.free.push(slot.0);
    }
}

fn pack(sequence: u64, attempt: u32, position: u64) -> u64 {
    let mix = (sequence ^ position.rotate_left(20) ^ (u64::from(attempt) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mix >> 32 << 32) | u64::from(attempt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, SimulatedDisk};

    #[test]
    fn what_was_running_is_found_until_it_is_settled_or_moved() {
        let disk = SimulatedDisk::new(1);
        let words = disk.map_words(FILE_NAME, 16 * WORDS_OF_A_SLOT).unwrap();
        let mut table = AttemptTable::new(words.clone());
        let (first, second) = (table.take().unwrap(), table.take().unwrap());
        table.begin(first, 7, 3, 7);
        assert_eq!(AttemptTable::left_over(&*words).len(), 1, "a claimed attempt counts when it begins");
        table.begin(second, 8, 1, 20);
        let left = AttemptTable::left_over(&*words);
        assert_eq!(left.iter().map(|one| (one.sequence, one.attempt)).collect::<Vec<_>>(), [(7, 3), (8, 1)]);
        assert!(left[0].is_of(7) && left[1].is_of(20));
        assert!(!left[1].is_of(8), "it stood elsewhere then");
        table.give_back(first);
        assert_eq!(AttemptTable::left_over(&*words).len(), 1);
        table.clear();
        assert!(AttemptTable::left_over(&*words).is_empty());
    }
}
