//! Which file it is, whatever its name: the identity under which producers keep what they know of files.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// What the keys of files begin with.
pub(super) const KEY_PREFIX: &str = "file/";

/// A file, whatever its name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> FileId {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }

    /// Its key in the producer's state.
    pub(super) fn key(self) -> String {
        format!("{KEY_PREFIX}{:x}-{:x}", self.device, self.inode)
    }

    pub(super) fn from_key(key: &str) -> Option<FileId> {
        let (device, inode) = key.strip_prefix(KEY_PREFIX)?.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(FileId { device: number(device)?, inode: number(inode)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_file_says_which_it_is() {
        let id = FileId { device: 0xfe01, inode: u64::MAX };
        assert_eq!(id.key(), "file/fe01-ffffffffffffffff");
        assert_eq!(FileId::from_key(&id.key()), Some(id));
        assert_eq!(FileId::from_key("position"), None);
        assert_eq!(FileId::from_key("file/x-1"), None);
    }
}
