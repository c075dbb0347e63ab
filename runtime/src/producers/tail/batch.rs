//! What is read in one go and put on record in one step: lines, and how far their files are read with them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;

use super::lines::Progress;
use super::position::{Head, Record};
use crate::producers::file_id::FileId;

/// What goes on record in one step, unless the engine takes less.
pub(super) const BATCH_BYTES: usize = 1 << 20;
pub(super) const BATCH_LINES: usize = 8192;
pub(super) const BATCH_FILES: usize = 256;
/// Chunks that are read for one step: a line without an end may be as long as its file.
pub(super) const BATCH_READS: usize = 256;
/// What a line costs beside its bytes: its record's other fields and its attributes, roughly.
pub(super) const LINE_OVERHEAD: usize = 160;

/// A line on its way to the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) file: FileId,
    pub(super) path: PathBuf,
    pub(super) offset: u64,
    pub(super) part: Option<String>,
    pub(super) body: Bytes,
    /// How far its file is read with it.
    pub(super) progress: Progress,
}

/// What goes on record in one step.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<Line>,
    /// What the files of the lines begin with: from which line on, and up to the next.
    pub(super) heads: Vec<(usize, Head)>,
    /// Files that have come further than their last line, or have moved. To be written with the last line.
    pub(super) others: BTreeMap<FileId, Record>,
    /// Files that are no more. To be taken away after that.
    pub(super) forgotten: BTreeSet<FileId>,
    /// Lines that were too long.
    pub(super) refused: u64,
    pub(super) bytes: usize,
}

impl Batch {
    /// Nothing to put on record.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.others.is_empty() && self.forgotten.is_empty()
    }

    /// What the records of the files are once these lines are on record.
    pub(super) fn records(&self, lines: Range<usize>) -> BTreeMap<FileId, Record> {
        let mut last: BTreeMap<FileId, usize> = BTreeMap::new();
        last.extend(lines.map(|index| (self.lines[index].file, index)));
        let record = |(file, index): (FileId, usize)| {
            let line = &self.lines[index];
            let head = self.heads.partition_point(|(from, _)| *from <= index) - 1;
            (file, Record::new(&line.path, line.progress, &self.heads[head].1))
        };
        last.into_iter().map(record).collect()
    }

    pub(super) fn is_full(&self, bytes_max: usize) -> bool {
        self.bytes >= bytes_max || self.lines.len() >= BATCH_LINES || self.others.len() >= BATCH_FILES
    }
}
