//! A map whose keys are positions in a queue: dense, put in at the end, and mostly taken out in order.
//!
//! A hash map scatters neighbours over all of its memory, and a tree of single entries is walked for each of them. Here
//! neighbours share a page; the last pages are at hand, and so is the one among the others that something was last done
//! in. A page goes when its last entry does, and is used for the next ones. Of one in which few entries stay long, nothing
//! but those is kept: of a backlog, it may be one message in a hundred that was retried.

use std::collections::{BTreeMap, VecDeque};

const PAGE_ENTRIES: u64 = 64;

/// Pages with the highest numbers that lie side by side, where most of what happens, happens.
const RECENT_MAX: usize = 16;

/// Entries of a page that is put away as nothing but those.
const FEW_MAX: usize = PAGE_ENTRIES as usize / 4;

/// Empty pages that are kept for the next ones.
const SPARE_MAX: usize = 4;

/// Values by position.
pub(crate) struct PositionMap<T> {
    /// The pages with the highest numbers, lowest first. None of them is empty but the last, so that a queue that holds one
    /// message at a time does not need a page for each.
    recent: VecDeque<(u64, Box<Page<T>>)>,
    /// One of the others, out of the tree for as long as nothing is done in another one: claims and acks go through a long
    /// queue page by page. Not empty.
    at_hand: Option<(u64, Box<Page<T>>)>,
    /// All others, by number. None of them is empty.
    pages: BTreeMap<u64, PutAway<T>>,
    spare: Vec<Box<Page<T>>>,
    len: u64,
}

struct Page<T> {
    entries: [Option<T>; PAGE_ENTRIES as usize],
    used: usize,
}

/// A page in which nothing is done for now.
enum PutAway<T> {
    Whole(Box<Page<T>>),
    /// Entries by their places, lowest first.
    Few(Box<[(u8, T)]>),
}

impl<T> Page<T> {
    /// By their positions, if the page has this number.
    fn entries(&self, number: u64) -> impl Iterator<Item = (u64, &T)> {
        (number * PAGE_ENTRIES..).zip(&self.entries).filter_map(|(position, entry)| Some((position, entry.as_ref()?)))
    }
}

impl<T> PutAway<T> {
    fn get(&self, entry: usize) -> Option<&T> {
        match self {
            PutAway::Whole(page) => page.entries[entry].as_ref(),
            PutAway::Few(few) => {
                let at = few.binary_search_by_key(&entry, |(place, _)| usize::from(*place)).ok()?;
                Some(&few[at].1)
            }
        }
    }

    fn entries(&self, number: u64) -> impl Iterator<Item = (u64, &T)> {
        let (whole, few) = match self {
            PutAway::Whole(page) => (Some(page), &[][..]),
            PutAway::Few(few) => (None, &few[..]),
        };
        let few = few.iter().map(move |(place, entry)| (number * PAGE_ENTRIES + u64::from(*place), entry));
        whole.into_iter().flat_map(move |page| page.entries(number)).chain(few)
    }
}

impl<T> Default for Page<T> {
    fn default() -> Page<T> {
        Page { entries: std::array::from_fn(|_| None), used: 0 }
    }
}

impl<T> Default for PositionMap<T> {
    fn default() -> PositionMap<T> {
        PositionMap { recent: VecDeque::new(), at_hand: None, pages: BTreeMap::new(), spare: Vec::new(), len: 0 }
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
        let page = match self.recent(number) {
            Ok(at) => &self.recent[at].1,
            Err(0) => match &self.at_hand {
                Some((at, page)) if *at == number => page,
                _ => return self.pages.get(&number)?.get(entry),
            },
            Err(_) => return None,
        };
        page.entries[entry].as_ref()
    }

    pub(crate) fn get_mut(&mut self, position: u64) -> Option<&mut T> {
        let (number, entry) = place(position);
        let page = match self.recent(number) {
            Ok(at) => &mut self.recent[at].1,
            Err(0) => self.take_to_hand(number)?,
            Err(_) => return None,
        };
        page.entries[entry].as_mut()
    }

    /// A page that is not among the recent ones, if it is there.
    fn take_to_hand(&mut self, number: u64) -> Option<&mut Page<T>> {
        if self.at_hand.as_ref().is_none_or(|(at, _)| *at != number) {
            let page = match self.pages.remove(&number)? {
                PutAway::Whole(page) => page,
                PutAway::Few(few) => {
                    let mut page = self.spare.pop().unwrap_or_default();
                    page.used = few.len();
                    few.into_iter().for_each(|(place, entry)| page.entries[usize::from(place)] = Some(entry));
                    page
                }
            };
            let before = self.at_hand.replace((number, page));
            before.into_iter().for_each(|(number, page)| self.put_away(number, page));
        }
        self.at_hand.as_mut().map(|(_, page)| &mut **page)
    }

    fn put_away(&mut self, number: u64, mut page: Box<Page<T>>) {
        if page.used > FEW_MAX {
            self.pages.insert(number, PutAway::Whole(page));
            return;
        }
        let mut few = Vec::with_capacity(page.used);
        few.extend((0..).zip(&mut page.entries).filter_map(|(place, entry)| Some((place, entry.take()?))));
        page.used = 0;
        self.keep_spare(page);
        self.pages.insert(number, PutAway::Few(few.into_boxed_slice()));
    }

    /// Where among the recent pages the one with this number is, or would have to be.
    fn recent(&self, number: u64) -> Result<usize, usize> {
        let Some((last, _)) = self.recent.back() else { return Err(0) };
        // Most of a long queue stands before them.
        if self.recent.front().is_some_and(|(first, _)| number < *first) {
            return Err(0);
        }
        // They mostly have numbers without a gap.
        let from_back = last.wrapping_sub(number);
        if from_back < self.recent.len() as u64 {
            let at = self.recent.len() - 1 - from_back as usize;
            if self.recent[at].0 == number {
                return Ok(at);
            }
        }
        self.recent.binary_search_by_key(&number, |(number, _)| *number)
    }

    /// Answers what was there before.
    pub(crate) fn insert(&mut self, position: u64, value: T) -> Option<T> {
        let (number, entry) = place(position);
        let page = match self.recent(number) {
            Ok(at) => &mut self.recent[at].1,
            Err(0) if !self.recent.is_empty() => {
                if self.take_to_hand(number).is_none() {
                    let page = self.spare.pop().unwrap_or_default();
                    let before = self.at_hand.replace((number, page));
                    before.into_iter().for_each(|(number, page)| self.put_away(number, page));
                }
                &mut self.at_hand.as_mut().expect("it has just been taken there").1
            }
            Err(at) => {
                let at = self.make_recent(at);
                let page = self.spare.pop().unwrap_or_default();
                self.recent.insert(at, (number, page));
                &mut self.recent[at].1
            }
        };
        let before = page.entries[entry].replace(value);
        page.used += usize::from(before.is_none());
        self.len += u64::from(before.is_none());
        before
    }

    /// Makes room for one more recent page at a place. Answers where that is then.
    fn make_recent(&mut self, mut at: usize) -> usize {
        if at == self.recent.len()
            && let Some((_, last)) = self.recent.back()
            && last.used == 0
        {
            let (_, page) = self.recent.pop_back().expect("it has just been seen");
            self.keep_spare(page);
            at -= 1;
        }
        if self.recent.len() == RECENT_MAX
            && let Some((number, page)) = self.recent.pop_front()
        {
            self.put_away(number, page);
            at -= 1;
        }
        at
    }

    fn keep_spare(&mut self, page: Box<Page<T>>) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(page);
        }
    }

    pub(crate) fn remove(&mut self, position: u64) -> Option<T> {
        let (number, entry) = place(position);
        let recent = self.recent(number);
        let page = match recent {
            Ok(at) => &mut self.recent[at].1,
            Err(0) => self.take_to_hand(number)?,
            Err(_) => return None,
        };
        let value = page.entries[entry].take()?;
        page.used -= 1;
        let is_empty = page.used == 0;
        self.len -= 1;
        if is_empty {
            let emptied = match recent {
                Ok(at) if at + 1 == self.recent.len() => None,
                Ok(at) => self.recent.remove(at).map(|(_, page)| page),
                Err(_) => self.at_hand.take().map(|(_, page)| page),
            };
            emptied.into_iter().for_each(|page| self.keep_spare(page));
        }
        Some(value)
    }

    /// The entries from a position on, in order.
    pub(crate) fn iter_from(&self, position: u64) -> impl Iterator<Item = (u64, &T)> {
        let (first, _) = place(position);
        let recent = self.recent.partition_point(|(number, _)| *number < first);
        let at_hand = self.at_hand.as_ref().filter(|(number, _)| *number >= first);
        let (before, after) = match at_hand {
            Some((number, _)) => (self.pages.range(first..*number), self.pages.range(*number..)),
            None => (self.pages.range(first..), self.pages.range(u64::MAX..)),
        };
        let before = before.flat_map(|(number, page)| page.entries(*number));
        let at_hand = at_hand.into_iter().flat_map(|(number, page)| page.entries(*number));
        let after = after.flat_map(|(number, page)| page.entries(*number));
        let recent = self.recent.range(recent..).flat_map(|(number, page)| page.entries(*number));
        before.chain(at_hand).chain(after).chain(recent).skip_while(move |(at, _)| *at < position)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_does_what_an_ordinary_map_does(steps in proptest::collection::vec((0u64..3000, any::<bool>(), any::<u8>()), 0..600)) {
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
            let (all, recent) = (map.pages.len() + map.recent.len() + usize::from(map.at_hand.is_some()), map.recent.len());
            for page in map.pages.values() {
                match page {
                    PutAway::Whole(page) => prop_assert!(page.used > FEW_MAX && page.used == page.entries(0).count()),
                    PutAway::Few(few) => prop_assert!((1..=FEW_MAX).contains(&few.len())),
                }
            }
            prop_assert!(map.at_hand.iter().all(|(_, page)| page.used > 0), "an empty page is given back");
            prop_assert!(all <= pages.len() + 1 && recent <= RECENT_MAX, "an empty page is given back");
            let newest = map.pages.keys().copied().chain(map.at_hand.iter().map(|(number, _)| *number)).max();
            prop_assert!(newest.is_none_or(|newest| map.recent.front().is_some_and(|(recent, _)| newest < *recent)));
            prop_assert!(map.spare.len() <= SPARE_MAX && map.spare.iter().all(|page| page.used == 0));
        }
    }
}
