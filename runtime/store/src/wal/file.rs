//! A file of the log: its name and its header.
//!
//! The header takes the first sector, so that it is written whole or not at all.
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | magic |
//! | 8 | 4 | version of the file's format |
//! | 12 | 4 | feature bits; none exist yet, and an unknown one is refused |
//! | 16 | 8 | epoch: one more for each file that is begun, also when it is recycled |
//! | 24 | 8 | LSN of its first frame |
//! | 32 | 8 | the oldest epoch that was still needed when it was begun |
//! | 40 | 8 | tag of the store |
//! | 48 | 8 | salt, drawn when it was begun |
//! | 56 | 8 | length of the file |
//! | 64 | 444 | zero |
//! | 508 | 4 | CRC32C of all before |
//!
//! A file whose first sector is all zero was made ahead and never begun.

use super::frame::Seal;
use crate::disk::SECTOR_BYTES;

pub(crate) const HEADER_BYTES: usize = SECTOR_BYTES as usize;

const MAGIC: &[u8; 8] = b"LNCKWAL\n";
const VERSION: u32 = 1;
const CRC_AT: usize = HEADER_BYTES - 4;

/// What a begun file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) epoch: u64,
    pub(crate) first_lsn: u64,
    pub(crate) oldest_epoch: u64,
    pub(crate) store_tag: u64,
    pub(crate) salt: u64,
    pub(crate) file_bytes: u64,
}

/// What the first sector of a file turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sector {
    Blank,
    Header(FileHeader),
    Refused { offset: u64, why: String },
}

impl FileHeader {
    pub(crate) fn seal(&self) -> Seal {
        Seal { epoch: self.epoch, salt: self.salt }
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut sector = [0; HEADER_BYTES];
        sector[..8].copy_from_slice(MAGIC);
        sector[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let numbers =
            [self.epoch, self.first_lsn, self.oldest_epoch, self.store_tag, self.salt, self.file_bytes].into_iter();
        for (place, number) in sector[16..64].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&sector[..CRC_AT]);
        sector[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        sector
    }

    pub(crate) fn decode(sector: &[u8; HEADER_BYTES]) -> Sector {
        let refused = |offset, why: &str| Sector::Refused { offset, why: why.into() };
        if sector.iter().all(|byte| *byte == 0) {
            return Sector::Blank;
        }
        if sector[..8] != *MAGIC {
            return refused(0, "this is no log file of Linecook, or its header is damaged");
        }
        let u32_at = |at: usize| u32::from_le_bytes(sector[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(sector[at..at + 8].try_into().expect("eight bytes"));
        // The checksum comes before the version: a flipped bit in the version is damage, not a newer format.
        if crc32c::crc32c(&sector[..CRC_AT]) != u32_at(CRC_AT) {
            return refused(0, "the header is damaged: its checksum does not match");
        }
        if u32_at(8) != VERSION {
            let why = format!(
                "it has format {}, and this version of Linecook reads format {VERSION}: run the version that wrote it",
                u32_at(8)
            );
            return refused(8, &why);
        }
        if u32_at(12) != 0 {
            return refused(12, "it uses features that this version of Linecook does not know");
        }
        Sector::Header(FileHeader {
            epoch: u64_at(16),
            first_lsn: u64_at(24),
            oldest_epoch: u64_at(32),
            store_tag: u64_at(40),
            salt: u64_at(48),
            file_bytes: u64_at(56),
        })
    }
}

/// The name of the log file in place `slot` of the ring.
pub(crate) fn name(slot: u32) -> String {
    format!("wal-{slot:04}.log")
}

/// The place in the ring that a file's name stands for.
pub(crate) fn slot(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("wal-")?.strip_suffix(".log")?;
    let slot = digits.parse().ok()?;
    (self::name(slot) == name).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_refused() {
        let header = FileHeader { epoch: 3, first_lsn: 17, oldest_epoch: 1, store_tag: 5, salt: 6, file_bytes: 4096 };
        let mut sector = header.encode();
        assert_eq!(FileHeader::decode(&sector), Sector::Header(header));
        for bit in 0..HEADER_BYTES * 8 {
            sector[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(FileHeader::decode(&sector), Sector::Refused { .. }), "bit {bit}");
            sector[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(FileHeader::decode(&[0; HEADER_BYTES]), Sector::Blank);
    }

    #[test]
    fn a_newer_format_is_refused_with_its_number() {
        let header = FileHeader { epoch: 3, first_lsn: 17, oldest_epoch: 1, store_tag: 5, salt: 6, file_bytes: 4096 };
        for (at, expected) in [(8, "format 2"), (12, "features")] {
            let mut sector = header.encode();
            sector[at] = 2;
            let crc = crc32c::crc32c(&sector[..CRC_AT]);
            sector[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
            let Sector::Refused { why, .. } = FileHeader::decode(&sector) else { panic!("accepted") };
            assert!(why.contains(expected), "{why}");
        }
    }

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
