//! The segments of one queue, and which of their messages live.
//!
//! A message on the shelf is *known* if the queue also has an entry for it (it is leased, was retried since it was copied,
//! or carries a key). Of the others two bits say all: it lives, and it can be claimed. One that lives, is not known and
//! can't be claimed is delayed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::bitmap::Bitmap;
use super::segment::{ChunkId, Segment};

#[derive(Default)]
pub(crate) struct Shelf {
    /// By the position of their first message. They don't overlap.
    segments: BTreeMap<u64, Shelved>,
    /// Messages that live.
    live: u64,
    /// Those of them that can be claimed and are not known. None stands before `fresh_from`.
    fresh: u64,
    fresh_from: u64,
    /// Segments in which nothing lives.
    empty: usize,
}

/// A segment and what lives in it. Numbers in the bitmaps are positions, from the segment's first.
pub(crate) struct Shelved {
    pub(crate) segment: Arc<Segment>,
    pub(crate) live: Bitmap,
    fresh: Bitmap,
}

impl Shelf {
    /// Adds a segment in which the given messages live. None of them can be claimed yet.
    pub(crate) fn add(&mut self, segment: Arc<Segment>, live: Bitmap) {
        assert_eq!(live.len(), segment.span(), "a bit for each position");
        self.live += live.ones();
        self.empty += usize::from(live.ones() == 0);
        let fresh = Bitmap::new(segment.span());
        let before = self.segments.insert(segment.first, Shelved { segment, live, fresh });
        assert!(before.is_none(), "segments of a queue do not overlap");
    }

    /// Takes a segment off.
    pub(crate) fn remove(&mut self, first: u64) -> Option<Shelved> {
        let shelved = self.segments.remove(&first)?;
        self.live -= shelved.live.ones();
        self.fresh -= shelved.fresh.ones();
        self.empty -= usize::from(shelved.live.ones() == 0);
        Some(shelved)
    }

    /// What lives in old segments lives in new ones from now on. With each new one come the positions that were copied to it.
    pub(crate) fn replace(&mut self, old: &[Arc<Segment>], new: Vec<(Arc<Segment>, Bitmap)>) {
        let before = (self.live, self.fresh);
        let gone: Vec<Shelved> = old.iter().filter_map(|segment| self.remove(segment.first)).collect();
        for (segment, copied) in new {
            let first = segment.first;
            let (mut live, mut fresh) = (Bitmap::new(segment.span()), Bitmap::new(segment.span()));
            for shelved in &gone {
                live.take_over(first, &shelved.live, shelved.segment.first, &copied);
                fresh.take_over(first, &shelved.fresh, shelved.segment.first, &copied);
            }
            self.add(segment, live);
            self.fresh += fresh.ones();
            self.segments.get_mut(&first).expect("just put there").fresh = fresh;
        }
        assert_eq!((self.live, self.fresh), before, "all that lives was copied");
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = &Shelved> {
        self.segments.values()
    }

    fn find(&self, position: u64) -> Option<&Shelved> {
        let (_, shelved) = self.segments.range(..=position).next_back()?;
        (position < shelved.segment.end).then_some(shelved)
    }

    fn find_mut(&mut self, position: u64) -> Option<&mut Shelved> {
        let (_, shelved) = self.segments.range_mut(..=position).next_back()?;
        (position < shelved.segment.end).then_some(shelved)
    }

    /// Messages that live.
    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    pub(crate) fn lives(&self, position: u64) -> bool {
        self.find(position).is_some_and(|shelved| shelved.live.get(position - shelved.segment.first))
    }

    pub(crate) fn is_fresh(&self, position: u64) -> bool {
        self.find(position).is_some_and(|shelved| shelved.fresh.get(position - shelved.segment.first))
    }

    /// The segment and the chunk that a position is in.
    pub(crate) fn chunk_of(&self, position: u64) -> Option<(Arc<Segment>, ChunkId)> {
        let segment = &self.find(position)?.segment;
        Some((segment.clone(), segment.chunk_of(position)))
    }

    /// A message lives here now.
    pub(crate) fn set_live(&mut self, position: u64) {
        let shelved = self.find_mut(position).expect("its segment is on the shelf");
        let set = shelved.live.set(position - shelved.segment.first);
        let first = set && shelved.live.ones() == 1;
        self.live += u64::from(set);
        self.empty -= usize::from(first);
    }

    /// A message is gone. Answers whether it lived here.
    pub(crate) fn clear_live(&mut self, position: u64) -> bool {
        let Some(shelved) = self.find_mut(position) else { return false };
        let at = position - shelved.segment.first;
        let was_fresh = shelved.fresh.clear(at);
        let cleared = shelved.live.clear(at);
        let last = cleared && shelved.live.ones() == 0;
        self.fresh -= u64::from(was_fresh);
        self.live -= u64::from(cleared);
        self.empty += usize::from(last);
        cleared
    }

    /// All messages before a position are gone. Answers how many that were.
    pub(crate) fn clear_below(&mut self, below: u64) -> u64 {
        let before = self.live;
        for (first, shelved) in self.segments.range_mut(..below) {
            let had_any = shelved.live.ones() > 0;
            if shelved.segment.end <= below {
                self.live -= shelved.live.ones();
                self.fresh -= shelved.fresh.ones();
                shelved.live = Bitmap::new(shelved.segment.span());
                shelved.fresh = Bitmap::new(shelved.segment.span());
            } else {
                for at in 0..below - first {
                    self.live -= u64::from(shelved.live.clear(at));
                    self.fresh -= u64::from(shelved.fresh.clear(at));
                }
            }
            self.empty += usize::from(had_any && shelved.live.ones() == 0);
        }
        before - self.live
    }

    /// The position after the last message that may live here.
    pub(crate) fn end(&self) -> u64 {
        self.segments.last_key_value().map_or(0, |(_, shelved)| shelved.segment.end)
    }

    /// A message that is not known can be claimed.
    pub(crate) fn set_fresh(&mut self, position: u64) {
        let shelved = self.find_mut(position).expect("its segment is on the shelf");
        let set = shelved.fresh.set(position - shelved.segment.first);
        self.fresh += u64::from(set);
        self.fresh_from = self.fresh_from.min(position);
    }

    /// All messages that live can be claimed. The caller takes those away that can't.
    pub(crate) fn set_all_fresh(&mut self) {
        for shelved in self.segments.values_mut() {
            shelved.fresh = shelved.live.clone();
        }
        self.fresh = self.live;
        self.fresh_from = 0;
    }

    /// A message becomes known, or can't be claimed for now.
    pub(crate) fn clear_fresh(&mut self, position: u64) {
        let Some(shelved) = self.find_mut(position) else { return };
        let cleared = shelved.fresh.clear(position - shelved.segment.first);
        self.fresh -= u64::from(cleared);
    }

    /// As [`Shelf::clear_fresh`], for some messages of one segment.
    pub(crate) fn clear_all_fresh(&mut self, positions: &[u64]) {
        let Some(shelved) = positions.first().and_then(|first| self.find_mut(*first)) else { return };
        let first = shelved.segment.first;
        let cleared = positions.iter().filter(|position| shelved.fresh.clear(**position - first)).count();
        self.fresh -= cleared as u64;
    }

    /// The first messages in a part of one segment that can be claimed and are not known, at most so many.
    pub(crate) fn fresh_in(&self, span: Range<u64>, max: usize) -> Vec<u64> {
        let Some(shelved) = self.find(span.start) else { return Vec::new() };
        let first = shelved.segment.first;
        let from = shelved.fresh.next(span.start - first);
        let all = std::iter::successors(from, |at| shelved.fresh.next(at + 1)).map(|at| first + at);
        all.take_while(|position| *position < span.end).take(max).collect()
    }

    /// The chunks that hold what can be claimed next and is not known, in order.
    pub(crate) fn fresh_chunks(&self) -> impl Iterator<Item = (&Arc<Segment>, ChunkId)> {
        let start = self.segments.range(..=self.fresh_from).next_back().map_or(self.fresh_from, |(first, _)| *first);
        self.segments.range(start..).flat_map(|(first, shelved)| {
            let mut from = self.fresh_from.saturating_sub(*first);
            std::iter::from_fn(move || {
                let id = shelved.segment.chunk_of(first + shelved.fresh.next(from)?);
                from = shelved.segment.chunk_span(id).end - first;
                Some((&shelved.segment, id))
            })
        })
    }

    pub(crate) fn has_fresh(&self) -> bool {
        self.fresh > 0
    }

    /// The first message that can be claimed and is not known.
    pub(crate) fn next_fresh(&mut self) -> Option<u64> {
        if self.fresh == 0 {
            return None;
        }
        let from = self.fresh_from;
        let start = self.segments.range(..=from).next_back().map_or(from, |(first, _)| *first);
        let found = self.segments.range(start..).find_map(|(first, shelved)| {
            let at = shelved.fresh.next(from.saturating_sub(*first))?;
            Some(first + at)
        });
        self.fresh_from = found.expect("fresh messages are counted");
        found
    }

    /// The messages that live, from a position on, in order.
    pub(crate) fn iter_from(&self, position: u64) -> impl Iterator<Item = u64> {
        let start = self.segments.range(..=position).next_back().map_or(position, |(first, _)| *first);
        self.segments.range(start..).flat_map(move |(first, shelved)| {
            let from = shelved.live.next(position.saturating_sub(*first));
            std::iter::successors(from, |at| shelved.live.next(at + 1)).map(move |at| first + at)
        })
    }

    /// When the first message that lives here was sent, or one shortly before it.
    pub(crate) fn oldest_enqueued_at_ms(&self) -> Option<u64> {
        let shelved = self.segments.values().find(|shelved| shelved.live.ones() > 0)?;
        Some(shelved.segment.enqueued_at_ms(shelved.segment.first + shelved.live.next(0)?))
    }

    /// Takes off the segments in which nothing lives.
    pub(crate) fn take_empty(&mut self) -> Vec<Arc<Segment>> {
        let empty = self.segments.extract_if(.., |_, shelved| shelved.live.ones() == 0);
        self.empty = 0;
        empty.map(|(_, shelved)| shelved.segment).collect()
    }

    pub(crate) fn has_empty(&self) -> bool {
        self.empty > 0
    }
}
