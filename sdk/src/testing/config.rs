//! The values of `[consumers.NAME.config]` while a handler runs on this thread.

use std::cell::RefCell;
use std::collections::BTreeMap;

thread_local! {
    static CURRENT: RefCell<BTreeMap<String, String>> = const { RefCell::new(BTreeMap::new()) };
}

/// Puts back what was there before, also when the handler panics.
pub(super) struct Restore(BTreeMap<String, String>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(std::mem::take(&mut self.0));
    }
}

/// These are the values until what is returned is dropped.
#[must_use]
pub(super) fn set(values: BTreeMap<String, String>) -> Restore {
    Restore(CURRENT.replace(values))
}

pub(crate) fn get(key: &str) -> Option<String> {
    CURRENT.with_borrow(|values| values.get(key).cloned())
}

pub(crate) fn get_all() -> BTreeMap<String, String> {
    CURRENT.with_borrow(Clone::clone)
}
