//! A disk that is so full that the ring comes to its end.

use super::backlog::{Backlog, LEASE_MS, number};
use crate::disk::SimulatedFaults;
use crate::{Action, Delivery, Refusal, Transaction};

fn try_retry(open: &mut Backlog, delivery: &Delivery) -> Result<(), Refusal> {
    let settle = Some((delivery.lease, Action::Retry { delay_ms: 0 }));
    let mut answers = Vec::new();
    open.engine.commit(&mut vec![Transaction { settle, ..Transaction::default() }.into()], &mut answers);
    open.keep();
    answers.remove(0).map(drop)
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
