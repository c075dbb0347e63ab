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
