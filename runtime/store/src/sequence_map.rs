//! A map whose keys are sequence numbers: mostly dense, and used nearly in order.
//!
//! A hash map scatters neighbours over all of its memory, so that a committer that adds a million messages in order pays
//! a cache miss for each. Here neighbours share a page, and only the page is looked up. A page goes when its last entry
//! does; one entry that stays long keeps one page.

use rustc_hash::FxHashMap;

const PAGE_ENTRIES: u64 = 64;

/// Values by sequence number.
pub(crate) struct SequenceMap<T> {
    pages: FxHashMap<u64, Box<Page<T>>>,
}

struct Page<T> {
    entries: [Option<T>; PAGE_ENTRIES as usize],
    used: usize,
}

impl<T> Default for SequenceMap<T> {
    fn default() -> SequenceMap<T> {
        SequenceMap { pages: FxHashMap::default() }
    }
}

/// The page of a sequence number, and its place there.
fn place(sequence: u64) -> (u64, usize) {
    (sequence / PAGE_ENTRIES, (sequence % PAGE_ENTRIES) as usize)
}

impl<T> SequenceMap<T> {
    pub(crate) fn get(&self, sequence: u64) -> Option<&T> {
        let (page, entry) = place(sequence);
        self.pages.get(&page)?.entries[entry].as_ref()
    }

    pub(crate) fn get_mut(&mut self, sequence: u64) -> Option<&mut T> {
        let (page, entry) = place(sequence);
        self.pages.get_mut(&page)?.entries[entry].as_mut()
    }

    /// Answers what was there before.
    pub(crate) fn insert(&mut self, sequence: u64, value: T) -> Option<T> {
        let (page, entry) = place(sequence);
        let empty = || Box::new(Page { entries: std::array::from_fn(|_| None), used: 0 });
        let page = self.pages.entry(page).or_insert_with(empty);
        let before = page.entries[entry].replace(value);
        page.used += usize::from(before.is_none());
        before
    }

    pub(crate) fn remove(&mut self, sequence: u64) -> Option<T> {
        let (number, entry) = place(sequence);
        let page = self.pages.get_mut(&number)?;
        let value = page.entries[entry].take()?;
        page.used -= 1;
        if page.used == 0 {
            self.pages.remove(&number);
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_does_what_an_ordinary_map_does(steps in proptest::collection::vec((0u64..300, any::<bool>(), any::<u8>()), 0..600)) {
            let (mut map, mut model) = (SequenceMap::default(), BTreeMap::new());
            for (sequence, insert, value) in steps {
                match insert {
                    true => prop_assert_eq!(map.insert(sequence, value), model.insert(sequence, value)),
                    false => prop_assert_eq!(map.remove(sequence), model.remove(&sequence)),
                }
                prop_assert_eq!(map.get(sequence), model.get(&sequence));
                prop_assert_eq!(map.get_mut(sequence), model.get_mut(&sequence));
            }
            let pages: std::collections::BTreeSet<u64> = model.keys().map(|sequence| sequence / PAGE_ENTRIES).collect();
            prop_assert_eq!(map.pages.len(), pages.len(), "an empty page is given back");
        }
    }
}
