//! Full log files: those in which little lives wait for a moment, and what is left then is picked out; when they become many,
//! the copying is urgent.

use super::backlog::Backlog;
use crate::{Action, AttributeEdit, NewMessage, QueueName, Refusal, Transaction};

#[test]
fn a_queue_that_is_kept_short_makes_no_segment() {
    let mut open = Backlog::new(0);
    open.publish("one that is always in flight, so that no log file is without one when it is full");
    let begun = open.engine.wal.epoch();
    for _ in 0..1000 {
        open.publish("the next");
        open.consume();
    }
    assert!(open.engine.wal.epoch() > begun + 5, "the ring has turned");
    let tally = open.engine.keeping.tally;
    assert_eq!((tally.segments, tally.picked, tally.read_whole), (0, 0, 0));
    assert!(open.engine.wal.files() <= 6, "a file that waits makes the ring no longer");
}

#[test]
fn a_message_that_stays_is_picked_out_after_a_second_and_survives() {
    let mut open = Backlog::new(0);
    open.publish("the one that stays");
    let claimed = open.claim(1).unwrap();
    while open.engine.wal.full() == 0 {
        open.publish("the next");
        open.consume();
    }
    let picked = |open: &Backlog| (open.engine.keeping.tally.picked, open.engine.keeping.tally.segments);
    open.clock.advance(999);
    open.keep();
    assert_eq!((picked(&open), open.engine.wal.full()), ((0, 0), 1), "it waits");
    open.clock.advance(1);
    open.keep();
    assert_eq!((picked(&open), open.engine.wal.full()), ((1, 1), 0), "it is copied, and the file is free");
    drop(claimed);
    let claimed = open.reopen().claim(10).unwrap();
    let bodies: Vec<&[u8]> = claimed.iter().map(|delivery| &delivery.message.body[..]).collect();
    assert_eq!(bodies, [&b"the one that stays"[..]]);
}

#[test]
fn copying_is_urgent_while_files_become_full_faster_than_they_are_copied() {
    let mut open = Backlog::new(0);
    for (full, urgent) in [(1, false), (2, false), (3, true)] {
        while open.engine.wal.full() < full {
            open.send("a message that stays");
        }
        open.engine.maintain();
        assert_eq!(open.engine.shared.pressed.is_set(), urgent, "{full} full files");
    }
    open.keep();
    assert!(open.engine.wal.full() == 0 && !open.engine.shared.pressed.is_set());
}

#[test]
fn what_is_sent_with_a_move_to_the_same_queue_stands_behind_it() {
    let mut open = Backlog::new(0);
    open.send("moved");
    let claimed = open.claim(1).unwrap().remove(0);
    let action = Action::Move { queue: open.queue.clone(), attributes: AttributeEdit::StripReserved };
    let sent = NewMessage { body: "sent".into(), ..NewMessage::default() };
    let sends = [(open.queue.clone(), sent)].into();
    open.commit(Transaction { settle: Some((claimed.lease, action)), sends, ..Transaction::default() });
    // So many that the file is read from end to end when it is copied.
    for _ in 0..300 {
        open.publish("the next");
    }
    assert!(open.engine.keeping.tally.read_whole > 0);
    let open = open.reopen();
    let first: Vec<_> = open.claim(2).unwrap().iter().map(|delivery| delivery.message.body.clone()).collect();
    assert_eq!(first, ["moved", "sent"]);
}

#[test]
fn the_attempt_of_a_refused_snooze_counts() {
    let mut open = Backlog::new(0);
    open.send("tried");
    let claimed = open.claim(1).unwrap().remove(0);
    assert!(open.store.begin(claimed.lease));
    let sends = [(QueueName::new("nowhere").unwrap(), NewMessage::default())].into();
    let settle = Some((claimed.lease, Action::Snooze { delay_ms: 0 }));
    let mut answers = Vec::new();
    open.engine.commit(&mut vec![Transaction { settle, sends, ..Transaction::default() }.into()], &mut answers);
    assert!(matches!(answers[..], [Err(Refusal::NoSuchQueue(_))]), "{answers:?}");
    let again = open.reopen().claim(1).unwrap().remove(0);
    assert_eq!((again.message.body, again.attempt), (claimed.message.body, 2));
}
