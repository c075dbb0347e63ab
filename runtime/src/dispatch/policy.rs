//! From a handler's outcome to what is put on record: backoff, attempts, dead letters. Pure; time and randomness come
//! in as arguments.

use std::time::Duration;

use crate::config::ConsumerConfig;
use crate::dead_letter::Facts;
use crate::delivery::{Outcome, QueueName, Resolution};

/// The longest that a message can be put off, whoever asks for it.
pub const DELAY_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What one consumer's configuration says about failures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The consumer.
    pub consumer: Box<str>,
    /// The queue that it works off.
    pub queue: QueueName,
    /// Attempts after the first.
    pub retries_max: u32,
    /// The base of the backoff.
    pub retry_delay: Duration,
    /// The backoff's ceiling.
    pub retry_delay_max: Duration,
    /// Where dead letters go.
    pub dead_letter_queue: QueueName,
}

/// The attempt that is judged.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// 1 for the first.
    pub number: u32,
    /// When an attempt of this message first failed, in milliseconds of the Unix epoch; none if this one is the first.
    pub first_failed_at_ms: Option<u64>,
    /// When this one ended, in milliseconds of the Unix epoch.
    pub ended_at_ms: u64,
    /// The SHA-256 of the module, in hexadecimal.
    pub module_hash: &'a str,
    /// What it last wrote to stderr.
    pub stderr: &'a str,
}

impl Policy {
    /// The part of a consumer's configuration that counts here.
    pub fn new(config: &ConsumerConfig) -> Policy {
        Policy {
            consumer: config.name.as_str().into(),
            queue: config.queue.clone(),
            retries_max: config.max_retries,
            retry_delay: config.retry_delay,
            retry_delay_max: config.retry_delay_max,
            dead_letter_queue: config.dead_letter_queue.clone(),
        }
    }

    /// What becomes of a message whose handler ended with `outcome`. `random` is any number, each equally likely.
    pub fn resolve(&self, outcome: Outcome, attempt: Attempt<'_>, random: u64) -> Resolution {
        match outcome {
            Outcome::Ack => Resolution::Ack,
            Outcome::Snooze { after } => Resolution::Snooze { delay: after.min(DELAY_MAX) },
            Outcome::DeadLetter { reason } => self.dead_letter(&reason, attempt),
            Outcome::Retry { reason, .. } if attempt.number > self.retries_max => self.dead_letter(&reason, attempt),
            // The handler knows better than a formula, a rate limit's "come back in 17 seconds" for one.
            Outcome::Retry { after: Some(after), .. } => Resolution::Retry { delay: after.min(DELAY_MAX) },
            Outcome::Retry { after: None, .. } => Resolution::Retry { delay: self.backoff(attempt.number - 1, random) },
        }
    }

    /// The reason for a message that must not be handed out any more, although nobody gave it up: its last attempt
    /// began and never ended, because it took the process down or its lease ran out.
    pub fn exhausted(&self, attempt: u32) -> Option<String> {
        (attempt > self.retries_max.saturating_add(1))
            .then(|| format!("the process ended, or the lease expired, during attempt {}", attempt - 1))
    }

    /// To the dead-letter queue, with the facts.
    pub fn dead_letter(&self, reason: &str, attempt: Attempt<'_>) -> Resolution {
        let facts = Facts {
            source_queue: &self.queue,
            consumer: &self.consumer,
            module_hash: attempt.module_hash,
            attempts: attempt.number,
            reason,
            stderr: attempt.stderr,
            first_failed_at_ms: attempt.first_failed_at_ms.unwrap_or(attempt.ended_at_ms),
            last_failed_at_ms: attempt.ended_at_ms,
        };
        Resolution::DeadLetter { queue: self.dead_letter_queue.clone(), facts: facts.attributes() }
    }

    /// A random share of min(ceiling, base * 2^failures). "Full jitter" spreads the retries of messages that failed
    /// together evenly over the whole delay: <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>.
    fn backoff(&self, failures: u32, random: u64) -> Duration {
        let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
        let ceiling = self.retry_delay.saturating_mul(factor).min(self.retry_delay_max).min(DELAY_MAX);
        // DELAY_MAX is below 2^55 nanoseconds: neither conversion can lose anything.
        Duration::from_nanos(((ceiling.as_nanos() * u128::from(random)) >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dead_letter;

    fn policy() -> Policy {
        Policy {
            consumer: "welcome".into(),
            queue: QueueName::new("signups").unwrap(),
            retries_max: 4,
            retry_delay: Duration::from_secs(1),
            retry_delay_max: Duration::from_secs(600),
            dead_letter_queue: QueueName::new("signups.dead").unwrap(),
        }
    }

    fn attempt(number: u32) -> Attempt<'static> {
        Attempt {
            number,
            first_failed_at_ms: (number > 1).then_some(1_000),
            ended_at_ms: 5_000,
            module_hash: "abc",
            stderr: "oh no\n",
        }
    }

    fn retry(after: Option<Duration>) -> Outcome {
        Outcome::Retry { reason: "smtp: 451".into(), after }
    }

    fn fact<'a>(facts: &'a [(Box<str>, Box<str>)], name: &str) -> &'a str {
        facts.iter().find(|(one, _)| **one == *name).map(|(_, value)| &**value).unwrap()
    }

    #[test]
    fn an_ack_and_a_snooze_use_up_no_attempt() {
        assert_eq!(policy().resolve(Outcome::Ack, attempt(5), 0), Resolution::Ack);
        let after = Duration::from_secs(3);
        assert_eq!(policy().resolve(Outcome::Snooze { after }, attempt(5), 0), Resolution::Snooze { delay: after });
    }

    #[test]
    fn the_delay_doubles_up_to_its_ceiling() {
        let longest = |failures| policy().backoff(failures, u64::MAX).as_secs_f64().round() as u64;
        assert_eq!([0, 1, 2, 3, 9, 10, 31, 32, 1_000].map(longest), [1, 2, 4, 8, 512, 600, 600, 600, 600]);
        assert_eq!(policy().backoff(3, 0), Duration::ZERO);
        assert_eq!(policy().backoff(3, 1 << 63), Duration::from_secs(4));
    }

    #[test]
    fn the_handlers_own_delay_is_taken_as_it_is_up_to_a_year() {
        let delay = Duration::from_secs(86_400);
        assert_eq!(policy().resolve(retry(Some(delay)), attempt(1), 7), Resolution::Retry { delay });
        assert_eq!(policy().resolve(retry(Some(Duration::MAX)), attempt(1), 7), Resolution::Retry { delay: DELAY_MAX });
    }

    #[test]
    fn the_last_attempt_ends_in_a_dead_letter_with_the_last_failures_reason() {
        assert!(matches!(policy().resolve(retry(None), attempt(4), 7), Resolution::Retry { .. }));
        for outcome in [retry(None), retry(Some(Duration::ZERO))] {
            let Resolution::DeadLetter { queue, facts } = policy().resolve(outcome, attempt(5), 7) else { panic!() };
            assert_eq!(queue.as_str(), "signups.dead");
            assert_eq!(fact(&facts, dead_letter::SOURCE_QUEUE), "signups");
            assert_eq!(fact(&facts, dead_letter::CONSUMER), "welcome");
            assert_eq!(fact(&facts, dead_letter::MODULE_HASH), "abc");
            assert_eq!(fact(&facts, dead_letter::ATTEMPTS), "5");
            assert_eq!(fact(&facts, dead_letter::REASON), "smtp: 451");
            assert_eq!(fact(&facts, dead_letter::STDERR), "oh no\n");
            assert_eq!(fact(&facts, dead_letter::FIRST_FAILED_AT), "1970-01-01T00:00:01.000Z");
            assert_eq!(fact(&facts, dead_letter::LAST_FAILED_AT), "1970-01-01T00:00:05.000Z");
        }
    }

    #[test]
    fn a_handler_can_give_up_at_once() {
        let outcome = Outcome::DeadLetter { reason: "no such user".into() };
        let Resolution::DeadLetter { facts, .. } = policy().resolve(outcome, attempt(1), 7) else { panic!() };
        assert_eq!(fact(&facts, dead_letter::REASON), "no such user");
        assert_eq!(fact(&facts, dead_letter::FIRST_FAILED_AT), fact(&facts, dead_letter::LAST_FAILED_AT));
    }

    #[test]
    fn an_attempt_beyond_the_last_names_the_one_that_never_ended() {
        assert_eq!(policy().exhausted(5), None);
        let reason = policy().exhausted(6).unwrap();
        assert!(reason.ends_with("during attempt 5"), "{reason}");
        assert_eq!(Policy { retries_max: u32::MAX, ..policy() }.exhausted(u32::MAX), None);
    }

    proptest! {
        #[test]
        fn a_backoff_is_never_longer_than_the_formula_says(
            base_ms in 0u64..10_000_000, max_ms in 0u64..100_000_000_000, failures in 0u32..200, random: u64,
        ) {
            let policy = Policy {
                retry_delay: Duration::from_millis(base_ms),
                retry_delay_max: Duration::from_millis(max_ms),
                ..policy()
            };
            let formula_ms = (f64::from(base_ms as u32) * 2f64.powi(failures as i32)).min(max_ms as f64);
            let backoff = policy.backoff(failures, random);
            prop_assert!(backoff.as_secs_f64() * 1e3 <= formula_ms + 1e-3);
            prop_assert!(backoff <= DELAY_MAX);
            // The random number is used up evenly: half of its range is half of the delay.
            let half = policy.backoff(failures, random / 2).as_nanos();
            prop_assert!(half.abs_diff(backoff.as_nanos() / 2) <= 1);
        }

        #[test]
        fn every_message_ends_after_at_most_all_of_its_attempts(retries_max in 0u32..50, random: u64) {
            let policy = Policy { retries_max, ..policy() };
            let mut number = 1;
            while let Resolution::Retry { .. } = policy.resolve(retry(None), attempt(number), random) {
                prop_assert_eq!(policy.exhausted(number), None);
                number += 1;
            }
            prop_assert_eq!(number, retries_max + 1);
            prop_assert!(policy.exhausted(number + 1).is_some());
        }
    }
}
