//! Chunks of segments that were read lately or ahead, and those that are to be read ahead. A queue that is drained reads each
//! of its chunks once; a few are kept for many queues that are drained in turn.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::segment::{ChunkId, LoadedChunk, Segment};

/// Chunks that are kept.
const CHUNKS_MAX: usize = 64;

/// Bytes of chunks that are kept, if it is more than one chunk. Large messages have chunks of their own.
const BYTES_MAX: usize = 4 << 20;

/// Chunks that are kept or on their way and not used up, above which none is read ahead: what was read ahead must not be
/// pushed out before it is used.
const AHEAD_MAX: usize = CHUNKS_MAX * 3 / 4;

/// How far it is read ahead for one queue. That is a few times what one claim takes.
const QUEUE_AHEAD_MAX: usize = 16;
const QUEUE_AHEAD_BYTES_MAX: usize = 512 << 10;

#[derive(Default)]
pub(crate) struct Chunks {
    /// The one that was added last is in front. The oldest one goes first, used or not: a segment may be gone by the time that
    /// a chunk of it was read.
    loaded: VecDeque<Kept>,
    bytes: usize,
    /// To be read ahead.
    wanted: VecDeque<(Arc<Segment>, ChunkId)>,
    /// Being read ahead.
    coming: Vec<ChunkId>,
    /// Those that could not be read lately, and when that may be tried again.
    unreadable: FxHashMap<ChunkId, u64>,
}

struct Kept {
    chunk: Arc<LoadedChunk>,
    /// Nothing more can be claimed in it for now.
    used_up: bool,
}

impl Chunks {
    pub(crate) fn get(&self, id: ChunkId) -> Option<&Arc<LoadedChunk>> {
        self.loaded.iter().map(|kept| &kept.chunk).find(|chunk| chunk.id == id)
    }

    /// Adds a chunk that somebody needs now.
    pub(crate) fn add(&mut self, chunk: Arc<LoadedChunk>) {
        self.not_ahead(chunk.id);
        self.unreadable.remove(&chunk.id);
        self.keep(chunk);
    }

    fn keep(&mut self, chunk: Arc<LoadedChunk>) {
        if self.get(chunk.id).is_some() {
            return;
        }
        self.bytes += chunk.bytes();
        self.loaded.push_front(Kept { chunk, used_up: false });
        while self.loaded.len() > 1 && (self.loaded.len() > CHUNKS_MAX || self.bytes > BYTES_MAX) {
            let gone = self.loaded.pop_back().expect("there is more than one");
            self.bytes -= gone.chunk.bytes();
        }
    }

    /// Nothing more can be claimed in a chunk for now: others may be read ahead.
    pub(crate) fn used_up(&mut self, id: ChunkId) {
        if let Some(kept) = self.loaded.iter_mut().find(|kept| kept.chunk.id == id) {
            kept.used_up = true;
        }
    }

    /// A chunk could not be read.
    pub(crate) fn cannot_be_read(&mut self, id: ChunkId, now_ms: u64, again_ms: u64) {
        self.unreadable.retain(|_, again_ms| *again_ms > now_ms);
        self.unreadable.insert(id, again_ms);
    }

    /// Whether it is no use to read a chunk now.
    pub(crate) fn is_unreadable(&self, id: ChunkId, now_ms: u64) -> bool {
        self.unreadable.get(&id).is_some_and(|again_ms| *again_ms > now_ms)
    }

    // --- reading ahead -------------------------------------------------------------------------------------------

    /// Notes the chunks that a queue's claims will need next, in order: those of the first ones that are neither there nor
    /// noted. Answers whether something is to be read.
    pub(crate) fn want<'a>(&mut self, next: impl Iterator<Item = (&'a Arc<Segment>, ChunkId)>) -> bool {
        let unused = self.loaded.iter().filter(|kept| !kept.used_up).count();
        let mut bytes = 0;
        for (segment, id) in next.take(QUEUE_AHEAD_MAX) {
            bytes += segment.indexed(id).bytes.len();
            let busy = unused + self.wanted.len() + self.coming.len();
            if bytes > QUEUE_AHEAD_BYTES_MAX || busy >= AHEAD_MAX {
                break;
            }
            let noted = self.coming.contains(&id) || self.wanted.iter().any(|(_, wanted)| *wanted == id);
            if !noted && self.get(id).is_none() {
                self.wanted.push_back((segment.clone(), id));
            }
        }
        !self.wanted.is_empty()
    }

    /// Whoever needs a chunk now reads it himself.
    pub(crate) fn not_ahead(&mut self, id: ChunkId) {
        self.wanted.retain(|(_, wanted)| *wanted != id);
        self.coming.retain(|coming| *coming != id);
    }

    /// The next chunk to read ahead. It comes, or does not: [`Chunks::came`].
    pub(crate) fn next_wanted(&mut self) -> Option<(Arc<Segment>, ChunkId)> {
        let next = self.wanted.pop_front()?;
        self.coming.push(next.1);
        Some(next)
    }

    /// How many are kept, and their bytes.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> (usize, usize) {
        assert_eq!(self.bytes, self.loaded.iter().map(|kept| kept.chunk.bytes()).sum::<usize>());
        (self.loaded.len(), self.bytes)
    }

    /// A chunk was read ahead; none if it could not be read: whoever needs it hears why. If somebody has needed it in the
    /// meantime, it may be used up by now.
    pub(crate) fn came(&mut self, id: ChunkId, chunk: Option<Arc<LoadedChunk>>) {
        let Some(place) = self.coming.iter().position(|coming| *coming == id) else { return };
        self.coming.swap_remove(place);
        if let Some(chunk) = chunk {
            self.keep(chunk);
        }
    }
}
