//! The files that one producer follows: which they are now, and what is new in them. All calls block on the file system.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::batch::{BATCH_BYTES, BATCH_FILES, BATCH_READS, Batch, LINE_OVERHEAD, Line};
use super::lines::{Framing, Next, Progress};
use super::listing::{Folders, Found, Listing, Seen};
use super::position::{Head, Record, begin_alike, fill, read_up_to};
use crate::config::producers::{Start, TailConfig};
use crate::config::writable::first_on_the_way;
use crate::producers::file_id::FileId;

/// Bytes that are read at once; more if a line may be longer.
const CHUNK_BYTES: usize = 256 << 10;
/// Files that are kept open. The others are opened when there is something new in them.
const OPEN_MAX: usize = 256;
/// How patient the following is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// A file that was renamed out of the patterns is followed until it has been quiet for so long.
    pub(super) renamed: Duration,
    /// So is one that was deleted.
    pub(super) deleted: Duration,
    /// A file that looks like a copy of one that is followed is left alone until it has been quiet for so long: the
    /// original may be truncated next.
    pub(super) copied: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { renamed: Duration::from_secs(60), deleted: Duration::from_secs(5), copied: Duration::from_secs(3) }
    }
}

/// See the module.
pub(super) struct Follower {
    patterns: Vec<String>,
    opener: Opener,
    framing: Framing,
    patience: Patience,
    files: BTreeMap<FileId, Followed>,
    /// Files that may have something new.
    ready: VecDeque<FileId>,
    /// New files that look like copies, and since when they are quiet.
    held: HashMap<FileId, (Seen, Instant)>,
    buffer: Vec<u8>,
    clock: u64,
    bytes_max: usize,
    /// What could not be read, since somebody asked last.
    errors: Vec<String>,
}

/// One file.
struct Followed {
    /// Its name, as long as it has one.
    path: PathBuf,
    progress: Progress,
    head: Head,
    file: Option<File>,
    /// When it was read last, by the follower's count.
    used: u64,
    /// Whether the patterns name it.
    listed: bool,
    /// Whether it has a name at all.
    linked: bool,
    /// What it was like when it was last read to its end.
    finished: Option<Seen>,
    seen: Option<Seen>,
    /// Since when it is like that.
    quiet_since: Instant,
    ready: bool,
    /// Nobody will add to it: what is left of it is its last line.
    ending: bool,
    /// It comes from the state and was not yet seen since the start.
    restored: Option<Record>,
}

impl Follower {
    /// Goes on with the files whose records these are.
    pub(super) fn new(
        config: &TailConfig,
        patience: Patience,
        records: Vec<(FileId, Record)>,
        now: Instant,
    ) -> Follower {
        let framing = Framing { line_bytes_max: config.line_bytes_max, long_lines: config.long_lines };
        let followed = |(id, record): (FileId, Record)| {
            let mut file = Followed::new(&record.path, now);
            file.progress = record.progress;
            file.listed = false;
            file.restored = Some(record);
            (id, file)
        };
        Follower {
            patterns: config.files.clone(),
            opener: Opener(config.writable.clone()),
            framing,
            patience,
            files: records.into_iter().map(followed).collect(),
            ready: VecDeque::new(),
            held: HashMap::new(),
            buffer: vec![0; CHUNK_BYTES.max(framing.window())],
            clock: 0,
            bytes_max: BATCH_BYTES,
            errors: Vec::new(),
        }
    }

    /// How many files there are.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// What went wrong since the last time.
    pub(super) fn take_errors(&mut self) -> Vec<String> {
        std::mem::take(&mut self.errors)
    }

    /// The engine takes no more in one step than half of what was tried.
    pub(super) fn halve(&mut self) {
        self.bytes_max = (self.bytes_max / 2).max(4096);
    }

    /// A start with patterns that are new: passes over what is in their files by now, if that is wanted. `before` are the
    /// patterns of the start before, if there was one. Answers what goes on record.
    pub(super) fn begin(&mut self, start: Start, before: &[String], now: Instant) -> Vec<(FileId, Record)> {
        if start == Start::Beginning || self.patterns.iter().all(|pattern| before.contains(pattern)) {
            return Vec::new();
        }
        let mut records = Vec::new();
        let followed_before = Listing::take(before).files;
        for (id, found) in Listing::take(&self.patterns).files {
            // What was passed over before stays so, and what came since then to where it is followed is read.
            if self.files.contains_key(&id) || followed_before.contains_key(&id) {
                continue;
            }
            let passed = self.opener.open(&found.path, id).and_then(|file| {
                let offset = end_of_last_line(&file, found.seen.size)?;
                Ok((offset, Head::read(&file, offset)?))
            });
            match passed {
                Ok((offset, head)) => {
                    let progress = Progress { offset, ..Progress::default() };
                    records.push((id, Record::new(&found.path, progress, &head)));
                    let mut followed = Followed::new(&found.path, now);
                    (followed.progress, followed.head) = (progress, head);
                    self.files.insert(id, followed);
                }
                Err(error) => self.errors.push(format!("can't read {}: {error}", found.path.display())),
            }
        }
        records
    }

    /// Looks which files there are, and which of them have changed. Answers the folders where changes happen.
    pub(super) fn look(&mut self, batch: &mut Batch, now: Instant) -> BTreeSet<PathBuf> {
        let mut listing = Listing::take(&self.patterns);
        self.errors.extend(listing.error.take());
        let folders = listing.folders(&self.patterns);
        let mut in_folders = Folders::default();
        let ids: Vec<_> = self.files.keys().copied().collect();
        for id in ids {
            self.look_at(id, listing.files.remove(&id), &mut listing, &mut in_folders, batch, now);
        }
        self.held.retain(|id, _| listing.files.contains_key(id));
        let unread = self.unread(&listing);
        for (id, found) in listing.files {
            if !self.files.contains_key(&id) && !self.is_held(id, &found, &unread, now) {
                self.held.remove(&id);
                self.follow(id, &found.path, found.seen, batch, now);
            }
        }
        self.hold();
        folders
    }

    /// Opens what is to be read, as far as there may be open files: it is read to its end then, also if it is deleted
    /// before its turn comes (a log that is compressed as soon as it is rotated).
    fn hold(&mut self) {
        let open_already = self.files.values().filter(|file| file.file.is_some()).count();
        let mut room = OPEN_MAX.saturating_sub(open_already);
        for id in &self.ready {
            let Some(file) = self.files.get_mut(id).filter(|file| file.file.is_none()) else { continue };
            if room == 0 {
                return;
            }
            // Why it can't be opened is said when it is read.
            if let Ok(open) = self.opener.open(&file.path, *id) {
                (file.file, file.used) = (Some(open), self.clock);
                room -= 1;
            }
        }
    }

    fn follow(&mut self, id: FileId, path: &Path, seen: Seen, batch: &mut Batch, now: Instant) {
        let mut followed = Followed::new(path, now);
        // So that it is found again if it is renamed before its first line is on record.
        batch.others.insert(id, Record::new(path, followed.progress, &followed.head));
        followed.seen = Some(seen);
        self.files.insert(id, followed);
        self.make_ready(id);
    }

    /// A file that is known: where it is now, whether it has changed, whether it is done with.
    fn look_at(
        &mut self,
        id: FileId,
        found: Option<Found>,
        listing: &mut Listing,
        in_folders: &mut Folders,
        batch: &mut Batch,
        now: Instant,
    ) {
        let Some(file) = self.files.get_mut(&id) else { return };
        file.listed = found.is_some();
        let elsewhere = || {
            let folder = file.path.parent()?;
            let (path, metadata) = in_folders.find(folder, id).or_else(|| {
                // A link's target is in another folder.
                let metadata = std::fs::metadata(&file.path).ok()?;
                (FileId::of(&metadata) == id).then(|| (file.path.clone(), metadata))
            })?;
            Some(Found { path, seen: Seen::of(&metadata) })
        };
        let found = found.or_else(elsewhere);
        file.linked = found.is_some();
        let seen = match (found, &file.file) {
            (Some(found), _) => {
                file.path = found.path;
                found.seen
            }
            // It was deleted, and is still open here.
            (None, Some(open)) => match open.metadata() {
                Ok(metadata) => Seen::of(&metadata),
                Err(_) => return self.forget(id, batch),
            },
            // The device may have another number since the machine was started again.
            (None, None) => match self.moved(id, listing) {
                Some((new_id, found)) => return self.rename(id, new_id, found, batch),
                None => return self.forget(id, batch),
            },
        };
        if file.seen != Some(seen) {
            (file.seen, file.quiet_since, file.ending) = (Some(seen), now, false);
        }
        let patience = if file.linked { self.patience.renamed } else { self.patience.deleted };
        let quiet = now.duration_since(file.quiet_since) >= patience;
        if file.finished != Some(seen) {
            self.make_ready(id);
        } else if !file.listed && quiet {
            file.ending = true;
            self.make_ready(id);
        }
    }

    /// A file that comes from the state and is nowhere: the one with its inode and its content, on another device.
    fn moved(&self, id: FileId, listing: &Listing) -> Option<(FileId, Found)> {
        let record = self.files.get(&id)?.restored.as_ref()?;
        let same = |other: &FileId| other.inode == id.inode && !self.files.contains_key(other);
        let (other, found) = listing.files.iter().find(|(other, _)| same(other))?;
        let file = self.opener.open(&found.path, *other).ok()?;
        let known = record.progress.offset > 0 && record.head_of(&file, found.seen.size).ok()?.is_some();
        known.then(|| (*other, found.clone()))
    }

    fn rename(&mut self, id: FileId, new_id: FileId, found: Found, batch: &mut Batch) {
        let Some(mut file) = self.files.remove(&id) else { return };
        (file.path, file.seen, file.listed) = (found.path, Some(found.seen), true);
        batch.forgotten.insert(id);
        batch.others.extend(file.restored.clone().map(|record| (new_id, record)));
        self.files.insert(new_id, file);
        self.make_ready(new_id);
    }

    fn forget(&mut self, id: FileId, batch: &mut Batch) {
        self.files.remove(&id);
        batch.others.remove(&id);
        batch.forgotten.insert(id);
    }

    /// The files of which nothing is read yet: those that are new in this listing, and others.
    fn unread(&self, listing: &Listing) -> HashMap<PathBuf, FileId> {
        if listing.files.is_empty() {
            return HashMap::new();
        }
        let followed = self.files.iter().filter(|(_, file)| file.listed && file.is_unread());
        let followed = followed.map(|(id, file)| (file.path.clone(), *id));
        followed.chain(listing.files.iter().map(|(id, found)| (found.path.clone(), *id))).collect()
    }

    /// Whether a new file is left alone for now, because it may be the copy in a copy-truncate.
    fn is_held(&mut self, id: FileId, found: &Found, unread: &HashMap<PathBuf, FileId>, now: Instant) -> bool {
        let since = match self.held.get(&id) {
            Some((seen, since)) if *seen == found.seen => *since,
            _ => now,
        };
        if now.duration_since(since) >= self.patience.copied || !self.looks_like_a_copy(id, &found.path, unread) {
            return false;
        }
        self.held.insert(id, (found.seen, since));
        true
    }

    /// Whether a file begins as another does, or did when it was read, and is named after that. As a copy has nothing in
    /// it when it is made, so does one in which there is nothing yet.
    fn looks_like_a_copy(&self, id: FileId, path: &Path, unread: &HashMap<PathBuf, FileId>) -> bool {
        // One that can't be read now is no copy of anything, and its turn to say so comes.
        let Ok(copy) = self.opener.open(path, id) else { return false };
        let Ok(size) = copy.metadata().map(|metadata| metadata.len()) else { return false };
        let alike_now = |original: &Path, original_id: FileId| -> io::Result<bool> {
            Ok(size == 0 || begin_alike(&self.opener.open(original, original_id)?, &copy)?)
        };
        let alike = |original_id: FileId, original: &Followed| -> io::Result<bool> {
            let as_it_was = match &original.restored {
                Some(record) => record.head_of(&copy, size)?.is_some(),
                None => original.head.begins_like(&copy, original.progress.offset)?,
            };
            Ok(as_it_was || alike_now(&original.path, original_id)?)
        };
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let related = |original: &Followed| {
            let stem = original.path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
            original.path.parent() == path.parent() && name.starts_with(&*stem)
        };
        let mut read = self.files.iter().filter(|(_, original)| original.listed && !original.is_unread());
        let copy_of_unread = || {
            let mut originals = originals_of(&name).map(|name| path.with_file_name(name));
            originals.any(|path| unread.get(&path).is_some_and(|id| alike_now(&path, *id).unwrap_or(false)))
        };
        read.any(|(id, original)| related(original) && alike(*id, original).unwrap_or(false)) || copy_of_unread()
    }

    fn make_ready(&mut self, id: FileId) {
        if let Some(file) = self.files.get_mut(&id)
            && !std::mem::replace(&mut file.ready, true)
        {
            self.ready.push_back(id);
        }
    }

    /// Reads what is new, until the batch is full or there is nothing left. True if there may be more.
    pub(super) fn collect(&mut self, batch: &mut Batch) -> bool {
        let mut touched = BTreeSet::new();
        for _ in 0..BATCH_READS {
            if batch.is_full(self.bytes_max) || touched.len() >= BATCH_FILES {
                break;
            }
            let Some(id) = self.ready.pop_front() else { return false };
            if let Some(file) = self.files.get_mut(&id) {
                file.ready = false;
            }
            touched.insert(id);
            match self.read(id, batch) {
                // All take their turn.
                Ok(true) => self.make_ready(id),
                Ok(false) => {}
                Err(error) => self.unreadable(id, &error),
            }
        }
        !self.ready.is_empty()
    }

    fn unreadable(&mut self, id: FileId, error: &io::Error) {
        if let Some(file) = self.files.get_mut(&id) {
            file.file = None;
            // Its name may be another file's by now, which the next look finds out.
            if error.kind() != io::ErrorKind::NotFound {
                self.errors.push(format!("can't read {}: {error}", file.path.display()));
            }
        }
    }

    /// Reads one chunk of one file. True if there is more.
    fn read(&mut self, id: FileId, batch: &mut Batch) -> io::Result<bool> {
        self.clock += 1;
        let clock = self.clock;
        let Some(file) = self.files.get_mut(&id) else { return Ok(false) };
        file.used = clock;
        if file.file.is_none() {
            file.file = Some(self.opener.open(&file.path, id)?);
            self.close_some();
        }
        let Some(file) = self.files.get_mut(&id) else { return Ok(false) };
        let Some(open) = &file.file else { return Ok(false) };
        let length = fill(open, file.progress.offset, &mut self.buffer)?;
        // After reading: what is found to be right now was right when it was read.
        let seen = Seen::of(&open.metadata()?);
        let known = match file.restored.take() {
            Some(record) => match record.head_of(open, seen.size)? {
                Some(head) => {
                    file.head = head;
                    true
                }
                None => {
                    file.restored = Some(record);
                    false
                }
            },
            None => seen.size >= file.progress.offset && file.head.is_of(open, file.progress.offset)?,
        };
        if !known {
            self.truncated(id, batch)?;
            return Ok(true);
        }
        let whole = (length as u64) < self.buffer.len() as u64;
        let begin = file.progress;
        file.head.add(begin.offset, &self.buffer[..length]);
        let (mut complete, last) = (true, whole && file.ending);
        let lines_before = batch.lines.len();
        loop {
            let at = (file.progress.offset - begin.offset) as usize;
            if batch.is_full(self.bytes_max) {
                complete = false;
                break;
            }
            let before = file.progress;
            match self.framing.next(&mut file.progress, &self.buffer[at..length], last) {
                Next::Line { range, part } => {
                    let offset = before.offset + range.start as u64;
                    let body = Bytes::copy_from_slice(&self.buffer[at..][range]);
                    batch.bytes += body.len() + LINE_OVERHEAD + file.path.as_os_str().len();
                    let progress = file.progress;
                    batch.lines.push(Line { file: id, path: file.path.clone(), offset, part, body, progress });
                    batch.others.remove(&id);
                }
                Next::Refused => {
                    batch.refused += 1;
                    batch.others.insert(id, Record::new(&file.path, file.progress, &file.head));
                }
                Next::Incomplete => {
                    if file.progress != before {
                        batch.others.insert(id, Record::new(&file.path, file.progress, &file.head));
                    }
                    break;
                }
            }
        }
        if batch.lines.len() > lines_before {
            batch.heads.push((lines_before, file.head.clone()));
        }
        let more = !complete || !whole;
        file.finished = (!more).then_some(seen);
        if !more && file.ending {
            // With its last line, if it had one, all is said.
            self.forget(id, batch);
        }
        Ok(more)
    }

    /// The content of a file was replaced: goes on with the rest of a copy of the old content, if there is one, and reads
    /// the new content from its beginning.
    fn truncated(&mut self, id: FileId, batch: &mut Batch) -> io::Result<()> {
        let Some(file) = self.files.get_mut(&id) else { return Ok(()) };
        let record = match file.restored.take() {
            Some(record) => record,
            None => Record::new(&file.path, file.progress, &file.head),
        };
        let path = file.path.clone();
        (file.progress, file.head, file.finished) = (Progress::default(), Head::default(), None);
        let reset = Record::new(&path, file.progress, &file.head);
        let copy = if record.progress.offset > 0 { self.copy_of(&record, &path) } else { None };
        match copy {
            Some((copy_id, copy_path, seen, offset)) => {
                tracing::info!(file = %path.display(), copy = %copy_path.display(), "truncated; its copy is read to the end");
                let mut followed = Followed::new(&copy_path, Instant::now());
                followed.progress = Progress { offset, ..record.progress };
                followed.seen = Some(seen);
                followed.head = Head::read(&self.opener.open(&copy_path, copy_id)?, offset)?;
                let progress = followed.progress;
                batch.others.insert(copy_id, Record::new(&copy_path, progress, &followed.head));
                self.held.remove(&copy_id);
                self.files.insert(copy_id, followed);
                self.make_ready(copy_id);
            }
            None => tracing::info!(file = %path.display(), "truncated; read from its beginning"),
        }
        batch.others.insert(id, reset);
        Ok(())
    }

    /// A file in the same folder that nobody knows and that begins as the record says, with where to go on in it.
    fn copy_of(&self, record: &Record, path: &Path) -> Option<(FileId, PathBuf, Seen, u64)> {
        let files = Folders::default().files(path.parent()?);
        files.into_iter().filter(|(id, ..)| !self.files.contains_key(id)).find_map(|(id, path, metadata)| {
            let (file, offset) = (self.opener.open(&path, id).ok()?, record.progress.offset);
            if metadata.len() < offset {
                // It was copied before all of it was there that has been read.
                let held = self.held.contains_key(&id);
                return held.then(|| (id, path, Seen::of(&metadata), metadata.len()));
            }
            record.head_of(&file, metadata.len()).ok()??;
            let in_a_line = record.progress.pieces > 0 || record.progress.skipping;
            let fits = in_a_line || read_up_to(&file, offset - 1, 1).ok()? == b"\n";
            fits.then(|| (id, path, Seen::of(&metadata), offset))
        })
    }

    /// Keeps the number of open files bounded: closes those that were read longest ago. A file that was deleted can't be
    /// opened again, and stays.
    fn close_some(&mut self) {
        let mut open: Vec<_> = self.files.values_mut().filter(|file| file.file.is_some() && file.linked).collect();
        if open.len() > OPEN_MAX {
            open.sort_by_key(|file| file.used);
            let surplus = open.len() - OPEN_MAX / 2;
            open.into_iter().take(surplus).for_each(|file| file.file = None);
        }
    }
}

impl Followed {
    fn new(path: &Path, now: Instant) -> Followed {
        Followed {
            path: path.to_owned(),
            progress: Progress::default(),
            head: Head::default(),
            file: None,
            used: 0,
            listed: true,
            linked: true,
            finished: None,
            seen: None,
            quiet_since: now,
            ready: false,
            ending: false,
            restored: None,
        }
    }

    fn is_unread(&self) -> bool {
        self.progress.offset == 0
    }
}

/// The names that a copy of this name may have been made from: `app.log` of `app.log.1`, `app-2026-11-29.log` and others.
fn originals_of(name: &str) -> impl Iterator<Item = String> {
    let extension = name.rfind('.').unwrap_or(name.len());
    let boundaries = name.match_indices(['.', '-', '_', '~']).map(|(at, _)| at).filter(|at| *at > 0);
    boundaries.flat_map(move |at| {
        let with_extension = (at < extension).then(|| format!("{}{}", &name[..at], &name[extension..]));
        with_extension.into_iter().chain([name[..at].to_owned()])
    })
}

/// Opens files of which none may be reached through these folders, which guests may write.
struct Opener(Vec<PathBuf>);

impl Opener {
    /// Opens a file, if it is still this one.
    fn open(&self, path: &Path, id: FileId) -> io::Result<File> {
        if let Some(folder) = first_on_the_way(path, &self.0) {
            let cause = format!("its path leads through {}, which guests may write", folder.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, cause));
        }
        // A pipe that came in its place must not block.
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.ino() != id.inode || metadata.dev() != id.device {
            return Err(io::Error::new(io::ErrorKind::NotFound, "another file has its name"));
        }
        Ok(file)
    }
}

/// Where the last line that has an end ends: a line that is being written is not passed over.
fn end_of_last_line(file: &File, size: u64) -> io::Result<u64> {
    const LOOK_BACK: u64 = 1 << 20;
    let from = size.saturating_sub(LOOK_BACK);
    let bytes = read_up_to(file, from, (size - from) as usize)?;
    Ok(match memchr::memrchr(b'\n', &bytes) {
        Some(end) => from + end as u64 + 1,
        None if from == 0 => 0,
        None => size,
    })
}

#[cfg(test)]
mod tests;
