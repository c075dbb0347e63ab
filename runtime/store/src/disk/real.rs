//! The machine's disk: a folder of a local file system, through the standard library.

#[cfg(test)]
mod tests;
mod words;

use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};

use super::{Disk, DiskError, File, FolderLock, Words};
use crate::courtesy::give_way;

/// Messages are nobody else's business.
const FILE_MODE: u32 = 0o600;

/// A folder of the machine's file system. It has to be a local one: network file systems lock and sync as they like.
#[derive(Debug)]
pub struct RealDisk {
    folder: PathBuf,
    /// Kept open for [`Disk::sync_folder`].
    handle: fs::File,
    /// Nothing may be changed.
    read_only: bool,
}

impl RealDisk {
    /// Opens a folder. If it is missing it is made, durably, and so are its parents.
    pub fn open(folder: &Path) -> Result<RealDisk, DiskError> {
        let folder = std::path::absolute(folder).map_err(failed("find", folder))?;
        create_folder(&folder)?;
        let handle = fs::File::open(&folder).map_err(failed("open", &folder))?;
        Ok(RealDisk { folder, handle, read_only: false })
    }

    /// Opens a folder that is there, to look at it only: whatever would change it is refused. It is locked if there is a
    /// file to lock, and several processes may look at the same time.
    pub(crate) fn open_read_only(folder: &Path) -> Result<RealDisk, DiskError> {
        let folder = std::path::absolute(folder).map_err(failed("find", folder))?;
        let handle = fs::File::open(&folder).map_err(failed("open", &folder))?;
        Ok(RealDisk { folder, handle, read_only: true })
    }

    fn check_writable(&self, action: &'static str, path: &Path) -> Result<(), DiskError> {
        match self.read_only {
            true => Err(failed(action, path)(io::ErrorKind::ReadOnlyFilesystem.into())),
            false => Ok(()),
        }
    }

    fn lock_to_read(&self, path: &Path) -> Result<Box<dyn FolderLock>, DiskError> {
        let file = match fs::File::open(path) {
            Ok(file) => file,
            // A copy of a folder has no such file, and nobody works on it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Box::new(RealLock { _file: None })),
            Err(error) => return Err(failed("open", path)(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Box::new(RealLock { _file: Some(file) })),
            Err(TryLockError::WouldBlock) => {
                Err(failed("lock", path)(io::Error::new(io::ErrorKind::WouldBlock, holder(&file))))
            }
            Err(TryLockError::Error(error)) => Err(failed("lock", path)(error)),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        debug_assert!(!name.is_empty() && !name.contains('/'), "{name:?} is not a plain file name");
        self.folder.join(name)
    }
}

impl Disk for RealDisk {
    fn lock(&self, name: &str) -> Result<Box<dyn FolderLock>, DiskError> {
        let path = self.path(name);
        if self.read_only {
            return self.lock_to_read(&path);
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        let file = options.open(&path).map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let error = io::Error::new(io::ErrorKind::WouldBlock, holder(&file));
                return Err(failed("lock", &path)(error));
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
        // The number is there for people, so a disk that is too full for it is no reason not to start.
        let _ = file.set_len(0).and_then(|()| file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0));
        Ok(Box::new(RealLock { _file: Some(file) }))
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        let failed = || failed("list", &self.folder);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            // What is no file, or has a name that is no text, was not made through this trait.
            if entry.file_type().map_err(failed())?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn File>, DiskError> {
        let path = self.path(name);
        let file = OpenOptions::new().read(true).write(!self.read_only).open(&path).map_err(failed("open", &path))?;
        Ok(Arc::new(RealFile { file, path }))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn File>, DiskError> {
        let path = self.path(name);
        self.check_writable("create", &path)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(FILE_MODE);
        let file = options.open(&path).map_err(failed("create", &path))?;
        Ok(Arc::new(RealFile { file, path }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let (from, to) = (self.path(from), self.path(to));
        self.check_writable("rename", &from)?;
        fs::rename(&from, &to)
            .map_err(|error| DiskError::new("rename", format!("{} to {}", from.display(), to.display()), error))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let path = self.path(name);
        self.check_writable("remove", &path)?;
        forget_pages(&path);
        fs::remove_file(&path).map_err(failed("remove", &path))
    }

    fn sync_folder(&self) -> Result<(), DiskError> {
        self.handle.sync_all().map_err(failed("sync", &self.folder))
    }

    fn map_words(&self, name: &str, words: usize) -> Result<Arc<dyn Words>, DiskError> {
        let path = self.path(name);
        self.check_writable("map", &path)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        let file = options.open(&path).map_err(failed("open", &path))?;
        Ok(Arc::new(words::MappedWords::new(&file, words).map_err(failed("map", &path))?))
    }
}

struct RealFile {
    file: fs::File,
    path: PathBuf,
}

impl File for RealFile {
    fn len(&self) -> Result<u64, DiskError> {
        let metadata = self.file.metadata().map_err(failed("measure", &self.path))?;
        Ok(metadata.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.file.read_exact_at(buffer, offset).map_err(failed("read", &self.path))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        self.file.write_all_at(bytes, offset).map_err(failed("write", &self.path))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(failed("sync", &self.path))
    }
}

/// The operating system's lock goes with the open file, so also when the process is killed.
struct RealLock {
    _file: Option<fs::File>,
}

impl FolderLock for RealLock {}

/// Says who holds a lock file.
fn holder(file: &fs::File) -> String {
    let mut text = [0; 20];
    let length = file.read_at(&mut text, 0).unwrap_or(0);
    let process = std::str::from_utf8(&text[..length]).ok().and_then(|text| text.trim().parse::<u32>().ok());
    match process {
        Some(process) => format!("process {process} is using this folder"),
        None => "another process is using this folder".to_owned(),
    }
}

/// Lets go of what the system caches of a file, a piece at a time: removing the file would do it in one go, which takes
/// 10 ms for 64 MiB. Whoever still reads the file reads it from the disk.
fn forget_pages(path: &Path) {
    const PIECE_BYTES: u64 = 1 << 20;
    // A file that is in nobody's way either way.
    let Ok(file) = fs::File::open(path) else { return };
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    for from in (0..len).step_by(PIECE_BYTES as usize) {
        let _ = fadvise(&file, from, NonZeroU64::new(PIECE_BYTES), Advice::DontNeed);
        give_way();
    }
}

/// Makes a folder and whatever is missing above it. Each is on record in its parent before anything is put into it.
fn create_folder(folder: &Path) -> Result<(), DiskError> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        create_folder(parent)?;
    }
    match fs::create_dir(folder) {
        // Somebody else was faster.
        Err(_) if folder.is_dir() => {}
        made => made.map_err(failed("create", folder))?,
    }
    if let Some(parent) = folder.parent() {
        fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync", parent))?;
    }
    Ok(())
}

/// Names what was tried and where.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    move |error| DiskError::new(action, path.display().to_string(), error)
}
