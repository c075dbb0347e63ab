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

    /// Adds the footer, which `encode` appends, then the header, and syncs the file. Its name is durable after the folder is
    /// synced.
    pub(crate) fn finish<H: AsRef<[u8]>>(
        mut self,
        encode: impl FnOnce(&mut Vec<u8>),
        header: impl FnOnce(&Ending) -> H,
    ) -> Result<Ending, DiskError> {
        let data_end = self.end();
        let footer_at = self.buffer.len();
        encode(&mut self.buffer);
        let footer = &self.buffer[footer_at..];
        let ending = Ending { data_end, footer_bytes: footer.len() as u32, footer_crc: crc32c::crc32c(footer) };
        self.flush()?;
        self.file.write_at(header(&ending).as_ref(), 0)?;
        self.file.sync()?;
        Ok(ending)
    }
}
