//! The CPU time of one delivery. It is looked at only when the guest has computed through an epoch's end, so that a short
//! delivery costs nothing: from then on, the time that its thread works for it is measured exactly. What was before that,
//! less than a tick, is not counted: so no delivery fails that has used less than its limit, and one that goes over it
//! is ended within two ticks of computing.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use rustix::time::{ClockId, clock_gettime};

use super::limits::Exceeded;
use crate::config::units::format_duration;

/// The time used. Written and read by one thread; atomic since a store has to be `Send`.
#[derive(Debug, Default)]
pub(super) struct CpuTime {
    measuring: AtomicBool,
    /// Nanoseconds up to the last time that the delivery had the thread.
    used: AtomicU64,
    /// The thread's clock when the delivery got it.
    resumed_at: AtomicU64,
}

impl CpuTime {
    /// Starts anew, for another delivery.
    pub(super) fn begin(&self) {
        self.measuring.store(false, Ordering::Relaxed);
    }

    /// The guest has computed through the end of an epoch.
    pub(super) fn tick(&self, limit: Duration) -> Result<(), Exceeded> {
        if !self.measuring.swap(true, Ordering::Relaxed) {
            self.used.store(0, Ordering::Relaxed);
            self.resumed_at.store(thread_time(), Ordering::Relaxed);
        }
        if self.now() > nanoseconds(limit) {
            return Err(Exceeded::new("limits.cpu_time", format_duration(limit)));
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        self.used.load(Ordering::Relaxed) + thread_time().saturating_sub(self.resumed_at.load(Ordering::Relaxed))
    }
}

pin_project! {
    /// A call whose time counts.
    pub(super) struct Counted<'a, F> {
        #[pin]
        call: F,
        time: &'a CpuTime,
    }
}

impl<'a, F> Counted<'a, F> {
    pub(super) fn new(call: F, time: &'a CpuTime) -> Counted<'a, F> {
        Counted { call, time }
    }
}

impl<F: Future> Future for Counted<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if this.time.measuring.load(Ordering::Relaxed) {
            this.time.resumed_at.store(thread_time(), Ordering::Relaxed);
        }
        let polled = this.call.poll(cx);
        if this.time.measuring.load(Ordering::Relaxed) {
            this.time.used.store(this.time.now(), Ordering::Relaxed);
        }
        polled
    }
}

/// Nanoseconds that this thread was on a CPU.
fn thread_time() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Instant;

    use super::*;

    fn compute(time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time {
            black_box(0);
        }
    }

    #[tokio::test]
    async fn only_the_delivery_s_own_time_counts() {
        const LIMIT: Duration = Duration::from_secs(3600);
        let time = CpuTime::default();
        let counted = Counted::new(
            async {
                time.tick(LIMIT).unwrap();
                for _ in 0..3 {
                    compute(Duration::from_millis(2));
                    tokio::task::yield_now().await;
                }
            },
            &time,
        );
        let others = async {
            for _ in 0..3 {
                compute(Duration::from_millis(40));
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(counted, others);
        let used = Duration::from_nanos(time.used.load(Ordering::Relaxed));
        // On a busy machine the thread gets less of the CPU than the clock on the wall says, never more.
        assert!(used > Duration::ZERO && used < Duration::from_millis(60), "{used:?}");
    }

    #[test]
    fn a_tick_beyond_the_limit_is_told() {
        let time = CpuTime::default();
        assert_eq!(time.tick(Duration::from_millis(1)), Ok(()), "it may have computed for a moment only");
        while time.now() <= 1_000_000 {
            black_box(0);
        }
        let exceeded = time.tick(Duration::from_millis(1)).unwrap_err();
        assert_eq!(exceeded.to_string(), "exceeded limits.cpu_time (1ms)");
        time.begin();
        assert_eq!(time.tick(Duration::from_millis(1)), Ok(()), "another delivery has used nothing yet");
    }
}
