//! What the queues do with the cold part of the store: take segments in, tell checkpoints what lives, and wake what waits in
//! segments when the store is opened.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::line::Line;
use super::{Queues, line_mut};
use crate::cold::bitmap::Bitmap;
use crate::cold::checkpoint::{Checkpoint, QueueSnapshot, ToldState};
use crate::cold::copy::Copied;
use crate::cold::segment::{ChunkId, LoadedChunk, Segment};
use crate::error::OpenError;
use crate::location::FileId;
use crate::record::{self, QueueNumber, Record};
use crate::shared::Wanted;

impl Queues {
    /// Takes in the next messages of a segment that was copied from a file of the log, from `start` on. Answers where to go
    /// on: nowhere if these were the last.
    pub(crate) fn shelve(&mut self, copied: &Copied, from: FileId, start: usize, max: usize) -> Option<usize> {
        let line = line_mut(&mut self.lines, copied.segment.queue);
        if start == 0 {
            line.shelf.add(copied.segment.clone(), Bitmap::new(copied.segment.span()));
        }
        let end = (start + max).min(copied.written.len());
        for written in copied.written.iter_from(start).take(end - start) {
            let state = copied.state(&written);
            line.shelve(&written, state, from, copied.segment.file_id(), &mut self.in_log);
        }
        (end < copied.written.len()).then_some(end)
    }

    /// How many messages stand in a file of the log.
    pub(crate) fn live_in_log_file(&self, file: FileId) -> u64 {
        self.in_log.count(file)
    }

    /// The messages that stand in a file of the log, queue by queue, if they are at most so many.
    pub(crate) fn in_log_file(&self, file: FileId, max: u64) -> Option<Vec<Wanted>> {
        let count = self.in_log.count(file);
        if count > max {
            return None;
        }
        let mut found = Vec::with_capacity(count as usize);
        for (queue, line) in self.numbered() {
            if found.len() as u64 == count {
                break;
            }
            // Positions are in the order of the log, and what is behind the shelf is in the log only.
            let in_log = line.entries.iter_from(line.shelf.end());
            let until_here = in_log.take_while(|(_, entry)| entry.file() <= file);
            found.extend(until_here.filter(|(_, entry)| entry.file() == file).map(|(position, entry)| Wanted {
                queue,
                position,
                sequence: entry.sequence(),
                location: entry.location(),
            }));
        }
        (found.len() as u64 == count).then_some(found)
    }

    /// Puts rewritten segments in the place of old ones; see [`Shelf::replace`](crate::cold::shelf::Shelf::replace). Then
    /// [`Queues::relocate`] is to be called for each of them, until which the old ones must stay readable.
    pub(crate) fn reshelve(&mut self, old: &[Arc<Segment>], new: Vec<(Arc<Segment>, Bitmap)>) {
        if let Some(one) = old.first() {
            line_mut(&mut self.lines, one.queue).shelf.replace(old, new);
        }
    }

    /// Tells the next messages of a segment that was rewritten where they stand, from `start` on. Answers where to go on:
    /// nowhere if these were the last.
    pub(crate) fn relocate(&mut self, copied: &Copied, start: usize, max: usize) -> Option<usize> {
        let line = line_mut(&mut self.lines, copied.segment.queue);
        let end = (start + max).min(copied.written.len());
        if line.knows_any() {
            line.relocate(&copied.segment, copied.written.iter_from(start).take(end - start));
            return (end < copied.written.len()).then_some(end);
        }
        None
    }

    /// Takes off the segments in which nothing lives.
    pub(crate) fn take_empty_segments(&mut self) -> Vec<Arc<Segment>> {
        self.lines.iter_mut().flatten().flat_map(|line| line.shelf.take_empty()).collect()
    }

    pub(crate) fn has_empty_segments(&self) -> bool {
        self.lines.iter().flatten().any(|line| line.shelf.has_empty())
    }

    /// All segments with what lives in them, queue by queue.
    pub(crate) fn segments(&self) -> impl Iterator<Item = (&Arc<Segment>, &Bitmap)> {
        self.lines
            .iter()
            .flatten()
            .flat_map(|line| line.shelf.segments())
            .map(|shelved| (&shelved.segment, &shelved.live))
    }

    /// Whether a message in a segment still lives.
    pub(crate) fn lives_in_segment(&self, queue: QueueNumber, position: u64) -> bool {
        self.line(queue).shelf.lives(position)
    }

    /// What a checkpoint says of the queues.
    pub(crate) fn snapshot(&self) -> Vec<QueueSnapshot> {
        let snapshot = |(number, line): (QueueNumber, &Line)| QueueSnapshot {
            number,
            name: line.name.clone(),
            next_position: line.next_position,
            bytes_cold: line.bytes_cold,
            segments: line.shelf.segments().map(|shelved| (shelved.segment.clone(), shelved.live.clone())).collect(),
            states: line.known_states(),
        };
        self.numbered().filter(|(_, line)| line.named_in_log).map(snapshot).collect()
    }

    /// Begins with what a checkpoint says.
    pub(crate) fn restore(&mut self, checkpoint: Checkpoint) -> Result<(), String> {
        self.next_sequence = checkpoint.header.next_sequence;
        self.latest_ms = checkpoint.header.now_ms;
        for queue in checkpoint.queues {
            self.name_queue(queue.number, queue.name.as_str(), queue.next_position)?;
            let line = line_mut(&mut self.lines, queue.number);
            line.bytes = queue.bytes_cold;
            line.bytes_cold = queue.bytes_cold;
            for (segment, live) in queue.segments {
                line.shelf.add(segment, live);
            }
            line.told = queue.states.into_iter().collect();
        }
        Ok(())
    }

    /// After the log was replayed: finds out which messages in segments can be claimed, and makes entries for those of which
    /// there is more to know. `also`: messages that need an entry in any case. Those that can't be read are due at once,
    /// so that whoever claims them hears of it.
    pub(crate) fn wake(&mut self, also: &[(QueueNumber, u64)]) -> Result<(), OpenError> {
        for (place, line) in self.lines.iter_mut().enumerate() {
            let Some(line) = line else { continue };
            let number = QueueNumber(place as u32);
            let also = also.iter().filter(|(queue, _)| *queue == number).map(|(_, position)| *position);
            wake(line, also.collect())?;
        }
        Ok(())
    }
}

fn wake(line: &mut Line, also: BTreeSet<u64>) -> Result<(), OpenError> {
    let mut told = std::mem::take(&mut line.told);
    line.shelf.set_all_fresh();
    let segments: Vec<Arc<Segment>> = line.shelf.segments().map(|shelved| shelved.segment.clone()).collect();
    for segment in segments {
        let special = segment.special()?;
        let span = segment.first..segment.end;
        let lives = |position: &u64| line.shelf.lives(*position);
        let mut known: BTreeSet<u64> = special.keyed.into_iter().filter(lives).collect();
        known.extend(told.range(span.clone()).map(|(position, _)| *position).filter(lives));
        known.extend(also.range(span).copied().filter(lives));
        for (position, due_at_ms) in special.delayed {
            if !known.contains(&position) && line.shelf.lives(position) {
                line.put_off(position, due_at_ms);
            }
        }
        // None if it can't be read.
        let mut last: Option<(ChunkId, Option<LoadedChunk>)> = None;
        for position in known {
            let wanted = segment.chunk_of(position);
            if last.as_ref().is_none_or(|(id, _)| *id != wanted) {
                let loaded = match segment.read_chunk(wanted) {
                    Ok(loaded) => Some(loaded),
                    Err(error) if error.shortage().is_some() => return Err(error.into()),
                    Err(_) => None,
                };
                last = Some((wanted, loaded));
            }
            let loaded = last.as_ref().and_then(|(_, loaded)| loaded.as_ref());
            match loaded.and_then(|loaded| Some((loaded, loaded.get(position)?))) {
                None => {
                    // What is known of it must not be lost with it: it may be readable later.
                    let state = told.remove(&position);
                    line.put_off(position, state.map_or(1, |told| told.state.due_at_ms.max(1)));
                    line.told.extend(state.map(|state| (position, state)));
                }
                Some((loaded, message)) => {
                    let bytes = loaded.record(&message);
                    let Ok(Record::Put(put)) = record::decode(&bytes) else { unreachable!("it was decoded before") };
                    let copied = ToldState { state: message.state, holds_key: put.place.holds_key };
                    let ToldState { state, holds_key } = told.remove(&position).unwrap_or(copied);
                    line.know(&message, state, put.key);
                    line.arrange(position, holds_key);
                }
            }
        }
    }
    Ok(())
}
