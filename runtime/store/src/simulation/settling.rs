//! Full log files in which little lives: they wait for a moment, and what is left then is picked out.

use std::sync::Arc;

use bytes::Bytes;

use super::run::LAYOUT;
use crate::clock::ManualClock;
use crate::disk::SimulatedDisk;
use crate::engine::Engine;
use crate::open::{self, Opened};
use crate::{Action, NewMessage, QueueLimits, QueueName, Store, Transaction};

const LEASE_MS: u64 = 600_000;

struct Open {
    disk: SimulatedDisk,
    clock: Arc<ManualClock>,
    engine: Engine,
    store: Store,
    queue: QueueName,
}

impl Open {
    fn new(disk: SimulatedDisk) -> Open {
        let clock = Arc::new(ManualClock::new(1_000_000));
        let Opened { engine, lock } = open::open(Arc::new(disk.clone()), &LAYOUT, clock.clone(), 1).expect("it opens");
        let store = Store::without_committer(engine.shared.clone(), lock);
        let queue = QueueName::new("settling").unwrap();
        store.declare(&queue, QueueLimits::default());
        Open { disk, clock, engine, store, queue }
    }

    fn commit(&mut self, transaction: Transaction) {
        let mut answers = Vec::new();
        self.engine.commit(&mut vec![transaction], &mut answers);
        assert!(answers[0].is_ok(), "{answers:?}");
        while self.engine.maintain() {}
    }

    fn publish(&mut self, body: &'static [u8]) {
        let message = NewMessage { body: Bytes::from_static(body), ..NewMessage::default() };
        self.commit(Transaction { sends: [(self.queue.clone(), message)].into(), ..Transaction::default() });
    }

    /// Handles the first message.
    fn consume(&mut self) {
        let claimed = self.store.claim(&self.queue, 1, LEASE_MS).unwrap();
        self.commit(Transaction { settle: Some((claimed[0].lease, Action::Ack)), ..Transaction::default() });
    }
}

#[test]
fn a_queue_that_is_kept_short_makes_no_segment() {
    let mut open = Open::new(SimulatedDisk::new(1));
    open.publish(b"one that is always in flight, so that no log file is without one when it is full");
    let begun = open.engine.wal.epoch();
    for _ in 0..1000 {
        open.publish(b"the next");
        open.consume();
    }
    assert!(open.engine.wal.epoch() > begun + 5, "the ring has turned");
    let tally = open.engine.keeping.tally;
    assert_eq!((tally.segments, tally.picked, tally.read_whole), (0, 0, 0));
    assert!(open.engine.wal.files() <= 6, "a file that waits makes the ring no longer");
}

#[test]
fn a_message_that_stays_is_picked_out_after_a_second_and_survives() {
    let mut open = Open::new(SimulatedDisk::new(1));
    open.publish(b"the one that stays");
    let claimed = open.store.claim(&open.queue, 1, LEASE_MS).unwrap();
    while open.engine.wal.full() == 0 {
        open.publish(b"the next");
        open.consume();
    }
    let picked = |open: &Open| (open.engine.keeping.tally.picked, open.engine.keeping.tally.segments);
    open.clock.advance(999);
    while open.engine.maintain() {}
    assert_eq!((picked(&open), open.engine.wal.full()), ((0, 0), 1), "it waits");
    open.clock.advance(1);
    while open.engine.maintain() {}
    assert_eq!((picked(&open), open.engine.wal.full()), ((1, 1), 0), "it is copied, and the file is free");
    drop(claimed);
    let disk = open.disk.kill();
    drop(open);
    let again = Open::new(disk);
    let claimed = again.store.claim(&again.queue, 10, LEASE_MS).unwrap();
    let bodies: Vec<&[u8]> = claimed.iter().map(|delivery| &delivery.message.body[..]).collect();
    assert_eq!(bodies, [&b"the one that stays"[..]]);
}
