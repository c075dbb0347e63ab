//! Batches from claimed messages: full ones at once, a partial one when it has waited long enough, and alone what is
//! suspected to take others down with it. Pure; the time comes in as an argument.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::{Delivery, MessageId};

/// Bodies in one batch, unless one message alone has more. A handler has all of them in its memory.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Messages that are claimed at once. More would be held here, however large they are, before anybody counts their bytes.
const CLAIM_MAX: usize = 128;
/// Suspects that are remembered. Beyond this some are forgotten, and fail with a batch once more.
const SUSPECTS_MAX: usize = 65_536;

/// What one consumer's configuration says about batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchLimits {
    /// Messages of one batch.
    pub(super) size_max: usize,
    /// How long a partial batch waits for more.
    pub(super) wait_max: Duration,
}

/// One claimed message that has not begun.
#[derive(Debug)]
struct Waiting {
    delivery: Delivery,
    /// When it was claimed.
    at: Instant,
}

/// Messages that are handled together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) deliveries: Vec<Delivery>,
    /// When the oldest of them was claimed.
    pub(super) at: Instant,
}

/// Messages that were handled in a batch that failed as a whole, and have to be handled alone. Shared by all workers.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    count: AtomicUsize,
    // A mutex, since workers share it; it is taken only while there are any.
    ids: Mutex<HashSet<MessageId>>,
}

impl Suspects {
    /// Remembers messages. To be called before they can be claimed again.
    pub(super) fn add(&self, messages: impl Iterator<Item = MessageId>) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.len() > SUSPECTS_MAX {
            ids.clear();
        }
        ids.extend(messages);
        self.count.store(ids.len(), Ordering::Release);
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Whether it is one. It is asked about once: then it is handled alone, and nobody is suspected of what that shows.
    fn remove(&self, message: MessageId) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = ids.remove(&message);
        self.count.store(ids.len(), Ordering::Release);
        removed
    }
}

/// What one worker has claimed for a consumer of batches and not begun.
#[derive(Debug)]
pub(super) struct Gathered {
    limits: BatchLimits,
    alone: VecDeque<Waiting>,
    together: VecDeque<Delivery>,
    /// How many of these, from the first one on, were claimed when.
    claims: VecDeque<(usize, Instant)>,
}

impl Gathered {
    pub(super) fn new(limits: BatchLimits) -> Gathered {
        Gathered { limits, alone: VecDeque::new(), together: VecDeque::new(), claims: VecDeque::new() }
    }

    /// Takes in what was claimed.
    pub(super) fn add(&mut self, deliveries: Vec<Delivery>, suspects: &Suspects, at: Instant) {
        let before = self.together.len();
        // Mostly all of them come together to where there were none, and stay where they are.
        if before == 0 && suspects.is_empty() && !deliveries.iter().any(has_failed) {
            self.together = deliveries.into();
        } else {
            for delivery in deliveries {
                if suspects.remove(delivery.message.id) || has_failed(&delivery) {
                    self.alone.push_back(Waiting { delivery, at });
                } else {
                    self.together.push_back(delivery);
                }
            }
        }
        let added = self.together.len() - before;
        if added > 0 {
            self.claims.push_back((added, at));
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.alone.is_empty() && self.together.is_empty()
    }

    /// How many messages are missing for so many full batches.
    pub(super) fn missing(&self, batches: usize) -> usize {
        (batches * self.limits.size_max).saturating_sub(self.together.len()).max(1)
    }

    /// How many of those are to be claimed next: full batches, if that is not too much, so that none has to be put together.
    pub(super) fn to_claim(&self, batches: usize) -> usize {
        let size_max = self.limits.size_max;
        let full = if self.together.is_empty() { CLAIM_MAX / size_max * size_max } else { 0 };
        self.missing(batches).min(if full > 0 { full } else { CLAIM_MAX })
    }

    /// When a partial batch has waited long enough.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let (_, at) = self.claims.front()?;
        Some(*at + self.limits.wait_max)
    }

    /// Up to `max` batches that need not wait any longer.
    pub(super) fn take(&mut self, max: usize, now: Instant) -> Vec<Batch> {
        let mut batches = Vec::new();
        while batches.len() < max {
            let batch = match self.alone.pop_front() {
                Some(Waiting { delivery, at }) => Some(Batch { deliveries: vec![delivery], at }),
                None => self.take_together(now),
            };
            let Some(batch) = batch else { break };
            batches.push(batch);
        }
        batches
    }

    /// Everything, to be given back.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Delivery> {
        self.claims.clear();
        self.alone.drain(..).map(|waiting| waiting.delivery).chain(self.together.drain(..))
    }

    fn take_together(&mut self, now: Instant) -> Option<Batch> {
        let (mut count, mut bytes) = (0, 0);
        let mut full = false;
        for delivery in &self.together {
            bytes += delivery.message.body.len();
            full = count == self.limits.size_max || (count > 0 && bytes > BATCH_BYTES_MAX);
            if full {
                break;
            }
            count += 1;
        }
        full |= count == self.limits.size_max;
        let (_, at) = *self.claims.front()?;
        let is_due = self.due_at().is_some_and(|due_at| due_at <= now);
        if !full && !is_due {
            return None;
        }
        self.forget_claims(count);
        let deliveries = if count == self.together.len() {
            std::mem::take(&mut self.together).into()
        } else {
            let mut deliveries = Vec::with_capacity(count);
            deliveries.extend(self.together.drain(..count));
            deliveries
        };
        Some(Batch { deliveries, at })
    }

    /// The first of them are taken.
    fn forget_claims(&mut self, mut taken: usize) {
        while let Some((count, _)) = self.claims.front_mut() {
            if *count > taken {
                *count -= taken;
                break;
            }
            taken -= *count;
            self.claims.pop_front();
        }
    }
}

/// A message that failed before may be one that takes the whole process down: the others of its batch would lose an attempt
/// each time.
fn has_failed(delivery: &Delivery) -> bool {
    delivery.attempt > 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::sample as delivery;

    fn gathered(size_max: usize) -> Gathered {
        Gathered::new(BatchLimits { size_max, wait_max: Duration::from_secs(1) })
    }

    fn sequences(batches: Vec<Batch>) -> Vec<Vec<u64>> {
        let sequence = |delivery: &Delivery| delivery.message.id.sequence();
        batches.iter().map(|batch| batch.deliveries.iter().map(sequence).collect()).collect()
    }

    #[test]
    fn full_batches_go_at_once_and_a_partial_one_when_it_has_waited() {
        let (mut gathered, suspects, start) = (gathered(3), Suspects::default(), Instant::now());
        gathered.add((0..8).map(|sequence| delivery(sequence, 1, 10)).collect(), &suspects, start);
        assert_eq!(sequences(gathered.take(9, start)), [[0, 1, 2], [3, 4, 5]]);
        assert_eq!(gathered.missing(2), 4);
        assert_eq!(gathered.due_at(), Some(start + Duration::from_secs(1)));
        let almost = start + Duration::from_millis(999);
        assert!(gathered.take(9, almost).is_empty());
        gathered.add(vec![delivery(8, 1, 10)], &suspects, almost);
        assert_eq!(sequences(gathered.take(9, almost)), [[6, 7, 8]]);
        gathered.add(vec![delivery(9, 1, 10)], &suspects, almost);
        assert_eq!(sequences(gathered.take(9, almost + Duration::from_secs(1))), [[9]]);
        assert_eq!(gathered.due_at(), None);
    }

    #[test]
    fn no_more_batches_are_taken_than_there_is_room_for() {
        let (mut gathered, suspects, start) = (gathered(2), Suspects::default(), Instant::now());
        gathered.add((0..6).map(|sequence| delivery(sequence, 1, 10)).collect(), &suspects, start);
        assert_eq!(sequences(gathered.take(2, start)), [[0, 1], [2, 3]]);
        assert_eq!(gathered.take_all().count(), 2);
        assert!(gathered.take(2, start + Duration::from_secs(9)).is_empty());
    }

    #[test]
    fn a_batch_has_no_more_bytes_than_a_handler_can_hold() {
        let (mut gathered, suspects, start) = (gathered(100), Suspects::default(), Instant::now());
        let sizes = [3 << 20, 5 << 20, 1, 20 << 20, 1];
        gathered.add(sizes.iter().zip(0..).map(|(bytes, at)| delivery(at, 1, *bytes)).collect(), &suspects, start);
        assert_eq!(sequences(gathered.take(9, start)), [vec![0, 1], vec![2], vec![3]]);
        assert_eq!(sequences(gathered.take(9, start + Duration::from_secs(1))), [[4]]);
    }

    #[test]
    fn suspects_and_what_failed_before_go_alone_and_first() {
        let (mut gathered, suspects, start) = (gathered(2), Suspects::default(), Instant::now());
        suspects.add([2, 3].map(|sequence| MessageId::new(1, sequence)).into_iter());
        let attempts = [1, 2, 1, 1, 1];
        gathered.add(
            attempts.iter().zip(0..).map(|(attempt, at)| delivery(at, *attempt, 1)).collect(),
            &suspects,
            start,
        );
        assert_eq!(sequences(gathered.take(2, start)), [[1], [2]]);
        assert_eq!(sequences(gathered.take(9, start)), [vec![3], vec![0, 4]]);
        // What it is suspected of has shown by then.
        gathered.add(vec![delivery(2, 1, 1), delivery(3, 1, 1)], &suspects, start);
        assert_eq!(sequences(gathered.take(9, start)), [[2, 3]]);
    }

    #[test]
    fn suspects_are_not_remembered_without_end() {
        let suspects = Suspects::default();
        for round in 0..5 {
            suspects.add((0..SUSPECTS_MAX as u64).map(|sequence| MessageId::new(round, sequence)));
        }
        assert!(suspects.count.load(Ordering::Relaxed) <= 2 * SUSPECTS_MAX);
    }
}
