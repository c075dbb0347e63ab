//! Time as an argument: the store reads no clock but this one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds of the Unix epoch.
    fn now_ms(&self) -> u64;
}

/// The machine's clock: wall time when it was made, and the monotonic clock since. So a wall clock that is set while
/// the process runs moves nothing that is due.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    made_at: Instant,
    made_at_ms: u64,
}

impl SystemClock {
    /// Reads the wall clock.
    pub fn new() -> SystemClock {
        // A clock before 1970 is a broken clock; the store goes on as if it stood at the epoch.
        let made_at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        SystemClock { made_at: Instant::now(), made_at_ms }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        self.made_at_ms + self.made_at.elapsed().as_millis() as u64
    }
}

/// A clock that stands still until it is set, for tests and simulations.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that shows `now_ms`.
    pub fn new(now_ms: u64) -> ManualClock {
        ManualClock(AtomicU64::new(now_ms))
    }

    /// Sets it.
    pub fn set(&self, now_ms: u64) {
        self.0.store(now_ms, Ordering::Relaxed);
    }

    /// Moves it forward.
    pub fn advance(&self, by_ms: u64) {
        self.0.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
