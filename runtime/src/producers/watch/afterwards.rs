//! What becomes of a file once its message is on record. Nothing is overwritten, and nothing that has changed since is
//! touched. All calls block on the file system.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags};
use rustix::io::Errno;

use super::folder::{Folder, Found};
use crate::config::producers::After;

/// Names that are tried in the folder that files move to: `a.csv`, `a.csv.1`, ….
const NAMES_MAX: u32 = 10_000;

/// Does it for files that were sent. Answers what went wrong; those files are tried again at the next look.
pub(super) fn run(folder: &mut Folder, after: &After, sent: &[Found]) -> Vec<String> {
    let mut errors = Vec::new();
    let mut touched = Vec::new();
    for found in sent {
        let path = folder.path(found);
        let done = match after {
            After::Keep => return errors,
            After::Delete => unchanged(folder, found, || fs::remove_file(&path)),
            After::Move(to) => unchanged(folder, found, || move_to(&path, &to.join(&found.path), &mut touched)),
        };
        match done {
            Ok(()) => touched.extend(path.parent().map(Path::to_owned)),
            // It is tried again at each look, and said once.
            Err(error) if folder.trouble(found) => {
                let what = if *after == After::Delete { "delete" } else { "move" };
                errors.push(format!("can't {what} {}: {error}", path.display()));
            }
            Err(_) => {}
        }
    }
    touched.sort();
    touched.dedup();
    for folder in touched {
        // Before it is forgotten that the file was sent: after a power loss it must not be there again.
        if let Err(error) = File::open(&folder).and_then(|folder| folder.sync_all()) {
            errors.push(format!("can't sync {}: {error}", folder.display()));
        }
    }
    errors
}

fn unchanged(folder: &Folder, found: &Found, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match folder.unchanged(found)? {
        Some(_) => act(),
        None => Ok(()),
    }
}

/// Moves a file to a path, or to one beside it that is free.
fn move_to(from: &Path, to: &Path, touched: &mut Vec<PathBuf>) -> io::Result<()> {
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    touched.push(folder.to_owned());
    match free_name(to, |to| rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)) {
        // Another file system, or one that can't promise not to overwrite.
        Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS) => copy_to(from, to, folder),
        moved => Ok(moved?),
    }
}

/// Moves a file where it can't be renamed to: complete under another name first, so that nobody sees half of it.
fn copy_to(from: &Path, to: &Path, folder: &Path) -> io::Result<()> {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".linecook-part");
    let part = folder.join(name);
    fs::copy(from, &part)?;
    File::open(&part)?.sync_all()?;
    let linked = free_name(to, |to| rustix::fs::linkat(CWD, &part, CWD, to, AtFlags::empty()));
    fs::remove_file(&part)?;
    linked?;
    fs::remove_file(from)
}

/// Tries the name, then those with numbers after it.
fn free_name(to: &Path, attempt: impl Fn(&Path) -> Result<(), Errno>) -> Result<(), Errno> {
    for number in 0..NAMES_MAX {
        let mut name = to.as_os_str().to_owned();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        match attempt(Path::new(&name)) {
            Err(Errno::EXIST) => {}
            done => return done,
        }
    }
    Err(Errno::EXIST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten_whether_it_is_renamed_or_copied() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["one", "two", "three"] {
            fs::write(path(name), name).unwrap();
        }
        let done = path("done/a.csv");
        move_to(&path("one"), &done, &mut Vec::new()).unwrap();
        move_to(&path("two"), &done, &mut Vec::new()).unwrap();
        copy_to(&path("three"), &done, &path("done")).unwrap();
        let mut names: Vec<_> = fs::read_dir(path("done")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a.csv", "a.csv.1", "a.csv.2"]);
        let content = |name: &str| fs::read_to_string(path("done").join(name)).unwrap();
        assert_eq!(
            names.iter().map(|name| content(name.to_str().unwrap())).collect::<Vec<_>>(),
            ["one", "two", "three"]
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the originals are gone");
    }
}
