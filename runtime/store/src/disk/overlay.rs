//! A disk whose writes stay in memory: what opening a store does to a folder can be tried without changing it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskError, File, FolderLock, SECTOR_BYTES, Words};

const SECTOR: usize = SECTOR_BYTES as usize;
const WORD_BYTES: usize = size_of::<u64>();

/// Reads what is below, except where something was written since. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct OverlayDisk {
    below: Arc<dyn Disk>,
    /// What was changed, by name; none if it was removed. Locked to look up a handle, never during a read.
    changed: Arc<Mutex<Changed>>,
}

type Changed = BTreeMap<String, Option<Arc<dyn File>>>;

impl OverlayDisk {
    pub(crate) fn new(below: Arc<dyn Disk>) -> OverlayDisk {
        OverlayDisk { below, changed: Arc::default() }
    }

    fn changed(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file that was changed, or else is opened `below`.
    fn open_with(
        &self,
        name: &str,
        below: impl FnOnce(&dyn Disk) -> Result<Arc<dyn File>, DiskError>,
    ) -> Result<Arc<dyn File>, DiskError> {
        let mut changed = self.changed();
        match changed.get(name) {
            Some(Some(file)) => Ok(file.clone()),
            Some(None) => Err(failed("open", name, io::ErrorKind::NotFound)),
            None => {
                let file: Arc<dyn File> = Arc::new(OverlayFile::new(name, Some(below(&*self.below)?))?);
                changed.insert(name.to_owned(), Some(file.clone()));
                Ok(file)
            }
        }
    }

    fn exists(&self, name: &str) -> Result<bool, DiskError> {
        Ok(self.list()?.iter().any(|there| there == name))
    }
}

impl Disk for OverlayDisk {
    /// Taken below: nobody else may change the folder meanwhile.
    fn lock(&self, name: &str) -> Result<Box<dyn FolderLock>, DiskError> {
        self.below.lock(name)
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        let changed = self.changed();
        let mut names = self.below.list()?;
        names.retain(|name| !changed.contains_key(name));
        names.extend(changed.iter().filter(|(_, file)| file.is_some()).map(|(name, _)| name.clone()));
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn File>, DiskError> {
        self.open_with(name, |below| below.open(name))
    }

    fn open_to_read(&self, name: &str) -> Result<Arc<dyn File>, DiskError> {
        self.open_with(name, |below| below.open_to_read(name))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn File>, DiskError> {
        if self.exists(name)? {
            return Err(failed("create", name, io::ErrorKind::AlreadyExists));
        }
        let file: Arc<dyn File> = Arc::new(OverlayFile::new(name, None)?);
        self.changed().insert(name.to_owned(), Some(file.clone()));
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let file = self.open(from)?;
        let mut changed = self.changed();
        changed.insert(from.to_owned(), None);
        changed.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        if !self.exists(name)? {
            return Err(failed("remove", name, io::ErrorKind::NotFound));
        }
        self.changed().insert(name.to_owned(), None);
        Ok(())
    }

    fn sync_folder(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn map_words(&self, name: &str, words: usize) -> Result<Arc<dyn Words>, DiskError> {
        let file = if self.exists(name)? { self.open(name)? } else { self.create(name)? };
        let mut bytes = vec![0; words * WORD_BYTES];
        let there = file.len()?.min(bytes.len() as u64) as usize;
        file.read_at(&mut bytes[..there], 0)?;
        file.write_at(&bytes[there..], there as u64)?;
        let word = |bytes: &[u8]| AtomicU64::new(u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
        Ok(Arc::new(OverlayWords { words: bytes.chunks_exact(WORD_BYTES).map(word).collect(), file }))
    }
}

struct OverlayFile {
    name: String,
    below: Option<Arc<dyn File>>,
    /// How much of it is below.
    below_bytes: u64,
    written: Mutex<Written>,
}

struct Written {
    len: u64,
    /// By number.
    sectors: BTreeMap<u64, [u8; SECTOR]>,
}

impl OverlayFile {
    fn new(name: &str, below: Option<Arc<dyn File>>) -> Result<OverlayFile, DiskError> {
        let below_bytes = below.as_ref().map_or(Ok(0), |file| file.len())?;
        let written = Mutex::new(Written { len: below_bytes, sectors: BTreeMap::new() });
        Ok(OverlayFile { name: name.to_owned(), below, below_bytes, written })
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is below, and zeros after its end.
    fn read_below(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        let there = self.below_bytes.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (below, beyond) = buffer.split_at_mut(there);
        beyond.fill(0);
        match &self.below {
            Some(file) if !below.is_empty() => file.read_at(below, offset),
            _ => Ok(()),
        }
    }
}

impl File for OverlayFile {
    fn len(&self) -> Result<u64, DiskError> {
        Ok(self.written().len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        let written = self.written();
        let end = offset + buffer.len() as u64;
        if end > written.len {
            return Err(failed("read", &self.name, io::ErrorKind::UnexpectedEof));
        }
        self.read_below(buffer, offset)?;
        for (number, sector) in written.sectors.range(offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES)) {
            let at = number * SECTOR_BYTES;
            let (from, to) = (offset.max(at), end.min(at + SECTOR_BYTES));
            buffer[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&sector[(from - at) as usize..(to - at) as usize]);
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        let mut written = self.written();
        let end = offset + bytes.len() as u64;
        for number in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let at = number * SECTOR_BYTES;
            let mut sector = match written.sectors.get(&number) {
                Some(sector) => *sector,
                None => {
                    let mut sector = [0; SECTOR];
                    self.read_below(&mut sector, at)?;
                    sector
                }
            };
            let (from, to) = (offset.max(at), end.min(at + SECTOR_BYTES));
            sector[(from - at) as usize..(to - at) as usize]
                .copy_from_slice(&bytes[(from - offset) as usize..(to - offset) as usize]);
            written.sectors.insert(number, sector);
        }
        if !bytes.is_empty() {
            written.len = written.len.max(end);
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        Ok(())
    }
}

/// Words that are read often lie side by side; what is stored also goes to the file.
struct OverlayWords {
    words: Vec<AtomicU64>,
    file: Arc<dyn File>,
}

impl Words for OverlayWords {
    fn len(&self) -> usize {
        self.words.len()
    }

    fn load(&self, index: usize) -> u64 {
        self.words[index].load(Ordering::Acquire)
    }

    fn store(&self, index: usize, value: u64) {
        self.words[index].store(value, Ordering::Release);
        let written = self.file.write_at(&value.to_le_bytes(), (index * WORD_BYTES) as u64);
        // A part of a sector is read from below first.
        written.expect("the words were read when they were mapped");
    }
}

fn failed(action: &'static str, name: &str, kind: io::ErrorKind) -> DiskError {
    DiskError::new(action, format!("overlay/{name}"), kind.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    fn contents(disk: &dyn Disk, name: &str) -> Vec<u8> {
        let file = disk.open(name).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read_and_nothing_changes_below() {
        let below = SimulatedDisk::new(1);
        let old: Vec<u8> = (0..2000).map(|at| at as u8).collect();
        below.create("a").unwrap().write_at(&old, 0).unwrap();
        below.create("b").unwrap().write_at(b"gone", 0).unwrap();
        below.map_words("words", 2).unwrap().store(1, 7);
        let image: Vec<_> = below.file_names().into_iter().map(|name| (contents(&below, &name), name)).collect();

        let over = OverlayDisk::new(Arc::new(below.clone()));
        let file = over.open("a").unwrap();
        let mut expected = old.clone();
        for (offset, len) in [(0, 1), (500, 30), (1024, 512), (1990, 300)] {
            file.write_at(&vec![0xee; len], offset as u64).unwrap();
            expected.resize(expected.len().max(offset + len), 0);
            expected[offset..offset + len].fill(0xee);
            assert_eq!(contents(&over, "a"), expected);
        }
        let mut part = [0; 40];
        file.read_at(&mut part, 495).unwrap();
        assert_eq!(part, expected[495..535]);
        over.remove("b").unwrap();
        over.rename("a", "c").unwrap();
        let words = over.map_words("words", 3).unwrap();
        assert_eq!([0, 1, 2].map(|at| words.load(at)), [0, 7, 0]);
        words.store(0, 5);
        assert_eq!(over.list().unwrap(), ["c", "words"]);

        let after: Vec<_> = below.file_names().into_iter().map(|name| (contents(&below, &name), name)).collect();
        assert!(after == image, "the disk below has changed");
    }
}
