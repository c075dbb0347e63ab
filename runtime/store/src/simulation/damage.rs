//! Damage: whatever byte of whatever file is flipped, the store refuses to open and names the file and the offset, or
//! nothing that was confirmed is lost.

use std::sync::Arc;

use super::run::{Run, Shape};
use crate::disk::SimulatedDisk;
use crate::inspect::{Finding, Folder};

/// Whether looking into the folder tells of damage in a file, and where.
fn is_told(disk: &SimulatedDisk, file: &str) -> bool {
    let folder = Folder::on(Arc::new(disk.snapshot())).unwrap();
    let of_file = |finding: &Finding| finding.file.as_deref() == Some(file) && finding.offset.is_some();
    folder.verify().unwrap().findings.iter().any(of_file)
}

/// Every byte of the files of some stores, one after the other.
#[test]
fn every_flipped_byte_is_refused_or_harmless() {
    super::for_each_of(50_000..50_006, |seed| {
        let shape = if seed % 2 == 0 { Shape::SHORT } else { Shape::COLD };
        let (disk, expected) = Run::new(seed, shape).leave();
        let mut refused = 0;
        for file in disk.file_names() {
            for offset in 0..disk.file_len(&file) {
                let damaged = disk.snapshot();
                damaged.corrupt(&file, offset, 1 << (offset % 8));
                match Run::contents_of(&damaged, shape) {
                    Ok(found) => assert!(found == expected, "byte {offset} of {file} was flipped: messages changed"),
                    Err(why) => {
                        // Who reads a history hears how many are lost, and whoever looks into the folder hears where.
                        let is_named = why.contains(&file) && why.contains("offset")
                            || why.contains(" messages in the history of ") && is_told(&damaged, &file);
                        assert!(is_named, "byte {offset} of {file} was flipped: {why}");
                        refused += 1;
                    }
                }
            }
        }
        assert!(refused > 500, "only {refused} flips were refused");
    });
}

/// Larger damage in random places, and files that are cut off, missing, or there twice.
#[test]
fn larger_damage_is_refused_or_harmless() {
    super::for_each_of(51_000..51_400, |seed| {
        let shape = if seed % 2 == 0 { Shape::LONG } else { Shape::COLD };
        let (disk, expected) = Run::new(seed, shape).leave();
        let mut random = fastrand::Rng::with_seed(seed);
        let files = disk.file_names();
        let file = &files[random.usize(..files.len())];
        let damaged = disk.snapshot();
        if disk.file_len(file) == 0 {
            return;
        }
        for _ in 0..random.usize(1..50) {
            damaged.corrupt(file, random.u64(..disk.file_len(file)), random.u8(1..));
        }
        if let Ok(found) = Run::contents_of(&damaged, shape) {
            assert!(found == expected, "{file} was damaged: messages changed");
        }
        let missing = disk.snapshot();
        crate::disk::Disk::remove(&missing, file).expect("it is there");
        if let Ok(found) = Run::contents_of(&missing, shape) {
            assert!(found == expected, "{file} was removed: messages changed");
        }
    });
}

/// A log file is not given up for a copy that lacks what can't be read any more. A file of which only some messages are
/// read may have rotted elsewhere.
#[test]
fn a_log_file_that_rots_before_it_is_copied_stops_the_store() {
    let stopped = std::sync::atomic::AtomicUsize::new(0);
    super::for_each_of(53_000..53_050, |seed| {
        let (name, why) = Run::new(seed, Shape::COLD).rot(0);
        let is_told = |why: &String| why.contains(&format!("{name} is damaged at offset "));
        assert!(why.as_ref().is_some_and(is_told), "{why:?}");
        let (_, why) = Run::new(seed, Shape::COLD).rot(u64::MAX);
        assert!(why.as_ref().is_none_or(is_told), "{why:?}");
        stopped.fetch_add(usize::from(why.is_some()), std::sync::atomic::Ordering::Relaxed);
    });
    let stopped = stopped.into_inner();
    assert!((20..50).contains(&stopped), "{stopped} of 50 stopped the store");
}

/// One checkpoint that is damaged or missing is made up for by the other one and the log.
#[test]
fn a_damaged_checkpoint_is_recovered_from_the_other() {
    super::for_each_of(52_000..52_200, |seed| {
        let (disk, expected) = Run::new(seed, Shape::COLD).leave();
        for file in ["checkpoint-1", "checkpoint-2"] {
            for offset in [8, 100, 511, 512, 530] {
                let damaged = disk.snapshot();
                damaged.corrupt(file, offset, 0x40);
                assert_eq!(Run::contents_of(&damaged, Shape::COLD).as_ref(), Ok(&expected), "{file} at {offset}");
            }
            let missing = disk.snapshot();
            crate::disk::Disk::remove(&missing, file).expect("it is there");
            assert_eq!(Run::contents_of(&missing, Shape::COLD).as_ref(), Ok(&expected), "{file} is missing");
        }
    });
}

/// The same at any time: also after the store was opened between the two of a pair, or with a damaged one, and files of the
/// log were used again.
#[test]
fn either_checkpoint_will_do_at_any_time() {
    let tried = std::sync::atomic::AtomicUsize::new(0);
    super::for_each_of(54_000..54_300, |seed| {
        tried.fetch_add(Run::new(seed, Shape::COLD).rot_checkpoints(), std::sync::atomic::Ordering::Relaxed);
    });
    let tried = tried.into_inner();
    assert!(tried > 60, "only {tried} times between the two of a pair");
}

/// Without a whole checkpoint there is only the log. Unless all of that is still there from its start on, the folder is not
/// opened, and the damaged file is named.
#[test]
fn damage_to_both_checkpoints_is_recovered_from_a_whole_log_or_refused_by_name() {
    const FILES: [&str; 2] = ["checkpoint-1", "checkpoint-2"];
    let outcomes = std::sync::Mutex::new([0; 2]);
    super::for_each_of(52_200..52_300, |seed| {
        let (disk, expected) = Run::new(seed, Shape::COLD).leave();
        if !FILES.iter().all(|file| is_written(&disk, file)) {
            return;
        }
        for offset in [8, 100, 511, 512, 530] {
            let damaged = disk.snapshot();
            FILES.iter().for_each(|file| damaged.corrupt(file, offset, 0x40));
            let outcome = match Run::contents_of(&damaged, Shape::COLD) {
                Ok(contents) => {
                    assert_eq!(contents, expected, "both at {offset}");
                    0
                }
                Err(why) => {
                    assert!(FILES.iter().any(|file| why.contains(&format!("{file} is damaged at offset"))), "{why}");
                    1
                }
            };
            outcomes.lock().unwrap()[outcome] += 1;
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    assert!(outcomes.iter().all(|times| *times > 20), "{outcomes:?}");
}

fn is_written(disk: &crate::disk::SimulatedDisk, file: &str) -> bool {
    let mut magic = [0; 8];
    let read = crate::disk::Disk::open(disk, file).and_then(|file| crate::disk::File::read_at(&*file, &mut magic, 0));
    read.is_ok() && magic != [0; 8]
}

/// No flipped bit comes out as state: whoever reads it is told, or the folder is not opened. `store verify` says so, too.
#[test]
fn damaged_state_is_never_taken_for_whole() {
    const FILE: &str = "state.redb";
    let tally = std::sync::Mutex::new([0; 3]);
    super::for_each_of(53_000..53_012, |seed| {
        let (disk, _) = Run::new(seed, Shape::STATE_LONG).leave();
        let expected = Run::state_of(&disk, Shape::STATE_LONG).expect("what was written opens");
        if !disk.file_names().iter().any(|name| name == FILE) {
            return;
        }
        let len = disk.file_len(FILE);
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..80 {
            let damaged = disk.snapshot();
            let offset = if round < 10 { random.u64(..1024) } else { random.u64(..len) };
            damaged.corrupt(FILE, offset, 1 << random.u8(..8));
            let folder = Folder::on(Arc::new(damaged.snapshot())).unwrap();
            let report = folder.verify().unwrap();
            drop(folder);
            let of_file = |finding: &Finding| finding.file.as_deref() == Some(FILE);
            let is_told = report.findings.iter().any(|finding| of_file(finding) && finding.offset.is_some());
            let outcome = match Run::state_of(&damaged, Shape::STATE_LONG) {
                Ok(state) => {
                    assert!(state == expected, "byte {offset} was flipped: the state changed");
                    usize::from(is_told)
                }
                Err(why) => {
                    assert!(why.contains(FILE) && why.contains("offset"), "byte {offset} was flipped: {why}");
                    assert!(is_told, "byte {offset} was flipped: {:#?}", report.findings);
                    2
                }
            };
            tally.lock().unwrap()[outcome] += 1;
        }
        let missing = disk.snapshot();
        crate::disk::Disk::remove(&missing, FILE).expect("it is there");
        let why = Run::state_of(&missing, Shape::STATE_LONG).expect_err("it is missing");
        assert!(why.contains(FILE), "{why}");
    });
    let [unnoticed, harmless, refused] = tally.into_inner().unwrap();
    assert!(unnoticed == 0 || unnoticed < refused, "{unnoticed} flips were noticed by nobody");
    assert!(refused > 100 && harmless > 0, "{unnoticed}, {harmless}, {refused}");
}
