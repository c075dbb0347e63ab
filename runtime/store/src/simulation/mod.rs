//! The store on a simulated disk and clock, against a small model, with a power loss at every disk operation.
//!
//! A *run* is made of random steps that depend on nothing but its seed. It is done once without a fault, which counts the
//! disk's operations, and then once for each of them with the power failing there. What survives is opened again (with
//! a second power loss during that, half of the time), compared with the model, and worked on.
//!
//! What a run is made of differs from seed to seed: how many queues and keys there are, how much is delayed or deduplicated,
//! which limits hold (`run/mix.rs`). Between two processes the machine's clock may have been set, back too.
//!
//! The model allows what the contract allows: a transaction that was not answered has happened whole or not at all, and
//! an attempt that was running at a power loss may be forgotten. Everything else must be exact: the messages and their
//! order, contents, attempts, due times, and what can be claimed.

mod ahead;
mod backlog;
mod checkpoints;
mod clock;
mod damage;
mod full;
mod handles;
mod happened;
mod history;
mod model;
mod passing_over;
mod purging;
mod rewriting;
mod run;
mod seeds;
mod settling;
mod unreadable;
mod verify;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use self::happened::Happened;
pub(crate) use self::run::LAYOUT;
use self::run::{Fault, Run, Shape, Told};
use self::seeds::{for_each, for_each_of};
use crate::keeping::Tally;

/// A power loss at every operation of short runs.
#[test]
fn a_power_loss_at_every_disk_operation_loses_nothing_confirmed() {
    for_each(&seeds::POWER_LOSSES, |seed| {
        let operations = Run::new(seed, Shape::SHORT).go(Fault::None);
        for operation in 0..operations {
            Run::new(seed, Shape::SHORT).go(Fault::PowerLoss { operation });
        }
    });
}

/// The same while messages go to segments, segments are rewritten and removed, and checkpoints are taken.
#[test]
fn a_power_loss_at_every_operation_on_segments_loses_nothing_confirmed() {
    for_each(&seeds::POWER_LOSSES_ON_SEGMENTS, |seed| {
        let operations = Run::new(seed, Shape::COLD).go(Fault::None);
        for operation in 0..operations {
            Run::new(seed, Shape::COLD).go(Fault::PowerLoss { operation });
        }
    });
}

/// The runs do what they are for.
#[test]
fn runs_come_to_all_that_is_done_with_segments() {
    let total = Mutex::new(Tally::default());
    for_each_of(61_000..61_080, |seed| {
        let Told { tally, .. } = Run::new(seed, Shape::COLD_LONG).go_and_tell(Fault::None);
        let mut total = total.lock().unwrap();
        total.picked += tally.picked;
        total.read_whole += tally.read_whole;
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
        && total.picked > 1000
        && total.read_whole > 400
        && total.rewritten > 15
        && total.merged > 15
        && total.histories > 120
        && total.joined > 6
        && total.checkpoints > 400
        && total.removed > 30;
    assert!(enough, "{total:?}");
}

/// And to all else that a store has to do with, whatever goes wrong.
#[test]
fn runs_come_to_all_that_users_and_machines_do() {
    let total = Mutex::new(Happened::default());
    for_each_of(62_000..62_200, |seed| {
        let shape = Shape::ALL[seed as usize % Shape::ALL.len()];
        let told = Run::new(seed, shape).go_and_tell(Fault::All);
        total.lock().unwrap().add_all(&told.happened);
    });
    let total = total.into_inner().unwrap();
    for what in [
        "messages",
        "duplicates",
        "claims",
        "claims of what expired",
        "acks",
        "retries",
        "snoozes",
        "releases",
        "moves",
        "leases that ran out",
        "purges",
        "retractions",
        "changes of a history's window",
        "drops of state",
        "refused writes of state",
        "sends refused by a queue",
        "sends refused by the disk",
        "full disks",
        "full disks that got space",
        "kills",
        "power losses",
        "errors of the disk",
        "troubles while opening",
        "clocks set back",
        "clocks set forward",
    ] {
        assert!(total.of(what) > 100, "too few {what}: {total}");
    }
}

/// Long runs fill the ring, clean it and run out of it; the power fails somewhere.
#[test]
fn long_runs_survive_power_losses() {
    for_each(&seeds::LONG_RUNS, |seed| {
        let shape = if seed % 4 == 1 { Shape::COLD_LONG } else { Shape::LONG };
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
    for_each(&seeds::KILLS, |seed| {
        let shape = [Shape::LONG, Shape::COLD, Shape::COLD_LONG][seed as usize % 3];
        Run::new(seed, shape).go(Fault::Kills);
    });
}

/// After a failed write or sync nothing more is confirmed, and what was confirmed is there.
#[test]
fn a_failed_write_or_sync_stops_the_store() {
    for_each(&seeds::ERRORS, |seed| {
        let operations = Run::new(seed, Shape::SHORT).go(Fault::None);
        for operation in (0..operations).step_by(3) {
            Run::new(seed, Shape::SHORT).go(Fault::FailedWrite { operation });
            Run::new(seed, Shape::SHORT).go(Fault::FailedSync { operation });
        }
    });
    for_each(&seeds::ERRORS_ON_SEGMENTS, |seed| {
        let operations = Run::new(seed, Shape::COLD).go(Fault::None);
        for operation in (seed % 7..operations).step_by(7) {
            Run::new(seed, Shape::COLD).go(Fault::FailedWrite { operation });
            Run::new(seed, Shape::COLD).go(Fault::FailedSync { operation });
        }
    });
}

/// After an error of a read, or of a create, rename, removal or mapping, it stops or does without, and nothing is lost.
#[test]
fn a_failed_read_or_change_of_the_folder_loses_nothing_confirmed() {
    let survived = AtomicU64::new(0);
    for_each(&seeds::OTHER_ERRORS, |seed| {
        let shape = if seed % 3 == 0 { Shape::STATE } else { Shape::COLD };
        let operations = Run::new(seed, shape).go(Fault::None);
        for operation in (seed % 9..operations).step_by(9) {
            for fault in [Fault::FailedRead { operation }, Fault::FailedOther { operation }] {
                let told = Run::new(seed, shape).go_and_tell(fault);
                survived
                    .fetch_add(told.happened.of("errors of the disk that the store did without"), Ordering::Relaxed);
            }
        }
    });
    let survived = survived.into_inner();
    assert!(survived > 30, "the store did without {survived} only");
}

/// Whatever goes wrong after whatever else: power losses, errors of the disk, kills, a disk that fills up and gets space again,
/// and the same while the store opens after them.
#[test]
fn troubles_of_all_kinds_one_after_the_other_lose_nothing_confirmed() {
    for_each(&seeds::TROUBLES, |seed| {
        let shape = Shape::ALL[seed as usize % Shape::ALL.len()];
        Run::new(seed, shape).go(Fault::All);
    });
}

/// On a full disk sends are refused, and everything else goes on.
#[test]
fn a_full_disk_refuses_sends_and_nothing_else() {
    for_each(&seeds::FULL_DISKS, |seed| {
        Run::new(seed, Shape::LONG).go(Fault::FullDisk);
    });
}

/// Durable state is what the last confirmed transaction wrote, at every operation: in the log, on its way to its file, there.
#[test]
fn a_power_loss_at_every_operation_on_state_loses_nothing_confirmed() {
    for_each(&seeds::POWER_LOSSES_ON_STATE, |seed| {
        let operations = Run::new(seed, Shape::STATE).go(Fault::None);
        for operation in 0..operations {
            Run::new(seed, Shape::STATE).go(Fault::PowerLoss { operation });
        }
    });
}

/// The same with a process that is killed, and with failed writes and syncs.
#[test]
fn state_survives_kills_and_errors_of_the_disk() {
    for_each(&seeds::KILLS_ON_STATE, |seed| {
        Run::new(seed, Shape::STATE_LONG).go(Fault::Kills);
    });
    let (states, compacted) = (AtomicU64::new(0), AtomicU64::new(0));
    for_each_of(81_000..81_020, |seed| {
        let Told { tally, .. } = Run::new(seed, Shape::STATE_LONG).go_and_tell(Fault::None);
        states.fetch_add(tally.states, Ordering::Relaxed);
        compacted.fetch_add(tally.compacted, Ordering::Relaxed);
    });
    assert!(states.into_inner() > 100, "the runs must put state into its file");
    assert!(compacted.into_inner() >= 10, "they must write that file anew");
    for_each(&seeds::ERRORS_ON_STATE, |seed| {
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
    for_each(&seeds::FULL_DISKS_ON_STATE, |seed| {
        Run::new(seed, Shape::STATE_LONG).go(Fault::FullDisk);
    });
}
