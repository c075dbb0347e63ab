//! Working beside the committer without keeping it waiting.
//!
//! The committer yields its core while more senders are about to leave something ([`crate::committer`]). A thread that takes
//! such a core and computes keeps it until the next tick of the scheduler, which is up to 4 ms, ten times what a commit
//! takes. One that gives it back at once does not matter. But on a busy machine it gets little done that way, so when the
//! committer is about to wait for its work, it stops being polite.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the committer is about to wait for what is done beside it.
#[derive(Clone, Default)]
pub(crate) struct Pressed(Arc<AtomicBool>);

impl Pressed {
    pub(crate) fn set(&self, pressed: bool) {
        self.0.store(pressed, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

thread_local! {
    /// Of the committer that this thread works beside, if it does.
    static PRESSED: RefCell<Option<Pressed>> = const { RefCell::new(None) };
}

/// From now on this thread works beside a committer.
pub(crate) fn begin(pressed: &Pressed) {
    PRESSED.set(Some(pressed.clone()));
}

/// Called every few dozen microseconds by what may run beside a committer. Where nobody else wants the core, it costs less
/// than a microsecond.
pub(crate) fn give_way() {
    if PRESSED.with_borrow(|pressed| pressed.as_ref().is_some_and(|pressed| !pressed.is_set())) {
        std::thread::yield_now();
    }
}
