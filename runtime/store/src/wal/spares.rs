//! Files of the ring that nobody needs: made ahead, or given up and waiting for their next life.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use super::file;
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
    let file = disk.create(&name)?;
    let filled = fill(&*file, bytes).and_then(|()| disk.sync_folder());
    match filled {
        Ok(()) => Ok(file),
        Err(error) => {
            // The error that matters is the first; a file that stays is removed at the next opening.
            let _ = disk.remove(&name);
            Err(error)
        }
    }
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
