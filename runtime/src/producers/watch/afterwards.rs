//! What becomes of a file once its message is on record. Nothing is overwritten, and nothing that has changed since is
//! touched. All calls block on the file system.
//!
//! A folder that guests may write can be watched: at any time, there may be a link to anywhere where the file was a moment
//! ago. So what is moved is checked once more where it is now, out of their reach.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags};
use rustix::io::Errno;

use super::folder::{Folder, Found};
use crate::config::producers::After;
use crate::producers::file_id::FileId;

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
            After::Move(to) => unchanged(folder, found, || move_to(found, &path, &to.join(&found.path), &mut touched)),
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
fn move_to(found: &Found, from: &Path, to: &Path, touched: &mut Vec<PathBuf>) -> io::Result<()> {
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    touched.push(folder.to_owned());
    match free_name(to, |to| rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)) {
        // Another file system, or one that can't promise not to overwrite.
        Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS) => copy_to(found, from, to, folder),
        Ok(to) => check_moved(found, from, &to),
        Err(error) => Err(error.into()),
    }
}

/// Whether it is the file that was renamed, and not what came in its place just before: that goes back.
fn check_moved(found: &Found, from: &Path, to: &Path) -> io::Result<()> {
    let moved = fs::symlink_metadata(to)?;
    if FileId::of(&moved) == found.id {
        return Ok(());
    }
    let back = rustix::fs::renameat_with(CWD, to, CWD, from, RenameFlags::NOREPLACE);
    // Where something is again by now. Links must not stay here; a file may.
    let removed = match back {
        Err(_) if moved.is_symlink() => fs::remove_file(to),
        Err(_) if moved.is_dir() => fs::remove_dir_all(to),
        back => back.map_err(io::Error::from),
    };
    let left = match removed {
        Ok(()) => String::new(),
        Err(error) => format!("; it is in {} and can't be moved back: {error}", to.display()),
    };
    Err(io::Error::other(format!("something else came in its place while it was moved{left}")))
}

/// Moves a file where it can't be renamed to: complete under another name first, so that nobody sees half of it.
fn copy_to(found: &Found, from: &Path, to: &Path, folder: &Path) -> io::Result<()> {
    let Some(mut file) = found.open(from)? else { return Ok(()) };
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".linecook-part");
    let part = folder.join(name);
    let copied = copy(&mut file, &part).and_then(|()| {
        // It must not have changed while it was copied, nor may what came in its place be removed.
        if !found.is(&file.metadata()?) || !found.is(&fs::symlink_metadata(from)?) {
            return Ok(false);
        }
        free_name(to, |to| rustix::fs::linkat(CWD, &part, CWD, to, AtFlags::empty()))?;
        Ok(true)
    });
    fs::remove_file(&part)?;
    if copied? { fs::remove_file(from) } else { Ok(()) }
}

fn copy(from: &mut File, to: &Path) -> io::Result<()> {
    let mut copy = File::create(to)?;
    copy.set_permissions(from.metadata()?.permissions())?;
    io::copy(from, &mut copy)?;
    copy.sync_all()
}

/// Tries the name, then those with numbers after it. Answers the one that was free.
fn free_name(to: &Path, attempt: impl Fn(&Path) -> Result<(), Errno>) -> Result<PathBuf, Errno> {
    for number in 0..NAMES_MAX {
        let mut name = to.as_os_str().to_owned();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        match attempt(Path::new(&name)) {
            Err(Errno::EXIST) => {}
            done => return done.map(|()| name.into()),
        }
    }
    Err(Errno::EXIST)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;
    use crate::producers::watch::folder::Version;

    fn found(path: &Path) -> Found {
        let metadata = fs::symlink_metadata(path).unwrap();
        let name = path.file_name().unwrap().into();
        Found { id: FileId::of(&metadata), path: name, version: Version::of(&metadata) }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_is_overwritten_whether_it_is_renamed_or_copied() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["one", "two", "three"] {
            fs::write(path(name), name).unwrap();
        }
        let done = path("done/a.csv");
        for name in ["one", "two"] {
            move_to(&found(&path(name)), &path(name), &done, &mut Vec::new()).unwrap();
        }
        copy_to(&found(&path("three")), &path("three"), &done, &path("done")).unwrap();
        assert_eq!(names(&path("done")), ["a.csv", "a.csv.1", "a.csv.2"]);
        let content = |name: &str| fs::read_to_string(path("done").join(name)).unwrap();
        assert_eq!(["a.csv", "a.csv.1", "a.csv.2"].map(content), ["one", "two", "three"]);
        assert_eq!(names(folder.path()), ["done"], "the originals are gone");
    }

    /// A folder with a secret, a folder `done`, and a file that was found and then replaced by a link to the secret.
    fn replaced() -> (TempDir, Found, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (secret, sent) = (folder.path().join("secret"), folder.path().join("a"));
        fs::create_dir(folder.path().join("done")).unwrap();
        fs::write(&secret, "of the host").unwrap();
        fs::write(&sent, "of the guest").unwrap();
        let found = found(&sent);
        // Under another name it is still there, so that no other file gets its inode.
        fs::rename(&sent, folder.path().join("b")).unwrap();
        symlink("secret", &sent).unwrap();
        (folder, found, sent)
    }

    #[test]
    fn a_link_that_came_in_the_place_of_a_file_is_not_copied() {
        let (folder, found, sent) = replaced();
        let done = folder.path().join("done");
        copy_to(&found, &sent, &done.join("a"), &done).unwrap();
        assert_eq!(names(&done), [""; 0]);
        assert!(sent.is_symlink(), "it was not sent, so it is not touched");
        // Nor is a file that was written to since.
        fs::remove_file(&sent).unwrap();
        fs::rename(folder.path().join("b"), &sent).unwrap();
        fs::write(&sent, "of the guest, and more").unwrap();
        copy_to(&found, &sent, &done.join("a"), &done).unwrap();
        assert_eq!((names(&done), sent.is_file()), (Vec::new(), true));
    }

    #[test]
    fn a_link_that_came_in_the_place_of_a_file_is_not_moved() {
        let (folder, found, sent) = replaced();
        let done = folder.path().join("done");
        let error = move_to(&found, &sent, &done.join("a"), &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(error, "something else came in its place while it was moved");
        assert_eq!(names(&done), [""; 0]);
        assert!(sent.is_symlink());
        // Its name is taken when it is to go back.
        fs::rename(&sent, done.join("a")).unwrap();
        fs::write(&sent, "again").unwrap();
        check_moved(&found, &sent, &done.join("a")).unwrap_err();
        assert_eq!(names(&done), [""; 0]);
        // A file is not removed.
        fs::write(done.join("a"), "another").unwrap();
        let error = check_moved(&found, &sent, &done.join("a")).unwrap_err().to_string();
        assert!(error.contains("can't be moved back"), "{error}");
        assert_eq!(fs::read_to_string(done.join("a")).unwrap(), "another");
    }
}
