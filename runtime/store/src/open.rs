//! Opening a store: a checkpoint is read and the log after it replayed, attempts that were running are counted, and the reserve is made.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::attempts::{self, Attempts, LeftOver};
use crate::cache::FrameCache;
use crate::clock::{Clock, StoreClock};
use crate::cold::checkpoint;
use crate::cold::chunks::Chunks;
use crate::cold::copy::Making;
use crate::cold::keeper::Keeper;
use crate::cold::segment;
use crate::dedup::run;
use crate::dedup::{Dedup, Seen};
use crate::disk::{Disk, FolderLock, HandleCache, Words};
use crate::engine::Engine;
use crate::error::OpenError;
use crate::history::{History, Recent, file as history_file};
use crate::keeping::{FILES_MIN, Keeping};
use crate::kv::Kv;
use crate::kv::file::StateFile;
use crate::location::{FileId, Location};
use crate::queues::{Leases, Queues};
use crate::record::{self, DeliveryState, QueueNumber, Record, Records};
use crate::shared::{Shared, State};
use crate::wal::{self, Preparation, Start, Wal, WalOptions};

/// The file that is locked while a process works on the folder.
const LOCK_FILE: &str = "lock";

/// How the store is laid out, derived from [`crate::Options`] or made small for a simulation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) file_bytes: u64,
    pub(crate) files_max: u64,
    pub(crate) cache_bytes_max: usize,
    pub(crate) attempt_slots: usize,
    /// What is read of a segment at once.
    pub(crate) chunk_bytes: usize,
    /// Segments that are shorter are put together.
    pub(crate) small_segment_bytes: u64,
    /// Messages whose positions are so far apart stand in segments of their own: a position costs two bits.
    pub(crate) gap_max: u64,
    /// If at most so many messages live in a full file of the log, they are read one by one when it is copied, and the file
    /// waits for a moment, since they may be acknowledged meanwhile.
    pub(crate) picked_max: u64,
    /// Above so many runs of idempotency keys, half as many are put together.
    pub(crate) dedup_runs_max: usize,
    /// A file of durable state that is shorter may be empty.
    pub(crate) state_bytes_min: u64,
    /// Segments and history files that are open at a time.
    pub(crate) handles_max: usize,
    /// Room that a checkpoint finds on a full disk.
    pub(crate) checkpoint_bytes: u64,
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
    let disk: Arc<dyn Disk> = Arc::new(HandleCache::new(disk, layout.handles_max));
    let lock = lock(&*disk)?;
    let recovered = recover(disk.clone(), layout, seed)?;
    checkpoint::remove(&*disk, &recovered.unreadable)?;
    let Recovered { mut queues, history, dedup, kv, state_file, wal, words, left_over, checkpoint, .. } = recovered;
    let clock = Arc::new(StoreClock::new(clock, queues.latest_ms()));
    let interrupted = interrupted(&queues, &left_over, clock.now_ms());

    let reader = wal.reader();
    let segments = queues.segments().map(|(segment, _)| segment::name(segment.id));
    let runs = dedup.runs().iter().map(|one| run::name(one.id()));
    let histories = history.files().map(|one| history_file::name(one.id));
    let needed: FxHashSet<String> = segments.chain(runs).chain(histories).collect();
    queues.segments().for_each(|(segment, _)| reader.add_segment(segment));
    let other_files = recovered.other_files.into_iter().collect();
    let (only_other, next_segment) = leftover_files(&*disk, &needed, &other_files)?;
    let tag = wal.store_tag();
    let attempts = Arc::new(Attempts::new(words));
    queues.serve(Leases::new(attempts.clone()));
    let state = State {
        queues,
        history,
        chunks: Chunks::default(),
        kv,
        watchers: FxHashMap::default(),
        stopped: None,
        shortage: None,
    };
    let shared =
        Arc::new(Shared::new(state, attempts, FrameCache::new(layout.cache_bytes_max), reader, state_file, clock, tag));
    let next_id = next_segment.max(checkpoint.map_or(0, |newest| newest.next_segment)).max(1);
    let Layout { chunk_bytes, gap_max, picked_max, .. } = *layout;
    let making = Making { store_tag: tag, chunk_bytes, gap_max, next_id, picked_max };
    let keeper = Keeper::new(disk.clone(), shared.clone(), making, layout.preparation).map_err(|error| {
        OpenError::Stopped(format!("could not start the thread that keeps the segments: {error}").into())
    })?;
    let (start_epoch, generation) = checkpoint.map_or((1, 0), |newest| (newest.start_epoch, newest.generation));
    let mut keeping = Keeping::new(keeper, start_epoch, generation, only_other, layout);
    if recovered.is_other_behind {
        keeping.resume_pair();
    }
    let mut engine = Engine::new(shared, wal, keeping, dedup);
    engine.catch_up().map_err(OpenError::Stopped)?;
    make_log_files(&mut engine)?;
    record_interrupted(&mut engine, &interrupted)?;
    checkpoint::reserve(&*disk, layout.checkpoint_bytes)?;
    Ok(Opened { engine, lock })
}

/// Takes the folder for this process.
pub(crate) fn lock(disk: &dyn Disk) -> Result<Box<dyn FolderLock>, OpenError> {
    disk.lock(LOCK_FILE)
        .map_err(|error| if error.is_locked() { OpenError::Locked { lock_file: error.path } } else { error.into() })
}

/// What a folder holds, before any of it is served.
pub(crate) struct Recovered {
    queues: Queues,
    history: History,
    dedup: Dedup,
    kv: Kv,
    state_file: StateFile,
    wal: Wal,
    words: Arc<dyn Words>,
    left_over: Vec<LeftOver>,
    /// The newest checkpoint's header.
    checkpoint: Option<checkpoint::Header>,
    /// Segments and runs that only the other checkpoint names.
    other_files: Vec<String>,
    /// The other checkpoint is damaged or missing, or needs earlier files of the log.
    is_other_behind: bool,
    /// Checkpoints that the disk can't read.
    unreadable: Vec<&'static str>,
}

/// Reads the newest whole checkpoint and replays the log after it. Whether a folder can be opened is decided here.
pub(crate) fn recover(disk: Arc<dyn Disk>, layout: &Layout, seed: u64) -> Result<Recovered, OpenError> {
    let found = checkpoint::read(&*disk)?;
    let mut queues = Queues::new();
    let checkpoint = found.newest.as_ref().map(|newest| newest.header);
    let start = checkpoint.map(|newest| Start {
        store_tag: newest.store_tag,
        epoch: newest.start_epoch,
        lsn: newest.lsn,
        kept_epoch: found.other_epoch.unwrap_or(newest.start_epoch),
    });
    let is_other_behind = checkpoint.is_some_and(|newest| found.other_epoch != Some(newest.start_epoch));
    let runs = found.newest.as_ref().map_or_else(Vec::new, |newest| newest.runs.clone());
    let mut dedup = Dedup::new(runs, layout.dedup_runs_max);
    let mut history = History::default();
    if let Some(mut newest) = found.newest {
        history.restore(std::mem::take(&mut newest.histories));
        queues.restore(newest).map_err(OpenError::Incomplete)?;
    }
    let state_file = StateFile::open(disk.clone())?;
    let mut kv = Kv::new(state_file.spaces()?, state_file.lsn()?);
    let mut replay =
        Replay { queues: &mut queues, history: &mut history, dedup: &mut dedup, kv: &mut kv, state_file: &state_file };
    let wal = open_wal(disk.clone(), layout, start, seed, &mut replay).map_err(|error| {
        match (error, found.damage) {
            // What the damaged checkpoint stood in for is gone.
            (OpenError::Incomplete(_), Some(damage)) => damage,
            (error, _) => error,
        }
    })?;
    state_file.check(wal.store_tag(), checkpoint.map_or(0, |newest| newest.state_lsn), wal.last_lsn())?;
    let words = disk.map_words(attempts::FILE_NAME, layout.attempt_slots * attempts::WORDS_OF_A_SLOT)?;
    let left_over = Attempts::left_over(&*words);
    let running: Vec<_> = left_over.iter().map(|one| (QueueNumber(one.queue), one.position)).collect();
    queues.wake(&running)?;
    Ok(Recovered {
        queues,
        history,
        dedup,
        kv,
        state_file,
        wal,
        words,
        left_over,
        checkpoint,
        other_files: found.other_files,
        is_other_behind,
        unreadable: found.unreadable,
    })
}

/// Removes the segments, history files and runs that no checkpoint names: they were made shortly before the end, and what they hold is in
/// the log. Answers those that only the older checkpoint needs, and a number that none has.
fn leftover_files(
    disk: &dyn Disk,
    needed: &FxHashSet<String>,
    other: &FxHashSet<String>,
) -> Result<(Vec<String>, u64), OpenError> {
    let mut only_other = Vec::new();
    let mut next = 0;
    let mut removed = false;
    for name in disk.list()? {
        let id = segment::id(&name).or_else(|| run::id(&name)).or_else(|| history_file::id(&name));
        let Some(id) = id else { continue };
        next = next.max(id + 1);
        if needed.contains(&name) {
            continue;
        }
        if other.contains(&name) {
            only_other.push(name);
        } else {
            disk.remove(&name)?;
            removed = true;
        }
    }
    if removed {
        disk.sync_folder()?;
    }
    Ok((only_other, next))
}

/// What the log is replayed to.
struct Replay<'a> {
    queues: &'a mut Queues,
    history: &'a mut History,
    dedup: &'a mut Dedup,
    kv: &'a mut Kv,
    state_file: &'a StateFile,
}

fn open_wal(
    disk: Arc<dyn Disk>,
    layout: &Layout,
    start: Option<Start>,
    seed: u64,
    Replay { queues, history, dedup, kv, state_file }: &mut Replay<'_>,
) -> Result<Wal, OpenError> {
    let Layout { file_bytes, files_max, preparation, .. } = *layout;
    let options = WalOptions { file_bytes, files_max, preparation };
    wal::open(disk, options, start, seed, &mut |place, frame| {
        for spanned in Records::new(frame.payload) {
            let spanned = spanned.map_err(|(at, why)| (at, why.to_string()))?;
            let offset = place.payload_offset + spanned.offset;
            let location = Location { file: FileId::log(place.file), offset, len: spanned.len };
            replay_history(queues, history, &spanned.record, location).map_err(|why| (spanned.offset, why))?;
            queues.apply(&spanned.record, location).map_err(|why| (spanned.offset, why))?;
            if let Record::Put(put) = spanned.record
                && let Some(key) = put.place.idempotency
            {
                let seen = Seen { sequence: put.place.sequence, at_ms: put.place.enqueued_at_ms };
                dedup.replay(place.file, key, seen);
            }
            if let Record::State(change) = spanned.record
                && frame.lsn > kv.filed_lsn()
            {
                let filed = |space: &str, key: &str| state_file.value_bytes(space, key);
                kv.replay(&change, filed).map_err(|why| (spanned.offset, why.to_string()))?;
            }
        }
        Ok(())
    })
}

/// What a record says of histories. The queues have not heard of it yet.
fn replay_history(
    queues: &Queues,
    history: &mut History,
    record: &Record<'_>,
    location: Location,
) -> Result<(), String> {
    match record {
        Record::Keep { queue, position, bytes, kept } => {
            let Some(entry) = queues.entry(*queue, *position).filter(|entry| entry.file() == location.file) else {
                return Err("a message is kept whose put does not stand in the same file".into());
            };
            let recent = Recent {
                sequence: entry.sequence(),
                acked_at_ms: kept.acked_at_ms,
                location: entry.location(),
                bytes: *bytes,
            };
            history.add(*queue, *kept, recent)
        }
        Record::Kept(whole) => {
            let put_len = location.len - whole.put_offset;
            let location = Location { offset: location.offset + whole.put_offset, len: put_len, ..location };
            let recent = Recent {
                sequence: whole.put.place.sequence,
                acked_at_ms: whole.kept.acked_at_ms,
                location,
                bytes: whole.put.message_bytes(),
            };
            history.add(whole.put.place.queue, whole.kept, recent)
        }
        Record::Forget { queue, below } => history.forget(*queue, *below),
        _ => Ok(()),
    }
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
        let before = queues.opening_state(queue, one.position)?;
        let first_failed_at_ms = before.first_failed_at_ms_or(now_ms);
        let state = DeliveryState { attempts: one.attempt, first_failed_at_ms, ..before };
        (before.attempts < one.attempt).then_some(Interrupted { queue, position: one.position, state })
    });
    counted.collect()
}

/// Puts the interrupted attempts into the log before the table forgets them.
fn record_interrupted(engine: &mut Engine, interrupted: &[Interrupted]) -> Result<(), OpenError> {
    // A record takes at most 40 bytes or so, and a frame holds thousands of them.
    const RECORDS_MAX: usize = 256;
    const RECORD_BYTES: usize = 64;
    // First, so that each of them keeps its entry if full files are copied to make room.
    {
        let mut shared = engine.shared.state();
        for Interrupted { queue, position, state } in interrupted {
            shared.queues.update(*queue, *position, *state);
        }
    }
    for some in interrupted.chunks(RECORDS_MAX) {
        let is_room = |engine: &Engine| engine.wal.spares() > 0 || engine.wal.fits(some.len() * RECORD_BYTES);
        // The store stopped at the end of the ring.
        if !is_room(engine) {
            engine.make_room().map_err(OpenError::Stopped)?;
            if !is_room(engine) {
                return Err(OpenError::NoRoom { attempts: interrupted.len() });
            }
        }
        engine.begin_frame();
        for Interrupted { queue, position, state } in some {
            record::encode_update(engine.frame(), *queue, *position, state);
        }
        engine.write_frame().map_err(OpenError::Stopped)?;
    }
    engine.shared.attempts.clear();
    Ok(())
}

/// Makes the files that acks and retries will need on a full disk. If the disk is full already, the store opens all the
/// same: sends are refused until there is room.
fn make_log_files(engine: &mut Engine) -> Result<(), OpenError> {
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
