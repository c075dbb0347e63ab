//! A purge goes step by step, each of which is short and on record by itself.

use super::backlog::{Backlog, number};
use crate::cold::segment;
use crate::disk::SimulatedFaults;
use crate::{NewMessage, Refusal, Transaction};

const MESSAGES: u64 = 400;
const STEP: usize = 50;

/// Messages with keys have entries also when they stand in segments. Each step is done by a process of its own.
#[test]
fn a_purge_of_many_messages_with_keys_takes_so_many_at_a_time() {
    let mut open = Backlog::new(0);
    for number in 0..MESSAGES {
        let key = (number % 4 != 0).then(|| format!("key {}", number % 7).into());
        let message = NewMessage { body: vec![b'x'; 100].into(), key, ..NewMessage::default() };
        open.commit(Transaction { sends: [(open.queue.clone(), message)].into(), ..Transaction::default() });
        open.keep();
    }
    let stats = |open: &Backlog| open.store.queue(&open.queue).unwrap();
    let mut left = MESSAGES;
    let mut steps = 0;
    let (queue, below) = {
        let state = open.engine.shared.state();
        let queue = state.queues.known(&open.queue).unwrap();
        (queue, state.queues.next_position(queue))
    };
    loop {
        if steps == 2 {
            // What is leased goes as well, and its lease.
            let leased = open.claim(1).unwrap().remove(0);
            let (removed, _) = open.engine.purge_step(queue, below, STEP).unwrap();
            assert!(!open.store.begin(leased.lease));
            left -= removed;
        }
        let cold = open.engine.shared.state().queues.purged_one_by_one(queue, below, STEP, STEP);
        let cold = cold.map_or(0, |cold| cold.messages.len());
        let (removed, more) = open.engine.purge_step(queue, below, STEP).unwrap();
        assert!(cold == 0 || removed == STEP as u64, "{removed} of {cold}");
        left -= removed;
        steps += 1;
        open = open.reopen();
        assert_eq!(stats(&open).ready, left);
        if !more {
            break;
        }
    }
    assert!(steps > 5, "{steps}");
    assert_eq!((left, stats(&open).bytes), (0, 0));
    open.publish("another one");
    open.keep();
    assert_eq!(open.reopen().claim(10).unwrap().len(), 1);
}

/// The log goes on while a long purge does: messages that came later go to the segments in which those that leave still are.
#[test]
fn a_purge_leaves_what_comes_while_it_goes_on() {
    const OLD: u64 = 200;
    const STEP: usize = 10;
    let mut open = Backlog::new(0);
    for number in 0..OLD {
        let delay_ms = if number % 9 == 0 { 3_600_000 } else { 0 };
        let message = NewMessage { body: number.to_le_bytes().to_vec().into(), delay_ms, ..NewMessage::default() };
        open.commit(Transaction { sends: [(open.queue.clone(), message)].into(), ..Transaction::default() });
    }
    let (queue, below) = {
        let state = open.engine.shared.state();
        let queue = state.queues.known(&open.queue).unwrap();
        (queue, state.queues.next_position(queue))
    };
    let (mut purged, mut came, mut one_by_one) = (0, 0, 0);
    loop {
        for _ in 0..40 {
            open.publish((OLD + came).to_le_bytes().to_vec());
            came += 1;
        }
        open.clock.advance(1001);
        open.keep();
        one_by_one +=
            u64::from(open.engine.shared.state().queues.purged_one_by_one(queue, below, STEP, STEP).is_some());
        let (removed, more) = open.engine.purge_step(queue, below, STEP).unwrap();
        purged += removed;
        if purged % 3 == 0 {
            open = open.reopen();
        }
        if !more {
            break;
        }
    }
    assert_eq!(purged, OLD);
    assert!(one_by_one > 5, "{one_by_one}");
    let check = |open: &Backlog| {
        let stats = open.store.queue(&open.queue).unwrap();
        assert_eq!((stats.ready, stats.delayed, stats.bytes), (came, 0, 8 * came));
    };
    check(&open);
    let mut open = open.reopen();
    check(&open);
    for expected in OLD..OLD + came {
        let claimed = open.claim(1).unwrap().remove(0);
        assert_eq!(number(&claimed), expected);
        open.ack(&claimed);
    }
}

/// What can't be read goes, too: a step ends with its chunk, and what it counted for goes with the last one in a segment.
#[test]
fn a_purge_takes_unreadable_messages_away() {
    const BELOW: u64 = 100;
    let mut open = Backlog::new(300);
    let name = {
        let state = open.engine.shared.state();
        segment::name(state.queues.segments().next().unwrap().0.id)
    };
    let bad_sector = SimulatedFaults { bad_sector: Some((name, 1)), ..SimulatedFaults::default() };
    open.disk.set_faults(bad_sector.clone());
    let queue = open.engine.shared.state().queues.known(&open.queue).unwrap();
    let stats = |open: &Backlog| open.store.queue(&open.queue).unwrap();
    // Whoever claims them hears of it, and they wait.
    assert!((0..15).any(|_| open.claim(1).is_err()));
    assert!(stats(&open).delayed > 0);
    let (mut removed, mut short) = (0, 0);
    loop {
        let (gone, more) = open.engine.purge_step(queue, BELOW, STEP).unwrap();
        removed += gone;
        if !more {
            break;
        }
        short += u64::from(gone < 20);
        let (ready, bytes) = (stats(&open).ready, stats(&open).bytes);
        assert_eq!(stats(&open).delayed, 0, "what waited went with the others of its chunk");
        open = open.reopen();
        open.disk.set_faults(bad_sector.clone());
        assert_eq!((stats(&open).ready, stats(&open).bytes), (ready, bytes));
    }
    assert_eq!((removed, stats(&open).ready), (BELOW, 200));
    assert!((1..4).contains(&short), "{short}");
    assert!(stats(&open).bytes > 200 * 100, "what can't be read is not known to be of any size");
    for expected in BELOW..300 {
        let claimed = open.claim(1).unwrap().remove(0);
        assert_eq!(number(&claimed), expected);
        open.ack(&claimed);
        if expected % 40 == 0 {
            let bytes = stats(&open).bytes;
            open = open.reopen();
            assert_eq!(stats(&open).bytes, bytes);
        }
    }
    assert_eq!((stats(&open).ready, stats(&open).bytes), (0, 0));
    assert_eq!(stats(&open.reopen()).bytes, 0);
}

/// What can't be read for now does not go yet: how much it counts for is not known.
#[test]
fn a_purge_without_descriptors_is_refused() {
    const BELOW: u64 = 100;
    let mut open = Backlog::new(300);
    let few = |open_files_max| SimulatedFaults { open_files_max, ..SimulatedFaults::default() };
    let queue = open.engine.shared.state().queues.known(&open.queue).unwrap();
    open.disk.set_faults(few(Some(open.disk.open_files() - 2)));
    let mut removed = 0;
    let refused = loop {
        match open.engine.purge_step(queue, BELOW, STEP) {
            Ok((gone, true)) => removed += gone,
            Ok((_, false)) => panic!("{removed} went"),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Refusal::OutOfFiles), "{refused}");
    let stats = |open: &Backlog| open.store.queue(&open.queue).unwrap();
    assert_eq!((stats(&open).ready, stats(&open).bytes), (300 - removed, (300 - removed) * 100));
    open.disk.set_faults(few(None));
    while open.engine.purge_step(queue, BELOW, STEP).unwrap().1 {}
    assert_eq!((stats(&open).ready, stats(&open).bytes), (200, 200 * 100));
    assert_eq!(stats(&open.reopen()).bytes, 200 * 100);
}
