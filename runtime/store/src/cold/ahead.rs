//! Reads the chunks that will be claimed next, while those before them are being handled.
//!
//! What is to be read stands in [`Chunks`](super::chunks::Chunks), which bounds it. A chunk that is not there in time is read
//! by whoever claims from it, and so is one that could not be read ahead. A segment that is rewritten or removed meanwhile
//! stays open until it was read, and nobody asks for its chunks any more.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::segment::{ChunkId, Segment};
use crate::shared::Shared;

/// Chunks that are read at a time, between which the state's lock is taken.
const BATCH: usize = 2;

pub(crate) enum ReadAhead {
    Thread {
        bell: SyncSender<Ring>,
        // Taken once, by whoever closes the store first.
        thread: Mutex<Option<JoinHandle<()>>>,
    },
    /// On the caller's thread, for a simulation.
    #[cfg(test)]
    Inline(Arc<Shared>),
}

/// What the thread hears.
pub(crate) enum Ring {
    /// There are chunks to read.
    Read,
    /// The store is being closed.
    End,
}

impl ReadAhead {
    /// Starts the thread that reads.
    pub(crate) fn start(shared: Arc<Shared>) -> std::io::Result<ReadAhead> {
        let (bell, rung) = sync_channel(1);
        let work = move || {
            while let Ok(Ring::Read) = rung.recv() {
                read_all(&shared);
            }
        };
        let thread = std::thread::Builder::new().name("read-ahead".into()).spawn(work)?;
        Ok(ReadAhead::Thread { bell, thread: Mutex::new(Some(thread)) })
    }

    /// There are chunks to read.
    pub(crate) fn ring(&self) {
        match self {
            // If the bell has been rung already, that does; and after the end nobody needs it.
            ReadAhead::Thread { bell, .. } => drop(bell.try_send(Ring::Read)),
            #[cfg(test)]
            ReadAhead::Inline(shared) => read_all(shared),
        }
    }

    /// Ends the thread, and waits for it.
    pub(crate) fn stop(&self) {
        match self {
            ReadAhead::Thread { bell, thread } => {
                let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(thread) = thread {
                    // Nobody hears it if the thread has panicked, which has said so.
                    let _ = bell.send(Ring::End);
                    let _ = thread.join();
                }
            }
            #[cfg(test)]
            ReadAhead::Inline(_) => {}
        }
    }
}

fn read_all(shared: &Shared) {
    loop {
        let next: Vec<(Arc<Segment>, ChunkId)> = {
            let chunks = &mut shared.state().chunks;
            std::iter::from_fn(|| chunks.next_wanted()).take(BATCH).collect()
        };
        if next.is_empty() {
            return;
        }
        let read: Vec<_> = next.iter().map(|(segment, id)| (*id, segment.read_decoded_chunk(*id))).collect();
        let chunks = &mut shared.state().chunks;
        for (id, read) in read {
            chunks.came(id, read.ok().map(Arc::new));
        }
    }
}
