//! The first sector of every file of the store (`FORMAT.md`, "The header of a file"). It fits into a sector, so that it is
//! written whole or not at all.

use std::str::FromStr;

use crate::disk::{DiskError, File, SECTOR_BYTES};
use crate::error::OpenError;

pub(crate) const HEADER_BYTES: usize = SECTOR_BYTES as usize;

/// No count, epoch or number of a message comes near this. Larger ones are not what was written, and would not fit where
/// there are many of them in memory ([`crate::short`]).
pub(crate) const NUMBER_MAX: u64 = (1 << 47) - 1;

const NUMBERS_AT: usize = 16;
const CRC_AT: usize = HEADER_BYTES - 4;

/// A kind of file.
pub(crate) struct Kind {
    pub(crate) magic: &'static [u8; 8],
    pub(crate) version: u32,
    /// What it is, for people: "a log file".
    pub(crate) what: &'static str,
}

impl Kind {
    /// The header of a file with these numbers.
    pub(crate) fn encode(&self, numbers: &[u64]) -> [u8; HEADER_BYTES] {
        let mut sector = [0; HEADER_BYTES];
        sector[..8].copy_from_slice(self.magic);
        sector[8..12].copy_from_slice(&self.version.to_le_bytes());
        for (place, number) in sector[NUMBERS_AT..CRC_AT].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&sector[..CRC_AT]);
        sector[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        sector
    }

    /// The numbers of a file's header; none if it was never begun.
    pub(crate) fn read<const N: usize>(&self, name: &str, file: &dyn File) -> Result<Option<[u64; N]>, OpenError> {
        // A file that is shorter than its header was never finished.
        if file.len()? < HEADER_BYTES as u64 {
            return Ok(None);
        }
        let mut sector = [0; HEADER_BYTES];
        file.read_at(&mut sector, 0)?;
        self.decode(name, &sector)
    }

    fn decode<const N: usize>(&self, name: &str, sector: &[u8; HEADER_BYTES]) -> Result<Option<[u64; N]>, OpenError> {
        let damaged = |why: String| OpenError::Damaged { file: name.into(), offset: 0, why };
        if sector.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if sector[..8] != *self.magic {
            return Err(damaged(format!("this is no {} of Linecook, or its header is damaged", self.what)));
        }
        let u32_at = |at: usize| u32::from_le_bytes(sector[at..at + 4].try_into().expect("four bytes"));
        // The checksum comes before the version: a flipped bit in the version is damage, not a newer format.
        if crc32c::crc32c(&sector[..CRC_AT]) != u32_at(CRC_AT) {
            return Err(damaged("the header is damaged: its checksum does not match".into()));
        }
        let (version, features) = (u32_at(8), u32_at(12));
        if version != self.version {
            return Err(OpenError::OtherFormat { file: name.into(), format: version, known: self.version });
        }
        if features != 0 {
            return Err(OpenError::UnknownFeatures { file: name.into(), features });
        }
        Ok(Some(numbers(sector)))
    }
}

/// The number that a file's name carries between these, if `name_of` gives it that very name.
pub(crate) fn number_in_name<T: FromStr + Copy>(
    name: &str,
    prefix: &str,
    suffix: &str,
    name_of: impl FnOnce(T) -> String,
) -> Option<T> {
    let number = name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok()?;
    (name_of(number) == name).then_some(number)
}

/// The numbers of a file's header, whatever else is wrong with it: what they lead to must prove itself.
pub(crate) fn read_unproven<const N: usize>(file: &dyn File) -> Result<[u64; N], DiskError> {
    let mut sector = [0; HEADER_BYTES];
    file.read_at(&mut sector, 0)?;
    Ok(numbers(&sector))
}

fn numbers<const N: usize>(sector: &[u8; HEADER_BYTES]) -> [u64; N] {
    let mut numbers = [0; N];
    for (number, bytes) in numbers.iter_mut().zip(sector[NUMBERS_AT..CRC_AT].chunks_exact(8)) {
        *number = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { magic: b"LNCKTST\n", version: 1, what: "test file" };

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_refused() {
        let mut sector = KIND.encode(&[3, u64::MAX, 5]);
        assert_eq!(KIND.decode("file", &sector).unwrap(), Some([3, u64::MAX, 5]));
        for bit in 0..HEADER_BYTES * 8 {
            sector[bit / 8] ^= 1 << (bit % 8);
            let refused = KIND.decode::<3>("file", &sector);
            assert!(matches!(refused, Err(OpenError::Damaged { offset: 0, .. })), "bit {bit}: {refused:?}");
            sector[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(KIND.decode::<3>("file", &[0; HEADER_BYTES]).unwrap(), None);
    }

    #[test]
    fn another_format_and_unknown_features_are_refused_by_name() {
        for (at, expected) in [(8, "format 2"), (12, "features")] {
            let mut sector = KIND.encode(&[]);
            sector[at] = 2;
            let crc = crc32c::crc32c(&sector[..CRC_AT]);
            sector[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
            let why = KIND.decode::<0>("wal-0001.log", &sector).unwrap_err().to_string();
            assert!(why.contains(expected) && why.contains("wal-0001.log"), "{why}");
        }
    }
}
