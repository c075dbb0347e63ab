//! What redb reads and writes: the sectors of `state.redb`, each with a checksum of its own (`FORMAT.md`, "State").
//!
//! redb checks its pages after a crash, and not when it reads them: rotten bits would come out as a consumer's state. Here
//! each sector carries 508 bytes of redb's and their checksum. A sector is written whole or not at all, so that a power
//! loss never makes one that looks damaged, and redb's own way to write pages beside those that are in use goes on working.
//!
//! How long redb's part is stands in the header: the file itself only grows as far as it is written, since space that was
//! not written costs nothing, and never shrinks.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use redb::StorageBackend;

use crate::disk::{DiskError, File, SECTOR_BYTES};
use crate::error::OpenError;
use crate::header::{HEADER_BYTES, Kind};

const KIND: Kind = Kind { magic: b"LNCKSTA\n", version: 1, what: "file of consumers' state" };

const SECTOR: usize = SECTOR_BYTES as usize;
/// Bytes of redb's in a sector.
const DATA: usize = SECTOR - 4;

/// Clones are the same file.
#[derive(Clone)]
pub(super) struct Sectors(Arc<Inner>);

struct Inner {
    file: Arc<dyn File>,
    name: &'static str,
    store_tag: u64,
    // Read while redb reads, written while it writes: a page shares its first and last sector with its neighbours.
    lengths: RwLock<Lengths>,
    // What went wrong first: redb passes on less than is known here.
    trouble: Mutex<Option<Trouble>>,
    read_failed: AtomicBool,
    write_failed: AtomicBool,
}

struct Lengths {
    /// Of redb's part.
    data: u64,
    /// Of the file.
    file: u64,
}

/// What kept redb from reading or writing.
#[derive(Debug)]
pub(crate) enum Trouble {
    Disk(DiskError),
    Damaged { offset: u64, why: &'static str },
}

impl Sectors {
    /// Begins a new file.
    pub(super) fn create(name: &'static str, file: Arc<dyn File>, store_tag: u64) -> Result<Sectors, DiskError> {
        let sectors = Sectors::new(name, file, store_tag, 0)?;
        sectors.write_header(0)?;
        Ok(sectors)
    }

    /// Opens a file that is there.
    pub(super) fn open(name: &'static str, file: Arc<dyn File>) -> Result<Sectors, OpenError> {
        let Some([store_tag, data_bytes]) = KIND.read(name, &*file)? else {
            return Err(OpenError::damaged(name, 0, "its header is missing"));
        };
        // redb doubles its part when it is full, so that most of it was written.
        if data_bytes > file.len()?.saturating_mul(8).saturating_add(64 << 20) {
            return Err(OpenError::damaged(name, 16, "the header makes no sense"));
        }
        let sectors = Sectors::new(name, file, store_tag, data_bytes)?;
        // What is trusted from here on must also survive a power loss that comes now. If the last process ended because a
        // sync had failed, the system may take its pages for clean: it is written again. redb does the same with its own
        // header, and refers only to pages whose sync went well.
        sectors.write_header(data_bytes)?;
        sectors.0.file.sync()?;
        Ok(sectors)
    }

    fn new(name: &'static str, file: Arc<dyn File>, store_tag: u64, data: u64) -> Result<Sectors, DiskError> {
        let lengths = RwLock::new(Lengths { data, file: file.len()? });
        let (read_failed, write_failed) = (AtomicBool::new(false), AtomicBool::new(false));
        let trouble = Mutex::new(None);
        Ok(Sectors(Arc::new(Inner { file, name, store_tag, lengths, trouble, read_failed, write_failed })))
    }

    pub(super) fn store_tag(&self) -> u64 {
        self.0.store_tag
    }

    /// Bytes that the file has on disk, as far as it was written.
    pub(super) fn file_bytes(&self) -> u64 {
        self.0.lengths.read().unwrap_or_else(PoisonError::into_inner).file
    }

    /// What went wrong since it was asked last.
    pub(super) fn take_trouble(&self) -> Option<Trouble> {
        self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether a read has failed. redb does nothing more from then on, until it is opened again.
    pub(super) fn read_failed(&self) -> bool {
        self.0.read_failed.load(Ordering::Acquire)
    }

    /// Whether a write or a sync has failed.
    pub(super) fn write_failed(&self) -> bool {
        self.0.write_failed.load(Ordering::Acquire)
    }

    /// Looks at every sector that was ever written. Answers the offsets of those that are damaged, at most so many.
    pub(super) fn check(&self, damaged_max: usize) -> Result<Vec<u64>, DiskError> {
        const PIECE: u64 = 2048;
        let lengths = self.0.lengths.read().unwrap_or_else(PoisonError::into_inner);
        let sectors = lengths.file / SECTOR_BYTES;
        let mut damaged = Vec::new();
        let mut first = 1;
        while first < sectors && damaged.len() < damaged_max {
            let count = PIECE.min(sectors - first);
            let mut piece = vec![0; count as usize * SECTOR];
            self.0.file.read_at(&mut piece, first * SECTOR_BYTES)?;
            let bad = (first..)
                .zip(piece.chunks_exact(SECTOR))
                .filter(|(number, sector)| !is_blank(sector) && !self.0.is_whole(*number, sector));
            damaged.extend(bad.map(|(number, _)| number * SECTOR_BYTES).take(damaged_max - damaged.len()));
            first += count;
        }
        Ok(damaged)
    }

    fn write_header(&self, data_bytes: u64) -> Result<(), DiskError> {
        self.0.file.write_at(&KIND.encode(&[self.0.store_tag, data_bytes]), 0)?;
        let mut lengths = self.0.lengths.write().unwrap_or_else(PoisonError::into_inner);
        lengths.data = data_bytes;
        lengths.file = lengths.file.max(HEADER_BYTES as u64);
        Ok(())
    }

    fn not_written(&self, error: DiskError) -> io::Error {
        self.0.write_failed.store(true, Ordering::Release);
        self.failed(Trouble::Disk(error))
    }

    /// Remembers what went wrong, and says it the way redb wants to hear it.
    fn failed(&self, trouble: Trouble) -> io::Error {
        let error = match &trouble {
            Trouble::Disk(error) => io::Error::new(error.source.kind(), error.to_string()),
            Trouble::Damaged { offset, why } => io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is damaged at offset {offset}: {why}", self.0.name),
            ),
        };
        self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(trouble);
        error
    }
}

impl Inner {
    fn checksum(&self, number: u64, data: &[u8]) -> u32 {
        // A sector that was put in another's place is not whole, nor is one of another store.
        let seed = crc32c::crc32c_append(crc32c::crc32c(&self.store_tag.to_le_bytes()), &number.to_le_bytes());
        crc32c::crc32c_append(seed, data)
    }

    fn is_whole(&self, number: u64, sector: &[u8]) -> bool {
        let (data, crc) = sector.split_at(DATA);
        crc == self.checksum(number, data).to_le_bytes()
    }

    /// The sectors from `first` on, up to `count`; what was never written is zero.
    fn read_sectors(&self, lengths: &Lengths, first: u64, count: usize) -> Result<Vec<u8>, Trouble> {
        let mut bytes = vec![0; count * SECTOR];
        let at = first * SECTOR_BYTES;
        let there = lengths.file.saturating_sub(at).min(bytes.len() as u64) as usize;
        if there > 0 {
            self.file.read_at(&mut bytes[..there], at).map_err(Trouble::Disk)?;
        }
        Ok(bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Trouble> {
        let lengths = self.lengths.read().unwrap_or_else(PoisonError::into_inner);
        if out.is_empty() {
            return Ok(());
        }
        let end = offset + out.len() as u64;
        if end > lengths.data {
            let error = DiskError::new("read", self.name, io::ErrorKind::UnexpectedEof.into());
            return Err(Trouble::Disk(error));
        }
        let (first, last) = (sector_of(offset), sector_of(end - 1));
        let bytes = self.read_sectors(&lengths, first, (last - first + 1) as usize)?;
        let skip = (offset % DATA as u64) as usize;
        let mut at = 0;
        for (number, sector) in (first..).zip(bytes.chunks_exact(SECTOR)) {
            if !self.is_whole(number, sector) {
                let why = if is_blank(sector) { "it was never written" } else { "its checksum does not match" };
                return Err(Trouble::Damaged { offset: number * SECTOR_BYTES, why });
            }
            let data = &sector[if at == 0 { skip } else { 0 }..DATA];
            let taken = data.len().min(out.len() - at);
            out[at..at + taken].copy_from_slice(&data[..taken]);
            at += taken;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Trouble> {
        let mut lengths = self.lengths.write().unwrap_or_else(PoisonError::into_inner);
        if data.is_empty() {
            return Ok(());
        }
        let end = offset + data.len() as u64;
        let (first, last) = (sector_of(offset), sector_of(end - 1));
        let mut bytes = vec![0; (last - first + 1) as usize * SECTOR];
        let unread = |trouble| {
            self.read_failed.store(true, Ordering::Release);
            trouble
        };
        // The first and the last sector may also hold what is not written now.
        let whole_start = offset.is_multiple_of(DATA as u64);
        let whole_end = end.is_multiple_of(DATA as u64);
        for (number, is_partial) in [(first, !whole_start), (last, !whole_end)] {
            if !is_partial {
                continue;
            }
            let sector = self.read_sectors(&lengths, number, 1).map_err(unread)?;
            if !is_blank(&sector) && !self.is_whole(number, &sector) {
                let why = "its checksum does not match";
                return Err(unread(Trouble::Damaged { offset: number * SECTOR_BYTES, why }));
            }
            let at = (number - first) as usize * SECTOR;
            bytes[at..at + SECTOR].copy_from_slice(&sector);
        }
        let mut rest = data;
        let mut skip = (offset % DATA as u64) as usize;
        for (number, sector) in (first..).zip(bytes.chunks_exact_mut(SECTOR)) {
            let taken = rest.len().min(DATA - skip);
            sector[skip..skip + taken].copy_from_slice(&rest[..taken]);
            rest = &rest[taken..];
            skip = 0;
            let crc = self.checksum(number, &sector[..DATA]);
            sector[DATA..].copy_from_slice(&crc.to_le_bytes());
        }
        let at = first * SECTOR_BYTES;
        let written = self.file.write_at(&bytes, at).map_err(Trouble::Disk);
        // Also a write that fails may have made the file longer.
        lengths.file = match &written {
            Ok(()) => lengths.file.max(at + bytes.len() as u64),
            Err(_) => {
                self.write_failed.store(true, Ordering::Release);
                self.file.len().unwrap_or(lengths.file)
            }
        };
        written
    }
}

/// The sector that a byte of redb's lies in.
fn sector_of(offset: u64) -> u64 {
    1 + offset / DATA as u64
}

/// Whether a sector was never written.
fn is_blank(sector: &[u8]) -> bool {
    sector.iter().all(|byte| *byte == 0)
}

impl StorageBackend for Sectors {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lengths.read().unwrap_or_else(PoisonError::into_inner).data)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out).map_err(|trouble| {
            self.0.read_failed.store(true, Ordering::Release);
            self.failed(trouble)
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.write_header(len).map_err(|error| self.not_written(error))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.file.sync().map_err(|error| self.not_written(error))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data).map_err(|trouble| self.failed(trouble))
    }
}

impl fmt::Debug for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sectors").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, SimulatedDisk};

    #[test]
    fn what_is_written_anywhere_is_read_back_and_no_flipped_bit_comes_out() {
        let disk = SimulatedDisk::new(1);
        let file = disk.create("state").unwrap();
        let sectors = Sectors::create("state", file.clone(), 7).unwrap();
        sectors.set_len(10_000).unwrap();
        let mut expected = vec![0u8; 10_000];
        let mut random = fastrand::Rng::with_seed(1);
        sectors.write(0, &expected).unwrap();
        for _ in 0..300 {
            let offset = random.usize(..10_000);
            let len = random.usize(..=(10_000 - offset).min(2000));
            let bytes: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
            sectors.write(offset as u64, &bytes).unwrap();
            expected[offset..offset + len].copy_from_slice(&bytes);
            let offset = random.usize(..10_000);
            let mut part = vec![0; random.usize(..=10_000 - offset)];
            sectors.read(offset as u64, &mut part).unwrap();
            assert_eq!(part, expected[offset..offset + part.len()]);
        }
        assert!(sectors.read(9_999, &mut [0; 2]).is_err(), "there is no more than that");
        let again = Sectors::open("state", file.clone()).unwrap();
        assert_eq!((again.store_tag(), again.len().unwrap()), (7, 10_000));
        assert_eq!(again.check(9).unwrap(), [] as [u64; 0]);

        for offset in SECTOR as u64..file.len().unwrap() {
            disk.corrupt("state", offset, 1 << (offset % 8));
            let mut all = vec![0; 10_000];
            assert!(again.read(0, &mut all).is_err(), "byte {offset} was flipped");
            let at = offset / SECTOR_BYTES * SECTOR_BYTES;
            assert!(matches!(again.take_trouble(), Some(Trouble::Damaged { offset, .. }) if offset == at));
            assert_eq!(again.check(9).unwrap(), [at]);
            // Nor does writing beside it make it good.
            let beside = (at / SECTOR_BYTES - 1) * DATA as u64 + 1;
            assert!(again.write(beside, b"x").is_err());
            assert!(again.take_trouble().is_some());
            disk.corrupt("state", offset, 1 << (offset % 8));
        }
    }
}
