//! The time that a client has for the headers of its next request. hyper asks for a timer for each request and drops it a moment
//! later; so there is one for each connection, which stays where it is when another deadline is asked for, and moves there only
//! once it has fired.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The timer of one connection.
#[derive(Clone, Default)]
pub(super) struct HeadersTimer(Arc<Mutex<Option<Armed>>>);

/// A timer that wakes the connection's task. Held only while it is looked at, by that task: the lock is there because hyper wants
/// to send it from thread to thread.
struct Armed {
    sleep: Pin<Box<tokio::time::Sleep>>,
    wakes: Waker,
}

/// Until a deadline.
struct Wait {
    timer: HeadersTimer,
    deadline: Instant,
}

impl hyper::rt::Timer for HeadersTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Wait { timer: self.clone(), deadline })
    }
}

impl hyper::rt::Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut armed = self.timer.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Armed { sleep, wakes }) = &*armed
            && wakes.will_wake(cx.waker())
            && !sleep.is_elapsed()
            && sleep.deadline().into_std() <= self.deadline
        {
            // It fires early enough to look again.
            return Poll::Pending;
        }
        if Instant::now() >= self.deadline {
            return Poll::Ready(());
        }
        let wakes = cx.waker().clone();
        let mut sleep = Box::pin(tokio::time::sleep_until(self.deadline.into()));
        let fired = sleep.as_mut().poll(cx);
        *armed = Some(Armed { sleep, wakes });
        fired
    }
}

#[cfg(test)]
mod tests {
    use hyper::rt::Timer;

    use super::*;

    #[tokio::test]
    async fn each_deadline_is_kept_by_one_timer() {
        let timer = HeadersTimer::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mut is_over = |deadline: Instant| timer.sleep_until(deadline).as_mut().poll(&mut cx).is_ready();
        let armed_for = || timer.0.lock().unwrap().as_ref().map(|armed| armed.sleep.deadline().into_std());
        let now = Instant::now();
        let (soon, later) = (now + Duration::from_secs(3600), now + Duration::from_secs(7200));
        assert!(!is_over(soon));
        assert_eq!(armed_for(), Some(soon));
        assert!(!is_over(later));
        assert_eq!(armed_for(), Some(soon), "it stays where it is");
        let sooner = soon - Duration::from_secs(1);
        assert!(!is_over(sooner));
        assert_eq!(armed_for(), Some(sooner), "unless that is too late");
        assert!(is_over(now));
    }

    #[tokio::test]
    async fn a_timer_that_has_fired_goes_on_to_the_next_deadline() {
        let timer = HeadersTimer::default();
        for _ in 0..2 {
            let deadline = Instant::now() + Duration::from_millis(5);
            timer.sleep_until(deadline).await;
            assert!(Instant::now() >= deadline);
        }
    }
}
