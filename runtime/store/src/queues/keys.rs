//! Ordering keys: of the messages with one key, only the first ready one can be claimed, and only while none of them is
//! being handled or waits for its retry.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;

/// All keys of one queue.
#[derive(Default)]
pub(super) struct Keys {
    keys: FxHashMap<Arc<str>, Key>,
}

#[derive(Default)]
struct Key {
    /// Messages that carry it, in whatever phase.
    messages: u64,
    /// Those that are leased, or delayed after a failed attempt.
    holders: u64,
    /// The positions of those that are ready.
    waiting: BTreeSet<u64>,
}

impl Keys {
    /// A message with this key comes. Its text is kept once for all of them.
    pub(super) fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some((shared, _)) = self.keys.get_key_value(text) {
            let shared = shared.clone();
            self.keys.get_mut(text).expect("just looked up").messages += 1;
            return shared;
        }
        let shared: Arc<str> = text.into();
        self.keys.insert(shared.clone(), Key { messages: 1, ..Key::default() });
        shared
    }

    /// A message with this key is gone.
    pub(super) fn forget(&mut self, text: &str) {
        let key = self.keys.get_mut(text).expect("its messages are counted");
        key.messages -= 1;
        if key.messages == 0 {
            assert!(key.holders == 0 && key.waiting.is_empty(), "a key without messages is held by none");
            self.keys.remove(text);
        }
    }

    /// A message becomes ready.
    pub(super) fn wait(&mut self, text: &str, position: u64, claimable: &mut BTreeSet<u64>) {
        self.change(text, claimable, |key| {
            key.waiting.insert(position);
        });
    }

    /// A ready message is claimed or taken away.
    pub(super) fn leave(&mut self, text: &str, position: u64, claimable: &mut BTreeSet<u64>) {
        self.change(text, claimable, |key| {
            key.waiting.remove(&position);
        });
    }

    /// From here on the others wait.
    pub(super) fn hold(&mut self, text: &str, claimable: &mut BTreeSet<u64>) {
        self.change(text, claimable, |key| key.holders += 1);
    }

    /// The next one may come.
    pub(super) fn release(&mut self, text: &str, claimable: &mut BTreeSet<u64>) {
        self.change(text, claimable, |key| key.holders -= 1);
    }

    fn change(&mut self, text: &str, claimable: &mut BTreeSet<u64>, change: impl FnOnce(&mut Key)) {
        let key = self.keys.get_mut(text).expect("its messages are counted");
        let before = key.candidate();
        change(key);
        let after = key.candidate();
        if before != after {
            if let Some(position) = before {
                claimable.remove(&position);
            }
            if let Some(position) = after {
                claimable.insert(position);
            }
        }
    }
}

impl Key {
    /// The message of this key that can be claimed.
    fn candidate(&self) -> Option<u64> {
        if self.holders > 0 { None } else { self.waiting.first().copied() }
    }
}
