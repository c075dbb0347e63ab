//! A store on a simulated disk and clock that a test drives step by step.

use std::sync::Arc;

use bytes::Bytes;

use super::run::LAYOUT;
use crate::clock::ManualClock;
use crate::disk::SimulatedDisk;
use crate::engine::Engine;
use crate::open::{self, Opened};
use crate::{Action, Delivery, NewMessage, QueueLimits, QueueName, Store, Transaction};

pub(super) const LEASE_MS: u64 = 600_000;

/// It has one queue.
pub(super) struct Driven {
    pub(super) disk: SimulatedDisk,
    pub(super) clock: Arc<ManualClock>,
    pub(super) engine: Engine,
    pub(super) store: Store,
    pub(super) queue: QueueName,
}

impl Driven {
    pub(super) fn new(disk: SimulatedDisk) -> Driven {
        let clock = Arc::new(ManualClock::new(1_000_000));
        let Opened { engine, lock } = open::open(Arc::new(disk.clone()), &LAYOUT, clock.clone(), 1).expect("it opens");
        let store = Store::without_committer(engine.shared.clone(), lock);
        let queue = QueueName::new("driven").unwrap();
        store.declare(&queue, QueueLimits::default());
        Driven { disk, clock, engine, store, queue }
    }

    fn commit(&mut self, transaction: Transaction) {
        let mut answers = Vec::new();
        self.engine.commit(&mut vec![transaction], &mut answers);
        assert!(answers[0].is_ok(), "{answers:?}");
        while self.engine.maintain() {}
    }

    pub(super) fn publish(&mut self, body: &'static [u8]) {
        let message = NewMessage { body: Bytes::from_static(body), ..NewMessage::default() };
        self.commit(Transaction { sends: [(self.queue.clone(), message)].into(), ..Transaction::default() });
    }

    /// Handles the first message.
    pub(super) fn consume(&mut self) {
        let claimed = self.store.claim(&self.queue, 1, LEASE_MS).unwrap();
        self.settle(&claimed[0]);
    }

    /// Acknowledges a message.
    pub(super) fn settle(&mut self, delivery: &Delivery) {
        self.commit(Transaction { settle: Some((delivery.lease, Action::Ack)), ..Transaction::default() });
    }
}
