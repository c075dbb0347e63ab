//! Idempotency keys that are made of what is sent.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// The SHA-256 of a file's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Content([u8; 32]);

impl Content {
    /// The key of the whole file, or of one of its lines.
    pub(super) fn key(self, line: Option<u64>) -> String {
        let hash: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        line.map_or_else(|| format!("file:{hash}"), |line| format!("file:{hash}:{line}"))
    }
}

/// Of what is in memory.
pub(super) fn of_bytes(bytes: &[u8]) -> Content {
    Content(Sha256::digest(bytes).into())
}

/// Of all that is left to read. `progress` is told how many bytes each step took.
pub(super) fn of(mut input: impl Read, progress: impl Fn(u64)) -> io::Result<Content> {
    let (mut hash, mut part) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match input.read(&mut part)? {
            0 => return Ok(Content(hash.finalize().into())),
            read => {
                hash.update(&part[..read]);
                progress(read as u64);
            }
        }
    }
}
