//! Reads records from the files that they stand in, from any thread, while the store goes on.

use std::sync::{Arc, PoisonError, RwLock};

use rustc_hash::FxHashMap;

use crate::cold::segment::Segment;
use crate::disk::{DiskError, File};
use crate::location::{FileId, Location};
use crate::wal::LogFile;

/// Cheap to clone. A file that was given up is no longer found, and one that is given up *during* a read may be
/// overwritten under it: what is read must prove itself.
#[derive(Clone)]
pub(crate) struct Reader {
    // Changed when a file is begun or given up; locked to look up a handle, never during a read.
    files: Arc<RwLock<FxHashMap<FileId, Arc<dyn File>>>>,
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{0} has been given up")]
    Gone(FileId),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Reader {
    pub(crate) fn new() -> Reader {
        Reader { files: Arc::default() }
    }

    pub(crate) fn add_log(&self, file: &LogFile) {
        self.add(FileId::log(file.header.epoch), file.file.clone());
    }

    pub(crate) fn add_segment(&self, segment: &Segment) {
        self.add(segment.file_id(), segment.file.clone());
    }

    fn add(&self, id: FileId, file: Arc<dyn File>) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(id, file);
    }

    pub(crate) fn remove(&self, id: FileId) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    pub(crate) fn read(&self, location: Location) -> Result<Vec<u8>, ReadError> {
        let file = self.files.read().unwrap_or_else(PoisonError::into_inner).get(&location.file).cloned();
        let file = file.ok_or(ReadError::Gone(location.file))?;
        let mut bytes = vec![0; location.len as usize];
        file.read_at(&mut bytes, u64::from(location.offset))?;
        Ok(bytes)
    }
}
