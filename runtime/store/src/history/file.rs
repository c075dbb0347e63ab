//! A history file: acknowledged messages of one queue in the order of their acknowledgement, in a file that is written once
//! and never changed (`FORMAT.md`, "History files").
//!
//! Memory: 16 bytes for each chunk, which is what is read at once. There is nothing to remember of a single message, since
//! what goes, goes from the front.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::cold::appender::{Appender, Ending, Footer};
use crate::cold::segment::StoredRecords;
use crate::disk::{Disk, DiskError, File};
use crate::error::OpenError;
use crate::header::{HEADER_BYTES, Kind, NUMBER_MAX, number_in_name};
use crate::record::{self, Kept, KeptPlace, QueueNumber, Record};

const KIND: Kind = Kind { magic: b"LNCKHIS\n", version: 1, what: "history file" };

/// Positions that a file may span: those in its index have 32 bits.
const SPAN_MAX: u64 = 1 << 31;

/// Offsets have 32 bits, too.
const BYTES_MAX: u64 = 1 << 30;

const CHUNK_INFO_BYTES: u64 = 16;

/// The name of a history file.
pub(crate) fn name(id: u64) -> String {
    format!("history-{id:08}.his")
}

/// The number of the history file that a file's name stands for.
pub(crate) fn id(name: &str) -> Option<u64> {
    number_in_name(name, "history-", ".his", self::name).filter(|id| *id < NUMBER_MAX)
}

/// A history file that is whole and durable.
pub(crate) struct HistoryFile {
    pub(crate) id: u64,
    pub(crate) queue: QueueNumber,
    /// Position of its first message in the history.
    pub(crate) first: u64,
    /// Position after its last one.
    pub(crate) end: u64,
    pub(crate) messages: u64,
    /// What its messages counted for in their queue.
    pub(crate) message_bytes: u64,
    /// When its last message was acknowledged.
    pub(crate) newest_ms: u64,
    file: Arc<dyn File>,
    chunks: Vec<Chunk>,
    data_end: u32,
    footer_bytes: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    /// From the file's first.
    position: u32,
    offset: u32,
    /// When its first message was acknowledged.
    acked_at_ms: u64,
}

/// A part of a history file that was read. Its messages are decoded when they are asked for.
pub(crate) struct LoadedHistory {
    bytes: Bytes,
}

impl LoadedHistory {
    /// The messages in order, and none for each that is damaged.
    pub(crate) fn messages(&self) -> impl Iterator<Item = Option<Kept<'_>>> {
        StoredRecords::new(&self.bytes).map(|stored| match record::decode(stored.record?) {
            Ok(Record::Kept(kept)) => Some(kept),
            _ => None,
        })
    }

    /// The same, with where each record starts in the chunk.
    pub(crate) fn with_offsets(&self) -> impl Iterator<Item = (u32, Option<Kept<'_>>)> {
        StoredRecords::new(&self.bytes).map(|stored| stored.start).zip(self.messages())
    }

    /// The records.
    fn records(&self) -> impl Iterator<Item = &[u8]> {
        StoredRecords::new(&self.bytes).filter_map(|stored| stored.record)
    }
}

impl HistoryFile {
    /// Bytes that its file takes.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.data_end) + u64::from(self.footer_bytes)
    }

    pub(crate) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// The positions that a chunk spans.
    pub(crate) fn chunk_span(&self, chunk: usize) -> Range<u64> {
        let start = |chunk: &Chunk| self.first + u64::from(chunk.position);
        start(&self.chunks[chunk])..self.chunks.get(chunk + 1).map_or(self.end, start)
    }

    /// Which bytes of the file a chunk takes.
    pub(crate) fn chunk_bytes(&self, chunk: usize) -> Range<u32> {
        self.chunks[chunk].offset..self.chunks.get(chunk + 1).map_or(self.data_end, |next| next.offset)
    }

    /// The chunk that a position is in, or that comes next.
    pub(crate) fn chunk_of(&self, position: u64) -> usize {
        let relative = position.saturating_sub(self.first);
        self.chunks.partition_point(|chunk| u64::from(chunk.position) <= relative).saturating_sub(1)
    }

    /// The first chunk that may hold a message that was acknowledged at a time or later.
    pub(crate) fn chunk_at(&self, at_ms: u64) -> usize {
        self.chunks.partition_point(|chunk| chunk.acked_at_ms < at_ms).saturating_sub(1)
    }

    /// How many messages there are from a position on, and what they count for; inside of the file that is an estimate.
    pub(crate) fn left_from(&self, position: u64) -> (u64, u64) {
        if position <= self.first {
            return (self.messages, self.message_bytes);
        }
        if position >= self.end {
            return (0, 0);
        }
        let left = self.messages.min(self.end - position);
        (left, self.message_bytes / self.messages.max(1) * left)
    }

    pub(crate) fn read_chunk(&self, chunk: usize) -> Result<LoadedHistory, DiskError> {
        let Range { start, end } = self.chunk_bytes(chunk);
        let mut bytes = vec![0; (end - start) as usize];
        self.file.read_at(&mut bytes, u64::from(start))?;
        Ok(LoadedHistory { bytes: Bytes::from(bytes) })
    }

    /// Opens a history file. `store_tag`: of the store that it must belong to.
    pub(crate) fn open(disk: &dyn Disk, id: u64, store_tag: u64) -> Result<HistoryFile, OpenError> {
        let name = name(id);
        let file = disk.open_to_read(&name)?;
        let damaged = |offset: u64, why: &str| OpenError::Damaged { file: name.clone(), offset, why: why.into() };
        let numbers = KIND.read(&name, &*file)?.ok_or_else(|| damaged(0, "the file is empty"))?;
        let [tag, own_id, queue, first, end, messages, data_end, footer_bytes, footer_crc, message_bytes, newest_ms] =
            numbers;
        if tag != store_tag || own_id != id {
            return Err(damaged(16, "it belongs to another store, or its name was changed"));
        }
        let short = |number: u64| u32::try_from(number).map_err(|_| damaged(16, "a number is too large"));
        let span = end.checked_sub(first).filter(|span| (1..=SPAN_MAX).contains(span));
        if span.is_none_or(|span| messages > span || messages == 0)
            || end > NUMBER_MAX
            || message_bytes > NUMBER_MAX
            || data_end < HEADER_BYTES as u64
        {
            return Err(damaged(16, "the header makes no sense"));
        }
        let (data_end, footer_bytes) = (short(data_end)?, short(footer_bytes)?);
        let len = file.len()?;
        if len < u64::from(data_end) + u64::from(footer_bytes) {
            return Err(damaged(len, "the rest of the file is missing"));
        }
        let mut footer = vec![0; footer_bytes as usize];
        file.read_at(&mut footer, u64::from(data_end))?;
        if u64::from(crc32c::crc32c(&footer)) != footer_crc {
            return Err(damaged(u64::from(data_end), "the index is damaged: its checksum does not match"));
        }
        let chunks = decode_footer(&footer, end - first, data_end)
            .ok_or_else(|| damaged(u64::from(data_end), "the index makes no sense"))?;
        let queue = QueueNumber(short(queue)?);
        Ok(HistoryFile {
            id,
            queue,
            first,
            end,
            messages,
            message_bytes,
            newest_ms,
            file,
            chunks,
            data_end,
            footer_bytes,
        })
    }
}

fn decode_footer(footer: &[u8], span: u64, data_end: u32) -> Option<Vec<Chunk>> {
    let (chunks, rest) = footer.as_chunks::<{ CHUNK_INFO_BYTES as usize }>();
    if !rest.is_empty() {
        return None;
    }
    let u32_at = |chunk: &[u8], at: usize| u32::from_le_bytes(chunk[at..at + 4].try_into().expect("four bytes"));
    let chunks: Vec<Chunk> = chunks
        .iter()
        .map(|chunk| Chunk {
            position: u32_at(chunk, 0),
            offset: u32_at(chunk, 4),
            acked_at_ms: u64::from_le_bytes(chunk[8..].try_into().expect("eight bytes")),
        })
        .collect();
    let starts = chunks.first().is_some_and(|chunk| chunk.position == 0 && chunk.offset as usize == HEADER_BYTES);
    let ends = chunks.last().is_some_and(|chunk| u64::from(chunk.position) < span && chunk.offset < data_end);
    let ordered = chunks.windows(2).all(|two| {
        two[0].position < two[1].position && two[0].offset < two[1].offset && two[0].acked_at_ms <= two[1].acked_at_ms
    });
    (starts && ends && ordered).then_some(chunks)
}

/// Writes a history file.
pub(crate) struct HistoryWriter {
    id: u64,
    queue: QueueNumber,
    chunk_bytes: usize,
    records: Appender,
    first: u64,
    end: u64,
    messages: u64,
    message_bytes: u64,
    newest_ms: u64,
    chunks: Vec<Chunk>,
}

impl HistoryWriter {
    pub(crate) fn new(
        disk: &dyn Disk,
        id: u64,
        queue: QueueNumber,
        chunk_bytes: usize,
    ) -> Result<HistoryWriter, DiskError> {
        Ok(HistoryWriter {
            id,
            queue,
            chunk_bytes,
            records: Appender::new(disk.create(&name(id))?),
            first: 0,
            end: 0,
            messages: 0,
            message_bytes: 0,
            newest_ms: 0,
            chunks: Vec::new(),
        })
    }

    /// Whether a message at this position still fits.
    pub(crate) fn takes(&self, position: u64, record_bytes: usize) -> bool {
        let bytes = u64::from(self.records.end()) + record_bytes as u64;
        self.messages == 0 || (position - self.first < SPAN_MAX && bytes < BYTES_MAX)
    }

    /// Adds a message whose put is known to be whole. Positions must grow.
    pub(crate) fn put(&mut self, kept: KeptPlace, bytes: u32, put: &[u8]) -> Result<(), DiskError> {
        self.add(kept, bytes, |out| {
            record::encode_kept(out, kept, |out| out.extend_from_slice(put));
        })
    }

    /// Adds a message with the record that it had in another history file.
    fn copy(&mut self, kept: KeptPlace, bytes: u32, record: &[u8]) -> Result<(), DiskError> {
        self.add(kept, bytes, |out| out.extend_from_slice(record))
    }

    fn add(&mut self, kept: KeptPlace, bytes: u32, record: impl FnOnce(&mut Vec<u8>)) -> Result<(), DiskError> {
        if self.messages == 0 {
            self.first = kept.position;
        }
        assert!(kept.position >= self.end || self.messages == 0, "messages come in order");
        let offset = self.records.end();
        if self.chunks.last().is_none_or(|chunk| (offset - chunk.offset) as usize >= self.chunk_bytes) {
            let position = (kept.position - self.first) as u32;
            self.chunks.push(Chunk { position, offset, acked_at_ms: kept.acked_at_ms });
        }
        self.records.add(record)?;
        self.end = kept.position + 1;
        self.messages += 1;
        self.message_bytes += u64::from(bytes);
        self.newest_ms = kept.acked_at_ms;
        Ok(())
    }

    /// Ends the file and syncs it. Its name is durable after the folder is synced.
    pub(crate) fn finish(self, disk: &dyn Disk, store_tag: u64) -> Result<HistoryFile, DiskError> {
        let HistoryWriter { id, queue, records, first, end, messages, message_bytes, newest_ms, chunks, .. } = self;
        let footer = |out: &mut Footer| {
            chunks.iter().try_for_each(|chunk| {
                out.add(&chunk.position.to_le_bytes())?;
                out.add(&chunk.offset.to_le_bytes())?;
                out.add(&chunk.acked_at_ms.to_le_bytes())
            })
        };
        let Ending { data_end, footer_bytes, .. } = records.finish(footer, |ending| {
            KIND.encode(&[
                store_tag,
                id,
                u64::from(queue.0),
                first,
                end,
                messages,
                u64::from(ending.data_end),
                u64::from(ending.footer_bytes),
                u64::from(ending.footer_crc),
                message_bytes,
                newest_ms,
            ])
        })?;
        let file = disk.open_to_read(&name(id))?;
        Ok(HistoryFile {
            id,
            queue,
            first,
            end,
            messages,
            message_bytes,
            newest_ms,
            file,
            chunks,
            data_end,
            footer_bytes,
        })
    }
}

/// Why files could not be put together.
pub(crate) enum JoinError {
    Disk(DiskError),
    /// Something in the file with this number is damaged, or can't be read.
    Damaged(u64),
}

/// Makes one file of some that stand side by side, without what stands before `begin`. None if nothing is left.
pub(crate) fn join(
    disk: &dyn Disk,
    old: &[Arc<HistoryFile>],
    begin: u64,
    id: u64,
    chunk_bytes: usize,
    store_tag: u64,
) -> Result<Option<HistoryFile>, JoinError> {
    let mut writer: Option<HistoryWriter> = None;
    for file in old.iter().filter(|file| file.end > begin) {
        let mut copied = 0;
        // What is expired is not read.
        let first_chunk = file.chunk_of(begin);
        for chunk in first_chunk..file.chunks() {
            let loaded = file.read_chunk(chunk).map_err(|error| match error.shortage() {
                Some(_) => JoinError::Disk(error),
                None => JoinError::Damaged(file.id),
            })?;
            for record in loaded.records() {
                let Ok(Record::Kept(Kept { kept, put, .. })) = record::decode(record) else { continue };
                copied += 1;
                if kept.position < begin {
                    continue;
                }
                let writer = match &mut writer {
                    Some(writer) => writer,
                    none => {
                        none.insert(HistoryWriter::new(disk, id, file.queue, chunk_bytes).map_err(JoinError::Disk)?)
                    }
                };
                writer.copy(kept, put.message_bytes(), record).map_err(JoinError::Disk)?;
            }
        }
        // A copy without what is damaged would hide it.
        if first_chunk == 0 && copied != file.messages {
            return Err(JoinError::Damaged(file.id));
        }
    }
    writer.map(|writer| writer.finish(disk, store_tag)).transpose().map_err(JoinError::Disk)
}
