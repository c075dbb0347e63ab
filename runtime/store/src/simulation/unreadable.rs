//! A sector that can't be read any more: what stands there is lost to whoever asks for it, and nothing else is.

use std::sync::Arc;

use super::backlog::{Backlog, LEASE_MS, number};
use super::run::LAYOUT;
use crate::clock::ManualClock;
use crate::cold::checkpoint;
use crate::cold::segment;
use crate::disk::{SimulatedDisk, SimulatedFaults};
use crate::history::file as history_file;
use crate::open;
use crate::{NewMessage, QueueLimits, QueueName, Transaction};

/// A sector of a file: the first is its header.
fn bad_sector(name: &str, sector: u64) -> SimulatedFaults {
    SimulatedFaults { bad_sector: Some((name.to_owned(), sector)), ..SimulatedFaults::default() }
}

impl Backlog {
    /// Does what there is to do in so many seconds.
    fn keep_for(&mut self, seconds: usize) {
        for _ in 0..seconds {
            self.clock.advance(1001);
            self.keep();
            assert_eq!(self.engine.stopped(), None);
        }
    }
}

#[test]
fn an_unreadable_segment_is_left_as_it_is_and_others_are_rewritten() {
    const MESSAGES: u64 = 900;
    let mut backlog = Backlog::new(MESSAGES);
    let mut kept = 0;
    for number in 0..MESSAGES {
        let claimed = backlog.store.claim(&backlog.queue, 1, u64::MAX / 2).unwrap();
        if number % 100 == 0 {
            kept += 1;
        } else {
            backlog.ack(&claimed[0]);
            backlog.keep();
        }
    }
    let name = {
        let state = backlog.engine.shared.state();
        let (first, _) = state.queues.segments().find(|(_, live)| live.ones() > 0).unwrap();
        segment::name(first.id)
    };
    backlog.disk.set_faults(bad_sector(&name, 1));
    backlog.keep_for(12);
    assert!(backlog.engine.keeping.tally.rewritten > 3, "{:?}", backlog.engine.keeping.tally);
    assert!(backlog.disk.file_names().contains(&name));

    // Nor does the next process stop.
    let disk = backlog.disk.kill();
    disk.set_faults(bad_sector(&name, 1));
    let clock = backlog.clock.clone();
    drop(backlog);
    let mut backlog = Backlog::open(disk, clock);
    backlog.keep_for(3);
    let mut claimed = 0;
    loop {
        match backlog.claim(1) {
            Ok(deliveries) if deliveries.is_empty() => break,
            Ok(deliveries) => {
                claimed += 1;
                assert_eq!(number(&deliveries[0]) % 100, 0);
                backlog.ack(&deliveries[0]);
            }
            // It stays leased for a time.
            Err(error) => assert!(error.to_string().contains(&name), "{error}"),
        }
    }
    assert_eq!(claimed, kept - 1, "one message stands in that sector");
    backlog.keep_for(3);
}

#[test]
fn an_unreadable_history_file_is_left_as_it_is_and_others_are_put_together() {
    let mut backlog = Backlog::new(0);
    backlog.store.declare(&backlog.queue, QueueLimits { history_ms: u64::MAX / 2, ..QueueLimits::default() });
    let other = QueueName::new("other").unwrap();
    backlog.store.declare(&other, QueueLimits::default());
    let files = |backlog: &Backlog| {
        let names = backlog.disk.file_names();
        names.into_iter().filter(|name| history_file::id(name).is_some()).collect::<Vec<_>>()
    };
    // Two messages that are kept in each file of the log, and others that fill it.
    let fill = |backlog: &mut Backlog| {
        for _ in 0..2 {
            backlog.publish(vec![b'y'; 250]);
            backlog.consume();
        }
        let epoch = backlog.engine.wal.epoch();
        while backlog.engine.wal.epoch() == epoch {
            let message = NewMessage { body: vec![b'z'; 200].into(), ..NewMessage::default() };
            backlog.commit(Transaction { sends: [(other.clone(), message)].into(), ..Transaction::default() });
            backlog.keep();
        }
    };
    (0..4).for_each(|_| fill(&mut backlog));
    let name = files(&backlog).remove(0);
    assert!(backlog.disk.file_len(&name) > 1024 + 32, "its index stands in another sector");
    backlog.disk.set_faults(bad_sector(&name, 1));
    backlog.keep_for(3);
    assert_eq!(backlog.engine.keeping.tally.joined, 0);
    (0..4).for_each(|_| fill(&mut backlog));
    backlog.keep_for(3);
    assert!(backlog.engine.keeping.tally.joined >= 4, "{:?}", backlog.engine.keeping.tally);
    assert!(files(&backlog).contains(&name));
}

/// It opens with messages in that sector that have a key or were retried, and forgets no attempt.
#[test]
fn a_store_opens_with_an_unreadable_sector_and_knows_what_was_retried() {
    const MESSAGES: u64 = 300;
    let mut backlog = Backlog::new(0);
    for number in 0..MESSAGES {
        let mut body = vec![b'x'; 100];
        body[..8].copy_from_slice(&number.to_le_bytes());
        let key = (number % 2 == 1).then(|| format!("key {number}").into());
        let message = NewMessage { body: body.into(), key, ..NewMessage::default() };
        backlog.commit(Transaction { sends: [(backlog.queue.clone(), message)].into(), ..Transaction::default() });
        backlog.keep();
    }
    for expected in 0..15 {
        let claimed = backlog.claim(1).unwrap().remove(0);
        assert_eq!((number(&claimed), claimed.attempt), (expected, 1));
        backlog.retry(&claimed, 1000);
    }
    backlog.keep_for(3);
    // The second attempt at one of them is running when the process ends.
    let running = backlog.claim(2).unwrap().remove(1);
    assert_eq!((number(&running), running.attempt), (1, 2));
    assert!(backlog.store.begin(running.lease));
    let attempt = |number| if number == 1 { 3 } else { 2 };
    let name = {
        let state = backlog.engine.shared.state();
        segment::name(state.queues.segments().next().unwrap().0.id)
    };
    let disk = backlog.disk.kill();
    disk.set_faults(bad_sector(&name, 1));
    let clock = backlog.clock.clone();
    drop(backlog);
    let mut backlog = Backlog::open(disk, clock.clone());
    // Checkpoints say from here on what the process before it knew.
    let checkpoints = backlog.engine.keeping.tally.checkpoints;
    for _ in 0..MESSAGES {
        backlog.publish(vec![b'y'; 100]);
    }
    backlog.keep_for(3);
    assert!(backlog.engine.keeping.tally.checkpoints > checkpoints + 2);
    let mut unreadable = 0;
    for _ in 0..15 {
        match backlog.claim(1) {
            Ok(claimed) => assert!(claimed[0].attempt == 2 || number(&claimed[0]) >= 15, "{claimed:?}"),
            Err(error) => {
                assert!(error.to_string().contains(&name), "{error}");
                unreadable += 1;
            }
        }
    }
    assert!(unreadable > 0);

    // It can be read again, by the same process and by the next one.
    backlog.disk.set_faults(SimulatedFaults::default());
    let disk = backlog.disk.kill();
    clock.advance(LEASE_MS);
    backlog.engine.expire();
    let mut next = Backlog::open(disk, clock);
    for backlog in [&mut backlog, &mut next] {
        let mut found = Vec::new();
        while found.len() < 15 {
            let claimed = backlog.claim(1).unwrap().remove(0);
            if number(&claimed) < 15 {
                assert_eq!(claimed.attempt, attempt(number(&claimed)), "{}", number(&claimed));
                found.push(number(&claimed));
            }
            backlog.ack(&claimed);
        }
        found.sort_unstable();
        assert!(found.into_iter().eq(0..15));
    }
}

/// Folders as a process leaves them that ends while segments are made, rewritten and removed, and how many messages each has.
fn folders_between_checkpoints() -> (Vec<(SimulatedDisk, usize)>, Arc<ManualClock>) {
    const MESSAGES: u64 = 150;
    let mut backlog = Backlog::new(MESSAGES);
    let mut folders = Vec::new();
    for consumed in 1..MESSAGES - 20 {
        let claimed = backlog.claim(1).unwrap().remove(0);
        backlog.ack(&claimed);
        backlog.clock.advance(200);
        while backlog.engine.maintain() {
            folders.push((backlog.disk.kill(), (MESSAGES - consumed) as usize));
        }
    }
    (folders, backlog.clock)
}

fn messages(disk: SimulatedDisk, clock: &Arc<ManualClock>) -> usize {
    let opened = Backlog::open(disk, clock.clone());
    opened.store.peek(&opened.queue, usize::MAX).unwrap().len()
}

#[test]
fn one_checkpoint_that_cant_be_read_is_made_up_for_by_the_other() {
    let (folders, clock) = folders_between_checkpoints();
    let mut tried = 0;
    for (folder, expected) in folders {
        let is_written = |name| checkpoint::read_one(&folder, name).unwrap().is_some();
        if !checkpoint::NAMES.into_iter().all(is_written) {
            continue;
        }
        for (name, sector) in [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(one, sector)| (checkpoint::NAMES[one], sector)) {
            tried += 1;
            let disk = folder.kill();
            disk.set_faults(bad_sector(name, sector));
            assert_eq!(messages(disk.clone(), &clock), expected, "sector {sector} of {name}");
            // From then on either will do again.
            for rotten in checkpoint::NAMES {
                let left = disk.kill();
                left.corrupt(rotten, 100, 1);
                assert_eq!(messages(left, &clock), expected, "sector {sector} of {name}, and then {rotten}");
            }
        }
    }
    assert!(tried > 100, "{tried}");
}

/// It may be read again by the next process, and must not stand for something then that is gone.
#[test]
fn a_checkpoint_that_could_not_be_read_once_does_no_harm_when_it_can_be_read_again() {
    let (folders, clock) = folders_between_checkpoints();
    let mut crashes = 0;
    for (folder, expected) in folders.into_iter().step_by(2) {
        for name in checkpoint::NAMES {
            for operation in 0.. {
                let disk = folder.kill();
                disk.set_faults(SimulatedFaults { crash_at: Some(operation), ..bad_sector(name, 0) });
                let opened = open::open(Arc::new(disk.clone()), &LAYOUT, clock.clone(), 1);
                if disk.operations() <= operation {
                    assert!(opened.is_ok(), "{name} is unreadable, and nothing else is wrong");
                    break;
                }
                drop(opened);
                crashes += 1;
                let what = format!("{name} was unreadable, and the power failed at operation {operation}");
                assert_eq!(messages(disk.crash(), &clock), expected, "{what}");
            }
        }
    }
    assert!(crashes > 700, "{crashes}");
}

#[test]
fn without_a_checkpoint_that_can_be_read_the_folder_is_refused_and_both_are_left() {
    let (folders, clock) = folders_between_checkpoints();
    let (folder, expected) = folders.last().expect("there are many");
    let disk = folder.kill();
    disk.corrupt(checkpoint::NAMES[0], 100, 1);
    disk.set_faults(bad_sector(checkpoint::NAMES[1], 1));
    let refused = open::open(Arc::new(disk.clone()), &LAYOUT, clock.clone(), 1).err().expect("it is refused");
    assert!(refused.to_string().contains("could not read simulated/checkpoint-2"), "{refused}");
    // It can be read after all.
    assert_eq!(messages(disk.kill(), &clock), *expected);
}
