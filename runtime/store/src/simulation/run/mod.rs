//! One run: random steps on the engine and the model, side by side.

mod contents;
mod histories;
mod mix;
mod shape;
mod state;
mod steps;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) use self::contents::Contents;
use self::contents::{Found, differences};
use self::mix::Mix;
pub(crate) use self::shape::LAYOUT;
pub(super) use self::shape::{Fault, Shape};
use self::state::state_differences;
use super::happened::Happened;
use super::history::{FoundKept, history_difference};
use super::model::{Model, Nonce, STATE_BYTES_MAX, State};
use crate::clock::ManualClock;
use crate::cold::checkpoint;
use crate::disk::{SimulatedDisk, SimulatedFaults};
use crate::engine::Engine;
use crate::keeping::Tally;
use crate::open::{self, Layout, Opened};
use crate::store::Store;
use crate::{MessageId, OpenError, QueueLimits, QueueName, Transaction};

const QUEUES: [&str; 5] = ["a", "b", "a.dead", "c", "c.dead"];
const SPACES: [&str; 2] = ["consumer/a", "consumer/a.b"];

pub(super) struct Run {
    random: fastrand::Rng,
    shape: Shape,
    mix: Mix,
    disk: SimulatedDisk,
    clock: Arc<ManualClock>,
    /// The latest that the store's clock has shown.
    reached_ms: u64,
    store: Option<Harness>,
    pub(super) model: Model,
    /// Queues whose history had to make room on a full disk.
    pub(super) gave_up: BTreeSet<QueueName>,
    disk_is_small: bool,
    /// What the disk holds before it is full, if anything.
    full_after_bytes: Option<u64>,
    /// What the disk was told to do wrong next.
    armed: Option<Fault>,
    next_nonce: Nonce,
    /// Every id that was ever given out.
    ids: BTreeMap<MessageId, Nonce>,
    /// What was on its way when the store stopped, and when it was committed.
    in_doubt: Vec<Step>,
    /// Decides which queues take sends: whatever else happens in a run does not depend on it.
    names: fastrand::Rng,
    /// The queue that takes no sends, if there is one; settlements may go there all the same.
    retracted: Option<QueueName>,
    happened: Happened,
}

/// What is put on record at once.
enum Step {
    Commit(Box<Transaction>, u64, bool),
    Purge(QueueName),
    DropState(&'static str),
}

/// What a run came to.
pub(super) struct Told {
    pub(super) operations: u64,
    /// What was done with segments since the last restart.
    pub(super) tally: Tally,
    pub(super) happened: Happened,
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
        let mix = Mix::new(seed, shape.body_bytes_max);
        let windows_ms = QUEUES.into_iter().map(name).zip(mix.histories_ms).collect();
        let model = Model { windows_ms, dedup_window_ms: mix.dedup_window_ms, ..Model::default() };
        Run {
            random: fastrand::Rng::with_seed(seed),
            shape,
            mix,
            disk: SimulatedDisk::new(seed),
            clock: Arc::new(ManualClock::new(1_000_000)),
            reached_ms: 0,
            store: None,
            model,
            gave_up: BTreeSet::new(),
            disk_is_small: false,
            full_after_bytes: None,
            armed: None,
            next_nonce: 1,
            ids: BTreeMap::new(),
            in_doubt: Vec::new(),
            names: fastrand::Rng::with_seed(!seed),
            retracted: None,
            happened: Happened::default(),
        }
    }

    /// Runs to the end and checks everything. Answers how many disk operations there were.
    pub(super) fn go(self, fault: Fault) -> u64 {
        self.go_and_tell(fault).operations
    }

    /// Also tells what was done.
    pub(super) fn go_and_tell(mut self, fault: Fault) -> Told {
        self.arm_at_start(fault);
        if let Err(error) = self.open() {
            assert!(self.armed.is_some(), "a fresh store must open: {error}");
            self.recover();
        }
        for step in 0..self.shape.steps {
            self.make_trouble(fault, step);
            self.recover_if_stopped();
            self.step();
            self.recover_if_stopped();
            self.note_survived();
        }
        self.disarm_reads();
        if self.is_power_off() {
            // The store did without what failed, such as the removal of a file that had no room, and has not come to more.
            self.engine().stop("the disk has failed");
            self.recover();
        }
        let seen = self.see();
        self.check(&seen);
        let operations = self.disk.operations();
        let tally = self.engine().keeping.tally;
        // A clean restart changes nothing but the leases.
        self.full_after_bytes = None;
        self.kill();
        self.note_end(operations);
        Told { operations, tally, happened: self.happened }
    }

    /// The process ends, and the next one finds all that was written.
    fn kill(&mut self) {
        self.kill_and(|_, _| {});
    }

    /// The same after something has happened to the disk that must change nothing.
    fn kill_and(&mut self, happens: impl FnOnce(&SimulatedDisk, &mut fastrand::Rng)) {
        self.store = None;
        self.armed = None;
        self.model.end_process();
        self.happened.add("disk operations", self.disk.operations());
        self.disk = self.disk.kill();
        happens(&self.disk, &mut self.random);
        self.disk.set_faults(self.faults());
        self.reopen("what was written");
        let seen = self.see();
        self.check(&seen);
        self.adopt(&seen);
    }

    fn note_end(&mut self, operations: u64) {
        self.happened.add("disk operations", operations);
        self.happened.add("steps", self.shape.steps as u64);
        self.happened.count("runs");
        super::seeds::account(&self.happened);
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
    pub(super) fn rot(mut self, picked_max: u64) -> (String, Option<String>) {
        self.mix.picked_max = picked_max;
        self.open().expect("a fresh store opens");
        while self.engine().wal.full() == 0 {
            self.publish();
        }
        let slot = self.engine().wal.oldest().expect("it is full").slot;
        let name = crate::wal::file::name(slot);
        let offset = self.random.u64(600..1200);
        self.disk.corrupt(&name, offset, 0x10);
        for _ in 0..20 {
            self.clock.advance(1000);
            self.engine().maintain();
        }
        let stopped = self.engine().stopped().map(|why| why.to_string());
        if stopped.is_none() {
            assert!(self.engine().wal.full() == 0, "the file is copied");
            let seen = self.see();
            self.check(&seen);
        }
        (name, stopped)
    }

    /// Runs with ends of the process and power losses at any time, and with bits that rot in a checkpoint before the next
    /// process opens it. Whichever of the two checkpoints rots then, the other one and the log say the same. Answers how often
    /// that was tried with two of which the older one begins with an earlier log file.
    pub(super) fn rot_checkpoints(mut self) -> usize {
        let mut tried = 0;
        self.open().expect("a fresh store opens");
        for _ in 0..self.shape.steps {
            match self.random.u8(..) {
                0..6 => self.kill(),
                6..12 => self.kill_and(|disk, random| rot_checkpoint(disk, random.usize(..2), random)),
                12..24 if self.armed.is_none() => {
                    let operation = self.disk.operations() + self.random.u64(0..12);
                    self.arm(Fault::PowerLoss { operation });
                }
                _ => {}
            }
            self.step();
            if self.engine().stopped().is_some() {
                self.recover();
            }
            if self.is_power_off() || self.random.u8(..) > 40 {
                continue;
            }
            let disk = self.disk.snapshot();
            let epochs = checkpoint::NAMES.map(|name| match checkpoint::read_one(&disk, name) {
                Ok(Some(raw)) => raw.header.start_epoch,
                _ => 0,
            });
            tried += usize::from(epochs[0].min(epochs[1]) > 0 && epochs[0] != epochs[1]);
            let expected = Run::contents_of(&disk.snapshot(), self.shape).expect("what was written opens");
            for which in 0..2 {
                let damaged = disk.snapshot();
                rot_checkpoint(&damaged, which, &mut self.random);
                let found = Run::contents_of(&damaged, self.shape);
                assert_eq!(found.as_ref(), Ok(&expected), "{} has rotted", checkpoint::NAMES[which]);
            }
        }
        tried
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

    fn limits(&self, queue: &QueueName) -> QueueLimits {
        QueueLimits {
            bytes_max: self.mix.queue_bytes_max,
            dedup_window_ms: self.mix.dedup_window_ms,
            history_ms: self.model.windows_ms[queue],
        }
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
            0 => {
                self.clock.set(machine_ms - self.random.u64(0..20_000));
                self.happened.count("clocks set back");
            }
            1 => {
                self.clock.set(machine_ms + self.random.u64(0..2_000));
                self.happened.count("clocks set forward");
            }
            _ => {}
        }
        let layout = Layout { picked_max: self.mix.picked_max, ..self.shape.layout() };
        let Opened { engine, lock } = open::open(Arc::new(self.disk.clone()), &layout, self.clock.clone(), seed)?;
        let face = Store::without_committer(engine.shared.clone(), lock);
        for queue in QUEUES {
            face.declare(&name(queue), self.limits(&name(queue)));
        }
        SPACES.iter().for_each(|space| face.limit_state(space, STATE_BYTES_MAX));
        self.store = Some(Harness { engine, face });
        self.retracted = None;
        let now_ms = self.now_ms();
        self.model.age(now_ms);
        Ok(())
    }

    /// Opens what was left behind, on a full disk, too. There it may fail only for want of space, and only for a file that
    /// has to be made again and holds no message: one of a store of which nothing was confirmed yet, or a map, whose name
    /// was lost with a sync of the folder that failed. With space it opens, and whoever called this requires that
    /// everything is there.
    fn reopen(&mut self, what: &str) {
        let Err(error) = self.open() else { return };
        let error = error.to_string();
        let is_full = self.full_after_bytes.take().is_some() && error.contains(": no storage space");
        let holds_nothing = self.ids.is_empty() || error.contains(".map: no storage space");
        assert!(is_full && holds_nothing, "{what} must open: {error}");
        self.happened.count("full disks on which a file could not be made");
        self.disk.set_faults(self.faults());
        self.open().unwrap_or_else(|error| panic!("{what} must open once there is space: {error}"));
    }

    fn recover_if_stopped(&mut self) {
        if let Some(why) = self.engine().stopped() {
            assert!(self.armed.is_some(), "the store stopped without a fault: {why}");
            self.recover();
        }
    }

    /// The power is lost (or, after an error of the disk, the process ends), and what is left is opened again.
    fn recover(&mut self) {
        let mut process_only = self.end(self.armed);
        let mut again = 0;
        while again < 3 && self.random.bool() {
            // While the store opens, the power fails again or the disk has another error.
            again += 1;
            self.happened.count("troubles while opening");
            let fault = self.any_fault(12);
            self.arm(fault);
            let _ = self.open();
            process_only = self.end(Some(fault)) || process_only;
        }
        self.reopen("what survived");

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
            self.end(None);
            self.reopen("what was trusted");
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
        self.check_counts();
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

/// Bits rot in one of the two, if it was ever written.
fn rot_checkpoint(disk: &SimulatedDisk, which: usize, random: &mut fastrand::Rng) {
    let name = checkpoint::NAMES[which];
    if matches!(checkpoint::read_one(disk, name), Ok(Some(_))) {
        disk.corrupt(name, [8, 100, 511, 512, 530][random.usize(..5)], 0x40);
    }
}

fn name(queue: &str) -> QueueName {
    QueueName::new(queue).expect("the names of the run are good")
}
