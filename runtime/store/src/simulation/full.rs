//! A disk that is so full that the ring comes to its end.

use std::sync::Arc;

use super::backlog::{Backlog, LEASE_MS, number};
use super::run::LAYOUT;
use crate::cold::segment;
use crate::disk::SimulatedFaults;
use crate::{Action, Delivery, NewMessage, OpenError, Refusal, Transaction, open};

fn try_retry(open: &mut Backlog, delivery: &Delivery) -> Result<(), Refusal> {
    let settle = Some((delivery.lease, Action::Retry { delay_ms: 0 }));
    let mut answers = Vec::new();
    open.engine.commit(&mut vec![Transaction { settle, ..Transaction::default() }.into()], &mut answers);
    open.keep();
    answers.remove(0).map(drop)
}

fn try_send(open: &mut Backlog) -> Result<(), Refusal> {
    let message = NewMessage { body: vec![b'y'; 100].into(), ..NewMessage::default() };
    let send = Transaction { sends: [(open.queue.clone(), message)].into(), ..Transaction::default() };
    let mut answers = Vec::new();
    open.engine.commit(&mut vec![send.into()], &mut answers);
    answers.remove(0).map(drop)
}

/// Sends until there is no more room for that.
fn fill(open: &mut Backlog) {
    let refused = (0..10_000).find_map(|_| try_send(open).err());
    assert!(matches!(refused, Some(Refusal::DiskFull)), "{refused:?}");
}

/// Nothing but retries, which free nothing, until the last of the reserve: they are refused, acks go on, and what was refused
/// comes back when there is room.
#[test]
fn retries_alone_do_not_stop_the_store() {
    let mut open = Backlog::new(0);
    for number in 0..20_u64 {
        open.publish(number.to_le_bytes().to_vec());
    }
    open.disk.set_faults(SimulatedFaults { full_after_bytes: Some(0), ..SimulatedFaults::default() });
    let mut attempts = 0;
    let refused = loop {
        let claimed = open.claim(1).unwrap().remove(0);
        attempts += 1;
        assert_eq!((number(&claimed), claimed.attempt), (0, attempts));
        assert!(open.store.begin(claimed.lease));
        match try_retry(&mut open, &claimed) {
            Ok(()) => assert!(attempts < 10_000, "the ring has an end"),
            Err(Refusal::DiskFull) => break claimed,
            Err(other) => panic!("{other}"),
        }
    };
    assert!(attempts > 100, "{attempts}");
    // It is still leased, and stays so when that is over: the retry that follows finds no room either.
    let is_leased = |open: &Backlog| open.engine.shared.state().queues.leased_at(refused.lease).is_some();
    open.clock.advance(LEASE_MS);
    open.engine.expire();
    assert!(is_leased(&open) && open.engine.stopped().is_none());
    assert!(
        open.engine.shared.attempts.next_end_ms() > open.engine.shared.clock.now_ms(),
        "it is not tried at once again"
    );
    for expected in 1..11 {
        let claimed = open.claim(1).unwrap().remove(0);
        assert_eq!(number(&claimed), expected);
        open.ack(&claimed);
    }

    open.disk.set_faults(SimulatedFaults::default());
    open.clock.advance(1001);
    open.keep();
    open.engine.expire();
    assert!(!is_leased(&open));
    let again = open.claim(1).unwrap().remove(0);
    assert_eq!((number(&again), again.attempt), (0, attempts + 1));
    let mut open = open.reopen();
    for expected in [0].into_iter().chain(11..20) {
        let claimed = open.claim(1).unwrap().remove(0);
        assert_eq!(number(&claimed), expected);
        open.ack(&claimed);
    }
}

/// Records until the ring is at its end, while one attempt runs: what it counts for is written down as soon as there is room.
#[test]
fn a_store_that_stopped_at_the_end_of_the_ring_opens_when_there_is_room() {
    let full = || SimulatedFaults { full_after_bytes: Some(0), ..SimulatedFaults::default() };
    let mut open = Backlog::new(300);
    open.disk.set_faults(full());
    fill(&mut open);
    let running = open.claim(1).unwrap().remove(0);
    assert!(open.store.begin(running.lease));
    // They free nothing.
    let stopped = (0..10_000).find_map(|_| open.engine.drop_state("a space that there is not").err());
    assert!(matches!(stopped, Some(Refusal::Stopped(_))), "{stopped:?}");

    // As long as there is none, the attempt stays where it is noted, and it is told what is missing.
    let still_full = open.disk.kill();
    let (disk, clock) = (open.disk.kill(), open.clock.clone());
    drop(open);
    still_full.set_faults(full());
    match open::open(Arc::new(still_full.clone()), &LAYOUT, clock.clone(), 1).map(drop) {
        Err(error @ OpenError::NoRoom { attempts: 1 }) => assert!(error.to_string().contains("no room"), "{error}"),
        other => panic!("{other:?}"),
    }
    for disk in [disk, still_full.kill()] {
        let mut open = Backlog::open(disk, clock.clone());
        assert!(open.engine.wal.spares() > 0, "the ring has grown");
        let again = open.claim(1).unwrap().remove(0);
        assert_eq!((number(&again), again.attempt), (0, 2));
        open = open.reopen();
        let again = open.claim(1).unwrap().remove(0);
        assert_eq!((number(&again), again.attempt), (0, 2));
        open.publish("another one");
    }
}

/// The room that is left is for acks.
#[test]
fn a_purge_one_by_one_does_not_take_the_last_room() {
    const BELOW: u64 = 200;
    let mut open = Backlog::new(300);
    open.disk.set_faults(SimulatedFaults { full_after_bytes: Some(0), ..SimulatedFaults::default() });
    fill(&mut open);
    while open.engine.wal.spares() > 0 || open.engine.wal.fits_any_group() {
        open.engine.drop_state("a space that there is not").unwrap();
    }
    let queue = open.engine.shared.state().queues.known(&open.queue).unwrap();
    let refused = open.engine.purge_step(queue, BELOW, 4096);
    assert!(matches!(refused, Err(Refusal::DiskFull)), "{refused:?}");
    open.consume();
    assert_eq!(open.engine.stopped(), None);
    open.disk.set_faults(SimulatedFaults::default());
    open.clock.advance(1001);
    open.keep();
    let mut purged = 0;
    loop {
        let (removed, more) = open.engine.purge_step(queue, BELOW, 4096).unwrap();
        purged += removed;
        if !more {
            break;
        }
    }
    assert_eq!(purged, BELOW - 1);
}

/// As soon as a segment is empty it goes, however little time has passed.
#[test]
fn what_is_empty_makes_room_on_a_full_disk_at_once() {
    let mut open = Backlog::new(900);
    open.disk.set_faults(SimulatedFaults { full_after_bytes: Some(open.used()), ..SimulatedFaults::default() });
    fill(&mut open);
    open.clock.advance(1001);
    fill(&mut open);
    let removed = open.engine.keeping.tally.removed;
    for _ in 0..3 {
        for _ in 0..150 {
            open.consume();
        }
    }
    assert!(open.engine.keeping.tally.removed > removed + 3, "{:?}", open.engine.keeping.tally);
    try_send(&mut open).unwrap();
}

/// What could not be removed is removed later.
#[test]
fn files_that_there_is_no_room_to_remove_go_when_there_is() {
    let mut open = Backlog::new(300);
    let segments = |open: &Backlog| {
        let names = open.disk.file_names();
        names.into_iter().filter(|name| segment::id(name).is_some()).collect::<Vec<_>>()
    };
    open.disk.set_faults(SimulatedFaults { removals_need_room: true, ..SimulatedFaults::default() });
    let before = segments(&open);
    assert!(before.len() > 2, "{before:?}");
    for _ in 0..300 {
        open.consume();
    }
    let keep_for = |open: &mut Backlog, seconds: usize| {
        for _ in 0..seconds {
            open.clock.advance(1001);
            open.keep();
        }
    };
    keep_for(&mut open, 5);
    assert_eq!(open.engine.stopped(), None);
    let left = segments(&open);
    assert!(before.iter().all(|name| left.contains(name)), "{left:?}");
    open.disk.set_faults(SimulatedFaults::default());
    keep_for(&mut open, 3);
    let left = segments(&open);
    assert!(!before.iter().any(|name| left.contains(name)), "{left:?}");
}
