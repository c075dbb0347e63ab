//! Which consumers are paused. A paused consumer claims nothing; what runs ends.
//!
//! It is remembered over restarts, in a file beside the store: a consumer is paused because it does harm, and a restart in
//! the middle of the night must not set it loose.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// The names of the consumers that are paused.
pub type Paused = Arc<BTreeSet<String>>;

/// Who is paused, and who wants to hear of it.
#[derive(Debug, Default)]
pub struct Pauses {
    now: watch::Sender<Paused>,
    /// None in memory only. Held while it is written, so that what is in force and what is in the file come in one order.
    file: Mutex<Option<PathBuf>>,
}

impl Pauses {
    /// Reads the file of this folder, which may not be there yet.
    pub fn open(folder: &Path) -> io::Result<Pauses> {
        let path = folder.join("paused");
        let names = match fs::read_to_string(&path) {
            Ok(text) => text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        };
        Ok(Pauses { now: watch::Sender::new(Arc::new(names)), file: Mutex::new(Some(path)) })
    }

    /// Who is paused, now and from now on.
    pub fn subscribe(&self) -> watch::Receiver<Paused> {
        self.now.subscribe()
    }

    /// Whether this one is.
    pub fn contains(&self, name: &str) -> bool {
        self.now.borrow().contains(name)
    }

    /// Pauses or resumes one: first on record, then in force. Writes a file.
    pub fn set(&self, name: &str, paused: bool) -> io::Result<()> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = BTreeSet::clone(&self.now.borrow());
        let changed = if paused { names.insert(name.to_owned()) } else { names.remove(name) };
        if !changed {
            return Ok(());
        }
        if let Some(path) = &*file {
            write(path, &names)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        }
        self.now.send_replace(Arc::new(names));
        Ok(())
    }
}

/// The old file or the new one is there after a power loss, and nothing in between.
fn write(path: &Path, names: &BTreeSet<String>) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    for name in names {
        writeln!(file, "{name}")?;
    }
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_paused_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let pauses = Pauses::open(folder.path()).unwrap();
        let mut seen = pauses.subscribe();
        pauses.set("mail", true).unwrap();
        pauses.set("images", true).unwrap();
        assert!(seen.has_changed().unwrap() && seen.borrow_and_update().contains("mail"));
        pauses.set("images", false).unwrap();
        let again = Pauses::open(folder.path()).unwrap();
        assert!(again.contains("mail") && !again.contains("images"));
        again.set("mail", false).unwrap();
        assert!(!Pauses::open(folder.path()).unwrap().contains("mail"));
    }
}
