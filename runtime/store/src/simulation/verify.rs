//! What is said of a folder that nobody may change: the same as opening says, and every message that can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use super::for_each_of;
use super::run::{Contents, Run, Shape};
use crate::disk::{Disk, SimulatedDisk};
use crate::inspect::{DumpOptions, Entry, FileKind, Finding, Folder, Meaning, Report};
use crate::{MessageId, QueueName};

/// All bytes of all files.
fn image(disk: &SimulatedDisk) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| {
        let file = disk.open(&name).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        (name, bytes)
    };
    disk.file_names().into_iter().map(read).collect()
}

/// Looks at a copy of a disk, which must stay as it is.
fn look<T>(disk: &SimulatedDisk, look: impl FnOnce(&Folder) -> T) -> T {
    let copy = disk.snapshot();
    let before = image(&copy);
    let folder = Folder::on(Arc::new(copy.clone())).unwrap();
    let seen = look(&folder);
    drop(folder);
    let mut after = image(&copy);
    // Only a simulated disk makes the file that it locks.
    after.retain(|name, _| name != "lock" || before.contains_key(name));
    assert!(after == before, "looking has changed something");
    seen
}

fn verify(disk: &SimulatedDisk) -> Report {
    look(disk, |folder| folder.verify().unwrap())
}

type Messages = BTreeSet<(QueueName, MessageId, Vec<u8>)>;

/// What `dump --messages` rescues.
fn rescue(disk: &SimulatedDisk) -> (Messages, Vec<Finding>) {
    let (mut messages, mut findings) = (Vec::new(), Vec::new());
    let options = DumpOptions { queue: None, messages_only: true };
    look(disk, |folder| {
        folder.dump(&options, |entry| {
            match entry {
                Entry::Message(message) => {
                    let name = message.queue.name.expect("every queue has a name").clone();
                    messages.push((name, message.id, message.body.to_vec()));
                }
                Entry::Finding(finding) => findings.push(finding.clone()),
                other => panic!("{other:?} is no message"),
            }
            Ok::<(), Infallible>(())
        })
    })
    .unwrap()
    .unwrap();
    let count = messages.len();
    let set: Messages = messages.into_iter().collect();
    // A message that came back to its queue stood there twice, and only a checkpoint may know that the first is gone.
    let may_repeat = findings.iter().any(|finding| finding.why.contains("can't be told from those that live"));
    assert!(may_repeat || set.len() == count, "a message was dumped twice");
    (set, findings)
}

fn flat(contents: &Contents) -> Messages {
    let of_queue = |(queue, messages): &(QueueName, Vec<(MessageId, Vec<u8>)>)| {
        messages.iter().map(|(id, body)| (queue.clone(), *id, body.clone())).collect::<Vec<_>>()
    };
    contents.iter().flat_map(of_queue).collect()
}

#[test]
fn healthy_folders_are_healthy_and_all_of_their_messages_are_dumped() {
    for_each_of(70_000..70_300, |seed| {
        let shape = if seed % 2 == 0 { Shape::LONG } else { Shape::COLD };
        let (disk, expected) = Run::new(seed, shape).leave();
        let report = verify(&disk);
        assert!(report.is_healthy(), "{:#?}", report.findings);
        for (queue, messages) in &expected {
            let told = report.queues.iter().find(|told| told.name.as_ref() == Some(queue));
            assert_eq!(told.map_or(0, |told| told.messages), messages.len() as u64, "{queue}");
            let bytes: u64 = messages.iter().map(|(_, body)| body.len() as u64).sum();
            assert!(told.map_or(0, |told| told.bytes) >= bytes, "{queue}");
            assert_eq!(told.map_or(0, |told| told.unreadable), 0, "{queue}");
        }
        assert!(report.files.iter().all(|file| file.kind != FileKind::Damaged), "{:#?}", report.files);
        let (messages, findings) = rescue(&disk);
        assert!(messages == flat(&expected), "other messages were dumped");
        assert!(!findings.iter().any(Finding::is_damage), "{findings:#?}");
    });
}

/// A power loss is no damage, unless it tore a checkpoint.
#[test]
fn what_a_power_loss_leaves_is_told_from_damage() {
    let torn = std::sync::Mutex::new(0);
    for_each_of(71_000..71_450, |seed| {
        let shape = if seed % 2 == 0 { Shape::LONG } else { Shape::COLD };
        let disk = Run::new(seed, shape).lose_power();
        let report = verify(&disk);
        assert_eq!(report.opens, Ok(()));
        for finding in report.findings.iter().filter(|finding| finding.is_damage()) {
            let of_checkpoint = finding.file.as_deref().is_some_and(|file| file.starts_with("checkpoint-"));
            assert!(of_checkpoint && finding.meaning == Meaning::Recoverable, "{finding:?}");
        }
        *torn.lock().unwrap() += report.findings.iter().filter(|finding| finding.why.contains("is torn")).count();
        let expected = flat(&Run::contents_of(&disk, shape).unwrap());
        let (messages, _) = rescue(&disk);
        assert!(messages == expected, "other messages were dumped");
    });
    let torn = torn.into_inner().unwrap();
    assert!(torn > 10, "only {torn} frames were torn");
}

/// A byte is flipped somewhere. What is said must be what happens when the folder is opened and read.
#[test]
fn damage_is_reported_as_opening_reports_it_and_the_rest_is_rescued() {
    let tally = std::sync::Mutex::new(BTreeMap::<&str, u32>::new());
    for_each_of(72_000..72_024, |seed| {
        let shape = if seed % 3 == 0 { Shape::SHORT } else { Shape::COLD };
        let (disk, expected) = Run::new(seed, shape).leave();
        let expected = flat(&expected);
        let mut random = fastrand::Rng::with_seed(seed);
        for file in disk.file_names() {
            let len = disk.file_len(&file);
            for _ in 0..60.min(len) {
                // Most of what matters stands at the start.
                let offset = if random.bool() { random.u64(..len.min(600)) } else { random.u64(..len) };
                let damaged = disk.snapshot();
                damaged.corrupt(&file, offset, 1 << random.u8(..8));
                let report = verify(&damaged);
                let (messages, findings) = rescue(&damaged);
                let place = format!("byte {offset} of {file} was flipped: {:#?}", report.findings);
                let unreadable = report.findings.iter().any(|one| matches!(one.meaning, Meaning::Unreadable { .. }));
                let outcome = match (Run::contents_of(&damaged, shape), &report.opens) {
                    (Ok(contents), Ok(())) => {
                        assert!(flat(&contents) == expected && messages == expected, "{place}");
                        assert!(!unreadable, "{place}");
                        if report.is_healthy() { "healthy" } else { "recoverable" }
                    }
                    (Err(_), Ok(())) => {
                        assert!(unreadable, "{place}");
                        // A rescue also finds records that the store has lost sight of.
                        assert!(messages == expected || findings.iter().any(Finding::is_damage), "{place}");
                        "unreadable"
                    }
                    (Err(why), Err(told)) => {
                        assert_eq!(why, *told, "{place}");
                        assert!(messages == expected || findings.iter().any(Finding::is_damage), "{place}");
                        "refused"
                    }
                    (Ok(_), Err(_)) => panic!("it opens, and verify says that it does not; {place}"),
                };
                *tally.lock().unwrap().entry(outcome).or_default() += 1;
                // Nothing is made up, and little is lost.
                let lost = expected.difference(&messages).count();
                if !file.starts_with("wal-") {
                    assert!(messages.is_subset(&expected), "{place}");
                    assert!(lost <= 1, "{lost} messages are lost; {place}");
                    let in_records = file.starts_with("segment-") && offset >= 512;
                    assert!(lost == 0 || in_records, "{lost} messages are lost; {place}");
                } else if offset >= 512 {
                    // All that one frame may hold, and the catalogue of the file may have named a queue.
                    assert!(lost < 16, "{lost} of {} messages are lost; {place}", expected.len());
                }
            }
        }
    });
    let tally = tally.into_inner().unwrap();
    for (outcome, least) in [("healthy", 400), ("recoverable", 60), ("unreadable", 15), ("refused", 200)] {
        assert!(tally.get(outcome).is_some_and(|count| *count >= least), "{tally:?}");
    }
}

/// With both checkpoints gone nobody knows what was acknowledged, but nothing that lives is lost.
#[test]
fn without_checkpoints_every_message_that_lives_is_still_rescued() {
    let refused = std::sync::Mutex::new(0);
    for_each_of(73_000..73_200, |seed| {
        let (disk, expected) = Run::new(seed, Shape::COLD).leave();
        for file in ["checkpoint-1", "checkpoint-2"] {
            disk.corrupt(file, 100, 1);
        }
        let (messages, findings) = rescue(&disk);
        assert!(messages.is_superset(&flat(&expected)), "messages are lost: {findings:#?}");
        let report = verify(&disk);
        assert!(!report.is_healthy());
        if report.opens.is_err() {
            assert!(findings.iter().any(|finding| finding.meaning == Meaning::Refuses), "{findings:#?}");
            *refused.lock().unwrap() += 1;
        }
    });
    let refused = refused.into_inner().unwrap();
    assert!(refused > 50, "only {refused} folders had given up a log file");
}
