//! Chunks of segments that were read lately. A queue that is drained reads each of its chunks once; a few are kept for
//! many queues that are drained in turn.

use std::collections::VecDeque;
use std::sync::Arc;

use super::segment::{ChunkId, LoadedChunk};

/// Chunks that are kept.
const CHUNKS_MAX: usize = 64;

#[derive(Default)]
pub(crate) struct Chunks {
    /// The one that was added last is in front.
    loaded: VecDeque<Arc<LoadedChunk>>,
}

impl Chunks {
    pub(crate) fn get(&self, id: ChunkId) -> Option<&Arc<LoadedChunk>> {
        self.loaded.iter().find(|chunk| chunk.id == id)
    }

    pub(crate) fn add(&mut self, chunk: Arc<LoadedChunk>) {
        if self.get(chunk.id).is_none() {
            self.loaded.truncate(CHUNKS_MAX - 1);
            self.loaded.push_front(chunk);
        }
    }
}
