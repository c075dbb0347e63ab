//! What is in a folder: which files are new and complete, which were sent, which are gone. All calls block on the file
//! system.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use glob::Pattern;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::config::producers::{MATCHING, WatchBody, WatchConfig};
use crate::delivery::limits::BODY_BYTES_MAX;
use crate::producers::file_id::FileId;

/// Files in the folder that are looked at. More are left for later, which is said.
const FILES_MAX: usize = 100_000;
/// How deep folders in folders may be.
const DEPTH_MAX: usize = 64;

/// What a file's content is known by without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) size: u64,
    /// In nanoseconds of the Unix epoch.
    pub(super) modified_ns: i64,
}

/// A file that was found, by its path below the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: FileId,
    pub(super) path: PathBuf,
    pub(super) version: Version,
}

/// What a look at the folder found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// New and complete, in the order in which they were written.
    pub(super) due: Vec<Found>,
    /// Sent before, and still here.
    pub(super) sent: Vec<Found>,
    /// Sent before, and gone.
    pub(super) gone: Vec<FileId>,
    /// When the next file may be complete.
    pub(super) next: Option<Duration>,
    /// All folders that were looked into.
    pub(super) folders: BTreeSet<PathBuf>,
    /// How many files there are.
    pub(super) files: usize,
    /// What could not be looked at.
    pub(super) error: Option<String>,
}

/// What became of a file that was to be read.
#[derive(Debug)]
pub(super) enum Content {
    /// This is what is sent.
    Body(Bytes),
    /// It is larger than a message may be.
    TooLarge,
    /// It has changed or gone since it was found.
    Changed,
}

/// See the module.
pub(super) struct Folder {
    folder: PathBuf,
    patterns: Vec<Pattern>,
    recursive: bool,
    settle: Duration,
    body: WatchBody,
    /// What was sent, as it is on record.
    pub(super) sent: BTreeMap<FileId, Version>,
    /// Since when files that were not sent are as they are.
    waiting: HashMap<FileId, (Version, Instant)>,
    /// What can't be sent, so that it is said once.
    refused: HashMap<FileId, Version>,
    /// Files that something could not be done with, so that it is said once.
    troubled: HashSet<FileId>,
}

impl Version {
    pub(super) fn of(metadata: &Metadata) -> Version {
        let modified_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        Version { size: metadata.len(), modified_ns }
    }

    /// In milliseconds of the Unix epoch.
    pub(super) fn modified_ms(&self) -> u64 {
        u64::try_from(self.modified_ns / 1_000_000).unwrap_or(0)
    }
}

impl Found {
    /// Whether this is that file, as it was found.
    pub(super) fn is(&self, metadata: &Metadata) -> bool {
        FileId::of(metadata) == self.id && Version::of(metadata) == self.version
    }

    /// Opens what is at a path, if it is still that file as it was found. A pipe or a link that came in its place is not
    /// followed.
    pub(super) fn open(&self, path: &Path) -> io::Result<Option<File>> {
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(self.is(&file.metadata()?).then_some(file))
    }
}

impl Folder {
    pub(super) fn new(config: &WatchConfig, sent: BTreeMap<FileId, Version>) -> Folder {
        let pattern = |text: &String| Pattern::new(text).expect("patterns are checked with the file that has them");
        Folder {
            folder: config.folder.clone(),
            patterns: config.files.iter().map(pattern).collect(),
            recursive: config.recursive,
            settle: config.settle,
            body: config.body,
            sent,
            waiting: HashMap::new(),
            refused: HashMap::new(),
            troubled: HashSet::new(),
        }
    }

    /// The path of a file from here.
    pub(super) fn path(&self, found: &Found) -> PathBuf {
        self.folder.join(&found.path)
    }

    /// From now on this file is passed over, until it changes.
    pub(super) fn refuse(&mut self, found: &Found) {
        self.refused.insert(found.id, found.version);
    }

    /// Something could not be done with a file. True if that is news.
    pub(super) fn trouble(&mut self, found: &Found) -> bool {
        self.troubled.insert(found.id)
    }

    /// Looks at everything that is there.
    pub(super) fn look(&mut self, now: Instant) -> Look {
        let mut look = Look::default();
        let mut all = Vec::new();
        let mut devices = HashSet::new();
        self.walk(Path::new(""), 0, &mut all, &mut devices, &mut look);
        look.files = all.len();
        let mut present = HashSet::with_capacity(all.len());
        for found in all {
            // A second name of a file is no second file.
            if !present.insert(found.id) {
                continue;
            }
            if self.sent.get(&found.id) == Some(&found.version) {
                look.sent.push(found);
            } else if self.refused.get(&found.id) != Some(&found.version) {
                self.wait_for(found, now, &mut look);
            }
        }
        self.waiting.retain(|id, _| present.contains(id));
        self.refused.retain(|id, _| present.contains(id));
        self.troubled.retain(|id| present.contains(id));
        if look.error.is_none() {
            // A file system that is not mounted now has not lost its files.
            let gone = self.sent.keys().filter(|id| !present.contains(id) && devices.contains(&id.device));
            look.gone = gone.copied().collect();
        }
        look.due
            .sort_by(|one, other| (one.version.modified_ns, &one.path).cmp(&(other.version.modified_ns, &other.path)));
        look
    }

    /// A file that was not sent as it is now: due once it has been like that for a while.
    fn wait_for(&mut self, found: Found, now: Instant, look: &mut Look) {
        let since = match self.waiting.get(&found.id) {
            Some((version, since)) if *version == found.version => *since,
            _ => {
                self.waiting.insert(found.id, (found.version, now));
                now
            }
        };
        let settled = now.duration_since(since);
        if settled >= self.settle {
            look.due.push(found);
        } else {
            let rest = self.settle - settled;
            look.next = Some(look.next.map_or(rest, |next| next.min(rest)));
        }
    }

    fn walk(&self, below: &Path, depth: usize, all: &mut Vec<Found>, devices: &mut HashSet<u64>, look: &mut Look) {
        let folder = self.folder.join(below);
        let entries = fs::metadata(&folder).and_then(|metadata| {
            devices.insert(metadata.dev());
            fs::read_dir(&folder)
        });
        let entries = match entries {
            Ok(entries) => entries,
            // Unlike the folder itself, one in it may go at any time.
            Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => return,
            Err(error) => {
                look.error = Some(format!("can't look into {}: {error}", folder.display()));
                return;
            }
        };
        look.folders.insert(folder.clone());
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    look.error = Some(format!("can't look into {}: {error}", folder.display()));
                    return;
                }
            };
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            let path = below.join(&name);
            if kind.is_dir() {
                // Those that are hidden are no more meant than files that are.
                if self.recursive && depth < DEPTH_MAX && !name.to_string_lossy().starts_with('.') {
                    self.walk(&path, depth + 1, all, devices, look);
                }
            } else if kind.is_file() && self.names(&path) {
                // It may have gone by now.
                let Ok(metadata) = entry.metadata() else { continue };
                if all.len() == FILES_MAX {
                    let error = format!("there are more than {FILES_MAX} files in {}", self.folder.display());
                    look.error = Some(format!("{error}: the others wait until some of these are gone"));
                    return;
                }
                all.push(Found { id: FileId::of(&metadata), path, version: Version::of(&metadata) });
            }
        }
    }

    fn names(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let whole = path.to_string_lossy();
        self.patterns.iter().any(|pattern| {
            let text = if pattern.as_str().contains('/') { &whole } else { &name };
            pattern.matches_with(text, MATCHING)
        })
    }

    /// What is sent for a file.
    pub(super) fn read(&mut self, found: &Found) -> io::Result<Content> {
        let path = self.path(found);
        if self.body == WatchBody::Path {
            let Some(metadata) = self.unchanged(found)? else { return Ok(Content::Changed) };
            debug_assert!(metadata.is_file());
            // Its own name is not looked up once more: a link may have come in its place.
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Content::Changed) };
            let path = fs::canonicalize(folder)?.join(name);
            return Ok(Content::Body(path.into_os_string().into_encoded_bytes().into()));
        }
        if found.version.size > BODY_BYTES_MAX as u64 {
            return Ok(Content::TooLarge);
        }
        let Some(mut file) = found.open(&path)? else { return Ok(Content::Changed) };
        let mut body = Vec::with_capacity(found.version.size as usize);
        (&mut file).take(found.version.size + 1).read_to_end(&mut body)?;
        // It must not have changed while it was read.
        if body.len() as u64 != found.version.size || !found.is(&file.metadata()?) {
            return Ok(Content::Changed);
        }
        Ok(Content::Body(body.into()))
    }

    /// What is at a file's path, if it is still that file as it was found.
    pub(super) fn unchanged(&self, found: &Found) -> io::Result<Option<Metadata>> {
        match fs::symlink_metadata(self.path(found)) {
            Ok(metadata) if found.is(&metadata) => Ok(Some(metadata)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
