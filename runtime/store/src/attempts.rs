//! The table of attempts that are running, in a small mapped file (`FORMAT.md`, "`attempts.map`").
//!
//! An attempt must be on record before its handler starts, so that a message that takes the whole process down is
//! still counted and reaches its dead-letter queue in the end. A record in the log would do, but it would have to
//! wait for the committer; a store into mapped memory costs nanoseconds, survives `kill -9`, and says exactly which
//! attempts had started. After a power loss it may be older than the log: the attempt that was running may be forgotten,
//! or one that was snoozed may count after all. No message is lost by that, and none counts more attempts than it had.
//!
//! A message that moves to another queue gets a position there, so what the table says of its former place does not count.

use std::sync::Arc;

use crate::disk::Words;

pub(crate) const FILE_NAME: &str = "attempts.map";

/// Words of the mapped file for each delivery that can be leased at once.
pub(crate) const WORDS_OF_A_SLOT: usize = 3;

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
    pub(crate) queue: u32,
    pub(crate) position: u64,
    pub(crate) attempt: u32,
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

    /// The attempts that were running when the process ended. What is not whole counts for nothing.
    pub(crate) fn left_over(words: &dyn Words) -> Vec<LeftOver> {
        AttemptTable::used(words).filter_map(Result::ok).collect()
    }

    /// What stands in the slots that are in use. The error is where a slot stands, in bytes, if it is not whole.
    pub(crate) fn used(words: &dyn Words) -> impl Iterator<Item = Result<LeftOver, u64>> {
        let slots = (0..words.len() / WORDS_OF_A_SLOT).map(|slot| slot * WORDS_OF_A_SLOT);
        let used = slots.filter(|at| words.load(*at) != 0);
        used.map(|at| {
            let (head, position) = (words.load(at), words.load(at + 1));
            let left = LeftOver { queue: (head >> 32) as u32, position, attempt: head as u32 };
            let whole = left.attempt != 0 && words.load(at + 2) == left.check();
            whole.then_some(left).ok_or(at as u64 * 8)
        })
    }

    pub(crate) fn any_free(&self) -> bool {
        !self.free.is_empty()
    }

    pub(crate) fn take(&mut self) -> Option<Slot> {
        self.free.pop().map(Slot)
    }

    /// The attempt starts now.
    pub(crate) fn begin(&self, slot: Slot, queue: u32, position: u64, attempt: u32) {
        let at = slot.0 as usize * WORDS_OF_A_SLOT;
        let left = LeftOver { queue, position, attempt };
        self.words.store(at + 1, position);
        self.words.store(at + 2, left.check());
        self.words.store(at, u64::from(queue) << 32 | u64::from(attempt));
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

impl LeftOver {
    fn check(&self) -> u64 {
        let mix = self.position.rotate_left(20) ^ u64::from(self.queue) << 40 ^ u64::from(self.attempt);
        (mix ^ 0x6174_7465_6d70_7473).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, SimulatedDisk};

    #[test]
    fn what_was_running_is_found_until_it_is_settled() {
        let disk = SimulatedDisk::new(1);
        let words = disk.map_words(FILE_NAME, 16 * WORDS_OF_A_SLOT).unwrap();
        let mut table = AttemptTable::new(words.clone());
        let (first, second) = (table.take().unwrap(), table.take().unwrap());
        table.begin(first, 2, 0, 3);
        assert_eq!(AttemptTable::left_over(&*words).len(), 1, "a claimed attempt counts when it begins");
        table.begin(second, 0, 20, 1);
        let expected =
            [LeftOver { queue: 2, position: 0, attempt: 3 }, LeftOver { queue: 0, position: 20, attempt: 1 }];
        assert_eq!(AttemptTable::left_over(&*words), expected);
        for word in 0..2 * WORDS_OF_A_SLOT {
            let before = words.load(word);
            words.store(word, before ^ 1 << 5);
            assert_eq!(AttemptTable::left_over(&*words).len(), 1, "word {word} is damaged");
            words.store(word, before);
        }
        table.give_back(first);
        assert_eq!(AttemptTable::left_over(&*words), expected[1..]);
        table.clear();
        assert!(AttemptTable::left_over(&*words).is_empty());
    }
}
