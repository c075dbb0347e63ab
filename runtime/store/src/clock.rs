//! Time as an argument: the store reads no clock but this one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(target_os = "linux")]
use rustix::time::ClockId;

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds of the Unix epoch.
    fn now_ms(&self) -> u64;

    /// The same at less cost, as of some milliseconds ago at most.
    fn lately_ms(&self) -> u64 {
        self.now_ms()
    }
}

/// The machine's clock: wall time when it was made, and what has passed since. So a wall clock that is set while the process
/// runs moves nothing that is due. On Linux the time for which the machine sleeps counts.
#[derive(Debug)]
pub struct SystemClock {
    made_at_ms: u64,
    #[cfg(not(target_os = "linux"))]
    made_at: std::time::Instant,
    #[cfg(target_os = "linux")]
    passed: Passed,
}

impl SystemClock {
    /// Reads the wall clock.
    pub fn new() -> SystemClock {
        // A clock before 1970 is a broken clock; the store goes on as if it stood at the epoch.
        let made_at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        SystemClock {
            made_at_ms,
            #[cfg(not(target_os = "linux"))]
            made_at: std::time::Instant::now(),
            #[cfg(target_os = "linux")]
            passed: Passed::new(read_ms(ClockId::Boottime), read_ms(ClockId::MonotonicCoarse)),
        }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    #[cfg(target_os = "linux")]
    fn now_ms(&self) -> u64 {
        self.made_at_ms + self.passed.exactly(read_ms(ClockId::Boottime), read_ms(ClockId::MonotonicCoarse))
    }

    #[cfg(not(target_os = "linux"))]
    fn now_ms(&self) -> u64 {
        self.made_at_ms + self.made_at.elapsed().as_millis() as u64
    }

    #[cfg(target_os = "linux")]
    fn lately_ms(&self) -> u64 {
        self.made_at_ms + self.passed.lately(read_ms(ClockId::MonotonicCoarse))
    }
}

#[cfg(target_os = "linux")]
fn read_ms(clock: ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// What has passed since it was made, by two clocks. The one of the time since boot counts sleep. The monotonic one as of the
/// kernel's last tick, which is at most 10 ms ago, does not, but to read it takes a few nanoseconds where the other takes 30.
/// So each reading of the first tells how long the machine has slept, for those of the second.
#[cfg(target_os = "linux")]
#[derive(Debug)]
struct Passed {
    since_boot_ms: u64,
    since_tick_ms: u64,
    slept_ms: AtomicU64,
}

#[cfg(target_os = "linux")]
impl Passed {
    /// The clocks differ by less, but for sleep.
    const TICK_MS_MAX: u64 = 20;

    fn new(boot_ms: u64, tick_ms: u64) -> Passed {
        Passed { since_boot_ms: boot_ms, since_tick_ms: tick_ms, slept_ms: AtomicU64::new(0) }
    }

    fn exactly(&self, boot_ms: u64, tick_ms: u64) -> u64 {
        let passed_ms = boot_ms.saturating_sub(self.since_boot_ms);
        let behind_ms = passed_ms.saturating_sub(self.lately(tick_ms));
        if behind_ms > Self::TICK_MS_MAX {
            // Whoever else sees it now comes to the same, within a tick.
            let awake_ms = tick_ms.saturating_sub(self.since_tick_ms);
            self.slept_ms.fetch_max(passed_ms - awake_ms, Ordering::Relaxed);
        }
        passed_ms
    }

    fn lately(&self, tick_ms: u64) -> u64 {
        tick_ms.saturating_sub(self.since_tick_ms) + self.slept_ms.load(Ordering::Relaxed)
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_tell_the_time_agree() {
        let clock = SystemClock::new();
        for _ in 0..100 {
            let (lately_ms, now_ms) = (clock.lately_ms(), clock.now_ms());
            assert!(now_ms.abs_diff(lately_ms) < 1000, "{lately_ms}, {now_ms}");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(clock.passed.slept_ms.into_inner() < 1000, "nothing has slept but this thread");
    }

    #[test]
    fn what_the_machine_has_slept_counts() {
        const NIGHT_MS: u64 = 8 * 3_600_000;
        let passed = Passed::new(5000, 4000);
        assert_eq!((passed.exactly(5100, 4095), passed.lately(4095)), (100, 95));
        for night in 1..3 {
            let slept_ms = night * NIGHT_MS;
            assert_eq!(passed.exactly(5200 + slept_ms, 4195), 200 + slept_ms);
            // It knows by now, and is never ahead by more than a tick.
            assert_eq!(passed.lately(4195), 200 + slept_ms);
            assert_eq!((passed.exactly(5300 + slept_ms, 4295), passed.lately(4295)), (300 + slept_ms, 300 + slept_ms));
        }
    }
}
