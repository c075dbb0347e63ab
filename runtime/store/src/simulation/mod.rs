//! The store on a simulated disk and clock, against a small model, with a power loss at every disk operation.
//!
//! A *run* is made of random steps that depend on nothing but its seed. It is done once without a fault, which counts the
//! disk's operations, and then once for each of them with the power failing there. What survives is opened again (with
//! a second power loss during that, half of the time), compared with the model, and worked on.
//!
//! The model allows what the contract allows: a transaction that was not answered has happened whole or not at all, and
//! an attempt that was running at a power loss may be forgotten. Everything else must be exact: the messages and their
//! order, contents, attempts, due times, and what can be claimed.

mod ahead;
mod clock;
mod damage;
mod history;
mod model;
mod run;
mod verify;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use self::run::{Fault, Run, Shape};
use crate::keeping::Tally;

/// Does the same with many seeds on all cores, and says which seed failed.
fn for_each_seed(seeds: std::ops::Range<u64>, check: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(seed))) {
                eprintln!("the failing seed is {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// A power loss at every operation of short runs.
#[test]
fn a_power_loss_at_every_disk_operation_loses_nothing_confirmed() {
    for_each_seed(0..1500, |seed| {
        let operations = Run::new(seed, Shape::SHORT).go(Fault::None);
        for operation in 0..operations {
            Run::new(seed, Shape::SHORT).go(Fault::PowerLoss { operation });
        }
    });
}

/// The same while messages go to segments, segments are rewritten and removed, and checkpoints are taken.
#[test]
fn a_power_loss_at_every_operation_on_segments_loses_nothing_confirmed() {
    for_each_seed(60_000..60_080, |seed| {
        let operations = Run::new(seed, Shape::COLD).go(Fault::None);
        for operation in 0..operations {
            Run::new(seed, Shape::COLD).go(Fault::PowerLoss { operation });
        }
    });
}

/// The runs do what they are for.
#[test]
fn runs_come_to_all_that_is_done_with_segments() {
    let total = std::sync::Mutex::new(Tally::default());
    for_each_seed(61_000..61_040, |seed| {
        let (_, tally) = Run::new(seed, Shape::COLD_LONG).go_and_tell(Fault::None);
        let mut total = total.lock().unwrap();
        total.segments += tally.segments;
        total.rewritten += tally.rewritten;
        total.merged += tally.merged;
        total.histories += tally.histories;
        total.joined += tally.joined;
        total.checkpoints += tally.checkpoints;
        total.removed += tally.removed;
    });
    let total = total.into_inner().unwrap();
    let enough = total.segments > 400
        && total.rewritten > 15
        && total.merged > 15
        && total.histories > 120
        && total.joined > 6
        && total.checkpoints > 400
        && total.removed > 30;
    assert!(enough, "{total:?}");
}

/// Long runs fill the ring, clean it and run out of it; the power fails somewhere.
#[test]
fn long_runs_survive_power_losses() {
    for_each_seed(10_000..10_800, |seed| {
        let shape = if seed % 4 == 0 { Shape::COLD_LONG } else { Shape::LONG };
        let operations = Run::new(seed, shape).go(Fault::None);
        for share in 1..4 {
            let operation = (operations * share / 4).wrapping_add(seed % 7);
            Run::new(seed, shape).go(Fault::PowerLoss { operation });
        }
    });
}

/// A process that is killed loses nothing that was written, and counts exactly the attempts that had begun.
#[test]
fn a_killed_process_loses_nothing_and_counts_every_attempt() {
    for_each_seed(20_000..22_000, |seed| {
        let shape = [Shape::LONG, Shape::COLD, Shape::COLD_LONG][seed as usize % 3];
        Run::new(seed, shape).go(Fault::Kills);
    });
}

/// After a failed write or sync nothing more is confirmed, and what was confirmed is there.
#[test]
fn a_failed_write_or_sync_stops_the_store() {
    for_each_seed(30_000..30_600, |seed| {
        let operations = Run::new(seed, Shape::SHORT).go(Fault::None);
        for operation in (0..operations).step_by(3) {
            Run::new(seed, Shape::SHORT).go(Fault::FailedWrite { operation });
            Run::new(seed, Shape::SHORT).go(Fault::FailedSync { operation });
        }
    });
    for_each_seed(31_000..31_100, |seed| {
        let operations = Run::new(seed, Shape::COLD).go(Fault::None);
        for operation in (seed % 7..operations).step_by(7) {
            Run::new(seed, Shape::COLD).go(Fault::FailedWrite { operation });
            Run::new(seed, Shape::COLD).go(Fault::FailedSync { operation });
        }
    });
}

/// On a full disk sends are refused, and everything else goes on.
#[test]
fn a_full_disk_refuses_sends_and_nothing_else() {
    for_each_seed(40_000..41_000, |seed| {
        Run::new(seed, Shape::LONG).go(Fault::FullDisk);
    });
}

/// Durable state is what the last confirmed transaction wrote, at every operation: in the log, on its way to its file, there.
#[test]
fn a_power_loss_at_every_operation_on_state_loses_nothing_confirmed() {
    for_each_seed(80_000..80_030, |seed| {
        let operations = Run::new(seed, Shape::STATE).go(Fault::None);
        for operation in 0..operations {
            Run::new(seed, Shape::STATE).go(Fault::PowerLoss { operation });
        }
    });
}

/// The same with a process that is killed, and with failed writes and syncs.
#[test]
fn state_survives_kills_and_errors_of_the_disk() {
    for_each_seed(81_000..81_200, |seed| {
        Run::new(seed, Shape::STATE_LONG).go(Fault::Kills);
    });
    let states = AtomicU64::new(0);
    for_each_seed(81_000..81_020, |seed| {
        let (_, tally) = Run::new(seed, Shape::STATE_LONG).go_and_tell(Fault::None);
        states.fetch_add(tally.states, Ordering::Relaxed);
    });
    assert!(states.into_inner() > 100, "the runs must put state into its file");
    for_each_seed(82_000..82_016, |seed| {
        let operations = Run::new(seed, Shape::STATE).go(Fault::None);
        for operation in (seed % 5..operations).step_by(5) {
            Run::new(seed, Shape::STATE).go(Fault::FailedWrite { operation });
            Run::new(seed, Shape::STATE).go(Fault::FailedSync { operation });
        }
    });
}

/// On a full disk state can be read and taken away, and messages acknowledged.
#[test]
fn a_full_disk_refuses_writes_of_state_and_nothing_else() {
    for_each_seed(83_000..83_300, |seed| {
        Run::new(seed, Shape::STATE_LONG).go(Fault::FullDisk);
    });
}
