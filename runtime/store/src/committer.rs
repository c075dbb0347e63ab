//! The committer: the one thread that writes. Everything that waits in its inbox goes into the next group.

#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::Lease;
use crate::engine::{Answer, Engine};
use crate::record::QueueNumber;
use crate::transaction::{Job, Refusal, Transaction};

/// Who waits for the next answers: told on the committer's thread, so it must be quick and never wait.
pub(crate) enum Caller {
    One(Box<dyn FnOnce(Answer) + Send>),
    /// So many, each of which is for a transaction that is atomic by itself.
    All(usize, Box<dyn FnOnce(Vec<Answer>) + Send>),
    /// So many, for acks. Told which were refused, by their places.
    Acks(usize, Box<dyn FnOnce(Refused) + Send>),
}

/// Refusals by the places of what was refused.
pub(crate) type Refused = Vec<(usize, Refusal)>;

impl Caller {
    /// Tells that nothing of it happens.
    pub(crate) fn refuse(self, why: &Refusal) {
        match self {
            Caller::One(done) => done(Err(why.clone())),
            Caller::All(count, done) => done(vec![Err(why.clone()); count]),
            Caller::Acks(count, done) => done((0..count).map(|place| (place, why.clone())).collect()),
        }
    }
}

/// All messages of a queue that came before are to go, step by step.
pub(crate) struct Purge {
    pub(crate) queue: QueueNumber,
    /// Those that stand before this position.
    pub(crate) below: u64,
    pub(crate) removed: u64,
    /// Told how many went.
    pub(crate) done: Box<dyn FnOnce(Result<u64, Refusal>) + Send>,
}

/// A space of durable state that is to go, and whom to tell.
pub(crate) struct DropState {
    pub(crate) space: Box<str>,
    pub(crate) done: Box<dyn FnOnce(Result<(), Refusal>) + Send>,
}

/// Messages that a purge takes away between two groups: of those that have an entry, and of those that go one by one.
const PURGE_STEP: usize = 4096;

/// Where work waits for the committer.
#[derive(Default)]
pub(crate) struct Inbox {
    // Held to push and to take everything; never during I/O.
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// What was submitted. The answers to the jobs, in order, are the callers'. Each of them stays here until it is answered.
#[derive(Default)]
struct Work {
    jobs: Vec<Job>,
    callers: VecDeque<Caller>,
    purges: VecDeque<Purge>,
    /// They come after what is committed with them.
    drops: VecDeque<DropState>,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.callers.is_empty() && self.purges.is_empty() && self.drops.is_empty()
    }
}

#[derive(Default)]
struct Waiting {
    work: Work,
    closing: bool,
    /// The committer sleeps until then, if it sleeps; milliseconds of the store's clock.
    wakes_at_ms: Option<u64>,
    /// It sleeps, and nobody has woken it for a job yet.
    asleep: bool,
    /// A lease ends before that, or something is finished: look again.
    poked: bool,
}

/// The longest that the committer sleeps while something is left to do without a job: a disk that was full may have room
/// again.
const PATIENCE: Duration = Duration::from_secs(1);

impl Inbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("the inbox is whole")
    }

    /// Leaves a transaction. Gives the caller back if the committer has ended.
    pub(crate) fn push(&self, transaction: Transaction, done: Caller) -> Option<Caller> {
        let job = Job::from(transaction);
        self.leave(done, |work, done| {
            work.jobs.push(job);
            work.callers.push_back(done);
        })
    }

    /// Leaves transactions. Gives the caller back if the committer has ended.
    pub(crate) fn push_all(&self, transactions: Vec<Transaction>, done: Caller) -> Option<Caller> {
        let mut jobs: Vec<Job> = transactions.into_iter().map(Job::from).collect();
        self.leave(done, |work, done| {
            work.jobs.append(&mut jobs);
            work.callers.push_back(done);
        })
    }

    /// Leaves acks that nothing goes with. Gives the caller back if the committer has ended.
    pub(crate) fn push_acks(&self, leases: &[Lease], done: Caller) -> Option<Caller> {
        self.leave(done, |work, done| {
            work.jobs.extend(leases.iter().copied().map(Job::Ack));
            work.callers.push_back(done);
        })
    }

    /// Leaves a purge. Gives it back if the committer has ended.
    pub(crate) fn push_purge(&self, purge: Purge) -> Option<Purge> {
        self.leave(purge, |work, purge| work.purges.push_back(purge))
    }

    /// Leaves durable state to be dropped. Gives it back if the committer has ended.
    pub(crate) fn push_drop(&self, drop: DropState) -> Option<DropState> {
        self.leave(drop, |work, drop| work.drops.push_back(drop))
    }

    fn leave<T>(&self, left: T, leave: impl FnOnce(&mut Work, T)) -> Option<T> {
        let mut waiting = self.waiting();
        if waiting.closing {
            return Some(left);
        }
        leave(&mut waiting.work, left);
        // Told after the lock is free, so that it does not wake up to wait for it.
        let asleep = std::mem::take(&mut waiting.asleep);
        drop(waiting);
        if asleep {
            self.changed.notify_one();
        }
        None
    }

    /// Something that was done beside the committer is finished: look at it.
    pub(crate) fn nudge(&self) {
        self.waiting().poked = true;
        self.changed.notify_one();
    }

    /// A lease ends at this time.
    pub(crate) fn lease_ends(&self, at_ms: u64) {
        let mut waiting = self.waiting();
        if waiting.wakes_at_ms.is_none_or(|wakes_at_ms| at_ms < wakes_at_ms) {
            waiting.wakes_at_ms = Some(at_ms);
            waiting.poked = true;
            self.changed.notify_one();
        }
    }

    /// No more jobs: what waits is done, then the committer ends.
    pub(crate) fn close(&self) {
        self.waiting().closing = true;
        self.changed.notify_one();
    }

    /// The committer has ended: nobody leaves anything any more. Answers what was left.
    fn end(&self) -> Work {
        // It may be this that has panicked.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.closing = true;
        self.waiting.clear_poison();
        std::mem::take(&mut waiting.work)
    }

    /// Waits for work, or until it is time. The work is put into `work`, which must be empty; answers whether it was the
    /// last.
    fn take(&self, engine: &Engine, more_to_do: bool, work: &mut Work) -> bool {
        let mut waiting = self.waiting();
        loop {
            if !waiting.work.is_empty() || waiting.closing || more_to_do || waiting.poked {
                break;
            }
            drop(waiting);
            let now_ms = engine.shared.clock.now_ms();
            let expires_at_ms = Some(engine.shared.attempts.next_end_ms()).filter(|at_ms| *at_ms != u64::MAX);
            waiting = self.waiting();
            if !waiting.work.is_empty() || waiting.closing || waiting.poked {
                continue;
            }
            let patience = match expires_at_ms {
                Some(at_ms) if at_ms <= now_ms => break,
                Some(at_ms) => PATIENCE.min(Duration::from_millis(at_ms - now_ms)),
                None => PATIENCE,
            };
            waiting.wakes_at_ms = expires_at_ms;
            waiting.asleep = true;
            let (woken, timeout) = self.changed.wait_timeout(waiting, patience).expect("the inbox is whole");
            waiting = woken;
            waiting.asleep = false;
            if timeout.timed_out() {
                break;
            }
        }
        let mut waiting = self.gather(waiting);
        waiting.poked = false;
        std::mem::swap(&mut waiting.work, work);
        waiting.closing
    }

    /// Lets those go first who are about to leave more: a sync costs as much as dozens of messages, and on a busy machine
    /// the thread that left the first one mostly has others in its hands. It ends as soon as nobody has left anything, so
    /// that a message that is alone does not wait.
    fn gather<'a>(&'a self, mut waiting: MutexGuard<'a, Waiting>) -> MutexGuard<'a, Waiting> {
        const ROUNDS_MAX: usize = 3;
        let mut before = 0;
        for _ in 0..ROUNDS_MAX {
            let now = waiting.work.callers.len();
            if now == before || waiting.closing {
                break;
            }
            before = now;
            drop(waiting);
            std::thread::yield_now();
            waiting = self.waiting();
        }
        waiting
    }
}

/// Commits until the inbox is closed and empty.
///
/// A panic, of the store or of a callback, is a stop like a failed write: it is told to whoever waits and whoever comes
/// later. Otherwise the process would look alive and never answer.
pub(crate) fn run(mut engine: Engine, inbox: &Arc<Inbox>) {
    let mut batch = Batch::default();
    let ended = catch_unwind(AssertUnwindSafe(|| commit_all(&mut engine, inbox, &mut batch)));
    if let Err(panic) = ended {
        let why = Refusal::Stopped(engine.stop(&format!("the committer has panicked: {}", panic_text(&*panic))));
        let Work { callers, purges, drops, .. } = inbox.end();
        batch.work.callers.extend(callers);
        batch.purges.extend(purges);
        batch.work.drops.extend(drops);
        // Should one of them panic, too, the others are told all the same.
        while catch_unwind(AssertUnwindSafe(|| batch.refuse(&why))).is_err() {}
    }
}

fn commit_all(engine: &mut Engine, inbox: &Inbox, batch: &mut Batch) {
    let mut more_to_do = false;
    loop {
        let closing = inbox.take(engine, more_to_do, &mut batch.work);
        batch.commit(engine);
        batch.drop_state(engine);
        engine.expire();
        batch.purge(engine);
        more_to_do = engine.maintain() || !batch.purges.is_empty();
        if closing && inbox.waiting().work.is_empty() && batch.purges.is_empty() {
            return;
        }
    }
}

/// What a thread that has panicked said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it has not said why")
}

/// What is committed together. Its lists are kept from batch to batch.
#[derive(Default)]
struct Batch {
    work: Work,
    answers: Vec<Answer>,
    /// They end where the queues ended when they came.
    purges: VecDeque<Purge>,
}

impl Batch {
    fn commit(&mut self, engine: &mut Engine) {
        self.purges.append(&mut self.work.purges);
        engine.commit(&mut self.work.jobs, &mut self.answers);
        let mut answers = self.answers.drain(..);
        while let Some(caller) = self.work.callers.pop_front() {
            match caller {
                Caller::One(done) => done(answers.next().expect("one answer for each transaction")),
                Caller::All(count, done) => done(answers.by_ref().take(count).collect()),
                Caller::Acks(count, done) => {
                    let acks = answers.by_ref().take(count).enumerate();
                    done(acks.filter_map(|(place, answer)| Some((place, answer.err()?))).collect());
                }
            }
        }
    }

    fn drop_state(&mut self, engine: &mut Engine) {
        while let Some(next) = self.work.drops.front() {
            let dropped = engine.drop_state(&next.space);
            if let Some(DropState { done, .. }) = self.work.drops.pop_front() {
                done(dropped);
            }
        }
    }

    /// One step of the purge that came first.
    fn purge(&mut self, engine: &mut Engine) {
        let Some(first) = self.purges.front_mut() else { return };
        let result = match engine.purge_step(first.queue, first.below, PURGE_STEP) {
            Ok((removed, more)) => {
                first.removed += removed;
                if more {
                    return;
                }
                Ok(first.removed)
            }
            Err(refusal) => Err(refusal),
        };
        if let Some(Purge { done, .. }) = self.purges.pop_front() {
            done(result);
        }
    }

    /// Tells all callers that nothing more comes of it. Each leaves before it is told.
    fn refuse(&mut self, why: &Refusal) {
        while let Some(caller) = self.work.callers.pop_front() {
            caller.refuse(why);
        }
        while let Some(Purge { done, .. }) = self.purges.pop_front() {
            done(Err(why.clone()));
        }
        while let Some(DropState { done, .. }) = self.work.drops.pop_front() {
            done(Err(why.clone()));
        }
    }
}
