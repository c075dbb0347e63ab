//! Checkpoints when there is no room for them.

use std::sync::Arc;

use super::backlog::{Backlog, number};
use crate::clock::ManualClock;
use crate::cold::checkpoint::NAMES;
use crate::disk::{SimulatedDisk, SimulatedFaults};

/// Longer than any test.
const DELAY_MS: u64 = 100_000_000;

fn full_after(bytes: u64) -> SimulatedFaults {
    SimulatedFaults { full_after_bytes: Some(bytes), ..SimulatedFaults::default() }
}

/// Whether a folder has all messages, of which the first so many were retried once, also if either checkpoint rots.
fn check(disk: &SimulatedDisk, clock: &Arc<ManualClock>, messages: u64, retried: u64) {
    let rotten = NAMES.into_iter().filter(|name| disk.file_names().iter().any(|there| there == name)).map(|name| {
        let image = disk.kill();
        if disk.file_len(name) > 100 {
            image.corrupt(name, 100, 1);
        }
        image
    });
    for image in [disk.kill(), disk.crash()].into_iter().chain(rotten) {
        let opened = Backlog::open(image, clock.clone());
        let found = opened.store.peek(&opened.queue, usize::MAX).unwrap();
        assert_eq!(found.len() as u64, messages, "after {retried} retries");
        for (place, one) in (0..).zip(&found) {
            let expected = (place, u32::from(place < retried), place < retried);
            let body_number = u64::from_le_bytes(*one.message.body.first_chunk().unwrap());
            assert_eq!((body_number, one.attempts, one.due_at_ms.is_some()), expected, "after {retried} retries");
        }
    }
}

/// Each message in a segment that was retried makes a checkpoint longer, and none of that may wait for room.
#[test]
fn on_a_full_disk_checkpoints_outgrow_their_files_and_nothing_is_lost_at_any_step() {
    const MESSAGES: u64 = 600;
    const RETRIES: u64 = 450;
    let mut backlog = Backlog::new(MESSAGES);
    let lens = |disk: &SimulatedDisk| NAMES.map(|name| disk.file_len(name));
    let before = lens(&backlog.disk);
    backlog.disk.set_faults(full_after(backlog.used()));
    for retried in 0..RETRIES {
        let claimed = backlog.claim(1).unwrap().remove(0);
        assert_eq!(number(&claimed), retried);
        backlog.retry(&claimed, DELAY_MS);
        backlog.clock.advance(20);
        let mut steps = 0;
        while backlog.engine.maintain() {
            check(&backlog.disk, &backlog.clock, MESSAGES, retried + 1);
            steps += 1;
            assert!(steps < 100, "it comes to no end");
        }
    }
    assert_eq!(backlog.engine.stopped(), None);
    let after = lens(&backlog.disk);
    assert!(after.iter().zip(before).all(|(after, before)| *after > 2 * before), "{before:?} before, {after:?} after");
    // What cleans up needs no more room than there is.
    for _ in RETRIES..MESSAGES {
        backlog.consume();
    }
    backlog.disk.set_faults(SimulatedFaults::default());
    backlog.clock.advance(1001);
    backlog.publish(0_u64.to_le_bytes().to_vec());
    assert_eq!(backlog.engine.stopped(), None);
}

/// Whatever of the reserve the disk had no room for at the start is made when there is room.
#[test]
fn a_start_on_a_nearly_full_disk_leaves_no_checkpoint_missing_for_good() {
    const MESSAGES: u64 = 150;
    let mut lacking = 0;
    let full = SimulatedDisk::new(1);
    let clock = Arc::new(ManualClock::new(1_000_000));
    let whole = Backlog::open(full, clock).used();
    for full_after_bytes in (whole / 8..whole).step_by(700) {
        let disk = SimulatedDisk::new(full_after_bytes);
        let clock = Arc::new(ManualClock::new(1_000_000));
        drop(Backlog::open(disk.clone(), clock.clone()));
        // As if it were the first start.
        let wanted =
            |name: &String| name.starts_with("wal-") && name != "wal-0001.log" || NAMES.contains(&name.as_str());
        for name in disk.file_names().iter().filter(|name| wanted(name)) {
            crate::disk::Disk::remove(&disk, name).unwrap();
        }
        disk.set_faults(full_after(full_after_bytes));
        let mut backlog = Backlog::open(disk.clone(), clock);
        let is_lacking = NAMES.iter().any(|name| !disk.file_names().iter().any(|there| there == name));
        lacking += usize::from(is_lacking || NAMES.iter().any(|name| disk.file_len(name) < 2048));
        if full_after_bytes % 2 == 0 {
            // The next start makes up for it, if there is room by then.
            backlog = backlog.reopen();
            assert!(NAMES.iter().all(|name| backlog.disk.file_len(name) >= 2048));
        }
        backlog.disk.set_faults(SimulatedFaults::default());
        backlog.clock.advance(1001);
        for sent in 0..MESSAGES {
            let mut body = vec![b'x'; 100];
            body[..8].copy_from_slice(&sent.to_le_bytes());
            backlog.publish(body);
            backlog.clock.advance(5);
            if sent % 10 == 9 {
                check(&backlog.disk, &backlog.clock, sent + 1, 0);
            }
        }
        assert_eq!(backlog.engine.stopped(), None);
        assert!(backlog.engine.keeping.tally.checkpoints >= 2, "{:?}", backlog.engine.keeping.tally);
    }
    assert!(lacking > 5, "{lacking} starts lacked room for the checkpoints");
}
