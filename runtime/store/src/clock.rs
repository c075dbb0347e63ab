//! Time as an argument: the store reads no clock but this one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds of the Unix epoch.
    fn now_ms(&self) -> u64;

    /// The same at less cost, as of some milliseconds ago at most.
    fn lately_ms(&self) -> u64 {
        self.now_ms()
    }
}

/// The machine's clock: wall time when it was made, and the monotonic clock since. So a wall clock that is set while
/// the process runs moves nothing that is due.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    made_at: Instant,
    made_at_ms: u64,
    #[cfg(target_os = "linux")]
    made_at_tick_ms: u64,
}

impl SystemClock {
    /// Reads the wall clock.
    pub fn new() -> SystemClock {
        // A clock before 1970 is a broken clock; the store goes on as if it stood at the epoch.
        let made_at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        SystemClock {
            made_at: Instant::now(),
            made_at_ms,
            #[cfg(target_os = "linux")]
            made_at_tick_ms: tick_ms(),
        }
    }
}

/// The monotonic clock as of the kernel's last tick, which is at most 10 ms ago: to read it takes a few nanoseconds where the
/// clock itself takes 30.
#[cfg(target_os = "linux")]
fn tick_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
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

    #[cfg(target_os = "linux")]
    fn lately_ms(&self) -> u64 {
        self.made_at_ms + tick_ms().saturating_sub(self.made_at_tick_ms)
    }
}

/// A store's clock: the machine's, unless that has gone back since the store was last open. Then it goes on from the latest
/// time that the log tells.
///
/// Due times are on disk as times of this clock. If it went back with the machine's (a battery that is empty, a clock that
/// was a year ahead and is set right), messages would wait for as long as that longer. As it is, none waits longer than
/// it was told to, not counting the time for which the store is closed. The process keeps what it is ahead by; the next
/// one looks anew, so it ends once the machine's clock has caught up.
pub(crate) struct StoreClock {
    clock: Arc<dyn Clock>,
    ahead_ms: u64,
}

impl StoreClock {
    /// It was `latest_ms` already.
    pub(crate) fn new(clock: Arc<dyn Clock>, latest_ms: u64) -> StoreClock {
        let ahead_ms = latest_ms.saturating_sub(clock.now_ms());
        StoreClock { clock, ahead_ms }
    }
}

impl Clock for StoreClock {
    fn now_ms(&self) -> u64 {
        self.clock.now_ms().saturating_add(self.ahead_ms)
    }

    fn lately_ms(&self) -> u64 {
        self.clock.lately_ms().saturating_add(self.ahead_ms)
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
