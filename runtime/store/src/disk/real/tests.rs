//! What only the real disk can do.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn missing_folders_are_made() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a/b/c");
    RealDisk::open(&folder).unwrap().create("file").unwrap();
    assert_eq!(RealDisk::open(&folder).unwrap().list().unwrap(), ["file"]);
}

#[test]
fn a_file_is_no_folder() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("taken");
    fs::write(&path, "x").unwrap();
    for folder in [path.clone(), path.join("below")] {
        let error = RealDisk::open(&folder).unwrap_err();
        assert_eq!(error.action, "create");
        assert_eq!(error.path, path.display().to_string());
    }
}

#[test]
fn files_are_for_their_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(folder.path()).unwrap();
    let _lock = disk.lock("lock").unwrap();
    disk.create("file").unwrap();
    disk.map_words("words", 1).unwrap();
    for name in disk.list().unwrap() {
        let mode = fs::metadata(folder.path().join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
}

#[test]
fn the_lock_names_its_holder() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(folder.path()).unwrap();
    // A longer text of an earlier holder leaves nothing behind.
    fs::write(folder.path().join("lock"), "4294967295 and more").unwrap();
    let _lock = disk.lock("lock").unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("lock")).unwrap(), format!("{}\n", std::process::id()));
    let error = disk.lock("lock").err().unwrap().to_string();
    let expected = format!(
        "could not lock {}: process {} is using this folder",
        folder.path().join("lock").display(),
        std::process::id()
    );
    assert_eq!(error, expected);
}

#[test]
fn what_is_no_file_is_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("lost+found")).unwrap();
    let disk = RealDisk::open(folder.path()).unwrap();
    disk.create("file").unwrap();
    assert_eq!(disk.list().unwrap(), ["file"]);
}

#[test]
fn a_folder_that_is_only_looked_at_is_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let owner = RealDisk::open(folder.path()).unwrap();
    owner.create("file").unwrap().write_at(b"kept", 0).unwrap();

    let disk = RealDisk::open_read_only(folder.path()).unwrap();
    // There is nothing to lock yet, and no lock file is made.
    drop(disk.lock("lock").unwrap());
    assert_eq!(disk.list().unwrap(), ["file"]);
    let file = disk.open("file").unwrap();
    let mut bytes = [0; 4];
    file.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"kept");
    let refused = |result: Result<(), DiskError>| result.unwrap_err();
    for error in [
        refused(file.write_at(b"x", 0)),
        refused(disk.create("new").map(drop)),
        refused(disk.remove("file")),
        refused(disk.rename("file", "other")),
        refused(disk.map_words("words", 1).map(drop)),
    ] {
        assert!(!error.is_full() && !error.is_locked(), "{error}");
    }
    assert_eq!(owner.list().unwrap(), ["file"]);
    assert!(RealDisk::open_read_only(&folder.path().join("missing")).is_err());

    // Several may look, but nobody looks while somebody works, and the other way round.
    let working = owner.lock("lock").unwrap();
    assert!(disk.lock("lock").err().unwrap().is_locked());
    drop(working);
    let (one, two) = (disk.lock("lock").unwrap(), disk.lock("lock").unwrap());
    assert!(owner.lock("lock").err().unwrap().is_locked());
    drop((one, two));
    owner.lock("lock").unwrap();
}
