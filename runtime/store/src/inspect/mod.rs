//! Looks into a data folder without changing it, whatever state it is in: [`Folder::verify`] says what is wrong, and
//! [`Folder::dump`] shows what can be read.
//!
//! Whether a folder opens is not judged here. It is opened, by the same code as ever, on a disk whose writes stay in
//! memory ([`crate::disk`]). Everything else is found by a *survey* that reads each file with the decoders of the store
//! and goes on after damage, where the store stops.
//!
//! | module | what |
//! | --- | --- |
//! | [`survey`] | what is in the folder: its files, and the messages that live, as far as they can be told |
//! | [`log`] | the frames of a log file, also those after damage |
//! | [`segments`] | the records of a segment, also those after damage |
//! | [`verify`] | the report |
//! | [`dump`] | everything that can be read, entry by entry |
//! | [`finding`] | one thing that is wrong, and what it means |

mod dump;
mod finding;
mod log;
mod segments;
mod survey;
mod verify;

use std::path::Path;
use std::sync::Arc;

pub use self::dump::{DumpOptions, Entry, KeptRef, QueueRef, Recorded, StateRecorded, StateRef, StoredMessage};
pub use self::finding::{Finding, Meaning};
pub use self::verify::{FileKind, FileReport, QueueReport, Report};
use crate::OpenError;
use crate::disk::{Disk, FolderLock, HandleCache, RealDisk};

/// Segments and history files that are open at a time.
const HANDLES_MAX: usize = 64;

/// A data folder that is looked at. Nobody can work on it meanwhile.
pub struct Folder {
    disk: Arc<dyn Disk>,
    _lock: Box<dyn FolderLock>,
}

impl Folder {
    /// Opens a folder that is there. Refused while a process works on it: what it writes meanwhile would look like damage.
    pub fn open(folder: &Path) -> Result<Folder, OpenError> {
        Folder::on(Arc::new(RealDisk::open_read_only(folder)?))
    }

    pub(crate) fn on(disk: Arc<dyn Disk>) -> Result<Folder, OpenError> {
        let lock = crate::open::lock(&*disk)?;
        Ok(Folder { disk: Arc::new(HandleCache::new(disk, HANDLES_MAX)), _lock: lock })
    }
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folder").finish_non_exhaustive()
    }
}
