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
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::Lease;
use crate::apart::Apart;
use crate::disk::Words;

pub(crate) const FILE_NAME: &str = "attempts.map";

/// Words of the mapped file for each delivery that can be leased at once.
pub(crate) const WORDS_OF_A_SLOT: usize = 3;

/// A place for one leased delivery. It is written to when the attempt begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) u16);

/// An attempt that was running when the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeftOver {
    pub(crate) queue: u32,
    pub(crate) position: u64,
    pub(crate) attempt: u32,
}

/// The attempts of the deliveries that are leased. Each handler that starts comes here, so it takes no lock that the
/// committer holds: what a slot is used for changes by one atomic step at a time.
///
/// ```text
///  [free] ──claim──► [claimed] ──begin──► [beginning] ──► [begun]
///    ▲                   └───────────────┬───────────────────┘
///    └───── give back ────────────── [ending]
/// ```
pub(crate) struct Attempts {
    words: Arc<dyn Words>,
    slots: Box<[Running]>,
    /// When the first of the leases that are out is over.
    next_end_ms: Apart<AtomicU64>,
}

/// What a slot is used for.
#[derive(Default)]
struct Running {
    /// The lease's token and its [`Step`]; 0 if it is free.
    state: AtomicU64,
    expires_at_ms: AtomicU64,
    /// The number of the attempt.
    attempt: AtomicU32,
}

/// How far a lease has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Claimed = 0,
    /// Its attempt is being written down: this takes nanoseconds, and nobody else touches the slot meanwhile.
    Beginning = 1,
    Begun = 2,
    /// Its end is on its way to the disk: it is nobody else's any more.
    Ending = 3,
}

const STEP_BITS: u32 = 2;
const SLOT_BITS: u32 = 16;

fn state(token: u64, step: Step) -> u64 {
    token << STEP_BITS | step as u64
}

impl Default for Attempts {
    /// Without a slot.
    fn default() -> Attempts {
        struct NoWords;
        impl Words for NoWords {
            fn len(&self) -> usize {
                0
            }
            fn load(&self, _: usize) -> u64 {
                unreachable!("there are none")
            }
            fn store(&self, _: usize, _: u64) {
                unreachable!("there are none")
            }
        }
        Attempts::new(Arc::new(NoWords))
    }
}

impl Attempts {
    /// Slots for as many deliveries as there are words for. It must be cleared before the first attempt, and whatever a
    /// former process left in it recorded before that.
    pub(crate) fn new(words: Arc<dyn Words>) -> Attempts {
        let slots = words.len() / WORDS_OF_A_SLOT;
        assert!(slots <= 1 << SLOT_BITS, "a slot's number is a part of a token");
        let slots = (0..slots).map(|_| Running::default()).collect();
        Attempts { words, slots, next_end_ms: Apart::new(AtomicU64::new(u64::MAX)) }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// When the first of the leases that are out is over, as of a moment ago; `u64::MAX` if none is out.
    pub(crate) fn next_end_ms(&self) -> u64 {
        self.next_end_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn set_next_end_ms(&self, at_ms: u64) {
        self.next_end_ms.store(at_ms, Ordering::Relaxed);
    }

    /// Forgets what a former process left.
    pub(crate) fn clear(&self) {
        for slot in (0..self.slots.len()).filter(|slot| self.words.load(slot * WORDS_OF_A_SLOT) != 0) {
            self.words.store(slot * WORDS_OF_A_SLOT, 0);
        }
    }

    /// The attempts that were running when the process ended. What is not whole counts for nothing.
    pub(crate) fn left_over(words: &dyn Words) -> Vec<LeftOver> {
        Attempts::used(words).filter_map(Result::ok).collect()
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

    /// A free slot is taken. The number must not have been used before, and is not 0. Answers the lease's token.
    pub(crate) fn take(&self, slot: Slot, number: u64, expires_at_ms: u64, attempt: u32) -> u64 {
        let running = &self.slots[usize::from(slot.0)];
        let token = number << SLOT_BITS | u64::from(slot.0);
        running.expires_at_ms.store(expires_at_ms, Ordering::Relaxed);
        running.attempt.store(attempt, Ordering::Relaxed);
        running.state.store(state(token, Step::Claimed), Ordering::Release);
        token
    }

    /// Where a lease has its slot, whether or not it is still worth something.
    pub(crate) fn slot(&self, token: u64) -> Option<Slot> {
        let slot = Slot(token as u16);
        (usize::from(slot.0) < self.slots.len()).then_some(slot)
    }

    /// The attempt starts now, and the table says so. False if the lease is over.
    pub(crate) fn begin(&self, lease: Lease, now_ms: u64) -> bool {
        let Some(slot) = self.slot(lease.token) else { return false };
        let running = &self.slots[usize::from(slot.0)];
        let claimed = state(lease.token, Step::Claimed);
        if running.expires_at_ms.load(Ordering::Relaxed) <= now_ms {
            return false;
        }
        let beginning = state(lease.token, Step::Beginning);
        if running.state.compare_exchange(claimed, beginning, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return running.state.load(Ordering::Acquire) == state(lease.token, Step::Begun);
        }
        let at = usize::from(slot.0) * WORDS_OF_A_SLOT;
        let attempt = running.attempt.load(Ordering::Relaxed);
        let left = LeftOver { queue: lease.queue, position: lease.position, attempt };
        self.words.store(at + 1, left.position);
        self.words.store(at + 2, left.check());
        self.words.store(at, u64::from(left.queue) << 32 | u64::from(left.attempt));
        running.state.store(state(lease.token, Step::Begun), Ordering::Release);
        true
    }

    /// Whether the attempt of a lease has begun; `None` if the lease is over, or its end has begun.
    pub(crate) fn has_begun(&self, slot: Slot, token: u64) -> Option<bool> {
        let now = self.slots[usize::from(slot.0)].state.load(Ordering::Acquire);
        (now >> STEP_BITS == token && now != state(token, Step::Ending)).then_some(now != state(token, Step::Claimed))
    }

    /// The end of a lease begins: from here on it is nobody else's, and its attempt begins no more. Answers whether it has
    /// begun; `None` if the lease is over, or its end has begun already.
    pub(crate) fn end(&self, slot: Slot, token: u64) -> Option<bool> {
        let running = &self.slots[usize::from(slot.0)].state;
        let ending = state(token, Step::Ending);
        let mut begun = false;
        // Most have begun.
        for step in [Step::Begun, Step::Claimed].into_iter().cycle() {
            match running.compare_exchange(state(token, step), ending, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    begun = step == Step::Begun;
                    break;
                }
                Err(other) if other >> STEP_BITS != token || other == ending => return None,
                // Another thread is writing the attempt down.
                Err(other) if other == state(token, Step::Beginning) => std::thread::yield_now(),
                Err(_) => {}
            }
        }
        Some(begun)
    }

    /// The end of a lease was refused: it is what it was.
    pub(crate) fn end_refused(&self, slot: Slot, token: u64, begun: bool) {
        let step = if begun { Step::Begun } else { Step::Claimed };
        let (ending, before) = (state(token, Step::Ending), state(token, step));
        let running = &self.slots[usize::from(slot.0)].state;
        // It may have been purged meanwhile.
        let _ = running.compare_exchange(ending, before, Ordering::AcqRel, Ordering::Acquire);
    }

    pub(crate) fn extend(&self, slot: Slot, until_ms: u64) {
        self.slots[usize::from(slot.0)].expires_at_ms.store(until_ms, Ordering::Relaxed);
    }

    /// The attempt that began here is not to count.
    pub(crate) fn forget(&self, slot: Slot) {
        self.words.store(usize::from(slot.0) * WORDS_OF_A_SLOT, 0);
    }

    /// The delivery is nobody's any more, and that is durable. Its attempt must not be beginning.
    pub(crate) fn give_back(&self, slot: Slot) {
        self.forget(slot);
        self.slots[usize::from(slot.0)].state.store(0, Ordering::Release);
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

    fn lease(queue: u32, position: u64, token: u64) -> Lease {
        Lease { queue, position, token }
    }

    #[test]
    fn what_was_running_is_found_until_it_is_settled() {
        let disk = SimulatedDisk::new(1);
        let words = disk.map_words(FILE_NAME, 16 * WORDS_OF_A_SLOT).unwrap();
        let table = Attempts::new(words.clone());
        let first = table.take(Slot(0), 1, 100, 3);
        let second = table.take(Slot(1), 2, 100, 1);
        assert!(table.begin(lease(2, 0, first), 50));
        assert_eq!(Attempts::left_over(&*words).len(), 1, "a claimed attempt counts when it begins");
        assert!(!table.begin(lease(0, 20, second), 100), "the lease is over");
        assert!(table.begin(lease(0, 20, second), 99));
        assert!(table.begin(lease(0, 20, second), 99), "it has begun");
        let expected =
            [LeftOver { queue: 2, position: 0, attempt: 3 }, LeftOver { queue: 0, position: 20, attempt: 1 }];
        assert_eq!(Attempts::left_over(&*words), expected);
        for word in 0..2 * WORDS_OF_A_SLOT {
            let before = words.load(word);
            words.store(word, before ^ 1 << 5);
            assert_eq!(Attempts::left_over(&*words).len(), 1, "word {word} is damaged");
            words.store(word, before);
        }
        assert_eq!(table.end(Slot(0), first), Some(true));
        table.give_back(Slot(0));
        assert_eq!(Attempts::left_over(&*words), expected[1..]);
        table.clear();
        assert!(Attempts::left_over(&*words).is_empty());
    }

    #[test]
    fn a_lease_ends_once_and_nothing_begins_after_that() {
        let disk = SimulatedDisk::new(1);
        let table = Attempts::new(disk.map_words(FILE_NAME, 2 * WORDS_OF_A_SLOT).unwrap());
        let slot = Slot(1);
        let first = table.take(slot, 1, 100, 1);
        assert_eq!((table.slot(first), table.has_begun(slot, first)), (Some(slot), Some(false)));
        assert_eq!(table.end(slot, first), Some(false));
        assert_eq!((table.end(slot, first), table.has_begun(slot, first)), (None, None));
        assert!(!table.begin(lease(0, 0, first), 50), "it ends");
        table.end_refused(slot, first, false);
        assert!(table.begin(lease(0, 0, first), 50));
        assert_eq!(table.end(slot, first), Some(true));
        table.give_back(slot);
        let second = table.take(slot, 2, 100, 1);
        assert!(!table.begin(lease(0, 0, first), 50), "the slot is another's");
        assert_eq!(table.end(slot, first), None);
        table.end_refused(slot, first, true);
        assert_eq!(table.has_begun(slot, second), Some(false));
        assert_eq!(table.slot(7), None, "there is no such slot");
    }

    #[test]
    fn an_attempt_that_begins_while_its_lease_ends_counts_or_does_not_begin() {
        let disk = SimulatedDisk::new(1);
        let words = disk.map_words(FILE_NAME, WORDS_OF_A_SLOT).unwrap();
        let table = Attempts::new(words.clone());
        for number in 1..2000 {
            let token = table.take(Slot(0), number, 100, 1);
            let (began, ended) = std::thread::scope(|scope| {
                let began = scope.spawn(|| table.begin(lease(1, number, token), 50));
                let ended = table.end(Slot(0), token);
                (began.join().unwrap(), ended)
            });
            assert_eq!(ended, Some(began));
            assert_eq!(Attempts::left_over(&*words).len(), usize::from(began));
            table.give_back(Slot(0));
            assert_eq!(words.load(0), 0);
        }
    }
}
