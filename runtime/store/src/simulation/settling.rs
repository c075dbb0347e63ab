//! Full log files: those in which little lives wait for a moment, and what is left then is picked out; when they become many,
//! the copying is urgent.

use super::backlog::Backlog;

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
