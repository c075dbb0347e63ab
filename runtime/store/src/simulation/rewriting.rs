//! Segments that are mostly dead are written anew, at a bounded rate.

use super::driven::Driven;
use crate::disk::SimulatedDisk;

#[test]
fn one_segment_a_second_is_rewritten_at_most() {
    let mut open = Driven::new(SimulatedDisk::new(1));
    for _ in 0..1500 {
        open.publish(b"a message that goes to a segment");
    }
    // Of each segment a few messages live on.
    let mut kept = Vec::new();
    for number in 0..1500 {
        let claimed = open.store.claim(&open.queue, 1, u64::MAX / 2).unwrap();
        if number % 100 == 0 && kept.len() < 12 {
            kept.extend(claimed);
        } else {
            open.settle(&claimed[0]);
        }
    }
    let mut rewritten = open.engine.keeping.tally.rewritten;
    let mut times = 0;
    for _ in 0..30 {
        open.clock.advance(1000);
        // As much work as there is to do in no time at all.
        while open.engine.maintain() {}
        let now = open.engine.keeping.tally.rewritten;
        // Some small ones that stand side by side are put together, four at most.
        assert!(now - rewritten <= 4, "{} segments in a second", now - rewritten);
        times += usize::from(now > rewritten);
        rewritten = now;
    }
    assert!(times > 3, "there was enough to do: {times}");
}
