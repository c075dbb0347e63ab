//! A file of the log: its name and its header (`FORMAT.md`, "Log files").

use super::frame::Seal;
use crate::disk::{DiskError, File};
use crate::error::OpenError;
use crate::header::{self, Kind, NUMBER_MAX, number_in_name};

pub(crate) use crate::header::HEADER_BYTES;

/// Offsets in it have 32 bits.
const FILE_BYTES_MAX: u64 = u32::MAX as u64;

const KIND: Kind = Kind { magic: b"LNCKWAL\n", version: 1, what: "log file" };

/// What a begun file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) epoch: u64,
    pub(crate) first_lsn: u64,
    pub(crate) store_tag: u64,
    pub(crate) salt: u64,
    pub(crate) file_bytes: u64,
}

impl FileHeader {
    pub(crate) fn seal(&self) -> Seal {
        Seal { epoch: self.epoch, salt: self.salt }
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        KIND.encode(&[self.epoch, self.first_lsn, self.store_tag, self.salt, self.file_bytes])
    }

    /// The header of a file; none if it was never begun.
    pub(crate) fn read(name: &str, file: &dyn File) -> Result<Option<FileHeader>, OpenError> {
        let Some(numbers) = KIND.read(name, file)? else { return Ok(None) };
        let header = FileHeader::new(numbers);
        let numbers_fit = (1..NUMBER_MAX).contains(&header.epoch)
            && (1..NUMBER_MAX).contains(&header.first_lsn)
            && (HEADER_BYTES as u64..=FILE_BYTES_MAX).contains(&header.file_bytes);
        match numbers_fit {
            true => Ok(Some(header)),
            false => Err(OpenError::damaged(name, 16, "the header makes no sense")),
        }
    }

    /// What a damaged header says. Frames that fit to it prove it.
    pub(crate) fn read_unproven(file: &dyn File) -> Result<FileHeader, DiskError> {
        Ok(FileHeader::new(header::read_unproven(file)?))
    }

    fn new([epoch, first_lsn, store_tag, salt, file_bytes]: [u64; 5]) -> FileHeader {
        FileHeader { epoch, first_lsn, store_tag, salt, file_bytes }
    }
}

/// The name of the log file in place `slot` of the ring.
pub(crate) fn name(slot: u32) -> String {
    format!("wal-{slot:04}.log")
}

/// The place in the ring that a file's name stands for.
pub(crate) fn slot(name: &str) -> Option<u32> {
    number_in_name(name, "wal-", ".log", self::name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_slots_belong_together() {
        assert_eq!(name(3), "wal-0003.log");
        for number in [0, 3, 9999, 12345] {
            assert_eq!(slot(&name(number)), Some(number));
        }
        for other in ["wal-3.log", "wal-0003.log.tmp", "lock", "wal--001.log", "wal-+003.log"] {
            assert_eq!(slot(other), None, "{other}");
        }
    }
}
