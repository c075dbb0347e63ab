//! Compiled code on disk, so that a restart does not compile again.
//!
//! A file is named after the SHA-256 of the component and the hash of everything that the compiled code depends on
//! (wasmtime's version, its settings, the CPU). It holds
//!
//! ```text
//! 32 bytes   SHA-256 of the file's own name and the code
//! the rest   the code, as wasmtime serializes it
//! ```
//!
//! What is in these files is executed, so the folder belongs to the runtime alone (mode 0700). The checksum finds damage,
//! not malice.

use std::fs::{self, DirBuilder, File, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use wasmtime::Engine;

use super::ModuleHash;

const CHECKSUM_BYTES: usize = 32;
/// Files that are kept; the ones unused for longest go first.
const ENTRIES_MAX: usize = 64;
const SUFFIX: &str = ".code";

/// The folder of compiled code.
#[derive(Debug)]
pub(super) struct CodeCache {
    dir: PathBuf,
    temporary: AtomicU64,
}

impl CodeCache {
    /// Makes the folder, and keeps others out of it.
    pub(super) fn open(dir: PathBuf) -> io::Result<CodeCache> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
        Ok(CodeCache { dir, temporary: AtomicU64::new(0) })
    }

    /// The code of a component for this kind of engine, if it is there and whole. A damaged file counts as absent.
    pub(super) fn get(&self, engine: &Engine, hash: ModuleHash) -> Option<Vec<u8>> {
        let name = file_name(engine, hash);
        let path = self.dir.join(&name);
        let mut content = match fs::read(&path) {
            Ok(content) => content,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "compiled code can't be read; compiling again");
                }
                return None;
            }
        };
        let whole = content.split_first_chunk().is_some_and(|(sum, code)| *sum == checksum(&name, code));
        if !whole {
            tracing::warn!(path = %path.display(), "compiled code is damaged; compiling again");
            return None;
        }
        // The order of removal only: nothing is lost if it fails.
        let _ = File::options().append(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        content.drain(..CHECKSUM_BYTES);
        Some(content)
    }

    /// Keeps code. A failure costs only time at the next start, so it is logged and that is all.
    pub(super) fn put(&self, engine: &Engine, hash: ModuleHash, code: &[u8]) {
        let name = file_name(engine, hash);
        if let Err(error) = self.write(&name, code) {
            let path = self.dir.join(name);
            tracing::warn!(path = %path.display(), %error, "compiled code can't be kept; the next start compiles again");
        }
    }

    fn write(&self, name: &str, code: &[u8]) -> io::Result<()> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!("{name}.{}-{number}.tmp", std::process::id()));
        let written = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&checksum(name, code)).and_then(|()| file.write_all(code)))
            .and_then(|()| fs::rename(&temporary, self.dir.join(name)));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written?;
        self.prune()
    }

    fn prune(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            // What a crash left half written counts too, and is the oldest soon.
            if name.as_encoded_bytes().ends_with(SUFFIX.as_bytes()) || name.as_encoded_bytes().ends_with(b".tmp") {
                // Another process may have removed it.
                if let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) {
                    entries.push((modified, entry.path()));
                }
            }
        }
        entries.sort_unstable();
        let excess = entries.len().saturating_sub(ENTRIES_MAX);
        entries[..excess].iter().try_for_each(|(_, path)| match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
    }
}

fn file_name(engine: &Engine, hash: ModuleHash) -> String {
    let mut compatibility = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut compatibility);
    let hash: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hash}-{:016x}{SUFFIX}", compatibility.finish())
}

fn checksum(name: &str, code: &[u8]) -> [u8; CHECKSUM_BYTES] {
    Sha256::new().chain_update(name).chain_update(code).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_given_back_as_it_was_and_damage_counts_as_absent() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(folder.path().join("a/cache")).unwrap();
        let engine = Engine::default();
        let hash = ModuleHash([7; 32]);
        assert_eq!(cache.get(&engine, hash), None);
        cache.put(&engine, hash, b"code");
        assert_eq!(cache.get(&engine, hash).as_deref(), Some(&b"code"[..]));
        assert_eq!(cache.get(&engine, ModuleHash([8; 32])), None);
        assert_eq!(fs::metadata(&cache.dir).unwrap().permissions().mode() & 0o777, 0o700);

        let path = cache.dir.join(file_name(&engine, hash));
        for damaged in [&b""[..], b"short", &[0; 40]] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(cache.get(&engine, hash), None);
        }
        // A whole file under another name is not that component's.
        cache.put(&engine, ModuleHash([9; 32]), b"other");
        fs::copy(cache.dir.join(file_name(&engine, ModuleHash([9; 32]))), &path).unwrap();
        assert_eq!(cache.get(&engine, hash), None);
        cache.put(&engine, hash, b"code");
        assert!(cache.get(&engine, hash).is_some());
    }

    #[test]
    fn the_folder_does_not_grow_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(folder.path().to_owned()).unwrap();
        let engine = Engine::default();
        for number in 0..ENTRIES_MAX as u8 + 10 {
            cache.put(&engine, ModuleHash([number; 32]), b"code");
        }
        assert_eq!(fs::read_dir(&cache.dir).unwrap().count(), ENTRIES_MAX);
    }
}
