//! A small file, mapped, as atomic words.
//!
//! The pages of a shared mapping belong to the kernel, so a stored word outlives a killed process without a system
//! call. What must never happen is that the kernel has no room on disk for a page that we touch: that is a SIGBUS, in
//! the middle of any store. So every block of the file is allocated before it is mapped, and nobody shortens it while
//! the folder is locked.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use crate::disk::Words;

const WORD_BYTES: usize = size_of::<u64>();

/// `stat` counts in these, whatever the file system's blocks are.
const STAT_BLOCK_BYTES: u64 = 512;

/// The first words of a file, little-endian.
pub(super) struct MappedWords {
    map: MmapRaw,
    words: usize,
}

impl MappedWords {
    pub(super) fn new(file: &fs::File, words: usize) -> io::Result<MappedWords> {
        let bytes = words.checked_mul(WORD_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
        allocate(file, bytes)?;
        Ok(MappedWords { map: MmapOptions::new().len(bytes).map_raw(file)?, words })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words, "word {index} of {}", self.words);
        let start = self.map.as_mut_ptr().cast::<u64>();
        #[expect(unsafe_code, reason = "a mapping is raw memory, and atomics are how threads may share it")]
        // SAFETY: the mapping starts at a page, so a word is aligned; the index is inside it; it lives as long as
        // `self`, as does the reference; and nothing accesses it but these atomics: the folder's lock keeps other
        // processes away.
        unsafe {
            AtomicU64::from_ptr(start.add(index))
        }
    }
}

impl Words for MappedWords {
    fn len(&self) -> usize {
        self.words
    }

    fn load(&self, index: usize) -> u64 {
        u64::from_le(self.word(index).load(Ordering::Acquire))
    }

    fn store(&self, index: usize, value: u64) {
        self.word(index).store(value.to_le(), Ordering::Release);
    }
}

/// Gives each of the first `bytes` bytes of a file its place on disk; a full disk is an error here.
fn allocate(file: &fs::File, bytes: usize) -> io::Result<()> {
    let metadata = file.metadata()?;
    let length = usize::try_from(metadata.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // A power loss, or a backup that saves on zeros, can leave a file with holes.
    let has_holes = metadata.blocks().saturating_mul(STAT_BLOCK_BYTES) < length.min(bytes) as u64;
    if length >= bytes && !has_holes {
        return Ok(());
    }
    let mut content = vec![0; bytes];
    file.read_exact_at(&mut content[..length.min(bytes)], 0)?;
    let start = if has_holes { 0 } else { length };
    file.write_all_at(&content[start..], start as u64)?;
    // Some file systems look for the room only now.
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled_and_what_is_there_is_kept() {
        let file = tempfile::tempfile().unwrap();
        let bytes = 1 << 20;
        file.set_len(bytes).unwrap();
        file.write_all_at(&7u64.to_le_bytes(), 8 * 1000).unwrap();
        assert!(file.metadata().unwrap().blocks() * STAT_BLOCK_BYTES < bytes, "this file system has no holes");

        let words = MappedWords::new(&file, (bytes / 8) as usize).unwrap();
        assert!(file.metadata().unwrap().blocks() * STAT_BLOCK_BYTES >= bytes);
        assert_eq!((words.load(999), words.load(1000), words.load(1001)), (0, 7, 0));
        assert_eq!(file.metadata().unwrap().len(), bytes);
    }
}
