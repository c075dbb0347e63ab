//! Durable key-value state of consumers and producers, written atomically with what else a transaction does.
//!
//! The log is the truth: a write is a record in the frame of its transaction. What the log holds since is kept in memory,
//! over a file ([`file`]) that is brought up to date before a log file is given up:
//!
//! ```text
//!  write ─► frame ─► recent ─► frozen ─► state.redb, with the LSN up to which it is complete
//!                    (memory)  (memory, while it is being put into the file)
//! ```
//!
//! Constraints:
//! - Memory holds at most what the log holds, and only the last value of each key.
//! - The bytes of each space are counted exactly, also of what waits in the group that is being built, so that a limit
//!   holds however many deliveries write at once.
//! - What a transaction says that it has read is compared when it is admitted: two that read and then write the same key
//!   can't both happen.
//!
//! | module | what |
//! | --- | --- |
//! | [`admission`] | the writes of the group that is being built, checked against all that came before |
//! | [`file`] | `state.redb` |
//! | [`compact`] | `state.redb` is written anew when it is mostly empty |
//! | [`sectors`] | what redb reads and writes, with a checksum for each sector |

pub(crate) mod admission;
pub(crate) mod compact;
pub(crate) mod file;
mod sectors;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::record::StateChange;

/// The longest key of durable state, in bytes.
pub const STATE_KEY_BYTES_MAX: usize = 512;

/// The longest value of durable state, in bytes.
pub const STATE_VALUE_BYTES_MAX: usize = 1 << 20;

/// Bytes that an entry counts for.
pub(crate) fn entry_bytes(key: &str, value_bytes: usize) -> u64 {
    (key.len() + value_bytes) as u64
}

/// What changed, by space.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) spaces: BTreeMap<Box<str>, SpaceChanges>,
}

#[derive(Debug, Default)]
pub(crate) struct SpaceChanges {
    /// All that was there before is gone.
    pub(crate) dropped: bool,
    /// The last value of each key, none if it was removed.
    pub(crate) keys: BTreeMap<Box<str>, Option<Bytes>>,
}

/// Where a key's value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found<T> {
    Here(Option<T>),
    /// Nothing changed here: it is what it was before.
    Before,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.spaces.is_empty()
    }

    pub(crate) fn find(&self, space: &str, key: &str) -> Found<&Bytes> {
        let Some(space) = self.spaces.get(space) else { return Found::Before };
        match space.keys.get(key) {
            Some(value) => Found::Here(value.as_ref()),
            None if space.dropped => Found::Here(None),
            None => Found::Before,
        }
    }

    pub(crate) fn write(&mut self, space: &str, key: &str, value: Option<Bytes>) {
        if !self.spaces.contains_key(space) {
            self.spaces.insert(space.into(), SpaceChanges::default());
        }
        let keys = &mut self.spaces.get_mut(space).expect("just put there").keys;
        match keys.get_mut(key) {
            Some(known) => *known = value,
            None => drop(keys.insert(key.into(), value)),
        }
    }

    fn drop_space(&mut self, space: &str) {
        self.spaces.insert(space.into(), SpaceChanges { dropped: true, keys: BTreeMap::new() });
    }

    /// These came after those that are here.
    fn merge(&mut self, later: Changes) {
        for (name, later) in later.spaces {
            match self.spaces.get_mut(&name) {
                Some(space) if !later.dropped => space.keys.extend(later.keys),
                _ => drop(self.spaces.insert(name, later)),
            }
        }
    }
}

/// Changes that are being put into the file.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) changes: Changes,
    /// All changes up to this one are among them, or in the file.
    pub(crate) lsn: u64,
}

/// What is known in memory.
#[derive(Debug, Default)]
pub(crate) struct Kv {
    recent: Changes,
    frozen: Option<Arc<Frozen>>,
    /// How often changes went into the file. Who reads memory and file one after the other can tell that they did meanwhile.
    thaws: u64,
    /// The file is complete up to this one.
    filed_lsn: u64,
    /// Bytes of the spaces that hold any.
    bytes: BTreeMap<Box<str>, u64>,
    limits: FxHashMap<Box<str>, u64>,
}

impl Kv {
    pub(crate) fn new(bytes: BTreeMap<Box<str>, u64>, filed_lsn: u64) -> Kv {
        Kv { bytes, filed_lsn, ..Kv::default() }
    }

    /// A value, unless it is in the file.
    pub(crate) fn find(&self, space: &str, key: &str) -> Found<&Bytes> {
        match (self.recent.find(space, key), &self.frozen) {
            (Found::Before, Some(frozen)) => frozen.changes.find(space, key),
            (found, _) => found,
        }
    }

    /// Bytes of keys and values of a space.
    pub(crate) fn bytes(&self, space: &str) -> u64 {
        self.bytes.get(space).copied().unwrap_or(0)
    }

    /// Bytes of keys and values of all spaces.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.bytes.values().sum()
    }

    pub(crate) fn limit(&self, space: &str) -> u64 {
        self.limits.get(space).copied().unwrap_or(u64::MAX)
    }

    pub(crate) fn set_limit(&mut self, space: &str, bytes_max: u64) {
        self.limits.insert(space.into(), bytes_max);
    }

    pub(crate) fn thaws(&self) -> u64 {
        self.thaws
    }

    pub(crate) fn filed_lsn(&self) -> u64 {
        self.filed_lsn
    }

    /// Takes in what a group wrote, and what its spaces come to.
    fn commit(&mut self, changes: Changes, bytes: BTreeMap<Box<str>, u64>) {
        self.recent.merge(changes);
        for (space, bytes) in bytes {
            self.count(&space, bytes);
        }
    }

    fn count(&mut self, space: &str, bytes: u64) {
        match (bytes, self.bytes.get_mut(space)) {
            (0, _) => drop(self.bytes.remove(space)),
            (bytes, Some(known)) => *known = bytes,
            (bytes, None) => drop(self.bytes.insert(space.into(), bytes)),
        }
    }

    pub(crate) fn drop_space(&mut self, space: &str) {
        self.recent.drop_space(space);
        self.bytes.remove(space);
    }

    /// What the log says happened after what is in the file. `filed`: how long the value of a key is that is only there.
    pub(crate) fn replay<E>(
        &mut self,
        change: &StateChange<'_>,
        filed: impl FnOnce(&str, &str) -> Result<Option<usize>, E>,
    ) -> Result<(), E> {
        let (space, key, value) = match *change {
            StateChange::Put { space, key, value } => (space, key, Some(value)),
            StateChange::Remove { space, key } => (space, key, None),
            StateChange::Drop { space } => {
                self.drop_space(space);
                return Ok(());
            }
        };
        let before = match self.find(space, key) {
            Found::Here(value) => value.map(Bytes::len),
            Found::Before => filed(space, key)?,
        };
        let gone = before.map_or(0, |len| entry_bytes(key, len));
        let come = value.map_or(0, |value| entry_bytes(key, value.len()));
        self.count(space, (self.bytes(space) + come).saturating_sub(gone));
        self.recent.write(space, key, value.map(Bytes::copy_from_slice));
        Ok(())
    }

    /// What must go into the file before the log up to `lsn` may go; none if there is nothing.
    pub(crate) fn freeze(&mut self, lsn: u64) -> Option<Arc<Frozen>> {
        if self.frozen.is_none() && !self.recent.is_empty() {
            self.frozen = Some(Arc::new(Frozen { changes: std::mem::take(&mut self.recent), lsn }));
        }
        self.frozen.clone()
    }

    /// What was frozen is in the file. It is handed out, so that it can be dropped outside of a lock.
    pub(crate) fn thaw(&mut self) -> Option<Arc<Frozen>> {
        let frozen = self.frozen.take()?;
        self.thaws += 1;
        self.filed_lsn = self.filed_lsn.max(frozen.lsn);
        Some(frozen)
    }

    /// Merges keys of a space that stand in the file with what changed since: the first of them after `after`, at most so
    /// many, and only up to `last`, if the file has more.
    pub(crate) fn merge_keys(
        &self,
        space: &str,
        after: Option<&str>,
        filed: Vec<Box<str>>,
        last: Option<&str>,
        limit: usize,
    ) -> Vec<Box<str>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let to = last.map_or(Bound::Unbounded, Bound::Included);
        let mut keys: Vec<Box<str>> = filed.into_iter().filter(|key| self.find(space, key) == Found::Before).collect();
        let layers = self.frozen.iter().map(|frozen| &frozen.changes).chain([&self.recent]);
        for changed in layers.filter_map(|layer| layer.spaces.get(space)) {
            let range = changed.keys.range::<str, _>((from, to));
            let live = range.filter(|(key, _)| matches!(self.find(space, key), Found::Here(Some(_))));
            keys.extend(live.take(limit).map(|(key, _)| key.clone()));
        }
        keys.sort_unstable();
        keys.dedup();
        keys.truncate(limit);
        keys
    }
}
