//! Where the messages of a new segment went.

use super::segment::LEN_BYTES;
use crate::short::Short;

/// Where one message of a new segment went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) position: u64,
    pub(crate) offset: u32,
    pub(crate) len: u32,
    /// As its record says; 0 for at once.
    pub(crate) due_at_ms: u64,
}

/// Where each of them went, in order. A file of the log may hold half a million messages: so 8 bytes each, since a record
/// ends where the next one's length begins, and 6 more if there are delayed ones.
#[derive(Debug)]
pub(crate) struct Places {
    /// Position of the first one.
    first: u64,
    /// How far behind that a message stands, and where its record begins.
    places: Vec<(u32, u32)>,
    /// As many as there are up to the last one that is delayed.
    due_at_ms: Vec<Short>,
    delayed: usize,
    /// Of the last record.
    end: u32,
}

impl Places {
    pub(crate) fn new() -> Places {
        Places { first: 0, places: Vec::new(), due_at_ms: Vec::new(), delayed: 0, end: 0 }
    }

    /// The next one. Positions grow, by less than 2^32 altogether, and nothing but its length stands between a record and
    /// the one before.
    pub(crate) fn push(&mut self, written: Written) {
        let Written { position, offset, len, due_at_ms } = written;
        if self.places.is_empty() {
            self.first = position;
        }
        assert!(self.places.is_empty() || offset == self.end + LEN_BYTES as u32, "records lie side by side");
        let relative = u32::try_from(position - self.first).expect("a segment spans fewer positions");
        if due_at_ms != 0 {
            self.due_at_ms.resize(self.places.len(), Short::ZERO);
            self.due_at_ms.push(Short::at_most(due_at_ms));
            self.delayed += 1;
        }
        self.places.push((relative, offset));
        self.end = offset + len;
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many of them are delayed.
    pub(crate) fn delayed(&self) -> usize {
        self.delayed
    }

    /// From this one on.
    pub(crate) fn iter_from(&self, start: usize) -> impl Iterator<Item = Written> + '_ {
        let ends = self.places.iter().skip(start + 1).map(|(_, next)| next - LEN_BYTES as u32).chain([self.end]);
        (start..).zip(self.places.iter().skip(start)).zip(ends).map(|((at, (relative, offset)), end)| Written {
            position: self.first + u64::from(*relative),
            offset: *offset,
            len: end - offset,
            due_at_ms: self.due_at_ms.get(at).map_or(0, |due_at_ms| due_at_ms.get()),
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Written> + '_ {
        self.iter_from(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_tells_what_it_was_told(
            first in 0u64..1 << 40,
            steps in proptest::collection::vec((1u64..1000, 0u32..5000, prop_oneof![Just(0), 0..=Short::MAX]), 0..50),
            start in 0usize..60,
        ) {
            let (mut position, mut offset) = (first, 4096 + LEN_BYTES as u32);
            let (mut places, mut model) = (Places::new(), Vec::new());
            for (gap, len, due_at_ms) in steps {
                model.push(Written { position, offset, len, due_at_ms });
                places.push(Written { position, offset, len, due_at_ms });
                position += gap;
                offset += len + LEN_BYTES as u32;
            }
            prop_assert_eq!((places.len(), places.is_empty()), (model.len(), model.is_empty()));
            prop_assert_eq!(places.delayed(), model.iter().filter(|one| one.due_at_ms != 0).count());
            prop_assert_eq!(&places.iter().collect::<Vec<_>>(), &model);
            prop_assert_eq!(&places.iter_from(start).collect::<Vec<_>>()[..], model.get(start..).unwrap_or_default());
        }
    }
}
