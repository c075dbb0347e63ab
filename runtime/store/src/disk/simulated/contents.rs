//! The bytes of one file: what is read, what is durable, and the writes between the two.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::random::Random;
use crate::disk::SECTOR_BYTES;

const SECTOR: usize = SECTOR_BYTES as usize;
const WORD: usize = size_of::<u64>();

/// How many older values of a mapped word a power loss may bring back.
const OLDER_WORDS_MAX: usize = 8;

/// One file. A copy is cheap until it is written to.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    /// What the process reads: the page cache.
    current: Arc<Vec<u8>>,
    /// What is on the platter for certain.
    durable: Arc<Vec<u8>>,
    /// The writes since the last sync, oldest first. They are in `current`.
    pending: Vec<Write>,
    /// For each mapped word that was stored to, the values that it had before. The newest is in `current`.
    older_words: BTreeMap<usize, Vec<u64>>,
}

#[derive(Clone, Debug)]
struct Write {
    offset: usize,
    bytes: Box<[u8]>,
}

impl Contents {
    pub(super) fn len(&self) -> usize {
        self.current.len()
    }

    /// The bytes from `offset` on, or nothing if the file ends before `length` of them.
    pub(super) fn read(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let offset = usize::try_from(offset).ok()?;
        self.current.get(offset..offset.checked_add(length)?)
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(Arc::make_mut(&mut self.current), offset, bytes);
        self.pending.push(Write { offset, bytes: bytes.into() });
    }

    /// A write that went wrong: any of its sectors may have been written.
    pub(super) fn write_in_doubt(&mut self, offset: usize, bytes: &[u8], random: &mut Random) {
        for part in survivors(offset, bytes.len(), random) {
            self.write(offset + part.start, &bytes[part]);
        }
    }

    pub(super) fn sync(&mut self) {
        let durable = Arc::make_mut(&mut self.durable);
        for write in self.pending.drain(..) {
            put(durable, write.offset, &write.bytes);
        }
    }

    /// A sync that went wrong: what it was for is durable or not, sector by sector, and no later sync will look at it
    /// again, since the cache takes it for written. It is still what the process reads.
    pub(super) fn sync_in_doubt(&mut self, random: &mut Random) {
        if self.pending.is_empty() {
            return;
        }
        let durable_length = self.durable.len();
        let length = surviving_length(durable_length, self.current.len(), random);
        let durable = Arc::make_mut(&mut self.durable);
        for write in self.pending.drain(..) {
            for part in survivors(write.offset, write.bytes.len(), random) {
                put(durable, write.offset + part.start, &write.bytes[part]);
            }
        }
        durable.resize(length, 0);
    }

    /// What a power loss leaves of the file.
    pub(super) fn after_power_loss(&self, random: &mut Random) -> Contents {
        let mut left = self.clone();
        left.sync_in_doubt(random);
        for (index, mut values) in std::mem::take(&mut left.older_words) {
            values.push(self.word(index));
            let value = values[random.below(values.len())];
            // The file's growth may be lost, and the word with it.
            if (index + 1) * WORD <= left.durable.len() {
                put(Arc::make_mut(&mut left.durable), index * WORD, &value.to_le_bytes());
            }
        }
        left.current = left.durable.clone();
        left
    }

    pub(super) fn word(&self, index: usize) -> u64 {
        let bytes = &self.current[index * WORD..][..WORD];
        u64::from_le_bytes(bytes.try_into().expect("a word has eight bytes"))
    }

    pub(super) fn store_word(&mut self, index: usize, value: u64) {
        let before = self.word(index);
        if before == value {
            return;
        }
        let older = self.older_words.entry(index).or_default();
        if !older.contains(&before) {
            if older.len() == OLDER_WORDS_MAX {
                // The oldest stays: it may be all that has ever reached the disk.
                older.remove(1);
            }
            older.push(before);
        }
        put(Arc::make_mut(&mut self.current), index * WORD, &value.to_le_bytes());
    }

    /// Damages one byte, in the cache and on disk.
    pub(super) fn corrupt(&mut self, offset: usize, xor: u8) {
        Arc::make_mut(&mut self.current)[offset] ^= xor;
        if offset < self.durable.len() {
            Arc::make_mut(&mut self.durable)[offset] ^= xor;
        }
    }
}

/// Writes `bytes` at `offset`; a gap before them is zeros.
fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

/// Which parts of an un-synced write reached the disk: none, all, or each sector on its own.
fn survivors(offset: usize, length: usize, random: &mut Random) -> Vec<Range<usize>> {
    let fate = random.below(3);
    let mut parts = Vec::new();
    let mut start = 0;
    while start < length {
        let end = length.min((offset + start) / SECTOR * SECTOR + SECTOR - offset);
        let survives = match fate {
            0 => false,
            1 => true,
            _ => random.coin(),
        };
        if survives {
            parts.push(start..end);
        }
        start = end;
    }
    parts
}

/// How much of a file's un-synced growth is left: none, all, or up to some sector.
fn surviving_length(durable: usize, current: usize, random: &mut Random) -> usize {
    if current <= durable {
        return durable;
    }
    match random.below(3) {
        0 => durable,
        1 => current,
        _ => durable.max((durable + random.below(current - durable)) / SECTOR * SECTOR),
    }
}
