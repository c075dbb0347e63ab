//! The whole disk behind its mutex, and the faults that strike it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::contents::Contents;
use super::folder::{FileIndex, Folder};
use super::random::Random;
use crate::disk::SECTOR_BYTES;

/// `EIO` on every system that we build for.
const INPUT_OUTPUT_ERROR: i32 = 5;

/// `EMFILE`, likewise.
const TOO_MANY_OPEN_FILES: i32 = 24;

/// What is to go wrong, and when.
///
/// Operations are numbered from 0, so that [`SimulatedDisk::operations`](super::SimulatedDisk::operations) is the
/// number of the next one. Writes, syncs, creates, renames, removes, syncs of the folder and mappings count; reads,
/// locks and stores to a mapped word do not.
#[derive(Clone, Debug, Default)]
pub struct SimulatedFaults {
    /// The power fails at the operation of this number: it may have been done, in part or not at all, and from then
    /// on everything fails.
    pub crash_at: Option<u64>,
    /// The first write of this number or a later one fails with an input/output error, once; any of its sectors may
    /// have been written.
    pub fail_write_at: Option<u64>,
    /// The first sync, of a file or of the folder, of this number or a later one fails with an input/output error,
    /// once. What it was for may have become durable or not, and a later sync does not change that.
    pub fail_sync_at: Option<u64>,
    /// The first create, rename, removal or mapping of this number or a later one fails with an input/output error, once. It
    /// may have been done.
    pub fail_other_at: Option<u64>,
    /// The first read after so many operations fails with an input/output error, once.
    pub fail_read_at: Option<u64>,
    /// A sector of a file that can't be read: the name under which the file is opened, and the number of the sector in it.
    pub bad_sector: Option<(String, u64)>,
    /// The disk is full when the files that have a name are this long together. Whatever does not make a file longer
    /// still works.
    pub full_after_bytes: Option<u64>,
    /// There is no room to remove a file either, as on file systems that write that down elsewhere first.
    pub removals_need_room: bool,
    /// Files that may be open at a time, beside those that are locked or mapped: one more is refused, as by a process that
    /// has used up its descriptors. Files that are open already stay so.
    pub open_files_max: Option<usize>,
}

/// Everything that a simulated disk is.
#[derive(Debug)]
pub(super) struct State {
    pub(super) folder: Folder,
    /// Files are never taken out, so that open handles stay usable.
    pub(super) files: Vec<Contents>,
    pub(super) faults: SimulatedFaults,
    pub(super) operations: u64,
    /// Handles that are open.
    pub(super) open_files: usize,
    locks: BTreeSet<String>,
    random: Random,
    powered_off: bool,
}

/// How an operation goes.
enum Outcome {
    Done,
    /// Nobody knows how far it got.
    InDoubt(io::Error),
}

#[derive(Clone, Copy)]
enum Operation {
    Write,
    Sync,
    Other,
}

impl State {
    pub(super) fn new(seed: u64) -> State {
        State {
            folder: Folder::default(),
            files: Vec::new(),
            faults: SimulatedFaults::default(),
            operations: 0,
            open_files: 0,
            locks: BTreeSet::new(),
            random: Random::new(seed),
            powered_off: false,
        }
    }

    /// The same files, for a new process.
    pub(super) fn copy(&mut self) -> State {
        State { folder: self.folder.clone(), files: self.files.clone(), ..State::new(self.random.next()) }
    }

    /// The files that a power loss leaves.
    pub(super) fn after_power_loss(&mut self) -> State {
        let mut left = State::new(self.random.next());
        let mut entries = BTreeMap::new();
        for (name, file) in self.folder.after_power_loss(&mut left.random) {
            entries.insert(name, left.files.len());
            left.files.push(self.files[file].after_power_loss(&mut left.random));
        }
        left.folder = Folder::durable(entries);
        left
    }

    /// Fails once the power is off.
    pub(super) fn check_power(&self) -> io::Result<()> {
        if self.powered_off { Err(power_failure()) } else { Ok(()) }
    }

    fn next(&mut self, operation: Operation) -> io::Result<Outcome> {
        self.check_power()?;
        let number = self.operations;
        self.operations += 1;
        if self.faults.crash_at.is_some_and(|at| number >= at) {
            self.powered_off = true;
            return Ok(Outcome::InDoubt(power_failure()));
        }
        let fault = match operation {
            Operation::Write => &mut self.faults.fail_write_at,
            Operation::Sync => &mut self.faults.fail_sync_at,
            Operation::Other => &mut self.faults.fail_other_at,
        };
        if fault.take_if(|at| number >= *at).is_some() {
            return Ok(Outcome::InDoubt(input_output_error()));
        }
        Ok(Outcome::Done)
    }

    /// Fails if so many bytes can't be read.
    pub(super) fn check_read(&mut self, name: &str, offset: u64, length: usize) -> io::Result<()> {
        self.check_power()?;
        let operations = self.operations;
        let fails = self.faults.fail_read_at.take_if(|at| operations >= *at).is_some();
        let sectors = offset / SECTOR_BYTES..(offset + length as u64).div_ceil(SECTOR_BYTES);
        let is_bad = |(bad, sector): &(String, u64)| bad == name && sectors.contains(sector);
        if fails || self.faults.bad_sector.as_ref().is_some_and(is_bad) { Err(input_output_error()) } else { Ok(()) }
    }

    pub(super) fn lock(&mut self, name: &str) -> io::Result<()> {
        self.check_power()?;
        if !self.locks.insert(name.to_owned()) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another process is using this folder"));
        }
        if self.folder.get(name).is_none() {
            self.add_file(name);
        }
        Ok(())
    }

    pub(super) fn unlock(&mut self, name: &str) {
        self.locks.remove(name);
    }

    fn find(&self, name: &str) -> io::Result<FileIndex> {
        self.check_power()?;
        self.folder.get(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn check_descriptors(&self) -> io::Result<()> {
        match self.faults.open_files_max {
            Some(max) if self.open_files >= max => Err(io::Error::from_raw_os_error(TOO_MANY_OPEN_FILES)),
            _ => Ok(()),
        }
    }

    /// Opens a file: it counts until it is closed.
    pub(super) fn open(&mut self, name: &str) -> io::Result<FileIndex> {
        let file = self.find(name)?;
        self.check_descriptors()?;
        self.open_files += 1;
        Ok(file)
    }

    pub(super) fn close(&mut self) {
        self.open_files -= 1;
    }

    pub(super) fn create(&mut self, name: &str) -> io::Result<FileIndex> {
        let outcome = self.next(Operation::Other)?;
        if self.folder.get(name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.check_descriptors()?;
        if self.is_done(&outcome) {
            self.add_file(name);
        }
        outcome.into_result()?;
        self.open(name)
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let outcome = self.next(Operation::Other)?;
        let file = self.folder.get(from).ok_or(io::ErrorKind::NotFound)?;
        if self.is_done(&outcome) {
            self.folder.rename(from, to, file);
        }
        outcome.into_result()
    }

    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        let outcome = self.next(Operation::Other)?;
        self.folder.get(name).ok_or(io::ErrorKind::NotFound)?;
        if self.faults.removals_need_room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.is_done(&outcome) {
            self.folder.remove(name);
        }
        outcome.into_result()
    }

    pub(super) fn sync_folder(&mut self) -> io::Result<()> {
        let outcome = self.next(Operation::Sync)?;
        match outcome {
            Outcome::Done => self.folder.sync(),
            Outcome::InDoubt(_) => self.folder.sync_in_doubt(&mut self.random),
        }
        outcome.into_result()
    }

    /// Finds or makes a file that is at least `bytes` long.
    pub(super) fn map(&mut self, name: &str, bytes: u64) -> io::Result<FileIndex> {
        let outcome = self.next(Operation::Other)?;
        if self.is_done(&outcome) {
            let file = match self.folder.get(name) {
                Some(file) => file,
                None => self.add_file(name),
            };
            let length = self.files[file].len() as u64;
            if length < bytes {
                self.write_what_fits(file, &vec![0; (bytes - length) as usize], length)?;
            }
        }
        outcome.into_result()?;
        self.find(name)
    }

    pub(super) fn write(&mut self, file: FileIndex, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self.next(Operation::Write)? {
            Outcome::Done => self.write_what_fits(file, bytes, offset),
            Outcome::InDoubt(error) => {
                let random = &mut self.random;
                self.files[file].write_in_doubt(to_usize(offset)?, bytes, random);
                Err(error)
            }
        }
    }

    pub(super) fn sync(&mut self, file: FileIndex) -> io::Result<()> {
        let outcome = self.next(Operation::Sync)?;
        match outcome {
            Outcome::Done => self.files[file].sync(),
            Outcome::InDoubt(_) => self.files[file].sync_in_doubt(&mut self.random),
        }
        outcome.into_result()
    }

    pub(super) fn store_word(&mut self, file: FileIndex, index: usize, value: u64) {
        if !self.powered_off {
            self.files[file].store_word(index, value);
        }
    }

    /// Like a file system, it writes up to the last free sector before it says that it is full.
    fn write_what_fits(&mut self, file: FileIndex, bytes: &[u8], offset: u64) -> io::Result<()> {
        let length = self.files[file].len() as u64;
        let end = offset.saturating_add(bytes.len() as u64);
        let mut end_max = end;
        if !bytes.is_empty()
            && end > length
            && let Some(limit) = self.faults.full_after_bytes
        {
            let used: u64 = self.folder.entries().map(|(_, file)| self.files[file].len() as u64).sum();
            let free = limit.saturating_sub(used);
            if end - length > free {
                end_max = length.max((length + free) / SECTOR_BYTES * SECTOR_BYTES);
            }
        }
        // Writing nothing, or nothing that fits, does not stretch the file to the offset.
        if end_max > offset {
            let fits = to_usize(end_max - offset)?;
            self.files[file].write(to_usize(offset)?, &bytes[..fits]);
        }
        if end_max < end { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// Whether an operation that can't be done in part is done.
    fn is_done(&mut self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Done => true,
            Outcome::InDoubt(_) => self.random.coin(),
        }
    }

    fn add_file(&mut self, name: &str) -> FileIndex {
        let file = self.files.len();
        self.files.push(Contents::default());
        self.folder.create(name, file);
        file
    }
}

impl Outcome {
    fn into_result(self) -> io::Result<()> {
        match self {
            Outcome::Done => Ok(()),
            Outcome::InDoubt(error) => Err(error),
        }
    }
}

fn input_output_error() -> io::Error {
    io::Error::from_raw_os_error(INPUT_OUTPUT_ERROR)
}

fn power_failure() -> io::Error {
    io::Error::other("the simulated power has failed")
}

fn to_usize(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}
