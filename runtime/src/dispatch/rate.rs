//! `rate_limit`: how many messages a consumer's handlers begin with, on all workers of this process together.
//!
//! A token bucket: it fills steadily, a message takes one token, and what it holds at most is what comes in within a tenth
//! of a second, or one message (or one batch, see [`Rate::new`]) if that is more. Tokens are taken before messages are
//! claimed, so that none is leased while it waits for its turn; what is not used goes back.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::gather::BatchLimits;
use crate::config::RateLimit;

/// So much of its rate can be made up for at once after a pause.
const BURST: Duration = Duration::from_millis(100);

/// The limit of one consumer, shared by all its pullers.
pub(super) struct Rate {
    // A mutex, since workers share it; it is taken twice for each claim.
    bucket: Mutex<Bucket>,
    /// Told when tokens are given back, or spent.
    changed: Notify,
}

/// How many messages may be claimed. What is not spent goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Allowance {
    /// None if there is no limit.
    rate: Option<Arc<Rate>>,
    messages: usize,
}

/// Pure; the time comes in as an argument.
#[derive(Debug)]
struct Bucket {
    limit: RateLimit,
    /// Messages that one call is worth waiting for.
    batch: u64,
    /// Tokens that it holds at most, those that are reserved included.
    burst: u64,
    /// Of a token, in parts of which the limit's period has one for each nanosecond: so nothing is ever rounded.
    level: u128,
    /// Tokens that were taken and are neither spent nor given back.
    reserved: u64,
    /// Up to when it was filled.
    filled_at: Instant,
}

impl Rate {
    /// A batch is waited for as a whole, but not longer than for a partial one: what a limit lets through comes in batches
    /// as if messages were sent that fast.
    pub(super) fn new(limit: RateLimit, batches: Option<BatchLimits>) -> Rate {
        Rate { bucket: Mutex::new(Bucket::new(limit, batches, Instant::now())), changed: Notify::new() }
    }

    /// The same for another limit. What was taken before still counts.
    pub(super) fn change(&self, limit: RateLimit, batches: Option<BatchLimits>) {
        self.bucket().change(limit, batches, Instant::now());
        self.changed.notify_waiters();
    }

    /// Waits until a call is worth making, and takes at most `max`.
    async fn reserve(&self, max: usize) -> usize {
        loop {
            // Made before looking, so that it hears of what happens meanwhile.
            let changed = self.changed.notified();
            let missing_until = match self.bucket().reserve(max, Instant::now()) {
                Ok(messages) => return messages,
                Err(until) => until,
            };
            match missing_until {
                // Whichever comes first is a reason to look again.
                Some(until) => _ = timeout_at(until, changed).await,
                None => changed.await,
            }
        }
    }

    /// So many messages were claimed, and did not begin.
    pub(super) fn refund(&self, messages: usize) {
        self.bucket().refund(messages, Instant::now());
        self.changed.notify_waiters();
    }

    fn give_back(&self, messages: usize) {
        self.bucket().give_back(messages, Instant::now());
        self.changed.notify_waiters();
    }

    /// Those that are reserved make room for others, too.
    fn spend(&self, messages: usize) {
        self.bucket().spend(messages, Instant::now());
        self.changed.notify_waiters();
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bucket().fmt(f)
    }
}

impl Allowance {
    /// Waits until there is something to take for one call at least, and takes at most `max`: all of it, without a limit.
    pub(super) async fn wait(rate: Option<&Arc<Rate>>, max: usize) -> Allowance {
        let messages = match rate {
            Some(rate) => rate.reserve(max.max(1)).await,
            None => max,
        };
        Allowance { rate: rate.cloned(), messages }
    }

    /// What there is now, and at most `max`: all of it, without a limit.
    pub(super) fn now(rate: Option<&Arc<Rate>>, max: usize) -> Allowance {
        let messages = match rate {
            Some(rate) => rate.bucket().reserve_any(max, Instant::now()),
            None => max,
        };
        Allowance { rate: rate.cloned(), messages }
    }

    /// Keeps no more than this, and says how many that are.
    pub(super) fn cut(&mut self, max: usize) -> usize {
        if self.messages > max {
            let rest = self.messages - max;
            self.rate.iter().for_each(|rate| rate.give_back(rest));
            self.messages = max;
        }
        self.messages
    }

    /// Whether there is nothing left, and that because of the limit.
    pub(super) fn is_used_up(&self) -> bool {
        self.rate.is_some() && self.messages == 0
    }

    /// Of `max`, those that are allowed.
    pub(super) fn of(&self, max: usize) -> usize {
        if self.rate.is_some() { self.messages.min(max) } else { max }
    }

    /// So many messages have been claimed.
    pub(super) fn spend(&mut self, messages: usize) {
        if let Some(rate) = &self.rate {
            rate.spend(messages);
            self.messages = self.messages.saturating_sub(messages);
        }
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        self.cut(0);
    }
}

impl Bucket {
    fn new(limit: RateLimit, batches: Option<BatchLimits>, now: Instant) -> Bucket {
        let mut bucket = Bucket { limit, batch: 1, burst: 1, level: 0, reserved: 0, filled_at: now };
        bucket.size(batches);
        bucket.level = bucket.full();
        bucket
    }

    fn change(&mut self, limit: RateLimit, batches: Option<BatchLimits>, now: Instant) {
        self.fill(now);
        let (before, after) = (self.parts(), limit.per.as_nanos());
        // The parts of a token are other ones now.
        self.level = self.level / before * after + self.level % before * after / before;
        self.limit = limit;
        self.size(batches);
        self.level = self.level.min(self.full());
    }

    fn size(&mut self, batches: Option<BatchLimits>) {
        let batch = batches.map_or(1, |limits| self.within(limits.wait_max).clamp(1, limits.size_max as u64));
        (self.batch, self.burst) = (batch, self.within(BURST).max(batch));
    }

    /// At least one call's worth, or when there will be so much: never, unless something is given back.
    fn reserve(&mut self, max: usize, now: Instant) -> Result<usize, Option<Instant>> {
        self.fill(now);
        let worth = self.batch.min(max as u64);
        let missing = (u128::from(worth) * self.parts()).saturating_sub(self.level);
        if missing > 0 {
            let comes = self.reserved + worth <= self.burst;
            let wait = missing.div_ceil(u128::from(self.limit.messages));
            let wait = Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX));
            return Err(if comes { self.filled_at.checked_add(wait) } else { None });
        }
        Ok(self.take(max))
    }

    fn reserve_any(&mut self, max: usize, now: Instant) -> usize {
        self.fill(now);
        self.take(max)
    }

    fn take(&mut self, max: usize) -> usize {
        let tokens = (self.level / self.parts()).min(max as u128);
        self.level -= tokens * self.parts();
        // No more than `max`, which was one.
        self.reserved += tokens as u64;
        tokens as usize
    }

    /// What made no room for more until now comes in from now on.
    fn spend(&mut self, messages: usize, now: Instant) {
        self.fill(now);
        self.reserved = self.reserved.saturating_sub(messages as u64);
    }

    fn give_back(&mut self, messages: usize, now: Instant) {
        self.spend(messages, now);
        self.refund(messages, now);
    }

    fn refund(&mut self, messages: usize, now: Instant) {
        self.fill(now);
        self.level = (self.level + messages as u128 * self.parts()).min(self.full());
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at);
        self.filled_at += elapsed;
        self.level = (self.level + self.filled_in(elapsed)).min(self.full());
    }

    /// Whole tokens that come in within a time.
    fn within(&self, time: Duration) -> u64 {
        u64::try_from(self.filled_in(time) / self.parts()).unwrap_or(u64::MAX)
    }

    fn filled_in(&self, time: Duration) -> u128 {
        time.as_nanos() * u128::from(self.limit.messages)
    }

    fn full(&self) -> u128 {
        u128::from(self.burst.saturating_sub(self.reserved)) * self.parts()
    }

    fn parts(&self) -> u128 {
        self.limit.per.as_nanos().max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(messages: u64, seconds: u64) -> RateLimit {
        RateLimit { messages, per: Duration::from_secs(seconds) }
    }

    fn batches(size_max: usize, wait_ms: u64) -> Option<BatchLimits> {
        Some(BatchLimits { size_max, wait_max: Duration::from_millis(wait_ms) })
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn after_a_small_burst_messages_come_evenly() {
        let start = Instant::now();
        let mut bucket = Bucket::new(limit(100, 1), None, start);
        assert_eq!(bucket.reserve(50, start), Ok(10));
        bucket.spend(10, start);
        assert_eq!(bucket.reserve(50, start), Err(Some(start + ms(10))));
        assert_eq!(bucket.reserve(50, start + ms(9)), Err(Some(start + ms(10))));
        assert_eq!(bucket.reserve(50, start + ms(35)), Ok(3));
        bucket.spend(3, start + ms(35));
        // The half of a token that was there then is not lost.
        assert_eq!(bucket.reserve(50, start + ms(40)), Ok(1));
        bucket.spend(1, start + ms(40));
        assert_eq!(bucket.reserve(50, start + ms(9_000)), Ok(10));
    }

    #[test]
    fn what_is_not_used_goes_back_and_counts_until_then() {
        let start = Instant::now();
        let mut bucket = Bucket::new(limit(1, 3600), None, start);
        assert_eq!(bucket.reserve(9, start), Ok(1));
        // Nothing comes in while one that may be all that there is waits for a message.
        let later = start + Duration::from_secs(7200);
        assert_eq!(bucket.reserve(9, later), Err(None));
        bucket.give_back(1, later);
        assert_eq!(bucket.reserve(9, later), Ok(1));
        bucket.spend(1, later);
        assert_eq!(bucket.reserve(9, later), Err(Some(later + Duration::from_secs(3600))));
    }

    #[test]
    fn a_batch_is_what_comes_in_while_a_partial_one_waits() {
        let start = Instant::now();
        for (limits, batch, burst) in [
            (batches(100, 1000), 10, 10),
            (batches(5, 1000), 5, 5),
            (batches(5, 0), 1, 1),
            (batches(1000, 60_000), 600, 600),
            (None, 1, 1),
        ] {
            let bucket = Bucket::new(limit(10, 1), limits, start);
            assert_eq!((bucket.batch, bucket.burst), (batch, burst), "{limits:?}");
        }
        let mut bucket = Bucket::new(limit(10, 1), batches(5, 1000), start);
        assert_eq!(bucket.reserve(20, start), Ok(5));
        bucket.spend(5, start);
        assert_eq!(bucket.reserve(20, start + ms(400)), Err(Some(start + ms(500))));
        assert_eq!(bucket.reserve_any(20, start + ms(400)), 4);
        // What is missing of a batch is less than a batch.
        bucket.spend(4, start + ms(400));
        assert_eq!(bucket.reserve(1, start + ms(500)), Ok(1));
    }

    #[test]
    fn another_limit_makes_no_tokens() {
        let start = Instant::now();
        let mut bucket = Bucket::new(limit(1000, 1), None, start);
        assert_eq!(bucket.reserve(100, start), Ok(100));
        bucket.spend(100, start);
        bucket.change(limit(60, 60), None, start);
        assert_eq!(bucket.reserve(1, start), Err(Some(start + ms(1000))));
        // Half a token stays half a token.
        bucket.change(limit(3600, 3600), None, start + ms(500));
        assert_eq!(bucket.reserve(1, start + ms(500)), Err(Some(start + ms(1000))));
        bucket.change(limit(1_000_000, 1), None, start + ms(500));
        assert_eq!(bucket.reserve(1, start + ms(501)), Ok(1));
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_what_is_given_back() {
        let rate = Arc::new(Rate::new(limit(1, 3600), None));
        let first = Allowance::wait(Some(&rate), 7).await;
        assert_eq!((first.of(7), first.is_used_up()), (1, false));
        let waiting = tokio::spawn({
            let rate = rate.clone();
            async move { Allowance::wait(Some(&rate), 1).await.of(1) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        assert_eq!(waiting.await.unwrap(), 1);

        // One that is given up while it waits takes nothing with it.
        let mut second = Allowance::wait(Some(&rate), 1).await;
        let given_up = tokio::time::timeout(ms(1), Allowance::wait(Some(&rate), 1)).await;
        assert!(given_up.is_err());
        second.spend(1);
        assert!(second.is_used_up());
        drop(second);
        rate.change(limit(1_000_000, 1), None);
        assert_eq!(Allowance::wait(Some(&rate), 1).await.of(1), 1);

        // As one that only makes room for the next does.
        let rate = Arc::new(Rate::new(limit(20, 1), None));
        let mut both = Allowance::wait(Some(&rate), 2).await;
        let waiting = tokio::spawn({
            let rate = rate.clone();
            async move { Allowance::wait(Some(&rate), 1).await.of(1) }
        });
        tokio::task::yield_now().await;
        both.spend(2);
        assert_eq!(waiting.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn without_a_limit_everything_is_allowed() {
        let mut all = Allowance::wait(None, 5).await;
        all.spend(5);
        assert_eq!((all.of(9), all.is_used_up(), all.cut(3)), (9, false, 3));
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A worker asks for so many, and gets so many of them.
        Claim(usize, usize, usize),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0usize..3, 1usize..40, 0usize..40).prop_map(|(worker, max, found)| Step::Claim(worker, max, found)),
            (0u64..300).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn no_time_sees_more_than_its_share_and_a_burst(
            messages in 1u64..2000, seconds in 1u64..100, steps in proptest::collection::vec(step(), 1..200),
        ) {
            let (limit, start) = (limit(messages, seconds), Instant::now());
            let mut bucket = Bucket::new(limit, None, start);
            let (mut now, mut held) = (start, [0usize; 3]);
            let mut begun: Vec<(Instant, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Pass(passed) => now += ms(passed),
                    // What a worker has waited with for messages is used or given back before it asks again.
                    Step::Claim(worker, max, found) => {
                        let used = found.min(held[worker]);
                        bucket.spend(used, now);
                        bucket.give_back(held[worker] - used, now);
                        begun.push((now, used as u64));
                        held[worker] = bucket.reserve(max, now).unwrap_or(0);
                        prop_assert!(held[worker] <= max);
                    }
                }
            }
            for (from, (since, _)) in begun.iter().enumerate() {
                let mut sum = 0;
                for (at, messages) in &begun[from..] {
                    sum += messages;
                    let share = (*at - *since).as_nanos() * u128::from(limit.messages) / limit.per.as_nanos();
                    prop_assert!(u128::from(sum) <= share + 1 + u128::from(bucket.burst));
                }
            }
        }
    }
}
