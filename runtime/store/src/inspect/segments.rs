//! The records of a segment, also those after damage.

use std::ops::Range;
use std::sync::Arc;

use super::finding::Meaning;
use crate::cold::segment::{self, LEN_BYTES, Segment, StoredRecords};
use crate::disk::{Disk, DiskError, File};
use crate::error::OpenError;
use crate::header::{self, HEADER_BYTES};
use crate::record::{Malformed, Put, QueueNumber};

/// Who needs a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The checkpoint that opening begins with.
    Needed,
    /// Only the other checkpoint.
    OnlyOther,
    /// Nobody: it was being made, or nobody got to remove it. Opening removes it.
    Leftover,
    /// Nobody knows, since no checkpoint is whole.
    Unknown,
}

pub(super) struct SegmentFile {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) role: Role,
    file: Arc<dyn File>,
    /// The segment, or why it can't be opened.
    pub(super) opened: Result<Segment, OpenError>,
}

/// A record of a segment, or a place where none can be read.
pub(super) struct Found<'a> {
    /// From the start of the file.
    pub(super) offset: u32,
    pub(super) put: Result<Put<'a>, Malformed>,
}

impl Role {
    /// What it means that such a file can't be opened.
    pub(super) fn meaning(self) -> Meaning {
        match self {
            Role::Needed | Role::Unknown => Meaning::Refuses,
            Role::OnlyOther => Meaning::Recoverable,
            Role::Leftover => Meaning::Leftover,
        }
    }
}

impl SegmentFile {
    pub(super) fn open(disk: &dyn Disk, id: u64, role: Role, store_tag: u64) -> Result<SegmentFile, DiskError> {
        let name = segment::name(id);
        let file = disk.open_to_read(&name)?;
        Ok(SegmentFile { id, name, role, file, opened: Segment::open(disk, id, store_tag) })
    }

    /// The queue that all of its messages are in, if its header is whole.
    pub(super) fn queue(&self) -> Option<QueueNumber> {
        self.opened.as_ref().ok().map(|segment| segment.queue)
    }

    /// Position of its first message, as well as it is known.
    pub(super) fn first(&self) -> Result<u64, DiskError> {
        if let Ok(segment) = &self.opened {
            return Ok(segment.first);
        }
        let mut first = None;
        self.each_record(|found| {
            // Only what stands at the very start is the first.
            let at_start = found.offset as usize == HEADER_BYTES + LEN_BYTES;
            first = first.or(found.put.ok().filter(|_| at_start).map(|put| put.place.position));
        })?;
        match first {
            Some(first) => Ok(first),
            None => Ok(header::read_unproven::<4>(&*self.file)?[3]),
        }
    }

    /// What is read at once, from the start of the file: the chunks, or all if the index can't be read.
    pub(super) fn pieces(&self) -> Result<Vec<Range<u32>>, DiskError> {
        match &self.opened {
            Ok(segment) => Ok(segment.chunks().map(|chunk| segment.indexed(chunk).bytes).collect()),
            Err(_) => {
                let len = u32::try_from(self.file.len()?).unwrap_or(u32::MAX);
                let all = (HEADER_BYTES as u32).min(len)..len;
                Ok(Vec::from([all]))
            }
        }
    }

    pub(super) fn read(&self, piece: &Range<u32>) -> Result<Vec<u8>, DiskError> {
        let mut bytes = vec![0; piece.len()];
        self.file.read_at(&mut bytes, u64::from(piece.start))?;
        Ok(bytes)
    }

    /// All records, piece by piece.
    pub(super) fn each_record(&self, mut sink: impl FnMut(Found<'_>)) -> Result<(), DiskError> {
        for piece in self.pieces()? {
            let bytes = self.read(&piece)?;
            records(&bytes, piece.start, self.queue()).for_each(&mut sink);
        }
        Ok(())
    }
}

/// The records in a part of a segment that starts at `base`. After damage it looks for the next whole one at every byte:
/// a record has a checksum, and its position must be later than all before it.
pub(super) fn records(bytes: &[u8], base: u32, queue: Option<QueueNumber>) -> impl Iterator<Item = Found<'_>> {
    let mut stored = StoredRecords::new(bytes);
    let mut before = None;
    std::iter::from_fn(move || {
        let at = stored.at();
        let found = stored.next()?;
        let fits = |put: &Put<'_>| {
            queue.is_none_or(|queue| put.place.queue == queue)
                && before.is_none_or(|before| put.place.position > before)
        };
        match found.put() {
            Ok(put) if fits(&put) => {
                before = Some(put.place.position);
                Some(Found { offset: base + found.start, put: Ok(put) })
            }
            other => {
                let why = other.err().unwrap_or(Malformed::Number);
                let next = (at + 1..bytes.len()).find(|at| {
                    let record = StoredRecords::starting(bytes, *at).next();
                    record.and_then(|record| record.put().ok()).is_some_and(|put| fits(&put))
                });
                stored = StoredRecords::starting(bytes, next.unwrap_or(bytes.len()));
                Some(Found { offset: base + at as u32, put: Err(why) })
            }
        }
    })
}
