//! How much may live in the log.
//!
//! The log is a ring of files. What lives in its oldest file is copied forward before the file is used again, so
//! there must always be room to copy into and room for acks. Therefore sends stop [`RESERVE_FILES`] files short of
//! the ring's size, and messages that only move (to a dead-letter queue, or back) one file later. Acks and retries
//! need no admission: what they write is garbage at once, and the cleaner gets it back from the reserve.

use crate::transaction::Refusal;

/// Files of the ring that sends may not fill: one for what is lost at the ends of files, one to copy into, one for
/// acks and retries while that goes on.
pub(crate) const RESERVE_FILES: u64 = 3;

/// What a file of the ring can be counted on to hold: a frame lies whole in one file and is at most a quarter of it, so up
/// to a quarter is lost at its end.
pub(crate) const fn usable_bytes(file_bytes: u64) -> u64 {
    file_bytes / 4 * 3
}

/// The most that the records of one group, and so of one transaction, may take.
pub(crate) const fn transaction_bytes_max(file_bytes: u64) -> u64 {
    file_bytes / 4 - 128
}

/// The most that the record of one message may take when it is sent. The rest of a transaction is for the attributes that
/// it gains when it moves: a message that is taken can always become a dead letter.
pub(crate) const fn message_bytes_max(file_bytes: u64) -> u64 {
    transaction_bytes_max(file_bytes) / 8 * 7
}

/// The room that one group of transactions may fill.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Bytes of live records in the log and in this group.
    pub(crate) live_bytes: u64,
    /// Bytes that one file takes.
    pub(crate) file_bytes: u64,
    /// Files that the ring may have, or those that exist if the disk has no room for more.
    pub(crate) files: u64,
    /// There is no file to go on in but the reserve: nothing new is taken.
    pub(crate) exhausted: bool,
}

impl Room {
    /// What sends may fill.
    pub(crate) fn live_bytes_max(&self) -> u64 {
        self.files.saturating_sub(RESERVE_FILES) * usable_bytes(self.file_bytes)
    }

    /// Takes room for new messages, whose records have so many bytes.
    pub(crate) fn take_for_sends(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.take(bytes, self.live_bytes_max())
    }

    /// Takes room for a message that moves from queue to queue.
    pub(crate) fn take_for_move(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.take(bytes, self.live_bytes_max() + usable_bytes(self.file_bytes))
    }

    fn take(&mut self, bytes: u64, live_bytes_max: u64) -> Result<(), Refusal> {
        let bytes_max = transaction_bytes_max(self.file_bytes);
        if bytes > bytes_max {
            return Err(Refusal::TooLarge { bytes, bytes_max });
        }
        if self.exhausted || self.live_bytes + bytes > live_bytes_max {
            return Err(Refusal::LogFull { live_bytes: self.live_bytes, live_bytes_max });
        }
        self.live_bytes += bytes;
        Ok(())
    }
}
