//! The committer: the one thread that writes. Everything that waits in its inbox goes into the next group.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::engine::{Answer, Engine};
use crate::record::QueueNumber;
use crate::transaction::{Refusal, Transaction};

/// What was submitted together, and whom to tell, on the committer's thread: that must be quick and never wait.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all jobs are the large one: a box would cost each send an allocation"
)]
pub(crate) enum Job {
    One {
        transaction: Transaction,
        done: Box<dyn FnOnce(Answer) + Send>,
    },
    /// Each of them is atomic by itself. One answer for each, in order.
    All {
        transactions: Vec<Transaction>,
        done: Box<dyn FnOnce(Vec<Answer>) + Send>,
    },
    Purge(Purge),
    /// All durable state of a space is to go.
    DropState {
        space: Box<str>,
        done: Box<dyn FnOnce(Result<(), Refusal>) + Send>,
    },
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

/// Messages in the log that a purge takes away between two groups.
const PURGE_STEP: usize = 4096;

impl Job {
    /// Tells that nothing of it happens.
    pub(crate) fn refuse(self, why: &Refusal) {
        match self {
            Job::One { done, .. } => done(Err(why.clone())),
            Job::All { transactions, done } => done(transactions.iter().map(|_| Err(why.clone())).collect()),
            Job::Purge(purge) => (purge.done)(Err(why.clone())),
            Job::DropState { done, .. } => done(Err(why.clone())),
        }
    }
}

/// Where jobs wait for the committer.
#[derive(Default)]
pub(crate) struct Inbox {
    // Held to push and to take everything; never during I/O.
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: Vec<Job>,
    closing: bool,
    /// The committer sleeps until then, if it sleeps; milliseconds of the store's clock.
    wakes_at_ms: Option<u64>,
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

    /// Leaves a job. Gives it back if the committer has ended.
    pub(crate) fn push(&self, job: Job) -> Option<Job> {
        let mut waiting = self.waiting();
        if waiting.closing {
            return Some(job);
        }
        waiting.jobs.push(job);
        if waiting.jobs.len() == 1 {
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

    /// Waits for jobs, or until it is time. The jobs are put into `jobs`, which must be empty; answers whether they were
    /// the last.
    fn take(&self, engine: &Engine, more_to_do: bool, jobs: &mut Vec<Job>) -> bool {
        let mut waiting = self.waiting();
        loop {
            if !waiting.jobs.is_empty() || waiting.closing || more_to_do || waiting.poked {
                break;
            }
            drop(waiting);
            let now_ms = engine.shared.clock.now_ms();
            let expires_at_ms = engine.shared.state().queues.next_expiry();
            waiting = self.waiting();
            if !waiting.jobs.is_empty() || waiting.closing || waiting.poked {
                continue;
            }
            let patience = match expires_at_ms {
                Some(at_ms) if at_ms <= now_ms => break,
                Some(at_ms) => PATIENCE.min(Duration::from_millis(at_ms - now_ms)),
                None => PATIENCE,
            };
            waiting.wakes_at_ms = expires_at_ms;
            let (woken, timeout) = self.changed.wait_timeout(waiting, patience).expect("the inbox is whole");
            waiting = woken;
            if timeout.timed_out() {
                break;
            }
        }
        waiting.poked = false;
        std::mem::swap(&mut waiting.jobs, jobs);
        waiting.closing
    }
}

/// Commits until the inbox is closed and empty.
pub(crate) fn run(mut engine: Engine, inbox: &Arc<Inbox>) {
    let mut batch = Batch::default();
    let mut more_to_do = false;
    loop {
        let closing = inbox.take(&engine, more_to_do, &mut batch.jobs);
        batch.commit(&mut engine);
        batch.drop_state(&mut engine);
        engine.expire();
        batch.purge(&mut engine);
        more_to_do = engine.maintain() || !batch.purges.is_empty();
        if closing && inbox.waiting().jobs.is_empty() && batch.purges.is_empty() {
            return;
        }
    }
}

/// What is committed together. Its lists are kept from batch to batch.
#[derive(Default)]
struct Batch {
    jobs: Vec<Job>,
    transactions: Vec<Transaction>,
    callers: Vec<Caller>,
    answers: Vec<Answer>,
    /// They end where the queues ended when they came.
    purges: VecDeque<Purge>,
    /// They come after what is committed with them.
    drops: Vec<DropState>,
}

/// A space of durable state, and whom to tell that it is gone.
type DropState = (Box<str>, Box<dyn FnOnce(Result<(), Refusal>) + Send>);

/// Who waits for the next answers.
enum Caller {
    One(Box<dyn FnOnce(Answer) + Send>),
    All(usize, Box<dyn FnOnce(Vec<Answer>) + Send>),
}

impl Batch {
    fn commit(&mut self, engine: &mut Engine) {
        for job in self.jobs.drain(..) {
            let caller = match job {
                Job::One { transaction, done } => {
                    self.transactions.push(transaction);
                    Caller::One(done)
                }
                Job::Purge(purge) => {
                    self.purges.push_back(purge);
                    continue;
                }
                Job::DropState { space, done } => {
                    self.drops.push((space, done));
                    continue;
                }
                Job::All { mut transactions, done } => {
                    let count = transactions.len();
                    self.transactions.append(&mut transactions);
                    Caller::All(count, done)
                }
            };
            self.callers.push(caller);
        }
        engine.commit(&mut self.transactions, &mut self.answers);
        let mut answers = self.answers.drain(..);
        for caller in self.callers.drain(..) {
            match caller {
                Caller::One(done) => done(answers.next().expect("one answer for each transaction")),
                Caller::All(count, done) => done(answers.by_ref().take(count).collect()),
            }
        }
    }

    fn drop_state(&mut self, engine: &mut Engine) {
        for (space, done) in self.drops.drain(..) {
            done(engine.drop_state(&space));
        }
    }

    /// One step of the purge that came first.
    fn purge(&mut self, engine: &mut Engine) {
        let Some(mut purge) = self.purges.pop_front() else { return };
        match engine.purge_step(purge.queue, purge.below, PURGE_STEP) {
            Ok((removed, more)) => {
                purge.removed += removed;
                if more {
                    self.purges.push_front(purge);
                } else {
                    (purge.done)(Ok(purge.removed));
                }
            }
            Err(refusal) => (purge.done)(Err(refusal)),
        }
    }
}
