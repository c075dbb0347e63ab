//! More segments than a process may have open: they share a few descriptors, and what can't be opened can be read later.

use super::backlog::{Backlog, LEASE_MS, number};
use super::run::LAYOUT;
use crate::cold::segment;
use crate::dedup::run;
use crate::disk::SimulatedFaults;
use crate::{NewMessage, QueueLimits, Refusal, Transaction};

const MESSAGES: u64 = 1500;

/// What is open beside segments: the files of the ring, and both checkpoints or what is being written.
const OTHERS_MAX: usize = 8 + 3;

fn segments(backlog: &Backlog) -> usize {
    backlog.disk.file_names().iter().filter(|name| segment::id(name).is_some()).count()
}

fn few(open_files_max: Option<usize>) -> SimulatedFaults {
    SimulatedFaults { open_files_max, ..SimulatedFaults::default() }
}

#[test]
fn a_backlog_is_built_opened_and_drained_with_few_descriptors() {
    let built = Backlog::new(MESSAGES);
    assert!(segments(&built) > 20, "{}", segments(&built));
    assert!(built.disk.open_files() <= OTHERS_MAX + 2, "{}", built.disk.open_files());
    let mut backlog = built.reopen();
    for expected in 0..MESSAGES {
        let claimed = backlog.claim(1).unwrap().remove(0);
        assert_eq!(number(&claimed), expected);
        backlog.ack(&claimed);
        if expected % 50 == 0 {
            backlog.clock.advance(1001);
            backlog.keep();
        }
        assert!(backlog.disk.open_files() <= OTHERS_MAX + 2, "{}", backlog.disk.open_files());
    }
    backlog.clock.advance(1001);
    backlog.keep();
    assert_eq!(segments(&backlog), 0);
    let (open, there) = (backlog.disk.open_files(), backlog.disk.file_names().len());
    assert!(open <= there, "a file that is gone is not kept open: {open} are open, {there} are there");
}

#[test]
fn without_descriptors_a_read_is_refused_and_nothing_is_lost() {
    let mut backlog = Backlog::new(MESSAGES).reopen();
    backlog.disk.set_faults(few(Some(0)));
    let mut claimed = Vec::new();
    // Segments that are open can still be read.
    let refused = loop {
        match backlog.claim(1) {
            Ok(deliveries) => claimed.extend(deliveries.iter().map(number)),
            Err(refused) => break refused,
        }
        assert!(claimed.len() < 200, "all of them are open");
    };
    let why = refused.to_string();
    assert!(matches!(refused, Refusal::Read(_)), "{why}");
    assert!(why.contains("could not open simulated/segment-") && why.contains("os error 24"), "{why}");
    // It goes on with what needs no new file, and what is due comes again when it was asked for long enough ago.
    backlog.publish(77_777_u64.to_le_bytes().to_vec());
    assert!(backlog.engine.stopped().is_none());

    backlog.disk.set_faults(few(None));
    backlog.clock.advance(1001);
    for expected in claimed.len() as u64..MESSAGES {
        let delivery = backlog.claim(1).unwrap().remove(0);
        assert_eq!((number(&delivery), delivery.attempt), (expected, 1));
        backlog.ack(&delivery);
    }
    assert_eq!(number(&backlog.claim(1).unwrap().remove(0)), 77_777);
    // What was claimed before comes again when its lease is over.
    backlog.clock.advance(LEASE_MS);
    for expected in claimed {
        let delivery = backlog.claim(1).unwrap().remove(0);
        assert_eq!(number(&delivery), expected);
        backlog.ack(&delivery);
    }
}

/// Copying, rewriting and checkpoints need descriptors, too.
#[test]
fn without_descriptors_what_is_done_beside_the_committer_waits() {
    let mut backlog = Backlog::new(MESSAGES);
    backlog.disk.set_faults(few(Some(backlog.disk.open_files() - 2)));
    let mut sent = 0;
    let refused = loop {
        let message = NewMessage { body: vec![b'y'; 100].into(), ..NewMessage::default() };
        let mut answers = Vec::new();
        let sends = [(backlog.queue.clone(), message)].into();
        backlog.engine.commit(&mut vec![Transaction { sends, ..Transaction::default() }.into()], &mut answers);
        backlog.keep();
        match answers.remove(0) {
            Ok(_) => sent += 1,
            Err(refused) => break refused,
        }
        assert!(sent < 10_000, "the ring has an end");
    };
    assert!(matches!(refused, Refusal::OutOfFiles), "{refused}");
    backlog.disk.set_faults(few(None));
    backlog.clock.advance(1001);
    backlog.keep();
    backlog.publish(vec![b'z'; 100]);
    for _ in 0..MESSAGES + sent + 1 {
        let delivery = backlog.claim(1).unwrap().remove(0);
        backlog.ack(&delivery);
    }
    assert!(backlog.claim(1).unwrap().is_empty());
}

/// Runs of idempotency keys are put together later, then.
#[test]
fn without_descriptors_runs_are_not_taken_for_unreadable() {
    let mut backlog = Backlog::new(0);
    let limits = QueueLimits { dedup_window_ms: u64::MAX / 2, ..QueueLimits::default() };
    backlog.store.declare(&backlog.queue, limits);
    let runs = |backlog: &Backlog| backlog.disk.file_names().iter().filter(|name| run::id(name).is_some()).count();
    let mut sent = 0;
    while runs(&backlog) <= LAYOUT.dedup_runs_max {
        sent += 1;
        let idempotency_key = Some(sent.to_string().into());
        let message = NewMessage { body: vec![b'y'; 100].into(), idempotency_key, ..NewMessage::default() };
        backlog.commit(Transaction { sends: [(backlog.queue.clone(), message)].into(), ..Transaction::default() });
        backlog.keep();
    }
    backlog.disk.set_faults(few(Some(0)));
    for _ in 0..5 {
        backlog.clock.advance(1001);
        backlog.keep();
    }
    assert_eq!(backlog.engine.keeping.tally.merged, 0);
    backlog.disk.set_faults(few(None));
    for _ in 0..5 {
        backlog.clock.advance(1001);
        backlog.keep();
    }
    assert_eq!(backlog.engine.stopped(), None);
    assert!(backlog.engine.keeping.tally.merged > 0, "{:?}", backlog.engine.keeping.tally);
}
