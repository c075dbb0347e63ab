//! A segment: some messages of one queue, in order, in a file that is written once and never changed (`FORMAT.md`, "Segments").
//!
//! A chunk is what is read at once: messages of at least [`chunk_bytes`](Writer::new) in all.

use std::sync::Arc;

use bytes::Bytes;

use super::appender::{Appender, Ending, Footer};
use super::places::{Places, Written};
use crate::disk::{Disk, DiskError, File};
use crate::error::OpenError;
use crate::header::{HEADER_BYTES, Kind, NUMBER_MAX, number_in_name};
use crate::location::{FileId, Location};
use crate::record::{self, DeliveryState, Malformed, Put, PutPlace, QueueNumber, Record};

const KIND: Kind = Kind { magic: b"LNCKSEG\n", version: 1, what: "segment" };
pub(crate) const LEN_BYTES: usize = 4;

/// Positions that a segment may span. Each costs two bits in memory, whether a message stands there or not.
pub(crate) const SPAN_MAX: u64 = 1 << 26;

/// The name of a segment's file.
pub(crate) fn name(id: u64) -> String {
    format!("segment-{id:08}.seg")
}

/// The number of the segment that a file's name stands for.
pub(crate) fn id(name: &str) -> Option<u64> {
    number_in_name(name, "segment-", ".seg", self::name).filter(|id| *id < NUMBER_MAX)
}

/// A segment that is whole and durable.
pub(crate) struct Segment {
    pub(crate) id: u64,
    pub(crate) queue: QueueNumber,
    /// Position of its first message.
    pub(crate) first: u64,
    /// Position after its last one.
    pub(crate) end: u64,
    pub(crate) messages: u64,
    pub(crate) file: Arc<dyn File>,
    chunks: Vec<Chunk>,
    /// Where the footer starts.
    data_end: u32,
    footer_bytes: u32,
    footer_crc: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    /// From the segment's first.
    position: u32,
    offset: u32,
    enqueued_at_ms: u64,
}

/// What a footer knows beside the index. Needed once, when the store is opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Special {
    /// Position and due time of the messages that were delayed.
    pub(crate) delayed: Vec<(u64, u64)>,
    /// Positions of the messages that carry a key.
    pub(crate) keyed: Vec<u64>,
}

/// A chunk of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ChunkId {
    pub(crate) segment: u64,
    number: u32,
}

/// What the sparse index says of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Indexed {
    /// Of its first message.
    pub(crate) position: u64,
    pub(crate) enqueued_at_ms: u64,
    /// From the start of the file.
    pub(crate) bytes: std::ops::Range<u32>,
}

impl Segment {
    pub(crate) fn file_id(&self) -> FileId {
        FileId::segment(self.id)
    }

    /// Bytes that its file takes.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.data_end) + u64::from(self.footer_bytes)
    }

    /// Numbers of positions that it spans.
    pub(crate) fn span(&self) -> u64 {
        self.end - self.first
    }

    /// The chunk that a position is in, if it is anywhere here.
    pub(crate) fn chunk_of(&self, position: u64) -> ChunkId {
        let relative = position - self.first;
        let after = self.chunks.partition_point(|chunk| u64::from(chunk.position) <= relative);
        ChunkId { segment: self.id, number: after as u32 - 1 }
    }

    /// The positions that a chunk spans.
    pub(crate) fn chunk_span(&self, chunk: ChunkId) -> std::ops::Range<u64> {
        let start = |chunk: &Chunk| self.first + u64::from(chunk.position);
        let number = chunk.number as usize;
        start(&self.chunks[number])..self.chunks.get(number + 1).map_or(self.end, start)
    }

    /// When the message at a position was sent, or one shortly before it.
    pub(crate) fn enqueued_at_ms(&self, position: u64) -> u64 {
        self.indexed(self.chunk_of(position)).enqueued_at_ms
    }

    /// Reads a chunk. Messages that are damaged are missing in it.
    pub(crate) fn read_chunk(&self, chunk: ChunkId) -> Result<LoadedChunk, DiskError> {
        let std::ops::Range { start, end } = self.indexed(chunk).bytes;
        let mut bytes = vec![0; (end - start) as usize];
        self.file.read_at(&mut bytes, u64::from(start))?;
        Ok(LoadedChunk::new(self, chunk, start, Bytes::from(bytes)))
    }

    /// As [`Segment::read_chunk`], with all its messages decoded.
    pub(crate) fn read_decoded_chunk(&self, chunk: ChunkId) -> Result<LoadedChunk, DiskError> {
        let mut chunk = self.read_chunk(chunk)?;
        chunk.decode();
        Ok(chunk)
    }

    /// What to say of a message that should be in a chunk and is not.
    pub(crate) fn damage(&self, chunk: ChunkId) -> String {
        let offset = self.indexed(chunk).bytes.start;
        format!("a message can't be read: {} is damaged at or after offset {offset}", name(self.id))
    }

    /// What the index says of a chunk: its first message's position and time, and which bytes of the file it takes.
    pub(crate) fn indexed(&self, chunk: ChunkId) -> Indexed {
        let number = chunk.number as usize;
        let Chunk { position, offset, enqueued_at_ms } = self.chunks[number];
        let end = self.chunks.get(number + 1).map_or(self.data_end, |next| next.offset);
        Indexed { position: self.first + u64::from(position), enqueued_at_ms, bytes: offset..end }
    }

    pub(crate) fn chunks(&self) -> impl Iterator<Item = ChunkId> {
        (0..self.chunks.len() as u32).map(|number| ChunkId { segment: self.id, number })
    }

    /// Opens a segment. `store_tag`: of the store that it must belong to.
    pub(crate) fn open(disk: &dyn Disk, id: u64, store_tag: u64) -> Result<Segment, OpenError> {
        let name = name(id);
        let file = disk.open_to_read(&name)?;
        let damaged = |offset: u64, why: &str| OpenError::Damaged { file: name.clone(), offset, why: why.into() };
        let numbers = KIND.read(&name, &*file)?.ok_or_else(|| damaged(0, "the file is empty"))?;
        let [tag, own_id, queue, first, end, messages, data_end, footer_bytes, footer_crc] = numbers;
        if tag != store_tag || own_id != id {
            return Err(damaged(16, "it belongs to another store, or its name was changed"));
        }
        let short = |number: u64| u32::try_from(number).map_err(|_| damaged(16, "a number is too large"));
        let span = end.checked_sub(first).filter(|span| (1..=SPAN_MAX).contains(span));
        if span.is_none_or(|span| messages > span) || end > NUMBER_MAX || data_end < HEADER_BYTES as u64 {
            return Err(damaged(16, "the header makes no sense"));
        }
        let mut segment = Segment {
            id,
            queue: QueueNumber(short(queue)?),
            first,
            end,
            messages,
            file,
            chunks: Vec::new(),
            data_end: short(data_end)?,
            footer_bytes: short(footer_bytes)?,
            footer_crc: short(footer_crc)?,
        };
        let len = segment.file.len()?;
        if len < segment.bytes() {
            return Err(damaged(len, "the rest of the file is missing"));
        }
        let (chunks, _) = segment.read_footer()?;
        segment.chunks = chunks;
        Ok(segment)
    }

    /// Which of its messages were delayed or carry a key when they were copied.
    pub(crate) fn special(&self) -> Result<Special, OpenError> {
        Ok(self.read_footer()?.1)
    }

    fn read_footer(&self) -> Result<(Vec<Chunk>, Special), OpenError> {
        let damaged =
            |why: &str| OpenError::Damaged { file: name(self.id), offset: u64::from(self.data_end), why: why.into() };
        let mut footer = vec![0; self.footer_bytes as usize];
        self.file.read_at(&mut footer, u64::from(self.data_end))?;
        if crc32c::crc32c(&footer) != self.footer_crc {
            return Err(damaged("the index is damaged: its checksum does not match"));
        }
        decode_footer(&footer, self.first, self.span(), self.data_end)
            .ok_or_else(|| damaged("the index makes no sense"))
    }
}

fn decode_footer(footer: &[u8], first: u64, span: u64, data_end: u32) -> Option<(Vec<Chunk>, Special)> {
    struct Rest<'a>(&'a [u8]);
    impl Rest<'_> {
        fn u32(&mut self) -> Option<u32> {
            let (bytes, rest) = self.0.split_first_chunk()?;
            self.0 = rest;
            Some(u32::from_le_bytes(*bytes))
        }
        fn u64(&mut self) -> Option<u64> {
            Some(u64::from(self.u32()?) | u64::from(self.u32()?) << 32)
        }
        fn position(&mut self, span: u64) -> Option<u32> {
            self.u32().filter(|position| u64::from(*position) < span)
        }
    }
    let mut rest = Rest(footer);
    let mut chunks = Vec::new();
    for _ in 0..rest.u32()? {
        chunks.push(Chunk { position: rest.position(span)?, offset: rest.u32()?, enqueued_at_ms: rest.u64()? });
    }
    let starts_at_first =
        chunks.first().is_some_and(|chunk| chunk.position == 0 && chunk.offset as usize == HEADER_BYTES);
    let ends_inside = chunks.last().is_some_and(|chunk| chunk.offset < data_end);
    let ordered = chunks.windows(2).all(|two| two[0].position < two[1].position && two[0].offset < two[1].offset);
    let mut special = Special::default();
    for _ in 0..rest.u32()? {
        special.delayed.push((first + u64::from(rest.position(span)?), rest.u64()?));
    }
    for _ in 0..rest.u32()? {
        special.keyed.push(first + u64::from(rest.position(span)?));
    }
    (starts_at_first && ends_inside && ordered && rest.0.is_empty()).then_some((chunks, special))
}

/// The records in a part of a segment, one after the other. After a length that can't be right it ends.
pub(crate) struct StoredRecords<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A record that nobody has checked, or none if its length can't be right.
pub(crate) struct Stored<'a> {
    /// Where it starts in the part, after its length.
    pub(crate) start: u32,
    pub(crate) record: Option<&'a [u8]>,
}

impl<'a> Stored<'a> {
    /// The put that it is, or why it is none.
    pub(crate) fn put(&self) -> Result<Put<'a>, Malformed> {
        let record = self.record.ok_or(Malformed::Short)?;
        match record::decode(record)? {
            Record::Put(put) => Ok(put),
            _ => Err(Malformed::Kind(record[0])),
        }
    }
}

impl<'a> StoredRecords<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> StoredRecords<'a> {
        StoredRecords::starting(bytes, 0)
    }

    /// From the length at `at` on.
    pub(crate) fn starting(bytes: &'a [u8], at: usize) -> StoredRecords<'a> {
        StoredRecords { bytes, at }
    }

    /// Where the length of the next record stands.
    pub(crate) fn at(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for StoredRecords<'a> {
    type Item = Stored<'a>;

    fn next(&mut self) -> Option<Stored<'a>> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        let start = (self.at + LEN_BYTES) as u32;
        let record = rest.split_first_chunk().and_then(|(len, rest)| rest.get(..u32::from_le_bytes(*len) as usize));
        self.at = record.map_or(self.bytes.len(), |record| self.at + LEN_BYTES + record.len());
        Some(Stored { start, record })
    }
}

/// A chunk that was read. Its messages are decoded when they are asked for, since of a queue of delayed messages only a few of
/// a chunk are due at the same time, or all at once if it was read ahead.
pub(crate) struct LoadedChunk {
    pub(crate) id: ChunkId,
    queue: QueueNumber,
    file: FileId,
    /// Where the chunk stands in its file.
    offset: u32,
    bytes: Bytes,
    /// By position.
    records: Vec<ChunkRecord>,
    /// What the records say, once they are all decoded: none for one that is damaged.
    messages: Option<Vec<Option<ColdMessage>>>,
}

/// A record in a chunk, which may be damaged.
struct ChunkRecord {
    position: u64,
    /// In the chunk.
    start: u32,
    len: u32,
}

/// What the queues need to know of a message, out of its record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ColdMessage {
    pub(crate) position: u64,
    pub(crate) location: Location,
    pub(crate) sequence: u64,
    pub(crate) enqueued_at_ms: u64,
    pub(crate) bytes: u32,
    pub(crate) state: DeliveryState,
    /// Where its record starts in the chunk.
    start: u32,
}

impl LoadedChunk {
    fn new(segment: &Segment, id: ChunkId, offset: u32, bytes: Bytes) -> LoadedChunk {
        let span = segment.chunk_span(id);
        let mut records: Vec<ChunkRecord> = Vec::new();
        let mut next = span.start;
        for Stored { start, record } in StoredRecords::new(&bytes) {
            // One whose position is damaged is left out; whoever looks for its message hears what is wrong.
            let position = record.and_then(record::put_position);
            let position = position.filter(|position| (next..span.end).contains(position));
            if let Some((record, position)) = record.zip(position) {
                records.push(ChunkRecord { position, start, len: record.len() as u32 });
                next = position + 1;
            }
        }
        LoadedChunk { id, queue: segment.queue, file: segment.file_id(), offset, bytes, records, messages: None }
    }

    /// Decodes all messages, so that nobody does it later who has less time.
    fn decode(&mut self) {
        self.messages = Some(self.records.iter().map(|record| self.decode_one(record)).collect());
    }

    fn decode_one(&self, record: &ChunkRecord) -> Option<ColdMessage> {
        let ChunkRecord { position, start, len } = *record;
        let Ok(Record::Put(put)) = record::decode(&self.bytes[start as usize..(start + len) as usize]) else {
            return None;
        };
        let is_its = put.place.queue == self.queue && put.place.position == position;
        (is_its && put.place.sequence <= NUMBER_MAX).then(|| ColdMessage {
            position,
            location: Location { file: self.file, offset: self.offset + start, len },
            sequence: put.place.sequence,
            enqueued_at_ms: put.place.enqueued_at_ms,
            bytes: put.message_bytes(),
            state: put.place.state,
            start,
        })
    }

    fn message(&self, number: usize) -> Option<ColdMessage> {
        match &self.messages {
            Some(messages) => messages[number],
            None => self.decode_one(&self.records[number]),
        }
    }

    /// The message at a position, if it is there and whole.
    pub(crate) fn get(&self, position: u64) -> Option<ColdMessage> {
        let found = self.records.binary_search_by_key(&position, |record| record.position).ok()?;
        self.message(found)
    }

    /// The messages at some positions, which grow: for each of them what [`LoadedChunk::get`] answers.
    pub(crate) fn get_all(&self, positions: &[u64]) -> impl Iterator<Item = Option<ColdMessage>> {
        let first = positions.first().copied().unwrap_or(0);
        let mut number = self.records.partition_point(|record| record.position < first);
        positions.iter().map(move |position| {
            let skipped = self.records[number..].iter().take_while(|record| record.position < *position).count();
            number += skipped;
            self.records.get(number).filter(|record| record.position == *position)?;
            self.message(number)
        })
    }

    /// Bytes of the file that it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The record of one of its messages, whose checksum was found to be right.
    pub(crate) fn record(&self, message: &ColdMessage) -> Bytes {
        let start = message.start as usize;
        self.bytes.slice(start..start + message.location.len as usize)
    }
}

/// A segment that was just written.
pub(crate) struct Finished {
    pub(crate) segment: Segment,
    pub(crate) written: Places,
}

/// Writes a segment.
pub(crate) struct Writer {
    id: u64,
    queue: QueueNumber,
    chunk_bytes: usize,
    records: Appender,
    first: u64,
    end: u64,
    chunks: Vec<Chunk>,
    /// Positions of the messages with a key.
    keyed: Vec<u64>,
    pub(crate) written: Places,
}

impl Writer {
    pub(crate) fn new(disk: &dyn Disk, id: u64, queue: QueueNumber, chunk_bytes: usize) -> Result<Writer, DiskError> {
        Ok(Writer {
            id,
            queue,
            chunk_bytes,
            records: Appender::new(disk.create(&name(id))?),
            first: 0,
            end: 0,
            chunks: Vec::new(),
            keyed: Vec::new(),
            written: Places::new(),
        })
    }

    /// Whether a message at this position goes well with those that are there: positions cost bits, and offsets are short.
    pub(crate) fn takes(&self, position: u64, record_bytes: usize, gap_max: u64) -> bool {
        const BYTES_MAX: u64 = 1 << 30;
        let bytes = u64::from(self.records.end()) + record_bytes as u64;
        let fits = |position: u64| position - self.end < gap_max && position - self.first < SPAN_MAX;
        self.written.is_empty() || (fits(position) && bytes < BYTES_MAX)
    }

    /// Adds a message. Positions must grow. `record`: what `put` was decoded from, which is written as it is if `place`
    /// says the same.
    pub(crate) fn put(&mut self, place: &PutPlace, put: &Put<'_>, record: &[u8]) -> Result<(), DiskError> {
        let position = place.position;
        if self.written.is_empty() {
            self.first = position;
        }
        assert!(position >= self.end || self.written.is_empty(), "messages come in order");
        let offset = self.records.end();
        let relative = (position - self.first) as u32;
        if self.chunks.last().is_none_or(|chunk| (offset - chunk.offset) as usize >= self.chunk_bytes) {
            self.chunks.push(Chunk { position: relative, offset, enqueued_at_ms: place.enqueued_at_ms });
        }
        if put.key.is_some() {
            self.keyed.push(position);
        }
        let len = self.records.add(|out| match put.place == *place {
            true => out.extend_from_slice(record),
            false => record::encode_put(out, place, &put.message()),
        })?;
        let (offset, due_at_ms) = (offset + LEN_BYTES as u32, place.state.due_at_ms);
        self.written.push(Written { position, offset, len, due_at_ms });
        self.end = position + 1;
        Ok(())
    }

    /// Ends the segment and syncs it. Its name is durable after the folder is synced.
    pub(crate) fn finish(self, disk: &dyn Disk, store_tag: u64) -> Result<Finished, DiskError> {
        let Writer { id, queue, records, first, end, chunks, written, keyed, .. } = self;
        let messages = written.len() as u64;
        let footer = |out: &mut Footer| write_footer(out, first, &chunks, &written, &keyed);
        let Ending { data_end, footer_bytes, footer_crc } = records.finish(footer, |ending| {
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
            ])
        })?;
        let file = disk.open_to_read(&name(id))?;
        let segment = Segment { id, queue, first, end, messages, file, chunks, data_end, footer_bytes, footer_crc };
        Ok(Finished { segment, written })
    }
}

fn write_footer(
    out: &mut Footer,
    first: u64,
    chunks: &[Chunk],
    written: &Places,
    keyed: &[u64],
) -> Result<(), DiskError> {
    let relative = |position: u64| ((position - first) as u32).to_le_bytes();
    let count = |count: usize| (count as u32).to_le_bytes();
    out.add(&count(chunks.len()))?;
    for chunk in chunks {
        out.add(&chunk.position.to_le_bytes())?;
        out.add(&chunk.offset.to_le_bytes())?;
        out.add(&chunk.enqueued_at_ms.to_le_bytes())?;
    }
    out.add(&count(written.delayed()))?;
    for Written { position, due_at_ms, .. } in written.iter().filter(|written| written.due_at_ms != 0) {
        out.add(&relative(position))?;
        out.add(&due_at_ms.to_le_bytes())?;
    }
    out.add(&count(keyed.len()))?;
    keyed.iter().try_for_each(|position| out.add(&relative(*position)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NewMessage;
    use crate::disk::SimulatedDisk;

    #[test]
    fn a_message_with_a_number_that_none_can_have_is_damaged() {
        let disk = SimulatedDisk::new(1);
        let mut writer = Writer::new(&disk, 1, QueueNumber(0), 1000).unwrap();
        for (position, sequence) in [(0, 5), (1, NUMBER_MAX), (2, NUMBER_MAX + 1), (3, 1 << 48), (4, u64::MAX)] {
            let place = PutPlace {
                queue: QueueNumber(0),
                position,
                sequence,
                enqueued_at_ms: 1,
                idempotency: None,
                state: DeliveryState::default(),
                holds_key: false,
            };
            let mut record = Vec::new();
            record::encode_put(&mut record, &place, &NewMessage::default());
            let put = record::decode_put(&record).unwrap().unwrap();
            writer.put(&place, &put, &record).unwrap();
        }
        let Finished { segment, .. } = writer.finish(&disk, 7).unwrap();
        let chunk = segment.read_decoded_chunk(segment.chunk_of(0)).unwrap();
        let readable: Vec<u64> = (0..5).filter(|position| chunk.get(*position).is_some()).collect();
        assert_eq!(readable, [0, 1]);
    }
}
