//! What the committer does between groups so that the log's ring never runs out: full files are copied to segments and
//! covered by checkpoints, empty segments go, mostly dead ones are rewritten, and the ring grows and shrinks.
//!
//! The work itself is done elsewhere ([`crate::cold::keeper`], and `wal::spares` for new files). Here it is decided what comes
//! next, and what was done is taken in, in steps so short that no sender notices.
//!
//! ```text
//!  full log file ─► copied ─► taken in ─► checkpoint ─► checkpoint ─► back to the ring
//!  empty segments ───────► off the shelf ─► checkpoint ─► checkpoint ─► removed
//! ```
//!
//! Constraints:
//! - A log file and a segment go only after both checkpoints do without them.
//! - A checkpoint is taken between two groups, and never while a copy is being taken in: it says what the log up to its
//!   LSN came to.
//! - A disk without room stops none of it for good: what failed is tried again a second later.

use std::sync::Arc;

use crate::cold::checkpoint::{Checkpoint, Header};
use crate::cold::copy::{Copied, CopiedFile, CopyError, FullFile};
use crate::cold::keeper::{Done, Keeper, Order};
use crate::cold::segment::{self, SPAN_MAX, Segment};
use crate::dedup::run::{self, Run};
use crate::disk::Shortage;
use crate::engine::Engine;
use crate::history::file::{self as history_file, HistoryFile};
use crate::kv::Frozen;
use crate::kv::compact::Compacted;
use crate::location::FileId;
use crate::open::Layout;
use crate::room::Room;

/// Spare files that senders leave alone. On a full disk they are what acks, retries and dead letters are written to, and
/// what is given up to make room for segments, so that the ring can go on turning.
const RESERVE: u64 = 3;

/// Files that the ring has at least: one is written to, one is copied, the others are the reserve.
pub(crate) const FILES_MIN: u64 = RESERVE + 2;

/// Full files that are not free yet, from which on it is urgent: it is copied more slowly than it is written.
const URGENT: u64 = 3;

/// Messages in one full file, from which on that is urgent: until they are copied, each takes 48 bytes of memory more.
const MANY: u64 = 128 << 10;

/// Messages that are taken in between two groups.
const SHELVE_STEP: usize = 2048;

/// How long a disk that was full is left alone before it is asked again, and a system without descriptors.
pub(crate) const AGAIN_MS: u64 = 1000;

/// How long segments that could go or be rewritten wait, so that many go with one pair of checkpoints; and how long a ring
/// that has grown stays so.
const TIDY_MS: u64 = 1000;

/// How long a full file waits for the last messages in it to be acknowledged.
const SETTLE_MS: u64 = 1000;

/// How long what is too old for the histories may stay, so that much of it goes with one record.
const FORGET_MS: u64 = 1000;

/// How long the file of durable state stays as it is after it was written anew, or there was no room for that.
const COMPACT_MS: u64 = 60_000;

/// Segments are rewritten when less than one of so many of their messages lives.
const LIVE_SHARE: u64 = 4;

/// Small segments that stand side by side are put together when there are so many.
const SMALL_MAX: usize = 4;

/// The engine's side of what is kept cold.
pub(crate) struct Keeping {
    keeper: Keeper,
    taking_in: Option<TakingIn>,
    relocating: Option<Relocating>,
    /// The last epoch that has been copied and taken in.
    copied_epoch: u64,
    /// Of the newest checkpoint that is written.
    generation: u64,
    pair: Option<Pair>,
    /// Files that are not needed any more since the last pair of checkpoints began.
    dropped: Vec<String>,
    /// Files that nobody needs any more.
    unneeded: Vec<String>,
    /// When the disk had no room for one more file of the log.
    grow_failed_at_ms: Option<u64>,
    /// When the disk had no room for a copy or a checkpoint.
    work_failed_at_ms: Option<u64>,
    /// When there was no room to remove a file: on some file systems that takes some.
    remove_failed_at_ms: Option<u64>,
    /// A spare file was given up so that a full one can be copied or covered: until that is done, none is made in its place.
    makes_way: bool,
    /// When it was last looked for segments that could go.
    tidied_at_ms: u64,
    /// When it was last looked for what is too old for the histories.
    forgot_at_ms: u64,
    /// Sends were refused because the disk is full: histories go first.
    is_short: bool,
    /// What was missing when something last failed for lack of it.
    shortage: Shortage,
    /// What is missing now, as everybody is told.
    told_shortage: Option<Shortage>,
    /// Segments, history files and runs that can't be rewritten, because they are damaged.
    unreadable: Vec<u64>,
    /// Shorter segments are put together.
    small_bytes: u64,
    /// See [`Layout::gap_max`].
    gap_max: u64,
    /// See [`Layout::picked_max`].
    picked_max: u64,
    /// The full file that waits for what lives in it to be acknowledged, and since when.
    settling: Option<(u64, u64)>,
    /// A shorter file of durable state may be empty.
    state_bytes_min: u64,
    /// When it was last written anew, or that was tried.
    compacted_at_ms: Option<u64>,
    /// It can't be read to its end.
    state_is_unreadable: bool,
    /// State that is in its file by now: a lot to let go of, which is better done beside the committer.
    retired: Option<Arc<Frozen>>,
    #[cfg(test)]
    pub(crate) tally: Tally,
}

/// What was done, for tests.
#[cfg(test)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Messages that were picked out of full log files, and files that were read from end to end.
    pub(crate) picked: u64,
    pub(crate) read_whole: u64,
    pub(crate) segments: u64,
    pub(crate) rewritten: u64,
    pub(crate) merged: u64,
    pub(crate) histories: u64,
    pub(crate) joined: u64,
    pub(crate) checkpoints: u64,
    pub(crate) removed: u64,
    /// How often durable state was put into its file.
    pub(crate) states: u64,
    /// How often that file was written anew.
    pub(crate) compacted: u64,
}

/// A copied file that is being taken in.
struct TakingIn {
    epoch: u64,
    copied: std::vec::IntoIter<Copied>,
    run: Option<Arc<Run>>,
    history: Vec<Arc<HistoryFile>>,
    current: Option<(Copied, usize)>,
}

/// Rewritten segments whose messages are being told where they stand now.
struct Relocating {
    new: std::vec::IntoIter<Copied>,
    current: Option<(Copied, usize)>,
    /// The files that are not needed any more then.
    old: Vec<String>,
}

/// Two checkpoints in a row.
struct Pair {
    written: u8,
    /// Log files before this are free when both are written.
    start_epoch: u64,
    /// Files that are free then.
    dropped: Vec<String>,
}

impl Keeping {
    /// `start_epoch`: of the first file that no checkpoint covers. `generation`: of the newest checkpoint. `dropped`:
    /// files that only the other checkpoint names.
    pub(crate) fn new(
        keeper: Keeper,
        start_epoch: u64,
        generation: u64,
        dropped: Vec<String>,
        layout: &Layout,
    ) -> Keeping {
        Keeping {
            keeper,
            taking_in: None,
            relocating: None,
            copied_epoch: start_epoch - 1,
            generation,
            pair: None,
            dropped,
            unneeded: Vec::new(),
            grow_failed_at_ms: None,
            work_failed_at_ms: None,
            remove_failed_at_ms: None,
            makes_way: false,
            tidied_at_ms: 0,
            forgot_at_ms: 0,
            is_short: false,
            shortage: Shortage::Disk,
            told_shortage: None,
            unreadable: Vec::new(),
            small_bytes: layout.small_segment_bytes,
            gap_max: layout.gap_max,
            picked_max: layout.picked_max,
            settling: None,
            state_bytes_min: layout.state_bytes_min,
            compacted_at_ms: None,
            state_is_unreadable: false,
            retired: None,
            #[cfg(test)]
            tally: Tally::default(),
        }
    }

    /// The process before this one ended between two checkpoints, or one of them is not whole: the second one is due.
    pub(crate) fn resume_pair(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        self.pair = Some(Pair { written: 1, start_epoch: self.copied_epoch + 1, dropped });
    }
}

impl Engine {
    /// Sees to it that a group finds a file to go on in, and tells what it may do. It waits for what is on its way if the
    /// ring is at its end; otherwise [`Engine::maintain`] keeps ahead.
    pub(crate) fn make_room(&mut self) -> Result<Room, Arc<str>> {
        if let Some(why) = self.stopped() {
            return Err(why);
        }
        self.collect(false)?;
        while !self.has_room() {
            self.shared.pressed.set(true);
            self.grow();
            if self.wal.files() > self.wal.files_ready() {
                self.collect(true)?;
            } else if !self.has_work() || !self.keep(true)? {
                break;
            }
        }
        let shortage = (!self.has_room()).then_some(self.keeping.shortage);
        self.keeping.is_short |= shortage == Some(Shortage::Disk);
        if self.keeping.told_shortage != shortage {
            self.keeping.told_shortage = shortage;
            self.shared.state().shortage = shortage;
        }
        Ok(Room {
            shortage: self.keeping.shortage,
            file_bytes: self.wal.options().file_bytes,
            sends: self.has_room(),
            changes: self.wal.spares() > 0 || self.wal.fits_any_group(),
        })
    }

    /// Whether a group of sends finds its place without touching the reserve.
    fn has_room(&self) -> bool {
        self.wal.spares() > RESERVE || (self.wal.spares() == RESERVE && self.wal.fits_any_group())
    }

    /// Writes the second checkpoint of a pair, if it is due when the store is opened: before anything can happen to the newest
    /// one, and before the log files that only the older one needs can be used again.
    pub(crate) fn catch_up(&mut self) -> Result<(), Arc<str>> {
        while self.keeping.pair.is_some() && self.keep(true)? {}
        // There is no room for it. What must be written now comes before what may be needed later.
        if self.wal.spares() == 0 && !self.wal.fits_any_group() {
            self.free_log_files_before(self.keeping.copied_epoch + 1)?;
        }
        Ok(())
    }

    /// One step of what keeps the ring from its end. Answers whether there is more to do at once.
    pub(crate) fn maintain(&mut self) -> bool {
        if self.stopped().is_some() || self.collect(false).is_err() {
            return false;
        }
        if self.keeping.told_shortage.is_some() && self.has_room() {
            self.keeping.told_shortage = None;
            self.shared.state().shortage = None;
        }
        if self.tend_histories().is_err() {
            return false;
        }
        if self.wal.files() < FILES_MIN || self.wal.spares() < RESERVE {
            self.grow();
            // A failure is noticed now if it is there already, not with the next group.
            if self.collect(false).is_err() {
                return false;
            }
        }
        self.shared.pressed.set(self.is_urgent());
        self.keep(false).unwrap_or(false)
    }

    /// Whether the ring is on its way to its end, or memory is.
    fn is_urgent(&self) -> bool {
        let full = self.wal.full();
        if full >= URGENT || self.wal.options().files_max.saturating_sub(full + 1) <= RESERVE + 1 || !self.has_room() {
            return true;
        }
        self.wal
            .full_after(self.keeping.copied_epoch)
            .is_some_and(|file| self.shared.state().queues.live_in_log_file(FileId::log(file.header.epoch)) >= MANY)
    }

    /// Takes away what is too old for the histories, or has to go to make room.
    fn tend_histories(&mut self) -> Result<(), Arc<str>> {
        // On a full disk it must not be this that takes the last room.
        if self.wal.spares() == 0 && !self.wal.fits_any_group() {
            return Ok(());
        }
        let now_ms = self.shared.clock.now_ms();
        if now_ms.abs_diff(self.keeping.forgot_at_ms) >= FORGET_MS {
            self.keeping.forgot_at_ms = now_ms;
            let due = self.shared.state().history.due(now_ms);
            if !due.is_empty() {
                self.forget(&due)?;
            }
        }
        if std::mem::take(&mut self.keeping.is_short) {
            self.give_up_history(None)?;
        }
        Ok(())
    }

    /// On a full disk, gives up the oldest history: that of this log file if there is no older one. What was given up before
    /// has to be off the disk first.
    fn give_up_history(&mut self, log_file: Option<u64>) -> Result<(), Arc<str>> {
        // On a full disk it must not be this that takes the last room.
        if self.wal.spares() == 0 && !self.wal.fits_any_group() {
            return Ok(());
        }
        let Keeping { pair, dropped, unneeded, .. } = &self.keeping;
        let is_leaving = pair.as_ref().is_some_and(|pair| !pair.dropped.is_empty())
            || dropped.iter().chain(unneeded).any(|name| history_file::id(name).is_some());
        let oldest = {
            let state = &mut *self.shared.state();
            if is_leaving || state.history.has_expired() {
                return Ok(());
            }
            let oldest = state.history.oldest(2 * self.wal.options().file_bytes, log_file.map(FileId::log));
            oldest.iter().for_each(|(queue, below)| state.history.count_given_up(*queue, *below));
            oldest
        };
        if oldest.is_empty() { Ok(()) } else { self.forget(&oldest) }
    }

    /// Asks for one more file.
    fn grow(&mut self) {
        let is_wanted = self.keeping.pair.is_some() || self.wal.full_after(self.keeping.copied_epoch).is_some();
        let makes_way = self.keeping.makes_way && is_wanted;
        if !makes_way && !self.was_full(self.keeping.grow_failed_at_ms) {
            self.wal.grow();
        }
    }

    /// Takes in a file that was made ahead. A disk without room for it is no reason to stop.
    fn collect(&mut self, wait: bool) -> Result<(), Arc<str>> {
        match self.wal.collect(wait) {
            Ok(()) => Ok(()),
            Err(error) => match error.shortage() {
                Some(shortage) => {
                    self.keeping.shortage = shortage;
                    self.keeping.grow_failed_at_ms = Some(self.shared.clock.now_ms());
                    Ok(())
                }
                None => Err(self.stop(&error.to_string())),
            },
        }
    }

    /// Whether it was only a moment ago that the disk had no room.
    fn was_full(&self, failed_at_ms: Option<u64>) -> bool {
        let now_ms = self.shared.clock.now_ms();
        failed_at_ms.is_some_and(|at_ms| now_ms.abs_diff(at_ms) < AGAIN_MS)
    }

    /// Whether something is on its way, or to be done, that frees a file of the log.
    fn has_work(&self) -> bool {
        let Keeping { keeper, taking_in, pair, .. } = &self.keeping;
        keeper.is_busy() || taking_in.is_some() || pair.is_some() || self.wal.full() > 0
    }

    /// One step. Answers whether there is more to do at once. With `wait`, it waits for what is on its way.
    fn keep(&mut self, wait: bool) -> Result<bool, Arc<str>> {
        if let Some(result) = self.keeping.keeper.collect(wait) {
            self.finished(result)?;
            return Ok(true);
        }
        if self.keeping.keeper.is_busy() {
            return Ok(false);
        }
        if let Some(taking_in) = self.keeping.taking_in.take() {
            self.take_in(taking_in);
            return Ok(true);
        }
        if let Some(relocating) = self.keeping.relocating.take() {
            self.relocate(relocating);
            return Ok(true);
        }
        if self.was_full(self.keeping.work_failed_at_ms) && !self.removes() {
            return Ok(false);
        }
        match self.next_order() {
            Some(order) => self.keeping.keeper.order(order),
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Whether there are files to remove.
    fn removes(&self) -> bool {
        !self.keeping.unneeded.is_empty() && !self.was_full(self.keeping.remove_failed_at_ms)
    }

    fn next_order(&mut self) -> Option<Order> {
        // First, since a checkpoint may wait for the room.
        if self.removes() {
            return Some(Order::Remove(std::mem::take(&mut self.keeping.unneeded)));
        }
        if self.keeping.pair.is_some() {
            let checkpoint = Box::new(self.checkpoint());
            return Some(Order::Checkpoint { checkpoint, retired: self.keeping.retired.take() });
        }
        let full_file = self.wal.full_after(self.keeping.copied_epoch).cloned();
        let full_file = full_file.filter(|file| !self.is_settling(file.header.epoch));
        // On a full disk, what is empty must go before there is room to copy to.
        if (full_file.is_none() || self.keeping.work_failed_at_ms.is_some())
            && let Some(order) = self.tidy_order()
        {
            return Some(order);
        }
        let file = full_file?;
        let state = self.shared.state().kv.freeze(self.wal.last_lsn());
        let epoch = file.header.epoch;
        let (last_lsn, has_keys) = (self.wal.last_lsn_of(epoch), self.dedup.remembers(epoch));
        Some(Order::CopyLogFile { full: FullFile { file, last_lsn, has_keys }, state })
    }

    /// Whether a full file should not be copied yet. If little lives in it, that is mostly what is being handled: it will be
    /// gone in a moment, and then no segment has to be made for it. There is time for that until the next file is a quarter
    /// full.
    fn is_settling(&mut self, epoch: u64) -> bool {
        let now_ms = self.shared.clock.now_ms();
        let since_ms = match self.keeping.settling {
            Some((waiting, since_ms)) if waiting == epoch => since_ms,
            _ => {
                self.keeping.settling = Some((epoch, now_ms));
                now_ms
            }
        };
        let is_in_haste = self.wal.full() > 1 || self.keeping.told_shortage.is_some() || !self.has_room();
        if is_in_haste || self.wal.is_quarter_full() || now_ms.abs_diff(since_ms) >= SETTLE_MS {
            return false;
        }
        let live = self.shared.state().queues.live_in_log_file(FileId::log(epoch));
        (1..=self.keeping.picked_max).contains(&live)
    }

    /// What keeps the folder small, when nothing is more urgent.
    fn tidy_order(&mut self) -> Option<Order> {
        let now_ms = self.shared.clock.now_ms();
        let is_too_early = now_ms.abs_diff(self.keeping.tidied_at_ms) < TIDY_MS;
        // What is empty goes at once if there is no room.
        if is_too_early && (self.has_room() || !self.shared.state().queues.has_empty_segments()) {
            return None;
        }
        self.keeping.tidied_at_ms = now_ms;
        let before_ms = self.forgets_before_ms();
        let has_empty = {
            let state = self.shared.state();
            state.queues.has_empty_segments() || state.history.has_expired() || self.dedup.has_expired(before_ms)
        };
        if has_empty || !self.keeping.dropped.is_empty() {
            self.begin_pair();
            return self.next_order();
        }
        let readable = |runs: &Vec<Arc<Run>>| !runs.iter().any(|run| self.keeping.unreadable.contains(&run.id()));
        if let Some(old) = self.dedup.mergeable().filter(readable) {
            return Some(Order::MergeRuns { old, before_ms });
        }
        let Keeping { unreadable, small_bytes, .. } = &self.keeping;
        if let Some((old, begin)) = self.shared.state().history.joinable(*small_bytes, unreadable) {
            return Some(Order::JoinHistory { old, begin });
        }
        if let Some(old) = self.rewritable() {
            return Some(Order::Rewrite(old));
        }
        if self.wastes_state(now_ms) {
            self.keeping.compacted_at_ms = Some(now_ms);
            return Some(Order::CompactState);
        }
        if self.wal.files() > FILES_MIN && self.wal.spares() > RESERVE && self.wal.full() == 0 {
            return self.wal.drop_spare().map(|name| Order::Remove(vec![name]));
        }
        None
    }

    /// Idempotency keys of messages that were sent before this are of no use to any queue.
    fn forgets_before_ms(&self) -> u64 {
        let window_ms = self.shared.state().queues.dedup_window_max_ms();
        self.shared.clock.now_ms().saturating_sub(window_ms)
    }

    /// Whether the file of durable state is better written anew.
    fn wastes_state(&self, now_ms: u64) -> bool {
        let Keeping { state_bytes_min, compacted_at_ms, state_is_unreadable, .. } = self.keeping;
        if state_is_unreadable || compacted_at_ms.is_some_and(|at_ms| now_ms.abs_diff(at_ms) < COMPACT_MS) {
            return false;
        }
        let live_bytes = self.shared.state().kv.total_bytes();
        self.shared.state_file.is_mostly_empty(live_bytes, state_bytes_min)
    }

    /// Segments of one queue, side by side, that are better written anew: one that is mostly dead, or many small ones.
    fn rewritable(&self) -> Option<Vec<Arc<Segment>>> {
        let Keeping { small_bytes, gap_max, .. } = self.keeping;
        let state = self.shared.state();
        let mut small: Vec<Arc<Segment>> = Vec::new();
        for (segment, live) in state.queues.segments() {
            if self.keeping.unreadable.contains(&segment.id) {
                small.clear();
                continue;
            }
            if live.ones() * LIVE_SHARE < segment.messages {
                return Some(vec![segment.clone()]);
            }
            // What would come out as it went in is left alone: it would go in again, and nothing behind it ever.
            let is_near = |last: &Segment| {
                last.queue == segment.queue
                    && segment.first - last.end < gap_max
                    && segment.end - small[0].first <= SPAN_MAX
            };
            let joins = segment.bytes() < small_bytes && small.last().is_none_or(|last| is_near(last));
            if !joins {
                small.clear();
            }
            if segment.bytes() < small_bytes {
                small.push(segment.clone());
            }
            if small.len() == SMALL_MAX {
                return Some(small);
            }
        }
        None
    }

    /// From here on two checkpoints are taken. What is off the shelves by now is free after them.
    fn begin_pair(&mut self) {
        let mut dropped = std::mem::take(&mut self.keeping.dropped);
        {
            let mut state = self.shared.state();
            let empty = state.queues.take_empty_segments();
            dropped.extend(empty.iter().map(|segment| segment::name(segment.id)));
            let expired = state.history.take_expired();
            dropped.extend(expired.iter().map(|file| history_file::name(file.id)));
        }
        let expired = self.dedup.take_expired(self.forgets_before_ms());
        dropped.extend(expired.iter().map(|run| run::name(run.id())));
        self.keeping.pair = Some(Pair { written: 0, start_epoch: self.keeping.copied_epoch + 1, dropped });
    }

    fn checkpoint(&self) -> Checkpoint {
        let state = self.shared.state();
        let header = Header {
            store_tag: self.wal.store_tag(),
            // One that fails is tried again over the same file: the other one is whole.
            generation: self.keeping.generation + 1,
            lsn: self.wal.last_lsn(),
            start_epoch: self.keeping.copied_epoch + 1,
            next_sequence: state.queues.next_sequence(),
            state_lsn: state.kv.filed_lsn(),
            // The keeper knows it.
            next_segment: 0,
            now_ms: self.shared.clock.now_ms(),
        };
        let histories = state.history.snapshot();
        Checkpoint { header, queues: state.queues.snapshot(), runs: self.dedup.runs().to_vec(), histories }
    }

    /// Takes in the next messages of a file that was copied.
    fn take_in(&mut self, mut taking_in: TakingIn) {
        let current = match taking_in.current.take() {
            Some(current) => current,
            None => match taking_in.copied.next() {
                Some(copied) => {
                    self.shared.reader.add_segment(&copied.segment);
                    (copied, 0)
                }
                None => {
                    self.dedup.take_in(taking_in.epoch, taking_in.run);
                    self.shared.state().history.take_in(FileId::log(taking_in.epoch), taking_in.history);
                    self.keeping.copied_epoch = taking_in.epoch;
                    return self.begin_pair();
                }
            },
        };
        let (copied, start) = current;
        let from = FileId::log(taking_in.epoch);
        let next = self.shared.state().queues.shelve(&copied, from, start, SHELVE_STEP);
        taking_in.current = next.map(|next| (copied, next));
        self.keeping.taking_in = Some(taking_in);
    }

    /// Tells the next messages of rewritten segments where they stand.
    fn relocate(&mut self, mut relocating: Relocating) {
        let current = relocating.current.take().or_else(|| Some((relocating.new.next()?, 0)));
        let Some((copied, start)) = current else {
            return self.keeping.dropped.extend(relocating.old);
        };
        let next = self.shared.state().queues.relocate(&copied, start, SHELVE_STEP);
        relocating.current = next.map(|next| (copied, next));
        self.keeping.relocating = Some(relocating);
    }

    fn finished(&mut self, result: Result<Done, CopyError>) -> Result<(), Arc<str>> {
        #[cfg(test)]
        match &result {
            Ok(Done::Copied(CopiedFile { segments, history, picked, .. })) => {
                match picked {
                    Some(picked) => self.keeping.tally.picked += picked,
                    None => self.keeping.tally.read_whole += 1,
                }
                self.keeping.tally.segments += segments.len() as u64;
                self.keeping.tally.histories += history.len() as u64;
            }
            Ok(Done::HistoryJoined { old, .. }) => self.keeping.tally.joined += old.len() as u64,
            Ok(Done::Rewritten { old, .. }) => self.keeping.tally.rewritten += old.len() as u64,
            Ok(Done::Merged { old, .. }) => self.keeping.tally.merged += old.len() as u64,
            Ok(Done::StateCompacted(done)) => {
                self.keeping.tally.compacted += u64::from(matches!(done, Some(Compacted::Done)));
            }
            Ok(Done::CheckpointWritten) => self.keeping.tally.checkpoints += 1,
            Ok(Done::Removed { .. }) => self.keeping.tally.removed += 1,
            Err(_) => {}
        }
        match result {
            Ok(Done::Copied(CopiedFile { segments, run, history, .. })) => {
                self.keeping.work_failed_at_ms = None;
                self.keeping.makes_way = false;
                self.keeping.retired = self.shared.state().kv.thaw();
                #[cfg(test)]
                if self.keeping.retired.is_some() {
                    self.keeping.tally.states += 1;
                }
                let epoch = self.wal.full_after(self.keeping.copied_epoch).expect("it was copied").header.epoch;
                let copied = segments.into_iter();
                self.keeping.taking_in = Some(TakingIn { epoch, copied, run, history, current: None });
            }
            Ok(Done::Rewritten { old, new }) => {
                new.iter().for_each(|copied| self.shared.reader.add_segment(&copied.segment));
                let copied = new.iter().map(|copied| (copied.segment.clone(), copied.positions())).collect();
                self.shared.state().queues.reshelve(&old, copied);
                let old = old.iter().map(|segment| segment::name(segment.id)).collect();
                self.keeping.relocating = Some(Relocating { new: new.into_iter(), current: None, old });
            }
            Ok(Done::Merged { old, new }) => {
                self.dedup.merged(&old, new);
                self.keeping.dropped.extend(old.iter().map(|run| run::name(run.id())));
            }
            Ok(Done::HistoryJoined { old, new }) => {
                self.keeping.dropped.extend(old.iter().map(|file| history_file::name(file.id)));
                self.shared.state().history.joined(&old, new);
            }
            Ok(Done::StateCompacted(done)) => {
                self.keeping.state_is_unreadable |= matches!(done, Some(Compacted::Unreadable));
            }
            Ok(Done::CheckpointWritten) => {
                self.keeping.generation += 1;
                let pair = self.keeping.pair.as_mut().expect("checkpoints come in pairs");
                pair.written += 1;
                if pair.written == 2 {
                    self.end_pair()?;
                }
            }
            Ok(Done::Removed { left, shortage }) => {
                // There may be room now.
                self.keeping.work_failed_at_ms = None;
                self.keeping.remove_failed_at_ms = shortage.map(|_| self.shared.clock.now_ms());
                self.keeping.shortage = shortage.unwrap_or(self.keeping.shortage);
                if left.is_empty() {
                    self.wal.spares_are_gone();
                }
                self.keeping.unneeded.extend(left);
            }
            Err(CopyError::Disk(error)) if error.is_out_of_files() => {
                self.keeping.shortage = Shortage::OpenFiles;
                self.keeping.work_failed_at_ms = Some(self.shared.clock.now_ms());
            }
            Err(CopyError::Disk(error)) if error.is_full() => {
                self.keeping.shortage = Shortage::Disk;
                self.keeping.work_failed_at_ms = Some(self.shared.clock.now_ms());
                // A spare file makes room for what is copied, or for a longer checkpoint; the file that it stands in for is
                // spare then.
                if self.wal.spares() > 1 && self.keeping.unneeded.is_empty() {
                    self.keeping.unneeded.extend(self.wal.drop_spare());
                    self.keeping.makes_way = true;
                }
                let log_file = self.wal.full_after(self.keeping.copied_epoch).map(|file| file.header.epoch);
                self.give_up_history(log_file)?;
            }
            Err(CopyError::Disk(error)) => return Err(self.stop(&error.to_string())),
            Err(CopyError::LogDamaged(why)) => return Err(self.stop(&why)),
            Err(CopyError::Damaged { files }) => self.keeping.unreadable.extend(files),
        }
        Ok(())
    }

    /// Both checkpoints do without what was dropped.
    fn end_pair(&mut self) -> Result<(), Arc<str>> {
        let Some(pair) = self.keeping.pair.take() else { return Ok(()) };
        self.keeping.makes_way = false;
        self.free_log_files_before(pair.start_epoch)?;
        for name in pair.dropped {
            if let Some(id) = segment::id(&name) {
                self.shared.reader.remove(FileId::segment(id));
            }
            self.keeping.unneeded.push(name);
        }
        Ok(())
    }

    fn free_log_files_before(&mut self, epoch: u64) -> Result<(), Arc<str>> {
        while let Some(oldest) = self.wal.oldest().map(|oldest| oldest.header.epoch)
            && oldest < epoch
        {
            let live = self.shared.state().queues.live_in_log_file(FileId::log(oldest));
            assert_eq!(live, 0, "what lives in a log file is copied before the file is given up");
            self.wal.free_oldest().map_err(|error| self.stop(&error.to_string()))?;
        }
        Ok(())
    }
}
