//! Opening a store: the log is replayed, attempts that were running are counted, and the reserve is made.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::attempts::{self, AttemptTable};
use crate::cache::FrameCache;
use crate::clock::Clock;
use crate::disk::{Disk, FolderLock};
use crate::engine::{Engine, FILES_MIN};
use crate::error::OpenError;
use crate::queues::{Location, Queues};
use crate::record::{self, DeliveryState, QueueNumber, Records};
use crate::shared::{Shared, State};
use crate::wal::{self, Preparation, Wal, WalOptions};

/// The file that is locked while a process works on the folder.
const LOCK_FILE: &str = "lock";

/// How the store is laid out, derived from [`crate::Options`] or made small for a simulation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) file_bytes: u64,
    pub(crate) files_max: u64,
    pub(crate) cache_bytes_max: usize,
    pub(crate) attempt_slots: usize,
    pub(crate) preparation: Preparation,
}

/// An engine that is ready to commit, and the lock that keeps others out.
pub(crate) struct Opened {
    pub(crate) engine: Engine,
    pub(crate) lock: Box<dyn FolderLock>,
}

/// Opens the store on a disk. `seed` differs from opening to opening.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    layout: &Layout,
    clock: Arc<dyn Clock>,
    seed: u64,
) -> Result<Opened, OpenError> {
    let lock = disk
        .lock(LOCK_FILE)
        .map_err(|error| if error.is_locked() { OpenError::Locked { lock_file: error.path } } else { error.into() })?;
    let mut queues = Queues::new();
    let wal = open_wal(disk.clone(), layout, seed, &mut queues)?;
    let words = disk.map_words(attempts::FILE_NAME, layout.attempt_slots * attempts::WORDS_OF_A_SLOT)?;
    let interrupted = interrupted(&queues, &AttemptTable::left_over(&*words), clock.now_ms());

    let tag = wal.store_tag();
    let state = State {
        queues,
        attempts: AttemptTable::new(words),
        cache: FrameCache::new(layout.cache_bytes_max),
        watchers: FxHashMap::default(),
        stopped: None,
    };
    let reader = wal.reader();
    let mut engine = Engine::new(Arc::new(Shared::new(state, reader, clock, tag)), wal);
    record_interrupted(&mut engine, &interrupted)?;
    make_reserve(&mut engine)?;
    Ok(Opened { engine, lock })
}

fn open_wal(disk: Arc<dyn Disk>, layout: &Layout, seed: u64, queues: &mut Queues) -> Result<Wal, OpenError> {
    let Layout { file_bytes, files_max, preparation, .. } = *layout;
    let options = WalOptions { file_bytes, files_max, preparation };
    wal::open(disk, options, seed, &mut |place, frame| {
        for spanned in Records::new(frame.payload) {
            let spanned = spanned.map_err(|(at, why)| (at, why.to_string()))?;
            let offset = place.payload_offset + spanned.offset;
            let location = Location { file: place.file, offset, len: spanned.len };
            queues.apply(&spanned.record, location).map_err(|why| (spanned.offset, why))?;
        }
        Ok(())
    })
}

/// An attempt that was running when the process ended, and the message's state that counts it.
struct Interrupted {
    queue: QueueNumber,
    position: u64,
    state: DeliveryState,
}

fn interrupted(queues: &Queues, left_over: &[attempts::LeftOver], now_ms: u64) -> Vec<Interrupted> {
    let counted = left_over.iter().filter_map(|one| {
        let queue = QueueNumber(one.queue);
        let before = queues.entry(queue, one.position)?.state();
        let first_failed_at_ms = before.first_failed_at_ms_or(now_ms);
        let state = DeliveryState { attempts: one.attempt, first_failed_at_ms, ..before };
        (before.attempts < one.attempt).then_some(Interrupted { queue, position: one.position, state })
    });
    counted.collect()
}

/// Puts the interrupted attempts into the log before the table forgets them.
fn record_interrupted(engine: &mut Engine, interrupted: &[Interrupted]) -> Result<(), OpenError> {
    // A record takes at most 40 bytes or so, and a frame holds thousands of them.
    for some in interrupted.chunks(256) {
        engine.begin_frame();
        for Interrupted { queue, position, state } in some {
            record::encode_update(engine.frame(), *queue, *position, state);
        }
        engine.write_frame().map_err(OpenError::Stopped)?;
        let mut shared = engine.shared.state();
        for Interrupted { queue, position, state } in some {
            shared.queues.update(*queue, *position, *state);
        }
    }
    engine.shared.state().attempts.clear();
    Ok(())
}

/// Makes the files that acks and retries will need on a full disk. If the disk is full already, the store opens all the
/// same: sends are refused until there is room.
fn make_reserve(engine: &mut Engine) -> Result<(), OpenError> {
    while engine.wal.files_ready() < FILES_MIN {
        engine.wal.grow();
        match engine.wal.collect(true) {
            Ok(()) => {}
            Err(error) if error.is_full() => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
