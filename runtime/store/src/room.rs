//! What one group of transactions may put into the log.
//!
//! A full disk is when the ring can't grow and its full files can't be copied to segments. Then sends stop three files short of
//! the ring's end, so that there is room for what takes messages away or moves them: acks, retries and dead letters. What
//! frees nothing stops a quarter of a file short of it: the rest is for acks.

use crate::disk::Shortage;
use crate::transaction::Refusal;

/// The most that the records of one group, and so of one transaction, may take.
pub(crate) const fn transaction_bytes_max(file_bytes: u64) -> u64 {
    file_bytes / 4 - 128
}

/// The most that the record of one message may take when it is sent. The rest of a transaction is for the attributes that
/// it gains when it moves: a message that is taken can always become a dead letter.
pub(crate) const fn message_bytes_max(file_bytes: u64) -> u64 {
    transaction_bytes_max(file_bytes) / 8 * 7
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// What is missing, if there is no room.
    pub(crate) shortage: Shortage,
    /// Bytes that one file takes.
    pub(crate) file_bytes: u64,
    /// Whether there is room for new messages.
    pub(crate) sends: bool,
    /// Whether there is room for what frees nothing: messages that move from queue to queue or are given back.
    pub(crate) changes: bool,
}

impl Room {
    /// Whether new messages, whose records have so many bytes, may come.
    pub(crate) fn check_sends(&self, bytes: u64) -> Result<(), Refusal> {
        self.check(bytes, self.sends)
    }

    /// Whether a message may move from queue to queue.
    pub(crate) fn check_move(&self, bytes: u64) -> Result<(), Refusal> {
        self.check(bytes, self.changes)
    }

    /// Whether a message may be given back in another state.
    pub(crate) fn check_update(&self) -> Result<(), Refusal> {
        self.check(0, self.changes)
    }

    /// Whether so many bytes fit into a transaction.
    pub(crate) fn check_size(&self, bytes: u64) -> Result<(), Refusal> {
        let bytes_max = transaction_bytes_max(self.file_bytes);
        if bytes > bytes_max { Err(Refusal::TooLarge { bytes, bytes_max }) } else { Ok(()) }
    }

    fn check(&self, bytes: u64, is_room: bool) -> Result<(), Refusal> {
        self.check_size(bytes)?;
        if is_room { Ok(()) } else { Err(self.shortage.into()) }
    }
}
