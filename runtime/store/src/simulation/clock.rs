//! Clocks that are wrong: what is delayed comes in time, whatever the machine's clock did while the store was closed.

use std::sync::Arc;

use bytes::Bytes;

use super::run::LAYOUT;
use crate::clock::ManualClock;
use crate::disk::SimulatedDisk;
use crate::engine::Engine;
use crate::open::{self, Opened};
use crate::{Action, NewMessage, QueueLimits, QueueName, Store, Transaction};

const START_MS: u64 = 1_700_000_000_000;
const YEAR_MS: u64 = 31_536_000_000;
const DELAY_MS: u64 = 10_000;
const LEASE_MS: u64 = 60_000;

struct Machine {
    disk: SimulatedDisk,
    clock: Arc<ManualClock>,
    queue: QueueName,
}

/// The store while it is open.
struct Open {
    engine: Engine,
    store: Store,
    queue: QueueName,
}

impl Machine {
    fn new() -> Machine {
        let queue = QueueName::new("reminders").unwrap();
        Machine { disk: SimulatedDisk::new(1), clock: Arc::new(ManualClock::new(START_MS)), queue }
    }

    fn open(&self) -> Open {
        let Opened { engine, lock } =
            open::open(Arc::new(self.disk.clone()), &LAYOUT, self.clock.clone(), 1).expect("it opens");
        let store = Store::without_committer(engine.shared.clone(), lock);
        store.declare(&self.queue, QueueLimits::default());
        Open { engine, store, queue: self.queue.clone() }
    }

    /// With a message in a segment that is due in a year less 400 ms.
    fn open_with_a_segment(&self) -> Open {
        let mut open = self.open();
        open.send(YEAR_MS, 10);
        for _ in 0..400 {
            self.clock.advance(1);
            open.send(0, 500);
            open.settle_next(Action::Ack);
            while open.engine.maintain() {}
        }
        assert!(open.engine.keeping.tally.segments > 0 && open.engine.keeping.tally.checkpoints > 1);
        open
    }

    /// The power fails, and the machine's clock is set before the store is open again.
    fn restart(&mut self, open: Open, clock_ms: u64) -> Open {
        drop(open);
        self.disk = self.disk.crash();
        self.clock.set(clock_ms);
        self.open()
    }

    /// Nothing comes before it is due, and it comes then.
    fn comes_in(&self, open: &Open, left_ms: u64) {
        assert_eq!(open.claim(), 0);
        let due_in = open.store.next_due_in(&open.queue).expect("a message is delayed");
        assert_eq!(due_in.as_millis() as u64, left_ms);
        self.clock.advance(left_ms - 1);
        assert_eq!(open.claim(), 0);
        self.clock.advance(1);
        assert_eq!(open.claim(), 1);
    }
}

impl Open {
    fn commit(&mut self, transaction: Transaction) {
        let mut answers = Vec::new();
        self.engine.commit(&mut vec![transaction.into()], &mut answers);
        assert!(answers[0].is_ok(), "{answers:?}");
    }

    fn send(&mut self, delay_ms: u64, body_bytes: usize) {
        let message = NewMessage { body: Bytes::from(vec![0; body_bytes]), delay_ms, ..NewMessage::default() };
        self.commit(Transaction { sends: [(self.queue.clone(), message)].into(), ..Transaction::default() });
    }

    fn settle_next(&mut self, action: Action) {
        let delivery = self.store.claim(&self.queue, 1, LEASE_MS).unwrap().remove(0);
        assert!(self.store.begin(delivery.lease));
        self.commit(Transaction { settle: Some((delivery.lease, action)), ..Transaction::default() });
    }

    fn claim(&self) -> usize {
        self.store.claim(&self.queue, 10, LEASE_MS).unwrap().len()
    }
}

#[test]
fn a_clock_that_goes_back_a_year_delays_nothing_for_a_year() {
    let mut machine = Machine::new();
    let mut open = machine.open();
    open.send(DELAY_MS, 10);
    let open = machine.restart(open, START_MS - YEAR_MS);
    machine.comes_in(&open, DELAY_MS);
}

#[test]
fn a_retry_is_not_delayed_by_a_clock_that_goes_back() {
    let mut machine = Machine::new();
    let mut open = machine.open();
    open.send(0, 10);
    // Nothing else tells how late it was when the attempt failed.
    machine.clock.advance(YEAR_MS);
    open.settle_next(Action::Retry { delay_ms: DELAY_MS });
    let open = machine.restart(open, START_MS);
    machine.comes_in(&open, DELAY_MS);
}

/// The records that told the time go with their file of the log; what comes after them tells it, too.
#[test]
fn a_clock_that_goes_back_delays_nothing_that_is_in_a_segment() {
    let mut machine = Machine::new();
    let open = machine.open_with_a_segment();
    let open = machine.restart(open, START_MS - YEAR_MS);
    machine.comes_in(&open, YEAR_MS - 400);
}

/// What a segment says of it stays true, whether or not the store is opened in between.
#[test]
fn what_expires_before_it_is_due_and_is_given_back_is_not_due_sooner() {
    for action in [
        Action::Retry { delay_ms: 0 },
        Action::Retry { delay_ms: DELAY_MS },
        Action::Snooze { delay_ms: 0 },
        Action::Snooze { delay_ms: DELAY_MS },
    ] {
        let mut machine = Machine::new();
        let mut open = machine.open_with_a_segment();
        let expired = open.store.claim_expired(&open.queue, 300, 10, LEASE_MS).unwrap();
        assert_eq!(expired.len(), 1, "it is the only one");
        open.commit(Transaction { settle: Some((expired[0].lease, action.clone())), ..Transaction::default() });
        let due_in = |open: &Open| open.store.next_due_in(&open.queue).expect("it is delayed").as_millis() as u64;
        assert_eq!(due_in(&open), YEAR_MS - 400, "after {action:?}");
        let open = machine.restart(open, START_MS + 400);
        machine.comes_in(&open, YEAR_MS - 400);
    }
}

/// The time for which a store is closed counts.
#[test]
fn a_message_that_fell_due_while_the_store_was_closed_comes_at_once() {
    let mut machine = Machine::new();
    let mut open = machine.open();
    open.send(DELAY_MS, 10);
    let open = machine.restart(open, START_MS + DELAY_MS);
    assert_eq!(open.claim(), 1);
}

#[test]
fn the_stores_clock_does_not_go_back_when_it_was_behind_for_one_process_only() {
    let mut machine = Machine::new();
    let mut open = machine.open();
    open.send(DELAY_MS, 10);
    let open = machine.restart(open, 0);
    let behind_ms = open.engine.shared.clock.now_ms();
    assert_eq!(behind_ms, START_MS);
    let open = machine.restart(open, START_MS + 2 * DELAY_MS);
    assert_eq!(open.engine.shared.clock.now_ms(), START_MS + 2 * DELAY_MS, "it is the machine's again");
    assert_eq!(open.claim(), 1);
}
