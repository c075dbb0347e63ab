//! That the simulated disk loses what it may, and nothing else.

use std::collections::BTreeSet;

use super::*;

const SECTOR: usize = crate::disk::SECTOR_BYTES as usize;
const SEEDS: u64 = 1000;

fn contents(disk: &SimulatedDisk, name: &str) -> Vec<u8> {
    let file = disk.open(name).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// A disk with one durable file.
fn with_file(seed: u64, bytes: &[u8]) -> (SimulatedDisk, Arc<dyn File>) {
    let disk = SimulatedDisk::new(seed);
    let file = disk.create("a").unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync().unwrap();
    disk.sync_folder().unwrap();
    (disk, file)
}

fn faults(change: impl FnOnce(&mut SimulatedFaults)) -> SimulatedFaults {
    let mut faults = SimulatedFaults::default();
    change(&mut faults);
    faults
}

#[test]
fn what_was_synced_is_never_lost() {
    for seed in 0..SEEDS {
        let (disk, file) = with_file(seed, &[1; 3000]);
        file.write_at(&[2; 700], 400).unwrap();
        file.write_at(&[3; 700], 2800).unwrap();
        file.sync().unwrap();
        disk.create("b").unwrap();
        disk.rename("a", "c").unwrap();
        disk.sync_folder().unwrap();
        // Un-synced, and elsewhere.
        file.write_at(&[4; 1000], 8 * SECTOR as u64).unwrap();
        disk.create("d").unwrap();

        let mut expected = vec![1; 3000];
        expected[400..1100].fill(2);
        expected.truncate(2800);
        expected.resize(3500, 3);
        let mut image = disk;
        // Also not by the power losses that follow.
        for _ in 0..3 {
            image = image.crash();
            assert_eq!(contents(&image, "c")[..3500], expected, "seed {seed}");
            assert_eq!(contents(&image, "b"), [0; 0], "seed {seed}");
            assert!(!image.file_names().contains(&"a".to_owned()), "seed {seed}");
        }
    }
}

#[test]
fn un_synced_writes_are_lost_kept_or_torn_at_sectors() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..SEEDS {
        let (disk, file) = with_file(seed, &[1; 8 * SECTOR]);
        let (start, end) = (SECTOR + 100, 6 * SECTOR + 50);
        file.write_at(&vec![2; end - start], start as u64).unwrap();
        let left = contents(&disk.crash(), "a");

        assert_eq!(left.len(), 8 * SECTOR);
        assert!(left[..start].iter().chain(&left[end..]).all(|byte| *byte == 1), "seed {seed}");
        for sector in left[start..end].chunk_by(|a, b| a == b).scan(start, |at, run| {
            *at += run.len();
            Some(*at)
        }) {
            assert!(sector == end || sector % SECTOR == 0, "seed {seed}: torn at {sector}");
        }
        match left[start..end].iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()[..] {
            [1] => lost += 1,
            [2] => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(lost > 200 && kept > 200 && torn > 200, "{lost} lost, {kept} kept, {torn} torn");
}

#[test]
fn a_later_write_may_survive_an_earlier_one() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let (disk, file) = with_file(seed, b"..");
        file.write_at(b"x", 0).unwrap();
        file.write_at(b"y", 1).unwrap();
        seen.insert(String::from_utf8(contents(&disk.crash(), "a")).unwrap());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["..", ".y", "x.", "xy"]);
}

#[test]
fn un_synced_growth_is_lost_or_kept_with_zeros_for_lost_bytes() {
    let mut lengths = BTreeSet::new();
    let mut zeros = 0;
    for seed in 0..SEEDS {
        let (disk, file) = with_file(seed, &[1; 100]);
        file.write_at(&[2; 4 * SECTOR], 100).unwrap();
        let left = contents(&disk.crash(), "a");
        assert!(left[..100].iter().all(|byte| *byte == 1), "seed {seed}");
        assert!(left[100..].iter().all(|byte| matches!(byte, 0 | 2)), "seed {seed}");
        zeros += usize::from(left[100..].contains(&0));
        lengths.insert(left.len());
    }
    let expected = [100, SECTOR, 2 * SECTOR, 3 * SECTOR, 4 * SECTOR, 100 + 4 * SECTOR];
    assert!(lengths.iter().eq(&expected), "{lengths:?}");
    assert!(zeros > 100, "{zeros}");
}

#[test]
fn un_synced_names_are_lost_with_their_synced_data() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..SEEDS {
        let disk = SimulatedDisk::new(seed);
        let file = disk.create("a").unwrap();
        file.write_at(b"data", 0).unwrap();
        file.sync().unwrap();
        let image = disk.crash();
        match image.file_names()[..] {
            [] => lost += 1,
            _ => {
                assert_eq!(contents(&image, "a"), b"data", "seed {seed}");
                kept += 1;
            }
        }
    }
    assert!(lost > 300 && kept > 300, "{lost} lost, {kept} kept");
}

#[test]
fn names_are_independent_and_a_rename_is_atomic() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let (disk, _) = with_file(seed, b"old");
        let file = disk.create("new").unwrap();
        file.write_at(b"new", 0).unwrap();
        file.sync().unwrap();
        disk.sync_folder().unwrap();
        disk.rename("new", "a").unwrap();
        disk.create("b").unwrap();

        let image = disk.crash();
        let renamed = contents(&image, "a") == b"new";
        assert!(renamed || contents(&image, "a") == b"old", "seed {seed}");
        let names = image.file_names();
        assert_eq!(!renamed, names.contains(&"new".to_owned()), "seed {seed}");
        seen.insert((renamed, names.contains(&"b".to_owned())));
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_name_means_one_of_the_things_that_it_meant() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let (disk, _) = with_file(seed, b"first");
        disk.rename("a", "b").unwrap();
        let file = disk.create("a").unwrap();
        file.write_at(b"second", 0).unwrap();
        file.sync().unwrap();
        disk.remove("b").unwrap();
        let image = disk.crash();
        let meaning = |name| image.open(name).ok().map(|_| String::from_utf8(contents(&image, name)).unwrap());
        seen.insert((meaning("a"), meaning("b")));
    }
    let some = |text: &str| Some(text.to_owned());
    let expected = [
        (None, None),
        (None, some("first")),
        (some("first"), None),
        (some("second"), None),
        (some("second"), some("first")),
    ];
    // That "first" is under both names, or that "second" is while the rename was lost, can't be.
    assert!(seen.is_subset(&BTreeSet::from(expected.clone())), "{seen:?}");
    assert!(seen.len() >= 4, "{seen:?}");
}

#[test]
fn words_come_back_with_some_value_that_they_had() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = SimulatedDisk::new(seed);
        let words = disk.map_words("words", 100).unwrap();
        disk.sync_folder().unwrap();
        for value in 1..=3 {
            words.store(40, value);
            words.store(41, value);
        }
        let words = disk.crash().map_words("words", 100).unwrap();
        assert_eq!((words.load(39), words.load(42)), (0, 0));
        seen.insert((words.load(40), words.load(41)));
    }
    assert_eq!(seen.len(), 16, "each word has any of its four values: {seen:?}");
}

#[test]
fn a_word_that_survived_a_power_loss_is_there_for_good() {
    for seed in 0..SEEDS {
        let disk = SimulatedDisk::new(seed);
        let words = disk.map_words("words", 1).unwrap();
        (1..50).for_each(|value| words.store(0, value));
        let image = disk.crash();
        let value = |disk: &SimulatedDisk| disk.map_words("words", 1).unwrap().load(0);
        assert_eq!(value(&image.crash()), value(&image), "seed {seed}");
    }
}

#[test]
fn a_killed_process_loses_nothing_but_nothing_gets_durable() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let (disk, file) = with_file(seed, b"1111");
        let _lock = disk.lock("lock").unwrap();
        disk.set_faults(faults(|faults| faults.full_after_bytes = Some(0)));
        file.write_at(b"2222", 0).unwrap();
        let image = disk.kill();
        let _lock = image.lock("lock").unwrap();
        assert_eq!(image.operations(), 0);
        assert_eq!(contents(&image, "a"), b"2222");
        image.create("b").unwrap().write_at(b"no fault", 0).unwrap();

        lost += usize::from(contents(&image.crash(), "a") == b"1111");
        image.open("a").unwrap().sync().unwrap();
        assert_eq!(contents(&image.crash(), "a"), b"2222");
    }
    assert!(lost > 300, "{lost}");
}

#[test]
fn everything_fails_from_the_crash_on() {
    let (disk, file) = with_file(1, &[1; 1024]);
    let words = disk.map_words("words", 1).unwrap();
    words.store(0, 1);
    let at = disk.operations();
    disk.set_faults(faults(|faults| faults.crash_at = Some(at + 1)));
    file.write_at(&[2; 10], 0).unwrap();
    file.write_at(&[3; 10], 0).unwrap_err();
    assert_eq!(disk.operations(), at + 2);

    file.write_at(&[4; 10], 0).unwrap_err();
    file.read_at(&mut [0], 0).unwrap_err();
    file.len().unwrap_err();
    file.sync().unwrap_err();
    disk.sync_folder().unwrap_err();
    assert!(disk.create("b").is_err() && disk.open("a").is_err() && disk.map_words("words", 1).is_err());
    assert!(disk.rename("a", "b").is_err() && disk.remove("a").is_err());
    assert!(disk.lock("lock").is_err() && disk.list().is_err());
    words.store(0, 2);
    assert_eq!(words.load(0), 1);
    assert_eq!(disk.operations(), at + 2, "what the power failure stops is not counted");
    contents(&disk.crash(), "a");
}

#[test]
fn the_crashing_operation_is_done_in_part() {
    let (mut none, mut all, mut part) = (0, 0, 0);
    let mut created = 0;
    for seed in 0..SEEDS {
        let (disk, file) = with_file(seed, &[1; 2 * SECTOR]);
        disk.set_faults(faults(|faults| faults.crash_at = Some(disk.operations())));
        file.write_at(&[2; 2 * SECTOR], 0).unwrap_err();
        // The process died in the middle of the write, and the power stayed on.
        let left = contents(&disk.kill(), "a");
        match (left[0], left[SECTOR]) {
            (1, 1) => none += 1,
            (2, 2) => all += 1,
            _ => part += 1,
        }

        let (disk, _) = with_file(seed, b"");
        disk.set_faults(faults(|faults| faults.crash_at = Some(disk.operations())));
        assert!(disk.create("b").is_err());
        created += usize::from(disk.kill().file_names().len() == 2);
    }
    assert!(none > 100 && all > 100 && part > 100, "{none} {all} {part}");
    assert!((300..700).contains(&created), "{created}");
}

#[test]
fn a_failed_write_fails_once_and_leaves_anything() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let (disk, file) = with_file(seed, &[1; 2 * SECTOR]);
        disk.set_faults(faults(|faults| faults.fail_write_at = Some(disk.operations())));
        // Not a write: the fault waits for one.
        file.sync().unwrap();
        let error = file.write_at(&[2; 2 * SECTOR], 0).unwrap_err();
        assert!(!error.is_full() && !error.is_locked());
        let left = contents(&disk, "a");
        seen.insert((left[0], left[SECTOR]));
        file.write_at(&[3; 2 * SECTOR], 0).unwrap();
        file.sync().unwrap();
        assert_eq!(contents(&disk.crash(), "a"), [3; 2 * SECTOR]);
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_failed_removal_fails_once_and_may_have_been_done() {
    let mut left = BTreeSet::new();
    for seed in 0..SEEDS {
        let (disk, _file) = with_file(seed, b"old");
        disk.set_faults(faults(|faults| faults.fail_other_at = Some(disk.operations())));
        disk.remove("a").unwrap_err();
        assert_eq!(disk.faults().fail_other_at, None);
        left.insert(disk.file_names().len());
        disk.create("b").unwrap();
        disk.remove("b").unwrap();
    }
    assert_eq!(left, [0, 1].into());
}

#[test]
fn a_read_fails_once_or_for_ever_where_a_sector_is_bad() {
    let (disk, file) = with_file(1, &[1; 3 * SECTOR]);
    disk.set_faults(faults(|faults| faults.fail_read_at = Some(disk.operations() + 1)));
    let read = |start: usize, len: usize| file.read_at(&mut vec![0; len], start as u64);
    read(0, SECTOR).unwrap();
    file.sync().unwrap();
    let error = read(0, SECTOR).unwrap_err();
    assert!(error.shortage().is_none() && !error.is_locked(), "{error}");
    read(0, SECTOR).unwrap();
    disk.set_faults(faults(|faults| faults.bad_sector = Some(("a".into(), 1))));
    for _ in 0..2 {
        read(0, SECTOR).unwrap();
        read(2 * SECTOR, SECTOR).unwrap();
        read(SECTOR - 1, 2).unwrap_err();
        read(2 * SECTOR - 1, 1).unwrap_err();
    }
    file.write_at(&[2; 3 * SECTOR], 0).unwrap();
}

#[test]
fn a_sync_after_a_failed_sync_proves_nothing() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..SEEDS {
        let (disk, file) = with_file(seed, b"old");
        file.write_at(b"new", 0).unwrap();
        disk.set_faults(faults(|faults| faults.fail_sync_at = Some(disk.operations())));
        file.sync().unwrap_err();
        file.sync().unwrap();
        assert_eq!(contents(&disk, "a"), b"new", "the cache still has it");
        // Not even the next process can tell.
        let next = disk.kill();
        next.open("a").unwrap().sync().unwrap();
        let left = contents(&next.crash(), "a");
        assert_eq!(left, contents(&disk.crash(), "a"), "seed {seed}");
        if left == b"old" {
            lost += 1;
        } else {
            kept += 1;
        }
        // But writing it again does help.
        file.write_at(b"new", 0).unwrap();
        file.sync().unwrap();
        assert_eq!(contents(&disk.crash(), "a"), b"new", "seed {seed}");
    }
    assert!(lost > 300 && kept > 300, "{lost} lost, {kept} kept");
}

#[test]
fn a_failed_sync_of_the_folder_proves_nothing() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let (disk, _) = with_file(seed, b"");
        disk.create("b").unwrap();
        disk.set_faults(faults(|faults| faults.fail_sync_at = Some(disk.operations())));
        disk.sync_folder().unwrap_err();
        disk.sync_folder().unwrap();
        assert_eq!(disk.file_names(), ["a", "b"]);
        lost += usize::from(disk.crash().file_names() == ["a"]);
    }
    assert!((300..700).contains(&lost), "{lost}");
}

#[test]
fn a_full_disk_refuses_growth_only() {
    let (disk, file) = with_file(1, &[1; 1000]);
    disk.set_faults(faults(|faults| faults.full_after_bytes = Some(3000)));
    let other = disk.create("b").unwrap();
    other.write_at(&[2; 1000], 0).unwrap();

    let error = file.write_at(&[3; 2000], 500).unwrap_err();
    assert!(error.is_full(), "{error}");
    // What fitted, up to a sector, is there.
    let length = disk.file_len("a") as usize;
    assert_eq!(length, 2000 / SECTOR * SECTOR);
    assert!(contents(&disk, "a")[500..].iter().all(|byte| *byte == 3));

    file.write_at(&[4; 1000], 500).unwrap();
    file.sync().unwrap();
    assert!(other.write_at(&[5; 1000], 1000).unwrap_err().is_full());
    assert!(disk.map_words("words", 200).err().unwrap().is_full());
    assert!(file.write_at(&[1], 1 << 40).unwrap_err().is_full());
    file.write_at(&[], 1 << 40).unwrap();
    assert_eq!(disk.file_len("a") as usize, length);

    disk.remove("b").unwrap();
    file.write_at(&[6; 900], 1500).unwrap();
    assert_eq!(disk.file_len("a"), 2400);
}

#[test]
fn damage_is_done_to_one_byte() {
    let (disk, file) = with_file(1, b"abc");
    let copy = disk.snapshot();
    disk.corrupt("a", 1, 1);
    assert_eq!(contents(&disk, "a"), b"acc");
    assert_eq!(contents(&disk.crash(), "a"), b"acc");
    assert_eq!(contents(&copy, "a"), b"abc");
    file.write_at(b"x", 0).unwrap();
    assert_eq!(contents(&copy, "a"), b"abc");
}

#[test]
fn a_seed_always_tells_the_same_story() {
    let story = |seed| {
        let (disk, file) = with_file(seed, &[1; 4 * SECTOR]);
        disk.create("b").unwrap();
        file.write_at(&[2; 8 * SECTOR], 0).unwrap();
        disk.set_faults(faults(|faults| faults.crash_at = Some(disk.operations())));
        file.write_at(&[3; 8 * SECTOR], 100).unwrap_err();
        let images = [disk.crash(), disk.crash(), disk.kill().crash()];
        images.map(|image| (image.file_names(), contents(&image, "a")))
    };
    let stories: BTreeSet<_> = (0..50)
        .map(|seed| {
            assert_eq!(story(seed), story(seed), "seed {seed}");
            story(seed)
        })
        .collect();
    assert_eq!(stories.len(), 50);
}
