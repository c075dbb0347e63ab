//! Deduplication: a message that is sent again with the same idempotency key within its queue's window is not taken again,
//! and the sender gets the id of the first.
//!
//! A put says which key it was sent with, as a hash of 128 bits, so that remembering it is part of the send: both are in
//! the log, or neither is. What the log's files remember is kept in memory, file by file: 40 bytes or so for each key in
//! the log, which holds no more than its ring does. When a file is given up, what it remembers is written to a *run*: a
//! sorted file that is searched by a Bloom filter first. So a key that is remembered for longer costs two bytes of memory at
//! most, however many there are, and a key that is new costs no read.

pub(crate) mod merge;
pub(crate) mod run;

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use siphasher::sip128::{Hasher128, SipHasher13};

use self::run::Run;
use crate::record::QueueNumber;

/// An idempotency key of a queue.
pub(crate) type KeyHash = u128;

/// The first message that was sent with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) sequence: u64,
    pub(crate) at_ms: u64,
}

impl Seen {
    /// Whether a message that is sent now is its duplicate.
    pub(crate) fn counts(&self, now_ms: u64, window_ms: u64) -> bool {
        now_ms.saturating_sub(self.at_ms) < window_ms
    }
}

/// The hash of a key. It is keyed with the store's random tag, so that nobody can make keys that collide.
pub(crate) fn hash(store_tag: u64, queue: QueueNumber, key: &str) -> KeyHash {
    let mut hasher = SipHasher13::new_with_keys(store_tag, u64::from(queue.0));
    hasher.write(key.as_bytes());
    hasher.finish128().as_u128()
}

/// What is remembered. It belongs to the committer.
pub(crate) struct Dedup {
    /// Above so many runs, half as many are put together.
    runs_max: usize,
    /// Of the group that is being committed.
    pending: FxHashMap<KeyHash, Seen>,
    /// Of each file of the log, by its epoch.
    logged: BTreeMap<u64, FxHashMap<KeyHash, Seen>>,
    /// Oldest first.
    runs: Vec<Arc<Run>>,
}

impl Dedup {
    pub(crate) fn new(runs: Vec<Arc<Run>>, runs_max: usize) -> Dedup {
        Dedup { runs_max, pending: FxHashMap::default(), logged: BTreeMap::new(), runs }
    }

    /// What is known of a key without reading, newest first.
    pub(crate) fn find_in_memory(&self, key: KeyHash) -> Option<Seen> {
        let logged = || self.logged.values().rev().find_map(|file| file.get(&key));
        self.pending.get(&key).or_else(logged).copied()
    }

    /// What is known of a key in files that were given up.
    pub(crate) fn find_in_runs(&self, key: KeyHash) -> Result<Option<Seen>, String> {
        for run in self.runs.iter().rev() {
            if let Some(seen) = run.find(key)? {
                return Ok(Some(seen));
            }
        }
        Ok(None)
    }

    /// A message with this key is in the group that is being committed.
    pub(crate) fn hold(&mut self, key: KeyHash, seen: Seen) {
        self.pending.insert(key, seen);
    }

    /// It is not, after all.
    pub(crate) fn release(&mut self, key: KeyHash) {
        self.pending.remove(&key);
    }

    /// The group is durable, in the file with this epoch.
    pub(crate) fn committed(&mut self, epoch: u64) {
        if !self.pending.is_empty() {
            self.logged.entry(epoch).or_default().extend(self.pending.drain());
        }
    }

    /// The log is replayed.
    pub(crate) fn replay(&mut self, epoch: u64, key: KeyHash, seen: Seen) {
        self.logged.entry(epoch).or_default().insert(key, seen);
    }

    /// Whether messages came to a file of the log with keys.
    pub(crate) fn remembers(&self, epoch: u64) -> bool {
        self.logged.contains_key(&epoch)
    }

    /// A run remembers what a file of the log does.
    pub(crate) fn take_in(&mut self, epoch: u64, run: Option<Arc<Run>>) {
        self.logged.remove(&epoch);
        self.runs.extend(run);
    }

    pub(crate) fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    /// Takes off the runs in which everything is older than this.
    pub(crate) fn take_expired(&mut self, before_ms: u64) -> Vec<Arc<Run>> {
        self.runs.extract_if(.., |run| run.newest_ms() < before_ms).collect()
    }

    pub(crate) fn has_expired(&self, before_ms: u64) -> bool {
        self.runs.iter().any(|run| run.newest_ms() < before_ms)
    }

    /// Runs, one after the other, that should be put together: the smallest.
    pub(crate) fn mergeable(&self) -> Option<Vec<Arc<Run>>> {
        if self.runs.len() <= self.runs_max {
            return None;
        }
        let keys = |runs: &&[Arc<Run>]| runs.iter().map(|run| run.keys()).sum::<u64>();
        self.runs.windows(self.runs_max / 2).min_by_key(keys).map(<[Arc<Run>]>::to_vec)
    }

    /// Puts a merged run in the place of those that it was made of.
    pub(crate) fn merged(&mut self, old: &[Arc<Run>], new: Option<Arc<Run>>) {
        let at = self.runs.iter().position(|run| run.id() == old[0].id()).expect("they are still there");
        self.runs.splice(at..at + old.len(), new);
    }
}
