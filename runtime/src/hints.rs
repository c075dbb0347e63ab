//! Events of the file system, as hints that it is worth while to look now. Nothing depends on them: they get lost when a
//! folder is replaced, on network file systems, and when the kernel's limit of watches is reached. Then the next rescan
//! finds what has changed, a little later.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Wakes up when something changes in the watched folders, not counting the folders in them.
pub(crate) struct Hints {
    watcher: Option<RecommendedWatcher>,
    /// With the inode, so that a folder that was deleted and made again is watched again.
    watched: BTreeMap<PathBuf, u64>,
    changed: Arc<Notify>,
}

impl Hints {
    /// Watches nothing yet. Without help from the system there are no hints, only rescans.
    pub(crate) fn new() -> Hints {
        let changed = Arc::new(Notify::new());
        let on_event = {
            let changed = changed.clone();
            move |event: notify::Result<notify::Event>| {
                if event.is_ok_and(|event| is_change(event.kind)) {
                    changed.notify_one();
                }
            }
        };
        let watcher = notify::recommended_watcher(on_event)
            .inspect_err(|error| tracing::warn!(%error, "no events of the file system: changes are found by rescans"))
            .ok();
        Hints { watcher, watched: BTreeMap::new(), changed }
    }

    /// Watches these folders and no others.
    pub(crate) fn watch(&mut self, folders: &BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let inode = |path: &Path| fs::metadata(path).map(|metadata| metadata.ino()).ok();
        self.watched.retain(|path, watched| {
            let keep = folders.contains(path) && inode(path) == Some(*watched);
            if !keep {
                // It may have gone, and its watch with it.
                _ = watcher.unwatch(path);
            }
            keep
        });
        for path in folders {
            if !self.watched.contains_key(path)
                && let Some(inode) = inode(path)
                && watcher.watch(path, RecursiveMode::NonRecursive).is_ok()
            {
                self.watched.insert(path.clone(), inode);
            }
        }
    }

    /// Waits for a hint, or until it is time for a rescan.
    pub(crate) async fn wait(&self, rescan: Duration) {
        // Running out is as good as a hint.
        _ = tokio::time::timeout(rescan, self.changed.notified()).await;
    }
}

/// Reading is none: otherwise looking at a file would be a reason to look at it.
fn is_change(kind: EventKind) -> bool {
    !kind.is_access() || kind == EventKind::Access(AccessKind::Close(AccessMode::Write))
}
