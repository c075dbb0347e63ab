//! Segments that are mostly dead are written anew, at a bounded rate.

use super::backlog::Backlog;

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
