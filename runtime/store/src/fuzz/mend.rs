//! Makes the checksums of a mutated input right again, as far as it can be told where they stand.

use crate::attempts;
use crate::cold::checkpoint;
use crate::cold::segment;
use crate::dedup::run;
use crate::header::HEADER_BYTES;
use crate::history::file as history_file;
use crate::wal::file;
use crate::wal::frame::{self, Seal};

pub(super) fn nothing(_: &str, _: &mut [u8]) {}

/// A put that stands alone.
pub(super) fn put(_: &str, record: &mut [u8]) {
    mend_put(record);
}

fn mend_put(record: &mut [u8]) {
    if record.len() > 5 && record[0] == 10 {
        let mut put_at = 5;
        for _ in 0..2 {
            put_at += record[put_at..].iter().position(|byte| byte & 0x80 == 0).map_or(0, |at| at + 1);
        }
        if record[put_at..].first() == Some(&3) {
            mend_put(&mut record[put_at..]);
        }
        let crc = crc32c::crc32c(&record[5..]);
        record[1..5].copy_from_slice(&crc.to_le_bytes());
    }
    if record.len() > 5 && record[0] == 3 {
        let crc = crc32c::crc32c(&record[5..]);
        record[1..5].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Any file of the store.
pub(super) fn file(name: &str, bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES || name == attempts::FILE_NAME || name.ends_with(".map") {
        return;
    }
    if file::slot(name).is_some() {
        log(bytes);
    } else if segment::id(name).is_some() || history_file::id(name).is_some() {
        // Both have their footer in the same place.
        segment(bytes);
    } else if run::id(name).is_some() {
        let footer_at = number(bytes, 2).saturating_mul(32).saturating_add(HEADER_BYTES as u64);
        let blocks = number(bytes, 2).div_ceil(128).saturating_mul(20);
        let words = number(bytes, 4).saturating_mul(8);
        set_crc(bytes, 5, footer_at, blocks.saturating_add(words));
    } else if checkpoint::NAMES.contains(&name) {
        let body_bytes = number(bytes, 6);
        set_crc(bytes, 7, HEADER_BYTES as u64, body_bytes);
    }
    let crc = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]);
    bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

fn log(bytes: &mut [u8]) {
    let seal = Seal { epoch: number(bytes, 0), salt: number(bytes, 3) };
    let mut at = HEADER_BYTES;
    while let Some(header) = bytes.get(at..at + frame::HEADER_BYTES) {
        let payload_bytes = u32::from_le_bytes(header[4..8].try_into().unwrap()) as usize;
        let lsn = u64::from_le_bytes(header[8..16].try_into().unwrap());
        let Some(frame) = bytes.get_mut(at..at + frame::frame_bytes(payload_bytes)) else { break };
        if lsn == 0 {
            break;
        }
        let mut mended = frame[..frame::HEADER_BYTES + payload_bytes].to_vec();
        seal.close(&mut mended, lsn, at as u32);
        frame.copy_from_slice(&mended);
        at += mended.len();
    }
}

fn segment(bytes: &mut [u8]) {
    let data_end = number(bytes, 6).min(bytes.len() as u64) as usize;
    let mut at = HEADER_BYTES;
    while let Some(len) = bytes.get(at..at + segment::LEN_BYTES).filter(|_| at < data_end) {
        let start = at + segment::LEN_BYTES;
        let end = start + u32::from_le_bytes(len.try_into().unwrap()) as usize;
        let Some(record) = bytes.get_mut(start..end) else { break };
        mend_put(record);
        at = end;
    }
    let (footer_at, footer_bytes) = (number(bytes, 6), number(bytes, 7));
    set_crc(bytes, 8, footer_at, footer_bytes);
}

/// A number of the header.
fn number(bytes: &[u8], which: usize) -> u64 {
    u64::from_le_bytes(bytes[16 + 8 * which..][..8].try_into().unwrap())
}

/// Makes a number of the header the checksum of a part, if the part is there.
fn set_crc(bytes: &mut [u8], which: usize, offset: u64, len: u64) {
    let end = offset.saturating_add(len);
    if end <= bytes.len() as u64 {
        let crc = u64::from(crc32c::crc32c(&bytes[offset as usize..end as usize]));
        bytes[16 + 8 * which..][..8].copy_from_slice(&crc.to_le_bytes());
    }
}
