//! The write-ahead log: a ring of files that are zero-filled ahead and recycled, written frame by frame.
//!
//! Constraints:
//! - [`Wal::append`] returns after `fdatasync`. Only one frame is ever on its way, so at most the last frame of the
//!   newest file can be torn.
//! - Overwriting a file that has its blocks is about twice as fast as growing one, so files have their full length
//!   from the start, and a file that is no longer needed is used again. Its header is synced before its first frame.
//! - Files are given up oldest first, after checkpoints stand in for them. So whenever a file is replayed, all later ones
//!   are, too: a message can't come back because the file with its acknowledgement is gone.
//! - After an error of [`Wal::append`] or [`Wal::roll`] the log must not be used any more: nobody can know what is on
//!   disk. The next opening finds out.
//!
//! Positions: `next_lsn - 1` is the last frame that is durable, and noted in [`confirmed`]. Payloads are opaque here;
//! `record.rs` knows them.

pub(crate) mod confirmed;
pub(crate) mod file;
pub(crate) mod frame;
mod recover;
mod spares;

use std::collections::VecDeque;
use std::sync::Arc;

use self::confirmed::{Confirmed, Note};
use self::file::FileHeader;
pub(crate) use self::recover::{Start, open};
pub(crate) use self::spares::Preparation;
use self::spares::Spares;
use crate::disk::{Disk, DiskError, File};
use crate::location::FileId;
use crate::reader::Reader;

/// How large the ring is and may become.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WalOptions {
    /// Length of one file.
    pub(crate) file_bytes: u64,
    /// Files that the ring may have.
    pub(crate) files_max: u64,
    /// How files are made ahead.
    pub(crate) preparation: Preparation,
}

pub(crate) struct Wal {
    disk: Arc<dyn Disk>,
    options: WalOptions,
    /// The file that frames are appended to.
    current: LogFile,
    /// Where its next frame goes.
    end: u64,
    /// Full files that are still needed, oldest first.
    full: VecDeque<LogFile>,
    spares: Spares,
    /// Slots of files that are being removed.
    leaving: Vec<u32>,
    reader: Reader,
    confirmed: Confirmed,
    next_lsn: u64,
    salts: Salts,
}

/// A file of the log that has been begun.
#[derive(Clone)]
pub(crate) struct LogFile {
    pub(crate) slot: u32,
    pub(crate) header: FileHeader,
    pub(crate) file: Arc<dyn File>,
}

/// Where a frame's payload was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FramePlace {
    /// The epoch of the file.
    pub(crate) file: u64,
    /// From the start of the file.
    pub(crate) payload_offset: u32,
}

impl Wal {
    /// Whether a frame with such a payload fits into the current file.
    pub(crate) fn fits(&self, payload_bytes: usize) -> bool {
        self.end + frame::frame_bytes(payload_bytes) as u64 <= self.current.header.file_bytes
    }

    /// Whether the current file has room for whatever a group may come to.
    pub(crate) fn fits_any_group(&self) -> bool {
        self.fits((self.options.file_bytes / 4) as usize)
    }

    /// Whether a quarter of the current file is written to.
    pub(crate) fn is_quarter_full(&self) -> bool {
        self.end >= self.current.header.file_bytes / 4
    }

    /// Whether the current file has no frame yet.
    pub(crate) fn is_at_start(&self) -> bool {
        self.end == file::HEADER_BYTES as u64
    }

    /// Writes a frame and syncs it. `buffer` holds [`frame::HEADER_BYTES`] of anything and then the payload, which must
    /// fit.
    pub(crate) fn append(&mut self, buffer: &mut Vec<u8>) -> Result<FramePlace, DiskError> {
        assert!(self.fits(buffer.len() - frame::HEADER_BYTES), "the caller rolls before the file is full");
        let offset = u32::try_from(self.end).expect("a file is shorter than 4 GiB");
        self.current.header.seal().close(buffer, self.next_lsn, offset);
        self.current.file.write_at(buffer, self.end)?;
        self.current.file.sync()?;
        self.confirmed.note(Note { store_tag: self.current.header.store_tag, lsn: self.next_lsn });
        self.next_lsn += 1;
        self.end += buffer.len() as u64;
        Ok(FramePlace { file: self.current.header.epoch, payload_offset: offset + frame::HEADER_BYTES as u32 })
    }

    /// Begins the next file, for which there must be a spare one.
    pub(crate) fn roll(&mut self) -> Result<(), DiskError> {
        let (slot, file) = self.spares.take().expect("the caller keeps a spare file");
        let epoch = self.current.header.epoch + 1;
        let header = FileHeader {
            epoch,
            first_lsn: self.next_lsn,
            store_tag: self.current.header.store_tag,
            salt: self.salts.next(),
            file_bytes: self.options.file_bytes,
        };
        let next = begin(slot, file, header)?;
        self.reader.add_log(&next);
        self.full.push_back(std::mem::replace(&mut self.current, next));
        self.end = file::HEADER_BYTES as u64;
        Ok(())
    }

    /// The oldest file that is full and still needed.
    pub(crate) fn oldest(&self) -> Option<&LogFile> {
        self.full.front()
    }

    /// Gives up the oldest file: nothing lives in it any more, and whatever took its place is durable.
    pub(crate) fn free_oldest(&mut self) -> Result<(), DiskError> {
        let Some(oldest) = self.full.pop_front() else { return Ok(()) };
        self.reader.remove(FileId::log(oldest.header.epoch));
        if oldest.header.file_bytes == self.options.file_bytes {
            self.spares.put(oldest.slot, oldest.file);
            return Ok(());
        }
        // The ring was configured with another size since.
        self.disk.remove(&file::name(oldest.slot))?;
        self.disk.sync_folder()
    }

    /// Files that can be begun right away.
    pub(crate) fn spares(&self) -> u64 {
        self.spares.ready() as u64
    }

    /// Files on disk, or on their way there.
    pub(crate) fn files(&self) -> u64 {
        self.full.len() as u64 + 1 + self.spares.ready() as u64 + self.spares.coming() as u64
    }

    /// Files that exist for certain.
    pub(crate) fn files_ready(&self) -> u64 {
        self.full.len() as u64 + 1 + self.spares.ready() as u64
    }

    /// The first full file that comes after an epoch.
    pub(crate) fn full_after(&self, epoch: u64) -> Option<&LogFile> {
        self.full.iter().find(|file| file.header.epoch > epoch)
    }

    /// LSN of the last frame of a full file.
    pub(crate) fn last_lsn_of(&self, epoch: u64) -> u64 {
        let mut later = self.full.iter().chain([&self.current]).filter(|file| file.header.epoch > epoch);
        later.next().map_or(self.next_lsn, |file| file.header.first_lsn) - 1
    }

    /// Full files that are still needed.
    pub(crate) fn full(&self) -> u64 {
        self.full.len() as u64
    }

    /// The epoch of the file that frames are appended to.
    pub(crate) fn epoch(&self) -> u64 {
        self.current.header.epoch
    }

    /// LSN of the last frame.
    pub(crate) fn last_lsn(&self) -> u64 {
        self.next_lsn - 1
    }

    /// Gives one spare file up for good. Answers the name of the file, which is to be removed; its place in the ring stays
    /// taken until [`Wal::spares_are_gone`].
    pub(crate) fn drop_spare(&mut self) -> Option<String> {
        let (slot, _) = self.spares.take()?;
        self.leaving.push(slot);
        Some(file::name(slot))
    }

    /// The files that were given up for good are removed.
    pub(crate) fn spares_are_gone(&mut self) {
        self.leaving.clear();
    }

    /// Starts to make one more file, if the ring may grow and none is on its way.
    pub(crate) fn grow(&mut self) {
        if self.files() < self.options.files_max && self.spares.coming() == 0 {
            let mut used: Vec<u32> = self.full.iter().map(|file| file.slot).chain([self.current.slot]).collect();
            used.extend(self.spares.slots());
            used.extend(&self.leaving);
            let slot = (1..).find(|slot| !used.contains(slot)).expect("slots do not run out");
            self.spares.prepare(self.disk.clone(), slot, self.options.file_bytes);
        }
    }

    /// Takes in the file that was on its way, if it is there. With `wait`, it waits for it.
    pub(crate) fn collect(&mut self, wait: bool) -> Result<(), DiskError> {
        self.spares.collect(wait)
    }

    /// Reads what was appended, from any thread.
    pub(crate) fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// The store's tag: drawn when the folder was made, in every file.
    pub(crate) fn store_tag(&self) -> u64 {
        self.current.header.store_tag
    }

    /// The limits that it was opened with.
    pub(crate) fn options(&self) -> &WalOptions {
        &self.options
    }
}

/// Writes the header of a file and syncs it, so that frames in it are never taken for those of its former life.
fn begin(slot: u32, file: Arc<dyn File>, header: FileHeader) -> Result<LogFile, DiskError> {
    file.write_at(&header.encode(), 0)?;
    file.sync()?;
    Ok(LogFile { slot, header, file })
}

/// Numbers that differ for each file that is begun (splitmix64).
struct Salts(u64);

impl Salts {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
