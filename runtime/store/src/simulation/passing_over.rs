//! Messages that can't be read: others are shown, claimed and expire all the same.

use super::backlog::{Backlog, LEASE_MS, number};
use crate::cold::segment;
use crate::disk::Disk;
use crate::store::{PeekPage, PeekRange};
use crate::{MessageState, Refusal};

const MESSAGES: u64 = 600;

/// The oldest segment, in which the first messages stand.
fn first_segment(backlog: &Backlog) -> String {
    let ids = backlog.disk.file_names().iter().filter_map(|name| segment::id(name)).min();
    segment::name(ids.expect("there are segments"))
}

/// All pages, at most so many messages each.
fn pages(backlog: &Backlog, limit: usize) -> Vec<PeekPage> {
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let range = PeekRange { after, limit, bytes_max: usize::MAX };
        pages.push(backlog.store.peek_page(&backlog.queue, &range).unwrap());
        after = pages.last().unwrap().next;
        if after.is_none() {
            return pages;
        }
    }
}

fn shown(pages: &[PeekPage]) -> Vec<u64> {
    let bodies = pages.iter().flat_map(|page| &page.messages).inspect(|one| assert_eq!(one.state, MessageState::Ready));
    bodies.map(|one| u64::from_le_bytes(*one.message.body.first_chunk().unwrap())).collect()
}

#[test]
fn a_damaged_message_is_left_out_of_its_page_and_counted() {
    let backlog = Backlog::new(MESSAGES).reopen();
    // In the body of the first message.
    backlog.disk.corrupt(&first_segment(&backlog), 600, 1);
    let pages = pages(&backlog, 50);
    let unreadable: Vec<u64> = pages.iter().map(|page| page.unreadable).collect();
    assert_eq!((unreadable[0], unreadable.iter().sum::<u64>()), (1, 1));
    assert_eq!(shown(&pages), (1..MESSAGES).collect::<Vec<_>>());
    assert!(matches!(backlog.store.peek(&backlog.queue, 10), Err(Refusal::Read(why)) if why.contains("damaged")));
}

#[test]
fn a_segment_that_is_missing_is_left_out_and_what_stands_behind_it_expires() {
    let mut backlog = Backlog::new(MESSAGES).reopen();
    let missing = first_segment(&backlog);
    backlog.disk.remove(&missing).unwrap();
    let pages = pages(&backlog, 50);
    let lost: u64 = pages.iter().map(|page| page.unreadable).sum();
    assert!((10..MESSAGES / 2).contains(&lost), "{lost}");
    assert_eq!(shown(&pages), (lost..MESSAGES).collect::<Vec<_>>());

    backlog.clock.advance(10_000);
    let mut expired = Vec::new();
    loop {
        let claimed = match backlog.store.claim_expired(&backlog.queue, 5000, 16, LEASE_MS) {
            Ok(claimed) if claimed.is_empty() => break,
            Ok(claimed) => claimed,
            Err(refusal) => {
                assert!(matches!(&refusal, Refusal::Read(why) if why.contains(&missing)), "{refusal}");
                continue;
            }
        };
        expired.extend(claimed.iter().map(number));
        claimed.iter().for_each(|delivery| backlog.ack(delivery));
    }
    assert_eq!(expired, (lost..MESSAGES).collect::<Vec<_>>());
    // Later it is tried again, and said again.
    backlog.clock.advance(LEASE_MS);
    let again = backlog.store.claim_expired(&backlog.queue, 5000, 16, LEASE_MS);
    assert!(matches!(&again, Err(Refusal::Read(why)) if why.contains(&missing)), "{again:?}");
}
