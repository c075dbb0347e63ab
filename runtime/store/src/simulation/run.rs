//! One run: random steps on the engine and the model, side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::history::{FoundKept, history_difference};
use super::model::{DEDUP_WINDOW_MS, Leased, Model, Nonce, STATE_BYTES_MAX, State, nonce};
use crate::clock::ManualClock;
use crate::disk::{SimulatedDisk, SimulatedFaults};
use crate::engine::Engine;
use crate::keeping::Tally;
use crate::open::{self, Layout, Opened};
use crate::store::Store;
use crate::wal::Preparation;
use crate::{
    Action, AttributeEdit, Lease, MessageId, NewMessage, OpenError, QueueLimits, QueueName, Refusal, StateRead,
    StateWrite, Transaction,
};

/// How much happens in a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    steps: usize,
    body_bytes_max: usize,
    /// Length of a log file.
    file_bytes: u64,
    /// Of 256 steps, how many of those that look after segments and the ring.
    keeping: u8,
    /// Whether durable state is read and written.
    state: bool,
}

impl Shape {
    /// Stays in the log.
    pub(super) const SHORT: Shape =
        Shape { steps: 14, body_bytes_max: 300, file_bytes: 8 << 10, keeping: 12, state: false };
    /// Fills the ring many times.
    pub(super) const LONG: Shape =
        Shape { steps: 330, body_bytes_max: 700, file_bytes: 8 << 10, keeping: 64, state: false };
    /// Has most of its messages in segments soon.
    pub(super) const COLD: Shape =
        Shape { steps: 150, body_bytes_max: 120, file_bytes: 2 << 10, keeping: 176, state: false };
    /// Puts durable state into its file, several times.
    pub(super) const STATE: Shape =
        Shape { steps: 45, body_bytes_max: 60, file_bytes: 3 << 10, keeping: 110, state: true };
    /// The same, longer.
    pub(super) const STATE_LONG: Shape = Shape { steps: 400, ..Shape::STATE };

    /// The same, long enough for segments to be rewritten and runs of idempotency keys to be put together.
    pub(super) const COLD_LONG: Shape = Shape { steps: 900, ..Shape::COLD };

    fn layout(self) -> Layout {
        Layout { file_bytes: self.file_bytes, ..LAYOUT }
    }
}

/// What goes wrong in a run.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    None,
    PowerLoss { operation: u64 },
    Kills,
    FailedWrite { operation: u64 },
    FailedSync { operation: u64 },
    FullDisk,
}

pub(super) const LAYOUT: Layout = Layout {
    file_bytes: 8 << 10,
    files_max: 8,
    cache_bytes_max: 2048,
    attempt_slots: 16,
    chunk_bytes: 700,
    small_segment_bytes: 1200,
    dedup_runs_max: 4,
    checkpoint_bytes: 2048,
    preparation: Preparation::Inline,
};

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
                self.check();
                self.adopt();
            }
        }
        self.check();
        let operations = self.disk.operations();
        let tally = self.engine().keeping.tally;
        // A clean restart changes nothing but the leases.
        self.store = None;
        self.model.end_process();
        self.disk = self.disk.kill();
        self.open().expect("a store that was left in peace opens");
        self.check();
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

    /// Opens a store and reads everything. An error names what is wrong.
    pub(super) fn contents_of(disk: &SimulatedDisk, shape: Shape) -> Result<Contents, String> {
        let mut run = Run::new(0, shape);
        run.disk = disk.clone();
        // What is too old is not gone yet.
        run.model.windows_ms.values_mut().for_each(|window_ms| *window_ms = u64::MAX);
        run.open().map_err(|error| error.to_string())?;
        run.try_histories()?;
        Ok(run
            .try_contents()
            .map_err(|refusal| refusal.to_string())?
            .into_iter()
            .map(|(queue, found)| (queue, found.into_iter().map(|one| (one.id, one.body)).collect()))
            .collect())
    }

    /// The store's time, which may be ahead of the machine's.
    fn now_ms(&mut self) -> u64 {
        let now_ms = self.engine().shared.clock.now_ms();
        self.reached_ms = self.reached_ms.max(now_ms);
        now_ms
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
        let (actual, state, histories) = (self.contents(), self.state(), self.histories());
        let compare = |model: &Model| {
            differences(model, &actual, self.reached_ms, true)
                .or_else(|| state_differences(model, &state))
                .or_else(|| history_difference(model, &histories, now_ms, &self.gave_up))
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
        self.adopt();
        self.check();
        if process_only {
            // What the failed sync was for is trusted now, so it must be durable now.
            self.store = None;
            self.disk = self.disk.crash();
            self.open().unwrap_or_else(|error| panic!("what was trusted must open: {error}"));
            self.adopt();
            self.check();
        }
    }

    /// Which of the attempts that the log does not have were remembered is the disk's choice. So is which of the messages
    /// that were due stay so, if the clock has gone back since.
    fn adopt(&mut self) {
        let actual = self.contents();
        if let Some(difference) = differences(&self.model, &actual, self.reached_ms, true) {
            panic!("{difference}");
        }
        for found in actual.iter().flat_map(|(_, messages)| messages) {
            let message = self.model.messages.get_mut(&found.nonce).expect("compared");
            message.attempts = found.attempts;
            message.due_at_ms = found.due_at_ms;
            // An attempt that was interrupted holds its key like one that failed, if its message is not due any more.
            message.held |= found.attempts > 0 && found.due_at_ms != 0;
        }
    }

    fn step(&mut self) {
        if self.random.u8(..) < self.shape.keeping {
            let before = self.given_up();
            self.engine().maintain();
            self.note_given_up(&before);
            return;
        }
        if self.random.u8(..) < 3 {
            return self.purge();
        }
        if self.names.u8(..) < 6 {
            self.retract();
        }
        if self.shape.state && self.random.u8(..) < 4 {
            return self.drop_state();
        }
        if self.random.u8(..) < 2 {
            return self.change_history();
        }
        match self.random.u8(0..19) {
            0..=7 => self.publish(),
            8..=11 => self.claim(),
            12..=16 => self.settle(),
            _ => self.pass_time(),
        }
    }

    fn publish(&mut self) {
        let transactions: Vec<Transaction> = (0..self.random.usize(1..4))
            .map(|_| {
                let sends = (0..self.random.usize(1..3)).map(|_| (self.queue(), self.message())).collect();
                let (state, state_reads) = self.state_writes();
                Transaction { sends, state, state_reads, ..Transaction::default() }
            })
            .collect();
        self.commit(transactions, |refusal| {
            matches!(refusal, Refusal::DiskFull | Refusal::QueueFull { .. } | Refusal::TooLarge { .. })
        });
    }

    /// Writes of durable state, and what was read before: mostly what is there, unless others in the group write it first.
    fn state_writes(&mut self) -> (Vec<StateWrite>, Vec<StateRead>) {
        if !self.shape.state || self.random.bool() {
            return (Vec::new(), Vec::new());
        }
        let place = |random: &mut fastrand::Rng| {
            let key = ["a", "b", "c", "c\u{e9}"][random.usize(..4)];
            (Box::<str>::from(SPACES[random.usize(..2)]), Box::<str>::from(key))
        };
        let reads = (0..self.random.usize(0..3)).map(|_| {
            let (space, key) = place(&mut self.random);
            let seen = self.model.state.get(&(space.to_string(), key.to_string())).cloned();
            let seen = if self.random.u8(..) < 20 { None } else { seen };
            StateRead { space, key, seen: seen.map(Bytes::from) }
        });
        let reads = reads.collect();
        let writes = (0..self.random.usize(1..4)).map(|_| {
            let (space, key) = place(&mut self.random);
            let len = self.random.usize(..400);
            let byte = self.random.u8(..);
            let value = (self.random.u8(..) < 190).then(|| Bytes::from(vec![byte; len]));
            StateWrite { space, key, value }
        });
        (writes.collect(), reads)
    }

    fn drop_state(&mut self) {
        let space = SPACES[self.random.usize(..2)];
        match self.engine().drop_state(space) {
            Ok(()) => self.model.drop_state(space),
            Err(_) => self.in_doubt.push(Step::DropState(space)),
        }
    }

    fn queue(&mut self) -> QueueName {
        name(QUEUES[self.random.usize(..QUEUES.len())])
    }

    fn message(&mut self) -> NewMessage {
        let mut body = self.next_nonce.to_le_bytes().to_vec();
        self.next_nonce += 1;
        let len = self.random.usize(..self.shape.body_bytes_max);
        body.extend(std::iter::repeat_with(|| self.random.u8(..)).take(len));
        let key = self.random.bool().then(|| ["k", "l"][self.random.usize(..2)].into());
        let attributes = if self.random.bool() { vec![("x".into(), "y".into())] } else { Vec::new() };
        let delay_ms = if self.random.u8(..) < 50 { self.random.u64(1..2000) } else { 0 };
        let idempotency_key = (self.random.u8(..) < 60).then(|| ["p", "q", "r"][self.random.usize(..3)].into());
        NewMessage { body: Bytes::from(body), content_type: None, key, attributes, idempotency_key, delay_ms }
    }

    fn claim(&mut self) {
        let (queue, max) = (self.queue(), self.random.usize(1..5));
        let now_ms = self.now_ms();
        let older_than_ms = (self.random.u8(..) < 20).then(|| self.random.u64(1..3000));
        // Expired messages are taken away; nobody handles them.
        let begin: Vec<bool> = (0..max).map(|_| older_than_ms.is_none() && self.random.u8(..) < 200).collect();
        let face = &self.store.as_ref().expect("the store is open").face;
        let leased = self.model.messages.values().filter(|message| message.lease.is_some()).count();
        let room = LAYOUT.attempt_slots - leased;
        let (mut expected, claimed) = match older_than_ms {
            None => (self.model.claimable(&queue, max.min(room), now_ms), face.claim(&queue, max, LEASE_MS)),
            Some(older_than_ms) => (
                self.model.expired(&queue, max.min(room), now_ms - older_than_ms),
                face.claim_expired(&queue, older_than_ms, max, LEASE_MS),
            ),
        };
        let deliveries = match claimed {
            Ok(deliveries) => deliveries,
            // Reading fails when the power is gone; the run notices at its next write.
            Err(Refusal::Read(_)) => {
                self.engine().stop("a read failed");
                return;
            }
            Err(other) => panic!("a claim failed: {other}"),
        };
        if let Some(next) = expected.get(deliveries.len()).filter(|_| older_than_ms.is_some())
            && self.model.stands_behind_younger(&queue, *next)
        {
            // Of a chunk, the store knows only when its first message was sent.
            expected.truncate(deliveries.len());
        }
        if deliveries.len() < expected.len() {
            self.engine().stop("a read failed");
            return;
        }
        let claimed: Vec<Nonce> = deliveries.iter().map(|delivery| nonce(&delivery.message.body)).collect();
        assert_eq!(claimed, expected, "the wrong messages were claimed from {queue}");
        for (delivery, begin) in deliveries.into_iter().zip(begin) {
            let message = self.model.messages.get_mut(&nonce(&delivery.message.body)).expect("compared");
            assert_eq!(delivery.message.body, message.body);
            assert_eq!(delivery.attempt, message.attempts + 1);
            assert_eq!(delivery.message.enqueued_at_ms, message.sent_at_ms);
            let begun = begin && face.begin(delivery.lease);
            assert_eq!(begun, begin, "a fresh lease can begin");
            if begun {
                message.most_begun = message.most_begun.max(delivery.attempt);
            }
            message.lease = Some(Leased { lease: delivery.lease, begun, expires_at_ms: now_ms + LEASE_MS });
        }
    }

    fn settle(&mut self) {
        let leases: Vec<Lease> =
            self.model.messages.values().filter_map(|message| message.lease).map(|leased| leased.lease).collect();
        if leases.is_empty() {
            return;
        }
        let lease = leases[self.random.usize(..leases.len())];
        let delay_ms = [0, 500, 3000][self.random.usize(..3)];
        let sends = (0..self.random.usize(0..3)).map(|_| (self.queue(), self.message())).collect();
        let transaction = match self.random.u8(0..10) {
            0..=4 => {
                let (state, state_reads) = self.state_writes();
                Transaction { settle: Some((lease, Action::Ack)), sends, state, state_reads }
            }
            5 => Transaction { settle: Some((lease, Action::Retry { delay_ms })), ..Transaction::default() },
            6 => Transaction { settle: Some((lease, Action::Snooze { delay_ms })), ..Transaction::default() },
            7 => Transaction { settle: Some((lease, Action::Release)), ..Transaction::default() },
            _ => {
                let facts = vec![
                    ("linecook-reason".into(), "it failed".into()),
                    ("linecook-subject".into(), "orders.placed".into()),
                ];
                let attributes =
                    if self.random.bool() { AttributeEdit::Set(facts) } else { AttributeEdit::StripReserved };
                let action = Action::Move { queue: self.queue(), attributes };
                let (state, state_reads) = self.state_writes();
                Transaction { settle: Some((lease, action)), state, state_reads, ..Transaction::default() }
            }
        };
        // What only takes messages away must always work.
        let may_be_full = !transaction.sends.is_empty()
            || matches!(transaction.settle, Some((_, Action::Move { .. })))
            || transaction.state.iter().any(|write| write.value.is_some());
        self.commit(vec![transaction], |refusal| {
            may_be_full && matches!(refusal, Refusal::DiskFull | Refusal::QueueFull { .. } | Refusal::TooLarge { .. })
        });
    }

    fn purge(&mut self) {
        let queue = self.queue();
        let number = {
            let state = self.engine().shared.state();
            state.queues.known(&queue).map(|number| (number, state.queues.next_position(number)))
        };
        let Some((number, below)) = number else { return };
        let before = self.given_up();
        let purged = self.engine().purge_step(number, below, usize::MAX);
        self.note_given_up(&before);
        match purged {
            Ok((removed, more)) => {
                let held = self.model.order.get(&queue).map_or(0, Vec::len);
                assert_eq!((removed, more), (held as u64, false), "the purge of {queue}");
                self.model.purge(&queue);
            }
            Err(_) => self.in_doubt.push(Step::Purge(queue)),
        }
    }

    /// One queue takes no more sends, in place of the one that did not so far.
    fn retract(&mut self) {
        let next = self.names.bool().then(|| name(QUEUES[self.names.usize(..QUEUES.len())]));
        let face = &self.store.as_ref().expect("the store is open").face;
        if let Some(before) = self.retracted.take() {
            face.declare(&before, limits(self.model.windows_ms[&before]));
        }
        if let Some(next) = &next {
            face.retract(next);
        }
        self.retracted = next;
    }

    fn pass_time(&mut self) {
        self.clock.advance(self.random.u64(1..1500));
        let now_ms = self.now_ms();
        let before = self.given_up();
        self.engine().expire();
        self.note_given_up(&before);
        self.model.age(now_ms);
        if self.engine().stopped().is_none() {
            self.model.expire(now_ms);
        } else {
            // The attempts of leases that were over may be on record; all of them end with the process anyway.
            self.in_doubt.clear();
        }
    }

    /// The file that says how long messages are kept is edited.
    fn change_history(&mut self) {
        let (queue, window_ms) = (self.queue(), [0, 1000, 6000, u64::MAX][self.random.usize(..4)]);
        // It is declared again at the next change.
        if self.retracted.as_ref() == Some(&queue) {
            return;
        }
        self.store.as_ref().expect("the store is open").face.declare(&queue, limits(window_ms));
        self.model.windows_ms.insert(queue, window_ms);
        let now_ms = self.now_ms();
        self.model.age(now_ms);
    }

    fn commit(&mut self, transactions: Vec<Transaction>, may_refuse: impl Fn(&Refusal) -> bool) {
        let now_ms = self.now_ms();
        let mut answers = Vec::new();
        let before = self.given_up();
        self.engine().commit(&mut transactions.clone(), &mut answers);
        assert_eq!(answers.len(), transactions.len());
        let mut any_in_doubt = false;
        // What is acknowledged is not kept if a frame can't hold it together with what its handler sends.
        let keeps = self.disk_is_small || self.given_up() == before;
        if !keeps {
            let [one] = &transactions[..] else { panic!("only a single transaction is too large") };
            let bytes: usize = one.sends.iter().map(|(_, message)| message.body.len()).sum();
            let written = one
                .state
                .iter()
                .map(|one| one.space.len() + one.key.len() + 40 + one.value.as_ref().map_or(0, Bytes::len));
            let bytes = bytes + written.sum::<usize>();
            let most = self.shape.body_bytes_max + 200 + bytes + one.sends.len() * 300;
            assert!(most as u64 > self.shape.file_bytes / 4 - 128, "{bytes} bytes are no reason to keep nothing");
        }
        self.note_given_up(&before);
        for (transaction, answer) in transactions.into_iter().zip(answers) {
            let refused = |(queue, _): &(QueueName, NewMessage)| self.retracted.as_ref() == Some(queue);
            let foreign = transaction.settle.is_none() && transaction.sends.iter().any(refused);
            match &answer {
                // Nor is it in doubt: it is refused before anything is written.
                Err(Refusal::NoSuchQueue(_) | Refusal::Stopped(_)) if foreign => continue,
                Ok(_) if foreign => panic!("a queue that was retracted has taken a message"),
                _ => {}
            }
            let refuses_state = self.model.refuses_state(&transaction);
            if answer.is_ok() {
                assert!(!refuses_state, "{:?} and {:?} must not happen", transaction.state_reads, transaction.state);
            }
            match answer {
                // What is in doubt counts for those after it.
                Err(Refusal::StateChanged { .. } | Refusal::StateFull { .. }) => {
                    assert!(refuses_state || any_in_doubt, "refused without need: {:?}", transaction.state_reads);
                }
                Ok(receipt) => {
                    let duplicates = self.model.apply(&transaction, now_ms, keeps);
                    for ((sent, (_, message)), first) in receipt.into_iter().zip(&transaction.sends).zip(duplicates) {
                        let (id, nonce) = (sent.id, nonce(&message.body));
                        assert_eq!(
                            sent.duplicate,
                            first.is_some(),
                            "message {nonce} with {:?}",
                            message.idempotency_key
                        );
                        match first {
                            None => assert_eq!(self.ids.insert(id, nonce), None, "id {id} was given out twice"),
                            // A message whose send was in doubt has an id that nobody was told.
                            Some(first) => {
                                assert_eq!(*self.ids.entry(id).or_insert(first), first, "of message {nonce}");
                            }
                        }
                    }
                }
                Err(Refusal::Stopped(_)) => {
                    any_in_doubt = true;
                    self.in_doubt.push(Step::Commit(transaction.into(), now_ms, keeps));
                }
                // Reading fails when the power is gone.
                Err(Refusal::Read(_)) => {
                    self.engine().stop("a read failed");
                }
                Err(refusal) => assert!(may_refuse(&refusal), "refused without need: {refusal}"),
            }
        }
    }

    fn check(&mut self) {
        let now_ms = self.now_ms();
        for (nonce, message) in self.model.messages.iter().filter(|(_, message)| message.due_at_ms != 0) {
            assert!(message.delayed_at_ms <= now_ms, "message {nonce} waits longer than it was told to");
        }
        let actual = self.contents();
        if let Some(difference) = differences(&self.model, &actual, self.reached_ms, false) {
            panic!("{difference}");
        }
        if let Some(difference) = state_differences(&self.model, &self.state()) {
            panic!("{difference}");
        }
        for space in SPACES {
            let face = &self.store.as_ref().expect("the store is open").face;
            assert_eq!(face.state_bytes(space), self.model.state_bytes(space), "bytes of {space}");
        }
        self.check_histories(now_ms);
        for found in actual.iter().flat_map(|(_, messages)| messages) {
            let known = *self.ids.entry(found.id).or_insert(found.nonce);
            assert_eq!(known, found.nonce, "id {} names two messages", found.id);
        }
    }

    /// Opens a store and reads its durable state.
    pub(super) fn state_of(disk: &SimulatedDisk, shape: Shape) -> Result<State, String> {
        let mut run = Run::new(0, shape);
        run.disk = disk.clone();
        run.open().map_err(|error| error.to_string())?;
        run.try_state().map_err(|refusal| refusal.to_string())
    }

    fn state(&self) -> State {
        self.try_state().unwrap_or_else(|why| panic!("{why}"))
    }

    fn try_state(&self) -> Result<State, Refusal> {
        let face = &self.store.as_ref().expect("the store is open").face;
        let mut state = State::new();
        for space in SPACES {
            let mut after: Option<Box<str>> = None;
            loop {
                // A page of two keys at a time.
                let keys = face.state_keys(space, after.as_deref(), 2)?;
                for key in &keys {
                    let value = face.state_get(space, key)?.expect("it was listed");
                    assert!(state.insert((space.to_owned(), key.to_string()), value.to_vec()).is_none(), "{key} twice");
                }
                match keys.into_iter().next_back() {
                    Some(last) => after = Some(last),
                    None => break,
                }
            }
        }
        Ok(state)
    }

    /// What the histories hold, and nothing else, and what is missing is gone for ever.
    fn check_histories(&mut self, now_ms: u64) {
        let histories = self.histories();
        if let Some(difference) = history_difference(&self.model, &histories, now_ms, &self.gave_up) {
            panic!("{difference}");
        }
        for found in histories.iter().flat_map(|(_, found)| found) {
            assert_eq!(*self.ids.entry(found.id).or_insert(found.nonce), found.nonce, "an id names two messages");
        }
        self.model.note_gone(&histories, now_ms);
    }

    /// How much each history had to give up.
    fn given_up(&self) -> [u64; 3] {
        // Not by the statistics: those of a queue that is retracted and empty are not shown.
        let state = self.store.as_ref().expect("the store is open").engine.shared.state();
        let number = |queue| state.queues.known(&name(queue));
        QUEUES.map(|queue| number(queue).map_or(0, |number| state.history.counts(number).given_up))
    }

    fn note_given_up(&mut self, before: &[u64; 3]) {
        for ((queue, now), before) in QUEUES.into_iter().zip(self.given_up()).zip(before) {
            if self.disk_is_small && now > *before {
                self.gave_up.insert(name(queue));
            }
        }
    }

    fn histories(&self) -> Vec<(QueueName, Vec<FoundKept>)> {
        self.try_histories().unwrap_or_else(|why| panic!("{why}"))
    }

    fn try_histories(&self) -> Result<Vec<(QueueName, Vec<FoundKept>)>, String> {
        let face = &self.store.as_ref().expect("the store is open").face;
        QUEUES.map(name).into_iter().map(|queue| Ok((queue.clone(), FoundKept::all(face, &queue)?))).collect()
    }

    fn contents(&self) -> Vec<(QueueName, Vec<Found>)> {
        self.try_contents().unwrap_or_else(|why| panic!("{why}"))
    }

    fn try_contents(&self) -> Result<Vec<(QueueName, Vec<Found>)>, Refusal> {
        let face = &self.store.as_ref().expect("the store is open").face;
        let all = QUEUES.into_iter().map(|queue| {
            let peeked = face.peek(&name(queue), usize::MAX)?;
            let found = peeked.into_iter().map(|one| Found {
                id: one.message.id,
                nonce: nonce(&one.message.body),
                body: one.message.body.to_vec(),
                key: one.message.key.as_deref().map(Into::into),
                attributes: one.message.attributes.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
                sent_at_ms: one.message.enqueued_at_ms,
                attempts: one.attempts,
                due_at_ms: one.due_at_ms.unwrap_or(0),
            });
            Ok((name(queue), found.collect()))
        });
        all.collect()
    }
}

fn state_differences(model: &Model, actual: &State) -> Option<String> {
    (model.state != *actual).then(|| format!("the state is {actual:?}, expected {:?}", model.state))
}

/// The ids and bodies of each queue, in order.
pub(super) type Contents = Vec<(QueueName, Vec<(MessageId, Vec<u8>)>)>;

/// A message as the store has it.
struct Found {
    id: MessageId,
    nonce: Nonce,
    body: Vec<u8>,
    key: Option<String>,
    attributes: Vec<(String, String)>,
    sent_at_ms: u64,
    attempts: u32,
    due_at_ms: u64,
}

/// What is wrong, if anything. After a fault, the attempts are those that the log has, or some of those that began since.
///
/// `reached_ms`: the latest that the store's clock has shown.
fn differences(
    model: &Model,
    actual: &[(QueueName, Vec<Found>)],
    reached_ms: u64,
    after_fault: bool,
) -> Option<String> {
    for (queue, found) in actual {
        let expected = model.order.get(queue).cloned().unwrap_or_default();
        let nonces: Vec<Nonce> = found.iter().map(|one| one.nonce).collect();
        if nonces != expected {
            return Some(format!("queue {queue} holds {nonces:?}, expected {expected:?}"));
        }
        for one in found {
            let message = &model.messages[&one.nonce];
            let attempts = message.attempts + u32::from(message.lease.is_some_and(|leased| leased.begun));
            let attempts_fit = match after_fault {
                true => one.attempts + 1 >= attempts && one.attempts <= attempts.max(message.most_begun),
                false => one.attempts == attempts,
            };
            // What was due once may or may not have been made ready.
            let due_at_ms = message.told_due_at_ms;
            let due_fits = one.due_at_ms == due_at_ms
                || message.or_told_due_at_ms == Some(one.due_at_ms)
                || (one.due_at_ms == 0 && due_at_ms <= reached_ms);
            if one.body != message.body
                || one.key != message.key
                || one.attributes != message.attributes
                || one.sent_at_ms != message.sent_at_ms
                || !attempts_fit
                || !due_fits
            {
                return Some(format!(
                    "message {} in {queue}: attempts {} for {attempts}, due {} for {}, sent {} for {}, attributes {:?} for {:?}",
                    one.nonce,
                    one.attempts,
                    one.due_at_ms,
                    due_at_ms,
                    one.sent_at_ms,
                    message.sent_at_ms,
                    one.attributes,
                    message.attributes
                ));
            }
        }
    }
    None
}

fn limits(history_ms: u64) -> QueueLimits {
    QueueLimits { bytes_max: QUEUE_BYTES_MAX, dedup_window_ms: DEDUP_WINDOW_MS, history_ms }
}

fn name(queue: &str) -> QueueName {
    QueueName::new(queue).expect("the names of the run are good")
}
