//! A disk in memory that fails as real ones do, at the moment that a test chooses, and always the same way for a seed.
//!
//! It is at least as unkind as the file systems that we know. After a power loss ([`SimulatedDisk::crash`]):
//!
//! - Synced bytes are there. Each un-synced write is there, or is not, or is there sector by sector, whatever became
//!   of the writes before it.
//! - The growth of a file that was not synced is there, or is not, or up to some sector; lost bytes inside the
//!   surviving length are zeros.
//! - Each name means one of the things that it meant since the folder was last synced, so that a synced file can be
//!   lost with its name. Only a rename is atomic.
//! - Each mapped word has its newest value or one of its older ones.
//!
//! The death of a process ([`SimulatedDisk::kill`]) loses nothing, but what was not synced stays so.

mod contents;
mod folder;
mod random;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskError, File, FolderLock, Words};
use folder::FileIndex;
pub use state::SimulatedFaults;
use state::State;

/// A disk in memory, for tests. Clones are the same disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    shared: Shared,
}

impl SimulatedDisk {
    /// An empty disk. All its chance comes from the seed.
    pub fn new(seed: u64) -> SimulatedDisk {
        SimulatedDisk::from(State::new(seed))
    }

    /// Says what is to go wrong from now on, in place of what was said before.
    pub fn set_faults(&self, faults: SimulatedFaults) {
        self.shared.lock().faults = faults;
    }

    /// What is still to go wrong: an error that strikes once is not among it after it has.
    pub fn faults(&self) -> SimulatedFaults {
        self.shared.lock().faults.clone()
    }

    /// How many operations there were so far; see [`SimulatedFaults`] for what counts.
    pub fn operations(&self) -> u64 {
        self.shared.lock().operations
    }

    /// What a power loss at this moment leaves: a new disk without lock, faults or operations, on which nothing is
    /// un-synced. Each call leaves something else; this disk stays as it is.
    pub fn crash(&self) -> SimulatedDisk {
        SimulatedDisk::from(self.shared.lock().after_power_loss())
    }

    /// What the next process finds when this one is killed at this moment: a new disk without lock, faults or
    /// operations, with all that was written. What is un-synced here is un-synced there.
    pub fn kill(&self) -> SimulatedDisk {
        self.snapshot()
    }

    /// A copy of the disk without lock, faults or operations. It shares memory until either is written to.
    pub fn snapshot(&self) -> SimulatedDisk {
        SimulatedDisk::from(self.shared.lock().copy())
    }

    /// Damages a byte of a file, as bad hardware does.
    ///
    /// # Panics
    /// If there is no such byte.
    pub fn corrupt(&self, name: &str, offset: u64, xor: u8) {
        let mut state = self.shared.lock();
        let file = state.folder.get(name).unwrap_or_else(|| panic!("there is no file {name}"));
        state.files[file].corrupt(offset as usize, xor);
    }

    /// Handles that are open, beside those of files that are locked or mapped.
    pub fn open_files(&self) -> usize {
        self.shared.lock().open_files
    }

    /// The names of the files, sorted. Unlike [`Disk::list`] it also works after the power has failed.
    pub fn file_names(&self) -> Vec<String> {
        self.shared.lock().folder.entries().map(|(name, _)| name.to_owned()).collect()
    }

    /// The length of a file in bytes.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn file_len(&self, name: &str) -> u64 {
        let state = self.shared.lock();
        let file = state.folder.get(name).unwrap_or_else(|| panic!("there is no file {name}"));
        state.files[file].len() as u64
    }
}

impl From<State> for SimulatedDisk {
    fn from(state: State) -> SimulatedDisk {
        SimulatedDisk { shared: Shared(Arc::new(Mutex::new(state))) }
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        let files = state.folder.entries().map(|(name, file)| (name, state.files[file].len()));
        f.debug_map().entries(files).finish()
    }
}

impl Disk for SimulatedDisk {
    fn lock(&self, name: &str) -> Result<Box<dyn FolderLock>, DiskError> {
        self.shared.lock().lock(name).map_err(failed("lock", name))?;
        Ok(Box::new(SimulatedLock { shared: self.shared.clone(), name: name.to_owned() }))
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.shared.lock().check_power().map_err(failed("list", ""))?;
        Ok(self.file_names())
    }

    fn open(&self, name: &str) -> Result<Arc<dyn File>, DiskError> {
        let index = self.shared.lock().open(name).map_err(failed("open", name))?;
        Ok(Arc::new(SimulatedFile { shared: self.shared.clone(), name: name.to_owned(), index }))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn File>, DiskError> {
        let index = self.shared.lock().create(name).map_err(failed("create", name))?;
        Ok(Arc::new(SimulatedFile { shared: self.shared.clone(), name: name.to_owned(), index }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.shared.lock().rename(from, to).map_err(failed("rename", from))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.shared.lock().remove(name).map_err(failed("remove", name))
    }

    fn sync_folder(&self) -> Result<(), DiskError> {
        self.shared.lock().sync_folder().map_err(failed("sync", ""))
    }

    fn map_words(&self, name: &str, words: usize) -> Result<Arc<dyn Words>, DiskError> {
        let index =
            self.shared.lock().map(name, words as u64 * size_of::<u64>() as u64).map_err(failed("map", name))?;
        Ok(Arc::new(SimulatedWords { shared: self.shared.clone(), index, words }))
    }
}

struct SimulatedFile {
    shared: Shared,
    /// As it was opened, for errors.
    name: String,
    index: FileIndex,
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        self.shared.lock().close();
    }
}

impl File for SimulatedFile {
    fn len(&self) -> Result<u64, DiskError> {
        let state = self.shared.lock();
        state.check_power().map_err(failed("measure", &self.name))?;
        Ok(state.files[self.index].len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        let mut state = self.shared.lock();
        state.check_read(&self.name, offset, buffer.len()).map_err(failed("read", &self.name))?;
        let bytes = state.files[self.index].read(offset, buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof.into()).map_err(failed("read", &self.name))?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        self.shared.lock().write(self.index, bytes, offset).map_err(failed("write", &self.name))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.shared.lock().sync(self.index).map_err(failed("sync", &self.name))
    }
}

struct SimulatedWords {
    shared: Shared,
    index: FileIndex,
    words: usize,
}

impl Words for SimulatedWords {
    fn len(&self) -> usize {
        self.words
    }

    fn load(&self, index: usize) -> u64 {
        assert!(index < self.words, "word {index} of {}", self.words);
        self.shared.lock().files[self.index].word(index)
    }

    fn store(&self, index: usize, value: u64) {
        assert!(index < self.words, "word {index} of {}", self.words);
        self.shared.lock().store_word(self.index, index, value);
    }
}

struct SimulatedLock {
    shared: Shared,
    name: String,
}

impl FolderLock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.shared.lock().unlock(&self.name);
    }
}

/// The disk that its clones and handles share. The mutex is held for one copy of bytes at a time.
#[derive(Clone)]
struct Shared(Arc<Mutex<State>>);

impl Shared {
    /// A panic of a test's thread, in an assertion above say, leaves the state whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names what was tried and where.
fn failed(action: &'static str, name: &str) -> impl FnOnce(io::Error) -> DiskError {
    move |error| DiskError::new(action, format!("simulated/{name}"), error)
}
