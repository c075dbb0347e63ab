//! Starts handlers cheaply.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::future::LocalBoxFuture;

/// Starts tasks that are handled alike. Most handlers end before they first wait for anything: those come one after another
/// in the same place in memory, where no future is moved to, and nobody is woken for them. Only one that waits takes its
/// place away with it.
pub(super) struct Starter<T> {
    make: Box<Make<T>>,
    idle: Option<Lane<T>>,
}

/// Handles the tasks of one lane.
type Work = LocalBoxFuture<'static, Infallible>;
type Make<T> = dyn Fn(Rc<Desk<T>>) -> Work;

/// Where a lane finds its task, and leaves it when it has come to its end.
pub(super) struct Desk<T> {
    task: Cell<Option<T>>,
    ended: Cell<Option<T>>,
}

/// A place in memory where one task is handled at a time. As a future, it ends with the task.
pub(super) struct Lane<T> {
    desk: Rc<Desk<T>>,
    work: Work,
}

impl<T> Desk<T> {
    /// The next task. Only whoever puts it here polls the lane, so that nobody has to be woken.
    pub(super) async fn next(&self) -> T {
        poll_fn(|_| self.task.take().map_or(Poll::Pending, Poll::Ready)).await
    }

    /// The task has come to its end.
    pub(super) fn leave(&self, ended: T) {
        self.ended.set(Some(ended));
    }
}

impl<T> Future for Lane<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match self.work.as_mut().poll(cx) {
            Poll::Pending => self.desk.ended.take().map_or(Poll::Pending, Poll::Ready),
        }
    }
}

impl<T: 'static> Starter<T> {
    /// `work` handles the tasks of one lane, one after another and without end.
    pub(super) fn new<W>(work: impl Fn(Rc<Desk<T>>) -> W + 'static) -> Starter<T>
    where
        W: Future<Output = Infallible> + 'static,
    {
        Starter { make: Box::new(move |desk| Box::pin(work(desk))), idle: None }
    }

    /// Polls the handler of a task for the first time. The error is one that waits. Whoever takes it to another task must
    /// poll it there at once, since so far it wakes this one.
    pub(super) fn start(&mut self, task: T, cx: &mut Context<'_>) -> Result<T, Lane<T>> {
        let mut lane = self.idle.take().unwrap_or_else(|| {
            let desk = Rc::new(Desk { task: Cell::new(None), ended: Cell::new(None) });
            Lane { work: (self.make)(desk.clone()), desk }
        });
        lane.desk.task.set(Some(task));
        match Pin::new(&mut lane).poll(cx) {
            Poll::Ready(ended) => {
                self.idle = Some(lane);
                Ok(ended)
            }
            Poll::Pending => Err(lane),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::pin;
    use std::task::Waker;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn what_ends_at_once_shares_a_place_and_what_waits_keeps_its_own() {
        let places = Rc::new(RefCell::new(Vec::new()));
        let seen = places.clone();
        let mut starter = Starter::new(move |desk: Rc<Desk<(bool, u32)>>| {
            let places = places.clone();
            async move {
                loop {
                    let (waits, number) = desk.next().await;
                    let handled = pin!(async {
                        let here = number;
                        places.borrow_mut().push(std::ptr::from_ref(&here).addr());
                        if waits {
                            tokio::task::yield_now().await;
                        }
                        here
                    });
                    desk.leave((waits, handled.await));
                }
            }
        });
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(starter.start((false, 1), &mut cx).ok(), Some((false, 1)));
        assert_eq!(starter.start((false, 2), &mut cx).ok(), Some((false, 2)));
        let Err(waiting) = starter.start((true, 3), &mut cx) else { panic!("it waits") };
        assert_eq!(starter.start((false, 4), &mut cx).ok(), Some((false, 4)));
        assert_eq!(waiting.now_or_never(), Some((true, 3)));
        let places = seen.borrow();
        assert!(places[0] == places[1] && places[1] == places[2] && places[2] != places[3], "{places:?}");
    }

    #[test]
    fn what_a_task_holds_goes_with_it() {
        let held = Rc::new(());
        let mut starter = Starter::new(|desk: Rc<Desk<(bool, Rc<()>)>>| async move {
            loop {
                let task = desk.next().await;
                if task.0 {
                    std::future::pending::<()>().await;
                }
                desk.leave(task);
            }
        });
        let mut cx = Context::from_waker(Waker::noop());
        assert!(starter.start((false, held.clone()), &mut cx).is_ok());
        assert_eq!(Rc::strong_count(&held), 1, "it has ended");
        let waiting = starter.start((true, held.clone()), &mut cx);
        assert_eq!(Rc::strong_count(&held), 2);
        drop(waiting);
        assert_eq!(Rc::strong_count(&held), 1, "it was dropped");
    }
}
