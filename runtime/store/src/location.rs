//! Where records stand on disk.

use std::fmt;

use crate::cold::segment;
use crate::short::Short;

/// A file that messages stand in: one of the log's, by its epoch, or a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileId(u64);

/// Tells segments from files of the log.
const SEGMENT: u64 = 1 << 63;

/// Bits that a short number lacks.
const SHORTER_BY: u32 = u64::BITS - Short::BITS;

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

    pub(crate) fn to_short(self) -> Short {
        // No number of a file uses the highest bit of a short one (see `NUMBER_MAX`): there it fits, too.
        Short::new(self.0 & !SEGMENT | (self.0 & SEGMENT) >> SHORTER_BY)
    }

    pub(crate) fn from_short(short: Short) -> FileId {
        let number = short.get();
        let segment = (number << SHORTER_BY) & SEGMENT;
        FileId(number & !(SEGMENT >> SHORTER_BY) | segment)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::NUMBER_MAX;

    #[test]
    fn the_number_of_any_file_fits_in_a_short_one() {
        for number in [0, 1, 1 << 32, NUMBER_MAX] {
            for file in [FileId::log(number), FileId::segment(number)] {
                assert_eq!(FileId::from_short(file.to_short()), file);
            }
        }
    }
}
