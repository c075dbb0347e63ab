//! The delayed messages of one queue, by the time when they are due.
//!
//! There may be millions, and all that is kept of most of them is here: 12 bytes each. They lie in sorted runs. A run that is
//! full is split in two, but one that only grew at its end, as it does when delays are alike, stays full. (A tree of
//! single entries takes twice as much: its nodes are half empty then, and small.)

use std::collections::BTreeMap;

use crate::short::Short;

/// A message and when it is due.
///
/// Both numbers are short ones ([`crate::short`]), in as few bytes as two of those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due([u32; 3]);

/// Of a run that is full. What is put into its middle moves half of that.
const RUN_MAX: usize = 512;

/// What a run grows by.
const RUN_GROWS_BY: usize = 32;

/// Runs that are shorter than this are put together with the one before, if it has room.
const RUN_MIN: usize = RUN_MAX / 4;

impl Due {
    fn new(due_at_ms: u64, position: u64) -> Due {
        let (due_at_ms, position) = (Short::at_most(due_at_ms).get(), Short::new(position).get());
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
    /// By something that is not later than their first one, and later than all in the run before. None is empty.
    runs: BTreeMap<Due, Run>,
    len: u64,
}

/// Sorted. Those before `taken` are gone: what is due goes from the front, one by one.
#[derive(Default)]
struct Run {
    all: Vec<Due>,
    taken: usize,
}

impl Run {
    fn left(&self) -> &[Due] {
        &self.all[self.taken..]
    }

    /// Room comes in small steps: doubled, a third of it would be empty.
    fn put(&mut self, at: usize, due: Due) {
        if self.all.len() == self.all.capacity() {
            self.all.reserve_exact(RUN_GROWS_BY);
        }
        self.all.insert(at, due);
    }

    /// Forgets what is taken, and gives room back.
    fn settle(&mut self) {
        self.all.drain(..self.taken);
        self.taken = 0;
        if self.all.len() + 2 * RUN_GROWS_BY < self.all.capacity() {
            self.all.shrink_to_fit();
        }
    }
}

impl Delayed {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    fn run(&self, due: Due) -> Option<&Run> {
        self.runs.range(..=due).next_back().map(|(_, run)| run)
    }

    pub(super) fn contains(&self, due_at_ms: u64, position: u64) -> bool {
        let due = Due::new(due_at_ms, position);
        self.run(due).is_some_and(|run| run.left().binary_search(&due).is_ok())
    }

    pub(super) fn insert(&mut self, due_at_ms: u64, position: u64) {
        let due = Due::new(due_at_ms, position);
        let Some((_, run)) = self.runs.range_mut(..=due).next_back() else {
            // Before all that there are: into the first run, or into one of its own.
            if let Some((first, mut run)) = self.runs.pop_first() {
                run.settle();
                if run.all.len() < RUN_MAX {
                    run.put(0, due);
                    self.runs.insert(due, run);
                    self.len += 1;
                    return;
                }
                self.runs.insert(first, run);
            }
            self.runs.insert(due, Run { all: vec![due], taken: 0 });
            self.len += 1;
            return;
        };
        let Err(at) = run.left().binary_search(&due) else { return };
        self.len += 1;
        let at = at + run.taken;
        if run.all.len() < RUN_MAX {
            run.put(at, due);
            return;
        }
        run.settle();
        let at = at.min(run.all.len());
        let at = run.all[..at].partition_point(|other| *other < due);
        if run.all.len() < RUN_MAX {
            run.put(at, due);
        } else if at == run.all.len() {
            // It only grew at its end.
            self.runs.insert(due, Run { all: vec![due], taken: 0 });
        } else {
            let after = run.all.split_off(RUN_MAX / 2);
            run.all.shrink_to_fit();
            let mut after = Run { all: after, taken: 0 };
            let half = if at <= run.all.len() { run } else { &mut after };
            let at = half.all.partition_point(|other| *other < due);
            half.put(at, due);
            self.runs.insert(after.all[0], after);
        }
    }

    /// Answers whether it was there.
    pub(super) fn remove(&mut self, due_at_ms: u64, position: u64) -> bool {
        let due = Due::new(due_at_ms, position);
        let Some((first, run)) = self.runs.range_mut(..=due).next_back() else { return false };
        let Ok(at) = run.left().binary_search(&due) else { return false };
        let (first, at) = (*first, at + run.taken);
        run.all.remove(at);
        self.len -= 1;
        self.tidy(first);
        true
    }

    /// A run has become shorter: it goes if it is empty, and joins the one before if both are short.
    fn tidy(&mut self, first: Due) {
        let len = self.runs[&first].left().len();
        if len >= RUN_MIN {
            return;
        }
        if len == 0 {
            self.runs.remove(&first);
            return;
        }
        if let Some((_, before)) = self.runs.range(..first).next_back()
            && before.left().len() + len <= RUN_MAX / 2
        {
            let run = self.runs.remove(&first).expect("just seen");
            let (_, before) = self.runs.range_mut(..first).next_back().expect("just seen");
            before.settle();
            before.all.extend_from_slice(run.left());
        }
    }

    /// Messages before a position are gone.
    pub(super) fn remove_below(&mut self, below: u64) {
        for run in self.runs.values_mut() {
            run.settle();
            run.all.retain(|due| due.numbers().1 >= below);
        }
        self.runs.retain(|_, run| {
            run.settle();
            !run.all.is_empty()
        });
        self.len = self.runs.values().map(|run| run.all.len() as u64).sum();
    }

    /// When the next message is due.
    pub(super) fn next_at_ms(&self) -> Option<u64> {
        self.runs.first_key_value().map(|(_, run)| run.left()[0].numbers().0)
    }

    /// Takes out the next message that is due.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<u64> {
        let mut first = self.runs.first_entry()?;
        let (due_at_ms, position) = first.get().left()[0].numbers();
        if due_at_ms > now_ms {
            return None;
        }
        first.get_mut().taken += 1;
        if first.get().left().is_empty() {
            first.remove();
        }
        self.len -= 1;
        Some(position)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn due_times_are_kept_and_sort_by_time_and_position(
            one in (0..=Short::MAX, 0..=Short::MAX),
            other in (0..=Short::MAX, 0..=Short::MAX),
        ) {
            prop_assert_eq!(Due::new(one.0, one.1).numbers(), one);
            prop_assert_eq!(Due::new(one.0, one.1).cmp(&Due::new(other.0, other.1)), one.cmp(&other));
        }
    }

    impl Delayed {
        fn check(&self, model: &BTreeSet<(u64, u64)>) {
            let all: Vec<(u64, u64)> = self.runs.values().flat_map(Run::left).map(|due| due.numbers()).collect();
            assert_eq!(all, model.iter().copied().collect::<Vec<_>>());
            assert_eq!(self.len(), model.len() as u64);
            assert_eq!(self.next_at_ms(), model.first().map(|(due_at_ms, _)| *due_at_ms));
            for (first, run) in &self.runs {
                assert!(!run.left().is_empty() && *first <= run.left()[0] && run.all.len() <= RUN_MAX);
            }
        }
    }

    /// Long enough for runs to be split, joined and emptied, with delays that are alike and delays that are not.
    #[test]
    fn it_does_what_an_ordinary_set_does() {
        for seed in 0..24 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut delayed, mut model) = (Delayed::default(), BTreeSet::new());
            let alike = seed % 3 == 0;
            for position in 0..12_000 {
                let due_at_ms = if alike { position + random.u64(0..3) } else { random.u64(0..40_000) };
                match random.u8(0..10) {
                    0..=5 => {
                        delayed.insert(due_at_ms, position);
                        model.insert((due_at_ms, position));
                    }
                    6 | 7 => {
                        let from = (random.u64(0..40_000), 0);
                        let found = model.range(from..).next().copied();
                        if let Some((due_at_ms, position)) = found {
                            assert!(delayed.contains(due_at_ms, position));
                            assert!(delayed.remove(due_at_ms, position));
                            assert!(!delayed.contains(due_at_ms, position));
                            model.remove(&(due_at_ms, position));
                        }
                        assert_eq!(delayed.remove(due_at_ms, position), model.remove(&(due_at_ms, position)));
                    }
                    8 => {
                        let now_ms = random.u64(0..40_000) / if random.bool() { 1 } else { 100 };
                        for _ in 0..random.usize(0..12) {
                            let first = model.first().copied().filter(|(due_at_ms, _)| *due_at_ms <= now_ms);
                            assert_eq!(delayed.pop_due(now_ms), first.map(|(_, position)| position));
                            first.map(|first| model.remove(&first));
                        }
                    }
                    _ if random.u8(..) < 2 => {
                        let below = random.u64(0..=position);
                        delayed.remove_below(below);
                        model.retain(|(_, position)| *position >= below);
                    }
                    _ => {}
                }
                if position % 64 == 0 {
                    delayed.check(&model);
                }
            }
            delayed.check(&model);
        }
    }

    #[test]
    fn delays_that_are_alike_take_little_more_than_their_12_bytes() {
        let mut delayed = Delayed::default();
        for position in 0..100_000 {
            delayed.insert(1_764_100_000_000 + position / 7, position);
        }
        let bytes: usize = delayed.runs.values().map(|run| run.all.capacity() * size_of::<Due>()).sum();
        assert!(bytes < 100_000 * 13, "{bytes}");
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
