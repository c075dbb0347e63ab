//! Keeps at most so many files open of those that are only read: a backlog has thousands of segments, and a process a
//! thousand descriptors.
//!
//! A file that is opened to be read ([`Disk::open_to_read`]) loses its descriptor when others were used later, and gets one
//! again with its next read. When the system has none left, all of these are given back before anything fails for lack of
//! one. Files that are written to keep theirs: what a sync of another descriptor says of them is nobody's promise.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustc_hash::FxHashMap;

use super::{Disk, DiskError, File, FolderLock, Words};

/// A disk on which files that are only read share some descriptors.
pub(crate) struct HandleCache {
    handles: Arc<Handles>,
}

struct Handles {
    disk: Arc<dyn Disk>,
    /// Descriptors that are kept.
    max: usize,
    /// Grows with each use of a file.
    clock: AtomicU64,
    // Never held while a file is opened, read or closed.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// All files that somebody holds, by name.
    files: FxHashMap<Box<str>, Weak<Lent>>,
    /// Those that have a descriptor, and may lose it.
    open: Vec<Weak<Lent>>,
}

/// A file whose descriptor comes and goes.
struct Lent {
    name: Box<str>,
    handles: Arc<Handles>,
    // Held while the file is opened, so that it is opened once.
    handle: Mutex<Handle>,
    used_at: AtomicU64,
}

#[derive(Default)]
struct Handle {
    file: Option<Arc<dyn File>>,
    /// It has no name any more, so it could not be opened again.
    keeps: bool,
}

impl HandleCache {
    /// `max`: descriptors of files that are only read.
    pub(crate) fn new(disk: Arc<dyn Disk>, max: usize) -> HandleCache {
        assert!(max > 0, "a file is open while it is read");
        let handles = Handles { disk, max, clock: AtomicU64::new(0), known: Mutex::default() };
        HandleCache { handles: Arc::new(handles) }
    }

    fn disk(&self) -> &dyn Disk {
        &*self.handles.disk
    }

    /// The name will mean something else, or nothing: who has the file goes on having it.
    fn forget(&self, name: &str) {
        let file = self.handles.known().files.remove(name).and_then(|file| file.upgrade());
        if let Some(file) = file {
            // Without a descriptor whoever reads it is told that it is missing.
            let _ = file.keep_open();
        }
    }
}

impl Handles {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change of it is one step: a panic leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries again without the descriptors that are kept, if the system has none left.
    fn with_a_descriptor<T>(&self, open: impl Fn(&dyn Disk) -> Result<T, DiskError>) -> Result<T, DiskError> {
        match open(&*self.disk) {
            Err(error) if error.is_out_of_files() && self.close_all() => open(&*self.disk),
            opened => opened,
        }
    }

    /// A file has got a descriptor. Another one may have to give up its own.
    fn opened(&self, file: &Arc<Lent>) {
        // Let go of after the lock: each of them may be the last one that holds its file.
        let open: Vec<Arc<Lent>>;
        let victim = {
            let mut known = self.known();
            known.open.push(Arc::downgrade(file));
            open = known.open.iter().filter_map(Weak::upgrade).collect();
            known.open.retain(|open| open.strong_count() > 0);
            let is_full = open.len() > self.max;
            let victim = open.iter().filter(|_| is_full).min_by_key(|open| open.used_at.load(Ordering::Relaxed));
            known.open.retain(|open| victim.is_none_or(|victim| open.as_ptr() != Arc::as_ptr(victim)));
            victim
        };
        drop(victim.and_then(|victim| victim.give_up()));
    }

    /// Answers whether any descriptor was given back.
    fn close_all(&self) -> bool {
        let open = std::mem::take(&mut self.known().open);
        let closed = open.iter().filter_map(Weak::upgrade).filter_map(|file| file.give_up());
        closed.count() > 0
    }
}

impl Lent {
    fn handle(&self) -> MutexGuard<'_, Handle> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file, which is opened if need be.
    fn file(self: &Arc<Lent>) -> Result<Arc<dyn File>, DiskError> {
        self.used_at.store(self.handles.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let file = {
            let mut handle = self.handle();
            if let Some(file) = &handle.file {
                return Ok(file.clone());
            }
            handle.file.insert(self.handles.with_a_descriptor(|disk| disk.open(&self.name))?).clone()
        };
        self.handles.opened(self);
        Ok(file)
    }

    /// From here on it has a descriptor.
    fn keep_open(self: &Arc<Lent>) -> Result<(), DiskError> {
        let file = self.file()?;
        let mut handle = self.handle();
        handle.file.get_or_insert(file);
        handle.keeps = true;
        Ok(())
    }

    /// Its descriptor, which is closed when nobody reads with it any more.
    fn give_up(&self) -> Option<Arc<dyn File>> {
        let mut handle = self.handle();
        if handle.keeps { None } else { handle.file.take() }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut known = self.handles.known();
        // Its name may stand for another file by now.
        if known.files.get(&self.name).is_some_and(|file| file.strong_count() == 0) {
            known.files.remove(&self.name);
        }
    }
}

/// What a file is that was opened to be read.
struct ReadHandle(Arc<Lent>);

impl File for ReadHandle {
    fn len(&self) -> Result<u64, DiskError> {
        self.0.file()?.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.0.file()?.read_at(buffer, offset)
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<(), DiskError> {
        unreachable!("{} was opened to be read", self.0.name)
    }

    fn sync(&self) -> Result<(), DiskError> {
        unreachable!("{} was opened to be read", self.0.name)
    }
}

impl Disk for HandleCache {
    fn lock(&self, name: &str) -> Result<Box<dyn FolderLock>, DiskError> {
        self.disk().lock(name)
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.handles.with_a_descriptor(Disk::list)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn File>, DiskError> {
        self.handles.with_a_descriptor(|disk| disk.open(name))
    }

    fn open_to_read(&self, name: &str) -> Result<Arc<dyn File>, DiskError> {
        let known = self.handles.known().files.get(name).and_then(Weak::upgrade);
        if let Some(file) = known {
            return Ok(Arc::new(ReadHandle(file)));
        }
        let file = Arc::new(Lent {
            name: name.into(),
            handles: self.handles.clone(),
            handle: Mutex::default(),
            used_at: AtomicU64::new(0),
        });
        // Whether it is there is told now.
        file.file()?;
        self.handles.known().files.insert(name.into(), Arc::downgrade(&file));
        Ok(Arc::new(ReadHandle(file)))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn File>, DiskError> {
        self.handles.with_a_descriptor(|disk| disk.create(name))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        [from, to].into_iter().for_each(|name| self.forget(name));
        self.disk().rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.forget(name);
        self.disk().remove(name)
    }

    fn sync_folder(&self) -> Result<(), DiskError> {
        self.disk().sync_folder()
    }

    fn map_words(&self, name: &str, words: usize) -> Result<Arc<dyn Words>, DiskError> {
        self.handles.with_a_descriptor(|disk| disk.map_words(name, words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{SimulatedDisk, SimulatedFaults};

    const MAX: usize = 3;

    /// Files that hold their own number, opened to be read.
    fn files(count: u8) -> (SimulatedDisk, HandleCache, Vec<Arc<dyn File>>) {
        let disk = SimulatedDisk::new(1);
        for number in 0..count {
            disk.create(&number.to_string()).unwrap().write_at(&[number], 0).unwrap();
        }
        let cache = HandleCache::new(Arc::new(disk.clone()), MAX);
        let files = (0..count).map(|number| cache.open_to_read(&number.to_string()).unwrap()).collect();
        (disk, cache, files)
    }

    fn read(file: &dyn File) -> Result<u8, DiskError> {
        let mut byte = [0];
        file.read_at(&mut byte, 0)?;
        Ok(byte[0])
    }

    #[test]
    fn many_files_share_few_descriptors() {
        let (disk, _cache, files) = files(50);
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..500 {
            let number = random.u8(0..50);
            assert_eq!(read(&*files[usize::from(number)]).unwrap(), number);
            assert!(disk.open_files() <= MAX, "{}", disk.open_files());
        }
        drop(files);
        assert_eq!(disk.open_files(), 0);
    }

    #[test]
    fn the_one_that_was_not_used_for_longest_is_closed() {
        let (disk, _cache, files) = files(MAX as u8 + 1);
        (0..MAX).for_each(|number| assert!(read(&*files[number]).is_ok()));
        read(&*files[0]).unwrap();
        read(&*files[MAX]).unwrap();
        // Nothing can be opened any more: those that are open can be read, and the one that was closed can't.
        disk.set_faults(SimulatedFaults { open_files_max: Some(0), ..SimulatedFaults::default() });
        assert_eq!(read(&*files[0]).unwrap(), 0);
        assert_eq!(read(&*files[MAX]).unwrap(), MAX as u8);
        assert!(read(&*files[1]).unwrap_err().is_out_of_files());
    }

    #[test]
    fn without_descriptors_the_kept_ones_are_given_back_and_a_read_that_fails_can_be_tried_again() {
        let (disk, cache, files) = files(10);
        (0..MAX).for_each(|number| assert!(read(&*files[number]).is_ok()));
        // Somebody else has all but one of them.
        disk.set_faults(SimulatedFaults { open_files_max: Some(MAX), ..SimulatedFaults::default() });
        assert_eq!(read(&*files[9]).unwrap(), 9);
        let new = cache.create("new").unwrap();
        let others: Vec<_> = (0..MAX - 1).map(|number| cache.create(&format!("new {number}")).unwrap()).collect();
        let error = read(&*files[4]).unwrap_err();
        assert!(error.is_out_of_files() && error.to_string().contains("open simulated/4"), "{error}");
        drop(others);
        assert_eq!(read(&*files[4]).unwrap(), 4);
        drop(new);
    }

    #[test]
    fn who_holds_a_file_can_read_it_after_it_was_removed_and_its_name_is_taken_again() {
        let (disk, cache, files) = files(10);
        (5..8).for_each(|number| assert!(read(&*files[number]).is_ok()));
        cache.remove("0").unwrap();
        cache.create("0").unwrap().write_at(&[200], 0).unwrap();
        let new = cache.open_to_read("0").unwrap();
        cache.rename("1", "2").unwrap();
        (3..10).for_each(|number| assert!(read(&*files[number]).is_ok()));
        assert_eq!(read(&*new).unwrap(), 200);
        assert_eq!([0, 1, 2].map(|number| read(&*files[number]).unwrap()), [0, 1, 2]);
        assert_eq!(read(&*cache.open_to_read("2").unwrap()).unwrap(), 1);
        drop((files, new));
        assert_eq!(disk.open_files(), 0);
    }

    #[test]
    fn threads_read_what_others_close() {
        let (_disk, _cache, files) = files(20);
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let files = &files;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    for _ in 0..2000 {
                        let number = random.u8(0..20);
                        assert_eq!(read(&*files[usize::from(number)]).unwrap(), number);
                    }
                });
            }
        });
    }
}
