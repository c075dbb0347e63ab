//! When there is a new file to look at: events are hints, looking again finds what they miss, and a file that is being
//! written is left in peace until it has not changed for a while.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::dispatch::fingerprint::Fingerprint;
use crate::hints::Hints;

/// A file that has not changed for so long is taken to be whole.
const QUIET: Duration = Duration::from_millis(150);
/// How often to look without a hint.
const RESCAN: Duration = Duration::from_secs(2);
/// Links that lead to another are followed so often.
const LINKS_MAX: usize = 16;

/// Watches one file, through symbolic links.
pub(super) struct Watch {
    path: PathBuf,
    hints: Hints,
    /// What was last reported.
    seen: Option<Fingerprint>,
    /// Whether it was reported that there is none.
    absent: bool,
}

/// What there is to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// A file, or something that can't be read as one.
    File,
    /// There is nothing, and that was not just a moment between two names.
    Nothing,
}

impl Watch {
    pub(super) fn new(path: &Path) -> Watch {
        Watch { path: path.to_owned(), hints: Hints::new(), seen: None, absent: false }
    }

    /// Waits until there is something that was not reported before. `again` makes it report what is there, at once.
    pub(super) async fn next(&mut self, again: &mut impl AsyncFnMut()) -> Seen {
        loop {
            self.hints.watch(&folders(&self.path));
            if let Some(seen) = self.look().await {
                return seen;
            }
            tokio::select! {
                () = self.hints.wait(RESCAN) => {}
                () = again() => {
                    // Whoever asks for it has finished writing.
                    self.seen = Fingerprint::of(&self.path).ok().flatten();
                    self.absent = self.seen.is_none();
                    return if self.absent { Seen::Nothing } else { Seen::File };
                }
            }
        }
    }

    async fn look(&mut self) -> Option<Seen> {
        let mut before = self.fingerprint();
        if self.is_known(&before) {
            return None;
        }
        loop {
            tokio::time::sleep(QUIET).await;
            let now = self.fingerprint();
            if now == before {
                break;
            }
            before = now;
        }
        if self.is_known(&before) {
            return None;
        }
        let found = before.ok();
        (self.seen, self.absent) = (found.flatten(), found == Some(None));
        Some(if self.absent { Seen::Nothing } else { Seen::File })
    }

    /// The error is that it can't be looked at, whatever the reason.
    fn fingerprint(&self) -> Result<Option<Fingerprint>, io::ErrorKind> {
        Fingerprint::of(&self.path).map_err(|error| error.kind())
    }

    fn is_known(&self, found: &Result<Option<Fingerprint>, io::ErrorKind>) -> bool {
        match found {
            Ok(None) => self.absent,
            Ok(found) => *found == self.seen,
            // Looked at each time: it costs nothing, and is told once.
            Err(_) => false,
        }
    }
}

/// The folders in which the file can be replaced: its own, and those that links on the way lead to. A folder on the way
/// may be a link itself, as in a mounted ConfigMap; then the folder that has it counts too.
fn folders(path: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let link = fs::read_link(&folder).is_ok();
        if let (true, Some(parent)) = (link, folder.parent()) {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            folders.insert(parent.to_owned());
        }
        folders.insert(folder.clone());
        match fs::read_link(&path) {
            Ok(target) => path = folder.join(target),
            Err(_) => break,
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_folder_on_the_way_is_watched() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("..1")).unwrap();
        fs::write(at("..1/queue.toml"), "").unwrap();
        symlink("..1", at("..data")).unwrap();
        symlink("..data/queue.toml", at("queue.toml")).unwrap();
        assert_eq!(folders(&at("queue.toml")), BTreeSet::from([folder.path().to_owned(), at("..data")]));
        assert_eq!(folders(Path::new("queue.toml")), BTreeSet::from([PathBuf::from(".")]));
        symlink("circle", at("circle")).unwrap();
        assert_eq!(folders(&at("circle")).len(), 1);
    }

    #[tokio::test]
    async fn each_state_of_the_file_is_reported_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.toml");
        fs::write(&path, "1").unwrap();
        let mut watch = Watch::new(&path);
        let mut never = async || std::future::pending().await;
        assert_eq!(watch.next(&mut never).await, Seen::File);
        assert_eq!(watch.look().await, None);
        fs::write(folder.path().join("new"), "2").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(watch.next(&mut never).await, Seen::File);
        fs::remove_file(&path).unwrap();
        assert_eq!(watch.next(&mut never).await, Seen::Nothing);
        assert_eq!(watch.look().await, None);
        fs::write(&path, "3").unwrap();
        assert_eq!(watch.next(&mut never).await, Seen::File);
        assert_eq!(watch.look().await, None);
        assert_eq!(watch.next(&mut async || ()).await, Seen::File, "it was asked for");
    }
}
