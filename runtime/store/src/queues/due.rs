//! The delayed messages of one queue, by the time when they are due.

use std::collections::BTreeSet;

/// A message and when it is due.
///
/// There may be millions, so both numbers have 48 bits: enough for a queue that gets a million messages a second for
/// eight years, and for times until the year 10889. A later time is as good as that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due([u32; 3]);

const BITS: u32 = 48;

impl Due {
    fn new(due_at_ms: u64, position: u64) -> Due {
        assert!(position >> BITS == 0, "a queue has fewer messages");
        let due_at_ms = due_at_ms.min((1 << BITS) - 1);
        Due([(due_at_ms >> 16) as u32, ((due_at_ms & 0xffff) << 16 | position >> 32) as u32, position as u32])
    }

    /// When it is due, and its position.
    fn numbers(self) -> (u64, u64) {
        let [high, middle, low] = self.0.map(u64::from);
        (high << 16 | middle >> 16, (middle & 0xffff) << 32 | low)
    }
}

#[derive(Default)]
pub(super) struct Delayed {
    due: BTreeSet<Due>,
}

impl Delayed {
    pub(super) fn len(&self) -> u64 {
        self.due.len() as u64
    }

    pub(super) fn contains(&self, due_at_ms: u64, position: u64) -> bool {
        self.due.contains(&Due::new(due_at_ms, position))
    }

    pub(super) fn insert(&mut self, due_at_ms: u64, position: u64) {
        self.due.insert(Due::new(due_at_ms, position));
    }

    pub(super) fn remove(&mut self, due_at_ms: u64, position: u64) {
        self.due.remove(&Due::new(due_at_ms, position));
    }

    /// Messages before a position are gone.
    pub(super) fn remove_below(&mut self, below: u64) {
        self.due.retain(|due| due.numbers().1 >= below);
    }

    /// When the next message is due.
    pub(super) fn next_at_ms(&self) -> Option<u64> {
        self.due.first().map(|due| due.numbers().0)
    }

    /// Takes out the next message that is due.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<u64> {
        let (due_at_ms, position) = self.due.first()?.numbers();
        if due_at_ms > now_ms {
            return None;
        }
        self.due.pop_first();
        Some(position)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn due_times_are_kept_and_sort_by_time_and_position(
            one in (0u64..1 << BITS, 0u64..1 << BITS),
            other in (0u64..1 << BITS, 0u64..1 << BITS),
        ) {
            prop_assert_eq!(Due::new(one.0, one.1).numbers(), one);
            prop_assert_eq!(Due::new(one.0, one.1).cmp(&Due::new(other.0, other.1)), one.cmp(&other));
        }
    }

    #[test]
    fn a_time_that_never_comes_is_kept_as_one() {
        let mut delayed = Delayed::default();
        delayed.insert(u64::MAX, 1);
        assert_eq!(delayed.pop_due(1 << 47), None);
        delayed.remove(u64::MAX, 1);
        assert_eq!(delayed.len(), 0);
    }
}
