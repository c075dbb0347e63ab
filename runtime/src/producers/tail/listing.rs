//! Which files there are: those that the patterns name, and those that were renamed and are still in their folder.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, Metadata};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::config::producers::MATCHING;
use crate::producers::file_id::FileId;

/// Files that one producer follows. More are left alone, which is said.
pub(super) const FILES_MAX: usize = 20_000;

/// A file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) seen: Seen,
}

/// What tells whether a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) size: u64,
    pub(super) modified: Option<SystemTime>,
}

impl Seen {
    pub(super) fn of(metadata: &Metadata) -> Seen {
        Seen { size: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// What a look at all patterns found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Regular files, each once whatever its names are.
    pub(super) files: BTreeMap<FileId, Found>,
    /// What could not be looked at.
    pub(super) error: Option<String>,
}

impl Listing {
    /// Expands the patterns.
    pub(super) fn take(patterns: &[String]) -> Listing {
        let mut listing = Listing::default();
        for pattern in patterns {
            let paths = match glob::glob_with(pattern, MATCHING) {
                Ok(paths) => paths,
                Err(error) => {
                    listing.error = Some(format!("{pattern:?}: {error}"));
                    continue;
                }
            };
            for path in paths {
                let path = match path {
                    Ok(path) => path,
                    Err(error) => {
                        listing.error = Some(format!("can't look into {}: {}", error.path().display(), error.error()));
                        continue;
                    }
                };
                // It may have gone by now.
                let Ok(metadata) = fs::metadata(&path) else { continue };
                if !metadata.is_file() {
                    continue;
                }
                let id = FileId::of(&metadata);
                if listing.files.len() >= FILES_MAX && !listing.files.contains_key(&id) {
                    listing.error = Some(format!("more than {FILES_MAX} files match: the others are not followed"));
                    return listing;
                }
                listing.files.entry(id).or_insert(Found { path, seen: Seen::of(&metadata) });
            }
        }
        listing
    }

    /// The folders that changes happen in: those of the files, and those that the patterns begin with.
    pub(super) fn folders(&self, patterns: &[String]) -> BTreeSet<PathBuf> {
        let of_files = self.files.values().filter_map(|found| found.path.parent().map(Path::to_owned));
        let of_patterns = patterns.iter().map(|pattern| {
            let plain = pattern.split('/').take_while(|part| !part.contains(['*', '?', '[']));
            let plain = plain.collect::<Vec<_>>().join("/");
            let folder =
                if plain == *pattern { Path::new(&plain).parent().unwrap_or(Path::new("")) } else { Path::new(&plain) };
            match (folder.as_os_str().is_empty(), pattern.starts_with('/')) {
                (true, true) => PathBuf::from("/"),
                (true, false) => PathBuf::from("."),
                (false, _) => folder.to_owned(),
            }
        });
        of_files
            .map(|folder| if folder.as_os_str().is_empty() { ".".into() } else { folder })
            .chain(of_patterns)
            .collect()
    }
}

/// The regular files in folders, by inode, each folder read at most once.
#[derive(Debug, Default)]
pub(super) struct Folders(HashMap<PathBuf, HashMap<u64, PathBuf>>);

impl Folders {
    /// Where the file is now, if it is in this folder.
    pub(super) fn find(&mut self, folder: &Path, id: FileId) -> Option<(PathBuf, Metadata)> {
        let path = self.entries(folder).get(&id.inode)?.clone();
        let metadata = fs::metadata(&path).ok()?;
        (metadata.is_file() && FileId::of(&metadata) == id).then_some((path, metadata))
    }

    /// All files in a folder.
    pub(super) fn files(&mut self, folder: &Path) -> Vec<(FileId, PathBuf, Metadata)> {
        let paths: Vec<_> = self.entries(folder).values().cloned().collect();
        let mut files: Vec<_> = paths
            .into_iter()
            .filter_map(|path| {
                let metadata = fs::symlink_metadata(&path).ok()?;
                metadata.is_file().then(|| (FileId::of(&metadata), path, metadata))
            })
            .collect();
        // The newest first.
        files.sort_by_key(|(_, _, metadata)| std::cmp::Reverse((metadata.mtime(), metadata.mtime_nsec())));
        files
    }

    fn entries(&mut self, folder: &Path) -> &HashMap<u64, PathBuf> {
        self.0.entry(folder.to_owned()).or_insert_with(|| {
            let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let entries = fs::read_dir(here).into_iter().flatten().filter_map(Result::ok);
            entries.map(|entry| (entry.ino(), folder.join(entry.file_name()))).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_of_patterns_are_what_stands_before_the_first_star() {
        let folders = |pattern: &str| Listing::default().folders(&[pattern.to_owned()]).into_iter().next().unwrap();
        for (pattern, folder) in [
            ("/var/log/app/*.log", "/var/log/app"),
            ("/var/log/*/x.log", "/var/log"),
            ("/*.log", "/"),
            ("*.log", "."),
            ("x.log", "."),
            ("logs/x.log", "logs"),
            ("logs/**/x.log", "logs"),
        ] {
            assert_eq!(folders(pattern), Path::new(folder), "{pattern}");
        }
    }

    #[test]
    fn a_file_with_two_names_is_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a.log"), "x").unwrap();
        fs::hard_link(path("a.log"), path("b.log")).unwrap();
        fs::write(path(".hidden.log"), "x").unwrap();
        fs::create_dir(path("folder.log")).unwrap();
        let pattern = path("*.log").display().to_string();
        let listing = Listing::take(&[pattern.clone(), pattern]);
        assert_eq!(listing.files.values().map(|found| found.path.clone()).collect::<Vec<_>>(), [path("a.log")]);
        let id = *listing.files.keys().next().unwrap();
        fs::remove_file(path("a.log")).unwrap();
        assert_eq!(Folders::default().find(folder.path(), id).unwrap().0, path("b.log"));
    }
}
