//! What is known about a file or a folder of sources without reading it. Two equal fingerprints: nothing has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file's length, times and inode. A rewrite that keeps length and modification time still changes `ctime`, and a file
/// that was renamed into place has an inode of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    length: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    inode: u64,
}

impl Fingerprint {
    /// The fingerprint of the file (through symbolic links), or none if there is nothing at `path`.
    pub(crate) fn of(path: &Path) -> io::Result<Option<Fingerprint>> {
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => Err(io::Error::other("it is not a file")),
            Ok(metadata) => Ok(Some(Fingerprint::new(&metadata))),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn new(metadata: &Metadata) -> Fingerprint {
        Fingerprint {
            length: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }
}

/// All files of a package that may be sources: everything but `target` and what is hidden.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    files: BTreeMap<PathBuf, Fingerprint>,
    folders: BTreeSet<PathBuf>,
}

impl Tree {
    /// Walks the folder. What vanishes meanwhile is left out; the next look will show it.
    pub(super) fn of(folder: &Path) -> Tree {
        let mut tree = Tree::default();
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name();
                if name.as_encoded_bytes().starts_with(b".") || name == "target" {
                    continue;
                }
                let path = entry.path();
                // Links to folders are not followed: they may lead round in a circle.
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() {
                    open.push(path);
                } else if let Ok(Some(fingerprint)) = Fingerprint::of(&path) {
                    tree.files.insert(path, fingerprint);
                }
            }
            tree.folders.insert(folder);
        }
        tree
    }

    /// The folders in it, the root included.
    pub(super) fn folders(&self) -> &BTreeSet<PathBuf> {
        &self.folders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_changes_with_its_sources_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir_all(path.join("src/deep")).unwrap();
        fs::create_dir_all(path.join("target/release")).unwrap();
        fs::write(path.join("src/deep/lib.rs"), "a").unwrap();
        let before = Tree::of(path);
        assert_eq!(before.folders().len(), 3);

        fs::write(path.join("target/release/x"), "x").unwrap();
        fs::write(path.join("src/.lib.rs.swp"), "x").unwrap();
        assert_eq!(Tree::of(path), before);

        fs::write(path.join("src/deep/lib.rs"), "ab").unwrap();
        let edited = Tree::of(path);
        assert_ne!(edited, before);
        fs::write(path.join("src/other.rs"), "").unwrap();
        assert_ne!(Tree::of(path), edited);
        fs::remove_file(path.join("src/other.rs")).unwrap();
        assert_eq!(Tree::of(path), edited);
        assert_eq!(Tree::of(&path.join("absent")), Tree::default());
    }

    #[test]
    fn a_file_that_was_replaced_by_rename_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, beside) = (folder.path().join("a.wasm"), folder.path().join("b.wasm"));
        fs::write(&path, "one").unwrap();
        fs::write(&beside, "two").unwrap();
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&beside).unwrap().set_modified(time).unwrap();
        let before = Fingerprint::of(&path).unwrap();
        fs::rename(&beside, &path).unwrap();
        assert_ne!(Fingerprint::of(&path).unwrap(), before);
        fs::remove_file(&path).unwrap();
        assert_eq!(Fingerprint::of(&path).unwrap(), None);
        assert!(Fingerprint::of(folder.path()).is_err());
    }
}
