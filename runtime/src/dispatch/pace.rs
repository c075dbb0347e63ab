//! How many messages are claimed at once: about as many as keep a worker busy for a few milliseconds. Fewer cost more
//! calls than they are worth; more would wait on this worker while another one has nothing to do.

use std::time::Duration;

/// The work that one claim should bring.
const WORK: Duration = Duration::from_millis(5);
/// The most that is claimed at once.
const CLAIM_MAX: u64 = 128;

/// The average running time of a consumer's handlers on one worker.
#[derive(Debug)]
pub(super) struct Pace {
    average_ns: u64,
}

impl Pace {
    /// Nothing is known yet: one at a time.
    pub(super) fn new() -> Pace {
        Pace { average_ns: WORK.as_nanos() as u64 }
    }

    /// A handler has run so long. The newest eight or so count.
    pub(super) fn ran(&mut self, elapsed: Duration) {
        let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.average_ns = self.average_ns - self.average_ns / 8 + elapsed_ns / 8;
    }

    /// How many to claim if there are permits for as many.
    pub(super) fn claim(&self) -> usize {
        (WORK.as_nanos() as u64 / self.average_ns.max(1)).clamp(1, CLAIM_MAX) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_handlers_are_claimed_for_in_bulk_and_slow_ones_one_by_one() {
        let mut pace = Pace::new();
        assert_eq!(pace.claim(), 1);
        for _ in 0..200 {
            pace.ran(Duration::from_micros(10));
        }
        assert_eq!(pace.claim(), 128);
        for _ in 0..200 {
            pace.ran(Duration::from_micros(500));
        }
        assert!((9..=10).contains(&pace.claim()), "{}", pace.claim());
        pace.ran(Duration::MAX);
        assert_eq!(pace.claim(), 1);
    }
}
