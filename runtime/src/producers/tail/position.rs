//! What is kept of a file in the producer's state, and how a file is known again.
//!
//! A file is its device and inode. As an inode is given to another file when its file is gone, and as the content of a
//! file can be replaced in place (copy-truncate), the first bytes of what was read are kept as well, as a hash.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::lines::Progress;

/// Bytes at the beginning of a file by which it is known again.
const HEAD_BYTES: usize = 1024;

/// The value of a file in the producer's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The path under which it was found last.
    pub(super) path: PathBuf,
    #[serde(flatten)]
    pub(super) progress: Progress,
    /// How many bytes at the beginning the hash is about.
    head_bytes: usize,
    /// SHA-256, cut to 16 bytes, in hexadecimal.
    head: String,
}

/// The first bytes of a file, up to where it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Head(Vec<u8>);

impl Record {
    pub(super) fn new(path: &Path, progress: Progress, head: &Head) -> Record {
        let bytes = head.until(progress.offset);
        Record { path: path.to_owned(), progress, head_bytes: bytes.len(), head: hash(bytes) }
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        // A path that is not UTF-8 has no JSON: then it is only known by its inode.
        let json = serde_json::to_vec(self);
        json.or_else(|_| serde_json::to_vec(&Record { path: PathBuf::new(), ..self.clone() }))
            .expect("texts and numbers are JSON")
            .into()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Record> {
        let record: Record = serde_json::from_slice(bytes).ok()?;
        (record.head_bytes <= HEAD_BYTES).then_some(record)
    }

    /// The head of this file, if the file begins with what the record says and is long enough.
    pub(super) fn head_of(&self, file: &File, size: u64) -> io::Result<Option<Head>> {
        if size < self.progress.offset {
            return Ok(None);
        }
        let bytes = read_up_to(file, 0, self.head_bytes)?;
        Ok((bytes.len() == self.head_bytes && hash(&bytes) == self.head).then_some(Head(bytes)))
    }
}

impl Head {
    /// Bytes that were read at `offset`; those that belong to the head are kept. They take the place of what was there: a line
    /// that had no end yet may have been truncated.
    pub(super) fn add(&mut self, offset: u64, bytes: &[u8]) {
        if offset <= self.0.len() as u64 && offset < HEAD_BYTES as u64 {
            self.0.truncate(offset as usize);
            self.0.extend(&bytes[..bytes.len().min(HEAD_BYTES - self.0.len())]);
        }
    }

    /// Takes the first bytes of a file that is read from a later place on.
    pub(super) fn read(file: &File, offset: u64) -> io::Result<Head> {
        Ok(Head(read_up_to(file, 0, HEAD_BYTES.min(offset as usize))?))
    }

    /// Whether a file that is read to `offset` still begins with this.
    pub(super) fn is_of(&self, file: &File, offset: u64) -> io::Result<bool> {
        let known = self.until(offset);
        Ok(read_up_to(file, 0, known.len())? == known)
    }

    /// Whether a file that may be shorter than what was read begins with as much of this as it has.
    pub(super) fn begins_like(&self, file: &File, offset: u64) -> io::Result<bool> {
        let known = self.until(offset);
        let bytes = read_up_to(file, 0, known.len())?;
        Ok(!bytes.is_empty() && known.starts_with(&bytes))
    }

    /// What of it lies before `offset`. Only that is sure to stay as it is.
    fn until(&self, offset: u64) -> &[u8] {
        &self.0[..self.0.len().min(usize::try_from(offset).unwrap_or(usize::MAX))]
    }
}

/// Whether one file begins as another does: all of the shorter one, or as much as a head has.
pub(super) fn begin_alike(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (read_up_to(one, 0, HEAD_BYTES)?, read_up_to(other, 0, HEAD_BYTES)?);
    let length = one.len().min(other.len());
    Ok(length > 0 && one[..length] == other[..length])
}

/// Reads at a place until so many bytes are there or the file ends.
pub(super) fn read_up_to(file: &File, offset: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; bytes_max];
    let length = fill(file, offset, &mut bytes)?;
    bytes.truncate(length);
    Ok(bytes)
}

/// As [`read_up_to`], into a buffer.
pub(super) fn fill(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        std::fs::write(&path, b"first\nsecond\n").unwrap();
        let file = File::open(&path).unwrap();
        let mut head = Head::default();
        head.add(0, b"first\nsec");
        head.add(6, b"to be truncated");
        head.add(6, b"second\n");
        let progress = Progress { offset: 6, ..Progress::default() };
        let record = Record::new(&path, progress, &head);
        assert_eq!(Record::from_bytes(&record.to_bytes()), Some(record.clone()));
        assert_eq!(record.head_of(&file, 13).unwrap(), Some(Head(b"first\n".to_vec())));
        assert_eq!(record.head_of(&file, 5).unwrap(), None, "it is shorter than what was read of it");
        assert!(head.is_of(&file, 13).unwrap());

        std::fs::write(&path, b"other\nsecond\n").unwrap();
        assert_eq!(record.head_of(&file, 13).unwrap(), None);
        assert!(!head.is_of(&file, 6).unwrap());
    }
}
