//! The only way to the disk: one folder of files, as little of a file system as the store needs.
//!
//! [`RealDisk`] is the machine's; [`SimulatedDisk`] stands in for it in tests and forgets whatever a power loss would
//! make a real one forget. What the store may rely on, and what both promise:
//!
//! - A write that was not followed by [`File::sync`] may be lost, in whole or sector by sector.
//! - A sector ([`SECTOR_BYTES`]) is written whole or not at all.
//! - A file that was created, renamed or removed is so for certain only after [`Disk::sync_folder`].
//! - After a failed write or sync nothing is known about the bytes that it was for. It is never tried again.

#[cfg(test)]
mod conformance;
mod handles;
mod overlay;
mod real;
mod simulated;

use std::fmt;
use std::io;
use std::sync::Arc;

pub(crate) use handles::HandleCache;
pub(crate) use overlay::OverlayDisk;
pub use real::RealDisk;
pub use simulated::{SimulatedDisk, SimulatedFaults};

/// The unit that a write tears at.
pub const SECTOR_BYTES: u64 = 512;

/// One folder of files. Names are plain file names without separators.
pub trait Disk: Send + Sync + 'static {
    /// Takes the folder for this process alone, until the guard is dropped or the process ends.
    fn lock(&self, name: &str) -> Result<Box<dyn FolderLock>, DiskError>;

    /// The names of the files in the folder, sorted.
    fn list(&self) -> Result<Vec<String>, DiskError>;

    /// Opens a file that exists, for reading and writing.
    fn open(&self, name: &str) -> Result<Arc<dyn File>, DiskError>;

    /// Opens a file that exists and is not written to any more, which is told at once. It is only read through this handle,
    /// and a read may fail for lack of a descriptor: the handle need not hold one between reads.
    fn open_to_read(&self, name: &str) -> Result<Arc<dyn File>, DiskError> {
        self.open(name)
    }

    /// Makes an empty file. Refused if the name is taken.
    fn create(&self, name: &str) -> Result<Arc<dyn File>, DiskError>;

    /// Gives a file another name, in place of the file that had it.
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Removes a file. Its open handles stay usable.
    fn remove(&self, name: &str) -> Result<(), DiskError>;

    /// Makes all that was created, renamed or removed so far durable.
    fn sync_folder(&self) -> Result<(), DiskError>;

    /// Maps a file of `words` 64-bit words, made and zero-filled if it is missing or too short.
    ///
    /// A stored word survives the end of the process at once, also by `kill -9`. After a power loss each word has one
    /// of the values that were ever stored to it, or zero.
    fn map_words(&self, name: &str, words: usize) -> Result<Arc<dyn Words>, DiskError>;
}

/// An open file. Reads and writes may come from several threads.
#[expect(clippy::len_without_is_empty, reason = "the length costs a system call and may fail; nobody asks for empty")]
pub trait File: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> Result<u64, DiskError>;

    /// Fills `buffer` from `offset`; a file that ends before is an error of kind [`io::ErrorKind::UnexpectedEof`].
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError>;

    /// Writes all of `bytes` at `offset`, past the end if need be.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError>;

    /// Makes what was written so far durable (`fdatasync`).
    fn sync(&self) -> Result<(), DiskError>;
}

/// A small mapped file of 64-bit words.
#[expect(clippy::len_without_is_empty, reason = "nobody maps no words")]
pub trait Words: Send + Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Reads a word.
    fn load(&self, index: usize) -> u64;

    /// Writes a word.
    fn store(&self, index: usize, value: u64);
}

/// Held while the folder is taken.
pub trait FolderLock: Send + Sync {}

/// What the store is short of while it refuses sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Room on the disk.
    Disk,
    /// Descriptors: the process or the system has too many open files.
    OpenFiles,
}

/// An error of the disk, with what was done and to which file.
#[derive(Debug)]
pub struct DiskError {
    /// What was tried, as in "could not {action} {path}".
    pub action: &'static str,
    /// The file or folder.
    pub path: String,
    /// What the system said.
    pub source: io::Error,
}

impl DiskError {
    /// Puts an error together.
    pub fn new(action: &'static str, path: impl Into<String>, source: io::Error) -> DiskError {
        DiskError { action, path: path.into(), source }
    }

    /// Whether the disk, the user's quota or the folder's reservation has no room left.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether the process or the system has no descriptor left for one more open file.
    pub fn is_out_of_files(&self) -> bool {
        // The standard library has no kind for these. The numbers are the same on all systems that it runs on.
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        matches!(self.source.raw_os_error(), Some(ENFILE | EMFILE))
    }

    /// Whether the medium does not give back what was written to it.
    pub(crate) fn is_unreadable(&self) -> bool {
        // The standard library has no kind for it. The number is the same on all systems that it runs on.
        const EIO: i32 = 5;
        self.source.raw_os_error() == Some(EIO)
    }

    /// What is missing, if it is something that may be there again later.
    pub fn shortage(&self) -> Option<Shortage> {
        match self {
            full if full.is_full() => Some(Shortage::Disk),
            no_files if no_files.is_out_of_files() => Some(Shortage::OpenFiles),
            _ => None,
        }
    }

    /// Whether another process holds the folder.
    pub fn is_locked(&self) -> bool {
        self.source.kind() == io::ErrorKind::WouldBlock
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {} {}: {}", self.action, self.path, self.source)
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
