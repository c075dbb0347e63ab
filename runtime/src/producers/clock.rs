//! The time of day, as an argument.

use std::time::Duration;

use crate::broker::Pending;
use crate::time::now_ms;

/// A clock, and a way to wait for it.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds of the Unix epoch.
    fn now_ms(&self) -> u64;

    /// Waits for so long, or less: whoever waits looks at the clock again.
    fn sleep(&self, duration: Duration) -> Pending<'_, ()>;
}

/// The system's.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn sleep(&self, duration: Duration) -> Pending<'_, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}
