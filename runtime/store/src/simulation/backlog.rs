//! A store with one queue, on a simulated disk and clock, that a test drives message by message.

use std::sync::Arc;

use bytes::Bytes;

use super::run::LAYOUT;
use crate::clock::ManualClock;
use crate::disk::SimulatedDisk;
use crate::engine::Engine;
use crate::open::{self, Opened};
use crate::{Action, Delivery, NewMessage, QueueLimits, QueueName, Refusal, Store, Transaction};

pub(super) const LEASE_MS: u64 = 600_000;
const BODY_BYTES: usize = 100;

/// A queue, and whatever stands in it.
pub(super) struct Backlog {
    pub(super) disk: SimulatedDisk,
    pub(super) clock: Arc<ManualClock>,
    pub(super) engine: Engine,
    pub(super) store: Store,
    pub(super) queue: QueueName,
}

impl Backlog {
    /// A queue that is longer than the log: its messages, which are numbered, stand in segments.
    pub(super) fn new(messages: u64) -> Backlog {
        let mut backlog = Backlog::open(SimulatedDisk::new(1), Arc::new(ManualClock::new(1_000_000)));
        for number in 0..messages {
            let mut body = vec![b'x'; BODY_BYTES];
            body[..8].copy_from_slice(&number.to_le_bytes());
            backlog.publish(body);
        }
        backlog
    }

    /// Opens what is on a disk, with whatever is wrong with that.
    pub(super) fn open(disk: SimulatedDisk, clock: Arc<ManualClock>) -> Backlog {
        let Opened { engine, lock } = open::open(Arc::new(disk.clone()), &LAYOUT, clock.clone(), 1).expect("it opens");
        let store = Store::without_committer(engine.shared.clone(), lock);
        let queue = QueueName::new("backlog").unwrap();
        store.declare(&queue, QueueLimits::default());
        Backlog { disk, clock, engine, store, queue }
    }

    /// The process ends, and the next one opens the folder.
    pub(super) fn reopen(self) -> Backlog {
        Backlog::open(self.disk.kill(), self.clock)
    }

    pub(super) fn commit(&mut self, transaction: Transaction) {
        let mut answers = Vec::new();
        self.engine.commit(&mut vec![transaction.into()], &mut answers);
        assert!(answers[0].is_ok(), "{answers:?}");
    }

    pub(super) fn send(&mut self, body: impl Into<Bytes>) {
        let message = NewMessage { body: body.into(), ..NewMessage::default() };
        self.commit(Transaction { sends: [(self.queue.clone(), message)].into(), ..Transaction::default() });
    }

    /// Also does what there is to do beside it.
    pub(super) fn publish(&mut self, body: impl Into<Bytes>) {
        self.send(body);
        self.keep();
    }

    /// Handles the first message, likewise.
    pub(super) fn consume(&mut self) {
        let claimed = self.claim(1).unwrap().remove(0);
        self.ack(&claimed);
        self.keep();
    }

    /// Does all that there is to do beside commits.
    pub(super) fn keep(&mut self) {
        while self.engine.maintain() {}
    }

    pub(super) fn claim(&self, max: usize) -> Result<Vec<Delivery>, Refusal> {
        self.store.claim(&self.queue, max, LEASE_MS)
    }

    pub(super) fn ack(&mut self, delivery: &Delivery) {
        self.commit(Transaction { settle: Some((delivery.lease, Action::Ack)), ..Transaction::default() });
    }

    /// An attempt begins and fails; the next one waits.
    pub(super) fn retry(&mut self, delivery: &Delivery, delay_ms: u64) {
        assert!(self.store.begin(delivery.lease));
        let settle = Some((delivery.lease, Action::Retry { delay_ms }));
        self.commit(Transaction { settle, ..Transaction::default() });
    }

    /// Bytes of all files.
    pub(super) fn used(&self) -> u64 {
        self.disk.file_names().iter().map(|name| self.disk.file_len(name)).sum()
    }

    /// Chunks that are kept, and their bytes.
    pub(super) fn kept(&self) -> (usize, usize) {
        self.engine.shared.state().chunks.kept()
    }
}

pub(super) fn number(delivery: &Delivery) -> u64 {
    u64::from_le_bytes(*delivery.message.body.first_chunk().expect("it begins with a number"))
}
