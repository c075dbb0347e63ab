//! The names of the files: what is seen, what is durable, and the changes between the two.

use std::collections::{BTreeMap, BTreeSet};

use super::random::Random;

/// Where a file is kept in the disk's list of files.
pub(super) type FileIndex = usize;

/// The folder of a simulated disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Folder {
    /// What the process sees.
    current: BTreeMap<String, FileIndex>,
    /// What is on the platter for certain.
    durable: BTreeMap<String, FileIndex>,
    /// The changes since the last sync, oldest first. They are in `current`.
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Create { name: String, file: FileIndex },
    Rename { from: String, to: String, file: FileIndex },
    Remove { name: String },
}

impl Change {
    fn apply(&self, entries: &mut BTreeMap<String, FileIndex>) {
        match self {
            Change::Create { name, file } => {
                entries.insert(name.clone(), *file);
            }
            Change::Rename { from, to, file } => {
                entries.remove(from);
                entries.insert(to.clone(), *file);
            }
            Change::Remove { name } => {
                entries.remove(name);
            }
        }
    }

    /// The names whose meaning it changes.
    fn names(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            Change::Create { name, .. } | Change::Remove { name } => (name, None),
            Change::Rename { from, to, .. } => (from, Some(to.as_str())),
        };
        [Some(first.as_str()), second].into_iter().flatten()
    }
}

impl Folder {
    /// A folder that has been synced.
    pub(super) fn durable(entries: BTreeMap<String, FileIndex>) -> Folder {
        Folder { current: entries.clone(), durable: entries, pending: Vec::new() }
    }

    pub(super) fn get(&self, name: &str) -> Option<FileIndex> {
        self.current.get(name).copied()
    }

    /// The names, sorted, with their files.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, FileIndex)> {
        self.current.iter().map(|(name, file)| (name.as_str(), *file))
    }

    pub(super) fn create(&mut self, name: &str, file: FileIndex) {
        self.change(Change::Create { name: name.to_owned(), file });
    }

    pub(super) fn rename(&mut self, from: &str, to: &str, file: FileIndex) {
        // A file that is given the name that it has is left alone.
        if from != to {
            self.change(Change::Rename { from: from.to_owned(), to: to.to_owned(), file });
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.change(Change::Remove { name: name.to_owned() });
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// A sync that went wrong: each name means, durably, one of the things that it meant since the last sync, and no
    /// later sync will look at it again.
    ///
    /// The names are independent of each other, except that a rename changes both of its names or neither.
    pub(super) fn sync_in_doubt(&mut self, random: &mut Random) {
        let mut survived = Vec::new();
        let mut later_survived = BTreeSet::new();
        // Backwards, since what a name meant later implies all that was done to it before.
        for change in self.pending.iter().rev() {
            if random.coin() || change.names().any(|name| later_survived.contains(name)) {
                later_survived.extend(change.names());
                survived.push(change);
            }
        }
        for change in survived.into_iter().rev() {
            change.apply(&mut self.durable);
        }
        self.pending.clear();
    }

    /// What a power loss leaves of the names.
    pub(super) fn after_power_loss(&self, random: &mut Random) -> BTreeMap<String, FileIndex> {
        let mut left = self.clone();
        left.sync_in_doubt(random);
        left.durable
    }
}
