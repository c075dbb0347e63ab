//! Starts handlers cheaply.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::{LocalBoxFuture, OptionFuture};

/// Starts futures of one type. Most handlers end before they first wait for anything: those come one after another in the
/// same place in memory, and nobody is woken for them. Only one that waits takes its place away with it.
pub(super) struct Starter<F> {
    place: Option<Pin<Box<OptionFuture<F>>>>,
}

impl<F> Default for Starter<F> {
    fn default() -> Starter<F> {
        Starter { place: None }
    }
}

impl<F: Future + 'static> Starter<F> {
    /// Polls a future for the first time. The error is what is left of one that waits; its output is `Some`. Whoever takes it
    /// to another task must poll it there at once, since so far it wakes this one.
    pub(super) fn start(
        &mut self,
        future: F,
        cx: &mut Context<'_>,
    ) -> Result<F::Output, LocalBoxFuture<'static, Option<F::Output>>> {
        let mut place = self.place.take().unwrap_or_else(|| Box::pin(OptionFuture::from(None)));
        place.set(OptionFuture::from(Some(future)));
        match place.as_mut().poll(cx) {
            Poll::Ready(Some(output)) => {
                self.place = Some(place);
                Ok(output)
            }
            Poll::Ready(None) => unreachable!("there is a future in it"),
            Poll::Pending => Err(place),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::task::Waker;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn what_ends_at_once_shares_a_place_and_what_waits_keeps_its_own() {
        let places = Rc::new(RefCell::new(Vec::new()));
        let one = |waits: bool, number: u32| {
            let places = places.clone();
            async move {
                let here = number;
                places.borrow_mut().push(std::ptr::from_ref(&here).addr());
                if waits {
                    tokio::task::yield_now().await;
                }
                here
            }
        };
        let (mut starter, mut cx) = (Starter::default(), Context::from_waker(Waker::noop()));
        assert_eq!(starter.start(one(false, 1), &mut cx).ok(), Some(1));
        assert_eq!(starter.start(one(false, 2), &mut cx).ok(), Some(2));
        let Err(waiting) = starter.start(one(true, 3), &mut cx) else { panic!("it waits") };
        assert_eq!(starter.start(one(false, 4), &mut cx).ok(), Some(4));
        assert_eq!(waiting.now_or_never(), Some(Some(3)));
        let places = places.borrow();
        assert!(places[0] == places[1] && places[1] == places[2] && places[2] != places[3], "{places:?}");
    }
}
