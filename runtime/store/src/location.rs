//! Where records stand on disk.

use std::fmt;

use crate::cold::segment;

/// A file that messages stand in: one of the log's, by its epoch, or a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileId(u64);

/// Tells segments from files of the log.
const SEGMENT: u64 = 1 << 63;

impl FileId {
    /// The file of the log that was begun with this epoch.
    pub(crate) fn log(epoch: u64) -> FileId {
        FileId(epoch)
    }

    pub(crate) fn segment(id: u64) -> FileId {
        FileId(id | SEGMENT)
    }

    pub(crate) fn is_segment(self) -> bool {
        self.0 & SEGMENT != 0
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_segment() {
            true => f.write_str(&segment::name(self.0 & !SEGMENT)),
            false => write!(f, "the log file with epoch {}", self.0),
        }
    }
}

/// Where the put of a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) file: FileId,
    /// From the start of the file.
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

impl Location {
    /// Of a record that is no put.
    pub(crate) const NONE: Location = Location { file: FileId(0), offset: 0, len: 0 };
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at offset {} of {}", self.len, self.offset, self.file)
    }
}
