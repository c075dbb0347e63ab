//! Reads parts of the log's files, from any thread, while the log goes on.

use std::sync::{Arc, PoisonError, RwLock};

use rustc_hash::FxHashMap;

use super::LogFile;
use crate::disk::{DiskError, File};

/// Cheap to clone. A file that was given up is no longer found, and one that is given up *during* a read may be
/// overwritten under it: what is read must prove itself.
#[derive(Clone)]
pub(crate) struct Reader {
    // Changed when a file is begun or given up; locked to look up a handle, never during a read.
    files: Arc<RwLock<FxHashMap<u64, Arc<dyn File>>>>,
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the log file with epoch {0} has been given up")]
    Gone(u64),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Reader {
    pub(crate) fn new() -> Reader {
        Reader { files: Arc::default() }
    }

    pub(crate) fn add(&self, file: &LogFile) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(file.header.epoch, file.file.clone());
    }

    pub(crate) fn remove(&self, epoch: u64) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&epoch);
    }

    pub(crate) fn read(&self, epoch: u64, offset: u32, len: u32) -> Result<Vec<u8>, ReadError> {
        let file = self.files.read().unwrap_or_else(PoisonError::into_inner).get(&epoch).cloned();
        let file = file.ok_or(ReadError::Gone(epoch))?;
        let mut bytes = vec![0; len as usize];
        file.read_at(&mut bytes, u64::from(offset))?;
        Ok(bytes)
    }
}
