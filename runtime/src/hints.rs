//! Events of the file system, as hints that it is worth while to look now. Nothing depends on them: they get lost when a
//! folder is replaced, on network file systems, and when the kernel's limit of watches is reached. Then the next rescan
//! finds what has changed, a little later.
//!
//! One watcher for the whole process: each takes a thread and several open files, and a user can have 128 in all.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Wakes up when something changes in the watched folders, not counting the folders in them.
pub(crate) struct Hints {
    number: u64,
    watched: BTreeSet<PathBuf>,
    changed: Arc<Notify>,
}

/// What the process watches.
static WATCHES: LazyLock<Mutex<Watches>> = LazyLock::new(Mutex::default);
/// Who wants to hear of which folder. Apart from the watcher: its thread takes this lock for each event, and whoever
/// changes the watches waits for that thread.
static LISTENERS: LazyLock<Mutex<Listeners>> = LazyLock::new(Mutex::default);
static NUMBERS: AtomicU64 = AtomicU64::new(0);

#[derive(Default)]
struct Watches {
    /// None before it is first needed, and if the system has none to give.
    watcher: Option<Option<RecommendedWatcher>>,
    /// With the inode, so that a folder that was deleted and made again is watched again.
    folders: HashMap<PathBuf, u64>,
}

#[derive(Default)]
struct Listeners {
    /// By folder, as an absolute path, and number of the listener.
    folders: HashMap<PathBuf, HashMap<u64, Arc<Notify>>>,
    /// Folders that were removed, and their watches with them; one that is made anew can have the same inode.
    removed: HashSet<PathBuf>,
}

impl Hints {
    /// Watches nothing yet. Without help from the system there are no hints, only rescans.
    pub(crate) fn new() -> Hints {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Hints { number, watched: BTreeSet::new(), changed: Arc::default() }
    }

    /// Watches these folders and no others.
    pub(crate) fn watch(&mut self, folders: &BTreeSet<PathBuf>) {
        let folders: BTreeSet<PathBuf> = folders.iter().filter_map(|path| std::path::absolute(path).ok()).collect();
        let mut watches = lock(&WATCHES);
        for gone in self.watched.difference(&folders) {
            self.leave(gone, &mut watches);
        }
        for folder in &folders {
            if !self.watched.contains(folder) {
                let mut listeners = lock(&LISTENERS);
                listeners.folders.entry(folder.clone()).or_default().insert(self.number, self.changed.clone());
            }
            watches.watch(folder);
        }
        self.watched = folders;
    }

    /// Waits for a hint, or until it is time for a rescan.
    pub(crate) async fn wait(&self, rescan: Duration) {
        // Running out is as good as a hint.
        _ = tokio::time::timeout(rescan, self.changed.notified()).await;
    }

    fn leave(&self, folder: &Path, watches: &mut Watches) {
        let mut listeners = lock(&LISTENERS);
        let Some(of_folder) = listeners.folders.get_mut(folder) else { return };
        of_folder.remove(&self.number);
        if of_folder.is_empty() {
            listeners.folders.remove(folder);
            listeners.removed.remove(folder);
            drop(listeners);
            watches.unwatch(folder);
        }
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        let mut watches = lock(&WATCHES);
        self.watched.iter().for_each(|folder| self.leave(folder, &mut watches));
    }
}

impl Watches {
    /// Nothing happens if it is watched already. A folder that can't be watched is tried again the next time.
    fn watch(&mut self, folder: &Path) {
        let inode = fs::metadata(folder).map(|metadata| metadata.ino()).ok();
        let was_removed = lock(&LISTENERS).removed.remove(folder);
        let watched = self.folders.get(folder).copied();
        if watched == inode && !was_removed {
            return;
        }
        if watched.is_some() {
            self.unwatch(folder);
        }
        let watcher = self.watcher.get_or_insert_with(|| {
            notify::recommended_watcher(|event| lock(&LISTENERS).tell(event))
                .inspect_err(
                    |error| tracing::warn!(%error, "no events of the file system: changes are found by rescans"),
                )
                .ok()
        });
        if let (Some(inode), Some(watcher)) = (inode, watcher)
            && watcher.watch(folder, RecursiveMode::NonRecursive).is_ok()
        {
            self.folders.insert(folder.to_owned(), inode);
        }
    }

    fn unwatch(&mut self, folder: &Path) {
        self.folders.remove(folder);
        if let Some(Some(watcher)) = &mut self.watcher {
            // It may have gone, and its watch with it.
            _ = watcher.unwatch(folder);
        }
    }
}

impl Listeners {
    fn tell(&mut self, event: notify::Result<notify::Event>) {
        let Ok(event) = event else { return };
        if event.need_rescan() {
            // Some were lost.
            self.folders.values().flat_map(HashMap::values).for_each(|changed| changed.notify_one());
        } else if is_change(event.kind) {
            if event.kind.is_remove() {
                let removed = event.paths.iter().filter(|path| self.folders.contains_key(*path));
                self.removed.extend(removed.cloned());
            }
            // Of something in a folder, or of the folder itself.
            let folders = event.paths.iter().flat_map(|path| path.parent().into_iter().chain([path.as_path()]));
            let listeners = folders.filter_map(|folder| self.folders.get(folder)).flat_map(HashMap::values);
            listeners.for_each(|changed| changed.notify_one());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reading is none: otherwise looking at a file would be a reason to look at it.
fn is_change(kind: EventKind) -> bool {
    !kind.is_access() || kind == EventKind::Access(AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Whether a hint comes. That one does not come is not waited for.
    async fn hears(hints: &Hints) -> bool {
        tokio::time::timeout(LONG, hints.changed.notified()).await.is_ok()
    }

    #[tokio::test]
    async fn everybody_hears_of_their_own_folder_also_after_it_was_made_anew() {
        let place = tempfile::tempdir().unwrap();
        let folders = ["one", "two"].map(|name| place.path().join(name));
        folders.iter().for_each(|folder| fs::create_dir(folder).unwrap());
        let watching = |folder: &Path| {
            let mut hints = Hints::new();
            hints.watch(&BTreeSet::from([folder.to_owned()]));
            hints
        };
        let (first, mut second, other) = (watching(&folders[0]), watching(&folders[0]), watching(&folders[1]));
        fs::write(folders[0].join("file"), "").unwrap();
        assert!(hears(&first).await && hears(&second).await);

        // One that leaves takes no watch of others with it.
        drop(first);
        fs::write(folders[0].join("file"), "again").unwrap();
        assert!(hears(&second).await);

        fs::remove_dir_all(&folders[0]).unwrap();
        fs::create_dir(&folders[0]).unwrap();
        // The events of the removal may come as late as they like, and are hints to look again themselves.
        let heard = tokio::time::timeout(LONG, async {
            loop {
                second.wait(Duration::from_millis(100)).await;
                second.watch(&BTreeSet::from([folders[0].clone()]));
                // Of what was before nothing comes after a while without anything.
                if tokio::time::timeout(Duration::from_millis(100), second.changed.notified()).await.is_err() {
                    fs::write(folders[0].join("file"), "new").unwrap();
                    if tokio::time::timeout(Duration::from_secs(1), second.changed.notified()).await.is_ok() {
                        return;
                    }
                }
            }
        });
        assert!(heard.await.is_ok());

        drop(second);
        let absolute = std::path::absolute(&folders[0]).unwrap();
        assert!(!lock(&LISTENERS).folders.contains_key(&absolute) && !lock(&WATCHES).folders.contains_key(&absolute));
        fs::write(folders[1].join("file"), "").unwrap();
        assert!(hears(&other).await);
    }
}
