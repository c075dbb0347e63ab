//! The code that is in use, by the component that it was made of: consumers of the same component share it, however many there
//! are. What each may do is not part of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::ModuleHash;
use super::load::{Linked, LoadError};

/// One component, linked for every worker.
pub(super) type Code = Arc<[Linked]>;

/// Held while the code is made, so that it is made once for all who want it at the same time.
type Entry = Arc<Mutex<Weak<[Linked]>>>;

/// All that is in use.
#[derive(Default)]
pub(super) struct CodeInUse {
    // Short: an entry is looked up, or those that nobody needs any more are taken out.
    entries: Mutex<HashMap<ModuleHash, Entry>>,
}

impl CodeInUse {
    /// The code of a component, which is made if nobody has it. Blocks while somebody else makes it.
    pub(super) fn get_or_make(
        &self,
        hash: ModuleHash,
        make: impl FnOnce() -> Result<Vec<Linked>, LoadError>,
    ) -> Result<Code, LoadError> {
        let entry = self.entry(hash);
        let mut known = entry.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(code) = known.upgrade() {
            return Ok(code);
        }
        let code: Code = make()?.into();
        *known = Arc::downgrade(&code);
        Ok(code)
    }

    fn entry(&self, hash: ModuleHash) -> Entry {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let is_needed = |entry: &Entry| {
            let in_use = || entry.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0;
            // Whoever has it is making the code, and has the lock.
            Arc::strong_count(entry) > 1 || in_use()
        };
        entries.retain(|_, entry| is_needed(entry));
        entries.entry(hash).or_insert_with(|| Arc::new(Mutex::new(Weak::<[Linked; 0]>::new()))).clone()
    }
}
