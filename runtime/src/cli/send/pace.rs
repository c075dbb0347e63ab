//! `--rate`: no more messages a second than asked for.

use std::thread;
use std::time::{Duration, Instant};

/// A rate as people write it.
pub(super) fn rate(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    number.parse().ok().filter(|rate| *rate > 0).ok_or_else(|| "write messages a second, such as 100/s".to_owned())
}

/// Holds a sender to a rate.
pub(super) struct Pace {
    rate: u32,
    started: Instant,
}

impl Pace {
    /// The count starts now.
    pub(super) fn new(rate: u32) -> Pace {
        Pace { rate, started: Instant::now() }
    }

    /// Messages that are sent at once: what comes in a tenth of a second, so that the rate is even.
    pub(super) fn batch_max(&self) -> usize {
        (self.rate as usize / 10).max(1)
    }

    /// Waits until as many as were sent may have been sent.
    pub(super) fn wait(&self, sent: u64) {
        thread::sleep(self.due(sent).saturating_sub(self.started.elapsed()));
    }

    fn due(&self, sent: u64) -> Duration {
        Duration::from_secs_f64(sent as f64 / f64::from(self.rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_messages_a_second() {
        assert_eq!(rate("100/s"), Ok(100));
        assert_eq!(rate("7"), Ok(7));
        for wrong in ["", "0", "0/s", "-1", "1.5", "100/m", "/s"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        let pace = Pace::new(50);
        assert_eq!((pace.batch_max(), pace.due(100)), (5, Duration::from_secs(2)));
        assert_eq!(Pace::new(3).batch_max(), 1);
    }
}
