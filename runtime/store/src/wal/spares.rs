//! Files of the ring that nobody needs: made ahead, or given up and waiting for their next life.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use super::file::{self, FileHeader};
use crate::disk::{Disk, DiskError, File};

/// What a file is zero-filled in.
const CHUNK_BYTES: usize = 1 << 20;

/// Where files are made ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preparation {
    /// On a thread of its own, so that no commit waits for it.
    Thread,
    /// At once, for a simulated disk whose operations are counted.
    #[cfg(test)]
    Inline,
}

pub(crate) struct Spares {
    ready: Vec<(u32, Arc<dyn File>)>,
    coming: Option<Coming>,
    preparation: Preparation,
}

struct Coming {
    slot: u32,
    made: Receiver<Result<Arc<dyn File>, DiskError>>,
}

impl Spares {
    pub(crate) fn new(preparation: Preparation) -> Spares {
        Spares { ready: Vec::new(), coming: None, preparation }
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    pub(crate) fn coming(&self) -> usize {
        usize::from(self.coming.is_some())
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> {
        self.ready.iter().map(|(slot, _)| *slot).chain(self.coming.iter().map(|coming| coming.slot))
    }

    pub(crate) fn take(&mut self) -> Option<(u32, Arc<dyn File>)> {
        self.ready.pop()
    }

    pub(crate) fn put(&mut self, slot: u32, file: Arc<dyn File>) {
        self.ready.push((slot, file));
    }

    /// Starts to make a file. The caller asks for one at a time. If the system has no thread for it, it is made at once.
    pub(crate) fn prepare(&mut self, disk: Arc<dyn Disk>, slot: u32, bytes: u64) {
        assert!(self.slots().all(|taken| taken != slot), "a spare file is not made twice");
        let (done, made) = channel();
        self.coming = Some(Coming { slot, made });
        let work = move || drop(done.send(make(&*disk, slot, bytes)));
        let here = work.clone();
        let spawned = match self.preparation {
            #[cfg(test)]
            Preparation::Inline => None,
            Preparation::Thread => std::thread::Builder::new().name("log-file-maker".into()).spawn(work).ok(),
        };
        if spawned.is_none() {
            here();
        }
    }

    pub(crate) fn collect(&mut self, wait: bool) -> Result<(), DiskError> {
        let Some(coming) = &self.coming else { return Ok(()) };
        let made =
            if wait { coming.made.recv().map_err(|_| TryRecvError::Disconnected) } else { coming.made.try_recv() };
        let slot = coming.slot;
        match made {
            Err(TryRecvError::Empty) => Ok(()),
            Err(TryRecvError::Disconnected) => {
                self.coming = None;
                let error = io::Error::other("the thread that does it has panicked");
                Err(DiskError::new("make", "a log file", error))
            }
            Ok(result) => {
                self.coming = None;
                self.ready.push((slot, result?));
                Ok(())
            }
        }
    }
}

impl Drop for Spares {
    /// Waits for the file that is on its way: nobody may write to the folder after its lock is gone.
    fn drop(&mut self) {
        if let Some(coming) = self.coming.take() {
            // Whatever came of it, the next opening finds it.
            let _ = coming.made.recv();
        }
    }
}

/// Makes a file of zeros, durable with its name. On an error nothing of it stays, if the disk lets go of it.
pub(crate) fn make(disk: &dyn Disk, slot: u32, bytes: u64) -> Result<Arc<dyn File>, DiskError> {
    let name = file::name(slot);
    let file = match disk.create(&name) {
        Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => left_over(disk, &name, bytes, error)?,
        created => created?,
    };
    let filled = fill(&*file, bytes).and_then(|()| disk.sync_folder());
    match filled {
        Ok(()) => Ok(file),
        Err(error) => {
            // The error that matters is the first; a file that stays is taken when one of its name is made again.
            let _ = disk.remove(&name);
            Err(error)
        }
    }
}

/// A file that could not be made whole before, nor be removed. One that was ever begun, or is longer than any that is made
/// here, is something else: it stays as it is, and `taken` is the answer.
fn left_over(disk: &dyn Disk, name: &str, bytes: u64, taken: DiskError) -> Result<Arc<dyn File>, DiskError> {
    let file = disk.open(name)?;
    let is_blank = matches!(FileHeader::read(name, &*file), Ok(None));
    if is_blank && file.len()? <= bytes { Ok(file) } else { Err(taken) }
}

fn fill(file: &dyn File, bytes: u64) -> Result<(), DiskError> {
    let zeros = vec![0u8; CHUNK_BYTES.min(bytes as usize)];
    let mut offset = 0;
    while offset < bytes {
        let len = (bytes - offset).min(zeros.len() as u64);
        file.write_at(&zeros[..len as usize], offset)?;
        offset += len;
    }
    file.sync()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    #[test]
    fn what_was_left_half_made_is_made_whole_and_a_file_that_was_begun_is_never_overwritten() {
        for left in [0, 1, 700, 4096] {
            let disk = SimulatedDisk::new(1);
            disk.create("wal-0002.log").unwrap().write_at(&vec![0; left], 0).unwrap();
            make(&disk, 2, 4096).unwrap();
            let made = disk.crash();
            assert_eq!(made.file_len("wal-0002.log"), 4096);
            assert_eq!(FileHeader::read("wal-0002.log", &*made.open("wal-0002.log").unwrap()).unwrap(), None);
        }
        let header = FileHeader { epoch: 3, first_lsn: 5, store_tag: 7, salt: 9, file_bytes: 4096 };
        let begun = header.encode();
        let mut damaged = begun;
        damaged[100] ^= 1;
        for header in [begun, damaged] {
            let disk = SimulatedDisk::new(1);
            disk.create("wal-0002.log").unwrap().write_at(&header, 0).unwrap();
            let refused = make(&disk, 2, 4096).err().expect("it is in use");
            assert_eq!(refused.source.kind(), io::ErrorKind::AlreadyExists);
            let mut there = [0; 512];
            disk.open("wal-0002.log").unwrap().read_at(&mut there, 0).unwrap();
            assert_eq!((there, disk.file_len("wal-0002.log")), (header, 512));
        }
    }
}
