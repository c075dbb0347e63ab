//! A future that has a deadline.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::task::Unconstrained;
use tokio::time::{Instant, Sleep};

use super::limits::DELAY_MAX;

pin_project! {
    /// Ends with `None` at the deadline. The timer is set when the future first waits, which most calls of a handler never
    /// do; apart from that it is [`tokio::time::timeout_at`].
    pub(super) struct Until<F> {
        #[pin]
        future: F,
        started: Instant,
        timeout: Duration,
        // It fires also for a future that has used up what tokio lets a task do in one go.
        #[pin]
        timer: Option<Unconstrained<Sleep>>,
    }
}

impl<F> Until<F> {
    /// The deadline is `timeout` after `started`.
    pub(super) fn new(future: F, started: Instant, timeout: Duration) -> Until<F> {
        Until { future, started, timeout, timer: None }
    }
}

impl<F: Future> Future for Until<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let mut this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Some(output));
        }
        if this.timer.is_none() {
            let deadline = this.started.checked_add(*this.timeout).unwrap_or_else(|| *this.started + DELAY_MAX);
            this.timer.set(Some(tokio::task::unconstrained(tokio::time::sleep_until(deadline))));
        }
        let timer = this.timer.as_pin_mut().expect("it was just set");
        timer.poll(cx).map(|()| None)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn it_ends_with_its_future_or_at_the_deadline() {
        let now = Instant::now();
        assert_eq!(Until::new(ready(7), now, Duration::ZERO).await, Some(7), "what is ready is in time");
        let soon = tokio::task::yield_now();
        assert_eq!(Until::new(soon, now, Duration::MAX).await, Some(()));
        assert_eq!(Until::new(pending::<()>(), now, Duration::from_millis(2)).await, None);
        assert!(now.elapsed() >= Duration::from_millis(2));
    }

    #[tokio::test]
    async fn what_is_always_busy_ends_too() {
        let busy = async {
            loop {
                tokio::task::coop::consume_budget().await;
            }
        };
        assert_eq!(Until::new(Box::pin(busy), Instant::now(), Duration::from_millis(2)).await, None::<()>);
    }
}
