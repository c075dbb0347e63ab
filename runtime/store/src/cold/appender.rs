//! A file of records that is written once, from its front to its end: what segments and history files have in common.

use std::sync::Arc;

use super::segment::LEN_BYTES;
use crate::courtesy::give_way;
use crate::disk::{DiskError, File};
use crate::header::HEADER_BYTES;

/// What is gathered before it writes.
const FLUSH_BYTES: usize = 64 << 10;

/// What is written before it is synced. A whole file at once would keep the disk busy for so long that the log's own syncs
/// wait for it.
const SYNC_BYTES: u32 = 1 << 20;

pub(crate) struct Appender {
    file: Arc<dyn File>,
    /// What is not written yet.
    buffer: Vec<u8>,
    /// Where the buffer goes.
    buffer_at: u32,
    /// Up to where the file is synced.
    synced_to: u32,
}

/// What a header tells of the end of its file.
pub(crate) struct Ending {
    /// Where the records end and the footer begins.
    pub(crate) data_end: u32,
    pub(crate) footer_bytes: u32,
    pub(crate) footer_crc: u32,
}

impl Appender {
    /// For a file that is empty. There is room for its header.
    pub(crate) fn new(file: Arc<dyn File>) -> Appender {
        Appender { file, buffer: Vec::new(), buffer_at: HEADER_BYTES as u32, synced_to: HEADER_BYTES as u32 }
    }

    /// Where the next record goes, its length before it.
    pub(crate) fn end(&self) -> u32 {
        self.buffer_at + self.buffer.len() as u32
    }

    /// Adds a record, which `encode` appends. Answers its length.
    pub(crate) fn add(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<u32, DiskError> {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; LEN_BYTES]);
        encode(&mut self.buffer);
        let len = (self.buffer.len() - start - LEN_BYTES) as u32;
        self.buffer[start..start + LEN_BYTES].copy_from_slice(&len.to_le_bytes());
        if self.buffer.len() >= FLUSH_BYTES {
            self.flush()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.file.write_at(&self.buffer, u64::from(self.buffer_at))?;
        self.buffer_at += self.buffer.len() as u32;
        self.buffer.clear();
        give_way();
        if self.buffer_at - self.synced_to >= SYNC_BYTES {
            self.file.sync()?;
            self.synced_to = self.buffer_at;
        }
        Ok(())
    }

    /// Adds the footer, which `write` writes, then the header, and syncs the file. Its name is durable after the folder is
    /// synced.
    pub(crate) fn finish<H: AsRef<[u8]>>(
        self,
        write: impl FnOnce(&mut Footer) -> Result<(), DiskError>,
        header: impl FnOnce(&Ending) -> H,
    ) -> Result<Ending, DiskError> {
        let data_end = self.end();
        let mut footer = Footer { summed_to: self.buffer.len(), crc: 0, appender: self };
        write(&mut footer)?;
        footer.flush()?;
        let Footer { crc: footer_crc, appender, .. } = footer;
        let ending = Ending { data_end, footer_bytes: appender.end() - data_end, footer_crc };
        appender.file.write_at(header(&ending).as_ref(), 0)?;
        appender.file.sync()?;
        Ok(ending)
    }
}

/// What comes after the records. It may be as long as a part of them, so it is not held in memory as a whole, either.
pub(crate) struct Footer {
    appender: Appender,
    /// Of what was written so far, and of the buffer up to here.
    crc: u32,
    summed_to: usize,
}

impl Footer {
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        self.appender.buffer.extend_from_slice(bytes);
        if self.appender.buffer.len() >= FLUSH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.crc = crc32c::crc32c_append(self.crc, &self.appender.buffer[self.summed_to..]);
        self.summed_to = 0;
        self.appender.flush()
    }
}
