//! The commit path: one group of transactions becomes one frame, one write and one fdatasync, and only then becomes
//! visible.
//!
//! 1. *Admit*, under the state's lock: leases are checked and held, room is reserved, sequence numbers are drawn.
//! 2. *Write*, without the lock: records are encoded, the frame is appended and synced.
//! 3. *Apply*, under the lock: the queues see what the log now says. Nobody can see a send before this point.
//!
//! The engine is synchronous and has one owner. [`crate::Store`] gives it a thread; the simulation drives it directly.
//! After an error of the log it is *stopped*: it confirms nothing more, since nobody knows what is on disk.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::QueueName;
use crate::cold::segment::{ChunkId, LoadedChunk};
use crate::commit::{self, Admitted, Admitter, Applier, Became, Effect, Group, Remembered};
use crate::dedup::Dedup;
use crate::disk::DiskError;
use crate::keeping::{AGAIN_MS, Keeping};
use crate::kv::admission::Admission as StateAdmission;
use crate::location::{FileId, Location};
use crate::queues::{OneByOne, Purged, ToPurge};
use crate::record::{self, QueueNumber, StateChange};
use crate::room::{Room, transaction_bytes_max};
use crate::shared::{Shared, Watcher};
use crate::transaction::{Action, Job, Receipt, Refusal, Transaction};
use crate::wal::{FramePlace, Wal, frame};

/// So many transactions are admitted or applied before others may have the state. Each is atomic by itself: whoever looks in
/// between sees some of a group, and all of that is durable.
const HELD_FOR: usize = 64;

/// What becomes of one transaction.
pub(crate) type Answer = Result<Receipt, Refusal>;

pub(crate) struct Engine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) wal: Wal,
    pub(crate) keeping: Keeping,
    pub(crate) dedup: Dedup,
    /// Why nothing more is confirmed. The state says so too, to others.
    stopped: Option<Arc<str>>,
    state_admission: StateAdmission,
    /// The frame that is being built. Like the next two it is kept from group to group, so that a busy committer does not
    /// ask the allocator for the same large pieces again and again.
    frame: Vec<u8>,
    group: Group,
    puts: Vec<commit::Span>,
    /// Queues that the log does not name yet, with the position of their next message.
    unnamed: Vec<(QueueNumber, QueueName, u64)>,
}

impl Engine {
    pub(crate) fn new(shared: Arc<Shared>, wal: Wal, keeping: Keeping, dedup: Dedup) -> Engine {
        Engine {
            shared,
            wal,
            keeping,
            dedup,
            stopped: None,
            state_admission: StateAdmission::default(),
            frame: Vec::new(),
            group: Group::default(),
            puts: Vec::new(),
            unnamed: Vec::new(),
        }
    }

    /// Puts jobs on record, in as few groups as they fit into. `answers` gains one for each, in order; the jobs are used
    /// up.
    pub(crate) fn commit(&mut self, jobs: &mut Vec<Job>, answers: &mut Vec<Answer>) {
        let mut waiting = &mut jobs[..];
        while !waiting.is_empty() {
            let committed = self.commit_group(waiting, answers);
            waiting = &mut waiting[committed..];
        }
        jobs.clear();
    }

    /// Commits the first of the jobs that wait: as many as a frame holds, at least one. Answers how many.
    fn commit_group(&mut self, waiting: &mut [Job], answers: &mut Vec<Answer>) -> usize {
        let now_ms = self.shared.clock.now_ms();
        let room = match self.make_room() {
            Ok(room) => room,
            Err(why) => {
                answers.extend(waiting.iter().map(|_| Err(Refusal::Stopped(why.clone()))));
                return waiting.len();
            }
        };
        let bytes_max = transaction_bytes_max(room.file_bytes);
        let store_tag = self.wal.store_tag();
        let remembered = self.remembered(waiting);
        self.state_admission.begin(&self.shared, waiting, bytes_max);
        let none = Remembered::default();
        let mut group = std::mem::take(&mut self.group);
        let mut bytes = 0;
        {
            let mut state = self.shared.state_soon();
            let (mut next, mut polite) = (waiting.iter_mut().enumerate(), true);
            'admitting: loop {
                let (dedup, state_admission) = (&mut self.dedup, &mut self.state_admission);
                let mut admitter = Admitter { state: &mut state, room, dedup, state_admission, store_tag, now_ms };
                for (place, next) in next.by_ref().take(HELD_FOR) {
                    let more = commit::bytes_max(admitter.state, next);
                    let alone = StateAdmission::stands_alone(next);
                    if (bytes + more > bytes_max || alone) && !group.is_empty() {
                        break 'admitting;
                    }
                    bytes += more;
                    match remembered.get(&place) {
                        Some(Err(why)) => group.push(Err(Refusal::Read(why.clone()))),
                        Some(Ok(remembered)) => admitter.admit(next, remembered, &mut group),
                        None => admitter.admit(next, &none, &mut group),
                    }
                    if alone {
                        break 'admitting;
                    }
                }
                if next.len() == 0 {
                    break;
                }
                if polite {
                    (state, polite) = self.shared.let_others(state);
                }
            }
            // Queues that the log does not name yet come before the first message in them.
            for number in group.admitted().flat_map(Admitted::queues) {
                if let Some((name, next_position)) = state.queues.take_unnamed(number) {
                    self.unnamed.push((number, name, next_position));
                }
            }
        }
        self.read_moved(&mut group.wholes, waiting, room, now_ms);
        self.prepare_kept(&mut group.wholes, room, bytes);

        let jobs = &waiting[..group.len()];
        let mut puts = std::mem::take(&mut self.puts);
        self.begin_frame();
        for (number, name, next_position) in self.unnamed.drain(..) {
            record::encode_queue(&mut self.frame, number, name.as_str(), next_position);
        }
        if group.admitted().any(Admitted::delays) {
            // The clock of the next process goes on from there: see [`crate::clock::StoreClock`].
            record::encode_time(&mut self.frame, now_ms);
        }
        for (job, became) in group.each(jobs) {
            match became {
                Became::Gone(lease, bytes) => commit::encode_ack(lease, bytes, &mut self.frame),
                Became::Admitted(admitted) => {
                    commit::encode(admitted, job, store_tag, now_ms, &mut self.frame, &mut puts);
                }
                Became::Refused(_) => {}
            }
        }
        match self.write_frame() {
            Ok(place) => {
                if let Some(place) = place {
                    self.dedup.committed(place.file);
                }
                self.apply(&mut group, jobs, puts.drain(..), place, now_ms, answers);
            }
            // What was admitted stays held: only the next recovery can tell whether it is on disk.
            Err(why) => {
                answers.extend(group.each(jobs).map(|(_, became)| match became {
                    Became::Refused(refusal) => Err(refusal.clone()),
                    Became::Gone(..) | Became::Admitted(_) => Err(Refusal::Stopped(why.clone())),
                }));
                group.clear();
            }
        }
        puts.clear();
        (self.group, self.puts) = (group, puts);
        jobs.len()
    }

    /// What runs remember of the idempotency keys of the transactions that wait, by their places. It may be read from disk,
    /// so it comes before the lock. Most transactions carry none.
    fn remembered(&self, waiting: &[Job]) -> FxHashMap<usize, Result<Remembered, Arc<str>>> {
        let mut all = FxHashMap::default();
        if self.dedup.runs().is_empty() {
            return all;
        }
        for (place, job) in waiting.iter().enumerate() {
            let mut found = Ok(Remembered::default());
            for (name, message) in job.sends().iter().filter(|(_, message)| message.idempotency_key.is_some()) {
                let Some(queue) = self.shared.state().queues.known(name) else { continue };
                let Some(key) = commit::idempotency(self.wal.store_tag(), queue, message) else { continue };
                match (&mut found, self.dedup.find_in_runs(key)) {
                    (Ok(found), Ok(seen)) => found.extend(seen.map(|seen| (key, seen))),
                    (_, Err(why)) => found = Err(why.into()),
                    (Err(_), Ok(_)) => {}
                }
            }
            if found.as_ref().is_ok_and(Remembered::is_empty) {
                continue;
            }
            all.insert(place, found);
        }
        all
    }

    /// A message that moves is read before anything is written, so that an unreadable one moves nowhere.
    fn read_moved(&mut self, wholes: &mut [(usize, Result<Admitted, Refusal>)], jobs: &[Job], room: Room, now_ms: u64) {
        let mut unreadable = Vec::new();
        for (place, (_, one)) in wholes.iter_mut().enumerate() {
            let Ok(Admitted { settle: Some(settle), .. }) = one else { continue };
            let Effect::Move(moved) = &mut settle.effect else { continue };
            let refusal = match self.shared.read(moved.wanted(settle.lease)) {
                Ok(Some(mut content)) => {
                    moved.edit.apply(&mut content.message.attributes);
                    moved.content = Some(content);
                    continue;
                }
                Ok(None) => Refusal::LeaseLost,
                Err(why) => Refusal::Read(why),
            };
            unreadable.push((place, refusal));
        }
        // What was taken for a duplicate of a message that will not come has no first one either.
        while let Some((place, refusal)) = unreadable.pop() {
            let (job, one) = &mut wholes[place];
            let (job, Ok(admitted)) = (&jobs[*job], std::mem::replace(one, Err(refusal.clone()))) else { continue };
            if StateAdmission::stands_alone(job) {
                self.state_admission.abandon();
            }
            for (later, (_, one)) in wholes.iter().enumerate().skip(place + 1) {
                let lost = |one: &Admitted| one.duplicates().any(|first| admitted.is_first(first));
                if one.as_ref().is_ok_and(lost) {
                    unreadable.push((later, refusal.clone()));
                }
            }
            let (state, store_tag) = (&mut *self.shared.state(), self.wal.store_tag());
            let (dedup, state_admission) = (&mut self.dedup, &mut self.state_admission);
            let mut admitter = Admitter { state, room, dedup, state_admission, store_tag, now_ms };
            admitter.withdraw(admitted, job.sends());
        }
    }

    /// Decides how each acknowledged message comes into its queue's history: by reference if its put stands in the file that
    /// the group goes to for certain, otherwise whole. One that can't be kept is just gone, and counted. `bytes`: the
    /// most that the group takes.
    fn prepare_kept(&self, wholes: &mut [(usize, Result<Admitted, Refusal>)], room: Room, bytes: u64) {
        const SLACK_BYTES: u64 = 64;
        let mut next: Vec<(QueueNumber, u64)> = Vec::new();
        let stays = self.wal.fits((bytes + SLACK_BYTES) as usize);
        let current = FileId::log(self.wal.epoch());
        // What is written once more must not touch what dead letters need on a full disk.
        let is_room = room.sends && bytes <= transaction_bytes_max(room.file_bytes);
        let admitted = wholes.iter_mut().filter_map(|(_, one)| one.as_mut().ok());
        for settle in admitted.filter_map(|admitted| admitted.settle.as_mut()) {
            let queue = settle.queue();
            let Effect::Keep(keep) = &mut settle.effect else { continue };
            let wanted = keep.wanted(settle.lease);
            if !stays || wanted.location.file != current {
                let record = self.shared.cache().get(wanted.location);
                let read = || match record {
                    Some(record) => self.shared.decode(&wanted, wanted.location, &record).ok(),
                    None => self.shared.read(wanted).ok().flatten(),
                };
                keep.content = if is_room { read() } else { None };
                if keep.content.is_none() {
                    settle.effect = Effect::Remove(keep.held.bytes);
                    self.shared.state().history.give_up_one(queue);
                    continue;
                }
            }
            let place = match next.iter_mut().find(|(known, _)| *known == queue) {
                Some((_, place)) => place,
                None => {
                    next.push((queue, self.shared.state().history.next(queue)));
                    &mut next.last_mut().expect("just put there").1
                }
            };
            keep.position = *place;
            *place += 1;
        }
    }

    /// What stands in histories before these positions is gone.
    pub(crate) fn forget(&mut self, all: &[(QueueNumber, u64)]) -> Result<(), Arc<str>> {
        self.begin_frame();
        for (queue, below) in all {
            record::encode_forget(&mut self.frame, *queue, *below);
        }
        self.write_frame()?;
        let mut state = self.shared.state();
        for (queue, below) in all {
            state.history.forget(*queue, *below).expect("a position that was drawn");
        }
        Ok(())
    }

    fn apply(
        &mut self,
        group: &mut Group,
        jobs: &[Job],
        puts: impl ExactSizeIterator<Item = commit::Span>,
        place: Option<FramePlace>,
        now_ms: u64,
        answers: &mut Vec<Answer>,
    ) {
        let payload_at = place.map_or(Location::NONE, |place| Location {
            file: FileId::log(place.file),
            offset: place.payload_offset,
            len: 0,
        });
        if let Some(place) = place.filter(|_| puts.len() > 0) {
            self.shared.cache().push(place, &self.frame[frame::HEADER_BYTES..]);
        }
        let watchers: Vec<Watcher> = {
            let mut state = self.shared.state_soon();
            let store_tag = self.wal.store_tag();
            self.state_admission.commit(&mut state.kv);
            let mut applier = Applier { store_tag, now_ms, payload_at, puts, touched: Vec::new() };
            let mut polite = true;
            for (place, (job, became)) in group.each(jobs).enumerate() {
                if polite && place % HELD_FOR == 0 {
                    (state, polite) = self.shared.let_others(state);
                }
                let admitted = match became {
                    Became::Gone(lease, _) => {
                        applier.apply_ack(&mut state, lease);
                        answers.push(Ok(Receipt::new()));
                        continue;
                    }
                    Became::Refused(refusal) => {
                        answers.push(Err(refusal.clone()));
                        continue;
                    }
                    Became::Admitted(admitted) => admitted,
                };
                answers.push(Ok(Receipt::new()));
                let Some(Ok(receipt)) = answers.last_mut() else { unreachable!("it has just been put there") };
                applier.apply(&mut state, admitted, job.sends(), receipt);
            }
            group.clear();
            let mut touched = applier.touched;
            touched.sort_unstable();
            touched.dedup();
            touched.iter().filter_map(|queue| state.watchers.get(queue)).flatten().cloned().collect()
        };
        // Whoever waits for messages is told outside of the lock.
        watchers.iter().for_each(|arrived| arrived());
    }

    /// Takes away messages of a queue that stand before a position: at most so many that have an entry, and with the first of
    /// those in the log all that stand in segments; or at most so many of those in segments, if they have to go one by one.
    /// Answers how many went, and whether there may be more.
    pub(crate) fn purge_step(
        &mut self,
        queue: QueueNumber,
        below: u64,
        entries_max: usize,
    ) -> Result<(u64, bool), Refusal> {
        let room = self.make_room().map_err(Refusal::Stopped)?;
        const RECORD_BYTES: u64 = 32;
        let step = entries_max.min((transaction_bytes_max(room.file_bytes) / RECORD_BYTES) as usize);
        let many = if room.changes { entries_max } else { usize::MAX };
        let one_by_one = self.shared.state().queues.purged_one_by_one(queue, below, many, step);
        if let Some(one_by_one) = one_by_one {
            // It takes up to a quarter of a file, which may be the last that acks have.
            room.check_update()?;
            return self.purge_one_by_one(queue, one_by_one);
        }
        let (bound, forget) = {
            let state = self.shared.state();
            let is_empty = state.queues.is_empty(queue);
            let bound = if is_empty { below } else { state.queues.purge_bound(queue, below, entries_max) };
            // With the last step the history goes.
            let history = (bound == below && !state.history.is_empty(queue)).then(|| state.history.next(queue));
            // There may be no record of a queue that no record has named.
            if is_empty && history.is_none() {
                return Ok((0, false));
            }
            (bound, history)
        };
        self.begin_frame();
        record::encode_purge(&mut self.frame, queue, bound);
        forget.iter().for_each(|below| record::encode_forget(&mut self.frame, queue, *below));
        self.write_frame().map_err(Refusal::Stopped)?;
        let state = &mut *self.shared.state();
        if let Some(below) = forget {
            state.history.forget(queue, below).expect("a position that was drawn");
        }
        let removed = state.queues.purge(queue, bound).expect("all that stands in segments goes");
        Ok((removed, bound < below))
    }

    /// Whoever waits for the next group must not wait for long, so a step ends early when much was read or a chunk can't be.
    fn purge_one_by_one(&mut self, queue: QueueNumber, purged: OneByOne) -> Result<(u64, bool), Refusal> {
        const READ_BYTES_MAX: usize = 8 << 20;
        self.begin_frame();
        let mut read_bytes = 0;
        // None if it can't be read.
        let mut last: Option<(ChunkId, Option<LoadedChunk>)> = None;
        let mut removed = Vec::with_capacity(purged.messages.len());
        for (position, message) in purged.messages {
            let (bytes, due_at_ms) = match message {
                ToPurge::Known(bytes) => (bytes, None),
                ToPurge::Cold(segment, chunk) => {
                    let is_done = read_bytes >= READ_BYTES_MAX || matches!(last, Some((_, None)));
                    let loaded = match &last {
                        Some((id, loaded)) if *id == chunk => loaded.as_ref(),
                        _ if is_done => break,
                        _ => {
                            let loaded = match segment.read_chunk(chunk) {
                                Ok(loaded) => Some(loaded),
                                // It can be read later. Those before it go now.
                                Err(error) if error.shortage().is_some() && !removed.is_empty() => break,
                                Err(error) if let Some(shortage) = error.shortage() => {
                                    return Err(Refusal::from(shortage));
                                }
                                Err(_) => None,
                            };
                            read_bytes += loaded.as_ref().map_or(0, LoadedChunk::bytes);
                            last.insert((chunk, loaded)).1.as_ref()
                        }
                    };
                    // One that can't be read goes, too; what it counted for goes with the last one in a segment.
                    let message = loaded.and_then(|loaded| loaded.get(position));
                    message.map_or((0, None), |message| (message.bytes, Some(message.state.due_at_ms)))
                }
            };
            record::encode_remove(&mut self.frame, queue, position, bytes);
            removed.push(Purged { position, bytes, due_at_ms });
        }
        self.write_frame().map_err(Refusal::Stopped)?;
        self.shared.state().queues.purge_these(queue, &removed, purged.all);
        Ok((removed.len() as u64, true))
    }

    /// Takes away all durable state of a space.
    pub(crate) fn drop_state(&mut self, space: &str) -> Result<(), Refusal> {
        self.make_room().map_err(Refusal::Stopped)?;
        self.begin_frame();
        record::encode_state(&mut self.frame, StateChange::Drop { space });
        self.write_frame().map_err(Refusal::Stopped)?;
        self.shared.state().kv.drop_space(space);
        Ok(())
    }

    /// Leases that are over: their messages are due again, and their attempts count if they had begun.
    pub(crate) fn expire(&mut self) {
        let now_ms = self.shared.clock.now_ms();
        if self.shared.attempts.next_end_ms() > now_ms {
            return;
        }
        let expired = self.shared.state().queues.expired(now_ms);
        if !expired.is_empty() {
            let give_back = |(lease, begun)| {
                let action = if begun { Action::Retry { delay_ms: 0 } } else { Action::Release };
                Transaction { settle: Some((lease, action)), ..Transaction::default() }
            };
            let mut answers = Vec::new();
            self.commit(&mut expired.iter().copied().map(give_back).map(Job::from).collect(), &mut answers);
            // What finds no room on a full disk is over when there may be some.
            let refused = |answer: &Answer| matches!(answer, Err(Refusal::DiskFull | Refusal::OutOfFiles));
            for ((lease, _), _) in expired.into_iter().zip(answers).filter(|(_, answer)| refused(answer)) {
                self.shared.state().queues.extend(lease, now_ms.saturating_add(AGAIN_MS));
            }
        }
    }

    // --- the log ------------------------------------------------------------------------------------------------

    /// Begins a frame in the buffer.
    pub(crate) fn begin_frame(&mut self) {
        self.frame.clear();
        self.frame.resize(frame::HEADER_BYTES, 0);
    }

    /// The buffer of the frame that is being built.
    pub(crate) fn frame(&mut self) -> &mut Vec<u8> {
        &mut self.frame
    }

    /// Writes the frame that was built, if there is anything in it.
    pub(crate) fn write_frame(&mut self) -> Result<Option<FramePlace>, Arc<str>> {
        let payload_bytes = self.frame.len() - frame::HEADER_BYTES;
        if payload_bytes == 0 {
            return Ok(None);
        }
        let mut frame = std::mem::take(&mut self.frame);
        let written = (|| {
            if !self.wal.fits(payload_bytes) {
                self.roll()?;
            }
            if self.wal.is_at_start() {
                self.write_catalogue()?;
            }
            self.wal.append(&mut frame)
        })();
        self.frame = frame;
        written.map(Some).map_err(|error| self.stop(&error.to_string()))
    }

    /// Goes on in the next file.
    fn roll(&mut self) -> Result<(), DiskError> {
        if self.wal.spares() == 0 {
            let full = std::io::Error::new(std::io::ErrorKind::StorageFull, "all files of the log are in use");
            return Err(DiskError::new("begin", "the next log file", full));
        }
        self.wal.roll()
    }

    /// Every file begins with the time, the next sequence number and the names of the queues, so that nothing depends on
    /// files that were given up. A file may have been begun by a process that did not come to write this.
    fn write_catalogue(&mut self) -> Result<(), DiskError> {
        let mut catalogue = vec![0; frame::HEADER_BYTES];
        record::encode_time(&mut catalogue, self.shared.clock.now_ms());
        {
            let state = self.shared.state();
            record::encode_next(&mut catalogue, state.queues.next_sequence());
            for (number, name, next_position) in state.queues.all() {
                record::encode_queue(&mut catalogue, number, name.as_str(), next_position);
            }
        }
        self.wal.append(&mut catalogue)?;
        Ok(())
    }

    /// Confirms nothing more.
    pub(crate) fn stop(&mut self, why: &str) -> Arc<str> {
        let why = self.shared.fail(why);
        self.stopped = Some(why.clone());
        self.shared.state().stopped.get_or_insert_with(|| why.clone());
        why
    }

    /// Why nothing more is confirmed.
    pub(crate) fn stopped(&self) -> Option<Arc<str>> {
        self.stopped.clone()
    }
}
