//! One run: random steps on the engine and the model, side by side.

mod contents;
mod histories;
mod shape;
mod state;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) use self::contents::Contents;
use self::contents::{Found, differences};
pub(super) use self::shape::{Fault, LAYOUT, Shape};
use self::state::state_differences;
use super::history::{FoundKept, history_difference};
use super::model::{DEDUP_WINDOW_MS, Model, Nonce, STATE_BYTES_MAX, State};
use crate::clock::ManualClock;
use crate::disk::{SimulatedDisk, SimulatedFaults};
use crate::engine::Engine;
use crate::keeping::Tally;
use crate::open::{self, Opened};
use crate::store::Store;
use crate::{MessageId, OpenError, QueueLimits, QueueName, Transaction};

const QUEUES: [&str; 3] = ["a", "b", "a.dead"];
const QUEUE_BYTES_MAX: u64 = 20_000;
const LEASE_MS: u64 = 1000;
const SPACES: [&str; 2] = ["consumer/a", "consumer/a.b"];

/// How long each queue keeps what is acknowledged.
pub(super) const HISTORIES_MS: [u64; 3] = [6000, 0, u64::MAX];

pub(super) struct Run {
    random: fastrand::Rng,
    shape: Shape,
    disk: SimulatedDisk,
    clock: Arc<ManualClock>,
    /// The latest that the store's clock has shown.
    reached_ms: u64,
    store: Option<Harness>,
    pub(super) model: Model,
    /// Queues whose history had to make room on a full disk.
    pub(super) gave_up: BTreeSet<QueueName>,
    disk_is_small: bool,
    next_nonce: Nonce,
    /// Every id that was ever given out.
    ids: BTreeMap<MessageId, Nonce>,
    /// What was on its way when the store stopped, and when it was committed.
    in_doubt: Vec<Step>,
    /// Decides which queues take sends: whatever else happens in a run does not depend on it.
    names: fastrand::Rng,
    /// The queue that takes no sends, if there is one; settlements may go there all the same.
    retracted: Option<QueueName>,
}

/// What is put on record at once.
enum Step {
    Commit(Box<Transaction>, u64, bool),
    Purge(QueueName),
    DropState(&'static str),
}

/// All that can be seen of a store at one moment.
struct Seen {
    contents: Vec<(QueueName, Vec<Found>)>,
    state: State,
    histories: Vec<(QueueName, Vec<FoundKept>)>,
}

/// The engine without its thread, behind the face that users have.
struct Harness {
    engine: Engine,
    face: Store,
}

impl Run {
    pub(super) fn new(seed: u64, shape: Shape) -> Run {
        Run {
            random: fastrand::Rng::with_seed(seed),
            shape,
            disk: SimulatedDisk::new(seed),
            clock: Arc::new(ManualClock::new(1_000_000)),
            reached_ms: 0,
            store: None,
            model: Model { windows_ms: QUEUES.into_iter().map(name).zip(HISTORIES_MS).collect(), ..Model::default() },
            gave_up: BTreeSet::new(),
            disk_is_small: false,
            next_nonce: 1,
            ids: BTreeMap::new(),
            in_doubt: Vec::new(),
            names: fastrand::Rng::with_seed(!seed),
            retracted: None,
        }
    }

    /// Runs to the end and checks everything. Answers how many disk operations there were.
    pub(super) fn go(self, fault: Fault) -> u64 {
        self.go_and_tell(fault).0
    }

    /// Also tells what was done with segments until the end or the last restart.
    pub(super) fn go_and_tell(mut self, fault: Fault) -> (u64, Tally) {
        match fault {
            Fault::None | Fault::Kills => {}
            Fault::PowerLoss { operation } => {
                self.disk.set_faults(SimulatedFaults { crash_at: Some(operation), ..Default::default() });
            }
            Fault::FailedWrite { operation } => {
                self.disk.set_faults(SimulatedFaults { fail_write_at: Some(operation), ..Default::default() });
            }
            Fault::FailedSync { operation } => {
                self.disk.set_faults(SimulatedFaults { fail_sync_at: Some(operation), ..Default::default() });
            }
            // It fills up later, when there is a file of state.
            Fault::FullDisk if self.shape.state => {}
            Fault::FullDisk => {
                let files = self.random.u64(2..7);
                let full_after_bytes = Some(self.shape.file_bytes * files + 4096);
                self.disk.set_faults(SimulatedFaults { full_after_bytes, ..Default::default() });
                self.disk_is_small = true;
            }
        }
        let injected = matches!(fault, Fault::PowerLoss { .. } | Fault::FailedWrite { .. } | Fault::FailedSync { .. });
        match self.open() {
            Ok(()) => {}
            Err(_) if injected => {
                self.recover(matches!(fault, Fault::FailedWrite { .. } | Fault::FailedSync { .. }));
            }
            Err(error) => panic!("a fresh store must open: {error}"),
        }
        for step in 0..self.shape.steps {
            if matches!(fault, Fault::FullDisk) && self.shape.state && step == self.shape.steps / 3 {
                self.disk_is_small = true;
                let used: u64 = self.disk.file_names().iter().map(|name| self.disk.file_len(name)).sum();
                let full_after_bytes = Some(used + self.random.u64(0..self.shape.file_bytes * 4));
                self.disk.set_faults(SimulatedFaults { full_after_bytes, ..Default::default() });
            }
            self.step();
            if self.engine().stopped().is_some() {
                assert!(injected, "the store stopped without a fault: {:?}", self.engine().stopped());
                self.recover(matches!(fault, Fault::FailedWrite { .. } | Fault::FailedSync { .. }));
            } else if matches!(fault, Fault::Kills) && self.random.u8(..) < 12 {
                self.store = None;
                self.disk = self.disk.kill();
                self.model.end_process();
                self.open().expect("what was written opens");
                let seen = self.see();
                self.check(&seen);
                self.adopt(&seen);
            }
        }
        let seen = self.see();
        self.check(&seen);
        let operations = self.disk.operations();
        let tally = self.engine().keeping.tally;
        // A clean restart changes nothing but the leases.
        self.store = None;
        self.model.end_process();
        self.disk = self.disk.kill();
        self.open().expect("a store that was left in peace opens");
        let seen = self.see();
        self.check(&seen);
        (operations, tally)
    }

    /// Runs without a fault and leaves the disk of a process that was killed, with what must be on it.
    pub(super) fn leave(mut self) -> (SimulatedDisk, Contents) {
        self.open().expect("a fresh store opens");
        for _ in 0..self.shape.steps {
            self.step();
        }
        self.store = None;
        let disk = self.disk.kill();
        let expected = Run::contents_of(&disk.snapshot(), self.shape).expect("what was written opens");
        (disk, expected)
    }

    /// Fills a log file, in which bits rot before it is copied. Answers its name, and what the store has stopped with.
    pub(super) fn rot(mut self) -> (String, String) {
        self.open().expect("a fresh store opens");
        while self.engine().wal.full() == 0 {
            self.publish();
        }
        let slot = self.engine().wal.oldest().expect("it is full").slot;
        let name = crate::wal::file::name(slot);
        let offset = self.random.u64(600..1200);
        self.disk.corrupt(&name, offset, 0x10);
        for _ in 0..20 {
            self.engine().maintain();
        }
        (name, self.engine().stopped().map(|why| why.to_string()).unwrap_or_default())
    }

    /// Runs until the power is lost somewhere, and leaves what survived.
    pub(super) fn lose_power(mut self) -> SimulatedDisk {
        self.open().expect("a fresh store opens");
        let crash_at = Some(self.disk.operations() + self.random.u64(10..400));
        self.disk.set_faults(SimulatedFaults { crash_at, ..Default::default() });
        for _ in 0..self.shape.steps {
            self.step();
            if self.engine().stopped().is_some() {
                break;
            }
        }
        self.store = None;
        self.disk.crash()
    }

    /// The store's time, which may be ahead of the machine's.
    fn now_ms(&mut self) -> u64 {
        let now_ms = self.engine().shared.clock.now_ms();
        self.reached_ms = self.reached_ms.max(now_ms);
        now_ms
    }

    fn face(&self) -> &Store {
        &self.store.as_ref().expect("the store is open").face
    }

    fn engine(&mut self) -> &mut Engine {
        &mut self.store.as_mut().expect("the store is open").engine
    }

    fn open(&mut self) -> Result<(), OpenError> {
        let seed = self.random.u64(..);
        // Between two processes the machine's clock may go back, or far ahead.
        let machine_ms = crate::Clock::now_ms(&*self.clock);
        match self.random.u8(0..8) {
            0 => self.clock.set(machine_ms - self.random.u64(0..20_000)),
            1 => self.clock.set(machine_ms + self.random.u64(0..2_000)),
            _ => {}
        }
        let Opened { engine, lock } =
            open::open(Arc::new(self.disk.clone()), &self.shape.layout(), self.clock.clone(), seed)?;
        let face = Store::without_committer(engine.shared.clone(), lock);
        for queue in QUEUES {
            face.declare(&name(queue), limits(self.model.windows_ms[&name(queue)]));
        }
        SPACES.iter().for_each(|space| face.limit_state(space, STATE_BYTES_MAX));
        self.store = Some(Harness { engine, face });
        self.retracted = None;
        let now_ms = self.now_ms();
        self.model.age(now_ms);
        Ok(())
    }

    /// The power is lost (or, after an error of the disk, the process ends), and what is left is opened again.
    fn recover(&mut self, process_only: bool) {
        self.store = None;
        let image = if process_only { self.disk.kill() } else { self.disk.crash() };
        self.disk = image;
        if !process_only && self.random.bool() {
            // The power fails again while the store opens.
            let crash_at = Some(self.random.u64(0..12));
            self.disk.set_faults(SimulatedFaults { crash_at, ..Default::default() });
            let _ = self.open();
            self.store = None;
            self.disk = self.disk.crash();
        }
        self.open().unwrap_or_else(|error| panic!("what survived must open: {error}"));

        // Of what was not answered, nothing has happened, or the first so many transactions have, each whole.
        let mut candidates = vec![self.model.clone()];
        for step in std::mem::take(&mut self.in_doubt) {
            let mut next = candidates.last().expect("there is a first").clone();
            match step {
                Step::Commit(transaction, now_ms, keeps) => drop(next.apply(&transaction, now_ms, keeps)),
                Step::Purge(queue) => next.purge(&queue),
                Step::DropState(space) => next.drop_state(space),
            }
            candidates.push(next);
        }
        candidates.iter_mut().for_each(Model::end_process);
        let now_ms = self.now_ms();
        candidates.iter_mut().for_each(|model| model.age(now_ms));
        let seen = self.see();
        let compare = |model: &Model| {
            differences(model, &seen.contents, self.reached_ms, true)
                .or_else(|| state_differences(model, &seen.state))
                .or_else(|| history_difference(model, &seen.histories, now_ms, &self.gave_up))
        };
        let wrong: Vec<Option<String>> = candidates.iter().map(compare).collect();
        match wrong.iter().position(Option::is_none) {
            Some(right) => {
                let mut others = wrong.iter().zip(&candidates).skip(right + 1).filter(|(wrong, _)| wrong.is_none());
                if let Some((_, other)) = others.next() {
                    // What was due by now looks the same whether it was put off in the last step or not.
                    let mut model = candidates[right].clone();
                    for (nonce, message) in &mut model.messages {
                        let told = other.messages.get(nonce).map(|other| other.told_due_at_ms);
                        message.or_told_due_at_ms = told.filter(|told| *told != message.told_due_at_ms);
                    }
                    self.model = model;
                } else {
                    self.model = candidates.swap_remove(right);
                }
            }
            None => panic!("not as it was, and not as if what was in doubt had happened:\n{wrong:#?}"),
        }
        self.adopt(&seen);
        self.check(&seen);
        if process_only {
            // What the failed sync was for is trusted now, so it must be durable now.
            self.store = None;
            self.disk = self.disk.crash();
            self.open().unwrap_or_else(|error| panic!("what was trusted must open: {error}"));
            let seen = self.see();
            self.adopt(&seen);
            self.check(&seen);
        }
    }

    /// Which of the attempts that the log does not have were remembered is the disk's choice. So is which of the messages
    /// that were due stay so, if the clock has gone back since.
    fn adopt(&mut self, seen: &Seen) {
        if let Some(difference) = differences(&self.model, &seen.contents, self.reached_ms, true) {
            panic!("{difference}");
        }
        for found in seen.contents.iter().flat_map(|(_, messages)| messages) {
            let message = self.model.messages.get_mut(&found.nonce).expect("compared");
            message.attempts = found.attempts;
            message.due_at_ms = found.due_at_ms;
            // An attempt that was interrupted holds its key like one that failed, if its message is not due any more.
            message.held |= found.attempts > 0 && found.due_at_ms != 0;
        }
    }

    fn see(&self) -> Seen {
        let histories = self.try_histories().unwrap_or_else(|why| panic!("{why}"));
        let contents = self.try_contents().unwrap_or_else(|why| panic!("{why}"));
        Seen { contents, state: self.try_state().unwrap_or_else(|why| panic!("{why}")), histories }
    }

    fn check(&mut self, seen: &Seen) {
        let now_ms = self.now_ms();
        for (nonce, message) in self.model.messages.iter().filter(|(_, message)| message.due_at_ms != 0) {
            assert!(message.delayed_at_ms <= now_ms, "message {nonce} waits longer than it was told to");
        }
        if let Some(difference) = differences(&self.model, &seen.contents, self.reached_ms, false) {
            panic!("{difference}");
        }
        if let Some(difference) = state_differences(&self.model, &seen.state) {
            panic!("{difference}");
        }
        self.check_state_bytes();
        if let Some(difference) = history_difference(&self.model, &seen.histories, now_ms, &self.gave_up) {
            panic!("{difference}");
        }
        // What is missing is gone for ever.
        self.model.note_gone(&seen.histories, now_ms);
        let queued = seen.contents.iter().flat_map(|(_, found)| found).map(|one| (one.id, one.nonce));
        let kept = seen.histories.iter().flat_map(|(_, found)| found).map(|one| (one.id, one.nonce));
        for (id, nonce) in queued.chain(kept) {
            assert_eq!(*self.ids.entry(id).or_insert(nonce), nonce, "id {id} names two messages");
        }
    }
}

fn limits(history_ms: u64) -> QueueLimits {
    QueueLimits { bytes_max: QUEUE_BYTES_MAX, dedup_window_ms: DEDUP_WINDOW_MS, history_ms }
}

fn name(queue: &str) -> QueueName {
    QueueName::new(queue).expect("the names of the run are good")
}
