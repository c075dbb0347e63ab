//! A map whose keys are positions in a queue: dense, put in at the end, and mostly taken out in order.
//!
//! A hash map scatters neighbours over all of its memory, and a tree of single entries is walked for each of them. Here
//! neighbours share a page, and the page that is filled is at hand. A page goes when its last entry does; one entry that
//! stays long keeps one page.

use std::collections::BTreeMap;

const PAGE_ENTRIES: u64 = 64;

/// Values by position.
pub(crate) struct PositionMap<T> {
    /// All pages but the last, by number. None of them is empty.
    pages: BTreeMap<u64, Box<Page<T>>>,
    /// The page with the highest number. It stays when it is empty, so that a queue that holds one message at a time does
    /// not make a page for each.
    last: Option<(u64, Box<Page<T>>)>,
    len: u64,
}

struct Page<T> {
    entries: [Option<T>; PAGE_ENTRIES as usize],
    used: usize,
}

impl<T> Default for Page<T> {
    fn default() -> Page<T> {
        Page { entries: std::array::from_fn(|_| None), used: 0 }
    }
}

impl<T> Default for PositionMap<T> {
    fn default() -> PositionMap<T> {
        PositionMap { pages: BTreeMap::new(), last: None, len: 0 }
    }
}

/// The page of a position, and its place there.
fn place(position: u64) -> (u64, usize) {
    (position / PAGE_ENTRIES, (position % PAGE_ENTRIES) as usize)
}

impl<T> PositionMap<T> {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn get(&self, position: u64) -> Option<&T> {
        let (number, entry) = place(position);
        let page = match &self.last {
            Some((last, page)) if *last == number => page,
            _ => self.pages.get(&number)?,
        };
        page.entries[entry].as_ref()
    }

    pub(crate) fn get_mut(&mut self, position: u64) -> Option<&mut T> {
        let (number, entry) = place(position);
        self.page_mut(number)?.entries[entry].as_mut()
    }

    fn page_mut(&mut self, number: u64) -> Option<&mut Page<T>> {
        match &mut self.last {
            Some((last, page)) if *last == number => Some(page),
            _ => self.pages.get_mut(&number).map(Box::as_mut),
        }
    }

    /// Answers what was there before.
    pub(crate) fn insert(&mut self, position: u64, value: T) -> Option<T> {
        let (number, entry) = place(position);
        let page = match &mut self.last {
            Some((last, page)) if *last == number => page,
            Some((last, _)) if *last > number => self.pages.entry(number).or_default(),
            last => {
                if let Some((before, page)) = last.replace((number, Box::default()))
                    && page.used > 0
                {
                    self.pages.insert(before, page);
                }
                &mut last.as_mut().expect("just put there").1
            }
        };
        let before = page.entries[entry].replace(value);
        page.used += usize::from(before.is_none());
        self.len += u64::from(before.is_none());
        before
    }

    pub(crate) fn remove(&mut self, position: u64) -> Option<T> {
        let (number, entry) = place(position);
        let page = self.page_mut(number)?;
        let value = page.entries[entry].take()?;
        page.used -= 1;
        let emptied = page.used == 0;
        self.len -= 1;
        if emptied {
            // Not the last page, which is not among these.
            self.pages.remove(&number);
        }
        Some(value)
    }

    /// The entries from a position on, in order.
    pub(crate) fn iter_from(&self, position: u64) -> impl Iterator<Item = (u64, &T)> {
        let (first, _) = place(position);
        let last = self.last.iter().filter(move |(number, _)| *number >= first).map(|(number, page)| (number, page));
        let pages = self.pages.range(first..).chain(last);
        let entries = pages.flat_map(|(number, page)| {
            let entries = page.entries.iter().zip(number * PAGE_ENTRIES..);
            entries.filter_map(|(entry, position)| Some((position, entry.as_ref()?)))
        });
        entries.skip_while(move |(at, _)| *at < position)
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
            let (mut map, mut model) = (PositionMap::default(), BTreeMap::new());
            for (position, insert, value) in steps {
                match insert {
                    true => prop_assert_eq!(map.insert(position, value), model.insert(position, value)),
                    false => prop_assert_eq!(map.remove(position), model.remove(&position)),
                }
                prop_assert_eq!(map.get(position), model.get(&position));
                prop_assert_eq!(map.get_mut(position), model.get_mut(&position));
                prop_assert_eq!(map.len(), model.len() as u64);
                let there: Vec<(u64, u8)> = map.iter_from(position).map(|(at, value)| (at, *value)).collect();
                let expected: Vec<(u64, u8)> = model.range(position..).map(|(at, value)| (*at, *value)).collect();
                prop_assert_eq!(there, expected);
            }
            let pages: std::collections::BTreeSet<u64> = model.keys().map(|position| position / PAGE_ENTRIES).collect();
            prop_assert!(map.pages.len() <= pages.len(), "an empty page is given back");
        }
    }
}
