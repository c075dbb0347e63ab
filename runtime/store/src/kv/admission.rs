//! The state that the transactions of one group read and write: checked one after the other, as if each saw what those
//! before it wrote, and taken in when the group is durable.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::{Changes, Found, Kv, STATE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX, entry_bytes};
use crate::record;
use crate::shared::Shared;
use crate::transaction::{Action, Job, Refusal, StateRead, StateWrite, Transaction};

/// A space and a key.
type Place = (Box<str>, Box<str>);

#[derive(Default)]
pub(crate) struct Admission {
    /// What the file has of the keys that are only there, by space and key. It is read before the lock.
    filed: FxHashMap<Place, Result<Filed, Arc<str>>>,
    /// What the group has written so far.
    pending: Changes,
    /// What the spaces come to with that.
    bytes: BTreeMap<Box<str>, u64>,
}

/// What the file has of a key.
enum Filed {
    /// How long the value is; more nobody wants to know.
    Len(Option<usize>),
    Value(Option<Bytes>),
}

impl Admission {
    /// Begins a group of the first of these, as many as have at most `bytes_max` in a frame: reads what the file has of the
    /// keys that they name. Most transactions name none.
    pub(crate) fn begin(&mut self, shared: &Shared, jobs: &[Job], bytes_max: u64) {
        self.filed.clear();
        self.abandon();
        let mut bytes = 0;
        let group = jobs.iter().filter_map(Job::whole).take_while(|transaction| {
            let is_first = bytes == 0;
            bytes += record_bytes_max(transaction);
            bytes <= bytes_max || is_first
        });
        for Transaction { state, state_reads, .. } in group {
            if state.is_empty() && state_reads.is_empty() {
                continue;
            }
            let (reads, writes) = {
                let kv = &shared.state().kv;
                let in_file = |space: &str, key: &str| kv.find(space, key) == Found::Before;
                let reads: Vec<_> = state_reads.iter().filter(|read| in_file(&read.space, &read.key)).collect();
                let writes: Vec<_> = state.iter().filter(|write| in_file(&write.space, &write.key)).collect();
                (reads, writes)
            };
            for StateRead { space, key, .. } in reads {
                self.look_up(space, key, || shared.state_file.get(space, key).map(Filed::Value));
            }
            for StateWrite { space, key, .. } in writes {
                self.look_up(space, key, || shared.state_file.value_bytes(space, key).map(Filed::Len));
            }
        }
    }

    fn look_up(&mut self, space: &str, key: &str, read: impl FnOnce() -> Result<Filed, Arc<str>>) {
        match self.filed.entry((space.into(), key.into())) {
            Entry::Vacant(vacant) => drop(vacant.insert(read())),
            Entry::Occupied(mut known) if matches!(known.get(), Ok(Filed::Len(_))) => drop(known.insert(read())),
            Entry::Occupied(_) => {}
        }
    }

    /// Whether a transaction must have a group of its own: its message is read after it was admitted, and if that fails, what
    /// it wrote must not have been seen by others.
    pub(crate) fn stands_alone(job: &Job) -> bool {
        job.whole().is_some_and(|transaction| {
            !transaction.state.is_empty() && matches!(transaction.settle, Some((_, Action::Move { .. })))
        })
    }

    /// Checks what one transaction read, and holds what it writes; or holds nothing and says why.
    pub(crate) fn admit(&mut self, kv: &Kv, transaction: &Transaction) -> Result<(), Refusal> {
        for StateRead { space, key, seen } in &transaction.state_reads {
            let now = match self.find(kv, space, key) {
                Found::Here(value) => value.cloned(),
                Found::Before => match self.filed(space, key)? {
                    Some(Filed::Value(value)) => value.clone(),
                    Some(Filed::Len(_)) | None => unreachable!("values that were read are looked up"),
                },
            };
            if now != *seen {
                return Err(Refusal::StateChanged { space: space.clone(), key: key.clone() });
            }
        }
        let mut bytes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        // A key that is written twice counts for its last value.
        let mut written: FxHashMap<(&str, &str), Option<usize>> = FxHashMap::default();
        for StateWrite { space, key, value } in &transaction.state {
            check_sizes(space, key, value.as_ref())?;
            let before = match written.insert((space, key), value.as_ref().map(Bytes::len)) {
                Some(earlier) => earlier,
                None => self.value_bytes(kv, space, key)?,
            };
            let known = || self.bytes.get(space).copied().unwrap_or_else(|| kv.bytes(space));
            let (_, total) = bytes.entry(space).or_insert_with(|| (known(), known()));
            let come = value.as_ref().map_or(0, |value| entry_bytes(key, value.len()));
            *total = (*total + come).saturating_sub(before.map_or(0, |len| entry_bytes(key, len)));
        }
        for (space, (before, total)) in &bytes {
            let bytes_max = kv.limit(space);
            // What makes it smaller is welcome, also if the limit was lowered since.
            if total > &bytes_max && total > before {
                return Err(Refusal::StateFull { space: (*space).into(), bytes: *total, bytes_max });
            }
        }
        self.bytes.extend(bytes.into_iter().map(|(space, (_, total))| (space.into(), total)));
        for StateWrite { space, key, value } in &transaction.state {
            self.pending.write(space, key, value.clone());
        }
        Ok(())
    }

    /// Nothing of the group will be written.
    pub(crate) fn abandon(&mut self) {
        self.pending = Changes::default();
        self.bytes = BTreeMap::new();
    }

    /// The group is durable.
    pub(crate) fn commit(&mut self, kv: &mut Kv) {
        if !self.pending.is_empty() {
            kv.commit(std::mem::take(&mut self.pending), std::mem::take(&mut self.bytes));
        }
    }

    fn find<'a>(&'a self, kv: &'a Kv, space: &str, key: &str) -> Found<&'a Bytes> {
        match self.pending.find(space, key) {
            Found::Before => kv.find(space, key),
            found @ Found::Here(_) => found,
        }
    }

    fn filed(&self, space: &str, key: &str) -> Result<Option<&Filed>, Refusal> {
        let found = self.filed.get(&(space.into(), key.into()));
        found.map(|found| found.as_ref().map_err(|why| Refusal::Read(why.clone()))).transpose()
    }

    fn value_bytes(&self, kv: &Kv, space: &str, key: &str) -> Result<Option<usize>, Refusal> {
        Ok(match self.find(kv, space, key) {
            Found::Here(value) => value.map(Bytes::len),
            Found::Before => match self.filed(space, key)? {
                Some(Filed::Len(len)) => *len,
                Some(Filed::Value(value)) => value.as_ref().map(Bytes::len),
                None => unreachable!("keys that are written are looked up"),
            },
        })
    }
}

/// The most bytes that the state of a transaction may take in a frame.
pub(crate) fn record_bytes_max(transaction: &Transaction) -> u64 {
    transaction.state.iter().map(record::state_bytes_max).sum()
}

fn check_sizes(space: &str, key: &str, value: Option<&Bytes>) -> Result<(), Refusal> {
    if key.is_empty() || key.len() > STATE_KEY_BYTES_MAX || space.contains('\0') {
        return Err(Refusal::StateKey { space: space.into(), bytes: key.len() as u64 });
    }
    let bytes = value.map_or(0, Bytes::len);
    if bytes > STATE_VALUE_BYTES_MAX {
        return Err(Refusal::TooLarge { bytes: bytes as u64, bytes_max: STATE_VALUE_BYTES_MAX as u64 });
    }
    Ok(())
}
