//! Segments that are mostly dead are written anew, at a bounded rate.

use super::backlog::Backlog;
use super::run::LAYOUT;
use crate::Delivery;

#[test]
fn one_segment_a_second_is_rewritten_at_most() {
    const MESSAGES: u64 = 1500;
    let mut open = Backlog::new(MESSAGES);
    // Of each segment a few messages live on.
    let mut kept = Vec::new();
    for number in 0..MESSAGES {
        let claimed = open.store.claim(&open.queue, 1, u64::MAX / 2).unwrap();
        if number % 100 == 0 && kept.len() < 12 {
            kept.extend(claimed);
        } else {
            open.ack(&claimed[0]);
            open.keep();
        }
    }
    let mut rewritten = open.engine.keeping.tally.rewritten;
    let mut times = 0;
    for _ in 0..30 {
        open.clock.advance(1000);
        // As much work as there is to do in no time at all.
        open.keep();
        let now = open.engine.keeping.tally.rewritten;
        // Some small ones that stand side by side are put together, four at most.
        assert!(now - rewritten <= 4, "{} segments in a second", now - rewritten);
        times += usize::from(now > rewritten);
        rewritten = now;
    }
    assert!(times > 3, "there was enough to do: {times}");
}

/// Sends and handles messages, and then sends one that is held for long.
fn hold_one_after(open: &mut Backlog, handled: u64) -> Delivery {
    for _ in 0..handled {
        open.publish("handled");
        open.consume();
    }
    open.publish("held");
    open.claim(1).unwrap().remove(0)
}

#[test]
fn small_segments_far_apart_are_left_alone_and_those_behind_them_are_put_together() {
    let mut open = Backlog::new(0);
    let mut held = Vec::new();
    // Each of these has a log file of its own, and so a segment.
    for handled in [LAYOUT.gap_max + 30; 5].into_iter().chain([LAYOUT.gap_max - 5; 5]) {
        held.push(hold_one_after(&mut open, handled));
        let full_before = open.engine.wal.epoch();
        while open.engine.wal.epoch() == full_before {
            open.engine.drop_state("nothing").unwrap();
        }
        open.clock.advance(1000);
        open.keep();
    }
    let segments = |open: &Backlog| open.engine.shared.state().queues.segments().count();
    let rounds = |open: &mut Backlog| {
        for _ in 0..10 {
            open.clock.advance(1000);
            open.keep();
        }
        (open.engine.keeping.tally.rewritten, segments(open))
    };
    let (rewritten, left) = rounds(&mut open);
    assert!((4..=8).contains(&rewritten), "{rewritten} were put together");
    assert!(left < 10, "{left} segments are left");
    assert_eq!(rounds(&mut open), (rewritten, left), "it has come to rest");
    let sent: Vec<_> = held.iter().map(|delivery| delivery.message.id).collect();
    drop(held);
    let claimed = open.reopen().claim(16).unwrap();
    assert_eq!(claimed.iter().map(|delivery| delivery.message.id).collect::<Vec<_>>(), sent);
}
