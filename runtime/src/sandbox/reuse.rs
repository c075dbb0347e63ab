//! Instances that are kept for the next delivery (`instance = "reused"`). They belong to one consumer on one worker's
//! thread, and to the generation that they were made of.
//!
//! Only an instance whose handler has answered is kept, and only if it came up against no limit: after a trap, a timeout
//! or too much memory nobody knows what state it is in. Nor is one that holds on to messages of `wasi:messaging`.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use tokio::time::Instant;

use super::Loaded;
use super::instance::Instance;
use crate::config::Reuse;

/// Counts the kept instances of one consumer on one worker, by generation: those that run and those that are idle.
pub trait InstanceCount: Send + Sync {
    /// There is one more.
    fn started(&self, generation: u64);
    /// There is one less.
    fn ended(&self, generation: u64);
}

/// The kept instances of one consumer on one worker. It stays on the worker's thread.
pub struct Instances {
    limits: Reuse,
    /// Instances that there may be at once, those that run included: the pool has room for no more.
    capacity: Cell<usize>,
    count: Arc<dyn InstanceCount>,
    inner: RefCell<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The one that was used last is the last one.
    #[expect(clippy::vec_box, reason = "it is large and changes hands with each call")]
    idle: Vec<Box<Kept>>,
    running: usize,
    /// The generations that deliveries are handed to. Instances of others are not kept; as long as it is empty, all are.
    serving: Vec<u64>,
}

/// An instance that may be kept.
pub(super) struct Kept {
    pub(super) instance: Instance,
    module: Arc<Loaded>,
    generation: u64,
    /// Messages that it has handled.
    served: u64,
    idle_since: Instant,
    _counted: Counted,
}

/// Counts an instance for as long as it lives.
struct Counted(Arc<dyn InstanceCount>, u64);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.ended(self.1);
    }
}

/// Counts a call for as long as it lives, however it ends.
pub(super) struct Running<'a>(&'a Instances);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.inner.borrow_mut().running -= 1;
    }
}

impl Instances {
    /// Keeps none so far. There are at most `capacity` at once as long as there are no more calls than that.
    pub fn new(limits: Reuse, capacity: usize, count: Arc<dyn InstanceCount>) -> Instances {
        Instances { limits, capacity: Cell::new(capacity), count, inner: RefCell::default() }
    }

    /// From now on there are at most so many at once, as long as there are no more calls than that.
    pub fn set_capacity(&self, capacity: usize) {
        self.capacity.set(capacity);
        let mut inner = self.inner.borrow_mut();
        let idle_max = capacity.saturating_sub(inner.running);
        let surplus = inner.idle.len().saturating_sub(idle_max);
        inner.idle.drain(..surplus);
    }

    /// Whether there are any that wait for work.
    pub fn has_idle(&self) -> bool {
        !self.inner.borrow().idle.is_empty()
    }

    /// Drops those that have waited too long. Answers when the next one will have.
    pub fn drop_idle(&self, now: Instant) -> Instant {
        let mut inner = self.inner.borrow_mut();
        inner.idle.retain(|kept| kept.idle_since + self.limits.idle_timeout > now);
        inner.idle.first().map_or(now, |kept| kept.idle_since) + self.limits.idle_timeout
    }

    /// Drops those of other generations than these. One that runs goes when its call ends.
    pub fn keep_only(&self, generations: Vec<u64>) {
        let mut inner = self.inner.borrow_mut();
        inner.idle.retain(|kept| generations.contains(&kept.generation));
        inner.serving = generations;
    }

    /// Makes room for a call, and gives an instance for it if there is one.
    pub(super) fn take(&self, module: &Arc<Loaded>) -> (Running<'_>, Option<Box<Kept>>) {
        let mut inner = self.inner.borrow_mut();
        inner.running += 1;
        let place = inner.idle.iter().rposition(|kept| Arc::ptr_eq(&kept.module, module));
        let kept = place.map(|place| inner.idle.remove(place));
        if kept.is_none() && inner.running + inner.idle.len() > self.capacity.get() && !inner.idle.is_empty() {
            inner.idle.remove(0);
        }
        (Running(self), kept)
    }

    /// A new one, that counts from now on.
    pub(super) fn start(&self, instance: Instance, module: &Arc<Loaded>, generation: u64) -> Box<Kept> {
        self.count.started(generation);
        let counted = Counted(self.count.clone(), generation);
        let module = module.clone();
        Box::new(Kept { instance, module, generation, served: 0, idle_since: Instant::now(), _counted: counted })
    }

    /// Keeps an instance whose handler has answered for so many messages just now, unless it has done enough.
    pub(super) fn give_back(&self, mut kept: Box<Kept>, messages: usize, now: Instant) {
        kept.served += messages as u64;
        kept.idle_since = now;
        let mut inner = self.inner.borrow_mut();
        let worn = kept.served >= self.limits.max_deliveries || !kept.instance.is_as_before();
        let wanted = inner.serving.is_empty() || inner.serving.contains(&kept.generation);
        // The call that it was in counts as running until it has ended.
        let has_room = inner.running + inner.idle.len() <= self.capacity.get();
        if !worn && wanted && has_room {
            inner.idle.push(kept);
        }
    }
}
