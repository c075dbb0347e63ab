//! Chunks that are read ahead: bounded, and never trusted more than those that are read when they are needed.

use super::backlog::{Backlog, LEASE_MS, number};
use crate::cold::ahead::ReadAhead;
use crate::cold::chunks::Chunks;
use crate::{Action, Refusal, Transaction};

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
        backlog.keep();
        rewritten = backlog.engine.keeping.tally.rewritten;
    }
    backlog.clock.advance(1001);
    backlog.keep();
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
