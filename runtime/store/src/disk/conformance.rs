//! What every disk promises, tested on each of them.

use std::io::ErrorKind;
use std::sync::Arc;

use super::{Disk, DiskError, HandleCache, OverlayDisk, RealDisk, SimulatedDisk};

#[test]
fn the_real_disk_keeps_the_promises() {
    for promise in PROMISES {
        let folder = tempfile::tempdir().unwrap();
        promise(&RealDisk::open(folder.path()).unwrap(), &|| Box::new(RealDisk::open(folder.path()).unwrap()));
    }
}

#[test]
fn the_simulated_disk_keeps_the_promises() {
    for promise in PROMISES {
        let disk = SimulatedDisk::new(1);
        promise(&disk, &|| Box::new(disk.clone()));
    }
}

#[test]
fn the_overlay_keeps_the_promises() {
    for promise in PROMISES {
        let disk = OverlayDisk::new(Arc::new(SimulatedDisk::new(1)));
        promise(&disk, &|| Box::new(disk.clone()));
    }
}

#[test]
fn the_cache_of_handles_keeps_the_promises() {
    for promise in PROMISES {
        let disk = SimulatedDisk::new(1);
        promise(&HandleCache::new(Arc::new(disk.clone()), 1), &|| {
            Box::new(HandleCache::new(Arc::new(disk.clone()), 1))
        });
    }
}

/// A promise is tested on an empty disk, and on what is found when the same disk is opened again.
type Promise = fn(&dyn Disk, &dyn Fn() -> Box<dyn Disk>);

const PROMISES: &[Promise] = &[
    the_folder_is_for_one,
    what_was_written_is_read,
    a_read_past_the_end_is_an_error,
    a_write_past_the_end_leaves_zeros,
    writing_nothing_changes_nothing,
    create_refuses_a_name_that_is_taken,
    what_is_missing_is_not_found,
    the_list_is_sorted,
    rename_replaces,
    handles_outlive_the_name,
    handles_that_only_read_outlive_the_name,
    words_survive_a_reopen,
    words_of_a_longer_or_shorter_file,
    errors_name_the_file,
];

fn kind<T>(result: Result<T, DiskError>) -> Option<ErrorKind> {
    result.err().map(|error| error.source.kind())
}

fn contents(disk: &dyn Disk, name: &str) -> Vec<u8> {
    let file = disk.open(name).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn put(disk: &dyn Disk, name: &str, bytes: &[u8]) {
    let file = disk.create(name).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync().unwrap();
}

fn the_folder_is_for_one(disk: &dyn Disk, reopen: &dyn Fn() -> Box<dyn Disk>) {
    let lock = disk.lock("lock").unwrap();
    let refusal = reopen().lock("lock").err().unwrap();
    assert!(refusal.is_locked() && !refusal.is_full());
    assert!(refusal.to_string().ends_with("is using this folder"), "{refusal}");
    assert!(disk.lock("lock").err().unwrap().is_locked(), "also within a process");
    drop(lock);
    let _lock = reopen().lock("lock").unwrap();
    assert_eq!(disk.list().unwrap(), ["lock"]);
}

fn what_was_written_is_read(disk: &dyn Disk, reopen: &dyn Fn() -> Box<dyn Disk>) {
    let file = disk.create("a").unwrap();
    assert_eq!(file.len().unwrap(), 0);
    file.write_at(&[1; 1000], 0).unwrap();
    file.write_at(&[2; 10], 500).unwrap();
    file.write_at(&[3; 10], 995).unwrap();
    file.sync().unwrap();
    disk.sync_folder().unwrap();

    let mut expected = vec![1; 1005];
    expected[500..510].fill(2);
    expected[995..].fill(3);
    assert_eq!(file.len().unwrap(), 1005);
    assert_eq!(contents(&*reopen(), "a"), expected);
    let mut middle = [0; 20];
    reopen().open("a").unwrap().read_at(&mut middle, 495).unwrap();
    assert_eq!(middle, expected[495..515]);
}

fn a_read_past_the_end_is_an_error(disk: &dyn Disk, _: &dyn Fn() -> Box<dyn Disk>) {
    let file = disk.create("a").unwrap();
    file.write_at(b"12345", 0).unwrap();
    file.read_at(&mut [0; 5], 0).unwrap();
    file.read_at(&mut [], 5).unwrap();
    for (length, offset) in [(6, 0), (1, 5), (1, 1 << 40)] {
        assert_eq!(kind(file.read_at(&mut vec![0; length], offset)), Some(ErrorKind::UnexpectedEof));
    }
}

fn a_write_past_the_end_leaves_zeros(disk: &dyn Disk, reopen: &dyn Fn() -> Box<dyn Disk>) {
    disk.create("a").unwrap().write_at(b"x", 3).unwrap();
    assert_eq!(contents(&*reopen(), "a"), b"\0\0\0x");
}

fn writing_nothing_changes_nothing(disk: &dyn Disk, _: &dyn Fn() -> Box<dyn Disk>) {
    let file = disk.create("a").unwrap();
    file.write_at(&[], 0).unwrap();
    file.write_at(&[], 100).unwrap();
    assert_eq!(file.len().unwrap(), 0);
}

fn create_refuses_a_name_that_is_taken(disk: &dyn Disk, _: &dyn Fn() -> Box<dyn Disk>) {
    put(disk, "a", b"first");
    assert_eq!(kind(disk.create("a")), Some(ErrorKind::AlreadyExists));
    assert_eq!(contents(disk, "a"), b"first");
}

fn what_is_missing_is_not_found(disk: &dyn Disk, _: &dyn Fn() -> Box<dyn Disk>) {
    put(disk, "a", b"");
    assert_eq!(kind(disk.open("b")), Some(ErrorKind::NotFound));
    assert_eq!(kind(disk.remove("b")), Some(ErrorKind::NotFound));
    assert_eq!(kind(disk.rename("b", "a")), Some(ErrorKind::NotFound));
    assert_eq!(disk.list().unwrap(), ["a"]);
}

fn the_list_is_sorted(disk: &dyn Disk, reopen: &dyn Fn() -> Box<dyn Disk>) {
    assert!(disk.list().unwrap().is_empty());
    for name in ["wal-2", "wal-10", "a", "B", "wal-1"] {
        put(disk, name, b"");
    }
    disk.map_words("map", 1).unwrap();
    disk.remove("a").unwrap();
    assert_eq!(disk.list().unwrap(), ["B", "map", "wal-1", "wal-10", "wal-2"]);
    assert_eq!(reopen().list().unwrap(), disk.list().unwrap());
}

fn rename_replaces(disk: &dyn Disk, reopen: &dyn Fn() -> Box<dyn Disk>) {
    put(disk, "a", b"new");
    put(disk, "b", b"old");
    disk.rename("a", "b").unwrap();
    disk.sync_folder().unwrap();
    assert_eq!(reopen().list().unwrap(), ["b"]);
    assert_eq!(contents(&*reopen(), "b"), b"new");
    disk.rename("b", "b").unwrap();
    disk.rename("b", "c").unwrap();
    assert_eq!(contents(&*reopen(), "c"), b"new");
    assert_eq!(reopen().list().unwrap(), ["c"]);
}

fn handles_outlive_the_name(disk: &dyn Disk, _: &dyn Fn() -> Box<dyn Disk>) {
    let renamed = disk.create("a").unwrap();
    let removed = disk.create("b").unwrap();
    disk.rename("a", "c").unwrap();
    disk.remove("b").unwrap();
    put(disk, "a", b"another");
    put(disk, "b", b"another");
    for file in [&renamed, &removed] {
        file.write_at(b"mine", 0).unwrap();
        file.sync().unwrap();
        let mut bytes = [0; 4];
        file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"mine");
    }
    assert_eq!(contents(disk, "c"), b"mine");
    assert_eq!(contents(disk, "a"), b"another");
    assert_eq!(contents(disk, "b"), b"another");
}

fn handles_that_only_read_outlive_the_name(disk: &dyn Disk, _: &dyn Fn() -> Box<dyn Disk>) {
    assert_eq!(kind(disk.open_to_read("a")), Some(ErrorKind::NotFound));
    ["a", "b", "c"].into_iter().for_each(|name| put(disk, name, name.as_bytes()));
    let handles = ["a", "b", "c"].map(|name| disk.open_to_read(name).unwrap());
    disk.remove("a").unwrap();
    disk.rename("b", "c").unwrap();
    put(disk, "a", b"another");
    put(disk, "b", b"another");
    for (handle, was) in handles.iter().zip([b"a", b"b", b"c"]) {
        let mut byte = [0];
        handle.read_at(&mut byte, 0).unwrap();
        assert_eq!((&byte, handle.len().unwrap()), (was, 1));
    }
}

fn words_survive_a_reopen(disk: &dyn Disk, reopen: &dyn Fn() -> Box<dyn Disk>) {
    let words = disk.map_words("words", 1024).unwrap();
    assert_eq!(words.load(0), 0);
    assert_eq!(words.load(1023), 0);
    words.store(0, 1);
    words.store(0, u64::MAX - 1);
    words.store(1023, 7);
    assert_eq!((words.load(0), words.load(1), words.load(1023)), (u64::MAX - 1, 0, 7));
    drop(words);
    let words = reopen().map_words("words", 1024).unwrap();
    assert_eq!((words.load(0), words.load(1), words.load(1023)), (u64::MAX - 1, 0, 7));
    // The file is the same on every machine.
    let bytes = contents(&*reopen(), "words");
    assert_eq!(bytes.len(), 8192);
    assert_eq!(bytes[..8], (u64::MAX - 1).to_le_bytes());
}

fn words_of_a_longer_or_shorter_file(disk: &dyn Disk, reopen: &dyn Fn() -> Box<dyn Disk>) {
    put(disk, "words", &[1; 20]);
    let words = disk.map_words("words", 3).unwrap();
    assert_eq!([0, 1, 2].map(|index| words.load(index)), [0x0101_0101_0101_0101, 0x0101_0101_0101_0101, 0x0101_0101]);
    drop(words);
    let words = reopen().map_words("words", 2).unwrap();
    words.store(1, 5);
    assert_eq!(contents(disk, "words").len(), 24);
    assert_eq!(disk.map_words("words", 3).unwrap().load(1), 5);
}

fn errors_name_the_file(disk: &dyn Disk, _: &dyn Fn() -> Box<dyn Disk>) {
    let error = disk.open("wal-7.log").err().unwrap();
    assert!(error.path.contains('/') && error.path.ends_with("/wal-7.log"), "{}", error.path);
    assert_eq!(error.action, "open");
    let file = disk.create("wal-7.log").unwrap();
    let error = file.read_at(&mut [0], 0).err().unwrap();
    assert!(error.path.ends_with("/wal-7.log"), "{}", error.path);
    assert!(error.to_string().starts_with("could not read "), "{error}");
}
