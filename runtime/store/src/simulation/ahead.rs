//! Chunks that are read ahead: bounded, and never trusted more than those that are read when they are needed.

use std::sync::Arc;

use bytes::Bytes;

use super::run::LAYOUT;
use crate::clock::ManualClock;
use crate::cold::ahead::ReadAhead;
use crate::cold::chunks::Chunks;
use crate::disk::SimulatedDisk;
use crate::engine::Engine;
use crate::open::{self, Opened};
use crate::{Action, Delivery, NewMessage, QueueLimits, QueueName, Refusal, Store, Transaction};

const LEASE_MS: u64 = 600_000;
const BODY_BYTES: usize = 100;

/// A queue whose messages, which are numbered, stand in segments.
struct Backlog {
    disk: SimulatedDisk,
    clock: Arc<ManualClock>,
    engine: Engine,
    store: Store,
    queue: QueueName,
}

impl Backlog {
    fn new(messages: u64) -> Backlog {
        let (disk, clock) = (SimulatedDisk::new(1), Arc::new(ManualClock::new(1_000_000)));
        let Opened { engine, lock } = open::open(Arc::new(disk.clone()), &LAYOUT, clock.clone(), 1).expect("it opens");
        let store = Store::without_committer(engine.shared.clone(), lock);
        let queue = QueueName::new("backlog").unwrap();
        store.declare(&queue, QueueLimits::default());
        let mut backlog = Backlog { disk, clock, engine, store, queue };
        for number in 0..messages {
            let mut body = vec![b'x'; BODY_BYTES];
            body[..8].copy_from_slice(&number.to_le_bytes());
            let message = NewMessage { body: Bytes::from(body), ..NewMessage::default() };
            let sends = [(backlog.queue.clone(), message)].into();
            backlog.commit(Transaction { sends, ..Transaction::default() });
            while backlog.engine.maintain() {}
        }
        backlog
    }

    fn commit(&mut self, transaction: Transaction) {
        let mut answers = Vec::new();
        self.engine.commit(&mut vec![transaction], &mut answers);
        assert!(answers[0].is_ok(), "{answers:?}");
    }

    fn claim(&self, max: usize) -> Result<Vec<Delivery>, Refusal> {
        self.store.claim(&self.queue, max, LEASE_MS)
    }

    fn ack(&mut self, delivery: &Delivery) {
        self.commit(Transaction { settle: Some((delivery.lease, Action::Ack)), ..Transaction::default() });
    }

    /// Chunks that are kept, and their bytes.
    fn kept(&self) -> (usize, usize) {
        self.engine.shared.state().chunks.kept()
    }
}

fn number(delivery: &Delivery) -> u64 {
    u64::from_le_bytes(*delivery.message.body.first_chunk().expect("it begins with a number"))
}

#[test]
fn a_drain_finds_what_it_needs_and_little_more() {
    const MESSAGES: u64 = 1500;
    let mut backlog = Backlog::new(MESSAGES);
    assert!(backlog.engine.keeping.tally.segments > 10);
    let mut most = 0;
    for expected in 0..MESSAGES {
        let claimed = backlog.claim(1).unwrap();
        assert_eq!(claimed.iter().map(number).collect::<Vec<_>>(), [expected]);
        backlog.ack(&claimed[0]);
        let (chunks, bytes) = backlog.kept();
        assert!(chunks <= 64 && bytes <= 4 << 20, "{chunks} chunks of {bytes} bytes are kept");
        most = most.max(chunks);
        if expected == 0 {
            assert_eq!(
                chunks,
                1 + 15,
                "some are read ahead, the one that is claimed from among those that are counted"
            );
        }
    }
    assert!(most > 16, "those that are used up stay for a while: {most}");
}

/// Claims take all of a chunk at once, but nothing out of its turn.
#[test]
fn a_message_that_was_given_back_comes_before_those_of_its_chunk() {
    let mut backlog = Backlog::new(300);
    let first = backlog.claim(3).unwrap();
    let settle = Some((first[1].lease, Action::Release));
    backlog.commit(Transaction { settle, ..Transaction::default() });
    let numbers: Vec<u64> = backlog.claim(200).unwrap().iter().map(number).collect();
    // There are slots for 16 leases, two of which are out.
    assert_eq!(numbers, [1].into_iter().chain(3..16).collect::<Vec<_>>());
}

/// A segment is rewritten and the old one removed after chunks of it were read ahead; and some are read after that.
#[test]
fn what_was_read_ahead_of_a_segment_that_is_gone_does_no_harm() {
    const MESSAGES: u64 = 300;
    let mut backlog = Backlog::new(MESSAGES);
    let (mut expected, mut rewritten) = (0..MESSAGES, 0);
    let first = backlog.engine.shared.state().queues.segments().next().expect("there are some").0.clone();
    while rewritten == 0 {
        let claimed = backlog.claim(1).unwrap().remove(0);
        assert_eq!(Some(number(&claimed)), expected.next(), "nothing was rewritten until here");
        backlog.ack(&claimed);
        backlog.clock.advance(1001);
        while backlog.engine.maintain() {}
        rewritten = backlog.engine.keeping.tally.rewritten;
    }
    backlog.clock.advance(1001);
    while backlog.engine.maintain() {}
    assert!(backlog.engine.keeping.tally.removed > 0);
    assert!(!backlog.disk.file_names().contains(&crate::cold::segment::name(first.id)));
    // As if somebody had noted these before, and had no time to read them until now.
    let mut noted = Chunks::default();
    assert!(noted.want(first.chunks().map(|chunk| (&first, chunk))));
    backlog.engine.shared.state().chunks = noted;
    ReadAhead::Inline(backlog.engine.shared.clone()).ring();
    assert!(backlog.kept().0 > 0);
    for expected in expected {
        let claimed = backlog.claim(1).unwrap().remove(0);
        assert_eq!(number(&claimed), expected);
        backlog.ack(&claimed);
    }
    assert!(backlog.claim(1).unwrap().is_empty());
}

/// A chunk with a damaged message is read ahead: the one is told, the others come.
#[test]
fn a_damaged_message_in_a_chunk_that_was_read_ahead_is_told_and_holds_up_nobody() {
    const MESSAGES: u64 = 100;
    const DAMAGED: u64 = 20;
    let mut backlog = Backlog::new(MESSAGES);
    let (name, offset) = {
        let state = backlog.engine.shared.state();
        let (segment, _) = state.queues.segments().find(|(segment, _)| segment.end > DAMAGED).unwrap();
        let message = segment.read_chunk(segment.chunk_of(DAMAGED)).unwrap().get(DAMAGED).unwrap();
        (crate::cold::segment::name(segment.id), message.location.offset + message.location.len - 1)
    };
    backlog.disk.corrupt(&name, u64::from(offset), 1);
    // The next one is claimed instead of the damaged one.
    for expected in (0..MESSAGES).filter(|number| *number != DAMAGED) {
        let claimed = backlog.claim(1).unwrap().remove(0);
        assert_eq!(number(&claimed), expected);
        backlog.ack(&claimed);
    }
    assert!(backlog.claim(1).unwrap().is_empty(), "it was put off");
    backlog.clock.advance(LEASE_MS + 1);
    match backlog.claim(1) {
        Err(Refusal::Read(why)) => assert!(why.contains(&name), "{why}"),
        other => panic!("{other:?}"),
    }
}
