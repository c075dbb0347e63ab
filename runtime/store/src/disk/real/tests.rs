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
